"""Sessions of ONNX Runtime: its providers, what they are told, and whether they run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from structpose_ros.contract import ModelFileError
from structpose_ros.cores import CoresError, bound_to, one_each
from structpose_ros.engine_cache import CacheFolders

PROVIDERS = {
    "tensorrt": "TensorrtExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
    "cpu": "CPUExecutionProvider",
}
AUTO = ("tensorrt", "cuda", "cpu")  # fastest first; OpenVINO is slower than the CPU (docs/performance.md)
GPU = ("tensorrt", "cuda")
PRECISIONS = ("auto", "fp32", "fp16")

Chain = list[str | tuple[str, dict[str, Any]]]

# When threads wait without sleeping. A network has dozens of operators: to wake a thread for each costs
# milliseconds a frame, and not to sleep keeps a core from others who would use it.
SPINNING = ("never", "frame", "always")


class ProviderError(RuntimeError):
    """The requested execution provider can't run; the message says what can."""


@dataclass(frozen=True)
class BackendOptions:
    """Where a network is to run.

    provider: one of `PROVIDERS`, or `auto`, the first of `AUTO` that runs here.
    allow_fallback: run elsewhere, and warn, where the provider or the precision can't be had.
    precision: `auto`, float32 as the provider multiplies it (a GPU: TF32); `fp32`, float32 throughout;
        `fp16`, convolutions in half precision (`mixed_precision`), on a GPU.
    threads: for the operators on the CPU; 0: as many as `cores`, or the runtime's own number.
    cores: that these threads are bound to; empty: any. Either way see `own_cores`.
    spinning: when they wait without sleeping, one of `SPINNING`; `frame`: while a frame is in the network.
    cache: folder of TensorRT engines; None: the user's cache.
    """

    provider: str = "auto"
    allow_fallback: bool = False
    precision: str = "auto"
    threads: int = 0
    cores: tuple[int, ...] = ()
    spinning: str = "frame"
    cache: Path | None = None

    @property
    def thread_count(self) -> int:
        """How many threads are asked for; 0: the runtime's own number."""
        return self.threads or len(self.cores)

    @property
    def own_cores(self) -> tuple[int, ...]:
        """The cores that the threads have one each of, the calling thread's first; none: see `one_each`."""
        return one_each(self.thread_count, self.cores)


def provider_chain(provider: str, options: BackendOptions, folders: CacheFolders | None = None) -> Chain:
    """Return ONNX Runtime's providers with their options, the one asked for first.

    See https://onnxruntime.ai/docs/execution-providers. `trt_fp16_enable` stays off: it would let TensorRT
    choose which layers are in fp16, and versions from 11 on have no such choice.
    """
    cuda: dict[str, Any] = {"device_id": 0}
    if options.precision != "auto":
        cuda["use_tf32"] = 0
    chain: Chain = []
    if provider == "tensorrt":
        tensorrt: dict[str, Any] = {"device_id": 0}
        if folders is not None:
            tensorrt |= {
                "trt_engine_cache_enable": True,
                "trt_engine_cache_path": str(folders.engine),
                "trt_timing_cache_enable": True,
                "trt_timing_cache_path": str(folders.timing),
            }
        chain.append((PROVIDERS["tensorrt"], tensorrt))
    if provider in GPU:
        chain.append((PROVIDERS["cuda"], cuda))  # after TensorRT: for the operators that it leaves over
    if provider == "openvino":
        openvino = {"device_type": "CPU", "precision": "FP32"}
        if options.thread_count:
            openvino["num_of_threads"] = str(options.thread_count)
        chain.append((PROVIDERS["openvino"], openvino))
    chain.append(PROVIDERS["cpu"])
    return chain


def spinning_entries(spinning: str) -> dict[str, str]:
    """Return ONNX Runtime's session configuration for one of `SPINNING`."""
    return {
        "session.intra_op.allow_spinning": str(int(spinning != "never")),
        "session.force_spinning_stop": str(int(spinning == "frame")),
    }


def create_session(
    runtime: ModuleType,
    content: bytes,
    options: BackendOptions,
    provider: str,
    path: Path,
    chain: Chain,
) -> Any:
    """Return a session that runs on `provider`.

    Raises:
        ModelFileError: the CPU can't load it.
        ProviderError: another provider can't, or ONNX Runtime took one that was not asked for.
    """
    settings = runtime.SessionOptions()
    settings.intra_op_num_threads = options.thread_count
    own = options.own_cores if provider == "cpu" else ()
    if len(own) > 1:  # the first one's thread is who calls
        settings.intra_op_num_threads = len(own)
        others = ";".join(str(core + 1) for core in own[1:])  # ONNX Runtime counts from 1
        settings.add_session_config_entry("session.intra_op_thread_affinities", others)
    for key, value in spinning_entries(options.spinning).items():
        settings.add_session_config_entry(key, value)
    try:
        with bound_to(options.cores):  # the threads that ONNX Runtime starts here inherit it
            session = runtime.InferenceSession(content, sess_options=settings, providers=chain)
    except CoresError as error:
        raise ProviderError(str(error)) from error
    except Exception as error:  # ONNX Runtime has no common base class for its errors
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        if provider == "cpu":
            raise ModelFileError(
                f"expected an ONNX model at {path}, got {len(content)} bytes that don't load: {reason}"
            ) from error
        raise ProviderError(f"expected provider '{provider}' to load {path}, got: {reason}") from error
    # onnxruntime-gpu without a usable GPU logs an error and quietly runs on the CPU: ask what it took.
    taken = session.get_providers()[0]
    if taken != PROVIDERS[provider]:
        raise ProviderError(
            f"expected to run on '{provider}', but ONNX Runtime fell back to {taken}: check the GPU "
            "driver, CUDA and TensorRT libraries, or set the provider to 'auto' or 'cpu'"
        )
    return session
