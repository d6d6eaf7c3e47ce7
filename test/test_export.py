"""The model file does what the torch network does, and is one file with everything in it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from model_files import HEIGHT, WIDTH, contract
from onnx import numpy_helper
from test_model_card import TRAINING, VIEWS

from structpose_ros.contract import ModelFileError
from structpose_ros.map_cloud import MapCloud
from structpose_ros.model_card import CARD_KEY, ModelCard
from structpose_ros.network import OnnxNetwork
from structpose_ros.training import export as under_test
from structpose_ros.training.config import NetworkConfig
from structpose_ros.training.export import ExportedGraph, export_model, noise_image
from structpose_ros.training.networks import StructPoseNetwork
from structpose_ros.training.parity import ExportError, node_rays, rays_tensor

CONFIG = NetworkConfig("resnet18_half", 16, 1, 8, 1)


@pytest.fixture
def network() -> StructPoseNetwork:
    """An untrained network whose batch statistics are not trivial."""
    torch.manual_seed(0)
    made = StructPoseNetwork(CONFIG).train()
    with torch.no_grad():
        for _ in range(3):
            made(torch.randn(4, 3, HEIGHT, WIDTH))
    return made.eval()


def weighted(network: StructPoseNetwork) -> ExportedGraph:
    return ExportedGraph(network, contract().depth_scale, True)


def test_agrees_with_torch(network: StructPoseNetwork, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    parity = export_model(weighted(network), contract(), path)
    assert parity.worst < 1e-4
    assert list(tmp_path.iterdir()) == [path]
    model = onnx.load(path, load_external_data=False)
    assert [(item.domain, item.version) for item in model.opset_import] == [("", 17)]
    assert not any(tensor.external_data for tensor in model.graph.initializer)

    runtime = OnnxNetwork(path, "cpu")
    assert runtime.contract == contract()
    graph = weighted(network)
    generator = torch.Generator().manual_seed(5)
    image = torch.randn(1, 3, HEIGHT, WIDTH, generator=generator)
    rays = rays_tensor(node_rays(contract())) * torch.tensor([1.3, 0.8, 1.0]).view(1, 3, 1, 1)
    with torch.no_grad():
        depth, scene, weights = (value.numpy() for value in graph(image, rays))
    prediction = runtime.predict(image.numpy(), rays.numpy()[0].transpose(1, 2, 0))
    np.testing.assert_allclose(prediction.depth, depth[0, 0], rtol=1e-4)
    np.testing.assert_allclose(prediction.weights, weights[0, 0], atol=1e-4 * weights.max())
    centred = prediction.scene_coordinates - np.asarray(contract().scene_mean)
    np.testing.assert_allclose(centred, scene[0].transpose(1, 2, 0), atol=1e-4 * np.abs(scene).max())
    assert weights.std() > 1e-3

    other = runtime.predict(image.numpy(), node_rays(contract()))
    np.testing.assert_array_equal(other.depth, prediction.depth)
    assert np.abs(other.weights - prediction.weights).max() > 1e-4  # the weights see the rays


def test_the_images_given_are_all_compared_on(
    network: StructPoseNetwork, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    truth = ExportedGraph.forward

    def dark_differs(self: ExportedGraph, image: torch.Tensor, rays: torch.Tensor) -> object:
        depth, scene, weights = truth(self, image, rays)
        wrong = not torch.onnx.is_in_onnx_export() and float(image.mean()) < -1.0
        return depth, scene * (1.01 if wrong else 1.0), weights

    monkeypatch.setattr(under_test.ExportedGraph, "forward", dark_differs)
    bright, path = torch.rand(3, 3, HEIGHT, WIDTH), tmp_path / "model.onnx"
    assert export_model(weighted(network), contract(), path, images=bright).worst < 1e-4
    dark_last = torch.cat([bright, bright[:1] - 3.0])
    path = tmp_path / "other.onnx"
    with pytest.raises(ExportError, match="scene_coordinates=0.009"):
        export_model(weighted(network), contract(), path, images=dark_last)
    assert not path.exists()


def test_without_weighting_every_weight_is_one(network: StructPoseNetwork, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    export_model(ExportedGraph(network, contract().depth_scale, False), contract(), path)
    image, rays = noise_image(contract()), node_rays(contract())
    prediction = OnnxNetwork(path, "cpu").predict(image.numpy(), rays)
    assert (prediction.weights == 1.0).all()


def test_a_file_that_differs_is_not_written(
    network: StructPoseNetwork, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"the model before")
    truth = ExportedGraph.forward
    calls = []

    def drifting(self: ExportedGraph, image: torch.Tensor, rays: torch.Tensor) -> tuple[torch.Tensor, ...]:
        calls.append(1)
        depth, scene, weights = truth(self, image, rays)
        return (depth * (1.0 if torch.onnx.is_in_onnx_export() else 1.001)), scene, weights

    monkeypatch.setattr(under_test.ExportedGraph, "forward", drifting)
    with pytest.raises(ExportError, match="to 0.0001 relative in the outputs, .* got depth=0.001 "):
        export_model(weighted(network), contract(), path)
    assert calls
    assert path.read_bytes() == b"the model before"


@pytest.mark.parametrize("head", ["depth_head", "scene_head", "weight_head"])
def test_a_network_that_is_not_finite_is_not_written(
    head: str, network: StructPoseNetwork, tmp_path: Path
) -> None:
    last = getattr(network, head) if head == "depth_head" else getattr(network, head)[-1]
    torch.nn.init.constant_(last.bias, float("nan"))
    path = tmp_path / "model.onnx"
    with pytest.raises(ExportError, match="expected ONNX and torch to agree .* got .*nan"):
        export_model(weighted(network), contract(), path)
    assert not path.exists()


def test_points_of_the_map_go_with_the_model(network: StructPoseNetwork, tmp_path: Path) -> None:
    cloud = MapCloud(np.array([[1, 2, 3], [-1, 2, 9]], np.float32), np.array([[0, 9, 255]] * 2, np.uint8))
    path = tmp_path / "model.onnx"
    export_model(weighted(network), contract(), path, map_cloud=cloud)
    loaded = OnnxNetwork(path, "cpu")
    assert loaded.contract == contract()
    assert loaded.map_cloud is not None
    np.testing.assert_array_equal(loaded.map_cloud.points, cloud.points)
    np.testing.assert_array_equal(loaded.map_cloud.colors, cloud.colors)
    export_model(weighted(network), contract(), path)
    assert OnnxNetwork(path, "cpu").map_cloud is None


def test_rays_stay_an_input_without_weighting(network: StructPoseNetwork, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    export_model(ExportedGraph(network, contract().depth_scale, False), contract(), path)
    assert [item.name for item in onnx.load(path).graph.input] == ["image", "rays"]


def multiply(model: onnx.ModelProto, part: str | float, factor: float) -> None:
    """Multiply one constant of a model, an initializer or a node's, found by its name or by its value."""
    tensors = {item.name: item for item in model.graph.initializer}
    tensors |= {
        node.output[0]: node.attribute[0].t for node in model.graph.node if node.op_type == "Constant"
    }
    values = {name: numpy_helper.to_array(item) for name, item in tensors.items()}
    [name] = [
        name
        for name, value in values.items()
        if name == part or (isinstance(part, float) and value.size == 1 and np.isclose(value, part))
    ]
    changed = np.asarray(values[name] * factor, values[name].dtype)
    tensors[name].CopyFrom(numpy_helper.from_array(changed, tensors[name].name))


