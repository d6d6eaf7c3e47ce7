"""Images that are no view of the map: spoilt frames, textures, photographs of other things.

What a robot's camera shows when it is covered, out of focus or somewhere else. A confidence is fitted and
judged with them: no pose that comes of such an image may be accepted. The same generator state gives the same
image.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from structpose_ros.training.synthetic import textures

Image = npt.NDArray[np.uint8]

TILE_COLUMNS, TILE_ROWS = 8, 6  # of a shuffled frame


def corrupt(image_rgb: Image, kind: str, random: np.random.Generator) -> Image:
    """Return `image_rgb` (H, W, 3) spoilt, of the same shape.

    kind: of `KINDS`. `covered`: a lens behind a finger, cloth or cap. `blurred`: out of focus by a sigma of
    at least 12 px of 640. `mirrored`: left to right. `quarter_turn`: by 90 degrees either way, its middle
    enlarged to the frame's shape. `half_turn`: by 180 degrees; geometrically a view of a camera hung upside
    down, but far beyond the roll that networks are trained on. `shuffled`: cut into 8 x 6 tiles.

    Raises:
        ValueError: another kind, or an image that is no (H, W, 3) of 8 bits and at least 8 x 6 px.
    """
    if kind not in _CORRUPTIONS:
        raise ValueError(f"expected a kind of {', '.join(KINDS)}, got '{kind}'")
    height, width = image_rgb.shape[:2] if image_rgb.ndim == 3 else (0, 0)
    if (
        image_rgb.dtype != np.uint8
        or image_rgb.shape[2:] != (3,)
        or height < TILE_ROWS
        or width < TILE_COLUMNS
    ):
        raise ValueError(
            f"expected an image (H, W, 3) of 8 bits and at least {TILE_COLUMNS}x{TILE_ROWS} px, "
            f"got {image_rgb.shape} of {image_rgb.dtype}"
        )
    return np.ascontiguousarray(_CORRUPTIONS[kind](image_rgb, random))


def texture(kind: str, size: tuple[int, int], random: np.random.Generator) -> Image:
    """Return an image (H, W, 3) of `size` (W, H) that shows a pattern of a `kind` of `TEXTURES`.

    Raises:
        ValueError: another kind.
    """
    if kind not in _TEXTURES:
        raise ValueError(f"expected a texture of {', '.join(TEXTURES)}, got '{kind}'")
    width, height = size
    return _bytes(_TEXTURES[kind](width, height, random))


def foreign_images(
    width: int, height: int, count: int, random: np.random.Generator
) -> Iterator[tuple[str, Image]]:
    """Yield `count` images (height, width, 3) and what each shows, every kind in turn.

    `texture:KIND` for each of `TEXTURES`, then `photograph:NAME`, a random part of each photograph that comes
    with scikit-image, where that is installed. Nothing is downloaded.
    """
    sources: list[str | Path] = [*TEXTURES, *photographs()]
    for number in range(count):
        source = sources[number % len(sources)]
        if isinstance(source, Path):
            yield f"photograph:{source.stem}", _part_of(_read(source), width, height, random)
        else:
            yield f"texture:{source}", texture(source, (width, height), random)


def photographs() -> list[Path]:
    """Return the image files that the installed scikit-image brings along, if any."""
    found = importlib.util.find_spec("skimage")
    if found is None or found.origin is None:
        return []
    paths = (Path(found.origin).parent / "data" / name for name in _PHOTOGRAPHS)
    return [path for path in paths if path.is_file()]  # releases differ in what they bring


# Photographs through lenses, microscopes and telescopes, a colour wheel and handwriting, by file name.
_PHOTOGRAPHS = (
    *(
        "astronaut.png",
        "brick.png",
        "camera.png",
        "cell.png",
        "chelsea.png",
        "clock_motion.png",
        "coffee.png",
    ),
    *("coins.png", "color.png", "grass.png", "gravel.png", "hubble_deep_field.jpg", "ihc.png", "moon.png"),
    *("motorcycle_left.png", "retina.jpg", "rocket.jpg", "text.png"),
)


def _read(path: Path) -> Image:
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if image is None:
        raise OSError(f"expected an image at {path}, got a file that OpenCV can't read")
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), dtype=np.uint8)


def _part_of(image_rgb: Image, width: int, height: int, random: np.random.Generator) -> Image:
    """Return a random part, of 40 % of the image's extent or more, at size; sometimes mirrored."""
    across, down = image_rgb.shape[1], image_rgb.shape[0]
    scale = min(across / width, down / height) * random.uniform(0.4, 1.0)
    w, h = max(1, int(scale * width)), max(1, int(scale * height))
    left, top = int(random.integers(across - w + 1)), int(random.integers(down - h + 1))
    part = image_rgb[top : top + h, left : left + w]
    return _resized(part[:, ::-1] if random.random() < 0.5 else part, width, height)


