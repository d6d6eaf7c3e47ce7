"""Textured surfaces in the map frame, and a builder that places furniture made of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .textures import Image, Paint

Array = NDArray[np.float64]
# A robot with a mast passes under things that start above this height (m).
OBSTACLE_CEILING = 1.4


@dataclass(frozen=True)
class Surface:
    """A grid of points (rows, columns, 3), m, map frame, with an image stretched over it.

    Rows run down the image and columns to its right; the front is where the image is not mirrored.
    """

    grid: Array
    albedo: Image
    texels_per_metre: float
    emission: float = 0.0  # > 0: the image is multiplied by it instead of being lit


class Builder:
    """Collects surfaces and floor footprints; shapes are given in the frame set by `at`."""

    def __init__(self, seed: int, texel_scale: float = 1.0) -> None:
        self.seed = seed
        self.texel_scale = texel_scale
        self.surfaces: list[Surface] = []
        self.footprints: list[Array] = []  # convex polygons (K, 2), m, map frame
        self._origin = np.zeros(3)
        self._rotation = np.eye(3)

    @contextmanager
    def at(self, x: float, y: float, yaw_deg: float = 0.0, z: float = 0.0) -> Iterator[None]:
        """Let shapes made inside the block stand at (x, y, z), turned by yaw about the vertical."""
        before = self._origin, self._rotation
        c, s = np.cos(np.deg2rad(yaw_deg)), np.sin(np.deg2rad(yaw_deg))
        self._origin = before[0] + before[1] @ np.array([x, y, z])
        self._rotation = before[1] @ np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])
        yield
        self._origin, self._rotation = before

    def sheet(self, grid: ArrayLike, paint: Paint, ppm: float = 330.0, emission: float = 0.0) -> None:
        """Add a surface from a grid of points (rows, columns, 3) in the current frame."""
        ppm = ppm * self.texel_scale
        points = np.asarray(grid, np.float64) @ self._rotation.T + self._origin
        across = np.linalg.norm(np.diff(points, axis=1), axis=2).sum(axis=1).max()
        down = np.linalg.norm(np.diff(points, axis=0), axis=2).sum(axis=0).max()
        w, h = max(4, round(across * ppm)), max(4, round(down * ppm))
        rng = np.random.default_rng([self.seed, len(self.surfaces)])
        albedo = paint(rng, h, w, ppm) if ppm > 0 else np.zeros((h, w, 3), np.float32)
        self.surfaces.append(Surface(points, albedo, ppm, emission))

    def quad(
        self,
        top_left: ArrayLike,
        right: ArrayLike,
        down: ArrayLike,
        paint: Paint,
        ppm: float = 330.0,
        emission: float = 0.0,
    ) -> None:
        """Add a parallelogram given by its top left corner and two edge vectors."""
        corner, u, v = (np.asarray(a, np.float64) for a in (top_left, right, down))
        self.sheet([[corner, corner + u], [corner + v, corner + u + v]], paint, ppm, emission)

    def footprint(self, outline: ArrayLike, bottom: float) -> None:
        """Mark a polygon (K, 2) of the current frame as taken, if its bottom is low enough to be hit."""
        if self._origin[2] + bottom < OBSTACLE_CEILING:
            points = np.asarray(outline, np.float64)
            self.footprints.append(points @ self._rotation[:2, :2].T + self._origin[:2])

    def box(
        self,
        lo: ArrayLike,
        hi: ArrayLike,
        paint: Paint,
        faces: Mapping[str, Paint] | None = None,
        ppm: float = 330.0,
        emission: float = 0.0,
    ) -> None:
        """Add an axis-aligned box of the current frame; `faces` overrides the paint of ±x, ±y, ±z by name."""
        (x0, y0, z0), (x1, y1, z1) = np.asarray(lo, np.float64), np.asarray(hi, np.float64)
        dx, dy, dz = x1 - x0, y1 - y0, z1 - z0
        edges = {
            "+x": ((x1, y0, z1), (0, dy, 0), (0, 0, -dz)),
            "-x": ((x0, y1, z1), (0, -dy, 0), (0, 0, -dz)),
            "+y": ((x1, y1, z1), (-dx, 0, 0), (0, 0, -dz)),
            "-y": ((x0, y0, z1), (dx, 0, 0), (0, 0, -dz)),
            "+z": ((x0, y1, z1), (dx, 0, 0), (0, -dy, 0)),
            "-z": ((x0, y0, z0), (dx, 0, 0), (0, dy, 0)),
        }
        for name, (corner, right, down) in edges.items():
            if name == "-z" and self._origin[2] + z0 < 0.3:
                continue
            self.quad(corner, right, down, (faces or {}).get(name, paint), ppm, emission)
        self.footprint([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], z0)

    def lathe(
        self, profile: ArrayLike, paint: Paint, sides: int = 20, ppm: float = 330.0, emission: float = 0.0
    ) -> None:
        """Add a surface of revolution about the vertical; profile (K, 2): radius and height, top first."""
        radius, height = np.asarray(profile, np.float64).T
        turn = np.linspace(0, 2 * np.pi, sides + 1)
        ring = np.stack([np.cos(turn), np.sin(turn)], -1)
        flat = np.broadcast_to(height[:, None, None], (len(height), sides + 1, 1))
        self.sheet(np.concatenate([radius[:, None, None] * ring, flat], -1), paint, ppm, emission)
        self.footprint(ring[:-1] * radius.max(), float(height.min()))

    def cylinder(
        self,
        radius: float,
        bottom: float,
        top: float,
        paint: Paint,
        sides: int = 20,
        ppm: float = 330.0,
        emission: float = 0.0,
    ) -> None:
        """Add an upright cylinder with a lid."""
        self.lathe([(0.001, top), (radius, top)], paint, sides, ppm, emission)
        self.lathe([(radius, top), (radius, bottom)], paint, sides, ppm, emission)

    def sphere(
        self, radius: float, centre_z: float, paint: Paint, ppm: float = 330.0, emission: float = 0.0
    ) -> None:
        """Add a sphere above the origin of the current frame."""
        angle = np.linspace(0.02, np.pi - 0.02, 12)
        profile = np.stack([radius * np.sin(angle), centre_z + radius * np.cos(angle)], -1)
        self.lathe(profile, paint, 20, ppm, emission)
