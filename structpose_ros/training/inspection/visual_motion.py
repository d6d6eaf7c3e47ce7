"""How the camera moved between two images, from these and the first one's depth: no recorded pose is used."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from structpose_ros.camera import Camera
from structpose_ros.geometry import rotation_vector, transform_points
from structpose_ros.training.frames import NOTHING_SEEN_MM, Frame

Array = npt.NDArray[np.float64]
Image = npt.NDArray[np.uint8]

CORNERS = 400
ROUND_TRIP_PX = 0.7  # a corner tracked there and back must come home as close as this
INLIER_PX = 2.0
CLOSE, REFINEMENTS = 3.0, 3  # times the median error; the motion is refined on tracks within it, as often
WINDOW = 15  # px; what is followed of a corner
DEPTH_RANGE = 1.1  # largest over smallest depth in the window: beyond, near and far things move apart
ENOUGH = 15  # tracks that agree on one motion, and at least half of all

# Thinned recordings have neighbours too far apart for optical flow: there features are matched instead.
FEATURES = 1500


@dataclass(frozen=True)
class Tracks:
    """The same places in two images: pixels (N, 2) in each, and their depth (N,) m in the first."""

    first: Array
    second: Array
    depth: Array

    def residual_px(self, camera: Camera, second_from_first: Array) -> float:
        """Return by how many pixels (median) a pose and the depth miss where the images put the tracks."""
        points = transform_points(second_from_first, camera.rays(self.first) * self.depth[:, None])
        error = np.linalg.norm(camera.project(points) - self.second, axis=1)
        return float(np.median(np.where(np.isnan(error), np.inf, error)))

    def depth_deviation(
        self, camera: Camera, second_from_first: Array, second_depth_mm: npt.NDArray[np.uint16]
    ) -> float:
        """Return by which share (median) the second depth differs from what a pose makes of the first.

        NaN where the second has none at the tracks.
        """
        points = transform_points(second_from_first, camera.rays(self.first) * self.depth[:, None])
        height, width = second_depth_mm.shape
        columns, rows = np.rint(self.second).astype(int).T
        columns, rows = np.clip(columns, 0, width - 1), np.clip(rows, 0, height - 1)
        depth = second_depth_mm[rows, columns] * 1e-3
        known = (depth > 0) & np.isfinite(points[:, 2])
        if not known.any():
            return float("nan")
        return float(np.median(np.abs(points[known, 2] / depth[known] - 1)))

    @property
    def length_px(self) -> float:
        """How far the image moved, median."""
        return float(np.median(np.linalg.norm(self.second - self.first, axis=1)))


@dataclass(frozen=True)
class VisualMotion:
    """second_from_first by the images: rotation vector (3,) rad, translation (3,) in the depth's unit."""

    turn: Array
    move: Array
    inlier_ratio: float


def find_tracks(frame: Frame, second_rgb: Image) -> Tracks | None:
    """Track places with known depth from a frame into another image; None where too few are found."""
    first_gray = cv2.cvtColor(frame.image_rgb, cv2.COLOR_RGB2GRAY)
    second_gray = cv2.cvtColor(second_rgb, cv2.COLOR_RGB2GRAY)
    for find in (_follow_corners, _match_features):
        first, second = find(first_gray, second_gray)
        if len(first) < ENOUGH:
            continue
        columns, rows = np.rint(first).astype(int).T
        depth = frame.depth_mm[rows, columns] * 1e-3
        known = _is_smooth(frame.depth_mm)[rows, columns]
        if np.count_nonzero(known) >= 2 * ENOUGH:
            return Tracks(first[known], second[known], depth[known])
    return None


