"""Training labels: depth and scene coordinates at the centres of the network's output cells (paper §4.1).

paper: labels are ray-cast from a mesh; here: from the frame's own registered depth, nearest pixel.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from structpose_ros.camera import Camera
from structpose_ros.geometry import transform_points


@dataclass(frozen=True)
class Labels:
    """depth (h, w) m and scene_coordinates (h, w, 3) m, map frame; 0 where `valid_mask` (h, w) is False."""

    depth: npt.NDArray[np.float32]
    scene_coordinates: npt.NDArray[np.float64]
    valid_mask: npt.NDArray[np.bool_]


def sample_labels(
    depth_mm: npt.NDArray[np.uint16],
    camera: Camera,
    map_from_camera: npt.NDArray[np.float64],
    rays: npt.NDArray[np.float64],
) -> Labels:
    """Look the depth up along rays (h, w, 3) of this camera, nearest pixel, and place the points in the map.

    `camera` is the depth image's camera. Rays that leave the image, or meet no valid depth, are not valid.
    """
    pixels = np.rint(np.nan_to_num(camera.project(rays), nan=-1.0)).astype(np.int64)
    inside = (pixels >= 0).all(axis=-1) & (pixels < [camera.width, camera.height]).all(axis=-1)
    columns, rows = np.where(inside, pixels[..., 0], 0), np.where(inside, pixels[..., 1], 0)
    depth = np.where(inside, depth_mm[rows, columns], 0) * 1e-3
    valid_mask = depth > 0
    points_in_map = transform_points(map_from_camera, rays * depth[..., None])
    return Labels(depth.astype(np.float32), np.where(valid_mask[..., None], points_in_map, 0.0), valid_mask)
