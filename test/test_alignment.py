"""The pose solve: a truth is built and recovered, with noise, weights, outliers and degenerate sets."""

from __future__ import annotations

import math
import warnings
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from structpose_ros import alignment, compiled
from structpose_ros.alignment import (
    AlignmentFailure,
    AlignmentOptions,
    PoseEstimate,
    align,
    attempt,
    weighted_median,
)
from structpose_ros.compiled import weighted_summary
from structpose_ros.confidence import features
from structpose_ros.geometry import (
    pose_error,
    rotation_from_quaternion,
    rotation_from_vector,
    rotation_vector,
    skew,
    transform,
    transform_points,
)

Array = npt.NDArray[np.float64]

pytestmark = pytest.mark.usefixtures("each_implementation")

PLAIN = AlignmentOptions(robust_rounds=0)
ROBUST = AlignmentOptions(robust_rounds=5)
each_solve = pytest.mark.parametrize("options", [PLAIN, ROBUST], ids=["plain", "robust"])
MAP_FROM_CAMERA = transform(rotation_from_vector([0.7, -0.4, 1.2]), [3.0, -2.0, 1.0])

seeds = st.integers(0, 2**32 - 1)
components = st.floats(-math.pi / 2, math.pi / 2)
vectors = st.tuples(components, components, components)
meters = st.integers(-100_000, 100_000).map(lambda millimeters: millimeters / 1000)
positions = st.tuples(meters, meters, meters)


def scene(count: int, rng: np.random.Generator) -> Array:
    """Return points (count, 3) as a camera sees them in a room."""
    return rng.uniform([-1.5, -1.0, 1.0], [1.5, 1.0, 4.0], size=(count, 3))


def solved(outcome: PoseEstimate | AlignmentFailure) -> PoseEstimate:
    assert isinstance(outcome, PoseEstimate), outcome
    return outcome


def assert_proper(map_from_camera: Array) -> None:
    rotation = map_from_camera[:3, :3]
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(rotation) > 0
    np.testing.assert_array_equal(map_from_camera[3], [0.0, 0.0, 0.0, 1.0])


@given(vectors, positions, st.integers(6, 60), seeds, st.sampled_from([PLAIN, ROBUST]))
def test_exact_points_give_the_exact_pose(
    vector: tuple[float, float, float],
    position: tuple[float, float, float],
    count: int,
    seed: int,
    options: AlignmentOptions,
) -> None:
    rng = np.random.default_rng(seed)
    map_from_camera = transform(rotation_from_vector(vector), position)
    points = scene(count, rng)
    estimate = solved(align(points, transform_points(map_from_camera, points), np.ones(count), options))
    np.testing.assert_allclose(estimate.map_from_camera, map_from_camera, rtol=0, atol=1e-11)
    assert_proper(estimate.map_from_camera)
    assert estimate.residuals.max() < 1e-11
    assert estimate.inlier_ratio == 1.0
    assert estimate.effective_points == pytest.approx(count)
    assert np.abs(estimate.covariance).max() < 1e-20


@each_solve
def test_weights_may_differ_and_be_zero(options: AlignmentOptions) -> None:
    rng = np.random.default_rng(0)
    points = scene(50, rng)
    points_in_map = transform_points(MAP_FROM_CAMERA, points)
    weights = rng.uniform(0.1, 1.0, size=50)
    weights[10:30] = 0.0
    points_in_map[10:30] += 100.0
    estimate = solved(align(points, points_in_map, weights, options))
    np.testing.assert_allclose(estimate.map_from_camera, MAP_FROM_CAMERA, atol=1e-11)
    left = np.delete(weights, np.s_[10:30])
    assert estimate.inlier_ratio == 1.0
    assert estimate.effective_points == pytest.approx(left.sum() ** 2 / (left**2).sum())
    np.testing.assert_array_equal(estimate.weights[10:30], 0.0)


@each_solve
@pytest.mark.parametrize("nothing", [np.nan, np.inf, -np.inf, 1e30])
def test_a_point_without_weight_counts_for_nothing_whatever_it_holds(
    options: AlignmentOptions, nothing: float
) -> None:
    rng = np.random.default_rng(1)
    points = scene(40, rng)
    points_in_map = transform_points(MAP_FROM_CAMERA, points) + rng.normal(scale=0.02, size=(40, 3))
    weights = rng.uniform(0.1, 1.0, size=40)
    expected = solved(align(points, points_in_map, weights, options))

    filled_camera = np.concatenate([np.full((3, 3), nothing), points, np.ones((3, 3))])
    filled_map = np.concatenate([np.ones((3, 3)), points_in_map, np.full((3, 3), nothing)])
    filled_weights = np.concatenate([np.zeros(3), weights, np.zeros(3)])
    estimate = solved(align(filled_camera, filled_map, filled_weights, options))
    np.testing.assert_allclose(estimate.map_from_camera, expected.map_from_camera, atol=1e-13)
    np.testing.assert_allclose(estimate.covariance, expected.covariance, rtol=1e-9, atol=1e-16)
    assert estimate.inlier_ratio == pytest.approx(expected.inlier_ratio)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_and_counts_is_a_named_failure(bad: float) -> None:
    points = scene(40, np.random.default_rng(2))
    points_in_map = transform_points(MAP_FROM_CAMERA, points)
    for broken in range(3):
        values = [points.copy(), points_in_map.copy(), np.ones(40)]
        values[broken][7] = bad
        a, b, weights = values
        assert align(a, b, weights) is AlignmentFailure.NON_FINITE
    negative = np.ones(40)
    negative[3] = -1e-6
    assert align(points, points_in_map, negative) is AlignmentFailure.NON_FINITE


