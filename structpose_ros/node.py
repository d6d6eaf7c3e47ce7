"""The lifecycle node: subscribe, keep the newest image, run the relocalizer in a worker, publish."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rclpy.clock import Clock, ClockType
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo, Image

from structpose_ros.contract import ModelFileError
from structpose_ros.diagnostics import Condition, DiagnosticsPublisher, Health, Level
from structpose_ros.frame_input import CameraInfos, InputError, camera_frame_of, read_frame
from structpose_ros.network import OnnxNetwork, ProviderError
from structpose_ros.outputs import Outputs
from structpose_ros.parameters import declare_settings
from structpose_ros.relocalizer import Relocalizer
from structpose_ros.spinning import one_line, run_node
from structpose_ros.worker import NewestWorker

NODE_NAME = "structpose_relocalizer"
LOG_PERIOD = 5.0  # seconds between two log lines about the same reason
DIAGNOSTICS_PERIOD = 1.0

SENSOR_QOS = QoSProfile(
    history=HistoryPolicy.KEEP_LAST,
    depth=1,
    reliability=ReliabilityPolicy.BEST_EFFORT,
    durability=DurabilityPolicy.VOLATILE,
)
CAMERA_INFO_QOS = QoSProfile(
    history=HistoryPolicy.KEEP_LAST,
    depth=10,
    reliability=ReliabilityPolicy.BEST_EFFORT,
    durability=DurabilityPolicy.VOLATILE,
)


@dataclass(frozen=True)
class _Arrival:
    """An image message and when it came, in seconds of `time.perf_counter`."""

    message: Image
    at: float


class StructposeRelocalizer(LifecycleNode):
    """Configured: a model is loaded. Active: images are localised. Comes up by itself unless told not to."""

    def __init__(self, **node_options: Any) -> None:
        """Declare the parameters and create the publishers.

        Raises:
            ParameterError: a parameter is unknown or unusable.
        """
        super().__init__(NODE_NAME, **node_options)
        self.settings = declare_settings(self)
        self._health = Health(self.resolve_topic_name("image"), self.settings.model_path)
        self._relocalizer: Relocalizer | None = None
        self._worker: NewestWorker[_Arrival] | None = None
        self._subscriptions_while_active: list[Any] = []
        self._camera_infos = CameraInfos()
        self._logged_at: dict[str, float] = {}
        self._outputs = Outputs(self, self.settings)
        steady = Clock(clock_type=ClockType.STEADY_TIME)  # simulated time may stand still
        self._diagnostics = DiagnosticsPublisher(self, self._health)
        self.create_timer(DIAGNOSTICS_PERIOD, self._diagnostics.publish, clock=steady)
        if self.settings.autostart:
            self._autostart = self.create_timer(0.0, self._bring_up, clock=steady)

    # Lifecycle. rclpy swallows what a transition raises, so none does.

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Load the model and run it once. On failure the node stays unconfigured and says why."""
        self._enter("configuring")
        settings = self.settings
        try:
            if not settings.model_path:
                raise ModelFileError("expected a model file in parameter 'model.path', got ''")
            path = Path(settings.model_path).expanduser()
            network = OnnxNetwork(path, settings.model_provider, settings.model_threads)
            relocalizer = Relocalizer(network, settings.gate)
            camera = network.contract.training_camera
            blank = np.zeros((camera.height, camera.width, 3), dtype=np.uint8)
            relocalizer.localize(blank, camera)
        except ModelFileError as error:
            return self._unconfigured("bad_model", str(error))
        except ProviderError as error:
            return self._unconfigured("bad_provider", str(error))
        except Exception as error:
            return self._unconfigured("bad_model", f"expected a model that runs, got: {one_line(error)}")
        self._relocalizer = relocalizer
        self._health.model_loaded(network.sha256, network.provider)
        self.get_logger().info(
            f"model '{network.contract.dataset}' from {path}, running on {network.provider}"
        )
        return self._enter("inactive")

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Start the worker and listen."""
        self._camera_infos = CameraInfos()
        self._worker = NewestWorker(self._process, "relocalizer")
        self._subscriptions_while_active = [
            self.create_subscription(CameraInfo, "camera_info", self._on_camera_info, CAMERA_INFO_QOS),
            self.create_subscription(Image, "image", self._on_image, SENSOR_QOS),
        ]
        return self._enter("active")

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop listening; the frame being worked on is finished first."""
        self._stop()
        return self._enter("inactive")

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Give the model back."""
        self._relocalizer = None
        return self._enter("unconfigured")

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop and give everything back."""
        self._stop()
        self._relocalizer = None
        return self._enter("finalized")

    def destroy_node(self) -> None:
        """Stop, then destroy the node."""
        self._stop()
        super().destroy_node()

    def _stop(self) -> None:
        """Stop listening and end the worker, whatever the state."""
        for subscription in self._subscriptions_while_active:
            self.destroy_subscription(subscription)
        self._subscriptions_while_active = []
        if self._worker is not None:
            self._worker.stop()
            self._worker = None

    def _bring_up(self) -> None:
        self.destroy_timer(self._autostart)
        if self.trigger_configure() == TransitionCallbackReturn.SUCCESS:
            self.trigger_activate()

    def _enter(self, state: str) -> TransitionCallbackReturn:
        self._health.enter(state)
        self._diagnostics.publish_if_changed()
        return TransitionCallbackReturn.SUCCESS

    def _unconfigured(self, reason: str, message: str) -> TransitionCallbackReturn:
        self.get_logger().error(f"{reason}: {message}")
        self._health.enter("unconfigured", Condition(Level.ERROR, reason, f"{reason}: {message}"))
        self._diagnostics.publish_if_changed()
        return TransitionCallbackReturn.FAILURE

    # Input: the callbacks only hand over, so that the newest image is always known.

    def _on_camera_info(self, message: CameraInfo) -> None:
        self._camera_infos.add(message)

    def _on_image(self, message: Image) -> None:
        self._health.received()
        if self._worker is not None and self._worker.offer(_Arrival(message, time.perf_counter())):
            self._health.dropped()

    # The worker's thread.

    def _process(self, arrival: _Arrival) -> None:
        try:
            self._localize(arrival)
        except InputError as error:
            self._reject(error.reason.value, str(error), Level.ERROR)
        except Exception as error:
            self._reject("internal_error", one_line(error), Level.ERROR)
        self._diagnostics.publish_if_changed()

    def _localize(self, arrival: _Arrival) -> None:
        assert self._relocalizer is not None, "active without a model"
        started = time.perf_counter()
        camera_frame = camera_frame_of(arrival.message, self.settings.camera_frame, self.settings.map_frame)
        frame = read_frame(arrival.message, self._camera_infos)
        self._health.camera_info(frame.matched)
        read = time.perf_counter()
        result = self._relocalizer.localize(frame.image_rgb, frame.camera)
        localized = time.perf_counter()
        if result.estimate is not None and result.decision.accepted:
            self._outputs.publish(result, arrival.message.header, camera_frame)
        finished = time.perf_counter()
        stage_ms = {
            "wait": 1e3 * (started - arrival.at),
            "read": 1e3 * (read - started),
            **result.stage_ms,
            "publish": 1e3 * (finished - localized),
            "total": 1e3 * (finished - arrival.at),
        }
        reason = result.decision.reject_reason
        if reason is None:
            self._health.accepted(stage_ms, frame.matched)
        else:
            self._reject(reason.value, result.decision.detail, Level.WARN, stage_ms)

    def _reject(
        self, reason: str, detail: str, level: Level, stage_ms: dict[str, float] | None = None
    ) -> None:
        self._health.rejected(reason, detail, level, stage_ms or {})
        now = time.monotonic()
        if now - self._logged_at.get(reason, -LOG_PERIOD) >= LOG_PERIOD:
            self._logged_at[reason] = now
            self.get_logger().warning(f"no pose: {reason}: {detail}")


def main(args: list[str] | None = None) -> int:
    """Run the node until SIGINT or SIGTERM; return the exit code."""
    return run_node(StructposeRelocalizer, NODE_NAME, args)


if __name__ == "__main__":
    sys.exit(main())
