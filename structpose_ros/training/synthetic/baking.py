"""From surfaces to what the renderer needs: a triangle mesh and a lit texture atlas with smaller copies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray

from structpose_ros.training.meshes import embree_scene

from .surfaces import Array, Surface
from .textures import Image

if TYPE_CHECKING:
    from embreex.rtcore_scene import EmbreeScene

FloatArray = NDArray[np.float32]
ATLAS_WIDTH = 4096
LEVELS = 4  # full size, 1/2, 1/4, 1/8
MARGIN = 8  # texels around each image, so that the smallest copy keeps one
LIGHT_CELL_M = 0.06
AMBIENT_REACH_M = 1.3


@dataclass(frozen=True)
class Light:
    """Rectangular lamp: centre, half edges (3,) m, colour (3,) at 1 m, unit vector it faces, if any."""

    centre: tuple[float, float, float]
    half_u: tuple[float, float, float]
    half_v: tuple[float, float, float]
    colour: tuple[float, float, float]
    facing: tuple[float, float, float] | None = None


@dataclass(frozen=True)
class BakedScene:
    """Triangles (T), m, map frame, and the atlas they look up; arrays only, so that files can hold it."""

    vertices: FloatArray  # (V, 3)
    triangles: NDArray[np.int32]  # (T, 3)
    texel_map: FloatArray  # (T, 6): atlas x, y at the first vertex, then their change along both edges
    texels_per_metre: FloatArray  # (T,)
    surface_ids: NDArray[np.int32]  # (T,)
    atlas: NDArray[np.uint8]  # (H, W, 3), all levels
    level_origins: FloatArray  # (LEVELS, 2): x, y of each level in the atlas

    def save(self, folder: Path) -> None:
        """Write one .npy file per array."""
        for field in fields(self):
            np.save(folder / f"{field.name}.npy", getattr(self, field.name))

    @classmethod
    def load(cls, folder: Path) -> BakedScene:
        """Read what `save` wrote; the arrays are memory-mapped, so several processes share them."""
        return cls(
            **{field.name: np.load(folder / f"{field.name}.npy", mmap_mode="r") for field in fields(cls)}
        )

    def embree(self) -> EmbreeScene:
        """Return the triangles, ready to be hit by rays; a ray's primID is a row of `triangles`."""
        return embree_scene(self.vertices, self.triangles)


def bake(surfaces: Sequence[Surface], lights: Sequence[Light], ambient: float, seed: int) -> BakedScene:
    """Triangulate, light and pack all surfaces."""
    lit = light_surfaces(surfaces, lights, ambient, seed)
    corners, height = pack([image.shape[:2] for image in lit])
    vertices, triangles, texels, density, ids = [], [], [], [], []
    first = 0
    for number, (surface, (x, y)) in enumerate(zip(surfaces, corners, strict=True)):
        faces = grid_triangles(*surface.grid.shape[:2])
        texels.append(texel_maps(surface, x, y)[faces])
        vertices.append(surface.grid.reshape(-1, 3))
        triangles.append(faces + first)
        density.append(np.full(len(faces), surface.texels_per_metre))
        ids.append(np.full(len(faces), number))
        first += len(vertices[-1])
    corner_texels = np.concatenate(texels)
    steps = corner_texels[:, 1:] - corner_texels[:, :1]
    atlas, origins = mip_atlas(lit, corners, height)
    return BakedScene(
        np.concatenate(vertices).astype(np.float32),
        np.concatenate(triangles).astype(np.int32),
        np.concatenate([corner_texels[:, 0], steps.reshape(-1, 4)], 1).astype(np.float32),
        np.concatenate(density).astype(np.float32),
        np.concatenate(ids).astype(np.int32),
        atlas,
        origins,
    )


def grid_triangles(rows: int, columns: int) -> NDArray[np.int64]:
    """Return two triangles (first vertex, right, down order) per cell of a grid of rows × columns points."""
    corner = (np.arange(rows - 1)[:, None] * columns + np.arange(columns - 1)).reshape(-1, 1)
    upper = corner + np.array([0, columns, 1])
    lower = corner + np.array([columns + 1, 1, columns])
    return np.concatenate([upper, lower])


