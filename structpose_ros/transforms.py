"""What the node takes from TF and what it gives to TF, without ever giving a frame a second parent."""

from __future__ import annotations

import threading
import time
from collections import deque

import numpy as np
import numpy.typing as npt
import tf2_ros
from builtin_interfaces.msg import Time
from geometry_msgs.msg import TransformStamped
from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.time import Time as RosTime

from structpose_ros.geometry import invert
from structpose_ros.messages import (
    nanoseconds_from_stamp,
    target_from_source_of_transform,
    transform_stamped,
)
from structpose_ros.settings import Settings

Array = npt.NDArray[np.float64]
CACHE_TIME = 10.0  # seconds of transforms remembered, also of who gave a frame its parent
ECHOES = 1000  # transforms of its own that the node knows again when it hears them
FARTHEST = 1e8  # metres; TF takes more, even infinity, for a place
SETTLING = 1.0  # seconds of listening until the parents that others give to frames have been heard
HEARING = 0.5  # seconds from when a broadcaster is discovered until what it says has been heard


class TransformError(LookupError):
    """A transform that can't be had or given; `reason` is its name in diagnostics."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class WatchedBuffer(tf2_ros.Buffer):
    """A TF buffer that notes who gives a frame its parent, which no lookup tells, and wakes who waits."""

    def __init__(self) -> None:
        """Remember `CACHE_TIME` seconds."""
        super().__init__(cache_time=Duration(seconds=CACHE_TIME))
        self._arrived = threading.Condition()
        # By child: the parent that somebody else gives it. On /tf_static for good, on /tf until a time.
        self._fixed_parents: dict[str, str] = {}
        self._moving_parents: dict[str, tuple[str, float]] = {}
        self._sent: dict[str, deque[tuple[int, float, float, float]]] = {}  # by child, of the node's own

    def set_transform(self, transform: TransformStamped, authority: str) -> None:
        """Take in a transform of /tf."""
        parent, child = _edge(transform)
        with self._arrived:
            if _fingerprint(transform) not in self._sent.get(child, ()):
                self._moving_parents[child] = (parent, time.monotonic() + CACHE_TIME)
        super().set_transform(transform, authority)
        self._wake()

    def set_transform_static(self, transform: TransformStamped, authority: str) -> None:
        """Take in a transform of /tf_static."""
        parent, child = _edge(transform)
        with self._arrived:
            self._fixed_parents[child] = parent
        super().set_transform_static(transform, authority)
        self._wake()

    def note_sent(self, transform: TransformStamped) -> None:
        """Remember a transform as the node's own before it is sent: its echo is nobody else's."""
        _, child = _edge(transform)
        with self._arrived:
            self._sent.setdefault(child, deque(maxlen=ECHOES)).append(_fingerprint(transform))

    def has_sent(self, child: str) -> bool:
        """Whether the node has given `child` a parent."""
        with self._arrived:
            return child in self._sent

    def parent_by_others(self, child: str) -> str:
        """Return the parent that somebody else gives to `child`, empty if nobody does."""
        with self._arrived:
            parent, until = self._moving_parents.get(child, ("", 0.0))
            return parent if time.monotonic() < until else self._fixed_parents.get(child, "")

    def wait(self, seconds: float) -> None:
        """Wait until a transform arrives, at most `seconds`."""
        with self._arrived:
            self._arrived.wait(seconds)

    def _wake(self) -> None:
        with self._arrived:
            self._arrived.notify_all()


def _edge(transform: TransformStamped) -> tuple[str, str]:
    """Return parent and child; TF takes a leading slash, which old programs write, for nothing."""
    return transform.header.frame_id.lstrip("/"), transform.child_frame_id.lstrip("/")


def _fingerprint(transform: TransformStamped) -> tuple[int, float, float, float]:
    moved = transform.transform.translation
    return nanoseconds_from_stamp(transform.header.stamp), moved.x, moved.y, moved.z


class Transforms:
    """The node's side of TF, by its frames and `tf.mode`.

    settings: replaced when parameters change.
    """

    def __init__(self, node: Node, settings: Settings) -> None:
        """Listen, and broadcast unless `tf.mode` is none."""
        self.settings = settings
        self._node = node
        self._clock = node.get_clock()
        self._buffer = WatchedBuffer()
        self._listener = tf2_ros.TransformListener(self._buffer, node)
        self._broadcaster = None if settings.tf_mode == "none" else tf2_ros.TransformBroadcaster(node)
        self._settled_at = time.monotonic() + SETTLING
        self._known_broadcasters = self._broadcasters()
        self._lock = threading.Lock()  # held until map_to_odom is sent, so that its stamps leave in order
        self._map_from_odom: Array | None = None
        self._last_stamp = 0

    def unsettled(self) -> float:
        """Return for how many seconds more to listen before a frame is given its first parent.

        A transform to a frame that has a static parent replaces that in everybody's buffer, for good; and its
        broadcaster may be discovered seconds later, while a robot starts.
        """
        if self._broadcaster is None:
            return 0.0
        broadcasters, now = self._broadcasters(), time.monotonic()
        if broadcasters > self._known_broadcasters:
            self._known_broadcasters = broadcasters
            self._settled_at = max(self._settled_at, now + HEARING)
        return max(0.0, self._settled_at - now)

    def _broadcasters(self) -> int:
        """Return how many publish transforms, as far as they are discovered."""
        topics = self._listener.tf_sub.topic_name, self._listener.tf_static_sub.topic_name
        return sum(self._node.count_publishers(topic) for topic in topics)

    def forget(self) -> None:
        """Forget what changes over time: the clock was set back."""
        with self._lock:
            self._map_from_odom = None
            self._last_stamp = 0
        self._buffer.clear()

    def forget_odometry_correction(self) -> None:
        """Stop sending map_to_odom until the next pose."""
        with self._lock:
            self._map_from_odom = None

    def camera_from_base(self, camera_frame: str, stamp: Time) -> Array:
        """Return camera_from_base (4, 4) at a time; the identity where there is no base, or the camera is it.

        Raises:
            TransformError: `no_base_transform`.
        """
        base = self.settings.base_frame
        if base in ("", camera_frame):
            return np.eye(4)
        try:
            return self._lookup(camera_frame, base, stamp, self.settings.tf_timeout)
        except tf2_ros.TransformException as error:
            raise TransformError(
                "no_base_transform",
                f"expected a transform from '{base}' to '{camera_frame}' at the image's stamp, got: {error}",
            ) from error

    def odom_from_camera(self, camera_frame: str, stamp: Time) -> Array | None:
        """Return odom_from_camera (4, 4) at a time, None where odometry is not known.

        Only `map_to_odom` waits for it: a pose must not be late for what it can do without.
        """
        odom = self.settings.odom_frame
        if not odom:
            return None
        timeout = self.settings.tf_timeout if self.settings.tf_mode == "map_to_odom" else 0.0
        try:
            return self._lookup(odom, camera_frame, stamp, timeout)
        except tf2_ros.TransformException:
            return None

    def send(
        self,
        map_from_camera: Array,
        stamp: Time,
        camera_frame: str,
        odom_from_camera: Array | None,
        map_from_base: Array | None = None,
    ) -> None:
        """Send the transform that `tf.mode` asks for; none while unsettled, nor `map_to_base` without a base.

        Raises:
            TransformError: `tf_conflict` or `no_odom_transform`; nothing was sent then.
        """
        settings = self.settings
        if settings.tf_mode == "none":
            return
        if settings.tf_mode == "map_to_camera":
            self._broadcast(map_from_camera, stamp, camera_frame)
        elif settings.tf_mode == "map_to_base":
            if map_from_base is not None:
                self._broadcast(map_from_base, stamp, settings.base_frame)
        elif odom_from_camera is None:
            raise TransformError(
                "no_odom_transform",
                f"expected a transform from '{camera_frame}' to '{settings.odom_frame}' at the image's stamp "
                f"within {settings.tf_timeout:g} s, got none",
            )
        else:
            with self._lock:
                self._map_from_odom = map_from_camera @ invert(odom_from_camera)
            self.send_map_to_odom()

    def send_map_to_odom(self) -> None:
        """Send the last correction of the odometry again, stamped `tf.tolerance` ahead, if there is one.

        Raises:
            TransformError: `tf_conflict`.
        """
        with self._lock:
            ahead = self._clock.now() + Duration(seconds=self.settings.tf_tolerance)
            # Simulated time may stand still, and TF warns of repeated data.
            if self._map_from_odom is not None and ahead.nanoseconds > self._last_stamp:
                self._last_stamp = ahead.nanoseconds
                self._broadcast(self._map_from_odom, ahead.to_msg(), self.settings.odom_frame)

    def _broadcast(self, map_from_child: Array, stamp: Time, child: str) -> None:
        map_frame = self.settings.map_frame
        other = self._buffer.parent_by_others(child)
        if other == map_frame:
            raise TransformError(
                "tf_conflict",
                f"expected to be the only one to publish '{map_frame}' -> '{child}', but somebody else does: "
                "stop them, or set tf.mode to 'none'",
            )
        if other:
            raise TransformError(
                "tf_conflict",
                f"expected '{child}' to have no parent, but somebody publishes '{other}' -> '{child}', and a "
                "frame has one parent: choose another tf.mode (map_to_odom, map_to_base, none)",
            )
        if not self._buffer.has_sent(child) and self.unsettled():
            return
        message = transform_stamped(map_from_child, stamp, map_frame, child)
        self._buffer.note_sent(message)
        assert self._broadcaster is not None, "sends with tf.mode none"
        self._broadcaster.sendTransform(message)

    def _lookup(self, target: str, source: str, stamp: Time, timeout: float) -> Array:
        """Return target_from_source at a time; waits only for what is on its way, a newer transform."""
        at = RosTime.from_msg(stamp)
        deadline = time.monotonic() + timeout
        while True:
            try:
                found = self._buffer.lookup_transform(target, source, at)
                target_from_source = target_from_source_of_transform(found.transform)
                if not np.abs(target_from_source).max() < FARTHEST:  # NaN and infinity are not
                    raise tf2_ros.LookupException(f"a translation of {target_from_source[:3, 3].tolist()} m")
                return target_from_source
            except tf2_ros.ExtrapolationException:
                remaining = deadline - time.monotonic()
                if remaining <= 0:
                    raise
                self._buffer.wait(min(remaining, 0.01))
