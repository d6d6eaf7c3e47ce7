"""`demo_camera`: plays posed frames as a ROS 2 camera, Image and CameraInfo under one stamp."""

from __future__ import annotations

import argparse
import array
import itertools
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeVar

import rclpy
from builtin_interfaces.msg import Time
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.signals import SignalHandlerOptions
from rclpy.utilities import remove_ros_args
from sensor_msgs.msg import CameraInfo, Image

from structpose_ros.camera import Camera
from structpose_ros.demo import positive
from structpose_ros.messages import camera_info_from_camera
from structpose_ros.resources import cache_path
from structpose_ros.spinning import Stopping, set_by_signals
from structpose_ros.training.frames import (
    FrameFiles,
    RecordingError,
    open_recording,
    read_color,
    write_atomic,
)
from structpose_ros.training.synthetic import ForeignFolderError, render_demo

Item = TypeVar("Item")
LISTENER_DEADLINE = 60.0  # seconds to wait for a node that may still be loading its model
LAST_FRAME_DELIVERY = 0.5  # seconds before the camera goes; at high rates a period is too short


class DemoCamera(Node):
    """Publishes `image` (rgb8) and `camera_info`, reliably, which best-effort subscribers match too."""

    def __init__(self, camera: Camera, frame_id: str) -> None:
        """Publish as `camera`, in the TF frame `frame_id`."""
        super().__init__("demo_camera")
        reliable = QoSProfile(depth=5, reliability=ReliabilityPolicy.RELIABLE)
        self._image = self.create_publisher(Image, "image", reliable)
        self._camera_info = self.create_publisher(CameraInfo, "camera_info", reliable)
        # What no frame changes: from a frame's stamp to its leaving only the middleware takes time.
        self._info = camera_info_from_camera(camera, Time(), frame_id)
        self._frame = Image(header=self._info.header, height=camera.height, width=camera.width)
        self._frame.encoding, self._frame.step = "rgb8", 3 * camera.width

    def has_listener(self) -> bool:
        """Whether somebody subscribes to both topics."""
        return bool(self._image.get_subscription_count() and self._camera_info.get_subscription_count())

    def play(self, files: FrameFiles) -> int:
        """Publish one frame stamped now; returns the stamp in nanoseconds."""
        return self.show(array.array("B", read_color(files.color).tobytes()))

    def show(self, pixels: array.array[int]) -> int:
        """Publish an image's bytes, RGB, stamped now; returns the stamp in nanoseconds."""
        self._frame.data = pixels
        stamp = self.get_clock().now()
        self._info.header.stamp = self._frame.header.stamp = stamp.to_msg()
        self._camera_info.publish(self._info)
        self._image.publish(self._frame)
        return int(stamp.nanoseconds)


def main(argv: list[str] | None = None) -> int:
    """Play a split of a recording once, or for ever with --loop."""
    parser = argparse.ArgumentParser(prog="demo_camera", description=__doc__)
    parser.add_argument(
        "--data", type=Path, help="folder of posed frames (default: the demo room, rendered once)"
    )
    parser.add_argument("--split", default="test", choices=["train", "test"])
    parser.add_argument("--rate", type=positive, default=10.0, help="frames per second")
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
    stopping = set_by_signals()
    rclpy.init(args=argv, signal_handler_options=SignalHandlerOptions.NO)
    try:
        node = DemoCamera(recording.camera, arguments.frame_id)
        if not wait_for_listener(node, stopping):
            return 1
        played = itertools.cycle(files) if arguments.loop else files
        stamps = [f"{item.name},{node.play(item)}" for item in paced(played, 1.0 / arguments.rate, stopping)]
    finally:
        rclpy.try_shutdown()
    if arguments.stamps:
        write_atomic(arguments.stamps, "".join(f"{line}\n" for line in stamps).encode())
    return 0


def paced(items: Iterable[Item], period: float, stopping: Stopping) -> Iterator[Item]:
    """Hand out each item when it is due, until `stopping`.

    The schedule is absolute, so that a late frame does not delay those after it.
    """
    due = time.monotonic()
    for item in items:
        if stopping.wait(max(0.0, due - time.monotonic())):
            break
        yield item
        due = max(due + period, time.monotonic())
    # The last frame lasts a while too: a camera that is gone at once may take it along undelivered.
    stopping.wait(max(LAST_FRAME_DELIVERY, due - time.monotonic()))


def wait_for_listener(node: DemoCamera, stopping: Stopping) -> bool:
    """Wait until somebody listens, for so long; say so if nobody does."""
    until = time.monotonic() + LISTENER_DEADLINE
    while not node.has_listener() and not stopping.wait(0.02):
        if time.monotonic() > until:
            line = f"demo_camera: error: nobody subscribed within {LISTENER_DEADLINE:.0f} s"
            print(line, file=sys.stderr)
            return False
    return True


def _rendered_demo_room() -> Path:
    """Return the folder of the demo room's localisation tour, rendered once into the user's cache."""
    folder = cache_path() / "demo_room"
    render_demo(folder, tours=("localization",))
    return folder


if __name__ == "__main__":
    sys.exit(main())
