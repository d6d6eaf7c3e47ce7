"""What is needed to change the graph of a model file."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper


def copy_of(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy."""
    return onnx.ModelProto.FromString(model.SerializeToString())


def makers_of(graph: onnx.GraphProto) -> dict[str, onnx.NodeProto]:
    """Return the node that makes each value."""
    return {output: node for node in graph.node for output in node.output}


def only_user_of(graph: onnx.GraphProto, value: str) -> onnx.NodeProto | None:
    """Return the node that takes a value, or None if there are several or it is an output of the graph."""
    users = [node for node in graph.node if value in node.input]
    is_output = any(output.name == value for output in graph.output)
    return users[0] if len(users) == 1 and not is_output else None


def shapes_of(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    """Return the shapes that follow from the inputs'; 0 stands for a size that doesn't."""
    known = onnx.shape_inference.infer_shapes(model).graph
    return {
        info.name: tuple(side.dim_value for side in info.type.tensor_type.shape.dim)
        for info in (*known.input, *known.value_info)
    }


def constant_of(graph: onnx.GraphProto, name: str) -> npt.NDArray[np.float32] | None:
    """Return a constant of the graph, also where it has a second name; None if there is none."""
    maker = makers_of(graph).get(name)
    if maker is not None and maker.op_type == "Identity":
        return constant_of(graph, maker.input[0])
    tensors = [item for item in graph.initializer if item.name == name]
    if maker is not None and maker.op_type == "Constant":
        tensors += [item.t for item in maker.attribute if item.name == "value"]
    return np.asarray(numpy_helper.to_array(tensors[0]), dtype=np.float32) if tensors else None


def add_constant(graph: onnx.GraphProto, name: str, values: npt.NDArray[np.float32]) -> str:
    """Give the graph a constant; return its name."""
    graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(values, dtype=np.float32), name))
    return name


def prune(graph: onnx.GraphProto) -> None:
    """Remove what no output needs any more."""
    needed = {output.name for output in graph.output}
    for node in reversed(list(graph.node)):  # in topological order, so that users come first
        if needed.isdisjoint(node.output):
            graph.node.remove(node)
        else:
            needed.update(node.input)
    for unused in [tensor for tensor in graph.initializer if tensor.name not in needed]:
        graph.initializer.remove(unused)
    made = {output for node in graph.node for output in node.output}
    for info in [info for info in graph.value_info if info.name not in made]:
        graph.value_info.remove(info)
