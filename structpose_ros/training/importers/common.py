"""What every importer shares: frames are planned first, then read and written, so that an import resumes.

An importer finds out the whole `Plan` before anything is written: which frames there are, where the camera
was at each, and into which sequence it goes. `write_import` asks for those that `out` does not hold yet.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, TypeVar

import cv2
import numpy as np
import numpy.typing as npt

from structpose_ros.camera import Camera
from structpose_ros.geometry import rotation_angle
from structpose_ros.training.frames import (
    JPEG_START,
    SPLIT_FILES,
    Frame,
    FrameFiles,
    Recording,
    RecordingError,
    decode_image,
    expect_size,
    handle_bad,
    read_bytes,
    read_stamps,
    remove_temporaries,
    write_atomic,
    write_camera,
    write_frame,
    write_stamps,
)

ORIGIN = "import.json"  # in the folder written: where its frames come from
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class PlannedFrame:
    """A frame that an importer found, not read yet.

    source: how an error names it (a file, a topic and stamp). map_from_camera: (4, 4), metres, optical
    frame. stamp: seconds, None where the recording has none. split: `train` or `test`. sequence: from 1.
    number: within the sequence; None counts from 0.
    """

    source: str
    map_from_camera: npt.NDArray[np.float64]
    stamp: float | None = None
    split: str = "train"
    sequence: int = 1
    number: int | None = None


AnyFrame = TypeVar("AnyFrame", bound=PlannedFrame)


@dataclass(frozen=True)
class Picture:
    """What was seen: image_rgb (H, W, 3) uint8, depth_mm (H, W) uint16 registered to it, 0 invalid.

    encoded: the bytes that image_rgb was decoded from, where they are a JPEG or PNG, to be kept as they are.
    """

    image_rgb: npt.NDArray[np.uint8]
    depth_mm: npt.NDArray[np.uint16]
    encoded: bytes | None = None


class Plan(Protocol):
    """A recording in another format, looked through but not read.

    camera: that of the images as `read` gives them. frames: in the order in which they are written.
    origin: plain values that tell this import from another into the same folder (format, options).
    bad: a line for each frame that can't be used, known before reading.
    """

    @property
    def camera(self) -> Camera: ...  # noqa: D102
    @property
    def frames(self) -> Sequence[PlannedFrame]: ...  # noqa: D102
    @property
    def origin(self) -> dict[str, Any]: ...  # noqa: D102
    @property
    def bad(self) -> Sequence[str]: ...  # noqa: D102

    def read(self, wanted: Sequence[int]) -> Iterator[tuple[int, Picture | RecordingError]]:
        """Yield the wanted frames (ascending indices into `frames`), each with its index, or what is bad."""


@dataclass(frozen=True)
class FilePlan:
    """A plan whose frames lie in files of their own: `read_one(index)` reads one of them."""

    camera: Camera
    frames: Sequence[PlannedFrame]
    origin: dict[str, Any]
    read_one: Callable[[int], Picture]
    bad: Sequence[str] = field(default_factory=list)

    def read(self, wanted: Sequence[int]) -> Iterator[tuple[int, Picture | RecordingError]]:
        """See `Plan.read`."""
        for index in wanted:
            try:
                yield index, self.read_one(index)
            except RecordingError as error:
                yield index, error


@dataclass(frozen=True)
class Selection:
    """Which frames of a drive are taken, and which of them are kept for testing.

    min_distance (m), min_angle (deg): a frame is taken once the camera has moved or turned as far since the
    last one. test_fraction: share held back for testing, in `blocks` blocks spread over the drive.
    gap: frames left out on both sides of a test block, so that train and test do not touch.
    """

    min_distance: float = 0.0
    min_angle: float = 0.0
    test_fraction: float = 0.1
    blocks: int = 2
    gap: int = 10

    def __post_init__(self) -> None:
        for name, low, high in (
            ("min_distance", 0, 100),
            ("min_angle", 0, 180),
            ("test_fraction", 0, 0.9),
            ("blocks", 1, 1000),
            ("gap", 0, 100000),
        ):
            value = getattr(self, name)
            if not low <= value <= high:
                raise RecordingError(f"{name}: expected {low} .. {high}, got {value}")

    def apply(self, frames: Sequence[AnyFrame]) -> list[AnyFrame]:
        """Return the chosen frames of one drive, in order, with split and sequence set (from 1).

        An importer's own kind of frame keeps what else it holds.
        """
        chosen = thin_by_motion(
            [frame.map_from_camera for frame in frames], self.min_distance, self.min_angle
        )
        kept: list[AnyFrame] = []
        for split, sequence, first, last in split_blocks(
            len(chosen), self.test_fraction, self.blocks, self.gap
        ):
            kept += [replace(frames[index], split=split, sequence=sequence) for index in chosen[first:last]]
        return kept


def thin_by_motion(
    poses: Sequence[npt.NDArray[np.float64]], min_distance: float, min_angle: float
) -> list[int]:
    """Return the indices of poses (4, 4) at least `min_distance` m or `min_angle` deg from the last taken.

    The first is always taken; a bound of 0 does not count, and with both 0 all are taken.
    """
    if min_distance <= 0 and min_angle <= 0:
        return list(range(len(poses)))
    distance = min_distance if min_distance > 0 else math.inf
    angle = math.radians(min_angle) if min_angle > 0 else math.inf
    taken: list[int] = []
    for index, pose in enumerate(poses):
        if taken:
            last = poses[taken[-1]]
            moved = float(np.linalg.norm(pose[:3, 3] - last[:3, 3]))
            if moved < distance and rotation_angle(last[:3, :3].T @ pose[:3, :3]) < angle:
                continue
        taken.append(index)
    return taken


def split_blocks(count: int, test_fraction: float, blocks: int, gap: int) -> list[tuple[str, int, int, int]]:
    """Cut `count` frames of a drive into (split, sequence, first, last + 1), with `gap` frames between.

    Test blocks stand in the middles of `blocks` equal parts. On a short drive blocks get fewer and gaps
    shrink: half of the frames that are not for testing, and one at least, stay for training.
    """
    held = min(round(count * test_fraction), count - 1)
    if held < 1:
        return [("train", 1, 0, count)] if count else []
    blocks = min(blocks, held)
    rest = count - held
    gap = min(gap, rest // (4 * blocks))
    cuts: list[tuple[str, int, int]] = []
    start = 0
    for block in range(blocks):
        # Half a part of the rest, then a part between two blocks: integers, so that nothing overlaps.
        before, first, last = rest * (2 * block + 1) // (2 * blocks), held * block, held * (block + 1)
        first, last = before + first // blocks, before + last // blocks
        cuts += [("train", start, first - gap), ("test", first, last)]
        start = last + gap
    cuts.append(("train", start, count))
    filled = [(split, first, last) for split, first, last in cuts if last > first]
    return [(split, number, first, last) for number, (split, first, last) in enumerate(filled, start=1)]


@dataclass(frozen=True)
class Imported:
    """What an import came to: the number of frames that the folder holds, and a line for each left out."""

    frames: int
    bad: Sequence[str]


def write_import(
    plan: Plan, out: Path, *, skip_bad: bool = False, progress: Progress | None = None
) -> Imported:
    """Write a plan's frames as a recording; what an earlier call wrote is kept.

    Each file appears whole or not at all, and the split files come last: without them the folder is no
    recording.

    Raises:
        RecordingError: frames are bad, there is none, or `out` holds something else.
        OSError: `out` can't be written to.
    """
    bad = list(plan.bad)
    total = len(plan.frames) + len(bad)
    handle_bad(bad, total, skip_bad)
    if not plan.frames:
        raise RecordingError(
            f"expected frames with a pose in {plan.origin.get('source')}, got none of {total}"
        )
    numbers = _numbers(plan.frames)
    origin = _origin(plan, numbers)
    _expect_same_origin(out, origin)
    wanted = [index for index, item in enumerate(plan.frames) if not _is_written(out, item, numbers[index])]
    done = len(plan.frames) - len(wanted)
    if progress:
        progress(done, len(plan.frames))
    unreadable: set[int] = set()
    for index, picture in plan.read(wanted):
        item = plan.frames[index]
        try:
            if isinstance(picture, RecordingError):
                raise picture
            expect_size(Path(item.source), picture.image_rgb.shape, plan.camera)
            expect_size(Path(item.source), picture.depth_mm.shape, plan.camera)
        except RecordingError as error:
            bad.append(str(error))
            unreadable.add(index)
        else:
            if not (out / ORIGIN).is_file():
                write_atomic(out / ORIGIN, (json.dumps(origin, indent=1) + "\n").encode())
            frame = Frame("", picture.image_rgb, picture.depth_mm, item.map_from_camera)
            write_frame(_folder(out, item), numbers[index], frame, picture.encoded)
        done += 1
        if progress:
            progress(done, len(plan.frames))
    handle_bad(bad, total, skip_bad)
    kept = [index for index in range(len(plan.frames)) if index not in unreadable]
    missing = [index for index in kept if not _is_written(out, plan.frames[index], numbers[index])]
    if missing:
        raise RecordingError(
            f"expected {len(wanted)} frames from {plan.origin.get('source')}, got none for "
            f"{plan.frames[missing[0]].source} and {len(missing) - 1} others"
        )
    _finish(out, plan, numbers, kept)
    return Imported(len(kept), bad)


def _finish(out: Path, plan: Plan, numbers: Sequence[int], kept: Sequence[int]) -> None:
    if not any(plan.frames[index].split == "train" for index in kept):
        raise RecordingError(
            f"expected frames to train on in {plan.origin.get('source')}, got none that can be read"
        )
    write_camera(out / "camera.yaml", plan.camera)
    splits: dict[str, dict[str, None]] = {}
    stamps: dict[Path, dict[int, float]] = {}
    for index in kept:
        item = plan.frames[index]
        splits.setdefault(item.split, {})[f"sequence{item.sequence}\n"] = None
        if item.stamp is not None:
            stamps.setdefault(_folder(out, item), {})[numbers[index]] = item.stamp
    for folder, of_frames in stamps.items():
        write_stamps(folder, of_frames)
    for split, lines in splits.items():
        write_atomic(out / SPLIT_FILES[split], "".join(lines).encode())


def _origin(plan: Plan, numbers: Sequence[int]) -> dict[str, Any]:
    poses = np.array([item.map_from_camera for item in plan.frames])
    places = [
        (item.split, item.sequence, number, item.stamp)
        for item, number in zip(plan.frames, numbers, strict=True)
    ]
    content = np.round(poses, 9).tobytes() + repr((places, plan.camera)).encode()
    digest = hashlib.sha256(content).hexdigest()[:16]
    origin: dict[str, Any] = json.loads(json.dumps(plan.origin))  # as it will be read back
    return {**origin, "frames": len(plan.frames), "digest": digest}


def _expect_same_origin(out: Path, origin: dict[str, Any]) -> None:
    """See that `out` is free, or holds the beginning of the same import."""
    path = out / ORIGIN
    if path.is_file():
        try:
            earlier = json.loads(path.read_text())
        except ValueError as error:
            raise RecordingError(f"{path}: expected what an import wrote, got: {error}") from error
        if earlier != origin:
            raise RecordingError(
                f"expected an empty folder or the same import at {out}, got one of {earlier}, not {origin}"
            )
    elif out.is_dir():
        if not all(item.match(f".{ORIGIN}.*.tmp") for item in out.iterdir()):
            raise RecordingError(f"expected an empty folder or an earlier import at {out}, got other files")
    elif out.exists():
        raise RecordingError(f"expected a folder to write to, got the file {out}")
    remove_temporaries(out)


def _numbers(frames: Sequence[PlannedFrame]) -> list[int]:
    """Return each frame's number within its sequence."""
    counts: dict[int, int] = {}
    numbers = []
    for item in frames:
        numbers.append(counts.get(item.sequence, 0) if item.number is None else item.number)
        counts[item.sequence] = numbers[-1] + 1
    return numbers


