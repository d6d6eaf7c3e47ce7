"""12-Scenes as downloaded: an iPad's colour images and the smaller depth of a sensor clipped to it.

Valentin et al., "Learning to navigate the energy landscape", 3DV 2016. A scene (`apt1/kitchen`) holds
`data/frame-000000.color.jpg`, `.depth.png` and `.pose.txt`, `info.txt` and `split.txt`. What the distribution
does not say is taken from public code that reads it:
- The first sequence of split.txt is for testing and the others are for training, and a frame whose pose holds
  an infinity has none (setup_12scenes.py of DSAC* and of ACE).
- Poses are camera-to-world, and colour and depth camera are in one place: depth is projected into colour by
  the intrinsics of both (import_12scenes.py of kapture).
- An extrinsic of info.txt maps a camera's points into the device's frame, as in BundleFusion, whose format
  this is (m_calibrationDepth.m_extrinsic); in the scenes they are the identity.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from structpose_ros.camera import Camera, CameraError, resize_image
from structpose_ros.geometry import invert, rigid_from_matrix, transform_points
from structpose_ros.training.frames import (
    FrameFiles,
    RecordingError,
    expect_size,
    list_sequence,
    read_color,
    read_depth,
    read_pose,
)
from structpose_ros.training.importers.common import (
    FilePlan,
    Imported,
    Picture,
    PlannedFrame,
    depth_in_millimetres,
    write_import,
)
from structpose_ros.training.registration import register_depth

_SEQUENCE = re.compile(r"sequence(\d{1,9})\s*\[frames=\d{1,9}\]\s*\[start=(\d{1,9})\s*;\s*end=(\d{1,9})\]")
_NO_POSE = re.compile(r"inf|nan", re.IGNORECASE)  # written on Windows: -1.#INF
_LARGEST = 20000  # px
_NEAREST = 0.4  # metres; the sensor sees nothing nearer


@dataclass(frozen=True)
class SceneInfo:
    """What info.txt says: both cameras as recorded, color_from_depth (4, 4), metres per unit of depth."""

    color_camera: Camera
    depth_camera: Camera
    color_from_depth: npt.NDArray[np.float64]
    depth_unit: float

    @property
    def resized_camera(self) -> Camera:
        """The colour camera at the depth's size, in which frames are written."""
        return self.color_camera.resized(self.depth_camera.width, self.depth_camera.height)

    def is_registered(self) -> bool:
        """Whether depth lies within a pixel of where the resized colour camera sees it."""
        rays = self.depth_camera.ray_grid()
        pixels = self.depth_camera.project(rays)
        for distance in (_NEAREST, 1e3):
            points_in_color = transform_points(self.color_from_depth, distance * rays)
            # NaN, behind the colour camera, is not within a pixel either.
            if not (np.abs(self.resized_camera.project(points_in_color) - pixels) < 1).all():
                return False
        return True


def import_12scenes(
    source: Path, out: Path, *, skip_bad: bool = False, progress: Callable[[int, int], None] | None = None
) -> Imported:
    """Write a scene as posed frames of the depth's size; what an earlier call wrote is kept.

    Raises:
        RecordingError: `source` is no scene, frames are bad, or `out` holds another recording.
    """
    return write_import(plan_12scenes(source), out, skip_bad=skip_bad, progress=progress)


def recognises(root: Path) -> bool:
    """Whether a folder looks like a scene of 12-Scenes."""
    return all((root / name).exists() for name in ("info.txt", "split.txt", "data"))


def plan_12scenes(source: Path) -> FilePlan:
    """Look through a scene: sequence k becomes seq-(k + 1), and frames keep their numbers."""
    if not recognises(source):
        raise RecordingError(
            f"expected a scene of 12-Scenes (info.txt, split.txt, data/frame-*) in {source}, got none"
        )
    info = read_info(source / "info.txt")
    sequences = read_sequences(source / "split.txt")
    complete, bad = list_sequence(source / "data", "data")
    frames: list[PlannedFrame] = []
    files: list[FrameFiles] = []
    lost = 0
    for item in complete:
        number = int(item.name.rpartition("-")[2])
        sequence = next((k for k, (start, end) in sequences.items() if start <= number <= end), None)
        try:
            if sequence is None:
                raise RecordingError(f"{item.name}: expected a frame of a sequence in split.txt, got none")
            if _NO_POSE.search(item.pose.read_text(errors="replace")):
                lost += 1
                continue
            pose = read_pose(item.pose)
        except RecordingError as error:
            bad.append(str(error))
            continue
        split = "test" if sequence == next(iter(sequences)) else "train"
        frames.append(PlannedFrame(item.name, pose, None, split, sequence + 1, number))
        files.append(item)
    origin = {"format": "12scenes", "source": f"{source.resolve().parent.name}/{source.resolve().name}"}
    return FilePlan(
        info.resized_camera,
        frames,
        {**origin, "frames_without_pose": lost},
        _reader(info, files),
        bad,
    )


