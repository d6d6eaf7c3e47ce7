"""Depth for the images of a COLMAP model: from the points seen in them, or from the maps of its MVS."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import numpy.typing as npt

from structpose_ros.camera import Camera
from structpose_ros.geometry import transform_points
from structpose_ros.training.frames import NOTHING_SEEN_MM, RecordingError
from structpose_ros.training.importers.colmap_model import SfmImage, SfmPoints
from structpose_ros.training.importers.common import depth_in_millimetres

_MAP_HEADER = re.compile(rb"(\d{1,9})&(\d{1,9})&(\d{1,9})&")


def sparse_depth(image: SfmImage, points: SfmPoints, camera: Camera, scale: float) -> npt.NDArray[np.uint16]:
    """Return the depth (H, W) in mm of the points seen in an image, each at the pixel nearest to it.

    Where two share a pixel the nearer one wins. Labels take such points by the cells that they fall into.
    """
    points_in_camera = transform_points(image.camera_from_map, points.positions_of(image.point_ids))
    pixels = np.rint(camera.project(points_in_camera))
    inside = ((pixels >= 0) & (pixels < [camera.width, camera.height])).all(axis=1)
    millimetres = depth_in_millimetres(points_in_camera[inside, 2], scale)
    columns, rows = pixels[inside].astype(np.int64).T
    depth_mm = np.full((camera.height, camera.width), NOTHING_SEEN_MM, dtype=np.uint16)
    np.minimum.at(depth_mm, (rows, columns), np.where(millimetres > 0, millimetres, NOTHING_SEEN_MM))
    depth_mm[depth_mm == NOTHING_SEEN_MM] = 0
    return depth_mm


def mvs_depth(path: Path, camera: Camera, scale: float) -> npt.NDArray[np.uint16]:
    """Return the depth (H, W) in mm of a map of COLMAP's MVS, which may be smaller than the image.

    Raises:
        RecordingError: the map can't be read, or has other proportions than the image.
    """
    depth = read_depth_map(path)
    height, width = depth.shape
    if abs(width * camera.height - height * camera.width) > max(camera.width, camera.height):
        raise RecordingError(
            f"{path}: expected the proportions of {camera.width}x{camera.height}, got {width}x{height}: "
            "maps belong to the undistorted images and the model of their own workspace"
        )
    # Nearest: pixel c of the image is centred at (c + 0.5) s - 0.5 in the map.
    rows = ((np.arange(camera.height) + 0.5) * height / camera.height).astype(np.int64)
    columns = ((np.arange(camera.width) + 0.5) * width / camera.width).astype(np.int64)
    return depth_in_millimetres(depth, scale)[np.ix_(rows, columns)]


def read_depth_map(path: Path) -> npt.NDArray[np.float32]:
    """Return a map of COLMAP's MVS, (h, w) float32 in the model's unit, 0 where it has none.

    Raises:
        RecordingError: it is missing, or its size is not what its head says.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise RecordingError(f"{path}: expected a depth map, got nothing") from None
    header = _MAP_HEADER.match(content)
    if header is None:
        raise RecordingError(f"{path}: expected WIDTH&HEIGHT&CHANNELS& and numbers, got {content[:30]!r}")
    width, height, channels = map(int, header.groups())
    expected = 4 * width * height * channels
    if channels != 1 or len(content) - header.end() != expected:
        raise RecordingError(
            f"{path}: expected {width}x{height}x1 numbers of 4 bytes each, got {channels} channels "
            f"and {len(content) - header.end()} bytes"
        )
    return np.frombuffer(content, dtype="<f4", offset=header.end()).reshape(height, width)
