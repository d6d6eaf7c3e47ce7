"""A camera for measurements: its images lie ready, so that beside the node only publishing takes time."""

from __future__ import annotations

import argparse
import array
import itertools
import sys
from pathlib import Path

import rclpy
from rclpy.signals import SignalHandlerOptions

from structpose_ros.demo import positive
from structpose_ros.demo.camera import DemoCamera, paced, wait_for_listener
from structpose_ros.demo.report import timed_network
from structpose_ros.network import OnnxNetwork
from structpose_ros.spinning import set_by_signals
from structpose_ros.training.frames import open_recording, read_color, write_atomic

IMAGES = 30  # that are held in memory, and shown to and fro: no leap between two of them


def main() -> int:
    """Show so many frames at a rate, then write a line for each: its stamp in nanoseconds.

    With a model its bare network runs once midway between two frames, while whoever works on them rests; its
    milliseconds stand behind the stamp.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--rate", type=positive, required=True)
    parser.add_argument("--frames", type=int, required=True)
    parser.add_argument("--stamps", type=Path, required=True)
    parser.add_argument("--model", type=Path, help="whose bare network to run between the frames")
    parser.add_argument("--provider", default="auto")
    arguments = parser.parse_args()
    recording = open_recording(arguments.data)
    files = recording.files("test")[0]
    pictures = [read_color(item.color) for item in files[:IMAGES]]
    images = [array.array("B", picture.tobytes()) for picture in pictures]
    network = None
    if arguments.model:
        loaded = OnnxNetwork(arguments.model, arguments.provider)
        network = timed_network(pictures, recording.camera, loaded)
        network()  # the first run takes longer
    stopping = set_by_signals()
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    try:
        node = DemoCamera(recording.camera, "camera_optical_frame")
        if not wait_for_listener(node, stopping):
            return 1
        shown = itertools.islice(itertools.cycle([*images, *images[-2:0:-1]]), arguments.frames)
        lines = []
        for image in paced(shown, 1.0 / arguments.rate, stopping):
            lines.append(str(node.show(image)))
            if network is not None:
                stopping.wait(0.5 / arguments.rate)
                lines[-1] += f" {network()}"
    finally:
        rclpy.try_shutdown()
    write_atomic(arguments.stamps, "".join(f"{line}\n" for line in lines).encode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
