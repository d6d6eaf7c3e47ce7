"""Bags as robots record them, written without ROS: a camera on a robot whose true path is known."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from recordings import CAMERA, frame, poses
from rosbags.rosbag2 import Writer
from rosbags.rosbag2.enums import CompressionFormat, CompressionMode, StoragePlugin
from rosbags.typesys import Stores, get_typestore

from structpose_ros.camera import Camera
from structpose_ros.geometry import invert, quaternion_from_rotation, rotation_from_vector, transform

STORE = get_typestore(Stores.ROS2_JAZZY)
TYPES = STORE.types
START_NS = 1_690_000_000_123_456_789
PERIOD_NS = 100_000_007
STORAGES = [("mcap", "none"), ("mcap", "storage"), ("sqlite3", "none"), ("sqlite3", "file")]
STORAGES += [("sqlite3", "message"), ("mcap", "file"), ("mcap", "message")]

COLOR, INFO = "/camera/color/image_raw", "/camera/color/camera_info"
DEPTH, DEPTH_INFO = "/camera/depth/image_rect_raw", "/camera/depth/camera_info"
COLOR_FRAME, DEPTH_FRAME = "camera_color_optical_frame", "camera_depth_optical_frame"
# Axes of an optical frame (x right, y down, z forward) in a body's (x forward, y left, z up), REP 103.
OPTICAL = np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])
BASE_FROM_LINK = transform(rotation_from_vector([0.1, 0.3, -0.2]), [0.25, -0.06, 0.41])
LINK_FROM_COLOR = transform(OPTICAL, [0.0, 0.015, 0.0])


def header(stamp_ns: int, frame_id: str) -> Any:
    """Return a std_msgs/Header."""
    stamp = TYPES["builtin_interfaces/msg/Time"](stamp_ns // 1_000_000_000, stamp_ns % 1_000_000_000)
    return TYPES["std_msgs/msg/Header"](stamp, frame_id)


def image(
    stamp_ns: int, pixels: np.ndarray, encoding: str, frame_id: str = COLOR_FRAME, padding: int = 0
) -> Any:
    """Return an Image of pixels (H, W) or (H, W, C), each row followed by `padding` bytes."""
    height, width = pixels.shape[:2]
    rows = np.ascontiguousarray(pixels).reshape(height, -1).view(np.uint8)
    rows = np.pad(rows, ((0, 0), (0, padding)), constant_values=0xA5)
    big = int(pixels.dtype.byteorder == ">")
    return TYPES["sensor_msgs/msg/Image"](
        header(stamp_ns, frame_id), height, width, encoding, big, rows.shape[1], rows.reshape(-1)
    )


def compressed(stamp_ns: int, content: bytes, format_text: str, frame_id: str = COLOR_FRAME) -> Any:
    """Return a CompressedImage."""
    data = np.frombuffer(content, dtype=np.uint8)
    return TYPES["sensor_msgs/msg/CompressedImage"](header(stamp_ns, frame_id), format_text, data)


def png(pixels: np.ndarray) -> bytes:
    """Return pixels as a PNG, as they are."""
    return cv2.imencode(".png", pixels)[1].tobytes()


def compressed_depth(stamp_ns: int, depth: np.ndarray, frame_id: str = COLOR_FRAME) -> Any:
    """Return what compressed_depth_image_transport makes of uint16 mm, or of float metres (0: none).

    It keeps inverse depths for floats: v = A / depth + B with A = q (q + 1) and B = 1 - A / depth_max.
    """
    quantisation, farthest = 100.0, 10.0
    a = quantisation * (quantisation + 1.0)
    b = 1.0 - a / farthest
    name, values = "16UC1", depth
    if depth.dtype != np.uint16:
        name = "32FC1"
        inverse = a / np.where(depth > 0, depth, 1.0) + b
        values = np.where((depth > 0) & (depth < farthest), inverse, 0).astype(np.uint16)
    content = struct.pack("<iff", 0, a, b) + png(values)
    return compressed(stamp_ns, content, f"{name}; compressedDepth png", frame_id)


def camera_info(stamp_ns: int, camera: Camera, frame_id: str = COLOR_FRAME, **changed: Any) -> Any:
    """Return the CameraInfo of a camera, with fields changed."""
    k = camera.matrix.reshape(-1)
    fields = {
        "header": header(stamp_ns, frame_id),
        "height": camera.height,
        "width": camera.width,
        "distortion_model": camera.distortion_model,
        "d": np.array(camera.distortion, dtype=np.float64),
        "k": k,
        "r": np.eye(3).reshape(-1),
        "p": np.insert(k.reshape(3, 3), 3, 0.0, axis=1).reshape(-1),
        "binning_x": 0,
        "binning_y": 0,
        "roi": TYPES["sensor_msgs/msg/RegionOfInterest"](0, 0, 0, 0, False),
    }
    return TYPES["sensor_msgs/msg/CameraInfo"](**{**fields, **changed})


def moved(stamp_ns: int, parent: str, child: str, parent_from_child: np.ndarray) -> Any:
    """Return a TransformStamped."""
    sent = TYPES["geometry_msgs/msg/Transform"](
        TYPES["geometry_msgs/msg/Vector3"](*parent_from_child[:3, 3]), _quaternion(parent_from_child)
    )
    return TYPES["geometry_msgs/msg/TransformStamped"](header(stamp_ns, parent), child, sent)


def tf(*transforms: Any) -> Any:
    """Return a TFMessage."""
    return TYPES["tf2_msgs/msg/TFMessage"](list(transforms))


def pose_message(kind: str, stamp_ns: int, parent: str, child: str, parent_from_child: np.ndarray) -> Any:
    """Return a PoseStamped, PoseWithCovarianceStamped or Odometry."""
    pose = TYPES["geometry_msgs/msg/Pose"](
        TYPES["geometry_msgs/msg/Point"](*parent_from_child[:3, 3]), _quaternion(parent_from_child)
    )
    head = header(stamp_ns, parent)
    if kind == "PoseStamped":
        return TYPES["geometry_msgs/msg/PoseStamped"](head, pose)
    uncertain = TYPES["geometry_msgs/msg/PoseWithCovariance"](pose, np.zeros(36))
    if kind == "PoseWithCovarianceStamped":
        return TYPES["geometry_msgs/msg/PoseWithCovarianceStamped"](head, uncertain)
    zero = TYPES["geometry_msgs/msg/Vector3"](0.0, 0.0, 0.0)
    twist = TYPES["geometry_msgs/msg/Twist"](zero, zero)
    still = TYPES["geometry_msgs/msg/TwistWithCovariance"](twist, np.zeros(36))
    return TYPES["nav_msgs/msg/Odometry"](head, child, uncertain, still)


def _quaternion(target_from_source: np.ndarray) -> Any:
    return TYPES["geometry_msgs/msg/Quaternion"](*quaternion_from_rotation(target_from_source[:3, :3]))


Sent = list[tuple[int, str, Any]]  # received, ns; topic; message


def write_bag(path: Path, sent: Sent, storage: str = "mcap", compression: str = "none") -> Path:
    """Write messages into a bag in the order in which they were received."""
    writer = Writer(path, version=9, storage_plugin=StoragePlugin[storage.upper()])
    writer.set_compression(CompressionMode[compression.upper()], CompressionFormat.ZSTD)
    with writer:
        connections: dict[str, Any] = {}
        for received_ns, topic, message in sorted(sent, key=lambda item: item[0]):
            name = message.__msgtype__
            if topic not in connections:
                connections[topic] = writer.add_connection(topic, name, typestore=STORE)
            writer.write(connections[topic], received_ns, STORE.serialize_cdr(message, name))
    return path


@dataclass
class Shot:
    """A colour image, its depth in mm by `depth_camera`, and the colour camera's true pose."""

    stamp_ns: int
    image_rgb: np.ndarray
    depth_mm: np.ndarray
    map_from_camera: np.ndarray
    jpeg: bytes | None = None


