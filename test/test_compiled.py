"""The compiled loops of a frame against NumPy's and OpenCV's, which say what they compute."""

from __future__ import annotations

import importlib.machinery
import math
import shutil
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from structpose_ros import compiled, kabsch, pixels
from structpose_ros.alignment import AlignmentOptions, Attempt, PoseEstimate, attempt
from structpose_ros.camera import COEFFICIENTS, Camera
from structpose_ros.geometry import rotation_from_vector, transform, transform_points

Array = npt.NDArray[np.float64]
CLOSED_FORM = AlignmentOptions(robust_rounds=0)
LANDMARKS = AlignmentOptions(consensus_starts=16, robust_rounds=0, refine_rounds=10)

needs_library = pytest.mark.skipif(
    compiled.LIBRARY is None and not (shutil.which("c++") or shutil.which("g++") or shutil.which("cc")),
    reason="no C++ compiler here",
)


@st.composite
def scenes(draw: st.DrawFn, least: int = 40) -> tuple[Array, Array, Array]:
    """Camera points (3, N) and map points (3, N) of which some are wrong, behind or without depth; weights.

    Of fewer than `least` none may decide: two poses can then be equally good but for rounding.
    """
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    count = draw(st.integers(least, 400))
    rays = np.column_stack([random.uniform(-0.7, 0.7, (count, 2)), np.ones(count)])
    in_camera = rays * random.uniform(0.6, 6.0, count)[:, None]
    map_from_camera = transform(rotation_from_vector(random.normal(size=3)), random.uniform(-4.0, 4.0, 3))
    in_map = transform_points(map_from_camera, in_camera)
    in_camera *= 1.0 + draw(st.sampled_from([0.0, 0.03])) * random.normal(size=(count, 1))
    wrong = random.random(count) < draw(st.sampled_from([0.0, 0.3, 0.6]))
    in_map[wrong] = random.uniform(in_map.min(axis=0), in_map.max(axis=0), (wrong.sum(), 3))
    in_camera[random.random(count) < 0.05] *= draw(st.sampled_from([1.0, 0.0, -1.0]))
    weights = random.random(count) ** 2
    if draw(st.booleans()):
        weights = np.round(8.0 * weights) / 8.0  # equal ones, some of 0; any sum of them is exact
    return np.ascontiguousarray(in_camera.T), np.ascontiguousarray(in_map.T), weights


@needs_library
def test_it_was_built() -> None:
    assert compiled.LIBRARY is not None


@needs_library
def test_a_library_of_another_machine_or_release_is_left_alone(tmp_path: Path) -> None:
    assert compiled.load(tmp_path) is None
    suffix = importlib.machinery.EXTENSION_SUFFIXES[0]
    built = (Path(compiled.__file__).parent / f"_native{suffix}").read_bytes()
    copy = tmp_path / f"_native{suffix}"
    copy.write_bytes(b"of another machine")
    assert compiled.load(tmp_path) is None
    other = tmp_path / "other"
    other.mkdir()
    (other / copy.name).write_bytes(built.replace(b"structpose_native_version", b"structpose_native_edition"))
    assert compiled.load(other) is None
    same = tmp_path / "same"
    same.mkdir()
    (same / copy.name).write_bytes(built)
    assert compiled.load(same) is not None


def both(a: Array, b: Array, weights: Array, options: AlignmentOptions) -> tuple[Attempt, Attempt]:
    """Attempt a solve of points (3, N) with the library and without it."""
    with pytest.MonkeyPatch.context() as patch, np.errstate(all="ignore"):
        found = attempt(a.T, b.T, weights, options)
        patch.setattr(compiled, "LIBRARY", None)
        return found, attempt(a.T, b.T, weights, options)


def assert_same(found: Attempt, expected: Attempt, tolerance: float) -> None:
    """All numbers of two estimates, each by the largest of its kind."""
    assert found.failure == expected.failure
    if expected.estimate is None or found.estimate is None:
        assert found.estimate is expected.estimate
        return
    for item in fields(PoseEstimate):
        value = np.asarray(getattr(expected.estimate, item.name))
        # Residuals and covariance of exact points are rounding: they are measured by what they would be.
        scale = 1.0 if item.name == "residuals" else 1e-5 if item.name == "covariance" else 0.0
        scale = max(scale, np.abs(value[np.isfinite(value)]).max(initial=0.0))
        np.testing.assert_allclose(
            getattr(found.estimate, item.name), value, rtol=0, atol=tolerance * scale, err_msg=item.name
        )


SOLVES = {
    "closed form": (CLOSED_FORM, 1e-11),
    "robust": (AlignmentOptions(), 1e-9),
    "consensus": (replace(CLOSED_FORM, consensus_starts=7), 1e-8),
    "consensus and robust": (AlignmentOptions(consensus_starts=20, robust_rounds=2), 1e-8),
    "refined": (replace(CLOSED_FORM, refine_rounds=1), 1e-8),
    "robust and refined": (AlignmentOptions(refine_rounds=8, refine_to=0.02), 1e-6),
    "landmarks": (LANDMARKS, 1e-6),
}


