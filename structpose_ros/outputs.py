"""What the node publishes of a pose for other programs, under the image's stamp."""

from __future__ import annotations

import threading

import numpy as np
import numpy.typing as npt
from builtin_interfaces.msg import Time
from geometry_msgs.msg import PoseStamped, PoseWithCovarianceStamped
from rclpy.qos import DurabilityPolicy, QoSProfile
from std_msgs.msg import Bool

from structpose_ros.covariance import without_correlations
from structpose_ros.messages import pose_stamped, pose_with_covariance_stamped
from structpose_ros.qos_watch import QosWatch

Array = npt.NDArray[np.float64]
LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)


class Outputs:
    """The publishers of a node, for as long as it lives."""

    def __init__(self, watch: QosWatch, map_frame: str) -> None:
        """Create the publishers; poses are in `map_frame`."""
        self._map_frame = map_frame
        self._pose = watch.publisher(PoseStamped, "pose", 10)
        self._pose_with_covariance = watch.publisher(PoseWithCovarianceStamped, "pose_with_covariance", 10)
        self._initialpose = watch.publisher(PoseWithCovarianceStamped, "initialpose", 10)
        self._localized = watch.publisher(Bool, "~/localized", LATCHED)
        self._lock = threading.Lock()
        self._last_localized: bool | None = None

    def publish_pose(self, map_from_camera: Array, stamp: Time) -> None:
        """Publish the camera's pose."""
        self._pose.publish(pose_stamped(map_from_camera, stamp, self._map_frame))

    def publish_base(self, map_from_base: Array, covariance: Array, stamp: Time, *, hand_off: bool) -> None:
        """Publish the base's pose with its covariance (6, 6), and as `initialpose` where it is handed off.

        `initialpose` has variances only: newer AMCLs refuse a negative entry anywhere, and correlations of
        the ground's x, y and yaw with z, roll and pitch mean nothing to them.
        """
        message = pose_with_covariance_stamped(map_from_base, covariance, stamp, self._map_frame)
        self._pose_with_covariance.publish(message)
        if hand_off:
            variances = without_correlations(covariance)
            self._initialpose.publish(
                pose_with_covariance_stamped(map_from_base, variances, stamp, self._map_frame)
            )

    def publish_localized(self, localized: bool) -> None:
        """Publish whether the robot knows where it is, if that changed."""
        with self._lock:
            if localized != self._last_localized:
                self._last_localized = localized
                self._localized.publish(Bool(data=localized))
