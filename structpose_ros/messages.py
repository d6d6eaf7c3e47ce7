"""NumPy to ROS messages and back: the only file that knows both."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import cv2
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
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header

from structpose_ros.camera import COEFFICIENTS, Camera, CameraError
from structpose_ros.gate import Prior
from structpose_ros.geometry import quaternion_from_rotation, rotation_from_quaternion, transform

ImageRgb = npt.NDArray[np.uint8]
Pixels = npt.NDArray[np.unsignedinteger]


class ImageMessageError(ValueError):
    """An image message that can't be read; the message says what was expected and what came."""


@dataclass(frozen=True)
class _Encoding:
    """How pixels lie in `data` and how they become RGB."""

    channels: int
    to_rgb: Callable[[Pixels], npt.NDArray[np.integer]]
    bytes_per_channel: int = 1


def _opencv(code: int) -> Callable[[Pixels], npt.NDArray[np.integer]]:
    return lambda pixels: np.asarray(cv2.cvtColor(pixels, code))


def _high_byte(pixels: Pixels) -> npt.NDArray[np.integer]:
    return np.asarray(cv2.cvtColor((pixels >> 8).astype(np.uint8), cv2.COLOR_GRAY2RGB))


# 8UC1 and 8UC3 name no colours: they are taken for grey and BGR, as OpenCV and RViz do. ROS names a Bayer
# pattern after the first two pixels of its first two rows, OpenCV after the second and third of its second.
_ENCODINGS = {
    "rgb8": _Encoding(3, lambda pixels: pixels),
    "bgr8": _Encoding(3, _opencv(cv2.COLOR_BGR2RGB)),
    "8UC3": _Encoding(3, _opencv(cv2.COLOR_BGR2RGB)),
    "rgba8": _Encoding(4, _opencv(cv2.COLOR_RGBA2RGB)),
    "bgra8": _Encoding(4, _opencv(cv2.COLOR_BGRA2RGB)),
    "mono8": _Encoding(1, _opencv(cv2.COLOR_GRAY2RGB)),
    "8UC1": _Encoding(1, _opencv(cv2.COLOR_GRAY2RGB)),
    "mono16": _Encoding(1, _high_byte, bytes_per_channel=2),
    "bayer_rggb8": _Encoding(1, _opencv(cv2.COLOR_BayerBG2RGB)),
    "bayer_bggr8": _Encoding(1, _opencv(cv2.COLOR_BayerRG2RGB)),
    "bayer_gbrg8": _Encoding(1, _opencv(cv2.COLOR_BayerGR2RGB)),
    "bayer_grbg8": _Encoding(1, _opencv(cv2.COLOR_BayerGB2RGB)),
    "yuv422": _Encoding(2, _opencv(cv2.COLOR_YUV2RGB_UYVY)),
    "uyvy": _Encoding(2, _opencv(cv2.COLOR_YUV2RGB_UYVY)),
    "yuv422_yuy2": _Encoding(2, _opencv(cv2.COLOR_YUV2RGB_YUY2)),
    "yuyv": _Encoding(2, _opencv(cv2.COLOR_YUV2RGB_YUY2)),
}
_DEPTH_ENCODINGS = ("16UC1", "32FC1", "64FC1")


def image_rgb_from_message(message: Image) -> ImageRgb:
    """Return the image (H, W, 3) as RGB. An rgb8 image is a view into the message, whatever its row step.

    Raises:
        ImageMessageError: its size, step, data or encoding is not usable.
    """
    if message.height < 1 or message.width < 1:
        raise ImageMessageError(f"expected an image of at least 1x1, got {message.width}x{message.height}")
    if message.encoding in _DEPTH_ENCODINGS:
        raise ImageMessageError(
            f"expected a colour or grey image, got {message.encoding}: is it a depth image?"
        )
    encoding = _ENCODINGS.get(message.encoding)
    if encoding is None:
        return _image_by_cv_bridge(message)
    try:
        image = encoding.to_rgb(_pixels(message, encoding))
    except cv2.error as error:
        raise ImageMessageError(
            f"expected a size that {message.encoding} can have, got {message.width}x{message.height}"
        ) from error
    return np.asarray(image, dtype=np.uint8)


