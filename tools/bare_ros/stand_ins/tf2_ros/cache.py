"""What is known of one frame over time, and the arithmetic of rigid transforms."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import dataclass, field

import numpy as np

from .exceptions import ExtrapolationException


@dataclass(frozen=True)
class Rigid:
    """A rigid transform target_from_source; the quaternion's order is x y z w.

    p_target = R(quaternion) @ p_source + translation
    """

    quaternion: np.ndarray
    translation: np.ndarray

    @staticmethod
    def identity() -> Rigid:
        """Return the transform that changes nothing."""
        return Rigid(np.array([0.0, 0.0, 0.0, 1.0]), np.zeros(3))

    def rotate(self, vector: np.ndarray) -> np.ndarray:
        """Rotate a vector: v + 2 w (u x v) + 2 u x (u x v), with quaternion (u, w)."""
        axis, scalar = self.quaternion[:3], self.quaternion[3]
        cross = 2.0 * np.cross(axis, vector)
        return vector + scalar * cross + np.cross(axis, cross)

    def __matmul__(self, other: Rigid) -> Rigid:
        a, b = self.quaternion, other.quaternion
        product = np.array(
            [*(a[3] * b[:3] + b[3] * a[:3] + np.cross(a[:3], b[:3])), a[3] * b[3] - a[:3] @ b[:3]]
        )
        return Rigid(product / np.linalg.norm(product), self.rotate(other.translation) + self.translation)

    def inverse(self) -> Rigid:
        """Return source_from_target."""
        conjugate = Rigid(self.quaternion * [-1.0, -1.0, -1.0, 1.0], np.zeros(3))
        return Rigid(conjugate.quaternion, -conjugate.rotate(self.translation))

    def towards(self, other: Rigid, ratio: float) -> Rigid:
        """Interpolate the translation linearly, the rotation at constant speed the short way (slerp)."""
        translation = (1.0 - ratio) * self.translation + ratio * other.translation
        cosine = self.quaternion @ other.quaternion
        end = other.quaternion if cosine >= 0.0 else -other.quaternion
        angle = np.arctan2(np.linalg.norm(end - abs(cosine) * self.quaternion), abs(cosine))
        if angle < 1e-9:
            return Rigid(self.quaternion, translation)
        mixed = np.sin((1.0 - ratio) * angle) * self.quaternion + np.sin(ratio * angle) * end
        return Rigid(mixed / np.linalg.norm(mixed), translation)


@dataclass(frozen=True)
class Sample:
    """A frame's place in its parent at one time."""

    parent: str
    parent_from_frame: Rigid


@dataclass
class FrameCache:
    """The samples of one frame, oldest first; a static frame has one, good for all times."""

    static: bool
    authority: str = ""
    stamps: list[int] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)

    def insert(self, stamp: int, sample: Sample, cache_time: int) -> bool:
        """Take in a sample; refuse, with False, one older than the cache reaches back."""
        if self.static:
            self.stamps, self.samples = [stamp], [sample]
            return True
        if self.stamps and stamp < self.stamps[-1] - cache_time:
            return False
        index = bisect_left(self.stamps, stamp)
        replaced = index < len(self.stamps) and self.stamps[index] == stamp
        self.stamps[index : index + replaced] = [stamp]
        self.samples[index : index + replaced] = [sample]
        expired = bisect_left(self.stamps, self.stamps[-1] - cache_time)
        del self.stamps[:expired], self.samples[:expired]
        return True

    def at(self, stamp: int) -> Sample | None:
        """Return the frame's place at a time, None where nothing is known; outside the samples raise."""
        if not self.samples:
            return None
        if self.static:
            return self.samples[0]
        index = bisect_right(self.stamps, stamp)
        if index and self.stamps[index - 1] == stamp:
            return self.samples[index - 1]
        if len(self.stamps) == 1:
            raise ExtrapolationException(
                f"extrapolation needed: asked for time {seconds(stamp)}, "
                f"only time {seconds(self.stamps[0])} is known"
            )
        if index == len(self.stamps):
            raise ExtrapolationException(
                f"extrapolation into the future needed: asked for time {seconds(stamp)}, the newest known is "
                f"{seconds(self.stamps[-1])}"
            )
        if index == 0:
            raise ExtrapolationException(
                f"extrapolation into the past needed: asked for time {seconds(stamp)}, the oldest known is "
                f"{seconds(self.stamps[0])}"
            )
        before, after = self.samples[index - 1], self.samples[index]
        if before.parent != after.parent:
            return before
        start, end = self.stamps[index - 1], self.stamps[index]
        ratio = (stamp - start) / (end - start)
        return Sample(before.parent, before.parent_from_frame.towards(after.parent_from_frame, ratio))


def seconds(stamp: int) -> str:
    """Write a time in nanoseconds as seconds."""
    return f"{stamp // 10**9}.{stamp % 10**9:09d}"
