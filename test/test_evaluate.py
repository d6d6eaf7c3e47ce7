"""The evaluation of a model: outcomes, swapped-in truth, files, figures."""

from __future__ import annotations

import csv
import json
import math
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from model_files import contract, write_model
from pictures import colors
from recordings import CAMERA, frame, pose, poses, write_recording

from structpose_ros.gate import GateOptions
from structpose_ros.geometry import pose_error, rotation_from_vector, transform
from structpose_ros.network import OnnxNetwork
from structpose_ros.relocalizer import Relocalizer, Result
from structpose_ros.training.evaluate import (
    SWAPS,
    Judged,
    evaluate,
    evaluate_frames,
    judge_foreign,
    risk_coverage_areas,
    trajectory_stamps,
)
from structpose_ros.training.frames import (
    Frame,
    RecordingError,
    open_recording,
    write_camera,
    write_frame,
    write_stamps,
)
from structpose_ros.training.labels import sample_labels
from structpose_ros.training.outcomes import Outcome

EVERYTHING = GateOptions(min_inlier_ratio=0.0, max_residual=100.0, map_margin=10000.0)


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
    for name in ("cumulative", "panels", "map", "risk_coverage"):
        assert colors(tmp_path / "out" / f"{name}.png") > 20, name
    assert metrics["risk_coverage_auc"] == pytest.approx(2 / 3)  # one frame is right; all have one confidence
    assert metrics["risk_coverage_auc_oracle"] == pytest.approx((0 + 1 / 2 + 2 / 3) / 3)
    assert metrics["covariance_scale"] == 1.0
    assert "foreign_accept" not in metrics and "foreign_risk_coverage_auc" not in metrics


def test_a_ranking_is_worth_what_it_puts_last() -> None:
    judged = [Judged(True, 0.9, 0.04), Judged(True, 0.8, 0.01), Judged(False, 0.0, 0.02)]
    areas = risk_coverage_areas(judged, np.array([False, False, True]))
    assert areas == {
        "risk_coverage_auc": pytest.approx(1 / 9),  # 0, 0, 1/3
        "risk_coverage_auc_residual": pytest.approx((1 / 2 + 1 / 3) / 3),  # the second: right, wrong, right
        "risk_coverage_auc_oracle": pytest.approx(1 / 9),
    }
    none = [*judged, Judged(False, 0.0, np.inf)]
    assert risk_coverage_areas(none, np.array([False, False, False, True]))[
        "risk_coverage_auc_residual"
    ] == pytest.approx(1 / 16)


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


def test_frames_that_cannot_be_read(setting: tuple[Path, Path, np.ndarray], tmp_path: Path) -> None:
    root, model, _ = setting
    (root / "seq-02" / "frame-000001.color.png").write_bytes(b"")
    with pytest.raises(RecordingError, match="1 of 3 frames are bad"):
        evaluate(model, root, "test", tmp_path / "out", provider="cpu")
    assert not (tmp_path / "out" / "metrics.json").exists()
    metrics = evaluate(model, root, "test", tmp_path / "out", provider="cpu", skip_bad=True)
    assert metrics["frames"] == 2
    assert len(metrics["skipped_frames"]) == 1


def test_stamps_of_a_trajectory(setting: tuple[Path, Path, np.ndarray], tmp_path: Path) -> None:
    root, model, _ = setting
    write_stamps(root / "seq-02", {0: 1700000000.25, 1: 1700000000.5, 2: 1700000001.125})
    evaluate(model, root, "test", tmp_path / "out", provider="cpu")
    for name in ("truth", "estimate"):
        lines = (tmp_path / "out" / f"{name}.tum").read_text().splitlines()
        assert [line.split()[0] for line in lines] == [
            "1700000000.250000",
            "1700000000.500000",
            "1700000001.125000",
        ]


