"""Weighted rigid alignment of camera points to map points: the pose solve (paper §3.3).

Closed form and a fixed number of rounds: the same work on every frame, nothing is sampled.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import numpy as np
import numpy.typing as npt

from structpose_ros.geometry import transform

Array = npt.NDArray[np.float64]


class AlignmentFailure(Enum):
    """Why no pose could be solved for."""

    NON_FINITE = "non_finite"
    ZERO_WEIGHTS = "zero_weights"
    TOO_FEW_POINTS = "too_few_points"
    COLLINEAR = "collinear"


@dataclass(frozen=True)
class AlignmentOptions:
    """How to solve.

    robust_rounds: rounds of Geman-McClure reweighting after the plain solve; 0 is the paper's own solve.
    robust_scale: its scale in units of the weighted median residual of the round before.
    robust_floor: smallest scale, metres, so that exact data does not starve itself of weight.
    inlier_threshold: residual in metres up to which a point counts as an inlier.
    min_effective_points: fewest effective points, (sum w)^2 / sum w^2, that make a pose.
    min_spread: smallest ratio of the second to the first singular value of the cross-covariance; below it the
        points lie on a line and the rotation about it is unknown. A plane (third value 0) is fine.
    """

    robust_rounds: int = 5
    robust_scale: float = 1.0
    robust_floor: float = 0.01
    inlier_threshold: float = 0.10
    min_effective_points: float = 6.0
    min_spread: float = 1e-6

    def __post_init__(self) -> None:
        if not 0 <= self.robust_rounds <= 100:
            raise ValueError(f"robust_rounds: expected 0 .. 100, got {self.robust_rounds}")
        for name in ("robust_scale", "robust_floor", "inlier_threshold", "min_spread"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}: expected a value above 0, got {getattr(self, name)}")
        if not self.min_effective_points >= 3:
            raise ValueError(f"min_effective_points: expected at least 3, got {self.min_effective_points}")


@dataclass(frozen=True)
class PoseEstimate:
    """A solved pose and the facts to judge it by.

    map_from_camera: (4, 4) float64, camera optical frame to map.
    residuals: (N,) metres, |p_map - (R p_camera + t)|, for every point given.
    weights: (N,) the weights that the last solve used (given weights times robust weights).
    inlier_ratio: share of the given weight on residuals within `inlier_threshold`, 0 .. 1.
    effective_points: (sum w)^2 / sum w^2 of `weights`.
    singular_values: (3,) m^2, of the weighted cross-covariance divided by sum w.
    covariance: (6, 6) x y z rx ry rz; translation in metres and rotation in radians about the map's axes
        (the convention of geometry_msgs/PoseWithCovariance). Cells are taken as independent; the model's
        calibration scales it.
    """

    map_from_camera: Array
    residuals: Array
    weights: Array
    inlier_ratio: float
    effective_points: float
    singular_values: Array
    covariance: Array


def align(
    points_in_camera: npt.NDArray[np.floating],
    points_in_map: npt.NDArray[np.floating],
    weights: npt.NDArray[np.floating],
    options: AlignmentOptions | None = None,
) -> PoseEstimate | AlignmentFailure:
    """Find R, t that minimise sum_i w_i |b_i - R a_i - t|^2 (paper eq. 2), then reweight robustly.

    Args:
        points_in_camera: a, (N, 3) metres.
        points_in_map: b, (N, 3) metres.
        weights: w, (N,), not negative. A point of weight 0 counts for nothing, whatever its coordinates.
        options: see `AlignmentOptions`.

    Returns:
        The estimate, or the failure's name. Never a fallback pose.
    """
    options = options or AlignmentOptions()
    a = np.asarray(points_in_camera, dtype=np.float64)
    b = np.asarray(points_in_map, dtype=np.float64)
    given = np.asarray(weights, dtype=np.float64)
    if a.ndim != 2 or a.shape[1] != 3 or a.shape != b.shape or given.shape != a.shape[:1]:
        raise ValueError(
            f"expected points (N, 3), (N, 3) and weights (N,), got {a.shape}, {b.shape}, {given.shape}"
        )
    if not np.isfinite(given).all() or (given < 0).any():
        return AlignmentFailure.NON_FINITE
    used = given > 0
    if not used.all():  # what has no weight must not reach a sum: 0 * inf is NaN
        a, b = np.where(used[:, None], a, 0.0), np.where(used[:, None], b, 0.0)
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        return AlignmentFailure.NON_FINITE

    solved = _solve(a, b, given, options)
    current = given
    for _ in range(options.robust_rounds):
        if isinstance(solved, AlignmentFailure):
            return solved
        squared = _squared_residuals(a, b, solved[0])
        scale = options.robust_scale**2 * _weighted_median(squared, given) + options.robust_floor**2
        current = given * (scale / (scale + squared)) ** 2
        solved = _solve(a, b, current, options)
    if isinstance(solved, AlignmentFailure):
        return solved
    map_from_camera, singular_values = solved
    return _estimate(a, b, given, current, map_from_camera, singular_values, options)


def _solve(
    a: Array, b: Array, weights: Array, options: AlignmentOptions
) -> tuple[Array, Array] | AlignmentFailure:
    """One weighted Kabsch solve: (map_from_camera, singular values) or the failure's name."""
    total = float(weights.sum())
    if total < 1e-9:
        return AlignmentFailure.ZERO_WEIGHTS
    if total**2 / float(weights @ weights) < options.min_effective_points:
        return AlignmentFailure.TOO_FEW_POINTS
    share = weights / total
    mean_a, mean_b = share @ a, share @ b
    # The weight enters once. Weighting both centred sets would square it.
    cross_covariance = ((a - mean_a) * share[:, None]).T @ (b - mean_b)
    u, singular_values, vt = np.linalg.svd(cross_covariance)
    if singular_values[1] <= options.min_spread * singular_values[0] or singular_values[0] < 1e-12:
        return AlignmentFailure.COLLINEAR
    handedness = np.array([1.0, 1.0, np.linalg.det(vt.T @ u.T)])
    rotation = (vt.T * handedness) @ u.T
    return transform(rotation, mean_b - rotation @ mean_a), singular_values


