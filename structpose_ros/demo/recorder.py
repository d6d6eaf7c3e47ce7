"""`demo_recorder`: a process that notes each pose and when it came, as a robot's consumer would see it."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import PoseStamped
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions
from rclpy.utilities import remove_ros_args
from tf2_msgs.msg import TFMessage

from structpose_ros.demo import RECORDER_READY
from structpose_ros.listener import Listener, ListenerGroup
from structpose_ros.messages import nanoseconds_from_stamp, target_from_source_of_pose
from structpose_ros.spinning import one_line, set_by_signals
from structpose_ros.training.frames import write_atomic


class DemoRecorder(Node):
    """Collects `pose`, the transforms on /tf and the latest diagnostics.

    Poses have a thread of their own, and transforms another: rclpy's executor would add its part of a
    millisecond to each pose, and take half a one from the node where the cores are few.
    """

    def __init__(self) -> None:
        """Subscribe."""
        super().__init__("demo_recorder")
        self.poses: list[dict[str, Any]] = []
        self.transforms = 0
        self.diagnostics: dict[str, str] = {}
        poses = self.create_subscription(
            PoseStamped, "pose", self._on_pose, 50, callback_group=ListenerGroup()
        )
        transforms = self.create_subscription(
            TFMessage, "/tf", self._on_tf, 50, callback_group=ListenerGroup()
        )
        self._listeners = [
            Listener(poses, self.context, "poses", self._on_error),
            Listener(transforms, self.context, "transforms", self._on_error),
        ]
        diagnostics = self.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 10)
        self._subscriptions_kept = [poses, transforms, diagnostics]

    def publishers_found(self) -> bool:
        """Whether somebody publishes `pose`."""
        return self.count_publishers("pose") > 0

    def stop(self) -> None:
        """Take no more poses and transforms."""
        for listener in self._listeners:
            listener.stop()

    def _on_error(self, error: Exception) -> None:
        self.get_logger().error(f"a message was not recorded: {one_line(error)}")

    def _on_pose(self, message: PoseStamped, _: Mapping[str, Any]) -> None:
        received_ns = time.time_ns()
        stamp_ns = nanoseconds_from_stamp(message.header.stamp)
        self.poses.append(
            {
                "stamp_ns": stamp_ns,
                "latency_ms": (received_ns - stamp_ns) * 1e-6,
                "frame_id": message.header.frame_id,
                "map_from_camera": target_from_source_of_pose(message.pose).tolist(),
            }
        )

    def _on_tf(self, message: TFMessage, _: Mapping[str, Any]) -> None:
        self.transforms += len(message.transforms)

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            self.diagnostics = {"message": status.message} | {item.key: item.value for item in status.values}


def main(argv: list[str] | None = None) -> int:
    """Record until SIGINT or SIGTERM, then write what came as JSON."""
    parser = argparse.ArgumentParser(prog="demo_recorder", description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args(remove_ros_args(sys.argv if argv is None else argv)[1:])
    stopping = set_by_signals()
    rclpy.init(args=argv, signal_handler_options=SignalHandlerOptions.NO)
    node = DemoRecorder()
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    announced = False
    try:
        while not stopping.is_set():
            executor.spin_once(timeout_sec=0.1)
            if not announced and node.publishers_found():
                print(RECORDER_READY, flush=True)
                announced = True
    finally:
        node.stop()
    content = {"poses": node.poses, "transforms": node.transforms, "diagnostics": node.diagnostics}
    write_atomic(arguments.out, json.dumps(content).encode())
    rclpy.try_shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