@each_solve
def test_all_weights_zero_is_a_named_failure(options: AlignmentOptions) -> None:
    points = scene(40, np.random.default_rng(3))
    assert align(points, points, np.zeros(40), options) is AlignmentFailure.ZERO_WEIGHTS
    nothing = np.zeros((0, 3))
    assert align(nothing, nothing, np.zeros(0), options) is AlignmentFailure.ZERO_WEIGHTS


def test_too_few_points_are_those_whose_effective_number_is_below_the_option() -> None:
    points = scene(40, np.random.default_rng(4))
    weights = np.zeros(40)
    weights[:6] = 0.3
    solved(align(points, points, weights, PLAIN))
    assert align(points[:5], points[:5], np.ones(5), PLAIN) is AlignmentFailure.TOO_FEW_POINTS
    weights[5] = 0.29  # 5.998 effective points
    assert align(points, points, weights, PLAIN) is AlignmentFailure.TOO_FEW_POINTS
    one_dominates = np.full(40, 1e-3)
    one_dominates[0] = 1.0
    assert align(points, points, one_dominates, PLAIN) is AlignmentFailure.TOO_FEW_POINTS
    three = align(points[:3], points[:3], np.ones(3), replace(PLAIN, min_effective_points=3.0))
    np.testing.assert_allclose(solved(three).map_from_camera, np.eye(4), atol=1e-12)


@given(vectors, positions, seeds, st.floats(1e-3, 1e3))
def test_points_on_a_line_are_a_named_failure_at_any_size(
    vector: tuple[float, float, float], position: tuple[float, float, float], seed: int, size: float
) -> None:
    rng = np.random.default_rng(seed)
    points = size * rng.uniform(-1.0, 1.0, size=(30, 1)) * rng.normal(size=3)
    map_from_camera = transform(rotation_from_vector(vector), np.multiply(position, size))
    points_in_map = transform_points(map_from_camera, points)
    assert align(points, points_in_map, np.ones(30)) is AlignmentFailure.COLLINEAR


@given(vectors, positions, seeds)
def test_points_on_one_spot_are_a_named_failure(
    vector: tuple[float, float, float], position: tuple[float, float, float], seed: int
) -> None:
    rng = np.random.default_rng(seed)
    spot = np.tile(position, (30, 1))
    spread = scene(30, rng)
    ulps = spot + rng.integers(-2, 3, size=(30, 3)) * np.spacing(np.abs(spot))
    rotation = rotation_from_vector(vector)
    for given_a, given_b in (
        (spot, spot @ rotation.T),
        (spot, spread),
        (spread, spot),
        (ulps, ulps @ rotation.T),
    ):
        assert align(given_a, given_b, np.ones(30)) is AlignmentFailure.COLLINEAR


@given(vectors, seeds, st.floats(1e-4, 1e4))
def test_the_size_of_the_scene_does_not_decide_whether_it_has_a_pose(
    vector: tuple[float, float, float], seed: int, size: float
) -> None:
    points = scene(30, np.random.default_rng(seed)) * size
    map_from_camera = transform(rotation_from_vector(vector), [3.0 * size, size, -size])
    estimate = solved(align(points, transform_points(map_from_camera, points), np.ones(30), PLAIN))
    np.testing.assert_allclose(estimate.map_from_camera[:3, :3], map_from_camera[:3, :3], atol=1e-12)
    np.testing.assert_allclose(estimate.map_from_camera[:3, 3] / size, [3.0, 1.0, -1.0], atol=1e-11)


@given(vectors, positions, seeds, st.sampled_from([PLAIN, ROBUST]))
def test_points_on_a_plane_have_a_pose(
    vector: tuple[float, float, float],
    position: tuple[float, float, float],
    seed: int,
    options: AlignmentOptions,
) -> None:
    points = scene(30, np.random.default_rng(seed))
    points[:, 2] = 2.0 + 0.3 * points[:, 0]
    map_from_camera = transform(rotation_from_vector(vector), position)
    estimate = solved(align(points, transform_points(map_from_camera, points), np.ones(30), options))
    np.testing.assert_allclose(estimate.map_from_camera, map_from_camera, atol=1e-11)
    assert_proper(estimate.map_from_camera)
    assert estimate.singular_values[2] < 1e-12 < estimate.singular_values[1]


