"""NumPy to the ROS messages that people look at: clouds, images of numbers, the camera's frustum."""

from __future__ import annotations

import array

import numpy as np
import numpy.typing as npt
from builtin_interfaces.msg import Time
from geometry_msgs.msg import Point
from sensor_msgs.msg import Image, PointCloud2, PointField
from sensor_msgs_py import point_cloud2
from std_msgs.msg import ColorRGBA, Header
from visualization_msgs.msg import Marker

from structpose_ros.messages import pose_of

POINT_FIELDS = ("x", "y", "z", "rgb", "weight")
FRUSTUM_DEPTH = 0.3  # metres


def point_cloud(
    points: npt.NDArray[np.floating],
    colors: npt.NDArray[np.number],
    weights: npt.NDArray[np.floating] | None,
    stamp: Time,
    frame: str,
) -> PointCloud2:
    """Return a cloud of points (N, 3) m with colours (N, 3) RGB, and weights (N,) if given, as float32.

    `rgb` holds the bytes 0 R G B of an integer as a float32, which is how PCL and RViz want it.
    """
    packed = colors.astype(np.uint32) @ np.array([1 << 16, 1 << 8, 1], dtype=np.uint32)
    names = POINT_FIELDS if weights is not None else POINT_FIELDS[:-1]
    columns = np.empty((len(points), len(names)), dtype=np.float32)
    columns[:, :3] = points
    columns.view(np.uint32)[:, 3] = packed
    if weights is not None:
        columns[:, 4] = weights
    fields = [
        PointField(name=name, offset=4 * index, datatype=PointField.FLOAT32, count=1)
        for index, name in enumerate(names)
    ]
    return point_cloud2.create_cloud(Header(stamp=stamp, frame_id=frame), fields, columns)


def image_of_numbers(values: npt.NDArray[np.floating], stamp: Time, frame: str) -> Image:
    """Return an image (h, w) of float32 values, encoding 32FC1."""
    height, width = values.shape
    message = Image(header=Header(stamp=stamp, frame_id=frame), height=height, width=width)
    message.encoding, message.step, message.is_bigendian = "32FC1", 4 * width, 0
    # From an array, not from bytes: rclpy checks those one by one.
    message.data = array.array("B", np.ascontiguousarray(values, dtype="<f4").tobytes())
    return message


def frustum_marker(
    map_from_camera: npt.NDArray[np.float64],
    corner_rays: npt.NDArray[np.float64],
    confidence: float,
    stamp: Time,
    map_frame: str,
) -> Marker:
    """Return the camera's field of view as lines, red at confidence 0, yellow at 0.5, green at 1.

    corner_rays: (4, 3), z = 1, camera frame, around the image.
    """
    marker = Marker(header=Header(stamp=stamp, frame_id=map_frame), ns="camera", id=0)
    marker.type, marker.action = Marker.LINE_LIST, Marker.ADD
    marker.pose = pose_of(map_from_camera)
    marker.scale.x = 0.02  # the lines' width in metres
    red, green = min(1.0, 2.0 * (1.0 - confidence)), min(1.0, 2.0 * confidence)
    marker.color = ColorRGBA(r=red, g=green, b=0.0, a=1.0)
    centre = Point()
    corners = [Point(x=x, y=y, z=z) for x, y, z in (FRUSTUM_DEPTH * corner_rays).tolist()]
    for corner, following in zip(corners, [*corners[1:], corners[0]], strict=True):
        marker.points.extend([centre, corner, corner, following])
    return marker
