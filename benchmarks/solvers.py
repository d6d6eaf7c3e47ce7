"""The alignment beside SciPy's, OpenCV's and PoseLib's solvers: time and error on the same points."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from benchmarks.timing import timed
from structpose_ros.alignment import AlignmentOptions, PoseEstimate, align
from structpose_ros.camera import Camera
from structpose_ros.geometry import invert, pose_error, rotation_from_vector, transform, transform_points

Array = npt.NDArray[np.float64]
CAMERA = Camera(640, 480, 525.0, 525.0, 319.5, 239.5)
MAP_FROM_CAMERA = transform(rotation_from_vector([0.3, -0.7, 0.2]), [1.0, 2.0, 0.5])
COUNTS = (300, 1200, 4800, 20000)
WRONG = {"right": 0.0, "a third wrong": 1 / 3}
NOISE = 0.02  # metres, of each coordinate in the map
THRESHOLD_PX = 10.0  # of both RANSACs
DRAWS = 10  # sets of points that the errors are medians over
PLAIN = AlignmentOptions(robust_rounds=0)
LANDMARKS = AlignmentOptions(
    consensus_starts=16, robust_rounds=0, refine_rounds=10, refine_from=0.25, refine_to=0.008
)


@dataclass(frozen=True)
class Points:
    """pixels (N, 2), and the same points in the camera and in the map, (N, 3) metres."""

    pixels: Array
    in_camera: Array
    in_map: Array


def points(count: int, wrong: float, seed: int) -> Points:
    """Return points of a known pose, that share of them anywhere within a metre or so."""
    random = np.random.default_rng(seed)
    pixels = random.uniform([0, 0], [CAMERA.width - 1, CAMERA.height - 1], size=(count, 2))
    in_camera = CAMERA.rays(pixels) * random.uniform(1.0, 4.0, size=(count, 1))
    in_map = transform_points(MAP_FROM_CAMERA, in_camera) + random.normal(0, NOISE, (count, 3))
    off = random.random(count) < wrong
    in_map[off] += random.normal(0, 1.0, (int(off.sum()), 3))
    return Points(pixels, in_camera, in_map)


def by_alignment(options: AlignmentOptions) -> Callable[[Points], Array]:
    """Return a solver by `align`, all weights alike."""

    def solve(given: Points) -> Array:
        outcome = align(given.in_camera, given.in_map, np.ones(len(given.pixels)), options)
        assert isinstance(outcome, PoseEstimate), outcome
        return outcome.map_from_camera

    return solve


def by_scipy(given: Points) -> Array:
    """Rotation.align_vectors of the centred points, which leaves centring and translation to its caller."""
    from scipy.spatial.transform import Rotation

    mean_camera, mean_map = given.in_camera.mean(axis=0), given.in_map.mean(axis=0)
    rotation = Rotation.align_vectors(given.in_map - mean_map, given.in_camera - mean_camera)[0].as_matrix()
    return transform(rotation, mean_map - rotation @ mean_camera)


def by_opencv(given: Points) -> Array:
    """OpenCV's solvePnPRansac, with its own number of iterations and confidence."""
    _, rotation, translation, _ = cv2.solvePnPRansac(
        given.in_map, given.pixels, CAMERA.matrix, None, reprojectionError=THRESHOLD_PX
    )
    return invert(transform(rotation_from_vector(rotation[:, 0]), translation[:, 0]))


def by_poselib(given: Points) -> Array:
    """PoseLib's LO-RANSAC with its own options."""
    import poselib

    parameters = [CAMERA.fx, CAMERA.fy, CAMERA.cx, CAMERA.cy]
    pinhole = {"model": "PINHOLE", "width": CAMERA.width, "height": CAMERA.height, "params": parameters}
    options = {"max_reproj_error": THRESHOLD_PX}
    pose, _ = poselib.estimate_absolute_pose(given.pixels, given.in_map, pinhole, options, {})
    return invert(np.vstack([pose.Rt, [0.0, 0.0, 0.0, 1.0]]))


def solvers() -> Mapping[str, Callable[[Points], Array]]:
    """Return the solvers that are installed."""
    return {
        "align, closed form": by_alignment(PLAIN),
        "align, five robust rounds": by_alignment(AlignmentOptions()),
        "align, as for landmarks": by_alignment(LANDMARKS),
        **({"SciPy align_vectors": by_scipy} if importlib.util.find_spec("scipy") else {}),
        "OpenCV solvePnPRansac": by_opencv,
        **({"PoseLib absolute pose": by_poselib} if importlib.util.find_spec("poselib") else {}),
    }


def bench_solvers() -> dict[str, Any]:
    """Time all solvers on the same points, and measure their errors over several draws of them."""
    table: dict[str, Any] = {}
    for kind, wrong in WRONG.items():
        for count in COUNTS:
            draws = [points(count, wrong, seed) for seed in range(DRAWS)]
            for name, solve in solvers().items():
                errors = np.array([pose_error(solve(draw), MAP_FROM_CAMERA) for draw in draws])
                position, rotation = np.median(errors, axis=0)
                table.setdefault(kind, {}).setdefault(str(count), {})[name] = {
                    **timed(partial(solve, draws[0]), repeats=200, warm_up=5),
                    "median_position_m": float(position),
                    "median_rotation_deg": float(rotation),
                }
    return {"solvers": table, **_ratios(table)}


def _ratios(table: Mapping[str, Any]) -> dict[str, Any]:
    """The summary's keys: at 4800 points, where RANSAC is compared on those a third of which is wrong."""
    right, wrong = table["right"]["4800"], table["a third wrong"]["4800"]
    ransacs = [name for name in ("OpenCV solvePnPRansac", "PoseLib absolute pose") if name in wrong]
    ours = wrong["align, five robust rounds"]["p50"]
    result = {
        "align_4800_ms": right["align, closed form"],
        "pnp_ransac_over_align": min(wrong[name]["p50"] for name in ransacs) / ours,
        "pnp_ransac_over_align_of_right_points": min(right[name]["p50"] for name in ransacs)
        / right["align, closed form"]["p50"],
    }
    if "SciPy align_vectors" in right:
        result["scipy_over_align"] = right["SciPy align_vectors"]["p50"] / right["align, closed form"]["p50"]
        given = points(4800, 0.0, 0)
        apart = by_scipy(given) - by_alignment(PLAIN)(given)
        result["scipy_differs_by"] = float(np.abs(apart).max())
    return result


def print_solvers(table: Mapping[str, Any]) -> None:
    """Print time and error of each solver."""
    for kind, by_count in table.items():
        print(f"\npoints, {kind}: ms p50 (median error)")
        names = list(next(iter(by_count.values())))
        print(f"  {'':<28}" + "".join(f"{count:>26}" for count in by_count))
        for name in names:
            cells = (rows[name] for rows in by_count.values())
            print(
                f"  {name:<28}"
                + "".join(
                    f"{cell['p50']:>10.3f} ({1e3 * cell['median_position_m']:>5.1f} mm"
                    f" {cell['median_rotation_deg']:.2f}°)"
                    for cell in cells
                )
            )
