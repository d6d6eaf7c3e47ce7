"""Images, raw and compressed, as no camera should send them."""

from __future__ import annotations

import struct
import zlib

import numpy as np
from fault_rig import encoded
from hypothesis import strategies as st
from model_files import HEIGHT, WIDTH
from node_bench import picture
from ros_helpers import image_message
from sensor_msgs.msg import CompressedImage, Image
from spoiling import ANY, BAD_IMAGE, FINE, FRAME, SIZE, Draw, Spoiler

SIDES = st.sampled_from([1, 7, 47, 49, 63, 65, 640, 65535, 2**31, 2**32 - 1])

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


def _frame_id(draw: Draw, image: Image | CompressedImage) -> frozenset[str]:
    image.header.frame_id = draw(st.sampled_from(["", "/", "//", "map", "/map", "odom", "/odom"]))
    return FRAME


def _odd_frame_id(draw: Draw, image: Image | CompressedImage) -> frozenset[str]:
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


def garbled(draw: Draw, image: CompressedImage) -> frozenset[str]:
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


EITHER: list[Spoiler] = [_frame_id, _odd_frame_id]
SPOILERS: dict[str, list[Spoiler]] = {
    "raw": [
        *(_no_size, _claims_another_size, _another_size, _another_encoding),
        *(_step, _data, _padded, _big_endian),
        *EITHER,
    ],
    "compressed": [
        *(_bomb, _foreign_file, _cut_off, garbled, _depth, _file_of_another_size, _other_good_file),
        *EITHER,
    ],
}
