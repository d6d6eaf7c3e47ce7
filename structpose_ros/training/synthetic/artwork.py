"""Procedural pictures: posters, book spines, screens…; they have the signature of textures.Paint."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from .textures import FONTS, WORDS, Image, Paint, Rgb, bytes_of, canvas, finish, noise, pick, random_colour

Drawing = NDArray[np.uint8]


def write_word(image: Drawing, rng: Generator, ink: Rgb, word: str, top: int, height: int) -> None:
    """Write word, its capitals about `height` high, on the baseline top + height, shrunk to the width."""
    font = int(FONTS[rng.integers(len(FONTS))])
    (width, tall), _ = cv2.getTextSize(word, font, 1.0, 1)
    scale = min(height / max(tall, 1), 0.9 * image.shape[1] / max(width, 1))
    left = int((image.shape[1] - width * scale) * rng.uniform(0.1, 0.9))
    thick = max(1, int(scale * 2.2))
    cv2.putText(image, word, (max(left, 1), top + height), font, scale, bytes_of(ink), thick, cv2.LINE_AA)


def abstract(rng: Generator, h: int, w: int, ppm: float) -> Image:
    """Paint abstract composition: discs, rings, polygons and strokes in a random palette."""
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


def hills(
    rng: Generator, image: Drawing, tones: Sequence[Rgb], first: float, last: float, rough: float
) -> None:
    """Draw ridge lines from `first` to `last` (fractions of the height), each filled down with its tone."""
    h, w = image.shape[:2]
    for k, tone in enumerate(tones):
        level = h * (first + (last - first) * k / max(1, len(tones) - 1))
        ridge = level + h * rough * noise(rng, 1, w, 1, w / rng.uniform(2, 5), 4)[0]
        outline = np.concatenate([np.stack([np.arange(w), ridge], -1), [[w, h], [0, h]]])
        cv2.fillPoly(image, [outline.astype(np.int32)], bytes_of(tone), cv2.LINE_AA)


def landscape(rng: Generator, h: int, w: int, ppm: float) -> Image:
    """Paint sky with a gradient, a sun, ridges and trees."""
    fade = np.linspace(0, 1, h, dtype=np.float32)[:, None, None]
    sky = (1 - fade) * np.array(random_colour(rng, 0.35, 0.9)) + fade * np.array([0.97, 0.9, 0.75])
    image = (np.broadcast_to(sky, (h, w, 3)) * 255).astype(np.uint8)
    sun = (int(w * rng.uniform(0.15, 0.85)), int(h * rng.uniform(0.15, 0.4)))
    cv2.circle(
        image, sun, int(h * rng.uniform(0.06, 0.14)), bytes_of((0.98, 0.85, rng.uniform(0.3, 0.8))), -1
    )
    near = np.array(random_colour(rng, 0.08, 0.5))
    tones = [tuple(float(c) for c in near * (0.4 + 0.2 * k) + 0.12 * (4 - k)) for k in (4, 3, 2, 1, 0)]
    hills(rng, image, [tuple(np.clip(t, 0, 1)) for t in tones], 0.42, 0.85, 0.07)
    for _ in range(int(rng.integers(6, 16))):
        x, y, size = int(rng.uniform(0, w)), int(h * rng.uniform(0.65, 0.98)), h * rng.uniform(0.06, 0.2)
        tree = np.array([[x - size / 3, y], [x, y - size], [x + size / 3, y]], np.int32)
        cv2.fillPoly(image, [tree], bytes_of((0.05, float(rng.uniform(0.15, 0.4)), 0.12)), cv2.LINE_AA)
    return finish(image, rng, ppm, 0.03)


def lettering(rng: Generator, h: int, w: int, ppm: float) -> Image:
    """Paint poster of words of different sizes with a disc or bar behind them."""
    paper, ink = random_colour(rng, 0.6, 0.95), random_colour(rng, 0.04, 0.4)
    image = canvas(h, w, paper)
    centre = (int(w * rng.uniform(0.2, 0.8)), int(h * rng.uniform(0.3, 0.7)))
    cv2.circle(
        image, centre, int(min(h, w) * rng.uniform(0.2, 0.4)), bytes_of(random_colour(rng)), -1, cv2.LINE_AA
    )
    top = int(0.05 * h)
    while top < 0.9 * h:
        height = max(4, int(h * rng.uniform(0.05, 0.2)))
        if top + height < 0.97 * h:
            write_word(image, rng, ink, str(rng.choice(WORDS)), top, height)
        top += int(height * 1.5)
    return finish(image, rng, ppm, 0.03)


def framed(picture: Paint, frame: Rgb, border_m: float = 0.035) -> Paint:
    """Paint a picture with a frame and a pale mount painted around it."""

    def paint(rng: Generator, h: int, w: int, ppm: float) -> Image:
        edge = max(1, int(border_m * ppm))
        image = finish(canvas(h, w, frame), rng, ppm, 0.08)
        image[edge : h - edge, edge : w - edge] = 0.93
        pad = edge * 2
        image[pad : h - pad, pad : w - pad] = picture(rng, h - 2 * pad, w - 2 * pad, ppm)
        return image

    return paint


def book_spine(rng: Generator, h: int, w: int, ppm: float) -> Image:
    """Paint spine with bands and a title running down it."""
    image = canvas(h, w, random_colour(rng, 0.2, 0.95))
    for _ in range(int(rng.integers(1, 4))):
        top = int(h * rng.uniform(0.02, 0.95))
        image[top : top + max(1, int(h * rng.uniform(0.01, 0.06)))] = bytes_of(random_colour(rng, 0.2, 0.95))
    if w >= 8:
        strip = np.ascontiguousarray(np.rot90(image))
        write_word(
            strip, rng, random_colour(rng, 0.6, 0.98), str(rng.choice(WORDS)), int(w * 0.2), int(w * 0.55)
        )
        image = np.ascontiguousarray(np.rot90(strip, -1))
    return finish(image, rng, ppm, 0.06)


def label_box(colour: Rgb) -> Paint:
    """Paint carton or crate with a label, an arrow and tape."""

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
    """Paint monitor with windows of coloured text lines."""
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
    """Paint white dial with ticks and two hands."""
    image = canvas(h, w, (0.95, 0.95, 0.92))
    centre, radius = np.array([w / 2, h / 2]), min(h, w) / 2
    for hour in range(12):
        ray = np.array([np.sin(hour * np.pi / 6), -np.cos(hour * np.pi / 6)]) * radius
        start, end = (centre + ray * 0.78).astype(int).tolist(), (centre + ray * 0.92).astype(int).tolist()
        cv2.line(image, start, end, (15, 15, 15), max(2, int(radius / 18)), cv2.LINE_AA)
    for length, angle in ((0.5, 5.3), (0.75, 1.1)):
        tip = (centre + radius * length * np.array([np.sin(angle), -np.cos(angle)])).astype(int).tolist()
        cv2.line(
            image, centre.astype(int).tolist(), tip, (150, 20, 20), max(2, int(radius / 12)), cv2.LINE_AA
        )
    cv2.circle(image, centre.astype(int).tolist(), int(radius * 0.97), (30, 30, 60), max(2, int(radius / 14)))
    return finish(image, rng, ppm, 0.02)


def rug(palette: Sequence[Rgb]) -> Paint:
    """Paint carpet with a border and rows of motifs that differ along its length."""

    def paint(rng: Generator, h: int, w: int, ppm: float) -> Image:
        image = canvas(h, w, palette[0])
        for k, inset in enumerate((0.04, 0.1, 0.16)):
            pad = int(inset * ppm)
            cv2.rectangle(
                image, (pad, pad), (w - pad, h - pad), bytes_of(palette[(k + 1) % len(palette)]), -1
            )
        step = max(6, int(0.26 * ppm))
        for y in range(step, h - step // 2, step):
            for x in range(step, w - step // 2, step):
                ink = bytes_of(pick(rng, palette))
                size = step * rng.uniform(0.25, 0.6)
                turn = rng.uniform(0, np.pi) + np.arange(int(rng.integers(3, 7)))[:, None] * 2.4
                points = np.array([x, y]) + size * np.concatenate([np.cos(turn), np.sin(turn)], -1)
                cv2.fillPoly(image, [points.astype(np.int32)], ink, cv2.LINE_AA)
                cv2.circle(image, (x, y), int(size * 0.3), bytes_of(random_colour(rng)), -1, cv2.LINE_AA)
        out = finish(image, rng, ppm, 0.05)
        return np.clip(out * (1 + 0.08 * rng.standard_normal((h, w, 1), dtype=np.float32)), 0, 1)

    return paint