def test_a_mirrored_set_gives_the_best_proper_rotation() -> None:
    # Spread 3 : 2 : 1 and mirrored along the thinnest axis: the best orthogonal matrix is the mirror,
    # the best rotation gives that axis up.
    points = np.array([[3.0, 0, 0], [-3, 0, 0], [0, 2, 0], [0, -2, 0], [0, 0, 1], [0, 0, -1]])
    mirrored = points * [1.0, 1.0, -1.0]
    rotation = MAP_FROM_CAMERA[:3, :3]
    estimate = solved(align(points, mirrored @ rotation.T + [1.0, 2.0, 3.0], np.ones(6), PLAIN))
    assert_proper(estimate.map_from_camera)
    np.testing.assert_allclose(estimate.map_from_camera, transform(rotation, [1.0, 2.0, 3.0]), atol=1e-12)
    np.testing.assert_allclose(estimate.residuals, [0, 0, 0, 0, 2, 2], atol=1e-12)
    np.testing.assert_allclose(estimate.singular_values, [3.0, 4.0 / 3.0, 1.0 / 3.0], atol=1e-12)


def horn(a: Array, b: Array, weights: Array) -> Array:
    """Return the rotation by Horn's quaternions (1987): another way to the same optimum, without an SVD."""
    s = (weights[:, None] * a).T @ b
    xx, xy, xz, yx, yy, yz, zx, zy, zz = s.ravel()
    matrix = np.array(
        [
            [xx + yy + zz, yz - zy, zx - xz, xy - yx],
            [yz - zy, xx - yy - zz, xy + yx, zx + xz],
            [zx - xz, xy + yx, yy - xx - zz, yz + zy],
            [xy - yx, zx + xz, yz + zy, zz - xx - yy],
        ]
    )
    w, x, y, z = np.linalg.eigh(matrix)[1][:, -1]
    return rotation_from_quaternion([x, y, z, w])


def noisy_set(seed: int) -> tuple[Array, Array, Array]:
    rng = np.random.default_rng(seed)
    points = scene(25, rng)
    points_in_map = transform_points(MAP_FROM_CAMERA, points) + rng.normal(scale=0.5, size=(25, 3))
    return points, points_in_map, rng.uniform(0.01, 1.0, size=25)


@given(seeds)
def test_it_agrees_with_horns_quaternions(seed: int) -> None:
    points, points_in_map, weights = noisy_set(seed)
    mean_a, mean_b = np.average(points, 0, weights), np.average(points_in_map, 0, weights)
    expected = horn(points - mean_a, points_in_map - mean_b, weights)
    map_from_camera = solved(align(points, points_in_map, weights, PLAIN)).map_from_camera
    np.testing.assert_allclose(map_from_camera[:3, :3], expected, atol=1e-10)
    np.testing.assert_allclose(map_from_camera[:3, 3], mean_b - expected @ mean_a, atol=1e-9)


@pytest.mark.parametrize("seed", range(10))
def test_it_agrees_with_scipy(seed: int) -> None:
    scipy_rotation = pytest.importorskip("scipy.spatial.transform").Rotation
    points, points_in_map, weights = noisy_set(seed)
    mean_a, mean_b = np.average(points, 0, weights), np.average(points_in_map, 0, weights)
    expected, _ = scipy_rotation.align_vectors(points_in_map - mean_b, points - mean_a, weights)
    map_from_camera = solved(align(points, points_in_map, weights, PLAIN)).map_from_camera
    np.testing.assert_allclose(map_from_camera[:3, :3], expected.as_matrix(), atol=1e-10)


@given(seeds, st.sampled_from([PLAIN, ROBUST]))
def test_a_whole_weight_is_that_many_points(seed: int, options: AlignmentOptions) -> None:
    rng = np.random.default_rng(seed)
    points = scene(30, rng)
    points_in_map = transform_points(MAP_FROM_CAMERA, points) + rng.normal(scale=0.2, size=(30, 3))
    counts = rng.integers(1, 5, size=30)
    weighted = solved(align(points, points_in_map, counts.astype(float), options))
    repeated = solved(
        align(
            np.repeat(points, counts, 0), np.repeat(points_in_map, counts, 0), np.ones(counts.sum()), options
        )
    )
    np.testing.assert_allclose(weighted.map_from_camera, repeated.map_from_camera, atol=1e-11)
    np.testing.assert_allclose(weighted.singular_values, repeated.singular_values, atol=1e-11)
    assert weighted.inlier_ratio == pytest.approx(repeated.inlier_ratio)


