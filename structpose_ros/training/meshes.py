"""Triangle meshes: read, checked, and met by the rays of a camera."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from structpose_ros.camera import Camera

if TYPE_CHECKING:
    from embreex.rtcore_scene import EmbreeScene

# Of what trimesh reads, formats that are one file: archives may unpack to any size, glTF names other files.
FORMATS = (".ply", ".obj", ".stl", ".off", ".glb")
_NOTHING_MET = np.float32(1e30)  # Embree's distance is 1e37 then


class MeshError(ValueError):
    """A mesh that can't be used; the message says what was expected and what came."""


@dataclass(frozen=True)
class Mesh:
    """vertices (V, 3) m, in the mesh's own frame; triangles (T, 3), rows of `vertices`."""

    vertices: npt.NDArray[np.float64]
    triangles: npt.NDArray[np.int32]

    def extent(self) -> str:
        """Say in which box the mesh lies."""
        low, high = self.vertices.min(axis=0), self.vertices.max(axis=0)
        return f"{format_point(low)} .. {format_point(high)} m"


def format_point(point: npt.NDArray[np.float64]) -> str:
    """Return a point (3,) in metres as text, to the decimetre."""
    return "(" + ", ".join(f"{value:.1f}" for value in point) + ")"


def read_mesh(path: Path, metres_per_unit: float = 1.0) -> Mesh:
    """Read a mesh file (PLY, OBJ, STL, OFF or GLB, by its ending); parts become one mesh.

    Raises:
        MeshError: the file can't be read, or holds no usable triangles.
    """
    import trimesh

    if not (np.isfinite(metres_per_unit) and metres_per_unit > 0):
        raise MeshError(f"expected a number of metres per unit above 0, got {metres_per_unit}")
    if not path.is_file():
        raise MeshError(f"expected a mesh file at {path}, got {'a folder' if path.is_dir() else 'nothing'}")
    if path.suffix.lower() not in FORMATS:
        raise MeshError(f"{path}: expected a mesh file ending in {', '.join(FORMATS)}, got {path.suffix}")
    try:
        loaded = trimesh.load(path, force="mesh", process=False, skip_materials=True)
        vertices = np.asarray(loaded.vertices, dtype=np.float64).reshape(-1, 3) * metres_per_unit
        triangles = np.asarray(getattr(loaded, "faces", ()), dtype=np.int64).reshape(-1, 3)
    except Exception as error:  # whatever a parser stumbles over: trimesh's have no error of their own
        raise MeshError(f"{path}: expected a mesh that trimesh reads, got: {error or repr(error)}") from error
    if len(triangles) == 0:
        raise MeshError(f"{path}: expected a mesh with faces, got none (is it a point cloud?)")
    if triangles.min() < 0 or triangles.max() >= len(vertices):  # Embree would read other memory
        raise MeshError(
            f"{path}: expected faces of vertices 0 .. {len(vertices) - 1}, "
            f"got {triangles.min()} .. {triangles.max()}"
        )
    if not np.isfinite(vertices).all():
        raise MeshError(
            f"{path}: expected finite vertices, got {np.sum(~np.isfinite(vertices).all(axis=1))} that are not"
        )
    return Mesh(vertices, triangles.astype(np.int32))


def embree_scene(vertices: npt.NDArray[np.floating], triangles: npt.NDArray[np.int32]) -> EmbreeScene:
    """Return triangles, ready to be met by rays; a ray's primID is a row of `triangles`.

    Raises:
        MeshError: this kind of machine has no Embree.
    """
    try:
        from embreex.mesh_construction import TriangleMesh
        from embreex.rtcore_scene import EmbreeScene
    except ModuleNotFoundError as error:
        if platform.machine().lower() in ("x86_64", "amd64"):
            raise
        raise MeshError(
            f"expected the package 'embreex' to cast rays with, got none: it has wheels for x86-64 alone, "
            f"not for {platform.machine()}"
        ) from error
    scene = EmbreeScene()
    TriangleMesh(scene, np.array(vertices, np.float32), np.array(triangles, np.int32))
    return scene


class DepthCaster:
    """What a camera would measure of a mesh; keeps Embree's structures and the rays between frames."""

    def __init__(self, mesh: Mesh, camera: Camera) -> None:
        """Cast through every pixel's centre of `camera`, but for those beyond its lens' reach."""
        self.camera = camera
        # Single precision is Embree's: near the mesh it is good to 0.1 um, a map's origin may be far away.
        self._origin = (mesh.vertices.min(axis=0) + mesh.vertices.max(axis=0)) / 2
        self._scene = embree_scene(mesh.vertices - self._origin, mesh.triangles)
        rays = camera.ray_grid().reshape(-1, 3)
        self._pixels = np.flatnonzero(np.isfinite(rays).all(axis=1))
        self._rays = rays[self._pixels].astype(np.float32)

    def depth(self, mesh_from_camera: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
        """Return the depth (H, W) in metres along z of the first face on each ray, 0 where there is none.

        A face counts from both sides: a scan's normals are not to be relied on, and rooms are often modelled
        from outside.
        """
        # Rays have z = 1 in the camera's frame, so a distance in lengths of the ray is the depth.
        directions = self._rays @ mesh_from_camera[:3, :3].T.astype(np.float32)
        origins = np.empty_like(directions)
        origins[:] = mesh_from_camera[:3, 3] - self._origin
        distances = self._scene.run(origins, directions, query="DISTANCE")
        depth = np.zeros((self.camera.height, self.camera.width), dtype=np.float32)
        depth.reshape(-1)[self._pixels] = np.where(distances < _NOTHING_MET, distances, np.float32(0))
        return depth
