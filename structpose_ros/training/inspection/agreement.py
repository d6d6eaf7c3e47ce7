"""Recorded poses against what the images say: by how much stamps are shifted, and which unit the depth has.

The rotation between two images hardly depends on the depth, so it tells about the poses alone: their time,
their direction, their axes. With these settled, the translation tells about the depth's unit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from structpose_ros.geometry import rotation_angle
from structpose_ros.training.importers.trajectory import Trajectory
from structpose_ros.training.inspection.visual_motion import VisualMotion

Array = npt.NDArray[np.float64]

LARGEST_SHIFT = 10.0  # intervals between frames
STEP = 0.5
ENOUGH = 15  # pairs
SMALLEST_TURN = np.radians(0.5)  # below it a pair says little about rotation
EXPLAINED = 0.5  # share of the turning that poses must explain to count as agreeing
TURNED = np.radians(10.0)  # calibration and drift of depth cameras feign a few degrees
BETTER = 0.6  # of what a reading leaves unexplained, a less simple one may leave at most
LONGEST_GAP = 3.0  # intervals; poses are not interpolated across more
ROUNDS = 5  # of reweighting
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
class _Reading:
    """The motions that poses claim, read in one way: turns and moves, both (pairs, shifts, 3).

    rotations: (shifts, 3, 3), by which the axes were turned for that.
    """

    turns: Array
    moves: Array
    rotations: Array

    def losses(self, seen_turns: Array) -> Array:
        """Return by how many degrees each pair's turn differs from what the images say, (pairs, shifts)."""
        return np.asarray(np.degrees(np.linalg.norm(self.turns - seen_turns[:, None], axis=2)))


def compare(pairs: Sequence[Pair]) -> Agreement:
    """Find how poses must be read and shifted to agree best with the images, then the depth's scale."""
    seen_turns = np.array([pair.seen.turn for pair in pairs]).reshape(-1, 3)
    turning = np.linalg.norm(seen_turns, axis=1) > SMALLEST_TURN
    shifts, given, inverted = _claims(pairs)
    if len(shifts) == 0 or np.count_nonzero(turning) < ENOUGH:
        return Agreement(len(pairs))
    whole = turning & np.isfinite(given.turns).all(axis=(1, 2))
    if np.count_nonzero(whole) < ENOUGH:
        return Agreement(len(pairs))
    readings = {"as_given": given, "inverted": inverted, "turned": _turned(given, seen_turns, whole)}
    losses = {name: reading.losses(seen_turns)[whole] for name, reading in readings.items()}
    curves = {name: np.median(loss, axis=0) for name, loss in losses.items()}
    amount = float(np.degrees(np.median(np.linalg.norm(seen_turns[whole], axis=1))))
    unexplained = {name: float(curve.min()) / amount for name, curve in curves.items()}
    name = _choose(unexplained, readings["turned"].rotations[int(curves["turned"].argmin())])
    if name is None:
        return Agreement(
            len(pairs),
            explained=1 - unexplained["as_given"],
            shifts=shifts,
            disagreement_deg=curves["as_given"],
        )
    reading, curve = readings[name], curves[name]
    best = int(curve.argmin())
    known = np.isfinite(reading.moves[:, best]).all(axis=1)
    moves = reading.moves[known, best]
    seen_moves = np.array([pair.seen.move for pair in pairs])[known]
    scale, scale_std = _ratio(seen_moves, moves)
    return Agreement(
        pairs=len(pairs),
        reading=name,
        explained=1 - unexplained[name],
        turned_deg=float(np.degrees(rotation_angle(reading.rotations[best]))),
        shift=_minimum(shifts, curve),
        shift_std=_spread_of_minimum(shifts, losses[name]),
        at_limit=best in (0, len(shifts) - 1),
        depth_scale=scale,
        depth_scale_std=scale_std,
        shifts=shifts,
        disagreement_deg=curve,
        seen_moves=seen_moves,
        recorded_moves=moves,
    )


def _choose(unexplained: Mapping[str, float], rotation: Array) -> str | None:
    """Return the simplest reading that explains enough; one less simple must explain far more."""
    name = "as_given"
    if unexplained["inverted"] < BETTER * unexplained[name]:
        name = "inverted"
    if unexplained["turned"] < BETTER * unexplained[name] and rotation_angle(rotation) > TURNED:
        name = "turned"
    return name if unexplained[name] <= 1 - EXPLAINED else None


