"""What the node publishes of an accepted frame, under the image's stamp."""

from __future__ import annotations

import cv2
from geometry_msgs.msg import PoseStamped
from rclpy.node import Node
from sensor_msgs.msg import PointCloud2
from std_msgs.msg import Header
from tf2_ros import TransformBroadcaster

from structpose_ros.geometry import transform_points
from structpose_ros.messages import point_cloud, pose_stamped, transform_stamped
from structpose_ros.parameters import Settings
from structpose_ros.relocalizer import Result


class Outputs:
    """The publishers of a node, for as long as it lives."""

    def __init__(self, node: Node, settings: Settings) -> None:
        self._map_frame = settings.map_frame
        self._pose = node.create_publisher(PoseStamped, "pose", 10)
        self._points = node.create_publisher(PointCloud2, "~/points", 2)
        self._tf = TransformBroadcaster(node) if settings.tf_mode == "map_to_camera" else None

    def publish(self, result: Result, header: Header, camera_frame: str) -> None:
        """Publish an accepted result; `header` is the image's. The cloud only for who listens."""
        assert result.estimate is not None, "accepted without an estimate"
        map_from_camera = result.estimate.map_from_camera
        self._pose.publish(pose_stamped(map_from_camera, header.stamp, self._map_frame))
        if self._tf is not None:
            self._tf.sendTransform(
                transform_stamped(map_from_camera, header.stamp, self._map_frame, camera_frame)
            )
        if self._points.get_subscription_count() > 0:
            self._points.publish(self._cloud(result, header))

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
