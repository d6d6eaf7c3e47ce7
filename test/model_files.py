"""Small model files with a known answer, for tests: they see brightness as depth and know one pose."""

from __future__ import annotations

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
    h, w = described.grid_shape
    rotation = map_from_camera[:3, :3].astype(np.float32)
    offset = (map_from_camera[:3, 3] - np.asarray(described.scene_mean)).astype(np.float32)
    constants = {
        "rotation": rotation[:, :, None, None],
        "offset": offset[None, :, None, None],
        "range": np.float32(DEPTH_RANGE),
        "minimum": np.float32(MINIMUM_DEPTH),
        "full": np.float32(0.99),
        "starts": np.array([0], dtype=np.int64),
        "ends": np.array([1], dtype=np.int64),
        "blue_starts": np.array([2], dtype=np.int64),
        "blue_ends": np.array([3], dtype=np.int64),
        "channel": np.array([1], dtype=np.int64),
    }
    pool = {"kernel_shape": [described.stride] * 2, "strides": [described.stride] * 2}
    nodes = [
        helper.make_node("AveragePool", ["image"], ["cells"], **pool),
        helper.make_node("Slice", ["cells", "starts", "ends", "channel"], ["red"]),
        helper.make_node("Slice", ["cells", "blue_starts", "blue_ends", "channel"], ["blue"]),
        helper.make_node("Mul", ["red", "range"], ["scaled"]),
        helper.make_node("Add", ["scaled", "minimum"], ["depth"]),
        helper.make_node("Mul", ["rays", "depth"], ["points"]),
        helper.make_node("Conv", ["points", "rotation"], ["rotated"]),
        helper.make_node("Add", ["rotated", "offset"], ["scene_coordinates"]),
        helper.make_node("Less", ["blue", "full"], ["usable"]),
        helper.make_node("Cast", ["usable"], ["weights"], to=TensorProto.FLOAT),
    ]
    size = [1, 3, described.input_height, described.input_width]
    graph = helper.make_graph(
        nodes,
        "known_pose",
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
