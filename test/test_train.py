"""Training on a tiny room: it learns, it resumes to the bit, and it protects what is won."""

from __future__ import annotations

import dataclasses
import json
import math
import operator
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from recordings import HIGH, LOW, colors, write_recording
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from structpose_ros.alignment import AlignmentOptions
from structpose_ros.camera import Camera
from structpose_ros.network import OnnxNetwork
from structpose_ros.relocalizer import Relocalizer
from structpose_ros.training import stages
from structpose_ros.training.config import (
    AugmentationConfig,
    ConfigError,
    GeometryStage,
    InputConfig,
    NetworkConfig,
    PoseStage,
    TrainingConfig,
    load_config,
)
from structpose_ros.training.dataset import collate, normalize_images, split_validation
from structpose_ros.training.evaluate import evaluate
from structpose_ros.training.frames import FrameFiles, RecordingError, open_recording, read_depth
from structpose_ros.training.losses import GeometryLoss
from structpose_ros.training.runs import export_run, measure_map_cloud, read_checkpoint
from structpose_ros.training.train import Trainer, train

CONFIG = TrainingConfig(
    input=InputConfig(64, 48),
    network=NetworkConfig("resnet18_half", 16, 1, 8, 1),
    geometry=GeometryStage(epochs=3, learning_rate=1e-3, schedule="onecycle", validity_mask=True),
    pose=PoseStage(epochs=2),
    augmentation=AugmentationConfig(roll_degrees=5, tilt_degrees=3),
    batch_size=4,
    device="cpu",
    validation_fraction=0.2,
)


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_recording(tmp_path_factory.mktemp("data") / "room", train=12, test=2)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Sums over threads are not to the bit the same from run to run."""
    torch.set_num_threads(1)


def flat(content: object, name: str = "") -> dict[str, object]:
    """Return the leaves of nested mappings and lists by their path."""
    if isinstance(content, dict):
        items = list(content.items())
    elif isinstance(content, list | tuple):
        items = list(enumerate(content))
    else:
        return {name: content}
    return {path: leaf for key, value in items for path, leaf in flat(value, f"{name}/{key}").items()}


def weights(run: Path) -> dict[str, torch.Tensor]:
    return dict(read_checkpoint(run)["network"])


def test_learns_and_writes_a_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Four views, learned by heart: the loss falls to a tenth, and the model file knows their places."""
    room, run = write_recording(tmp_path / "room", train=5, test=1), tmp_path / "run"
    config = dataclasses.replace(
        CONFIG,
        network=NetworkConfig("resnet18_half", 32, 1, 8, 1),
        geometry=dataclasses.replace(CONFIG.geometry, epochs=40, learning_rate=3e-3),
        augmentation=AugmentationConfig(False, roll_degrees=0, tilt_degrees=0, scale_low=1, scale_high=1),
    )
    model = train(config, room, run)
    log = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in log] == list(range(1, 43))
    assert log[39]["loss"] < 0.1 * log[0]["loss"]
    assert log[-1]["skipped_steps"] == 0
    seen = evaluate(model, room, "train", tmp_path / "out", provider="cpu")
    assert seen["median_position_m"] < 0.3  # their mean is 0.4 m away, and they look all around
    assert seen["median_rotation_deg"] < 10

    contract = OnnxNetwork(model, "cpu").contract
    assert OnnxNetwork(model, "cpu").map_cloud is not None
    examples = read_checkpoint(run)["examples"]
    first = open_recording(room).read(open_recording(room).files("train")[0][0]).image_rgb
    np.testing.assert_array_equal(examples[0], first.transpose(2, 0, 1))
    assert contract.dataset == "room"
    assert contract.config_digest == config.digest()
    assert (np.array(contract.map_min) > LOW - 0.05).all()
    assert (np.array(contract.map_max) < HIGH + 0.05).all()
    assert (np.subtract(contract.map_max, contract.map_min) > 1.0).all()
    validation = json.loads((run / "validation.json").read_text())
    assert validation["validation"]["frames"] == 1
    assert contract.covariance_scale == pytest.approx(validation["covariance_scale"])
    # The only held-out frame is the typical one: half of its points are inliers, and fewer at a bit less.
    threshold = contract.alignment.inlier_threshold
    assert threshold == validation["inlier_threshold"] > config.alignment.inlier_threshold
    below = dataclasses.replace(contract.alignment, inlier_threshold=0.999 * threshold)
    recording = open_recording(room)
    _, held_out = split_validation(recording.files("train")[0], config.validation_fraction)
    frame = recording.read(held_out[0])
    ratios = []
    for alignment in (contract.alignment, below):
        relocalizer = Relocalizer(OnnxNetwork(model, "cpu"), None, alignment)
        estimate = relocalizer.localize(frame.image_rgb, recording.camera).estimate
        assert estimate is not None
        ratios.append(estimate.inlier_ratio)
    assert ratios[0] >= 0.5 > ratios[1]
    assert "held-out frames: frames 1" in capsys.readouterr().out

    # A finished run is measured again, not calibrated on top of its own calibration.
    train(config, room, run)
    assert json.loads((run / "validation.json").read_text()) == validation


