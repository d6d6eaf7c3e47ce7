"""Procedural pictures (posters, murals, book spines, screens…); same signature as the paints in textures.py."""
from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from .textures import FONTS, WORDS, Image, Paint, Rgb, bricks, bytes_of, canvas, finish, noise, planks, random_colour

Drawing = NDArray[np.uint8]


def write_word(image: Drawing, rng: Generator, ink: Rgb, word: str, top: int, height: int) -> None:
    """Write word with capitals about `height` texels high, its baseline at top + height, shrunk to the width."""
    font = int(FONTS[rng.integers(len(FONTS))])
    (width, tall), _ = cv2.getTextSize(word, font, 1.0, 1)
    scale = min(height / max(tall, 1), 0.9 * image.shape[1] / max(width, 1))
    left = int((image.shape[1] - width * scale) * rng.uniform(0.1, 0.9))
    thick = max(1, int(scale * 2.2))
    cv2.putText(image, word, (max(left, 1), top + height), font, scale, bytes_of(ink), thick, cv2.LINE_AA)


def abstract(rng: Generator, h: int, w: int, ppm: float) -> Image:
    """Abstract composition: discs, rings, polygons and strokes in a random palette."""
    image = canvas(h, w, random_colour(rng, 0.3, 0.95))
    size = min(h, w)
    for _ in range(int(rng.integers(9, 18))):
        x, y = (int(v) for v in rng.uniform((0, 0), (w, h)))
        ink = bytes_of(random_colour(rng, 0.05, 0.95))
        kind = int(rng.integers(4))
        if kind == 0:
            cv2.circle(image, (x, y), int(size * rng.uniform(0.05, 0.28)), ink, -1, cv2.LINE_AA)
        elif kind == 1:
            thick = max(1, int(size * rng.uniform(0.01, 0.06)))
            cv2.circle(image, (x, y), int(size * rng.uniform(0.08, 0.3)), ink, thick, cv2.LINE_AA)
        elif kind == 2:
            points = np.array([x, y]) + rng.normal(0, size * 0.22, (int(rng.integers(3, 6)), 2))
            cv2.fillPoly(image, [cv2.convexHull(points.astype(np.int32))], ink, cv2.LINE_AA)
        else:
            end = (int(x + rng.normal(0, size * 0.5)), int(y + rng.normal(0, size * 0.5)))
            cv2.line(image, (x, y), end, ink, max(1, int(size * rng.uniform(0.01, 0.07))), cv2.LINE_AA)
    return finish(image, rng, ppm, 0.04)


def hills(rng: Generator, image: Drawing, tones: Sequence[Rgb], first: float, last: float, rough: float) -> None:
    """Ridge lines from `first` to `last` (fractions of the height), each filled downwards with its tone."""
    h, w = image.shape[:2]
    for k, tone in enumerate(tones):
        level = h * (first + (last - first) * k / max(1, len(tones) - 1))
        ridge = level + h * rough * noise(rng, 1, w, 1, w / rng.uniform(2, 5), 4)[0]
        outline = np.concatenate([np.stack([np.arange(w), ridge], -1), [[w, h], [0, h]]])
        cv2.fillPoly(image, [outline.astype(np.int32)], bytes_of(tone), cv2.LINE_AA)


def landscape(rng: Generator, h: int, w: int, ppm: float) -> Image:
    """Sky with a gradient, a sun, ridges and trees."""
    fade = np.linspace(0, 1, h, dtype=np.float32)[:, None, None]
    sky = (1 - fade) * np.array(random_colour(rng, 0.35, 0.9)) + fade * np.array([0.97, 0.9, 0.75])
    image = (np.broadcast_to(sky, (h, w, 3)) * 255).astype(np.uint8)
    sun = (int(w * rng.uniform(0.15, 0.85)), int(h * rng.uniform(0.15, 0.4)))
    cv2.circle(image, sun, int(h * rng.uniform(0.06, 0.14)), bytes_of((0.98, 0.85, rng.uniform(0.3, 0.8))), -1)
    near = np.array(random_colour(rng, 0.08, 0.5))
    tones = [tuple(float(c) for c in near * (0.4 + 0.2 * k) + 0.12 * (4 - k)) for k in (4, 3, 2, 1, 0)]
    hills(rng, image, [tuple(np.clip(t, 0, 1)) for t in tones], 0.42, 0.85, 0.07)
    for _ in range(int(rng.integers(6, 16))):
        x, y, size = int(rng.uniform(0, w)), int(h * rng.uniform(0.65, 0.98)), h * rng.uniform(0.06, 0.2)
        tree = np.array([[x - size / 3, y], [x, y - size], [x + size / 3, y]], np.int32)
        cv2.fillPoly(image, [tree], bytes_of((0.05, float(rng.uniform(0.15, 0.4)), 0.12)), cv2.LINE_AA)
    return finish(image, rng, ppm, 0.03)


