"""Messages of cameras to what a recording keeps: colour as RGB, depth as millimetres, stamps as integers."""

from __future__ import annotations

import math
import re
import struct
from typing import Any

import numpy as np
import numpy.typing as npt

from structpose_ros.image_files import ImageFileError, stored
from structpose_ros.image_messages import (
    DEPTH_ENCODINGS,
    ENCODINGS,
    ImageMessageError,
    image_rgb_from_compressed,
    image_rgb_from_message,
)
from structpose_ros.training.frames import RecordingError
from structpose_ros.training.importers.common import decode_color, depth_in_millimetres

IMAGE = "sensor_msgs/msg/Image"
COMPRESSED_IMAGE = "sensor_msgs/msg/CompressedImage"
CAMERA_INFO = "sensor_msgs/msg/CameraInfo"
_DEPTH_TYPES = {"16UC1": "u2", "mono16": "u2", "32FC1": "f4", "64FC1": "f8"}
_CONFIG = struct.Struct("<iff")  # compressedDepth's header: format, two parameters of the quantisation


def stamp_ns_of(message: Any) -> int:
    """Return a message's header stamp in ns."""
    return int(message.header.stamp.sec) * 1_000_000_000 + int(message.header.stamp.nanosec)


def frame_of(message: Any) -> str:
    """Return a message's frame_id, without the slash that it began with in ROS 1."""
    return str(message.header.frame_id).removeprefix("/")


def is_depth(message: Any) -> bool:
    """Return whether an Image or CompressedImage says that it is depth."""
    if hasattr(message, "encoding"):
        return message.encoding in DEPTH_ENCODINGS
    return "compresseddepth" in message.format.lower() or _source_encoding(message) in DEPTH_ENCODINGS


def expect_readable(message: Any, topic: str, depth: bool) -> None:
    """Raise RecordingError if a topic's images are of a kind that can't be read at all."""
    if hasattr(message, "encoding"):
        known, got = tuple(_DEPTH_TYPES if depth else ENCODINGS), str(message.encoding)
        if got not in known:
            raise RecordingError(f"{topic}: expected an encoding of {', '.join(known)}, got '{got}'")
    elif depth and re.search("rvl|jpe?g", message.format.lower()):
        raise RecordingError(
            f"{topic}: expected depth as PNG (format '16UC1; compressedDepth png'), got '{message.format}'"
        )
    elif not depth and is_depth(message):
        raise RecordingError(f"{topic}: expected a colour or grey image, got format '{message.format}'")


def read_color(message: Any, source: str) -> tuple[npt.NDArray[np.uint8], bytes | None]:
    """Return an Image or CompressedImage as (H, W, 3) RGB, and its bytes where they are a JPEG to keep.

    A JPEG is kept only if it shows these pixels by itself, without what the message's format says (a Bayer
    mosaic, swapped channels) and with an orientation in EXIF as other readers apply it.

    Raises:
        RecordingError: it can't be decoded.
    """
    try:
        if hasattr(message, "encoding"):
            return np.ascontiguousarray(image_rgb_from_message(message)), None
        image_rgb = image_rgb_from_compressed(message)
    except ImageMessageError as error:
        raise RecordingError(f"{source}: {error}") from error
    content = bytes(message.data)
    if content.startswith(b"\xff\xd8"):
        shown, jpeg = decode_color(content, source)
        if np.array_equal(shown, image_rgb):
            return image_rgb, jpeg
    return image_rgb, None


def read_depth(message: Any, metres_per_unit: float | None, source: str) -> npt.NDArray[np.uint16]:
    """Return a depth Image or CompressedImage as (H, W) mm along z, 0 invalid.

    metres_per_unit: None for what REP 118 says, millimetres as integers and metres as floats.

    Raises:
        RecordingError: its size doesn't fit its data, or it can't be decoded.
    """
    values = _raw_depth(message, source) if hasattr(message, "encoding") else _png_depth(message, source)
    if metres_per_unit is None:
        metres_per_unit = 1e-3 if values.dtype.kind == "u" else 1.0
    return depth_in_millimetres(values, metres_per_unit)


def _raw_depth(message: Any, source: str) -> npt.NDArray[Any]:
    height, width, step, data = message.height, message.width, message.step, message.data
    name = _DEPTH_TYPES.get(message.encoding)
    if name is None:
        raise RecordingError(
            f"{source}: expected an encoding of {', '.join(_DEPTH_TYPES)}, got '{message.encoding}'"
        )
    pixel = np.dtype(name).newbyteorder(">" if message.is_bigendian else "<")
    if height < 1 or width < 1 or step < width * pixel.itemsize or len(data) != step * height:
        raise RecordingError(
            f"{source}: expected step >= {pixel.itemsize} x width and step x height bytes of depth, "
            f"got {width}x{height} with step {step} and {len(data)} bytes"
        )
    return np.ndarray((height, width), pixel, buffer=data, strides=(step, pixel.itemsize))


def _png_depth(message: Any, source: str) -> npt.NDArray[Any]:
    """Return what compressed_depth_image_transport (or a PNG of 16 bits) holds: 16UC1, or 32FC1 quantised.

    The latter are inverse depths: v = A / depth + B, rounded, with v = 0 for no depth.
    """
    content, encoding = bytes(message.data), _source_encoding(message)
    header = b""
    if "compresseddepth" in message.format.lower():
        header, content = content[: _CONFIG.size], content[_CONFIG.size :]
    try:
        values = stored(content)
    except ImageFileError as error:
        raise RecordingError(f"{source}: {error} (format '{message.format}')") from error
    if values.dtype != np.uint16 or values.ndim != 2:
        raise RecordingError(f"{source}: expected one channel of 16 bits, got {values.dtype} {values.shape}")
    if encoding != "32FC1":
        return values
    if not header:
        raise RecordingError(f"{source}: expected 32FC1 as compressedDepth, got format '{message.format}'")
    _, a, b = _CONFIG.unpack(header)
    if not (math.isfinite(a) and math.isfinite(b) and a > 0):
        raise RecordingError(f"{source}: expected parameters of the quantisation, got {a} and {b}")
    inverse = values.astype(np.float64) - b
    seen = (values > 0) & (inverse > 0)
    return np.where(seen, a / np.where(seen, inverse, 1.0), np.nan)


def _source_encoding(message: Any) -> str:
    """Return the encoding before compression of a format like `16UC1; compressedDepth png`."""
    return re.split(r"[;\s]", str(message.format).strip(), maxsplit=1)[0]
