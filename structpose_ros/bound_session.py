"""A session whose inputs and outputs lie ready: on a GPU nothing is allocated for a frame."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

Tensor = npt.NDArray[np.float32]
# Where a provider of ONNX Runtime wants its inputs; the CPU's reads NumPy's memory as it is.
DEVICES = {"tensorrt": "cuda", "cuda": "cuda"}


class BoundSession:
    """Inputs are copied to the device into the same memory each time, outputs come to the same on the CPU."""

    def __init__(self, runtime: ModuleType, session: Any, outputs: Sequence[str], device: str) -> None:
        """Bind the inputs of `session` on `device`, and `outputs` by name: float32 of fixed shapes, all."""
        self._session = session
        self._binding = session.io_binding()
        value = runtime.OrtValue.ortvalue_from_shape_and_type
        self._inputs = {node.name: value(node.shape, np.float32, device, 0) for node in session.get_inputs()}
        shapes = {node.name: node.shape for node in session.get_outputs()}
        self._outputs = [value(shapes[name], np.float32, "cpu", 0) for name in outputs]
        for name, place in self._inputs.items():
            self._binding.bind_ortvalue_input(name, place)
        for name, place in zip(outputs, self._outputs, strict=True):
            self._binding.bind_ortvalue_output(name, place)

    def run(self, inputs: Mapping[str, Tensor]) -> list[Tensor]:
        """Return the outputs, which are the caller's own: the next run leaves them as they are."""
        for name, tensor in inputs.items():
            self._inputs[name].update_inplace(np.ascontiguousarray(tensor))
        self._session.run_with_iobinding(self._binding)
        return [np.array(place.numpy()) for place in self._outputs]
