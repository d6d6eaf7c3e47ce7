"""A recording with the depth of a mesh, ray-cast from the true poses, as the paper's labels are (paper §4.1).

For cameras without a depth sensor, and for labels without a sensor's holes and noise.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from structpose_ros.training.frames import (
    Frame,
    FrameFiles,
    Recording,
    RecordingError,
    expect_size,
    open_recording,
    read_color,
    read_pose,
)
from structpose_ros.training.importers.common import (
    FilePlan,
    Imported,
    Picture,
    Progress,
    depth_in_millimetres,
    plan_frames,
    write_import,
)
from structpose_ros.training.meshes import DepthCaster, MeshError, format_point, read_mesh

SUSPICIOUS = 0.05  # metres between mesh and sensor, in the median: a wrong mesh, frame or unit
_FRAMES_COMPARED = 20


@dataclass(frozen=True)
class Agreement:
    """How a mesh compares with the sensor's depth on some frames, spread over a recording.

    median_error: of |mesh - sensor| in metres where both are valid, None where they nowhere are.
    filled: share of the pixels without the sensor's depth that the mesh gives one. hit: share of all pixels.
    """

    frames: int
    median_error: float | None
    filled: float
    hit: float

    @property
    def suspicious(self) -> bool:
        """Whether the two can hardly be of the same place."""
        return self.median_error is not None and self.median_error > SUSPICIOUS

    def lines(self) -> list[str]:
        """Say it in words, with a warning where it is suspicious."""
        error = self.median_error
        apart = "no pixel has both" if error is None else f"{100 * error:.1f} cm apart (median)"
        lines = [
            f"mesh and sensor, on {self.frames} frames: {apart}; of the pixels without the sensor's depth "
            f"the mesh fills {self.filled:.0%}"
        ]
        if self.suspicious:
            lines.append(
                f"warning: more than {100 * SUSPICIOUS:.0f} cm apart: is it a mesh of this place, "
                f"in the map's frame (--mesh-from-map) and in metres (--unit)?"
            )
        return lines


def cast_labels(
    root: Path,
    out: Path,
    mesh_file: Path,
    *,
    metres_per_unit: float = 1.0,
    mesh_from_map_file: Path | None = None,
    combine: bool = False,
    skip_bad: bool = False,
    progress: Progress | None = None,
) -> tuple[Imported, Agreement]:
    """Write the recording at `root` to `out` with a mesh's depth; what an earlier call wrote is kept.

    The recording needs colour and poses alone. With `combine` the mesh only fills the holes of the depth that
    it has. The mesh's frame is the map's, or is told by a text file of mesh_from_map (4x4, metres); its faces
    count from both sides.

    Raises:
        RecordingError: the recording, or what `out` holds, is of no use.
        MeshError: the mesh can't be used, or no camera sees any of it.
        OSError: `out` can't be written to.
    """
    recording = open_recording(root)
    if root.resolve() == out.resolve():
        raise RecordingError(f"expected another folder than the recording's own to write to, got {out}")
    mesh = read_mesh(mesh_file, metres_per_unit)
    mesh_from_map = np.eye(4) if mesh_from_map_file is None else read_pose(mesh_from_map_file)
    caster = DepthCaster(mesh, recording.camera)
    frames, files, bad = plan_frames(recording, need_depth=False)

    def depth_mm(index: int) -> npt.NDArray[np.uint16]:
        return depth_in_millimetres(caster.depth(mesh_from_map @ frames[index].map_from_camera), 1.0)

    def read_one(index: int) -> Picture:
        frame = _read(recording, files[index])
        cast = depth_mm(index)
        chosen = np.where(frame.depth_mm > 0, frame.depth_mm, cast) if combine else cast
        return Picture(frame.image_rgb, chosen, files[index].color.read_bytes())

    agreement = _compare(recording, files, depth_mm)
    if agreement.frames and agreement.hit == 0:
        at = np.median([(mesh_from_map @ frame.map_from_camera)[:3, 3] for frame in frames], axis=0)
        raise MeshError(
            f"{mesh_file}: expected a mesh that the cameras see, got one that no ray of "
            f"{agreement.frames} frames meets: it spans {mesh.extent()}, the cameras stand around "
            f"{format_point(at)} (--unit, --mesh-from-map)"
        )
    geometry = hashlib.sha256()
    for part in (mesh.vertices, mesh.triangles, mesh_from_map):
        geometry.update(np.ascontiguousarray(part).data)
    origin = {
        "format": "labels",
        "source": recording.name,
        "mesh": mesh_file.name,
        "geometry": geometry.hexdigest()[:16],
        "combine": combine,
    }
    plan = FilePlan(recording.camera, frames, origin, read_one, bad)
    return write_import(plan, out, skip_bad=skip_bad, progress=progress), agreement


def _read(recording: Recording, files: FrameFiles) -> Frame:
    """Read a frame; where it has no depth file its depth is nowhere valid."""
    if files.depth.is_file():
        return recording.read(files)
    image_rgb = read_color(files.color)
    expect_size(files.color, image_rgb.shape, recording.camera)
    nothing = np.zeros(image_rgb.shape[:2], dtype=np.uint16)
    return Frame(files.name, image_rgb, nothing, recording.read_pose(files))


def _compare(
    recording: Recording, files: Sequence[FrameFiles], depth_mm: Callable[[int], npt.NDArray[np.uint16]]
) -> Agreement:
    """Compare the mesh's `depth_mm(index)` with the sensor's on frames spread evenly, bad ones left out."""
    wanted = np.unique(np.linspace(0, len(files) - 1, min(len(files), _FRAMES_COMPARED)).round().astype(int))
    differences = np.zeros(2**16, dtype=np.int64)  # how often each, in mm
    frames = pixels = hit = without_sensor = filled = 0
    for index in wanted.tolist():
        try:
            sensor = _read(recording, files[index]).depth_mm
        except RecordingError:  # `write_import` tells of it
            continue
        cast = depth_mm(index)
        both = (sensor > 0) & (cast > 0)
        apart = np.abs(sensor[both].astype(np.int64) - cast[both])
        differences += np.bincount(apart, minlength=len(differences))
        frames += 1
        pixels += cast.size
        hit += int(np.count_nonzero(cast))
        without_sensor += int(np.count_nonzero(sensor == 0))
        filled += int(np.count_nonzero((sensor == 0) & (cast > 0)))
    counts = np.cumsum(differences)
    median = int(np.searchsorted(counts, counts[-1] / 2)) * 1e-3 if counts[-1] else None
    return Agreement(frames, median, filled / max(without_sensor, 1), hit / max(pixels, 1))
