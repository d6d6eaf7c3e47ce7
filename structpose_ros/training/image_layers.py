"""XFeat's layers on the image's own pixels, rearranged in a model file: the same sums, less memory traffic.

Behind them everything is small; they alone read and write tens of megabytes, most of it padding: ONNX Runtime
works on 16 channels at a time, and the first layer has 4.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from structpose_ros.training.graph_editing import (
    add_constant,
    constant_of,
    copy_of,
    makers_of,
    only_user_of,
    prune,
    shapes_of,
)

Array = npt.NDArray[np.float32]
Shapes = Mapping[str, tuple[int, ...]]
_SIZE = 3  # of a kernel that is taken apart
FEW = 8  # channels; with more the larger kernels' multiplications cost more than the traffic


def with_lean_image_layers(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a graph that computes the same, where it has layers of these kinds; see the two below."""
    shapes = shapes_of(model)
    model = copy_of(model)
    for node in list(model.graph.node):
        _merge_pointwise(model.graph, node, shapes)
    for node in list(model.graph.node):
        _split_into_phases(model.graph, node, shapes)
    del model.graph.value_info[:]  # which may no longer be true
    prune(model.graph)
    return model


def _merge_pointwise(graph: onnx.GraphProto, second: onnx.NodeProto, shapes: Shapes) -> None:
    """Put a 1 x 1 convolution and what it mixes, a pooling or convolution of one channel, into one.

    The values between them are written by nobody then.
    """
    weights = _weights(graph, second)
    if weights is None or weights.shape[2:] != (1, 1) or _strides(second) != [1, 1] or any(_pads(second)):
        return
    first = makers_of(graph).get(second.input[0])
    if first is None or only_user_of(graph, first.output[0]) is None or any(_pads(first)):
        return
    kernels = _kernels(graph, first, shapes)
    if kernels is None:
        return
    merged = np.einsum("oc,chw->ohw", weights[:, :, 0, 0].astype(np.float64), kernels)[:, None]
    inputs = [first.input[0], add_constant(graph, f"{second.output[0]}_merged", merged), *second.input[2:]]
    _become(second, inputs, list(merged.shape[2:]), _strides(first), [0, 0, 0, 0])


def _kernels(graph: onnx.GraphProto, node: onnx.NodeProto, shapes: Shapes) -> Array | None:
    """Return the kernels (C, h, w) of a pooling or a convolution of one channel, without constant terms."""
    if node.op_type == "AveragePool":
        plain = set(_attribute(node, "dilations", [1])) == {1} and not _attribute(node, "ceil_mode", 0)
        if not plain or _is_padded_by_rule(node) or shapes.get(node.input[0], ())[1:2] != (1,):
            return None
        size = _attribute(node, "kernel_shape", [])
        return np.full((1, *size), 1.0 / np.prod(size), dtype=np.float32)
    weights = _weights(graph, node)
    return weights[:, 0] if weights is not None and weights.shape[1] == 1 and len(node.input) == 2 else None


def _split_into_phases(graph: onnx.GraphProto, first: onnx.NodeProto, shapes: Shapes) -> None:
    """Let a convolution at full resolution, followed by ReLU and one of stride 2, work at half of it.

    The first layer's values at even and odd rows and columns, its four phases, become channels of a quarter
    of the pixels: a kernel of 4 x 4 at stride 2 makes them, and the second layer's kernel of 3 x 3 at stride
    2 becomes one of 2 x 2 at stride 1.
    """
    weights = _weights(graph, first)
    if weights is None or len(weights) > FEW or not _is_plain(first, weights, 1):
        return
    relu = only_user_of(graph, first.output[0])
    second = None if relu is None or relu.op_type != "Relu" else only_user_of(graph, relu.output[0])
    then = None if second is None else _weights(graph, second)
    if second is None or then is None or not _is_plain(second, then, 2):
        return
    constants = constant_of(graph, first.input[2]) if len(first.input) > 2 else np.zeros(len(weights))
    if constants is None or not _is_even(shapes.get(first.output[0], ())):
        return
    channels, inputs = weights.shape[:2]
    split = np.zeros((2, 2, channels, inputs, _SIZE + 1, _SIZE + 1), dtype=np.float32)
    joined = np.zeros((len(then), 2, 2, channels, 2, 2), dtype=np.float32)
    for row, column in np.ndindex(2, 2):
        split[row, column, :, :, row : row + _SIZE, column : column + _SIZE] = weights
    for y, x in np.ndindex(_SIZE, _SIZE):  # 0: the odd row of the block before; 1, 2: this block's own two
        joined[:, (y + 1) % 2, (x + 1) % 2, :, (y + 1) // 2, (x + 1) // 2] = then[:, :, y, x]
    phases = add_constant(graph, f"{first.output[0]}_phases", split.reshape(-1, inputs, 4, 4))
    terms = add_constant(graph, f"{first.output[0]}_phase_constants", np.tile(constants, 4))
    values = joined.reshape(len(then), 4 * channels, 2, 2)
    added = add_constant(graph, f"{second.output[0]}_phases", values)
    _become(first, [first.input[0], phases, terms], [4, 4], [2, 2], [1, 1, 1, 1])
    _become(second, [second.input[0], added, *second.input[2:]], [2, 2], [1, 1], [1, 1, 0, 0])


def _is_plain(node: onnx.NodeProto, weights: Array, stride: int) -> bool:
    return (
        weights.shape[2:] == (_SIZE, _SIZE)
        and _strides(node) == [stride, stride]
        and _pads(node) == [1, 1, 1, 1]
    )


def _is_even(shape: tuple[int, ...]) -> bool:
    return len(shape) == 4 and all(side > 0 and side % 2 == 0 for side in shape[2:])


def _weights(graph: onnx.GraphProto, node: onnx.NodeProto) -> Array | None:
    """Return the weights (O, C, h, w) of a convolution without groups or dilation; None of anything else."""
    usual = _attribute(node, "group", 1) == 1 and set(_attribute(node, "dilations", [1])) == {1}
    if node.op_type != "Conv" or not usual or _is_padded_by_rule(node):
        return None
    return constant_of(graph, node.input[1])


def _is_padded_by_rule(node: onnx.NodeProto) -> bool:
    """Whether the padding is not written down, but follows from sizes."""
    return bool(_attribute(node, "auto_pad", b"NOTSET") != b"NOTSET")


def _strides(node: onnx.NodeProto) -> list[int]:
    return list(_attribute(node, "strides", [1, 1]))


def _pads(node: onnx.NodeProto) -> list[int]:
    return list(_attribute(node, "pads", [0, 0, 0, 0]))


def _attribute(node: onnx.NodeProto, name: str, otherwise: Any) -> Any:
    found = [item for item in node.attribute if item.name == name]
    return onnx.helper.get_attribute_value(found[0]) if found else otherwise


def _become(
    node: onnx.NodeProto, inputs: list[str], kernel: list[int], strides: list[int], pads: list[int]
) -> None:
    """Make a convolution another one."""
    made = onnx.helper.make_node(
        "Conv", inputs, list(node.output), node.name, kernel_shape=kernel, strides=strides, pads=pads
    )
    node.CopyFrom(made)