@dataclass
class Robot:
    """How a drive gets into a bag. color: an encoding, `jpeg` or `png`; depth: an encoding or `compressed`,
    prefixed by `32FC1 ` for floats; color_from_depth: None where depth is registered.
    """

    camera: Camera = CAMERA
    color: str = "rgb8"
    depth: str | None = "16UC1"
    depth_camera: Camera = CAMERA
    color_from_depth: np.ndarray | None = None
    depth_delay_ns: int = 0
    latency_ns: dict[str, int] = field(default_factory=dict)  # by topic: received as much after the stamp

    @property
    def color_topic(self) -> str:
        """The topic that colour is sent on."""
        return COLOR if self.color not in ("jpeg", "png") else f"{COLOR}/compressed"

    def camera_messages(self, shots: Sequence[Shot]) -> Sent:
        """Return images and CameraInfo."""
        sent: Sent = []
        for shot in shots:
            stamp = shot.stamp_ns
            sent.append((stamp + self.latency_ns.get(COLOR, 0), self.color_topic, self._color(shot)))
            sent.append((stamp, INFO, camera_info(stamp, self.camera)))
            if self.depth is not None:
                late = stamp + self.depth_delay_ns
                topic = DEPTH if "compressed" not in self.depth else f"{DEPTH}/compressedDepth"
                sent.append((late + self.latency_ns.get(DEPTH, 0), topic, self._depth(shot, late)))
                if self.color_from_depth is not None:
                    sent.append((late, DEPTH_INFO, camera_info(late, self.depth_camera, DEPTH_FRAME)))
        return sent

    def _color(self, shot: Shot) -> Any:
        if self.color == "jpeg":
            assert shot.jpeg is not None
            return compressed(shot.stamp_ns, shot.jpeg, "rgb8; jpeg compressed bgr8")
        bgr = cv2.cvtColor(shot.image_rgb, cv2.COLOR_RGB2BGR)
        if self.color == "png":
            return compressed(shot.stamp_ns, png(bgr), "rgb8; png compressed bgr8")
        return image(shot.stamp_ns, shot.image_rgb if self.color == "rgb8" else bgr, self.color, padding=5)

    def _depth(self, shot: Shot, stamp_ns: int) -> Any:
        assert self.depth is not None
        frame_id = COLOR_FRAME if self.color_from_depth is None else DEPTH_FRAME
        values = shot.depth_mm
        if self.depth.startswith("32FC1"):
            values = np.where(values > 0, values * np.float32(1e-3), np.nan).astype(np.float32)
        if "compressed" in self.depth:
            return compressed_depth(stamp_ns, np.nan_to_num(values), frame_id)
        return image(stamp_ns, values, self.depth, frame_id, padding=8)

    def static(self) -> Sent:
        """Return what /tf_static holds: where the cameras are on the robot."""
        fixed = [
            moved(0, "base_link", "camera_link", BASE_FROM_LINK),
            moved(0, "camera_link", COLOR_FRAME, LINK_FROM_COLOR),
        ]
        if self.color_from_depth is not None:
            fixed.append(moved(0, "camera_link", DEPTH_FRAME, LINK_FROM_COLOR @ self.color_from_depth))
        return [(START_NS - 1_000_000_000, "/tf_static", tf(*fixed))]


