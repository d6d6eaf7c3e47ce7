"""Pose covariances for consumers: moved from the camera to the robot's base, and never below a floor."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from structpose_ros.geometry import skew

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class CovarianceOptions:
    """What a model's own covariance can't know.

    scale: factor on the model's covariance.
    floor_position, floor_rotation: standard deviations in metres and radians of errors that every pose has
        (calibration of the camera, of the map); added in quadrature, so that no pose claims to be better.
    diagonal: leave the correlations out, for consumers that can't do with them.
    """

    scale: float = 1.0
    floor_position: float = 0.01
    floor_rotation: float = 0.01
    diagonal: bool = False


def published_covariance(covariance: Array, options: CovarianceOptions) -> Array:
    """Return a covariance (6, 6) scaled and raised by the floors: symmetric, and positive definite with them.

    Order x y z rx ry rz, metres and radians about the map's axes (geometry_msgs/PoseWithCovariance).
    """
    symmetric = options.scale * 0.5 * (covariance + covariance.T)
    raised = with_floors(symmetric, options.floor_position, options.floor_rotation)
    return without_correlations(raised) if options.diagonal else raised


def with_floors(covariance: Array, position: float, rotation: float) -> Array:
    """Return a covariance (6, 6) plus the variances of errors of so many metres and radians on each axis."""
    raised = np.array(covariance, order="C")
    raised.reshape(-1)[::7] += (position * position,) * 3 + (rotation * rotation,) * 3  # the diagonal: a view
    return raised


def without_correlations(covariance: Array) -> Array:
    """Return the variances of a covariance (6, 6) alone."""
    return np.diag(np.diag(covariance))


def base_covariance(covariance: Array, map_from_camera: Array, camera_from_base: Array) -> Array:
    """Return the covariance (6, 6) of the base's pose from that of the camera's, both about the map's axes.

    A rotation error turns the base about the camera: with r from the camera to the base, in the map,
    dt_base = dt_camera + dtheta x r, and dtheta is the same for both. `camera_from_base` is taken as exact.
    """
    if not camera_from_base[:3, 3].any():
        return covariance
    camera_to_base = map_from_camera[:3, :3] @ camera_from_base[:3, 3]
    jacobian = np.eye(6)
    jacobian[:3, 3:] = -skew(camera_to_base)
    return np.asarray(jacobian @ covariance @ jacobian.T)
