"""Remember transforms over time and answer from any frame to any other."""

from __future__ import annotations

import time as system_time
from threading import Condition

import numpy as np
from builtin_interfaces.msg import Time as TimeMessage
from geometry_msgs.msg import TransformStamped
from rclpy.clock import JumpThreshold, TimeJump
from rclpy.duration import Duration
from rclpy.logging import get_logger
from rclpy.node import Node
from rclpy.time import Time

from .cache import FrameCache, Rigid, Sample, seconds
from .exceptions import (
    ConnectivityException,
    ExtrapolationException,
    InvalidArgumentException,
    LookupException,
    TransformException,
)

DEFAULT_CACHE_TIME = 10 * 10**9
QUATERNION_NORM_TOLERANCE = 1e-2


class Buffer:
    """A tree of frames over the last seconds; thread-safe."""

    def __init__(self, cache_time: Duration | None = None, node: Node | None = None) -> None:
        self._cache_time = DEFAULT_CACHE_TIME if cache_time is None else cache_time.nanoseconds
        self._frames: dict[str, FrameCache] = {}
        self._known: set[str] = set()
        self._changed = Condition()
        if node is not None:
            backwards = JumpThreshold(
                min_forward=None, min_backward=Duration(seconds=-1), on_clock_change=True
            )
            self._jump_handle = node.get_clock().create_jump_callback(backwards, post_callback=self._jumped)

    def set_transform(self, transform: TransformStamped, authority: str) -> None:
        """Take in a transform that holds at its stamp."""
        self._insert(transform, authority, static=False)

    def set_transform_static(self, transform: TransformStamped, authority: str) -> None:
        """Take in a transform that holds at all times."""
        self._insert(transform, authority, static=True)

    def clear(self) -> None:
        """Forget everything but the static transforms."""
        with self._changed:
            for cache in self._frames.values():
                if not cache.static:
                    cache.stamps.clear()
                    cache.samples.clear()

    def lookup_transform(
        self, target_frame: str, source_frame: str, time: Time, timeout: Duration = Duration()
    ) -> TransformStamped:
        """Return target_from_source at a time (0: the latest that all frames on the way have in common).

        Waits for it up to the timeout, then raises the TransformException that says why there is none.
        """
        self.can_transform(target_frame, source_frame, time, timeout)
        with self._changed:
            stamp, target_from_source = self._lookup(target_frame, source_frame, time.nanoseconds)
        answer = TransformStamped()
        answer.header.stamp = TimeMessage(sec=stamp // 10**9, nanosec=stamp % 10**9)
        answer.header.frame_id = target_frame
        answer.child_frame_id = source_frame
        translation, rotation = answer.transform.translation, answer.transform.rotation
        translation.x, translation.y, translation.z = target_from_source.translation.tolist()
        rotation.x, rotation.y, rotation.z, rotation.w = target_from_source.quaternion.tolist()
        return answer

    def can_transform(
        self,
        target_frame: str,
        source_frame: str,
        time: Time,
        timeout: Duration = Duration(),
        return_debug_tuple: bool = False,
    ) -> bool | tuple[bool, str]:
        """Tell whether lookup_transform would answer, waiting for it up to the timeout."""
        deadline = system_time.monotonic() + timeout.nanoseconds * 1e-9
        with self._changed:
            while True:
                try:
                    self._lookup(target_frame, source_frame, time.nanoseconds)
                    reason = ""
                except TransformException as error:
                    reason = str(error)
                remaining = deadline - system_time.monotonic()
                if not reason or remaining <= 0.0:
                    break
                self._changed.wait(remaining)
        return (not reason, reason) if return_debug_tuple else not reason

    def get_latest_common_time(self, target_frame: str, source_frame: str) -> Time:
        """Return the newest time at which all frames between the two are known."""
        with self._changed:
            self._check_frames(target_frame, source_frame)
            return Time(nanoseconds=self._latest_common_stamp(target_frame, source_frame))

    def all_frames_as_yaml(self) -> str:
        """Describe every frame that has a parent, as a YAML document."""
        entries = []
        with self._changed:
            for name, cache in self._frames.items():
                if not cache.samples:
                    continue
                length = cache.stamps[-1] - cache.stamps[0]
                entries.append(
                    f"{name}: \n"
                    f"  parent: '{cache.samples[-1].parent}'\n"
                    f"  broadcaster: '{cache.authority}'\n"
                    f"  rate: {len(cache.samples) * 1e9 / max(length, 100_000):.3f}\n"
                    f"  most_recent_transform: {seconds(0 if cache.static else cache.stamps[-1])}\n"
                    f"  oldest_transform: {seconds(0 if cache.static else cache.stamps[0])}\n"
                    f"  buffer_length: {length * 1e-9:.3f}\n"
                )
        return "".join(entries) or "[]"

    def _insert(self, transform: TransformStamped, authority: str, *, static: bool) -> None:
        child, parent = transform.child_frame_id.lstrip("/"), transform.header.frame_id.lstrip("/")
        translation, rotation = transform.transform.translation, transform.transform.rotation
        quaternion = np.array([rotation.x, rotation.y, rotation.z, rotation.w])
        origin = np.array([translation.x, translation.y, translation.z])
        problem = ""
        if not child or not parent:
            problem = "frame_id or child_frame_id is not set"
        elif child == parent:
            problem = "frame_id and child_frame_id are the same"
        elif np.isnan(origin).any() or np.isnan(quaternion).any():
            problem = "it holds NaN"
        elif abs(quaternion @ quaternion - 1.0) > QUATERNION_NORM_TOLERANCE:
            problem = "its quaternion is not of unit length"
        if problem:
            get_logger("tf2_buffer").error(f"Ignoring transform of '{child}' in '{parent}': {problem}")
            return
        stamp = transform.header.stamp.sec * 10**9 + transform.header.stamp.nanosec
        sample = Sample(parent, Rigid(quaternion / np.linalg.norm(quaternion), origin))
        with self._changed:
            cache = self._frames.get(child)
            if cache is None or cache.static != static:
                cache = self._frames[child] = FrameCache(static)
            if not cache.insert(stamp, sample, self._cache_time):
                get_logger("tf2_buffer").warning(f"Ignoring old transform of '{child}' at {seconds(stamp)}")
                return
            cache.authority = authority
            self._known.update((child, parent))
            self._changed.notify_all()

    def _lookup(self, target: str, source: str, stamp: int) -> tuple[int, Rigid]:
        """Return the time of the answer and target_from_source."""
        self._check_frames(target, source)
        if stamp == 0:
            stamp = self._latest_common_stamp(target, source)
        if target == source:
            return stamp, Rigid.identity()
        source_chain, source_error = self._chain(source, stamp)
        target_chain, target_error = self._chain(target, stamp)
        common = next((frame for frame in source_chain if frame in target_chain), None)
        if common is None:
            error = source_error or target_error
            if error is None:
                raise self._unconnected(target, source)
            raise ExtrapolationException(f"from '{source}' to '{target}': {error}")
        return stamp, target_chain[common].inverse() @ source_chain[common]

    def _chain(self, frame: str, stamp: int) -> tuple[dict[str, Rigid], ExtrapolationException | None]:
        """Return ancestor_from_frame for the frame and its ancestors, nearest first.

        The second value says why the chain ends where that is not a root: nothing is known at this time.
        """
        ancestor_from_frame = {frame: Rigid.identity()}
        current = frame
        while (cache := self._frames.get(current)) is not None:
            try:
                sample = cache.at(stamp)
            except ExtrapolationException as error:
                return ancestor_from_frame, error
            if sample is None:
                break
            if sample.parent in ancestor_from_frame:
                raise LookupException(f"the frames form a loop at '{sample.parent}'")
            ancestor_from_frame[sample.parent] = sample.parent_from_frame @ ancestor_from_frame[current]
            current = sample.parent
        return ancestor_from_frame, None

    def _latest_common_stamp(self, target: str, source: str) -> int:
        """Return the oldest of the newest stamps between the frames; 0 where all of them are static."""
        if target == source:
            cache = self._frames.get(source)
            return cache.stamps[-1] if cache is not None and cache.stamps and not cache.static else 0
        source_line, target_line = self._newest_ancestry(source), self._newest_ancestry(target)
        common = next((frame for frame in source_line if frame in target_line), None)
        if common is None:
            raise self._unconnected(target, source)
        between = source_line[: source_line.index(common)] + target_line[: target_line.index(common)]
        changing = [self._frames[frame] for frame in between if not self._frames[frame].static]
        return min((cache.stamps[-1] for cache in changing), default=0)

    def _newest_ancestry(self, frame: str) -> list[str]:
        """Return the frame and its ancestors, nearest first, by each one's newest sample."""
        line = [frame]
        while (cache := self._frames.get(line[-1])) is not None and cache.samples:
            parent = cache.samples[-1].parent
            if parent in line:
                raise LookupException(f"the frames form a loop at '{parent}'")
            line.append(parent)
        return line

    def _check_frames(self, target: str, source: str) -> None:
        for role, frame in (("target_frame", target), ("source_frame", source)):
            if not frame or frame.startswith("/"):
                raise InvalidArgumentException(
                    f"{role} '{frame}': a frame id is never empty and never starts with a slash"
                )
            if frame not in self._known:
                raise LookupException(f"{role} '{frame}' does not exist")

    @staticmethod
    def _unconnected(target: str, source: str) -> ConnectivityException:
        return ConnectivityException(f"'{target}' and '{source}' are in different trees")

    def _jumped(self, jump: TimeJump) -> None:
        get_logger("tf2_buffer").warning("The clock jumped back: forgetting all transforms that change.")
        self.clear()
