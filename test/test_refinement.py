"""Gauss-Newton on the reprojection error: a known pose is recovered, its covariance is what errors show."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from structpose_ros import alignment, compiled, refinement
from structpose_ros.alignment import AlignmentFailure, AlignmentOptions, PoseEstimate, align
from structpose_ros.geometry import (
    invert,
    pose_error,
    rotation_from_vector,
    skew,
    transform,
    transform_points,
)
from structpose_ros.refinement import DAMPING, NEAREST, Refined, refine

pytestmark = pytest.mark.usefixtures("each_implementation")

REFINED = AlignmentOptions(robust_rounds=5, refine_rounds=10, refine_from=0.12, refine_to=0.02)


def scene(seed: int, count: int = 300) -> tuple[np.random.Generator, np.ndarray, np.ndarray, np.ndarray]:
    """Return a generator, map_from_camera, points in the camera (N, 3) and the same points in the map."""
    random = np.random.default_rng(seed)
    map_from_camera = transform(
        rotation_from_vector(random.uniform(-2.0, 2.0, 3)), random.uniform(-3.0, 3.0, 3)
    )
    depth = random.uniform(0.8, 4.0, count)
    rays = np.column_stack([random.uniform(-0.6, 0.6, (count, 2)), np.ones(count)])
    points_in_camera = rays * depth[:, None]
    return random, map_from_camera, points_in_camera, transform_points(map_from_camera, points_in_camera)


def estimate_of(outcome: PoseEstimate | AlignmentFailure) -> PoseEstimate:
    assert isinstance(outcome, PoseEstimate)
    return outcome


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000))
def test_depth_that_is_off_by_a_scale_does_not_matter(seed: int) -> None:
    random, map_from_camera, a, b = scene(seed)
    rough = a * random.uniform(0.85, 1.15, (len(a), 1))
    plain = estimate_of(align(rough, b, np.ones(len(a)), AlignmentOptions()))
    refined = estimate_of(align(rough, b, np.ones(len(a)), REFINED))
    assert pose_error(plain.map_from_camera, map_from_camera)[0] > 1e-4
    position, rotation = pose_error(refined.map_from_camera, map_from_camera)
    assert position < 1e-6
    assert rotation < 1e-5
    assert refined.inlier_ratio == 1.0
    np.testing.assert_allclose(refined.residuals, 0.0, atol=1e-6)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000))
def test_a_third_of_gross_outliers_is_left_out(seed: int) -> None:
    random, map_from_camera, a, b = scene(seed)
    wrong = random.permutation(len(a))[: len(a) // 3]
    b[wrong] = transform_points(map_from_camera, random.uniform(-3.0, 3.0, (len(wrong), 3)))
    a *= random.uniform(0.92, 1.08, (len(a), 1))
    refined = estimate_of(align(a, b, np.ones(len(a)), REFINED))
    position, rotation = pose_error(refined.map_from_camera, map_from_camera)
    assert position < 0.005
    assert rotation < 0.2


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.floats(-3.0, 3.0))
def test_the_pose_moves_with_the_map(seed: int, angle: float) -> None:
    random, _, a, b = scene(seed)
    b += random.normal(0.0, 0.02, b.shape)
    other_from_map = transform(rotation_from_vector([0.3 * angle, angle, -angle]), [4.0, -2.0, 1.0])
    here = estimate_of(align(a, b, np.ones(len(a)), REFINED))
    there = estimate_of(align(a, transform_points(other_from_map, b), np.ones(len(a)), REFINED))
    np.testing.assert_allclose(there.map_from_camera, other_from_map @ here.map_from_camera, atol=1e-8)
    turned = np.kron(np.eye(2), other_from_map[:3, :3])
    np.testing.assert_allclose(there.covariance, turned @ here.covariance @ turned.T, rtol=1e-5, atol=1e-12)


def test_the_covariance_is_that_of_the_errors() -> None:
    """1000 poses from image noise of 0.004: the normalised squared error has the mean of chi-square 6."""
    nees = []
    for seed in range(1000):
        random, map_from_camera, a, b = scene(seed, count=60)
        a[:, :2] += random.normal(0.0, 0.004, (len(a), 2)) * a[:, 2:]
        found = estimate_of(align(a, b, np.ones(len(a)), REFINED))
        error = found.map_from_camera @ invert(map_from_camera)
        rotation = error[:3, :3]
        theta = 0.5 * np.array(
            [
                rotation[2, 1] - rotation[1, 2],
                rotation[0, 2] - rotation[2, 0],
                rotation[1, 0] - rotation[0, 1],
            ]
        )
        moved = np.concatenate([found.map_from_camera[:3, 3] - map_from_camera[:3, 3], theta])
        nees.append(moved @ np.linalg.solve(found.covariance, moved))
    assert np.mean(nees) == pytest.approx(6.0, rel=0.1)


def test_a_round_is_newtons_step_on_exact_data() -> None:
    """The error after a round falls with the square of the one before: the Jacobian is exact."""
    _, map_from_camera, a, b = scene(3)
    start = map_from_camera @ transform(rotation_from_vector([0.01, -0.02, 0.01]), [0.02, 0.01, -0.03])
    errors = []
    for rounds in (1, 2, 3):
        found = refine(
            start[:3, :3], start[:3, 3], a.T[:2] / a.T[2], b.T, np.ones(len(a)), rounds, 10.0, 10.0
        )
        errors.append(float(np.linalg.norm(found.translation - map_from_camera[:3, 3])))
    assert errors[0] < 2e-3
    assert errors[1] < 2e-3 * errors[0]


def test_a_start_that_is_far_off_ends_at_the_truth() -> None:
    """0.6 m and 15 degrees off, with two thirds of the points wrong: hardly ever elsewhere."""
    ended = 0
    for seed in range(100):
        random, map_from_camera, a, b = scene(seed, count=600)
        wrong = random.permutation(len(a))[:400]
        anywhere = random.uniform([-3.0, -2.0, 0.3], [3.0, 2.0, 5.0], (400, 3))
        b[wrong] = transform_points(map_from_camera, anywhere)
        direction = random.normal(size=(2, 3))
        direction /= np.linalg.norm(direction, axis=1, keepdims=True)
        start = map_from_camera @ transform(
            rotation_from_vector(np.radians(15.0) * direction[0]), 0.6 * direction[1]
        )
        image_points = a.T[:2] / a.T[2]
        found = refine(start[:3, :3], start[:3, 3], image_points, b.T, np.ones(len(a)), 15, 0.25, 0.008)
        position, rotation = pose_error(transform(found.rotation, found.translation), map_from_camera)
        ended += position < 0.01 and rotation < 0.3
    assert ended >= 95


def test_two_rounds_are_two_steps_of_gauss_newton() -> None:
    """Point by point, as the module says it: the first weighs errors in metres, each is damped by blocks."""
    random, map_from_camera, a, b = scene(21, count=40)
    u, v = a.T[:2] / a.T[2] + random.normal(0.0, 0.01, (2, 40))
    weights = random.uniform(0.1, 1.0, 40)
    pose = map_from_camera @ transform(rotation_from_vector([0.1, -0.2, 0.05]), [0.3, 0.1, -0.2])
    start = pose.copy()
    for in_metres, scale in ((True, 0.5), (False, 0.1)):
        matrix, gradient = np.zeros((6, 6)), np.zeros(6)
        for i, (x, y, z) in enumerate(transform_points(invert(pose), b)):
            error = np.array([x / z - u[i], y / z - v[i]])
            weight = weights[i] * (scale**2 / (scale**2 + error @ error)) ** 2 * (z**2 if in_metres else 1.0)
            # A step moves the point, taken to lie on the ray that was seen, by c x dtheta - dt.
            by_point = np.array([[1.0, 0.0, -u[i]], [0.0, 1.0, -v[i]]]) / z
            jacobian = np.hstack([-by_point, by_point @ skew(z * np.array([u[i], v[i], 1.0]))])
            matrix += weight * jacobian.T @ jacobian
            gradient += weight * jacobian.T @ error
        for block in (slice(0, 3), slice(3, 6)):
            matrix[block, block] += DAMPING * np.trace(matrix[block, block]) / 3.0 * np.eye(3)
        step = np.linalg.solve(matrix, -gradient)
        pose = pose @ transform(rotation_from_vector(step[3:]), step[:3])
    found = refine(start[:3, :3], start[:3, 3], np.array([u, v]), b.T, weights, 2, 0.5, 0.1)
    np.testing.assert_allclose(transform(found.rotation, found.translation), pose, atol=1e-12)
    assert np.abs(pose - start).max() > 0.1


def test_points_behind_the_camera_have_no_say() -> None:
    _, map_from_camera, a, b = scene(5)
    behind = a.copy()
    behind[:20, 2] = NEAREST / 2  # the map says that they are nearer than a camera sees
    b[:20] = transform_points(map_from_camera, behind[:20] * [1.0, 1.0, -1.0])
    found = refine(
        map_from_camera[:3, :3], map_from_camera[:3, 3], a.T[:2] / a.T[2], b.T, np.ones(len(a)), 3, 0.1, 0.01
    )
    np.testing.assert_array_equal(found.weights[:20], 0.0)
    np.testing.assert_allclose(found.translation, map_from_camera[:3, 3], atol=1e-9)
    np.testing.assert_allclose(found.distances[:20], np.linalg.norm(behind[:20], axis=1), atol=1e-9)
    assert found.squared_errors.dtype == np.float64
    assert np.isinf(found.squared_errors[:20]).all()
    np.testing.assert_allclose(found.squared_errors[20:], 0.0, atol=1e-18)


@pytest.mark.parametrize("count", [300, 2000])
def test_the_last_round_weighs_at_the_last_scale(count: int) -> None:
    """Once the rounds have come to rest; of more points than a small matrix holds as of a few."""
    random, map_from_camera, a, b = scene(13, count)
    b += random.normal(0.0, 0.01, b.shape)
    given_weights, last_scale = random.uniform(0.5, 1.0, count), 0.004
    found = refine(
        *(map_from_camera[:3, :3], map_from_camera[:3, 3], a.T[:2] / a.T[2], b.T, given_weights),
        *(20, 1.5 * last_scale, last_scale),
    )
    expected = given_weights * np.square(last_scale**2 / (last_scale**2 + found.squared_errors))
    np.testing.assert_allclose(found.weights, expected, atol=0.02)
    position, rotation = pose_error(transform(found.rotation, found.translation), map_from_camera)
    assert position < 0.01
    assert rotation < 0.2


def test_a_single_round_weighs_at_the_last_scale() -> None:
    random, map_from_camera, a, b = scene(17)
    b += random.normal(0.0, 0.02, b.shape)
    pose, seen = (map_from_camera[:3, :3], map_from_camera[:3, 3]), a.T[:2] / a.T[2]
    found = refine(*pose, seen, b.T, np.ones(len(a)), 1, 0.1, 0.01)
    in_camera = transform_points(invert(map_from_camera), b).T
    squared = np.square(in_camera[:2] / in_camera[2] - seen).sum(axis=0)
    np.testing.assert_allclose(found.weights, np.square(0.01**2 / (0.01**2 + squared)), rtol=1e-9)


@pytest.mark.parametrize("rounds", [1, 2, 7])
def test_there_are_as_many_rounds_as_asked_for(rounds: int, monkeypatch: pytest.MonkeyPatch) -> None:
    _, map_from_camera, a, b = scene(3)
    looks, errors = [], refinement._errors

    def counted(*arguments: Any) -> Any:
        looks.append(arguments)
        return errors(*arguments)

    monkeypatch.setattr(refinement, "_errors", counted)
    pose = map_from_camera[:3, :3], map_from_camera[:3, 3]
    refine(*pose, a.T[:2] / a.T[2], b.T, np.ones(len(a)), rounds, 0.1, 0.01)
    assert len(looks) == rounds + 1  # and one at the end


def test_weights_of_zero_and_points_without_depth_count_for_nothing() -> None:
    _, map_from_camera, a, b = scene(7)
    weights = np.ones(len(a))
    weights[:50], b[:50] = 0.0, 1e9
    a[50:60] = 0.0  # as where the lens does not reach
    found = estimate_of(align(a, b, weights, REFINED))
    assert pose_error(found.map_from_camera, map_from_camera)[0] < 1e-6
    np.testing.assert_array_equal(found.weights[:60], 0.0)


def test_the_same_bits_every_time() -> None:
    random, _, a, b = scene(11)
    b += random.normal(0.0, 0.05, b.shape)
    first = estimate_of(align(a, b, np.ones(len(a)), REFINED))
    for _ in range(1000):
        again = estimate_of(align(a, b, np.ones(len(a)), REFINED))
        assert again.map_from_camera.tobytes() == first.map_from_camera.tobytes()
        assert again.covariance.tobytes() == first.covariance.tobytes()


@pytest.mark.parametrize("name", ["refine_rounds", "refine_from", "refine_to"])
def test_options_are_checked(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name}: expected .*, got -1"):
        AlignmentOptions(**{name: -1})


def test_points_that_leave_the_pose_open_leave_it_where_it_was() -> None:
    """Weightless points: a normal matrix of zeros."""
    points = np.ones((3, 8))
    found = refine(np.eye(3), np.zeros(3), np.zeros((2, 8)), points, np.zeros(8), 3, 0.2, 0.02)
    assert not found.determined
    np.testing.assert_array_equal(found.rotation, np.eye(3))
    np.testing.assert_array_equal(found.translation, np.zeros(3))
    np.testing.assert_array_equal(found.normal_matrix, np.zeros((6, 6)))
    np.testing.assert_allclose(found.distances, np.sqrt(2.0))


def test_a_refinement_that_leaves_no_point_in_sight_is_no_pose(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last step may move the camera beyond all points."""

    def too_far(*arguments: Any) -> Refined:
        refined = refine(*arguments)
        return refined._replace(weights=np.zeros_like(refined.weights))

    monkeypatch.setattr(compiled, "LIBRARY", None)
    monkeypatch.setattr(alignment, "refine", too_far)
    points = np.random.default_rng(0).uniform([-1.0, -1.0, 1.0], [1.0, 1.0, 4.0], size=(40, 3))
    outcome = align(points, points + [1.0, 2.0, 3.0], np.ones(40), AlignmentOptions(refine_rounds=3))
    assert outcome is AlignmentFailure.TOO_FEW_POINTS
