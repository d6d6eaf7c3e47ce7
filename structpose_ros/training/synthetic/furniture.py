"""Furniture, each piece built around the origin of the builder's frame: back at y = 0, front towards +y."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.random import Generator

from . import artwork
from .surfaces import Builder
from .textures import Paint, Rgb, bricks, plaid, plain, random_colour, stripes, terrazzo, wood

FINE = 450.0  # texels per metre for small things that are seen from close by


def table(b: Builder, width: float, depth: float, height: float, top: Paint, leg: Paint) -> None:
    """Build a table centred on the origin."""
    x, y = width / 2, depth / 2
    b.box((-x, -y, height - 0.04), (x, y, height), top)
    for sx in (-1, 1):
        for sy in (-1, 1):
            cx, cy = sx * (x - 0.06), sy * (y - 0.06)
            b.box((cx - 0.03, cy - 0.03, 0), (cx + 0.03, cy + 0.03, height - 0.04), leg)


def chair(b: Builder, seat: Paint, frame: Paint) -> None:
    """Build a chair centred on the origin, looking to +y."""
    b.box((-0.21, -0.21, 0.42), (0.21, 0.21, 0.48), seat)
    for x in (-0.18, 0.18):
        for y in (-0.18, 0.18):
            b.box((x - 0.02, y - 0.02, 0), (x + 0.02, y + 0.02, 0.42), frame)
        b.box((x - 0.02, -0.21, 0.48), (x + 0.02, -0.17, 0.95), frame)
    b.box((-0.2, -0.21, 0.66), (0.2, -0.17, 0.92), seat)


def sofa(b: Builder, cloth: Paint, cushions: Sequence[Paint]) -> None:
    """Build a sofa 1.9 m wide and 0.85 m deep."""
    b.box((-0.95, 0, 0.08), (0.95, 0.85, 0.42), cloth)
    b.box((-0.95, 0, 0.42), (0.95, 0.22, 0.85), cloth)
    for x in (-0.95, 0.77):
        b.box((x, 0, 0.42), (x + 0.18, 0.85, 0.62), cloth)
    for k, cushion in enumerate(cushions):
        with b.at(-0.55 + 0.5 * k, 0.24, -12 + 11 * k):
            b.box((-0.19, 0, 0.43), (0.19, 0.13, 0.79), cushion)


def books(b: Builder, rng: Generator, width: float, height: float) -> None:
    """Build a row of books on z = 0 from x = 0 to width, spines near y = 0.2, with gaps here and there."""
    x = 0.01
    while x < width - 0.06:
        thick, tall, deep = rng.uniform(0.022, 0.06), height * rng.uniform(0.6, 0.95), rng.uniform(0.15, 0.22)
        side = plain(random_colour(rng, 0.2, 0.9))
        b.box((x, 0.02, 0), (x + thick, deep, tall), side, {"+y": artwork.book_spine}, FINE)
        x += thick + (rng.uniform(0.05, 0.2) if rng.random() < 0.12 else 0.002)


def things(b: Builder, rng: Generator, width: float, height: float) -> None:
    """Build boxes, vases and balls in a row on z = 0 from x = 0 to width."""
    x = 0.05
    while x < width - 0.2:
        size = rng.uniform(0.12, 0.24)
        tall = height * rng.uniform(0.45, 0.9)
        kind = int(rng.integers(3))
        with b.at(x + size / 2, 0.15, float(rng.uniform(-15, 15))):
            if kind == 0:
                paint = artwork.label_box(random_colour(rng, 0.3, 0.85))
                b.box((-size / 2, -0.1, 0), (size / 2, 0.09, tall), paint, ppm=FINE)
            elif kind == 1:
                vase(
                    b,
                    min(size / 2, 0.09),
                    tall,
                    stripes([random_colour(rng) for _ in range(4)], 0.01, 0.05, True),
                )
            else:
                radius = min(size, tall) / 2
                b.sphere(radius, radius, terrazzo(random_colour(rng), 0.05))
        x += size + rng.uniform(0.02, 0.1)


def vase(b: Builder, radius: float, height: float, paint: Paint) -> None:
    """Build a vase standing on the origin."""
    profile = np.array([(0.45, 1.0), (0.35, 0.85), (0.9, 0.5), (1.0, 0.3), (0.6, 0.0)])
    b.lathe(profile * np.array([radius, height]), paint, 16, FINE)


def shelf(
    b: Builder, rng: Generator, width: float, height: float, rows: int, frame: Paint, back: Paint
) -> None:
    """Build a bookcase from x = 0 to width, 0.32 m deep, filled with books and things."""
    b.box((0, 0, 0), (0.03, 0.32, height), frame)
    b.box((width - 0.03, 0, 0), (width, 0.32, height), frame)
    b.quad((width, 0.012, height), (-width, 0, 0), (0, 0, -height), back)
    pitch = (height - 0.03) / rows
    middle = width * rng.uniform(0.4, 0.6)
    b.box((middle, 0.012, 0), (middle + 0.025, 0.31, height - 0.03), frame)
    for row in range(rows + 1):
        b.box((0.03, 0.012, row * pitch), (width - 0.03, 0.32, row * pitch + 0.03), frame)
        if row == rows:
            break
        for left, right in ((0.03, middle), (middle + 0.025, width - 0.03)):
            with b.at(left, 0.02, 0, row * pitch + 0.03):
                fill = books if rng.random() < 0.66 else things
                fill(b, rng, right - left, pitch - 0.06)


def cupboard(
    b: Builder, width: float, depth: float, low: float, high: float, body: Paint, doors: Sequence[Paint]
) -> None:
    """Build a cupboard from x = 0 to width with a row of differently painted doors and knobs in front."""
    b.box((0, 0, low), (width, depth, high), body)
    each = width / len(doors)
    for k, door in enumerate(doors):
        left = k * each + 0.012
        b.box((left, depth, low + 0.05), (left + each - 0.024, depth + 0.018, high - 0.03), door)
        knob = left + (0.8 if k % 2 == 0 else 0.14) * each
        middle = (low + high) / 2
        b.box(
            (knob, depth + 0.018, middle),
            (knob + 0.025, depth + 0.045, middle + 0.09),
            plain((0.75, 0.7, 0.5)),
        )


def picture(b: Builder, width: float, height: float, centre_z: float, art: Paint, frame: Rgb) -> None:
    """Build a framed picture centred on x = 0, hanging on the wall y = 0."""
    low, high = centre_z - height / 2, centre_z + height / 2
    b.box(
        (-width / 2, 0, low), (width / 2, 0.03, high), plain(frame), {"+y": artwork.framed(art, frame)}, FINE
    )


def plant(b: Builder, rng: Generator, height: float, pot: Paint, leaf: Rgb, count: int, droop: float) -> None:
    """Build a potted plant on the origin: bent leaves around a stem."""
    b.lathe([(0.15, 0.28), (0.16, 0.26), (0.11, 0.0)], pot)
    b.lathe([(0.002, 0.25), (0.15, 0.25)], plain((0.2, 0.13, 0.08), 0.2))
    b.cylinder(0.018, 0.25, height * 0.8, wood((0.35, 0.25, 0.15), False), 8)
    for k in range(count):
        turn, reach = k * 2.4 + rng.uniform(-0.3, 0.3), rng.uniform(0.16, 0.3)
        base = rng.uniform(0.35, 0.8) * height
        out = np.array([np.cos(turn), np.sin(turn), 0.0])
        side = np.array([-np.sin(turn), np.cos(turn), 0.0]) * rng.uniform(0.04, 0.08)
        red, green, blue = (float(c) for c in np.clip(np.array(leaf) * rng.uniform(0.6, 1.3), 0, 1))
        rise = 0.2 * height * rng.uniform(0.6, 1.2)
        spine = [
            np.array([0, 0, base]),
            out * reach * 0.6 + [0, 0, base + rise],
            out * reach + [0, 0, base + rise * (1 - droop)],
        ]
        grid = [
            [point - side * wide, point + side * wide]
            for point, wide in zip(spine, (0.3, 1.0, 0.1), strict=True)
        ]
        b.sheet(grid, stripes([(red, green, blue), (red * 0.8, green * 1.05, blue * 0.8)], 0.01, 0.03), FINE)
    b.footprint([(-0.3, -0.3), (0.3, -0.3), (0.3, 0.3), (-0.3, 0.3)], 0.3)


def floor_lamp(b: Builder, shade: Paint) -> None:
    """Build a standing lamp on the origin."""
    b.cylinder(0.15, 0, 0.03, plain((0.15, 0.15, 0.17)))
    b.cylinder(0.015, 0.03, 1.5, plain((0.3, 0.28, 0.2)), 8)
    b.lathe([(0.1, 1.78), (0.2, 1.48)], shade, emission=1.1)


def hanging_lamp(b: Builder, ceiling: float, drop: float, radius: float, shade: Paint) -> None:
    """Build a lamp on a cord under the ceiling, above the origin."""
    b.cylinder(0.008, ceiling - drop, ceiling, plain((0.1, 0.1, 0.1)), 6)
    b.lathe([(0.03, ceiling - drop), (radius, ceiling - drop - 0.2)], shade, emission=1.2)
    b.lathe(
        [(0.02, ceiling - drop - 0.17), (radius * 0.9, ceiling - drop - 0.19)],
        plain((1.0, 0.97, 0.85)),
        emission=1.0,
    )


def curtain(b: Builder, width: float, low: float, high: float, cloth: Paint) -> None:
    """Build a wavy curtain from x = 0 to width hanging 8 cm off the wall y = 0."""
    x = np.linspace(0, width, 25)
    wave = 0.08 + 0.03 * np.sin(x / width * 9 * np.pi)
    row = np.stack([x, wave, np.zeros_like(x)], -1)[::-1]
    b.sheet([row + [0, 0, high], row + [0, 0, low]], cloth)


def fireplace(b: Builder) -> None:
    """Build a brick chimney piece 1.1 m wide and 0.4 m deep with logs and a mantel shelf."""
    brick = bricks([(0.75, 0.72, 0.68), (0.6, 0.55, 0.5), (0.82, 0.8, 0.75)], (0.4, 0.38, 0.36), 0.19, 0.07)
    b.box((-0.55, 0, 0), (-0.32, 0.4, 1.0), brick)
    b.box((0.32, 0, 0), (0.55, 0.4, 1.0), brick)
    b.box((-0.32, 0, 0.65), (0.32, 0.4, 1.0), brick)
    b.box((-0.32, 0, 0), (0.32, 0.05, 0.65), plain((0.12, 0.1, 0.1), 0.3))
    b.box((-0.62, 0, 1.0), (0.62, 0.45, 1.06), wood((0.4, 0.25, 0.15)))
    b.box(
        (-0.42, 0, 1.06),
        (0.42, 0.3, 2.3),
        plaid((0.75, 0.72, 0.7), [(0.6, 0.3, 0.25), (0.3, 0.35, 0.5)], 0.3),
    )
    for k in range(4):
        with b.at(-0.18 + 0.12 * k, 0.15, 0):
            b.box((-0.045, 0, 0), (0.045, 0.22, 0.09 + 0.03 * (k % 2)), wood((0.5, 0.33, 0.2)))