def estimate_motion(tracks: Tracks, camera: Camera) -> VisualMotion | None:
    """Return the motion that most tracks agree on (PnP with RANSAC), or None.

    A wrong unit of depth scales the translation and leaves the rotation as it is.
    """
    unit = float(np.median(tracks.depth))
    points = camera.rays(tracks.first) * (tracks.depth / unit)[:, None]
    seen = camera.rays(tracks.second)[:, :2]
    inside = np.isfinite(points).all(axis=1) & np.isfinite(seen).all(axis=1)
    points, seen = points[inside], seen[inside]
    if len(points) < ENOUGH:
        return None
    found, turn, move, inliers = cv2.solvePnPRansac(
        points,
        seen,
        np.eye(3),
        None,
        iterationsCount=200,
        reprojectionError=INLIER_PX / camera.fx,
        confidence=0.999,
        flags=cv2.SOLVEPNP_EPNP,
    )
    if not found or inliers is None or len(inliers) < max(ENOUGH, len(points) / 2):
        return None
    chosen = inliers[:, 0]
    for _ in range(REFINEMENTS):
        turn, move = cv2.solvePnPRefineLM(points[chosen], seen[chosen], np.eye(3), None, turn, move)
        expected = cv2.projectPoints(points, turn, move, np.eye(3), None)[0].reshape(-1, 2)
        error = np.linalg.norm(expected - seen, axis=1)
        chosen = np.flatnonzero(error <= CLOSE * np.median(error[chosen]))
    if not (np.isfinite(turn).all() and np.isfinite(move).all()):
        return None
    rotation = np.asarray(cv2.Rodrigues(turn)[0], dtype=np.float64)
    return VisualMotion(rotation_vector(rotation), unit * move[:, 0], len(inliers) / len(points))


def _is_smooth(depth_mm: npt.NDArray[np.uint16]) -> npt.NDArray[np.bool_]:
    """Return (H, W) where depth is known and does not jump nearby."""
    window = np.ones((WINDOW, WINDOW), dtype=np.uint8)
    nearest = cv2.erode(np.where(depth_mm > 0, depth_mm, NOTHING_SEEN_MM).astype(np.uint16), window)
    farthest = cv2.dilate(depth_mm, window)
    return np.asarray((depth_mm > 0) & (farthest <= DEPTH_RANGE * nearest))


def _follow_corners(first_gray: Image, second_gray: Image) -> tuple[Array, Array]:
    """Follow corners by optical flow, there and back."""
    corners = cv2.goodFeaturesToTrack(first_gray, CORNERS, 0.01, 8)
    if corners is None:
        return np.empty((0, 2)), np.empty((0, 2))
    there, found, _ = cv2.calcOpticalFlowPyrLK(
        first_gray, second_gray, corners, None, winSize=(WINDOW, WINDOW), maxLevel=4
    )
    back, returned, _ = cv2.calcOpticalFlowPyrLK(
        second_gray, first_gray, there, None, winSize=(WINDOW, WINDOW), maxLevel=4
    )
    missed = np.linalg.norm((back - corners).reshape(-1, 2), axis=1)
    good = (found.reshape(-1) > 0) & (returned.reshape(-1) > 0) & (missed < ROUND_TRIP_PX)
    return _pixels(corners)[good], _pixels(there)[good]


def _match_features(first_gray: Image, second_gray: Image) -> tuple[Array, Array]:
    """Match features that choose each other."""
    detector = cv2.ORB.create(FEATURES)
    first, first_words = detector.detectAndCompute(first_gray, None)
    second, second_words = detector.detectAndCompute(second_gray, None)
    if first_words is None or second_words is None:
        return np.empty((0, 2)), np.empty((0, 2))
    matches = cv2.BFMatcher(cv2.NORM_HAMMING, crossCheck=True).match(first_words, second_words)
    return (
        _pixels(np.array([first[match.queryIdx].pt for match in matches])),
        _pixels(np.array([second[match.trainIdx].pt for match in matches])),
    )


def _pixels(points: npt.NDArray[np.floating]) -> Array:
    return np.asarray(points, dtype=np.float64).reshape(-1, 2)
