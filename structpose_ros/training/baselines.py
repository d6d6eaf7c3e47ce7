"""Other ways from the same predictions to a pose, and poses without any prediction, to compare with.

PnP sees what the pose solve of the model sees, scene coordinates per cell, but instead of the depth only the
direction in which each cell looks. So the methods differ in nothing but the solve.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from structpose_ros.camera import Camera, ImageRgb
from structpose_ros.geometry import invert, rotation_from_vector, transform
from structpose_ros.network import Prediction
from structpose_ros.relocalizer import Result
from structpose_ros.training.outcomes import Outcome, outcome_of_pose

Array = npt.NDArray[np.float64]

PNP_THRESHOLD_PX = 10.0  # at an image width of 640 px; that of ESAC and DSAC*
_THRESHOLD_WIDTH = 640
_LEAST_POINTS = 4
_CONFIDENCE, _MOST_ITERATIONS = 0.9999, 10000


class ComparisonError(ValueError):
    """A comparison that can't be made as asked; the message says what was expected and what came."""


@dataclass(frozen=True)
class Correspondences:
    """What one image says of its cells: points_in_map (N, 3) m, and where the camera sees them.

    rays: (N, 3), z = 1, camera frame, distortion undone. camera: at the network's input size.
    """

    points_in_map: Array
    rays: Array
    camera: Camera

    @property
    def pixels(self) -> Array:
        """(N, 2), where a lens without distortion, of the same K, would see the points."""
        return self.rays[:, :2] * [self.camera.fx, self.camera.fy] + [self.camera.cx, self.camera.cy]


@dataclass(frozen=True)
class PnpEstimate:
    """map_from_camera (4, 4), and the share of the points within the threshold."""

    map_from_camera: Array
    inlier_ratio: float


@dataclass(frozen=True)
class PoseRegressor:
    """A network that answers an image with a pose, without correspondences, as PoseNet does.

    localize: takes image_rgb (H, W, 3) and its camera, returns map_from_camera (4, 4), or None where it has
    no answer. identity: tells its results from another's, e.g. the digest of its file.
    """

    localize: Callable[[ImageRgb, Camera], Array | None]
    identity: str


def correspondences(prediction: Prediction, rays: Array, camera: Camera) -> Correspondences:
    """Return the valid cells of a prediction: with a ray, finite coordinates, and a weight above 0.

    Args:
        prediction: of the network.
        rays: (h, w, 3), z = 1, of the cells; 0 or NaN beyond the lens' reach.
        camera: of the image at the network's input size.
    """
    points_in_map = np.asarray(prediction.scene_coordinates, dtype=np.float64).reshape(-1, 3)
    flat_rays = rays.reshape(-1, 3)
    valid_mask = np.isfinite(points_in_map).all(axis=1) & (flat_rays[:, 2] > 0)
    valid_mask &= prediction.weights.reshape(-1) > 0
    return Correspondences(points_in_map[valid_mask], flat_rays[valid_mask], camera)


def epnp(seen: Correspondences) -> Array | None:
    """Solve by EPnP on all points, no RANSAC, no refinement (the paper's "ESAC no RANSAC", Table 1).

    Lepetit, Moreno-Noguer and Fua, "EPnP: an accurate O(n) solution to the PnP problem", IJCV 2009.

    Returns:
        map_from_camera (4, 4); None with fewer than 4 points, or where the points don't determine it.
    """
    return _opencv_pose(
        lambda: cv2.solvePnP(
            np.ascontiguousarray(seen.points_in_map),
            np.ascontiguousarray(seen.rays[:, :2]),
            np.eye(3),  # rays are normalised image coordinates: K is the identity, no distortion is left
            None,
            flags=cv2.SOLVEPNP_EPNP,
        ),
        seen,
    )


