"""Training labels: depth and scene coordinates at the centres of the network's output cells (paper §4.1).

paper: labels are ray-cast from a mesh; here: from the frame's own registered depth, nearest pixel. Depth that
is sparse (points of a structure-from-motion model, a lidar's returns) mostly misses that pixel; there the
valid pixel counts that is nearest to the centre within the cell.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from structpose_ros.camera import Camera
from structpose_ros.geometry import transform_points

_NEWTON_STEPS = 6
_HALF_CELL = 0.52  # where a turned view's cells narrow, neighbours differ by as much on their border


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

    Where the depth is sparse (`is_sparse`) and the rays are a grid's, a cell takes the depth of the valid
    pixel nearest to its centre among those within the cell. That depth is laid on the cell's own ray: depth,
    ray and scene coordinates agree to the last digit, and the label is off by no more than the depth changes
    between that pixel and the centre. (The point itself as scene coordinates would be off sideways too.)
    """
    centres = camera.project(rays)
    if min(rays.shape[:2]) > 1 and is_sparse(depth_mm):
        millimetres = _nearest_in_cells(depth_mm, centres)
    else:
        millimetres = _nearest_pixels(depth_mm, centres)
    depth = millimetres * 1e-3
    valid_mask = depth > 0
    points_in_map = transform_points(map_from_camera, rays * depth[..., None])
    return Labels(depth.astype(np.float32), np.where(valid_mask[..., None], points_in_map, 0.0), valid_mask)


def is_sparse(depth_mm: npt.NDArray[np.uint16]) -> bool:
    """Whether valid pixels stand alone: most have no valid neighbour beside them, or none below.

    A sensor's depth has holes, but is in one piece around them: nearly every valid pixel has its neighbours.
    """
    if 2 * np.count_nonzero(depth_mm) > depth_mm.size:  # settles nearly every frame of a sensor, 0.01 ms
        return False
    valid = depth_mm > 0
    beside, below = valid[:, 1:] & valid[:, :-1], valid[1:] & valid[:-1]
    return bool(2 * min(np.count_nonzero(beside), np.count_nonzero(below)) < np.count_nonzero(valid))


def _nearest_pixels(
    depth_mm: npt.NDArray[np.uint16], centres: npt.NDArray[np.float64]
) -> npt.NDArray[np.uint16]:
    """Return the depth (h, w) at the pixels nearest to centres (h, w, 2), 0 outside the image."""
    height, width = depth_mm.shape
    pixels = np.rint(np.nan_to_num(centres, nan=-1.0)).astype(np.int64)
    inside = (pixels >= 0).all(axis=-1) & (pixels < [width, height]).all(axis=-1)
    columns, rows = np.where(inside, pixels[..., 0], 0), np.where(inside, pixels[..., 1], 0)
    return np.where(inside, depth_mm[rows, columns], np.uint16(0))


def _nearest_in_cells(
    depth_mm: npt.NDArray[np.uint16], centres: npt.NDArray[np.float64]
) -> npt.NDArray[np.uint16]:
    """Return the depth (h, w) of the valid pixel nearest to each centre (h, w, 2) within its cell, or 0."""
    rows, columns = np.nonzero(depth_mm)
    cells, offsets = _find_cells(np.stack([columns, rows], axis=-1).astype(np.float64), centres)
    inside = np.flatnonzero((np.abs(offsets) <= _HALF_CELL).all(axis=-1))  # NaN is not
    farthest_first = inside[np.argsort(-(offsets[inside] ** 2).sum(axis=-1), kind="stable")]
    across, down = cells[farthest_first].T
    nearest = np.zeros(centres.shape[:2], dtype=np.uint16)
    nearest[down, across] = depth_mm[rows[farthest_first], columns[farthest_first]]  # the last one stays
    return nearest


def _find_cells(
    pixels: npt.NDArray[np.float64], centres: npt.NDArray[np.float64]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Return for each of pixels (N, 2) its cell (column, row) and its offset (N, 2) from there, in cells.

    With S = [pixels to the next column's centre, to the next row's], the place in the grid is
    cell + S^-1 (pixel - centre). That is Newton's method: a camera's own grid takes one step, a turned view's
    two or three. An offset beyond half a cell means that the pixel lies outside the grid.
    """
    last = np.array([centres.shape[1] - 1, centres.shape[0] - 1])
    steps = np.stack([np.gradient(centres, axis=axis) for axis in (1, 0)], axis=-1)
    (a, b), (c, d) = steps[..., 0, :].T, steps[..., 1, :].T
    with np.errstate(divide="ignore", invalid="ignore"):
        inverse = np.array([[d, -b], [-c, a]]) / (a * d - b * c)  # (2, 2, w, h)
    cells = np.broadcast_to(last // 2, pixels.shape)
    for step in range(_NEWTON_STEPS + 1):
        across, down = cells.T
        offsets = np.einsum("ijn,nj->ni", inverse[..., across, down], pixels - centres[down, across])
        if step < _NEWTON_STEPS:
            cells = np.clip(cells + np.rint(np.nan_to_num(offsets)), 0, last).astype(np.int64)
    return cells, offsets
