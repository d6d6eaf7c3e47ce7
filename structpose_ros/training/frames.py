"""Posed RGB-D frames on disk: the 7-Scenes layout plus `camera.yaml`, which every importer writes.

camera.yaml                       ROS camera_info YAML of the colour camera
TrainSplit.txt, TestSplit.txt     lines `sequence1` ...
seq-01/frame-000000.color.jpg     or .png
seq-01/frame-000000.depth.png     uint16 millimetres along z, registered to colour; 0 and 65535 are invalid
seq-01/frame-000000.pose.txt      map_from_camera, 4x4, metres, camera optical frame
seq-01/stamps.txt                 optional: lines `frame-number seconds`
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import yaml

from structpose_ros.camera import Camera, CameraError
from structpose_ros.geometry import rigid_from_matrix
from structpose_ros.image_files import ImageFileError, stored

STAMPS = "stamps.txt"
SPLIT_FILES = {"train": "TrainSplit.txt", "test": "TestSplit.txt"}
NOTHING_SEEN_MM = 65535  # invalid beside 0, though it passes for 65.5 m
JPEG_START = b"\xff\xd8"
# What a YAML file of another shape meets when its fields are taken, or one that is nested too deep.
MALFORMED = (KeyError, TypeError, ValueError, OverflowError, AttributeError, RecursionError)
_FRAME_NAME = re.compile(r"frame-(\d{1,18})\.(color\.jpg|color\.png|depth\.png|pose\.txt)$")


class RecordingError(ValueError):
    """A recording that can't be used; the message says what was expected and what came."""


@dataclass(frozen=True)
class FrameFiles:
    """Where the parts of one frame lie; `name` is `seq-01/frame-000000`."""

    name: str
    color: Path
    depth: Path
    pose: Path


@dataclass(frozen=True)
class Frame:
    """One frame: image_rgb (H, W, 3) uint8, depth_mm (H, W) uint16 with 0 invalid, map_from_camera (4, 4)."""

    name: str
    image_rgb: npt.NDArray[np.uint8]
    depth_mm: npt.NDArray[np.uint16]
    map_from_camera: npt.NDArray[np.float64]


class Recording:
    """A folder of posed frames of one camera."""

    def __init__(self, root: Path, camera: Camera) -> None:
        """Use the frames below `root`, all taken by `camera`."""
        self.root = root
        self.camera = camera

    @property
    def name(self) -> str:
        """The folder's name, which the model file keeps as its dataset."""
        return self.root.resolve().name

    def sequences(self, split: str) -> list[str]:
        """Return the folders (`seq-01`) of a split, in the order of its file."""
        return read_split(self.root, split)

    def files(self, split: str, *, need_depth: bool = True) -> tuple[list[FrameFiles], list[str]]:
        """Return the complete frames of a split in order, and what is wrong with each incomplete one.

        Without `need_depth` a frame is complete with colour and pose; its depth file may not exist.
        """
        complete: list[FrameFiles] = []
        bad: list[str] = []
        for sequence in self.sequences(split):
            found, missing = list_sequence(self.root / sequence, sequence, need_depth=need_depth)
            complete += found
            bad += missing
        if not complete:
            raise RecordingError(f"expected frames in split '{split}' of {self.root}, got none")
        return complete, bad

    def read(self, files: FrameFiles) -> Frame:
        """Read one frame.

        Raises:
            RecordingError: a part is unreadable or does not fit the camera.
        """
        image_rgb = read_color(files.color)
        expect_size(files.color, image_rgb.shape, self.camera)
        depth_mm = read_depth(files.depth)
        expect_size(files.depth, depth_mm.shape, self.camera)
        return Frame(files.name, image_rgb, depth_mm, self.read_pose(files))

    def read_pose(self, files: FrameFiles) -> npt.NDArray[np.float64]:
        """Read a frame's map_from_camera (4, 4) alone.

        Raises:
            RecordingError: the file is unreadable or holds no pose.
        """
        return read_pose(files.pose)


def open_recording(root: Path) -> Recording:
    """Open a folder of posed frames: ours (with camera.yaml) or 7-Scenes as downloaded (without).

    Raises:
        RecordingError: it is neither.
    """
    from structpose_ros.training.importers.sevenscenes import SevenScenesRecording

    if not root.is_dir():
        raise RecordingError(
            f"expected a recording's folder at {root}, got {'a file' if root.exists() else 'nothing'}"
        )
    if (root / "camera.yaml").is_file():
        return Recording(root, read_camera(root / "camera.yaml"))
    if SevenScenesRecording.recognises(root):
        return SevenScenesRecording(root)
    raise RecordingError(
        f"expected camera.yaml, or TrainSplit.txt and seq-XX folders as in 7-Scenes, in {root}, "
        f"got {sorted(item.name for item in root.iterdir())[:8]}"
    )


