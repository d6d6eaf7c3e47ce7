"""Numbers that outcomes come to: errors, what the gate and the covariance are worth, risk and coverage."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from structpose_ros.training.frames import write_atomic
from structpose_ros.training.outcomes import Outcome

GOOD = (0.10, 5.0)  # metres, degrees: a pose up to this far off is right
WRONG = (0.25, 10.0)  # a pose further off than either must not be accepted
CHI2_95_6DOF = 12.5916


class RiskCoverage(NamedTuple):
    """Share of wrong frames among the most confident ones (`risk`), by what share these are (`coverage`).

    Both (N,), coverage 1/N, 2/N .. 1. `area`, the mean of risk over all coverages, is the AURC of Geifman,
    Uziel and El-Yaniv, "Bias-reduced uncertainty estimation for deep neural classifiers", ICLR 2019: 0 at
    best, and the share of all frames that are wrong where the confidence says nothing.
    """

    coverage: npt.NDArray[np.float64]
    risk: npt.NDArray[np.float64]

    @property
    def area(self) -> float:
        """Area under the curve, 0 .. 1."""
        return float(self.risk.mean())


def risk_coverage(confidence: npt.ArrayLike, wrong: npt.ArrayLike) -> RiskCoverage:
    """Return the curve of frames with `confidence` (N,), higher is surer, that are `wrong` (N,) or not.

    Frames of equal confidence count as if taken in every order: each as the share of them that is wrong.
    """
    _, group, counts = np.unique(-np.asarray(confidence, float), return_inverse=True, return_counts=True)
    share = np.bincount(group, np.asarray(wrong, float)) / counts
    taken = np.arange(1, len(group) + 1)
    return RiskCoverage(taken / len(group), np.cumsum(share[np.sort(group)]) / taken)


def risk_coverage_of(outcomes: Sequence[Outcome]) -> tuple[RiskCoverage, RiskCoverage]:
    """Return the curve of the frames' confidence, and that of an oracle that knows which frames are wrong.

    Wrong is what is beyond 10 cm or 5 degrees. A rejected frame has confidence 0 and so comes last.
    """
    wrong = ~within(outcomes, *GOOD)
    return risk_coverage([outcome.confidence for outcome in outcomes], wrong), risk_coverage(~wrong, wrong)


def summarize(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Return the metrics of `metrics.json`; a median over too many failures is None.

    false_accept: share of the accepted frames off by more than 25 cm or 10 degrees. true_accept: share of the
    frames within 10 cm and 5 degrees that are accepted. mean_nees (6 is right) and ellipsoid95_coverage (0.95
    is right): over accepted frames with a covariance. None where there is no such frame.
    """
    accepted = [outcome for outcome in outcomes if outcome.accepted]
    metrics: dict[str, Any] = {"frames": len(outcomes), "accepted": len(accepted)}
    metrics.update(_error_metrics(outcomes))
    metrics.update({f"accepted_{key}": value for key, value in _error_metrics(accepted).items()})
    good = within(outcomes, *GOOD)
    nees = np.array([outcome.nees for outcome in accepted if outcome.nees is not None])
    metrics["false_accept"] = _mean(~within(accepted, *WRONG))
    metrics["true_accept"] = _mean(np.array([outcome.accepted for outcome in outcomes], dtype=bool)[good])
    metrics["mean_nees"] = _mean(nees)
    metrics["ellipsoid95_coverage"] = _mean(nees <= CHI2_95_6DOF)
    metrics["latency_ms"] = percentiles([outcome.latency_ms for outcome in outcomes])
    rejected = [outcome.reject_reason for outcome in outcomes if not outcome.accepted]
    metrics["rejected"] = {reason: rejected.count(reason) for reason in sorted(set(rejected))}
    return metrics


def percentiles(milliseconds: Sequence[float]) -> dict[str, float | None]:
    """Return p50, p95 and p99."""
    if len(milliseconds) == 0:
        return {"p50": None, "p95": None, "p99": None}
    values = np.percentile(milliseconds, [50, 95, 99])
    return dict(zip(("p50", "p95", "p99"), values.tolist(), strict=True))


def write_metrics(path: Path, metrics: dict[str, Any]) -> None:
    """Write metrics as strict JSON (no NaN, no infinity)."""
    write_atomic(path, (json.dumps(metrics, indent=2, allow_nan=False) + "\n").encode())


def _error_metrics(outcomes: Sequence[Outcome]) -> dict[str, float | None]:
    position = np.array([outcome.position_m for outcome in outcomes])
    rotation = np.array([outcome.rotation_deg for outcome in outcomes])

    def statistic(
        function: Callable[[npt.NDArray[np.float64]], Any], values: npt.NDArray[np.float64]
    ) -> float | None:
        value = float(function(values)) if len(values) else math.inf
        return value if math.isfinite(value) else None

    return {
        "median_position_m": statistic(np.median, position),
        "median_rotation_deg": statistic(np.median, rotation),
        "mean_position_m": statistic(np.mean, position),
        "mean_rotation_deg": statistic(np.mean, rotation),
        "within_5cm_5deg": _mean(within(outcomes, 0.05, 5.0)),
        "within_10cm_5deg": _mean(within(outcomes, 0.10, 5.0)),
    }


def within(outcomes: Sequence[Outcome], metres: float, degrees: float) -> npt.NDArray[np.bool_]:
    """Return which of the outcomes (N,) are off by at most so much."""
    return np.array(
        [outcome.position_m <= metres and outcome.rotation_deg <= degrees for outcome in outcomes], dtype=bool
    )


def _mean(values: npt.NDArray[Any]) -> float | None:
    return float(np.mean(values)) if len(values) else None
