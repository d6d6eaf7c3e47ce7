"""The camera of the soak, which shows known frames, and the listener that compares the answers with them."""

from __future__ import annotations

import array
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import PoseStamped, PoseWithCovarianceStamped
from rcl_interfaces.srv import SetParameters
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile
from sensor_msgs.msg import CameraInfo, Image, PointCloud2
from std_srvs.srv import SetBool, Trigger
from tf2_msgs.msg import TFMessage

from structpose_ros.camera import Camera
from structpose_ros.geometry import pose_error
from structpose_ros.messages import (
    camera_info_from_camera,
    nanoseconds_from_stamp,
    target_from_source_of_pose,
)
from structpose_ros.training.frames import open_recording, read_color, read_pose

NODE = "/structpose_relocalizer"
FRAME = "camera_optical_frame"
WRONG_M, WRONG_DEG = 0.25, 10.0  # as false_accept of metrics.json has it


@dataclass(frozen=True)
class Shown:
    """A frame of the recording as messages without a stamp, and where its camera was, (4, 4)."""

    image: Image
    camera: Camera
    map_from_camera: np.ndarray


@dataclass
class Heard:
    """What came of the node. latencies: when each pose came, and milliseconds from its image's stamp."""

    poses: int = 0
    posed_ns: int = 0  # the last one's stamp
    wrong: list[str] = field(default_factory=list)
    latencies: list[tuple[float, float]] = field(default_factory=list)
    values: dict[str, str] = field(default_factory=dict)
    reported_at: float = 0.0  # seconds, the stamp of the last diagnostics
    reasons: Counter[str] = field(default_factory=Counter)


def frames_of(folder: Path) -> list[Shown]:
    """Return the recording's test frames, to the end and back, so that the camera never jumps."""
    recording = open_recording(folder)
    files, _ = recording.files("test")
    shown = []
    for item in files:
        image_rgb = read_color(item.color)
        image = Image(height=image_rgb.shape[0], width=image_rgb.shape[1], encoding="rgb8")
        image.step, image.data = 3 * image.width, array.array("B", image_rgb.tobytes())
        image.header.frame_id = FRAME
        shown.append(Shown(image, recording.camera, read_pose(item.pose)))
    return [*shown, *shown[-2:0:-1]]


class Player(Node):
    """Publishes frames as the demo's camera does, and keeps what the node answers."""

    def __init__(self) -> None:
        super().__init__("soak")
        reliable = QoSProfile(depth=5)
        self.images = self.create_publisher(Image, "image", reliable)
        self.infos = self.create_publisher(CameraInfo, "camera_info", reliable)
        self.priors = self.create_publisher(PoseWithCovarianceStamped, "trigger_localization", reliable)
        self.tf = self.create_publisher(TFMessage, "/tf", reliable)
        self.heard = Heard()
        self.expected: dict[int, np.ndarray | None] = {}  # by stamp; None: must give no pose
        self.asked: list[Any] = []
        self._looking: list[Any] = []
        self.create_subscription(PoseStamped, "pose", self._on_pose, QoSProfile(depth=100))
        self.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, QoSProfile(depth=100))
        self._triggers = {
            name: self.create_client(Trigger, f"{NODE}/{name}") for name in ("relocalize", "reset")
        }
        self._enable = self.create_client(SetBool, f"{NODE}/set_enabled")
        self._set = self.create_client(SetParameters, f"{NODE}/set_parameters")

    def is_connected(self) -> bool:
        """Whether the node listens and its services answer."""
        clients = [*self._triggers.values(), self._enable, self._set]
        return self.images.get_subscription_count() > 0 and all(item.service_is_ready() for item in clients)

    def show(
        self, image: Image, info: CameraInfo | None, truth: np.ndarray | None, stamp_ns: int | None = None
    ) -> None:
        """Publish a frame, stamped now or `stamp_ns`; `truth` None: it must give no pose."""
        at = time.time_ns() if stamp_ns is None else stamp_ns
        image.header.stamp = Time(sec=at // 10**9, nanosec=at % 10**9)
        self.expected[at] = truth
        if info is not None:
            info.header.stamp = image.header.stamp
            self.infos.publish(info)
        self.images.publish(image)

    def ask(self, name: str) -> None:
        """Call ~/relocalize or ~/reset."""
        self.asked.append(self._triggers[name].call_async(Trigger.Request()))

    def enable(self, enabled: bool) -> None:
        """Call ~/set_enabled."""
        self.asked.append(self._enable.call_async(SetBool.Request(data=enabled)))

    def set(self, name: str, value: object) -> None:
        """Change a parameter of the node."""
        parameters = [Parameter(name, value=value).to_parameter_msg()]
        self.asked.append(self._set.call_async(SetParameters.Request(parameters=parameters)))

    def look(self, at_pictures: bool) -> None:
        """Subscribe to what is only made for who looks at it, or stop."""
        for subscription in self._looking:
            self.destroy_subscription(subscription)
        self._looking = []
        if at_pictures:
            kinds = {"points": PointCloud2, "depth": Image, "weights": Image}
            self._looking = [
                self.create_subscription(kind, f"{NODE}/{name}", lambda _: None, 5)
                for name, kind in kinds.items()
            ]

    def unanswered(self) -> int:
        """How many services never answered."""
        return sum(not future.done() for future in self.asked)

    def _on_pose(self, message: PoseStamped) -> None:
        now = time.time_ns()
        stamp_ns = nanoseconds_from_stamp(message.header.stamp)
        self.heard.poses += 1
        self.heard.posed_ns = stamp_ns
        truth = self.expected.get(stamp_ns)
        if truth is None:
            self.heard.wrong.append(f"a pose of a frame that must give none, stamped {stamp_ns}")
            return
        metres, degrees = pose_error(target_from_source_of_pose(message.pose), truth)
        if metres > WRONG_M or degrees > WRONG_DEG:
            self.heard.wrong.append(f"{metres:.2f} m and {degrees:.1f} deg off, stamped {stamp_ns}")
        if abs(now - stamp_ns) < 10**10:  # one of a frame that had its time
            self.heard.latencies.append((time.monotonic(), 1e-6 * (now - stamp_ns)))

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            self.heard.values = {item.key: item.value for item in status.values}
            self.heard.reported_at = 1e-9 * nanoseconds_from_stamp(message.header.stamp)
            self.heard.reasons[self.heard.values.get("reason", "")] += 1


def info_of(camera: Camera) -> CameraInfo:
    """The CameraInfo of a camera, without a stamp."""
    return camera_info_from_camera(camera, Time(), FRAME)
