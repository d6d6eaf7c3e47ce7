"""The command from end to end, and its errors: one line each."""

from __future__ import annotations

import dataclasses
import io
import json
import shutil
import sys
from pathlib import Path

import onnx
import pytest
import yaml
from model_files import contract, write_model
from recordings import HIGH, LOW, poses, write_recording, write_sevenscenes
from test_export import multiply
from test_model_card import VIEWS
from test_runs import write_run
from test_train import CONFIG
from tqdm import tqdm

from structpose_ros.cli import main
from structpose_ros.contract import METADATA_KEY
from structpose_ros.map_cloud import MAP_CLOUD_KEY
from structpose_ros.model_card import CARD_KEY
from structpose_ros.training import export
from structpose_ros.training.description import as_plain
from structpose_ros.training.train import Trainer


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
    assert main(["info", "--json", str(model)]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["dataset"] == "room"
    assert told["format_version"] == 3
    assert told["sha256"] == metrics["model_sha256"]
    assert told["size_bytes"] == model.stat().st_size
    assert told["card"]["training"]["epochs"] == 5
    assert told["card"]["export"]["parity"]["recorded"] is True
    assert told["map_points"].keys() == {"count", "min", "max"}
    assert 100 < told["map_points"]["count"] <= 6 * 48  # six training frames of 48 cells
    assert all(low > limit - 0.03 for low, limit in zip(told["map_points"]["min"], LOW, strict=True))
    assert all(high < limit + 0.03 for high, limit in zip(told["map_points"]["max"], HIGH, strict=True))

    again = tmp_path / "again.onnx"
    assert main(["export", str(run), "--out", str(again), "--data", str(room)]) == 0
    assert again.read_bytes() == model.read_bytes()


def test_info_of_a_file_without_points(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", "--json", str(write_model(tmp_path / "good.onnx", poses(1, 1)[0]))]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["map_points"] is None
    assert told["card"] is None


def test_info_is_a_page_to_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        main(
            [
                "export",
                str(write_run(tmp_path / "run", description=as_plain(VIEWS))),
                "--out",
                str(tmp_path / "m.onnx"),
            ]
        )
        == 0
    )
    capsys.readouterr()
    assert main(["info", str(tmp_path / "m.onnx")]) == 0
    told = capsys.readouterr().out.splitlines()
    assert told[0] == f"{tmp_path / 'm.onnx'}: finds a camera in the map of 'room'"
    titles = [line for line in told[1:] if line and not line.startswith(" ")]
    assert titles == ["Trained on", "Works on", "Accuracy", "Calibration", "Training", "File"]
    assert "  views               550 frames of seq-01, seq-03" in told

    model = write_model(tmp_path / "old.onnx", poses(1, 1)[0], contract(dataset="Küche"))
    assert main(["info", str(model)]) == 0
    told = capsys.readouterr().out.splitlines()
    assert told[0].endswith("old.onnx: finds a camera in the map of 'Küche'")
    assert "Works on" not in told


def test_info_on_a_terminal_without_the_letters_of_a_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = write_model(tmp_path / "old.onnx", poses(1, 1)[0], contract(dataset="Küche"))
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="ascii"))
    assert main(["info", str(model)]) == 0
    sys.stdout.flush()
    assert written.getvalue().splitlines()[0].endswith(b"the map of 'K\\xfcche'")


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({f"key {index}": "x" for index in range(5000)}, "expected a model exported by `structpose export`"),
        ({"two\nlines": "x"}, "expected a model exported by `structpose export`"),
        ({METADATA_KEY: "[" * 1_000_001}, "expected at most 1000000 characters in metadata"),
        ({METADATA_KEY: json.dumps(["x" * 999_000])}, "expected a JSON object in metadata"),
        (
            {METADATA_KEY: json.dumps({"format_version": "9" * 900_000})},
            "expected model format version 3, got '999",
        ),
        ({METADATA_KEY: json.dumps({"format_version": 3, "x" * 900_000: 1})}, "metadata of other fields"),
        (
            {**contract().to_metadata(), CARD_KEY: "[" * 5_000_000},
            "expected at most 100000 characters in metadata",
        ),
        (
            {**contract().to_metadata(), CARD_KEY: "{}"},
            "expected version 2 of metadata 'structpose_ros.card'",
        ),
        ({**contract().to_metadata(), CARD_KEY: '{"version": 2}'}, "expected a usable card in metadata"),
        ({**contract().to_metadata(), MAP_CLOUD_KEY: " " * 5_000_000}, "expected at most 4000000 characters"),
    ],
    ids=[
        "many keys",
        "a line break",
        "huge",
        "a list",
        "a version",
        "a field",
        "huge card",
        "card",
        "fields",
        "cloud",
    ],
)
@pytest.mark.parametrize("options", [[], ["--json"]], ids=["page", "json"])
def test_info_of_odd_metadata(
    options: list[str],
    metadata: dict[str, str],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = write_model(tmp_path / "odd.onnx", poses(1, 1)[0])
    model = onnx.load(path)
    onnx.helper.set_model_props(model, metadata)
    onnx.save(model, path)
    line = fails(capsys, "info", path, *options)
    assert message in line
    assert str(path) in line
    assert len(line) < 1000


@pytest.mark.parametrize(
    "content", [b"", b"\0" * 1000, b"no model\n" * 100, b"\x89PNG\r\n\x1a\n", b"\x08" * 50_000]
)
def test_info_of_what_is_no_model(content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    line = fails(capsys, "info", path)
    assert str(path) in line
    assert len(line) < 500
    assert f"expected a model file at {tmp_path}, got a folder" in fails(capsys, "info", tmp_path)


def test_a_model_file_larger_than_onnx_allows_is_not_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "model.onnx"
    with path.open("wb") as stream:
        stream.truncate(2**31 + 1)  # takes no space on the disk
    assert "expected a model file of at most 2 GiB" in fails(capsys, "info", path)


def test_an_export_that_differs_leaves_the_older_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, path = write_run(tmp_path / "run"), tmp_path / "m.onnx"
    faithful = export.onnx_model

    def altered(*arguments: object) -> onnx.ModelProto:
        model = faithful(*arguments)  # type: ignore[arg-type]
        multiply(model, "network.scene_head.2.weight", 1.01)
        return model

    monkeypatch.setattr(export, "onnx_model", altered)
    refusal = (
        "expected ONNX and torch to agree to 0.0001 relative in the outputs, and to 1 mm and 0.05 deg in"
    )
    path.write_bytes(b"the model before")
    assert refusal in fails(capsys, "export", run, "--out", path)
    assert path.read_bytes() == b"the model before"
    assert {item.name for item in tmp_path.iterdir()} == {"run", "m.onnx"}


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
    assert "expected a training configuration" in fails(capsys, "train", absent, "--data", room, "--out", run)
    config.write_text("epochs: 3")
    assert "epochs: unknown key" in fails(capsys, "train", config, "--data", room, "--out", run)
    config.write_text("input: {width: 64,\n  height: [48")
    assert "expected YAML" in fails(capsys, "train", config, "--data", room, "--out", run)
    config.write_bytes(b"\xff\xfe\x00 no text")
    assert "expected YAML" in fails(capsys, "train", config, "--data", room, "--out", run)
    assert not run.exists()
    config.write_text("device: cpu")
    assert "expected a recording's folder" in fails(capsys, "train", config, "--data", absent, "--out", run)
    assert "expected a run or an empty folder" in fails(
        capsys, "train", config, "--data", room, "--out", room
    )
    assert "expected a training run" in fails(capsys, "export", tmp_path, "--out", tmp_path / "m.onnx")


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
            .replace('"format_version": 3', '"format_version": 9')
        },
    )
    onnx.save(model, bad)
    message = fails(capsys, "evaluate", bad, "--data", room, "--out", tmp_path / "out")
    assert "expected model format version 3, got 9" in message
    assert not (tmp_path / "out").exists()


