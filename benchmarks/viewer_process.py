"""Somebody who looks: subscribes to the clouds, images and the path that the node makes only then."""

from __future__ import annotations

import sys
from typing import Any

import rclpy
from nav_msgs.msg import Path
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import Image, PointCloud2

from structpose_ros.spinning import set_by_signals

TOPICS: dict[str, Any] = {
    "points": PointCloud2,
    "map_points": PointCloud2,
    "depth": Image,
    "weights": Image,
    "path": Path,
}
READY = "viewer: looking"


def main() -> int:
    """Look until SIGINT or SIGTERM."""
    stopping = set_by_signals()
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    node = Node("viewer")
    for topic, kind in TOPICS.items():
        node.create_subscription(kind, f"/structpose_relocalizer/{topic}", lambda _: None, 10)
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    print(READY, flush=True)
    while not stopping.is_set():
        executor.spin_once(timeout_sec=0.1)
    rclpy.try_shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
