"""The closed-form weighted rigid alignment (paper eq. 2): Kabsch, kept a rotation as by Umeyama (1991)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


class Rigid(NamedTuple):
    """A solve: rotation (3, 3) and translation (3,), map from camera.

    singular_values: (3,) m^2, falling, of the weighted cross-covariance divided by the sum of weights.
    """

    rotation: Array
    translation: Array
    singular_values: Array


def kabsch(a: Array, b: Array, weights: Array) -> Rigid:
    """Return R, t that minimise sum_i w_i |b_i - R a_i - t|^2: points (3, N), weights (N,), not all 0."""
    share = weights / weights.sum()
    mean_a, mean_b = np.einsum("in,n->i", a, share), np.einsum("in,n->i", b, share)
    # The weight enters once. Weighting both centred sets would square it.
    cross_covariance = np.einsum("in,jn->ij", b - mean_b[:, None], (a - mean_a[:, None]) * share)
    u, singular_values, vt = np.linalg.svd(cross_covariance)
    handedness = np.array([1.0, 1.0, np.linalg.det(u @ vt)])
    rotation = (u * handedness) @ vt
    return Rigid(rotation, mean_b - rotation @ mean_a, singular_values)


def weighted_median(values: Array, weights: Array) -> float:
    """Return the smallest of `values` (N,) such that it and those below it hold half of `weights` (N,)."""
    order = np.argsort(values)
    cumulative = np.cumsum(weights[order])
    return float(values[order[np.searchsorted(cumulative, 0.5 * cumulative[-1])]])


class Summary(NamedTuple):
    """Of values with weights: the sum of the weights, and the values' median and root mean square."""

    total: float
    median: float
    root_mean_square: float


def weighted_summary(values: Array, weights: Array) -> Summary:
    """Return the summary of `values` (N,) with `weights` (N,); its root mean square is NaN without weight."""
    with np.errstate(all="ignore"):
        total = weights.sum()
        root_mean_square = np.sqrt(np.einsum("n,n->", weights, values * values) / total)
    return Summary(float(total), weighted_median(values, weights), float(root_mean_square))
