"""What a run's folder keeps goes into its model file: calibration, card, true poses of its examples."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from model_files import HEIGHT, WIDTH, contract, write_model
from recordings import poses, write_recording
from test_model_card import VIEWS

from structpose_ros.contract import ModelFileError
from structpose_ros.model_card import ModelCard
from structpose_ros.network import OnnxNetwork
from structpose_ros.training import runs as under_test
from structpose_ros.training.config import (
    AugmentationConfig,
    GeometryStage,
    InputConfig,
    NetworkConfig,
    PoseStage,
    TrainingConfig,
)
from structpose_ros.training.description import as_plain
from structpose_ros.training.evaluate import Outcome
from structpose_ros.training.frames import open_recording
from structpose_ros.training.networks import StructPoseNetwork
from structpose_ros.training.runs import calibrate, export_run, training_environment

CONFIG = TrainingConfig(
    input=InputConfig(WIDTH, HEIGHT),
    network=NetworkConfig("resnet18_half", 16, 1, 8, 1),
    geometry=GeometryStage(epochs=3),
    pose=PoseStage(epochs=2),
    augmentation=AugmentationConfig(roll_degrees=5),
    seed=11,
)


def write_run(run: Path, **changes: Any) -> Path:
    """Write the folder of a run of 5 epochs that learned nothing; `changes` go into its checkpoint."""
    run.mkdir()
    (run / "config.yaml").write_text(yaml.safe_dump(dataclasses.asdict(CONFIG)))
    losses = [2.0, 1.5, 1.25, None, 0.5]
    lines = (json.dumps({"epoch": index + 1, "loss": loss}) for index, loss in enumerate(losses))
    (run / "log.jsonl").write_text("".join(f"{line}\n" for line in lines))
    torch.manual_seed(3)
    described = contract()
    corners = {
        name: torch.tensor(getattr(described, name), dtype=torch.float64) for name in ("map_min", "map_max")
    }
    state = {
        "network": StructPoseNetwork(CONFIG.network).state_dict(),
        "optimizer": {},
        "progress": {"epochs_done": 5, "skipped_steps": 1, "seconds": 12.5},
        "statistics": {
            "scene_mean": torch.tensor(described.scene_mean, dtype=torch.float64),
            "depth_scale": torch.tensor(2.0, dtype=torch.float64),
            **corners,
        },
        "recording": {"name": "room", "camera": dataclasses.asdict(described.training_camera)},
        "examples": torch.randint(0, 256, (3, 3, HEIGHT, WIDTH), dtype=torch.uint8),
    }
    torch.save({**state, **changes}, run / "checkpoint.pt")
    return run


def card_of(model: Path) -> ModelCard:
    card = ModelCard.from_metadata(OnnxNetwork(model, "cpu").metadata)
    assert card is not None
    return card


def test_the_card_says_how_a_run_went_and_what_its_checkpoint_keeps(tmp_path: Path) -> None:
    run = write_run(
        tmp_path / "run",
        description=as_plain(VIEWS),
        example_poses=torch.from_numpy(np.stack([np.eye(4)] * 3)),
        environment=training_environment(torch.device("cpu")),
    )
    parity = export_run(run, tmp_path / "model.onnx")
    card = card_of(tmp_path / "model.onnx")
    assert card.views == VIEWS
    training = card.training
    assert (training.epochs, training.epochs_planned, training.seconds) == (5, 5, 12.5)
    assert (training.skipped_steps, training.seed) == (1, 11)
    assert (training.geometry_loss, training.pose_loss) == (1.25, 0.5)
    assert (training.torch, training.device) == (torch.__version__, "cpu")
    assert training.augmentation == dataclasses.asdict(CONFIG.augmentation)
    assert card.export.parity == parity
    assert parity.recorded
    assert parity.poses > 0
    assert parity.torch_error is not None

    before = (tmp_path / "model.onnx").read_bytes()
    export_run(run, tmp_path / "model.onnx")
    assert (tmp_path / "model.onnx").read_bytes() == before


def test_a_run_of_an_earlier_release_leaves_gaps_in_its_card(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    (run / "log.jsonl").unlink()
    parity = export_run(run, tmp_path / "model.onnx")
    card = card_of(tmp_path / "model.onnx")
    assert card.views is None
    assert (card.training.torch, card.training.device) == ("", "")
    assert (card.training.geometry_loss, card.training.pose_loss) == (None, None)
    assert parity.torch_error is None


@pytest.mark.parametrize(("done", "losses"), [(2, (1.5, None)), (3, (1.25, None)), (4, (1.25, None))])
def test_losses_are_those_of_the_last_epoch_of_each_stage(
    done: int, losses: tuple[float | None, float | None], tmp_path: Path
) -> None:
    progress = {"epochs_done": done, "skipped_steps": 0, "seconds": 1.0}
    run = write_run(tmp_path / "run", progress=progress)
    with (run / "log.jsonl").open("a") as stream:
        stream.write('{"epoch": 6, "lo')  # the disk was full
    export_run(run, tmp_path / "model.onnx")
    training = card_of(tmp_path / "model.onnx").training
    assert (training.geometry_loss, training.pose_loss) == losses


def test_a_damaged_description_is_named(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", description={**as_plain(VIEWS), "contrast": "strong"})
    with pytest.raises(
        ModelFileError, match="the checkpoint's description.contrast = 'strong', which is no float"
    ):
        export_run(run, tmp_path / "model.onnx")
    assert not (tmp_path / "model.onnx").exists()


def outcome(nees: float | None, accepted: bool, position_m: float = 0.05) -> Outcome:
    return Outcome("", accepted, "", 0.5, position_m, 1.0, np.eye(4), np.eye(4), nees)


def calibrated(
    outcomes: list[Outcome], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> under_test.Calibration:
    """Calibrate a model whose covariance scale is 2 on made-up outcomes."""
    model = write_model(tmp_path / "model.onnx", poses(1, 1)[0], contract(covariance_scale=2.0))
    recording = open_recording(write_recording(tmp_path / "room", train=2, test=1))
    monkeypatch.setattr(under_test, "evaluate_frames", lambda *_, **__: (outcomes, []))
    return calibrate(model, recording, [])


def test_covariances_are_scaled_to_a_mean_nees_of_six(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nees = [*([12.0] * 9), 372.0]  # their mean is 48, so all is divided by 8: 1.5, and once 46.5
    outcomes = [
        *(outcome(value, True) for value in nees),
        outcome(1e6, False, 0.4),
        outcome(None, False, math.inf),
    ]
    found = calibrated(outcomes, tmp_path, monkeypatch)
    assert found.covariance_scale == pytest.approx(16.0)
    assert found.validation["nees_frames"] == 10
    assert found.validation["mean_nees"] == pytest.approx(6.0)
    assert found.validation["ellipsoid95_coverage"] == pytest.approx(0.9)
    assert (found.validation["frames"], found.validation["accepted"]) == (12, 10)
    assert found.validation["within_10cm_5deg"] == pytest.approx(10 / 12)
    assert found.validation["accepted_within_10cm_5deg"] == 1.0
    assert found.validation["accepted_median_position_m"] == pytest.approx(0.05)


def test_without_an_accepted_pose_nothing_is_scaled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = calibrated([outcome(3.0, False), outcome(None, False, math.inf)], tmp_path, monkeypatch)
    assert found.covariance_scale == 1.0
    assert found.validation.keys() == {"frames", "accepted", "median_rotation_deg", "within_10cm_5deg"}


def test_exact_poses_leave_a_scale_above_zero(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = calibrated([outcome(0.0, True)], tmp_path, monkeypatch)
    assert found.covariance_scale > 0
    assert found.validation["mean_nees"] == 0.0
    assert found.validation["ellipsoid95_coverage"] == 1.0


def test_the_ellipsoid_is_that_of_six_degrees_of_freedom() -> None:
    """The sum of six squares lies below 2 b with probability 1 - exp(-b) (1 + b + b^2 / 2)."""
    bound = under_test.CHI_SQUARE_95 / 2
    assert 1 - math.exp(-bound) * (1 + bound + bound**2 / 2) == pytest.approx(0.95, abs=1e-4)