def _resized(image_rgb: Image, width: int, height: int) -> Image:
    way = cv2.INTER_AREA if image_rgb.shape[1] > width else cv2.INTER_LINEAR
    resized = cv2.resize(np.ascontiguousarray(image_rgb), (width, height), interpolation=way)
    return np.asarray(resized, dtype=np.uint8)


def _bytes(image: npt.NDArray[np.floating]) -> Image:
    """Return (H, W, 3) of 0 .. 1 as 8 bits."""
    return np.clip(np.rint(255.0 * image), 0, 255).astype(np.uint8)


def _covered(image_rgb: Image, random: np.random.Generator) -> Image:
    height, width = image_rgb.shape[:2]
    colour = random.uniform(0.0, 0.1) * np.ones(3)
    if random.random() < 0.5:
        colour = np.array(textures.random_colour(random, 0.05, 0.9))
    across, down = _grid(width, height)
    centre = random.uniform(-0.3, 0.3, size=2)
    distance = np.hypot(across / width - 0.5 - centre[0], down / height - 0.5 - centre[1])
    light = 1.0 - random.uniform(0.2, 0.9) * np.clip(distance, 0.0, 1.0)
    light += 0.03 * textures.noise(random, height, width, height / 3, width / 3, 2)
    grain = random.uniform(0.002, 0.03) * random.standard_normal((height, width, 3))
    return _bytes(colour * light[..., None] + grain)


def _blurred(image_rgb: Image, random: np.random.Generator) -> Image:
    sigma = random.uniform(12.0, 30.0) * image_rgb.shape[1] / 640.0
    return np.asarray(cv2.GaussianBlur(image_rgb, (0, 0), sigma), dtype=np.uint8)


def _mirrored(image_rgb: Image, random: np.random.Generator) -> Image:
    return image_rgb[:, ::-1]


def _quarter_turn(image_rgb: Image, random: np.random.Generator) -> Image:
    height, width = image_rgb.shape[:2]
    turned = np.rot90(image_rgb, 1 if random.random() < 0.5 else -1)  # (width, height, 3)
    scale = min(height / width, width / height)
    w, h = max(1, round(scale * width)), max(1, round(scale * height))
    left, top = (height - w) // 2, (width - h) // 2
    return _resized(turned[top : top + h, left : left + w], width, height)


def _half_turn(image_rgb: Image, random: np.random.Generator) -> Image:
    return image_rgb[::-1, ::-1]


def _shuffled(image_rgb: Image, random: np.random.Generator) -> Image:
    """Tiles of equal size; what 8 x 6 does not divide is cut off, and the image stretched over it."""
    height, width = image_rgb.shape[:2]
    h, w = height // TILE_ROWS, width // TILE_COLUMNS
    whole = image_rgb[: h * TILE_ROWS, : w * TILE_COLUMNS]
    tiles = whole.reshape(TILE_ROWS, h, TILE_COLUMNS, w, 3).swapaxes(1, 2).reshape(-1, h, w, 3)
    moved = tiles[random.permutation(len(tiles))].reshape(TILE_ROWS, TILE_COLUMNS, h, w, 3).swapaxes(1, 2)
    return _resized(moved.reshape(whole.shape), width, height)


