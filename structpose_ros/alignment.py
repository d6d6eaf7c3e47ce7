"""Weighted rigid alignment of camera points to map points: the pose solve (paper §3.3).

Closed form and a fixed number of rounds: the same work on every frame, nothing is sampled. Where the model
asks for it, points that fit together are looked for first (see `consensus`), and rounds of Gauss-Newton on
the reprojection error follow (see `refinement`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from enum import Enum
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from structpose_ros import compiled
from structpose_ros.compiled import weighted_median
from structpose_ros.consensus import consensus
from structpose_ros.geometry import skew, transform
from structpose_ros.kabsch import kabsch
from structpose_ros.refinement import Refined, refine

Array = npt.NDArray[np.float64]
_LARGEST = 1e9  # that an option may be: its square and sums with it stay finite
_LARGEST_SQUARES = 1e200  # m^2, of all points of a set: sums of their products would overflow
_ROUNDING = 1e-14  # of the product of both point sets' norms: a smaller cross-covariance is rounding


class AlignmentFailure(Enum):
    """Why no pose could be solved for."""

    NON_FINITE = "non_finite"
    ZERO_WEIGHTS = "zero_weights"
    TOO_FEW_POINTS = "too_few_points"
    COLLINEAR = "collinear"


_FAILURES = tuple(AlignmentFailure)


@dataclass(frozen=True)
class AlignmentOptions:
    """How to solve.

    consensus_starts: poses that are tried of points that fit together, before the solve; 0 leaves it out. For
        points of which most are wrong; robust rounds, whose scale is a median, are of no use after it.
    robust_rounds: rounds of Geman-McClure reweighting after the plain solve; 0 is the paper's own solve.
    robust_scale: its scale in units of the weighted median residual of the round before.
    robust_floor: smallest scale, metres, so that exact data does not starve itself of weight.
    inlier_threshold: residual in metres up to which a point counts as an inlier.
    min_effective_points: fewest effective points, (sum w)^2 / sum w^2, that make a pose.
    min_spread: smallest ratio of the second to the first singular value of the cross-covariance; below it the
        points lie on a line and the rotation about it is unknown. A plane (third value 0) is fine.
    refine_rounds: rounds of Gauss-Newton on the reprojection error after that; 0 leaves it out.
    refine_from, refine_to: their Geman-McClure scale in the first and the last round, as a distance in the
        image at z = 1 (0.01 is 5 pixels at a focal length of 500).
    """

    consensus_starts: int = 0
    robust_rounds: int = 5
    robust_scale: float = 1.0
    robust_floor: float = 0.01
    inlier_threshold: float = 0.10
    min_effective_points: float = 6.0
    min_spread: float = 1e-6
    refine_rounds: int = 0
    refine_from: float = 0.25
    refine_to: float = 0.012

    def __post_init__(self) -> None:
        for name in ("consensus_starts", "robust_rounds", "refine_rounds"):
            if not 0 <= getattr(self, name) <= 100:
                raise ValueError(f"{name}: expected 0 .. 100, got {getattr(self, name)}")
        for name in (
            *("robust_scale", "robust_floor", "inlier_threshold", "min_spread"),
            *("refine_from", "refine_to"),
        ):
            if not 0 < getattr(self, name) <= _LARGEST:
                raise ValueError(
                    f"{name}: expected a value above 0, up to {_LARGEST:g}, got {getattr(self, name)}"
                )
        if not 3 <= self.min_effective_points <= _LARGEST:
            raise ValueError(
                f"min_effective_points: expected at least 3, up to {_LARGEST:g}, "
                f"got {self.min_effective_points}"
            )


@dataclass(frozen=True)
class PoseEstimate:
    """A solved pose and the facts to judge it by.

    map_from_camera: (4, 4) float64, camera optical frame to map.
    residuals: (N,) metres, |p_map - (R p_camera + t)|, for every point given; after a refinement, which makes
        no use of the camera points' depth, the distance of p_map from the point's ray.
    weights: (N,) the weights that the last solve used (given weights times robust weights).
    inlier_ratio: share of the given weight on residuals within `inlier_threshold`, 0 .. 1.
    effective_points: (sum w)^2 / sum w^2 of `weights`.
    singular_values: (3,) m^2, of the weighted cross-covariance divided by sum w, in the closed-form solve.
    covariance: (6, 6) x y z rx ry rz; translation in metres and rotation in radians about the map's axes
        (the convention of geometry_msgs/PoseWithCovariance). Residuals are taken as independent and
        isotropic; the model's calibration scales it for what they really are. Exact data gives zero.
    """

    map_from_camera: Array
    residuals: Array
    weights: Array
    inlier_ratio: float
    effective_points: float
    singular_values: Array
    covariance: Array


class Attempt(NamedTuple):
    """A solve that may have failed, worked out to the end.

    A frame takes as long whatever the camera sees: a failure is noted, and what follows is done all the same.
    Only what is not finite, or beyond all measure, ends early.
    estimate: of a failed solve its numbers mean nothing; None where there was nothing to go on with.
    """

    failure: AlignmentFailure | None
    estimate: PoseEstimate | None

    @property
    def outcome(self) -> PoseEstimate | AlignmentFailure:
        """What the solve is worth."""
        if self.failure is not None:
            return self.failure
        assert self.estimate is not None, "an attempt without failure has an estimate"
        return self.estimate


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
        weights: w, (N,); their common scale is irrelevant. A point of weight 0 counts for nothing, whatever
            its coordinates. A negative or non-finite weight, or a weighted non-finite point, is NON_FINITE.
        options: see `AlignmentOptions`.

    Returns:
        The estimate, or the failure's name. Never a fallback pose.

    Raises:
        ValueError: the shapes don't match.
    """
    return attempt(points_in_camera, points_in_map, weights, options).outcome