def texel_maps(surface: Surface, x: int, y: int) -> Array:
    """Return atlas coordinates (points, 2) of the surface's grid points; texel centres are integers."""
    rows, columns = surface.grid.shape[:2]
    h, w = surface.albedo.shape[:2]
    u = np.linspace(0, w, columns) - 0.5 + x
    v = np.linspace(0, h, rows) - 0.5 + y
    return np.stack(np.meshgrid(u, v), -1).reshape(-1, 2)


def pack(sizes: Sequence[tuple[int, ...]]) -> tuple[list[tuple[int, int]], int]:
    """Place images (h, w) on shelves, tallest first; return their corners (x, y) and the height used."""
    corners = [(0, 0)] * len(sizes)
    x = y = shelf = 0
    for index in sorted(range(len(sizes)), key=lambda k: (-sizes[k][0], k)):
        h, w = (-(-(side + 2 * MARGIN) // 8) * 8 for side in sizes[index])
        if x + w > ATLAS_WIDTH:
            x, y, shelf = 0, y + shelf, 0
        corners[index] = (x + MARGIN, y + MARGIN)
        x, shelf = x + w, max(shelf, h)
    return corners, y + shelf


def mip_atlas(
    lit: Sequence[Image], corners: Sequence[tuple[int, int]], height: int
) -> tuple[NDArray[np.uint8], FloatArray]:
    """Return the images in one 8-bit atlas; half-size copies of the whole stand in a column at its right."""
    level = np.zeros((height, ATLAS_WIDTH, 3), np.uint8)
    for image, (x, y) in zip(lit, corners, strict=True):
        h, w = image.shape[:2]
        eight_bit = np.rint(image * 255).astype(np.uint8)
        level[y - MARGIN : y + h + MARGIN, x - MARGIN : x + w + MARGIN] = cv2.copyMakeBorder(
            eight_bit, MARGIN, MARGIN, MARGIN, MARGIN, cv2.BORDER_REPLICATE
        )
    atlas = np.zeros((height, ATLAS_WIDTH * 3 // 2, 3), np.uint8)
    atlas[:, :ATLAS_WIDTH] = level
    origins, top = [(0, 0)], 0
    for _ in range(1, LEVELS):
        half = (level.shape[1] // 2, level.shape[0] // 2)
        level = np.asarray(cv2.resize(level, half, interpolation=cv2.INTER_AREA), np.uint8)
        atlas[top : top + level.shape[0], ATLAS_WIDTH : ATLAS_WIDTH + level.shape[1]] = level
        origins.append((ATLAS_WIDTH, top))
        top += level.shape[0]
    return atlas, np.array(origins, np.float32)


def light_surfaces(
    surfaces: Sequence[Surface], lights: Sequence[Light], ambient: float, seed: int
) -> list[Image]:
    """Return images (h, w, 3) in [0, 1] with ambient occlusion, soft shadows and a display gamma baked in."""
    scene = occluders([s for s in surfaces if not s.emission])
    cells = [light_cells(surface) for surface in surfaces]
    points = np.concatenate([p.reshape(-1, 3) for p, _ in cells])
    normals = np.concatenate([n.reshape(-1, 3) for _, n in cells])
    rng = np.random.default_rng([seed, 1_000_003])
    shading = ambient * ambient_light(scene, points, normals, rng)[:, None] * np.array([0.92, 0.97, 1.06])
    for light in lights:
        shading += direct_light(scene, points, normals, light, rng)
    images, first = [], 0
    for surface, (grid, _) in zip(surfaces, cells, strict=True):
        count = grid.shape[0] * grid.shape[1]
        field = shading[first : first + count].reshape(*grid.shape[:2], 3).astype(np.float32)
        images.append(apply_light(surface, field))
        first += count
    return images


def apply_light(surface: Surface, field: FloatArray) -> Image:
    """Return albedo times light (cells, linear) as display values, with a soft shoulder for highlights."""
    h, w = surface.albedo.shape[:2]
    if surface.emission:
        return np.asarray(np.clip(surface.albedo * np.float32(surface.emission), 0, 1))
    smooth = cv2.blur(field, (3, 3), borderType=cv2.BORDER_REPLICATE)
    light = np.maximum(cv2.resize(smooth, (w, h), interpolation=cv2.INTER_LINEAR), 0.02)
    linear = surface.albedo**2.2 * light
    lit = np.clip((linear * (1 + 0.12 * linear) / (1 + linear * 0.55)) ** np.float32(1 / 2.2), 0, 1)
    return np.asarray(lit, np.float32)


def occluders(surfaces: Sequence[Surface]) -> EmbreeScene:
    """Return scene of everything that casts shadows (lamps and the window do not)."""
    vertices, faces, first = [], [], 0
    for surface in surfaces:
        vertices.append(surface.grid.reshape(-1, 3))
        faces.append(grid_triangles(*surface.grid.shape[:2]) + first)
        first += len(vertices[-1])
    return embree_scene(np.concatenate(vertices).astype(np.float32), np.concatenate(faces).astype(np.int32))


def light_cells(surface: Surface) -> tuple[Array, Array]:
    """Return centres, 4 mm off the surface, and unit normals (rows, columns, 3) of its light cells."""
    grid = surface.grid
    h, w = surface.albedo.shape[:2]
    cells = LIGHT_CELL_M * surface.texels_per_metre
    rows, columns = max(1, round(h / cells)), max(1, round(w / cells))
    v = (np.arange(rows) + 0.5) / rows * (grid.shape[0] - 1)
    u = (np.arange(columns) + 0.5) / columns * (grid.shape[1] - 1)
    i, j = np.minimum(v.astype(int), grid.shape[0] - 2), np.minimum(u.astype(int), grid.shape[1] - 2)
    a, b = (v - i)[:, None, None], (u - j)[None, :, None]
    p00, p01 = grid[i][:, j], grid[i][:, j + 1]
    p10, p11 = grid[i + 1][:, j], grid[i + 1][:, j + 1]
    points = (1 - a) * ((1 - b) * p00 + b * p01) + a * ((1 - b) * p10 + b * p11)
    right = (1 - a) * (p01 - p00) + a * (p11 - p10)
    down = (1 - b) * (p10 - p00) + b * (p11 - p01)
    normals = np.cross(down, right)
    normals /= np.maximum(np.linalg.norm(normals, axis=-1, keepdims=True), 1e-9)
    return points + 0.004 * normals, normals


def ambient_light(
    scene: EmbreeScene, points: Array, normals: Array, rng: np.random.Generator, samples: int = 40
) -> Array:
    """Return openness (N,) in [0, 1]: the free part of AMBIENT_REACH_M, a cosine-weighted mean."""
    total = np.zeros(len(points))
    reach = np.full(len(points), AMBIENT_REACH_M, np.float32)
    for _ in range(samples):
        offset = rng.standard_normal(points.shape)
        offset /= np.linalg.norm(offset, axis=1, keepdims=True)
        directions = normals + 0.999 * offset
        directions /= np.maximum(np.linalg.norm(directions, axis=1, keepdims=True), 1e-6)
        hits = scene.run(points.astype(np.float32), directions.astype(np.float32), reach, output=1)
        total += np.clip(hits["tfar"] / AMBIENT_REACH_M, 0, 1)
    return total / samples


def direct_light(
    scene: EmbreeScene,
    points: Array,
    normals: Array,
    light: Light,
    rng: np.random.Generator,
    samples: int = 12,
) -> Array:
    """Return the light (N, 3) from one lamp: Lambert's cosine law, inverse square, sampled visibility."""
    total = np.zeros(len(points))
    for _ in range(samples):
        at = rng.uniform(-1, 1, (2, len(points), 1))
        target = np.array(light.centre) + at[0] * np.array(light.half_u) + at[1] * np.array(light.half_v)
        ray = target - points
        distance = np.linalg.norm(ray, axis=1)
        direction = ray / distance[:, None]
        strength = np.maximum((direction * normals).sum(1), 0) / (0.3 + distance**2)
        if light.facing is not None:
            strength *= np.maximum(-(direction @ np.array(light.facing)), 0)
        shadow = scene.run(
            points.astype(np.float32),
            direction.astype(np.float32),
            (distance - 0.03).astype(np.float32),
            query="OCCLUDED",
        )
        total += np.where(shadow == 0, 0.0, strength)
    return np.asarray(total[:, None] / samples * np.array(light.colour))