def test_the_pose_minimises_the_weighted_squares() -> None:
    rng = np.random.default_rng(6)
    points = scene(30, rng)
    points_in_map = transform_points(MAP_FROM_CAMERA, points) + rng.normal(scale=0.3, size=(30, 3))
    weights = rng.uniform(0.0, 1.0, size=30)

    def cost(map_from_camera: Array) -> float:
        difference = points_in_map - transform_points(map_from_camera, points)
        return float(weights @ (difference**2).sum(axis=1))

    best = solved(align(points, points_in_map, weights, PLAIN)).map_from_camera
    for _ in range(300):
        step = transform(rotation_from_vector(rng.normal(scale=1e-3, size=3)), rng.normal(scale=1e-3, size=3))
        assert cost(step @ best) > cost(best)


def outliers_of(share: float, rng: np.random.Generator) -> tuple[Array, Array, npt.NDArray[np.bool_]]:
    """Return 1000 points and their map points, 1 cm noise, of which `share` stand metres off to one side."""
    points = scene(1000, rng)
    points_in_map = transform_points(MAP_FROM_CAMERA, points) + rng.normal(scale=0.01, size=points.shape)
    wrong = rng.random(1000) < share
    points_in_map[wrong] += rng.uniform([0.5, -1.0, 0.0], [4.0, 1.0, 3.0], size=(int(wrong.sum()), 3))
    return points, points_in_map, wrong


@pytest.mark.parametrize("seed", range(5))
def test_robust_rounds_withstand_gross_outliers(seed: int) -> None:
    points, points_in_map, wrong = outliers_of(0.4, np.random.default_rng(seed))
    plain = solved(align(points, points_in_map, np.ones(1000), PLAIN))
    robust = solved(align(points, points_in_map, np.ones(1000), replace(ROBUST, robust_rounds=10)))
    assert pose_error(plain.map_from_camera, MAP_FROM_CAMERA)[0] > 0.3
    position, rotation = pose_error(robust.map_from_camera, MAP_FROM_CAMERA)
    assert position < 0.004
    assert rotation < 0.1
    assert robust.inlier_ratio == pytest.approx(1.0 - wrong.mean(), abs=0.01)
    assert robust.weights[wrong].max() < 0.01 * np.median(robust.weights[~wrong])
    np.testing.assert_array_equal(plain.weights, 1.0)


def test_every_robust_round_follows_its_formula() -> None:
    points, points_in_map, _ = outliers_of(0.2, np.random.default_rng(8))
    weights = np.random.default_rng(9).uniform(0.1, 1.0, size=1000)
    options = AlignmentOptions(robust_rounds=1, robust_scale=0.7, robust_floor=0.02)
    before = solved(align(points, points_in_map, weights, replace(options, robust_rounds=0)))
    squared = before.residuals**2
    scale = 0.7**2 * weighted_median(squared, weights) + 0.02**2
    expected = weights * (scale / (scale + squared)) ** 2
    after = solved(align(points, points_in_map, weights, options))
    np.testing.assert_allclose(after.weights, expected, rtol=1e-9)
    again = solved(align(points, points_in_map, expected, PLAIN))
    np.testing.assert_allclose(after.map_from_camera, again.map_from_camera, atol=1e-12)
    assert after.effective_points == pytest.approx(expected.sum() ** 2 / (expected**2).sum())