class RansacPnp:
    """PnP in LO-RANSAC with refinement on the inliers, by PoseLib; by OpenCV where PoseLib is not installed.

    solver: which of them, with its version. threshold_px: reprojection error of an inlier, at the network's
    input size. Both are deterministic (PoseLib's seed is fixed); how often they sample depends on the data.
    """

    def __init__(self, input_width: int, threshold_px: float = PNP_THRESHOLD_PX) -> None:
        """Take `threshold_px` as at an image width of 640 px, scaled to `input_width`."""
        if not (math.isfinite(threshold_px) and threshold_px > 0):
            raise ComparisonError(f"expected a PnP threshold above 0 px, got {threshold_px}")
        self.threshold_px = threshold_px * input_width / _THRESHOLD_WIDTH
        try:
            import poselib
        except ImportError:
            self._solve = self._solve_with_opencv
            self.solver = f"OpenCV {cv2.__version__}"
        else:
            self._solve = self._solve_with_poselib
            self.solver = f"PoseLib {poselib.__version__}"

    def __call__(self, seen: Correspondences) -> PnpEstimate | None:
        """Return the estimate; None with fewer than 4 points, or fewer than 4 inliers."""
        return self._solve(seen) if len(seen.rays) >= _LEAST_POINTS else None

    def _solve_with_poselib(self, seen: Correspondences) -> PnpEstimate | None:
        import poselib

        camera = seen.camera
        pinhole = {
            "model": "PINHOLE",
            "width": camera.width,
            "height": camera.height,
            "params": [camera.fx, camera.fy, camera.cx, camera.cy],
        }
        options = {
            "max_reproj_error": self.threshold_px,
            "success_prob": _CONFIDENCE,
            "max_iterations": _MOST_ITERATIONS,
        }
        pose, found = poselib.estimate_absolute_pose(seen.pixels, seen.points_in_map, pinhole, options, {})
        camera_from_map = np.vstack([pose.Rt, [0.0, 0.0, 0.0, 1.0]])
        if found["num_inliers"] < _LEAST_POINTS or not np.isfinite(camera_from_map).all():
            return None
        return PnpEstimate(invert(camera_from_map), found["num_inliers"] / len(seen.rays))

    def _solve_with_opencv(self, seen: Correspondences) -> PnpEstimate | None:
        points, pixels = np.ascontiguousarray(seen.points_in_map), np.ascontiguousarray(seen.pixels)
        inliers: list[int] = []

        def solve() -> tuple[bool, Array, Array]:
            found, rotation, translation, chosen = cv2.solvePnPRansac(
                points,
                pixels,
                seen.camera.matrix,
                None,
                iterationsCount=_MOST_ITERATIONS,
                reprojectionError=self.threshold_px,
                confidence=_CONFIDENCE,
            )
            if not found or chosen is None or len(chosen) < _LEAST_POINTS:
                return False, rotation, translation
            inliers.extend(chosen[:, 0].tolist())
            matrix = seen.camera.matrix
            refined = cv2.solvePnPRefineLM(
                points[inliers], pixels[inliers], matrix, None, rotation, translation
            )
            return True, *refined

        pose = _opencv_pose(solve, seen)
        return None if pose is None else PnpEstimate(pose, len(inliers) / len(seen.rays))


def _opencv_pose(solve: Callable[[], tuple[bool, Array, Array]], seen: Correspondences) -> Array | None:
    """Return map_from_camera (4, 4) of one of OpenCV's solvers, None where it finds none."""
    if len(seen.rays) < _LEAST_POINTS:
        return None
    try:
        found, rotation, translation = solve()
    except cv2.error:  # how it says that points on a line, or all in one place, have no solution
        return None
    if not found or not (np.isfinite(rotation).all() and np.isfinite(translation).all()):
        return None
    return invert(transform(rotation_from_vector(rotation[:, 0]), translation[:, 0]))


class PnpBaselines:
    """EPnP and RANSAC-PnP on the predictions of one model."""

    def __init__(self, ransac: RansacPnp) -> None:
        """Use a RANSAC made for the network's input size."""
        self.ransac = ransac

    def outcomes_of(self, name: str, result: Result, true_map_from_camera: Array) -> tuple[Outcome, Outcome]:
        """Solve what the network said of one image by EPnP and by RANSAC-PnP."""
        seen = correspondences(result.prediction, result.rays, result.camera)
        before = result.stage_ms["preprocess"] + result.stage_ms["network"]
        started = time.perf_counter()
        plain = epnp(seen)
        halfway = time.perf_counter()
        robust = self.ransac(seen)
        finished = time.perf_counter()
        plain_ms, robust_ms = 1e3 * (halfway - started), 1e3 * (finished - halfway)
        return (
            outcome_of_pose(
                name, plain, true_map_from_camera, latency_ms=before + plain_ms, solve_ms=plain_ms
            ),
            outcome_of_pose(
                name,
                None if robust is None else robust.map_from_camera,
                true_map_from_camera,
                confidence=0.0 if robust is None else robust.inlier_ratio,
                latency_ms=before + robust_ms,
                solve_ms=robust_ms,
            ),
        )


def retrieval_oracle(
    true_poses: Sequence[tuple[str, Array]], training_poses: Sequence[Array]
) -> list[Outcome]:
    """Answer each true pose (name, map_from_camera) with the nearest training pose: perfect image retrieval.

    Nearest is the least sum of position error / 5 cm and rotation error / 5 degrees: 1 cm counts as much as
    1 degree. No retrieval that answers with a training frame's pose has a smaller sum, for any frame.
    """
    positions = np.array([pose[:3, 3] for pose in training_poses])
    rotations = np.array([pose[:3, :3] for pose in training_poses])
    outcomes = []
    for name, true in true_poses:
        distance = np.linalg.norm(positions - true[:3, 3], axis=1)
        cosine = (np.einsum("nij,ij->n", rotations, true[:3, :3]) - 1.0) / 2.0
        angle = np.degrees(np.arccos(np.clip(cosine, -1.0, 1.0)))
        nearest = int(np.argmin(distance / 0.05 + angle / 5.0))
        outcomes.append(outcome_of_pose(name, training_poses[nearest], true))
    return outcomes
