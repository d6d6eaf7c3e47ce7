"""Recorded poses against what the images say: by how much stamps are shifted, and which unit the depth has.

The rotation between two images hardly depends on the depth, so it tells about the poses alone: their time,
their direction, their axes. With these settled, the translation tells about the depth's unit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from structpose_ros.geometry import invert, rotation_angle, rotation_vector
from structpose_ros.training.frames import RecordingError
from structpose_ros.training.importers.trajectory import Trajectory
from structpose_ros.training.inspection.visual_motion import VisualMotion

Array = npt.NDArray[np.float64]

LARGEST_SHIFT = 10.0  # intervals between frames
STEP = 0.5
ENOUGH = 15  # pairs
SMALLEST_TURN = np.radians(0.5)  # below it a pair says little about rotation
EXPLAINED = 0.5  # share of the turning that poses must explain to count as agreeing
TURNED = np.radians(10.0)  # calibration and drift of depth cameras feign a few degrees
RESAMPLES = 100


@dataclass(frozen=True)
class Pair:
    """Two images of a sequence: its poses over time (a frame takes 1 s), the images' times, their motion."""

    trajectory: Trajectory
    first: float
    second: float
    seen: VisualMotion


@dataclass(frozen=True)
class Agreement:
    """What the pairs say of poses and depth.

    reading: how the poses must be read to agree with the images: `as_given`, `inverted` (camera_from_map),
    `turned` (by `turned_deg`: other axes than the optical frame's) or `none`. explained: share of the
    turning between images that the poses then explain. shift: how late the poses are, in intervals between
    frames, and its standard deviation; None where too little turns. at_limit: the shift may be larger.
    shifts, disagreement_deg: the curve it is the minimum of. depth_scale: recorded depth over the depth
    that fits the poses, and the standard deviation of its logarithm. seen_moves, recorded_moves: (N, 3)
    translations of the pairs, m.
    """

    pairs: int
    reading: str = "none"
    explained: float | None = None
    turned_deg: float = 0.0
    shift: float | None = None
    shift_std: float | None = None
    at_limit: bool = False
    depth_scale: float | None = None
    depth_scale_std: float | None = None
    shifts: Array = field(default_factory=lambda: np.empty(0))
    disagreement_deg: Array = field(default_factory=lambda: np.empty(0))
    seen_moves: Array = field(default_factory=lambda: np.empty((0, 3)))
    recorded_moves: Array = field(default_factory=lambda: np.empty((0, 3)))


@dataclass(frozen=True)
class _Recorded:
    """Motions that the poses claim for each pair and shift: turns and moves, both (pairs, shifts, 3)."""

    turns: Array
    moves: Array


def compare(pairs: Sequence[Pair]) -> Agreement:
    """Find how poses must be read and shifted to agree best with the images, then the depth's scale."""
    shifts, given, inverted = _claims(pairs)
    seen_turns = np.array([pair.seen.turn for pair in pairs]).reshape(-1, 3)
    turning = np.linalg.norm(seen_turns, axis=1) > SMALLEST_TURN
    if len(shifts) == 0 or np.count_nonzero(turning) < ENOUGH:
        return Agreement(len(pairs))
    whole = turning & np.isfinite(given.turns).all(axis=(1, 2))
    turned_turns, rotations = _turned(given.turns, seen_turns, whole)
    readings = {"as_given": given.turns, "inverted": inverted.turns, "turned": turned_turns}
    losses = {
        name: np.degrees(np.linalg.norm(turns - seen_turns[:, None], axis=2))[whole]
        for name, turns in readings.items()
    }
    amount = np.degrees(np.median(np.linalg.norm(seen_turns[whole], axis=1)))
    shares = {name: float(1 - np.median(loss, axis=0).min() / amount) for name, loss in losses.items()}
    reading = next((name for name in readings if shares[name] >= EXPLAINED), "none")
    shown = "as_given" if reading == "none" else reading
    curve = np.median(losses[shown], axis=0)
    best = int(curve.argmin())
    rotation = rotations[best] if reading == "turned" else np.eye(3)
    if reading == "turned" and rotation_angle(rotation) < TURNED:
        reading = "none"
    if reading == "none":
        return Agreement(len(pairs), explained=shares["as_given"], shifts=shifts, disagreement_deg=curve)
    moves = (inverted if reading == "inverted" else given).moves[:, best] @ rotation.T
    known = np.isfinite(moves).all(axis=1)
    seen_moves = np.array([pair.seen.move for pair in pairs])[known]
    scale, scale_std = _ratio(seen_moves, moves[known])
    return Agreement(
        pairs=len(pairs),
        reading=reading,
        explained=shares[reading],
        turned_deg=float(np.degrees(rotation_angle(rotation))),
        shift=_minimum(shifts, curve),
        shift_std=_spread_of_minimum(shifts, losses[shown]),
        at_limit=best in (0, len(shifts) - 1),
        depth_scale=scale,
        depth_scale_std=scale_std,
        shifts=shifts,
        disagreement_deg=curve,
        seen_moves=seen_moves,
        recorded_moves=moves[known],
    )