def attempt(
    points_in_camera: npt.NDArray[np.floating],
    points_in_map: npt.NDArray[np.floating],
    weights: npt.NDArray[np.floating],
    options: AlignmentOptions | None = None,
) -> Attempt:
    """Do what `align` does, for those who go on with a failure as well."""
    options = options or AlignmentOptions()
    a = np.asarray(points_in_camera, dtype=np.float64, order="C")
    b = np.asarray(points_in_map, dtype=np.float64, order="C")
    given = np.asarray(weights, dtype=np.float64, order="C")
    if a.ndim != 2 or a.shape[1] != 3 or a.shape != b.shape or given.shape != a.shape[:1]:
        raise ValueError(
            f"expected points (N, 3), (N, 3) and weights (N,), got {a.shape}, {b.shape}, {given.shape}"
        )
    if compiled.LIBRARY is None:
        return _attempt(a, b, given, options)
    number, facts = compiled.align(compiled.LIBRARY, a, b, given, vars(options))
    failure = _FAILURES[number - 1] if number else None
    return Attempt(failure, None if facts is None else PoseEstimate(**facts))


def _attempt(a: Array, b: Array, given: Array, options: AlignmentOptions) -> Attempt:
    """Do what the compiled solve does, which is in `native/alignment.cpp` and tested against this."""
    if not np.isfinite(given).all() or (given < 0).any():
        return Attempt(AlignmentFailure.NON_FINITE, None)
    if not len(given):
        return Attempt(AlignmentFailure.ZERO_WEIGHTS, None)
    used = given > 0
    failure = None if used.any() else AlignmentFailure.ZERO_WEIGHTS
    if failure is None and not used.all():  # what has no weight must not reach a sum: 0 * inf is NaN
        a, b = np.where(used[:, None], a, 0.0), np.where(used[:, None], b, 0.0)
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        return Attempt(failure or AlignmentFailure.NON_FINITE, None)
    a, b = np.ascontiguousarray(a.T), np.ascontiguousarray(b.T)  # long rows: twice as fast below
    # From here on a failure is noted and the work goes on.
    if failure is not None:
        given = np.ones_like(given)
    # Of weights around 1 no sum of squares overflows or vanishes; by powers of two nothing is rounded.
    exponent = math.frexp(float(given.max()))[1]
    given = np.ldexp(given, -exponent)

    squares = _dot(a.ravel(), a.ravel()), _dot(b.ravel(), b.ravel())
    if not max(squares) < _LARGEST_SQUARES:
        return Attempt(failure or AlignmentFailure.COLLINEAR, None)
    rounding = _ROUNDING * math.sqrt(squares[0]) * math.sqrt(squares[1])
    current = given
    if options.consensus_starts > 0:
        current = consensus(a, b, given, options.consensus_starts)
    solved = _solve(a, b, current, rounding, options)
    for _ in range(options.robust_rounds):
        failure = failure or solved.failure
        squared = _squared_residuals(a, b, solved)
        scale = options.robust_scale**2 * weighted_median(squared, given) + options.robust_floor**2
        current = given * (scale / (scale + squared)) ** 2
        solved = _solve(a, b, current, rounding, options)
    failure = failure or solved.failure
    try:
        if options.refine_rounds > 0:
            failure, estimate = _refined(a, b, given, solved, failure, options)
        else:
            failure, estimate = _closed_form(a, b, given, current, solved, failure, options)
    except np.linalg.LinAlgError:  # there is no covariance
        return Attempt(failure or AlignmentFailure.COLLINEAR, None)
    return Attempt(failure, replace(estimate, weights=np.ldexp(estimate.weights, exponent)))


