"""A map of landmarks in bytes: which layers are, what that costs, and no file where it costs too much."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from landmark_files import CAMERA, landmark_contract, random_network, textured_room
from recordings import frame, pose

from structpose_ros.geometry import pose_error
from structpose_ros.model_card import Export, Int8Loss, ModelCard
from structpose_ros.network import OnnxNetwork
from structpose_ros.relocalizer import Relocalizer
from structpose_ros.training import int8_loss as under_test
from structpose_ros.training.dataset import normalize_images
from structpose_ros.training.description import TrainingRun
from structpose_ros.training.export import export_model
from structpose_ros.training.frames import Frame
from structpose_ros.training.graph_editing import constant_of
from structpose_ros.training.int8_convolutions import Feed
from structpose_ros.training.landmarks import LandmarkNetwork, collect
from structpose_ros.training.parity import ExportError

POSES = [pose(0.1 + 0.02 * number, 0.2, 0.5) for number in range(6)]
CONTRACT = landmark_contract()
TRAINING = TrainingRun(0, 0, 1.0, 0, None, None, 0, "", "cpu", {})


@pytest.fixture(scope="module")
def seen() -> list[Frame]:
    with textured_room():
        return [frame(f"seen {number}", each, CAMERA) for number, each in enumerate(POSES)]


@pytest.fixture(scope="module")
def network(seen: list[Frame]) -> LandmarkNetwork:
    with textured_room():
        made = random_network(3000)
    made.set_landmarks(collect(made, seen, CAMERA, CAMERA), np.asarray(CONTRACT.scene_mean), CAMERA)
    made.int8 = True
    return made


def images_of(frames: list[Frame]) -> torch.Tensor:
    stacked = np.stack([item.image_rgb.transpose(2, 0, 1) for item in frames])
    return normalize_images(torch.from_numpy(np.ascontiguousarray(stacked)))


def card_of(path: Path) -> Export:
    card = ModelCard.from_metadata(OnnxNetwork(path, "cpu").metadata)
    assert card is not None
    return card.export


def test_the_loss_is_measured_on_frames_that_did_not_calibrate(
    network: LandmarkNetwork, seen: list[Frame], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, poses, images = tmp_path / "model.onnx", np.stack(POSES), images_of(seen)
    calibrated: list[np.ndarray] = []
    truth = under_test.with_int8_convolutions

    def noted(model: onnx.ModelProto, feeds: list[Feed]) -> onnx.ModelProto:
        calibrated.extend(feed["image"] for feed in feeds)
        return truth(model, feeds)

    monkeypatch.setattr(under_test, "with_int8_convolutions", noted)
    export_model(network, CONTRACT, path, images=images, true_poses=poses, training=TRAINING)
    np.testing.assert_array_equal(np.concatenate(calibrated), images[::2].numpy())
    loss = card_of(path).int8
    assert loss is not None
    assert (loss.calibrated, loss.frames, loss.poses) == (3, 3, 3)
    assert 0.0 < loss.position_m < 0.005
    assert 0.0 < loss.rotation_deg < 0.2
    assert loss.float_error is not None and loss.int8_error is not None

    relocalizer = Relocalizer(OnnxNetwork(path, "cpu"))
    errors = []
    for item in seen[1::2]:
        estimate = relocalizer.localize(item.image_rgb, CAMERA).estimate
        assert estimate is not None
        errors.append(pose_error(estimate.map_from_camera, item.map_from_camera))
    np.testing.assert_allclose(np.median(errors, axis=0), loss.int8_error, rtol=1e-3, atol=1e-6)


def test_wide_layers_are_in_bytes_and_those_on_pixels_are_not(
    network: LandmarkNetwork, seen: list[Frame], tmp_path: Path
) -> None:
    path = tmp_path / "model.onnx"
    export_model(network, CONTRACT, path, images=images_of(seen[:2]))
    graph = onnx.load(path).graph
    makers = {output: node for node in graph.node for output in node.output}
    in_bytes = {}
    for node in graph.node:
        if node.op_type == "Conv":
            quantised = all(makers[name].op_type == "DequantizeLinear" for name in node.input)
            weights = makers[node.input[1]].input[0] if quantised else node.input[1]
            shape = next((item.dims for item in graph.initializer if item.name == weights), None)
            shape = shape or constant_of(graph, weights).shape
            in_bytes[node.name] = (quantised, shape[1])
    assert len(in_bytes) == 24
    assert all(quantised == (inputs >= 24) for quantised, inputs in in_bytes.values()), in_bytes
    assert sum(quantised for quantised, _ in in_bytes.values()) == 19
    users = {name: node for node in graph.node for name in node.input}
    behind = {users[node.output[0]].op_type for node in graph.node if in_bytes.get(node.name, (False,))[0]}
    assert behind == {"QuantizeLinear"}, "a ReLU is in the range already"
    for tensor in graph.initializer:
        if tensor.name.endswith("_quantized") and tensor.data_type == onnx.TensorProto.INT8:
            assert np.abs(onnx.numpy_helper.to_array(tensor).astype(int)).max() <= 64, "of 7 bits"


def test_without_true_poses_their_errors_are_not_known(
    network: LandmarkNetwork, seen: list[Frame], tmp_path: Path
) -> None:
    path = tmp_path / "model.onnx"
    export_model(network, CONTRACT, path, images=images_of(seen), training=TRAINING)
    loss = card_of(path).int8
    assert loss is not None and loss.poses == 3 and 0.0 < loss.position_m < 0.005
    assert loss.float_error is None and loss.int8_error is None


def test_float32_has_no_loss(network: LandmarkNetwork, seen: list[Frame], tmp_path: Path) -> None:
    in_float32 = copy.copy(network)
    in_float32.int8 = False
    export_model(in_float32, CONTRACT, tmp_path / "model.onnx", images=images_of(seen), training=TRAINING)
    assert card_of(tmp_path / "model.onnx").int8 is None


@pytest.mark.parametrize("frames", [0, 1])
def test_too_few_frames_to_calibrate_and_measure(
    frames: int, network: LandmarkNetwork, seen: list[Frame], tmp_path: Path
) -> None:
    images = images_of(seen[:frames]) if frames else None
    with pytest.raises(ExportError, match=f"int8: expected a run that keeps at least two .*, got {frames}: "):
        export_model(network, CONTRACT, tmp_path / "model.onnx", images=images)
    assert not list(tmp_path.iterdir())


def spoilt(weight: str, factor: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the graph in bytes have a constant that is off by a factor."""
    truth = under_test.with_int8_convolutions

    def wrong(model: onnx.ModelProto, feeds: list[Feed]) -> onnx.ModelProto:
        made = truth(model, feeds)
        (tensor,) = (item for item in made.graph.initializer if item.name == weight)
        values = onnx.numpy_helper.to_array(tensor) * np.float32(factor)
        tensor.CopyFrom(onnx.numpy_helper.from_array(values.astype(np.float32), weight))
        return made

    monkeypatch.setattr(under_test, "with_int8_convolutions", wrong)


