"""The room's large surfaces: floor, ceiling, walls and the view from the window, no two parts alike."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.random import Generator

from .artwork import hills, landscape, write_word
from .textures import WORDS, Image, Paint, bricks, bytes_of, canvas, finish, noise, planks, random_colour


def window_view(rng: Generator, h: int, w: int, ppm: float) -> Image:
    """Paint street scene behind a white cross-bar window frame."""
    image = (landscape(rng, h, w, ppm) * 255).astype(np.uint8)
    for _ in range(5):
        left, top = int(rng.uniform(0, 0.9) * w), int(rng.uniform(0.4, 0.65) * h)
        right = left + int(rng.uniform(0.08, 0.2) * w)
        cv2.rectangle(image, (left, top), (right, h), bytes_of(random_colour(rng, 0.35, 0.8)), -1)
        for y in range(top + 8, h - 10, 22):
            for x in range(left + 6, right - 8, 18):
                cv2.rectangle(
                    image,
                    (x, y),
                    (x + 7, y + 11),
                    (40, 50, 70) if rng.random() < 0.6 else (250, 230, 140),
                    -1,
                )
    bar = int(0.03 * ppm)
    for x in (0, int(w * 0.36), w - bar):
        image[:, x : x + bar] = 235
    for y in (0, int(h * 0.3), h - bar):
        image[y : y + bar] = 235
    return image.astype(np.float32) / 255.0


def mural(rng: Generator, h: int, w: int, ppm: float) -> Image:
    """Paint green wall with painted mountains, a big sun and scattered leaves."""
    image = canvas(h, w, (0.62, 0.74, 0.56))
    cv2.circle(
        image, (int(0.72 * w), int(0.34 * h)), int(0.5 * ppm), bytes_of((0.93, 0.62, 0.25)), -1, cv2.LINE_AA
    )
    tones = [(0.48, 0.62, 0.55), (0.33, 0.52, 0.47), (0.55, 0.5, 0.3), (0.2, 0.38, 0.33), (0.12, 0.25, 0.24)]
    hills(rng, image, tones, 0.3, 0.85, 0.06)
    for _ in range(170):
        x, y = rng.uniform((0, 0), (w, h))
        axes = (int(ppm * rng.uniform(0.03, 0.09)), int(ppm * rng.uniform(0.01, 0.035)))
        ink = bytes_of(random_colour(rng, 0.2, 0.75))
        cv2.ellipse(image, (int(x), int(y)), axes, float(rng.uniform(0, 180)), 0, 360, ink, -1, cv2.LINE_AA)
    return finish(image, rng, ppm, 0.05)


def floor(rugs: Sequence[tuple[float, float, float, float, Paint]], tiled: tuple[float, Paint]) -> Paint:
    """Paint boards, a tiled strip (from x = tiled[0] on) and rugs (x0, y0, x1, y1, paint) on them; metres.

    Texture row 0 is the far side (largest y), column 0 is x = 0.
    """

    def paint(rng: Generator, h: int, w: int, ppm: float) -> Image:
        image = planks((0.62, 0.43, 0.27), 0.16)(rng, h, w, ppm)
        image *= (1.0 + 0.12 * noise(rng, h, w, 0.9 * ppm, 0.9 * ppm, 2))[..., None]
        edge = int(tiled[0] * ppm)
        image[:, edge:] = tiled[1](rng, h, w - edge, ppm)
        for x0, y0, x1, y1, carpet in rugs:
            top, left = h - int(y1 * ppm), int(x0 * ppm)
            rows, columns = int((y1 - y0) * ppm), int((x1 - x0) * ppm)
            image[top : top + rows, left : left + columns] = carpet(rng, rows, columns, ppm)
        return np.clip(image, 0, 1)

    return paint


def ceiling(rng: Generator, h: int, w: int, ppm: float) -> Image:
    """Paint pale bays of different tints with stencilled rings and cracks."""
    image = canvas(h, w, (0.9, 0.88, 0.84))
    left = 0
    while left < w:
        right = left + int(ppm * rng.uniform(0.5, 1.1))
        image[:, left:right] = bytes_of(tuple(np.clip(0.8 + rng.uniform(-0.2, 0.15, 3), 0, 1)))
        left = right
    for _ in range(46):
        x, y = (int(v) for v in rng.uniform((0, 0), (w, h)))
        ink, radius = bytes_of(random_colour(rng, 0.35, 0.85)), int(ppm * rng.uniform(0.06, 0.3))
        cv2.circle(image, (x, y), radius, ink, max(1, int(ppm * rng.uniform(0.01, 0.04))), cv2.LINE_AA)
        turn = rng.uniform(0, 6) + np.arange(int(rng.integers(3, 8)))[:, None] * 2.4
        star = np.array([x, y]) + 0.6 * radius * np.concatenate([np.cos(turn), np.sin(turn)], -1)
        cv2.fillPoly(image, [star.astype(np.int32)], bytes_of(random_colour(rng, 0.4, 0.85)), cv2.LINE_AA)
    return finish(image, rng, ppm, 0.05)


def south_wall(rng: Generator, h: int, w: int, ppm: float) -> Image:
    """Paint wallpaper of irregular warm stripes with flowers, wooden panelling below 0.9 m."""
    image = canvas(h, w, (0.9, 0.78, 0.55))
    left = 0
    while left < w:
        width = int(ppm * rng.uniform(0.04, 0.3))
        tone = np.array([0.88, 0.7, 0.45]) * rng.uniform(0.75, 1.12) + rng.uniform(-0.08, 0.08, 3)
        image[:, left : left + width] = bytes_of(tuple(np.clip(tone, 0, 1)))
        left += width
    for _ in range(260):
        x, y = (int(v) for v in rng.uniform((0, 0), (w, h)))
        ink, size = bytes_of(random_colour(rng, 0.15, 0.8)), ppm * rng.uniform(0.015, 0.05)
        for petal in np.arange(5) * 2 * np.pi / 5 + rng.uniform(0, 1):
            centre = (int(x + size * np.cos(petal)), int(y + size * np.sin(petal)))
            cv2.circle(image, centre, max(1, int(size * 0.55)), ink, -1, cv2.LINE_AA)
    out = finish(image, rng, ppm, 0.04)
    top = h - int(0.9 * ppm)
    out[top:] = planks((0.5, 0.3, 0.2), 0.2, vertical=True)(rng, h - top, w, ppm)
    out[top : top + int(0.03 * ppm)] = 0.3
    return out


def brick_wall(rng: Generator, h: int, w: int, ppm: float) -> Image:
    """Paint bricks with whitewashed and sooty zones and lettering, so that no two parts look alike."""
    colours = [(0.62, 0.28, 0.2), (0.5, 0.22, 0.18), (0.7, 0.4, 0.28), (0.45, 0.3, 0.28), (0.75, 0.55, 0.42)]
    image = bricks(colours, (0.72, 0.68, 0.62))(rng, h, w, ppm)
    zones = noise(rng, h, w, 0.9 * ppm, 0.9 * ppm, 3)
    wash = 0.75 * np.clip(zones * 1.6 - 0.5, 0, 1)[..., None]
    tint = (
        np.array([0.85, 0.84, 0.8], np.float32) * np.linspace(0.8, 1.05, w, dtype=np.float32)[None, :, None]
    )
    image = image * (1 - wash) + tint * wash * (0.6 + 0.4 * image.max(axis=2, keepdims=True))
    image *= np.clip(1 + 0.45 * np.minimum(zones + 0.3, 0), 0.5, 1)[..., None]
    paint = (np.clip(image, 0, 1) * 255).astype(np.uint8)
    for left, size, top in (
        (0.03, 0.32, 0.25),
        (0.33, 0.2, 0.8),
        (0.47, 0.3, 0.55),
        (0.62, 0.25, 0.2),
        (0.9, 0.25, 0.9),
    ):
        patch = np.ascontiguousarray(paint[:, int(left * w) : int(left * w) + int(1.2 * ppm)])
        write_word(
            patch, rng, random_colour(rng, 0.1, 0.9), str(rng.choice(WORDS)), int(top * ppm), int(size * ppm)
        )
        paint[:, int(left * w) : int(left * w) + patch.shape[1]] = patch
    return np.asarray(paint, np.float32) / 255.0