@pytest.mark.parametrize("factor", [1.01, float("nan")])
@pytest.mark.parametrize("part", ["network.scene_head.2.weight", "network.depth_head.bias", 1.7321])
def test_a_graph_that_is_altered_is_not_written(
    part: str | float,
    factor: float,
    network: StructPoseNetwork,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path, described = tmp_path / "model.onnx", contract(depth_scale=1.7321)
    path.write_bytes(b"the model before")
    torch.nn.init.constant_(network.depth_head.bias, 0.5)
    faithful = under_test.onnx_model

    def wrong(*arguments: object) -> onnx.ModelProto:
        model = faithful(*arguments)  # type: ignore[arg-type]
        multiply(model, part, factor)
        return model

    monkeypatch.setattr(under_test, "onnx_model", wrong)
    with pytest.raises(ExportError, match="expected ONNX and torch to agree .* got depth=.* and ") as caught:
        export_model(ExportedGraph(network, described.depth_scale, True), described, path)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_bytes() == b"the model before"


def test_the_card_goes_with_the_model_and_says_how_it_was_tested(
    network: StructPoseNetwork, tmp_path: Path
) -> None:
    path, images = tmp_path / "model.onnx", torch.rand(2, 3, HEIGHT, WIDTH)
    parity = export_model(
        weighted(network),
        contract(),
        path,
        images=images,
        true_poses=np.stack([np.eye(4)] * 2),
        training=TRAINING,
        views=VIEWS,
    )
    loaded = OnnxNetwork(path, "cpu")
    assert loaded.contract == contract()
    card = ModelCard.from_metadata(loaded.metadata)
    assert card is not None
    assert (card.training, card.views) == (TRAINING, VIEWS)
    assert card.export.parity == parity
    assert (parity.images, parity.recorded) == (2, True)
    assert (card.export.opset, card.export.provider) == (17, "CPUExecutionProvider")
    assert card.export.torch == torch.__version__

    export_model(weighted(network), contract(), path)
    assert ModelCard.from_metadata(OnnxNetwork(path, "cpu").metadata) is None


def test_a_damaged_card_does_not_keep_a_model_from_running(
    network: StructPoseNetwork, tmp_path: Path
) -> None:
    path = tmp_path / "model.onnx"
    export_model(weighted(network), contract(), path, training=TRAINING)
    model = onnx.load(path)
    onnx.helper.set_model_props(model, {**contract().to_metadata(), CARD_KEY: "{damaged"})
    onnx.save(model, path)
    loaded = OnnxNetwork(path, "cpu")
    assert loaded.predict(noise_image(contract()).numpy(), node_rays(contract())).depth.shape == (6, 8)
    with pytest.raises(ModelFileError, match="expected JSON in metadata"):
        ModelCard.from_metadata(loaded.metadata)
