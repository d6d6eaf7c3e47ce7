"""The camera that a sensor_msgs/CameraInfo describes; of the message only its fields are used."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from structpose_ros.camera import COEFFICIENTS, Camera, CameraError

_LEAST_REACH = 0.25  # share of the image; a fisheye lens may fill a circle of it


class CameraInfoMessage(Protocol):
    """The fields of sensor_msgs/CameraInfo, whichever library the message comes from."""

    width: int
    height: int
    distortion_model: str
    d: Sequence[float]
    k: Sequence[float]
    r: Sequence[float]
    p: Sequence[float]
    binning_x: int
    binning_y: int
    roi: Any


def camera_from_info(message: CameraInfoMessage, rectified: bool = False) -> Camera:
    """Return the camera of the images that come with this CameraInfo, cut and binned as they are.

    K and D describe images as the lens makes them, P without distortion `rectified` ones (image_rect). Both
    belong to the full resolution; the region of interest is in its pixels and is cut out before binning.

    R turns the lens' optical frame into the rectified camera's. A pose found with the latter is the pose of
    that frame, while the images' frame_id names the former: R must be the identity, as it is for a single
    camera, or all zeros (not filled in). P's fourth column, where the other camera of a stereo pair is, says
    nothing about this one.

    `roi.do_rectify` asks for a region of the rectified image that differs from that of the raw one. It is not
    looked at: image_proc cuts rectified images at the raw region too, and other sizes don't pass unnoticed.

    Raises:
        CameraError: the camera is not calibrated, or its model, coefficients or region are not usable.
    """
    if rectified:
        _check_rotation(message)
        matrix = _checked_matrix("P", np.reshape(message.p, (3, 4))[:, :3].ravel())
        lens: tuple[str, tuple[float, ...]] = ("plumb_bob", ())
    else:
        matrix = _checked_matrix("K", message.k)
        lens = _distortion(message)
    camera = Camera(message.width, message.height, matrix[0], matrix[4], matrix[2], matrix[5], *lens)
    roi = message.roi
    if roi.width or roi.height:
        camera = camera.cropped(roi.x_offset, roi.y_offset, roi.width, roi.height)
    elif roi.x_offset or roi.y_offset:
        raise CameraError(
            f"expected a region of interest with a size, got 0x0 at ({roi.x_offset}, {roi.y_offset})"
        )
    across, down = max(message.binning_x, 1), max(message.binning_y, 1)
    if (across, down) == (1, 1):
        return _with_checked_reach(camera)
    width, height = camera.width // across, camera.height // down
    # Columns and rows that don't fill a super-pixel are left out: every one is exactly `across` by `down`.
    return _with_checked_reach(camera.cropped(0, 0, width * across, height * down).resized(width, height))


@lru_cache(maxsize=8)
def _with_checked_reach(camera: Camera) -> Camera:
    """Return the camera unless its lens reaches so little of the image that its coefficients can't be right.

    The few points that are left would fit a pose by chance.
    """
    reach = camera.reach()
    if reach < _LEAST_REACH:
        raise CameraError(
            f"expected a lens that reaches at least {_LEAST_REACH:.0%} of the image, got {reach:.0%} with "
            f"{camera.distortion_model} {list(camera.distortion)}: is this the camera's calibration?"
        )
    return camera


def _checked_matrix(name: str, values: Sequence[float] | npt.NDArray[np.float64]) -> list[float]:
    matrix = [float(value) for value in values]
    if not any(matrix):
        raise CameraError(
            f"expected a calibrated camera, got {name} with zeros only: the camera is uncalibrated"
        )
    if not all(map(math.isfinite, matrix)):
        raise CameraError(f"expected a calibrated camera, got {name} with NaN or infinity: {matrix}")
    if abs(matrix[1]) > 1e-6 * abs(matrix[0]):
        raise CameraError(f"expected {name} without skew, got {name}[0][1] = {matrix[1]}")
    return matrix


def _check_rotation(message: CameraInfoMessage) -> None:
    rotation = np.array(message.r, dtype=np.float64).reshape(3, 3)
    if rotation.any() and not (np.abs(rotation - np.eye(3)) <= 1e-6).all():
        raise CameraError(
            f"expected R to be the identity with rectified images, got {rotation.ravel().tolist()}: "
            "the pose would be that of a frame turned against the images' frame_id"
        )


def _distortion(message: CameraInfoMessage) -> tuple[str, tuple[float, ...]]:
    """Distortion model and coefficients; an empty model without coefficients means none."""
    model, distortion = message.distortion_model, tuple(float(value) for value in message.d)
    if not model and not any(distortion):
        return "plumb_bob", ()
    # Some drivers send as many coefficients as OpenCV's rational model can have, 14: zeros say nothing.
    longest = max(COEFFICIENTS.get(model, (0,)))
    if not any(distortion[longest:]):
        distortion = distortion[:longest]
    return model, distortion
