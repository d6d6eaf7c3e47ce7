"""Raw and compressed images to RGB: every encoding with padded rows, every kind of file, and bad ones."""

from __future__ import annotations

import array
import struct
import sys
import zlib
from unittest import mock

import cv2
import numpy as np
import pytest

pytest.importorskip("rclpy", reason="rclpy is not installed: no ROS 2 here")

from hypothesis import given, settings
from hypothesis import strategies as st
from sensor_msgs.msg import CompressedImage, Image

from structpose_ros import image_files, image_messages
from structpose_ros.camera import Camera, resize_image
from structpose_ros.image_messages import (
    ImageMessageError,
    image_rgb_from_compressed,
    image_rgb_from_message,
)

ENCODINGS = sorted(image_messages.ENCODINGS)
# What the letters say, and whether a channel has 16 bits.
PLAIN = {
    "rgb8": ("RGB", False),
    "bgr8": ("BGR", False),
    "rgba8": ("RGBA", False),
    "bgra8": ("BGRA", False),
    "mono8": ("R", False),
    "8UC1": ("R", False),
    "8UC3": ("BGR", False),
    "8UC4": ("BGRA", False),
    "rgb16": ("RGB", True),
    "bgr16": ("BGR", True),
    "rgba16": ("RGBA", True),
    "bgra16": ("BGRA", True),
    "mono16": ("R", True),
    "16UC3": ("BGR", True),
    "16UC4": ("BGRA", True),
}
BAYER = [f"bayer_{pattern}{bits}" for pattern in ("rggb", "bggr", "gbrg", "grbg") for bits in (8, 16)]
YUV_422 = {"yuv422": "UYVY", "uyvy": "UYVY", "yuv422_yuy2": "YUYV", "yuyv": "YUYV"}
YUV_PLANAR = ("nv12", "nv21", "nv24")


def test_every_encoding_is_tested() -> None:
    assert set(ENCODINGS) == {*PLAIN, *BAYER, *YUV_422, *YUV_PLANAR}


def padded_rows(rows: np.ndarray, padding: int) -> np.ndarray:
    """Return rows of bytes, each followed by `padding` bytes that are not zero."""
    padded = np.full((len(rows), rows.shape[1] + padding), 0xA5, np.uint8)
    padded[:, : rows.shape[1]] = rows
    return padded


def message_of(pixels: np.ndarray, encoding: str, padding: int = 0, big_endian: bool = False) -> Image:
    """Lay pixels out as a message with padded rows."""
    height, width = pixels.shape[:2]
    content = pixels.astype(pixels.dtype.newbyteorder(">" if big_endian else "<"))
    rows = padded_rows(np.ascontiguousarray(content).view(np.uint8).reshape(height, -1), padding)
    message = Image(height=height, width=width, encoding=encoding, is_bigendian=int(big_endian))
    message.step = rows.shape[1]
    message.data = array.array("B", rows.tobytes())
    return message