def _folder(out: Path, item: PlannedFrame) -> Path:
    return out / f"seq-{item.sequence:02d}"


def _is_written(out: Path, item: PlannedFrame, number: int) -> bool:
    stem = _folder(out, item) / f"frame-{number:06d}"
    color = any(Path(f"{stem}.color.{ending}").is_file() for ending in ("jpg", "png"))
    return color and all(Path(f"{stem}.{part}").is_file() for part in ("depth.png", "pose.txt"))


def plan_frames(
    recording: Recording, *, need_depth: bool = True
) -> tuple[list[PlannedFrame], list[FrameFiles], list[str]]:
    """Return the frames of all splits, which keep their numbers, their files, and a line for each bad one.

    Without `need_depth` a frame may lack its depth.
    """
    frames: list[PlannedFrame] = []
    files: list[FrameFiles] = []
    bad: list[str] = []
    stamps: dict[str, dict[int, float]] = {}
    for split in [split for split, name in SPLIT_FILES.items() if (recording.root / name).is_file()]:
        complete, missing = recording.files(split, need_depth=need_depth)
        bad += missing
        for item in complete:
            try:
                pose = recording.read_pose(item)
            except RecordingError as error:
                bad.append(str(error))
                continue
            folder, digits = item.name.split("/frame-")
            if folder not in stamps:
                stamps[folder] = read_stamps(recording.root / folder)
            number, sequence = int(digits), int(folder.removeprefix("seq-"))
            frames.append(PlannedFrame(item.name, pose, stamps[folder].get(number), split, sequence, number))
            files.append(item)
    return frames, files, bad