def _squared_residuals(a: Array, b: Array, map_from_camera: Array) -> Array:
    difference = b - a @ map_from_camera[:3, :3].T - map_from_camera[:3, 3]
    return np.asarray(np.einsum("ij,ij->i", difference, difference))


def _weighted_median(values: Array, weights: Array) -> float:
    order = np.argsort(values)
    cumulative = np.cumsum(weights[order])
    return float(values[order[np.searchsorted(cumulative, 0.5 * cumulative[-1])]])


def _estimate(
    a: Array,
    b: Array,
    given: Array,
    weights: Array,
    map_from_camera: Array,
    singular_values: Array,
    options: AlignmentOptions,
) -> PoseEstimate:
    squared = _squared_residuals(a, b, map_from_camera)
    residuals = np.sqrt(squared)
    inliers = float(given[residuals <= options.inlier_threshold].sum() / given.sum())
    rotated = a @ map_from_camera[:3, :3].T
    return PoseEstimate(
        map_from_camera=map_from_camera,
        residuals=residuals,
        weights=weights,
        inlier_ratio=inliers,
        effective_points=float(weights.sum() ** 2 / (weights @ weights)),
        singular_values=singular_values,
        covariance=_covariance(rotated, squared, weights),
    )


def _covariance(rotated: Array, squared_residuals: Array, weights: Array) -> Array:
    """Covariance of (t, theta) for t + dt, exp([dtheta]x) R about the map's axes, (6, 6).

    The residual b - R a - t has the Jacobian [-I, [q]x] with q = R a, so the information matrix is
    sum w [[I, -[q]x], [[q]x, |q|^2 I - q q^T]], and the variance per axis is sum w r^2 / (3 sum w).
    """
    total = weights.sum()
    variance = float(weights @ squared_residuals) / (3.0 * total)
    # Effective weights, so that scaling all weights by one factor changes nothing.
    effective = weights * (total / float(weights @ weights))
    qx, qy, qz = effective @ rotated
    moment = (rotated * effective[:, None]).T @ rotated
    cross = np.array([[0.0, -qz, qy], [qz, 0.0, -qx], [-qy, qx, 0.0]])
    information = np.empty((6, 6))
    information[:3, :3] = effective.sum() * np.eye(3)
    information[:3, 3:] = -cross
    information[3:, :3] = cross
    information[3:, 3:] = np.trace(moment) * np.eye(3) - moment
    covariance = variance * np.linalg.inv(information)
    return np.asarray(0.5 * (covariance + covariance.T))
