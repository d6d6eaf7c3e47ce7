"""The network behind a small interface: image tensor and rays in, depth, scene coordinates, weights out."""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from structpose_ros import contract as names
from structpose_ros.backend import Model, open_backend
from structpose_ros.bound_session import DEVICES, BoundSession
from structpose_ros.camera import Camera
from structpose_ros.compiled import scaled_planes
from structpose_ros.contract import ModelContract, ModelFileError
from structpose_ros.map_cloud import MapCloud
from structpose_ros.onnx_files import expect_loadable, has_external_data
from structpose_ros.sessions import BackendOptions, ProviderError, create_session, provider_chain

PACKAGES = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino")  # of ONNX Runtime
_MOST_BYTES = 2**31  # what ONNX, a protocol buffer, can have


@dataclass(frozen=True)
class Prediction:
    """What the network says of one image.

    depth: (h, w) metres along z.
    scene_coordinates: (h, w, 3) metres, map frame (the scene mean is added back).
    weights: (h, w) in 0 .. 1.
    offsets: (h, w, 2) pixels of the input, x and y, from the cell's centre to the point that all this is said
        of; None where that is the centre itself.
    """

    depth: npt.NDArray[np.float32]
    scene_coordinates: npt.NDArray[np.float64]
    weights: npt.NDArray[np.float32]
    offsets: npt.NDArray[np.float32] | None = None

    def rays(self, camera: Camera, cell_rays: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Return the rays (h, w, 3), z = 1, of the points spoken of; 0 beyond the lens' reach.

        camera: of the input image. cell_rays: those through the cells' centres.
        """
        if self.offsets is None:
            return cell_rays
        if camera.is_pinhole:  # a pixel further is as much further everywhere
            rays = cell_rays.copy()
            rays[..., :2] += self.offsets / (camera.fx, camera.fy)
            return rays
        stride = camera.width // self.depth.shape[1]
        rays = camera.rays(camera.pixel_grid(stride) + self.offsets)
        return np.where(np.isfinite(rays[..., :1]), rays, 0.0)


class Network(Protocol):
    """Anything that predicts; the node runs `OnnxNetwork`, training also runs a torch network through it."""

    contract: ModelContract

    def predict(self, input_tensor: npt.NDArray[np.float32], rays: npt.NDArray[np.float64]) -> Prediction:
        """Predict from the normalised image (1, 3, H, W) and the ray grid (h, w, 3)."""
        ...


def normalized_tensor(
    image_rgb: npt.NDArray[np.uint8], contract: ModelContract, out: npt.NDArray[np.float32] | None = None
) -> npt.NDArray[np.float32]:
    """Return the input tensor (1, 3, H, W) of an image (H, W, 3) that already has the model's input size.

    It is written into `out`, where that is given: a new one of megabytes costs as much as filling it.
    """
    height, width = image_rgb.shape[:2]
    tensor = np.empty((1, 3, height, width), dtype=np.float32) if out is None else out
    mean, std = np.asarray(contract.normalization_mean), np.asarray(contract.normalization_std)
    scale, shift = (1.0 / (255.0 * std)).astype(np.float32), (-mean / std).astype(np.float32)
    scaled_planes(image_rgb, scale, shift, tensor[0])
    return tensor


def prediction_from_outputs(
    depth: npt.NDArray[np.float32],
    scene_coordinates: npt.NDArray[np.float32],
    weights: npt.NDArray[np.float32],
    contract: ModelContract,
    offsets: npt.NDArray[np.float32] | None = None,
) -> Prediction:
    """Turn the graph's outputs (1, 1, h, w), (1, 3, h, w), (1, 1, h, w), (1, 2, h, w) into a `Prediction`."""
    mean = np.asarray(contract.scene_mean, dtype=np.float64)
    in_map = scene_coordinates[0] + mean[:, None, None]
    return Prediction(
        depth[0, 0],
        in_map.transpose(1, 2, 0),
        weights[0, 0],
        None if offsets is None else offsets[0].transpose(1, 2, 0),
    )


def output_names(contract: ModelContract) -> list[str]:
    """Return the names of a graph's outputs, in the order that `prediction_from_outputs` takes them."""
    outputs = [names.OUTPUT_DEPTH, names.OUTPUT_SCENE_COORDINATES, names.OUTPUT_WEIGHTS]
    return [*outputs, names.OUTPUT_OFFSETS] if contract.keypoints else outputs


class OnnxNetwork:
    """A model file run by ONNX Runtime. Several threads may use it: one after another, each at full speed.

    provider: the one that really runs, one of `PROVIDERS`, whatever was asked for. backend: all about it.
    sha256: of the model file's bytes.
    map_cloud: coarse points of the scene, None where the file carries none.
    """

    def __init__(
        self,
        path: Path | str,
        provider: str = "auto",
        threads: int = 0,
        sha256: str = "",
        *,
        options: BackendOptions | None = None,
        say: Callable[[str], None] = lambda line: None,
    ) -> None:
        """Load `path` on `provider`, one of `PROVIDERS`, or `auto`, the first that runs.

        `threads` is for the operators that run on the CPU; 0 leaves their number to the runtime. `sha256`:
        what the file's digest must be; empty: anything. `options` stand in place of `provider` and `threads`.
        `say` is called with a line before what takes minutes.

        Raises:
            ModelFileError: the file is missing, unreadable, another than asked for, refers to other files, or
                is not ONNX, not ours, or of another version.
            ProviderError: ONNX Runtime is not installed properly, or what is asked for can't run here.
        """
        runtime = import_onnxruntime()
        content = read_model_file(Path(path))
        self.path = Path(path)
        self.sha256 = hashlib.sha256(content).hexdigest()
        check_digest(self.path, self.sha256, sha256)
        options = options or BackendOptions(provider, threads=threads)
        _refuse_external_data(content, self.path)
        # Reading the metadata on the CPU first keeps a foreign file from a minutes-long TensorRT build.
        on_cpu = provider_chain("cpu", options)
        session = create_session(runtime, content, options, "cpu", self.path, on_cpu)
        try:
            metadata = session.get_modelmeta().custom_metadata_map
            self.contract = ModelContract.from_metadata(metadata)
            self.map_cloud = MapCloud.from_metadata(metadata)
        except ModelFileError as error:
            raise ModelFileError(f"{self.path}: {error}") from error
        _check_graph(session, self.contract, self.path)
        model = Model(self.path, content, self.sha256, session)
        self._session, self.backend = open_backend(runtime, model, options, say)
        self.provider = self.backend.provider
        self._output_names = output_names(self.contract)
        device = DEVICES.get(self.provider)
        self._bound = (
            None if device is None else BoundSession(runtime, self._session, self._output_names, device)
        )
        self._turn = threading.Lock()

    @property
    def metadata(self) -> dict[str, str]:
        """All entries of the file's `metadata_props`."""
        return dict(self._session.get_modelmeta().custom_metadata_map)

    def predict(self, input_tensor: npt.NDArray[np.float32], rays: npt.NDArray[np.float64]) -> Prediction:
        """See `Network.predict`."""
        rays_tensor = np.ascontiguousarray(rays.transpose(2, 0, 1)[None], dtype=np.float32)
        inputs = {names.INPUT_IMAGE: input_tensor, names.INPUT_RAYS: rays_tensor}
        with self._turn:
            if self._bound is None:
                outputs = self._session.run(self._output_names, inputs)
            else:
                outputs = self._bound.run(inputs)
        depth, scene_coordinates, weights, *offsets = outputs
        return prediction_from_outputs(depth, scene_coordinates, weights, self.contract, *offsets)


def import_onnxruntime() -> ModuleType:
    """Import ONNX Runtime.

    Raises:
        ProviderError: none or several of its mutually exclusive packages are installed; says what to install.
    """
    installed = [name for name in PACKAGES if _is_installed(name)]
    if len(installed) > 1:
        raise ProviderError(
            f"expected one of {', '.join(PACKAGES)}, got {'both' if len(installed) == 2 else 'all'}, which "
            f"overwrite each other: pip uninstall -y {' '.join(installed)}, then pip install "
            "'structpose_ros[gpu]' or [cpu]"
        )
    try:
        return importlib.import_module("onnxruntime")
    except ImportError as error:
        raise ProviderError(
            "expected ONNX Runtime, got none: pip install 'structpose_ros[cpu]', or [gpu] with an NVIDIA GPU "
            f"({error})"
        ) from error


def _is_installed(distribution: str) -> bool:
    try:
        importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def read_model_file(path: Path) -> bytes:
    """Return the bytes of a model file, or raise ModelFileError."""
    if not path.is_file():
        raise ModelFileError(
            f"expected a model file at {path}, got {'a folder' if path.is_dir() else 'nothing'}"
        )
    try:
        size = path.stat().st_size
        if size > _MOST_BYTES:
            raise ModelFileError(f"expected a model file of at most 2 GiB at {path}, got {size} bytes")
        return path.read_bytes()
    except OSError as error:
        raise ModelFileError(f"expected a readable model file at {path}, got: {error}") from error


def check_digest(path: Path, sha256: str, expected: str) -> None:
    """Raise ModelFileError unless a file has the expected digest; '' is any."""
    if expected and sha256 != expected.lower():
        raise ModelFileError(f"expected a model file of sha256 {expected.lower()} at {path}, got {sha256}")


def _refuse_external_data(content: bytes, path: Path) -> None:
    try:
        external = has_external_data(content)
        expect_loadable(content)
    except ValueError as error:
        raise ModelFileError(
            f"expected an ONNX model at {path}, got {len(content)} bytes that don't load: {error}"
        ) from error
    if external:
        raise ModelFileError(
            f"expected a model file that holds all its tensors at {path}, got references to other files"
        )


def _check_graph(session: Any, contract: ModelContract, path: Path) -> None:
    h, w = contract.grid_shape
    expected = {
        names.INPUT_IMAGE: [1, 3, contract.input_height, contract.input_width],
        names.INPUT_RAYS: [1, 3, h, w],
        names.OUTPUT_DEPTH: [1, 1, h, w],
        names.OUTPUT_SCENE_COORDINATES: [1, 3, h, w],
        names.OUTPUT_WEIGHTS: [1, 1, h, w],
    }
    if contract.keypoints:
        expected[names.OUTPUT_OFFSETS] = [1, 2, h, w]
    nodes = [*session.get_inputs(), *session.get_outputs()]
    found = {node.name: list(node.shape) for node in nodes}
    if found != expected:
        raise ModelFileError(f"{path}: expected the graph's tensors {expected}, got {found}")
    types = {node.type for node in nodes}
    if types != {"tensor(float)"}:
        raise ModelFileError(
            f"{path}: expected tensors of float32 in and out of the graph, got {sorted(types)}"
        )