def lettering(rng: Generator, h: int, w: int, ppm: float) -> Image:
    """Poster of words of different sizes with a disc or bar behind them."""
    paper, ink = random_colour(rng, 0.6, 0.95), random_colour(rng, 0.04, 0.4)
    image = canvas(h, w, paper)
    centre = (int(w * rng.uniform(0.2, 0.8)), int(h * rng.uniform(0.3, 0.7)))
    cv2.circle(image, centre, int(min(h, w) * rng.uniform(0.2, 0.4)), bytes_of(random_colour(rng)), -1, cv2.LINE_AA)
    top = int(0.05 * h)
    while top < 0.9 * h:
        height = max(4, int(h * rng.uniform(0.05, 0.2)))
        if top + height < 0.97 * h:
            write_word(image, rng, ink, str(rng.choice(WORDS)), top, height)
        top += int(height * 1.5)
    return finish(image, rng, ppm, 0.03)


def framed(picture: Paint, frame: Rgb, border_m: float = 0.035) -> Paint:
    """A picture with a frame and a pale mount painted around it."""

    def paint(rng: Generator, h: int, w: int, ppm: float) -> Image:
        edge = max(1, int(border_m * ppm))
        image = finish(canvas(h, w, frame), rng, ppm, 0.08)
        image[edge : h - edge, edge : w - edge] = 0.93
        pad = edge * 2
        image[pad : h - pad, pad : w - pad] = picture(rng, h - 2 * pad, w - 2 * pad, ppm)
        return image

    return paint


def book_spine(rng: Generator, h: int, w: int, ppm: float) -> Image:
    """Spine with bands and a title running down it."""
    image = canvas(h, w, random_colour(rng, 0.2, 0.95))
    for _ in range(int(rng.integers(1, 4))):
        top = int(h * rng.uniform(0.02, 0.95))
        image[top : top + max(1, int(h * rng.uniform(0.01, 0.06)))] = bytes_of(random_colour(rng, 0.2, 0.95))
    if w >= 8:
        strip = np.ascontiguousarray(np.rot90(image))
        write_word(strip, rng, random_colour(rng, 0.6, 0.98), str(rng.choice(WORDS)), int(w * 0.2), int(w * 0.55))
        image = np.ascontiguousarray(np.rot90(strip, -1))
    return finish(image, rng, ppm, 0.06)


