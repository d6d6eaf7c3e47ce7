"""Fit the confidence of poses on frames that were held out, and measure how well it is calibrated."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from structpose_ros.confidence import FEATURES, ConfidenceModel, logistic, standardized

Array = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

MOST_GROSS = 0.01  # of the accepted frames
MOST_FOREIGN = 0.0025  # of the foreign frames
LEAST_GOOD = 0.95  # of the good frames: what the two bounds above may cost
FOREIGN_SHARE = 0.25  # of the map's frames' weight in the fit, at most, have all foreign ones together
_PENALTIES = (1000.0, 100.0, 10.0, 1.0, 0.1)
_FOLDS = 5
_ROUNDS = 50  # of Newton's method, which takes under ten


def fit_confidence(
    features: npt.ArrayLike,
    good: npt.ArrayLike,
    gross: npt.ArrayLike,
    foreign: npt.ArrayLike | None = None,
    groups: npt.ArrayLike | None = None,
) -> ConfidenceModel:
    """Fit P(good) by logistic regression with an L2 penalty, and choose the threshold of acceptance.

    The penalty is the strongest of `_PENALTIES` whose log loss on groups left out is within a standard error
    of the least, and the threshold is chosen on probabilities from fits that have not seen the frame's group.
    Labels are smoothed as in Platt, "Probabilistic outputs for support vector machines", 1999: as if one more
    frame of each kind had been seen. So nothing diverges where the features separate good from bad, and where
    all frames are good, or all bad, the probability is (N + 1) / (N + 2), or 1 / (N + 2), for any features.
    The same frames give the same model.

    Args:
        features: (N, F) of solved poses; frames that gave none don't take part.
        good: (N,) within 10 cm and 5 degrees.
        gross: (N,) off by more than 25 cm or 10 degrees; what it says of foreign frames is not read.
        foreign: (N,) no view of the map at all. Weighed down in the fit, so that their number does not change
            the probabilities of frames of the map.
        groups: (N,) numbers of what must be left out together, such as the sequence of the frame; five runs
            of successive frames if not given, of the map and of what is foreign each.

    Raises:
        ValueError: no frame, or arrays that don't fit one another, or features that are not finite.
    """
    rows = _rows(features, good, gross, foreign, groups)
    penalty = _best_penalty(rows)
    mean, scale, coefficients, intercept = _fit(rows, penalty)
    threshold = choose_threshold(_held_out(rows, penalty), rows.good, rows.gross, rows.foreign)
    return ConfidenceModel(
        names=FEATURES,
        mean=tuple(mean.tolist()),
        scale=tuple(scale.tolist()),
        coefficients=tuple(coefficients.tolist()),
        intercept=intercept,
        threshold=threshold,
    )


def held_out_probabilities(
    features: npt.ArrayLike,
    good: npt.ArrayLike,
    foreign: npt.ArrayLike | None = None,
    groups: npt.ArrayLike | None = None,
) -> Array:
    """Return P(good) (N,) of each frame by a fit without the frame's group; arguments of `fit_confidence`.

    What `reliability` should be asked of: the frames that a model was fitted on flatter it.
    """
    rows = _rows(features, good, None, foreign, groups)
    return _held_out(rows, _best_penalty(rows))


def choose_threshold(
    probability: npt.ArrayLike, good: npt.ArrayLike, gross: npt.ArrayLike, foreign: npt.ArrayLike
) -> float:
    """Return the smallest threshold that keeps gross errors and foreign frames out, within reason.

    A frame is accepted if its `probability` (N,) is at least the threshold. At most 1 % of the accepted
    frames of the map may be `gross`, and at most 0.25 % of the `foreign` frames accepted. But 95 % of the
    `good` frames stay accepted, come what may: a confidence that can't tell frames apart must not refuse all.

    Thresholds lie midway between neighbouring probabilities: of those that accept the same frames, the one
    that is furthest from changing its mind.
    """
    p, is_foreign = np.asarray(probability, dtype=np.float64), np.asarray(foreign, dtype=bool)
    is_good, is_gross = np.asarray(good, dtype=bool), np.asarray(gross, dtype=bool) & ~is_foreign
    values = np.unique(p)
    thresholds = np.concatenate([[0.0], 0.5 * (values[:-1] + values[1:]), 0.5 * (values[-1:] + 1.0)])

    def accepted(of: Flags) -> npt.NDArray[np.intp]:
        return of.sum() - np.searchsorted(np.sort(p[of]), thresholds)

    safe = accepted(is_gross) <= MOST_GROSS * accepted(~is_foreign)
    safe &= accepted(is_foreign) <= MOST_FOREIGN * is_foreign.sum()
    useful = accepted(is_good) >= LEAST_GOOD * is_good.sum()
    highest = thresholds[useful].max()
    return float(min(thresholds[safe].min(initial=1.0), highest))


class ReliabilityBin(NamedTuple):
    """Frames of similar confidence: how many, the mean of their probabilities, and the share that is good."""

    low: float
    high: float
    frames: int
    probability: float
    good: float


def reliability(probability: npt.ArrayLike, good: npt.ArrayLike, bins: int = 10) -> list[ReliabilityBin]:
    """Return the bins, of equal width over 0 .. 1, that have frames: calibrated is where the last two agree.

    probability, good: (N,). A probability on the border of two bins belongs to the upper one.
    """
    p, is_good = np.asarray(probability, dtype=np.float64), np.asarray(good, dtype=bool)
    edges = np.linspace(0.0, 1.0, bins + 1)
    which = np.minimum(np.searchsorted(edges, p, side="right") - 1, bins - 1)
    table = []
    for number in np.unique(which):
        inside = which == number
        low, high = edges[number : number + 2].tolist()
        mean, share = float(p[inside].mean()), float(is_good[inside].mean())
        table.append(ReliabilityBin(low, high, int(inside.sum()), mean, share))
    return table


def calibration_error(table: Sequence[ReliabilityBin]) -> float:
    """Return the mean of |probability - good| over the frames of a reliability table; 0 without frames."""
    frames = sum(row.frames for row in table)
    return sum(row.frames * abs(row.probability - row.good) for row in table) / max(frames, 1)


class _Rows(NamedTuple):
    """Checked frames: see `fit_confidence`. weights (N,) in the fit; folds (N,) numbers of the groups."""

    features: Array
    good: Flags
    gross: Flags
    foreign: Flags
    folds: npt.NDArray[np.intp]
    weights: Array

    def only(self, chosen: Flags) -> _Rows:
        return self._replace(**{name: column[chosen] for name, column in self._asdict().items()})


def _rows(
    features: npt.ArrayLike,
    good: npt.ArrayLike,
    gross: npt.ArrayLike | None,
    foreign: npt.ArrayLike | None,
    groups: npt.ArrayLike | None,
) -> _Rows:
    x = np.asarray(features, dtype=np.float64)
    if x.ndim != 2 or x.shape[0] == 0 or x.shape[1] != len(FEATURES):
        raise ValueError(f"expected features (N, {len(FEATURES)}) of at least one frame, got {x.shape}")
    if not np.isfinite(x).all():
        raise ValueError(f"expected finite features, got {int((~np.isfinite(x)).sum())} others")
    count = len(x)
    none = np.zeros(count, dtype=bool)
    is_good = np.asarray(good, dtype=bool)
    is_gross = none if gross is None else np.asarray(gross, dtype=bool)
    is_foreign = none if foreign is None else np.asarray(foreign, dtype=bool)
    folds = np.zeros(count, dtype=np.intp) if groups is None else np.asarray(groups)
    for name, column in (("good", is_good), ("gross", is_gross), ("foreign", is_foreign), ("groups", folds)):
        if column.shape != (count,):
            raise ValueError(f"{name}: expected one value for each of {count} frames, got {column.shape}")
    if (is_good & (is_gross | is_foreign)).any():
        wrong = int((is_good & (is_gross | is_foreign)).sum())
        raise ValueError(f"expected no good frame to be gross or foreign, got {wrong} that are")
    if groups is None:
        for kind in (is_foreign, ~is_foreign):
            folds[kind] = np.arange(kind.sum()) * _FOLDS // max(int(kind.sum()), 1)
    mapped = count - int(is_foreign.sum())
    share = min(1.0, FOREIGN_SHARE * mapped / max(count - mapped, 1)) if mapped else 1.0
    return _Rows(x, is_good, is_gross & ~is_foreign, is_foreign, folds, np.where(is_foreign, share, 1.0))


def _best_penalty(rows: _Rows) -> float:
    """Return the strongest penalty that is no worse than the best on groups left out, by one standard error.

    The rule of Breiman, Friedman, Olshen and Stone, "Classification and Regression Trees", 1984. What a robot
    sees is further from the recording than its own groups are from each other: a weak penalty leans on the
    feature that happens to separate these, a strong one on all that do.
    """
    losses = {}
    for penalty in _PENALTIES:
        p = np.clip(_held_out(rows, penalty), 1e-9, 1.0 - 1e-9)
        losses[penalty] = -rows.weights * np.log(np.where(rows.good, p, 1.0 - p))
    best = min(losses.values(), key=lambda loss: float(loss.sum()))
    bound = float(best.sum()) + float(best.std()) * len(best) ** 0.5
    return next(penalty for penalty, loss in losses.items() if float(loss.sum()) <= bound)


def _held_out(rows: _Rows, penalty: float) -> Array:
    """Probabilities (N,) by fits without the frame's group; with a single group there is only itself."""
    probabilities = np.empty(len(rows.good))
    groups = np.unique(rows.folds)
    for group in groups:
        left_out = rows.folds == group
        seen = rows.only(~left_out) if len(groups) > 1 else rows
        mean, scale, coefficients, intercept = _fit(seen, penalty)
        x = standardized(rows.features[left_out], mean, scale)
        probabilities[left_out] = logistic(x @ coefficients + intercept)
    return probabilities


