"""The paper's experiments in miniature: two rooms in the layout of 7-Scenes, and two of 12-Scenes."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from recordings import write_recording, write_sevenscenes
from twelvescenes_files import write_scene

from structpose_ros import cli
from structpose_ros.training import published, reproduce
from structpose_ros.training.config import (
    AugmentationConfig,
    GeometryStage,
    InputConfig,
    NetworkConfig,
    PoseStage,
    TrainingConfig,
)
from structpose_ros.training.frames import read_pose
from structpose_ros.training.published import AVERAGE, OURS, PoseError
from structpose_ros.training.reproduction_report import SceneOutcome, write_report

CONFIG = TrainingConfig(
    input=InputConfig(64, 48),
    network=NetworkConfig("resnet18_half", 8, 1, 8, 1),
    geometry=GeometryStage(epochs=1, learning_rate=1e-3, schedule="onecycle"),
    pose=PoseStage(epochs=1),
    augmentation=AugmentationConfig(False, roll_degrees=0, tilt_degrees=0, scale_low=1, scale_high=1),
    batch_size=4,
    device="cpu",
    validation_fraction=0.0,
)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A scene as downloaded, one that was imported, and one that has no split for testing."""
    root = tmp_path_factory.mktemp("7scenes")
    write_sevenscenes(root / "chess", 4)
    (root / "chess" / "TestSplit.txt").write_text("sequence1\n")
    write_recording(root / "redkitchen", train=4, test=3)
    write_recording(root / "stairs", train=1, test=1)
    (root / "stairs" / "TestSplit.txt").unlink()
    (root / "notes").mkdir()
    return root


def command(root: Path, out: Path, *more: str, benchmark: str = "7scenes") -> int:
    config = out.parent / f"{out.name}.yaml"
    config.write_text(yaml.safe_dump(dataclasses.asdict(CONFIG)))
    arguments = ["--root", str(root), "--out", str(out), "--config", str(config)]
    return cli.main(["reproduce", benchmark, *arguments, *more])


def row(report: Path, name: str) -> list[str]:
    """Return the cells of the one row of the report that begins with a name."""
    (line,) = [line for line in report.read_text().splitlines() if line.startswith(f"| {name} |")]
    return [cell.strip() for cell in line.strip("|").split("|")][1:]


