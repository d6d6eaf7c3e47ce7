"""What a model file says of itself: it comes back as written, or is refused with one clear line."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from model_files import contract

from structpose_ros.alignment import AlignmentOptions
from structpose_ros.camera import Camera
from structpose_ros.confidence import FEATURES, ConfidenceModel
from structpose_ros.contract import METADATA_KEY, ModelContract, ModelFileError

CONFIDENCE = ConfidenceModel(
    names=FEATURES,
    mean=(1 / 3,) * len(FEATURES),
    scale=(1e-3,) * len(FEATURES),
    coefficients=(-0.1,) * len(FEATURES),
    intercept=2.0,
    threshold=0.6,
)
FULL = contract(
    dataset="7scenes/chess",
    scene_mean=(0.1, -1 / 3, 1e-9),
    depth_scale=math.pi,
    training_camera=Camera(64, 48, 61.3, 60.9, 31.2, 24.1, "equidistant", (0.1, -0.02, 0.003, 1 / 7)),
    refined_camera=Camera(64, 48, 61.3, 60.9, 31.2, 24.1, "equidistant", (0.2, -0.02, 0.003, 1 / 7)),
    alignment=AlignmentOptions(robust_rounds=3, robust_scale=1.5, inlier_threshold=0.2),
    covariance_scale=12.5,
    covariance_floor=(0.01, 1 / 300),
    confidence=CONFIDENCE,
    keypoints=True,
    validation={"median_position_m": 0.123, "frames": 40},
    network="resnet18",
    config_digest="abc",
    producer="structpose_ros 0.1.0",
)


def content_of(described: ModelContract) -> dict[str, Any]:
    content = json.loads(described.to_metadata()[METADATA_KEY])
    assert isinstance(content, dict)
    return content


def read(content: object) -> ModelContract:
    return ModelContract.from_metadata({METADATA_KEY: json.dumps(content)})


@pytest.mark.parametrize("described", [contract(), FULL], ids=["defaults", "every field"])
def test_a_contract_comes_back_as_it_was_written(described: ModelContract) -> None:
    metadata = described.to_metadata()
    assert list(metadata) == [METADATA_KEY]
    assert ModelContract.from_metadata(metadata) == described
    other = {"author": "someone", **metadata}
    assert ModelContract.from_metadata(other) == described


def test_the_same_contract_is_written_as_the_same_text() -> None:
    assert FULL.to_metadata() == replace(FULL).to_metadata()
    assert FULL.to_metadata() != replace(FULL, covariance_scale=12.6).to_metadata()


def test_the_grid_is_the_input_over_the_stride() -> None:
    assert contract(input_width=640, input_height=480, stride=8).grid_shape == (60, 80)


def test_a_file_without_metadata_is_refused() -> None:
    with pytest.raises(ModelFileError, match="exported by `structpose export` .* with metadata none"):
        ModelContract.from_metadata({})
    with pytest.raises(ModelFileError, match=r"with metadata \['author', 'names'\]"):
        ModelContract.from_metadata({"names": "x", "author": "y"})


def test_what_is_no_json_object_is_refused() -> None:
    with pytest.raises(ModelFileError, match="expected JSON in metadata 'structpose_ros', got: Expecting"):
        ModelContract.from_metadata({METADATA_KEY: "{truncated"})
    for damaged in ("[" * 100_000, '{"stride": ' + "9" * 5000 + "}"):
        with pytest.raises(ModelFileError, match="expected JSON in metadata 'structpose_ros', got: "):
            ModelContract.from_metadata({METADATA_KEY: damaged})
    with pytest.raises(ModelFileError, match="expected a JSON object in metadata 'structpose_ros', got list"):
        read([1, 2])


@pytest.mark.parametrize("version", [0, 1, "2", None])
def test_another_format_version_is_refused_before_its_fields(version: object) -> None:
    content = {**content_of(FULL), "format_version": version, "a_field_of_the_future": 1}
    with pytest.raises(ModelFileError, match=f"expected model format version 3, got {version!r}: export"):
        read(content)


def test_metadata_without_a_version_is_refused() -> None:
    content = content_of(FULL)
    del content["format_version"]
    with pytest.raises(ModelFileError, match="expected model format version 3, got None"):
        read(content)


@pytest.mark.parametrize("place", [None, "training_camera", "alignment", "confidence"])
def test_every_missing_field_is_refused_by_name(place: str | None) -> None:
    whole = content_of(FULL)
    for name in (whole[place] if place else whole).keys() - {"format_version"}:
        content = content_of(FULL)
        del (content[place] if place else content)[name]
        with pytest.raises(ModelFileError, match=rf"missing \['{name}'\], unknown \[\]"):
            read(content)


@pytest.mark.parametrize("place", [None, "training_camera", "alignment", "confidence"])
def test_an_unknown_field_is_refused_by_name(place: str | None) -> None:
    content = content_of(FULL)
    (content[place] if place else content)["surprise"] = 1
    with pytest.raises(ModelFileError, match=r"missing \[\], unknown \['surprise'\]"):
        read(content)


@pytest.mark.parametrize(
    ("place", "name", "value"),
    [
        (None, "dataset", 5),
        (None, "input_width", 64.0),
        (None, "input_width", "64"),
        (None, "stride", True),
        (None, "stride", None),
        (None, "scene_mean", 1.0),
        (None, "scene_mean", "abc"),
        (None, "depth_scale", "2"),
        (None, "covariance_scale", True),
        (None, "training_camera", [1, 2]),
        (None, "alignment", None),
        (None, "validation", [1]),
        (None, "covariance_floor", 0.1),
        (None, "keypoints", 1),
        (None, "confidence", 0.5),
        ("confidence", "names", "inlier_ratio"),
        ("confidence", "threshold", "0.5"),
        ("confidence", "mean", 0.0),
        ("training_camera", "width", 64.0),
        ("training_camera", "fx", "60"),
        ("training_camera", "distortion", 0.1),
        ("alignment", "robust_rounds", 2.5),
        ("alignment", "robust_scale", "1"),
    ],
)
def test_a_field_of_another_type_is_refused_by_name(place: str | None, name: str, value: object) -> None:
    content = content_of(FULL)
    (content[place] if place else content)[name] = value
    with pytest.raises(ModelFileError, match=rf"{name} = "):
        read(content)


def test_a_whole_number_will_do_for_a_float() -> None:
    content = content_of(FULL)
    content["depth_scale"] = 2
    content["training_camera"]["fx"] = 60
    assert read(content).depth_scale == 2.0
    assert read(content).training_camera.fx == 60.0


@pytest.mark.parametrize(
    ("place", "name", "value", "message"),
    [
        ("training_camera", "fx", -1.0, "expected focal lengths above 0 px"),
        ("training_camera", "distortion", [0.1], "expected 0 or 4 coefficients for equidistant, got 1"),
        ("training_camera", "distortion", ["a"] * 4, "expected usable model metadata"),
        ("alignment", "robust_rounds", -1, "robust_rounds: expected 0 .. 100, got -1"),
        (
            "confidence",
            "names",
            ["inlier_ratio"],
            "expected the features log_effective_points, .* got in",
        ),
        ("alignment", "inlier_threshold", math.inf, "inlier_threshold: expected a value above 0, up to"),
        (
            "alignment",
            "robust_scale",
            1e200,
            "robust_scale: expected a value above 0, up to 1e.09, got 1e.200",
        ),
        ("training_camera", "cx", math.nan, "expected finite intrinsics, got"),
        ("confidence", "mean", [0.0], "mean: expected 10 finite numbers, got"),
        ("confidence", "threshold", 1.5, "threshold: expected 0 .. 1, got 1.5"),
        (None, "scene_mean", ["a", "b", "c"], "expected usable model metadata"),
    ],
)
def test_a_value_that_a_part_refuses_is_refused(
    place: str | None, name: str, value: object, message: str
) -> None:
    content = content_of(FULL)
    (content[place] if place else content)[name] = value
    with pytest.raises(ModelFileError, match=message):
        read(content)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stride": 0}, "expected an input size divisible by the stride 0"),
        ({"input_width": 63}, "expected an input size divisible by the stride 8, got 63x48"),
        ({"input_height": 0}, "expected an input size divisible by the stride 8, got 64x0"),
        ({"input_width": -64}, "expected an input size divisible by the stride 8, got -64x48"),
        ({"input_width": 8 * 10**9}, "expected an input of at most 16777216 pixels, got 8000000000x48"),
        ({"scene_mean": (0.0, -1e300, 0.0)}, "scene_mean: expected at most 1e.09 m, got"),
        ({"map_max": (1e10, 0.0, 0.0)}, "map_max: expected at most 1e.09 m, got"),
        ({"depth_scale": 0.0}, "expected a depth scale above 0 m, got 0.0"),
        ({"depth_scale": math.inf}, "expected a depth scale above 0 m, got inf"),
        ({"normalization_std": (1.0, 0.0, 1.0)}, "expected normalization_std above 0"),
        ({"scene_mean": (1.0, 2.0)}, "expected three finite numbers as scene_mean"),
        ({"scene_mean": (1.0, 2.0, math.nan)}, "expected three finite numbers as scene_mean"),
        ({"map_min": (0.0, 21.0, 0.0)}, "expected map_min <= map_max"),
        ({"covariance_scale": 0.0}, "expected a covariance scale above 0, up to 1e.18, got 0.0"),
        ({"covariance_scale": math.nan}, "expected a covariance scale above 0, up to 1e.18, got nan"),
        ({"covariance_floor": (0.1, -0.1)}, "expected two numbers of 0 .. 1e.09 as covariance_floor, got"),
        ({"covariance_floor": (0.1,)}, "expected two numbers of 0 .. 1e.09 as covariance_floor, got"),
        ({"covariance_floor": (math.inf, 0.0)}, "expected two numbers of 0 .. 1e.09 as covariance_floor"),
        ({"validation": {"frames": math.inf}}, "expected finite numbers as validation, got {'frames': inf}"),
    ],
)
def test_an_unusable_contract_can_be_neither_made_nor_read(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelFileError, match=message):
        contract(**changes)
    with pytest.raises(ModelFileError, match=message):
        read({**content_of(contract()), **changes})


def test_the_covariance_is_scaled_and_raised_by_the_floors() -> None:
    described = contract(covariance_scale=4.0, covariance_floor=(0.3, 0.02))
    covariance = np.arange(36.0).reshape(6, 6)
    expected = 4.0 * covariance
    for axis in range(3):
        expected[axis, axis] += 0.09
        expected[axis + 3, axis + 3] += 0.0004
    np.testing.assert_allclose(described.calibrated_covariance(covariance), expected)
    np.testing.assert_array_equal(contract().calibrated_covariance(covariance), covariance)


def test_metres_outside_the_map_by_hand() -> None:
    described = contract(map_min=(0.0, 0.0, 0.0), map_max=(1.0, 2.0, 3.0))
    for position, metres in [
        ([0.5, 1.0, 2.0], 0.0),
        ([0.0, 2.0, 3.0], 0.0),
        ([1.5, 1.0, 1.0], 0.5),
        ([-3.0, 6.0, 1.0], 5.0),
        ([-1.0, 4.0, 5.0], 3.0),
    ]:
        assert described.metres_outside(np.array(position)) == metres


@given(st.lists(st.floats(-10, 10), min_size=3, max_size=3))
def test_no_point_of_the_map_is_nearer_than_the_metres_outside(position: list[float]) -> None:
    described = contract(map_min=(-1.0, 0.0, 2.0), map_max=(1.0, 0.5, 6.0))
    low, high = np.array(described.map_min), np.array(described.map_max)
    inside = low + np.random.default_rng(0).random((500, 3)) * (high - low)
    metres = described.metres_outside(np.array(position))
    assert (np.linalg.norm(inside - position, axis=1) >= metres - 1e-9).all()
    assert (metres == 0.0) == bool((position >= low).all() and (position <= high).all())


def test_the_training_camera_alone_is_refined() -> None:
    assert FULL.refined_camera is not None
    assert FULL.refined(FULL.training_camera) == FULL.refined_camera
    nearly = replace(FULL.training_camera, fx=FULL.training_camera.fx + 0.005)
    assert FULL.refined(nearly) == FULL.refined_camera
    another = replace(FULL.training_camera, fx=FULL.training_camera.fx + 1.0)
    assert FULL.refined(another) is another
    assert replace(FULL, refined_camera=None).refined(FULL.training_camera) is FULL.training_camera


# --- anything at all ---

NUMBERS = st.one_of(
    st.floats(), st.integers(), st.sampled_from([10**400, -(10**400), 2**63, 1e308, -1e308, 5e-324, -0.0])
)
JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBERS, st.text(max_size=20)),
    lambda inner: st.one_of(st.lists(inner, max_size=12), st.dictionaries(st.text(max_size=8), inner)),
    max_leaves=20,
)


@given(JSON)
def test_any_json_is_read_or_refused_in_one_line(content: object) -> None:
    with pytest.raises(ModelFileError) as raised:
        read(content)
    assert str(raised.value).startswith("expected ") and len(str(raised.value)) < 1000


def places_of(content: object, *path: str | int) -> list[tuple[str | int, ...]]:
    """Return the path of every value within JSON."""
    items: list[tuple[str | int, object]] = []
    if isinstance(content, dict):
        items = list(content.items())
    elif isinstance(content, list):
        items = list(enumerate(content))
    return [(*path, key) for key, _ in items] + [
        place for key, value in items for place in places_of(value, *path, key)
    ]


PLACES = places_of(content_of(FULL))


@given(st.sampled_from(PLACES), JSON)
@settings(max_examples=400)
def test_anything_in_the_place_of_anything_is_read_or_refused(place: tuple[Any, ...], value: object) -> None:
    expect_read_or_refused(place, value)


EXTREMES = [10**400, -(10**400), 2**63, 1e308, -1e308, 1e200, 5e-324, -5e-324, math.inf, math.nan, 0, -1]


@pytest.mark.parametrize("value", EXTREMES, ids=lambda value: str(value)[:10])
def test_any_extreme_number_in_the_place_of_a_number_is_read_or_refused(value: float) -> None:
    for place in PLACES:
        if type(value_at(place)) in (int, float):
            expect_read_or_refused(place, value)


def value_at(place: tuple[Any, ...]) -> object:
    inner: Any = content_of(FULL)
    for key in place:
        inner = inner[key]
    return inner


def expect_read_or_refused(place: tuple[Any, ...], value: object) -> None:
    """What is read can be worked with: all of it is finite, and it is written as it was read."""
    content = content_of(FULL)
    *above, last = place
    inner: Any = content
    for key in above:
        inner = inner[key]
    inner[last] = value
    try:
        described = read(content)
    except ModelFileError as error:
        assert "expected " in str(error) or " = " in str(error) or "other fields" in str(error)
        assert len(str(error)) < 1000
        return
    assert ModelContract.from_metadata(described.to_metadata()) == described
    assert np.isfinite(described.calibrated_covariance(np.eye(6))).all()
    assert math.isfinite(described.metres_outside(np.zeros(3)))
    assert min(described.grid_shape) >= 1
    json.loads(described.to_metadata()[METADATA_KEY], parse_constant=pytest.fail)


@given(st.data())
def test_cut_off_or_changed_text_is_read_or_refused(data: st.DataObject) -> None:
    text = FULL.to_metadata()[METADATA_KEY]
    begin = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(begin, min(begin + 40, len(text))))
    changed = text[:begin] + data.draw(st.text(max_size=20)) + text[end:]
    try:
        ModelContract.from_metadata({METADATA_KEY: changed})
    except ModelFileError as error:
        assert len(str(error)) < 1000
