"""What `align` says of a pose that was refined on its rays, against the definitions of each figure."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest

from structpose_ros.alignment import AlignmentFailure, AlignmentOptions, PoseEstimate, align
from structpose_ros.geometry import invert, rotation_from_vector, transform, transform_points

Array = npt.NDArray[np.float64]
OPTIONS = AlignmentOptions(robust_rounds=2, refine_rounds=8, refine_from=0.2, refine_to=0.02)
MAP_FROM_CAMERA = transform(rotation_from_vector([0.7, -0.4, 1.2]), [3.0, -2.0, 1.0])


def matches(seed: int, count: int = 80, noise: float = 0.02) -> tuple[Array, Array, Array]:
    """Return points in the camera and in the map, with noise, and weights."""
    rng = np.random.default_rng(seed)
    points = rng.uniform([-1.5, -1.0, 1.0], [1.5, 1.0, 4.0], size=(count, 3))
    points_in_map = transform_points(MAP_FROM_CAMERA, points) + rng.normal(scale=noise, size=(count, 3))
    return points, points_in_map, rng.uniform(0.2, 1.0, count)


def refined(points: Array, points_in_map: Array, weights: Array, **changes: float) -> PoseEstimate:
    estimate = align(points, points_in_map, weights, replace(OPTIONS, **changes))  # type: ignore[arg-type]
    assert isinstance(estimate, PoseEstimate), estimate
    return estimate


def from_rays(estimate: PoseEstimate, points: Array, points_in_map: Array) -> tuple[Array, Array]:
    """Return the errors of the points in the image at z = 1, and their depths, under the estimate."""
    seen = transform_points(invert(estimate.map_from_camera), points_in_map)
    return seen[:, :2] / seen[:, 2:] - points[:, :2] / points[:, 2:], seen[:, 2]


@pytest.mark.parametrize("seed", range(3))
def test_residuals_inliers_and_effective_points_are_as_defined(seed: int) -> None:
    points, points_in_map, weights = matches(seed)
    estimate = refined(points, points_in_map, weights, inlier_threshold=0.03)
    errors, depths = from_rays(estimate, points, points_in_map)
    distances = np.linalg.norm(errors, axis=1) * depths
    np.testing.assert_allclose(estimate.residuals, distances, atol=1e-12)
    inliers = distances <= 0.03
    assert 10 < inliers.sum() < 70
    assert estimate.inlier_ratio == pytest.approx(weights[inliers].sum() / weights.sum())
    used = estimate.weights
    assert estimate.effective_points == pytest.approx(used.sum() ** 2 / (used**2).sum())
    assert 20 < estimate.effective_points < 80


def test_the_scale_of_the_weights_is_irrelevant() -> None:
    points, points_in_map, weights = matches(4)
    expected = refined(points, points_in_map, weights)
    for scale in (1e-9, 1e-3, 1e6):
        estimate = refined(points, points_in_map, scale * weights)
        np.testing.assert_allclose(estimate.map_from_camera, expected.map_from_camera, atol=1e-9)
        np.testing.assert_allclose(estimate.covariance, expected.covariance, rtol=1e-6)
        assert estimate.effective_points == pytest.approx(expected.effective_points)
        assert estimate.inlier_ratio == pytest.approx(expected.inlier_ratio)


def test_a_match_that_ends_up_behind_the_camera_leaves_the_covariance_finite() -> None:
    points, points_in_map, weights = matches(5)
    behind = points_in_map.copy()
    behind[:3] = transform_points(MAP_FROM_CAMERA, np.array([0.1, 0.1, -1.0]))
    estimate = refined(points, behind, weights)
    np.testing.assert_array_equal(estimate.weights[:3], 0.0)
    without = refined(points[3:], behind[3:], weights[3:])
    np.testing.assert_allclose(estimate.map_from_camera, without.map_from_camera, atol=1e-6)
    np.testing.assert_allclose(estimate.covariance, without.covariance, rtol=1e-3)


def test_too_few_are_those_that_the_refinement_leaves() -> None:
    """All sixty go into the closed form; half of them are far from their rays in the end."""
    points, points_in_map, _ = matches(6, count=60, noise=0.0)
    points_in_map[::2] += np.random.default_rng(7).normal(scale=0.5, size=(30, 3))
    options = replace(OPTIONS, robust_rounds=0, refine_to=0.001)
    few = align(points, points_in_map, np.ones(60), replace(options, min_effective_points=35.0))
    assert few is AlignmentFailure.TOO_FEW_POINTS
    enough = align(points, points_in_map, np.ones(60), replace(options, min_effective_points=25.0))
    assert isinstance(enough, PoseEstimate)
    assert enough.effective_points == pytest.approx(30.0, abs=0.5)


def test_options_may_be_at_their_bounds() -> None:
    options = AlignmentOptions(consensus_starts=100, robust_rounds=100, refine_rounds=100)
    assert options.refine_rounds == 100
    for name in (
        "robust_scale",
        "robust_floor",
        "inlier_threshold",
        "min_spread",
        "refine_from",
        "refine_to",
    ):
        assert getattr(AlignmentOptions(**{name: 1e9}), name) == 1e9  # type: ignore[arg-type]
    assert AlignmentOptions(min_effective_points=1e9).min_effective_points == 1e9
    assert AlignmentOptions(min_effective_points=3).min_effective_points == 3
    with pytest.raises(ValueError, match="min_effective_points"):
        AlignmentOptions(min_effective_points=math.nextafter(1e9, math.inf))
