"""Frames as broken cameras send them, each with the reasons that may refuse it."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from fault_rig import encoded, good_image, good_info
from hypothesis import strategies as st
from model_files import HEIGHT, WIDTH
from node_bench import picture
from ros_helpers import image_message
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from structpose_ros.gate import RejectReason

Message = Image | CompressedImage
ANY = frozenset(reason.value for reason in RejectReason) - {"internal_error"}
NOT_FINITE = [float("nan"), float("inf"), float("-inf")]
# Images, CameraInfo, regions and files of another size have no number in common: none fits another by chance.
SIDES = st.sampled_from([1, 7, 47, 49, 63, 65, 640, 65535, 2**31, 2**32 - 1])
INFO_SIDES = st.sampled_from([2, 9, 46, 50, 62, 66, 320, 65534, 2**31 - 1, 2**32 - 2])


@dataclass(frozen=True, repr=False)
class Case:
    """A frame. reasons: those that may refuse it. may_pose: whether it may give a pose, the right one.

    stamped: seconds and nanoseconds, where it has another stamp than the one that follows the last.
    """

    image: Message
    info: CameraInfo
    reasons: frozenset[str]
    may_pose: bool
    spoilt: tuple[str, ...]
    stamped: tuple[int, int] | None

    def __repr__(self) -> str:
        return f"Case({', '.join(self.spoilt)})"


Draw = Callable[[st.SearchStrategy[Any]], Any]
# A spoiler changes the message and returns the reasons that may refuse it now; none: it is as good as before.
ImageSpoiler = Callable[[Draw, Any], frozenset[str]]


def _reasons(*names: str) -> frozenset[str]:
    return frozenset(names)


BAD_IMAGE, BAD_INFO = _reasons("bad_image"), _reasons("bad_camera_info")
SIZE, FRAME = _reasons("size_mismatch"), _reasons("bad_frame_id")
FINE = _reasons()


# Raw images.


def _no_size(draw: Draw, image: Image) -> frozenset[str]:
    setattr(image, draw(st.sampled_from(["width", "height"])), 0)
    return BAD_IMAGE


def _claims_another_size(draw: Draw, image: Image) -> frozenset[str]:
    side = draw(st.sampled_from(["width", "height"]))
    others = SIDES.filter(lambda length: length not in (WIDTH, HEIGHT) and (side, length) != ("width", 63))
    setattr(image, side, draw(others))
    return BAD_IMAGE | SIZE  # a narrower one fits the same rows


def _another_size(draw: Draw, image: Image) -> frozenset[str]:
    width, height = draw(st.sampled_from([(5, 5), (WIDTH - 3, HEIGHT), (WIDTH, HEIGHT + 3), (HEIGHT, WIDTH)]))
    other = image_message(picture(0, width, height))
    image.width, image.height, image.step, image.data = other.width, other.height, other.step, other.data
    return SIZE


def _another_encoding(draw: Draw, image: Image) -> frozenset[str]:
    image.encoding = draw(
        st.one_of(
            st.sampled_from(
                ["", "RGB8", "16UC1", "32FC1", "64FC1", "rgba8", "mono8", "bayer_rggb8", "rgb16", "nv24"]
            ),
            st.sampled_from(["h264", "8UC2", "32FC3", "rgb8 ", "jpeg", "yuv422", "nv12", "compressedDepth"]),
            st.text(max_size=12).filter(
                lambda text: text not in ("rgb8", "bgr8", "8UC3") and "\0" not in text
            ),
        )
    )
    if image.encoding in (
        "mono8",
        "bayer_rggb8",
        "yuv422",
    ):  # one or two bytes per pixel, the rest is padding
        return FINE
    return BAD_IMAGE


def _step(draw: Draw, image: Image) -> frozenset[str]:
    image.step = draw(
        st.sampled_from([0, 1, WIDTH, 3 * WIDTH - 1, 3 * WIDTH + 1, 4 * WIDTH, 2**31, 2**32 - 1])
    )
    return BAD_IMAGE


def _data(draw: Draw, image: Image) -> frozenset[str]:
    length = draw(st.sampled_from([0, 1, 100, len(image.data) - 1, len(image.data) + 1, 3 * len(image.data)]))
    image.data = bytes(image.data[:length]).ljust(length, b"\x28")
    return BAD_IMAGE


def _padded(draw: Draw, image: Image) -> frozenset[str]:
    padding = draw(st.integers(1, 9))
    rows = np.frombuffer(image.data, np.uint8).reshape(HEIGHT, 3 * WIDTH)
    image.data = np.pad(rows, [(0, 0), (0, padding)], constant_values=77).tobytes()
    image.step = 3 * WIDTH + padding
    return FINE


def _big_endian(draw: Draw, image: Image) -> frozenset[str]:
    image.is_bigendian = draw(st.integers(0, 255))
    return FINE


# Frames of either kind.


def _frame_id(draw: Draw, image: Message) -> frozenset[str]:
    image.header.frame_id = draw(st.sampled_from(["", "/", "//", "map", "/map", "odom", "/odom"]))
    return FRAME


def _odd_frame_id(draw: Draw, image: Message) -> frozenset[str]:
    image.header.frame_id = draw(st.sampled_from(["/cam", "a b", "камера", "c" * 300, "x\ny", "🙂", "%s%n"]))
    return FINE


# Compressed images.


def _png(width: int, height: int, colour: int = 2, bits: int = 8, rows: int | None = None) -> bytes:
    """A PNG of zeros that claims this size and holds `rows` rows, of which a megabyte is a kilobyte."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    row = bytes(1 + width * {0: 1, 2: 3, 6: 4}[colour] * bits // 8)
    deflate = zlib.compressobj(9)
    pixels = [deflate.compress(row) for _ in range(height if rows is None else rows)]
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0))
    return (
        b"\x89PNG\r\n\x1a\n"
        + header
        + chunk(b"IDAT", b"".join([*pixels, deflate.flush()]))
        + chunk(b"IEND", b"")
    )


