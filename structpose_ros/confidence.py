"""How sure is a pose? The probability that it is right, from facts of its solve.

A logistic regression whose coefficients training fits on held-out frames and the model file carries.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from structpose_ros.alignment import PoseEstimate
from structpose_ros.compiled import weighted_summary

Array = npt.NDArray[np.float64]

FEATURES = (
    "log_effective_points",
    "inlier_ratio",
    "log_median_residual",
    "log_residual_tail",
    "log_total_weight",
    "log_first_singular_value",
    "log_third_singular_value",
    "log_position_deviation",
    "log_rotation_deviation",
    "log_outside_map",
)
_LEAST, _MOST = 1e-9, 1e9  # whose logarithms bound what a feature can be
_REACH = 6.0  # standard deviations beyond which a feature says no more
_LARGEST = 1e6  # coefficient, far beyond what a fit gives: sums of such stay finite


@dataclass(frozen=True)
class ConfidenceModel:
    """Logistic regression on standardised features: P(pose within 10 cm and 5 degrees).

    names: of the features, those that this release computes. mean, scale: of each, over the frames fitted on.
    coefficients: of the standardised features; intercept: log odds at their means.
    threshold: the probability from which a pose is accepted unless the user asks for another.
    """

    names: tuple[str, ...]
    mean: tuple[float, ...]
    scale: tuple[float, ...]
    coefficients: tuple[float, ...]
    intercept: float
    threshold: float

    def __post_init__(self) -> None:
        if self.names != FEATURES:
            raise ValueError(f"expected the features {', '.join(FEATURES)}, got {', '.join(self.names)}")
        for name in ("mean", "scale", "coefficients"):
            values = getattr(self, name)
            if len(values) != len(FEATURES) or not all(map(math.isfinite, values)):
                raise ValueError(f"{name}: expected {len(FEATURES)} finite numbers, got {list(values)}")
        if not all(value > 0 for value in self.scale):
            raise ValueError(f"scale: expected numbers above 0, got {list(self.scale)}")
        if not all(abs(value) <= _LARGEST for value in (*self.coefficients, self.intercept)):
            got = [*self.coefficients, self.intercept]
            raise ValueError(f"expected coefficients and an intercept within +-{_LARGEST:g}, got {got}")
        if not 0 <= self.threshold <= 1:
            raise ValueError(f"threshold: expected 0 .. 1, got {self.threshold}")

    def probability(self, features: Array) -> float:
        """Return the probability, 0 .. 1, that the pose with these `features` (F,) is right."""
        log_odds = self.intercept
        rows = zip(features.tolist(), self.mean, self.scale, self.coefficients, strict=True)
        for feature, mean, scale, coefficient in rows:  # of ten numbers NumPy takes ten times as long
            log_odds += coefficient * min(max((feature - mean) / scale, -_REACH), _REACH)
        return 0.5 * (1.0 + math.tanh(0.5 * log_odds))

    def probabilities(self, features: Array) -> Array:
        """Return the `probability` (...) of each of `features` (..., F)."""
        log_odds = standardized(features, self.mean, self.scale) @ np.asarray(self.coefficients)
        return logistic(log_odds + self.intercept)


def features(estimate: PoseEstimate, map_position_outside_m: float) -> Array:
    """Return the features (F,) of a pose, as `FEATURES` names them: finite, whatever the estimate holds.

    map_position_outside_m: how far the camera stands outside the box around the map's points; 0 inside.

    Quantities that span magnitudes enter as logarithms. The tail is the root mean square of the residuals
    over their median, both weighted. The total weight tells how well an image matches the map where weights
    are absolute, and is a constant of little use where they are relative. What is NaN counts as the worst.
    """
    # Numbers of Python: of so few NumPy takes ten times as long. The bounds take what overflows, and NaN.
    total, median, root_mean_square = weighted_summary(estimate.residuals, estimate.weights)
    singular_values = estimate.singular_values.tolist()
    variances = estimate.covariance.diagonal().tolist()
    position, rotation = _root(sum(variances[:3])), _root(sum(variances[3:]))
    return np.array(
        [
            _log(estimate.effective_points, worst=_LEAST),
            _bounded(estimate.inlier_ratio, worst=0.0, least=0.0, most=1.0),
            _log(median, worst=_MOST),
            _log(root_mean_square, worst=_MOST) - _log(median, worst=_LEAST),
            _log(total, worst=_LEAST),
            _log(singular_values[0], worst=_LEAST),
            _log(singular_values[2], worst=_LEAST),
            _log(position, worst=_MOST),
            _log(rotation, worst=_MOST),
            math.log1p(_bounded(map_position_outside_m, worst=_MOST, least=0.0)),
        ]
    )


def standardized(features: Array, mean: npt.ArrayLike, scale: npt.ArrayLike) -> Array:
    """Return (features - mean) / scale, bounded: what was never seen must not decide alone.

    features (..., F); mean, scale (F,).
    """
    with np.errstate(over="ignore"):
        return np.clip((features - np.asarray(mean)) / np.asarray(scale), -_REACH, _REACH)


def logistic(log_odds: Array) -> Array:
    """Return the probabilities 0 .. 1 of log odds of any size."""
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * log_odds)))


def _root(value: float) -> float:
    return math.sqrt(value) if value >= 0 else math.nan


def _log(value: float, worst: float) -> float:
    return math.log(_bounded(value, worst))


def _bounded(value: float, worst: float, least: float = _LEAST, most: float = _MOST) -> float:
    return worst if math.isnan(value) else min(max(value, least), most)