def handle_bad(bad: Sequence[str], total: int, skip_bad: bool) -> None:
    """Refuse bad frames, by name and number, unless they are to be skipped."""
    if bad and not skip_bad:
        shown = "; ".join(bad[:5]) + ("; ..." if len(bad) > 5 else "")
        raise RecordingError(f"{len(bad)} of {total} frames are bad: {shown} (--skip-bad leaves them out)")


def read_split(root: Path, split: str) -> list[str]:
    """Return the sequence folders named in a split file, as `seq-01`."""
    if split not in SPLIT_FILES:
        raise RecordingError(f"expected a split of {', '.join(SPLIT_FILES)}, got '{split}'")
    path = root / SPLIT_FILES[split]
    if not path.is_file():
        raise RecordingError(f"expected {path.name} in {root} for split '{split}', got nothing")
    sequences = []
    for line in path.read_text(errors="replace").split():
        number = re.fullmatch(r"(?:sequence|seq-)(\d{1,9})", line)
        if number is None:
            raise RecordingError(f"expected lines like 'sequence1' in {path}, got '{line[:80]}'")
        sequences.append(f"seq-{int(number.group(1)):02d}")
    return list(dict.fromkeys(sequences))  # a sequence named twice is read once


def list_sequence(
    folder: Path, sequence: str, *, need_depth: bool = True
) -> tuple[list[FrameFiles], list[str]]:
    """Return the complete frames of a sequence folder, and a line for each frame that lacks a part."""
    if not folder.is_dir():
        raise RecordingError(f"expected the folder {folder} that the split names, got nothing")
    parts: dict[str, dict[str, Path]] = {}
    for path in sorted(folder.iterdir()):  # of color.jpg and color.png the latter, on every file system
        match = _FRAME_NAME.fullmatch(path.name)
        if match:
            parts.setdefault(match.group(1), {})[match.group(2).split(".")[0]] = path
    complete, bad = [], []
    for number in sorted(parts):
        name = f"{sequence}/frame-{number}"
        if not need_depth:
            parts[number].setdefault("depth", folder / f"frame-{number}.depth.png")
        missing = [part for part in ("color", "depth", "pose") if part not in parts[number]]
        if missing:
            bad.append(
                f"{name}: expected color{', depth' if need_depth else ''} and pose, got no "
                f"{' and no '.join(missing)}"
            )
        else:
            complete.append(FrameFiles(name, *(parts[number][part] for part in ("color", "depth", "pose"))))
    return complete, bad


def read_color(path: Path) -> npt.NDArray[np.uint8]:
    """Return an image file as (H, W, 3) RGB."""
    image = decode_image(read_bytes(path, "an image"), cv2.IMREAD_COLOR, str(path))
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), dtype=np.uint8)


def read_depth(path: Path) -> npt.NDArray[np.uint16]:
    """Return a depth file as (H, W) uint16 millimetres in which 0, and nothing else, is invalid."""
    depth = decode_image(read_bytes(path, "a depth image"), cv2.IMREAD_UNCHANGED, str(path))
    if depth.dtype != np.uint16 or depth.ndim != 2:
        raise RecordingError(f"{path}: expected one channel of uint16 mm, got {depth.dtype} {depth.shape}")
    depth[depth == NOTHING_SEEN_MM] = 0
    return depth


def read_bytes(path: Path, expected: str) -> bytes:
    """Return a file's content.

    Raises:
        RecordingError: there is none or it can't be read; the message says what was `expected`.
    """
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise RecordingError(f"{path}: expected {expected}, got nothing") from None
    except OSError as error:
        raise RecordingError(f"{path}: expected {expected}, got: {error.strerror}") from error


def decode_image(content: bytes, flags: int, source: str) -> npt.NDArray[Any]:
    """Return a JPEG or PNG file as `cv2.imdecode` does with these flags; `source` is its name in messages.

    Its pixels are given as they are stored, which is what the camera's intrinsics are for: a turn that EXIF
    asks for is left out.

    Raises:
        RecordingError: it is of another kind, too large, damaged or cut off.
    """
    try:
        return stored(content, flags | cv2.IMREAD_IGNORE_ORIENTATION)
    except ImageFileError as error:
        raise RecordingError(f"{source}: {error}") from error