def _closed_form(
    a: Array,
    b: Array,
    given: Array,
    current: Array,
    solved: _Solved,
    failure: AlignmentFailure | None,
    options: AlignmentOptions,
) -> tuple[AlignmentFailure | None, PoseEstimate]:
    """Return what the last solve with the weights `current` came to."""
    squared = _squared_residuals(a, b, solved)
    residuals = np.sqrt(squared)
    if failure is None:
        covariance = _covariance(solved, a, squared, given, current)
    else:  # as in `_refined`
        given = current = np.ones_like(given)
        covariance = _estimate_covariance(np.eye(6), np.zeros_like(squared), given, current, 3)
    estimate = PoseEstimate(
        map_from_camera=transform(solved.rotation, solved.translation),
        residuals=residuals,
        weights=current,
        inlier_ratio=float(given[residuals <= options.inlier_threshold].sum() / given.sum()),
        effective_points=solved.effective_points,
        singular_values=solved.singular_values,
        covariance=covariance,
    )
    return failure, estimate


def _refined(
    a: Array,
    b: Array,
    given: Array,
    solved: _Solved,
    failure: AlignmentFailure | None,
    options: AlignmentOptions,
) -> tuple[AlignmentFailure | None, PoseEstimate]:
    """Refine a solved pose on the rays of the camera points (3, N); a point without depth has no ray."""
    ahead = a[2] > 0
    if not ahead.all():
        given = np.where(ahead, given, 0.0)
    image_points = a[:2] / np.where(ahead, a[2], 1.0)
    refined = refine(
        *(solved.rotation, solved.translation, image_points, b, given),
        *(options.refine_rounds, options.refine_from, options.refine_to),
    )
    if not refined.determined:
        failure = failure or AlignmentFailure.COLLINEAR
    effective_points = _effective_points(refined.weights)  # 0 if the last step has left all points behind
    if effective_points < options.min_effective_points * (1.0 - 1e-9):
        failure = failure or AlignmentFailure.TOO_FEW_POINTS
    if failure is not None:  # on with what no division and no inverse can fail on
        given = np.ones_like(given)
        refined = refined._replace(
            weights=given, normal_matrix=np.eye(6), squared_errors=np.zeros_like(given)
        )
    inliers = refined.distances <= options.inlier_threshold
    estimate = PoseEstimate(
        map_from_camera=transform(refined.rotation, refined.translation),
        residuals=refined.distances,
        weights=refined.weights,
        inlier_ratio=float(given[inliers].sum() / given.sum()),
        effective_points=effective_points,
        singular_values=solved.singular_values,
        covariance=_covariance_of_refined(refined, given),
    )
    return failure, estimate


def _dot(a: Array, b: Array) -> float:
    """Return the sum of products of rows (N,).

    Not by BLAS: of long rows it wakes threads, which takes milliseconds where another core is busy.
    """
    return float(np.einsum("n,n->", a, b))


