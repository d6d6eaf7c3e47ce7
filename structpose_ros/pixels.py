"""From an image's bytes to the numbers that a network takes."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]


def scaled_planes(image: npt.NDArray[np.uint8], scale: Floats, shift: Floats, out: Floats) -> None:
    """Write each channel of an image (H, W, 3) times its scale plus its shift into `out` (3, H, W).

    scale, shift: (3,).

    Raises:
        ValueError: `out` is of another shape.
    """
    if out.shape != (image.shape[2], *image.shape[:2]):
        raise ValueError(f"expected planes (3, {image.shape[0]}, {image.shape[1]}), got {out.shape}")
    # Scaled and shifted on the way from bytes to numbers; NumPy takes a pass for each, over numbers.
    for channel, plane in enumerate(cv2.split(image)):
        factor, term = float(scale[channel]), float(shift[channel])
        cv2.addWeighted(plane, factor, plane, 0.0, term, out[channel], cv2.CV_32F)