def map_from_odom(stamp_ns: int) -> np.ndarray:
    """Return a drift that is straight and even: interpolation between any two times is exact."""
    seconds = (stamp_ns - START_NS) * 1e-9
    turn = rotation_from_vector(seconds * np.array([0.1, 0.2, 0.3]))
    turned = rotation_from_vector([0.2, -0.1, 0.7]) @ turn
    return transform(turned, [3.0 - 0.2 * seconds, 1.0 + 0.1 * seconds, 0.3])


def map_from_base(map_from_camera: np.ndarray) -> np.ndarray:
    """Return where the robot is by where its colour camera is."""
    return map_from_camera @ invert(BASE_FROM_LINK @ LINK_FROM_COLOR)


def moving_tf(shots: Sequence[Shot]) -> Sent:
    """Return /tf: odom-base_link at the images' times and between, map-odom at times of its own."""
    sent: Sent = []
    for index, shot in enumerate(shots):
        stamps = {shot.stamp_ns: map_from_base(shot.map_from_camera)}
        if index:
            before = shots[index - 1]
            stamps[(shot.stamp_ns + before.stamp_ns) // 2] = map_from_base(before.map_from_camera)
        for stamp, in_map in stamps.items():
            odom_from_base = invert(map_from_odom(stamp)) @ in_map
            sent.append((stamp + 3_000_000, "/tf", tf(moved(stamp, "odom", "base_link", odom_from_base))))
    for stamp in range(shots[0].stamp_ns - 31_000_000, shots[-1].stamp_ns + 170_000_000, 170_000_000):
        sent.append((stamp, "/tf", tf(moved(stamp, "map", "odom", map_from_odom(stamp)))))
    return sent


def rendered(count: int, seed: int = 3, start_ns: int = START_NS) -> list[Shot]:
    """Return a drive in the room of `recordings`, depth registered."""
    shots = []
    for number, map_from_camera in enumerate(poses(count, seed)):
        seen = frame("", map_from_camera)
        encoded = cv2.imencode(".jpg", cv2.cvtColor(seen.image_rgb, cv2.COLOR_RGB2BGR))[1].tobytes()
        stamp_ns = start_ns + number * PERIOD_NS
        shots.append(Shot(stamp_ns, seen.image_rgb, seen.depth_mm, map_from_camera, encoded))
    return shots


def write_drive(
    path: Path,
    shots: Sequence[Shot],
    robot: Robot | None = None,
    storage: str = "mcap",
    compression: str = "none",
) -> Path:
    """Write a drive with poses from TF."""
    robot = robot or Robot()
    sent = [*robot.static(), *moving_tf(shots), *robot.camera_messages(shots)]
    return write_bag(path, sent, storage, compression)


@contextmanager
def full_disk(after: int) -> Iterator[list[int]]:
    """Let all writes of files fail after as many: half of the content is written, as by a full disk."""
    import errno
    from unittest import mock

    write_bytes, done = Path.write_bytes, [0]

    def write(self: Path, data: Any) -> int:
        done[0] += 1
        if done[0] > after:
            write_bytes(self, bytes(data)[: len(data) // 2])
            raise OSError(errno.ENOSPC, "No space left on device", str(self))
        return write_bytes(self, data)

    with mock.patch.object(Path, "write_bytes", write):
        yield done
