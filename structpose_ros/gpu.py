"""What a TensorRT engine is built for: the GPU and the TensorRT that this process would use."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

UNKNOWN = "unknown"
_MAJOR, _MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR
_TENSORRT = ("libnvinfer.so.11", "libnvinfer.so.10", "libnvinfer.so.8", "libnvinfer.so")

Loader = Callable[[str], Any]


@dataclass(frozen=True)
class Gpu:
    """A GPU by its name and compute capability, such as 8.7."""

    name: str
    compute_capability: str


def first_gpu(load: Loader = ctypes.CDLL) -> Gpu:
    """Return the first GPU that CUDA gives this process, both fields unknown where there is none.

    The driver's own library is asked, which is there wherever CUDA works, on a Jetson too.
    """
    unknown = Gpu(UNKNOWN, UNKNOWN)
    try:
        driver = load("libcuda.so.1")
    except OSError:
        return unknown
    device, name = ctypes.c_int(), ctypes.create_string_buffer(256)
    numbers = [ctypes.c_int(), ctypes.c_int()]
    asked = [
        lambda: driver.cuInit(0),
        lambda: driver.cuDeviceGet(ctypes.byref(device), 0),
        lambda: driver.cuDeviceGetName(name, len(name), device),
        lambda: driver.cuDeviceGetAttribute(ctypes.byref(numbers[0]), _MAJOR, device),
        lambda: driver.cuDeviceGetAttribute(ctypes.byref(numbers[1]), _MINOR, device),
    ]
    if any(call() != 0 for call in asked):
        return unknown
    return Gpu(name.value.decode(errors="replace"), f"{numbers[0].value}.{numbers[1].value}")


def tensorrt_version(load: Loader = ctypes.CDLL) -> str:
    """Return the number that TensorRT's library gives as its version, `unknown` where it is not found."""
    for library in _TENSORRT:
        try:
            return str(load(library).getInferLibVersion())
        except (OSError, AttributeError):
            continue
    return UNKNOWN
