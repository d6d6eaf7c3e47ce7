"""Transforms and rotations: what goes in comes out, also where the usual formulas lose their digits."""

from __future__ import annotations

import math

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from structpose_ros import geometry

Array = npt.NDArray[np.float64]

component = st.floats(-1.0, 1.0)
directions = st.tuples(component, component, component).filter(lambda v: math.hypot(*v) > 0.1)
# Many angles close to 0 and to pi, where formulas break.
angles = st.one_of(
    st.floats(0.0, math.pi),
    st.floats(0.0, 1e-3),
    st.floats(0.0, 1e-3).map(lambda distance: math.pi - distance),
    st.sampled_from([0.0, 1e-12, 1e-9, 1e-8, 1e-7, 1e-5, math.pi - 1e-9, math.pi - 1e-7, math.pi]),
)
meters = st.floats(-1e3, 1e3)
translations = st.tuples(meters, meters, meters)


def vector(direction: tuple[float, float, float], angle: float) -> Array:
    return np.array(direction) / np.linalg.norm(direction) * angle


@given(directions, angles)
def test_rotation_vector_agrees_with_opencv_and_comes_back(
    direction: tuple[float, float, float], angle: float
) -> None:
    expected = vector(direction, angle)
    rotation = geometry.rotation_from_vector(expected)
    np.testing.assert_allclose(rotation, cv2.Rodrigues(expected)[0], rtol=0, atol=1e-14)
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-14)
    found = geometry.rotation_vector(rotation)
    assert np.linalg.norm(found) <= math.pi + 1e-12
    # At 180 degrees both signs of the axis are the same rotation.
    turned_round = found - 2 * math.pi * found / max(float(np.linalg.norm(found)), 1e-9)
    assert min(np.abs(found - expected).max(), np.abs(turned_round - expected).max()) < 1e-12


@given(directions, angles)
def test_quaternion_is_the_half_angle_one_and_comes_back(
    direction: tuple[float, float, float], angle: float
) -> None:
    rotation = geometry.rotation_from_vector(vector(direction, angle))
    quaternion = geometry.quaternion_from_rotation(rotation)
    assert abs(np.linalg.norm(quaternion) - 1.0) < 4e-15
    assert quaternion[3] >= 0
    expected = np.append(vector(direction, math.sin(angle / 2)), math.cos(angle / 2))
    # Near 180 degrees w is near 0 and its sign, with it the quaternion's, is a matter of rounding.
    assert min(np.abs(quaternion - expected).max(), np.abs(quaternion + expected).max()) < 1e-14
    np.testing.assert_allclose(geometry.rotation_from_quaternion(quaternion), rotation, atol=1e-14)
    np.testing.assert_allclose(geometry.rotation_from_quaternion(-7.0 * quaternion), rotation, atol=1e-14)


