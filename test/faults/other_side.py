"""The other side of the node as a process of its own, which a test may kill or stop: `camera` or `reader`."""

from __future__ import annotations

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import rclpy
from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import PoseStamped, PoseWithCovarianceStamped
from model_files import TRAINING_CAMERA
from nav_msgs.msg import Path as PathMessage
from node_bench import picture
from rclpy.node import Node
from rclpy.qos import QoSProfile
from ros_helpers import camera_info_message, image_message
from sensor_msgs.msg import CameraInfo, Image, PointCloud2

RATE = 30.0  # Hz
NODE = "/structpose_relocalizer"


def play(node: Node) -> None:
    """Publish good frames, stamped now, for ever."""
    images, infos = (
        node.create_publisher(Image, "image", 10),
        node.create_publisher(CameraInfo, "camera_info", 10),
    )
    image, info = image_message(picture()), camera_info_message(TRAINING_CAMERA)
    while True:
        now = time.time_ns()
        image.header.stamp = info.header.stamp = Time(sec=now // 10**9, nanosec=now % 10**9)
        infos.publish(info)
        images.publish(image)
        time.sleep(1.0 / RATE)


def read(node: Node) -> None:
    """Subscribe reliably to all that the node publishes for each frame, and never take any of it."""
    topics = {
        "pose": PoseStamped,
        "pose_with_covariance": PoseWithCovarianceStamped,
        "/diagnostics": DiagnosticArray,
        f"{NODE}/points": PointCloud2,
        f"{NODE}/path": PathMessage,
    }
    kept = [node.create_subscription(kind, name, print, QoSProfile(depth=5)) for name, kind in topics.items()]
    while kept:
        time.sleep(1.0)


if __name__ == "__main__":
    rclpy.init()
    {"camera": play, "reader": read}[sys.argv[1]](Node(f"test_{sys.argv[1]}"))
