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
    medians = [times["p50"] for times in by_content.values()]
    stages: dict[str, list[float]] = {name: [] for name in STAGES}
    for _ in range(10):
        for image in images:
            result = relocalizer.localize(image, camera)
            for name in STAGES:
                stages[name].append(result.stage_ms[name])
    return {
        "frame_by_content_ms": by_content,
        "content_spread": max(medians) / min(medians) - 1.0,
        "stages_ms": {name: percentiles(values) for name, values in stages.items()},
    }
