"""An image message out of the bytes that came over the wire, its pixels where they lie.

rclpy makes an object of a message by copying the pixels three times; they are only read, so none is needed.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from builtin_interfaces.msg import Time
from rclpy.serialization import deserialize_message
from sensor_msgs.msg import Image
from std_msgs.msg import Header

_PLAIN_LITTLE_ENDIAN = b"\x00\x01"  # CDR's encapsulation (DDSI-RTPS 2.5, 10.5), what every x86 and ARM sends
_START = 4  # of the message, behind the encapsulation; what is aligned is aligned from here


@dataclass
class ImageView:
    """The fields of sensor_msgs/Image; `data` views the bytes of the message."""

    header: Header
    height: int
    width: int
    encoding: str
    is_bigendian: int
    step: int
    data: memoryview


def image_from_serialized(serialized: bytes) -> ImageView | Image:
    """Return the image; one that is not laid out as usual is left to rclpy.

    Raises:
        RuntimeError: it is not an image, as rclpy says.
    """
    if serialized[:2] == _PLAIN_LITTLE_ENDIAN:
        try:
            return _view(serialized)
        except (struct.error, ValueError):
            pass  # rclpy says what is wrong with it
    return deserialize_message(serialized, Image)


def _view(serialized: bytes) -> ImageView:
    """Read the fields in the order of the message's definition.

    Raises:
        struct.error: it ends too early.
        ValueError: the same, within a string or the pixels.
    """
    seconds, nanoseconds = struct.unpack_from("<iI", serialized, _START)
    frame_id, end = _string(serialized, _START + 8)
    height, width = struct.unpack_from("<II", serialized, _aligned(end))
    encoding, end = _string(serialized, _aligned(end) + 8)
    (is_bigendian,) = struct.unpack_from("<B", serialized, end)
    step, length = struct.unpack_from("<II", serialized, _aligned(end + 1))
    start = _aligned(end + 1) + 8
    pixels = memoryview(serialized)[start : start + length]
    if len(pixels) < length:
        raise ValueError(f"expected {length} bytes of pixels, got {len(pixels)}")
    header = Header(stamp=Time(sec=seconds, nanosec=nanoseconds), frame_id=frame_id)
    return ImageView(header, height, width, encoding, is_bigendian, step, pixels)


def _string(serialized: bytes, at: int) -> tuple[str, int]:
    """Return a string, which is counted and ends with a zero byte, and where it ends."""
    (length,) = struct.unpack_from("<I", serialized, at)
    end = at + 4 + length
    if length == 0 or end > len(serialized) or serialized[end - 1] != 0:
        raise ValueError("expected a string that ends with a zero byte")
    text = serialized[at + 4 : end].partition(b"\0")[0]  # as rclpy: a zero byte within it ends it too
    return text.decode(errors="replace"), end


def _aligned(at: int) -> int:
    """Return where the next number of four bytes stands."""
    return at + (_START - at) % 4
