"""A map's wide convolutions in whole numbers of 8 bits: static quantisation by ONNX Runtime.

Weights are scaled by channel, what flows between the layers by the range that it had on calibration frames;
weights have 7 bits, because processors without VNNI add products of bytes in pairs, in 16 bits that overflow.
The layers on the image's own pixels stay in float32: they have few channels, and are no faster in bytes.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnxruntime import quantization

from structpose_ros.training.graph_editing import constant_of, copy_of

Feed = dict[str, npt.NDArray[np.float32]]  # the graph's inputs by name
LEAST_INPUTS = 24  # channels that a convolution in bytes takes in
_PREPARED = {"onnx.quant.pre_process": "onnxruntime.quant"}  # without it the tool gives advice at length


class _Feeds(quantization.CalibrationDataReader):
    def __init__(self, feeds: Sequence[Feed]) -> None:
        self._left = iter(feeds)

    def get_next(self) -> Feed | None:
        return next(self._left, None)


def with_int8_convolutions(model: onnx.ModelProto, feeds: Sequence[Feed]) -> onnx.ModelProto:
    """Return a graph whose wide convolutions compute in bytes; a ReLU behind one goes into its range.

    Args:
        model: whose convolutions are in float32.
        feeds: inputs to calibrate on, at least one: typical images.
    """
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    narrow = [node.name for node in convolutions if not _is_wide(model.graph, node)]
    prepared = copy_of(model)
    onnx.helper.set_model_props(prepared, _PREPARED)
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "float32.onnx", Path(folder) / "int8.onnx"
        onnx.save(prepared, source)
        quantization.quantize_static(
            source,
            target,
            _Feeds(feeds),
            quant_format=quantization.QuantFormat.QDQ,
            per_channel=True,
            reduce_range=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            op_types_to_quantize=["Conv", "Relu"],
            nodes_to_exclude=narrow,
        )
        made = onnx.load(target)
    del made.metadata_props[:]  # the tool's own among them
    made.metadata_props.extend(model.metadata_props)
    return made


def _is_wide(graph: onnx.GraphProto, node: onnx.NodeProto) -> bool:
    weights = constant_of(graph, node.input[1])
    return weights is not None and weights.shape[1] >= LEAST_INPUTS