def _fit(rows: _Rows, penalty: float) -> tuple[Array, Array, Array, float]:
    """Mean and scale (F,) of the features, coefficients (F,) and intercept of least penalised log loss.

    Newton's method, halving steps that don't lower the loss; the intercept is not penalised.
    """
    weights = rows.weights
    mean = np.average(rows.features, axis=0, weights=weights)
    scale = np.sqrt(np.average((rows.features - mean) ** 2, axis=0, weights=weights))
    scale = np.where(scale > 1e-6 * (1.0 + np.abs(mean)), scale, 1.0)  # a constant's spread is rounding
    count_good = float(weights[rows.good].sum())
    count_bad = float(weights.sum()) - count_good
    target = np.where(rows.good, (count_good + 1.0) / (count_good + 2.0), 1.0 / (count_bad + 2.0))

    x = np.column_stack([standardized(rows.features, mean, scale), np.ones(len(target))])
    ridge = np.append(np.full(len(mean), penalty), 0.0)

    def loss(theta: Array) -> float:
        z = x @ theta
        return float(weights @ (np.logaddexp(0.0, z) - target * z) + 0.5 * ridge @ theta**2)

    share = float(np.average(target, weights=weights))
    theta = np.append(np.zeros(len(mean)), np.log(share / (1.0 - share)))
    for _ in range(_ROUNDS):
        p = logistic(x @ theta)
        gradient = x.T @ (weights * (p - target)) + ridge * theta
        hessian = (x.T * (weights * p * (1.0 - p))) @ x + np.diag(ridge)
        step = np.linalg.solve(hessian, gradient)
        before = loss(theta)
        tried = (theta - 0.5**halvings * step for halvings in range(30))
        better = next((candidate for candidate in tried if loss(candidate) < before), None)
        if better is None:  # as low as floating point goes
            break
        theta = better
    return mean, scale, theta[:-1], float(theta[-1])
