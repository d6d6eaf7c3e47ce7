"""A trained network as one model file: ONNX, opset 17, metadata inside, agreement with torch checked."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import torch
from torch import Tensor, nn

from structpose_ros import contract as names
from structpose_ros.contract import ModelContract
from structpose_ros.map_cloud import MapCloud
from structpose_ros.model_card import Export, ModelCard, Parity, TrainingDescription, TrainingRun
from structpose_ros.network import output_names
from structpose_ros.training.frames import write_atomic
from structpose_ros.training.image_layers import with_lean_image_layers
from structpose_ros.training.int8_lookup import with_int8_lookup
from structpose_ros.training.int8_loss import in_int8
from structpose_ros.training.landmarks import LandmarkNetwork
from structpose_ros.training.networks import StructPoseNetwork, depth_from_logits
from structpose_ros.training.parity import PROVIDER, Examples, check_parity, node_rays, rays_tensor

OPSET = 17


class ExportedGraph(nn.Module):
    """What the model file computes: (image, rays) to (depth m, centred scene coordinates m, weights)."""

    def __init__(
        self, network: StructPoseNetwork, depth_scale: float, correspondence_weighting: bool
    ) -> None:
        """Without `correspondence_weighting` every weight is 1."""
        super().__init__()
        self.network = network
        self.depth_scale = depth_scale
        self.correspondence_weighting = correspondence_weighting

    def forward(self, image: Tensor, rays: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Image (1, 3, H, W) normalised, rays (1, 3, h, w)."""
        output = self.network(image)
        depth = depth_from_logits(output.depth_logits, self.depth_scale)
        points = rays * depth
        if self.correspondence_weighting:
            weights = self.network.correspondence_weights(output.scene_coordinates, points)
        else:
            weights = (points[:, 2:3] > -1.0).to(
                depth
            )  # rays stay an input of the graph; depth is never negative
        return depth, output.scene_coordinates, weights


def export_model(
    graph: nn.Module,
    contract: ModelContract,
    path: Path,
    *,
    images: Tensor | None = None,
    true_poses: npt.NDArray[np.float64] | None = None,
    map_cloud: MapCloud | None = None,
    training: TrainingRun | None = None,
    views: TrainingDescription | None = None,
) -> Parity:
    """Write the model file and return how well it agrees with torch.

    Args:
        graph: an `ExportedGraph` or a `LandmarkNetwork`, as trained.
        contract: goes into the file, as do `map_cloud`, and the card made of `training` and `views`, where
            given.
        path: of the file.
        images: (N, 3, H, W), normalised, that the two are compared on: frames of the recording, where there
            are some, else noise. On what a network has never seen its outputs may be so steep that float32
            itself does not hold 1e-4.
        true_poses: map_from_camera of the images, (N, 4, 4), where known.
        map_cloud: the scene's points.
        training: how the network was trained.
        views: what it was trained on.

    A map of landmarks whose `int8` is set is checked with its look-up in bytes; its convolutions follow, and
    what that costs is measured, see `in_int8`.

    Raises:
        ExportError: see `check_parity` and `in_int8`; nothing is written then.
    """
    graph = graph.cpu().eval()
    recorded = images is not None
    images = noise_image(contract) if images is None else images
    model = onnx_model(graph, images[:1], rays_tensor(node_rays(contract)), output_names(contract))
    if isinstance(graph, LandmarkNetwork):
        model = with_lean_image_layers(model)
        model = with_int8_lookup(model, graph) if graph.int8 else model
    metadata = {**contract.to_metadata(), **(map_cloud.to_metadata() if map_cloud else {})}
    onnx.helper.set_model_props(model, metadata)
    onnx.checker.check_model(model)
    examples = Examples(images, recorded, true_poses)
    parity = check_parity(graph, model.SerializeToString(), contract, examples)
    loss = None
    if isinstance(graph, LandmarkNetwork) and graph.int8:
        model, loss = in_int8(model, graph, contract, examples)
    if training is not None:
        export = Export(OPSET, str(torch.__version__), onnxruntime.__version__, PROVIDER, parity, loss)
        metadata |= ModelCard(training, views, export).to_metadata()
        onnx.helper.set_model_props(model, metadata)
    write_atomic(path, model.SerializeToString())
    return parity


def onnx_model(graph: nn.Module, image: Tensor, rays: Tensor, outputs: list[str]) -> onnx.ModelProto:
    """Return a graph as ONNX, traced on an image (1, 3, H, W) and rays (1, 3, h, w)."""
    buffer = io.BytesIO()
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # the tracer warns of shapes that are constant here
        torch.onnx.export(
            graph,
            (image, rays),
            buffer,  # type: ignore[arg-type]  # a file object, which the annotation forgets
            input_names=[names.INPUT_IMAGE, names.INPUT_RAYS],
            output_names=outputs,
            opset_version=OPSET,
            dynamo=False,
        )
    return onnx.load_from_string(buffer.getvalue())


def noise_image(contract: ModelContract) -> Tensor:
    """Return an image (1, 3, H, W) of noise, the same every time."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(1, 3, contract.input_height, contract.input_width, generator=generator)
