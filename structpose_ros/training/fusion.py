"""Depth images fused into a mesh: a truncated signed distance field in voxel blocks, by Open3D.

Curless and Levoy, "A volumetric method for building complex models from range images", SIGGRAPH 1996.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from structpose_ros.camera import Camera
from structpose_ros.geometry import invert
from structpose_ros.training.frames import RecordingError, handle_bad, open_recording, write_atomic
from structpose_ros.training.importers.common import Progress
from structpose_ros.training.meshes import Mesh

TRUNCATION = 4.0  # voxels on both sides of a surface
FRAMES_SEEN = 3  # a surface that fewer frames saw is taken for noise
MOST_BLOCKS = 250_000  # of 8x8x8 voxels: 2 GB, and 5 GB while the mesh is extracted
FARTHEST = 10_000.0  # metres from the map's origin: Open3D's single precision is 1 mm there
_BLOCK_SIDE = 8
_HALF_PIXEL = np.array([[0.0, 0.0, 0.5], [0.0, 0.0, 0.5], [0.0, 0.0, 0.0]])


class FusionError(ValueError):
    """Depth that can't be fused; the message says what was expected and what came."""


@dataclass(frozen=True)
class Fused:
    """What has been written: faces of the mesh, frames that it was made of, a line for each left out."""

    triangles: int
    frames: int
    bad: Sequence[str]


def fuse_recording(
    root: Path,
    out: Path,
    *,
    split: str = "train",
    voxel: float = 0.02,
    max_depth: float = 4.0,
    skip_bad: bool = False,
    progress: Progress | None = None,
) -> Fused:
    """Fuse the depth of a recording's split and write the mesh, in the map's frame and metres, as PLY.

    voxel: metres. max_depth: metres along z, what is farther is not used. The same recording gives the same
    file.

    Raises:
        RecordingError: the recording is of no use.
        FusionError: an option is, there is no surface, or there are too many voxels.
        ModuleNotFoundError: Open3D is not installed.
        OSError: `out` can't be written to.
    """
    for name, value, high in (("voxel", voxel, 1.0), ("max_depth", max_depth, 65.0)):
        if not 1e-3 <= value <= high:
            raise FusionError(f"{name}: expected 0.001 .. {high:g} m, got {value}")
    if out.suffix.lower() != ".ply" or out.is_dir():
        raise FusionError(f"expected a file ending in .ply to write the mesh to, got {out}")
    recording = open_recording(root)
    volume = Volume(recording.camera, voxel, max_depth)
    files, bad = recording.files(split)
    total = len(files) + len(bad)
    handle_bad(bad, total, skip_bad)
    for done, item in enumerate(files, start=1):
        try:
            frame = recording.read(item)
        except RecordingError as error:
            bad.append(str(error))
        else:
            volume.add(frame.depth_mm, frame.map_from_camera)
        if progress:
            progress(done, len(files))
    handle_bad(bad, total, skip_bad)
    mesh = volume.mesh()
    write_atomic(out, ply(mesh))
    return Fused(len(mesh.triangles), total - len(bad), bad)


