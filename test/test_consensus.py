"""Right matches among wrong ones, built from a known pose, must be found by their distances alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from structpose_ros import consensus as under_test
from structpose_ros.alignment import AlignmentFailure, AlignmentOptions, PoseEstimate, align
from structpose_ros.consensus import MATCHES, consensus
from structpose_ros.geometry import pose_error, rotation_from_vector, transform, transform_points

Array = npt.NDArray[np.float64]
MAP_FROM_CAMERA = transform(rotation_from_vector([0.4, -2.0, 0.7]), [3.0, -1.0, 0.5])
OPTIONS = AlignmentOptions(consensus_starts=16, robust_rounds=0)
seeds = st.integers(0, 2**32 - 1)


def matches(seed: int, right: int, wrong: int, depth_noise: float = 0.0) -> tuple[Array, Array]:
    """Return camera and map points (N, 3): the right ones first, whose depths are off by some share."""
    random = np.random.default_rng(seed)
    count = right + wrong
    rays = np.column_stack([random.uniform(-0.6, 0.6, (count, 2)), np.ones(count)])
    true = rays * random.uniform(1.0, 5.0, count)[:, None]
    in_map = transform_points(MAP_FROM_CAMERA, true)
    in_map[right:] = random.uniform(in_map.min(axis=0), in_map.max(axis=0), (wrong, 3))
    return true * (1.0 + depth_noise * random.normal(size=count))[:, None], in_map


def solved(a: Array, b: Array, weights: Array, options: AlignmentOptions = OPTIONS) -> PoseEstimate:
    outcome = align(a, b, weights, options)
    assert isinstance(outcome, PoseEstimate)
    return outcome


@given(seed=seeds)
@settings(max_examples=30, deadline=None)
def test_an_eighth_of_right_matches_is_enough_for_a_start(seed: int) -> None:
    """Some wrong points fall within the tolerance and pull: the rounds that follow are there for them."""
    a, b = matches(seed, 32, 224)
    position, rotation = pose_error(solved(a, b, np.ones(256)).map_from_camera, MAP_FROM_CAMERA)
    assert position < 0.15
    assert rotation < 4.0


def test_rough_depths_do_where_the_rays_are_right() -> None:
    """An eighth right, depths off by 4 %: the plain solve and its robust rounds end elsewhere."""
    refine = replace(OPTIONS, refine_rounds=15, refine_from=0.06)
    plain = AlignmentOptions(robust_rounds=5, refine_rounds=15)
    found, lost = 0, 0
    for seed in range(20):
        a, b = matches(seed, 32, 224, depth_noise=0.04)
        weights = np.ones(len(a))
        position, rotation = pose_error(solved(a, b, weights, refine).map_from_camera, MAP_FROM_CAMERA)
        found += position < 0.02 and rotation < 0.5
        outcome = align(a, b, weights, plain)
        lost += isinstance(outcome, AlignmentFailure) or (
            pose_error(outcome.map_from_camera, MAP_FROM_CAMERA)[0] > 0.1
        )
    assert found == 20
    assert lost > 10


@given(seed=seeds)
@settings(max_examples=30, deadline=None)
def test_exact_matches_alone_give_the_exact_pose(seed: int) -> None:
    a, b = matches(seed, 40, 0)
    position, rotation = pose_error(solved(a, b, np.ones(40)).map_from_camera, MAP_FROM_CAMERA)
    assert position < 1e-9
    assert rotation < 1e-7


@given(seed=seeds)
@settings(max_examples=20, deadline=None)
def test_right_matches_keep_their_weight_and_wrong_ones_lose_it(seed: int) -> None:
    a, b = matches(seed, 60, 190)
    weights = np.random.default_rng(seed).uniform(0.5, 1.0, 250)
    left = consensus(a.T, b.T, weights, 8)
    assert (left >= 0).all() and (left <= weights).all()
    np.testing.assert_allclose(left[:60], weights[:60], rtol=0.05)
    assert np.median(left[60:] / weights[60:]) < 0.05


@given(seed=seeds)
@settings(max_examples=20, deadline=None)
def test_the_axes_of_the_map_do_not_matter(seed: int) -> None:
    a, b = matches(seed, 40, 160, depth_noise=0.02)
    moved_from_map = transform(rotation_from_vector([-1.0, 0.3, 2.0]), [10.0, -20.0, 5.0])
    one = solved(a, b, np.ones(200)).map_from_camera
    other = solved(a, transform_points(moved_from_map, b), np.ones(200)).map_from_camera
    np.testing.assert_allclose(other, moved_from_map @ one, atol=1e-6)


def test_of_many_matches_the_likely_ones_are_asked() -> None:
    """More matches than are asked whether they agree; the wrong ones among those left out don't count."""
    a, b = matches(3, 100, 1900)
    weights = np.where(np.arange(2000) < MATCHES, 1.0, 0.1)
    position, _ = pose_error(solved(a, b, weights).map_from_camera, MAP_FROM_CAMERA)
    assert position < 0.05


@pytest.mark.parametrize("count", [1, 3, 64, 65, 250])
def test_bits_are_counted_as_products_are(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """With either NumPy: the older one has no count of bits."""
    agree = np.random.default_rng(count).random((count, count)) < 0.3
    agree |= agree.T
    expected = agree.astype(int) @ agree.astype(int)
    np.testing.assert_array_equal(under_test._common(agree), expected)
    monkeypatch.delattr(np, "bitwise_count", raising=False)
    np.testing.assert_array_equal(under_test._common(agree), expected)


def test_it_says_the_same_each_time() -> None:
    a, b = matches(5, 30, 220, depth_noise=0.03)
    first = consensus(a.T.copy(), b.T.copy(), np.ones(250), 16)
    for _ in range(5):
        np.testing.assert_array_equal(consensus(a.T.copy(), b.T.copy(), np.ones(250), 16), first)


@pytest.mark.parametrize("count", [1, 2])
def test_too_few_points_are_left_as_they_are(count: int) -> None:
    weights = np.ones(count)
    np.testing.assert_array_equal(consensus(np.ones((3, count)), np.ones((3, count)), weights, 4), weights)


def test_points_that_are_not_ahead_have_no_say() -> None:
    a, b = matches(7, 40, 60)
    behind = np.concatenate([a, [[0.0, 0.0, 0.0], [1.0, 2.0, -3.0]]])
    in_map = np.concatenate([b, [[0.0, 0.0, 0.0], [9.0, 9.0, 9.0]]])
    left = consensus(behind.T, in_map.T, np.ones(102), 8)
    assert left[100:].tolist() == [0.0, 0.0]
    np.testing.assert_allclose(left[:100], consensus(a.T, b.T, np.ones(100), 8), atol=1e-12)


def test_where_nothing_agrees_there_is_a_pose_or_a_named_failure() -> None:
    random = np.random.default_rng(0)
    for count in (3, 4, 10, 300):
        a = random.uniform(0.5, 5.0, (count, 3))
        outcome = align(a, 100.0 * random.normal(size=(count, 3)), np.ones(count), OPTIONS)
        if isinstance(outcome, PoseEstimate):
            assert np.isfinite(outcome.map_from_camera).all()
    same = align(np.ones((50, 3)), np.ones((50, 3)), np.ones(50), OPTIONS)
    assert same is AlignmentFailure.COLLINEAR


def test_the_number_of_starts_has_bounds() -> None:
    for starts in (-1, 101):
        with pytest.raises(ValueError, match="consensus_starts: expected 0 .. 100"):
            AlignmentOptions(consensus_starts=starts)
    assert AlignmentOptions().consensus_starts == 0  # the paper's networks learn their weights