def _claims(pairs: Sequence[Pair]) -> tuple[Array, _Recorded, _Recorded]:
    """Return the shifts tried and what the poses claim at each: read as given, and as their inverses.

    Only pairs that lie deep enough within their sequence can be shifted: the range is the widest that most
    can.
    """
    if len(pairs) < ENOUGH:
        nothing = _Recorded(np.empty((0, 0, 3)), np.empty((0, 0, 3)))
        return np.empty(0), nothing, nothing
    widest = np.arange(-LARGEST_SHIFT, LARGEST_SHIFT + STEP / 2, STEP)
    shape = (len(pairs), len(widest), 3)
    given, inverted = (_Recorded(np.full(shape, np.nan), np.full(shape, np.nan)) for _ in range(2))
    for row, pair in enumerate(pairs):
        for column, shift in enumerate(widest):
            try:
                first, second = (
                    pair.trajectory.at(round((time + shift) * 1e9), max_gap=3.0)
                    for time in (pair.first, pair.second)
                )
            except RecordingError:
                continue  # beyond the sequence's ends
            for claims, second_from_first in (
                (given, invert(second) @ first),
                (inverted, second @ invert(first)),
            ):
                claims.turns[row, column] = rotation_vector(second_from_first[:3, :3])
                claims.moves[row, column] = second_from_first[:3, 3]
    for reach in (LARGEST_SHIFT, 8, 6, 5, 4, 3, 2, 1):
        within = np.abs(widest) <= reach
        whole = np.isfinite(given.turns[:, within]).all(axis=(1, 2))
        if np.count_nonzero(whole) >= max(ENOUGH, len(pairs) / 2):
            break
    else:
        within = np.zeros(len(widest), dtype=bool)
    given, inverted = (
        _Recorded(claims.turns[:, within], claims.moves[:, within]) for claims in (given, inverted)
    )
    return widest[within], given, inverted


def _turned(turns: Array, seen_turns: Array, whole: npt.NDArray[np.bool_]) -> tuple[Array, Array]:
    """Turn the poses' axes, for each shift by the rotation that fits best (Wahba's problem); return both.

    A camera that turns about one axis alone leaves the rotation about that axis open: it is then left out.
    """
    turned = np.empty_like(turns)
    rotations = np.empty((turns.shape[1], 3, 3))
    for column in range(turns.shape[1]):
        correlation = seen_turns[whole].T @ turns[whole, column]
        correlation += 0.02 * np.linalg.norm(correlation) * np.eye(3)
        u, _, vt = np.linalg.svd(correlation)
        rotations[column] = u @ np.diag([1.0, 1.0, np.linalg.det(u @ vt)]) @ vt
        turned[:, column] = turns[:, column] @ rotations[column].T
    return turned, rotations


def _minimum(shifts: Array, curve: Array) -> float:
    """Return where a sampled curve is lowest, by a parabola through the three lowest samples."""
    best = int(curve.argmin())
    if best in (0, len(curve) - 1):
        return float(shifts[best])
    left, middle, right = curve[best - 1 : best + 2]
    bend = left - 2 * middle + right
    offset = 0.5 * (left - right) / bend if bend > 0 else 0.0
    return float(shifts[best] + STEP * offset)


def _spread_of_minimum(shifts: Array, losses: Array) -> float:
    """Return the minimum's standard deviation over resampled pairs (bootstrap)."""
    random = np.random.default_rng(0)
    minima = []
    for _ in range(RESAMPLES):
        drawn = losses[random.integers(0, len(losses), len(losses))]
        minima.append(_minimum(shifts, np.median(drawn, axis=0)))
    return float(np.std(minima))


def _ratio(seen: Array, recorded: Array) -> tuple[float | None, float | None]:
    """Return s with seen = s * recorded, robustly, and the standard deviation of log s.

    The recorded moves count as exact: they are the smoother ones. Both are None where nothing moves.
    """
    lengths = np.linalg.norm(recorded, axis=1)
    if len(seen) < ENOUGH or np.median(lengths) <= 0:
        return None, None
    moving = lengths > 0.5 * np.median(lengths)
    scale = float(np.median(np.linalg.norm(seen[moving], axis=1) / lengths[moving]))
    weights = np.ones(len(seen))
    for _ in range(20):
        error = np.linalg.norm(seen - scale * recorded, axis=1)
        weights = 1 / (1 + (error / max(np.median(error), 1e-12)) ** 2) ** 2
        scale = float((weights * (seen * recorded).sum(axis=1)).sum() / (weights * lengths**2).sum())
    if scale <= 0:
        return None, None
    along = ((seen - scale * recorded) * recorded).sum(axis=1)
    deviation = np.sqrt(((weights * along) ** 2).sum()) / (weights * lengths**2).sum()
    return scale, float(deviation / scale)
