"""The TUM RGB-D benchmark: `rgb.txt`, `depth.txt` and `groundtruth.txt` beside the images they list.

Sturm et al., "A benchmark for the evaluation of RGB-D SLAM systems", IROS 2012. The ground truth is that of
the colour camera's optical frame; depth is registered to colour, 5000 units per metre, 0 invalid. The files
hold no intrinsics: those below are the published ones of the three Kinects, whose coefficients are in the
order of plumb_bob (k1 k2 p1 p2 k3); freiburg3's images are undistorted. The benchmark itself recommends the
driver's default for depth as registered (`ros_default`), which leaves the lens' distortion out.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from structpose_ros.camera import Camera
from structpose_ros.training.frames import RecordingError, expect_size, read_camera, read_depth
from structpose_ros.training.importers.common import (
    FilePlan,
    Picture,
    PlannedFrame,
    Selection,
    below,
    depth_in_millimetres,
    read_color_file,
)
from structpose_ros.training.importers.tables import read_table
from structpose_ros.training.importers.trajectory import Trajectory

CAMERAS = {
    "freiburg1": Camera(
        *(640, 480, 517.306408, 516.469215, 318.643040, 255.313989),
        distortion=(0.262383, -0.953104, -0.005358, 0.002628, 1.163314),
    ),
    "freiburg2": Camera(
        *(640, 480, 520.908620, 521.007327, 325.141442, 249.701764),
        distortion=(0.231222, -0.784899, -0.003257, -0.000105, 0.917205),
    ),
    "freiburg3": Camera(640, 480, 535.4, 539.2, 320.1, 247.6),
    "ros_default": Camera(640, 480, 525.0, 525.0, 319.5, 239.5),
}


@dataclass(frozen=True)
class TumOptions:
    """How a recording's files belong together.

    max_offset: s between an image and its depth. max_gap: s between the poses around an image.
    depth_scale: units of depth per metre. camera: a name of `CAMERAS` or a camera_info YAML file; by
    default the recording's folder names it.
    """

    max_offset: float = 0.02
    max_gap: float = 0.1
    depth_scale: float = 5000.0
    camera: str | None = None

    def __post_init__(self) -> None:
        for name, high in (("max_offset", 10), ("max_gap", 3600), ("depth_scale", 1e6)):
            value = getattr(self, name)
            if not 0 < value <= high:
                raise RecordingError(f"{name}: expected more than 0 and up to {high:g}, got {value}")


@dataclass(frozen=True, kw_only=True)
class _TumFrame(PlannedFrame):
    color: Path
    depth: Path


def plan_tum(source: Path, options: TumOptions, selection: Selection) -> FilePlan:
    """Look through a recording: each image with a depth near it in time, and the pose at its time.

    Raises:
        RecordingError: a list is missing or malformed, no image has a depth, or the camera is unknown.
    """
    camera = _camera(source, options.camera)
    images = read_table(source / "rgb.txt", "timestamp filename", (2,))
    depths = read_table(source / "depth.txt", "timestamp filename", (2,))
    poses = read_table(source / "groundtruth.txt", "timestamp tx ty tz qx qy qz qw", (8,))
    stamps = [row.number(0) for row in images]
    trajectory = Trajectory([_nanoseconds(row.number(0)) for row in poses], [row.pose() for row in poses])
    pairs = associate(stamps, [row.number(0) for row in depths], options.max_offset)
    if not pairs:
        raise RecordingError(
            f"expected images of {source / 'rgb.txt'} and of depth.txt at most {options.max_offset:g} s "
            f"apart, got none of {len(images)} and {len(depths)}"
        )
    frames: list[_TumFrame] = []
    bad: list[str] = []
    for of_image, of_depth in pairs:
        name, stamp = images[of_image].fields[1], stamps[of_image]
        try:
            pose = trajectory.at(_nanoseconds(stamp), options.max_gap)
        except RecordingError as error:
            bad.append(f"{name}: {error}")
            continue
        files = below(source, name), below(source, depths[of_depth].fields[1])
        frames.append(_TumFrame(name, pose, stamp, color=files[0], depth=files[1]))
    chosen = selection.apply(frames)

    def read_one(index: int) -> Picture:
        item = chosen[index]
        image_rgb, jpeg = read_color_file(item.color)
        depth = read_depth(item.depth)
        expect_size(item.depth, depth.shape, camera)
        return Picture(image_rgb, depth_in_millimetres(depth, 1 / options.depth_scale), jpeg)

    origin = {"format": "tum", "source": source.resolve().name, "depth_scale": options.depth_scale}
    return FilePlan(camera, chosen, origin, read_one, bad)


def associate(first: Sequence[float], second: Sequence[float], max_offset: float) -> list[tuple[int, int]]:
    """Return pairs of indices whose stamps (s) are at most `max_offset` apart, in the order of time.

    Each index is in one pair at most, and the nearest pair is made first.
    """
    by_time = np.argsort(second, kind="stable")
    sorted_second = np.asarray(second, dtype=np.float64)[by_time]
    candidates: list[tuple[float, int, int]] = []
    for index, stamp in enumerate(first):
        low = int(np.searchsorted(sorted_second, stamp - max_offset, side="left"))
        high = int(np.searchsorted(sorted_second, stamp + max_offset, side="right"))
        candidates += [(abs(second[other] - stamp), index, int(other)) for other in by_time[low:high]]
    partner: dict[int, int] = {}
    taken: set[int] = set()
    for _, index, other in sorted(candidates):
        if index not in partner and other not in taken:
            partner[index] = other
            taken.add(other)
    return sorted(partner.items(), key=lambda pair: first[pair[0]])


def _nanoseconds(seconds: float) -> int:
    return round(seconds * 1e9)


def _camera(source: Path, given: str | None) -> Camera:
    named = re.search("freiburg[123]", source.resolve().name) if given is None else None
    name = named.group() if named else given
    if name in CAMERAS:
        return CAMERAS[name]
    if name is not None:
        return read_camera(Path(name))
    raise RecordingError(
        f"expected a folder named after freiburg1, freiburg2 or freiburg3, or --camera with "
        f"{', '.join(CAMERAS)} or a camera_info YAML file, got {source.resolve().name}"
    )