def _grid(width: int, height: int) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Pixel coordinates across (1, W) and down (H, 1)."""
    return np.arange(width, dtype=np.float64)[None], np.arange(height, dtype=np.float64)[:, None]


def _turned_grid(
    width: int, height: int, random: np.random.Generator
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Coordinates (H, W) along two perpendicular directions, a random angle from the image's."""
    across, down = _grid(width, height)
    angle = random.uniform(0.0, np.pi)
    return np.cos(angle) * across + np.sin(angle) * down, np.cos(angle) * down - np.sin(angle) * across


def _between(share: npt.NDArray[np.floating], random: np.random.Generator) -> npt.NDArray[np.float64]:
    """Blend (H, W) of 0 .. 1 between a dark and a bright random colour."""
    dark = np.array(textures.random_colour(random, 0.05, 0.4))
    bright = np.array(textures.random_colour(random, 0.5, 0.95))
    return dark + share[..., None] * (bright - dark)


def _noise(width: int, height: int, random: np.random.Generator) -> npt.NDArray[np.float64]:
    """Independent values, in grey or colour, in grains of 1 to 8 px."""
    grain, channels = int(random.integers(1, 9)), int(random.choice([1, 3]))
    values = random.random((-(-height // grain), -(-width // grain), channels))
    image = values.repeat(grain, axis=0).repeat(grain, axis=1)[:height, :width]
    return np.broadcast_to(image, (height, width, 3))


def _gratings(width: int, height: int, random: np.random.Generator) -> npt.NDArray[np.float64]:
    """Up to three sine waves across one another."""
    waves = [
        np.sin(2.0 * np.pi * _turned_grid(width, height, random)[0] / (width * random.uniform(0.015, 0.3)))
        for _ in range(int(random.integers(1, 4)))
    ]
    return _between(0.5 + 0.5 * np.mean(waves, axis=0), random)


def _checkerboard(width: int, height: int, random: np.random.Generator) -> npt.NDArray[np.float64]:
    along, beside = _turned_grid(width, height, random)
    side = width * random.uniform(0.02, 0.2)
    return _between((np.floor(along / side) + np.floor(beside / side)) % 2.0, random)


def _clouds(width: int, height: int, random: np.random.Generator) -> npt.NDArray[np.float64]:
    """Smooth noise of several octaves (Perlin), a pattern of its own in each channel or one for all."""
    cell, channels = width * random.uniform(0.1, 0.6), int(random.choice([1, 3]))
    values = [textures.noise(random, height, width, cell, cell, 6) for _ in range(channels)]
    share = np.clip(0.5 + 0.3 * np.stack(values, axis=-1), 0.0, 1.0)
    return _between(share[..., 0], random) if channels == 1 else share.astype(np.float64)


def _bricks(width: int, height: int, random: np.random.Generator) -> npt.NDArray[np.float64]:
    colours = [textures.random_colour(random) for _ in range(int(random.integers(1, 5)))]
    texels_per_metre = max(width * random.uniform(0.3, 1.5), 15.0)  # from a wall of 3 m to one of 0.7 m
    paint = textures.bricks(colours, textures.random_colour(random))
    return paint(random, height, width, texels_per_metre).astype(np.float64)


_CORRUPTIONS: dict[str, Callable[[Image, np.random.Generator], Image]] = {
    "covered": _covered,
    "blurred": _blurred,
    "mirrored": _mirrored,
    "quarter_turn": _quarter_turn,
    "half_turn": _half_turn,
    "shuffled": _shuffled,
}
KINDS = tuple(_CORRUPTIONS)
_TEXTURES: dict[str, Callable[[int, int, np.random.Generator], npt.NDArray[np.float64]]] = {
    "noise": _noise,
    "gratings": _gratings,
    "checkerboard": _checkerboard,
    "clouds": _clouds,
    "bricks": _bricks,
}
TEXTURES = tuple(_TEXTURES)
