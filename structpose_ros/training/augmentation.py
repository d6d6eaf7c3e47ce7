"""Views that were not recorded: the camera turned about its centre, moved along its axis, and other light.

paper: silent on augmentation; here: a turn is exact (a homography, no parallax), a change of scale stands for
a step along the optical axis (magnified by s, things look s times nearer), and the rest is photometric.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from structpose_ros.camera import Camera
from structpose_ros.geometry import rotation_from_vector
from structpose_ros.training.config import AugmentationConfig

NO_AUGMENTATION = AugmentationConfig(
    photometric=False, roll_degrees=0.0, tilt_degrees=0.0, scale_low=1.0, scale_high=1.0
)


@dataclass(frozen=True)
class View:
    """A turned and scaled view of a frame.

    camera_from_view: (3, 3) rotation from the new camera's frame into the recorded one's.
    scale: magnification; 1 keeps the geometry rigid.
    """

    camera_from_view: npt.NDArray[np.float64]
    scale: float

    def camera_rays(self, view_rays: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Return the rays (..., 3), z = 1, recorded camera frame, of the view's rays (..., 3).

        A ray that points behind the recorded camera gets NaN: scaled to z = 1 it would point the other way.
        """
        scaled = view_rays * [1.0 / self.scale, 1.0 / self.scale, 1.0]
        turned = scaled @ self.camera_from_view.T
        z = turned[..., 2:3]
        return np.asarray(turned / np.where(z > 0, z, np.nan))

    def view_depth(
        self, depth: npt.NDArray[np.floating], camera_rays: npt.NDArray[np.float64]
    ) -> npt.NDArray[np.float64]:
        """Return the depth (...) in the view of the points `depth * camera_rays` of the recorded camera.

        No depth, which is 0, stays 0, also where the ray is NaN.
        """
        z_in_view = (camera_rays @ self.camera_from_view)[..., 2] * depth
        return np.where(depth > 0, z_in_view / self.scale, 0.0)

    def warp(self, image_rgb: npt.NDArray[np.uint8], camera: Camera) -> npt.NDArray[np.uint8]:
        """Return the image (H, W, 3) that the view sees; beyond the recorded image it is mirrored."""
        if not camera.is_pinhole:
            pixels = np.nan_to_num(camera.project(self.camera_rays(_pixel_rays(camera))), nan=-1.0)
            x, y = np.clip(pixels, -1e4, 1e4).astype(np.float32).transpose(2, 0, 1)
            remapped = cv2.remap(image_rgb, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
            return np.asarray(remapped, dtype=np.uint8)
        zoom = np.diag([1.0 / self.scale, 1.0 / self.scale, 1.0])
        source_from_target = camera.matrix @ self.camera_from_view @ zoom @ np.linalg.inv(camera.matrix)
        warped = cv2.warpPerspective(
            image_rgb,
            source_from_target,
            (camera.width, camera.height),
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_REFLECT_101,
        )
        return np.asarray(warped, dtype=np.uint8)


@functools.lru_cache(maxsize=2)
def _pixel_rays(camera: Camera) -> npt.NDArray[np.float64]:
    """Return the rays of every pixel: undistorting them takes four times as long as the rest of a warp."""
    rays = camera.ray_grid()
    rays.flags.writeable = False
    return rays


IDENTITY_VIEW = View(np.eye(3), 1.0)


def random_view(
    random: np.random.Generator, roll_degrees: float, tilt_degrees: float, scale: tuple[float, float]
) -> View:
    """Draw a view: roll about the optical axis, tilt about the other two, log-uniform scale."""
    tilt_x, tilt_y = np.deg2rad(random.uniform(-tilt_degrees, tilt_degrees, size=2))
    roll = np.deg2rad(random.uniform(-roll_degrees, roll_degrees))
    low, high = np.log(scale)
    rotation = rotation_from_vector([tilt_x, tilt_y, 0.0]) @ rotation_from_vector([0.0, 0.0, roll])
    return View(rotation, float(np.exp(random.uniform(low, high))))


def photometric(image_rgb: npt.NDArray[np.uint8], random: np.random.Generator) -> npt.NDArray[np.uint8]:
    """Change exposure, contrast, gamma, colour balance and saturation; sometimes blur; add noise."""
    levels = np.arange(256, dtype=np.float64) / 255.0
    gain = random.uniform(0.7, 1.3) * random.uniform(0.92, 1.08, size=3)
    curve = np.clip(levels[:, None] * gain, 0.0, None) ** random.uniform(0.8, 1.25)
    curve = 0.5 + (curve - 0.5) * random.uniform(0.8, 1.2)
    table = np.clip(curve * 255.0, 0, 255).astype(np.uint8).reshape(1, 256, 3)
    image = cv2.LUT(image_rgb, table)
    grey = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    saturation = random.uniform(0.6, 1.4)
    image = cv2.addWeighted(image, saturation, grey, 1.0 - saturation, 0.0)
    if random.random() < 0.3:
        image = cv2.GaussianBlur(image, (0, 0), random.uniform(0.4, 1.2))
    noise = random.integers(-8, 9, size=image.shape, dtype=np.int16)
    strength = random.uniform(0.0, 1.0)
    noisy = image.astype(np.int16) + (noise * strength).astype(np.int16)
    return np.clip(noisy, 0, 255).astype(np.uint8)
