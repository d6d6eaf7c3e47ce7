"""Images as robots send them, raw or compressed, to RGB; what can't be read is refused in words.

Of the messages only their fields are used: they may come from ROS or from a bag read without it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import cv2
import numpy as np
import numpy.typing as npt

from structpose_ros.image_files import ImageFileError, decoded, size_of

ImageRgb = npt.NDArray[np.uint8]
Bytes = npt.NDArray[np.uint8]


class ImageMessage(Protocol):
    """The fields of sensor_msgs/Image; `data` is anything with a buffer of bytes."""

    height: int
    width: int
    encoding: str
    is_bigendian: int
    step: int
    data: Any


class CompressedImageMessage(Protocol):
    """The fields of sensor_msgs/CompressedImage; `data` is anything that `bytes` takes."""

    format: str
    data: Any


class ImageMessageError(ValueError):
    """An image message that can't be read; the message says what was expected and what came."""


@dataclass(frozen=True)
class _Encoding:
    """How pixels lie in `data`, and what makes RGB of them.

    `data` holds `half_rows` / 2 rows of `step` bytes per row of the image.
    """

    pixel_bytes: int  # in a row of `step` bytes
    to_rgb: Callable[[ImageMessage, Bytes], npt.NDArray[np.integer]]
    half_rows: int = 2
    even: tuple[str, ...] = ()  # which of width and height must be


def _packed(
    channels: int, code: int | None, bytes_per_channel: int = 1, even: tuple[str, ...] = ()
) -> _Encoding:
    """Describe pixels that lie one after another; OpenCV's `code` makes RGB of them, None: they are RGB.

    Of 16 bits the high byte is taken: a view as well, and within 1 of cv_bridge's division by 257.
    """
    pixel_bytes = channels * bytes_per_channel

    def to_rgb(message: ImageMessage, data: Bytes) -> npt.NDArray[np.integer]:
        high_byte = 0 if message.is_bigendian else bytes_per_channel - 1
        strides = (message.step, pixel_bytes, bytes_per_channel)
        shape = (message.height, message.width, channels)
        pixels: Bytes = np.ndarray(shape, np.uint8, buffer=data, offset=high_byte, strides=strides)
        if code is None:
            return pixels
        return np.asarray(cv2.cvtColor(pixels[..., 0] if channels == 1 else pixels, code))

    return _Encoding(pixel_bytes, to_rgb, even=even)


