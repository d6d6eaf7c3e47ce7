"""The evaluation: metrics by hand, files as other tools read them, and other people's published errors."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
from pathlib import Path

import cv2
import numpy as np
import pytest
from model_files import DEPTH_RANGE, MINIMUM_DEPTH, contract, write_model
from recordings import pose, poses, real_data, write_recording

from structpose_ros.gate import GateOptions
from structpose_ros.geometry import pose_error, rotation_from_vector, transform
from structpose_ros.network import OnnxNetwork
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
)
from structpose_ros.training.frames import Frame, RecordingError, open_recording, write_frame
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


@pytest.mark.parametrize(
    ("swap", "expected_m"),
    [("none", 0.0), ("depth", 0.5), ("scene_coordinates", 0.5)],
)
def test_what_a_swap_shows_of_a_depth_half_a_metre_off(swap: str, expected_m: float, tmp_path: Path) -> None:
    """A wall seen squarely at 3 m, which the model takes for 2.5 m, in scene coordinates that agree with it.

    Each of its outputs is then at odds with the truth of the other one: along the optical axis, by 0.5 m.
    """
    map_from_camera = pose(0.2, -0.1, 0.6)
    image = np.zeros((48, 64, 3), dtype=np.uint8)
    image[..., 0] = round(255 * (2.5 - MINIMUM_DEPTH) / DEPTH_RANGE)
    wall = Frame("", image, np.full((48, 64), 3000, dtype=np.uint16), map_from_camera)
    root = write_recording(tmp_path / "room", train=1, test=0)
    write_frame(root / "seq-02", 0, wall)
    model = write_model(tmp_path / "model.onnx", map_from_camera)
    recording = open_recording(root)
    relocalizer = Relocalizer(OnnxNetwork(model, "cpu"), EVERYTHING)
    (found,), _ = evaluate_frames(relocalizer, recording, recording.files("test")[0], swap=swap)
    depth_error = abs(MINIMUM_DEPTH + DEPTH_RANGE * image[0, 0, 0] / 255 - 2.5)
    assert found.position_m == pytest.approx(expected_m, abs=depth_error + 1e-5)
    assert found.rotation_deg == pytest.approx(0.0, abs=1e-4)


def test_nees_by_hand(setting: tuple[Path, Path, np.ndarray]) -> None:
    root, model, answer = setting
    recording = open_recording(root)
    item = recording.files("test")[0][1]
    frame = recording.read(item)
    result = Relocalizer(OnnxNetwork(model, "cpu"), EVERYTHING).localize(frame.image_rgb, recording.camera)
    true = frame.map_from_camera
    # `answer` is 0.03 m off along the camera's x axis, and turned by 2 degrees about its y axis.
    covariance = np.eye(6)
    covariance[:3, :3] *= 0.02**2
    covariance[3:, 3:] *= math.radians(1.0) ** 2
    nees = outcome_of("f", dataclasses.replace(result, covariance=covariance), true).nees
    assert nees == pytest.approx((0.03 / 0.02) ** 2 + (2.0 / 1.0) ** 2, rel=1e-3)
    along = true[:3, 0]  # the same offset, where the covariance says that it is likely
    covariance[:3, :3] += 1.0 * np.outer(along, along)
    nees = outcome_of("f", dataclasses.replace(result, covariance=covariance), true).nees
    assert nees == pytest.approx(2.0**2 + 0.03**2, rel=1e-2)
    singular = np.diag([1.0, 1.0, 1.0, 1.0, 1.0, 0.0])
    assert outcome_of("f", dataclasses.replace(result, covariance=singular), true).nees is None
    missed = dataclasses.replace(result, estimate=None, covariance=None)
    failure = outcome_of("f", missed, true)
    assert (failure.position_m, failure.rotation_deg, failure.nees) == (math.inf, math.inf, None)
    assert failure.map_from_camera is None


def test_failures_are_counted_and_written(setting: tuple[Path, Path, np.ndarray], tmp_path: Path) -> None:
    root, model, _ = setting
    blue = np.zeros((48, 64, 3), dtype=np.uint8)
    blue[..., 2] = 255  # the model gives it no weight anywhere
    for item in open_recording(root).files("test")[0][1:]:
        item.color.write_bytes(cv2.imencode(".png", cv2.cvtColor(blue, cv2.COLOR_RGB2BGR))[1].tobytes())
    out = tmp_path / "out"
    metrics = evaluate(model, root, "test", out, provider="cpu")

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    assert json.loads((out / "metrics.json").read_text(), parse_constant=refuse) == metrics
    assert (metrics["frames"], metrics["accepted"]) == (3, 1)
    assert metrics["median_position_m"] is metrics["mean_rotation_deg"] is None
    assert metrics["rejected"] == {"zero_weights": 2}
    with (out / "poses.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [row["position_m"] for row in rows[1:]] == ["inf", "inf"]
    assert [row["reject_reason"] for row in rows] == ["", "zero_weights", "zero_weights"]
    assert [row["x"] for row in rows[1:]] == ["", ""]
    assert len((out / "truth.tum").read_text().splitlines()) == 3
    stamps = [line.split()[0] for line in (out / "estimate.tum").read_text().splitlines()]
    assert stamps == ["0.000000"]


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


FAILED = outcome(math.inf, math.inf, accepted=False)
# Largest deviation of any frame (m, degrees), and that of the median frame, as measured.
AGREEMENT = {"sfm": (5e-6, 2e-4, 1e-6, 3e-5), "dslam": (6e-4, 6e-3, 1e-4, 6e-4)}


@pytest.mark.parametrize("truth", AGREEMENT)
@pytest.mark.parametrize("scene", ["chess", "redkitchen"])
@pytest.mark.parametrize("method", ["dsac_rgb", "dsac_rgbd"])
def test_errors_are_those_their_authors_published(truth: str, scene: str, method: str) -> None:
    root = real_data("visloc_estimates")
    true = read_world_to_camera(root / "ground_truth" / truth / f"{scene}_test.txt")
    estimates = read_world_to_camera(root / "estimates" / truth / f"{scene}_{method}.txt")
    assert estimates.keys() == true.keys()
    assert len(true) == {"chess": 2000, "redkitchen": 5000}[scene]
    found = np.array([pose_error(estimates[name][0], true[name][0]) for name in true])
    published = np.array([estimates[name][1][::-1] for name in true])
    deviation = np.abs(found - published)
    position, rotation, median_position, median_rotation = AGREEMENT[truth]
    assert (deviation.max(axis=0) <= [position, rotation]).all()
    assert (np.median(deviation, axis=0) <= [median_position, median_rotation]).all()

    within = ((published <= [0.05, 5.0]).all(axis=1)).mean()
    metrics = summarize([outcome(*errors) for errors in found])
    assert metrics["within_5cm_5deg"] == pytest.approx(within, abs=5e-4)  # some frames are 5.00 cm off
    assert metrics["median_position_m"] == pytest.approx(np.median(published[:, 0]), abs=1e-4)
    half_missing = [outcome(*errors) if index % 2 else FAILED for index, errors in enumerate(found)]
    assert summarize(half_missing)["within_5cm_5deg"] == pytest.approx(within / 2, rel=0.03)