class Volume:
    """The signed distance field; its blocks of voxels stand where a surface was seen, and nowhere else."""

    def __init__(self, camera: Camera, voxel: float, max_depth: float) -> None:
        """Fuse depth images of `camera`, up to `max_depth` m, in voxels of `voxel` m."""
        self._open3d = _open3d()
        self._max_depth = max_depth
        # Open3D knows pinholes alone. Along the same axis depth stays the same, and is looked up nearest.
        self._lookup = None if camera.is_pinhole else _pixels_of_pinhole(camera)
        core = self._open3d.core
        self._grid = self._open3d.t.geometry.VoxelBlockGrid(
            ("tsdf", "weight"), (core.float32, core.float32), ((1), (1)), voxel, _BLOCK_SIDE, 1000
        )
        self._intrinsics = core.Tensor(camera.matrix)
        # A voxel looks its depth up in the pixel that floor(u), floor(v) name: centres are at 0.5 there.
        self._floored_intrinsics = core.Tensor(camera.matrix + _HALF_PIXEL)

    def add(self, depth_mm: npt.NDArray[np.uint16], map_from_camera: npt.NDArray[np.float64]) -> None:
        """Add a depth image (H, W), 0 where it is invalid.

        Raises:
            FusionError: the camera is too far from the map's origin, or there are too many voxels.
        """
        away = float(np.abs(map_from_camera[:3, 3]).max())
        if away > FARTHEST:
            raise FusionError(f"expected cameras within {FARTHEST:g} m of the map's origin, got {away:.0f} m")
        if self._lookup is not None:
            depth_mm = np.asarray(cv2.remap(depth_mm, *self._lookup, cv2.INTER_NEAREST), dtype=np.uint16)
        core = self._open3d.core
        image = self._open3d.t.geometry.Image(core.Tensor(np.ascontiguousarray(depth_mm)))
        pose = core.Tensor(invert(map_from_camera))
        limits = (1000.0, self._max_depth, TRUNCATION)
        try:
            blocks = self._grid.compute_unique_block_coordinates(image, self._intrinsics, pose, *limits)
        except RuntimeError as error:
            if "No block is touched" not in str(error):
                raise FusionError(_plain(error)) from error
            return  # nothing valid in this frame
        self._grid.integrate(blocks, image, self._floored_intrinsics, pose, *limits)
        count = self._grid.hashmap().size()
        if count > MOST_BLOCKS:
            raise FusionError(
                f"expected at most {MOST_BLOCKS} blocks of {_BLOCK_SIDE}x{_BLOCK_SIDE}x{_BLOCK_SIDE} voxels, "
                f"got more: a larger --voxel needs fewer"
            )

    def mesh(self) -> Mesh:
        """Return the surfaces that at least `FRAMES_SEEN` frames saw.

        Raises:
            FusionError: there is none.
        """
        try:
            found = self._grid.extract_triangle_mesh(weight_threshold=FRAMES_SEEN - 0.5)
        except RuntimeError as error:  # it can't make a mesh without a vertex
            raise FusionError(
                f"expected surfaces that at least {FRAMES_SEEN} frames saw, got none ({_plain(error)})"
            ) from error
        return in_order(found.vertex.positions.numpy(), found.triangle.indices.numpy())


def in_order(vertices: npt.NDArray[np.float32], triangles: npt.NDArray[np.int32]) -> Mesh:
    """Return a mesh, sorted, with equal vertices made one: the order in which Open3D finds them varies."""
    unique, index = np.unique(vertices + np.float32(0), axis=0, return_inverse=True)  # -0 becomes 0
    corners = index.reshape(-1)[triangles]
    first = corners.argmin(axis=1)[:, None]
    corners = np.take_along_axis(corners, (first + np.arange(3)) % 3, axis=1)  # each face turns as before
    a, b, c = corners.T
    corners = corners[(a != b) & (b != c) & (c != a)]
    return Mesh(unique.astype(np.float64), corners[np.lexsort(corners.T[::-1])].astype(np.int32))


def ply(mesh: Mesh) -> bytes:
    """Return a mesh as the bytes of a PLY file."""
    import trimesh

    content: bytes = trimesh.Trimesh(mesh.vertices, mesh.triangles, process=False).export(file_type="ply")
    return content


def _pixels_of_pinhole(camera: Camera) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Return columns and rows (H, W) in the camera's image of the pixels that it had without distortion."""
    pixels = camera.project(replace(camera, distortion_model="plumb_bob", distortion=()).ray_grid())
    columns, rows = (
        np.nan_to_num(np.rint(pixels), nan=-1.0).clip(-1, 32000).astype(np.float32).transpose(2, 0, 1)
    )
    return columns, rows


def _open3d() -> Any:
    try:
        import open3d
    except ModuleNotFoundError:  # the command names the extra that installs it
        raise
    except ImportError as error:
        raise FusionError(
            f"expected Open3D to load, got: {error} (Debian, Ubuntu: apt install libusb-1.0-0 libegl1 libgl1)"
        ) from error
    return open3d


def _plain(error: Exception) -> str:
    """Return an error of Open3D without the colours, the place in its source and the line breaks."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", str(error)).strip()
    return "Open3D: " + re.sub(r"^\[Open3D Error\] \(.*?\) \S+:\d+: ", "", text)
