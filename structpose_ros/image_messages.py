"""Image messages to RGB."""

from __future__ import annotations

import cv2
import numpy as np
from sensor_msgs.msg import CompressedImage

from structpose_ros.messages import ImageMessageError, ImageRgb, image_rgb_from_message

__all__ = ["ImageMessageError", "image_rgb_from_compressed", "image_rgb_from_message"]


def image_rgb_from_compressed(message: CompressedImage) -> ImageRgb:
    """Return the image (H, W, 3) as RGB.

    Raises:
        ImageMessageError: it can't be decoded.
    """
    data = np.frombuffer(message.data, np.uint8)
    image = cv2.imdecode(data, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION) if len(data) else None
    if image is None:
        raise ImageMessageError(f"expected an image that can be decoded, got {len(data)} bytes")
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), dtype=np.uint8)
