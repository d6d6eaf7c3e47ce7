"""Rigid transforms, pose errors and unprojection.

Every transform is named `target_from_source` and is a (4, 4) float64 matrix that maps column vectors:
`points_in_target = rotation @ points_in_source + translation`.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


def transform(rotation: npt.ArrayLike, translation: npt.ArrayLike) -> Array:
    """Return the (4, 4) transform made of a (3, 3) rotation and a (3,) translation in metres."""
    target_from_source = np.eye(4)
    target_from_source[:3, :3] = rotation
    target_from_source[:3, 3] = translation
    return target_from_source


def invert(target_from_source: Array) -> Array:
    """Return `source_from_target`, the inverse of a rigid (4, 4) transform."""
    rotation = target_from_source[:3, :3].T
    return transform(rotation, -rotation @ target_from_source[:3, 3])


def transform_points(target_from_source: Array, points_in_source: npt.NDArray[np.floating]) -> Array:
    """Map points (..., 3) in metres from the source frame into the target frame."""
    return np.asarray(points_in_source @ target_from_source[:3, :3].T + target_from_source[:3, 3])


def orthonormalize(rotation: npt.ArrayLike) -> Array:
    """Return the rotation nearest to a (3, 3) matrix in the Frobenius norm (by SVD)."""
    u, _, vt = np.linalg.svd(np.asarray(rotation, dtype=np.float64))
    return np.asarray(u @ np.diag([1.0, 1.0, np.linalg.det(u @ vt)]) @ vt)


def rigid_from_matrix(matrix: npt.ArrayLike, tolerance: float = 0.02) -> Array:
    """Return the rigid transform nearest to a (4, 4) `matrix`, as read from a file.

    Poses that went through text files are off by rounding (7-Scenes: 4e-4), which the solve would inherit.

    Raises:
        ValueError: the shape is not (4, 4), an entry is not finite, the last row is not 0 0 0 1 (a transposed
            matrix), or the upper left block is further than `tolerance` (largest entry) from a rotation.
    """
    given = np.asarray(matrix, dtype=np.float64)
    if given.shape != (4, 4):
        raise ValueError(f"expected a 4x4 pose matrix, got shape {given.shape}")
    if not np.isfinite(given).all():
        raise ValueError("expected a finite 4x4 pose matrix, got NaN or infinity")
    if not np.array_equal(given[3], [0.0, 0.0, 0.0, 1.0]):
        raise ValueError(f"expected 0 0 0 1 as the last row of a pose matrix, got {given[3].tolist()}")
    rotation = orthonormalize(given[:3, :3])
    deviation = float(np.abs(rotation - given[:3, :3]).max())
    if deviation > tolerance:
        raise ValueError(
            f"expected a rotation in the upper left 3x3 block, got one that is off by {deviation:.3g}"
        )
    return transform(rotation, given[:3, 3])


def rotation_angle(rotation: Array) -> float:
    """Return the angle in radians of a (3, 3) rotation, exact near 0 and near pi (no bare acos)."""
    (xx, xy, xz), (yx, yy, yz), (zx, zy, zz) = rotation.tolist()
    sine = math.hypot(zy - yz, xz - zx, yx - xy)  # twice that of the angle
    return math.atan2(sine, xx + yy + zz - 1.0)


def pose_error(estimate_map_from_camera: Array, true_map_from_camera: Array) -> tuple[float, float]:
    """Return (position error in metres, rotation error in degrees) between two camera poses."""
    position = math.dist(estimate_map_from_camera[:3, 3].tolist(), true_map_from_camera[:3, 3].tolist())
    rotation = estimate_map_from_camera[:3, :3] @ true_map_from_camera[:3, :3].T
    return position, math.degrees(rotation_angle(rotation))


def rotation_vector(rotation: Array) -> Array:
    """Return the axis times angle (radians) of a (3, 3) rotation: the logarithm on SO(3)."""
    x, y, z, w = quaternion_from_rotation(rotation)
    axis = np.array([x, y, z])
    length = float(np.linalg.norm(axis))
    if length < 1e-12:
        return 2.0 * axis
    return np.asarray(axis / length * 2.0 * math.atan2(length, w))


def rotation_from_vector(vector: npt.ArrayLike) -> Array:
    """Return the (3, 3) rotation about `vector` (3,) by its length in radians: Rodrigues' formula."""
    x, y, z = np.asarray(vector, dtype=np.float64).tolist()
    angle = math.sqrt(x * x + y * y + z * z)
    sine, versine = 1.0, 0.5  # over the angle and over its square
    if angle >= 1e-8:
        sine, versine = math.sin(angle) / angle, (1.0 - math.cos(angle)) / angle**2
    # Element by element: of nine numbers a product of matrices takes five times as long.
    return np.array(
        [
            [
                1.0 - versine * (y * y + z * z),
                versine * x * y - sine * z,
                versine * x * z + sine * y,
            ],
            [
                versine * x * y + sine * z,
                1.0 - versine * (x * x + z * z),
                versine * y * z - sine * x,
            ],
            [
                versine * x * z - sine * y,
                versine * y * z + sine * x,
                1.0 - versine * (x * x + y * y),
            ],
        ]
    )


def skew(vector: npt.ArrayLike) -> Array:
    """Return the (3, 3) matrix whose product with p is the cross product `vector` x p."""
    x, y, z = np.asarray(vector, dtype=np.float64)
    return np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])


def rotation_from_quaternion(quaternion_xyzw: npt.ArrayLike) -> Array:
    """Return the (3, 3) rotation of a quaternion (4,) in ROS order x y z w; it need not have unit length.

    Raises:
        ValueError: the quaternion's length is zero or not finite.
    """
    quaternion = np.asarray(quaternion_xyzw, dtype=np.float64)
    norm = float(np.linalg.norm(quaternion))
    if not math.isfinite(norm) or norm < 1e-12:
        raise ValueError(f"expected a quaternion of length 1, got {quaternion.tolist()}")
    x, y, z, w = quaternion / norm
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )


def quaternion_from_rotation(rotation: Array) -> Array:
    """Return the unit quaternion (4,) x y z w with w >= 0 of a (3, 3) rotation.

    Shepperd's method: the largest of the four squared components is divided by, never a small one.
    """
    # By numbers, not arrays: of nine of them an array takes ten times as long.
    (xx, xy, xz), (yx, yy, yz), (zx, zy, zz) = np.asarray(rotation, dtype=np.float64).tolist()
    squares = [1 + xx - yy - zz, 1 - xx + yy - zz, 1 - xx - yy + zz, 1 + xx + yy + zz]
    rows = [
        [squares[0], xy + yx, xz + zx, zy - yz],
        [xy + yx, squares[1], yz + zy, xz - zx],
        [xz + zx, yz + zy, squares[2], yx - xy],
        [zy - yz, xz - zx, yx - xy, squares[3]],
    ]
    quaternion = rows[squares.index(max(squares))]
    length = math.copysign(math.hypot(*quaternion), quaternion[3])
    return np.array(quaternion) / length


def unproject(depth: npt.NDArray[np.floating], rays: npt.NDArray[np.floating]) -> Array:
    """Return the points in the camera frame, p = d K^-1 u (paper §3.3).

    Args:
        depth: (h, w) metres along the optical axis z.
        rays: (h, w, 3) with z = 1, camera frame (see `Camera.ray_grid`).

    Returns:
        (h, w, 3) metres, camera optical frame (z forward, REP 103), float64.
    """
    return np.asarray(depth[..., None].astype(np.float64) * rays)