@needs_library
@pytest.mark.parametrize("name", SOLVES)
@settings(max_examples=60, deadline=None)
@given(scene=scenes())
def test_the_solve_is_numpys(name: str, scene: tuple[Array, Array, Array]) -> None:
    options, tolerance = SOLVES[name]
    assert_same(*both(*scene, options), tolerance)


@needs_library
@settings(max_examples=60, deadline=None)
@given(scenes(least=1), st.integers(1, 20))
def test_the_consensus_of_a_few_takes_weight_and_adds_none(
    scene: tuple[Array, Array, Array], starts: int
) -> None:
    a, b, weights = scene
    found = attempt(a.T, b.T, weights, replace(CLOSED_FORM, consensus_starts=starts))
    if found.failure is None and found.estimate is not None:
        left = found.estimate.weights
        assert (left >= 0.0).all()
        assert (left <= weights).all()
        assert (left[a[2] <= 0] == 0.0).all()


@needs_library
@pytest.mark.parametrize("options", [CLOSED_FORM, LANDMARKS])
@pytest.mark.parametrize("weights", [[0.0, 0.0, 0.0, 0.0], [1.0, 1.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0]])
def test_of_too_few_points_the_same_is_said_and_worked_out(
    weights: list[float], options: AlignmentOptions
) -> None:
    points = np.array([[0.0, 1.0, 0.0, 1.0], [0.0, 0.0, 1.0, 1.0], [1.0, 2.0, 3.0, -1.0]])
    found, expected = both(points, points, np.array(weights), options)
    assert found.failure is expected.failure is not None
    assert found.estimate is not None and expected.estimate is not None
    np.testing.assert_array_equal(found.estimate.weights, expected.estimate.weights)
    np.testing.assert_array_equal(found.estimate.covariance, np.zeros((6, 6)))
    np.testing.assert_array_equal(expected.estimate.covariance, np.zeros((6, 6)))
    assert found.estimate.effective_points == pytest.approx(expected.estimate.effective_points)


@needs_library
@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("dimensions", [0, 1, 2, 3])
def test_flat_thin_and_mirrored_sets_give_a_rotation_with_the_least_residual(
    dimensions: int, mirrored: bool
) -> None:
    """Points of a plane, a line, a point: what is open is left to either, what is not is the same."""
    random = np.random.default_rng(dimensions)
    a = random.normal(size=(3, 20)) * (np.arange(3) < dimensions)[:, None]
    b = rotation_from_vector([0.4, -1.0, 2.0]) @ a * (-1.0 if mirrored else 1.0)
    weights = random.random(20)
    found, expected = (outcome.estimate for outcome in both(a, b, weights, CLOSED_FORM))
    assert found is not None and expected is not None
    rotation = found.map_from_camera[:3, :3]
    np.testing.assert_allclose(rotation.T @ rotation, np.eye(3), atol=1e-12)
    assert np.linalg.det(rotation) == pytest.approx(1.0)
    squares = [float(weights @ estimate.residuals**2) for estimate in (found, expected)]
    assert squares[0] == pytest.approx(squares[1], abs=1e-12)
    np.testing.assert_allclose(found.singular_values, expected.singular_values, atol=1e-12)


@needs_library
@pytest.mark.parametrize("options", [CLOSED_FORM, AlignmentOptions(), LANDMARKS])
@pytest.mark.parametrize("place", ["camera", "map", "weights"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -1.0, 1e110])
@pytest.mark.parametrize("weighted", [0, 1, 40])
def test_what_no_solve_can_take_is_refused_by_both(
    options: AlignmentOptions, place: str, value: float, weighted: int
) -> None:
    """In a point that has weight, in one that has none, and where none has any."""
    random = np.random.default_rng(3)
    a = random.uniform([-1.0, -1.0, 1.0], [1.0, 1.0, 4.0], (40, 3)).T.copy()
    b, weights = a + 1.0, (np.arange(40) < weighted).astype(np.float64)
    if place == "weights":
        weights[0] = value
    else:
        (a if place == "camera" else b)[0, 0] = value
    found, expected = both(a, b, weights, options)
    assert found.failure == expected.failure
    assert (found.estimate is None) == (expected.estimate is None)


@needs_library
def test_the_options_are_all_handed_over() -> None:
    """By their names; one that the library didn't know would be without effect."""
    names = {name for name, _ in compiled._Options._fields_}
    assert names == {item.name for item in fields(AlignmentOptions)}


