"""Ray casting of a baked scene: colour and depth of a pinhole camera."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from structpose_ros.camera import Camera

from .baking import LEVELS, BakedScene, FloatArray
from .surfaces import Array

SUBPIXELS = ((-0.33, -0.12), (0.12, -0.33), (0.22, 0.25))  # an edge of any slope crosses them one by one


class Renderer:
    """Renders one scene with one camera; keeps the ray grid and Embree's structures between frames."""

    def __init__(self, scene: BakedScene, camera: Camera) -> None:
        self.camera = camera
        self._atlas = scene.atlas
        self._texel_map, self._density = np.array(scene.texel_map), np.array(scene.texels_per_metre)
        self._surface_ids = np.array(scene.surface_ids)
        self._offsets = np.array(scene.level_origins) - np.float32(0.5)
        self._scales = np.float32(0.5) ** np.arange(LEVELS, dtype=np.float32)
        self._normals = unit_normals(scene)
        self._embree = scene.embree()
        rows, columns = np.mgrid[: camera.height, : camera.width]
        self._pixels = np.stack([columns.ravel(), rows.ravel()], -1).astype(np.float64)
        self._rays = camera.rays(self._pixels).astype(np.float32)

    def render(self, map_from_camera: Array) -> tuple[FloatArray, FloatArray]:
        """Return the image (H, W, 3) in 0..255 and the depth (H, W), m along the optical axis (0: none)."""
        shape = self.camera.height, self.camera.width
        colour, depth, surfaces = self._shoot(map_from_camera, self._rays)
        edges = surface_edges(surfaces.reshape(shape)).ravel()
        pixels = self._pixels[edges]
        fine = np.concatenate([self.camera.rays(pixels + offset) for offset in SUBPIXELS]).astype(np.float32)
        if len(fine):
            samples, _, _ = self._shoot(map_from_camera, fine)
            colour[edges] = samples.reshape(len(SUBPIXELS), -1, 3).mean(0)
        return colour.reshape(*shape, 3), depth.reshape(shape)

    def _shoot(
        self, map_from_camera: Array, rays: FloatArray
    ) -> tuple[FloatArray, FloatArray, NDArray[np.int32]]:
        """Return colour (N, 3), depth (N,) and surface number (N,) for rays (N, 3) of the camera frame."""
        directions = rays @ map_from_camera[:3, :3].T.astype(np.float32)
        origins = np.empty_like(directions)
        origins[:] = map_from_camera[:3, 3]
        hits = self._embree.run(origins, directions, output=1)
        triangle = hits["primID"]
        missed = triangle < 0
        depth = np.where(missed, np.float32(0), hits["tfar"])
        # A pixel covers length / f along one direction and 1 / cosine times as much along the other; the
        # geometric mean of both, in texels, picks the level of detail.
        facing = np.abs(np.einsum("ij,ij->i", self._normals[triangle], directions))
        length = np.sqrt(np.einsum("ij,ij->i", rays, rays))
        footprint = (
            self._density[triangle] * depth * length * np.sqrt(length / np.maximum(facing, 0.05 * length))
        )
        footprint /= np.float32(self.camera.fx)
        colour = self._lookup(triangle, hits["u"], hits["v"], footprint)
        colour[missed] = 0
        return colour, depth, self._surface_ids[triangle]

    def _lookup(
        self, triangle: NDArray[np.int32], u: FloatArray, v: FloatArray, footprint: FloatArray
    ) -> FloatArray:
        """Return colours (N, 3), bilinear in the two nearest levels, mixed by the footprint in texels."""
        start = self._texel_map[triangle]
        x = start[:, 0] + u * start[:, 2] + v * start[:, 4]
        y = start[:, 1] + u * start[:, 3] + v * start[:, 5]
        level = np.clip(np.log2(np.maximum(footprint, 1e-3)), 0, LEVELS - 1.001).astype(np.float32)
        lower = level.astype(np.int32)
        fine, coarse = (self._sample(x, y, lower + k) for k in (0, 1))
        mix = (level - lower)[:, None]
        return fine + (coarse - fine) * mix

    def _sample(self, x: FloatArray, y: FloatArray, level: NDArray[np.int32]) -> FloatArray:
        scale = self._scales[level]
        at_x = (x + np.float32(0.5)) * scale + self._offsets[level, 0]
        at_y = (y + np.float32(0.5)) * scale + self._offsets[level, 1]
        # OpenCV wants maps below 32768 columns: shape them as rows of a fixed length.
        columns = 1024
        padded = -(-len(at_x) // columns) * columns
        grid_x, grid_y = (np.pad(a, (0, padded - len(a))).reshape(-1, columns) for a in (at_x, at_y))
        texels = cv2.remap(self._atlas, grid_x, grid_y, cv2.INTER_LINEAR)
        return texels.reshape(-1, 3)[: len(at_x)].astype(np.float32)


def unit_normals(scene: BakedScene) -> FloatArray:
    """Return normals (T, 3) of the triangles; their sign does not matter here."""
    a, b, c = (np.asarray(scene.vertices)[np.asarray(scene.triangles)[:, k]] for k in range(3))
    normals = np.cross(b - a, c - a)
    return np.asarray(normals / np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12), np.float32)


def surface_edges(surfaces: NDArray[np.int32]) -> NDArray[np.bool_]:
    """Return pixels (H, W) whose right or lower neighbour lies on another surface, and those neighbours."""
    edges = np.zeros(surfaces.shape, bool)
    across, down = surfaces[:, 1:] != surfaces[:, :-1], surfaces[1:] != surfaces[:-1]
    edges[:, 1:] |= across
    edges[:, :-1] |= across
    edges[1:] |= down
    edges[:-1] |= down
    return edges
