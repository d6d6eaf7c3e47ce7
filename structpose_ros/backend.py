"""Where a network runs: what is asked for, what ONNX Runtime is told of it, and what really runs."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Any

from structpose_ros.cores import shown
from structpose_ros.engine_cache import CacheFolders, EngineCache
from structpose_ros.gpu import UNKNOWN, first_gpu, tensorrt_version
from structpose_ros.mixed_precision import with_fp16
from structpose_ros.resources import cache_path
from structpose_ros.sessions import (
    AUTO,
    GPU,
    PROVIDERS,
    BackendOptions,
    ProviderError,
    create_session,
    provider_chain,
)

TF32_VARIABLE = "NVIDIA_TF32_OVERRIDE"  # NVIDIA's libraries multiply float32 as float32 where it is 0
_OBEYS_TYPES = 100_000  # TensorRT 10.0.0: from it on the graph's types are obeyed
_CPU_OPERATOR = b"MatMulInteger"  # of unsigned by signed bytes; its name stands in the file as it is
_EXTRAS = {"tensorrt": "gpu", "cuda": "gpu", "openvino": "openvino", "cpu": "cpu"}

Say = Callable[[str], None]


@dataclass(frozen=True)
class Backend:
    """What really runs, in words. engine: of TensorRT, else empty. warnings: what is not as it should be.

    cores: that the thread which calls the network is to be bound to; none: any.
    """

    provider: str
    precision: str
    threads: str
    engine: str = ""
    warnings: tuple[str, ...] = field(default=())
    cores: tuple[int, ...] = ()

    @property
    def notes(self) -> dict[str, str]:
        """All of it by name, for diagnostics."""
        return {
            "provider": self.provider,
            "precision": self.precision,
            "threads": self.threads,
            "engine": self.engine,
            "backend_warnings": "; ".join(self.warnings),
        }


@dataclass(frozen=True)
class Model:
    """A model file that has been looked at: its bytes, their digest, and a session on the CPU."""

    path: Path
    content: bytes
    sha256: str
    cpu_session: Any


def open_backend(runtime: ModuleType, model: Model, options: BackendOptions, say: Say) -> tuple[Any, Backend]:
    """Return a session and what it runs on. `say` is told what takes long, and what is passed over.

    Raises:
        ProviderError: what is asked for can't be had here.
    """
    wanted = [options.provider] if options.provider != "auto" else _automatic(runtime, options)
    if options.allow_fallback:
        later = AUTO[AUTO.index(wanted[0]) + 1 :] if wanted and wanted[0] in AUTO else ("cpu",)
        wanted += [name for name in (*later, "cpu") if name not in wanted]
    problems: list[str] = []
    for provider in dict.fromkeys(wanted):
        try:
            session, backend = _open(runtime, model, provider, options, say)
        except ProviderError as error:
            problems.append(str(error))
            continue
        return session, _judged(backend, problems, options, say)
    raise ProviderError("; ".join(problems))


def _automatic(runtime: ModuleType, options: BackendOptions) -> list[str]:
    available = runtime.get_available_providers()
    found = [name for name in AUTO if PROVIDERS[name] in available]
    if options.precision != "fp16":
        return found
    # The CPU has no fp16: it is asked last, and says so.
    return [name for name in found if name in GPU] + ["cpu"]


def _judged(backend: Backend, problems: list[str], options: BackendOptions, say: Say) -> Backend:
    """Return a backend with the warning that it is not the one asked for; `auto` only mentions it."""
    warnings = list(backend.warnings)
    if problems and options.provider != "auto":
        asked = f"asked for {options.provider}"
        warnings.insert(0, f"{asked}, runs on {backend.provider}: {'; '.join(problems)}")
    else:
        for problem in problems:
            say(f"passed over: {problem}")
    return replace(backend, warnings=tuple(warnings))


def _open(
    runtime: ModuleType, model: Model, provider: str, options: BackendOptions, say: Say
) -> tuple[Any, Backend]:
    _expect_provider(runtime, provider)
    half = options.precision == "fp16" and provider in GPU
    warnings = _misfits(model, provider, options)
    content = _half(model) if half else model.content
    precision, threads = _precision(provider, options, half), _threads(options)

    def create(folders: CacheFolders | None = None) -> Any:
        chain = provider_chain(provider, options, folders)
        return create_session(runtime, content, options, provider, model.path, chain)

    if provider == "cpu":
        own = options.own_cores
        if len(own) > 1:
            threads = f"{len(own)}, one on each of the cores {shown(own)}"
        return model.cpu_session, Backend(
            provider, precision, threads, "", warnings, own[:1] or options.cores
        )
    if provider != "tensorrt":
        return create(), Backend(provider, precision, threads, "", warnings, options.cores)
    parts = engine_parts(runtime, model, precision)
    if half and int(parts["tensorrt"]) < _OBEYS_TYPES:
        raise ProviderError(
            f"expected TensorRT 10 or later for precision fp16, got version {parts['tensorrt']}"
        )
    cache = EngineCache(options.cache or cache_path() / "tensorrt", parts)
    opened = cache.open(create, say, ProviderError)
    warnings += (opened.warning,) if opened.warning else ()
    return opened.session, Backend(provider, precision, threads, opened.engine, warnings, options.cores)


def _expect_provider(runtime: ModuleType, provider: str) -> None:
    if provider not in PROVIDERS:
        raise ProviderError(f"expected a provider of auto, {', '.join(PROVIDERS)}, got '{provider}'")
    available = runtime.get_available_providers()
    if PROVIDERS[provider] not in available:
        raise ProviderError(
            f"expected provider '{provider}', but this ONNX Runtime has {', '.join(available)}: "
            f"pip install 'structpose_ros[{_EXTRAS[provider]}]' in place of the other, or set the provider "
            "to 'auto'"
        )


def _misfits(model: Model, provider: str, options: BackendOptions) -> tuple[str, ...]:
    """Return what is to be warned of because provider, precision and model don't go together.

    Raises:
        ProviderError: nobody allowed another precision than the one asked for.
    """
    warnings = []
    if options.precision == "fp16" and provider not in GPU:
        problem = f"expected tensorrt or cuda for precision fp16, got {provider}, which computes in fp32"
        if not options.allow_fallback:
            raise ProviderError(problem)
        warnings.append(problem)
    if provider in GPU and _CPU_OPERATOR in model.content:
        warnings.append(
            "the model is in int8, which ONNX Runtime computes on the CPU: every frame goes there "
            "and back; export it again without --int8 for a GPU"
        )
    return tuple(warnings)


def engine_parts(runtime: ModuleType, model: Model, precision: str) -> dict[str, str]:
    """Return all that a TensorRT engine depends on.

    Raises:
        ProviderError: there is no GPU or no TensorRT here, so that none can be built.
    """
    gpu, version = first_gpu(), tensorrt_version()
    if UNKNOWN in (gpu.name, version):
        lacking = (
            "GPU that its driver knows" if gpu.name == UNKNOWN else "TensorRT library (libnvinfer) that loads"
        )
        raise ProviderError(f"expected provider 'tensorrt' to run, got no {lacking}")
    return {
        "model": model.sha256,
        "onnxruntime": str(runtime.__version__),
        "tensorrt": version,
        "gpu": gpu.name,
        "compute_capability": gpu.compute_capability,
        "precision": precision,
    }


def _half(model: Model) -> bytes:
    try:
        return with_fp16(model.content)
    except ImportError as error:
        raise ProviderError(
            f"expected the package onnx, which fp16 needs, got none: pip install onnx ({error})"
        ) from error
    except ValueError as error:
        raise ProviderError(f"precision fp16 of {model.path}: {error}") from error


def _precision(provider: str, options: BackendOptions, half: bool) -> str:
    rest = "tf32" if options.precision == "auto" else "fp32"
    if provider not in GPU:
        return "fp32"
    if provider == "tensorrt" and os.environ.get(TF32_VARIABLE) != "0":
        rest = "tf32"  # its builder may always take it
    elif os.environ.get(TF32_VARIABLE) == "0":
        rest = "fp32"
    return f"fp16 convolutions, the rest {rest}" if half else rest


def _threads(options: BackendOptions) -> str:
    text = str(options.thread_count or "one per core")
    return text + (f" on cores {shown(options.cores)}" if options.cores else "")