def _effective_points(weights: Array) -> float:
    """Return (sum w)^2 / sum w^2; 0 where the weights are so small that their squares are none."""
    squares, total = _dot(weights, weights), float(weights.sum())
    return total * total / squares if squares > 0 else 0.0


class _Solved(NamedTuple):
    """A closed-form solve; what it says is of no use where there is a `failure`."""

    rotation: Array
    translation: Array
    singular_values: Array
    effective_points: float
    failure: AlignmentFailure | None


def _solve(a: Array, b: Array, weights: Array, rounding: float, options: AlignmentOptions) -> _Solved:
    """One weighted Kabsch solve of points (3, N); `rounding` is what the cross-covariance must exceed."""
    failure = None
    if weights.sum() <= 0:
        failure = AlignmentFailure.ZERO_WEIGHTS
        weights = np.ones_like(weights)
    effective_points = _effective_points(weights)
    if effective_points < options.min_effective_points * (1.0 - 1e-9):  # equal weights may round below N
        failure = failure or AlignmentFailure.TOO_FEW_POINTS
    rigid = kabsch(a, b, weights)
    largest, second, _ = rigid.singular_values.tolist()
    if second <= options.min_spread * largest or largest <= rounding:
        failure = failure or AlignmentFailure.COLLINEAR
    return _Solved(*rigid, effective_points, failure)


def _squared_residuals(a: Array, b: Array, solved: _Solved) -> Array:
    difference = b - solved.rotation @ a - solved.translation[:, None]
    return np.asarray(np.einsum("ij,ij->j", difference, difference))


def _covariance(solved: _Solved, a: Array, squared_residuals: Array, given: Array, weights: Array) -> Array:
    """Covariance (6, 6) of (t, theta) for t + dt, exp([dtheta]x) R about the map's axes.

    The residual b - R a - t has the Jacobian J = [-I, [q]x] with q = R a.
    """
    q = solved.rotation @ a
    moment = np.einsum("in,jn->ij", q * weights, q)
    information = float(weights.sum()) * np.eye(6)
    information[3:, :3] = skew(np.einsum("in,n->i", q, weights))
    information[:3, 3:] = information[3:, :3].T
    information[3:, 3:] = np.trace(moment) * np.eye(3) - moment
    return _estimate_covariance(information, squared_residuals, given, weights, 3)


def _covariance_of_refined(refined: Refined, given: Array) -> Array:
    """Covariance (6, 6) as in `_covariance`, from the normal equations of the reprojection error."""
    squared = np.where(refined.weights > 0, refined.squared_errors, 0.0)
    return _estimate_covariance(refined.normal_matrix, squared, given, refined.weights, 2)


def _estimate_covariance(
    information: Array, squared_residuals: Array, given: Array, weights: Array, dimensions: int
) -> Array:
    """Covariance (6, 6) of an M-estimate (Huber 1981, ch. 6) with `information` = sum w J'J.

    For residuals of so many `dimensions` that are independent, isotropic and not tied to the place of their
    point it is v inv(sum w J'J / sum w), v = sum (w r)^2 / dimensions / (sum s)^2. There s is the mean
    derivative of the influence w r: the weight itself in a plain solve; with Geman-McClure w (4 g - 1) / 3,
    g the root of its factor. v is scaled up for the 6 degrees of freedom that the solve took.

    Raises:
        numpy.linalg.LinAlgError: there is none, or not in finite numbers.
    """
    total = float(weights.sum())
    robust = np.sqrt(weights / np.where(given > 0, given, 1.0))
    slope = _dot(weights, 4.0 * robust - 1.0) / 3.0
    slope = max(slope, 0.1 * total)  # a robust scale far below the residuals leaves no curvature to rely on
    effective_points = _effective_points(weights)
    freedom = effective_points / max(effective_points - 6.0 / dimensions, 1.0)
    variance = _dot(weights**2, squared_residuals) / dimensions / slope**2 * freedom * total
    covariance = variance * np.linalg.inv(information)
    if not np.isfinite(covariance).all():
        raise np.linalg.LinAlgError("beyond all measure")
    return np.asarray(0.5 * (covariance + covariance.T))
