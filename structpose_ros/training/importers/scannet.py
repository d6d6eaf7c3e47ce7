"""A scan of ScanNet as its SensReader writes it: `color/N.jpg`, `depth/N.png`, `pose/N.txt`, `intrinsic/`.

Dai et al., "ScanNet: richly-annotated 3D reconstructions of indoor scenes", CVPR 2017. Depth is in mm, as
the colour camera sees it but smaller; a pose is map_from_sensor, and -inf where tracking was lost. The
extrinsics are sensor_from_color and sensor_from_depth, identities in what ScanNet publishes.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from structpose_ros.camera import Camera, CameraError, resize_image
from structpose_ros.geometry import invert, rigid_from_matrix
from structpose_ros.training.frames import RecordingError, expect_size, read_color, read_depth
from structpose_ros.training.importers.common import (
    FilePlan,
    Picture,
    PlannedFrame,
    Selection,
    read_color_file,
)
from structpose_ros.training.importers.tables import read_matrix
from structpose_ros.training.registration import largest_shift, register_depth

_ALIGNED = 1.0  # px: depth that lies no further from colour is taken as it is


@dataclass(frozen=True)
class ScanNetPlan(FilePlan):
    """A plan that also counts the frames left out as their tracking was lost."""

    lost: int = 0


@dataclass(frozen=True, kw_only=True)
class _ScanNetFrame(PlannedFrame):
    color: Path
    depth: Path


def plan_scannet(source: Path, selection: Selection) -> ScanNetPlan:
    """Look through a scan; the image is brought to the depth's size where that is smaller.

    Frames keep their numbers.

    Raises:
        RecordingError: it is no scan, no frame has a pose, or the calibration is missing or malformed.
    """
    images = _images(source)
    sensor_from_color, sensor_from_depth = (
        _extrinsic(source / "intrinsic" / f"extrinsic_{part}.txt") for part in ("color", "depth")
    )
    frames: list[_ScanNetFrame] = []
    bad: list[str] = []
    lost = 0
    for number, color in images:
        name, depth = f"{color.parent.name}/{color.name}", source / "depth" / f"{number}.png"
        try:
            map_from_sensor = read_matrix(source / "pose" / f"{number}.txt")
            if np.isinf(map_from_sensor).any():
                lost += 1
                continue
            map_from_camera = _rigid(map_from_sensor, f"pose/{number}.txt") @ sensor_from_color
        except RecordingError as error:
            bad.append(str(error))
            continue
        frames.append(_ScanNetFrame(name, map_from_camera, number=number, color=color, depth=depth))
    if not frames:
        raise RecordingError(
            f"expected frames with a pose in {source}, got none of {len(images)}, tracking lost in {lost}"
        )
    chosen = selection.apply(frames)
    color_size, depth_size = _sizes(chosen)
    color_camera = _intrinsic(source / "intrinsic" / "intrinsic_color.txt", color_size)
    depth_camera = _intrinsic(source / "intrinsic" / "intrinsic_depth.txt", depth_size)
    smaller = all(of_depth <= of_color for of_depth, of_color in zip(depth_size, color_size, strict=True))
    camera = color_camera.resized(*depth_size) if smaller else color_camera
    color_from_depth = invert(sensor_from_color) @ sensor_from_depth
    aligned = smaller and np.allclose(color_from_depth, np.eye(4), atol=1e-6)
    aligned = aligned and largest_shift(depth_camera, camera) <= _ALIGNED
    depth_rays = depth_camera.ray_grid()

    def read_one(index: int) -> Picture:
        item = chosen[index]
        image_rgb, jpeg = read_color_file(item.color)
        expect_size(item.color, image_rgb.shape, color_camera)
        depth_mm = read_depth(item.depth)
        expect_size(item.depth, depth_mm.shape, depth_camera)
        if camera != color_camera:
            image_rgb, jpeg = resize_image(image_rgb, color_camera, camera.width, camera.height)[0], None
        if not aligned:
            depth_mm = register_depth(depth_mm, depth_rays, color_from_depth, camera)
        return Picture(image_rgb, depth_mm, jpeg)

    origin = {
        "format": "scannet",
        "source": source.resolve().name,
        "depth_intrinsics": [depth_camera.fx, depth_camera.fy, depth_camera.cx, depth_camera.cy],
        "color_from_depth": np.round(color_from_depth, 9).tolist(),
    }
    return ScanNetPlan(camera, chosen, origin, read_one, bad, lost)


def _images(source: Path) -> list[tuple[int, Path]]:
    """Return the colour images by number."""
    folders = ("color", "depth", "pose", "intrinsic")
    missing = [name for name in folders if not (source / name).is_dir()]
    if missing:
        raise RecordingError(
            f"expected the folders {', '.join(folders)} of a ScanNet scan in {source}, "
            f"got no {' and no '.join(missing)}"
        )
    named = re.compile(r"\d{1,18}\.(jpg|png)")
    images = [path for path in (source / "color").iterdir() if named.fullmatch(path.name)]
    return sorted((int(path.stem), path) for path in images)


def _sizes(frames: Sequence[_ScanNetFrame]) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return width and height of colour and of depth, as the first frame has them that can be read."""
    errors: list[RecordingError] = []
    for item in frames:
        try:
            (height, width), of_depth = read_color(item.color).shape[:2], read_depth(item.depth).shape
        except RecordingError as error:
            errors.append(error)
        else:
            return (width, height), (of_depth[1], of_depth[0])
    raise errors[0]


def _intrinsic(path: Path, size: tuple[int, int]) -> Camera:
    k = read_matrix(path)
    try:
        camera = Camera(*size, k[0, 0], k[1, 1], k[0, 2], k[1, 2])
    except CameraError as error:
        raise RecordingError(f"{path}: {error}") from error
    if not (0.25 < camera.cx / camera.width < 0.75 and 0.25 < camera.cy / camera.height < 0.75):
        raise RecordingError(
            f"{path}: expected a principal point near the middle of images of {size[0]}x{size[1]}, "
            f"got {camera.cx:g}, {camera.cy:g}: were the images resized?"
        )
    return camera


def _extrinsic(path: Path) -> npt.NDArray[np.float64]:
    """Return sensor_from_camera (4, 4); without a file the camera is the sensor itself."""
    return _rigid(read_matrix(path), str(path)) if path.is_file() else np.eye(4)


def _rigid(matrix: npt.NDArray[np.float64], where: str) -> npt.NDArray[np.float64]:
    try:
        return rigid_from_matrix(matrix)
    except ValueError as error:
        raise RecordingError(f"{where}: {error}") from error