def label_box(colour: Rgb) -> Paint:
    """Carton or crate with a label, an arrow and tape."""

    def paint(rng: Generator, h: int, w: int, ppm: float) -> Image:
        image = canvas(h, w, colour)
        tape = int(w * rng.uniform(0.3, 0.6))
        image[:, tape : tape + max(2, w // 9)] = bytes_of(random_colour(rng, 0.3, 0.9))
        x, y = int(w * rng.uniform(0.05, 0.4)), int(h * rng.uniform(0.1, 0.4))
        label = canvas(max(6, h // 2), max(6, w // 2), (0.95, 0.95, 0.9))
        write_word(label, rng, random_colour(rng, 0.05, 0.5), str(rng.choice(WORDS)), h // 12, h // 5)
        patch = image[y : y + label.shape[0], x : x + label.shape[1]]
        patch[:] = label[: patch.shape[0], : patch.shape[1]]
        start, tip = (int(0.85 * w), int(0.9 * h)), (int(0.85 * w), int(0.45 * h))
        cv2.arrowedLine(image, start, tip, (20, 20, 20), max(1, w // 30), cv2.LINE_AA, 0, 0.4)
        return finish(image, rng, ppm, 0.07)

    return paint


def screen(rng: Generator, h: int, w: int, ppm: float) -> Image:
    """Monitor with windows of coloured text lines."""
    image = canvas(h, w, (0.05, 0.12, 0.25))
    for _ in range(3):
        x, y = int(w * rng.uniform(0.02, 0.5)), int(h * rng.uniform(0.02, 0.4))
        right, bottom = x + int(w * rng.uniform(0.3, 0.5)), y + int(h * rng.uniform(0.35, 0.6))
        cv2.rectangle(image, (x, y), (right, bottom), bytes_of(random_colour(rng, 0.02, 0.25)), -1)
        for row in range(y + 6, bottom - 3, 6):
            end = int(rng.uniform(x + 5, right))
            cv2.line(image, (x + 4, row), (end, row), bytes_of(random_colour(rng, 0.4, 0.95)), 2)
    return finish(image, rng, ppm, 0.02)


def clock_face(rng: Generator, h: int, w: int, ppm: float) -> Image:
    """White dial with ticks and two hands."""
    image = canvas(h, w, (0.95, 0.95, 0.92))
    centre, radius = np.array([w / 2, h / 2]), min(h, w) / 2
    for hour in range(12):
        ray = np.array([np.sin(hour * np.pi / 6), -np.cos(hour * np.pi / 6)]) * radius
        start, end = (centre + ray * 0.78).astype(int).tolist(), (centre + ray * 0.92).astype(int).tolist()
        cv2.line(image, start, end, (15, 15, 15), max(2, int(radius / 18)), cv2.LINE_AA)
    for length, angle in ((0.5, 5.3), (0.75, 1.1)):
        tip = (centre + radius * length * np.array([np.sin(angle), -np.cos(angle)])).astype(int).tolist()
        cv2.line(image, centre.astype(int).tolist(), tip, (150, 20, 20), max(2, int(radius / 12)), cv2.LINE_AA)
    cv2.circle(image, centre.astype(int).tolist(), int(radius * 0.97), (30, 30, 60), max(2, int(radius / 14)))
    return finish(image, rng, ppm, 0.02)


def rug(palette: Sequence[Rgb]) -> Paint:
    """Carpet with a border and rows of motifs that differ along its length."""

    def paint(rng: Generator, h: int, w: int, ppm: float) -> Image:
        image = canvas(h, w, palette[0])
        for k, inset in enumerate((0.04, 0.1, 0.16)):
            pad = int(inset * ppm)
            cv2.rectangle(image, (pad, pad), (w - pad, h - pad), bytes_of(palette[(k + 1) % len(palette)]), -1)
        step = max(6, int(0.26 * ppm))
        for y in range(step, h - step // 2, step):
            for x in range(step, w - step // 2, step):
                ink = bytes_of(palette[rng.integers(len(palette))])
                size = step * rng.uniform(0.25, 0.6)
                turn = rng.uniform(0, np.pi) + np.arange(int(rng.integers(3, 7)))[:, None] * 2.4
                points = np.array([x, y]) + size * np.concatenate([np.cos(turn), np.sin(turn)], -1)
                cv2.fillPoly(image, [points.astype(np.int32)], ink, cv2.LINE_AA)
                cv2.circle(image, (x, y), int(size * 0.3), bytes_of(random_colour(rng)), -1, cv2.LINE_AA)
        out = finish(image, rng, ppm, 0.05)
        return np.clip(out * (1 + 0.08 * rng.standard_normal((h, w, 1), dtype=np.float32)), 0, 1)

    return paint


def window_view(rng: Generator, h: int, w: int, ppm: float) -> Image:
    """Street scene behind a white cross-bar window frame."""
    image = (landscape(rng, h, w, ppm) * 255).astype(np.uint8)
    for _ in range(5):
        left, top = int(rng.uniform(0, 0.9) * w), int(rng.uniform(0.4, 0.65) * h)
        right = left + int(rng.uniform(0.08, 0.2) * w)
        cv2.rectangle(image, (left, top), (right, h), bytes_of(random_colour(rng, 0.35, 0.8)), -1)
        for y in range(top + 8, h - 10, 22):
            for x in range(left + 6, right - 8, 18):
                cv2.rectangle(image, (x, y), (x + 7, y + 11), (40, 50, 70) if rng.random() < 0.6 else (250, 230, 140), -1)
    bar = int(0.03 * ppm)
    for x in (0, int(w * 0.36), w - bar):
        image[:, x : x + bar] = 235
    for y in (0, int(h * 0.3), h - bar):
        image[y : y + bar] = 235
    return image.astype(np.float32) / 255.0


def mural(rng: Generator, h: int, w: int, ppm: float) -> Image:
    """Green wall with painted mountains, a big sun and scattered leaves."""
    image = canvas(h, w, (0.62, 0.74, 0.56))
    cv2.circle(image, (int(0.72 * w), int(0.34 * h)), int(0.5 * ppm), bytes_of((0.93, 0.62, 0.25)), -1, cv2.LINE_AA)
    tones = [(0.48, 0.62, 0.55), (0.33, 0.52, 0.47), (0.55, 0.5, 0.3), (0.2, 0.38, 0.33), (0.12, 0.25, 0.24)]
    hills(rng, image, tones, 0.3, 0.85, 0.06)
    for _ in range(170):
        x, y = rng.uniform((0, 0), (w, h))
        axes = (int(ppm * rng.uniform(0.03, 0.09)), int(ppm * rng.uniform(0.01, 0.035)))
        ink = bytes_of(random_colour(rng, 0.2, 0.75))
        cv2.ellipse(image, (int(x), int(y)), axes, float(rng.uniform(0, 180)), 0, 360, ink, -1, cv2.LINE_AA)
    return finish(image, rng, ppm, 0.05)


def floor(rugs: Sequence[tuple[float, float, float, float, Paint]], tiled: tuple[float, Paint]) -> Paint:
    """Boards with a tiled strip (from x = tiled[0] on) and rugs (x0, y0, x1, y1, paint) lying on them, metres.

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
    """Pale bays of different tints with stencilled rings and cracks."""
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
    """Wallpaper of irregular warm stripes with flowers, wooden panelling below 0.9 m."""
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
    """Bricks with whitewashed and sooty zones and painted lettering, so that no two parts look alike."""
    colours = [(0.62, 0.28, 0.2), (0.5, 0.22, 0.18), (0.7, 0.4, 0.28), (0.45, 0.3, 0.28), (0.75, 0.55, 0.42)]
    image = bricks(colours, (0.72, 0.68, 0.62))(rng, h, w, ppm)
    zones = noise(rng, h, w, 0.9 * ppm, 0.9 * ppm, 3)
    wash = 0.75 * np.clip(zones * 1.6 - 0.5, 0, 1)[..., None]
    tint = np.array([0.85, 0.84, 0.8], np.float32) * np.linspace(0.8, 1.05, w, dtype=np.float32)[None, :, None]
    image = image * (1 - wash) + tint * wash * (0.6 + 0.4 * image.max(axis=2, keepdims=True))
    image *= np.clip(1 + 0.45 * np.minimum(zones + 0.3, 0), 0.5, 1)[..., None]
    paint = (np.clip(image, 0, 1) * 255).astype(np.uint8)
    for left, size, top in ((0.03, 0.32, 0.25), (0.33, 0.2, 0.8), (0.47, 0.3, 0.55), (0.62, 0.25, 0.2), (0.9, 0.25, 0.9)):
        patch = np.ascontiguousarray(paint[:, int(left * w) : int(left * w) + int(1.2 * ppm)])
        write_word(patch, rng, random_colour(rng, 0.1, 0.9), str(rng.choice(WORDS)), int(top * ppm), int(size * ppm))
        paint[:, int(left * w) : int(left * w) + patch.shape[1]] = patch
    return np.asarray(paint, np.float32) / 255.0
