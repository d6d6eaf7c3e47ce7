"""A trained network as one model file: ONNX, opset 17, metadata inside, parity with torch checked."""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from torch import Tensor, nn

from structpose_ros import contract as names
from structpose_ros.contract import ModelContract
from structpose_ros.map_cloud import MapCloud
from structpose_ros.training.frames import write_atomic
from structpose_ros.training.networks import StructPoseNetwork, depth_from_logits

OPSET = 17
PARITY = 1e-4


class ExportError(RuntimeError):
    """The exported graph does not do what the torch network does."""


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


@dataclass(frozen=True)
class Parity:
    """Largest deviation of ONNX Runtime from torch, relative to the output's largest magnitude."""

    depth: float
    scene_coordinates: float
    weights: float

    @property
    def worst(self) -> float:
        """The largest of the three; NaN if any is, which max() would pass over."""
        return float(np.max([self.depth, self.scene_coordinates, self.weights]))


def export_model(
    network: StructPoseNetwork,
    contract: ModelContract,
    path: Path,
    *,
    correspondence_weighting: bool,
    images: Tensor | None = None,
    map_cloud: MapCloud | None = None,
) -> Parity:
    """Write the model file, with `map_cloud` where there is one, and return how well it agrees with torch.

    `images` (N, 3, H, W), normalised, are what the two are compared on: frames of the recording, where there
    are some, else noise. On what a network has never seen its outputs may be so steep that float32 itself
    does not hold 1e-4.

    Raises:
        ExportError: an output differs by more than 1e-4 relative, or is not finite; nothing is written then.
    """
    graph = ExportedGraph(network.cpu().eval(), contract.depth_scale, correspondence_weighting).eval()
    noise, rays = example_inputs(contract)
    images = noise if images is None else images
    buffer = io.BytesIO()
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # the tracer warns of shapes that are constant here
        torch.onnx.export(
            graph,
            (images[:1], rays),
            buffer,  # type: ignore[arg-type]  # a file object, which the annotation forgets
            input_names=[names.INPUT_IMAGE, names.INPUT_RAYS],
            output_names=[names.OUTPUT_DEPTH, names.OUTPUT_SCENE_COORDINATES, names.OUTPUT_WEIGHTS],
            opset_version=OPSET,
            dynamo=False,
        )
    model = onnx.load_from_string(buffer.getvalue())
    clouds = map_cloud.to_metadata() if map_cloud else {}
    onnx.helper.set_model_props(model, {**contract.to_metadata(), **clouds})
    onnx.checker.check_model(model)
    content = model.SerializeToString()
    parity = measure_parity(graph, content, images, rays)
    if not parity.worst <= PARITY:
        raise ExportError(f"expected ONNX and torch to agree to {PARITY:g} relative, got {parity}")
    write_atomic(path, content)
    return parity


def example_inputs(contract: ModelContract) -> tuple[Tensor, Tensor]:
    """Return an image of noise (1, 3, H, W) and the training camera's rays (1, 3, h, w)."""
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(1, 3, contract.input_height, contract.input_width, generator=generator)
    rays = np.nan_to_num(contract.training_camera.ray_grid(contract.stride))
    return image, torch.from_numpy(rays.transpose(2, 0, 1)[None].astype(np.float32))


def measure_parity(graph: ExportedGraph, content: bytes, images: Tensor, rays: Tensor) -> Parity:
    """Run the graph in torch and in ONNX Runtime on the CPU, and return the worst of all images (N, ...)."""
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    deviations = []
    for image in images.split(1):
        outputs = session.run(None, {names.INPUT_IMAGE: image.numpy(), names.INPUT_RAYS: rays.numpy()})
        with torch.no_grad():
            expected = [value.numpy() for value in graph(image, rays)]
        deviations.append(
            [
                float(np.abs(found - true).max() / max(np.abs(true).max(), 1e-12))
                for found, true in zip(outputs, expected, strict=True)
            ]
        )
    return Parity(*np.max(deviations, axis=0).tolist())