BOMBS = [
    _png(4000, 20000),  # 240 MB of pixels
    _png(6000, 10000, 6, 16),  # 480 MB
    _png(2**31 - 1, 2**31 - 1, rows=0),
    _png(2**31 - 1, 1, rows=0),
    _png(WIDTH, 2**20),
]
FOREIGN = [b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF89a", b"BM", b"RIFF....WEBPVP8 ", b"\0" * 1000]


def _bomb(draw: Draw, image: CompressedImage) -> frozenset[str]:
    image.data = draw(st.sampled_from(BOMBS))
    return BAD_IMAGE | SIZE


def _foreign_file(draw: Draw, image: CompressedImage) -> frozenset[str]:
    kind = draw(st.sampled_from(["bmp", "tiff", "webp"]))
    image.data = draw(
        st.one_of(st.sampled_from(FOREIGN), st.binary(max_size=200), st.just(encoded(kind, picture())))
    )
    return BAD_IMAGE


def _cut_off(draw: Draw, image: CompressedImage) -> frozenset[str]:
    image.data = image.data[: draw(st.integers(0, len(image.data) - 3))]
    return BAD_IMAGE


def _garbled(draw: Draw, image: CompressedImage) -> frozenset[str]:
    data = bytearray(image.data)
    for place in draw(st.lists(st.integers(0, len(data) - 1), min_size=1, max_size=30)):
        data[place] = draw(st.integers(0, 255))
    image.data = bytes(data)
    return ANY  # of damaged pixels much may come; the pose, if there is one, is that of the rays


def _depth(draw: Draw, image: CompressedImage) -> frozenset[str]:
    image.format = draw(
        st.sampled_from(["16UC1; compressedDepth png", "32FC1; png compressed", "16UC1; jpeg compressed"])
    )
    return BAD_IMAGE


def _file_of_another_size(draw: Draw, image: CompressedImage) -> frozenset[str]:
    width, height = draw(st.sampled_from([(1, 1), (WIDTH - 1, HEIGHT), (HEIGHT, WIDTH), (640, 480)]))
    image.data = encoded("png", picture(0, width, height))
    return SIZE


def _other_good_file(draw: Draw, image: CompressedImage) -> frozenset[str]:
    image.format = draw(st.sampled_from(["jpeg", "png", "", "rgb8; png compressed rgb8", "jpg;;;", "🙂"]))
    pixels = picture()
    grey, deep = pixels[..., 0], pixels.astype(np.uint16) << 8
    image.data = draw(st.sampled_from([encoded("png", deep), encoded("png", grey), encoded("jpg", pixels)]))
    return FINE


# CameraInfo.


def _k(draw: Draw, info: CameraInfo) -> frozenset[str]:
    k = list(info.k)
    for place in draw(st.lists(st.integers(0, 8), min_size=1, max_size=3)):
        k[place] = draw(st.sampled_from(NOT_FINITE))
    info.k = draw(st.sampled_from([k, [0.0] * 9, [-k[0], *info.k[1:]], [*info.k[:4], 0.0, *info.k[5:]]]))
    return BAD_INFO


def _skew(draw: Draw, info: CameraInfo) -> frozenset[str]:
    info.k[1] = draw(st.sampled_from([-1.0, 0.5, 1e300]))
    return BAD_INFO


def _d(draw: Draw, info: CameraInfo) -> frozenset[str]:
    info.distortion_model = draw(st.sampled_from(["plumb_bob", "rational_polynomial", "equidistant"]))
    count = {"plumb_bob": 5, "rational_polynomial": 8, "equidistant": 4}[info.distortion_model]
    d = [0.1] * count
    d[draw(st.integers(0, count - 1))] = draw(st.sampled_from(NOT_FINITE))
    info.d = draw(st.sampled_from([d, [0.1] * (count - 2), [0.1] * (count + 5), [0.1] * 500]))
    return BAD_INFO


def _lens(draw: Draw, info: CameraInfo) -> frozenset[str]:
    info.distortion_model = draw(st.sampled_from(["fisheye", "Plumb_Bob", "none", "🙂", "x" * 300]))
    return BAD_INFO


def _info_of_another_size(draw: Draw, info: CameraInfo) -> frozenset[str]:
    setattr(info, draw(st.sampled_from(["width", "height"])), draw(INFO_SIDES))
    return SIZE


def _info_without_size(draw: Draw, info: CameraInfo) -> frozenset[str]:
    setattr(info, draw(st.sampled_from(["width", "height"])), 0)
    return BAD_INFO


def _region(draw: Draw, info: CameraInfo) -> frozenset[str]:
    outside = [(1, 0, WIDTH, HEIGHT), (0, 0, 2**32 - 1, 1), (2**31, 2**31, 2**31, 2**31), (3, 3, 0, 0)]
    inside = [(0, 0, 4, 3), (5, 5, WIDTH - 10, HEIGHT - 10)]
    region = draw(st.sampled_from([*outside, *inside]))
    info.roi.x_offset, info.roi.y_offset, info.roi.width, info.roi.height = region
    return SIZE if region in inside else BAD_INFO


def _binning(draw: Draw, info: CameraInfo) -> frozenset[str]:
    setattr(
        info, draw(st.sampled_from(["binning_x", "binning_y"])), draw(st.sampled_from([2, 40, 65, 2**32 - 1]))
    )
    return SIZE | BAD_INFO


def _unused(draw: Draw, info: CameraInfo) -> frozenset[str]:
    """P, R and the frame id of a CameraInfo say nothing of images that aren't rectified."""
    info.p, info.r = draw(
        st.sampled_from([([value] * 12, [value] * 9) for value in [*NOT_FINITE, 1e308, 0.0]])
    )
    info.header.frame_id = draw(st.sampled_from(["", "other", "🙂"]))
    return FINE


def _extreme(draw: Draw, info: CameraInfo) -> frozenset[str]:
    """A calibration of finite numbers that no camera has: whatever is made of it, it must not be a pose."""
    if draw(st.booleans()):
        focal = draw(st.sampled_from([5e-324, 1e-200, 1e-9, 0.1, 1e5, 1e30, 1e308]))
        info.k = [focal, 0.0, info.k[2], 0.0, focal, info.k[5], 0.0, 0.0, 1.0]
    else:
        centre = draw(st.sampled_from([-1e308, -1e9, 1e9, 1e30, 1e308]))
        info.k = [info.k[0], 0.0, centre, 0.0, info.k[4], info.k[5], 0.0, 0.0, 1.0]
    return ANY


def _extreme_lens(draw: Draw, info: CameraInfo) -> frozenset[str]:
    info.distortion_model = draw(st.sampled_from(["plumb_bob", "rational_polynomial", "equidistant"]))
    count = {"plumb_bob": 5, "rational_polynomial": 8, "equidistant": 4}[info.distortion_model]
    info.d = [draw(st.sampled_from([-1e308, -1e10, -50.0, 0.0, 50.0, 1e10, 1e308])) for _ in range(count)]
    return ANY


RAW = [_no_size, _claims_another_size, _another_size, _another_encoding, _step, _data, _padded, _big_endian]
COMPRESSED = [_bomb, _foreign_file, _cut_off, _garbled, _depth, _file_of_another_size, _other_good_file]
EITHER = [_frame_id, _odd_frame_id]
# One of each group at most: each changes fields of its own.
INFO = [
    [_k, _skew, _extreme],
    [_d, _lens, _extreme_lens],
    [_info_of_another_size, _info_without_size, _region, _binning],
    [_unused],
]
MAY_POSE = {_garbled, _extreme_lens}  # whether they give a pose is not known beforehand
STAMPS = [(0, 0), (-1, 0), (-(2**31), 5), (1_700_000_000, 10**9), (0, 2**32 - 1)]
GOOD_STAMPS = [(0, 1), (1, 0), (2**31 - 1, 10**9 - 1), (1_000_000_000, 0)]


@st.composite
def cases(draw: Draw, transport: str) -> Case:
    """Frames that are spoilt in up to three ways, some of which do no harm."""
    raw = transport == "raw"
    kind = "png" if raw else draw(st.sampled_from(["png", "jpg"]))
    image, info = good_image(transport, kind), good_info()
    of_image = draw(st.lists(st.sampled_from([*(RAW if raw else COMPRESSED), *EITHER]), max_size=1))
    groups = draw(st.lists(st.sampled_from(range(len(INFO))), max_size=2, unique=True))
    of_info = [draw(st.sampled_from(INFO[group])) for group in groups]
    stamped, reasons, may_pose = None, set(), True
    if draw(st.integers(0, 9)) == 7:  # small numbers are drawn more often than others
        stamped = draw(st.sampled_from([*STAMPS, *GOOD_STAMPS]))
        reasons |= {"bad_stamp"} if stamped in STAMPS else set()
    for spoil in [*of_image, *of_info]:
        given = spoil(draw, image if spoil in of_image else info)
        reasons |= given
        may_pose &= not given or spoil in MAY_POSE
    may_pose &= stamped not in STAMPS
    names = tuple(spoil.__name__.lstrip("_") for spoil in [*of_image, *of_info])
    return Case(
        image, info, frozenset(reasons), may_pose, names + ((f"stamp {stamped}",) if stamped else ()), stamped
    )
