"""What a cheap camera does to a clean image: motion blur, exposure and white-balance drift, noise."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from structpose_ros.camera import Camera

from .baking import FloatArray
from .surfaces import Array

SHUTTER_S = 0.008
NOISE = 2.8  # standard deviation in grey values of 255, at mid brightness


class Sensor:
    """The effects of one tour; a frame's noise depends on its number alone, never on the order of work."""

    def __init__(self, camera: Camera, seed: int, tour_number: int) -> None:
        self.camera = camera
        self._key = (seed, 70, tour_number)
        rng = np.random.default_rng(self._key)
        self._gain_phase = rng.uniform(0, 2 * np.pi, 3)
        self._gain_period = rng.uniform((23, 9, 4), (41, 17, 7))
        self._white_phase = rng.uniform(0, 2 * np.pi, 2)
        self._white_period = rng.uniform(20, 45, 2)
        u, v = np.meshgrid(np.linspace(-1, 1, camera.width), np.linspace(-1, 1, camera.height))
        self._vignette = (1 - 0.06 * (u**2 + v**2)).astype(np.float32)[..., None]

    def gains(self, seconds: float, brightness: float) -> FloatArray:
        """Return factors (3,) of R, G, B: slow drift within ±20 %, partly against the brightness."""
        waves = np.sin(2 * np.pi * seconds / self._gain_period + self._gain_phase)
        drift = 1.0 + float(waves @ np.array([0.07, 0.04, 0.02]))
        exposure = drift * float(np.clip(105.0 / max(brightness, 1.0), 0.6, 1.6)) ** 0.25
        red, blue = 0.025 * np.sin(2 * np.pi * seconds / self._white_period + self._white_phase)
        return np.asarray(np.clip(exposure, 0.8, 1.2) * np.array([1 + red, 1.0, 1 + blue]), np.float32)

    def expose(
        self, clean: FloatArray, frame: int, seconds: float, angular_velocity: Array
    ) -> NDArray[np.uint8]:
        """Return the 8-bit RGB image (H, W, 3) of a clean one (0..255), taken while turning (rad/s)."""
        blurred = self._motion_blur(clean, angular_velocity)
        image = blurred * (self._vignette * self.gains(seconds, float(blurred.mean())))
        rng = np.random.default_rng([*self._key, frame])
        grain = rng.standard_normal(image.shape, dtype=np.float32)
        image += grain * (NOISE * np.sqrt(0.4 + 0.6 * image / 128.0))
        return np.clip(np.rint(image), 0, 255).astype(np.uint8)

    def _motion_blur(self, image: FloatArray, angular_velocity: Array) -> FloatArray:
        # Turning about y moves the picture along u, turning about x along v; roll is too slow to matter.
        shift_u = -self.camera.fx * angular_velocity[1] * SHUTTER_S
        shift_v = self.camera.fy * angular_velocity[0] * SHUTTER_S
        length = float(np.hypot(shift_u, shift_v))
        if length < 0.3:
            return image
        radius = int(np.ceil(length / 2)) + 1
        kernel = np.zeros((2 * radius + 1, 2 * radius + 1), np.float32)
        for along in np.linspace(-0.5, 0.5, 4 * radius + 1):
            x, y = radius + along * shift_u, radius + along * shift_v
            i, j = int(y), int(x)
            a, b = y - i, x - j
            kernel[i : i + 2, j : j + 2] += np.array([[(1 - a) * (1 - b), (1 - a) * b], [a * (1 - b), a * b]])
        return np.asarray(cv2.filter2D(image, -1, kernel / kernel.sum(), borderType=cv2.BORDER_REPLICATE))