def test_quaternions_of_quarter_and_half_turns_are_in_ros_order() -> None:
    half = math.sqrt(0.5)
    about_z = np.array([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    np.testing.assert_allclose(geometry.quaternion_from_rotation(about_z), [0.0, 0.0, half, half], atol=1e-15)
    np.testing.assert_allclose(geometry.quaternion_from_rotation(np.eye(3)), [0.0, 0.0, 0.0, 1.0])
    for axis in range(3):
        turned = -np.eye(3)
        turned[axis, axis] = 1.0
        expected = np.zeros(4)
        expected[axis] = 1.0
        np.testing.assert_allclose(np.abs(geometry.quaternion_from_rotation(turned)), expected, atol=1e-15)


@pytest.mark.parametrize(
    "quaternion", [[0.0] * 4, [1e-13, 0, 0, 0], [math.nan, 0, 0, 1], [math.inf, 0, 0, 1]]
)
def test_a_quaternion_without_direction_is_refused(quaternion: list[float]) -> None:
    with pytest.raises(ValueError, match="expected a quaternion of length 1, got"):
        geometry.rotation_from_quaternion(quaternion)


@given(directions, angles)
def test_rotation_angle_keeps_its_digits_near_0_and_pi(
    direction: tuple[float, float, float], angle: float
) -> None:
    rotation = geometry.rotation_from_vector(vector(direction, angle))
    # acos of the trace would be off by 1e-8 at either end.
    assert abs(geometry.rotation_angle(rotation) - angle) < 1e-14


@given(directions, angles, translations)
def test_inverse_undoes_a_transform(
    direction: tuple[float, float, float], angle: float, translation: tuple[float, float, float]
) -> None:
    rotation = geometry.rotation_from_vector(vector(direction, angle))
    map_from_camera = geometry.transform(rotation, translation)
    np.testing.assert_array_equal(map_from_camera[3], [0.0, 0.0, 0.0, 1.0])
    np.testing.assert_allclose(geometry.invert(map_from_camera) @ map_from_camera, np.eye(4), atol=1e-11)
    np.testing.assert_allclose(geometry.invert(map_from_camera), np.linalg.inv(map_from_camera), atol=1e-10)
    points = np.arange(24.0).reshape(2, 4, 3)
    moved = geometry.transform_points(map_from_camera, points)
    assert moved.shape == points.shape
    np.testing.assert_allclose(moved[1, 2], rotation @ points[1, 2] + translation, atol=1e-10)
    np.testing.assert_allclose(
        geometry.transform_points(geometry.invert(map_from_camera), moved), points, atol=1e-10
    )


@given(directions, directions)
def test_skew_is_the_cross_product(a: tuple[float, float, float], b: tuple[float, float, float]) -> None:
    np.testing.assert_allclose(geometry.skew(a) @ b, np.cross(a, b), atol=1e-15)


@given(directions, angles, st.integers(0, 2**32 - 1))
def test_orthonormalize_returns_the_nearest_rotation(
    direction: tuple[float, float, float], angle: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    rotation = geometry.rotation_from_vector(vector(direction, angle))
    disturbed = rotation + rng.uniform(-0.01, 0.01, size=(3, 3))
    nearest = geometry.orthonormalize(disturbed)
    np.testing.assert_allclose(nearest @ nearest.T, np.eye(3), atol=1e-14)
    assert np.linalg.det(nearest) > 0
    for _ in range(10):
        other = geometry.rotation_from_vector(rng.normal(scale=1e-3, size=3)) @ nearest
        assert np.linalg.norm(other - disturbed) >= np.linalg.norm(nearest - disturbed)


def test_orthonormalize_of_a_reflection_is_a_rotation() -> None:
    np.testing.assert_allclose(geometry.orthonormalize(np.diag([1.0, 1.0, -0.5])), np.eye(3), atol=1e-15)


@given(directions, angles, translations)
def test_a_pose_rounded_to_text_is_read_as_the_rigid_transform(
    direction: tuple[float, float, float], angle: float, translation: tuple[float, float, float]
) -> None:
    expected = geometry.transform(geometry.rotation_from_vector(vector(direction, angle)), translation)
    found = geometry.rigid_from_matrix(np.round(expected, 4).tolist())
    np.testing.assert_allclose(found, expected, atol=2e-4)
    np.testing.assert_allclose(found[:3, :3] @ found[:3, :3].T, np.eye(3), atol=1e-14)


POSE = geometry.transform(geometry.rotation_from_vector([0.1, -0.2, 0.3]), [1.0, 2.0, 3.0])


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        (POSE[:3], r"expected a 4x4 pose matrix, got shape \(3, 4\)"),
        (np.where(POSE == 2.0, np.nan, POSE), "^expected a finite 4x4 pose matrix, got NaN or infinity$"),
        (np.where(POSE == 2.0, np.inf, POSE), "^expected a finite 4x4 pose matrix, got NaN or infinity$"),
        (POSE.T, r"expected 0 0 0 1 as the last row of a pose matrix, got \[1.0, 2.0, 3.0, 1.0\]"),
        (POSE * 2.0, "expected 0 0 0 1 as the last row of a pose matrix"),
        (POSE @ np.diag([1.0, 1.0, -1.0, 1.0]), "expected a rotation in the upper left 3x3 block"),
        (POSE @ np.diag([1.1, 1.1, 1.1, 1.0]), "expected a rotation .* off by 0.0"),
        (np.diag([0.0, 0.0, 0.0, 1.0]), "expected a rotation .* off by 1"),
    ],
)
def test_a_matrix_that_is_no_pose_is_refused(matrix: Array, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        geometry.rigid_from_matrix(matrix)


@given(directions, st.floats(0.0, math.pi))
def test_float32_is_taken_for_the_float64_that_it_is(
    direction: tuple[float, float, float], angle: float
) -> None:
    """Single precision in the middle of a computation would leave rotations that are none."""
    short = vector(direction, angle).astype(np.float32)
    rotation = geometry.rotation_from_vector(short)
    np.testing.assert_array_equal(rotation, geometry.rotation_from_vector(short.astype(np.float64)))
    rough = rotation.astype(np.float32)
    mended = geometry.orthonormalize(rough)
    np.testing.assert_allclose(mended @ mended.T, np.eye(3), atol=1e-14)
    quaternion = geometry.quaternion_from_rotation(rough)
    assert quaternion.dtype == np.float64
    assert abs(np.linalg.norm(quaternion) - 1.0) < 1e-15
    turned = geometry.rotation_from_quaternion(quaternion.astype(np.float32))
    np.testing.assert_allclose(turned @ turned.T, np.eye(3), atol=1e-14)


@pytest.mark.parametrize("length", [1e-9, 1e-12, 1e-13, 1e-100])
def test_the_smallest_rotation_keeps_its_vector(length: float) -> None:
    expected = length * np.array([0.6, -0.64, 0.48])
    rotation = geometry.rotation_from_vector(expected)
    np.testing.assert_allclose(geometry.rotation_vector(rotation), expected, rtol=1e-6)


def test_the_tolerance_on_a_rotation_is_what_decides() -> None:
    stretched = POSE @ np.diag([1.1, 1.1, 1.1, 1.0])
    np.testing.assert_allclose(geometry.rigid_from_matrix(stretched, tolerance=0.1), POSE, atol=1e-14)


@given(directions, angles, translations)
def test_pose_error_is_the_distance_and_the_angle_between_poses(
    direction: tuple[float, float, float], angle: float, translation: tuple[float, float, float]
) -> None:
    assume(math.hypot(*translation) > 1e-6)
    estimate = POSE.copy()
    estimate[:3, :3] = geometry.rotation_from_vector(vector(direction, angle)) @ POSE[:3, :3]
    estimate[:3, 3] += translation
    position, rotation = geometry.pose_error(estimate, POSE)
    assert position == pytest.approx(math.hypot(*translation), rel=1e-6)
    assert rotation == pytest.approx(math.degrees(angle), abs=1e-12)
    assert geometry.pose_error(POSE, estimate) == pytest.approx((position, rotation), abs=1e-12)


def test_unprojected_points_lie_on_their_rays_at_their_depth() -> None:
    rng = np.random.default_rng(5)
    rays = np.concatenate([rng.normal(size=(6, 8, 2)), np.ones((6, 8, 1))], axis=-1)
    depth = rng.uniform(0.5, 8.0, size=(6, 8)).astype(np.float32)
    points = geometry.unproject(depth, rays)
    assert points.dtype == np.float64
    assert points.shape == (6, 8, 3)
    np.testing.assert_array_equal(points[..., 2], depth.astype(np.float64))
    np.testing.assert_array_equal(points[2, 3], rays[2, 3] * np.float64(depth[2, 3]))
