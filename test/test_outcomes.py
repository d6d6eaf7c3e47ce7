"""Outcomes by hand, files as other tools read them, and other people's published errors."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from recordings import pose, poses, real_data

from structpose_ros.alignment import PoseEstimate
from structpose_ros.camera import Camera
from structpose_ros.gate import Decision, RejectReason
from structpose_ros.geometry import pose_error, rotation_from_vector, transform
from structpose_ros.network import Prediction
from structpose_ros.relocalizer import Result
from structpose_ros.training.frames import RecordingError
from structpose_ros.training.metrics import summarize
from structpose_ros.training.outcomes import (
    Outcome,
    outcome_of,
    outcome_of_pose,
    read_poses,
    read_world_to_camera,
    write_poses,
    write_trajectory,
)


def result_of(
    map_from_camera: np.ndarray, covariance: np.ndarray, reject_reason: RejectReason | None = None
) -> Result:
    """Return what the relocalizer would say with this pose and covariance, whatever the gate makes of it."""
    some = np.zeros(1)
    return Result(
        decision=Decision(reject_reason, 0.0 if reject_reason else 0.75),
        estimate=PoseEstimate(map_from_camera, some, some, 1.0, 1.0, np.ones(3), covariance),
        covariance=covariance,
        prediction=Prediction(np.zeros((1, 1), np.float32), np.zeros((1, 1, 3)), np.ones((1, 1), np.float32)),
        camera=Camera(8, 8, 8.0, 8.0, 3.5, 3.5),
        rays=np.zeros((1, 1, 3)),
        points_in_camera=np.zeros((1, 1, 3)),
        weights=np.zeros((1, 1)),
        image_rgb=np.zeros((8, 8, 3), np.uint8),
        stage_ms={"preprocess": 1.0, "network": 20.0, "align": 0.5},
    )


def test_outcome_by_hand() -> None:
    true = pose(0.3, -0.2, 0.7)
    # 3 cm and 4 cm along the map's x and z, two degrees about the map's y axis.
    turned = rotation_from_vector([0.0, math.radians(2.0), 0.0])
    estimated = transform(turned @ true[:3, :3], true[:3, 3] + [0.03, 0.0, 0.04])
    covariance = np.diag([0.01, 0.02, 0.04, *np.radians([0.1, 0.5, 0.1])]) ** 2
    found = outcome_of("f", result_of(estimated, covariance), true)
    assert found.position_m == pytest.approx(0.05)
    assert found.rotation_deg == pytest.approx(2.0)
    assert found.nees == pytest.approx(3**2 + 1**2 + 4**2)
    assert found.latency_ms == 21.5
    assert found.accepted
    assert found.confidence == 0.75
    assert found.reject_reason == ""

    # Position and rotation that err together: the cross terms count.
    covariance[0, 4] = covariance[4, 0] = 0.5 * 0.01 * math.radians(0.5)
    correlated = outcome_of("f", result_of(estimated, covariance), true)
    assert correlated.nees == pytest.approx((3**2 + 4**2 - 2 * 0.5 * 3 * 4) / (1 - 0.5**2) + 1**2)

    refused = outcome_of("f", result_of(estimated, covariance, RejectReason.LOW_INLIER_RATIO), true)
    assert not refused.accepted
    assert refused.reject_reason == "low_inlier_ratio"
    assert refused.position_m == pytest.approx(0.05)  # a rejected estimate still has its error


def test_a_covariance_of_nothing_has_no_nees() -> None:
    covariance = np.diag([1.0, 1.0, 1.0, 1.0, 1.0, 0.0])
    assert outcome_of("f", result_of(np.eye(4), covariance), np.eye(4)).nees is None


def test_a_pose_that_nobody_judged() -> None:
    true = pose(0.3, -0.2, 0.7)
    estimated = transform(true[:3, :3], true[:3, 3] + [0.0, 0.1, 0.0])
    found = outcome_of_pose("f", estimated, true, confidence=0.4, latency_ms=3.0, solve_ms=1.0)
    assert found.accepted and found.reject_reason == "" and found.confidence == 0.4
    assert found.position_m == pytest.approx(0.1) and found.rotation_deg == pytest.approx(0.0, abs=1e-9)
    missing = outcome_of_pose("f", None, true, confidence=0.4)
    assert not missing.accepted and missing.reject_reason == "no_estimate" and missing.confidence == 0.0
    assert missing.position_m == missing.rotation_deg == math.inf


numbers = st.floats(-1e6, 1e6, allow_nan=False)


@settings(max_examples=30)
@given(st.lists(st.tuples(st.booleans(), numbers, st.none() | numbers, st.integers(0, 50)), max_size=5))
def test_outcomes_come_back_from_their_file(
    tmp_path_factory: pytest.TempPathFactory, frames: list[tuple[bool, float, float | None, int]]
) -> None:
    path = tmp_path_factory.mktemp("poses") / "poses.csv"
    written = []
    for index, (found, number, optional, seed) in enumerate(frames):
        true, estimate = poses(2, seed)
        made = outcome_of_pose(
            f"seq-01/frame-{index:06d}", estimate if found else None, true, confidence=abs(number)
        )
        written.append(dataclasses.replace(made, nees=optional, latency_ms=number, solve_ms=optional))
    write_poses(path, written)
    for before, after in zip(written, read_poses(path), strict=True):
        for field in dataclasses.fields(before):
            one, other = getattr(before, field.name), getattr(after, field.name)
            if isinstance(one, np.ndarray):
                np.testing.assert_allclose(other, one, atol=1e-10)
            else:
                assert one == other, field.name


def test_files_that_hold_no_outcomes(tmp_path: Path) -> None:
    path = tmp_path / "poses.csv"
    write_poses(path, [outcome_of_pose("f", np.eye(4), np.eye(4))])
    whole = path.read_bytes()
    for content in (whole[:-30], whole.replace(b"confidence", b"trust"), b"\xff\xfe\n\n", b"frame\n", b""):
        path.write_bytes(content)
        with pytest.raises(RecordingError, match="expected the outcomes of an evaluation"):
            read_poses(path)


def test_trajectory_in_tum_format(tmp_path: Path) -> None:
    quarter = transform(rotation_from_vector([0.0, 0.0, math.pi / 2]), [1.0, -2.0, 0.5])
    write_trajectory(tmp_path / "a.tum", [(0.0, np.eye(4)), (12.25, quarter)])
    first, second = (tmp_path / "a.tum").read_text().splitlines()
    assert first == "0.000000 0 0 0 0 0 0 1"
    write_trajectory(tmp_path / "none.tum", [])
    assert (tmp_path / "none.tum").read_bytes() == b""
    assert second.startswith("12.250000 1 -2 0.5 0 0 0.7071067811")
    half = math.sqrt(0.5)
    np.testing.assert_allclose(np.array(second.split()[4:], float), [0, 0, half, half], atol=1e-11)


def test_published_lines(tmp_path: Path) -> None:
    path = tmp_path / "estimates.txt"
    path.write_text("a.png 1 0 0 0 1 2 3 4.5 6.5\nb.png 0.7071067811865476 0 0 0.7071067811865476 1 0 0\n")
    read = read_world_to_camera(path)
    np.testing.assert_allclose(read["a.png"][0], transform(np.eye(3), [-1, -2, -3]), atol=1e-15)
    assert read["a.png"][1] == [4.5, 6.5]
    # world to camera is a quarter turn about z: the camera's centre is -R' t = (0, 1, 0).
    np.testing.assert_allclose(read["b.png"][0][:3, 3], [0, 1, 0], atol=1e-15)
    for line in ("a.png 1 0 0 0 nan 2 3", "a.png 1 2 3", "a.png 0 0 0 0 1 2 3", "a.png 1 0 0 zero 1 2 3", ""):
        path.write_text(f"{line}\n")
        with pytest.raises(RecordingError, match="expected a file name, a unit quaternion and a trans"):
            read_world_to_camera(path)


# Bounds on the largest deviation, m and degrees: about twice what is seen.
PUBLISHED_BOUNDS = {"dslam": (1e-3, 0.01), "sfm": (1e-5, 2e-4)}


@pytest.mark.parametrize("truth", ["dslam", "sfm"])
@pytest.mark.parametrize("scene", ["chess", "redkitchen"])
@pytest.mark.parametrize("method", ["dsac_rgb", "dsac_rgbd"])
def test_errors_are_those_their_authors_published(truth: str, scene: str, method: str) -> None:
    root = real_data("visloc_estimates")
    true = read_world_to_camera(root / "ground_truth" / truth / f"{scene}_test.txt")
    estimates = read_world_to_camera(root / "estimates" / truth / f"{scene}_{method}.txt")
    assert len(true) == {"chess": 2000, "redkitchen": 5000}[scene]
    assert set(estimates) == set(true)  # a frame without an estimate would be a failure
    deviations, within = [], []
    for name, (map_from_camera, (rotation_deg, position_m)) in estimates.items():
        position, rotation = pose_error(map_from_camera, true[name][0])
        deviations.append((abs(position - position_m), abs(rotation - rotation_deg)))
        within.append(position_m <= 0.05 and rotation_deg <= 5.0)
    position_deviation, rotation_deviation = np.median(deviations, axis=0)
    assert position_deviation <= 1e-4
    assert rotation_deviation <= 1e-3
    position_bound, rotation_bound = PUBLISHED_BOUNDS[truth]
    assert np.max(deviations, axis=0)[0] <= position_bound
    assert np.max(deviations, axis=0)[1] <= rotation_bound

    # With every tenth estimate taken away, the share is still one of all frames.
    kept = {name: value for index, (name, value) in enumerate(estimates.items()) if index % 10}
    failure = (math.inf, math.inf)
    errors = [pose_error(kept[name][0], true[name][0]) if name in kept else failure for name in true]
    metrics = summarize([Outcome(name, True, "", 1.0, *error, np.eye(4)) for error in errors])
    assert metrics["frames"] == len(true)
    assert metrics["mean_position_m"] is None
    expected = sum(good for index, good in enumerate(within) if index % 10) / len(true)
    assert metrics["within_5cm_5deg"] == pytest.approx(expected, abs=1e-3)  # frames at the limit, by rounding
