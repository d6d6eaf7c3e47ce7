"""Tensors that lie ready give what fresh ones give, on the CPU for real and on a GPU's stand-in."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from model_files import HEIGHT, STRIDE, WIDTH, write_model
from stand_in_runtime import CPU, CUDA, TENSORRT, StandIn

from structpose_ros.bound_session import BoundSession
from structpose_ros.geometry import rotation_from_vector, transform
from structpose_ros.network import OnnxNetwork

OUTPUTS = ["weights", "depth", "scene_coordinates"]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    pose = transform(rotation_from_vector([0.1, 0.2, -0.3]), [1.0, 2.0, 3.0])
    return write_model(tmp_path / "model.onnx", pose)


def inputs(seed: int) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    rays = random.normal(size=(1, 3, HEIGHT // STRIDE, WIDTH // STRIDE)).astype(np.float32)
    return {"image": random.random((1, 3, HEIGHT, WIDTH), dtype=np.float32), "rays": rays}


def test_outputs_are_those_of_a_plain_run_in_the_order_asked_for(model: Path) -> None:
    session = onnxruntime.InferenceSession(model, providers=[CPU])
    bound = BoundSession(onnxruntime, session, OUTPUTS, "cpu")
    for seed in range(3):
        for found, expected in zip(bound.run(inputs(seed)), session.run(OUTPUTS, inputs(seed)), strict=True):
            np.testing.assert_array_equal(found, expected)


def test_a_result_stays_as_it_is_when_the_next_frame_runs(model: Path) -> None:
    session = onnxruntime.InferenceSession(model, providers=[CPU])
    bound = BoundSession(onnxruntime, session, OUTPUTS, "cpu")
    first = bound.run(inputs(0))
    kept = [tensor.copy() for tensor in first]
    assert not np.array_equal(bound.run(inputs(1))[1], kept[1])
    for tensor, before in zip(first, kept, strict=True):
        np.testing.assert_array_equal(tensor, before)


def test_an_image_that_is_no_row_of_bytes_is_read_all_the_same(model: Path) -> None:
    session = onnxruntime.InferenceSession(model, providers=[CPU])
    bound = BoundSession(onnxruntime, session, OUTPUTS, "cpu")
    given = inputs(4)
    mirrored = {**given, "image": given["image"][..., ::-1]}
    np.testing.assert_array_equal(bound.run(mirrored)[1], session.run(["depth"], mirrored)[0])


@pytest.mark.parametrize("provider", ["cuda", "tensorrt", "cpu"])
def test_on_a_gpu_tensors_lie_ready_and_on_a_cpu_none_is_needed(
    model: Path, stand_in: StandIn, provider: str
) -> None:
    runtime = stand_in([TENSORRT, CUDA, CPU], [TENSORRT, CUDA, CPU])
    network = OnnxNetwork(model, provider)
    expected = [] if provider == "cpu" else ["cuda:0"] * 2 + ["cpu:0"] * 3
    assert runtime.placed == expected
    given = inputs(5)
    rays = given["rays"][0].transpose(1, 2, 0).astype(np.float64)
    prediction = network.predict(given["image"], rays)
    plain = onnxruntime.InferenceSession(model, providers=[CPU]).run(["depth"], given)[0]
    np.testing.assert_array_equal(prediction.depth, plain[0, 0])
