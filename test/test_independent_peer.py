"""A DDS implementation that shares no code with the node's receives its poses bit for bit."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="rclpy is not installed: no ROS 2 here")

from geometry_msgs.msg import PoseWithCovarianceStamped
from model_files import TRAINING_CAMERA, contract, write_model
from node_bench import Bench, bench, picture
from ros_helpers import CAMERA_FRAME, camera_info_message, image_message

from structpose_ros.covariance import CovarianceOptions, published_covariance
from structpose_ros.geometry import quaternion_from_rotation, rotation_from_vector, transform
from structpose_ros.network import OnnxNetwork
from structpose_ros.relocalizer import Relocalizer

rosless = pytest.importorskip("rosless", reason="rosless, the independent peer, is not installed")
MAP_FROM_CAMERA = transform(rotation_from_vector([0.3, -1.1, 0.7]), [2.5, -1.25, 0.75])
POSES = 3
TYPES = {
    "/pose": "geometry_msgs/msg/PoseStamped",
    "/pose_with_covariance": "geometry_msgs/msg/PoseWithCovarianceStamped",
    "/tf": "tf2_msgs/msg/TFMessage",
}


def noisy() -> np.ndarray:
    """An image of many depths, so that no float comes out round."""
    image_rgb = picture()
    image_rgb[..., 0] = np.random.default_rng(7).integers(0, 256, image_rgb.shape[:2])
    return image_rgb


class Received:
    """What one peer got: by topic and stamp, the frames and the bits of every float64."""

    def __init__(self) -> None:
        self.messages: dict[str, dict[int, tuple[tuple[str, ...], bytes]]] = {topic: {} for topic in TYPES}

    def take(self, topic: str, message: Any) -> None:
        """Take in a message of rclpy or rosless: their fields have the same names."""
        for part in message.transforms if topic == "/tf" else [message]:
            stamp_ns = int(part.header.stamp.sec) * 10**9 + int(part.header.stamp.nanosec)
            self.messages[topic][stamp_ns] = _content(topic, part)

    def complete(self) -> list[int]:
        """The stamps that came on all topics."""
        return sorted(set.intersection(*(set(messages) for messages in self.messages.values())))


def _content(topic: str, part: Any) -> tuple[tuple[str, ...], bytes]:
    if topic == "/tf":
        frames = (str(part.header.frame_id), str(part.child_frame_id))
        place, turn, rest = part.transform.translation, part.transform.rotation, []
    else:
        frames = (str(part.header.frame_id),)
        covariance = topic == "/pose_with_covariance"
        pose = part.pose.pose if covariance else part.pose
        place, turn, rest = pose.position, pose.orientation, list(part.pose.covariance) if covariance else []
    return frames, bits([place.x, place.y, place.z, turn.x, turn.y, turn.z, turn.w, *rest])


def bits(values: list[float]) -> bytes:
    """The bits of float64 numbers: -0.0 differs from 0.0."""
    return struct.pack(f"<{len(values)}d", *values)


@pytest.fixture
def camera(tmp_path: Path) -> Iterator[Bench]:
    """A bench for the node."""
    with bench(tmp_path) as made:
        yield made


@pytest.fixture
def open_peer(camera: Bench) -> Iterator[Callable[[], dict[str, Any]]]:
    """Subscribe with the independent peer to each topic; at the end it is gone."""
    subscriptions: dict[str, Any] = {}

    def opener() -> dict[str, Any]:
        node = rosless.Node(domain=camera.domain)
        for topic, kind in TYPES.items():
            subscriptions[topic] = node.subscribe(topic, kind, reliability="reliable", depth=100)
        return subscriptions

    yield opener
    for subscription in subscriptions.values():
        subscription.close()


def test_an_independent_peer_receives_every_bit(
    camera: Bench, open_peer: Callable[[], dict[str, Any]], tmp_path: Path
) -> None:
    """Frames and float64 numbers of poses, covariances and transforms, for the same stamps.

    They are the same as rclpy receives, and as the model gives when it is run here.
    """
    correlated = contract(covariance_scale=1e9)  # the test model's own residuals are those of rounding
    path = write_model(tmp_path / "model.onnx", MAP_FROM_CAMERA, correlated)
    camera.start(**{"model.path": path, "tf.mode": "map_to_camera"})
    subscriptions = open_peer()
    by_rclpy, by_peer = Received(), Received()
    bases = camera.hear(PoseWithCovarianceStamped, "pose_with_covariance", 100)

    def both() -> bool:
        for topic, subscription in subscriptions.items():
            while (message := subscription.read(timeout=0.0)) is not None:
                by_peer.take(topic, message)
        for topic, messages in (
            ("/pose", camera.poses),
            ("/pose_with_covariance", bases),
            ("/tf", camera.transforms),
        ):
            for message in messages:
                by_rclpy.take(topic, message)
        return len(set(by_peer.complete()) & set(by_rclpy.complete())) >= POSES

    sent = camera.send_until(
        both, "poses for both", image_message(noisy()), camera_info_message(TRAINING_CAMERA)
    )
    stamps = set(by_peer.complete()) & set(by_rclpy.complete())
    assert stamps <= set(sent)

    result = Relocalizer(OnnxNetwork(path, "cpu", 1)).localize(noisy(), TRAINING_CAMERA)
    assert result.estimate is not None
    assert result.covariance is not None
    pose = result.estimate.map_from_camera
    numbers = [*pose[:3, 3].tolist(), *quaternion_from_rotation(pose[:3, :3]).tolist()]
    covariance = published_covariance(result.covariance, CovarianceOptions()).reshape(-1).tolist()
    assert abs(covariance[1]) > 1e-9, "nothing but floors"
    computed = {
        "/pose": (("map",), bits(numbers)),
        "/pose_with_covariance": (("map",), bits(numbers + covariance)),
        "/tf": (("map", CAMERA_FRAME), bits(numbers)),
    }
    for stamp_ns in stamps:
        for topic, expected in computed.items():
            assert by_peer.messages[topic][stamp_ns] == by_rclpy.messages[topic][stamp_ns] == expected
