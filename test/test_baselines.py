"""PnP on correspondences with a known pose, and the oracle against a search by hand."""

from __future__ import annotations

import math
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from recordings import poses

from structpose_ros.camera import Camera
from structpose_ros.geometry import (
    invert,
    pose_error,
    rotation_from_vector,
    transform,
    transform_points,
)
from structpose_ros.network import Prediction
from structpose_ros.training.baselines import (
    ComparisonError,
    Correspondences,
    RansacPnp,
    correspondences,
    epnp,
    retrieval_oracle,
)

CAMERA = Camera(320, 240, 260.0, 250.0, 158.0, 121.0)
FISHEYE = Camera(320, 240, 150.0, 150.0, 159.5, 119.5, "equidistant", (0.02, -0.01, 0.0, 0.0))


def seen_from(
    map_from_camera: np.ndarray, count: int, seed: int = 0, camera: Camera = CAMERA
) -> Correspondences:
    """Return true correspondences of random pixels at 1 to 5 m."""
    random = np.random.default_rng(seed)
    pixels = random.uniform([0, 0], [camera.width - 1, camera.height - 1], (count, 2))
    rays = camera.rays(pixels)
    points_in_camera = rays * random.uniform(1.0, 5.0, (count, 1))
    return Correspondences(transform_points(map_from_camera, points_in_camera), rays, camera)


def spoiled(seen: Correspondences, share: float, seed: int = 1) -> Correspondences:
    """Return correspondences of which a share points anywhere within some metres."""
    random = np.random.default_rng(seed)
    points = seen.points_in_map.copy()
    wrong = random.permutation(len(points))[: round(share * len(points))]
    points[wrong] += random.uniform(-4, 4, (len(wrong), 3)) + [2.0, 0.0, 0.0]
    return Correspondences(points, seen.rays, seen.camera)


def ransac(solver: str, monkeypatch: pytest.MonkeyPatch) -> RansacPnp:
    if solver == "poselib":
        pytest.importorskip("poselib", reason="PoseLib is not installed")
    else:
        monkeypatch.setitem(sys.modules, "poselib", None)
    found = RansacPnp(CAMERA.width)
    assert found.solver.lower().startswith(solver)
    return found


solvers = pytest.mark.parametrize("solver", ["poselib", "opencv"])
coordinate = st.floats(-5.0, 5.0)
any_pose = st.builds(
    lambda rotation, position: transform(rotation_from_vector(rotation), position),
    st.tuples(*[st.floats(-2.0, 2.0)] * 3),
    st.tuples(coordinate, coordinate, coordinate),
)


@settings(max_examples=40, deadline=None)
@given(any_pose, st.integers(12, 100), st.integers(0, 1000), st.sampled_from([CAMERA, FISHEYE]))
def test_epnp_finds_the_pose_of_true_points(pose: np.ndarray, count: int, seed: int, camera: Camera) -> None:
    found = epnp(seen_from(pose, count, seed, camera))
    assert found is not None
    position, rotation = pose_error(found, pose)
    assert position < 1e-5 and rotation < 1e-4


@solvers
@pytest.mark.parametrize("camera", [CAMERA, FISHEYE], ids=["pinhole", "fisheye"])
def test_ransac_finds_the_pose_of_true_points(
    solver: str, camera: Camera, monkeypatch: pytest.MonkeyPatch
) -> None:
    solve = ransac(solver, monkeypatch)
    for index, pose in enumerate(poses(5, 3)):
        found = solve(seen_from(pose, 30, index, camera))
        assert found is not None
        assert found.inlier_ratio == 1.0
        position, rotation = pose_error(found.map_from_camera, pose)
        assert position < 1e-6 and rotation < 1e-4