def test_frames_without_stamps_of_their_own_are_numbered(tmp_path: Path) -> None:
    recording = open_recording(write_recording(tmp_path / "room", train=2, test=2))
    names = [f"seq-0{sequence}/frame-00000{number}" for sequence in (1, 2) for number in (0, 1)]
    write_stamps(recording.root / "seq-02", {0: 3.0, 1: 4.0})
    assert trajectory_stamps(recording, names[2:]) == [3.0, 4.0]
    assert trajectory_stamps(recording, names) == [0.0, 1.0, 2.0, 3.0]  # the first sequence has none
    write_stamps(recording.root / "seq-01", {0: 3.0, 1: 4.0})
    assert trajectory_stamps(recording, names) == [0.0, 1.0, 2.0, 3.0]  # the same in both sequences
    write_stamps(recording.root / "seq-01", {0: 1.0, 1: 2.0})
    assert trajectory_stamps(recording, names) == [1.0, 2.0, 3.0, 4.0]


def test_images_of_another_place(setting: tuple[Path, Path, np.ndarray], tmp_path: Path) -> None:
    """The model sees nothing where the blue channel is full: such an image is refused."""
    root, model, _ = setting
    foreign = tmp_path / "foreign"
    (foreign / "below").mkdir(parents=True)
    blue, grey = np.zeros((30, 50, 3), np.uint8), np.full((96, 128, 3), 60, np.uint8)
    blue[..., 0] = 255
    cv2.imwrite(str(foreign / "a.png"), blue)
    cv2.imwrite(str(foreign / "b.jpg"), grey)
    cv2.imwrite(str(foreign / "below" / "c.png"), blue)
    cv2.imwrite(str(foreign / "frame-000000.depth.png"), np.zeros((9, 9), np.uint16))
    (foreign / "notes.txt").write_text("no image")
    metrics = evaluate(model, root, "test", tmp_path / "out", provider="cpu", foreign=foreign)
    assert metrics["foreign_frames"] == 3
    assert metrics["foreign_accept"] == pytest.approx(1 / 3)
    # Three frames and b.jpg have confidence 1, of which one is right; the other two come last.
    assert metrics["foreign_risk_coverage_auc"] == pytest.approx((4 * 3 / 4 + 4 / 5 + 5 / 6) / 6)
    assert metrics["foreign_risk_coverage_auc_oracle"] == pytest.approx(
        (0 + 1 / 2 + 2 / 3 + 3 / 4 + 4 / 5 + 5 / 6) / 6
    )
    (foreign / "b.jpg").write_bytes(b"")
    with pytest.raises(RecordingError, match="b.jpg: expected a JPEG or PNG file, got 0 bytes"):
        evaluate(model, root, "test", tmp_path / "none", provider="cpu", foreign=foreign)
    assert not (tmp_path / "none").exists()
    shutil.rmtree(foreign)
    with pytest.raises(RecordingError, match="expected images of another place"):
        evaluate(model, root, "test", tmp_path / "none", provider="cpu", foreign=foreign)


def test_a_foreign_recording_is_seen_through_its_own_camera(
    setting: tuple[Path, Path, np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, model, _ = setting
    relocalizer, cameras = Relocalizer(OnnxNetwork(model, "cpu")), []
    localize = relocalizer.localize
    monkeypatch.setattr(
        relocalizer, "localize", lambda image, camera: cameras.append(camera) or localize(image, camera)
    )
    assert len(judge_foreign(relocalizer, root)) == 5
    assert set(cameras) == {CAMERA}


def test_a_worst_frame_without_an_estimate_is_drawn(
    setting: tuple[Path, Path, np.ndarray], tmp_path: Path
) -> None:
    root, model, _ = setting
    for number in range(3):
        shot = frame("", poses(3, 2)[number])
        shot.image_rgb[..., 2] = 255
        write_frame(root / "seq-02", number, shot)
    metrics = evaluate(model, root, "test", tmp_path / "out", provider="cpu")
    assert metrics["accepted"] == 0 and metrics["risk_coverage_auc"] == 1.0
    assert (tmp_path / "out" / "panels.png").is_file() and (tmp_path / "out" / "map.png").is_file()
