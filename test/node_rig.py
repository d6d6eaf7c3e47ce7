"""A robot's side of the node in tests: TF to give and to listen to, parameters and lifecycle by service."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tf2_ros
from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import PoseWithCovarianceStamped, Transform, TransformStamped
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
from model_files import HEIGHT, TRAINING_CAMERA, WIDTH
from rcl_interfaces.msg import SetParametersResult
from rcl_interfaces.srv import SetParameters
from rclpy.context import Context
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile
from ros_helpers import (
    DEADLINE,
    NodeProcess,
    Peer,
    camera_info_message,
    image_message,
    nanoseconds,
    next_domain,
    ros_context,
    stamp,
)
from sensor_msgs.msg import CameraInfo, Image
from tf2_msgs.msg import TFMessage

from structpose_ros.geometry import (
    quaternion_from_rotation,
    rotation_from_quaternion,
    rotation_from_vector,
    transform,
)

NODE = "/structpose_relocalizer"
MAP_FROM_CAMERA = transform(rotation_from_vector([0.3, -1.1, 0.7]), [2.5, -1.25, 0.75])
CONFIGURE, CLEANUP = Transition.TRANSITION_CONFIGURE, Transition.TRANSITION_CLEANUP
ACTIVATE, DEACTIVATE = Transition.TRANSITION_ACTIVATE, Transition.TRANSITION_DEACTIVATE


def pixels() -> np.ndarray:
    """Colours that the test model localises: depth from red, blue away from full."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    return np.stack([columns * 255 // WIDTH, rows * 255 // HEIGHT, rows * 0 + 40], axis=-1).astype(np.uint8)


def image() -> Image:
    """An image that is accepted."""
    return image_message(pixels())


def info() -> CameraInfo:
    """The training camera's CameraInfo."""
    return camera_info_message(TRAINING_CAMERA)


def tf_message(parent: str, child: str, parent_from_child: np.ndarray, at: int = 0) -> TransformStamped:
    """A transform for TF, stamped `at` nanoseconds."""
    message = TransformStamped(child_frame_id=child)
    message.header.frame_id, message.header.stamp = parent, stamp(at)
    moved, turned = message.transform.translation, message.transform.rotation
    moved.x, moved.y, moved.z = (float(value) for value in parent_from_child[:3, 3])
    quaternion = quaternion_from_rotation(parent_from_child[:3, :3])
    turned.x, turned.y, turned.z, turned.w = (float(value) for value in quaternion)
    return message


def matrix_of(message: Transform) -> np.ndarray:
    """The (4, 4) of a Transform message."""
    q, t = message.rotation, message.translation
    return transform(rotation_from_quaternion([q.x, q.y, q.z, q.w]), [t.x, t.y, t.z])


class Robot(Peer):
    """A peer with a robot's TF, which it gives on /tf and /tf_static; it keeps what the node says.

    heard: what others than this peer sent on /tf, and when it came, in nanoseconds of the wall clock.
    """

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.bases: list[PoseWithCovarianceStamped] = []
        self.heard: list[tuple[int, TransformStamped]] = []
        self.arrays: list[DiagnosticArray] = []
        self._own: set[tuple[str, int, float]] = set()
        keep = QoSProfile(depth=1000)
        self.node.create_subscription(
            PoseWithCovarianceStamped, "pose_with_covariance", self.bases.append, keep
        )
        self.node.create_subscription(TFMessage, "/tf", self._hear, keep)
        self.node.create_subscription(DiagnosticArray, "/diagnostics", self.arrays.append, keep)
        self._static = tf2_ros.StaticTransformBroadcaster(self.node)

    def fix(self, *edges: tuple[str, str, np.ndarray]) -> None:
        """Send parent, child, parent_from_child on /tf_static."""
        self._static.sendTransform([tf_message(*edge) for edge in edges])

    def move(self, parent: str, child: str, samples: Sequence[tuple[int, np.ndarray]]) -> None:
        """Send the transforms of a joint, each at its time, on /tf."""
        if not hasattr(self, "_moving"):
            self._moving = tf2_ros.TransformBroadcaster(self.node)
        messages = [tf_message(parent, child, parent_from_child, at) for at, parent_from_child in samples]
        self._own.update(_mark(message) for message in messages)
        self._moving.sendTransform(messages)

    def _hear(self, message: TFMessage) -> None:
        foreign = [one for one in message.transforms if _mark(one) not in self._own]
        self.heard += [(time.time_ns(), one) for one in foreign]

    def heard_of(self, child: str) -> list[TransformStamped]:
        """What others sent of a frame."""
        return [one for _, one in self.heard if one.child_frame_id == child]

    def next_stamp(self) -> int:
        """The stamp that the next image will have."""
        return self._next + 100_000_001

    def localize(self) -> list[int]:
        """Send good images until one is answered; return their stamps."""
        before = len(self.poses)
        return self.send_until(lambda: len(self.poses) > before, "a pose", image(), info())

    def state(self) -> str:
        """The state in the last diagnostics."""
        return self.values().get("state", "")

    def set(self, **values: object) -> SetParametersResult:
        """Set parameters, with `__` in place of the dot, by the service; return the first refusal, if any."""
        parameters = [Parameter(name.replace("__", "."), value=value) for name, value in values.items()]
        request = SetParameters.Request(parameters=[item.to_parameter_msg() for item in parameters])
        results = self.call(SetParameters, f"{NODE}/set_parameters", request).results
        return next((result for result in results if not result.successful), results[0])

    def change(self, transition: int) -> bool:
        """Ask for a lifecycle transition; return whether it succeeded."""
        request = ChangeState.Request(transition=Transition(id=transition))
        return bool(self.call(ChangeState, f"{NODE}/change_state", request).success)

    def lifecycle(self) -> str:
        """What get_state says."""
        return str(self.call(GetState, f"{NODE}/get_state", GetState.Request()).current_state.label)


def _mark(message: TransformStamped) -> tuple[str, int, float]:
    return message.child_frame_id, nanoseconds(message.header.stamp), message.transform.translation.x


class Rig:
    """A domain with the robot's side in this process, and the node as a process of its own."""

    def __init__(self, folder: Path, domain: int, robot: Robot) -> None:
        self.robot = robot
        self._folder, self._domain = folder, domain
        self.process: NodeProcess

    def start(self, **parameters: object) -> NodeProcess:
        """Start the node on one core, each pose for itself; parameters have `__` in place of the dot."""
        given: dict[str, Any] = {
            "model.provider": "cpu",
            "model.threads": 1,
            "gate.consistency_frames": 1,
            **{name.replace("__", "."): value for name, value in parameters.items()},
        }
        self.process = NodeProcess(self._domain, self._folder / "node.log", **given)
        return self.process

    @property
    def log(self) -> list[str]:
        """What the node printed, by lines."""
        return self.process.log.splitlines()


@contextmanager
def rig(folder: Path) -> Iterator[Rig]:
    """A rig; at its end the node is gone, and has printed no traceback and no error of its own making."""
    domain = next_domain()
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
        environment.setenv("ROS_DOMAIN_ID", str(domain))
        with ros_context(domain) as context:
            robot = Robot(context)
            made = Rig(folder, domain, robot)
            try:
                yield made
            finally:
                if hasattr(made, "process"):
                    made.process.end()
                robot.close()
    log = made.process.log
    troubles = ("Traceback", "internal_error", "never retrieved")
    assert not any(trouble in log for trouble in troubles), log[-5000:]


def wait_for_end(process: NodeProcess) -> int:
    """The exit code."""
    return process.process.wait(DEADLINE)
