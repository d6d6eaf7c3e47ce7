"""The evaluation: metrics by hand, files as other tools read them, and other people's published errors."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest
from model_files import contract, write_model
from recordings import poses, real_data, write_recording

from structpose_ros.gate import GateOptions
from structpose_ros.geometry import pose_error, rotation_from_vector, transform
from structpose_ros.network import OnnxNetwork
from structpose_ros.relocalizer import Relocalizer, Result
from structpose_ros.training.evaluate import (
    SWAPS,
    Outcome,
    evaluate,
    evaluate_frames,
    percentiles,
    read_world_to_camera,
    summarize,
)
from structpose_ros.training.frames import Frame, RecordingError, open_recording
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


def test_nees_by_hand(setting: tuple[Path, Path, np.ndarray]) -> None:
    root, model, answer = setting
    recording = open_recording(root)
    network = OnnxNetwork(model, "cpu")
    results = []
    outcomes, _ = evaluate_frames(
        Relocalizer(network, EVERYTHING),
        recording,
        recording.files("test")[0][1:2],
        on_frame=lambda _, result, __: results.append(result),
    )
    covariance = results[0].covariance
    true = poses(3, 2)[1]
    rotation = answer[:3, :3] @ true[:3, :3].T
    axis = np.array(
        [rotation[2, 1] - rotation[1, 2], rotation[0, 2] - rotation[2, 0], rotation[1, 0] - rotation[0, 1]]
    )
    turned = axis / np.linalg.norm(axis) * math.radians(2.0)
    error = np.concatenate([answer[:3, 3] - true[:3, 3], turned])
    if outcomes[0].nees is not None:
        assert outcomes[0].nees == pytest.approx(error @ np.linalg.inv(covariance) @ error, rel=1e-2)
    else:
        assert np.linalg.cond(covariance) > 1e12


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


@pytest.mark.parametrize("truth", ["dslam", "sfm"])
@pytest.mark.parametrize("scene", ["chess", "redkitchen"])
@pytest.mark.parametrize("method", ["dsac_rgb", "dsac_rgbd"])
def test_errors_are_those_their_authors_published(truth: str, scene: str, method: str) -> None:
    root = real_data("visloc_estimates")
    true = read_world_to_camera(root / "ground_truth" / truth / f"{scene}_test.txt")
    estimates = read_world_to_camera(root / "estimates" / truth / f"{scene}_{method}.txt")
    assert set(estimates) == set(true)  # a frame without an estimate would be a failure
    deviations = []
    for name, (map_from_camera, (rotation_deg, position_m)) in estimates.items():
        position, rotation = pose_error(map_from_camera, true[name][0])
        deviations.append((abs(position - position_m), abs(rotation - rotation_deg)))
    position_deviation, rotation_deviation = np.median(deviations, axis=0)
    assert position_deviation <= 1e-4
    assert rotation_deviation <= 1e-3
