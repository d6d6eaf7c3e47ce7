"""A model's convolutions in fp16, and nothing else: what GPUs compute faster in half precision.

The types are written into the graph. ONNX Runtime's CUDA provider computes each operator in its type, and
TensorRT from version 10 on obeys them too as long as `trt_fp16_enable` is off, which would let it choose for
itself, the places of the map included.

In fp32 stay: the image's normalisation; the last layer of each head, whose output is metres, logits or a
descriptor; and all that follows it (softmax, look-up, places, depth, weights), or that the rays go into.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np

from structpose_ros.contract import INPUT_RAYS

_EVERY = 9
# Operators that may be in fp16, and how many of their first inputs then are.
_HALF = {
    **{"Conv": _EVERY, "ConvTranspose": _EVERY, "Add": _EVERY, "Concat": _EVERY, "Relu": 1, "LeakyRelu": 1},
    **{"MaxPool": 1, "AveragePool": 1, "BatchNormalization": 1, "Resize": 1},
}
_LAYERS = ("Conv", "ConvTranspose")
_FIRST = (*_LAYERS, "MaxPool", "AveragePool")  # those that may take what is in fp32
SUFFIX = "_fp16"


def with_fp16(content: bytes) -> bytes:
    """Return an ONNX model with its convolutions in fp16; inputs and outputs stay float32.

    Raises:
        ImportError: there is no package onnx.
        ValueError: no convolution can be in fp16; or the model is in int8.
    """
    import onnx  # the node does without it otherwise

    model = onnx.load_from_string(content)
    graph = model.graph
    if any(node.op_type == "QuantizeLinear" for node in graph.node):
        raise ValueError("expected a model in float32, got one in int8: export it again without --int8")
    region = _region(graph)
    if not any(node.op_type in _LAYERS for node in region):
        raise ValueError("expected a model with convolutions that can be in fp16, got none")
    constants = {tensor.name: tensor for tensor in graph.initializer}
    chosen = {id(node) for node in region}
    outside = {name for node in graph.node if id(node) not in chosen for name in node.input}
    needed = outside | {output.name for output in graph.output}
    halves: set[str] = set()
    nodes: list[Any] = []

    def half(name: str) -> str:
        """Return the name of a tensor in fp16, and see that there is one."""
        if name and name not in halves:
            halves.add(name)
            if name in constants:
                values = onnx.numpy_helper.to_array(constants[name]).astype(np.float16)
                graph.initializer.append(onnx.numpy_helper.from_array(values, name + SUFFIX))
            else:
                cast = onnx.helper.make_node("Cast", [name], [name + SUFFIX], to=onnx.TensorProto.FLOAT16)
                nodes.append(cast)
        return name + SUFFIX if name else name

    for node in graph.node:
        if id(node) not in chosen:
            nodes.append(node)
            continue
        first = _HALF[node.op_type]
        inputs = [half(name) if at < first else name for at, name in enumerate(node.input)]
        output = node.output[0]
        made = onnx.NodeProto()
        made.CopyFrom(node)
        del made.input[:], made.output[:]
        made.input.extend(inputs)
        made.output.append(output + SUFFIX)
        halves.add(output)
        nodes.append(made)
        if output in needed:
            nodes.append(
                onnx.helper.make_node("Cast", [output + SUFFIX], [output], to=onnx.TensorProto.FLOAT)
            )
    kept = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(kept)
    used = {name for node in kept for name in node.input}
    for tensor in [tensor for tensor in graph.initializer if tensor.name not in used]:
        graph.initializer.remove(tensor)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def _region(graph: Any) -> list[Any]:
    """Return the nodes that are to be in fp16, in their order."""
    takers = defaultdict(list)
    for node in graph.node:
        for name in node.input:
            takers[name].append(node)
    outputs = {output.name for output in graph.output}
    constants = {tensor.name for tensor in graph.initializer}
    halves: set[str] = set()
    precise = {INPUT_RAYS}  # tensors that depend on the rays, or on the end of a head
    region = []
    for node in graph.node:
        if not precise.isdisjoint(node.input):
            precise.update(node.output)
            continue
        joins = node.op_type in _HALF and len(node.output) == 1
        if node.op_type not in _FIRST:
            data = [name for name in list(node.input)[: _HALF.get(node.op_type, 0)] if name not in constants]
            joins = joins and bool(data) and halves.issuperset(data)
        if not joins:
            continue
        output = node.output[0]
        ends = output in outputs or any(taker.op_type not in (*_HALF, "Shape") for taker in takers[output])
        if ends and node.op_type in _LAYERS:
            precise.add(output)
            continue
        halves.add(output)
        region.append(node)
    return region
