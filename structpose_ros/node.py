"""The lifecycle node: take the newest image, run the relocalizer, publish, and do as one asks."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from geometry_msgs.msg import PoseWithCovarianceStamped
from lifecycle_msgs.srv import ChangeState
from rcl_interfaces.msg import SetParametersResult
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.clock import Clock, ClockType, JumpThreshold
from rclpy.duration import Duration
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter
from sensor_msgs.msg import CameraInfo, CompressedImage
from std_srvs.srv import SetBool, Trigger

from structpose_ros import compiled
from structpose_ros.advice import NODE
from structpose_ros.backend import Backend
from structpose_ros.cores import CoresError, bind_thread
from structpose_ros.diagnostics import Condition, DiagnosticsPublisher, Health, Level
from structpose_ros.frame_input import CameraInfos
from structpose_ros.freshness import patience
from structpose_ros.gate import Prior
from structpose_ros.image_topic import CAMERA_INFO_QOS, IMAGE_QOS, ImageTopic
from structpose_ros.listener import Listener, ListenerGroup, MissedMessages, Taken, arrival_time
from structpose_ros.localization import Arrival, Localization
from structpose_ros.messages import prior_from_message
from structpose_ros.model_file_watch import AS_LOADED, ModelFileWatch
from structpose_ros.model_loading import LoadingError, ModelLoading
from structpose_ros.network import OnnxNetwork
from structpose_ros.outputs import Outputs
from structpose_ros.parameters import ParameterError, is_middleware
from structpose_ros.pictures import Pictures
from structpose_ros.qos_watch import QosWatch
from structpose_ros.relocalizer import Relocalizer
from structpose_ros.settings import changed_settings, declare_settings
from structpose_ros.spinning import one_line, run_node
from structpose_ros.throttled_log import ThrottledLog
from structpose_ros.ticker import Ticker
from structpose_ros.tracking import State, Tracker
from structpose_ros.transforms import TransformError, Transforms
from structpose_ros.triggers import Outcome, Triggers
from structpose_ros.triggers import Trigger as Request

NODE_NAME = "structpose_relocalizer"
DIAGNOSTICS_PERIOD = 0.9  # seconds: what has happened shows within one, the way to the listener included
MODEL_FILE_PERIOD = 0.5
EXPIRY_PERIOD = 0.05  # seconds between two looks at the clock: LOST, no image, triggers without an answer


class StructposeRelocalizer(LifecycleNode):
    """Configured: a model is loaded. Active: images are localised. Comes up by itself unless told not to.

    Spin it with several threads: a transition that loads a model, and a service that waits for a pose, each
    take one for as long.
    """

    def __init__(self, **node_options: Any) -> None:
        """Declare the parameters and create publishers, services and timers.

        Raises:
            ParameterError: a parameter is unknown or unusable.
        """
        super().__init__(NODE_NAME, **node_options)
        self.settings = declare_settings(self)
        self._log = ThrottledLog(self.get_logger())
        self._images = ImageTopic(self, self.settings.input_transport)
        self._health = Health(self._images.name, self._images.why_silent)
        self._health.note("model_path", self.settings.model_path)
        self._tracker = Tracker(self.settings.tracking)
        self._triggers = Triggers(self._note_outcome)
        self._transforms = Transforms(self, self.settings)
        self._watch = QosWatch(self, self._on_qos_mismatch)
        self._outputs = Outputs(self._watch, self.settings.map_frame)
        self._pictures = Pictures(self._watch, self.get_clock(), self.settings.map_frame)
        self._diagnostics = DiagnosticsPublisher(self, self._health)
        self._camera_infos = CameraInfos()
        self._showing, self._interrupted = threading.Lock(), threading.Event()
        self._transitions = MutuallyExclusiveCallbackGroup()
        self._enabled = True
        self._taken_until = 0.0
        self._loading: ModelLoading | None = None
        self._model_file: ModelFileWatch | None = None
        self._relocalizer: Relocalizer | None = None
        self._localization: Localization | None = None
        self._subscriptions_while_active: list[Any] = []
        self._listeners: list[Listener] = []
        self._take_camera_infos: Callable[[], None] = lambda: None
        self._newer_image: Callable[[float], Taken | None] = lambda _: None
        self._missed_images = MissedMessages()
        # When the last frame was done, in seconds of time.perf_counter, and how many it took.
        self._free_at, self._work = 0.0, 0.0
        self._show_state()
        self._create_services()
        self._create_timers()
        self.add_on_set_parameters_callback(self._on_parameters)
        self._watchman = Ticker(self._expire, EXPIRY_PERIOD, self._on_internal_error)

    def _create_services(self) -> None:
        waiting = MutuallyExclusiveCallbackGroup()  # who waits for a pose must not keep others from theirs
        self.create_service(Trigger, "~/relocalize", self._on_relocalize, callback_group=waiting)
        self.create_service(Trigger, "~/reset", self._on_reset)
        self.create_service(SetBool, "~/set_enabled", self._on_set_enabled)
        # rclpy puts change_state beside all other services, which would not answer while a model is loaded.
        change_state = self._service_change_state
        change_state.callback_group = self._transitions
        self._transitions.add_entity(change_state)
        self._change_state, change_state.callback = change_state.callback, self._on_change_state

    def _create_timers(self) -> None:
        """The node's own clock may be a simulation's and stand still; what must go on has a steady one."""
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        own, sending = MutuallyExclusiveCallbackGroup(), MutuallyExclusiveCallbackGroup()
        self.create_timer(DIAGNOSTICS_PERIOD, self._diagnostics.publish, callback_group=own, clock=steady)
        looking = MutuallyExclusiveCallbackGroup()  # a file on a network may let itself be waited for
        self.create_timer(MODEL_FILE_PERIOD, self._look_at_model_file, callback_group=looking, clock=steady)
        if self.settings.tf_mode == "map_to_odom":
            period = 1.0 / self.settings.tf_rate
            self._resending = self.create_timer(period, self._resend, callback_group=sending)
        backwards = JumpThreshold(
            min_forward=None, min_backward=Duration(nanoseconds=-1), on_clock_change=True
        )
        self._jumps = self.get_clock().create_jump_callback(
            backwards, post_callback=lambda _: self._forget("the clock was set back")
        )
        if self.settings.autostart:
            group = self._transitions
            self._autostart = self.create_timer(0.0, self._bring_up, callback_group=group, clock=steady)

    # Lifecycle. rclpy swallows what a transition raises, so none does.

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Load the model and run it once. On failure the node stays unconfigured and says why."""
        self._enter("configuring")
        settings = self.settings
        model_file = ModelFileWatch(settings.model_path)  # as it is before it is read
        self._loading = ModelLoading(
            settings.model_path,
            settings.model_sha256,
            settings.backend,
            settings.gate,
            self._note_loading,
        )
        if self._interrupted.is_set():
            self._loading.give_up()
        try:
            self._relocalizer, network = self._loading.wait()
        except LoadingError as error:
            if self._interrupted.is_set():  # it was given up, which says nothing of the model
                return TransitionCallbackReturn.FAILURE
            return self._unconfigured(error.reason, str(error))
        finally:
            self._loading = None
        while (seconds := self._transforms.unsettled()) and not self._interrupted.is_set():
            self._interrupted.wait(seconds)
        self._note_model(network)
        self._model_file = model_file
        self._note_model_file(model_file)
        return self._enter("inactive")

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Listen."""
        try:
            self._start()
        except Exception as error:
            self._stop("activation failed")
            line = f"expected to start working, got: {one_line(error)}"
            self.get_logger().error(f"internal_error: {line}")
            self._health.enter("inactive", Condition.of(Level.ERROR, "internal_error", line))
            self._diagnostics.publish_if_changed()
            return TransitionCallbackReturn.FAILURE
        return self._enter("active")

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop listening and forget all poses; the frame being worked on is finished first."""
        self._stop("deactivated")
        self._forget("deactivated", time_went_back=False)
        return self._enter("inactive")

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Give the model back."""
        self._relocalizer = self._model_file = None
        self._health.note("model_file", "")
        return self._enter("unconfigured")

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop and give everything back."""
        self._stop("shut down")
        self._forget("shut down", time_went_back=False)
        self._relocalizer = None
        return self._enter("finalized")

    def interrupt(self) -> None:
        """End whatever waits in a callback: the program is to end."""
        self._interrupted.set()
        loading = self._loading
        if loading is not None:
            loading.give_up()
        self._triggers.cancel("the node is ending")

    def destroy_node(self) -> None:
        """Stop, then destroy the node."""
        self.interrupt()
        self._watchman.stop()
        self._stop("the node is ending")
        self._jumps.unregister()
        super().destroy_node()

    def _start(self) -> None:
        """Make ready for frames, then listen."""
        assert self._relocalizer is not None, "active without a model"
        self._relocalizer.gate = self.settings.gate
        self._camera_infos, self._missed_images = CameraInfos(), MissedMessages()
        self._localization = Localization(
            self.settings,
            self._relocalizer,
            self.get_clock(),
            self._camera_infos,
            self._tracker,
            self._triggers,
            self._transforms,
            self._outputs,
            self._pictures,
            self._health,
            self._log,
            self._forget,
        )
        self._pictures.publish_map(getattr(self._relocalizer.network, "map_cloud", None))
        self._show_idle()
        self._subscribe()

    def _subscribe(self) -> None:
        """Listen. A CameraInfo must reach the frame that waits for it: each has a thread of its own."""
        subscribe, keep = self._watch.subscription, self._subscriptions_while_active.append
        keep(subscribe(CameraInfo, "camera_info", self._on_camera_info, CAMERA_INFO_QOS, ListenerGroup()))
        images = self._images
        keep(
            subscribe(
                images.kind, images.name, self._on_image, IMAGE_QOS, ListenerGroup(), raw=images.serialized
            )
        )
        camera_info, image = self._subscriptions_while_active
        group = MutuallyExclusiveCallbackGroup()
        keep(subscribe(PoseWithCovarianceStamped, "trigger_localization", self._on_prior, 1, group))
        context, failed = self.context, self._on_internal_error
        self._listeners.append(Listener(camera_info, context, "camera_info", failed))
        self._take_camera_infos = self._listeners[0].take_all
        self._listeners.append(Listener(image, context, "relocalizer", failed, self._bind_thread))
        self._newer_image = self._listeners[1].newer

    def _stop(self, why: str) -> None:
        """Stop listening, whatever the state; the frame being worked on is finished first."""
        listeners, self._listeners = self._listeners, []  # requests made from now on are refused
        for listener in listeners:
            listener.stop()
        for subscription in self._subscriptions_while_active:
            self.destroy_subscription(subscription)
        self._subscriptions_while_active = []
        self._localization = None
        self._triggers.cancel(f"no pose: {why}")

    def _bring_up(self) -> None:
        self.destroy_timer(self._autostart)
        try:
            if self.trigger_configure() == TransitionCallbackReturn.SUCCESS:
                self.trigger_activate()
        except RuntimeError:
            self._log.event("autostart: left to who has changed the node's state already")

    def _on_change_state(
        self, request: ChangeState.Request, response: ChangeState.Response
    ) -> ChangeState.Response:
        """Refuse a transition that the state doesn't have: rclpy raises, and who asked waits for ever."""
        try:
            return self._change_state(request, response)
        except RuntimeError:
            state = self._state_machine.current_state[1]
            asked = request.transition.label or request.transition.id
            line = f"expected a transition that the state '{state}' has, got {asked}"
            self._log.problem("transition", f"transition refused: {line}")
            response.success = False
            return response

    def _enter(self, state: str) -> TransitionCallbackReturn:
        self._health.enter(state)
        self._diagnostics.publish_if_changed()
        return TransitionCallbackReturn.SUCCESS

    def _unconfigured(self, reason: str, message: str) -> TransitionCallbackReturn:
        self.get_logger().error(f"{reason}: {message} ({NODE[reason]})")
        self._health.enter("unconfigured", Condition.of(Level.ERROR, reason, message))
        self._diagnostics.publish_if_changed()
        return TransitionCallbackReturn.FAILURE

    def _note_model(self, network: OnnxNetwork) -> None:
        name = network.contract.dataset
        self._health.note("model_path", str(network.path))
        self._health.note("model_sha256", network.sha256)
        self._health.note("solve", "numpy" if compiled.LIBRARY is None else "compiled")
        backend = network.backend
        for key, value in backend.notes.items():
            self._health.note(key, value)
        for warning in backend.warnings:
            self.get_logger().warning(f"backend: {warning}")
        standing = Condition.of(Level.WARN, "backend", "; ".join(backend.warnings))
        self._health.stand(standing if backend.warnings else None)
        runs = f"running on {backend.provider} ({backend.precision})"
        self.get_logger().info(f"model '{name}' from {network.path}, {runs}")

    def _note_loading(self, line: str) -> None:
        """Say what takes long in loading a model; in its thread."""
        self._health.loading(line)
        self.get_logger().info(line)

    def _look_at_model_file(self) -> None:
        model_file = self._model_file
        if model_file is not None:
            self._note_model_file(model_file)

    def _note_model_file(self, model_file: ModelFileWatch) -> None:
        state = model_file.state()
        self._health.event("model_file", state)
        if state != AS_LOADED:
            self._log.problem("model_file", f"model file {self.settings.model_path}: {state}")

    # Input: CameraInfo and images have a thread each. No image is taken while one is worked on, and the
    # middleware keeps the newest: nothing queues.

    def _on_camera_info(self, message: CameraInfo, _: Mapping[str, Any]) -> None:
        self._health.camera_info_received()
        self._camera_infos.add(message)

    def _on_image(self, message: bytes | CompressedImage, info: Mapping[str, Any]) -> None:
        arrived = self._arrived(info)
        worth = patience(time.perf_counter() - arrived, self._work, self._missed_images.period)
        newer = self._newer_image(worth) if worth else None
        if newer is not None:
            self._health.replaced()
            message, info = newer
            arrived = self._arrived(info)
        asked = self._triggers.waiting(arrived)
        if not self._wanted(arrived, bool(asked)):
            self._health.skipped()
            return
        assert self._localization is not None, "active without a localization"
        begun = time.perf_counter()
        self._take_camera_infos()  # its own may have come before it
        with self._health.working():
            self._localization.process(Arrival(message, arrived, asked))
        self._show_state()
        self._diagnostics.publish_if_changed()
        self._free_at = time.perf_counter()
        self._work = self._free_at - begun

    def _arrived(self, info: Mapping[str, Any]) -> float:
        """Count an image, and those that were missed before it; return when it arrived."""
        arrived = arrival_time(info)
        missed = self._missed_images.before(info, self._images.publishers)
        # One that came while the node was free met an empty place: none before it had come in the meantime.
        self._health.received(**{"dropped" if arrived < self._free_at else "lost": missed})
        return arrived

    def _wanted(self, arrived: float, asked: bool) -> bool:
        """Whether an image is to be localised, by `~/set_enabled`, `run.mode` and `run.max_rate`."""
        settings = self.settings
        if not self._enabled:
            return False
        if asked:
            return True
        if settings.run_mode == "on_trigger" or arrived < self._taken_until:
            return False
        if settings.max_rate:  # from when it was due, so that the rate holds whatever the camera's is
            self._taken_until = max(self._taken_until + 1.0 / settings.max_rate, arrived)
        return True

    def _bind_thread(self) -> None:
        """In the images' thread, which is one of the network's."""
        assert self._relocalizer is not None, "active without a model"
        backend: Backend | None = getattr(self._relocalizer.network, "backend", None)
        try:
            bind_thread(() if backend is None else backend.cores)
        except CoresError as error:
            self._log.problem("cores", f"the network's thread is not bound: {error}")

    # Requests.

    def _on_relocalize(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        outcome = self._ask().wait()
        response.success, response.message = outcome.success, outcome.message
        return response

    def _on_prior(self, message: PoseWithCovarianceStamped) -> None:
        """Localise now, with a prior for the base's pose; the outcome goes to log and diagnostics."""
        try:
            prior = prior_from_message(message, self.settings.map_frame)
        except ValueError as error:
            self._note_outcome(Outcome(False, f"bad_prior: {error}"))
        else:
            self._ask(prior)  # an empty message asks without a prior

    def _ask(self, prior: Prior | None = None) -> Request:
        """Ask for a pose. A request that can't be answered now has its outcome at once."""
        request = self._triggers.ask(self.settings.trigger_timeout, prior)
        # Looked at only now: what comes to an end from here on ends the request too.
        problem = self._why_not_now()
        if problem:
            request.end(False, problem)
        return request

    def _on_reset(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        self._forget("asked to", time_went_back=False)
        response.success, response.message = True, f"forgot everything: {self._tracker.state.value}"
        return response

    def _on_set_enabled(self, request: SetBool.Request, response: SetBool.Response) -> SetBool.Response:
        self._enabled = bool(request.data)
        if not self._enabled:
            self._triggers.cancel("no pose: disabled")
        self._show_idle()
        self._diagnostics.publish_if_changed()
        response.success, response.message = True, "enabled" if self._enabled else "disabled"
        return response

    def _on_parameters(self, parameters: list[Parameter]) -> SetParametersResult:
        values = {item.name: item.value for item in parameters if not is_middleware(item.name)}
        configured = self._relocalizer is not None or self._loading is not None
        try:
            settings = changed_settings(self.settings, values, configured=configured)
        except ParameterError as error:
            return SetParametersResult(successful=False, reason=str(error))
        self.settings = self._transforms.settings = settings
        self._tracker.options = settings.tracking
        if self._relocalizer is not None:
            self._relocalizer.gate = settings.gate
        if self._localization is not None:
            self._localization.settings = settings
        if settings.tf_mode == "map_to_odom":
            self._resending.timer_period_ns = round(1e9 / settings.tf_rate)
        self._taken_until = 0.0
        if not configured:
            self._health.note("model_path", settings.model_path)
        self._show_idle()
        self._show_state()
        return SetParametersResult(successful=True)

    def _why_not_now(self) -> str:
        """Why no request can be answered now; empty if it can."""
        if self._interrupted.is_set():
            return "no pose: the node is ending"
        if not self._listeners:
            return f"not active: {self._health.condition().message}"
        return "" if self._enabled else f"disabled: {NODE['disabled']}"

    def _note_outcome(self, outcome: Outcome) -> None:
        ended = "succeeded" if outcome.success else "failed"
        self._health.event("last_trigger", f"{ended}: {outcome.message}")
        if not outcome.success:
            self._log.problem("trigger", f"trigger failed: {outcome.message}")

    # State.

    def _expire(self) -> None:
        """What comes by time alone: LOST without a pose, no image, the deadlines of requests."""
        if self._relocalizer is None:
            self._transforms.unsettled()  # notes when broadcasters are discovered while a model is loaded
        self._triggers.waiting()
        before = self._tracker.state
        state = self._tracker.expire(1e-9 * self.get_clock().now().nanoseconds)
        if before is State.LOCALIZED and state is State.LOST:
            reason = self._health.condition().message
            self._log.event(f"LOST: no pose for {self.settings.lost_timeout:g} s; {reason}")
            self._show_state()
            self._diagnostics.publish()
        self._diagnostics.publish_if_changed()
        self._diagnostics.publish_news()

    def _forget(self, why: str, *, time_went_back: bool = True) -> None:
        """Begin anew: SEARCHING, without poses and path; without transforms too, if time went back."""
        self._log.event(f"forgetting where the robot is: {why}")
        self._health.event("last_reset", why)
        self._tracker.reset()
        self._pictures.forget()
        if time_went_back:
            self._transforms.forget()
        else:
            self._transforms.forget_odometry_correction()
        self._show_state()

    def _show_state(self) -> None:
        with self._showing:
            state = self._tracker.state
            self._health.note("state", state.value)
            self._outputs.publish_localized(state is State.LOCALIZED)
        if state is State.LOST and not self.settings.tf_keep_when_lost:
            self._transforms.forget_odometry_correction()

    def _show_idle(self) -> None:
        idle = None
        if not self._enabled:
            idle = Condition.of(Level.WARN, "disabled", NODE["disabled"])
        elif self.settings.run_mode == "on_trigger":
            idle = Condition.of(Level.OK, "waiting_for_trigger", NODE["waiting_for_trigger"])
        self._health.idle(idle)

    def _resend(self) -> None:
        try:
            self._transforms.send_map_to_odom()
        except TransformError as error:
            self._log.problem(error.reason, f"no transform sent: {error.reason}: {error}", error=True)

    def _on_internal_error(self, error: Exception) -> None:
        self._log.problem("internal_error", f"internal_error: {one_line(error)}", error=True)

    def _on_qos_mismatch(self, topic: str, policy: str) -> None:
        self._health.event("qos_mismatch", f"{topic}: {policy}")
        line = f"qos_mismatch: somebody on {topic} asks for another {policy}: nothing passes between us"
        self._log.problem(f"qos {topic}", line)


def main(args: list[str] | None = None) -> int:
    """Run the node until SIGINT or SIGTERM; return the exit code."""
    return run_node(StructposeRelocalizer, NODE_NAME, args)


if __name__ == "__main__":
    sys.exit(main())
