"""The compiled loops of a frame against NumPy's and OpenCV's, which say what they compute."""

from __future__ import annotations

import importlib.machinery
import shutil
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from structpose_ros import compiled, consensus, kabsch, pixels, refinement
from structpose_ros.alignment import AlignmentOptions, PoseEstimate, align
from structpose_ros.geometry import rotation_from_vector, transform, transform_points

Array = npt.NDArray[np.float64]
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
        weights = np.round(weights, 1)  # equal ones, and some of 0
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


@needs_library
@settings(max_examples=100, deadline=None)
@given(scenes())
def test_the_closed_form_is_numpys(scene: tuple[Array, Array, Array]) -> None:
    expected = kabsch.kabsch(*scene)
    found = compiled.kabsch(*scene)
    np.testing.assert_allclose(found.rotation, expected.rotation, atol=1e-9)
    np.testing.assert_allclose(found.translation, expected.translation, atol=1e-8)
    np.testing.assert_allclose(
        found.singular_values, expected.singular_values, atol=1e-12 * expected.singular_values[0]
    )


@needs_library
@given(
    st.lists(st.tuples(st.floats(0.0, 9.0) | st.sampled_from([1.0, np.inf]), st.integers(0, 9)), min_size=1),
    st.integers(0, 3),
)
def test_the_weighted_median_is_numpys(pairs: list[tuple[float, int]], unknown: int) -> None:
    """Of whole weights, whose sums are exact; NaN counts as the largest, as in NumPy's order."""
    values = np.array([value for value, _ in pairs] + [np.nan] * unknown)
    weights = np.array([weight for _, weight in pairs] + [1] * unknown, dtype=np.float64)
    np.testing.assert_equal(
        compiled.weighted_median(values, weights), kabsch.weighted_median(values, weights)
    )


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

    def residual(rigid: kabsch.Rigid) -> float:
        difference = b - rigid.rotation @ a - rigid.translation[:, None]
        return float((weights * (difference**2).sum(axis=0)).sum())

    found, expected = compiled.kabsch(a, b, weights), kabsch.kabsch(a, b, weights)
    np.testing.assert_allclose(found.rotation.T @ found.rotation, np.eye(3), atol=1e-12)
    assert np.linalg.det(found.rotation) == pytest.approx(1.0)
    assert residual(found) == pytest.approx(residual(expected), abs=1e-12)
    np.testing.assert_allclose(found.singular_values, expected.singular_values, atol=1e-12)


@needs_library
@settings(max_examples=100, deadline=None)
@given(scenes(), st.integers(1, 20))
def test_the_consensus_is_numpys(scene: tuple[Array, Array, Array], starts: int) -> None:
    a, b, weights = scene
    np.testing.assert_allclose(
        compiled.consensus(a, b, weights, starts),
        consensus.consensus(a, b, weights, starts),
        rtol=1e-7,
        atol=1e-9,
    )


@needs_library
@settings(max_examples=100, deadline=None)
@given(scenes(least=1), st.integers(1, 20))
def test_the_consensus_of_a_few_takes_weight_and_adds_none(
    scene: tuple[Array, Array, Array], starts: int
) -> None:
    a, b, weights = scene
    found = compiled.consensus(a, b, weights, starts)
    assert (found >= 0.0).all()
    assert (found <= weights).all()
    assert (found[a[2] <= 0] == 0.0).all()


@needs_library
@settings(max_examples=100, deadline=None)
@given(scenes(), st.integers(1, 12))
def test_the_refinement_is_numpys(scene: tuple[Array, Array, Array], rounds: int) -> None:
    a, b, weights = scene
    pose = align(a.T, b.T, weights, AlignmentOptions())
    if not isinstance(pose, PoseEstimate):
        return
    start = pose.map_from_camera
    image_points = a[:2] / np.where(a[2] > 0, a[2], 1.0)
    ahead = np.where(a[2] > 0, weights, 0.0)
    given_ = (start[:3, :3], start[:3, 3], image_points, b, ahead, rounds, 0.25, 0.02)
    expected, found = refinement.refine(*given_), compiled.refine(*given_)
    assert found.determined == expected.determined
    for name in expected._fields[:-1]:
        value = getattr(expected, name)
        scale = np.abs(value[np.isfinite(value)]).max(initial=1.0)
        np.testing.assert_allclose(getattr(found, name), value, rtol=1e-6, atol=1e-7 * scale, err_msg=name)


@needs_library
@pytest.mark.parametrize("weights", [[0.0, 0.0, 0.0, 0.0], [1.0, 1.0, 0.0, 0.0]])
def test_too_few_matches_come_back_as_they_were(weights: list[float]) -> None:
    points = np.array([[0.0, 1.0, 0.0, 1.0], [0.0, 0.0, 1.0, 1.0], [1.0, 2.0, 3.0, -1.0]])
    given_ = np.array(weights)
    np.testing.assert_array_equal(compiled.consensus(points, points, given_, 4), given_)


@needs_library
def test_a_step_beyond_all_measure_is_none() -> None:
    """One whose squares overflow is no step of either: no sine can be taken of it."""
    random = np.random.default_rng(0)
    points = 1e156 * random.uniform([-1.0, -1.0, 1.0], [1.0, 1.0, 4.0], (12, 3)).T.copy()
    seen = 1e8 * random.uniform(-1.0, 1.0, (2, 12))
    arguments = (np.eye(3), np.zeros(3), seen, points, np.ones(12), 1, 1e9, 1e9)
    with np.errstate(all="ignore"):
        for refine in (compiled.refine, refinement.refine):
            found = refine(*arguments)
            assert not found.determined
            np.testing.assert_array_equal(found.rotation, np.eye(3))


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


@settings(max_examples=20, deadline=None)
@given(scenes())
def test_without_a_compiler_the_pose_is_the_same(scene: tuple[Array, Array, Array]) -> None:
    a, b, weights = scene
    found = align(a.T, b.T, weights, LANDMARKS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compiled, "LIBRARY", None)
        expected = align(a.T, b.T, weights, LANDMARKS)
    assert type(found) is type(expected)
    if isinstance(expected, PoseEstimate) and isinstance(found, PoseEstimate):
        np.testing.assert_allclose(found.map_from_camera, expected.map_from_camera, atol=1e-6)
        np.testing.assert_allclose(found.inlier_ratio, expected.inlier_ratio, atol=1e-6)
        smallest = 1e-18 + 1e-6 * np.abs(expected.covariance).max()  # exact matches have rounding alone
        np.testing.assert_allclose(found.covariance, expected.covariance, rtol=1e-4, atol=smallest)
    else:
        assert found == expected
