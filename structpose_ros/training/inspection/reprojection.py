"""One frame seen from another: a picture that shows at once whether poses, depth and camera fit together."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from structpose_ros.camera import Camera
from structpose_ros.geometry import invert, transform_points, unproject
from structpose_ros.training.frames import Frame


@dataclass(frozen=True)
class Reprojection:
    """Two frames, and the first's image as seen from the second where `seen` (H, W) says that it is."""

    first: Frame
    second: Frame
    first_seen_from_second: npt.NDArray[np.uint8]
    seen: npt.NDArray[np.bool_]


def reproject(first: Frame, second: Frame, camera: Camera) -> Reprojection:
    """Colour the second frame's points with the first image, by both poses.

    Places that the first frame does not see, being hidden, get the colour of what hides them.
    """
    first_from_second = invert(first.map_from_camera) @ second.map_from_camera
    points = transform_points(first_from_second, unproject(second.depth_mm * 1e-3, camera.ray_grid()))
    pixels = np.nan_to_num(camera.project(points), nan=-1e3)
    seen = (second.depth_mm > 0) & (pixels > -0.5).all(axis=2)
    seen &= (pixels < [camera.width - 0.5, camera.height - 0.5]).all(axis=2)
    columns, rows = np.where(seen[..., None], pixels, -1e3).astype(np.float32).transpose(2, 0, 1)
    moved = cv2.remap(first.image_rgb, columns, rows, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    moved[~seen] = 0
    return Reprojection(first, second, np.asarray(moved, dtype=np.uint8), seen)
