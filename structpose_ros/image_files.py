"""JPEG and PNG files to pixels: their size and their end are checked before they are decoded."""

from __future__ import annotations

import re

import cv2
import numpy as np
import numpy.typing as npt

MAX_PIXELS = 100_000_000  # a file of a few bytes may claim any size

_PNG_BEGIN = b"\x89PNG\r\n\x1a\n"
_JPEG_BEGIN, _JPEG_END = b"\xff\xd8\xff", b"\xff\xd9"
_JPEG_SEGMENT = re.compile(rb"\xff+([^\x00\x01\xd0-\xd9\xff])(..)", re.DOTALL)  # marker, length
_JPEG_SCAN = 0xDA
_JPEG_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}  # the frame header, one for each kind of coding
_AS_STORED = cv2.IMREAD_ANYCOLOR | cv2.IMREAD_ANYDEPTH | cv2.IMREAD_IGNORE_ORIENTATION


class ImageFileError(ValueError):
    """A file that gives no image; the message says what was expected and what came."""


def decoded(data: bytes) -> npt.NDArray[np.uint8]:
    """Return the pixels of a file as `stored` does; of 16 bits per channel the high byte is taken.

    Raises:
        ImageFileError: it is no JPEG or PNG, too large, cut off or damaged.
    """
    pixels = stored(data)
    return np.asarray(pixels >> 8 if pixels.dtype == np.uint16 else pixels, dtype=np.uint8)


def size_of(data: bytes) -> tuple[int, int]:
    """Return the width and height that a file claims to have, without decoding it.

    Raises:
        ImageFileError: it is no JPEG or PNG, too large or cut off.
    """
    return _checked(data)[1]


def stored(data: bytes, flags: int = _AS_STORED) -> npt.NDArray[np.uint8 | np.uint16]:
    """Return the pixels of a file as they are stored, (H, W) grey or (H, W, 3) BGR, 8 or 16 bits.

    Alpha is left out, an orientation in EXIF not applied. `flags`: of `cv2.imdecode`, for other ways.

    Raises:
        ImageFileError: it is no JPEG or PNG, too large, cut off or damaged.
    """
    kind, size = _checked(data)
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error:
        pixels = None
    if pixels is None:
        raise ImageFileError(f"expected a {kind} that OpenCV can read, got a damaged one")
    if pixels.shape[1::-1] != size:
        got = f"{pixels.shape[1]}x{pixels.shape[0]}"
        raise ImageFileError(f"expected a {kind} of {size[0]}x{size[1]} as its header says, got {got}")
    return np.asarray(pixels)


def _checked(data: bytes) -> tuple[str, tuple[int, int]]:
    """Return PNG or JPEG, and width and height, of a file that may be decoded; see `size_of`."""
    if data.startswith(_PNG_BEGIN):
        kind, size, is_whole = "PNG", _png_size(data), _png_is_whole(data)
    elif data.startswith(_JPEG_BEGIN):
        size, scan = _jpeg_size(data)
        # OpenCV fills up a scan that is cut off with grey. Within one, no pixel looks like a marker.
        kind, is_whole = "JPEG", data.find(_JPEG_END, scan) >= 0
    else:
        begin = f" that begin with {data[:8].hex(' ')}" if data else ""
        raise ImageFileError(f"expected a JPEG or PNG file, got {len(data)} bytes{begin}")
    width, height = size
    if width < 1 or height < 1:
        raise ImageFileError(f"expected an image of at least 1x1, got a {kind} of {width}x{height}")
    if width * height > MAX_PIXELS:
        raise ImageFileError(f"expected at most {MAX_PIXELS} pixels, got a {kind} of {width}x{height}")
    if not is_whole:
        raise ImageFileError(f"expected a {kind} with its end marker, got one cut off at {len(data)} bytes")
    return kind, size


def _png_size(data: bytes) -> tuple[int, int]:
    """Return width and height, zeros where the header is missing."""
    header = data[16:24] if data[12:16] == b"IHDR" else b""
    return int.from_bytes(header[:4], "big"), int.from_bytes(header[4:], "big")


def _png_is_whole(data: bytes) -> bool:
    """Return whether chunk follows chunk up to the last. OpenCV allots what a chunk claims, up to 4 GB."""
    position, name = len(_PNG_BEGIN), b""
    while name != b"IEND" and position < len(data):
        length, name = int.from_bytes(data[position : position + 4], "big"), data[position + 4 : position + 8]
        position += 12 + length  # length, name and checksum have four bytes each
    return name == b"IEND" and position <= len(data)


def _jpeg_size(data: bytes) -> tuple[tuple[int, int], int]:
    """Return width and height, zeros where the frame header is missing, and where the first scan begins.

    Raises:
        ImageFileError: the segments don't follow one another up to a scan.
    """
    size, position = (0, 0), 2
    while (segment := _JPEG_SEGMENT.match(data, position)) is not None:
        marker, length, content = segment[1][0], int.from_bytes(segment[2], "big"), segment.end()
        if marker in _JPEG_FRAMES:  # precision, height, width
            height, width = data[content + 1 : content + 3], data[content + 3 : content + 5]
            size = int.from_bytes(width, "big"), int.from_bytes(height, "big")
        position = content - 2 + max(length, 2)
        if marker == _JPEG_SCAN:
            return size, position
    raise ImageFileError(f"expected a JPEG with a scan, got none in {len(data)} bytes")
