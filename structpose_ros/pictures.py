"""What the node publishes for people to look at. Each is built only while somebody listens."""

from __future__ import annotations

import threading
from collections import deque

import cv2
import numpy as np
import numpy.typing as npt
from builtin_interfaces.msg import Time
from geometry_msgs.msg import PoseStamped
from nav_msgs.msg import Path
from rclpy.clock import Clock
from sensor_msgs.msg import Image, PointCloud2
from std_msgs.msg import Header
from visualization_msgs.msg import Marker

from structpose_ros.camera import Camera
from structpose_ros.geometry import pose_error, transform_points
from structpose_ros.map_cloud import MapCloud
from structpose_ros.messages import pose_stamped
from structpose_ros.outputs import LATCHED
from structpose_ros.picture_messages import frustum_marker, image_of_numbers, point_cloud
from structpose_ros.qos_watch import QosWatch
from structpose_ros.relocalizer import Result

PATH_LENGTH = 2000  # poses; the oldest go first
PATH_STEP = (0.05, 5.0)  # metres and degrees from one pose of the path to the next


class Pictures:
    """The publishers of a node, for as long as it lives."""

    def __init__(self, watch: QosWatch, clock: Clock, map_frame: str) -> None:
        """Create the publishers; everything but depth and weights is in `map_frame`."""
        self._map_frame = map_frame
        self._clock = clock
        self._points = watch.publisher(PointCloud2, "~/points", 2)
        self._map_points = watch.publisher(PointCloud2, "~/map_points", LATCHED)
        self._depth = watch.publisher(Image, "~/depth", 2)
        self._weights = watch.publisher(Image, "~/weights", 2)
        self._path = watch.publisher(Path, "~/path", 2)
        self._frustum = watch.publisher(Marker, "~/frustum", 2)
        self._lock = threading.Lock()
        self._path_listeners = 0
        self._way: deque[tuple[npt.NDArray[np.float64], Time]] = deque(maxlen=PATH_LENGTH)
        self._way_poses: deque[PoseStamped] | None = None  # the same, while somebody listens
        self._corners_of: tuple[Camera, npt.NDArray[np.float64]] | None = None

    def publish_map(self, cloud: MapCloud | None) -> None:
        """Publish the model's own cloud of its scene, once for all who come later."""
        if cloud is not None:
            now = self._clock.now().to_msg()
            self._map_points.publish(point_cloud(cloud.points, cloud.colors, None, now, self._map_frame))

    def forget(self) -> None:
        """Begin the path anew."""
        with self._lock:
            self._way.clear()
            self._way_poses = None

    def publish(self, result: Result, camera: Camera, header: Header, camera_frame: str) -> None:
        """Publish what somebody listens to of an accepted result; `header` and `camera` are the image's."""
        assert result.estimate is not None, "accepted without an estimate"
        map_from_camera = result.estimate.map_from_camera
        shape = result.points_in_camera.shape[:2]
        self._extend_path(map_from_camera, header)
        if self._points.get_subscription_count() > 0:
            self._points.publish(self._cloud(result, header))
        if self._depth.get_subscription_count() > 0:
            self._depth.publish(image_of_numbers(result.prediction.depth, header.stamp, camera_frame))
        if self._weights.get_subscription_count() > 0:
            weights = result.estimate.weights.reshape(shape)
            self._weights.publish(image_of_numbers(weights, header.stamp, camera_frame))
        if self._frustum.get_subscription_count() > 0:
            self._frustum.publish(
                frustum_marker(
                    map_from_camera,
                    self._corner_rays(camera),
                    result.decision.confidence,
                    header.stamp,
                    self._map_frame,
                )
            )

    def _extend_path(self, map_from_camera: npt.NDArray[np.float64], header: Header) -> None:
        """Add a pose that is far enough from the last; publish when there is news, or a new listener."""
        listeners = self._path.get_subscription_count()
        due = listeners > self._path_listeners
        self._path_listeners = listeners
        with self._lock:
            metres, degrees = pose_error(map_from_camera, self._way[-1][0]) if self._way else (np.inf, np.inf)
            if metres >= PATH_STEP[0] or degrees >= PATH_STEP[1]:
                self._way.append((map_from_camera, header.stamp))
                if self._way_poses is not None:
                    self._way_poses.append(pose_stamped(map_from_camera, header.stamp, self._map_frame))
                due = listeners > 0
            if not listeners:
                self._way_poses = None
            elif self._way_poses is None:
                made = (pose_stamped(*pose, self._map_frame) for pose in self._way)
                self._way_poses = deque(made, maxlen=PATH_LENGTH)
            poses = list(self._way_poses or []) if due else []
        if poses:
            head = Header(stamp=header.stamp, frame_id=self._map_frame)
            self._path.publish(Path(header=head, poses=poses))

    def _cloud(self, result: Result, header: Header) -> PointCloud2:
        """The points that the pose was solved from, where the pose puts them in the map."""
        assert result.estimate is not None, "accepted without an estimate"
        height, width = result.points_in_camera.shape[:2]
        colors = cv2.resize(result.image_rgb, (width, height), interpolation=cv2.INTER_AREA).reshape(-1, 3)
        points_in_camera = result.points_in_camera.reshape(-1, 3)
        seen = points_in_camera[:, 2] > 0  # cells that no ray reaches have no depth
        points_in_map = transform_points(result.estimate.map_from_camera, points_in_camera[seen])
        weights = result.estimate.weights[seen]
        return point_cloud(points_in_map, colors[seen], weights, header.stamp, self._map_frame)

    def _corner_rays(self, camera: Camera) -> npt.NDArray[np.float64]:
        """Rays (4, 3) through the image's corners; a pinhole's where a wide lens doesn't reach them."""
        if self._corners_of is None or self._corners_of[0] != camera:
            right, bottom = camera.width - 0.5, camera.height - 0.5
            corners = np.array([[-0.5, -0.5], [right, -0.5], [right, bottom], [-0.5, bottom]])
            rays = camera.rays(corners)
            pinhole = Camera(camera.width, camera.height, camera.fx, camera.fy, camera.cx, camera.cy)
            rays = np.where(np.isfinite(rays), rays, pinhole.rays(corners))
            self._corners_of = (camera, rays)
        return self._corners_of[1]
