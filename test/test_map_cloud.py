"""The map's points in a model file: they come back as written, or are refused with one clear line."""

from __future__ import annotations

import base64
import json
import tracemalloc
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from structpose_ros.contract import ModelFileError
from structpose_ros.map_cloud import MAP_CLOUD_KEY, MOST_POINTS, MapCloud

COLORS = np.array([[0, 1, 2], [253, 254, 255], [7, 0, 7]], dtype=np.uint8)
POINTS = np.array([[0.0, -1.0, 5.0], [1.0, -1.0, 7.5], [0.25, -1.0, 6.0]], dtype=np.float32)
COORDINATES = st.floats(-1e6, 1e6, width=32)


def content_of(cloud: MapCloud) -> dict[str, Any]:
    content = json.loads(cloud.to_metadata()[MAP_CLOUD_KEY])
    assert isinstance(content, dict)
    return content


def read(content: object) -> MapCloud | None:
    return MapCloud.from_metadata({MAP_CLOUD_KEY: json.dumps(content)})


def packed(planes: bytes) -> str:
    return base64.b64encode(zlib.compress(planes)).decode()


@given(st.integers(1, 40).flatmap(lambda n: st.tuples(*_columns(n))))
def test_a_cloud_comes_back_within_half_a_step(given_cloud: tuple[np.ndarray, np.ndarray]) -> None:
    points, colors = given_cloud
    metadata = MapCloud(points, colors).to_metadata()
    assert list(metadata) == [MAP_CLOUD_KEY]
    cloud = MapCloud.from_metadata({"author": "someone", **metadata})
    assert cloud is not None
    assert cloud.points.dtype == np.float32
    np.testing.assert_array_equal(cloud.colors, colors)
    exact = points.astype(np.float64)
    half_step = np.ptp(exact, axis=0) / 65535 / 2
    # float32 itself rounds by half of its spacing, which for large coordinates is the greater part.
    float_step = np.spacing(np.abs(points).max(axis=0)).astype(np.float64)
    assert (np.abs(cloud.points - exact) <= half_step * (1 + 1e-9) + float_step).all()


def _columns(count: int) -> list[st.SearchStrategy[np.ndarray]]:
    return [
        arrays(np.float32, (count, 3), elements=COORDINATES),
        arrays(np.uint8, (count, 3), elements=st.integers(0, 255)),
    ]


def test_corners_come_back_exactly_and_a_flat_side_stays_flat() -> None:
    cloud = read(content_of(MapCloud(POINTS, COLORS)))
    assert cloud is not None
    np.testing.assert_array_equal(cloud.points[:2], POINTS[:2])
    np.testing.assert_array_equal(cloud.points[:, 1], [-1.0, -1.0, -1.0])
    np.testing.assert_array_equal(cloud.colors, COLORS)


def test_the_format_is_the_documented_one() -> None:
    content = content_of(MapCloud(POINTS, COLORS))
    planes = zlib.decompress(base64.b64decode(content.pop("data")))
    assert content == {"version": 1, "count": 3, "min": [0.0, -1.0, 5.0], "max": [1.0, -1.0, 7.5]}
    assert np.frombuffer(planes, "<u2", 9).tolist() == [0, 65535, 16384, 0, 0, 0, 0, 65535, 26214]
    assert list(planes[18:]) == [0, 253, 7, 1, 254, 0, 2, 255, 7]


def test_the_largest_cloud_takes_less_than_three_megabytes() -> None:
    rng = np.random.default_rng(0)
    points = rng.random((MOST_POINTS, 3), dtype=np.float32)
    metadata = MapCloud(points, rng.integers(0, 256, points.shape, dtype=np.uint8)).to_metadata()
    assert len(metadata[MAP_CLOUD_KEY]) < 3e6
    cloud = MapCloud.from_metadata(metadata)
    assert cloud is not None
    np.testing.assert_allclose(cloud.points, points, atol=1e-5)


def test_a_file_without_points_has_none() -> None:
    assert MapCloud.from_metadata({}) is None
    assert MapCloud.from_metadata({"structpose_ros": "{}"}) is None


@pytest.mark.parametrize(
    ("points", "colors", "message"),
    [
        (POINTS.astype(np.float64), COLORS, r"expected map points \(N, 3\) float32, got \(3, 3\) float64"),
        (POINTS[0], COLORS[0], r"expected map points \(N, 3\) float32, got \(3,\)"),
        (POINTS[:, :2], COLORS, r"expected map points \(N, 3\) float32, got \(3, 2\)"),
        (POINTS, COLORS[:2], r"expected map colours \(3, 3\) uint8, got \(2, 3\)"),
        (POINTS, COLORS.astype(np.float32), r"expected map colours \(3, 3\) uint8, got \(3, 3\) float32"),
        (POINTS[:0], COLORS[:0], "expected 1 .. 200000 map points, got 0"),
        (np.where(POINTS == 5.0, np.float32(np.nan), POINTS), COLORS, "expected finite map points"),
        (np.where(POINTS == 5.0, np.float32(np.inf), POINTS), COLORS, "expected finite map points"),
    ],
)
def test_an_unusable_cloud_cannot_be_made(points: np.ndarray, colors: np.ndarray, message: str) -> None:
    with pytest.raises(ModelFileError, match=message):
        MapCloud(points, colors)