def test_the_inlier_threshold_of_the_configuration_is_the_least(room: Path, tmp_path: Path) -> None:
    config = dataclasses.replace(
        CONFIG,
        pose=PoseStage(epochs=0, correspondence_weighting=False),
        alignment=AlignmentOptions(inlier_threshold=50.0),
    )
    run = tmp_path / "run"
    model = train(config, room, run)
    contract = OnnxNetwork(model, "cpu").contract
    assert contract.alignment.inlier_threshold == 50.0

    # A run of an earlier release kept no threshold: the configuration's holds, the rest is as measured.
    kept = json.loads((run / "validation.json").read_text())
    del kept["inlier_threshold"]
    (run / "validation.json").write_text(json.dumps(kept))
    export_run(run, tmp_path / "again.onnx")
    assert OnnxNetwork(tmp_path / "again.onnx", "cpu").contract == contract


@pytest.mark.parametrize("size", [(72, 56), (48, 48)])
def test_odd_grids_and_a_last_batch_of_one_frame(size: tuple[int, int], room: Path, tmp_path: Path) -> None:
    config = dataclasses.replace(CONFIG, input=InputConfig(*size), batch_size=3)
    trainer = Trainer(config, room, tmp_path / "run")
    assert len(trainer.views) % 3 == 1
    trainer.train(stop_after=1)
    log = json.loads((tmp_path / "run" / "log.jsonl").read_text())
    assert math.isfinite(log["loss"])
    assert log["skipped_steps"] == 0
    _, labels = collate([trainer.views[0]])
    columns, rows = size[0] // 8, size[1] // 8
    assert labels.depth.shape == (1, 1, rows, columns)
    assert labels.half_depth.shape == (1, 1, math.ceil(rows / 2), math.ceil(columns / 2))


def test_the_pose_stage_leaves_batch_statistics_alone(room: Path, tmp_path: Path) -> None:
    trainer = Trainer(CONFIG, room, tmp_path / "run")
    trainer.train(stop_after=3)
    before = weights(tmp_path / "run")
    trainer.train()
    after = weights(tmp_path / "run")
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    assert not any("running" in key or "num_batches" in key for key in changed)
    assert any(key.startswith("weight_head") for key in changed)
    moved = max((after[key] - before[key]).abs().max().item() for key in changed if "weight_head" not in key)
    assert 0 < moved < 1e-4  # six steps at 1e-6


