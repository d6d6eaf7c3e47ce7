"""The benchmark of back ends: what is missing is named, and what fails does not end it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from model_files import write_model

from benchmarks import backends
from structpose_ros.geometry import transform


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_model(tmp_path / "scene.onnx", transform(np.eye(3), [0.0, 0.0, 0.0]))


def test_what_is_not_installed_is_a_line_with_what_installs_it(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("openvino", "ncnn", "pnnx"):
        monkeypatch.setitem(sys.modules, module, None)
    rows = backends.measure(backends.subject_of(model, None), 1, 3, None, tmp_path)
    found: dict[str, dict[str, Any]] = {row["backend"]: row for row in rows}
    assert set(found["ONNX Runtime"]) == {"model", "part", "backend", "threads", "p50_ms", "p99_ms"}
    assert found["OpenVINO"]["missing"] == "not installed: pip install openvino"
    assert found["ONNX Runtime, int8 convolutions"]["missing"] == "no frames to calibrate on: give --data"
    other = found["ONNX Runtime's OpenVINO provider"]
    assert other["missing"] == "not installed: pip install onnxruntime-openvino, without onnxruntime"
    text = backends.table(rows)
    assert len(text.splitlines()) == 2 + len(rows)
    assert "pip install openvino" in text


def test_a_back_end_that_fails_is_named_with_its_reason() -> None:
    def broken(threads: int) -> Any:
        raise TypeError("no such operator\nand more")

    runs, missing = backends.built({"broken": broken, "fine": lambda threads: lambda *_: []}, 1)
    assert list(runs) == ["fine"]
    assert missing == {"broken": "fails: no such operator"}


def test_back_ends_take_turns() -> None:
    order: list[str] = []
    times = backends.times_of({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, 15)
    assert order == 10 * ["a"] + 10 * ["b"] + 10 * ["a"] + 10 * ["b"]
    assert set(times) == {"a", "b"}
    assert all(0.0 <= item["p50_ms"] <= item["p99_ms"] for item in times.values())