@solvers
def test_outliers_mislead_epnp_but_not_ransac(solver: str, monkeypatch: pytest.MonkeyPatch) -> None:
    solve = ransac(solver, monkeypatch)
    for index, pose in enumerate(poses(3, 4)):
        seen = spoiled(seen_from(pose, 200, index), 0.4)
        robust, plain = solve(seen), epnp(seen)
        assert robust is not None and plain is not None
        assert pose_error(robust.map_from_camera, pose)[0] < 1e-4
        assert 0.59 < robust.inlier_ratio < 0.65
        assert pose_error(plain, pose)[0] > 0.2


@solvers
def test_the_same_points_give_the_same_pose(solver: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = spoiled(seen_from(poses(1, 5)[0], 150), 0.5)
    first, second = (ransac(solver, monkeypatch)(seen) for _ in range(2))
    assert first is not None and second is not None
    np.testing.assert_array_equal(first.map_from_camera, second.map_from_camera)


@solvers
@pytest.mark.parametrize("count", range(4))
def test_too_few_points_are_a_failure(solver: str, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = seen_from(poses(1, 6)[0], count)
    assert epnp(seen) is None
    assert ransac(solver, monkeypatch)(seen) is None


@solvers
@pytest.mark.parametrize("kind", ["one place", "line", "random", "four in one ray"])
def test_points_without_a_pose_raise_nothing(solver: str, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(2)
    seen = seen_from(poses(1, 7)[0], 4 if kind == "four in one ray" else 60)
    points, rays = {
        "one place": (np.ones_like(seen.points_in_map), seen.rays),
        "line": (np.linspace(0, 1, 60)[:, None] * [1.0, 2.0, 3.0], seen.rays),
        "random": (random.normal(size=(60, 3)), seen.rays),
        "four in one ray": (seen.points_in_map, np.tile([0.1, 0.2, 1.0], (4, 1))),
    }[kind]
    hopeless = Correspondences(points, rays, seen.camera)
    robust = ransac(solver, monkeypatch)(hopeless)
    for found in (epnp(hopeless), None if robust is None else robust.map_from_camera):
        assert found is None or np.isfinite(found).all()


def test_the_threshold_is_that_of_640_pixels() -> None:
    assert RansacPnp(640).threshold_px == 10.0
    assert RansacPnp(320, 4.0).threshold_px == 2.0
    for bad in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(ComparisonError, match="expected a PnP threshold above 0 px"):
            RansacPnp(640, bad)


def test_valid_cells_alone_take_part() -> None:
    camera = Camera(64, 48, 60.0, 60.0, 31.5, 23.5)
    rays = camera.ray_grid(8)
    rays[0, 0] = np.nan
    scene = np.random.default_rng(0).normal(size=(6, 8, 3))
    scene[2, 3, 1] = np.inf
    prediction = Prediction(np.ones((6, 8), np.float32), scene, np.full((6, 8), 0.1, np.float32))
    prediction.weights[4, 4] = 0.0
    seen = correspondences(prediction, rays, camera)
    assert len(seen.rays) == len(seen.points_in_map) == 45
    np.testing.assert_array_equal(seen.points_in_map[0], scene[0, 1])
    np.testing.assert_allclose(seen.pixels[0], [8 + 3.5, 3.5])


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 12))
def test_the_oracle_is_what_a_search_finds(seed: int, count: int) -> None:
    training, tested = poses(count, seed), poses(4, seed + 1)
    found = retrieval_oracle([(f"f{index}", pose) for index, pose in enumerate(tested)], training)
    for outcome, true in zip(found, tested, strict=True):
        errors = [pose_error(pose, true) for pose in training]
        best = min(errors, key=lambda error: error[0] / 0.05 + error[1] / 5.0)
        assert outcome.position_m == pytest.approx(best[0])
        assert outcome.rotation_deg == pytest.approx(best[1], abs=1e-5)


def test_the_oracle_knows_a_frame_that_it_was_trained_on() -> None:
    training = poses(5, 8)
    (found,) = retrieval_oracle([("f", training[3])], training)
    assert found.position_m == 0.0
    np.testing.assert_array_equal(found.map_from_camera, training[3])
    np.testing.assert_allclose(invert(found.true_map_from_camera) @ training[3], np.eye(4), atol=1e-12)
