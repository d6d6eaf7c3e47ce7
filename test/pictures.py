"""What is asked of pictures that were drawn."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np


def colors(path: Path) -> int:
    """How many colours a picture has."""
    blue, green, red = np.moveaxis(cv2.imread(str(path)).astype(np.uint32), -1, 0)
    return len(np.unique(blue << 16 | green << 8 | red))
