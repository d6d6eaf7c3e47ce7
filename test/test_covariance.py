"""Covariances that consumers get: moved to the base by brute force, floors, positive definite."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from structpose_ros.covariance import CovarianceOptions, base_covariance, published_covariance
from structpose_ros.geometry import rotation_from_vector, rotation_vector, transform

seeds = st.integers(0, 2**32 - 1)


def random_case(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A covariance (6, 6), map_from_camera and camera_from_base."""
    random = np.random.default_rng(seed)
    factor = random.normal(size=(6, 6)) * 1e-3
    poses = [transform(rotation_from_vector(random.normal(size=3)), random.normal(size=3)) for _ in range(2)]
    return factor @ factor.T, poses[0], poses[1]


@given(seed=seeds)
def test_the_bases_covariance_is_that_of_disturbed_poses(seed: int) -> None:
    """Linear theory against the poses themselves, disturbed along each axis of the map."""
    covariance, map_from_camera, camera_from_base = random_case(seed)
    map_from_base = map_from_camera @ camera_from_base
    step = 1e-6
    jacobian = np.empty((6, 6))
    for axis in range(6):
        error = np.zeros(6)
        error[axis] = step
        disturbed = map_from_camera.copy()
        disturbed[:3, 3] += error[:3]
        disturbed[:3, :3] = rotation_from_vector(error[3:]) @ map_from_camera[:3, :3]
        disturbed_base = disturbed @ camera_from_base
        jacobian[:3, axis] = (disturbed_base[:3, 3] - map_from_base[:3, 3]) / step
        jacobian[3:, axis] = rotation_vector(disturbed_base[:3, :3] @ map_from_base[:3, :3].T) / step
    expected = jacobian @ covariance @ jacobian.T
    found = base_covariance(covariance, map_from_camera, camera_from_base)
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())


def test_a_base_one_metre_ahead_swings_sideways_as_the_camera_turns() -> None:
    """A rotation variance of 0.01 rad^2 about the map's z becomes 0.01 m^2 across, fully correlated."""
    covariance = np.zeros((6, 6))
    covariance[5, 5] = 0.01
    ahead = transform(np.eye(3), [1.0, 0.0, 0.0])
    found = base_covariance(covariance, np.eye(4), ahead)
    expected = np.zeros((6, 6))
    expected[1, 1] = expected[5, 5] = expected[1, 5] = expected[5, 1] = 0.01
    np.testing.assert_allclose(found, expected, atol=1e-15)


def test_without_a_base_nothing_changes() -> None:
    covariance, map_from_camera, _ = random_case(1)
    np.testing.assert_allclose(
        base_covariance(covariance, map_from_camera, np.eye(4)), covariance, rtol=1e-12
    )


@given(seed=seeds, position=st.floats(1e-4, 10), rotation=st.floats(1e-4, 3), scale=st.floats(1e-3, 100))
def test_floors_make_every_covariance_positive_definite(
    seed: int, position: float, rotation: float, scale: float
) -> None:
    """Also a singular one: no direction is better than its floor."""
    random = np.random.default_rng(seed)
    factor = random.normal(size=(6, 2))
    options = CovarianceOptions(scale, position, rotation)
    published = published_covariance(factor @ factor.T, options)
    np.testing.assert_array_equal(published, published.T)
    floor = min(position, rotation) ** 2
    assert np.linalg.eigvalsh(published).min() >= floor * (1 - 1e-6) - 1e-12 * np.abs(published).max()
    np.testing.assert_allclose(
        np.diag(published),
        scale * np.diag(factor @ factor.T) + np.repeat([position**2, rotation**2], 3),
        rtol=1e-12,
    )


def test_exact_data_gets_the_floors_alone() -> None:
    published = published_covariance(np.zeros((6, 6)), CovarianceOptions(1.0, 0.02, 0.05))
    np.testing.assert_allclose(np.sqrt(np.diag(published)), [0.02] * 3 + [0.05] * 3)
    assert np.count_nonzero(published) == 6


@pytest.mark.parametrize("floor", [0.01, 0.5])
def test_the_base_inherits_the_floors_of_the_camera(floor: float) -> None:
    """Floors are the camera's: a base away from it is at least as uncertain along every axis."""
    _, map_from_camera, camera_from_base = random_case(5)
    published = published_covariance(np.zeros((6, 6)), CovarianceOptions(1.0, floor, floor))
    moved = base_covariance(published, map_from_camera, camera_from_base)
    assert np.linalg.eigvalsh(moved - np.diag([floor**2] * 3 + [0.0] * 3)).min() >= -1e-12


def test_correlations_can_be_left_out() -> None:
    covariance, _, _ = random_case(2)
    options = CovarianceOptions(2.0, 0.01, 0.02, diagonal=True)
    published = published_covariance(covariance, options)
    full = published_covariance(covariance, CovarianceOptions(2.0, 0.01, 0.02))
    np.testing.assert_array_equal(published, np.diag(np.diag(full)))