def _claims(pairs: Sequence[Pair]) -> tuple[Array, _Reading, _Reading]:
    """Return the shifts tried and what the poses claim at each: read as given, and as their inverses.

    Only pairs deep enough within their sequence can be shifted: the range is the widest that most can.
    """
    widest = np.arange(-LARGEST_SHIFT, LARGEST_SHIFT + STEP / 2, STEP)
    first, second = np.empty((2, len(pairs), len(widest), 4, 4))
    for row, pair in enumerate(pairs):
        first[row] = _poses_at(pair.trajectory, pair.first + widest)
        second[row] = _poses_at(pair.trajectory, pair.second + widest)
    finite = np.isfinite(first) & np.isfinite(second)
    whole = np.asarray(finite.all(axis=(2, 3)))
    within = np.zeros(len(widest), dtype=bool)
    for reach in (LARGEST_SHIFT, 8, 6, 5, 4, 3, 2, 1):
        tried = np.abs(widest) <= reach
        if np.count_nonzero(whole[:, tried].all(axis=1)) >= max(ENOUGH, len(pairs) / 2):
            within = tried
            break
    first, second = first[:, within], second[:, within]
    unturned = np.broadcast_to(np.eye(3), (int(within.sum()), 3, 3))
    given, inverted = (
        _Reading(*_motions(earlier, later), unturned)
        for earlier, later in ((first, second), (_inverses(first), _inverses(second)))
    )
    return widest[within], given, inverted


def _poses_at(trajectory: Trajectory, times: Array) -> Array:
    """Return the poses (N, 4, 4) at times (N,), NaN outside the recorded ones and in long gaps.

    `Trajectory.at` for many times at once. Between two poses rotations are blended and made orthonormal,
    which takes the same path as turning evenly does.
    """
    stamps = trajectory.stamps_ns * 1e-9
    after = np.clip(np.searchsorted(stamps, times), 1, max(len(stamps) - 1, 1))
    if len(stamps) < 2:
        return np.full((len(times), 4, 4), np.nan)
    gap = stamps[after] - stamps[after - 1]
    share = ((times - stamps[after - 1]) / gap)[:, None, None]
    poses = (1 - share) * trajectory.poses[after - 1] + share * trajectory.poses[after]
    u, _, vt = np.linalg.svd(poses[:, :3, :3])
    poses[:, :3, :3] = u @ vt
    outside = (share[:, 0, 0] < -1e-6) | (share[:, 0, 0] > 1 + 1e-6) | (gap > LONGEST_GAP)
    poses[outside] = np.nan
    return np.asarray(poses)


def _inverses(poses: Array) -> Array:
    """Return the inverses of rigid transforms (..., 4, 4)."""
    inverses = poses.copy()
    inverses[..., :3, :3] = poses[..., :3, :3].swapaxes(-1, -2)
    inverses[..., :3, 3] = -(inverses[..., :3, :3] @ poses[..., :3, 3:])[..., 0]
    return inverses


def _motions(first: Array, second: Array) -> tuple[Array, Array]:
    """Return rotation vectors and translations (..., 3) of second_from_first, for turns below 180 deg."""
    second_from_first = _inverses(second) @ first
    r = second_from_first[..., :3, :3]
    axis = np.stack(
        [r[..., 2, 1] - r[..., 1, 2], r[..., 0, 2] - r[..., 2, 0], r[..., 1, 0] - r[..., 0, 1]], axis=-1
    )
    length = np.linalg.norm(axis, axis=-1, keepdims=True)  # twice the sine
    angle = np.arctan2(length, np.trace(r, axis1=-2, axis2=-1)[..., None] - 1)
    turns = axis * np.where(length > 1e-9, angle / np.maximum(length, 1e-9), 0.5)
    return turns, second_from_first[..., :3, 3]


def _turned(given: _Reading, seen_turns: Array, whole: npt.NDArray[np.bool_]) -> _Reading:
    """Turn the poses' axes, for each shift by the rotation that fits best: Wahba's problem, robustly.

    A camera that turns about one axis alone leaves the rotation about that axis open: it is then left out.
    """
    rotations = np.empty((given.turns.shape[1], 3, 3))
    seen = seen_turns[whole]
    for column in range(len(rotations)):
        claimed = given.turns[whole, column]
        weights = np.ones(len(seen))
        for _ in range(ROUNDS):
            correlation = (weights[:, None] * seen).T @ claimed
            correlation += 0.003 * np.linalg.norm(correlation) * np.eye(3)
            u, _, vt = np.linalg.svd(correlation)
            rotations[column] = u @ np.diag([1.0, 1.0, np.linalg.det(u @ vt)]) @ vt
            error = np.linalg.norm(seen - claimed @ rotations[column].T, axis=1)
            weights = 1 / (1 + (error / max(float(np.median(error)), 1e-12)) ** 2) ** 2
    turns, moves = (np.einsum("sij,psj->psi", rotations, values) for values in (given.turns, given.moves))
    return _Reading(turns, moves, rotations)


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
