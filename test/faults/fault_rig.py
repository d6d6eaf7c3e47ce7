"""What the fault tests share: a node whose every answer is attributed to the frame that it is about."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from builtin_interfaces.msg import Time
from model_files import TRAINING_CAMERA, View, write_model_of_views
from node_bench import Bench, bench, error_of, picture
from node_rig import MAP_FROM_CAMERA
from ros_helpers import (
    CAMERA_FRAME,
    DEADLINE,
    camera_info_message,
    child_environment,
    image_message,
    nanoseconds,
)
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from structpose_ros.advice import FRAMES

VISIBLE = 1.0  # seconds until a fault stands in diagnostics: what is promised
DELIVERY = 1.0  # seconds that messages may take to the node and from it, on a machine with much else to do
LOST = 0.5  # seconds after which a message that shows no effect is taken for lost on its way to the node
TROUBLES = ("Traceback", "internal_error", "never retrieved", "terminate called", "Segmentation")


@dataclass(frozen=True)
class Answer:
    """What came of a frame: the reason why it gave no pose, or else how far its pose is from the truth."""

    reason: str
    error: float = 0.0


class FaultBench(Bench):
    """A bench that knows of each frame what came of it.

    transport: raw or compressed. resent: frames that were lost on their way. posed: the stamps of all poses.
    """

    transport = "raw"

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.resent = 0
        self.posed: set[int] = set()
        self.others: list[subprocess.Popen[bytes]] = []

    def answer_to(
        self, image: Image | CompressedImage, info: CameraInfo | None, at: tuple[int, int] | None = None
    ) -> Answer:
        """Send a frame until it gives a pose or a rejection. at: its stamp in seconds and nanoseconds."""
        resent = self.resent
        answer = self._first_answer_to(image, info, at)
        if (
            self.resent > resent
        ):  # what was sent first may only be late, and its answer come for the next frame
            self.settle()
        return answer

    def _first_answer_to(
        self, image: Image | CompressedImage, info: CameraInfo | None, at: tuple[int, int] | None
    ) -> Answer:
        rejected = self.count("rejected")
        until = time.monotonic() + DEADLINE
        while True:
            sent = self._send_at(image, info, at)
            again = time.monotonic() + LOST
            while time.monotonic() < again:
                self._executor.spin_once(timeout_sec=0.02)
                poses = {nanoseconds(pose.header.stamp): pose for pose in self.poses}
                self.posed |= set(poses)
                self.poses.clear()
                if sent in poses:
                    return Answer("", error_of(poses[sent], MAP_FROM_CAMERA))
                if self.count("rejected") > rejected and self.reason() in FRAMES:
                    return Answer(self.reason())
            self.alive()
            self.resent += 1
            if time.monotonic() > until:
                raise AssertionError(f"waited {DEADLINE} s for an answer; diagnostics: {self.last_line()}")

    def _send_at(
        self, image: Image | CompressedImage, info: CameraInfo | None, at: tuple[int, int] | None
    ) -> int:
        if at is None:
            return self.send(image, info)
        image.header.stamp = Time(sec=at[0], nanosec=at[1])
        if info is not None:
            info.header.stamp = image.header.stamp
            self._infos.publish(info)
        self._images.publish(image)
        return nanoseconds(image.header.stamp)

    def localize(self) -> float:
        """Send good frames until one gives a pose; return how far that is from the truth."""
        until = time.monotonic() + DEADLINE
        while (answer := self.answer_to(good_image(self.transport), good_info())).reason:
            assert time.monotonic() < until, f"no pose of a good frame: {answer.reason}"
        self.wait(lambda: self.diagnostics, "diagnostics")
        return answer.error

    def count(self, name: str) -> int:
        """A count of frames in the last diagnostics."""
        return int(self.values().get(f"frames_{name}", 0))

    def other_side(self, role: str) -> subprocess.Popen[bytes]:
        """Start a `camera` or a `reader` as a process of its own; it ends with the bench."""
        command = [sys.executable, str(Path(__file__).with_name("other_side.py")), role]
        self.others.append(subprocess.Popen(command, env=child_environment(self.domain)))
        return self.others[-1]

    def end_others(self) -> None:
        """Make sure that the processes of the other side are gone."""
        for process in self.others:
            process.kill()
            process.wait(DEADLINE)

    def alive(self) -> None:
        """Fail if a node has ended."""
        for process in self.processes:
            assert process.process.poll() is None, f"the node ended: {process.log[-3000:]}"

    def visible(self, happened: Callable[[], Any], what: str, *, sending: bool = False) -> None:
        """Wait until diagnostics show a fault that begins now; meanwhile good frames are sent, or nothing."""
        began = time.monotonic()
        if sending:
            self.send_until(happened, what, good_image(self.transport), good_info())
        else:
            self.wait(happened, f"{what} in diagnostics", VISIBLE + DELIVERY)
        self.shown_since(began, what)

    def shown_since(self, began: float, what: str) -> None:
        """Note that diagnostics show now what began then, by time.monotonic(): in time, or fail."""
        taken = time.monotonic() - began
        print(f"{what}: in diagnostics after {taken:.3f} s")
        assert taken < VISIBLE + DELIVERY, what


@contextmanager
def fault_bench(folder: Path) -> Iterator[FaultBench]:
    """A bench; at its end no node has printed a traceback or an error of its own making."""
    with bench(folder, kind=FaultBench) as made:
        try:
            yield made
        finally:
            made.end_others()
    for process in made.processes:
        log = process.log
        assert not any(trouble in log for trouble in TROUBLES), log[-5000:]


def known_model(folder: Path) -> Path:
    """A model file whose pose comes out right only with the right calibration."""
    rays = TRAINING_CAMERA.ray_grid(8)
    return write_model_of_views(folder / "model.onnx", [View(MAP_FROM_CAMERA, rays)])


def good_image(transport: str = "raw", kind: str = "png") -> Image | CompressedImage:
    """An image that is accepted: raw, or a file of this kind."""
    if transport == "raw":
        return image_message(picture())
    message = CompressedImage(format=f"rgb8; {kind} compressed bgr8")
    message.header.frame_id = CAMERA_FRAME
    message.data = encoded(kind, picture()[..., ::-1])
    return message


def encoded(kind: str, pixels: np.ndarray) -> bytes:
    """Pixels as OpenCV has them, BGR or grey, as a file of this kind."""
    good, data = cv2.imencode(f".{kind}", np.ascontiguousarray(pixels))
    assert good
    return bytes(data.tobytes())


def good_info() -> CameraInfo:
    """The CameraInfo of good images."""
    return camera_info_message(TRAINING_CAMERA)
