"""The command that builds a TensorRT engine beforehand."""

from __future__ import annotations

from pathlib import Path

import pytest
from stand_in_runtime import CPU, CUDA, ENGINE, TENSORRT, StandIn
from test_mixed_precision import write_convolutions

from structpose_ros.build_engine import main
from structpose_ros.network import OnnxNetwork
from structpose_ros.sessions import BackendOptions

ALL = [TENSORRT, CUDA, CPU]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_convolutions(tmp_path / "net.onnx")


def test_the_node_finds_the_engine_that_was_built(
    model: Path, stand_in: StandIn, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stand_in(ALL, ALL)
    cache = tmp_path / "engines"
    assert main([str(model), "--precision", "fp16", "--cache", str(cache)]) == 0
    out, err = capsys.readouterr()
    said, result = out.splitlines()
    assert said.startswith(f"building a TensorRT engine, which takes minutes: there is none in {cache} for")
    assert result.startswith(
        f"engine for {model} in fp16 convolutions, the rest tf32: built in 0 s, kept in "
    )
    assert err == ""
    assert len(list(cache.glob(f"*/{ENGINE}"))) == 1
    options = BackendOptions("tensorrt", precision="fp16", cache=cache)
    assert OnnxNetwork(model, options=options).backend.engine.startswith("loaded from ")
    assert main([str(model), "--precision", "fp16", "--cache", str(cache)]) == 0
    assert "loaded from" in capsys.readouterr().out


def test_an_engine_that_can_not_be_kept_is_a_failure(
    model: Path, stand_in: StandIn, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stand_in(ALL, ALL)
    cache = tmp_path / "engines"
    cache.write_text("")
    assert main([str(model), "--cache", str(cache)]) == 1
    assert (
        "warning: the TensorRT engine is built at every start: expected a folder" in capsys.readouterr().err
    )


@pytest.mark.parametrize(
    ("path", "message"), [("none.onnx", "expected a model file at"), ("", "fell back to")]
)
def test_what_is_wrong_takes_one_line(
    model: Path, stand_in: StandIn, capsys: pytest.CaptureFixture[str], path: str, message: str
) -> None:
    stand_in(ALL, [CPU])
    assert main([path or str(model)]) == 1
    err = capsys.readouterr().err
    assert err.startswith("build_engine: error: ")
    assert message in err
    assert err.count("\n") == 1


def test_an_interrupted_build_keeps_nothing(
    model: Path, stand_in: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = stand_in(ALL, ALL)

    def interrupted(told: dict[str, object]) -> None:
        if told:
            raise KeyboardInterrupt

    monkeypatch.setattr(runtime, "write_engine", interrupted)
    cache = tmp_path / "engines"
    assert main([str(model), "--cache", str(cache)]) == 130
    assert list(cache.iterdir()) == []
