"""How things are timed here: warm-up, then medians and tails; each run says on what machine."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from structpose_ros.demo.report import bare_network_ms
from structpose_ros.network import OnnxNetwork
from structpose_ros.training.frames import open_recording

PACKAGES = ("numpy", "onnxruntime", "onnxruntime-gpu", "opencv-python-headless", "scipy", "poselib", "torch")
IMAGES = 30  # of a recording, that stand for its content


def percentiles(milliseconds: Sequence[float]) -> dict[str, float]:
    """Return p50, p95 and p99, and how many samples there were; NaN of none."""
    p50, p95, p99 = np.percentile(milliseconds, (50, 95, 99)) if len(milliseconds) else [float("nan")] * 3
    return {"p50": float(p50), "p95": float(p95), "p99": float(p99), "samples": len(milliseconds)}


def timed(
    action: Callable[[], object], repeats: int, warm_up: int = 10, seconds: float = 5.0
) -> dict[str, float]:
    """Return the percentiles in milliseconds of `repeats` calls after `warm_up` calls that don't count.

    Of what is slow there are fewer: no more begin after so many seconds.
    """
    return percentiles(timed_in_turn({"": action}, repeats, warm_up, seconds)[""])


def timed_in_turn(
    actions: Mapping[str, Callable[[], object]], repeats: int, warm_up: int = 10, seconds: float = 60.0
) -> dict[str, list[float]]:
    """Return the milliseconds of actions in turn: what the machine does besides falls on all alike."""
    samples: dict[str, list[float]] = {name: [] for name in actions}
    begun = time.perf_counter()
    for round_number in range(warm_up + repeats):
        for name, action in actions.items():
            started = time.perf_counter()
            action()
            if round_number >= warm_up:
                samples[name].append(1e3 * (time.perf_counter() - started))
        if round_number >= warm_up and time.perf_counter() - begun > seconds:
            break
    return samples


def images_of(data: Path) -> list[npt.NDArray[np.uint8]]:
    """Return some images of a recording."""
    recording = open_recording(data)
    files = recording.files("test")[0]
    return [recording.read(item).image_rgb for item in files[:: -(-len(files) // IMAGES)]]


def network_alone(network: OnnxNetwork, data: Path, **options: Any) -> list[float]:
    """Return the milliseconds of the bare network on a recording's images; options of `bare_network_ms`."""
    return bare_network_ms(images_of(data), open_recording(data).camera, network, **options)


def machine() -> dict[str, str]:
    """Return what the figures were measured on."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    models = (line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    return {
        "cpu": next(models, platform.processor()),
        "cores": str(len(os.sched_getaffinity(0))),
        "python": platform.python_version(),
        **versions,
    }
