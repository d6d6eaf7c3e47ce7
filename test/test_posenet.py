"""The baseline: its loss by hand, and that it learns poses by heart."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from recordings import write_recording
from test_train import CONFIG

from structpose_ros.cli import main
from structpose_ros.geometry import pose_error, quaternion_from_rotation, rotation_from_vector
from structpose_ros.training.config import AugmentationConfig, ConfigError, PoseStage, load_config
from structpose_ros.training.frames import open_recording
from structpose_ros.training.posenet import PoseNet, TrainedPoseNet, quaternions_from_rotations
from structpose_ros.training.runs import export_run
from structpose_ros.training.train import train


@given(vector=st.tuples(*[st.floats(-math.pi, math.pi)] * 3))
@settings(max_examples=100)
def test_quaternions_are_the_cores(vector: tuple[float, float, float]) -> None:
    rotation = rotation_from_vector(vector)
    w, *xyz = quaternions_from_rotations(torch.from_numpy(rotation)[None])[0].tolist()
    found, true = np.array([*xyz, w]), quaternion_from_rotation(rotation)
    assert abs(found @ true) == pytest.approx(1.0, abs=1e-9)


def test_the_loss_by_hand() -> None:
    network = PoseNet(CONFIG.network)
    quarter = math.sqrt(0.5)
    true = torch.eye(4, dtype=torch.float64)[None].repeat(2, 1, 1)
    true[:, :3, 3] = torch.tensor([1.0, 2.0, 3.0])
    position = torch.tensor([[1.0, 2.0, 5.0], [1.0, 2.0, 3.0]])  # 2 m and 0 m off
    # A quarter turn about x, and the same rotation with its signs turned: both 2 sin(45/2 deg) away.
    quaternion = torch.tensor([[quarter, quarter, 0, 0], [-quarter, -quarter, 0, 0]])
    rotation_error = math.hypot(1 - quarter, quarter)
    expected = 1.0 + rotation_error * math.exp(3.0) - 3.0
    assert network.loss(position, quaternion, true).item() == pytest.approx(expected, rel=1e-6)
    with torch.no_grad():
        network.log_variances.copy_(torch.tensor([0.5, -1.0]))
    expected = math.exp(-0.5) + 0.5 + rotation_error * math.e - 1.0
    assert network.loss(position, quaternion, true).item() == pytest.approx(expected, rel=1e-6)


def test_it_learns_poses_by_heart(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    room, run = write_recording(tmp_path / "room", train=4, test=1), tmp_path / "run"
    config = dataclasses.replace(
        CONFIG,
        method="posenet",
        geometry=dataclasses.replace(CONFIG.geometry, epochs=150, learning_rate=2e-3),
        augmentation=AugmentationConfig(False, roll_degrees=0, tilt_degrees=0, scale_low=1, scale_high=1),
        validation_fraction=0.0,
    )
    assert train(config, room, run) == run
    regressor, recording = TrainedPoseNet(run), open_recording(room)
    errors = []
    for item in recording.files("train")[0]:
        frame = recording.read(item)
        found = regressor.localize(frame.image_rgb, recording.camera)
        assert np.linalg.det(found[:3, :3]) == pytest.approx(1.0)
        errors.append(pose_error(found, frame.map_from_camera))
    position, rotation = np.max(errors, axis=0)
    assert position < 0.3  # they lie up to 2 m apart and look all around
    assert rotation < 15


def test_what_is_no_posenet(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    room = write_recording(tmp_path / "room", train=4, test=1)
    config = dataclasses.replace(
        CONFIG, method="posenet", geometry=dataclasses.replace(CONFIG.geometry, epochs=1)
    )
    train(config, room, tmp_path / "posenet")
    with pytest.raises(
        ConfigError, match="expected a run whose model has a map in .*, got the baseline posenet"
    ):
        export_run(tmp_path / "posenet", tmp_path / "model.onnx")
    (tmp_path / "posenet" / "config.yaml").write_text("method: structpose\n")
    with pytest.raises(ConfigError, match="expected a run with method: posenet in .*, got structpose"):
        TrainedPoseNet(tmp_path / "posenet")


def test_it_is_trained_beside_a_run_and_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.set_num_threads(1)
    room = write_recording(tmp_path / "room", train=4, test=2)
    config = dataclasses.replace(
        CONFIG, geometry=dataclasses.replace(CONFIG.geometry, epochs=2), pose=PoseStage(epochs=1)
    )
    train(config, room, tmp_path / "run")
    arguments = ["compare", str(tmp_path / "run"), "--data", str(room), "--out", str(tmp_path / "out")]
    assert main([*arguments, "--posenet"]) == 0
    beside = tmp_path / "out" / "posenet-run"
    assert load_config(beside / "config.yaml") == dataclasses.replace(config, method="posenet")
    content = json.loads((tmp_path / "out" / "compare.json").read_text())
    assert [item["name"] for item in content["methods"]][-1] == "PoseNet"
    assert content["methods"][-1]["frames"] == 2
    assert "| PoseNet | direct | 2 |" in capsys.readouterr().out

    model = tmp_path / "run" / "model.onnx"
    arguments[1] = str(model)
    assert main([*arguments, "--posenet"]) == 1
    assert f"expected a training run to train PoseNet beside, got {model}" in capsys.readouterr().err
