"""The look-up of a map of landmarks in whole numbers of 8 bits, which CPUs multiply several times faster.

Scores only choose the landmark; its likeness, place and depth stay as they are. GPUs have no use for it:
ONNX Runtime multiplies unsigned by signed bytes on the CPU alone.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import numpy_helper

from structpose_ros.training.landmarks import LandmarkNetwork, key_levels

_ZERO = 128  # of the queries' bytes


def with_int8_lookup(model: onnx.ModelProto, network: LandmarkNetwork) -> onnx.ModelProto:
    """Return the graph of a network whose `int8` is set with its product of scores in bytes.

    What torch traced, Clip -> Sub 128 -> MatMul -> ArgMax, becomes Clip -> Cast -> MatMulInteger -> ArgMax.

    Raises:
        ValueError: the graph holds no such look-up.
    """
    model = onnx.ModelProto.FromString(model.SerializeToString())
    graph = model.graph
    makers = {output: node for node in graph.node for output in node.output}
    choices = [node for node in graph.node if node.op_type == "ArgMax"]
    products = [makers[node.input[0]] for node in choices if makers[node.input[0]].op_type == "MatMul"]
    chains = [[product, *_chain(product, makers, ("Sub", "Clip"))] for product in products]
    if len(chains) != 1 or len(chains[0]) != 3:
        found = [[node.op_type for node in chain] for chain in chains]
        raise ValueError(f"expected one look-up of Clip, Sub, MatMul and ArgMax, got {found}")
    product, _, clipped = chains[0]
    keys = key_levels(network.keys).numpy().astype(np.int8)
    graph.initializer.extend(
        [
            numpy_helper.from_array(np.ascontiguousarray(keys.T), "key_bytes"),
            numpy_helper.from_array(np.uint8(_ZERO), "query_zero"),
        ]
    )
    place = list(graph.node).index(product)
    scores = product.output[0]
    graph.node.remove(product)
    cast = onnx.helper.make_node(
        "Cast", [clipped.output[0]], ["query_bytes"], "query_bytes", to=onnx.TensorProto.UINT8
    )
    times = onnx.helper.make_node(
        "MatMulInteger", ["query_bytes", "key_bytes", "query_zero"], [scores], "look_up"
    )
    graph.node.insert(place, times)
    graph.node.insert(place, cast)
    known = [info for info in graph.value_info if info.name == scores]  # of another type now
    for info in known:
        graph.value_info.remove(info)
    _prune(graph)
    return model


def _chain(
    node: onnx.NodeProto, makers: dict[str, onnx.NodeProto], types: tuple[str, ...]
) -> list[onnx.NodeProto]:
    """Return what makes a node's first input, and that one's, as long as they are of these types."""
    chain = []
    for op_type in types:
        maker = makers.get(node.input[0])
        if maker is None or maker.op_type != op_type:
            break
        chain.append(maker)
        node = maker
    return chain


def _prune(graph: onnx.GraphProto) -> None:
    """Remove what no output needs any more."""
    needed = {output.name for output in graph.output}
    for node in reversed(list(graph.node)):  # in topological order, so that users come first
        if needed.isdisjoint(node.output):
            graph.node.remove(node)
        else:
            needed.update(node.input)
    for unused in [tensor for tensor in graph.initializer if tensor.name not in needed]:
        graph.initializer.remove(unused)
