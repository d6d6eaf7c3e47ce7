"""An image out of the bytes of its message: the same as rclpy makes of them, and no copy of its pixels."""

from __future__ import annotations

import array
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("rclpy", reason="rclpy is not installed: no ROS 2 here")

from builtin_interfaces.msg import Time
from rclpy.serialization import deserialize_message, serialize_message
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from structpose_ros import serialized_image as under_test
from structpose_ros.serialized_image import ImageView, image_from_serialized

FIELDS = ("header", "height", "width", "encoding", "is_bigendian", "step")
UNSIGNED = st.integers(0, 2**32 - 1)
WORDS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12)


@st.composite
def images(draw: st.DrawFn) -> Image:
    stamp = Time(sec=draw(st.integers(-(2**31), 2**31 - 1)), nanosec=draw(UNSIGNED))
    image = Image(header=Header(stamp=stamp, frame_id=draw(WORDS)))
    image.height, image.width, image.step = draw(UNSIGNED), draw(UNSIGNED), draw(UNSIGNED)
    image.encoding, image.is_bigendian = draw(WORDS), draw(st.integers(0, 255))
    image.data = array.array("B", draw(st.binary(max_size=40)))
    return image


@given(images())
def test_every_field_is_as_it_was_sent(image: Image) -> None:
    view = image_from_serialized(serialize_message(image))
    assert isinstance(view, ImageView)
    assert [getattr(view, name) for name in FIELDS] == [getattr(image, name) for name in FIELDS]
    assert bytes(view.data) == image.data.tobytes()


def test_a_zero_byte_ends_a_string_as_for_rclpy() -> None:
    serialized = serialize_message(Image(encoding="axb")).replace(b"axb", b"a\0b")
    assert (
        image_from_serialized(serialized).encoding == deserialize_message(serialized, Image).encoding == "a"
    )


def test_the_pixels_are_viewed() -> None:
    serialized = serialize_message(Image(data=array.array("B", range(200))))
    view = image_from_serialized(serialized)
    pixels = np.frombuffer(view.data, np.uint8)
    whole = np.frombuffer(serialized, np.uint8)
    assert np.shares_memory(pixels, whole)
    assert pixels.tolist() == list(range(200))


@given(images(), st.data())
def test_bytes_that_are_changed_or_cut_are_what_rclpy_says_they_are(
    image: Image, data: st.DataObject
) -> None:
    """Or an error as it raises; never anything that was not in the bytes."""
    spoilt = bytearray(serialize_message(image))
    if data.draw(st.booleans()):
        spoilt = spoilt[: data.draw(st.integers(0, len(spoilt)))]
    for _ in range(data.draw(st.integers(0, 3))):
        if spoilt:
            spoilt[data.draw(st.integers(0, len(spoilt) - 1))] = data.draw(st.integers(0, 255))
    try:
        expected = deserialize_message(bytes(spoilt), Image)
    except RuntimeError:
        with pytest.raises(RuntimeError):
            image_from_serialized(bytes(spoilt))
        return
    got = image_from_serialized(bytes(spoilt))
    if isinstance(got, Image):
        assert got == expected
    else:
        assert [getattr(got, name) for name in FIELDS] == [getattr(expected, name) for name in FIELDS]
        assert bytes(got.data) == expected.data.tobytes()


def test_another_layout_is_left_to_rclpy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Big-endian, for instance; Fast DDS reads that."""
    image = Image(height=2, width=3, encoding="mono8", step=3, data=array.array("B", range(6)))
    serialized = bytearray(serialize_message(image))
    serialized[1] = 0
    seen: list[bytes] = []
    monkeypatch.setattr(
        under_test, "deserialize_message", lambda given, kind: seen.append(given) or kind(width=7)
    )
    assert image_from_serialized(bytes(serialized)).width == 7
    assert seen == [bytes(serialized)]


@pytest.mark.parametrize("length", [0, 1, 2, 3, 4, 11, 15])
def test_a_message_that_ends_too_early_is_an_error(length: int) -> None:
    with pytest.raises(RuntimeError):
        image_from_serialized(serialize_message(Image())[:length])


def test_more_pixels_than_there_are_bytes_is_an_error() -> None:
    serialized = bytearray(serialize_message(Image(data=array.array("B", range(8)))))
    at = serialized.rindex(bytes(range(8))) - 4
    assert struct.unpack_from("<I", serialized, at) == (8,)
    struct.pack_into("<I", serialized, at, 2**31)
    with pytest.raises(RuntimeError):
        image_from_serialized(bytes(serialized))
