"""A frame in one process: what each stage takes, and whether that depends on what the camera sees."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.timing import images_of, percentiles, timed_in_turn
from structpose_ros.network import OnnxNetwork
from structpose_ros.relocalizer import Relocalizer
from structpose_ros.training.frames import open_recording

ROUNDS = 200
STAGES = ("preprocess", "network", "align")


def contents(image: npt.NDArray[np.uint8]) -> dict[str, npt.NDArray[np.uint8]]:
    """Return what a camera may see: a room, a wall, noise, the dark; each like `image` (H, W, 3)."""
    noise = np.random.default_rng(0).integers(0, 256, image.shape, dtype=np.uint8)
    return {
        "textured": image,
        "blank": np.full_like(image, 128),
        "noise": noise,
        "dark": np.zeros_like(image),
    }


def spread_of_medians(times: npt.NDArray[np.float64]) -> float:
    """Return by how much the largest median of the rows is larger than the smallest, as a share of it."""
    medians = np.median(times, axis=1)
    return float(medians.max() / medians.min() - 1.0)


def bench_frame(network: OnnxNetwork, data: Path) -> dict[str, Any]:
    """Time frames of each content in turn, and the stages of a recording's frames."""
    relocalizer = Relocalizer(network)
    camera = open_recording(data).camera
    images = images_of(data)
    frames = {
        name: partial(relocalizer.localize, image, camera)
        for name, image in contents(images[len(images) // 2]).items()
    }
    by_content = timed_in_turn(frames, ROUNDS)
    by_round = np.array(list(by_content.values()))
    stages: dict[str, list[float]] = {name: [] for name in STAGES}
    for _ in range(10):
        for image in images:
            result = relocalizer.localize(image, camera)
            for name in STAGES:
                stages[name].append(result.stage_ms[name])
    return {
        "frame_by_content_ms": {name: percentiles(times) for name, times in by_content.items()},
        "content_spread": spread_of_medians(by_round),
        "content_spread_in_turn": spread_of_medians(by_round / by_round.mean(axis=0)),
        "stages_ms": {name: percentiles(values) for name, values in stages.items()},
    }
