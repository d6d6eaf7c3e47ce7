"""The demo room.

6.4 × 5.4 × 2.7 m; the map's origin is its south-west corner on the floor, x east, y north, z up.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from . import artwork, furniture, murals
from .baking import BakedScene, Light, bake
from .surfaces import Array, Builder
from .textures import Paint, plaid, plain, planks, random_colour, stripes, terrazzo, tiles, wood

EXTENT = (6.4, 5.4, 2.7)
AMBIENT = 1.0
LIGHTS = (
    Light((3.5, 0.08, 1.6), (0.8, 0, 0), (0, 0, 0.55), (7.0, 7.4, 8.2), (0, 1, 0)),
    Light((3.85, 2.9, 1.98), (0.15, 0, 0), (0, 0.15, 0), (2.6, 2.3, 1.8)),
    Light((1.6, 3.6, 2.15), (0.2, 0, 0), (0, 0.2, 0), (2.2, 2.0, 1.7)),
    Light((0.35, 4.95, 1.6), (0.08, 0, 0), (0, 0.08, 0), (1.5, 1.15, 0.7)),
)


@dataclass(frozen=True)
class Room:
    """What can be seen and where one can drive."""

    scene: BakedScene
    footprints: list[Array]  # convex polygons (K, 2), m, map frame


def build_room(seed: int, texel_scale: float = 0.8) -> Room:
    """Make the room of a seed; texel_scale < 1 gives coarser textures sooner, the geometry stays the same."""
    b = furnish(seed, texel_scale)
    return Room(bake(b.surfaces, LIGHTS, AMBIENT, seed), b.footprints)


def room_footprints(seed: int) -> list[Array]:
    """Return the footprints alone, without painting anything."""
    return furnish(seed, 0.0).footprints


def furnish(seed: int, texel_scale: float) -> Builder:
    """Build shell, furniture and pictures, painted but not lit."""
    b = Builder(seed, texel_scale)
    shell(b)
    west_side(b)
    south_side(b)
    east_side(b)
    north_side(b)
    middle(b)
    return b


def shell(b: Builder) -> None:
    """Build floor, ceiling with beams, four walls."""
    x, y, z = EXTENT
    carpet = artwork.rug([(0.55, 0.12, 0.12), (0.85, 0.75, 0.5), (0.12, 0.18, 0.35), (0.8, 0.45, 0.15)])
    mat = artwork.rug([(0.1, 0.35, 0.38), (0.9, 0.85, 0.75), (0.85, 0.35, 0.3), (0.95, 0.75, 0.2)])
    runner = plaid((0.75, 0.7, 0.6), [(0.2, 0.3, 0.5), (0.7, 0.25, 0.2), (0.25, 0.4, 0.25)], 0.15)
    stone = tiles(
        [(0.75, 0.73, 0.7), (0.35, 0.38, 0.42), (0.6, 0.35, 0.28), (0.85, 0.82, 0.7)], 0.2, (0.3, 0.3, 0.3)
    )
    rugs = [(0.9, 2.1, 2.75, 4.4, carpet), (3.1, 2.0, 4.9, 3.8, mat), (2.2, 0.5, 4.0, 1.35, runner)]
    b.quad((0, y, 0), (x, 0, 0), (0, -y, 0), murals.floor(rugs, (5.0, stone)), 270)
    b.quad((0, 0, z), (x, 0, 0), (0, y, 0), murals.ceiling, 150)
    blue = terrazzo((0.38, 0.52, 0.68), 0.3, 0.32)
    b.quad((0, 0, z), (0, y, 0), (0, 0, -z), murals.mural)
    b.quad((x, 0, z), (-x, 0, 0), (0, 0, -z), murals.south_wall)
    b.quad((x, y, z), (0, -y, 0), (0, 0, -z), blue)
    b.quad((0, y, z), (x, 0, 0), (0, 0, -z), murals.brick_wall)
    for k, left in enumerate((0.5, 1.25, 2.35, 3.05, 4.4, 5.6)):
        tone = ((0.4, 0.26, 0.16), (0.55, 0.4, 0.25), (0.3, 0.2, 0.15))[k % 3]
        b.box((left, 0, z - 0.12), (left + 0.12 + 0.02 * (k % 2), y, z), wood(tone, False), ppm=200)


def west_side(b: Builder) -> None:
    """Build sofa under a gallery of pictures, a lamp and a plant."""
    rng = np.random.default_rng([b.seed, 11])
    cloth = plaid((0.55, 0.2, 0.22), [(0.8, 0.5, 0.3), (0.25, 0.1, 0.2), (0.9, 0.8, 0.6)], 0.16)
    cushions = [
        terrazzo((0.9, 0.75, 0.2), 0.1),
        stripes([(0.1, 0.35, 0.5), (0.9, 0.9, 0.85)], 0.02, 0.05),
        artwork.rug([(0.2, 0.5, 0.3), (0.9, 0.6, 0.2), (0.95, 0.9, 0.8)]),
    ]
    arts = (artwork.abstract, artwork.landscape, artwork.lettering, artwork.abstract, artwork.landscape)
    with b.at(0, 3.25, -90):
        furniture.sofa(b, cloth, cushions)
        for k, art in enumerate(arts):
            with b.at(-0.95 + 0.47 * k, 0):
                size = (0.4 - 0.06 * (k % 3), 0.34 + 0.1 * (k % 2))
                furniture.picture(b, *size, 1.42 + 0.16 * ((k * 2) % 3), art, random_colour(rng, 0.05, 0.6))
    with b.at(0.35, 4.95):
        furniture.floor_lamp(b, stripes([(1.0, 0.85, 0.55), (0.95, 0.6, 0.3)], 0.02, 0.08))
    with b.at(0.4, 1.85):
        furniture.plant(
            b, rng, 1.35, tiles([(0.7, 0.3, 0.2), (0.85, 0.5, 0.3)], 0.06), (0.2, 0.5, 0.2), 22, 0.7
        )
    with b.at(0, 1.15, -90):
        furniture.picture(b, 0.6, 0.8, 1.75, artwork.lettering, (0.1, 0.1, 0.1))


def south_side(b: Builder) -> None:
    """Build desk with a screen, window with curtains over a radiator, crates."""
    rng = np.random.default_rng([b.seed, 12])
    with b.at(1.15, 0.36):
        furniture.table(b, 1.5, 0.68, 0.74, planks((0.75, 0.6, 0.4), 0.1), plain((0.15, 0.15, 0.18)))
        b.box(
            (-0.42, -0.2, 0.86),
            (0.32, -0.15, 1.3),
            plain((0.08, 0.08, 0.1)),
            {"+y": artwork.screen},
            furniture.FINE,
        )
        b.box((-0.12, -0.22, 0.74), (0.02, -0.14, 0.9), plain((0.2, 0.2, 0.22)))
        b.box(
            (-0.3, 0.05, 0.74),
            (0.15, 0.2, 0.76),
            tiles([(0.2, 0.2, 0.2), (0.5, 0.5, 0.5)], 0.02),
            ppm=furniture.FINE,
        )
        b.box(
            (-0.68, -0.25, 0), (-0.5, 0.2, 0.6), stripes([(0.3, 0.5, 0.45), (0.7, 0.75, 0.7)], 0.1, 0.2, True)
        )
        with b.at(0.4, -0.25, 0, 0.74):
            furniture.books(b, rng, 0.34, 0.3)
        with b.at(0.4, 0.15, 0, 0.74):
            b.cylinder(
                0.045,
                0,
                0.11,
                stripes([(0.9, 0.3, 0.2), (0.95, 0.9, 0.8)], 0.01, 0.03, True),
                ppm=furniture.FINE,
            )
    with b.at(1.25, 0.95, 168):
        furniture.chair(
            b, plaid((0.2, 0.3, 0.6), [(0.9, 0.8, 0.3), (0.7, 0.8, 0.9)], 0.06), wood((0.3, 0.2, 0.12), False)
        )
    furniture_window(b)
    for k, (x, y, size, z) in enumerate(
        (
            (4.85, 0.28, 0.5, 0.0),
            (5.4, 0.3, 0.44, 0.0),
            (4.95, 0.28, 0.38, 0.5),
            (5.38, 0.27, 0.34, 0.44),
            (4.92, 0.26, 0.26, 0.88),
        )
    ):
        with b.at(x, y, -8 + 5 * k, z):
            half = size / 2
            paint = artwork.label_box(((0.72, 0.55, 0.35), (0.3, 0.5, 0.65), (0.8, 0.7, 0.5))[k % 3])
            b.box((-half, -half * 0.9, 0), (half, half * 0.9, size * 0.96), paint)
    for x, width, height, z, art in (
        (0.45, 0.45, 0.6, 1.75, artwork.abstract),
        (1.25, 0.7, 0.5, 1.85, artwork.landscape),
        (4.95, 0.5, 0.65, 1.75, artwork.abstract),
        (5.75, 0.6, 0.8, 1.6, artwork.lettering),
    ):
        with b.at(x, 0):
            furniture.picture(b, width, height, z, art, random_colour(rng, 0.05, 0.5))


def furniture_window(b: Builder) -> None:
    """Build the bright window of the south wall, its curtains and the radiator below."""
    b.quad((4.35, 0.02, 2.2), (-1.7, 0, 0), (0, 0, -1.2), murals.window_view, furniture.FINE, emission=1.05)
    b.box((2.55, 0, 0.95), (4.45, 0.14, 1.0), plain((0.92, 0.92, 0.9)))
    b.box((2.2, 0.06, 2.28), (4.8, 0.1, 2.32), wood((0.35, 0.22, 0.12)))
    cloth = artwork.rug([(0.3, 0.2, 0.45), (0.75, 0.6, 0.8), (0.9, 0.8, 0.4), (0.5, 0.3, 0.6)])
    with b.at(2.2, 0):
        furniture.curtain(b, 0.45, 0.5, 2.28, cloth)
    with b.at(4.3, 0):
        furniture.curtain(
            b, 0.4, 0.5, 2.28, stripes([(0.8, 0.45, 0.2), (0.35, 0.2, 0.4), (0.9, 0.8, 0.5)], 0.03, 0.1)
        )
    for k in range(11):
        x = 2.8 + 0.12 * k
        b.box((x, 0.03, 0.15), (x + 0.08, 0.13, 0.8), plain((0.85, 0.85 - 0.02 * k, 0.8 - 0.03 * k)))
    with b.at(3.9, 0.07, 0, 1.0):
        furniture.vase(
            b, 0.06, 0.26, stripes([(0.1, 0.4, 0.5), (0.9, 0.9, 0.8), (0.8, 0.3, 0.2)], 0.01, 0.04, True)
        )


def east_side(b: Builder) -> None:
    """Build door, kitchen unit with tiles, hanging cupboards and a fridge."""
    rng = np.random.default_rng([b.seed, 13])
    with b.at(EXTENT[0], 0.55, 90):
        b.box((-0.08, 0, 0), (0.98, 0.04, 2.12), plain((0.9, 0.88, 0.82)))
        b.box((0, 0.04, 0), (0.9, 0.07, 2.04), planks((0.55, 0.2, 0.16), 0.3, True))
        b.box((0.78, 0.07, 1.0), (0.86, 0.12, 1.03), plain((0.85, 0.75, 0.4)))
        b.box((0.2, 0.07, 1.25), (0.7, 0.075, 1.8), artwork.lettering, ppm=furniture.FINE)
    doors: list[Paint] = [
        plain((0.25, 0.45, 0.42)),
        planks((0.7, 0.55, 0.35), 0.12, True),
        plain((0.85, 0.6, 0.25)),
        stripes([(0.8, 0.82, 0.8), (0.5, 0.6, 0.65)], 0.04, 0.12, True),
    ]
    splash = tiles(
        [(0.95, 0.93, 0.88), (0.2, 0.35, 0.6), (0.85, 0.7, 0.3), (0.6, 0.75, 0.8)], 0.11, ornament=0.6
    )
    with b.at(EXTENT[0], 1.95, 90):
        furniture.cupboard(b, 2.2, 0.56, 0.0, 0.86, plain((0.3, 0.3, 0.3)), doors)
        b.box((-0.02, 0, 0.86), (2.22, 0.6, 0.9), terrazzo((0.2, 0.2, 0.22), 0.04, 0.7))
        b.box((0, 0, 0.9), (2.2, 0.012, 1.5), splash)
        hanging: list[Paint] = [
            artwork.rug([(0.8, 0.3, 0.2), (0.95, 0.9, 0.8), (0.2, 0.3, 0.3)]),
            plain((0.9, 0.85, 0.6)),
            wood((0.5, 0.32, 0.2)),
        ]
        furniture.cupboard(b, 1.5, 0.3, 1.5, 2.15, plain((0.6, 0.5, 0.4)), hanging)
        with b.at(1.62, 0, 0, 1.62):
            b.box((0, 0, 0), (0.55, 0.2, 0.025), wood((0.55, 0.38, 0.2)))
            with b.at(0, -0.03, 0, 0.025):
                furniture.things(b, rng, 0.55, 0.3)
        b.box(
            (1.35, 0.1, 0.9),
            (1.8, 0.45, 1.17),
            plain((0.7, 0.7, 0.72)),
            {"+y": artwork.framed(artwork.screen, (0.2, 0.2, 0.2))},
        )
        with b.at(0.05, 0.1, 0, 0.9):
            furniture.things(b, rng, 1.2, 0.36)
    with b.at(EXTENT[0], 4.3, 90):
        b.box(
            (0, 0, 0),
            (0.68, 0.62, 1.75),
            plain((0.75, 0.2, 0.18)),
            {"+y": artwork.framed(artwork.abstract, (0.8, 0.22, 0.2))},
        )
        b.box((0.05, 0.62, 1.05), (0.08, 0.66, 1.5), plain((0.8, 0.8, 0.8)))
    with b.at(EXTENT[0], 1.7, 90):
        b.box((-0.02, 0, 1.7), (0.2, 0.03, 2.3), artwork.lettering, ppm=furniture.FINE)


def north_side(b: Builder) -> None:
    """Build bookcase, chimney, sideboard under a large painting, clock."""
    rng = np.random.default_rng([b.seed, 14])
    with b.at(2.5, EXTENT[1], 180):
        furniture.shelf(b, rng, 1.75, 2.05, 5, wood((0.42, 0.27, 0.16), False), plain((0.75, 0.7, 0.55)))
    with b.at(3.3, EXTENT[1], 180):
        furniture.fireplace(b)
        with b.at(-0.4, 0.3, 0, 1.06):
            furniture.vase(b, 0.06, 0.3, terrazzo((0.2, 0.3, 0.6), 0.04))
        with b.at(0, 0.3):
            b.box(
                (-0.2, 0, 1.5),
                (0.2, 0.03, 1.9),
                plain((0.2, 0.2, 0.3)),
                {"+y": artwork.clock_face},
                furniture.FINE,
            )
    with b.at(5.45, EXTENT[1], 180):
        doors: list[Paint] = [
            stripes([(0.2, 0.25, 0.5), (0.85, 0.85, 0.8), (0.8, 0.5, 0.2)], 0.02, 0.1),
            wood((0.65, 0.45, 0.25)),
            artwork.abstract,
        ]
        furniture.cupboard(b, 1.45, 0.42, 0.08, 0.75, wood((0.3, 0.2, 0.14)), doors)
        with b.at(0.05, 0.08, 0, 0.75):
            furniture.things(b, rng, 1.3, 0.36)
        with b.at(0.7, 0):
            furniture.picture(b, 1.25, 0.8, 1.8, artwork.abstract, (0.7, 0.55, 0.2))
    with b.at(5.95, 5.15):
        furniture.plant(
            b,
            rng,
            1.8,
            stripes([(0.15, 0.2, 0.3), (0.8, 0.8, 0.75)], 0.03, 0.08, True),
            (0.45, 0.55, 0.15),
            16,
            0.2,
        )


def middle(b: Builder) -> None:
    """Build dining table with chairs, coffee table, hanging lamps."""
    rng = np.random.default_rng([b.seed, 15])
    seats = (
        ((3.4, 2.95), -82.0, (0.8, 0.3, 0.2)),
        ((4.27, 2.75), 97.0, (0.25, 0.55, 0.35)),
        ((3.95, 2.5), 8.0, (0.85, 0.7, 0.2)),
    )
    with b.at(3.85, 2.9, 6):
        furniture.table(
            b,
            0.85,
            0.85,
            0.75,
            tiles([(0.8, 0.65, 0.45), (0.55, 0.38, 0.25), (0.3, 0.2, 0.15)], 0.1),
            wood((0.4, 0.26, 0.15), False),
        )
        with b.at(-0.2, 0.1, 0, 0.75):
            furniture.vase(b, 0.07, 0.25, stripes([(0.9, 0.9, 0.85), (0.2, 0.3, 0.7)], 0.01, 0.04, True))
        with b.at(0.22, 0.15, 20, 0.75):
            b.box((-0.12, -0.09, 0), (0.12, 0.09, 0.05), artwork.abstract, ppm=furniture.FINE)
        with b.at(0.1, -0.2, 0, 0.75):
            b.sphere(0.06, 0.06, terrazzo((0.9, 0.5, 0.1), 0.03))
    for (x, y), yaw, colour in seats:
        with b.at(x, y, yaw):
            furniture.chair(b, terrazzo(colour, 0.07), wood((0.35, 0.22, 0.12), False))
    with b.at(1.45, 3.3, 90):
        furniture.table(b, 0.95, 0.5, 0.42, terrazzo((0.85, 0.82, 0.75), 0.12), plain((0.1, 0.1, 0.1)))
        with b.at(-0.3, -0.12, 0, 0.42):
            furniture.things(b, rng, 0.6, 0.25)
    for x, y, drop, colour in ((3.85, 2.9, 0.5, (1.0, 0.75, 0.4)), (1.6, 3.6, 0.32, (0.7, 0.95, 0.85))):
        with b.at(x, y):
            furniture.hanging_lamp(b, EXTENT[2], drop, 0.24, stripes([colour, (1.0, 0.95, 0.85)], 0.02, 0.09))