def decode_color(content: bytes, source: str) -> tuple[npt.NDArray[np.uint8], bytes | None]:
    """Return an encoded image as (H, W, 3) RGB as it is stored, and its bytes where they are a JPEG to keep.

    A JPEG that EXIF turns is not: other readers of the recording would see it turned, calibration or not.

    Raises:
        RecordingError: it is no JPEG or PNG, too large, damaged or cut off.
    """
    image = decode_image(content, cv2.IMREAD_COLOR, source)
    image_rgb = np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), dtype=np.uint8)
    if not content.startswith(JPEG_START):
        return image_rgb, None
    if b"Exif" in content:
        turned = cv2.imdecode(np.frombuffer(content, dtype=np.uint8), cv2.IMREAD_COLOR)
        return image_rgb, content if turned is not None and np.array_equal(turned, image) else None
    return image_rgb, content


def read_color_file(path: Path) -> tuple[npt.NDArray[np.uint8], bytes | None]:
    """Return an image file as (H, W, 3) RGB, and its bytes where they are a JPEG.

    Raises:
        RecordingError: there is none, or it can't be decoded, or is cut off.
    """
    return decode_color(read_bytes(path, "an image"), str(path))


def below(folder: Path, name: str) -> Path:
    """Return where a file lies that a recording names; it may name none elsewhere.

    Raises:
        RecordingError: the name is no path below the folder.
    """
    if not name or "\0" in name or Path(name).is_absolute() or ".." in Path(name).parts:
        raise RecordingError(f"expected names of images below {folder}, got '{name[:200]}'")
    return folder / name


def depth_in_millimetres(depth: npt.NDArray[Any], metres_per_unit: float) -> npt.NDArray[np.uint16]:
    """Return depth along z as uint16 mm: not finite, not positive or beyond 65.5 m becomes 0, invalid."""
    millimetres = np.nan_to_num(
        depth.astype(np.float64) * (1e3 * metres_per_unit), nan=0.0, posinf=0.0, neginf=0.0
    )
    rounded = np.rint(millimetres)
    return np.where((rounded > 0) & (rounded < 65535), rounded, 0).astype(np.uint16)
