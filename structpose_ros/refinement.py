"""Gauss-Newton on the reprojection error: a fixed number of rounds after the closed-form solve.

A ray is known to a fraction of a pixel where the depth along it is known to a few per cent: once the pose is
near, what the depth says about it is left out.

Two things let a rough start end well. The first half of the rounds weighs errors in metres across the ray
(the object-space error of Lu, Hager and Mjolsness, PAMI 2000): by angles alone, points that a wrong pose puts
close to the camera decide. And errors are differentiated at the ray that was seen, not at where the pose of
the round projects the point: for what is far off, an outlier, the latter is a slope at the wrong place. It
also leaves next to nothing of the Jacobian to be computed anew in each round.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from structpose_ros.geometry import rotation_from_vector

Array = npt.NDArray[np.float64]
DAMPING = 1e-4  # of the mean diagonal of the normal equations' translation and rotation, in every round
IN_METRES = 0.5  # share of the rounds, the first ones, that weigh errors in metres across the ray
_UPPER = np.triu_indices(3)
_UNTHREADED = 9000  # numbers of a matrix times a vector; OpenBLAS takes several threads from 9216 on
NEAREST = 0.05  # metres; a point nearer to the camera's plane than this, or behind it, has no say


class Refined(NamedTuple):
    """What the last round left.

    rotation (3, 3) and translation (3,), map from camera. weights: (N,), of the last step, robust factor
    included. normal_matrix: (6, 6) sum of w J'J over both image coordinates at the pose, for (t, theta) about
    the map's axes, in 1/m and 1/rad, image coordinates at z = 1. squared_errors: (N,), at the pose, at z = 1;
    inf behind the camera. distances: (N,) metres, of the map points from their rays. determined: False where
    the points that have weight left the pose undetermined in some round, which then did not move it.
    """

    rotation: Array
    translation: Array
    weights: Array
    normal_matrix: Array
    squared_errors: Array
    distances: Array
    determined: bool


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
    """
    rays = _Rays.through(image_points)
    determined = True  # where it is not, the work goes on: a frame takes as long whatever the camera sees
    scales = np.geomspace(first_scale, last_scale, rounds) if rounds > 1 else np.array([last_scale])
    for number, scale in enumerate(scales.tolist()):
        points_in_camera, inverse_z, errors, squared = _errors(
            rotation, translation, image_points, points_in_map
        )
        robust = scale**2 / (scale**2 + squared)
        current = weights * robust * robust * (inverse_z > 0)
        in_metres = points_in_camera[2] ** 2 if number < int(IN_METRES * rounds) else 1.0
        normal_matrix, gradient = rays.normal_equations(errors, inverse_z, current * in_metres)
        diagonal = normal_matrix.reshape(-1)[::7]  # a view
        for block in (slice(0, 3), slice(3, 6)):  # not by elements: the axes must not matter
            diagonal[block] += DAMPING / 3.0 * diagonal[block].sum()
        step = _step(normal_matrix, gradient)
        if not math.isfinite(float(step @ step)):
            determined, step = False, np.zeros(6)
        translation = translation + rotation @ step[:3]
        rotation = rotation @ rotation_from_vector(step[3:])
    points_in_camera, inverse_z, errors, squared = _errors(rotation, translation, image_points, points_in_map)
    ahead = inverse_z > 0
    current = np.where(ahead, current, 0.0)  # the last step may have left a point behind
    normal_matrix, _ = rays.normal_equations(errors, inverse_z, current)
    map_from_camera_axes = np.kron(np.eye(2), rotation)
    distances = np.where(
        ahead, np.sqrt(squared) * np.abs(points_in_camera[2]), np.linalg.norm(points_in_camera, axis=0)
    )
    return Refined(
        rotation,
        translation,
        current,
        map_from_camera_axes @ normal_matrix @ map_from_camera_axes.T,
        np.where(ahead, squared, np.inf),
        distances,
        determined,
    )


def _step(normal_matrix: Array, gradient: Array) -> Array:
    """Return the step (6,) of Gauss-Newton; not finite where there is none."""
    try:
        return np.asarray(np.linalg.solve(normal_matrix, -gradient))
    except np.linalg.LinAlgError:
        return np.full(6, np.nan)


def _errors(
    rotation: Array, translation: Array, image_points: Array, points_in_map: Array
) -> tuple[Array, Array, Array, Array]:
    """Return points (3, N) in the camera, 1 / z (N,), image errors (2, N) and their squares (N,).

    1 / z is 0 for what is not ahead, whose error means nothing.
    """
    points_in_camera = rotation.T @ points_in_map - (rotation.T @ translation)[:, None]
    z = points_in_camera[2]
    inverse_z = (z > NEAREST) / np.maximum(z, NEAREST)
    errors = points_in_camera[:2] * inverse_z - image_points
    return points_in_camera, inverse_z, errors, errors[0] * errors[0] + errors[1] * errors[1]


class _Rays(NamedTuple):
    """The Jacobians of errors at the rays, and their products, all of which the rounds leave as they are.

    A step (dt, dtheta) in the camera's axes moves a point c by c x dtheta - dt. On its ray, c = z p with
    p = (u, v, 1), its image coordinate a moves by g . (p x dtheta - dt / z) with g = e_a - p_a e_z: the
    Jacobians are -g / z and g x p, and only the depth z changes from round to round.

    by_translation: (3, 2N), -g for both coordinates. by_rotation: (3, 2N), g x p. The products are sums over
    both coordinates: tr (9, N), and of the symmetric ones the upper half, tt (6, N) and rr (6, N).
    """

    by_translation: Array
    by_rotation: Array
    tt: Array
    tr: Array
    rr: Array

    @staticmethod
    def through(image_points: Array) -> _Rays:
        """Return those of rays through image points (2, N)."""
        u, v = image_points
        one, zero = np.ones_like(u), np.zeros_like(u)
        t = np.array([[-one, zero], [zero, -one], [u, v]])
        r = np.array([[u * v, 1.0 + v * v], [-1.0 - u * u, -u * v], [v, -u]])
        tt, tr, rr = ((first[:, None] * second).sum(axis=2) for first, second in ((t, t), (t, r), (r, r)))
        return _Rays(t.reshape(3, -1), r.reshape(3, -1), tt[_UPPER], tr.reshape(9, -1), rr[_UPPER])

    def normal_equations(self, errors: Array, inverse_z: Array, weights: Array) -> tuple[Array, Array]:
        """Return the sums of w J'J (6, 6) and of w J'e (6,), camera axes."""
        by_z = weights * inverse_z
        normal_matrix = np.empty((6, 6))
        translations, rotations = normal_matrix[:3, :3], normal_matrix[3:, 3:]
        translations[_UPPER] = translations.T[_UPPER] = _sums(self.tt, by_z * inverse_z)
        rotations[_UPPER] = rotations.T[_UPPER] = _sums(self.rr, weights)
        normal_matrix[:3, 3:] = _sums(self.tr, by_z).reshape(3, 3)
        normal_matrix[3:, :3] = normal_matrix[:3, 3:].T
        gradient = np.empty(6)
        gradient[:3] = _sums(self.by_translation, (errors * by_z).ravel())
        gradient[3:] = _sums(self.by_rotation, (errors * weights).ravel())
        return normal_matrix, gradient


def _sums(rows: Array, weights: Array) -> Array:
    """Return the weighted sums (R,) of rows (R, N).

    BLAS is three times as fast, but wakes its threads for long rows, which takes longer than the sums.
    """
    if rows.size <= _UNTHREADED:
        return np.asarray(rows @ weights)
    return np.asarray(np.einsum("in,n->i", rows, weights))