def planar_message(yuv: np.ndarray, encoding: str, padding: int) -> Image:
    """Lay YUV (H, W, 3), constant within 2x2 pixels, out as V4L2 does."""
    height, width = yuv.shape[:2]
    chroma = yuv[..., [2, 1]] if encoding == "nv21" else yuv[..., 1:]
    if encoding == "nv24":
        below = padded_rows(chroma.reshape(height, -1), 2 * padding)
    else:
        below = padded_rows(chroma[::2, ::2].reshape(height // 2, -1), padding)
    message = Image(height=height, width=width, encoding=encoding, step=width + padding)
    message.data = array.array("B", padded_rows(yuv[..., 0], padding).tobytes() + below.tobytes())
    return message


def mosaic_of(color: tuple[int, int, int], encoding: str) -> np.ndarray:
    """Return a uniform colour (16, 20) as seen through the filters that the encoding names."""
    pattern = np.array(["rgb".index(name) for name in encoding[6:10]]).reshape(2, 2)
    mosaic = np.tile(np.array(color, np.uint16)[pattern], (8, 10))
    return mosaic * 256 + 77 if encoding.endswith("16") else mosaic.astype(np.uint8)


def pictures(draw_16_bits: bool, size: tuple[int, int], seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return random pixels (H, W, 4) and, as the first three channels' high bytes, what they are in RGB."""
    highest = 65536 if draw_16_bits else 256
    pixels = np.random.default_rng(seed).integers(0, highest, (*size, 4))
    return pixels.astype(np.uint16 if draw_16_bits else np.uint8), (pixels[..., :3] * 256 // highest)


@given(
    encoding=st.sampled_from(sorted(PLAIN)),
    size=st.tuples(st.integers(1, 20), st.integers(1, 20)),
    padding=st.integers(0, 17),
    big_endian=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=300)
def test_plain_encodings_come_back_exactly_or_by_their_high_byte(
    encoding: str, size: tuple[int, int], padding: int, big_endian: bool, seed: int
) -> None:
    order, has_16_bits = PLAIN[encoding]
    pixels, image_rgb = pictures(has_16_bits, size, seed)
    stored = pixels[..., ["RGBA".index(name) for name in order]]
    if order == "R":
        stored, image_rgb = stored[..., 0], np.repeat(image_rgb[..., :1], 3, axis=-1)
    read = image_rgb_from_message(message_of(stored, encoding, padding, big_endian))
    assert read.dtype == np.uint8
    np.testing.assert_array_equal(read, image_rgb)


@pytest.mark.parametrize("big_endian", [False, True])
@pytest.mark.parametrize("padding", [0, 1, 6])
@pytest.mark.parametrize("encoding", BAYER)
def test_bayer_patterns_give_their_colours(encoding: str, padding: int, big_endian: bool) -> None:
    mosaic = mosaic_of((200, 120, 30), encoding)
    read = image_rgb_from_message(message_of(mosaic, encoding, padding, big_endian))
    np.testing.assert_array_equal(read, np.broadcast_to([200, 120, 30], (16, 20, 3)))


def yuv_of(colors: np.ndarray) -> np.ndarray:
    """Convert RGB (..., 3) by the formula of BT.601 in video range."""
    red, green, blue = np.moveaxis(np.asarray(colors, np.float64), -1, 0)
    y = 16 + (65.481 * red + 128.553 * green + 24.966 * blue) / 255
    u = 128 + (-37.797 * red - 74.203 * green + 112.0 * blue) / 255
    v = 128 + (112.0 * red - 93.786 * green - 18.214 * blue) / 255
    return np.rint(np.stack([y, u, v], axis=-1)).astype(np.uint8)


@pytest.mark.parametrize("padding", [0, 1, 5])
@pytest.mark.parametrize("encoding", [*YUV_422, *YUV_PLANAR])
def test_yuv_gives_its_colours(encoding: str, padding: int) -> None:
    blocks = np.random.default_rng(3).integers(0, 256, (4, 5, 3))
    colors = blocks.repeat(2, axis=0).repeat(2, axis=1)  # 8 rows, 10 columns
    yuv = yuv_of(colors)
    if encoding in YUV_PLANAR:
        message = planar_message(yuv, encoding, padding)
    else:
        places = [{"Y": 0, "U": 1, "V": 2}[name] for name in YUV_422[encoding]]
        pairs = yuv[:, ::2][..., places]  # two pixels of one colour: four bytes
        message = message_of(pairs.reshape(8, 10, 2), encoding, padding)
    read = image_rgb_from_message(message)
    np.testing.assert_allclose(read.astype(np.float64), colors, atol=3)


def test_nv24_has_the_chroma_of_every_pixel() -> None:
    colors = np.random.default_rng(4).integers(0, 256, (5, 7, 3))
    read = image_rgb_from_message(planar_message(yuv_of(colors), "nv24", padding=3))
    np.testing.assert_allclose(read.astype(np.float64), colors, atol=3)


def test_all_yuv_encodings_agree_on_extreme_values() -> None:
    """Also where the formula leaves 0..255: what is cut off must not wrap around."""
    levels = np.array([0, 16, 128, 235, 255], np.uint8)
    combinations = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(25, 5, 3)
    yuv = combinations.repeat(2, axis=0).repeat(2, axis=1)
    of_uyvy = image_rgb_from_message(message_of(yuv[:, ::2][..., [1, 0, 2, 0]].reshape(50, 10, 2), "uyvy"))
    for encoding in YUV_PLANAR:
        read = image_rgb_from_message(planar_message(yuv, encoding, padding=0))
        np.testing.assert_allclose(read.astype(int), of_uyvy.astype(int), atol=1, err_msg=encoding)


@pytest.mark.parametrize(("encoding", "dtype", "high"), [("rgb8", np.uint8, 0), ("rgb16", np.uint16, 1)])
def test_rgb_is_a_view(encoding: str, dtype: type, high: int) -> None:
    """No copy, also with padding: what changes in the message changes in the image."""
    message = message_of(np.zeros((4, 5, 3), dtype), encoding, padding=2)
    read = image_rgb_from_message(message)
    message.data[message.step + high] = 99
    assert read[1, 0, 0] == 99
    resized, _ = resize_image(read, Camera(5, 4, 1.0, 1.0, 0.0, 0.0), 3, 2)
    assert resized.shape == (2, 3, 3)


@pytest.mark.parametrize("encoding", ["rgb8", "rgb16"])
def test_opencv_still_takes_what_a_view_gives(encoding: str) -> None:
    """The resize that follows must read rows with padding between them, and every second byte."""
    image_rgb = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    stored = image_rgb if encoding == "rgb8" else image_rgb.astype(np.uint16) * 256 + 5
    view = image_rgb_from_message(message_of(stored, encoding, padding=7))
    np.testing.assert_array_equal(
        cv2.resize(view, (32, 24), interpolation=cv2.INTER_AREA),
        cv2.resize(image_rgb, (32, 24), interpolation=cv2.INTER_AREA),
    )


@pytest.mark.parametrize("data", [bytes(12), np.zeros(12, np.uint8), [0] * 12])
def test_data_of_any_kind_is_read(data: object) -> None:
    """rclpy gives an array.array; what a program builds itself may be something else."""
    message = Image(height=2, width=2, encoding="rgb8", step=6)
    message.data = data
    assert image_rgb_from_message(message).shape == (2, 2, 3)


@given(
    encoding=st.sampled_from([*ENCODINGS, "", "8UC2", "8SC3", "16UC1", "32FC1", "jpeg"]),
    size=st.tuples(st.integers(0, 6), st.integers(0, 6)),
    step=st.integers(0, 24),
    data=st.binary(max_size=150),
    big_endian=st.integers(0, 1),
)
@settings(max_examples=500)
def test_malformed_messages_are_refused_and_never_crash(
    encoding: str, size: tuple[int, int], step: int, data: bytes, big_endian: int
) -> None:
    height, width = size
    message = Image(height=height, width=width, encoding=encoding, step=step, is_bigendian=big_endian)
    message.data = data
    try:
        read = image_rgb_from_message(message)
    except ImageMessageError as error:
        assert str(error).startswith("expected ")
        assert "got " in str(error)
    else:
        assert (read.shape, read.dtype) == ((height, width, 3), np.uint8)
        assert len(data) == step * height * image_messages.ENCODINGS[encoding].half_rows // 2


@given(
    encoding=st.sampled_from(ENCODINGS),
    size=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    padding=st.integers(0, 3),
    big_endian=st.integers(0, 1),
    content=st.randoms(use_true_random=False),
)
@settings(max_examples=500)
def test_well_formed_messages_of_any_size_are_read_or_refused(
    encoding: str, size: tuple[int, int], padding: int, big_endian: int, content: object
) -> None:
    """Some encodings have only even sizes, and OpenCV 4.6 doesn't see to it: that must come as our error."""
    height, width = size
    described = image_messages.ENCODINGS[encoding]
    message = Image(height=height, width=width, encoding=encoding, is_bigendian=big_endian)
    message.step = width * described.pixel_bytes + padding
    message.data = content.randbytes(message.step * height * described.half_rows // 2)  # type: ignore[attr-defined]
    try:
        read = image_rgb_from_message(message)
    except ImageMessageError as error:
        assert str(error).startswith("expected an even width")
        assert str(error).endswith(f"for {encoding}, got {width}x{height}")
        assert encoding in YUV_422 or encoding in ("nv12", "nv21")
        assert width % 2 or height % 2
    else:
        assert (read.shape, read.dtype) == ((height, width, 3), np.uint8)


def test_image_errors_say_what_was_expected_and_what_came() -> None:
    def error_of(**changes: object) -> str:
        message = message_of(np.zeros((4, 6, 3), np.uint8), "rgb8")
        for name, value in changes.items():
            setattr(message, name, value)
        with pytest.raises(ImageMessageError) as raised:
            image_rgb_from_message(message)
        return str(raised.value)

    assert error_of(width=0) == "expected an image of at least 1x1, got 0x4"
    assert error_of(step=17) == "expected a step of at least 18 bytes for 6 pixels of rgb8, got 17"
    assert error_of(data=bytes(71)) == "expected 72 bytes of data (step 18 x height 4), got 71"
    assert (
        error_of(encoding="nv21", step=6) == "expected 36 bytes of data (step 6 x height 4 x 1.5 for nv21), "
        "got 72"
    )
    assert (
        error_of(encoding="nv24", step=8) == "expected 96 bytes of data (step 8 x height 4 x 3 for nv24), "
        "got 72"
    )
    assert error_of(encoding="uyvy", width=5) == "expected an even width for uyvy, got 5x4"
    assert error_of(encoding="nv12", height=3) == "expected an even width and height for nv12, got 6x3"
    assert error_of(encoding="rgb16", step=35).startswith("expected a step of at least 36 bytes for 6 pixels")
    for encoding in ("16UC1", "32FC1", "64FC1"):
        assert error_of(encoding=encoding) == (
            f"expected a colour or grey image, got {encoding}: is it a depth image?"
        )
    for encoding in ("h265", "8UC2", "16SC1"):
        assert "rgb8, bgr8" in error_of(encoding=encoding)
        assert error_of(encoding=encoding).endswith(f"got '{encoding}'")


def test_what_opencv_refuses_comes_as_our_error() -> None:
    images = [message_of(np.zeros((4, 6), np.uint8), "mono8"), compressed(png(smooth_image()), "png")]
    for image, read in zip(images, [image_rgb_from_message, image_rgb_from_compressed], strict=True):
        refusing = mock.patch.object(cv2, "cvtColor", side_effect=cv2.error("no memory"))
        with refusing, pytest.raises(ImageMessageError, match="that OpenCV converts, got .*: no memory"):
            read(image)


def test_other_encodings_go_to_cv_bridge_where_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    class CvBridge:
        """Stands for the real one: knows 'odd', and is wrong about 'skewed'."""

        def imgmsg_to_cv2(self, message: Image, desired_encoding: str) -> np.ndarray:
            assert desired_encoding == "rgb8"
            width = {"odd": message.width, "skewed": message.width + 1}[message.encoding]
            return np.full((message.height, width, 3), 5, np.uint8)

    monkeypatch.setitem(sys.modules, "cv_bridge", type(sys)("cv_bridge"))
    monkeypatch.setattr(sys.modules["cv_bridge"], "CvBridge", CvBridge, raising=False)
    pixels = np.zeros((2, 3, 3), np.uint16)
    assert (image_rgb_from_message(message_of(pixels, "odd")) == 5).all()
    for encoding, line in {
        "unheard": "expected an encoding that cv_bridge turns into rgb8, got 'unheard'",
        "skewed": r"expected 3x2 pixels of rgb8 from cv_bridge, got \(2, 4, 3\)",
    }.items():
        with pytest.raises(ImageMessageError, match=line):
            image_rgb_from_message(message_of(pixels, encoding))


# Compressed images. The PNG files are written here, without OpenCV, so that their red is surely red.


def png_chunk(name: bytes, content: bytes) -> bytes:
    """Return a chunk of a PNG file."""
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png(pixels: np.ndarray, before_pixels: bytes = b"") -> bytes:
    """Return a PNG file of (H, W, 1..4) pixels of 8 or 16 bits: grey, grey alpha, RGB or RGBA."""
    height, width, channels = pixels.shape
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    stored = pixels.astype(">u2" if pixels.dtype == np.uint16 else np.uint8)
    rows = b"".join(b"\0" + row.tobytes() for row in stored)
    header = struct.pack(">IIBBBBB", width, height, 8 * stored.itemsize, kind, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + png_chunk(b"IHDR", header)
        + before_pixels
        + png_chunk(b"IDAT", zlib.compress(rows))
        + png_chunk(b"IEND", b"")
    )


def jpeg(image: np.ndarray, *options: int) -> bytes:
    """Return a JPEG file whose red is the image's last channel, as OpenCV has it."""
    best = [cv2.IMWRITE_JPEG_QUALITY, 100, *options]
    written, file = cv2.imencode(".jpg", np.ascontiguousarray(image), best)
    assert written
    return bytes(file.tobytes())


def compressed(data: bytes, text: str) -> CompressedImage:
    """Return a message."""
    return CompressedImage(format=text, data=array.array("B", data))


def smooth_image(height: int = 48, width: int = 64) -> np.ndarray:
    """Return an RGB image that JPEG keeps, and whose every channel, row and column differs."""
    row, column = np.mgrid[:height, :width]
    channels = [40 + 2 * column, 200 - 3 * row, 20 + row + column]
    return np.stack(channels, axis=-1).astype(np.uint8)


def segment(marker: int, content: bytes) -> bytes:
    """Return a segment of a JPEG file."""
    return bytes([0xFF, marker]) + struct.pack(">H", len(content) + 2) + content


ORDINARY_FORMATS = [
    "jpeg",
    "jpg",
    "png",
    "",
    "rgb8; jpeg compressed bgr8",
    "bgr8; jpeg compressed bgr8",
    "rgb8; png compressed bgr8",
    "rgb16; png compressed bgr16",
    "bgra8; png compressed bgra8",
    "rgb8; jpeg compressed",
    "bgr8; jpeg compressed ",
    "8UC3; png compressed ",
    "yuv422; jpeg compressed bgr8",
    "bayer_rggb8; jpeg compressed bgr8",
]


@pytest.mark.parametrize("text", ORDINARY_FORMATS)
def test_an_ordinary_file_gives_its_own_colours_whatever_its_format_says(text: str) -> None:
    image = smooth_image()
    of_png = image_rgb_from_compressed(compressed(png(image), text))
    np.testing.assert_array_equal(of_png, image)
    of_jpeg = image_rgb_from_compressed(compressed(jpeg(image[..., ::-1]), text))
    np.testing.assert_allclose(of_jpeg.astype(int), image.astype(int), atol=5)
    assert of_png.dtype == of_jpeg.dtype == np.uint8


@pytest.mark.parametrize("source", ["rgb8", "bgr8", "rgba8", "rgb16"])
def test_a_file_written_with_red_and_blue_swapped_says_so(source: str) -> None:
    """`compressed rgb8`: the publisher gave RGB pixels to OpenCV, which takes them for BGR."""
    image = smooth_image()
    read = image_rgb_from_compressed(compressed(jpeg(image), f"{source}; jpeg compressed rgb8"))
    np.testing.assert_allclose(read.astype(int), image.astype(int), atol=5)
    read = image_rgb_from_compressed(compressed(png(image[..., ::-1]), f"{source}; png compressed rgb8"))
    np.testing.assert_array_equal(read, image)


@pytest.mark.parametrize("text", ["rgb8; jpeg compressed bgr8", "rgba8; png compressed bgr8"])
def test_what_image_transport_does_with_an_rgb_image_is_undone(text: str) -> None:
    """It converts to the order after `compressed` and has OpenCV write that."""
    image = smooth_image()
    written, file = cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    assert written
    np.testing.assert_array_equal(image_rgb_from_compressed(compressed(file.tobytes(), text)), image)


@given(
    channels=st.integers(1, 4),
    has_16_bits=st.booleans(),
    size=st.tuples(st.integers(1, 12), st.integers(1, 12)),
    seed=st.integers(0, 2**32 - 1),
)
def test_png_of_every_kind_comes_back_exactly_without_alpha(
    channels: int, has_16_bits: bool, size: tuple[int, int], seed: int
) -> None:
    pixels, image_rgb = pictures(has_16_bits, size, seed)
    if channels < 3:
        image_rgb = np.repeat(image_rgb[..., :1], 3, axis=-1)
    read = image_rgb_from_compressed(compressed(png(pixels[..., :channels]), "png"))
    assert read.dtype == np.uint8
    np.testing.assert_array_equal(read, image_rgb)


@pytest.mark.parametrize("text", ["mono8; jpeg compressed mono8", "mono8; jpeg compressed ", "jpeg", "8UC1"])
def test_grey_jpeg_is_grey(text: str) -> None:
    grey = smooth_image()[..., 0]
    read = image_rgb_from_compressed(compressed(jpeg(grey), text))
    np.testing.assert_allclose(read.astype(int), grey[..., None].repeat(3, -1).astype(int), atol=2)


def test_mono16_png_is_grey_by_its_high_byte() -> None:
    grey = np.arange(6, dtype=np.uint16).reshape(2, 3, 1) * 10000
    read = image_rgb_from_compressed(compressed(png(grey), "mono16; png compressed "))
    np.testing.assert_array_equal(read, (grey // 256).repeat(3, -1))


@pytest.mark.parametrize("encoding", BAYER)
def test_a_compressed_mosaic_gives_its_colours(encoding: str) -> None:
    color = (200, 120, 30)
    mosaic = mosaic_of(color, encoding)[..., None]
    read = image_rgb_from_compressed(compressed(png(mosaic), f"{encoding}; png compressed "))
    np.testing.assert_array_equal(read, np.broadcast_to(color, (16, 20, 3)))
    of_8_bits = mosaic_of(color, encoding.replace("16", "8"))
    for stored in ("", encoding):
        text = f"{encoding}; jpeg compressed {stored}"
        read = image_rgb_from_compressed(compressed(jpeg(of_8_bits), text))
        np.testing.assert_allclose(read.astype(int), np.broadcast_to(color, (16, 20, 3)), atol=4)


def test_a_mosaic_that_was_made_grey_before_it_was_compressed_is_grey() -> None:
    """Image_transport does so with JPEG: the colours are gone, and the file is no mosaic."""
    grey = smooth_image()[..., 0]
    read = image_rgb_from_compressed(compressed(jpeg(grey), "bayer_rggb8; jpeg compressed mono8"))
    np.testing.assert_allclose(read.astype(int), grey[..., None].repeat(3, -1).astype(int), atol=2)


@pytest.mark.parametrize(
    "text", ["16UC1; png compressed ", "32FC1; compressedDepth png", "16UC1; compressedDepth", "16UC1"]
)
def test_depth_is_refused(text: str) -> None:
    with pytest.raises(ImageMessageError) as raised:
        image_rgb_from_compressed(compressed(png(np.zeros((4, 6, 1), np.uint16)), text))
    assert str(raised.value) == (
        f"expected a colour or grey image, got format '{text}': is it a depth image?"
    )


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pixels_stay_where_they_are_stored_whatever_exif_says(orientation: int) -> None:
    image = smooth_image()
    exif = b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0" + struct.pack("<I", orientation) + bytes(4)
    file = jpeg(image[..., ::-1])
    turned = file[:2] + segment(0xE1, b"Exif\0\0" + exif) + file[2:]
    if orientation == 6:  # the trap is there
        assert cv2.imdecode(np.frombuffer(turned, np.uint8), cv2.IMREAD_COLOR).shape == (64, 48, 3)
    read = image_rgb_from_compressed(compressed(turned, "jpeg"))
    np.testing.assert_allclose(read.astype(int), image.astype(int), atol=5)
    read = image_rgb_from_compressed(compressed(png(image, png_chunk(b"eXIf", exif)), "png"))
    np.testing.assert_array_equal(read, image)


def jpeg_of_size(width: int, height: int) -> bytes:
    """Return a JPEG file whose header claims another size than its pixels have."""
    file = jpeg(smooth_image())
    at = file.index(b"\xff\xc0") + 5
    return file[:at] + struct.pack(">HH", height, width) + file[at + 4 :]


def png_of_size(width: int, height: int) -> bytes:
    """Return a PNG file whose header claims another size than its pixels have."""
    file = png(smooth_image())
    header = png_chunk(b"IHDR", struct.pack(">II", width, height) + file[24:29])
    return file[:8] + header + file[8 + len(header) :]


@pytest.mark.parametrize(
    ("file", "line"),
    [
        (jpeg_of_size(65535, 65535), "expected at most 100000000 pixels, got a JPEG of 65535x65535"),
        (jpeg_of_size(10001, 10000), "expected at most 100000000 pixels, got a JPEG of 10001x10000"),
        (png_of_size(2**31 - 1, 2**31 - 1), "expected at most 100000000 pixels, got a PNG of 2147483647x"),
        (png_of_size(10001, 10000), "expected at most 100000000 pixels, got a PNG of 10001x10000"),
        (jpeg_of_size(640, 0), "expected an image of at least 1x1, got a JPEG of 640x0"),
        (png_of_size(0, 480), "expected an image of at least 1x1, got a PNG of 0x480"),
        (b"", "expected a JPEG or PNG file, got 0 bytes (format 'any')"),
        (
            b"II*\0 a TIFF",
            "expected a JPEG or PNG file, got 11 bytes that begin with 49 49 2a 00 20 61 20 54",
        ),
        (jpeg(smooth_image())[:100], "expected a JPEG with a scan, got none in 100 bytes"),
        (b"\xff\xd8\xff\xd9", "expected a JPEG with a scan, got none in 4 bytes"),
        (jpeg(smooth_image())[:-2], "expected a JPEG with its end marker, got one cut off at "),
        (png(smooth_image())[:-1], "expected a PNG with its end marker, got one cut off at "),
    ],
)
def test_a_bad_file_is_refused_before_it_is_decoded(file: bytes, line: str) -> None:
    never = mock.patch.object(cv2, "imdecode", side_effect=AssertionError("decoded"))
    with never, pytest.raises(ImageMessageError) as raised:
        image_rgb_from_compressed(compressed(file, "any"))
    assert str(raised.value).startswith(line)


def test_a_damaged_file_is_refused() -> None:
    file = bytearray(png(smooth_image()))
    file[len(file) // 2] ^= 0xFF
    with pytest.raises(ImageMessageError, match="expected a PNG that OpenCV can read, got a damaged one"):
        image_rgb_from_compressed(compressed(bytes(file), "png"))


@pytest.mark.parametrize(
    "options", [(), (cv2.IMWRITE_JPEG_PROGRESSIVE, 1), (cv2.IMWRITE_JPEG_RST_INTERVAL, 2)]
)
def test_a_jpeg_is_read_whole_and_at_no_cut(options: tuple[int, ...]) -> None:
    image = smooth_image()
    file = jpeg(image[..., ::-1], *options)
    for size in range(0, len(file) - 1, 11):
        with pytest.raises(ImageMessageError):
            image_rgb_from_compressed(compressed(file[:size], "jpeg"))
    for padding in (b"", bytes(100)):  # some cameras fill their buffer up
        read = image_rgb_from_compressed(compressed(file + padding, "jpeg"))
        np.testing.assert_allclose(read.astype(int), image.astype(int), atol=5)


def test_a_png_is_read_whole_and_at_no_cut() -> None:
    image = smooth_image()
    file = png(image)
    for size in range(len(file)):
        with pytest.raises(ImageMessageError):
            image_rgb_from_compressed(compressed(file[:size], "png"))
    np.testing.assert_array_equal(image_rgb_from_compressed(compressed(file + bytes(9), "png")), image)


def test_a_png_chunk_that_claims_more_than_there_is_is_not_decoded() -> None:
    """OpenCV, from 4.11 on, would allot 4 GB for it."""
    chunk = struct.pack(">I", 2**32 - 16) + b"tEXt" + bytes(16)
    never = mock.patch.object(cv2, "imdecode", side_effect=AssertionError("decoded"))
    with never, pytest.raises(ImageMessageError, match="expected a PNG with its end marker, got one cut off"):
        image_rgb_from_compressed(compressed(png(smooth_image(), chunk), "png"))


def test_a_thumbnail_in_a_jpeg_is_not_taken_for_it() -> None:
    """It has a frame header and an end marker of its own, before those of the picture."""
    image = smooth_image()
    file, thumbnail = jpeg(image[..., ::-1]), jpeg(np.zeros((8, 8, 3), np.uint8))
    whole = file[:2] + segment(0xE1, thumbnail) + b"\xff\xff" + file[2:]  # and bytes that fill up
    read = image_rgb_from_compressed(compressed(whole, "jpeg"))
    np.testing.assert_allclose(read.astype(int), image.astype(int), atol=5)
    with pytest.raises(ImageMessageError, match="cut off"):
        image_rgb_from_compressed(compressed(whole[:-2], "jpeg"))


FILES = {
    "jpeg": jpeg(smooth_image(20, 30)),
    "progressive": jpeg(smooth_image(20, 30), cv2.IMWRITE_JPEG_PROGRESSIVE, 1),
    "grey": jpeg(smooth_image(20, 30)[..., 0]),
    "png": png(smooth_image(20, 30)),
    "png16": png(smooth_image(20, 30).astype(np.uint16) * 256),
    "mosaic": png(smooth_image(3, 1)[..., :1]),
    "random": b"",
}
FORMATS = [
    *ORDINARY_FORMATS,
    "rgb8; jpeg compressed rgb8",
    "bayer_gbrg8; png compressed ",
    "32FC1",
    ";",
    "bayer_",
]


@given(
    file=st.sampled_from(sorted(FILES)),
    text=st.one_of(st.sampled_from(FORMATS), st.text(max_size=30)),
    kept=st.floats(0.0, 1.0),
    changes=st.lists(st.tuples(st.floats(0.0, 1.0, exclude_max=True), st.integers(0, 255)), max_size=4),
    tail=st.binary(max_size=40),
)
@settings(max_examples=600)
def test_any_compressed_content_gives_an_image_or_our_error(
    file: str, text: str, kept: float, changes: list[tuple[float, int]], tail: bytes
) -> None:
    data = bytearray(FILES[file])
    for place, value in changes:
        if data:
            data[int(place * len(data))] = value
    data = data[: round(len(data) * kept)] + tail
    with mock.patch.object(image_files, "MAX_PIXELS", 1_000_000):
        try:
            read = image_rgb_from_compressed(compressed(bytes(data), text))
        except ImageMessageError as error:
            assert str(error).startswith("expected ")
            assert "got " in str(error)
        else:
            assert read.dtype == np.uint8
            assert read.ndim == 3
            assert read.shape[2] == 3
            assert read.size <= 3_000_000
