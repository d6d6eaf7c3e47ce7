"""How other packages read a localisation pose: a few lines for each, after its sources (docs/integration.md).

Each takes a message and what TF answers, and returns what the package goes on with, or why it doesn't.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt
from geometry_msgs.msg import PoseWithCovarianceStamped

from structpose_ros.geometry import invert, rotation_from_quaternion, transform

Array = npt.NDArray[np.float64]
PLANE = [0, 1, 5]  # x, y and yaw of the six


class Lookup(Protocol):
    """TF: target_from_source (4, 4) at a time in nanoseconds (None: the latest); None where there is none."""

    def __call__(self, target: str, source: str, at: int | None) -> Array | None: ...


@dataclass(frozen=True)
class Reading:
    """What a package took from a message.

    refused: why nothing was taken; empty otherwise. warnings: what it complains of and takes nevertheless.
    map_from_base: (4, 4), in the package's own frame. covariance: (6, 6) as it is used; where the package
        reads a part only, the rest is NaN; all of it where it reads none.
    used: which of x y z roll pitch yaw are used.
    """

    refused: str = ""
    warnings: tuple[str, ...] = ()
    map_from_base: Array = field(default_factory=lambda: np.full((4, 4), math.nan))
    covariance: Array = field(default_factory=lambda: np.full((6, 6), math.nan))
    used: tuple[bool, ...] = (True,) * 6

    @property
    def planar(self) -> tuple[float, float, float]:
        """x, y and yaw."""
        x, y, _ = self.map_from_base[:3, 3]
        return float(x), float(y), roll_pitch_yaw(self.map_from_base[:3, :3])[2]


def pose_of(message: PoseWithCovarianceStamped) -> Array:
    """The message's pose as it stands, (4, 4)."""
    p, q = message.pose.pose.position, message.pose.pose.orientation
    return transform(rotation_from_quaternion([q.x, q.y, q.z, q.w]), [p.x, p.y, p.z])


def covariance_of(message: PoseWithCovarianceStamped) -> Array:
    """The message's covariance (6, 6)."""
    return np.array(message.pose.covariance, dtype=np.float64).reshape(6, 6)


def stamp_of(message: PoseWithCovarianceStamped) -> int:
    """The message's stamp in nanoseconds."""
    return int(message.header.stamp.sec) * 10**9 + int(message.header.stamp.nanosec)


def roll_pitch_yaw(rotation: Array) -> tuple[float, float, float]:
    """Angles about the fixed axes x, y, z, as tf2's getRPY gives them."""
    pitch = math.asin(min(1.0, max(-1.0, -rotation[2, 0])))
    return (
        math.atan2(rotation[2, 1], rotation[2, 2]),
        pitch,
        math.atan2(rotation[1, 0], rotation[0, 0]),
    )


def moved(lookup: Lookup, base: str, odom: str, to: int, since: int) -> Array | None:
    """base at `to` from base at `since`, by the odometry: tf2's lookup through a fixed frame."""
    odom_from_to, odom_from_since = lookup(odom, base, to), lookup(odom, base, since)
    if odom_from_to is None or odom_from_since is None:
        return None
    return invert(odom_from_to) @ odom_from_since


def amcl_reads(
    message: PoseWithCovarianceStamped,
    lookup: Lookup,
    now: int,
    *,
    global_frame: str = "map",
    odom_frame: str = "odom",
    base_frame: str = "base_link",
    signs_matter: bool = False,
    cells: tuple[int, int] | None = None,
) -> Reading:
    """Nav2's AMCL, `initialpose`: initialPoseReceived and handleInitialPose.

    signs_matter: as Lyrical and Rolling, which refuse a covariance with any negative entry; Humble, Jazzy and
    Kilted take them. cells: size of the map, if there is one yet; compared to metres, as AMCL does.
    """
    q, covariance = message.pose.pose.orientation, covariance_of(message)
    numbers = [*_position(message), q.x, q.y, q.z, q.w, *covariance.reshape(-1)]
    malformed = (
        not message.header.frame_id
        or not np.isfinite(numbers).all()
        or abs(q.x**2 + q.y**2 + q.z**2 + q.w**2 - 1.0) >= 1e-4
        or (signs_matter and (covariance.min() < 0 or covariance.max() > 1e9))
    )
    if malformed:
        return Reading("malformed")
    if message.header.frame_id != global_frame:
        return Reading(f"in frame '{message.header.frame_id}', expected '{global_frame}'")
    x, y, _ = _position(message)
    if cells is not None and (abs(x) > cells[0] or abs(y) > cells[1]):
        return Reading("out of the map")
    motion = moved(lookup, base_frame, odom_frame, to=stamp_of(message), since=now)
    warnings = () if motion is not None else ("motion since the stamp is not known",)
    map_from_base = pose_of(message) @ (np.eye(4) if motion is None else motion)
    taken = np.full((6, 6), math.nan)
    taken[np.ix_(PLANE, PLANE)] = 0.0  # yaw is not correlated with x and y
    taken[:2, :2], taken[5, 5] = covariance[:2, :2], covariance[5, 5]
    return Reading("", warnings, map_from_base, taken, _only(PLANE))


