"""Procedural textures.

Every function returns an RGB image (h, w, 3) float32 in [0, 1], row 0 at the top.

A *paint* is a function of (generator, height in texels, width in texels, texels per metre), so that patterns
keep their size in metres whatever the resolution of the surface they are painted on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

Image = NDArray[np.float32]
Rgb = tuple[float, float, float]
Paint = Callable[[Generator, int, int, float], Image]

WORDS = (
    "NOVA",
    "ATLAS",
    "cafe",
    "1974",
    "KIWI",
    "Lumen",
    "R2",
    "ORBIT",
    "tea",
    "Basel",
    "No 7",
    "JAZZ",
    "mono",
    "SOLO",
    "Fjord",
    "42",
    "ECHO",
    "Zebra",
    "lab",
    "PORTO",
    "Vega",
    "88",
    "Quark",
    "MILK",
    "Delta",
    "oslo",
)
FONTS = (
    cv2.FONT_HERSHEY_SIMPLEX,
    cv2.FONT_HERSHEY_DUPLEX,
    cv2.FONT_HERSHEY_TRIPLEX,
    cv2.FONT_HERSHEY_SCRIPT_COMPLEX,
)


def noise(rng: Generator, h: int, w: int, cell_v: float, cell_u: float, octaves: int = 3) -> Image:
    """Return smooth noise (h, w) around 0, features of cell_v × cell_u texels; octaves halve both."""
    total = np.zeros((h, w), np.float32)
    for octave in range(octaves):
        grid_h = max(2, min(h, int(np.ceil(h * 2**octave / cell_v)) + 1))
        grid_w = max(2, min(w, int(np.ceil(w * 2**octave / cell_u)) + 1))
        grid = rng.standard_normal((grid_h, grid_w), dtype=np.float32)
        total += cv2.resize(grid, (w, h), interpolation=cv2.INTER_CUBIC).reshape(h, w) * np.float32(
            0.5**octave
        )
    return total


def random_colour(rng: Generator, low: float = 0.12, high: float = 0.9) -> Rgb:
    """Return a colour of random hue and brightness between low and high, from dusty to saturated."""
    hue, saturation = rng.uniform(0, 6), rng.uniform(0.25, 0.85)
    value = rng.uniform(0.45 * low + 0.55 * high, high) if high > 0.8 else rng.uniform(low, high)
    sector = (np.array([5.0, 3.0, 1.0]) + hue) % 6  # HSV to RGB
    r, g, b = value * (1 - saturation * np.clip(np.minimum(sector, 4 - sector), 0, 1))
    return float(r), float(g), float(b)


def pick(rng: Generator, colours: Sequence[Rgb]) -> Rgb:
    """Return one of the colours."""
    return colours[int(rng.integers(len(colours)))]


def bytes_of(colour: Rgb) -> tuple[int, int, int]:
    """Return colour as 8-bit values for OpenCV's drawing functions."""
    return int(colour[0] * 255), int(colour[1] * 255), int(colour[2] * 255)


def canvas(h: int, w: int, colour: Rgb) -> NDArray[np.uint8]:
    """Return a one-colour 8-bit image to draw on (OpenCV draws anti-aliased on 8 bits only)."""
    return np.full((h, w, 3), bytes_of(colour), np.uint8)


def finish(drawing: NDArray[np.uint8], rng: Generator, ppm: float, grain: float = 0.05) -> Image:
    """Return a drawing as float, with wear: blotches of some decimetres and fine grain."""
    h, w = drawing.shape[:2]
    wear = 1.0 + grain * noise(rng, h, w, 0.3 * ppm, 0.3 * ppm, 4)
    wear += 0.6 * grain * rng.standard_normal((h, w), dtype=np.float32)
    return np.clip(drawing.astype(np.float32) / 255.0 * wear[..., None], 0.0, 1.0)


def plain(colour: Rgb, grain: float = 0.07) -> Paint:
    """Return painted or plastic surface with slight wear."""
    return lambda rng, h, w, ppm: finish(canvas(h, w, colour), rng, ppm, grain)


def wood(colour: Rgb, along_u: bool = True) -> Paint:
    """Return wood with grain along the columns (along_u) or the rows of the texture."""

    def paint(rng: Generator, h: int, w: int, ppm: float) -> Image:
        long_cell, short_cell = 0.6 * ppm, 0.02 * ppm
        cells = (short_cell, long_cell) if along_u else (long_cell, short_cell)
        rings = noise(rng, h, w, cells[0] * 3, cells[1], 2) * 2.5
        value = 1.0 + 0.10 * np.sin(rings * 3.0) + 0.09 * noise(rng, h, w, *cells, 2)
        tint = np.array(colour, np.float32) * value[..., None]
        tint[..., 2] *= 1.0 - 0.05 * np.sin(rings)
        return np.asarray(np.clip(tint, 0.0, 1.0), np.float32)

    return paint


def planks(colour: Rgb, width_m: float = 0.14, vertical: bool = False) -> Paint:
    """Return boards of different tones and lengths with dark joints."""

    def paint(rng: Generator, h: int, w: int, ppm: float) -> Image:
        if vertical:
            return np.ascontiguousarray(paint_rows(rng, w, h, ppm).transpose(1, 0, 2))
        return paint_rows(rng, h, w, ppm)

    def paint_rows(rng: Generator, h: int, w: int, ppm: float) -> Image:
        image = wood(colour)(rng, h, w, ppm)
        step = max(4, int(width_m * ppm))
        for top in range(0, h, step):
            left = -int(rng.uniform(0, 1.0) * ppm)
            while left < w:
                right = left + int(rng.uniform(0.5, 1.6) * ppm)
                board = image[top : top + step, max(left, 0) : max(right, 0)]
                board *= (rng.uniform(0.62, 1.2) * rng.uniform(0.93, 1.07, 3)).astype(np.float32)
                board[:, -2:] *= 0.45
                left = right
            image[top : top + 2] *= 0.45
        return np.asarray(np.clip(image, 0.0, 1.0), np.float32)

    return paint


