"""A stand-in for ONNX Runtime on machines with GPUs: providers, engines and failures as a test wants them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnxruntime
import pytest

from structpose_ros import backend, network
from structpose_ros.gpu import Gpu

TENSORRT, CUDA, CPU = "TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"
OPENVINO = "OpenVINOExecutionProvider"
ENGINE = "TensorrtExecutionProvider_graph_1_sm87.engine"
TIMING = "TensorrtExecutionProvider_cache_sm87.timing"


class StandInRuntime:
    """ONNX Runtime of a machine with other providers.

    `available` is what it was built with, `working` what a session takes; those in `raising` can't load
    at all. Every session runs on the CPU. `asked` lists the chains of providers asked for, `told` their
    options, `given` the models, `placed` the devices of tensors that lie ready.
    """

    SessionOptions = onnxruntime.SessionOptions
    __version__ = "1.22.0"

    def __init__(self, available: list[str], working: list[str], raising: tuple[str, ...] = ()) -> None:
        self.available, self.working, self.raising = available, working, raising
        self.asked: list[list[str]] = []
        self.told: list[dict[str, dict[str, Any]]] = []
        self.given: list[bytes] = []
        self.settings: list[onnxruntime.SessionOptions] = []
        self.placed: list[str] = []
        self.OrtValue = SimpleNamespace(ortvalue_from_shape_and_type=self._place)

    def get_available_providers(self) -> list[str]:
        return self.available

    def InferenceSession(  # noqa: N802
        self, content: bytes, sess_options: onnxruntime.SessionOptions, providers: list[Any]
    ) -> Any:
        told = dict(item if isinstance(item, tuple) else (item, {}) for item in providers)
        self.asked.append(list(told))
        self.told.append(told)
        self.given.append(content)
        self.settings.append(sess_options)
        first = next(iter(told))
        if first in self.raising:
            raise RuntimeError(f"{first} is broken\nand says so at length")
        session = onnxruntime.InferenceSession(content, sess_options, providers=[CPU])
        self.write_engine(told.get(TENSORRT, {}))
        taken = [name for name in told if name in self.working]
        return SimpleNamespace(
            get_modelmeta=session.get_modelmeta,
            get_inputs=session.get_inputs,
            get_outputs=session.get_outputs,
            run=session.run,
            io_binding=session.io_binding,
            run_with_iobinding=session.run_with_iobinding,
            get_providers=lambda: taken,
        )

    def _place(self, shape: list[int], kind: Any, device: str, number: int) -> onnxruntime.OrtValue:
        """Note which device a tensor is to lie on; it lies on the CPU."""
        self.placed.append(f"{device}:{number}")
        return onnxruntime.OrtValue.ortvalue_from_shape_and_type(shape, kind, "cpu", 0)

    def write_engine(self, told: dict[str, Any]) -> None:
        """Do with the caches what ONNX Runtime does."""
        if told.get("trt_engine_cache_enable"):
            Path(told["trt_engine_cache_path"], ENGINE).write_bytes(b"code")
            Path(told["trt_timing_cache_path"], TIMING).write_bytes(b"times")


StandIn = Callable[..., StandInRuntime]


def install_stand_in(monkeypatch: pytest.MonkeyPatch, cache: Path) -> StandIn:
    """Return what puts a stand-in in the place of ONNX Runtime, on a machine with a GPU and TensorRT."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    monkeypatch.delenv(backend.TF32_VARIABLE, raising=False)
    monkeypatch.setattr(backend, "first_gpu", lambda: Gpu("Orin", "8.7"))
    monkeypatch.setattr(backend, "tensorrt_version", lambda: "100300")

    def install(available: list[str], working: list[str], raising: tuple[str, ...] = ()) -> StandInRuntime:
        runtime = StandInRuntime(available, working, raising)
        monkeypatch.setattr(network, "import_onnxruntime", lambda: runtime)
        return runtime

    return install
