"""Is the estimate good enough to publish? Accepted with a confidence, or rejected with a named reason."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum

import numpy as np
import numpy.typing as npt

from structpose_ros.alignment import AlignmentFailure, Attempt, PoseEstimate, weighted_median
from structpose_ros.confidence import features
from structpose_ros.contract import ModelContract
from structpose_ros.geometry import rotation_vector


class RejectReason(Enum):
    """Why a frame gave no pose. The values stand in diagnostics and reports.

    The first group is refused before any pose is tried, the second by `align`, the third by `judge`, the last
    by what the node knows besides: earlier poses, a trigger's prior.
    """

    BAD_IMAGE = "bad_image"
    NO_CAMERA_INFO = "no_camera_info"
    BAD_CAMERA_INFO = "bad_camera_info"
    SIZE_MISMATCH = "size_mismatch"
    BAD_FRAME_ID = "bad_frame_id"
    BAD_STAMP = "bad_stamp"
    OUT_OF_ORDER = "out_of_order"
    TOO_OLD = "too_old"
    FROM_FUTURE = "from_future"

    NON_FINITE = "non_finite"
    ZERO_WEIGHTS = "zero_weights"
    TOO_FEW_POINTS = "too_few_points"
    COLLINEAR = "collinear"

    LOW_INLIER_RATIO = "low_inlier_ratio"
    HIGH_RESIDUAL = "high_residual"
    LOW_CONFIDENCE = "low_confidence"
    OUTSIDE_MAP = "outside_map"

    UNCONFIRMED = "unconfirmed"
    PRIOR_MISMATCH = "prior_mismatch"
    NO_BASE_TRANSFORM = "no_base_transform"
    INTERNAL_ERROR = "internal_error"


@dataclass(frozen=True)
class GateOptions:
    """Bounds that an estimate must keep.

    min_confidence: 0 .. 1, least probability of an error within 10 cm and 5 degrees; 0 takes the model file's
        own bound. Where the model file has no calibrated confidence the next two decide in its place.
    min_inlier_ratio: 0 .. 1, share of the points within the alignment's inlier threshold.
    max_residual: metres, weighted median residual.
    map_margin: metres that the camera may stand outside the box around the map's points.
    """

    min_confidence: float = 0.0
    min_inlier_ratio: float = 0.25
    max_residual: float = 0.25
    map_margin: float = 1.0

    def __post_init__(self) -> None:
        for name in ("min_confidence", "min_inlier_ratio"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}: expected 0 .. 1, got {getattr(self, name)}")
        if not self.max_residual > 0:
            raise ValueError(f"max_residual: expected metres above 0, got {self.max_residual}")
        if not self.map_margin >= 0:
            raise ValueError(f"map_margin: expected metres of at least 0, got {self.map_margin}")


@dataclass(frozen=True)
class Decision:
    """Accepted exactly when `reject_reason` is None; `confidence` is in 0 .. 1, and 0 when rejected."""

    reject_reason: RejectReason | None
    confidence: float
    detail: str = ""

    @property
    def accepted(self) -> bool:
        """Whether the pose may be published."""
        return self.reject_reason is None


def judge(attempt: Attempt, contract: ModelContract, options: GateOptions) -> Decision:
    """Judge what the alignment came to.

    The confidence is the calibrated probability of an error within 10 cm and 5 degrees, where the model file
    has what it takes; else the inlier ratio, which is ordered, but no probability.
    """
    outcome, probability = attempt.outcome, 0.0
    if contract.confidence is not None and attempt.estimate is not None:
        # Of a failed one as well, which nobody reads: a frame takes as long whatever the camera sees.
        outside = contract.metres_outside(attempt.estimate.map_from_camera[:3, 3])
        probability = contract.confidence.probability(features(attempt.estimate, outside))
    if isinstance(outcome, AlignmentFailure):
        return Decision(RejectReason(outcome.value), 0.0, f"alignment failed: {outcome.value}")
    if contract.confidence is not None:
        confidence = probability
        least = options.min_confidence or contract.confidence.threshold
        if confidence < least:
            detail = f"confidence {confidence:.3f}, expected at least {least:.3f}"
            return Decision(RejectReason.LOW_CONFIDENCE, 0.0, detail)
    else:
        confidence = outcome.inlier_ratio
        if confidence < options.min_inlier_ratio:
            detail = f"inlier ratio {confidence:.2f}, expected at least {options.min_inlier_ratio:.2f}"
            return Decision(RejectReason.LOW_INLIER_RATIO, 0.0, detail)
        residual = weighted_median_residual(outcome)
        if residual > options.max_residual:
            detail = f"median residual {residual:.3f} m, expected at most {options.max_residual:.3f} m"
            return Decision(RejectReason.HIGH_RESIDUAL, 0.0, detail)
    position = outcome.map_from_camera[:3, 3].tolist()
    low = [value - options.map_margin for value in contract.map_min]
    high = [value + options.map_margin for value in contract.map_max]
    if not all(least <= at <= most for least, at, most in zip(low, position, high, strict=True)):
        at = [round(value, 2) for value in position]
        detail = f"position {at} m, expected within {low} .. {high} m"
        return Decision(RejectReason.OUTSIDE_MAP, 0.0, detail)
    return Decision(None, confidence)


def weighted_median_residual(estimate: PoseEstimate) -> float:
    """Return the residual in metres that half of the final weight lies below."""
    return weighted_median(estimate.residuals, estimate.weights)


@dataclass(frozen=True)
class Prior:
    """What somebody believes of a pose: the estimate of the same frame must fit it.

    map_from_base: (4, 4). covariance: (6, 6) x y z rx ry rz about the map's axes. A component whose variance
    is 0 is not known (RViz leaves z, roll and pitch so) and is not compared.
    """

    map_from_base: npt.NDArray[np.float64]
    covariance: npt.NDArray[np.float64]


def prior_disagreement(
    prior: Prior,
    map_from_base: npt.NDArray[np.float64],
    covariance: npt.NDArray[np.float64],
    sigmas: float,
) -> str:
    """Return the component of the pose that is furthest from the prior, in words; empty where all fit.

    A component fits if it is within `sigmas` standard deviations of the difference, whose variance is that of
    the prior plus that of the estimate, `covariance` (6, 6).
    """
    turned = rotation_vector(map_from_base[:3, :3] @ prior.map_from_base[:3, :3].T)
    error = np.concatenate([map_from_base[:3, 3] - prior.map_from_base[:3, 3], turned])
    known = np.diag(prior.covariance) > 0
    bounds = sigmas * np.sqrt(np.diag(prior.covariance) + np.diag(covariance))
    ratios = np.where(known, np.abs(error) / np.where(known, bounds, 1.0), 0.0)
    worst = int(np.argmax(ratios))
    if ratios[worst] <= 1.0:
        return ""
    name = ("x", "y", "z", "rx", "ry", "rz")[worst]
    if worst < 3:
        return f"{name} is {error[worst]:.2f} m from the prior, expected at most {bounds[worst]:.2f} m"
    off, bound = math.degrees(error[worst]), math.degrees(bounds[worst])
    return f"{name} is {off:.0f} deg from the prior, expected at most {bound:.0f} deg"