def bricks(colours: Sequence[Rgb], mortar: Rgb, width_m: float = 0.24, height_m: float = 0.085) -> Paint:
    """Return running-bond masonry, each brick in a colour of its own."""

    def paint(rng: Generator, h: int, w: int, ppm: float) -> Image:
        image = canvas(h, w, mortar)
        gap, bw, bh = max(1, int(0.01 * ppm)), int(width_m * ppm), int(height_m * ppm)
        for row, top in enumerate(range(0, h, bh)):
            for left in range(-(row % 2) * bw // 2, w, bw):
                tone = np.array(pick(rng, colours)) * rng.uniform(0.6, 1.25)
                corner = (max(left, 0), top), (left + bw - gap - 1, top + bh - gap - 1)
                cv2.rectangle(image, *corner, bytes_of(tuple(np.clip(tone, 0, 1))), -1)
        return finish(image, rng, ppm, 0.09)

    return paint


def tiles(
    colours: Sequence[Rgb], size_m: float, joint: Rgb = (0.85, 0.85, 0.82), ornament: float = 0.3
) -> Paint:
    """Return square tiles in random colours, a share of them (ornament) with a drawing."""

    def paint(rng: Generator, h: int, w: int, ppm: float) -> Image:
        image = canvas(h, w, joint)
        size, gap = max(4, int(size_m * ppm)), max(1, int(0.006 * ppm))
        for top in range(0, h, size):
            for left in range(0, w, size):
                tone = tuple(np.clip(np.array(pick(rng, colours)) * rng.uniform(0.8, 1.15), 0, 1))
                cv2.rectangle(
                    image, (left, top), (left + size - gap - 1, top + size - gap - 1), bytes_of(tone), -1
                )
                if rng.random() < ornament:
                    centre = (left + size // 2, top + size // 2)
                    ink = bytes_of(random_colour(rng))
                    if rng.random() < 0.5:
                        cv2.circle(image, centre, int(size * rng.uniform(0.15, 0.4)), ink, -1, cv2.LINE_AA)
                    else:
                        cv2.drawMarker(
                            image, centre, ink, int(rng.integers(0, 5)), int(size * 0.6), max(1, size // 9)
                        )
        return finish(image, rng, ppm, 0.04)

    return paint


def stripes(colours: Sequence[Rgb], low_m: float, high_m: float, horizontal: bool = False) -> Paint:
    """Return stripes of random width between low_m and high_m."""

    def paint(rng: Generator, h: int, w: int, ppm: float) -> Image:
        image = canvas(h, w, colours[0])
        at, end = 0, (h if horizontal else w)
        last = -1
        while at < end:
            width = max(1, int(rng.uniform(low_m, high_m) * ppm))
            index = int(rng.choice([k for k in range(len(colours)) if k != last]))
            area = image[at : at + width] if horizontal else image[:, at : at + width]
            area[:] = bytes_of(colours[index])
            at, last = at + width, index
        return finish(image, rng, ppm, 0.05)

    return paint


def plaid(base: Rgb, bands: Sequence[Rgb], size_m: float = 0.12) -> Paint:
    """Return woven cloth: translucent bands in both directions on a base colour."""

    def paint(rng: Generator, h: int, w: int, ppm: float) -> Image:
        image = np.empty((h, w, 3), np.float32)
        image[:] = base
        for axis, end in ((0, h), (1, w)):
            at = 0
            while at < end:
                width = max(1, int(size_m * ppm * rng.uniform(0.2, 1.0)))
                area = image[at : at + width] if axis == 0 else image[:, at : at + width]
                area *= 0.55
                area += 0.45 * np.array(pick(rng, bands), np.float32)
                at += width + max(1, int(size_m * ppm * rng.uniform(0.3, 1.5)))
        image *= 1.0 + 0.09 * rng.standard_normal((h, w, 1), dtype=np.float32)
        return np.clip(image, 0.0, 1.0)

    return paint


def terrazzo(base: Rgb, cell_m: float, spread: float = 0.5) -> Paint:
    """Return random convex shards of many colours on a base, larger ones first."""

    def paint(rng: Generator, h: int, w: int, ppm: float) -> Image:
        image = canvas(h, w, base)
        cell = max(3.0, cell_m * ppm)
        for _ in range(int(1.2 * h * w / cell**2) + 4):
            centre = rng.uniform((0, 0), (w, h))
            angles = np.sort(rng.uniform(0, 2 * np.pi, int(rng.integers(3, 7))))
            radius = cell * rng.uniform(0.25, 0.9)
            points = centre + radius * np.stack([np.cos(angles), np.sin(angles)], -1)
            tone = np.array(base) * (1 - spread) + np.array(random_colour(rng)) * spread
            cv2.fillPoly(image, [points.astype(np.int32)], bytes_of(tuple(np.clip(tone, 0, 1))), cv2.LINE_AA)
        return finish(image, rng, ppm, 0.05)

    return paint
