"""Parts of the bag importer: TF without ROS, depth and colour out of messages, memory, resuming."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import cv2
import numpy as np
import pytest

pytest.importorskip("rosbags", reason="rosbags is not installed")

from bags import (
    COLOR,
    START_NS,
    STORE,
    Robot,
    compressed,
    compressed_depth,
    image,
    moved,
    moving_tf,
    png,
    rendered,
    write_bag,
    write_drive,
)
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from recordings import pose

from structpose_ros.camera import Camera
from structpose_ros.geometry import invert, rotation_from_vector, transform
from structpose_ros.training.frames import RecordingError
from structpose_ros.training.importers.bag_messages import is_depth, read_color, read_depth
from structpose_ros.training.importers.bag_reader import Bag
from structpose_ros.training.importers.bag_transforms import ALWAYS, StampedTransforms, TransformTree
from structpose_ros.training.importers.common import Selection
from structpose_ros.training.importers.rosbag2 import import_rosbag2

ALL = Selection(test_fraction=0.0)
SECOND = 1_000_000_000
numbers = st.floats(-3, 3)
transforms = st.builds(
    lambda turn, at: transform(rotation_from_vector(turn), at),
    st.tuples(*[st.floats(-1.7, 1.7)] * 3),
    st.tuples(numbers, numbers, numbers),
)


def add(tree: TransformTree, parent: str, child: str, at_ns: int, matrix: np.ndarray, static: bool) -> None:
    tree.add(parent, child, at_ns, moved(at_ns, parent, child, matrix).transform, static)


@given(st.lists(st.tuples(transforms, st.integers(0, 9), st.booleans()), min_size=1, max_size=8), st.data())
def test_a_chain_is_the_product_of_its_edges(
    edges: list[tuple[np.ndarray, int, bool]], data: st.DataObject
) -> None:
    """Frame i + 1 hangs from any earlier one; between any two, up and down the tree."""
    tree, root_from = TransformTree(), [np.eye(4)]
    for child, (parent_from_child, choice, static) in enumerate(edges, start=1):
        parent = choice % child
        root_from.append(root_from[parent] @ parent_from_child)
        add(tree, f"f{parent}", f"f{child}", SECOND, parent_from_child, static)
    target, source = (data.draw(st.integers(0, len(edges))) for _ in range(2))
    found = tree.lookup(f"f{target}", f"f{source}", SECOND, 0.1)
    np.testing.assert_allclose(found, invert(root_from[target]) @ root_from[source], atol=1e-12)


@given(transforms, st.tuples(*[st.floats(-0.9, 0.9)] * 3), st.tuples(numbers, numbers, numbers), transforms)
def test_each_edge_is_interpolated_by_its_own_stamps(
    first: np.ndarray, turn: tuple[float, ...], motion: tuple[float, ...], outer: np.ndarray
) -> None:
    """At 1.5 s the inner edge, sent at 1 and 2 s, is half-way, the outer one, 1.4 and 1.8 s, at a quarter."""
    tree = TransformTree()
    second = transform(first[:3, :3] @ rotation_from_vector(turn), first[:3, 3] + motion)
    add(tree, "b", "c", 2 * SECOND, second, False)
    add(tree, "b", "c", 1 * SECOND, first, False)
    later = transform(rotation_from_vector([0, 0, 0.8]) @ outer[:3, :3], outer[:3, 3] + [0.4, 0, 0])
    add(tree, "a", "b", 1_400_000_000, outer, False)
    add(tree, "a", "b", 1_800_000_000, later, False)
    half = transform(
        first[:3, :3] @ rotation_from_vector(np.divide(turn, 2)), first[:3, 3] + np.divide(motion, 2)
    )
    quarter = transform(rotation_from_vector([0, 0, 0.2]) @ outer[:3, :3], outer[:3, 3] + [0.1, 0, 0])
    found = tree.lookup("a", "c", 1_500_000_000, 1.0)
    np.testing.assert_allclose(found, quarter @ half, atol=1e-9)
    assert tree.span("a", "c") == (1_400_000_000, 1_800_000_000)
    with pytest.raises(
        RecordingError, match=r"TF 'b' from 'c': expected poses at most 0.9 s apart, got a gap"
    ):
        tree.lookup("a", "c", 1_500_000_000, 0.9)


def test_transforms_that_tf2_would_ignore_are_ignored() -> None:
    sent = StampedTransforms()
    good = moved(0, "a", "b", pose(1.0, 2.0, 0.3)).transform
    for values in ({"x": np.nan}, {"y": np.inf}):
        sent.add(1, replace(good.translation, **values), good.rotation)
    for values in ({"w": np.nan}, {"x": 0.0, "y": 0.0, "z": 0.0, "w": 0.0}, {"w": 2.0}):
        sent.add(1, good.translation, replace(good.rotation, **values))
    assert not sent
    sent.add(1, good.translation, good.rotation)
    np.testing.assert_allclose(sent.matrices()[0], pose(1.0, 2.0, 0.3), atol=1e-12)


def test_a_tree_of_static_frames_is_known_always() -> None:
    tree = TransformTree()
    add(tree, "a", "b", 0, np.eye(4), True)
    add(tree, "b", "c", 0, np.eye(4), False)  # a moving one without a stamp says nothing
    assert tree.span("a", "b") == ALWAYS
    with pytest.raises(RecordingError, match="expected 'a' and 'c' in one tree, got no 'c' among a, b"):
        tree.span("a", "c")
    add(tree, "b", "d", SECOND, transform(np.eye(3), [np.nan, 0, 0]), False)
    with pytest.raises(
        RecordingError, match="TF 'b' from 'd': expected transforms, got none that are finite"
    ):
        tree.span("a", "d")
    add(tree, "d", "a", SECOND, np.eye(4), True)
    with pytest.raises(RecordingError, match="expected a tree, got a loop: d < b < a < d"):
        tree.lookup("a", "d", 0, 1.0)


def received(message: Any) -> Any:
    """Return a message as it comes out of a bag."""
    name = message.__msgtype__
    return STORE.deserialize_cdr(STORE.serialize_cdr(message, name), name)


@given(depth=arrays(np.uint16, (3, 5)), padding=st.integers(0, 9), big=st.booleans())
def test_depth_of_16_bits(depth: np.ndarray, padding: int, big: bool) -> None:
    values = depth.astype(">u2" if big else "<u2")
    expected = np.where(depth == 65535, 0, depth)
    message = received(image(1, values, "16UC1", padding=padding))
    assert is_depth(message)
    np.testing.assert_array_equal(read_depth(message, None, ""), expected)
    np.testing.assert_array_equal(read_depth(received(compressed_depth(1, depth)), None, ""), expected)
    plain = compressed(1, png(depth), "16UC1; png compressed ")
    np.testing.assert_array_equal(read_depth(received(plain), None, ""), expected)


@given(depth=arrays(np.float32, (3, 5), elements=st.floats(0, 9.0, width=32)))
def test_depth_of_floats(depth: np.ndarray) -> None:
    depth = np.where(depth < 0.16, np.float32(0), depth)  # nearer than that, 16 bits of 1 / depth overflow
    expected = np.rint(depth.astype(np.float64) * 1000)
    for kind in (np.float32, np.float64):
        message = image(1, np.where(depth > 0, depth, np.nan).astype(kind), f"{8 * kind().itemsize}FC1")
        np.testing.assert_array_equal(read_depth(received(message), None, ""), expected)
    found = read_depth(received(compressed_depth(1, depth)), None, "")
    within = 0.51 + 1010 * depth.astype(np.float64) ** 2 / 10100  # 1 / depth is cut off to steps of 1 / A
    assert (np.abs(found - 1000.0 * depth) <= within).all()
    np.testing.assert_array_equal(found == 0, depth == 0)


def fields(**changed: Any) -> Any:
    return replace(image(1, np.ones((3, 5), np.uint16), "16UC1"), **changed)


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (fields(height=2**31, width=2**31), r"got 2147483648x2147483648 with step 10 and 30 bytes"),
        (fields(height=0), "got 5x0 with step 10"),
        (fields(step=9), "got 5x3 with step 9"),
        (fields(step=11), "step 11 and 30 bytes"),
        (fields(encoding="rgb8"), "expected an encoding of 16UC1, mono16, 32FC1, 64FC1, got 'rgb8'"),
        (compressed(1, b"", "16UC1; compressedDepth png"), "got 0 bytes"),
        (compressed(1, b"123456789012", "16UC1; compressedDepth png"), "got 0 bytes"),
        (compressed(1, png(np.ones((2, 2), np.uint8)), "16UC1; png"), "expected one channel of 16 bits"),
        (compressed(1, bytes(12) + png(np.ones((2, 2), np.uint16)), "32FC1; compressedDepth"), "got 0.0 and"),
        (compressed(1, png(np.ones((2, 2), np.uint16)), "32FC1; png"), "expected 32FC1 as compressedDepth"),
    ],
)
def test_depth_that_can_not_be_read(message: Any, expected: str) -> None:
    with pytest.raises(RecordingError, match=f"here: .*{expected}"):
        read_depth(received(message), None, "here")


def test_a_jpeg_is_kept_only_if_it_shows_the_image_by_itself() -> None:
    shot = rendered(1)[0]
    assert shot.jpeg is not None
    kept, jpeg = read_color(received(compressed(1, shot.jpeg, "rgb8; jpeg compressed bgr8")), "")
    assert jpeg == shot.jpeg
    swapped, jpeg = read_color(received(compressed(1, shot.jpeg, "rgb8; jpeg compressed rgb8")), "")
    assert jpeg is None
    np.testing.assert_array_equal(swapped, kept[..., ::-1])
    # An orientation in EXIF, upside down: the calibration belongs to the pixels as they are stored.
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x03\0\0\0\0\0\0"
    turned = shot.jpeg[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + shot.jpeg[2:]
    shown = cv2.cvtColor(cv2.imdecode(np.frombuffer(turned, np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
    np.testing.assert_array_equal(shown, kept[::-1, ::-1])
    stored, jpeg = read_color(received(compressed(1, turned, "rgb8; jpeg compressed bgr8")), "")
    assert jpeg is None
    np.testing.assert_array_equal(stored, kept)


@pytest.mark.parametrize("encoding", ["yuv422_yuy2", "uyvy"])
def test_colour_in_yuv(encoding: str) -> None:
    """Grey of 128 and no colour: BT.601 in video range makes (128 - 16) * 1.164 of it."""
    pair = [128, 128]
    pixels = np.full((2, 4, 2), pair, dtype=np.uint8)
    image_rgb, jpeg = read_color(received(image(1, pixels, encoding)), "")
    assert jpeg is None
    np.testing.assert_array_equal(image_rgb, np.full((2, 4, 3), 130, np.uint8))


@pytest.mark.parametrize(("storage", "compression"), [("mcap", "storage"), ("sqlite3", "none")])
def test_memory_does_not_grow_with_the_drive(tmp_path: Path, storage: str, compression: str) -> None:
    camera = Camera(320, 240, 300.0, 300.0, 160.0, 120.0)
    shot = rendered(1)[0]
    shots = [
        replace(
            shot,
            stamp_ns=START_NS + number * 50_000_000,
            image_rgb=np.full((240, 320, 3), number, dtype=np.uint8),
            depth_mm=np.full((240, 320), 900, dtype=np.uint16),
        )
        for number in range(60)
    ]
    bag = write_drive(tmp_path / "bag", shots, Robot(camera), storage, compression)
    tracemalloc.start()
    import_rosbag2(bag, tmp_path / "out", selection=ALL)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert sum(item.image_rgb.nbytes + item.depth_mm.nbytes for item in shots) > 23e6
    assert peak < 12e6


def test_resuming_reads_from_the_first_missing_frame(tmp_path: Path) -> None:
    shots = rendered(6)
    bag, out = write_drive(tmp_path / "bag", shots), tmp_path / "out"
    import_rosbag2(bag, out, selection=ALL)
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    (out / "seq-01" / "frame-000003.depth.png").unlink()
    messages, asked = Bag.messages, []

    def watched(self: Bag, *arguments: Any) -> Any:
        asked.append(arguments[1:])
        return messages(self, *arguments)

    with mock.patch.object(Bag, "messages", watched):
        import_rosbag2(bag, out, selection=ALL)
    assert asked[-1] == (shots[3].stamp_ns - 1, shots[3].stamp_ns + 1)
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


def test_a_message_that_can_not_be_decoded_is_a_bad_frame(tmp_path: Path) -> None:
    shots = rendered(4)
    sent = [*Robot().static(), *moving_tf(shots), *Robot().camera_messages(shots)]
    bag = write_bag(tmp_path / "bag", sent, "sqlite3")
    with_half = tmp_path / "half"
    import sqlite3

    with_half.mkdir()
    for path in bag.iterdir():
        (with_half / path.name).write_bytes(path.read_bytes())
    with sqlite3.connect(with_half / "bag.db3") as database:
        ((topic,),) = database.execute("SELECT id FROM topics WHERE name = ?", (COLOR,))
        database.execute(
            "UPDATE messages SET data = substr(data, 1, 500) WHERE topic_id = ? AND timestamp = ?",
            (topic, shots[1].stamp_ns),
        )
    database.close()
    expected = f"{COLOR} received at 1690000000.223456796: expected a sensor_msgs/msg/Image, got "
    with pytest.raises(RecordingError, match=f"1 of 4 frames are bad: {expected}"):
        import_rosbag2(with_half, tmp_path / "out", selection=ALL)
    assert import_rosbag2(with_half, tmp_path / "out", selection=ALL, skip_bad=True).frames == 3