def read_pose(path: Path) -> npt.NDArray[np.float64]:
    """Return a pose file's (4, 4) matrix, made rigid."""
    try:
        return rigid_from_matrix(np.array(path.read_text().split(), dtype=np.float64).reshape(4, 4))
    except (ValueError, OSError) as error:
        raise RecordingError(f"{path}: expected a 4x4 rigid pose in metres, got: {error}") from error


def expect_size(path: Path, shape: Iterable[int], camera: Camera) -> None:
    """Raise RecordingError unless an image of `shape` has the camera's size."""
    height, width = list(shape)[:2]
    if (width, height) != (camera.width, camera.height):
        raise RecordingError(
            f"{path}: expected {camera.width}x{camera.height} as its camera says, got {width}x{height}"
        )


def read_camera(path: Path) -> Camera:
    """Read a ROS camera_info YAML file."""
    try:
        content = yaml.safe_load(path.read_text())
        k = [float(value) for value in content["camera_matrix"]["data"]]
        if len(k) != 9 or not all(map(math.isfinite, k)):
            raise RecordingError(f"expected 9 finite numbers in camera_matrix, got {k}")
        return Camera(
            width=int(content["image_width"]),
            height=int(content["image_height"]),
            fx=k[0],
            fy=k[4],
            cx=k[2],
            cy=k[5],
            distortion_model=str(content.get("distortion_model") or "plumb_bob"),
            distortion=tuple(float(v) for v in content.get("distortion_coefficients", {}).get("data", ())),
        )
    except (CameraError, RecordingError) as error:
        raise RecordingError(f"{path}: {error}") from error
    except (yaml.YAMLError, OSError, *MALFORMED) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else " ".join(str(error).split())
        raise RecordingError(f"{path}: expected a ROS camera_info YAML file, got: {reason}") from error


def write_camera(path: Path, camera: Camera) -> None:
    """Write a ROS camera_info YAML file."""
    k = [float(value) for value in camera.matrix.reshape(-1)]
    content = {
        "image_width": camera.width,
        "image_height": camera.height,
        "camera_name": "camera",
        "camera_matrix": {"rows": 3, "cols": 3, "data": k},
        "distortion_model": camera.distortion_model,
        "distortion_coefficients": {
            "rows": 1,
            "cols": len(camera.distortion),
            "data": [float(value) for value in camera.distortion],
        },
        "rectification_matrix": {"rows": 3, "cols": 3, "data": [1.0, 0, 0, 0, 1.0, 0, 0, 0, 1.0]},
        "projection_matrix": {"rows": 3, "cols": 4, "data": [*k[:3], 0.0, *k[3:6], 0.0, *k[6:], 0.0]},
    }
    write_atomic(path, yaml.safe_dump(content, sort_keys=False, default_flow_style=None).encode())


def write_atomic(path: Path, content: bytes) -> None:
    """Write a file under a temporary name, then rename it: readers see the old or the new one, whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_stamps(folder: Path, stamps: Mapping[int, float]) -> None:
    """Write when the frames of a sequence were taken: seconds by frame number."""
    lines = (f"{number} {stamps[number]:.9f}\n" for number in sorted(stamps))
    write_atomic(folder / STAMPS, "".join(lines).encode())


def read_stamps(folder: Path) -> dict[int, float]:
    """Return seconds by frame number of a sequence folder; empty where the recording has none."""
    path = folder / STAMPS
    if not path.is_file():
        return {}
    try:
        pairs = [line.split() for line in path.read_text().splitlines()]
        return {int(number): float(seconds) for number, seconds in pairs}
    except ValueError as error:
        raise RecordingError(f"{path}: expected lines of a frame number and seconds, got: {error}") from error


def remove_temporaries(root: Path) -> None:
    """Remove what a killed `write_atomic` left below a folder."""
    for path in [*root.glob(".*.tmp"), *root.glob("*/.*.tmp")]:
        path.unlink(missing_ok=True)


def write_frame(folder: Path, number: int, frame: Frame, color: bytes | None = None) -> None:
    """Write a frame's three files; `color`: a JPEG or PNG to keep byte by byte, else PNG is written."""
    stem = folder / f"frame-{number:06d}"
    if color is None:
        color = cv2.imencode(".png", cv2.cvtColor(frame.image_rgb, cv2.COLOR_RGB2BGR))[1].tobytes()
    write_atomic(Path(f"{stem}.color.{'jpg' if color.startswith(JPEG_START) else 'png'}"), color)
    write_atomic(Path(f"{stem}.depth.png"), cv2.imencode(".png", frame.depth_mm)[1].tobytes())
    rows = (" ".join(f"{value:.17g}" for value in row) for row in frame.map_from_camera)
    write_atomic(Path(f"{stem}.pose.txt"), ("\n".join(rows) + "\n").encode())