@pytest.mark.parametrize("text", ["", "{truncated", "[" * 100_000, '{"version": ' + "9" * 5000 + "}"])
def test_what_is_no_json_is_refused(text: str) -> None:
    with pytest.raises(ModelFileError, match=r"expected JSON in metadata 'structpose_ros\.map_points', got"):
        MapCloud.from_metadata({MAP_CLOUD_KEY: text})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": 2, "future": 1}, "expected version 1 of .*, got 2: export the training run again"),
        ({"version": None}, "expected version 1 of .*, got None"),
        ({"version": True}, "expected int as version .*, got bool"),
        ({"version": 1.0}, "expected int as version .*, got float"),
        ({"surprise": 1}, r"expected the fields \['count', 'data', .*got .*'surprise'"),
        ({"count": 3.0}, "expected int as count .*, got float"),
        ({"count": -1}, "expected 1 .. 200000 map points, got -1"),
        ({"count": 0}, "expected 1 .. 200000 map points, got 0"),
        ({"count": 200_001}, "expected 1 .. 200000 map points, got 200001"),
        ({"count": 2}, "expected 18 bytes of data .*, got more"),
        ({"count": 4}, "expected 36 bytes of data .*, got 27$"),
        ({"min": [0.0, 0.0]}, r"expected three finite numbers as min .*, got \[0\.0, 0\.0\]"),
        ({"min": [0.0, float("nan"), 0.0]}, "expected three finite numbers as min"),
        ({"max": [1.0, float("inf"), 9.0]}, "expected three finite numbers as max"),
        ({"max": [1.0, 1e39, 9.0]}, "expected three finite numbers as max"),
        ({"max": [1.0, 10**400, 9.0]}, "expected three finite numbers as max"),
        ({"max": ["1", 1.0, 9.0]}, "expected three finite numbers as max"),
        ({"max": [True, 1.0, 9.0]}, "expected three finite numbers as max"),
        ({"max": 9.0}, "expected list as max .*, got float"),
        ({"max": [1.0, -1.1, 9.0]}, "expected min <= max"),
        ({"data": 5}, "expected str as data .*, got int"),
        ({"data": "no base64!"}, "expected base64 of zlib as data"),
        ({"data": "ünïcode="}, "expected base64 of zlib as data"),
        ({"data": base64.b64encode(b"no zlib").decode()}, "expected base64 of zlib as data"),
        ({"data": ""}, "expected 27 bytes of data .*, got 0, not properly ended"),
        ({"data": packed(bytes(26))}, "expected 27 bytes of data .*, got 26$"),
        ({"data": packed(bytes(28))}, "expected 27 bytes of data .*, got more"),
    ],
)
def test_a_damaged_entry_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelFileError, match=message):
        read({**content_of(MapCloud(POINTS, COLORS)), **changes})


@pytest.mark.parametrize("content", [[1, 2], None, 5, "text"])
def test_what_is_no_json_object_is_refused(content: object) -> None:
    with pytest.raises(
        ModelFileError, match=r"expected a JSON object in metadata .*, got (list|None|int|str)"
    ):
        read(content)


@pytest.mark.parametrize("name", ["version", "count", "min", "max", "data"])
def test_every_missing_field_is_refused(name: str) -> None:
    content = content_of(MapCloud(POINTS, COLORS))
    del content[name]
    with pytest.raises(ModelFileError, match=r"expected (version 1 of|the fields \[.*) .*, got"):
        read(content)


@pytest.mark.parametrize(
    "damage",
    [lambda raw: raw[:-1], lambda raw: raw[:-4] + bytes(4), lambda raw: raw + b"\0", lambda raw: raw * 2],
    ids=["cut off", "another checksum", "longer", "twice"],
)
def test_data_that_does_not_end_as_it_should_is_refused(damage: Callable[[bytes], bytes]) -> None:
    content = content_of(MapCloud(POINTS, COLORS))
    content["data"] = base64.b64encode(damage(base64.b64decode(content["data"]))).decode()
    with pytest.raises(ModelFileError, match=r"(expected base64 of zlib .*|expected 27 bytes .*), got"):
        read(content)


def test_a_bomb_is_not_set_off() -> None:
    bomb = packed(bytes(200_000_000))
    content = {**content_of(MapCloud(POINTS, COLORS)), "data": bomb}
    tracemalloc.start()
    try:
        with pytest.raises(ModelFileError, match="expected 27 bytes of data .*, got more"):
            read(content)
        assert tracemalloc.get_traced_memory()[1] < 10_000_000
    finally:
        tracemalloc.stop()
