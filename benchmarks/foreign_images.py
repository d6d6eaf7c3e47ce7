"""Write images that are no view of a map, for `structpose evaluate --foreign`.

`python -m benchmarks.foreign_images OUT --recording DIR ...`: textures, noise, the photographs of
scikit-image where it is installed, and frames of recordings of other places. The same images every time.
"""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path

import cv2
import numpy as np

from structpose_ros.training.corruptions import foreign_images
from structpose_ros.training.frames import open_recording, read_color

WIDTH, HEIGHT = 640, 480


def write_foreign_images(out: Path, count: int, recordings: list[Path], frames: int) -> Counter[str]:
    """Write `count` images, and `frames` of each recording's test split; returns how many of what."""
    out.mkdir(parents=True, exist_ok=True)
    kinds: Counter[str] = Counter()
    for number, (kind, image) in enumerate(foreign_images(WIDTH, HEIGHT, count, np.random.default_rng(0))):
        _write(out / f"{number:05d}-{kind.replace(':', '-')}.jpg", image)
        kinds[kind.partition(":")[0]] += 1
    for root in recordings:
        files, _ = open_recording(root).files("test")
        chosen = np.linspace(0, len(files) - 1, min(frames, len(files))).astype(int)
        for index in chosen.tolist():
            image = read_color(files[index].color)
            _write(out / f"{root.name}-{index:05d}.jpg", cv2.resize(image, (WIDTH, HEIGHT)))
            kinds[root.name] += 1
    return kinds


def _write(path: Path, image: np.ndarray) -> None:
    if not cv2.imwrite(str(path), cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 95]):
        raise OSError(f"could not write {path}")


def main() -> None:
    """Write the images and say what they are."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--count", type=int, default=1000, help="textures, noise and photographs (1000)")
    parser.add_argument("--recording", type=Path, nargs="*", default=[], help="other places")
    parser.add_argument("--frames", type=int, default=300, help="of each recording's test split (300)")
    arguments = parser.parse_args()
    kinds = write_foreign_images(arguments.out, arguments.count, arguments.recording, arguments.frames)
    print(", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items())))


if __name__ == "__main__":
    main()
