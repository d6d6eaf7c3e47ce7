"""What a frame needs before the network sees it: its pixels and its camera, or the named reason why not."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from builtin_interfaces.msg import Time
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from structpose_ros.camera import Camera, CameraError
from structpose_ros.camera_info import camera_from_info
from structpose_ros.gate import RejectReason
from structpose_ros.image_messages import (
    ImageMessageError,
    compressed_size,
    image_rgb_from_compressed,
    image_rgb_from_message,
)
from structpose_ros.messages import nanoseconds_from_stamp
from structpose_ros.serialized_image import ImageView, image_from_serialized
from structpose_ros.settings import Settings

ImageMessage: TypeAlias = Image | ImageView | CompressedImage
REORDERING = 0.5  # seconds; a stamp that lies further back means that time itself was set back


class FrameRejectedError(ValueError):
    """A frame that gives no pose; the message says what was expected and what came."""

    def __init__(self, reason: RejectReason, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class TimeWentBackError(Exception):
    """The stamps began anew: a bag plays again, or a simulation was reset. The frame itself is fine."""


@dataclass(frozen=True)
class FrameInput:
    """A frame's pixels (H, W, 3) and its camera; `matched`: the CameraInfo had the image's stamp."""

    image_rgb: npt.NDArray[np.uint8]
    camera: Camera
    matched: bool


class StampOrder:
    """Sees to it that no frame is older than one before it. For one thread."""

    def __init__(self) -> None:
        self._last_ns = 0

    def check(self, stamp: Time, now_ns: int, max_age: float) -> None:
        """Take in the stamp of the next frame; `now_ns` is the node's time and `max_age` in seconds, 0: any.

        Raises:
            FrameRejectedError: `bad_stamp`, `too_old`, `from_future` or `out_of_order`.
            TimeWentBackError: once when stamps begin anew; the next check of the same stamp passes.
        """
        stamp_ns = nanoseconds_from_stamp(stamp)
        if stamp_ns == 0:
            raise FrameRejectedError(RejectReason.BAD_STAMP, "expected an image with a stamp, got 0")
        if stamp.sec < 0 or stamp.nanosec >= 10**9:
            got = f"{stamp.sec} s and {stamp.nanosec} ns"
            raise FrameRejectedError(
                RejectReason.BAD_STAMP,
                f"expected a stamp from 1970 on, below a second in nanoseconds, got {got}",
            )
        age = (now_ns - stamp_ns) * 1e-9
        if max_age and age > max_age:
            raise FrameRejectedError(
                RejectReason.TOO_OLD, f"expected an image of at most {max_age:g} s, got one of {age:.1f} s"
            )
        if max_age and -age > max_age:
            raise FrameRejectedError(
                RejectReason.FROM_FUTURE,
                f"expected a stamp at most {max_age:g} s ahead of the clock, got one {-age:.1f} s ahead",
            )
        back = (self._last_ns - stamp_ns) * 1e-9
        if back > REORDERING:
            self._last_ns = 0
            raise TimeWentBackError(f"the images' stamps went back by {back:.1f} s")
        if back >= 0 and self._last_ns:
            raise FrameRejectedError(
                RejectReason.OUT_OF_ORDER,
                "expected a stamp after that of the image before, got "
                + (f"one {back:.3f} s before it" if back else "the same again"),
            )
        self._last_ns = stamp_ns


class CameraInfos:
    """The last CameraInfo messages by stamp.

    A driver publishes an image and then its CameraInfo, so the match may arrive just after the image. It is
    waited for, but only while the stream keeps matching: one that never does must not delay every frame.
    Where it was lost, the latest serves in its place, unless the camera has changed of late.
    """

    CAPACITY = 30
    MATCH_WAIT = 0.02  # seconds

    def __init__(self) -> None:
        self._by_stamp: dict[int, CameraInfo] = {}
        self._latest: CameraInfo | None = None
        self._latest_calibration: tuple[object, ...] = ()  # of the latest
        self._asked: int | None = None
        self._alike = 0  # how many of the last messages describe the same camera
        self._arrived = threading.Condition()

    def add(self, message: CameraInfo) -> None:
        """Remember a message, in place of the oldest when there are too many."""
        stamp, calibration = nanoseconds_from_stamp(message.header.stamp), _calibration(message)
        with self._arrived:
            self._alike = self._alike + 1 if calibration == self._latest_calibration else 1
            self._latest, self._latest_calibration = message, calibration
            self._by_stamp.pop(stamp, None)
            self._by_stamp[stamp] = message
            if len(self._by_stamp) > self.CAPACITY:
                del self._by_stamp[next(iter(self._by_stamp))]
            self._arrived.notify_all()

    def find(self, stamp: Time) -> tuple[CameraInfo | None, bool]:
        """Return the message of exactly this stamp and True, or else the latest one, if any, and False.

        Raises:
            FrameRejectedError: there is none of this stamp, and those that are kept differ.
        """
        key = nanoseconds_from_stamp(stamp)
        with self._arrived:
            if self._asked is None or self._asked in self._by_stamp:
                self._arrived.wait_for(lambda: key in self._by_stamp, self.MATCH_WAIT)
            self._asked = key
            matching = self._by_stamp.get(key)
            if matching is None and self._alike < len(self._by_stamp):
                raise FrameRejectedError(
                    RejectReason.NO_CAMERA_INFO,
                    "expected the CameraInfo of the image's stamp, as the camera changes, got others only",
                )
            return (self._latest, False) if matching is None else (matching, True)


def _calibration(message: CameraInfo) -> tuple[object, ...]:
    """All that makes a camera of a message."""
    numbers = (tuple(message.k), tuple(message.d), tuple(message.p), tuple(message.r))
    size = (message.width, message.height, message.binning_x, message.binning_y)
    return (*numbers, *size, message.distortion_model, message.roi)


def image_message(message: bytes | ImageMessage) -> ImageMessage:
    """Return the message that a subscription brought, maybe as bytes.

    Raises:
        FrameRejectedError: `bad_image`, the bytes are no image message.
    """
    if not isinstance(message, bytes):
        return message
    try:
        return image_from_serialized(message)
    except RuntimeError as error:
        raise FrameRejectedError(
            RejectReason.BAD_IMAGE,
            f"expected an image message, got {len(message)} bytes that are none: {error}",
        ) from error


def read_frame(message: ImageMessage, camera_infos: CameraInfos, *, rectified: bool) -> FrameInput:
    """Return the frame's pixels and camera.

    A file is decoded only if it claims to be of the camera's size: one of some kB may hold gigabytes.

    Raises:
        FrameRejectedError: the image or its CameraInfo is not usable, or they don't belong together.
    """
    try:
        if isinstance(message, CompressedImage):
            camera, matched = _camera_of(compressed_size(message), message, camera_infos, rectified)
            image_rgb = image_rgb_from_compressed(message)
        else:
            image_rgb = image_rgb_from_message(message)
            size = (image_rgb.shape[1], image_rgb.shape[0])
            camera, matched = _camera_of(size, message, camera_infos, rectified)
    except ImageMessageError as error:
        raise FrameRejectedError(RejectReason.BAD_IMAGE, str(error)) from error
    return FrameInput(image_rgb, camera, matched)


def _camera_of(
    size: tuple[int, int], message: ImageMessage, camera_infos: CameraInfos, rectified: bool
) -> tuple[Camera, bool]:
    """Return the camera of an image of `size`, width and height, and whether its CameraInfo has its stamp."""
    info, matched = camera_infos.find(message.header.stamp)
    if info is None:
        raise FrameRejectedError(
            RejectReason.NO_CAMERA_INFO, "expected a CameraInfo with the images, got none yet"
        )
    try:
        camera = camera_from_info(info, rectified=rectified)
    except CameraError as error:
        raise FrameRejectedError(RejectReason.BAD_CAMERA_INFO, str(error)) from error
    if size != (camera.width, camera.height):
        raise FrameRejectedError(
            RejectReason.SIZE_MISMATCH,
            f"expected an image of {camera.width}x{camera.height} as its CameraInfo says, "
            f"got {size[0]}x{size[1]}",
        )
    return camera, matched


def camera_frame_of(message: ImageMessage, settings: Settings) -> str:
    """Return the camera's TF frame: `frames.camera_frame`, or the image header's where that is empty.

    Raises:
        FrameRejectedError: there is none, or it is the frame of something else.
    """
    frame = settings.camera_frame or message.header.frame_id.lstrip("/")
    if not frame or frame in (settings.map_frame, settings.odom_frame):
        raise FrameRejectedError(
            RejectReason.BAD_FRAME_ID,
            f"expected the camera's frame in the image header or in 'frames.camera_frame', got '{frame}'",
        )
    return frame
