"""What the node says of where its network runs: in diagnostics and log, while it loads and afterwards."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("rclpy", reason="rclpy is not installed: no ROS 2 here")

from model_files import write_model
from node_rig import MAP_FROM_CAMERA
from sensor_msgs.msg import Image
from stand_in_runtime import CPU, CUDA, TENSORRT, StandIn
from test_node_lifecycle import configured

from structpose_ros import model_loading
from structpose_ros.diagnostics import Condition, Health, Level
from structpose_ros.gate import GateOptions
from structpose_ros.model_loading import LoadingError, ModelLoading
from structpose_ros.sessions import BackendOptions

ALL = [TENSORRT, CUDA, CPU]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_model(tmp_path / "model.onnx", MAP_FROM_CAMERA)


def loading(model: Path, heard: list[str], **options: Any) -> ModelLoading:
    return ModelLoading(str(model), "", BackendOptions(**options), GateOptions(), heard.append)


def test_diagnostics_say_what_runs(model: Path, stand_in: StandIn, tmp_path: Path) -> None:
    stand_in(ALL, ALL)
    folder = tmp_path / "engines"
    with configured(model, **{"model.provider": "tensorrt", "model.cache": str(folder)}) as node:
        _, values = node._health.report()
        assert values["provider"] == "tensorrt"
        assert values["precision"] == "tf32"
        assert values["threads"] == "1"
        assert values["engine"].startswith(f"built in 0 s, kept in {folder}/")
        assert values["backend_warnings"] == ""


def test_a_fall_back_is_a_warning_as_long_as_nothing_is_worse(model: Path, stand_in: StandIn) -> None:
    stand_in([CPU], [CPU])
    asked: dict[str, object] = {"model.provider": "cuda", "model.allow_fallback": True}
    with configured(model, **asked) as node:
        node.trigger_activate()
        node._health.received()
        node._health.accepted({}, 1.0)
        condition, values = node._health.report()
        assert (condition.level, condition.reason) == (Level.WARN, "backend")
        assert condition.message.startswith("backend: asked for cuda, runs on cpu: ")
        assert values["backend_warnings"] == condition.message.removeprefix("backend: ")
        node._health.rejected("bad_image", "it is grey", Level.ERROR, {})
        assert node._health.condition().reason == "bad_image"


def test_a_model_that_runs_as_asked_takes_the_warning_away(model: Path, stand_in: StandIn) -> None:
    health = Health("image")
    health.enter("active")
    health.received()
    health.stand(Condition.of(Level.WARN, "backend", "slow"))
    health.accepted({}, 1.0)
    assert health.condition().reason == "backend"
    health.stand(None)
    assert health.condition().reason == "localized"


def test_an_engine_is_built_in_the_loading_thread_and_said_so(
    model: Path, stand_in: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = stand_in(ALL, ALL)
    begun, go_on = threading.Event(), threading.Event()
    write = runtime.write_engine

    def slowly(told: dict[str, Any]) -> None:
        if told:
            begun.set()
            assert go_on.wait(30.0)
        write(told)

    monkeypatch.setattr(runtime, "write_engine", slowly)
    with configured(model, **{"model.provider": "cpu"}) as node:
        node.trigger_cleanup()
        node.settings = type(node.settings)(model_path=str(model), model_provider="tensorrt")
        configuring = threading.Thread(target=node.trigger_configure, daemon=True)
        configuring.start()
        assert begun.wait(30.0)
        condition = node._health.condition()
        assert (condition.level, condition.reason) == (Level.WARN, "configuring")
        assert condition.message.startswith("configuring: 0 s of building a TensorRT engine, which takes min")
        assert "ros2 run structpose_ros build_engine MODEL" in condition.message
        go_on.set()
        configuring.join(30.0)
        assert node._health.condition().reason == "inactive"


def test_what_takes_long_is_said_again(
    model: Path, stand_in: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = stand_in(ALL, ALL)
    monkeypatch.setattr(model_loading, "STILL_PERIOD", 0.01)
    again = threading.Event()
    heard: list[str] = []

    class Said(list[str]):
        def append(self, line: str) -> None:
            heard.append(line)
            if "still building a TensorRT engine" in line:
                again.set()

    monkeypatch.setattr(runtime, "write_engine", lambda told: told and again.wait(30.0))
    loading(model, Said(), provider="tensorrt").wait()
    assert heard[0].startswith("building a TensorRT engine")
    assert heard[1].startswith("after 0 s still building a TensorRT engine")


def test_a_provider_that_is_not_there_is_a_bad_one(model: Path, stand_in: StandIn) -> None:
    stand_in([CPU], [CPU])
    for options in ({"provider": "cuda"}, {"precision": "fp16"}, {"cores": (4000,)}):
        with pytest.raises(LoadingError) as raised:
            loading(model, [], **options).wait()
        assert raised.value.reason == "bad_provider"


def test_the_thread_that_localises_is_bound_to_the_networks_cores(model: Path) -> None:
    core = min(os.sched_getaffinity(0))
    before = os.sched_getaffinity(0)
    with configured(model, **{"model.cores": str(core)}) as node:
        node.trigger_activate()
        found: list[set[int]] = []
        worked = threading.Event()

        def process(arrival: object) -> None:
            found.append(os.sched_getaffinity(0))
            worked.set()

        assert node._localization is not None
        node._localization.process = process  # type: ignore[method-assign, assignment]
        camera = node.create_publisher(Image, "image", 1)
        end = time.monotonic() + 10.0
        while not worked.wait(0.05):
            assert time.monotonic() < end
            camera.publish(Image())
        assert found[0] == {core}
    assert os.sched_getaffinity(0) == before
