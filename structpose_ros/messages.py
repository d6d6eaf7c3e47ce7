"""NumPy to ROS messages and back; camera_info, image_messages and picture_messages have the larger ones."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from builtin_interfaces.msg import Time
from geometry_msgs.msg import (
    Point,
    Pose,
    PoseStamped,
    PoseWithCovarianceStamped,
    Quaternion,
    Transform,
    TransformStamped,
    Vector3,
)
from sensor_msgs.msg import CameraInfo
from std_msgs.msg import Header

from structpose_ros.camera import Camera
from structpose_ros.gate import Prior
from structpose_ros.geometry import quaternion_from_rotation, rotation_from_quaternion, transform


def camera_info_from_camera(camera: Camera, stamp: Time, frame: str) -> CameraInfo:
    """Return the CameraInfo of a camera whose images are not rectified further (R identity, P = K)."""
    k = [float(value) for value in camera.matrix.reshape(-1)]
    return CameraInfo(
        header=Header(stamp=stamp, frame_id=frame),
        width=camera.width,
        height=camera.height,
        distortion_model=camera.distortion_model,
        d=list(camera.distortion),
        k=k,
        r=[1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0],
        p=[*k[:3], 0.0, *k[3:6], 0.0, *k[6:], 0.0],
    )


def target_from_source_of_pose(pose: Pose) -> npt.NDArray[np.float64]:
    """Return the (4, 4) transform that a Pose means, of its source frame in its target frame.

    Raises:
        ValueError: a position that is not finite, or a quaternion without a direction.
    """
    q, t = pose.orientation, pose.position
    position = [t.x, t.y, t.z]
    if not all(map(math.isfinite, position)):
        raise ValueError(f"expected a finite position, got {position}")
    return transform(rotation_from_quaternion([q.x, q.y, q.z, q.w]), position)


def target_from_source_of_transform(message: Transform) -> npt.NDArray[np.float64]:
    """Return the (4, 4) transform that a Transform message means."""
    q, t = message.rotation, message.translation
    return transform(rotation_from_quaternion([q.x, q.y, q.z, q.w]), [t.x, t.y, t.z])


def pose_stamped(map_from_camera: npt.NDArray[np.float64], stamp: Time, map_frame: str) -> PoseStamped:
    """Return the pose of the camera in the map."""
    return PoseStamped(header=Header(stamp=stamp, frame_id=map_frame), pose=pose_of(map_from_camera))


def pose_with_covariance_stamped(
    map_from_base: npt.NDArray[np.float64],
    covariance: npt.NDArray[np.float64],
    stamp: Time,
    map_frame: str,
) -> PoseWithCovarianceStamped:
    """Return the pose of the base in the map; `covariance` (6, 6) x y z rx ry rz about the map's axes."""
    message = PoseWithCovarianceStamped(header=Header(stamp=stamp, frame_id=map_frame))
    message.pose.pose = pose_of(map_from_base)
    message.pose.covariance = covariance.reshape(-1).tolist()
    return message


def prior_from_message(message: PoseWithCovarianceStamped, map_frame: str) -> Prior | None:
    """Return the prior of the base's pose, None for a message without one.

    An empty message, without frame and covariance, is how cuVSLAM asks for a pose (`trigger_hint`).

    Raises:
        ValueError: another frame than the map's; a pose or covariance that isn't finite; a negative variance.
    """
    covariance = np.array(message.pose.covariance, dtype=np.float64).reshape(6, 6)
    if not message.header.frame_id and not covariance.any():
        return None
    if message.header.frame_id != map_frame:
        raise ValueError(f"expected a prior in '{map_frame}', got one in '{message.header.frame_id}'")
    variances = np.diag(covariance)
    if not np.isfinite(covariance).all() or (variances < 0).any():
        raise ValueError(f"expected finite variances of at least 0, got {variances.tolist()}")
    return Prior(target_from_source_of_pose(message.pose.pose), covariance)


def pose_of(target_from_source: npt.NDArray[np.float64]) -> Pose:
    """Return a transform as the Pose of its source frame in its target frame."""
    x, y, z = target_from_source[:3, 3].tolist()
    return Pose(position=Point(x=x, y=y, z=z), orientation=_quaternion(target_from_source))


def transform_stamped(
    map_from_camera: npt.NDArray[np.float64], stamp: Time, map_frame: str, camera_frame: str
) -> TransformStamped:
    """Return the transform with the map as parent and the camera as child."""
    return TransformStamped(
        header=Header(stamp=stamp, frame_id=map_frame),
        child_frame_id=camera_frame,
        transform=_transform(map_from_camera),
    )


def _transform(target_from_source: npt.NDArray[np.float64]) -> Transform:
    x, y, z = target_from_source[:3, 3].tolist()
    return Transform(translation=Vector3(x=x, y=y, z=z), rotation=_quaternion(target_from_source))


def _quaternion(target_from_source: npt.NDArray[np.float64]) -> Quaternion:
    x, y, z, w = quaternion_from_rotation(target_from_source[:3, :3]).tolist()
    return Quaternion(x=x, y=y, z=z, w=w)


def nanoseconds_from_stamp(stamp: Time) -> int:
    """Return the stamp as integer nanoseconds: exact, and a key to match messages by."""
    return int(stamp.sec) * 1_000_000_000 + int(stamp.nanosec)


def seconds_from_stamp(stamp: Time) -> float:
    """Return the stamp in seconds; a float64 holds today's time to 0.2 microseconds."""
    return int(stamp.sec) + 1e-9 * int(stamp.nanosec)


def stamp_from_seconds(seconds: float) -> Time:
    """Return the stamp nearest to a time in seconds that is not negative."""
    nanoseconds = round(seconds * 1e9)
    return Time(sec=nanoseconds // 1_000_000_000, nanosec=nanoseconds % 1_000_000_000)