@needs_library
@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.tuples(st.floats(-2.0, 9.0) | st.floats() | st.sampled_from([1.0, -0.0]), st.integers(0, 9)),
        min_size=1,
    )
)
def test_the_weighted_median_is_numpys(pairs: list[tuple[float, int]]) -> None:
    """Of whole weights, whose sums are exact; NaN counts as the largest, as in NumPy's order."""
    values = np.array([value for value, _ in pairs])
    weights = np.array([weight for _, weight in pairs], dtype=np.float64)
    found, expected = compiled.weighted_median(values, weights), kabsch.weighted_median(values, weights)
    assert found == expected or (math.isnan(found) and math.isnan(expected))


@needs_library
@pytest.mark.parametrize("weights", ["ones", "any", "one has most", "none"])
@pytest.mark.parametrize("count", [1, 2, 3, 1000, 1001])
@pytest.mark.parametrize("spread", [1e-300, 1e-3, 1.0, 1e300])
def test_the_weighted_median_of_many_is_numpys(spread: float, count: int, weights: str) -> None:
    random = np.random.default_rng(count)
    values = spread * random.normal(size=count)
    given_ = np.ones(count)
    if weights == "any":
        given_ = random.random(count)
    elif weights == "one has most":
        given_[count // 2] = 10.0 * count
    elif weights == "none":
        given_ = np.zeros(count)
    assert compiled.weighted_median(values, given_) == kabsch.weighted_median(values, given_)


@needs_library
@settings(max_examples=60, deadline=None)
@given(scenes(least=1), st.sampled_from([1.0, 0.0, 1e-170, 1e170]))
def test_the_summary_is_numpys(scene: tuple[Array, Array, Array], size: float) -> None:
    values, weights = scene[0][2], size * scene[2]
    found, expected = compiled.weighted_summary(values, weights), kabsch.weighted_summary(values, weights)
    assert found == pytest.approx(expected, rel=1e-12, nan_ok=True)


@needs_library
@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(["plumb_bob", "rational_polynomial", "equidistant"]),
    st.floats(0.2, 1.5),
    st.lists(st.floats(-0.3, 0.3), min_size=8, max_size=8),
)
def test_the_rays_through_a_lens_are_numpys(model: str, focal_length: float, drawn: list[float]) -> None:
    count = COEFFICIENTS[model][-1]
    coefficients = tuple(
        0.01 * value if model != "equidistant" and place in (2, 3) else value
        for place, value in enumerate(drawn[:count])
    )
    camera = Camera(64, 48, 64 * focal_length, 64 * focal_length, 31.0, 23.0, model, coefficients)
    found = camera.ray_grid(2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compiled, "LIBRARY", None)
        expected = camera.ray_grid(2)
    # At the very end of the reach rounding decides which of the two finds a ray.
    both_found = np.isfinite(found) & np.isfinite(expected)
    assert (np.isfinite(found) == np.isfinite(expected)).mean() > 0.999
    np.testing.assert_allclose(found[both_found], expected[both_found], rtol=1e-7)


@st.composite
def images(draw: st.DrawFn) -> npt.NDArray[np.uint8]:
    """RGB as cameras send it: rows with or without something behind them, cut out, upside down, mirrored."""
    height, width = draw(st.integers(1, 9)), draw(st.integers(1, 100))
    padding = draw(st.integers(0, 7))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    rows = random.integers(0, 256, (height, 3 * width + padding), dtype=np.uint8)
    image = rows[:, : 3 * width].reshape(height, width, 3) if padding == 0 else _view_of(rows, width)
    step_y, step_x, step_channel = (draw(st.sampled_from([1, -1])) for _ in range(3))
    return image[::step_y, ::step_x, ::step_channel]


def _view_of(rows: npt.NDArray[np.uint8], width: int) -> npt.NDArray[np.uint8]:
    strides = (rows.strides[0], 3, 1)
    return np.ndarray((len(rows), width, 3), np.uint8, buffer=rows, strides=strides)


@needs_library
@settings(max_examples=100, deadline=None)
@given(images())
def test_the_planes_are_opencvs(image: npt.NDArray[np.uint8]) -> None:
    scale, shift = np.float32([0.017, 0.25, 1.0]), np.float32([-2.1, 0.0, 128.0])
    expected, found = np.full((2, 3, *image.shape[:2]), np.nan, dtype=np.float32)
    pixels.scaled_planes(image, scale, shift, expected)
    compiled.scaled_planes(image, scale, shift, found)
    for channel in range(3):
        numbers = image[..., channel] * np.float64(scale[channel]) + shift[channel]
        np.testing.assert_allclose(expected[channel], numbers, rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(found[channel], numbers, rtol=1e-6, atol=1e-6)


def test_planes_of_another_size_are_refused() -> None:
    """Not written beyond."""
    image, ones = np.zeros((4, 6, 3), dtype=np.uint8), np.ones(3, dtype=np.float32)
    for shape in ((3, 4, 5), (3, 6, 4), (2, 4, 6)):
        with pytest.raises(ValueError, match=r"expected planes \(3, 4, 6\), got"):
            compiled.scaled_planes(image, ones, ones, np.zeros(shape, dtype=np.float32))
