"""What a frame needs before the network sees it: its pixels and its camera, or the named reason why not."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from enum import Enum

import numpy as np
import numpy.typing as npt
from builtin_interfaces.msg import Time
from sensor_msgs.msg import CameraInfo, Image

from structpose_ros.camera import Camera, CameraError
from structpose_ros.messages import (
    ImageMessageError,
    camera_from_info,
    image_rgb_from_message,
    nanoseconds_from_stamp,
)


class InputReason(Enum):
    """Why a frame was refused before any pose was tried; in diagnostics, beside `RejectReason`."""

    BAD_IMAGE = "bad_image"
    NO_CAMERA_INFO = "no_camera_info"
    BAD_CAMERA_INFO = "bad_camera_info"
    SIZE_MISMATCH = "size_mismatch"
    BAD_FRAME_ID = "bad_frame_id"


class InputError(ValueError):
    """A frame that can't be used; the message says what was expected and what came."""

    def __init__(self, reason: InputReason, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True)
class FrameInput:
    """A frame's pixels (H, W, 3) and its camera; `matched`: the CameraInfo had the image's stamp."""

    image_rgb: npt.NDArray[np.uint8]
    camera: Camera
    matched: bool


class CameraInfos:
    """The last CameraInfo messages by stamp.

    A driver publishes an image and then its CameraInfo, so the match may arrive just after the image. It is
    waited for, but only while the stream keeps matching: one that never does must not delay every frame.
    """

    CAPACITY = 30
    MATCH_WAIT = 0.02  # seconds

    def __init__(self) -> None:
        self._by_stamp: dict[int, CameraInfo] = {}
        self._latest: CameraInfo | None = None
        self._asked: int | None = None
        self._arrived = threading.Condition()

    def add(self, message: CameraInfo) -> None:
        """Remember a message, in place of the oldest when there are too many."""
        stamp = nanoseconds_from_stamp(message.header.stamp)
        with self._arrived:
            self._latest = message
            self._by_stamp.pop(stamp, None)
            self._by_stamp[stamp] = message
            if len(self._by_stamp) > self.CAPACITY:
                del self._by_stamp[next(iter(self._by_stamp))]
            self._arrived.notify_all()

    def find(self, stamp: Time) -> tuple[CameraInfo | None, bool]:
        """Return the message of exactly this stamp and True, or else the latest one, if any, and False."""
        key = nanoseconds_from_stamp(stamp)
        with self._arrived:
            if self._asked is None or self._asked in self._by_stamp:
                self._arrived.wait_for(lambda: key in self._by_stamp, self.MATCH_WAIT)
            self._asked = key
            matching = self._by_stamp.get(key)
            return (self._latest, False) if matching is None else (matching, True)


def read_frame(message: Image, camera_infos: CameraInfos) -> FrameInput:
    """Return the frame's pixels and camera.

    Raises:
        InputError: the image or its CameraInfo is not usable, or they don't belong together.
    """
    try:
        image_rgb = image_rgb_from_message(message)
    except ImageMessageError as error:
        raise InputError(InputReason.BAD_IMAGE, str(error)) from error
    info, matched = camera_infos.find(message.header.stamp)
    if info is None:
        raise InputError(InputReason.NO_CAMERA_INFO, "expected a CameraInfo with the images, got none yet")
    try:
        camera = camera_from_info(info)
    except CameraError as error:
        raise InputError(InputReason.BAD_CAMERA_INFO, str(error)) from error
    if image_rgb.shape[:2] != (camera.height, camera.width):
        raise InputError(
            InputReason.SIZE_MISMATCH,
            f"expected an image of {camera.width}x{camera.height} as its CameraInfo says, "
            f"got {image_rgb.shape[1]}x{image_rgb.shape[0]}",
        )
    return FrameInput(image_rgb, camera, matched)


def camera_frame_of(message: Image, camera_frame: str, map_frame: str) -> str:
    """Return the camera's TF frame: `camera_frame`, or the image header's where that is empty.

    Raises:
        InputError: there is none, or it is the map's.
    """
    frame = camera_frame or message.header.frame_id
    if not frame or frame == map_frame:
        raise InputError(
            InputReason.BAD_FRAME_ID,
            f"expected the camera's frame in the image header or in 'frames.camera_frame', got '{frame}'",
        )
    return frame
