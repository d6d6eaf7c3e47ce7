"""The look-up of a map of landmarks in whole numbers of 8 bits, which CPUs multiply several times faster.

Scores only choose the landmark; its likeness, place and depth stay as they are. GPUs have no use for it:
ONNX Runtime multiplies unsigned by signed bytes on the CPU alone.

All scores of an image would be tens of megabytes, which go out to memory and come back: they are made for
some of the queries at a time. ONNX Runtime's ArgMax takes as long as the product itself; the largest of each
block of scores is found several times faster, and then only one block is searched.
"""

from __future__ import annotations

import math

import numpy as np
import onnx
from onnx import numpy_helper

from structpose_ros.training.graph_editing import copy_of, makers_of, prune
from structpose_ros.training.landmarks import LandmarkNetwork, key_levels

_ZERO = 128  # of the queries' bytes
PART_BYTES = 10_000_000  # of scores at a time
_BLOCK = 128  # scores


def with_int8_lookup(model: onnx.ModelProto, network: LandmarkNetwork) -> onnx.ModelProto:
    """Return the graph of a network whose `int8` is set with its product of scores in bytes.

    What torch traced, Clip -> Sub 128 -> MatMul -> ArgMax, becomes Clip -> Cast -> MatMulInteger and what
    chooses of its scores, in parts.

    Raises:
        ValueError: the graph holds no such look-up.
    """
    model = copy_of(model)
    graph = model.graph
    makers = makers_of(graph)
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
    (choice,) = (node for node in choices if node.input[0] == product.output[0])
    queries = math.prod(dim.dim_value for dim in graph.output[0].type.tensor_type.shape.dim)
    cast = onnx.helper.make_node(
        "Cast", [clipped.output[0]], ["query_bytes"], "query_bytes", to=onnx.TensorProto.UINT8
    )
    nodes, constants = _choice_in_parts(queries, len(network.keys), choice.output[0])
    graph.initializer.extend(constants)
    graph.node.remove(choice)
    graph.node.remove(product)
    for node in reversed([cast, *nodes]):
        graph.node.insert(place, node)
    prune(graph)
    return model


def _choice_in_parts(
    queries: int, landmarks: int, chosen: str
) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    """Return nodes from `query_bytes` (1, queries, 64) to the landmarks `chosen` (1, queries), and constants.

    Of equal scores the first one counts, as for ArgMax over all.
    """
    parts = np.array_split(np.arange(queries), math.ceil(4 * queries * landmarks / PART_BYTES))
    block = math.gcd(landmarks, _BLOCK)
    nodes: list[onnx.NodeProto] = []
    constants = [
        numpy_helper.from_array(np.array([len(part) for part in parts]), "part_sizes"),
        numpy_helper.from_array(np.array([1, -1, landmarks // block, block]), "blocks"),
        numpy_helper.from_array(np.array([3]), "last_axis"),
        numpy_helper.from_array(np.array([1, 1, 1, block]), "one_block"),
        numpy_helper.from_array(np.array(block), "block_size"),
        numpy_helper.from_array(np.array([1, -1]), "choices"),
    ]

    def add(operator: str, inputs: list[str], output: str, **attributes: int | list[int]) -> str:
        nodes.append(onnx.helper.make_node(operator, inputs, [output], output, **attributes))
        return output

    names = [f"query_bytes_{number}" for number in range(len(parts))]
    nodes.append(onnx.helper.make_node("Split", ["query_bytes", "part_sizes"], names, "parts", axis=1))
    choices = []
    for number, name in enumerate(names):
        flat = add("MatMulInteger", [name, "key_bytes", "query_zero"], f"look_up_{number}")
        scores = add("Reshape", [flat, "blocks"], f"scores_{number}")
        largest = add("ReduceMax", [scores], f"largest_{number}", axes=[3], keepdims=0)
        best = add("ArgMax", [largest], f"best_block_{number}", axis=2, keepdims=1)  # (1, part, 1)
        index = add("Unsqueeze", [best, "last_axis"], f"block_index_{number}")
        index = add("Expand", [index, "one_block"], f"block_indices_{number}")  # (1, part, 1, block)
        inside = add("GatherElements", [scores, index], f"block_{number}", axis=2)
        within = add("ArgMax", [inside], f"within_{number}", axis=3, keepdims=0)
        before = add("Mul", [best, "block_size"], f"before_{number}")
        both = add("Add", [before, within], f"landmark_{number}")
        choices.append(add("Reshape", [both, "choices"], f"choice_{number}"))
    add("Concat", choices, chosen, axis=1)
    return nodes, constants


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