def test_scenes_are_put_beside_the_paper(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    assert command(root, out) == 1
    printed = capsys.readouterr()
    assert printed.err.splitlines()[-1].startswith(
        "structpose: error: expected 3 scenes to be reproduced, got 1 that failed: stairs"
    )
    assert "stairs: failed: expected TestSplit.txt in" in printed.err
    assert (out / "reproduce.md").read_text() in printed.out
    report = json.loads((out / "reproduce.json").read_text())
    assert report["config_digest"] == CONFIG.digest()
    assert list(report["scenes"]) == ["chess", "redkitchen", "stairs"]
    assert report["scenes"]["stairs"]["failure"].startswith("expected TestSplit.txt")
    assert not (out / "stairs").exists()  # what can't be tested isn't trained
    assert report["average"] is None
    kitchen = report["scenes"]["redkitchen"]
    metrics = json.loads((out / "redkitchen" / "test" / "metrics.json").read_text())
    assert kitchen["paper"] == {"position_m": 0.12, "rotation_deg": 2.75}
    assert kitchen["median_position_m"] == metrics["median_position_m"]
    assert kitchen["frames"] == metrics["frames"] == 3
    assert row(out / "reproduce.md", "Kitchen") == [
        "0.12/2.75",
        f"{metrics['median_position_m']:.2f}/{metrics['median_rotation_deg']:.2f}",
        "3",
    ]
    assert row(out / "reproduce.md", "Stairs")[:2] == ["0.29/6.88", "-"]
    assert row(out / "reproduce.md", "MapNet")[:2] == ["0.08/3.25", "0.27/11.70"]
    here = row(out / "reproduce.md", "this run")
    assert len(here) == 8
    assert here[1:5] == ["-"] * 4

    # Another configuration is no outcome of this one, and does not overwrite it.
    benchmark = reproduce.BENCHMARKS["7scenes"]
    other = dataclasses.replace(CONFIG, seed=1)
    with pytest.raises(reproduce.ReproductionError, match="got 1 that failed: chess"):
        reproduce.reproduce(benchmark, root, out, other, scenes=["chess"])
    run = out / "chess" / "run"
    assert f"expected {run} to hold a run with this configuration" in capsys.readouterr().err

    def untouched(*_: object, **__: object) -> Path:
        raise AssertionError("trained again")

    # A second call trains nothing again, and one scene alone keeps the others in the report.
    monkeypatch.setattr(reproduce, "train", untouched)
    assert command(root, out, "--scenes", "chess") == 0
    assert "chess: median" in capsys.readouterr().out
    again = json.loads((out / "reproduce.json").read_text())
    assert again["scenes"] == {name: report["scenes"][name] for name in ("chess", "redkitchen")}

    # A model that is not the one that was tested counts for nothing.
    model = out / "chess" / "run" / "model.onnx"
    model.write_bytes(model.read_bytes() + b"\0")
    assert command(root, out, "--scenes", "chess") == 1
    assert "chess: failed: AssertionError: trained again" in capsys.readouterr().err


def test_twelvescenes_are_imported_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    truth = write_scene(tmp_path / "root" / "apt1" / "kitchen")
    write_scene(tmp_path / "root" / "office2" / "5a")
    (tmp_path / "root" / "office2" / "5a" / "data" / "frame-000003.depth.png").unlink()
    asked = []

    def fake_evaluate(model: Path, data: Path, split: str, out: Path, **_: object) -> dict[str, object]:
        asked.append((model, data, split, out))
        return outcome_of("any", "any", [(0.3, 2.0), (0.1, 4.0)], tmp_path).metrics

    monkeypatch.setattr(reproduce, "train", lambda config, data, run, **_: run / "model.onnx")
    monkeypatch.setattr(reproduce, "evaluate", fake_evaluate)
    out = tmp_path / "out"
    assert command(tmp_path / "root", out, benchmark="12scenes") == 1
    assert "office2/5a: failed: 1 of 5 frames are bad: data/frame-000003" in capsys.readouterr().err
    data, scene = out / "data" / "apt1" / "kitchen", out / "apt1" / "kitchen"
    assert asked == [(scene / "run" / "model.onnx", data, "test", scene / "test")]
    np.testing.assert_allclose(read_pose(data / "seq-01" / "frame-000001.pose.txt"), truth[1], atol=1e-6)
    assert row(out / "reproduce.md", "Kitchen1") == ["0.08/4.45", "0.20/3.00", "2"]
    assert row(out / "reproduce.md", "Office 5a")[:2] == ["0.10/5.08", "-"]
    assert row(out / "reproduce.md", "PnLP")[:2] == ["0.09/4.10", "0.08/2.90"]
    assert row(out / "reproduce.md", "this run")[:2] == ["0.20/3.00", "-"]


def test_what_is_not_there_is_named(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for more, message in (
        (("--scenes", "chess,kitchen"), "expected scenes of chess, fire, .*, got 'kitchen'"),
        (("--scenes", "chess,fire"), "expected scenes of 7-Scenes as downloaded at [^,]*/fire, got none"),
    ):
        assert command(root, tmp_path / "out", *more) == 1
        assert re.search(message, capsys.readouterr().err)
    assert command(tmp_path, tmp_path / "out", benchmark="12scenes") == 1
    assert "expected scenes of 12-Scenes as downloaded at" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def outcome_of(folder: str, scene: str, errors: list[tuple[float, float]], tmp_path: Path) -> SceneOutcome:
    poses = tmp_path / f"{folder}.csv"
    poses.write_text("frame,position_m,rotation_deg\n" + "".join(f"f,{p},{r}\n" for p, r in errors))
    median = np.median(errors, axis=0).tolist()
    metrics = {
        "frames": len(errors),
        "median_position_m": median[0],
        "median_rotation_deg": median[1],
        "within_5cm_5deg": 0.5,
        "model_sha256": "",
    }
    return SceneOutcome(folder, scene, metrics, poses)


def test_with_every_scene_there_are_averages_and_the_other_tables(tmp_path: Path) -> None:
    benchmark = reproduce.BENCHMARKS["7scenes"]
    errors = [(0.02, 1.0), (0.10, 3.0), (0.30, 2.0)]
    outcomes = [
        outcome_of(folder, scene, [*errors, *([(float("inf"),) * 2] if folder == "heads" else [])], tmp_path)
        for folder, scene in benchmark.scenes.items()
    ]
    paper = TrainingConfig()
    write_report(tmp_path, benchmark.title, 1, benchmark.methods, paper, outcomes)
    report = json.loads((tmp_path / "reproduce.json").read_text())
    # Six medians of 0.1 m and 2 deg, and that of the heads: 0.2 m and 2.5 deg.
    assert report["average"] == pytest.approx({"position_m": 0.8 / 7, "rotation_deg": 14.5 / 7})
    assert report["pooled"] == pytest.approx(
        {"within_5cm_5deg": 7 / 22, "position_m": 0.1, "rotation_deg": 2.0}
    )
    text = (tmp_path / "reproduce.md").read_text()
    assert "| this run | 0.11/2.07 |  |" in text
    assert "| this run | 0.318 | 0.100 | 2.000 |" in text
    assert "| ESAC | 0.752 | 0.030 | 0.946 |" in text
    assert "| DSAC++ | 0.03/1.10 | RAN, Ref |" in text
    # An ablation is measured against its own row of Table 5.
    masked = dataclasses.replace(paper, geometry=GeometryStage(validity_mask=True))
    write_report(tmp_path, benchmark.title, 1, benchmark.methods, masked, outcomes)
    assert row(tmp_path / "reproduce.md", "Heads")[0] == "0.16/10.67"


def test_published_figures_agree_with_each_other() -> None:
    for method, errors in published.TABLE_1.items():
        assert set(errors) >= {"Heads"}
        if AVERAGE in errors:
            average = np.mean([error for scene, error in errors.items() if scene != AVERAGE], axis=0)
            np.testing.assert_allclose(average, errors[AVERAGE], atol=0.0151, err_msg=method)
    assert published.TABLE_2[OURS][0] == published.TABLE_1[OURS][AVERAGE]
    paper = published.ablation(TrainingConfig())
    assert paper == {scene: error for scene, error in published.TABLE_1[OURS].items() if scene != AVERAGE}
    assert published.TABLE_4["ESAC"]["Gates381"] == PoseError(0.01, 0.67)
    for benchmark in reproduce.BENCHMARKS.values():
        assert set(benchmark.scenes.values()) == set(benchmark.methods[OURS]) - {AVERAGE}
    ablations = (
        (PoseStage(epochs=0, correspondence_weighting=False), False, PoseError(0.36, 10.72)),
        (PoseStage(correspondence_weighting=False), False, PoseError(0.36, 10.70)),
        (PoseStage(update_geometry=False), False, PoseError(0.08, 2.27)),
        (PoseStage(), True, PoseError(0.08, 2.46)),
    )
    for pose, mask, chess in ablations:
        config = TrainingConfig(pose=pose, geometry=GeometryStage(validity_mask=mask))
        found = published.ablation(config)
        assert found is not None
        assert found["Chess"] == chess
    unpublished = TrainingConfig(
        pose=PoseStage(update_geometry=False), geometry=GeometryStage(validity_mask=True)
    )
    assert published.ablation(unpublished) is None
