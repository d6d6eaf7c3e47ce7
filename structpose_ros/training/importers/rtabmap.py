"""What `rtabmap-export --images` (or `--images_id`) with `--poses_camera` (or `--poses`) writes of a map.

NAME_rgb/STEM.jpg           several cameras of a robot side by side
NAME_depth/STEM.png         uint16 mm, registered to colour; may be smaller
NAME_calib/STEM.yaml        STEM_0.yaml .. where there are several cameras
NAME_camera_poses.txt       map_from_camera, optical frame; NAME_camera_poses_0.txt .. of several
NAME_poses.txt              map_from_base, the robot's; base_from_camera is the calibration's local_transform

STEM is the node's stamp, or its id. Poses are read in the formats 11 (the default, with ids) and 10, both in
ROS' axes; format 1 has the columns of 10 in other axes, and nothing tells it: it must not be used. RTAB-Map
works on rectified images: as it does, this takes the intrinsics of projection_matrix, and no distortion.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from structpose_ros.camera import Camera
from structpose_ros.training.frames import RecordingError, read_depth
from structpose_ros.training.importers.common import (
    FilePlan,
    Picture,
    PlannedFrame,
    Selection,
    read_color_file,
)
from structpose_ros.training.importers.rtabmap_calibration import Calibrations, common_camera
from structpose_ros.training.importers.tables import read_table
from structpose_ros.training.registration import largest_shift, resample_depth

_SAME = 0.5  # px: an image whose own camera differs by no more is kept as it is
_Stamped = tuple[float, npt.NDArray[np.float64]]


@dataclass(frozen=True, kw_only=True)
class _RtabmapFrame(PlannedFrame):
    color: Path
    depth: Path
    camera: Camera


def plan_rtabmap(source: Path, selection: Selection, camera_index: int = 0) -> FilePlan:
    """Look through an export.

    source: its folder, or FOLDER/NAME where that holds several. camera_index: of a robot with several.
    Where the lens' focus moved, images are brought to the median of the intrinsics.

    Raises:
        RecordingError: it is no export of an RGB-D camera, no image has a pose, or a table is malformed.
    """
    folder, name = _find(source)
    images = _images(folder / f"{name}_rgb")
    count = _camera_count(folder / f"{name}_calib", images[0].stem)
    if not 0 <= camera_index < count:
        raise RecordingError(f"camera_index: expected 0 .. {count - 1}, got {camera_index}")
    ending = f"_{camera_index}" if count > 1 else ""
    of_camera, of_base = folder / f"{name}_camera_poses{ending}.txt", folder / f"{name}_poses.txt"
    poses_file = of_camera if of_camera.is_file() else of_base
    if not poses_file.is_file():
        raise RecordingError(
            f"expected {of_camera.name} or {of_base.name} in {folder}, got neither: export --poses_camera too"
        )
    poses = _read_poses(poses_file)
    calibrations = Calibrations()
    frames: list[_RtabmapFrame] = []
    bad: list[str] = []
    for color in images:
        stem, shown = color.stem, f"{color.parent.name}/{color.name}"
        try:
            if stem not in poses:
                raise RecordingError(f"{shown}: expected its pose in {poses_file.name}, got none")
            stamp, pose = poses[stem]
            calibration = calibrations.read(folder / f"{name}_calib" / f"{stem}{ending}.yaml")
            if poses_file == of_base:
                if calibration.base_from_camera is None:
                    raise RecordingError(f"{shown}: expected local_transform in its calibration, got none")
                pose = pose @ calibration.base_from_camera
        except RecordingError as error:
            bad.append(str(error))
            continue
        number = int(stem) if stem.isdigit() else None
        depth = folder / f"{name}_depth" / f"{stem}.png"
        frames.append(
            _RtabmapFrame(
                shown, pose, stamp, number=number, color=color, depth=depth, camera=calibration.camera
            )
        )
    if not frames:
        raise RecordingError(
            f"expected images with a pose and a calibration in {folder}, got none of {len(images)}: {bad[0]} "
            f"(images named by id need --poses_format 11)"
        )
    chosen = selection.apply(frames)
    camera = common_camera([item.camera for item in chosen])

    def read_one(index: int) -> Picture:
        item, own = chosen[index], chosen[index].camera
        image_rgb, jpeg = read_color_file(item.color)
        _expect_shape(item.color, image_rgb, (own.height, own.width * count))
        depth_mm = _as_large(item.depth, read_depth(item.depth), image_rgb.shape[:2])
        if count > 1:
            columns = slice(camera_index * own.width, (camera_index + 1) * own.width)
            image_rgb, depth_mm, jpeg = image_rgb[:, columns], depth_mm[:, columns], None
        if largest_shift(own, camera) > _SAME:
            image_rgb, depth_mm, jpeg = *_brought_to(camera, own, image_rgb, depth_mm), None
        return Picture(image_rgb, depth_mm, jpeg)

    origin = {"format": "rtabmap", "source": name, "camera_index": camera_index}
    return FilePlan(camera, chosen, origin, read_one, bad)


def _find(source: Path) -> tuple[Path, str]:
    """Return an export's folder and NAME."""
    folder, given = (source, "*") if source.is_dir() else (source.parent, source.name)
    names = {
        part: sorted(path.name.removesuffix(part) for path in folder.glob(f"{given}{part}") if path.is_dir())
        for part in ("_rgb", "_left")
    }
    if len(names["_rgb"]) == 1:
        return folder, names["_rgb"][0]
    if names["_rgb"]:
        raise RecordingError(
            f"expected one export in {folder}, got {', '.join(names['_rgb'])}: "
            f"give {folder / names['_rgb'][0]} for the first"
        )
    found = f"{names['_left'][0]}_left, of a stereo camera" if names["_left"] else "none"
    raise RecordingError(
        f"expected NAME_rgb and NAME_depth as `rtabmap-export --images` writes them in {source}, got {found}"
    )


