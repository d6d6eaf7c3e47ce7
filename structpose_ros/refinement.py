"""Gauss-Newton on the reprojection error: a fixed number of rounds after the closed-form solve.

A ray is known to a fraction of a pixel where the depth along it is known to a few per cent: once the pose is
near, what the depth says about it is left out.

Two things let a rough start end well. The first half of the rounds weighs errors in metres across the ray
(the object-space error of Lu, Hager and Mjolsness, PAMI 2000): by angles alone, points that a wrong pose puts
close to the camera decide. And errors are differentiated at the ray that was seen, not at where the pose of
the round projects the point: for what is far off, an outlier, the latter is a slope at the wrong place.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from structpose_ros.geometry import rotation_from_vector

Array = npt.NDArray[np.float64]
DAMPING = 1e-4  # of the mean diagonal of the normal equations' translation and rotation, in every round
IN_METRES = 0.5  # share of the rounds, the first ones, that weigh errors in metres across the ray
NEAREST = 0.05  # metres; a point nearer to the camera's plane than this, or behind it, has no say


class Refined(NamedTuple):
    """What the last round left.

    rotation (3, 3) and translation (3,), map from camera. weights: (N,), of the last step, robust factor
    included. normal_matrix: (6, 6) sum of w J'J over both image coordinates at the pose, for (t, theta) about
    the map's axes, in 1/m and 1/rad, image coordinates at z = 1. squared_errors: (N,), at the pose, at z = 1;
    inf behind the camera. distances: (N,) metres, of the map points from their rays.
    """

    rotation: Array
    translation: Array
    weights: Array
    normal_matrix: Array
    squared_errors: Array
    distances: Array


def refine(
    rotation: Array,
    translation: Array,
    image_points: Array,
    points_in_map: Array,
    weights: Array,
    rounds: int,
    first_scale: float,
    last_scale: float,
) -> Refined:
    """Move a pose to where the map's points fall on the image points, robustly.

    Each round weighs by Geman-McClure at a scale that goes from `first_scale` to `last_scale` geometrically:
    what is far off at the end counts next to nothing, while a rough start is not cut off from its points. In
    the first half of the rounds each weight is times the squared depth that the point has at that pose.

    Args:
        rotation: (3, 3), map from camera.
        translation: (3,) metres, of the same transform.
        image_points: (2, N), x/z and y/z of the rays.
        points_in_map: (3, N) metres.
        weights: (N,), at least 0.
        rounds: at least 1.
        first_scale: distance in the image at z = 1.
        last_scale: likewise, of the last round.

    Raises:
        numpy.linalg.LinAlgError: the points that have weight leave the pose undetermined.
    """
    scales = np.geomspace(first_scale, last_scale, rounds) if rounds > 1 else np.array([last_scale])
    for number, scale in enumerate(scales):
        errors, jacobian, points_in_camera, squared = _linearised(
            rotation, translation, image_points, points_in_map
        )
        current = weights * (scale**2 / (scale**2 + squared)) ** 2
        in_metres = points_in_camera[2] ** 2 if number < int(IN_METRES * rounds) else 1.0
        normal_matrix, gradient = _normal_equations(jacobian, errors, current * in_metres)
        # By blocks, not by elements: the map's axes must not matter.
        damping = DAMPING * np.repeat(np.diag(normal_matrix).reshape(2, 3).mean(axis=1), 3)
        step = np.linalg.solve(normal_matrix + np.diag(damping), -gradient)
        if not np.isfinite(step).all():
            raise np.linalg.LinAlgError("the pose is undetermined")
        translation = translation + step[:3]
        rotation = rotation_from_vector(step[3:]) @ rotation
    errors, jacobian, points_in_camera, squared = _linearised(
        rotation, translation, image_points, points_in_map
    )
    ahead = np.isfinite(squared)
    current = np.where(ahead, current, 0.0)  # the last step may have left a point behind
    normal_matrix, _ = _normal_equations(jacobian, errors, current)
    distances = np.where(
        ahead,
        np.sqrt(np.where(ahead, squared, 0.0)) * np.abs(points_in_camera[2]),
        np.linalg.norm(points_in_camera, axis=0),
    )
    return Refined(rotation, translation, current, normal_matrix, squared, distances)


def _linearised(
    rotation: Array, translation: Array, image_points: Array, points_in_map: Array
) -> tuple[Array, Array, Array, Array]:
    """Return errors (2, N), their Jacobian (2, 6, N), points (3, N) in the camera, squared errors (N,).

    With q = X - t and c = R'q, t + dt and exp([dtheta]x) R move c by R'(q x dtheta - dt). For a point on its
    ray the coordinate u = c_x / c_z moves by g . (q x dtheta - dt) with g = (R e_x - u R e_z) / c_z:
    J = [-g, g x q].
    """
    q = points_in_map - translation[:, None]
    points_in_camera = rotation.T @ q
    ahead = points_in_camera[2] > NEAREST
    inverse_z = 1.0 / np.where(ahead, points_in_camera[2], 1.0)
    errors = np.where(ahead, points_in_camera[:2] * inverse_z - image_points, 0.0)
    jacobian = np.empty((2, 6, q.shape[1]))
    for axis in (0, 1):
        g = (rotation[:, axis, None] - image_points[axis] * rotation[:, 2, None]) * inverse_z
        jacobian[axis, :3] = -g
        jacobian[axis, 3] = g[1] * q[2] - g[2] * q[1]
        jacobian[axis, 4] = g[2] * q[0] - g[0] * q[2]
        jacobian[axis, 5] = g[0] * q[1] - g[1] * q[0]
    squared = np.where(ahead, errors[0] ** 2 + errors[1] ** 2, np.inf)
    return errors, jacobian, points_in_camera, squared


def _normal_equations(jacobian: Array, errors: Array, weights: Array) -> tuple[Array, Array]:
    """Return the sum of w J'J (6, 6) and of w J'e (6,) over both coordinates."""
    weighted = jacobian * weights
    # einsum, not BLAS: waking its threads takes longer than the product.
    return np.einsum("ain,ajn->ij", weighted, jacobian), np.einsum("ain,an->i", weighted, errors)
