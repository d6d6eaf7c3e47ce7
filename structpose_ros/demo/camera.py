"""`demo_camera`: plays posed frames as a ROS 2 camera, Image and CameraInfo under one stamp."""

from __future__ import annotations

import argparse
import array
import os
import sys
import threading
import time
from pathlib import Path

import rclpy
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.utilities import remove_ros_args
from sensor_msgs.msg import CameraInfo, Image

from structpose_ros.camera import Camera
from structpose_ros.messages import camera_info_from_camera
from structpose_ros.training.frames import (
    FrameFiles,
    RecordingError,
    open_recording,
    read_color,
    write_atomic,
)
from structpose_ros.training.synthetic import ForeignFolderError, render_demo

LISTENER_DEADLINE = 60.0  # seconds to wait for a node that may still be loading its model


class DemoCamera(Node):
    """Publishes `image` (rgb8) and `camera_info`, reliably, which best-effort subscribers match too."""

    def __init__(self, camera: Camera, frame_id: str) -> None:
        """Publish as `camera`, in the TF frame `frame_id`."""
        super().__init__("demo_camera")
        reliable = QoSProfile(depth=5, reliability=ReliabilityPolicy.RELIABLE)
        self._image = self.create_publisher(Image, "image", reliable)
        self._camera_info = self.create_publisher(CameraInfo, "camera_info", reliable)
        self._camera = camera
        self._frame_id = frame_id

    def wait_for_listener(self, deadline: float) -> bool:
        """Wait until somebody subscribes to both topics; False if nobody did within `deadline` seconds."""
        until = time.monotonic() + deadline
        matched = threading.Event()
        while not matched.is_set() and time.monotonic() < until:
            if self._image.get_subscription_count() and self._camera_info.get_subscription_count():
                matched.set()
            matched.wait(0.02)
        return matched.is_set()

    def play(self, files: FrameFiles) -> int:
        """Publish one frame stamped now; returns the stamp in nanoseconds."""
        image_rgb = read_color(files.color)
        pixels = array.array("B", image_rgb.tobytes())
        stamp = self.get_clock().now()
        info = camera_info_from_camera(self._camera, stamp.to_msg(), self._frame_id)
        message = Image(header=info.header, height=self._camera.height, width=self._camera.width)
        message.encoding, message.step, message.data = "rgb8", 3 * self._camera.width, pixels
        self._camera_info.publish(info)
        self._image.publish(message)
        return int(stamp.nanoseconds)


def main(argv: list[str] | None = None) -> int:
    """Play a split of a recording once, or for ever with --loop."""
    parser = argparse.ArgumentParser(prog="demo_camera", description=__doc__)
    parser.add_argument(
        "--data", type=Path, help="folder of posed frames (default: the demo room, rendered once)"
    )
    parser.add_argument("--split", default="test", choices=["train", "test"])
    parser.add_argument("--rate", type=float, default=10.0, help="frames per second")
    parser.add_argument("--frame-id", default="camera_optical_frame")
    parser.add_argument("--stamps", type=Path, help="write `frame,stamp_ns` lines here at the end")
    parser.add_argument("--loop", action="store_true")
    arguments = parser.parse_args(remove_ros_args(sys.argv if argv is None else argv)[1:])
    try:
        recording = open_recording(arguments.data or _rendered_demo_room())
        files, _ = recording.files(arguments.split)
    except (ForeignFolderError, RecordingError) as error:
        print(f"demo_camera: error: {error}", file=sys.stderr)
        return 1
    rclpy.init(args=argv)
    node = DemoCamera(recording.camera, arguments.frame_id)
    stamps: list[str] = []
    try:
        if not node.wait_for_listener(LISTENER_DEADLINE):
            print(f"demo_camera: error: nobody subscribed within {LISTENER_DEADLINE:.0f} s", file=sys.stderr)
            return 1
        rate = _Rate(1.0 / arguments.rate)
        while rclpy.ok():
            for item in files:
                rate.wait()
                stamps.append(f"{item.name},{node.play(item)}")
            if not arguments.loop:
                break
    except KeyboardInterrupt:
        pass  # the user's way to end it
    finally:
        if arguments.stamps:
            write_atomic(arguments.stamps, ("\n".join(stamps) + "\n").encode())
        rclpy.try_shutdown()
    return 0


def _rendered_demo_room() -> Path:
    """Return the folder of the demo room's localisation tour, rendered once into the user's cache."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = cache / "structpose_ros" / "demo_room"
    render_demo(folder, tours=("localization",))
    return folder


class _Rate:
    """Paces a loop by an absolute schedule, so that a late frame does not delay those after it."""

    def __init__(self, period: float) -> None:
        self._period = period
        self._next = time.monotonic()

    def wait(self) -> None:
        time.sleep(max(0.0, self._next - time.monotonic()))
        self._next = max(self._next + self._period, time.monotonic())


if __name__ == "__main__":
    sys.exit(main())
