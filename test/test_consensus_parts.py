"""The parts of the search for matches that fit together, each against its own words, computed naively."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from structpose_ros import consensus as under_test
from structpose_ros.consensus import LEAST_SPAN, MATCHES, RAY_SCALE, consensus
from structpose_ros.geometry import rotation_from_vector

Array = npt.NDArray[np.float64]
ROTATION, TRANSLATION = rotation_from_vector([0.4, -0.9, 0.2]), np.array([4.0, -1.0, 2.0])


def seen(count: int, rng: np.random.Generator, nearest: float = 0.3) -> Array:
    """Return points (3, count) ahead of a camera."""
    return rng.uniform([-2.0, -1.5, nearest], [2.0, 1.5, 5.0], (count, 3)).T


def in_map(points: Array, rotation: Array = ROTATION, translation: Array = TRANSLATION) -> Array:
    return rotation @ points + translation[:, None]


def supporters(a: Array, b: Array, tolerance: Array, starts: int) -> tuple[list[int], Array]:
    """Return the starts, and how much each match supports them: by the book, one pair after another."""
    count = a.shape[1]
    agree = np.zeros((count, count), dtype=int)
    for i in range(count):
        for j in range(count):
            of_camera, of_map = np.linalg.norm(a[:, i] - a[:, j]), np.linalg.norm(b[:, i] - b[:, j])
            near_enough = abs(of_camera - of_map) < max(tolerance[i], tolerance[j])
            agree[i, j] = near_enough and (of_camera + of_map) / 2 > LEAST_SPAN
    support = (agree @ agree) * agree
    remaining = support.sum(axis=1).astype(float)
    rows: list[int] = []
    for _ in range(starts):
        row = max((index for index in range(count) if index not in rows), key=lambda index: remaining[index])
        rows.append(row)
        most = max(support[row].max(), 1)
        remaining *= 1.0 - support[row] / most  # what supports it most needs no pose of its own
    squares = np.square(support[rows].astype(float))
    for start, row in enumerate(rows):
        squares[start, row] = squares[start].max()
    return rows, squares


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("spread", [1.0, 0.08])
def test_supporters_are_those_that_agree_with_the_same_others(seed: int, spread: float) -> None:
    """Also where many points are as near to each other as the least span."""
    rng = np.random.default_rng(seed)
    a = spread * seen(40, rng)
    b = in_map(a)
    b[:, 12:] += rng.normal(scale=0.3 * spread, size=(3, 28))
    tolerance = rng.uniform(0.02, 0.1, 40) * spread
    _, expected = supporters(a, b, tolerance, 6)
    np.testing.assert_array_equal(under_test._supporters(a, b, tolerance, 6), expected)


def test_distances_keep_their_digits_far_from_the_origin() -> None:
    """Single precision at 10 km is a millimetre: the mean of the points is taken off first."""
    points = seen(20, np.random.default_rng(0)) + np.array([[1e4], [-2e4], [3e4]])
    expected = np.linalg.norm(points[:, :, None] - points[:, None], axis=0)
    distances = under_test._distances(points)
    assert distances.dtype == np.float32
    np.testing.assert_allclose(distances, expected, atol=2e-6)


def test_the_tolerance_grows_with_the_depth() -> None:
    points = np.array([[0.0, 9.0, 0.0, 0.0], [0.0, 0.0, 9.0, 0.0], [0.2, 2.0, 10.0, -3.0]])
    np.testing.assert_allclose(under_test._tolerance(points), [0.06, 0.15, 0.55, 0.05])


def test_factors_are_those_of_geman_and_mcclure_at_twice_the_tolerance() -> None:
    a = np.array([[0.0, 0.0, 0.0], [0.0, 0.0, 0.0], [1.0, 2.0, 3.0]])
    b = a + np.array([[0.0, 0.2, 0.0], [0.0, 0.0, 0.3], [0.0, 0.0, 0.4]])
    tolerance = np.array([0.1, 0.1, 0.25])
    factors = under_test._robust(a, b, np.eye(3)[None], np.zeros((1, 3)), tolerance)
    np.testing.assert_allclose(factors, [[1.0, 0.25, 0.25]])


def test_a_pose_scores_by_the_weight_that_falls_near_its_ray() -> None:
    rng = np.random.default_rng(5)
    a = seen(30, rng)
    a[2, :3] = -a[2, :3]  # no ray, whatever a caller gives it for a weight
    b = in_map(a) + rng.normal(scale=0.02, size=a.shape)
    weights = rng.uniform(0.1, 1.0, 30)
    weights[:3] = 0.0
    rotations = np.stack([ROTATION, rotation_from_vector([0.4, -0.9, 0.25]), np.eye(3)])
    translations = np.stack([TRANSLATION, TRANSLATION, TRANSLATION + [0.0, 0.0, 1.0]])
    expected = np.zeros(3)
    behind = 0
    for pose, (rotation, translation) in enumerate(zip(rotations, translations, strict=True)):
        for index in range(3, 30):
            point = rotation.T @ (b[:, index] - translation)
            behind += point[2] <= 0
            if point[2] > 0:
                error = point[:2] / point[2] - a[:2, index] / a[2, index]
                expected[pose] += weights[index] * (RAY_SCALE**2 / (RAY_SCALE**2 + error @ error)) ** 2
    assert behind >= 5
    np.testing.assert_allclose(under_test._scores(a, b, weights, rotations, translations), expected)
    assert expected[0] > expected[1] > expected[2]


def test_the_pose_that_most_of_all_points_speak_for_is_kept_not_the_first_that_was_tried() -> None:
    """The likeliest matches agree on a wrong pose; all the others, on the right one."""
    rng = np.random.default_rng(1)
    a = seen(MATCHES + 1000, rng)
    b = in_map(a)
    wrong = np.arange(MATCHES - 40)
    b[:, wrong] = in_map(a[:, wrong], rotation_from_vector([1.0, 1.0, 0.0]), np.array([0.0, 0.0, 9.0]))
    weights = np.where(np.arange(a.shape[1]) < MATCHES, 1.0, 0.5)
    found = consensus(a, b, weights, 2)
    np.testing.assert_allclose(found[MATCHES - 40 :], weights[MATCHES - 40 :], rtol=0.02)
    assert found[wrong].max() < 0.5 and found[wrong].mean() < 0.01


def test_matches_without_weight_have_no_say_in_what_fits_together() -> None:
    """Forty of them fit together; of those with weight twenty do, and thirty are wrong."""
    rng = np.random.default_rng(2)
    a = seen(90, rng)
    b = in_map(a)
    b[:, 20:50] = rng.uniform(-5.0, 5.0, (3, 30))
    b[:, 50:] = in_map(a[:, 50:], np.eye(3), np.zeros(3))
    weights = np.where(np.arange(90) < 50, 0.7, 0.0)
    found = consensus(a, b, weights, 1)
    np.testing.assert_allclose(found[:20], 0.7, rtol=0.02)
    assert found[20:50].mean() < 0.1
    np.testing.assert_array_equal(found[50:], 0.0)


def test_three_matches_are_enough_and_two_are_left_as_they_are() -> None:
    a = np.array([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [2.0, 2.0, 2.0]])
    b = in_map(a)
    b[:, 2] += 0.1 * ROTATION[:, 1]  # within the tolerance, but not exact
    found = consensus(a, b, np.ones(3), 1)
    assert (found < 1.0).any() and (found > 0.5).all()
    np.testing.assert_array_equal(consensus(a[:, :2], b[:, :2], np.ones(2), 1), [1.0, 1.0])


def test_a_match_that_nothing_agrees_with_takes_the_weights_for_its_supporters() -> None:
    """Three right matches, which agree, and a far one: its own pose is that of all, and loses."""
    rng = np.random.default_rng(3)
    a = seen(4, rng)
    b = in_map(a)
    b[:, 3] += 50.0
    found = consensus(a, b, np.ones(4), 4)
    np.testing.assert_allclose(found[:3], 1.0, rtol=1e-6)
    assert found[3] < 1e-3


def test_poses_are_proper_rotations_even_of_mirrored_points() -> None:
    rng = np.random.default_rng(4)
    a = seen(20, rng)
    mirrored = np.diag([1.0, 1.0, -1.0]) @ a
    rotations, translations = under_test._rigid(a, mirrored, rng.uniform(0.1, 1.0, (5, 20)))
    np.testing.assert_allclose(np.linalg.det(rotations), 1.0)
    np.testing.assert_allclose(
        rotations @ rotations.transpose(0, 2, 1), np.tile(np.eye(3), (5, 1, 1)), atol=1e-12
    )
    right, moved = under_test._rigid(a, in_map(a), np.ones((1, 20)))
    np.testing.assert_allclose(right[0], ROTATION, atol=1e-12)
    np.testing.assert_allclose(moved[0], TRANSLATION, atol=1e-12)
    assert np.isfinite(translations).all()
