"""The command from end to end, and its errors: one line each."""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys
from pathlib import Path

import onnx
import pytest
import yaml
from model_files import contract, write_model
from recordings import poses, write_recording, write_sevenscenes
from test_train import CONFIG

from structpose_ros.cli import main
from structpose_ros.contract import METADATA_KEY


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_recording(tmp_path_factory.mktemp("data") / "room", train=8, test=2)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(dataclasses.asdict(CONFIG)))
    return path


def fails(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """Run the command, expect status 1 and one line on stderr; return the line."""
    assert main([str(item) for item in arguments]) == 1
    error = capsys.readouterr().err.strip().splitlines()
    assert len(error) == 1, error
    assert error[0].startswith("structpose: error: ")
    return error[0]


def test_from_recording_to_model(
    room: Path, config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, out = tmp_path / "run", tmp_path / "out"
    assert main(["train", str(config), "--data", str(room), "--out", str(run)]) == 0
    assert "held-out frames: frames 2" in capsys.readouterr().out
    assert main(["evaluate", str(run), "--data", str(room), "--out", str(out)]) == 0
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["frames"] == 2
    assert json.loads(capsys.readouterr().out) == metrics

    model = tmp_path / "room.onnx"
    assert main(["export", str(run), "--out", str(model)]) == 0
    assert "largest relative deviation from torch" in capsys.readouterr().out
    assert main(["evaluate", str(model), "--data", str(room), "--out", str(out), "--split", "train"]) == 0
    assert json.loads((out / "metrics.json").read_text())["frames"] == 8
    capsys.readouterr()
    assert main(["info", str(model)]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["dataset"] == "room"
    assert told["format_version"] == 1
    assert told["sha256"] == metrics["model_sha256"]


def test_import(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_sevenscenes(tmp_path / "scene")
    assert main(["import", "7scenes", str(tmp_path / "scene"), str(tmp_path / "out")]) == 0
    assert "wrote 2 frames" in capsys.readouterr().out
    assert (tmp_path / "out" / "camera.yaml").is_file()
    assert "expected a 7-Scenes scene" in fails(capsys, "import", "7scenes", tmp_path, tmp_path / "b")


def test_errors_of_training(
    room: Path, config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    absent, run = tmp_path / "absent", tmp_path / "run"
    evaluation = ["--data", room, "--out", tmp_path / "out"]
    assert "expected a training configuration" in fails(capsys, "train", absent, "--data", room, "--out", run)
    config.write_text("epochs: 3")
    assert "epochs: unknown key" in fails(capsys, "train", config, "--data", room, "--out", run)
    config.write_text("a: [\nb: {")
    assert "expected YAML, got" in fails(capsys, "train", config, "--data", room, "--out", run)
    config.write_text("network: {pretrained: absent.pth}\ndevice: cpu\ninput: {width: 64, height: 48}")
    assert main(["train", str(config), "--data", str(room), "--out", str(run)]) == 1
    told = capsys.readouterr().err.splitlines()[-1]
    assert "network.pretrained: expected readable weights in 'absent.pth'" in told
    config.write_text("device: cpu")
    assert "expected a recording's folder" in fails(capsys, "train", config, "--data", absent, "--out", run)
    assert "expected a run or an empty folder" in fails(
        capsys, "train", config, "--data", room, "--out", room
    )
    for command in (["export", tmp_path, "--out", tmp_path / "m.onnx"], ["evaluate", tmp_path, *evaluation]):
        assert "expected a training run" in fails(capsys, *command)
    (tmp_path / "checkpoint.pt").write_bytes(b"")
    (tmp_path / "config.yaml").write_text("seed: 1")
    assert "expected a readable checkpoint" in fails(capsys, "export", tmp_path, "--out", tmp_path / "m.onnx")


def test_bad_frames(room: Path, config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = shutil.copytree(room, tmp_path / "room")
    (data / "seq-01" / "frame-000001.color.png").write_bytes(b"")
    (data / "seq-02" / "frame-000000.pose.txt").unlink()
    train = ["train", str(config), "--data", str(data), "--out", str(tmp_path / "run")]
    assert main(train) == 1
    told = capsys.readouterr().err.splitlines()
    assert told[-1].startswith("structpose: error: 1 of 8 frames are bad: ")
    assert all("reading frames" in line for line in told[:-1] if line)  # the progress bar
    model = write_model(tmp_path / "model.onnx", poses(1, 1)[0])
    evaluation = ["evaluate", str(model), "--data", str(data), "--out", str(tmp_path / "out")]
    assert "1 of 2 frames are bad: seq-02/frame-000000: expected color" in fails(capsys, *evaluation)
    assert main([*evaluation, "--skip-bad"]) == 0
    assert json.loads((tmp_path / "out" / "metrics.json").read_text())["frames"] == 1
    (data / "camera.yaml").write_text("image_width: [")
    capsys.readouterr()
    assert "camera.yaml: expected a ROS camera_info YAML file, got" in fails(capsys, *evaluation)


@pytest.mark.parametrize("swap", ["depth", "scene_coordinates"])
def test_swaps(swap: str, room: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = write_model(tmp_path / "model.onnx", poses(1, 1)[0])
    out = tmp_path / "out"
    command = ["evaluate", str(model), "--data", str(room), "--out", str(out), "--swap", swap]
    assert main(command) == 0
    assert json.loads(capsys.readouterr().out)["method"] == f"structpose with true {swap}"


def test_an_unforeseen_error_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ValueError("a defect of ours")

    monkeypatch.setattr("structpose_ros.cli.OnnxNetwork", broken)
    with pytest.raises(ValueError, match="a defect of ours"):
        main(["info", "model.onnx"])


def test_an_interruption(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("structpose_ros.cli.OnnxNetwork", interrupted)
    assert main(["info", "model.onnx"]) == 130
    assert capsys.readouterr().err == "structpose: interrupted; what was finished is kept\n"


def test_errors_about_model_files(room: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = write_model(tmp_path / "good.onnx", poses(1, 1)[0])
    bad = tmp_path / "bad.onnx"
    assert "expected a model file at" in fails(capsys, "info", bad)
    bad.write_bytes(good.read_bytes()[:200])
    assert "expected an ONNX model" in fails(capsys, "info", bad)
    model = onnx.load(good)
    del model.metadata_props[:]
    onnx.save(model, bad)
    assert "expected a model exported by `structpose export`" in fails(capsys, "info", bad)
    onnx.helper.set_model_props(
        model,
        {
            METADATA_KEY: contract()
            .to_metadata()[METADATA_KEY]
            .replace('"format_version": 1', '"format_version": 9')
        },
    )
    onnx.save(model, bad)
    message = fails(capsys, "evaluate", bad, "--data", room, "--out", tmp_path / "out")
    assert "expected model format version 1, got 9" in message
    assert not (tmp_path / "out").exists()


def test_a_missing_package_is_named(
    room: Path,
    config: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in [name for name in sys.modules if name.startswith("structpose_ros.training")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "torch", None)
    line = fails(capsys, "train", config, "--data", room, "--out", tmp_path / "run")
    assert "pip install 'structpose_ros[training]'" in line
    assert "torch" in line
