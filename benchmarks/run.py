"""`make bench`: times what a frame costs, beside well-known solvers on the same points.

Absolute times belong to one machine; each stands beside a ratio taken in the same run.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from benchmarks.network_cost import network_cost
from structpose_ros.alignment import AlignmentOptions, align
from structpose_ros.camera import Camera
from structpose_ros.contract import ModelFileError
from structpose_ros.geometry import rotation_from_vector, transform, transform_points
from structpose_ros.network import OnnxNetwork, ProviderError, normalized_tensor
from structpose_ros.relocalizer import Relocalizer
from structpose_ros.resources import share_path
from structpose_ros.training.config import load_config
from structpose_ros.training.metrics import write_metrics

POINTS = 4800
CAMERA = Camera(640, 480, 525.0, 525.0, 319.5, 239.5)


def timed(action: Callable[[], object], repeats: int, warm_up: int = 10) -> dict[str, float]:
    """Return median and p99 in milliseconds over `repeats` calls after `warm_up` calls that don't count."""
    for _ in range(warm_up):
        action()
    samples = []
    for _ in range(repeats):
        started = time.perf_counter()
        action()
        samples.append(1e3 * (time.perf_counter() - started))
    return {"p50": float(np.median(samples)), "p99": float(np.percentile(samples, 99)), "samples": repeats}


def correspondences() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return pixels (N, 2), camera and map points (N, 3) m of a known pose; 30 % of them are off."""
    random = np.random.default_rng(0)
    pixels = random.uniform([0, 0], [639, 479], size=(POINTS, 2))
    points_in_camera = CAMERA.rays(pixels) * random.uniform(1.0, 4.0, size=(POINTS, 1))
    map_from_camera = transform(rotation_from_vector([0.3, -0.7, 0.2]), [1.0, 2.0, 0.5])
    points_in_map = transform_points(map_from_camera, points_in_camera) + random.normal(0, 0.03, (POINTS, 3))
    outliers = random.random(POINTS) < 0.3
    points_in_map[outliers] += random.normal(0, 1.0, (int(outliers.sum()), 3))
    return pixels, points_in_camera, points_in_map


def bench_alignment() -> dict[str, Any]:
    """Time one solve and the robust solve against SciPy's and against OpenCV's PnP with RANSAC."""
    pixels, points_in_camera, points_in_map = correspondences()
    ones = np.ones(POINTS)
    plain = timed(
        lambda: align(points_in_camera, points_in_map, ones, AlignmentOptions(robust_rounds=0)), 300
    )
    robust = timed(lambda: align(points_in_camera, points_in_map, ones), 300)
    ransac = timed(
        lambda: cv2.solvePnPRansac(points_in_map, pixels, CAMERA.matrix, None, reprojectionError=8.0), 50, 3
    )
    result = {
        "align_4800_ms": plain,
        "align_4800_robust_ms": robust,
        "pnp_ransac_ms": ransac,
        "pnp_ransac_over_align": ransac["p50"] / robust["p50"],
    }
    try:
        from scipy.spatial.transform import Rotation
    except ImportError:
        return result
    centred_camera = points_in_camera - points_in_camera.mean(axis=0)
    centred_map = points_in_map - points_in_map.mean(axis=0)
    scipy = timed(lambda: Rotation.align_vectors(centred_map, centred_camera, ones), 100)
    return result | {"scipy_ms": scipy, "scipy_over_align": scipy["p50"] / plain["p50"]}


def bench_frame(network: OnnxNetwork) -> dict[str, Any]:
    """Time a frame in this process, against the bare network of the same run."""
    contract = network.contract
    relocalizer = Relocalizer(network)
    camera = contract.training_camera.resized(2 * contract.input_width, 2 * contract.input_height)
    image = np.random.default_rng(0).integers(0, 255, (camera.height, camera.width, 3), dtype=np.uint8)
    tensor = normalized_tensor(image[::2, ::2], contract)
    rays = contract.training_camera.ray_grid(contract.stride)
    bare = timed(lambda: network.predict(tensor, rays), 200)
    whole = timed(lambda: relocalizer.localize(image, camera), 200)
    stages = relocalizer.localize(image, camera).stage_ms
    return {
        "network_ms": bare,
        "frame_ms": whole,
        "frame_over_network_p50": whole["p50"] / bare["p50"],
        "stages_of_one_frame_ms": stages,
        "provider": network.provider,
        "input": f"{camera.width}x{camera.height} resized to {contract.input_width}x{contract.input_height}",
    }


def machine() -> dict[str, str]:
    """Return what the figures were measured on."""
    versions = {}
    for name in ("numpy", "onnxruntime", "onnxruntime-gpu", "opencv-python-headless", "scipy", "torch"):
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    model = next(
        (line.split(":")[1].strip() for line in _cpuinfo() if line.startswith("model name")),
        platform.processor(),
    )
    return {
        "cpu": model,
        "cores": str(len(os.sched_getaffinity(0))),
        "python": platform.python_version(),
        **versions,
    }


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.is_file() else []


def main() -> int:
    """Run everything, print a table, write summary.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("out/bench"))
    parser.add_argument("--model", type=Path, help="model file (default: the demo room's)")
    arguments = parser.parse_args()
    try:
        model = arguments.model or share_path("models", "demo_room.onnx")
        network = OnnxNetwork(model)
    except (FileNotFoundError, ModelFileError, ProviderError) as error:
        print(f"bench: error: {error} (--model names another file)", file=sys.stderr)
        return 1
    summary: dict[str, Any] = {"machine": machine()}
    summary |= bench_alignment()
    summary |= bench_frame(network)
    summary["paper_network_cost"] = network_cost(load_config(share_path("config", "training", "paper.yaml")))
    write_metrics(arguments.out / "summary.json", summary)
    for key, value in summary.items():
        if isinstance(value, dict) and "p50" in value:
            times = f"{value['p50']:>10.3f} ms p50 {value['p99']:>10.3f} ms p99"
            print(f"{key:<28}{times} {value['samples']:>6} samples")
        elif isinstance(value, float):
            print(f"{key:<28}{value:>10.2f}")
    print(f"machine: {summary['machine']}\nwrote {arguments.out / 'summary.json'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