@given(st.lists(st.tuples(st.floats(-1e3, 1e3), st.integers(1, 5)), min_size=1, max_size=30))
def test_the_weighted_median_is_the_lower_median_of_the_repeated_values(
    drawn: list[tuple[float, int]],
) -> None:
    values, counts = np.array([value for value, _ in drawn]), np.array([count for _, count in drawn])
    repeated = np.sort(np.repeat(values, counts))
    assert weighted_median(values, counts.astype(float)) == repeated[(len(repeated) - 1) // 2]


def test_a_summary_of_known_values() -> None:
    values = np.array([3.0, 1.0, 2.0])
    assert weighted_summary(values, np.array([1.0, 3.0, 0.0])) == pytest.approx((4.0, 1.0, math.sqrt(3.0)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        nothing = weighted_summary(values, np.zeros(3))
    assert nothing[:2] == (0.0, 1.0)
    assert math.isnan(nothing.root_mean_square)


def test_inliers_are_counted_by_the_given_weight_up_to_the_threshold() -> None:
    # Two equal squares, one above the other by 2 e: the pose is exact, and every residual is e.
    square = np.array([[1.0, 1, 0], [1, -1, 0], [-1, 1, 0], [-1, -1, 0]])
    points = np.concatenate([square, square])
    e = np.array([0.0, 0.0, 0.25])
    points_in_map = np.concatenate([square + e, square - e])
    at_threshold = AlignmentOptions(robust_rounds=0, inlier_threshold=0.25)
    assert solved(align(points, points_in_map, np.ones(8), at_threshold)).inlier_ratio == 1.0
    below = replace(at_threshold, inlier_threshold=0.2499)
    assert solved(align(points, points_in_map, np.ones(8), below)).inlier_ratio == 0.0
    # The upper square of three times the weight: the pose moves up, residuals e / 2 and 3 e / 2.
    weights = np.repeat([3.0, 1.0], 4)
    estimate = solved(align(points, points_in_map, weights, at_threshold))
    np.testing.assert_allclose(estimate.residuals, np.repeat([0.125, 0.375], 4), atol=1e-12)
    assert estimate.inlier_ratio == pytest.approx(0.75)


NOISE = 0.05
TRIALS = 400


@pytest.mark.parametrize(
    ("options", "name"),
    [
        (PLAIN, "equal"),
        (PLAIN, "unequal"),
        (PLAIN, "of the noise"),
        (ROBUST, "equal"),
        (ROBUST, "unequal"),
        (ROBUST, "of the noise"),
        (ROBUST, "outliers"),
    ],
)
def test_the_covariance_is_that_of_repeated_trials(options: AlignmentOptions, name: str) -> None:
    rng = np.random.default_rng(10)
    points = scene(300, rng)
    exact = transform_points(MAP_FROM_CAMERA, points)
    deviation = rng.uniform(0.02, 0.15, size=300) if name == "of the noise" else np.full(300, NOISE)
    weights = {
        "equal": np.ones(300),
        "outliers": np.ones(300),
        "unequal": rng.uniform(0.05, 1.0, size=300),
        "of the noise": 1e-3 / deviation**2,
    }[name]
    errors, covariances = [], []
    for _ in range(TRIALS):
        noisy = exact + rng.normal(size=exact.shape) * deviation[:, None]
        if name == "outliers":
            wrong = rng.random(300) < 0.2
            noisy[wrong] += rng.normal(scale=2.0, size=(int(wrong.sum()), 3))
        estimate = solved(align(points, noisy, weights, options))
        turned = estimate.map_from_camera[:3, :3] @ MAP_FROM_CAMERA[:3, :3].T
        shifted = estimate.map_from_camera[:3, 3] - MAP_FROM_CAMERA[:3, 3]
        errors.append(np.concatenate([shifted, rotation_vector(turned)]))
        covariances.append(estimate.covariance)
    error = np.array(errors)
    empirical, claimed = error.T @ error / TRIALS, np.mean(covariances, axis=0)

    # Whitened by what is claimed, the empirical covariance of N trials is the identity with deviations of
    # sqrt(1 / N), on the diagonal sqrt(2 / N) = 0.07; the formula itself is exact for many points only. Mixed
    # up frames or order, or the plain solve's covariance after robust rounds, are off by far more.
    whiten = np.linalg.inv(np.linalg.cholesky(claimed))
    np.testing.assert_allclose(whiten @ empirical @ whiten.T, np.eye(6), atol=0.3)
    nees = np.mean([e @ np.linalg.solve(c, e) for e, c in zip(errors, covariances, strict=True)])
    assert nees == pytest.approx(6.0, abs=1.2)  # deviation of the mean: sqrt(12 / N) = 0.17


def test_the_covariance_of_a_plain_solve_is_the_textbook_one() -> None:
    rng = np.random.default_rng(11)
    points = scene(5000, rng)
    exact = transform_points(MAP_FROM_CAMERA, points)
    estimate = solved(align(points, exact + rng.normal(scale=NOISE, size=exact.shape), np.ones(5000), PLAIN))
    jacobian = np.zeros((5000, 3, 6))
    jacobian[:, :, :3] = np.eye(3)
    turned = points @ MAP_FROM_CAMERA[:3, :3].T
    for axis in range(3):
        jacobian[:, :, 3 + axis] = np.cross(np.eye(3)[axis], turned)
    rows = jacobian.reshape(-1, 6)
    expected = NOISE**2 * np.linalg.inv(rows.T @ rows)
    scale = np.sqrt(np.outer(np.diag(expected), np.diag(expected)))
    np.testing.assert_allclose(estimate.covariance / scale, expected / scale, atol=0.05)


@each_solve
def test_the_covariance_is_symmetric_and_positive(options: AlignmentOptions) -> None:
    rng = np.random.default_rng(12)
    for count in (12, 20, 100):
        points = scene(count, rng)
        noisy = transform_points(MAP_FROM_CAMERA, points) + rng.normal(scale=NOISE, size=points.shape)
        lenient = replace(options, min_effective_points=3.0)
        covariance = solved(align(points, noisy, rng.uniform(0.5, 1.0, size=count), lenient)).covariance
        np.testing.assert_array_equal(covariance, covariance.T)
        assert np.linalg.eigvalsh(covariance).min() > 0


@pytest.mark.parametrize("options", [PLAIN, ROBUST, replace(PLAIN, consensus_starts=8, refine_rounds=8)])
def test_the_scale_of_the_weights_is_irrelevant(options: AlignmentOptions) -> None:
    points, points_in_map, _ = outliers_of(0.2, np.random.default_rng(13))
    weights = np.random.default_rng(14).uniform(0.0, 1.0, size=1000)
    expected = solved(align(points, points_in_map, weights, options))
    for scale in (1e-300, 1e-160, 1e-30, 1e-12, 1e-3, 1e3, 1e12, 1e160, 1e300):
        found = solved(align(points, points_in_map, scale * weights, options))
        np.testing.assert_allclose(found.map_from_camera, expected.map_from_camera, atol=1e-12)
        np.testing.assert_allclose(found.covariance, expected.covariance, rtol=1e-9, atol=1e-14)
        np.testing.assert_allclose(found.weights, scale * expected.weights, rtol=1e-9)
        assert found.inlier_ratio == pytest.approx(expected.inlier_ratio)
        assert found.effective_points == pytest.approx(expected.effective_points)


@each_solve
def test_a_map_a_kilometre_off_its_origin_costs_no_accuracy(options: AlignmentOptions) -> None:
    rng = np.random.default_rng(15)
    points = scene(200, rng)
    noise = rng.normal(scale=0.02, size=points.shape)
    near = solved(align(points, transform_points(MAP_FROM_CAMERA, points) + noise, np.ones(200), options))
    far_from_camera = MAP_FROM_CAMERA.copy()
    far_from_camera[:3, 3] += [1000.0, -1000.0, 500.0]
    far = solved(align(points, transform_points(far_from_camera, points) + noise, np.ones(200), options))
    np.testing.assert_allclose(far.map_from_camera[:3, :3], near.map_from_camera[:3, :3], atol=1e-12)
    moved = far.map_from_camera[:3, 3] - near.map_from_camera[:3, 3]
    np.testing.assert_allclose(moved, [1000.0, -1000.0, 500.0], atol=1e-11)
    np.testing.assert_allclose(far.covariance, near.covariance, rtol=1e-6, atol=1e-14)


@each_solve
def test_the_same_points_give_the_same_bits_and_are_left_alone(options: AlignmentOptions) -> None:
    points, points_in_map, _ = outliers_of(0.3, np.random.default_rng(16))
    weights = np.random.default_rng(17).uniform(0.0, 1.0, size=1000)
    weights[::7] = 0.0
    given_values = (points, points_in_map, weights)
    before = tuple(value.copy() for value in given_values)
    for value in given_values:
        value.setflags(write=False)
    first = solved(align(*given_values, options))
    for _ in range(5):
        again = solved(align(*given_values, options))
        for name in ("map_from_camera", "residuals", "weights", "singular_values", "covariance"):
            assert getattr(again, name).tobytes() == getattr(first, name).tobytes()
        assert again.inlier_ratio == first.inlier_ratio
    for value, kept in zip(given_values, before, strict=True):
        np.testing.assert_array_equal(value, kept)


@settings(max_examples=30)
@given(seeds)
def test_float32_points_of_a_network_are_solved_in_float64(seed: int) -> None:
    rng = np.random.default_rng(seed)
    points = scene(500, rng).astype(np.float32)
    points_in_map = transform_points(MAP_FROM_CAMERA, points).astype(np.float32)
    weights = rng.uniform(0.0, 1.0, size=500).astype(np.float32)
    estimate = solved(align(points, points_in_map, weights, PLAIN))
    as_float64 = solved(
        align(points.astype(float), points_in_map.astype(float), weights.astype(float), PLAIN)
    )
    np.testing.assert_array_equal(estimate.map_from_camera, as_float64.map_from_camera)
    np.testing.assert_allclose(estimate.map_from_camera, MAP_FROM_CAMERA, atol=1e-6)


@pytest.mark.parametrize("shapes", [((5, 3), (4, 3), (5,)), ((5, 2), (5, 2), (5,)), ((5, 3), (5, 3), (5, 1))])
def test_shapes_that_do_not_match_are_refused(shapes: tuple[tuple[int, ...], ...]) -> None:
    with pytest.raises(ValueError, match=r"expected points \(N, 3\), \(N, 3\) and weights \(N,\), got"):
        a, b, weights = (np.ones(shape) for shape in shapes)
        align(a, b, weights)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"robust_rounds": -1}, "robust_rounds: expected 0 .. 100, got -1"),
        ({"robust_rounds": 101}, "robust_rounds: expected 0 .. 100, got 101"),
        ({"robust_scale": 0.0}, "robust_scale: expected a value above 0, up to 1e.09, got 0.0"),
        ({"robust_floor": -1.0}, "robust_floor: expected a value above 0, up to 1e.09, got -1.0"),
        ({"inlier_threshold": math.nan}, "inlier_threshold: expected a value above 0, up to 1e.09, got nan"),
        ({"min_spread": 0.0}, "min_spread: expected a value above 0, up to 1e.09, got 0.0"),
        ({"refine_to": math.inf}, "refine_to: expected a value above 0, up to 1e.09, got inf"),
        ({"robust_scale": 1e200}, "robust_scale: expected a value above 0, up to 1e.09, got 1e.200"),
        ({"min_effective_points": 2.9}, "min_effective_points: expected at least 3, up to 1e.09, got 2.9"),
        ({"min_effective_points": math.inf}, "min_effective_points: expected at least 3, up to .* got inf"),
    ],
)
def test_options_out_of_range_are_refused(changes: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AlignmentOptions(**changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [1e30, 1e45, 1e60, 1e70, 1e99, 1e120, 1e160, 1e300])
@pytest.mark.parametrize(
    "options", [AlignmentOptions(), AlignmentOptions(consensus_starts=4, refine_rounds=3)]
)
@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_points_beyond_all_measure_are_a_named_failure(
    size: float, options: AlignmentOptions, weight: float
) -> None:
    """A focal length of 1e-200 makes such; the work that goes on after a failure must bear them."""
    random = np.random.default_rng(0)
    a, b = size * random.uniform(1.0, 2.0, (2, 50, 3))
    a[:, 2] = random.uniform(1.0, 2.0, 50)
    with np.errstate(all="ignore"):
        outcome = align(a, b, np.full(50, weight), options)
    if weight == 0.0:
        assert outcome is AlignmentFailure.ZERO_WEIGHTS
    else:
        assert isinstance(outcome, AlignmentFailure) or np.isfinite(outcome.map_from_camera).all()


@pytest.mark.parametrize(("size_in_camera", "size_in_map"), [(1e-100, 1e80), (1e-160, 1.0)])
def test_a_pose_without_a_finite_covariance_is_none(size_in_camera: float, size_in_map: float) -> None:
    a, b = np.random.default_rng(0).uniform(1.0, 2.0, (2, 50, 3))
    with np.errstate(all="ignore"):
        outcome = align(size_in_camera * a, size_in_map * b, np.ones(50), PLAIN)
    assert outcome is AlignmentFailure.COLLINEAR


@pytest.mark.parametrize("count", [3, 4, 8])
def test_the_covariance_of_a_plain_solve_is_that_of_least_squares(count: int) -> None:
    """The textbook's: sum r^2 / (3 N - 6), times the inverse of J'J."""
    random = np.random.default_rng(count)
    a = random.uniform(-1.0, 1.0, (count, 3)) + [0.0, 0.0, 3.0]
    b = transform_points(transform(rotation_from_vector([0.3, -0.2, 1.0]), [1.0, 2.0, 3.0]), a)
    b += random.normal(0.0, 0.01, b.shape)
    found = align(a, b, np.ones(count), AlignmentOptions(robust_rounds=0, min_effective_points=3.0))
    assert isinstance(found, PoseEstimate)
    jacobian = np.concatenate([np.hstack([-np.eye(3), skew(q)]) for q in a @ found.map_from_camera[:3, :3].T])
    variance = (found.residuals**2).sum() / (3 * count - 6)
    np.testing.assert_allclose(found.covariance, variance * np.linalg.inv(jacobian.T @ jacobian), rtol=1e-7)


def test_where_the_robust_scale_leaves_no_curvature_the_covariance_is_bounded() -> None:
    """A scale of a tenth of the median residual: the influence's mean slope is below zero."""
    random = np.random.default_rng(4)
    a = scene(1000, random)
    b = transform_points(MAP_FROM_CAMERA, a) + random.normal(0.0, 0.1, a.shape)
    options = AlignmentOptions(robust_rounds=1, robust_scale=0.1, robust_floor=1e-6)
    found = solved(align(a, b, np.ones(1000), options))
    w, total = found.weights, found.weights.sum()
    assert (w * (4.0 * np.sqrt(w) - 1.0)).sum() < 0.0
    jacobians = [np.hstack([-np.eye(3), skew(q)]) for q in a @ found.map_from_camera[:3, :3].T]
    information = sum(weight * j.T @ j for weight, j in zip(w, jacobians, strict=True))
    freedom = found.effective_points / (found.effective_points - 2.0)
    variance = ((w * found.residuals) ** 2).sum() / 3.0 / (0.1 * total) ** 2 * freedom * total
    np.testing.assert_allclose(found.covariance, variance * np.linalg.inv(information), rtol=1e-7)


def test_points_that_are_all_behind_the_camera_have_no_weight_after_the_consensus() -> None:
    random = np.random.default_rng(2)
    a = random.uniform(-1.0, 1.0, (40, 3)) - [0.0, 0.0, 3.0]
    for refine_rounds in (0, 10):
        options = AlignmentOptions(consensus_starts=16, robust_rounds=0, refine_rounds=refine_rounds)
        assert align(a, a, np.ones(40), options) is AlignmentFailure.ZERO_WEIGHTS


def test_a_refinement_keeps_the_singular_values_of_the_solve_before() -> None:
    random = np.random.default_rng(3)
    a = random.uniform(-1.0, 1.0, (60, 3)) + [0.0, 0.0, 3.0]
    plain = align(a, a, np.ones(60), AlignmentOptions(robust_rounds=0))
    refined = align(a, a, np.ones(60), AlignmentOptions(robust_rounds=0, refine_rounds=3))
    assert isinstance(plain, PoseEstimate) and isinstance(refined, PoseEstimate)
    np.testing.assert_array_equal(refined.singular_values, plain.singular_values)


@pytest.mark.parametrize("options", [PLAIN, ROBUST, replace(PLAIN, refine_rounds=3)])
def test_single_precision_is_solved_in_double(options: AlignmentOptions) -> None:
    random = np.random.default_rng(5)
    a = scene(50, random)
    b = transform_points(MAP_FROM_CAMERA, a) + random.normal(0.0, 0.01, a.shape)
    single = [array.astype(np.float32) for array in (a, b, random.uniform(0.5, 1.0, 50))]
    expected = solved(align(*(array.astype(np.float64) for array in single), options))
    found = solved(align(*single, options))
    np.testing.assert_array_equal(found.map_from_camera, expected.map_from_camera)
    np.testing.assert_array_equal(found.covariance, expected.covariance)


def test_how_large_a_set_is_says_nothing_of_its_rotation() -> None:
    random = np.random.default_rng(6)
    a = scene(60, random)
    b = transform_points(MAP_FROM_CAMERA, a)
    for scale in (1e-13, 1e13):
        found = solved(align(scale * a, b, np.ones(60), PLAIN))
        np.testing.assert_allclose(found.map_from_camera[:3, :3], MAP_FROM_CAMERA[:3, :3], atol=1e-9)


@pytest.mark.parametrize("change", [{"consensus_starts": 1}, {"refine_rounds": 1}])
def test_one_start_and_one_round_are_not_none(change: dict[str, int]) -> None:
    random = np.random.default_rng(7)
    a = scene(80, random)
    b = transform_points(MAP_FROM_CAMERA, a) + random.normal(0.0, 0.02, a.shape)
    plain = solved(align(a, b, np.ones(80), PLAIN))
    changed = solved(align(a, b, np.ones(80), replace(PLAIN, **change)))
    assert np.abs(changed.weights - plain.weights).max() > 1e-3


@pytest.mark.parametrize("rounds", [0, 3])
@pytest.mark.parametrize("failure", ["ZERO_WEIGHTS", "TOO_FEW_POINTS", "COLLINEAR"])
def test_a_solve_that_fails_is_worked_out_to_the_end(failure: str, rounds: int) -> None:
    """So that a frame takes as long whatever the camera sees: there are facts to judge, if for nothing."""
    options = AlignmentOptions(refine_rounds=rounds, consensus_starts=rounds)
    points = np.random.default_rng(0).uniform([-1.0, -1.0, 1.0], [1.0, 1.0, 4.0], size=(40, 3))
    weights = np.ones(40)
    if failure == "ZERO_WEIGHTS":
        weights[:] = 0.0
    elif failure == "TOO_FEW_POINTS":
        weights[4:] = 0.0
    else:
        points = np.linspace(1.0, 2.0, 40)[:, None] * np.array([0.1, 0.2, 1.0])
    found = attempt(points, points + [1.0, 2.0, 3.0], weights, options)
    assert found.failure is AlignmentFailure[failure]
    assert found.outcome is align(points, points + [1.0, 2.0, 3.0], weights, options) is found.failure
    assert found.estimate is not None
    assert found.estimate.residuals.shape == (40,)
    assert np.isfinite(features(found.estimate, 0.0)).all()


@pytest.mark.parametrize("refined", [True, False])
def test_a_failure_of_the_refinement_alone_is_worked_out_as_well(
    refined: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Undetermined: there is an estimate all the same. Without a covariance there is none."""
    monkeypatch.setattr(compiled, "LIBRARY", None)
    points = np.random.default_rng(0).uniform([-1.0, -1.0, 1.0], [1.0, 1.0, 4.0], size=(40, 3))
    if refined:
        truth = alignment.refine
        monkeypatch.setattr(alignment, "refine", lambda *given: truth(*given)._replace(determined=False))
    else:

        def singular(*_: object) -> Array:
            raise np.linalg.LinAlgError("singular")

        monkeypatch.setattr(alignment, "_covariance_of_refined", singular)
    found = attempt(points, points + [1.0, 2.0, 3.0], np.ones(40), AlignmentOptions(refine_rounds=3))
    assert found.outcome is found.failure is AlignmentFailure.COLLINEAR
    assert (found.estimate is not None) == refined
    if found.estimate is not None:
        assert np.isfinite(features(found.estimate, 0.0)).all()
