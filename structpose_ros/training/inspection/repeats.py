"""What was recorded twice: an image with another pose, a pose with another image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from structpose_ros.geometry import pose_error
from structpose_ros.training.frames import FrameFiles, RecordingError, read_color
from structpose_ros.training.inspection.views import Drive

MOVED_M, MOVED_DEG = 1e-4, 0.01  # less is the same pose
COMPARED = 40  # of the neighbours with the same pose, at most
CHANGED = 1.0  # mean difference of thumbnails, grey levels; noise and JPEG make a tenth of it
THUMBNAIL = (40, 30)


@dataclass(frozen=True)
class Repeats:
    """Frames that repeat part of the one before.

    neighbours: how many were looked at. same_image: names of frames with the same image, byte for byte,
    though the pose moved. same_pose: number (estimated) of those with the same pose, though the image
    changed.
    """

    neighbours: int
    same_image: Sequence[str]
    same_pose: int


def find_repeats(drives: Sequence[Drive]) -> Repeats:
    """Compare each frame with the one before."""
    same_image: list[str] = []
    standing: list[tuple[FrameFiles, FrameFiles]] = []
    neighbours = 0
    for drive in drives:
        for index, (before, after) in enumerate(zip(drive.files[:-1], drive.files[1:], strict=True)):
            neighbours += 1
            moved, turned = pose_error(drive.poses[index + 1], drive.poses[index])
            if moved < MOVED_M and turned < MOVED_DEG:
                standing.append((before, after))
            elif _same_content(before.color, after.color):
                same_image.append(after.name)
    looked_at = standing[:: max(1, -(-len(standing) // COMPARED))]
    changed = sum(_changed(before, after) for before, after in looked_at)
    return Repeats(neighbours, same_image, round(len(standing) * changed / max(len(looked_at), 1)))


def _same_content(first: Path, second: Path) -> bool:
    """Whether two files are equal; the size, which costs nothing, nearly always tells."""
    return first.stat().st_size == second.stat().st_size and first.read_bytes() == second.read_bytes()


def _changed(before: FrameFiles, after: FrameFiles) -> bool:
    try:
        first, second = (
            cv2.resize(read_color(item.color), THUMBNAIL, interpolation=cv2.INTER_AREA).astype(np.float64)
            for item in (before, after)
        )
    except RecordingError:
        return False  # named among the bad frames, if it is sampled
    return float(np.abs(first - second).mean()) > CHANGED
