"""TF without ROS: a tree of frames over time, each of its edges interpolated by its own stamps."""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from structpose_ros.geometry import invert, rotation_from_quaternion, transform
from structpose_ros.training.frames import RecordingError
from structpose_ros.training.importers.trajectory import Trajectory

ALWAYS = (-(2**63), 2**63 - 1)  # ns: the span of what does not move
_SAME = 1e-6  # metres or entries of a rotation; transforms sent twice differ by rounding
_NUMBERS = 7  # x y z, qx qy qz qw


class StampedTransforms:
    """Transforms target_from_source as they were sent; 64 bytes each, as a bag may hold millions."""

    def __init__(self) -> None:
        self.stamps_ns = array("q")
        self._numbers = array("d")

    def __len__(self) -> int:
        """Return the number of transforms."""
        return len(self.stamps_ns)

    def add(self, stamp_ns: int, translation: Any, quaternion: Any) -> None:
        """Add a transform; one that is not finite, or no rotation, is ignored as tf2 does."""
        t, q = translation, quaternion
        numbers = (t.x, t.y, t.z, q.x, q.y, q.z, q.w)
        length = math.fsum(value * value for value in numbers[3:])
        if all(map(math.isfinite, numbers)) and abs(length - 1) < 1e-2:
            self.stamps_ns.append(stamp_ns)
            self._numbers.extend(numbers)

    def matrices(self) -> list[npt.NDArray[np.float64]]:
        """Return target_from_source (4, 4) of each."""
        numbers = np.frombuffer(self._numbers, dtype=np.float64).reshape(-1, _NUMBERS)
        return [transform(rotation_from_quaternion(row[3:]), row[:3]) for row in numbers]

    def span(self) -> tuple[int, int]:
        """Return the first and the last stamp, ns."""
        return min(self.stamps_ns), max(self.stamps_ns)

    @cached_property
    def trajectory(self) -> Trajectory:
        """The transforms over time, once all are there."""
        return Trajectory(self.stamps_ns.tolist(), self.matrices())


@dataclass
class _Edge:
    """parent_from_child: what was sent on /tf_static, and what on /tf."""

    fixed: StampedTransforms = field(default_factory=StampedTransforms)
    moving: StampedTransforms = field(default_factory=StampedTransforms)


@dataclass(frozen=True)
class _Step:
    """One edge of a chain: `upwards` from child to parent, or back down."""

    edge: _Edge
    name: str
    upwards: bool


class TransformTree:
    """The frames of a recording; every frame has one parent."""

    def __init__(self) -> None:
        self._edges: dict[str, dict[str, _Edge]] = {}  # by child, then parent
        self._chains: dict[tuple[str, str], list[_Step]] = {}

    @property
    def frames(self) -> set[str]:
        """Every frame that a transform names."""
        return set(self._edges).union(*self._edges.values())

    def add(self, parent: str, child: str, stamp_ns: int, sent: Any, static: bool) -> None:
        """Add a geometry_msgs/Transform parent_from_child; a moving one without a stamp is ignored."""
        if not (static or stamp_ns):
            return
        edge = self._edges.setdefault(child, {}).setdefault(parent, _Edge())
        (edge.fixed if static else edge.moving).add(stamp_ns, sent.translation, sent.rotation)

    def span(self, target: str, source: str) -> tuple[int, int]:
        """Return from when to when (ns) all moving transforms between two frames are known."""
        spans = [step.edge.moving.span() for step in self._chain(target, source) if not step.edge.fixed]
        return common_span(spans)

    def lookup(self, target: str, source: str, stamp_ns: int, max_gap: float) -> npt.NDArray[np.float64]:
        """Return target_from_source (4, 4) at a time.

        Raises:
            RecordingError: the frames are not connected, or a transform between them has a gap of more than
                `max_gap` s at that time.
        """
        target_from_source = np.eye(4)
        for step in self._chain(target, source):
            if step.edge.fixed:
                parent_from_child = step.edge.fixed.trajectory.poses[-1]
            else:
                try:
                    parent_from_child = step.edge.moving.trajectory.at(stamp_ns, max_gap)
                except RecordingError as error:
                    raise RecordingError(f"TF {step.name}: {error}") from error
            moved = parent_from_child if step.upwards else invert(parent_from_child)
            target_from_source = moved @ target_from_source
        return target_from_source

    def _chain(self, target: str, source: str) -> list[_Step]:
        """Return the edges from `source` up to where both meet, then down to `target`."""
        if (target, source) not in self._chains:
            up, down = self._ancestors(source), self._ancestors(target)
            meeting = next((frame for frame in up if frame in down), None)
            if meeting is None:
                raise RecordingError(self._unconnected(target, source))
            steps = [self._step(frame, True) for frame in up[: up.index(meeting)]]
            steps += [self._step(frame, False) for frame in reversed(down[: down.index(meeting)])]
            self._chains[target, source] = steps
        return self._chains[target, source]

    def _ancestors(self, frame: str) -> list[str]:
        """Return a frame, its parent, its parent's parent and so on."""
        found = [frame]
        while found[-1] in self._edges:
            parents = sorted(self._edges[found[-1]])
            if len(parents) > 1:
                raise RecordingError(f"TF: expected one parent of '{found[-1]}', got {', '.join(parents)}")
            if parents[0] in found:
                raise RecordingError(f"TF: expected a tree, got a loop: {' < '.join([*found, parents[0]])}")
            found.append(parents[0])
        return found

    def _step(self, child: str, upwards: bool) -> _Step:
        (parent, edge), *_ = self._edges[child].items()
        name = f"'{parent}' from '{child}'"
        if edge.fixed:
            if np.ptp(edge.fixed.matrices() + edge.moving.matrices(), axis=0).max() > _SAME:
                raise RecordingError(f"TF {name}: expected one transform as it is static, got several")
        elif not edge.moving:
            raise RecordingError(f"TF {name}: expected transforms, got none that are finite and rigid")
        return _Step(edge, name, upwards)

    def _unconnected(self, target: str, source: str) -> str:
        unknown = [frame for frame in (target, source) if frame not in self.frames]
        known = "; ".join(", ".join(tree) for tree in self._trees()) or "no frames at all"
        what = f"no '{unknown[0]}' among" if unknown else "trees that are not connected:"
        return f"TF: expected '{target}' and '{source}' in one tree, got {what} {known}"

    def _trees(self) -> list[list[str]]:
        """Return the frames, sorted, of each connected part."""
        trees: list[set[str]] = []
        for child, parents in self._edges.items():
            joined = {child, *parents}
            apart = [tree for tree in trees if not tree & joined]
            trees = [*apart, joined.union(*(tree for tree in trees if tree & joined))]
        return sorted(sorted(tree) for tree in trees)


def common_span(spans: Iterable[tuple[int, int]]) -> tuple[int, int]:
    """Return the span (first, last) that lies within all spans; first > last if there is none."""
    first, last = ALWAYS
    for begin, end in spans:
        first, last = max(first, begin), min(last, end)
    return first, last