def _reader(info: SceneInfo, files: list[FrameFiles]) -> Callable[[int], Picture]:
    registered, rays = info.is_registered(), info.depth_camera.ray_grid()

    def read_one(index: int) -> Picture:
        item = files[index]
        image_rgb = read_color(item.color)
        expect_size(item.color, image_rgb.shape, info.color_camera)
        resized, camera = resize_image(
            image_rgb, info.color_camera, info.depth_camera.width, info.depth_camera.height
        )
        raw = read_depth(item.depth)
        expect_size(item.depth, raw.shape, info.depth_camera)
        depth_mm = depth_in_millimetres(raw, info.depth_unit)
        if not registered:
            depth_mm = register_depth(depth_mm, rays, info.color_from_depth, camera)
        return Picture(resized, depth_mm)

    return read_one


def read_info(path: Path) -> SceneInfo:
    """Read info.txt: lines `key = value`, of which the others are left aside.

    Raises:
        RecordingError: a line is missing or malformed.
    """
    pairs = (line.partition("=") for line in path.read_text(errors="replace").splitlines())
    values = {key.strip(): value.split() for key, _, value in pairs}

    def numbers(key: str, count: int) -> list[float]:
        try:
            found = [float(word) for word in values[key]]
        except KeyError:
            raise RecordingError(f"{path}: expected a line '{key} = ...', got none") from None
        except ValueError as error:
            raise RecordingError(f"{path}: expected numbers for {key}, got: {error}") from error
        if len(found) != count or not np.isfinite(found).all():
            raise RecordingError(f"{path}: expected {count} finite numbers for {key}, got {values[key]}")
        return found

    def camera(kind: str) -> Camera:
        width, height = (int(numbers(f"m_{kind.lower()}{side}", 1)[0]) for side in ("Width", "Height"))
        if max(width, height) > _LARGEST:
            raise RecordingError(f"{path}: expected images of at most {_LARGEST} px, got {width}x{height}")
        k = np.reshape(numbers(f"m_calibration{kind}Intrinsic", 16), (4, 4))
        return Camera(width, height, k[0, 0], k[1, 1], k[0, 2], k[1, 2])

    def device_from_camera(kind: str) -> npt.NDArray[np.float64]:
        return rigid_from_matrix(np.reshape(numbers(f"m_calibration{kind}Extrinsic", 16), (4, 4)))

    per_metre = numbers("m_depthShift", 1)[0]
    if per_metre <= 0:
        raise RecordingError(f"{path}: expected an m_depthShift above 0, got {per_metre:g}")
    try:
        color_from_depth = invert(device_from_camera("Color")) @ device_from_camera("Depth")
        return SceneInfo(camera("Color"), camera("Depth"), color_from_depth, 1 / per_metre)
    except CameraError as error:
        raise RecordingError(f"{path}: {error}") from error
    except RecordingError:
        raise
    except ValueError as error:
        raise RecordingError(f"{path}: expected rigid extrinsics, got: {error}") from error


def read_sequences(path: Path) -> dict[int, tuple[int, int]]:
    """Return first and last frame of each sequence of split.txt, in the order of its lines.

    Raises:
        RecordingError: a line is of another kind, or there is none.
    """
    sequences: dict[int, tuple[int, int]] = {}
    for number, line in enumerate(path.read_text(errors="replace").splitlines(), start=1):
        if not line.strip():
            continue
        match = _SEQUENCE.fullmatch(line.strip())
        if match is None:
            raise RecordingError(
                f"{path}: line {number}: expected 'sequence0 [frames=N]  [start=A ; end=B]', got '{line}'"
            )
        sequence, start, end = map(int, match.groups())
        sequences[sequence] = (start, end)
    if not sequences:
        raise RecordingError(f"{path}: expected a line for each sequence, got none")
    return sequences