@pytest.mark.parametrize(
    ("factor", "message"),
    [
        (1.1, r"for half of the frames, got 0\.\d+ m and 0\.\d+ deg: export it without int8"),
        (
            2.0,
            r"frame 1 of 3 within 0.1 m and 5.0 deg of float32's, .*, got one 0\.\d+ m and .* from it: ",
        ),
        (
            np.nan,
            "frame 1 of 3 within 0.1 m and .* of float32's, which is right, got none: export it without",
        ),
    ],
)
def test_a_file_that_costs_more_is_not_written(
    factor: float,
    message: str,
    network: LandmarkNetwork,
    seen: list[Frame],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spoilt("positions", factor, monkeypatch)
    path = tmp_path / "model.onnx"
    path.write_bytes(b"the model before")
    with pytest.raises(ExportError, match=message):
        export_model(network, CONTRACT, path, images=images_of(seen), true_poses=np.stack(POSES))
    assert path.read_bytes() == b"the model before"


def test_a_loss_that_nothing_can_be_said_of_is_refused(
    network: LandmarkNetwork, seen: list[Frame], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Poses that are not known to be right may be lost; but of one at least there must be a loss."""
    spoilt("positions", np.nan, monkeypatch)
    with pytest.raises(ExportError, match="int8: expected poses of the 3 frames .*, got none: export it"):
        export_model(network, CONTRACT, tmp_path / "model.onnx", images=images_of(seen))


def test_the_loss_is_two_numbers_each() -> None:
    Int8Loss(1, 1, 1, 0.0, 0.0, (0.1, 0.2), (0.1, 0.3))
    with pytest.raises(ValueError, match="int8_error: expected two numbers, got"):
        Int8Loss(1, 1, 1, 0.0, 0.0, (0.1, 0.2), (0.1,))  # type: ignore[arg-type]