def particle_spread(reading: Reading) -> Array:
    """Standard deviations (3,) of AMCL's particles along their ellipsoid's axes; NaN where they are NaN."""
    with np.errstate(invalid="ignore"):
        return np.sqrt(np.linalg.eigvalsh(reading.covariance[np.ix_(PLANE, PLANE)]))


def robot_localization_reads(
    message: PoseWithCovarianceStamped,
    lookup: Lookup,
    *,
    config: Sequence[bool] = (True,) * 6,
    world_frame: str = "map",
    two_d_mode: bool = False,
    last_set_pose: int = 0,
) -> Reading:
    """robot_localization's `poseN`, neither differential nor relative: preparePose, forceTwoD and correct.

    `covariance` is that of the correction, NaN where the axis is not used.
    """
    if stamp_of(message) <= last_set_pose:
        return Reading("not newer than the last set_pose")
    world_from_frame = _world_from(message.header.frame_id or world_frame, world_frame, message, lookup)
    if world_from_frame is None:
        return Reading(f"no transform from '{message.header.frame_id}' to '{world_frame}'")
    rotation = world_from_frame[:3, :3]
    used = np.concatenate(
        [
            np.linalg.norm(rotation * np.asarray(config[part], dtype=float), axis=1) >= 1e-6
            for part in (slice(0, 3), slice(3, 6))
        ]
    )
    both = np.kron(np.eye(2), rotation)
    covariance = both @ covariance_of(message) @ both.T
    world_from_base = world_from_frame @ pose_of(message)
    used[:3] &= np.isfinite(world_from_base[:3, 3])
    if two_d_mode:
        x, y, _ = world_from_base[:3, 3]
        world_from_base = _flat(x, y, roll_pitch_yaw(world_from_base[:3, :3])[2])
        covariance[[2, 3, 4], [2, 3, 4]] = 1e-6  # and what stands beside the diagonal stays
        used[[2, 3, 4]] = True
    diagonal = np.abs(np.diag(covariance))
    covariance[range(6), range(6)] = np.where(diagonal < 1e-9, 1e-9, diagonal)
    covariance[~used, :] = covariance[:, ~used] = math.nan
    return Reading("", (), world_from_base, covariance, tuple(bool(axis) for axis in used))


def robot_localization_is_set_to(
    message: PoseWithCovarianceStamped, lookup: Lookup, *, world_frame: str = "map"
) -> Reading:
    """robot_localization's `set_pose`: the state becomes this, its covariance raw; without TF the origin."""
    world_from_frame = _world_from(message.header.frame_id or world_frame, world_frame, message, lookup)
    if world_from_frame is None:
        return Reading("", ("set to the origin",), np.eye(4), 1e-6 * np.eye(6))
    both = np.kron(np.eye(2), world_from_frame[:3, :3])
    return Reading("", (), world_from_frame @ pose_of(message), both @ covariance_of(message) @ both.T)


def rtabmap_initialpose_reads(
    message: PoseWithCovarianceStamped, lookup: Lookup, *, map_frame: str = "map", localization: bool = True
) -> Reading:
    """RTAB-Map's `initialpose`: CoreWrapper::initialPoseCallback and Rtabmap::setInitialPose."""
    map_from_frame: Array | None = np.eye(4)
    warnings: tuple[str, ...] = ()
    frame = message.header.frame_id
    if not frame:
        warnings = (f"no frame_id, taken as '{map_frame}'",)
    elif frame != map_frame:
        map_from_frame = lookup(map_frame, frame, stamp_of(message))
    if map_from_frame is None:
        return Reading(f"no transform from '{frame}' to '{map_frame}'")
    if not localization:
        return Reading("not in localization mode (Mem/IncrementalMemory is true)")
    return Reading("", warnings, map_from_frame @ pose_of(message))


