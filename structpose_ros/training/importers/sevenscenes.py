"""7-Scenes as downloaded: Kinect frames whose depth is not registered and whose poses are the depth camera's.

Shotton et al., "Scene coordinate regression forests", CVPR 2013. Focal length: depth 585 px, colour 525;
principal point (320, 240). The depth-to-colour transform is that of Brachmann et al., "On the limits of
pseudo ground truth in visual camera re-localisation", ICCV 2021; leaving it out costs 2.6 cm and 0.67 deg.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from structpose_ros.camera import Camera
from structpose_ros.geometry import invert, rigid_from_matrix, transform_points
from structpose_ros.training.frames import (
    SPLIT_FILES,
    Frame,
    FrameFiles,
    Recording,
    RecordingError,
    expect_size,
    handle_bad,
    read_color,
    read_depth,
    read_pose,
    write_camera,
    write_frame,
)

DEPTH_CAMERA = Camera(640, 480, 585.0, 585.0, 320.0, 240.0)
COLOR_CAMERA = Camera(640, 480, 525.0, 525.0, 320.0, 240.0)
COLOR_FROM_DEPTH = rigid_from_matrix(
    [
        [9.9996518012567637e-01, 2.6765126468950343e-03, -7.9041012313000904e-03, -2.5558943178152542e-02],
        [-2.7409311281316700e-03, 9.9996302803027592e-01, -8.1504520778013286e-03, 1.0109636268061706e-04],
        [7.8819942130445332e-03, 8.1718328771890631e-03, 9.9993554558014031e-01, 2.0318321729487039e-03],
        [0.0, 0.0, 0.0, 1.0],
    ]
)


class SevenScenesRecording(Recording):
    """A 7-Scenes scene read as frames of its colour camera."""

    def __init__(self, root: Path) -> None:
        """Use the scene in `root`, e.g. `redkitchen`."""
        super().__init__(root, COLOR_CAMERA)
        self._depth_rays = DEPTH_CAMERA.ray_grid()

    @staticmethod
    def recognises(root: Path) -> bool:
        """Whether a folder looks like a scene of 7-Scenes."""
        return (root / "TrainSplit.txt").is_file() and any(root.glob("seq-*/frame-*.pose.txt"))

    def read(self, files: FrameFiles) -> Frame:
        """Read one frame, with depth and pose moved into the colour camera."""
        image_rgb = read_color(files.color)
        expect_size(files.color, image_rgb.shape, COLOR_CAMERA)
        depth_mm = read_depth(files.depth)
        expect_size(files.depth, depth_mm.shape, DEPTH_CAMERA)
        map_from_depth = read_pose(files.pose)
        return Frame(
            files.name,
            image_rgb,
            register_depth(depth_mm, self._depth_rays, COLOR_FROM_DEPTH, COLOR_CAMERA),
            map_from_depth @ invert(COLOR_FROM_DEPTH),
        )


def register_depth(
    depth_mm: npt.NDArray[np.uint16],
    depth_rays: npt.NDArray[np.float64],
    color_from_depth: npt.NDArray[np.float64],
    color_camera: Camera,
) -> npt.NDArray[np.uint16]:
    """Return the depth (H, W) in mm that the colour camera would see; where points meet, the nearest wins."""
    # Indices and one test per coordinate: boolean masks and tests over (N, 2) rows take twice as long.
    seen = np.flatnonzero(depth_mm)
    points_in_depth = np.take(depth_rays.reshape(-1, 3), seen, axis=0)
    points_in_depth *= (depth_mm.reshape(-1)[seen] * 1e-3)[:, None]
    points_in_color = transform_points(color_from_depth, points_in_depth)
    in_front = np.flatnonzero(points_in_color[:, 2] > 1e-3)
    if len(in_front) < len(points_in_color):
        points_in_color = points_in_color[in_front]
    columns, rows = np.rint(color_camera.project(points_in_color)).T
    width, height = color_camera.width, color_camera.height
    inside = np.flatnonzero((columns >= 0) & (columns < width) & (rows >= 0) & (rows < height))
    index = (rows[inside] * width + columns[inside]).astype(np.intp)
    millimetres = np.minimum(np.rint(points_in_color[inside, 2] * 1e3), 65534).astype(np.uint16)
    farthest_first = np.argsort(millimetres, kind="stable")[::-1]
    registered = np.zeros((height, width), dtype=np.uint16)
    registered.reshape(-1)[index[farthest_first]] = millimetres[farthest_first]  # the last one written stays
    return registered


def import_7scenes(
    source: Path, out: Path, *, skip_bad: bool = False, progress: Callable[[int, int], None] | None = None
) -> int:
    """Write a scene as posed frames with registered depth, keeping what is written; returns their number.

    Raises:
        RecordingError: `source` is no such scene, or frames of it are bad (the good ones are written).
    """
    if source.resolve() == out.resolve():
        raise RecordingError(f"expected another folder than the scene's own to write to, got {out}")
    if not SevenScenesRecording.recognises(source):
        raise RecordingError(
            f"expected a 7-Scenes scene (TrainSplit.txt, seq-XX/frame-*.pose.txt) in {source}"
        )
    recording = SevenScenesRecording(source)
    splits = [split for split, name in SPLIT_FILES.items() if (source / name).is_file()]
    listed = [recording.files(split) for split in splits]
    files = [item for complete, _ in listed for item in complete]
    bad = [line for _, missing in listed for line in missing]
    handle_bad(bad, len(files) + len(bad), skip_bad)
    written = 0
    unreadable: list[str] = []
    for done, item in enumerate(files):
        try:
            _import_frame(recording, item, out / item.name.split("/")[0])
            written += 1
        except RecordingError as error:
            unreadable.append(str(error))
        if progress:
            progress(done + 1, len(files))
    handle_bad(unreadable, len(files), skip_bad)
    if written == 0:
        raise RecordingError(f"expected frames in {source}, got none that can be read")
    for split in splits:
        shutil.copyfile(source / SPLIT_FILES[split], out / SPLIT_FILES[split])
    write_camera(out / "camera.yaml", COLOR_CAMERA)  # last: without it the folder is no recording
    return written


def _import_frame(recording: Recording, files: FrameFiles, folder: Path) -> None:
    number = int(files.name.rsplit("-", 1)[1])
    suffix = files.color.suffix
    parts = (f"color{suffix}", "depth.png", "pose.txt")
    # Each part is written at once and the pose last, so a frame that has its three parts is whole.
    if not all((folder / f"frame-{number:06d}.{part}").is_file() for part in parts):
        color = files.color.read_bytes() if suffix == ".jpg" else None
        write_frame(folder, number, recording.read(files), color)
