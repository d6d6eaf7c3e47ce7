"""Convolutions in fp16: what is in half precision, what is not, and what it does to the outputs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from landmark_files import landmark_contract
from model_files import contract
from onnx import TensorProto, helper, numpy_helper

from structpose_ros.mixed_precision import SUFFIX, with_fp16
from structpose_ros.network import output_names
from structpose_ros.training.config import LandmarkConfig
from structpose_ros.training.export import noise_image, onnx_model
from structpose_ros.training.landmarks import LandmarkNetwork
from structpose_ros.training.parity import node_rays, rays_tensor

DEMO = Path(__file__).resolve().parent.parent / "models" / "demo_room.onnx"


def write_convolutions(path: Path, seed: int = 0) -> Path:
    """Write a model with a skip, a head that ends in coordinates, and a convolution that takes the rays."""
    random = np.random.default_rng(seed)

    def weights(outputs: int, inputs: int, size: int = 3) -> np.ndarray:
        values = random.normal(size=(outputs, inputs, size, size)) / np.sqrt(inputs * size * size)
        return values.astype(np.float32)

    constants = {
        **{"w1": weights(8, 3), "w2": weights(8, 8), "w3": weights(8, 3, 1), "head": weights(3, 8, 1)},
        **{"deep": weights(1, 8, 1), "trust": weights(1, 6, 1), "far": np.float32(5.0)},
    }
    same, eighth = {"pads": [1, 1, 1, 1]}, {"kernel_shape": [8, 8], "strides": [8, 8]}
    nodes = [
        helper.make_node("AveragePool", ["image"], ["small"], **eighth),
        helper.make_node("Conv", ["small", "w1"], ["c1"], name="first", **same),
        helper.make_node("Relu", ["c1"], ["r1"]),
        helper.make_node("Conv", ["r1", "w2"], ["c2"], name="second", **same),
        helper.make_node("Conv", ["small", "w3"], ["c3"], name="skip"),
        helper.make_node("Add", ["c2", "c3"], ["sum"]),
        helper.make_node("Relu", ["sum"], ["features"]),
        helper.make_node("Conv", ["features", "head"], ["scene_coordinates"], name="places"),
        helper.make_node("Conv", ["features", "deep"], ["logits"], name="depths"),
        helper.make_node("Sigmoid", ["logits"], ["share"]),
        helper.make_node("Mul", ["share", "far"], ["depth"]),
        helper.make_node("Concat", ["rays", "scene_coordinates"], ["both"], axis=1),
        helper.make_node("Conv", ["both", "trust"], ["trusted"], name="trust"),
        helper.make_node("Sigmoid", ["trusted"], ["weights"]),
    ]
    described = contract()
    h, w = described.grid_shape
    shapes = {"image": [1, 3, described.input_height, described.input_width], "rays": [1, 3, h, w]}
    made = {"depth": [1, 1, h, w], "scene_coordinates": [1, 3, h, w], "weights": [1, 1, h, w]}
    graph = helper.make_graph(
        nodes,
        "convolutions",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in made.items()],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(model, described.to_metadata())
    path.write_bytes(model.SerializeToString())
    return path


def halves_of(content: bytes) -> set[str]:
    """Names of the nodes that compute in fp16."""
    model = onnx.load_from_string(content)
    return {node.name for node in model.graph.node if node.output[0].endswith(SUFFIX) and node.name}


def outputs_of(content: bytes, image: np.ndarray, rays: np.ndarray) -> dict[str, np.ndarray]:
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {"image": image, "rays": rays}), strict=True))


def test_heads_and_what_rays_go_into_stay_in_fp32(tmp_path: Path) -> None:
    half = with_fp16(write_convolutions(tmp_path / "net.onnx").read_bytes())
    assert halves_of(half) == {"first", "second", "skip"}
    model = onnx.load_from_string(half)
    types = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    assert {name for name, kind in types.items() if kind == TensorProto.FLOAT16} == {
        f"{name}{SUFFIX}" for name in ("w1", "w2", "w3")
    }
    assert {name for name, kind in types.items() if kind == TensorProto.FLOAT} == {
        *("head", "deep", "trust", "far")
    }
    before = onnx.load(tmp_path / "net.onnx")
    assert model.graph.input == before.graph.input
    assert model.graph.output == before.graph.output
    assert model.metadata_props == before.metadata_props


def test_outputs_differ_by_the_rounding_of_halves_and_no_more(tmp_path: Path) -> None:
    path = write_convolutions(tmp_path / "net.onnx")
    random = np.random.default_rng(3)
    image = random.normal(size=(1, 3, 48, 64)).astype(np.float32)
    rays = random.normal(size=(1, 3, 6, 8)).astype(np.float32)
    exact = outputs_of(path.read_bytes(), image, rays)
    half = outputs_of(with_fp16(path.read_bytes()), image, rays)
    for name, expected in exact.items():
        deviation = np.abs(half[name] - expected).max() / np.abs(expected).max()
        assert 1e-6 < deviation < 5e-3, name  # it is in half precision indeed, and harmless


def test_a_map_of_landmarks_has_its_backbone_in_fp16_and_its_places_exact() -> None:
    network = LandmarkNetwork(LandmarkConfig(count=64)).eval()
    image, rays = noise_image(landmark_contract()), rays_tensor(node_rays(landmark_contract()))
    content = onnx_model(network, image, rays, output_names(landmark_contract())).SerializeToString()
    half = with_fp16(content)
    named = halves_of(half)
    convolutions = {node.name for node in onnx.load_from_string(content).graph.node if node.op_type == "Conv"}
    kept = convolutions - named
    assert {name.split("/")[2] for name in kept} == {"block_fusion", "heatmap_head", "keypoint_head"} & {
        name.split("/")[2] for name in kept
    }
    assert "/xfeat/block_fusion/block_fusion.2/Conv" in kept
    assert "/xfeat/keypoint_head/keypoint_head.3/Conv" in kept
    assert len(named & convolutions) >= 20
    types = {tensor.name: tensor.data_type for tensor in onnx.load_from_string(half).graph.initializer}
    assert types["positions"] == types["depths"] == types["keys"] == TensorProto.FLOAT


def test_a_model_in_int8_is_refused() -> None:
    with pytest.raises(ValueError, match="expected a model in float32, got one in int8: export it again"):
        with_fp16(DEMO.read_bytes())


def test_a_model_without_convolutions_is_refused() -> None:
    info = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    other = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "none", [info], [other])
    with pytest.raises(ValueError, match="expected a model with convolutions that can be in fp16, got none"):
        with_fp16(helper.make_model(graph).SerializeToString())
