"""The evaluation: metrics by hand, files as other tools read them, and other people's published errors."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest
from model_files import contract, write_model
from recordings import CAMERA, frame, pose, poses, real_data, write_recording

from structpose_ros.alignment import PoseEstimate
from structpose_ros.gate import Decision, GateOptions, RejectReason
from structpose_ros.geometry import pose_error, rotation_from_vector, transform
from structpose_ros.network import OnnxNetwork, Prediction
from structpose_ros.relocalizer import Relocalizer, Result
from structpose_ros.training.evaluate import (
    SWAPS,
    Outcome,
    evaluate,
    evaluate_frames,
    outcome_of,
    percentiles,
    read_world_to_camera,
    summarize,
    write_metrics,
    write_trajectory,
)
from structpose_ros.training.frames import Frame, RecordingError, open_recording, write_camera, write_frame
from structpose_ros.training.labels import sample_labels

EVERYTHING = GateOptions(min_inlier_ratio=0.0, max_residual=100.0, map_margin=10000.0)


def outcome(position_m: float, rotation_deg: float, accepted: bool = True) -> Outcome:
    return Outcome(
        "f", accepted, "" if accepted else "low_inlier_ratio", 0.5, position_m, rotation_deg, np.eye(4)
    )


def test_metrics_by_hand() -> None:
    outcomes = [
        outcome(0.01, 1.0),
        outcome(0.04, 6.0),
        outcome(0.08, 2.0),
        outcome(0.20, 3.0, accepted=False),
        outcome(math.inf, math.inf, accepted=False),
    ]
    metrics = summarize(outcomes)
    assert metrics["frames"] == 5
    assert metrics["accepted"] == 3
    assert metrics["median_position_m"] == 0.08
    assert metrics["median_rotation_deg"] == 3.0
    assert metrics["mean_position_m"] is None  # one failure makes a mean infinite
    assert metrics["within_5cm_5deg"] == 0.2
    assert metrics["within_10cm_5deg"] == 0.4
    assert metrics["accepted_median_position_m"] == 0.04
    assert metrics["accepted_mean_rotation_deg"] == 3.0
    assert metrics["accepted_within_5cm_5deg"] == pytest.approx(1 / 3)
    assert metrics["rejected"] == {"low_inlier_ratio": 2}


def test_mostly_failures_have_no_median() -> None:
    metrics = summarize([outcome(math.inf, math.inf, False)] * 2 + [outcome(0.1, 1.0)])
    assert metrics["median_position_m"] is None
    assert metrics["accepted_median_position_m"] == 0.1
    json.dumps(metrics, allow_nan=False)
    assert summarize([outcome(math.inf, math.inf, False)])["accepted_median_position_m"] is None


def test_percentiles() -> None:
    assert percentiles(list(range(101))) == {"p50": 50.0, "p95": 95.0, "p99": 99.0}
    assert percentiles([]) == {"p50": None, "p95": None, "p99": None}


def test_swapping_gives_the_poses_that_it_should(tmp_path: Path) -> None:
    """Walls at 1.8 m and 2.6 m, which the model sees rightly; its scene coordinates belong to one pose."""
    root, answer = tmp_path / "walls", pose(0.4, 0.1, 0.3)
    true_poses = [pose(0.5, 0.2, 0.5), pose(-0.5, 0.3, -1.0)]
    for number, (red, depth_mm) in enumerate(((51, 1800), (102, 2600))):
        image = np.zeros((48, 64, 3), np.uint8)
        image[..., 0] = red
        depth = np.full((48, 64), depth_mm, np.uint16)
        depth[:, :8] = 0
        write_frame(root / "seq-02", number, Frame("", image, depth, true_poses[number]))
    write_camera(root / "camera.yaml", CAMERA)
    (root / "TestSplit.txt").write_text("sequence2\n")
    model = write_model(tmp_path / "model.onnx", answer)

    recording = open_recording(root)
    relocalizer = Relocalizer(OnnxNetwork(model, "cpu"), EVERYTHING)
    found: dict[str, list[np.ndarray]] = {swap: [] for swap in SWAPS}
    for swap, estimates in found.items():

        def keep(_: Outcome, result: Result, __: Frame, swap: str = swap, to: list = estimates) -> None:
            assert result.estimate is not None
            to.append(result.estimate.map_from_camera)
            unlabelled = result.prediction.weights[:, 0]
            np.testing.assert_array_equal(unlabelled, float(swap == "none"))
            np.testing.assert_array_equal(result.prediction.weights[:, 1:], 1.0)

        outcomes, _ = evaluate_frames(
            relocalizer, recording, recording.files("test")[0], swap=swap, on_frame=keep
        )
        if swap == "scene_coordinates":
            assert max(item.position_m for item in outcomes) < 1e-5
            assert max(item.rotation_deg for item in outcomes) < 1e-3
    np.testing.assert_allclose(found["none"], [answer, answer], atol=1e-5)
    np.testing.assert_allclose(found["depth"], [answer, answer], atol=1e-5)
    np.testing.assert_allclose(found["scene_coordinates"], true_poses, atol=1e-5)


@pytest.fixture
def setting(tmp_path: Path) -> tuple[Path, Path, np.ndarray]:
    """A recording, and a model that answers one pose whatever it sees."""
    root = write_recording(tmp_path / "room", train=2, test=3)
    answer = poses(3, 2)[1] @ transform(rotation_from_vector([0.0, math.radians(2.0), 0.0]), [0.03, 0.0, 0.0])
    model = write_model(tmp_path / "model.onnx", answer, contract(scene_mean=(0.0, 0.0, 1.0)))
    return root, model, answer


def test_outcomes_and_files(setting: tuple[Path, Path, np.ndarray], tmp_path: Path) -> None:
    root, model, answer = setting
    metrics = evaluate(model, root, "test", tmp_path / "out", provider="cpu")
    written = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert written == metrics
    assert metrics["frames"] == metrics["accepted"] == 3
    assert metrics["model_sha256"] == OnnxNetwork(model, "cpu").sha256
    assert metrics["method"] == "structpose"

    true_poses = poses(3, 2)
    with (tmp_path / "out" / "poses.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [row["frame"] for row in rows] == [f"seq-02/frame-00000{number}" for number in range(3)]
    assert float(rows[1]["position_m"]) == pytest.approx(0.03, abs=1e-5)
    assert float(rows[1]["rotation_deg"]) == pytest.approx(2.0, abs=1e-3)
    for row, true in zip(rows, true_poses, strict=True):
        assert row["accepted"] == "1"
        np.testing.assert_allclose([float(row[key]) for key in "xyz"], answer[:3, 3], atol=1e-5)
        np.testing.assert_allclose([float(row[f"true_{key}"]) for key in "xyz"], true[:3, 3], atol=1e-9)

    lines = (tmp_path / "out" / "truth.tum").read_text().splitlines()
    assert len(lines) == len((tmp_path / "out" / "estimate.tum").read_text().splitlines()) == 3
    numbers = np.array([line.split() for line in lines], dtype=float)
    assert numbers.shape == (3, 8)
    np.testing.assert_allclose(numbers[:, 1:4], [true[:3, 3] for true in true_poses], atol=1e-9)
    np.testing.assert_allclose(np.linalg.norm(numbers[:, 4:], axis=1), 1.0, atol=1e-9)
    assert (tmp_path / "out" / "cumulative.png").read_bytes().startswith(b"\x89PNG")


def test_swapping_in_the_truth(setting: tuple[Path, Path, np.ndarray]) -> None:
    root, model, answer = setting
    recording = open_recording(root)
    files = recording.files("test")[0]
    relocalizer = Relocalizer(OnnxNetwork(model, "cpu"), EVERYTHING)
    seen: dict[str, list[Result]] = {swap: [] for swap in SWAPS}
    for swap, results in seen.items():

        def keep(_: Outcome, result: Result, __: Frame, results: list[Result] = results) -> None:
            results.append(result)

        evaluate_frames(relocalizer, recording, files, swap=swap, on_frame=keep)
    frame = recording.read(files[0])
    labels = sample_labels(
        frame.depth_mm, recording.camera, frame.map_from_camera, recording.camera.ray_grid(8)
    )
    plain, depth, scene = (seen[swap][0].prediction for swap in SWAPS)
    np.testing.assert_array_equal(depth.depth, labels.depth)
    np.testing.assert_array_equal(depth.scene_coordinates, plain.scene_coordinates)
    np.testing.assert_array_equal(scene.depth, plain.depth)
    np.testing.assert_allclose(scene.scene_coordinates, labels.scene_coordinates, atol=1e-12)
    estimate = seen["none"][0].estimate
    assert estimate is not None
    assert pose_error(estimate.map_from_camera, answer)[0] < 1e-5


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
        points_in_camera=np.zeros((1, 1, 3)),
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


def test_frames_without_an_estimate_are_failures(
    setting: tuple[Path, Path, np.ndarray], tmp_path: Path
) -> None:
    root, model, _ = setting
    # The model gives weight 0 where the blue channel is full.
    shot = frame("", poses(3, 2)[1])
    shot.image_rgb[..., 2] = 255
    write_frame(root / "seq-02", 1, shot)
    metrics = evaluate(model, root, "test", tmp_path / "out", provider="cpu")
    assert metrics["frames"] == 3
    assert metrics["accepted"] == 2
    assert metrics["rejected"] == {"zero_weights": 1}
    assert metrics["mean_position_m"] is None
    assert metrics["median_position_m"] is not None
    assert metrics["accepted_mean_position_m"] is not None
    json.loads((tmp_path / "out" / "metrics.json").read_text(), parse_constant=pytest.fail)

    with (tmp_path / "out" / "poses.csv").open() as stream:
        row = list(csv.DictReader(stream))[1]
    assert row["accepted"] == "0"
    assert row["reject_reason"] == "zero_weights"
    assert row["confidence"] == "0.0"
    assert row["position_m"] == row["rotation_deg"] == "inf"
    assert [row[key] for key in ("x", "y", "z", "qx", "qy", "qz", "qw")] == [""] * 7
    assert float(row["true_x"]) == pytest.approx(poses(3, 2)[1][0, 3])
    stamps = {
        name: [line.split()[0] for line in (tmp_path / "out" / f"{name}.tum").read_text().splitlines()]
        for name in ("truth", "estimate")
    }
    assert stamps["truth"] == ["0.000000", "1.000000", "2.000000"]
    assert stamps["estimate"] == ["0.000000", "2.000000"]


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


def test_metrics_files_are_strict_json(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_metrics(tmp_path / "metrics.json", {"median_position_m": math.inf})
    assert not list(tmp_path.iterdir())


def test_frames_that_cannot_be_read(setting: tuple[Path, Path, np.ndarray], tmp_path: Path) -> None:
    root, model, _ = setting
    (root / "seq-02" / "frame-000001.color.png").write_bytes(b"")
    with pytest.raises(RecordingError, match="1 of 3 frames are bad"):
        evaluate(model, root, "test", tmp_path / "out", provider="cpu")
    assert not (tmp_path / "out" / "metrics.json").exists()
    metrics = evaluate(model, root, "test", tmp_path / "out", provider="cpu", skip_bad=True)
    assert metrics["frames"] == 2
    assert len(metrics["skipped_frames"]) == 1


def test_published_lines(tmp_path: Path) -> None:
    path = tmp_path / "estimates.txt"
    path.write_text("a.png 1 0 0 0 1 2 3 4.5 6.5\nb.png 0.7071067811865476 0 0 0.7071067811865476 1 0 0\n")
    read = read_world_to_camera(path)
    np.testing.assert_allclose(read["a.png"][0], transform(np.eye(3), [-1, -2, -3]), atol=1e-15)
    assert read["a.png"][1] == [4.5, 6.5]
    # world to camera is a quarter turn about z: the camera's centre is -R' t = (0, 1, 0).
    np.testing.assert_allclose(read["b.png"][0][:3, 3], [0, 1, 0], atol=1e-15)
    for line in ("a.png 1 2 3", "a.png 0 0 0 0 1 2 3", "a.png 1 0 0 zero 1 2 3", ""):
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
    metrics = summarize([outcome(*error) for error in errors])
    assert metrics["frames"] == len(true)
    assert metrics["mean_position_m"] is None
    expected = sum(good for index, good in enumerate(within) if index % 10) / len(true)
    assert metrics["within_5cm_5deg"] == pytest.approx(expected, abs=1e-3)  # frames at the limit, by rounding
