"""Small model files with a known answer, for tests: they see brightness as depth and know their poses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from structpose_ros.camera import Camera
from structpose_ros.contract import ModelContract
from structpose_ros.map_cloud import MapCloud

WIDTH, HEIGHT, STRIDE = 64, 48, 8
TRAINING_CAMERA = Camera(WIDTH, HEIGHT, 60.0, 60.0, 31.5, 23.5)
MINIMUM_DEPTH, DEPTH_RANGE = 1.0, 4.0


@dataclass(frozen=True, eq=False)
class View:
    """What a model knows of one image: the pose (4, 4), and the true rays (h, w, 3), z = 1, of its cells."""

    map_from_camera: np.ndarray
    true_rays: np.ndarray


def contract(**changes: object) -> ModelContract:
    """Return a contract for the files of this module; `changes` replace its fields."""
    values: dict[str, object] = {
        "dataset": "test",
        "input_width": WIDTH,
        "input_height": HEIGHT,
        "stride": STRIDE,
        "normalization_mean": (0.0, 0.0, 0.0),
        "normalization_std": (1.0, 1.0, 1.0),
        "scene_mean": (1.0, -2.0, 0.5),
        "depth_scale": 2.0,
        "map_min": (-20.0, -20.0, -20.0),
        "map_max": (20.0, 20.0, 20.0),
        "training_camera": TRAINING_CAMERA,
    }
    return ModelContract(**{**values, **changes})  # type: ignore[arg-type]


def write_model(
    path: Path,
    map_from_camera: np.ndarray,
    model_contract: ModelContract | None = None,
    map_cloud: MapCloud | None = None,
) -> Path:
    """Write a model whose pose is `map_from_camera` for any image and any rays; `map_cloud` goes with it.

    depth is MINIMUM_DEPTH + DEPTH_RANGE * red, averaged over each cell; scene coordinates are the unprojected
    points moved by the pose, less the scene mean; weights are 1 (but 0 where the blue channel is full).
    """
    described = model_contract or contract()
    rotation = map_from_camera[:3, :3].astype(np.float32)
    constants = {
        "rotation": rotation[:, :, None, None],
        "offset": _offsets([map_from_camera], described),
    }
    nodes = [
        helper.make_node("Mul", ["rays", "depth"], ["points"]),
        helper.make_node("Conv", ["points", "rotation"], ["rotated"]),
        helper.make_node("Add", ["rotated", "offset"], ["scene_coordinates"]),
    ]
    return _save(path, nodes, constants, described, map_cloud)


def write_model_of_views(
    path: Path,
    views: Sequence[View],
    model_contract: ModelContract | None = None,
    map_cloud: MapCloud | None = None,
) -> Path:
    """Write a model that knows several views; the mean green level of an image, 0, 1 .., says which it shows.

    Whatever is greener shows the last. Depth and weights are as in `write_model`. The scene coordinates come
    from the view's own rays: the pose comes out right only where the rays given to the network are those.
    """
    described = model_contract or contract()
    scene_rays = [np.einsum("rc,hwc->rhw", view.map_from_camera[:3, :3], view.true_rays) for view in views]
    constants = {
        "scene_rays": np.stack(scene_rays).astype(np.float32),
        "offsets": _offsets([view.map_from_camera for view in views], described),
        "levels": np.float32(255.0),
        "first": np.float32(0.0),
        "last": np.float32(len(views) - 1),
        "flat": np.array([1], dtype=np.int64),
    }
    nodes = [
        helper.make_node("Slice", ["cells", "one", "two", "one"], ["green"]),
        helper.make_node("ReduceMean", ["green"], ["mean"], axes=[1, 2, 3], keepdims=0),
        helper.make_node("Mul", ["mean", "levels"], ["level"]),
        helper.make_node("Round", ["level"], ["rounded"]),
        helper.make_node("Clip", ["rounded", "first", "last"], ["clipped"]),
        helper.make_node("Cast", ["clipped"], ["index"], to=TensorProto.INT64),
        helper.make_node("Reshape", ["index", "flat"], ["view"]),
        helper.make_node("Gather", ["scene_rays", "view"], ["turned"], axis=0),
        helper.make_node("Gather", ["offsets", "view"], ["offset"], axis=0),
        helper.make_node("Mul", ["turned", "depth"], ["moved"]),
        helper.make_node("Add", ["moved", "offset"], ["scene_coordinates"]),
    ]
    return _save(path, nodes, constants, described, map_cloud)


def _offsets(poses: Sequence[np.ndarray], described: ModelContract) -> np.ndarray:
    """Positions (n, 3, 1, 1) of the cameras relative to the scene mean."""
    positions = np.stack([pose[:3, 3] for pose in poses]) - np.asarray(described.scene_mean)
    return positions.astype(np.float32)[:, :, None, None]


def _save(
    path: Path,
    nodes: Sequence[onnx.NodeProto],
    constants: Mapping[str, np.ndarray | np.generic],
    described: ModelContract,
    map_cloud: MapCloud | None,
) -> Path:
    """Write a model whose `nodes` make `scene_coordinates` of `cells`, `rays` and `depth`."""
    h, w = described.grid_shape
    constants = {
        **constants,
        "range": np.float32(DEPTH_RANGE),
        "minimum": np.float32(MINIMUM_DEPTH),
        "full": np.float32(0.99),
        "zero": np.array([0], dtype=np.int64),
        "one": np.array([1], dtype=np.int64),
        "two": np.array([2], dtype=np.int64),
        "three": np.array([3], dtype=np.int64),
    }
    pool = {"kernel_shape": [described.stride] * 2, "strides": [described.stride] * 2}
    nodes = [
        helper.make_node("AveragePool", ["image"], ["cells"], **pool),
        helper.make_node("Slice", ["cells", "zero", "one", "one"], ["red"]),
        helper.make_node("Slice", ["cells", "two", "three", "one"], ["blue"]),
        helper.make_node("Mul", ["red", "range"], ["scaled"]),
        helper.make_node("Add", ["scaled", "minimum"], ["depth"]),
        *nodes,
        helper.make_node("Less", ["blue", "full"], ["usable"]),
        helper.make_node("Cast", ["usable"], ["weights"], to=TensorProto.FLOAT),
    ]
    size = [1, 3, described.input_height, described.input_width]
    graph = helper.make_graph(
        nodes,
        "known_poses",
        [
            helper.make_tensor_value_info("image", TensorProto.FLOAT, size),
            helper.make_tensor_value_info("rays", TensorProto.FLOAT, [1, 3, h, w]),
        ],
        [
            helper.make_tensor_value_info("depth", TensorProto.FLOAT, [1, 1, h, w]),
            helper.make_tensor_value_info("scene_coordinates", TensorProto.FLOAT, [1, 3, h, w]),
            helper.make_tensor_value_info("weights", TensorProto.FLOAT, [1, 1, h, w]),
        ],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    clouds = map_cloud.to_metadata() if map_cloud else {}
    helper.set_model_props(model, {**described.to_metadata(), **clouds})
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())
    return path