def test_errors_of_pretrained_weights(
    room: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("structpose_ros.training.train.tqdm", silent)
    path, weights = tmp_path / "config.yaml", tmp_path / "weights.pth"
    network = dataclasses.replace(CONFIG.network, pretrained=str(weights))
    path.write_text(yaml.safe_dump(dataclasses.asdict(dataclasses.replace(CONFIG, network=network))))
    command = ("train", path, "--data", room, "--out", tmp_path / "run")
    assert f"expected pretrained weights at {weights}, got nothing" in fails(capsys, *command)
    weights.write_bytes(b"")
    assert "expected readable pretrained weights" in fails(capsys, *command)


def silent(*_: object, **__: object) -> tqdm:
    """Return a progress bar that shows nothing, so that stderr holds the error alone."""
    return tqdm(disable=True)


def test_errors_of_a_run(
    room: Path,
    config: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("structpose_ros.training.train.tqdm", silent)
    run, out = tmp_path / "run", tmp_path / "out"
    Trainer(CONFIG, room, run).train(stop_after=1)
    command = ("train", config, "--data", room, "--out", run)
    config.write_text(yaml.safe_dump(dataclasses.asdict(dataclasses.replace(CONFIG, seed=3))))
    assert "to hold a run with this configuration" in fails(capsys, *command)
    monkeypatch.setattr("structpose_ros.training.map_cloud.tqdm", lambda items, **_: items)
    elsewhere = write_recording(tmp_path / "elsewhere", train=3, test=1)
    export = ("export", run, "--out", tmp_path / "m.onnx")
    assert "got others in" in fails(capsys, *export, "--data", elsewhere)
    assert "expected a recording's folder" in fails(capsys, *export, "--data", tmp_path / "absent")
    assert not (tmp_path / "m.onnx").exists()
    (run / "checkpoint.pt").write_bytes(b"")
    config.write_text(yaml.safe_dump(dataclasses.asdict(CONFIG)))
    assert "expected a readable checkpoint at" in fails(capsys, *command)
    assert "expected a readable checkpoint at" in fails(capsys, *export)
    (run / "checkpoint.pt").unlink()
    assert "with checkpoint.pt in" in fails(capsys, "evaluate", run, "--data", room, "--out", out)
    assert not out.exists()


def test_errors_about_data(room: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = write_model(tmp_path / "model.onnx", poses(1, 1)[0])
    copy, out = tmp_path / "copy", tmp_path / "out"
    shutil.copytree(room, copy)
    command = ("evaluate", model, "--data", copy, "--out", out)
    assert "expected a recording's folder" in fails(capsys, *command[:3], tmp_path / "none", *command[4:])
    (copy / "seq-02" / "frame-000001.pose.txt").unlink()
    assert "1 of 2 frames are bad: seq-02/frame-000001" in fails(capsys, *command)
    (copy / "TestSplit.txt").write_text("sequence9\n")
    assert "seq-09 that the split names, got nothing" in fails(capsys, *command)
    (copy / "TestSplit.txt").write_text("the last ones\n")
    assert "expected lines like 'sequence1'" in fails(capsys, *command)
    (copy / "TestSplit.txt").write_bytes(b"\xff\xfe")
    assert "expected lines like 'sequence1'" in fails(capsys, *command)
    (copy / "TestSplit.txt").unlink()
    assert "expected TestSplit.txt in" in fails(capsys, *command)
    (copy / "camera.yaml").write_text("image_width: 64")
    assert "expected a ROS camera_info YAML file" in fails(capsys, *command)
    assert not out.exists()


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


def test_images_of_another_place(room: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = write_model(tmp_path / "model.onnx", poses(1, 1)[0])
    command = ["evaluate", str(model), "--data", str(room), "--out", str(tmp_path / "out"), "--foreign"]
    assert main([*command, str(room)]) == 0
    assert json.loads(capsys.readouterr().out)["foreign_frames"] == 10
    assert "expected images of another place" in fails(capsys, *command, tmp_path / "absent")


@pytest.mark.parametrize("share", [0.0, 0.05, 0.5, 0.99])
def test_truncated_model_files(share: float, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = write_model(tmp_path / "good.onnx", poses(1, 1)[0]).read_bytes()
    bad = tmp_path / "bad.onnx"
    bad.write_bytes(good[: int(share * len(good))])
    assert str(bad) in fails(capsys, "info", bad)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["evaluate", "m.onnx", "--data", "d", "--out", "o", "--split", "all"], "argument --split"),
        (["evaluate", "m.onnx", "--data", "d", "--out", "o", "--swap", "pose"], "argument --swap"),
        (["render-demo", "out", "--tour", "grand"], "argument --tour"),
        (["render-demo", "out", "--seed", "seven"], "argument --seed"),
        (["import", "kitti", "a", "b"], "argument FORMAT"),
        (["train", "config.yaml"], "required: --data, --out"),
        (["compare", "m.onnx", "--data", "d"], "required: --out"),
        (["compare", "--out", "o", "--pnp-threshold", "ten"], "argument --pnp-threshold"),
    ],
)
def test_usage(arguments: list[str], expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert expected in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "seed", "tours"),
    [
        ([], 7, ("mapping", "localization")),
        (["--tour", "both", "--seed", "3"], 3, ("mapping", "localization")),
        (["--tour", "localization"], 7, ("localization",)),
    ],
)
def test_render_demo(
    options: list[str], seed: int, tours: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    monkeypatch.setattr(
        "structpose_ros.training.synthetic.render_demo", lambda out, **given: calls.append((out, given))
    )
    assert main(["render-demo", str(tmp_path), *options]) == 0
    assert calls == [(tmp_path, {"seed": seed, "tours": tours})]


def test_interruption(
    room: Path,
    config: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("structpose_ros.training.train.train", interrupted)
    assert main(["train", str(config), "--data", str(room), "--out", str(tmp_path / "run")]) == 130
    assert capsys.readouterr().err == "structpose: interrupted; what was finished is kept\n"


def test_defects_are_not_hidden(
    room: Path, config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ValueError("a defect of ours")

    monkeypatch.setattr("structpose_ros.training.train.train", broken)
    with pytest.raises(ValueError, match="a defect of ours"):
        main(["train", str(config), "--data", str(room), "--out", str(tmp_path / "run")])


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