@pytest.fixture(scope="module")
def undisturbed(room: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    run = tmp_path_factory.mktemp("whole") / "run"
    Trainer(CONFIG, room, run).train()
    return run


@pytest.mark.parametrize("stop", [1, 3, 4])
def test_resuming_equals_not_stopping(stop: int, room: Path, undisturbed: Path, tmp_path: Path) -> None:
    Trainer(CONFIG, room, tmp_path).train(stop_after=stop)
    begun = "optimizer/state/" in "".join(flat(read_checkpoint(tmp_path)))
    assert begun == (stop != 3)  # the second stage begins with an optimiser of its own
    resumed = Trainer(CONFIG, room, tmp_path)
    assert resumed.progress.epochs_done == stop
    resumed.train()
    whole, parts = (flat(read_checkpoint(run)) for run in (undisturbed, tmp_path))
    assert whole.keys() == parts.keys()
    for key in whole.keys() - {"/progress/seconds"}:
        equal = torch.equal if isinstance(whole[key], torch.Tensor) else operator.eq
        assert equal(whole[key], parts[key]), key
    losses = [
        [json.loads(line)["loss"] for line in (run / "log.jsonl").read_text().splitlines()]
        for run in (undisturbed, tmp_path)
    ]
    assert len(losses[0]) == 5
    assert losses[0] == losses[1]


def test_the_model_carries_coloured_points_of_the_walls(undisturbed: Path, tmp_path: Path) -> None:
    export_run(undisturbed, tmp_path / "model.onnx")
    cloud = OnnxNetwork(tmp_path / "model.onnx", "cpu").map_cloud
    assert cloud is not None
    assert len(cloud.points) > 300
    off_wall = np.abs(np.stack([cloud.points - LOW, cloud.points - HIGH])).min(axis=(0, 2))
    assert off_wall.max() < 0.03  # depth of the nearest pixel, sqrt(1/2) px of 60 px away: 12 mm per metre
    error = np.abs(cloud.colors.astype(int) - colors(cloud.points))
    assert np.percentile(error, 95) <= 3  # the mean of 8x8 pixels


def test_a_run_of_an_earlier_release_has_no_points_until_they_are_measured(
    room: Path, undisturbed: Path, tmp_path: Path
) -> None:
    run, model = tmp_path / "run", tmp_path / "model.onnx"
    shutil.copytree(undisturbed, run)
    state = read_checkpoint(run)
    kept = state.pop("map_cloud")
    torch.save(state, run / "checkpoint.pt")
    before = (run / "checkpoint.pt").read_bytes()
    export_run(run, model)
    assert OnnxNetwork(model, "cpu").map_cloud is None

    cloud = measure_map_cloud(run, room)
    np.testing.assert_array_equal(cloud.points, kept["points"])
    np.testing.assert_array_equal(cloud.colors, kept["colors"])
    export_run(run, model, map_cloud=cloud)
    carried = OnnxNetwork(model, "cpu").map_cloud
    assert carried is not None
    np.testing.assert_allclose(carried.points, cloud.points, atol=1e-4)
    assert (run / "checkpoint.pt").read_bytes() == before

    elsewhere = write_recording(tmp_path / "elsewhere", train=11, test=1)
    with pytest.raises(ConfigError, match="expected the frames of 'room' .* got others in .*: name that"):
        measure_map_cloud(run, elsewhere)

    train(CONFIG, room, run)  # finished long ago: it has the frames, so its model gets the points
    assert OnnxNetwork(run / "model.onnx", "cpu").map_cloud is not None


def test_a_folder_with_something_else_is_refused(room: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    Trainer(CONFIG, room, run).train(stop_after=1)
    with pytest.raises(ConfigError, match="expected .* to hold a run with this configuration"):
        Trainer(dataclasses.replace(CONFIG, seed=1), room, run)
    elsewhere = write_recording(tmp_path / "elsewhere", train=11, test=1)
    with pytest.raises(ConfigError, match="expected the frames of 'room' .* got others in .*elsewhere"):
        Trainer(CONFIG, elsewhere, run)
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.txt").write_text("precious")
    with pytest.raises(ConfigError, match="expected a run or an empty folder"):
        Trainer(CONFIG, room, other)
    assert (other / "thesis.txt").read_text() == "precious"


def test_a_run_that_never_began_holds_no_folder(room: Path, tmp_path: Path) -> None:
    with pytest.raises(RecordingError):
        Trainer(CONFIG, tmp_path / "mistyped", tmp_path / "run")
    other = dataclasses.replace(CONFIG, seed=1)
    Trainer(other, room, tmp_path / "run")
    assert load_config(tmp_path / "run" / "config.yaml") == other


def test_a_damaged_checkpoint_is_named(room: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    Trainer(CONFIG, room, run).train(stop_after=1)
    path = run / "checkpoint.pt"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ConfigError) as caught:
        Trainer(CONFIG, room, run)
    assert str(caught.value).startswith(f"expected a readable checkpoint at {path}, got: ")
    assert "\n" not in str(caught.value)
    with pytest.raises(ConfigError, match="expected a training run with checkpoint.pt"):
        read_checkpoint(tmp_path)


@pytest.mark.parametrize("content", [b"", b"abc", b"\x80\x02", b"PK\x03\x04", b"hello world\n"])
def test_a_file_that_is_no_checkpoint_is_named(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "checkpoint.pt").write_bytes(content)
    with pytest.raises(ConfigError, match=r"^expected a readable checkpoint at .*, got: .+$") as caught:
        read_checkpoint(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_checkpoint_of_something_else_is_named(tmp_path: Path) -> None:
    for content, missing in (({"network": {}}, "'optimizer', 'progress'"), ([1, 2], "'network'")):
        torch.save(content, tmp_path / "checkpoint.pt")
        with pytest.raises(ConfigError, match=f"expected a checkpoint of a run at .* without .*{missing}"):
            read_checkpoint(tmp_path)


def test_checkpoints_hold_no_code(room: Path, tmp_path: Path) -> None:
    Trainer(CONFIG, room, tmp_path / "run").train(stop_after=1)
    path = tmp_path / "run" / "checkpoint.pt"
    state = torch.load(path, weights_only=True)
    assert state["progress"]["epochs_done"] == 1
    assert state["recording"]["name"] == "room"
    assert state["statistics"]["scene_mean"].dtype == torch.float64

    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return print, ("executed",)

    torch.save({**state, "network": Trap()}, path)
    with pytest.raises(ConfigError, match="Weights only load failed"):
        read_checkpoint(tmp_path / "run")


def test_bad_frames_are_refused_or_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    room = write_recording(tmp_path / "room", train=10, test=1)
    (room / "seq-01" / "frame-000003.depth.png").unlink()
    with pytest.raises(RecordingError, match="1 of 10 frames are bad: .*000003: .* got no depth"):
        Trainer(CONFIG, room, tmp_path / "run")
    (room / "seq-01" / "frame-000004.pose.txt").write_text("")
    (room / "seq-01" / "frame-000009.color.png").write_bytes(b"")  # one of those that are held out
    trainer = Trainer(CONFIG, room, tmp_path / "run", skip_bad=True)
    assert [frame.name[-1] for frame in trainer.views.frames] == list("012567")
    assert [item.name[-1] for item in trainer.validation_files] == list("89")
    told = capsys.readouterr().out.splitlines()
    assert len(told) == 3
    assert all(line.startswith("left out: ") for line in told)


def test_a_graphics_card_that_is_not_there(
    room: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="device: expected a CUDA GPU, got none"):
        Trainer(dataclasses.replace(CONFIG, device="cuda"), room, tmp_path / "run")


def test_cells_that_the_lens_does_not_reach_have_no_say_in_the_pose(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Its polynomial turns back within the image: no ray is seen in the corners.
    fisheye = Camera(64, 48, 20.0, 20.0, 31.5, 23.5, "equidistant", (0.0, -0.04, 0.0, 0.0))
    room = write_recording(tmp_path / "room", train=4, test=1, camera=fisheye)
    trainer = Trainer(CONFIG, room, tmp_path / "run")
    outside = np.isnan(trainer.views.rays[..., 0])
    assert 0 < outside.mean() < 0.5
    pose = trainer.method.stage_loss(trainer.method.stages[1]).eval()
    used = []
    monkeypatch.setattr(stages, "align", lambda a, b, w, *_: used.append(w) or torch.eye(4)[None])
    images, labels = collate([trainer.views[0]])
    pose.loss(normalize_images(images), labels)
    given = used[0][0].detach().numpy().reshape(outside.shape)
    assert not given[outside].any()
    assert (given[~outside] > 0).all()


def test_steps_that_are_not_finite_are_left_out_and_counted(
    room: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    true_loss = stages.geometry_loss
    calls = []

    def poisoned(*arguments: object) -> GeometryLoss:
        calls.append(1)
        loss = true_loss(*arguments)  # type: ignore[arg-type]
        return dataclasses.replace(loss, depth=loss.depth * math.nan) if len(calls) == 2 else loss

    monkeypatch.setattr(stages, "geometry_loss", poisoned)
    trainer = Trainer(CONFIG, room, tmp_path / "run")
    trainer.train(stop_after=2)
    assert trainer.progress.skipped_steps == 1
    learned = [value for key, value in weights(tmp_path / "run").items() if "num_batches" not in key]
    assert all(torch.isfinite(value).all() for value in learned)


def test_learning_rates() -> None:
    def rate(options: GeometryStage, epoch: int, step: int, steps: int) -> float:
        rate = stages.Stage("geometry", options.epochs, False, True, options).learning_rate(
            epoch, step, steps
        )
        assert rate is not None
        return rate

    assert rate(CONFIG.geometry, 0, 9, 100) == pytest.approx(1e-3 * (10 / 300) / 0.1)
    assert rate(CONFIG.geometry, 0, 29, 100) == pytest.approx(1e-3)
    assert rate(CONFIG.geometry, 1, 64, 100) == pytest.approx(0.5e-3)
    assert rate(CONFIG.geometry, 2, 99, 100) == pytest.approx(1e-7)
    steps = GeometryStage(epochs=50, learning_rate=1e-4, schedule="step")
    assert [rate(steps, epoch, 0, 10) for epoch in (0, 19, 20, 39, 40)] == pytest.approx(
        [1e-4, 1e-4, 1e-5, 1e-5, 1e-6]
    )
    assert stages.Stage("pose", 10, True, False).learning_rate(3, 2, 10) is None


def test_the_last_batch_is_filled_up_from_the_first(room: Path, tmp_path: Path) -> None:
    trainer = Trainer(dataclasses.replace(CONFIG, batch_size=4, validation_fraction=0.5), room, tmp_path)
    batches = list(trainer._batches(3))
    assert len(trainer.views) == 6
    assert sorted(batches[0] + batches[1][:2]) == list(range(6))
    assert batches[1][2:] == batches[0][:2]
    assert batches == list(trainer._batches(3)) != list(trainer._batches(4))


def test_few_labels_and_no_mask_are_warned_of(
    room: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sparse = tmp_path / "room"
    shutil.copytree(room, sparse)
    for path in sparse.glob("seq-*/*.depth.png"):
        depth_mm = read_depth(path)
        depth_mm[:, 16:] = 0  # two of eight columns of cells
        cv2.imwrite(str(path), depth_mm)
    unmasked = dataclasses.replace(CONFIG, geometry=dataclasses.replace(CONFIG.geometry, validity_mask=False))
    Trainer(unmasked, sparse, tmp_path / "unmasked")
    assert "warning: 25 % of the cells have a label, and without geometry.validity" in capsys.readouterr().out
    Trainer(CONFIG, sparse, tmp_path / "masked")
    Trainer(unmasked, room, tmp_path / "dense")
    assert "warning" not in capsys.readouterr().out


def test_what_a_killed_run_logged_beyond_its_checkpoint_is_taken_back(room: Path, tmp_path: Path) -> None:
    Trainer(CONFIG, room, tmp_path).train(stop_after=2)
    path = tmp_path / "log.jsonl"
    kept = path.read_text()
    path.write_text(kept + '{"epoch": 3, "loss": 1.0}\n{"epoch": 4, "lo')
    (tmp_path / ".checkpoint.pt.123.tmp").write_bytes(b"half")
    Trainer(CONFIG, room, tmp_path).train(stop_after=3)
    lines = path.read_text().splitlines()
    assert lines[:2] == kept.splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [1, 2, 3]
    assert not list(tmp_path.glob(".*"))


def test_a_stage_that_no_longer_improves_ends_with_its_best_weights(
    room: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = iter([3.0, 2.0, 2.5, 2.0, 2.2, 9.0, 8.0])
    monkeypatch.setattr(Trainer, "_held_out_loss", lambda *_: next(losses))
    config = dataclasses.replace(
        CONFIG, geometry=dataclasses.replace(CONFIG.geometry, epochs=6), patience=2, panels_every=100
    )
    trainer = Trainer(config, room, tmp_path)
    trainer.train(stop_after=2)
    best = weights(tmp_path)
    trainer.train(stop_after=3)
    assert not torch.equal(weights(tmp_path)["conv1.weight"], best["conv1.weight"])
    resumed = Trainer(config, room, tmp_path)
    resumed.train(stop_after=4)  # the second epoch without a new best, which it took from the checkpoint
    assert (resumed.progress.stage, resumed.progress.epoch, resumed.progress.epochs_done) == (1, 0, 4)
    assert all(torch.equal(value, best[key]) for key, value in weights(tmp_path).items())
    resumed.train()
    assert (resumed.progress.stage, resumed.progress.epochs_done) == (2, 6)
    assert resumed.views.epoch == 7  # six epochs of stage 1 were planned: its views come in no other stage


def test_patience_needs_frames_to_judge_by(room: Path, tmp_path: Path) -> None:
    config = dataclasses.replace(CONFIG, patience=2, validation_fraction=0.01)  # of 12 frames: none
    with pytest.raises(ConfigError, match="patience: expected frames held out to judge by, got none of 12"):
        Trainer(config, room, tmp_path / "run")


def test_held_out_frames_are_measured_as_they_are(room: Path, tmp_path: Path) -> None:
    trainer = Trainer(CONFIG, room, tmp_path)
    trainer.train(stop_after=1)
    assert len(trainer.held_out) == 2
    line = json.loads((tmp_path / "log.jsonl").read_text())
    stage = trainer.method.stages[0]
    module = trainer.method.stage_loss(stage).eval()
    with torch.no_grad():
        expected = [module(*trainer._to_device(collate([trainer.held_out[n]])))[0].item() for n in range(2)]
    assert line["held_out_loss"] == pytest.approx(np.mean(expected))
    np.testing.assert_array_equal(
        trainer.held_out[0]["image"], trainer.held_out.frames[0].image_rgb.transpose(2, 0, 1)
    )


def test_tensorboard_gets_scalars_and_pictures(undisturbed: Path) -> None:
    events = EventAccumulator(str(undisturbed / "tensorboard"), size_guidance={"scalars": 0})
    events.Reload()
    steps = [event.step for event in events.Scalars("geometry/loss")]
    assert steps == list(range(1, 10))  # ten frames in batches of four, three epochs
    assert [event.step for event in events.Scalars("pose/held_out_loss")] == [12, 15]
    assert {"geometry/depth", "pose/position_m", "learning_rate"} <= set(events.Tags()["scalars"])
    assert len(events.Tags()["images"]) == 2  # the frames held out
    picture = events.Images(events.Tags()["images"][0])[0]
    assert (picture.width, picture.height) == (5 * 64, 48)


@pytest.mark.parametrize(("precision", "compiled"), [("bf16-mixed", False), ("32-true", True)])
def test_mixed_precision_and_compiled_networks_learn(
    precision: str, compiled: bool, room: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    used: list[torch.nn.Module] = []

    def compile_later(network: torch.nn.Module) -> None:
        used.append(network)  # for real it takes a minute

    monkeypatch.setattr(torch.nn.Module, "compile", compile_later)
    config = dataclasses.replace(CONFIG, precision=precision, compile=compiled)
    trainer = Trainer(config, room, tmp_path)
    trainer.train()
    log = [json.loads(line)["loss"] for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert log[2] < log[0]
    assert used == ([trainer.network] if compiled else [])
    assert all(value.dtype != torch.bfloat16 for value in weights(tmp_path).values())


def test_a_precision_that_a_cpu_lacks(room: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="precision: expected 32-true or bf16-mixed on a CPU"):
        Trainer(dataclasses.replace(CONFIG, precision="16-mixed"), room, tmp_path / "run")


def test_validation_frames_are_blocks_at_the_ends() -> None:
    nowhere = Path()
    files = [
        FrameFiles(f"seq-0{sequence}/frame-{number:06d}", nowhere, nowhere, nowhere)
        for sequence, count in ((1, 20), (3, 10))
        for number in range(count)
    ]
    training, held_out = split_validation(files, 0.2)
    assert [item.name for item in held_out] == [
        *(f"seq-01/frame-{number:06d}" for number in range(16, 20)),
        *(f"seq-03/frame-{number:06d}" for number in range(8, 10)),
    ]
    assert len(training) == 24
    assert split_validation(files, 0.0) == (files, [])
