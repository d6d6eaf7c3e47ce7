"""Which matches fit together: a start for the solve where nine in ten of them are wrong.

A rigid motion keeps distances: two right matches are as far apart in the map as they are before the camera.
Wrong ones agree with some others by chance, but hardly with those that these agree with: two matches support
each other by the number of others that agree with both (SC2-PCR, Chen, Sun, Yang and Tao, CVPR 2022). The
best supported ones, in turn, each with its supporters, give a pose in closed form, and the pose under which
most points fall near their rays is kept. So many matches, so many poses: the same work on every frame,
nothing is sampled.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
_BITS_OF_16 = np.unpackbits(np.arange(1 << 16, dtype=np.uint16).view(np.uint8).reshape(-1, 2), axis=1).sum(
    axis=1, dtype=np.uint8
)

MATCHES = 128  # of the largest weight, that are asked whether they agree
LEAST_SPAN = 0.1  # metres; nearer matches agree whatever they are
TOLERANCE, RELATIVE_TOLERANCE = 0.05, 0.05  # metres, and of the depth: what distances may differ by
POLISHING_ROUNDS = 1
RAY_SCALE = 0.05  # of Geman-McClure, at z = 1: how near to its ray a point must fall to speak for a pose


def consensus(a: Array, b: Array, weights: Array, starts: int) -> Array:
    """Return the weights times the Geman-McClure factors of the points under the best of `starts` poses.

    Args:
        a: points in the camera's frame, (3, N) metres. Those that are not ahead of it take no part.
        b: the same in the map's, (3, N).
        weights: (N,), at least 0.
        starts: how many matches a pose is tried of, at least 1.

    Returns:
        (N,). The weights as they came where fewer than three points have one.
    """
    weights = np.where(a[2] > 0, weights, 0.0)
    chosen = np.argsort(-weights, kind="stable")[:MATCHES]
    chosen = chosen[weights[chosen] > 0]
    if len(chosen) < 3:
        return weights
    of_camera, of_map, matched_weights = a[:, chosen], b[:, chosen], weights[chosen]
    tolerance = _tolerance(of_camera)
    supporters = _supporters(of_camera, of_map, tolerance, min(starts, len(chosen)))
    supporters = np.where(supporters.sum(axis=1, keepdims=True) > 0, supporters, matched_weights)
    rotations, translations = _rigid(of_camera, of_map, supporters)
    for _ in range(POLISHING_ROUNDS):
        robust = _robust(of_camera, of_map, rotations, translations, tolerance)
        rotations, translations = _rigid(of_camera, of_map, matched_weights * robust)
    best = np.argmax(_scores(a, b, weights, rotations, translations))
    robust = _robust(a, b, rotations[best, None], translations[best, None], _tolerance(a))
    return np.asarray(weights * robust[0])


def _tolerance(a: Array) -> Array:
    return TOLERANCE + RELATIVE_TOLERANCE * np.maximum(a[2], 0.0)


def _distances(points: Array) -> npt.NDArray[np.float32]:
    """Return the distances (N, N) of points (3, N)."""
    x, y, z = (points - points.mean(axis=1, keepdims=True)).astype(np.float32)
    squared = np.square(x[:, None] - x)
    squared += np.square(y[:, None] - y)
    squared += np.square(z[:, None] - z)
    return np.sqrt(squared)


def _supporters(a: Array, b: Array, tolerance: Array, starts: int) -> Array:
    """Return how much each match supports each of those chosen as starts, (starts, N)."""
    in_camera, in_map = _distances(a), _distances(b)
    agree = np.abs(in_camera - in_map) < np.maximum(tolerance[:, None], tolerance).astype(np.float32)
    agree &= in_camera + in_map > 2.0 * LEAST_SPAN
    support = _common(agree) * agree
    # What supports a start needs no pose of its own.
    kept = 1.0 - support / np.maximum(support.max(axis=1, keepdims=True), 1)
    remaining = support.sum(axis=1, dtype=np.float64)
    rows = []
    for _ in range(starts):
        row = int(remaining.argmax())
        rows.append(row)
        remaining *= kept[row]
        remaining[row] = -1.0
    of_starts = np.square(support[rows], dtype=np.float64)
    of_starts[np.arange(starts), rows] = of_starts.max(axis=1)  # a match does not agree with itself
    return of_starts


def _common(agree: npt.NDArray[np.bool_]) -> npt.NDArray[np.uint16]:
    """Return how many matches agree with both of two, (N, N): a matrix product of flags, by counting bits.

    BLAS would wake its threads for it, which takes longer than the product where other cores are busy.
    """
    packed = np.packbits(agree, axis=1)
    words = np.zeros((len(agree), -(-packed.shape[1] // 8) * 8), dtype=np.uint8)
    words[:, : packed.shape[1]] = packed
    counts = np.zeros(agree.shape, dtype=np.uint16)
    for word in words.view(np.uint64).T.copy():
        counts += _bits(word[:, None] & word)
    return counts


def _bits(words: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint8]:
    """Return how many bits are set in each word."""
    if hasattr(np, "bitwise_count"):  # NumPy 2
        return np.asarray(np.bitwise_count(words))
    halves = words.view(np.uint16).reshape(*words.shape, 4)
    return np.asarray(_BITS_OF_16[halves].sum(axis=-1, dtype=np.uint8))


def _rigid(a: Array, b: Array, weights: Array) -> tuple[Array, Array]:
    """Return rotations (K, 3, 3) and translations (K, 3), map from camera, of weights (K, N)."""
    shares = weights / np.maximum(weights.sum(axis=1, keepdims=True), np.finfo(np.float64).tiny)
    mean_a, mean_b = shares @ a.T, shares @ b.T
    products = (b[:, None] * a).reshape(9, -1)
    covariance = (shares @ products.T).reshape(-1, 3, 3) - mean_b[:, :, None] * mean_a[:, None, :]
    u, _, vt = np.linalg.svd(covariance)
    u[:, :, 2] *= np.linalg.det(u @ vt)[:, None]
    rotations = u @ vt
    return rotations, mean_b - (rotations @ mean_a[:, :, None])[:, :, 0]


def _robust(a: Array, b: Array, rotations: Array, translations: Array, tolerance: Array) -> Array:
    """Return the Geman-McClure factors (K, N) of points under each pose, at twice the tolerance."""
    residuals = rotations @ a + translations[:, :, None] - b
    scale = 4.0 * tolerance**2
    return np.square(scale / (scale + np.square(residuals).sum(axis=1)))


def _scores(a: Array, b: Array, weights: Array, rotations: Array, translations: Array) -> Array:
    """Return how much weight (K,) falls near its ray under each pose."""
    turned = rotations.transpose(0, 2, 1)
    points = turned @ b - turned @ translations[:, :, None]
    ahead = points[:, 2] > 0
    seen = a[:2] / np.where(a[2] > 0, a[2], 1.0)
    errors = points[:, :2] / np.where(ahead, points[:, 2], 1.0)[:, None] - seen
    squared = np.square(errors[:, 0]) + np.square(errors[:, 1])
    near = np.square(RAY_SCALE**2 / (RAY_SCALE**2 + squared)) * ahead
    return np.einsum("kn,n->k", near, weights)
