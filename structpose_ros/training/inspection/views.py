"""What poses alone tell: where the camera was and looked, how it moved, how far test is from training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from structpose_ros.geometry import rotation_angle
from structpose_ros.training.frames import (
    SPLIT_FILES,
    FrameFiles,
    Recording,
    RecordingError,
    list_sequence,
    read_stamps,
)

Array = npt.NDArray[np.float64]

SAME_POSITION, SAME_ANGLE = 1e-4, np.radians(0.01)  # m, rad; below: a pose that didn't change
JUMP, JUMP_M, JUMP_DEG = 10.0, 0.1, 8.0  # times the usual step, plus that
BLOCK = 256  # test poses compared with all training poses at once


@dataclass(frozen=True)
class Drive:
    """One sequence: its frames, map_from_camera (N, 4, 4), times (N,) in s if `timed`, else frame numbers."""

    name: str
    split: str
    files: list[FrameFiles]
    poses: Array
    times: Array
    timed: bool

    @property
    def interval(self) -> float:
        """Median time between neighbours; 1 where there are none."""
        return float(np.median(np.diff(self.times))) if len(self.times) > 1 else 1.0


@dataclass(frozen=True)
class Views:
    """Figures of the poses.

    seen_depth: usual distance of what is seen, in the positions' unit: metres, where all is well. axes: the
    two map axes (0 x, 1 y, 2 z) along which the positions spread most. positions (N, 2) m along them and
    headings (N, 2), unit view directions projected onto them, by split. extent_m: sides of the positions'
    box. spread_deg: half of the training views look within that angle of their mean direction.
    heading_share: share of 24 headings of 15 deg that training views cover. roll_deg: by split, largest
    roll (95 %) against the mean upright training view. nearest_m, nearest_deg: (M,) each test view's
    nearest training view. step_m, step_deg: (K,) between neighbours. jumps: frames that a jump leads to.
    standing: share of neighbours with the very same pose.
    """

    seen_depth: float
    axes: tuple[int, int]
    positions: dict[str, Array]
    headings: dict[str, Array]
    extent_m: tuple[float, float, float]
    spread_deg: float
    heading_share: float
    roll_deg: dict[str, float]
    nearest_m: Array = field(default_factory=lambda: np.empty(0))
    nearest_deg: Array = field(default_factory=lambda: np.empty(0))
    step_m: Array = field(default_factory=lambda: np.empty(0))
    step_deg: Array = field(default_factory=lambda: np.empty(0))
    jumps: Sequence[str] = ()
    standing: float = 0.0


def list_drives(recording: Recording) -> tuple[list[Drive], list[str]]:
    """Return all sequences with their poses, training first, and a line for each frame that can't be used.

    Raises:
        RecordingError: there is no training split, or no frame.
    """
    drives: list[Drive] = []
    bad: list[str] = []
    for split in SPLIT_FILES:
        if split != "train" and not (recording.root / SPLIT_FILES[split]).is_file():
            continue
        for name in recording.sequences(split):
            files, missing = list_sequence(recording.root / name, name)
            bad += missing
            usable, poses = [], []
            for item in files:
                try:
                    poses.append(recording.read_pose(item))
                    usable.append(item)
                except RecordingError as error:
                    bad.append(str(error))
            if usable:
                times, timed = _times(recording.root / name, usable)
                drives.append(Drive(name, split, usable, np.array(poses), times, timed))
    if not any(drive.split == "train" for drive in drives):
        raise RecordingError(f"expected frames in split 'train' of {recording.root}, got none")
    return drives, bad


def _times(folder: Path, files: Sequence[FrameFiles]) -> tuple[Array, bool]:
    """Return the seconds since the first frame, or frames' numbers where stamps lack or don't increase."""
    stamps = read_stamps(folder)
    numbers = [int(item.name.split("/frame-")[1]) for item in files]
    if all(number in stamps for number in numbers):
        times = np.array([stamps[number] for number in numbers])
        if (np.diff(times) > 0).all():
            return times - times[0], True  # stamps count from 1970: nanoseconds of them may not fit
    return np.array(numbers, dtype=np.float64), False


def measure_views(drives: Sequence[Drive], seen_depth: float) -> Views:
    """Measure the poses; `seen_depth`, the distance (m) of what is seen, weighs angles against metres."""
    by_split = {
        split: np.concatenate([drive.poses for drive in drives if drive.split == split])
        for split in SPLIT_FILES
        if any(drive.split == split for drive in drives)
    }
    every = np.concatenate(list(by_split.values()))[:, :3, 3]
    low, high = np.percentile(every, [2, 98], axis=0)
    axes = sorted(np.argsort(high - low, kind="stable")[1:].tolist())
    headings = {split: poses[:, :3, 2][:, axes] for split, poses in by_split.items()}
    train_directions = by_split["train"][:, :3, 2]
    mean_direction = train_directions.mean(axis=0)
    mean_direction /= max(float(np.linalg.norm(mean_direction)), 1e-12)
    angles = np.degrees(np.arccos(np.clip(train_directions @ mean_direction, -1, 1)))
    bins = np.unique(np.floor(np.degrees(np.arctan2(*headings["train"].T[::-1])) / 15))
    nearest_m, nearest_deg = (
        _nearest(by_split["test"], by_split["train"], seen_depth)
        if "test" in by_split
        else (np.empty(0),) * 2
    )
    steps = [_steps(drive) for drive in drives]
    step_m, step_deg = (np.concatenate([step[index] for step in steps]) for index in range(2))
    names = [item.name for drive in drives for item in drive.files[1:]]
    jumped = (step_m > JUMP * _usual(step_m) + JUMP_M) | (step_deg > JUMP * _usual(step_deg) + JUMP_DEG)
    standing = (step_m < SAME_POSITION) & (step_deg < np.degrees(SAME_ANGLE))
    return Views(
        seen_depth=seen_depth,
        axes=(axes[0], axes[1]),
        positions={split: poses[:, :3, 3][:, axes] for split, poses in by_split.items()},
        headings=headings,
        extent_m=(float((high - low)[0]), float((high - low)[1]), float((high - low)[2])),
        spread_deg=float(np.median(angles)),
        heading_share=len(bins) / 24,
        roll_deg=_rolls(by_split),
        nearest_m=nearest_m,
        nearest_deg=nearest_deg,
        step_m=step_m,
        step_deg=step_deg,
        jumps=[name for name, jump in zip(names, jumped, strict=True) if jump],
        standing=float(standing.mean()) if len(standing) else 0.0,
    )


def _usual(steps: Array) -> float:
    return float(np.median(steps)) if len(steps) else 0.0


def _steps(drive: Drive) -> tuple[Array, Array]:
    """Return how far neighbours are apart, m and deg, per usual interval: a gap excuses a longer step."""
    first, second = drive.poses[:-1], drive.poses[1:]
    gaps = np.maximum(np.diff(drive.times) / drive.interval, 1.0)
    turns = np.array([rotation_angle(a[:3, :3].T @ b[:3, :3]) for a, b in zip(first, second, strict=True)])
    moved = np.linalg.norm(second[:, :3, 3] - first[:, :3, 3], axis=1)
    return moved / gaps, np.degrees(turns).reshape(-1) / gaps


def _nearest(test: Array, train: Array, seen_depth: float) -> tuple[Array, Array]:
    """Return distance (m) and angle (deg) to the training view that moves what is seen least."""
    distances, degrees = [], []
    for start in range(0, len(test), BLOCK):
        poses = test[start : start + BLOCK]
        distance = np.linalg.norm(poses[:, None, :3, 3] - train[None, :, :3, 3], axis=2)
        cosine = (np.einsum("aij,bij->ab", poses[:, :3, :3], train[:, :3, :3]) - 1) / 2
        angle = np.arccos(np.clip(cosine, -1, 1))
        best = np.argmin(distance + seen_depth * angle, axis=1)
        rows = np.arange(len(poses))
        distances.append(distance[rows, best])
        degrees.append(np.degrees(angle[rows, best]))
    return np.concatenate(distances), np.concatenate(degrees)


def _rolls(by_split: dict[str, Array]) -> dict[str, float]:
    """Return by split how far (95 %) views are rolled about their axis, against training's mean upright."""
    up = -by_split["train"][:, :3, 1].mean(axis=0)
    up /= max(float(np.linalg.norm(up)), 1e-12)
    rolls = {}
    for split, poses in by_split.items():
        in_camera = poses[:, :3, :3].transpose(0, 2, 1) @ up
        seen = (
            np.hypot(in_camera[:, 0], in_camera[:, 1]) > 0.3
        )  # looking straight up or down there is no roll
        roll = np.degrees(np.arctan2(in_camera[:, 0], -in_camera[:, 1]))[seen]
        rolls[split] = float(np.percentile(np.abs(roll), 95)) if len(roll) else 0.0
    return rolls