def rtabmap_global_pose_reads(
    message: PoseWithCovarianceStamped,
    lookup: Lookup,
    data_stamp: int,
    *,
    base_frame: str = "base_link",
    odom_frame: str = "odom",
    rate: float = 1.0,
) -> Reading:
    """RTAB-Map's `global_pose`: CoreWrapper::process and the Link in the graph that it becomes.

    The header's frame is that of the *sensor* whose pose in the map it is. `covariance` is the inverse of the
    information that the graph gets; NaN rows mark what a variance of 9999 switches off.
    """
    if abs(stamp_of(message) - data_stamp) >= 1e9 / rate:
        return Reading("further from the data than one update")
    sensor_from_base = lookup(message.header.frame_id, base_frame, data_stamp)
    if sensor_from_base is None:
        return Reading(f"no transform from '{base_frame}' to '{message.header.frame_id}'")
    information = _opencv_inverse(covariance_of(message))
    diagonal = np.diag(information)
    if not np.isfinite(diagonal).all() or (diagonal <= 0).any():
        return Reading("assertion failed: the information's diagonal is not positive")
    covariance = np.linalg.inv(information)
    used = np.ones(6, dtype=bool)
    if (1.0 / diagonal[3:] >= 9999.0).any():
        used[3:] = False
        covariance[3:, :] = covariance[:, 3:] = math.nan
    map_from_base = pose_of(message) @ sensor_from_base
    # From the pose's time to the data's, where the data's to the pose's would be right.
    motion = moved(lookup, base_frame, odom_frame, to=data_stamp, since=stamp_of(message))
    warnings = () if motion is not None else ("motion between the stamps is not known",)
    map_from_base = map_from_base if motion is None else map_from_base @ motion
    return Reading("", warnings, map_from_base, covariance, tuple(bool(axis) for axis in used))


def slam_toolbox_reads(message: PoseWithCovarianceStamped) -> Reading:
    """slam_toolbox's `initialpose` in localization: x, y and yaw, whatever the frame, for the next scan."""
    x, y, _ = _position(message)
    yaw = roll_pitch_yaw(pose_of(message)[:3, :3])[2]
    return Reading("", (), _flat(x, y, yaw), used=_only(PLANE))


def cuvslam_reads(message: PoseWithCovarianceStamped, lookup: Lookup, *, map_frame: str = "map") -> Reading:
    """isaac_ros_visual_slam's `visual_slam/initial_pose`: where to begin the search in its own map."""
    map_from_frame = lookup(map_frame, message.header.frame_id, None)
    if map_from_frame is None:
        return Reading("exception: no transform to the map")
    return Reading("", (), map_from_frame @ pose_of(message))


def autoware_ekf_reads(
    message: PoseWithCovarianceStamped, *, pose_frame: str = "map", smoothing_steps: int = 5
) -> Reading:
    """Autoware's ekf_localizer, `in_pose_with_covariance`: x, y, yaw together; z, roll, pitch each alone."""
    frame = message.header.frame_id
    warnings = () if frame == pose_frame else (f"in frame '{frame}', taken as '{pose_frame}'",)
    covariance = covariance_of(message)
    taken = np.diag(np.diag(covariance))
    taken[np.ix_(PLANE, PLANE)] = covariance[np.ix_(PLANE, PLANE)]
    map_from_base = pose_of(message)
    if not np.isfinite([*map_from_base[:2, 3], roll_pitch_yaw(map_from_base[:3, :3])[2]]).all():
        return Reading("NaN or infinity")
    return Reading("", warnings, map_from_base, smoothing_steps * taken)


def _position(message: PoseWithCovarianceStamped) -> tuple[float, float, float]:
    position = message.pose.pose.position
    return position.x, position.y, position.z


def _flat(x: float, y: float, yaw: float) -> Array:
    c, s = math.cos(yaw), math.sin(yaw)
    return transform([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]], [x, y, 0.0])


def _only(axes: Sequence[int]) -> tuple[bool, ...]:
    return tuple(axis in axes for axis in range(6))


def _world_from(frame: str, world: str, message: PoseWithCovarianceStamped, lookup: Lookup) -> Array | None:
    """robot_localization's lookupTransformSafe: at the stamp, else the latest; a frame to itself always."""
    for at in (stamp_of(message), None):
        world_from_frame = lookup(world, frame, at)
        if world_from_frame is not None:
            return world_from_frame
    return np.eye(4) if frame == world else None


def _opencv_inverse(matrix: Array) -> Array:
    """cv::Mat::inv: zeros for a singular matrix."""
    try:
        return np.linalg.inv(matrix)
    except np.linalg.LinAlgError:
        return np.zeros_like(matrix)