def _images(folder: Path) -> list[Path]:
    images = [path for path in folder.iterdir() if re.fullmatch(r"\d{1,18}(\.\d{1,18})?\.jpg", path.name)]
    if not images:
        raise RecordingError(f"expected images named by stamp or id in {folder}, got none")
    return sorted(images, key=lambda path: float(path.stem))


def _camera_count(folder: Path, stem: str) -> int:
    count = 0
    while (folder / f"{stem}_{count}.yaml").is_file():
        count += 1
    return max(count, 1)


def _read_poses(path: Path) -> dict[str, _Stamped]:
    """Return stamp (s) and target_from_body (4, 4) by the stamp's text, as images have it, and by id."""
    poses: dict[str, _Stamped] = {}
    for row in read_table(path, "timestamp x y z qx qy qz qw [id]", (8, 9)):
        ids = row.fields[8:]
        if not any(identity.startswith("-") for identity in ids):  # that would be a landmark
            poses |= dict.fromkeys([row.fields[0], *ids], (row.number(0), row.pose()))
    return poses


def _expect_shape(path: Path, image: npt.NDArray[np.uint8], shape: tuple[int, int]) -> None:
    if image.shape[:2] != shape:
        (height, width), (got_height, got_width) = shape, image.shape[:2]
        raise RecordingError(
            f"{path}: expected {width}x{height} as its calibration says, got {got_width}x{got_height}"
        )


def _as_large(path: Path, depth_mm: npt.NDArray[np.uint16], shape: tuple[int, ...]) -> npt.NDArray[np.uint16]:
    """Return depth in the image's size; a smaller one shows the same view."""
    (height, width), (rows, columns) = shape, depth_mm.shape
    if rows > height or columns > width or abs(columns * height - rows * width) > width:
        raise RecordingError(f"{path}: expected {width}x{height} or a part of it, got {columns}x{rows}")
    return resample_depth(depth_mm, width, height)


def _brought_to(
    camera: Camera, own: Camera, image_rgb: npt.NDArray[np.uint8], depth_mm: npt.NDArray[np.uint16]
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint16]]:
    """Return image and depth as `camera` would have seen them from the place of their `own`."""
    to_camera = (camera.matrix @ np.linalg.inv(own.matrix))[:2]
    size = camera.width, camera.height
    image = cv2.warpAffine(
        image_rgb, to_camera, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    depth = cv2.warpAffine(depth_mm, to_camera, size, flags=cv2.INTER_NEAREST)
    return np.asarray(image, dtype=np.uint8), np.asarray(depth, dtype=np.uint16)
