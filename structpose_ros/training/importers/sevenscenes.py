"""7-Scenes as downloaded: Kinect frames whose depth is not registered and whose poses are the depth camera's.

Shotton et al., "Scene coordinate regression forests", CVPR 2013. Focal length: depth 585 px, colour 525;
principal point (320, 240). The depth-to-colour transform is that of Brachmann et al., "On the limits of
pseudo ground truth in visual camera re-localisation", ICCV 2021; leaving it out costs 2.6 cm and 0.67 deg.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from structpose_ros.camera import Camera
from structpose_ros.geometry import invert, rigid_from_matrix
from structpose_ros.training.frames import (
    Frame,
    FrameFiles,
    Recording,
    RecordingError,
    expect_size,
    read_color,
    read_depth,
    read_pose,
)
from structpose_ros.training.importers.common import (
    FilePlan,
    Imported,
    Picture,
    plan_frames,
    write_import,
)
from structpose_ros.training.registration import register_depth

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
        return Frame(
            files.name,
            image_rgb,
            register_depth(depth_mm, self._depth_rays, COLOR_FROM_DEPTH, COLOR_CAMERA),
            self.read_pose(files),
        )

    def read_pose(self, files: FrameFiles) -> npt.NDArray[np.float64]:
        """Read map_from_camera (4, 4) of a frame's colour camera."""
        return read_pose(files.pose) @ invert(COLOR_FROM_DEPTH)


def import_7scenes(
    source: Path, out: Path, *, skip_bad: bool = False, progress: Callable[[int, int], None] | None = None
) -> Imported:
    """Write a scene as posed frames with registered depth; what an earlier call wrote is kept.

    Raises:
        RecordingError: `source` is no scene, frames are bad, or `out` holds another recording.
    """
    if not SevenScenesRecording.recognises(source):
        raise RecordingError(
            f"expected a 7-Scenes scene (TrainSplit.txt, seq-XX/frame-*.pose.txt) in {source}, got none"
        )
    if source.resolve() == out.resolve():
        raise RecordingError(f"expected another folder than the scene's own to write to, got {out}")
    return write_import(plan_7scenes(source), out, skip_bad=skip_bad, progress=progress)


def plan_7scenes(source: Path) -> FilePlan:
    """Look through a scene; sequences and frames keep their numbers."""
    recording = SevenScenesRecording(source)
    frames, files, bad = plan_frames(recording)

    def read_one(index: int) -> Picture:
        frame = recording.read(files[index])
        return Picture(frame.image_rgb, frame.depth_mm, files[index].color.read_bytes())

    origin = {"format": "7scenes", "source": recording.name}
    return FilePlan(recording.camera, frames, origin, read_one, bad)