def _pixels(message: Image, encoding: _Encoding) -> Pixels:
    """View the message's data as (H, W, channels), or (H, W) for one channel; no copy."""
    pixel_bytes = encoding.channels * encoding.bytes_per_channel
    if message.step < message.width * pixel_bytes:
        raise ImageMessageError(
            f"expected a step of at least {message.width * pixel_bytes} bytes for {message.width} pixels of "
            f"{message.encoding}, got {message.step}"
        )
    if len(message.data) != message.step * message.height:
        raise ImageMessageError(
            f"expected {message.step * message.height} bytes of data (step {message.step} x height "
            f"{message.height}), got {len(message.data)}"
        )
    shape = (message.height, message.width, encoding.channels)
    strides = (message.step, pixel_bytes, encoding.bytes_per_channel)
    dtype = np.dtype(f"{'>' if message.is_bigendian else '<'}u{encoding.bytes_per_channel}")
    pixels: Pixels = np.ndarray(shape, dtype, buffer=np.frombuffer(message.data, np.uint8), strides=strides)
    return pixels[..., 0] if encoding.channels == 1 else pixels


def _image_by_cv_bridge(message: Image) -> ImageRgb:
    try:
        from cv_bridge import CvBridge  # absent on many machines, and needed by few cameras
    except ImportError as error:
        raise ImageMessageError(
            f"expected an encoding of {', '.join(_ENCODINGS)} (or cv_bridge installed for others), "
            f"got '{message.encoding}'"
        ) from error
    try:
        return np.asarray(CvBridge().imgmsg_to_cv2(message, "rgb8"), dtype=np.uint8)
    except Exception as error:  # cv_bridge raises its own error, KeyError, TypeError and cv2.error
        raise ImageMessageError(
            f"expected an encoding that cv_bridge turns into rgb8, got '{message.encoding}': {error}"
        ) from error


def camera_from_info(message: CameraInfo) -> Camera:
    """Return the camera of the images that come with this CameraInfo: K and D, then region and binning.

    K belongs to the full resolution; the region of interest is in its pixels and is cut out before binning.

    Raises:
        CameraError: the camera is not calibrated, or its model, coefficients or region are not usable.
    """
    k = [float(value) for value in message.k]
    if not any(k):
        raise CameraError("expected a calibrated camera, got K with zeros only: the camera is uncalibrated")
    if not all(map(math.isfinite, k)):
        raise CameraError(f"expected a calibrated camera, got K with NaN or infinity: {k}")
    if abs(k[1]) > 1e-6 * abs(k[0]):
        raise CameraError(f"expected K without skew, got K[0][1] = {k[1]}")
    model, distortion = _distortion(message)
    camera = Camera(message.width, message.height, k[0], k[4], k[2], k[5], model, distortion)
    roi = message.roi
    if roi.width or roi.height:
        camera = camera.cropped(roi.x_offset, roi.y_offset, roi.width, roi.height)
    elif roi.x_offset or roi.y_offset:
        raise CameraError(
            f"expected a region of interest with a size, got 0x0 at ({roi.x_offset}, {roi.y_offset})"
        )
    across, down = max(message.binning_x, 1), max(message.binning_y, 1)
    if (across, down) == (1, 1):
        return camera
    return camera.resized(camera.width // across, camera.height // down)


def _distortion(message: CameraInfo) -> tuple[str, tuple[float, ...]]:
    """Distortion model and coefficients; an empty model without coefficients means none."""
    model, distortion = message.distortion_model, tuple(float(value) for value in message.d)
    if not model and not any(distortion):
        return "plumb_bob", ()
    # Some drivers send as many coefficients as OpenCV's rational model can have, 14: zeros say nothing.
    longest = max(COEFFICIENTS.get(model, (0,)))
    if not any(distortion[longest:]):
        distortion = distortion[:longest]
    return model, distortion


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


def map_from_camera_of_pose(pose: Pose) -> npt.NDArray[np.float64]:
    """Return the (4, 4) transform of a Pose of the camera, or of anything else, in the map.

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
    return Prior(map_from_camera_of_pose(message.pose.pose), covariance)


def pose_of(target_from_source: npt.NDArray[np.float64]) -> Pose:
    """Return a transform as the Pose of its source frame in its target frame."""
    moved = _transform(target_from_source)
    position = Point(x=moved.translation.x, y=moved.translation.y, z=moved.translation.z)
    return Pose(position=position, orientation=moved.rotation)


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
    x, y, z = (float(value) for value in target_from_source[:3, 3])
    qx, qy, qz, qw = (float(value) for value in quaternion_from_rotation(target_from_source[:3, :3]))
    return Transform(translation=Vector3(x=x, y=y, z=z), rotation=Quaternion(x=qx, y=qy, z=qz, w=qw))


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