def _planar_420(code: int) -> _Encoding:
    """Describe a plane of luma and, below it, one of half as many rows with a chroma pair for 2x2 pixels."""

    def to_rgb(message: ImageMessage, data: Bytes) -> npt.NDArray[np.integer]:
        shape = (message.height * 3 // 2, message.width)
        return np.asarray(
            cv2.cvtColor(np.ndarray(shape, np.uint8, buffer=data, strides=(message.step, 1)), code)
        )

    return _Encoding(1, to_rgb, half_rows=3, even=("width", "height"))


# BT.601 in video range, luma below black as black: what OpenCV's conversions do; it has none for NV24.
_RGB_FROM_YUV = np.array([[1.16438, 0.0, 1.59603], [1.16438, -0.39176, -0.81297], [1.16438, 2.01723, 0.0]])
_RGB_FROM_YUV_AND_ONE = np.column_stack([_RGB_FROM_YUV, -_RGB_FROM_YUV @ [16.0, 128.0, 128.0]])


def _rgb_from_nv24(message: ImageMessage, data: Bytes) -> npt.NDArray[np.integer]:
    """Read a plane of luma and, below it, one with a chroma pair per pixel in rows of 2 `step` (V4L2)."""
    height, width, step = message.height, message.width, message.step
    luma: Bytes = np.ndarray((height, width, 1), np.uint8, buffer=data, strides=(step, 1, 1))
    chroma: Bytes = np.ndarray(
        (height, width, 2), np.uint8, buffer=data, offset=step * height, strides=(2 * step, 2, 1)
    )
    yuv = np.concatenate([np.maximum(luma, 16), chroma], axis=-1)
    return np.asarray(cv2.transform(yuv, _RGB_FROM_YUV_AND_ONE))


# ROS names a Bayer pattern after the first two pixels of its first two rows, OpenCV after the second and
# third of its second.
_BAYER = {
    "bayer_rggb": cv2.COLOR_BayerBG2RGB,
    "bayer_bggr": cv2.COLOR_BayerRG2RGB,
    "bayer_gbrg": cv2.COLOR_BayerGR2RGB,
    "bayer_grbg": cv2.COLOR_BayerGB2RGB,
}
# 8UC1, 16UC3 and the like name no colours: they are taken for grey and BGR, as OpenCV and RViz do. 8UC2 has
# no such reading, and 16UC1 is what depth cameras send.
ENCODINGS = {
    "rgb8": _packed(3, None),
    "bgr8": _packed(3, cv2.COLOR_BGR2RGB),
    "rgba8": _packed(4, cv2.COLOR_RGBA2RGB),
    "bgra8": _packed(4, cv2.COLOR_BGRA2RGB),
    "mono8": _packed(1, cv2.COLOR_GRAY2RGB),
    "rgb16": _packed(3, None, 2),
    "bgr16": _packed(3, cv2.COLOR_BGR2RGB, 2),
    "rgba16": _packed(4, cv2.COLOR_RGBA2RGB, 2),
    "bgra16": _packed(4, cv2.COLOR_BGRA2RGB, 2),
    "mono16": _packed(1, cv2.COLOR_GRAY2RGB, 2),
    "8UC1": _packed(1, cv2.COLOR_GRAY2RGB),
    "8UC3": _packed(3, cv2.COLOR_BGR2RGB),
    "8UC4": _packed(4, cv2.COLOR_BGRA2RGB),
    "16UC3": _packed(3, cv2.COLOR_BGR2RGB, 2),
    "16UC4": _packed(4, cv2.COLOR_BGRA2RGB, 2),
    **{f"{pattern}8": _packed(1, code) for pattern, code in _BAYER.items()},
    **{f"{pattern}16": _packed(1, code, 2) for pattern, code in _BAYER.items()},
    "yuv422": _packed(2, cv2.COLOR_YUV2RGB_UYVY, even=("width",)),
    "uyvy": _packed(2, cv2.COLOR_YUV2RGB_UYVY, even=("width",)),
    "yuv422_yuy2": _packed(2, cv2.COLOR_YUV2RGB_YUY2, even=("width",)),
    "yuyv": _packed(2, cv2.COLOR_YUV2RGB_YUY2, even=("width",)),
    "nv12": _planar_420(cv2.COLOR_YUV2RGB_NV12),
    "nv21": _planar_420(cv2.COLOR_YUV2RGB_NV21),
    "nv24": _Encoding(1, _rgb_from_nv24, half_rows=6),
}
DEPTH_ENCODINGS = ("16UC1", "32FC1", "64FC1")


def image_rgb_from_message(message: ImageMessage) -> ImageRgb:
    """Return the image (H, W, 3) as RGB. One of rgb8 or rgb16 is a view into the message, whatever its step.

    Of 16 bits per channel the high byte is taken: 12 bits that a driver didn't shift up look dark.

    Raises:
        ImageMessageError: its size, step, data or encoding is not usable.
    """
    if message.height < 1 or message.width < 1:
        raise ImageMessageError(f"expected an image of at least 1x1, got {message.width}x{message.height}")
    if message.encoding in DEPTH_ENCODINGS:
        raise ImageMessageError(
            f"expected a colour or grey image, got {message.encoding}: is it a depth image?"
        )
    encoding = ENCODINGS.get(message.encoding)
    if encoding is None:
        return _image_by_cv_bridge(message)
    data = _checked_data(message, encoding)
    try:
        return np.asarray(encoding.to_rgb(message, data), dtype=np.uint8)
    except cv2.error as error:
        raise ImageMessageError(
            f"expected {message.encoding} that OpenCV converts, got {message.width}x{message.height}: {error}"
        ) from error


def _checked_data(message: ImageMessage, encoding: _Encoding) -> Bytes:
    # Of an odd width OpenCV 4.6 converts YUV 4:2:2 too, and writes beyond the end of the image.
    if any(getattr(message, side) % 2 for side in encoding.even):
        raise ImageMessageError(
            f"expected an even {' and '.join(encoding.even)} for {message.encoding}, "
            f"got {message.width}x{message.height}"
        )
    if message.step < message.width * encoding.pixel_bytes:
        raise ImageMessageError(
            f"expected a step of at least {message.width * encoding.pixel_bytes} bytes for {message.width} "
            f"pixels of {message.encoding}, got {message.step}"
        )
    size = message.step * message.height * encoding.half_rows // 2
    if len(message.data) != size:
        planes = "" if encoding.half_rows == 2 else f" x {encoding.half_rows / 2:g} for {message.encoding}"
        raise ImageMessageError(
            f"expected {size} bytes of data (step {message.step} x height {message.height}{planes}), "
            f"got {len(message.data)}"
        )
    return np.frombuffer(message.data, np.uint8)


def _image_by_cv_bridge(message: ImageMessage) -> ImageRgb:
    try:
        from cv_bridge import CvBridge  # absent on many machines, and needed by few cameras
    except ImportError as error:
        raise ImageMessageError(
            f"expected an encoding of {', '.join(ENCODINGS)} (or cv_bridge installed for others), "
            f"got '{message.encoding}'"
        ) from error
    try:
        image = np.asarray(CvBridge().imgmsg_to_cv2(message, "rgb8"), dtype=np.uint8)
    except Exception as error:  # cv_bridge raises its own error, KeyError, TypeError and cv2.error
        raise ImageMessageError(
            f"expected an encoding that cv_bridge turns into rgb8, got '{message.encoding}': {error}"
        ) from error
    if image.shape != (message.height, message.width, 3):
        raise ImageMessageError(
            f"expected {message.width}x{message.height} pixels of rgb8 from cv_bridge, got {image.shape}"
        )
    return image


def compressed_size(message: CompressedImageMessage) -> tuple[int, int]:
    """Return the width and height that a JPEG or PNG image claims to have, without decoding it.

    Raises:
        ImageMessageError: it is no JPEG or PNG, too large or cut off.
    """
    try:
        return size_of(bytes(message.data))
    except ImageFileError as error:
        raise ImageMessageError(f"{error} (format '{message.format}')") from error


def image_rgb_from_compressed(message: CompressedImageMessage) -> ImageRgb:
    """Return a JPEG or PNG image (H, W, 3) as RGB, its pixels where they are stored.

    The camera's calibration belongs to the stored pixels, so an orientation in EXIF is not applied. Alpha is
    left out; of 16 bits per channel the high byte is taken.

    `format` is what image_transport writes, "SOURCE; CODEC compressed STORED", or anything else. The file
    itself says what it is; of `format` matters only:

    - SOURCE is a depth encoding, or the codec is compressedDepth: refused.
    - SOURCE is a Bayer pattern: a grey file holds the mosaic, unless STORED says that it was made mono8.
    - STORED is rgb8 or rgb16: red and blue were swapped when the file was written. Where STORED is left out,
      image_transport's subscriber assumes so too, but today's publishers write an ordinary file.

    Raises:
        ImageMessageError: it is no JPEG or PNG, cut off, damaged, too large, or not a colour or grey image.
    """
    source, _, compression = (part.strip() for part in message.format.lower().partition(";"))
    stored = compression.partition("compressed")[2].strip()
    if "compresseddepth" in message.format.lower() or source in map(str.lower, DEPTH_ENCODINGS):
        raise ImageMessageError(
            f"expected a colour or grey image, got format '{message.format}': is it a depth image?"
        )
    try:
        pixels = decoded(bytes(message.data))
    except ImageFileError as error:
        raise ImageMessageError(f"{error} (format '{message.format}')") from error
    code = cv2.COLOR_BGR2RGB
    if pixels.ndim == 2:
        is_mosaic = source[:10] in _BAYER and not stored.startswith("mono")
        code = _BAYER[source[:10]] if is_mosaic else cv2.COLOR_GRAY2RGB
    elif stored.startswith("rgb"):
        return pixels
    try:
        return np.asarray(cv2.cvtColor(pixels, code), dtype=np.uint8)
    except cv2.error as error:
        raise ImageMessageError(
            f"expected pixels that OpenCV converts, got {pixels.shape} of '{message.format}': {error}"
        ) from error
