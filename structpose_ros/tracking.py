"""Is the robot localised? Poses must agree over time before they count; without poses it is lost."""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass
from enum import Enum

import numpy as np
import numpy.typing as npt

from structpose_ros.geometry import invert, pose_error

Array = npt.NDArray[np.float64]


class State(Enum):
    """What the node knows of where it is."""

    SEARCHING = "SEARCHING"  # no pose yet, or asked to forget it
    LOCALIZED = "LOCALIZED"
    LOST = "LOST"  # had a pose, and none for `lost_timeout`


@dataclass(frozen=True)
class TrackingOptions:
    """When successive poses agree.

    consistency_frames: how many poses in a row must agree before the first is published; 1: each for itself.
    consistency_distance, consistency_angle: metres and radians that two agreeing poses may differ by.
    max_speed, max_turn_rate: m/s and rad/s that are allowed for on top where no odometry tells the motion.
    lost_timeout: seconds without a pose until the state is LOST.
    """

    consistency_frames: int = 2
    consistency_distance: float = 0.5
    consistency_angle: float = 0.26
    max_speed: float = 2.0
    max_turn_rate: float = 3.14
    lost_timeout: float = 2.0


@dataclass(frozen=True)
class Sighting:
    """An accepted pose and when the image was taken.

    stamp_ns: nanoseconds. map_from_camera: (4, 4). odom_from_camera: (4, 4) at the same time, if known.
    """

    stamp_ns: int
    map_from_camera: Array
    odom_from_camera: Array | None = None


@dataclass(frozen=True)
class Verdict:
    """Whether a pose is confirmed; if not, `detail` says why, for people.

    relocalized: this pose ends a time without one (SEARCHING, LOST), or leads to another place than the last.
    """

    confirmed: bool
    detail: str = ""
    relocalized: bool = False


class Tracker:
    """Confirms poses and keeps the state. Thread-safe: one thread observes, another looks at the clock."""

    def __init__(self, options: TrackingOptions) -> None:
        self.options = options
        self._lock = threading.Lock()
        self._state = State.SEARCHING
        self._confirmed: Sighting | None = None
        self._candidate: Sighting | None = None
        self._agreeing = 0
        self._pose_at = -math.inf

    @property
    def state(self) -> State:
        """The state as of the last `observe`, `expire` or `reset`."""
        with self._lock:
            return self._state

    def reset(self) -> None:
        """Forget all poses."""
        with self._lock:
            self._state = State.SEARCHING
            self._forget()

    def expire(self, now: float) -> State:
        """Return the state at `now`, in seconds of any clock that `observe` is given too."""
        with self._lock:
            if self._state is State.LOCALIZED and now - self._pose_at > self.options.lost_timeout:
                self._state = State.LOST
                self._forget()
            return self._state

    def observe(self, sighting: Sighting, now: float) -> Verdict:
        """Take in an accepted pose. It is confirmed if it continues the confirmed ones, or if enough agree.

        A single pose elsewhere is not followed, nor does it cost the poses it interrupts anything. Poses that
        agree with each other, but not with the confirmed ones, take over: the robot was carried away.
        """
        options = self.options
        with self._lock:
            away = "" if self._confirmed is None else disagreement(self._confirmed, sighting, options)
            if self._confirmed is not None and not away:
                return self._confirm(sighting, now, relocalized=False)
            continues = self._candidate is not None and not disagreement(self._candidate, sighting, options)
            self._agreeing = self._agreeing + 1 if continues else 1
            self._candidate = sighting
            if self._agreeing >= options.consistency_frames:
                return self._confirm(sighting, now, relocalized=True)
            detail = f"{self._agreeing} of {options.consistency_frames} poses in a row agree"
            detail += f"; the last published one is {away} away" if away else ""
            return Verdict(False, detail)

    def _confirm(self, sighting: Sighting, now: float, *, relocalized: bool) -> Verdict:
        self._state = State.LOCALIZED
        self._forget()
        self._confirmed = sighting
        self._pose_at = now
        return Verdict(True, relocalized=relocalized)

    def _forget(self) -> None:
        self._confirmed = self._candidate = None
        self._agreeing = 0


def disagreement(earlier: Sighting, later: Sighting, options: TrackingOptions) -> str:
    """Return how far `later` is from where `earlier` puts it, in words; empty where they agree.

    Where odometry is known at both times, it says how the camera moved in between (REP 105: odom is
    continuous); elsewhere the camera may have moved at the greatest speed, but for no longer than
    `lost_timeout`: after a long time any two poses would agree.
    """
    expected = earlier.map_from_camera
    distance, angle = options.consistency_distance, options.consistency_angle
    if earlier.odom_from_camera is not None and later.odom_from_camera is not None:
        expected = expected @ invert(earlier.odom_from_camera) @ later.odom_from_camera
    else:
        seconds = min(abs(later.stamp_ns - earlier.stamp_ns) * 1e-9, options.lost_timeout)
        distance += options.max_speed * seconds
        angle += options.max_turn_rate * seconds
    metres, degrees = pose_error(later.map_from_camera, expected)
    if metres <= distance and math.radians(degrees) <= angle:
        return ""
    return f"{metres:.2f} m and {degrees:.0f} deg"
