"""Localise the same images again and again: every answer must be the same, bit for bit.

`python -m benchmarks.same_bits MODEL --data DIR` prints a digest of all poses, covariances and confidences of
the first round, after it has compared the other rounds with it. Run it twice: processes must agree as well.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from pathlib import Path

import numpy as np

from structpose_ros.camera import Camera
from structpose_ros.network import OnnxNetwork
from structpose_ros.relocalizer import Relocalizer
from structpose_ros.training.frames import open_recording


def round_of(relocalizer: Relocalizer, images: list[np.ndarray], camera: Camera) -> bytes:
    """Return every number that a round over the images gave."""
    parts = []
    for image in images:
        result = relocalizer.localize(image, camera)
        parts.append(np.float64(result.decision.confidence).tobytes())
        if result.estimate is not None and result.covariance is not None:
            parts += [result.estimate.map_from_camera.tobytes(), result.covariance.tobytes()]
    return b"".join(parts)


def main() -> int:
    """Compare the rounds; 1 where one differs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--images", type=int, default=4, help="of the test split, evenly over it (4)")
    parser.add_argument("--rounds", type=int, default=1000)
    arguments = parser.parse_args()
    recording = open_recording(arguments.data)
    files, _ = recording.files("test")
    chosen = np.linspace(0, len(files) - 1, arguments.images).astype(int)
    images = [recording.read(files[index]).image_rgb for index in chosen.tolist()]
    relocalizer = Relocalizer(OnnxNetwork(arguments.model, "cpu"))
    first = round_of(relocalizer, images, recording.camera)
    different = sum(
        round_of(relocalizer, images, recording.camera) != first for _ in range(arguments.rounds - 1)
    )
    digest = hashlib.sha256(first).hexdigest()
    print(f"{arguments.rounds} rounds of {len(images)} images, {different} unlike the first; sha256 {digest}")
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
