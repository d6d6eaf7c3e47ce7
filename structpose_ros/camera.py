"""Camera model: intrinsics, the three distortion models of CameraInfo, resizing, cropping and rays.

One pixel convention everywhere: the centre of the first pixel is (0, 0), so an image of width w covers
-0.5 .. w - 0.5. Resizing by s maps a coordinate c to (c + 0.5) s - 0.5.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import cv2
import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
ImageRgb = npt.NDArray[np.uint8]

# Number of coefficients that each model may have; an empty list means no distortion (sensor_msgs/CameraInfo).
COEFFICIENTS = {"plumb_bob": (0, 4, 5), "rational_polynomial": (0, 8), "equidistant": (0, 4)}
_NEWTON_STEPS = 30
_CONVERGED = 1e-10  # normalised image coordinates; 1e-10 is below 1e-7 px for any real lens


class CameraError(ValueError):
    """A calibration that can't be used; the message says what was expected and what came."""


@dataclass(frozen=True)
class Camera:
    """Intrinsics in pixels (integer pixel centres) and lens distortion, as in sensor_msgs/CameraInfo (REP 104).

    `distortion` holds k1 k2 p1 p2 [k3] (plumb_bob), k1 k2 p1 p2 k3 k4 k5 k6 (rational_polynomial) or
    k1 k2 k3 k4 (equidistant, the Kannala-Brandt fisheye).

    Raises:
        CameraError: a size, focal length or coefficient is not usable.
    """

    width: int
    height: int
    fx: float
    fy: float
    cx: float
    cy: float
    distortion_model: str = "plumb_bob"
    distortion: tuple[float, ...] = field(default=())

    def __post_init__(self) -> None:
        if self.width < 1 or self.height < 1:
            raise CameraError(f"expected an image size of at least 1x1, got {self.width}x{self.height}")
        if not all(math.isfinite(value) for value in (self.fx, self.fy, self.cx, self.cy)):
            raise CameraError(
                f"expected finite intrinsics, got fx={self.fx} fy={self.fy} cx={self.cx} cy={self.cy}"
            )
        if self.fx <= 0 or self.fy <= 0:
            raise CameraError(
                f"expected focal lengths above 0 px, got fx={self.fx} fy={self.fy} (is the camera calibrated?)"
            )
        counts = COEFFICIENTS.get(self.distortion_model)
        if counts is None:
            raise CameraError(
                f"expected a distortion model of {', '.join(COEFFICIENTS)}, got '{self.distortion_model}'"
            )
        if len(self.distortion) not in counts:
            raise CameraError(
                f"expected {' or '.join(map(str, counts))} coefficients for {self.distortion_model}, "
                f"got {len(self.distortion)}"
            )
        if not all(math.isfinite(value) for value in self.distortion):
            raise CameraError(f"expected finite distortion coefficients, got {list(self.distortion)}")

    @property
    def matrix(self) -> Array:
        """K, (3, 3), pixels."""
        return np.array([[self.fx, 0.0, self.cx], [0.0, self.fy, self.cy], [0.0, 0.0, 1.0]])

    def resized(self, width: int, height: int) -> Camera:
        """Return the camera of this image resized to `width` x `height`; x and y may scale differently."""
        sx, sy = width / self.width, height / self.height
        return replace(
            self,
            width=width,
            height=height,
            fx=self.fx * sx,
            fy=self.fy * sy,
            cx=(self.cx + 0.5) * sx - 0.5,
            cy=(self.cy + 0.5) * sy - 0.5,
        )

    def cropped(self, left: int, top: int, width: int, height: int) -> Camera:
        """Return the camera of the sub-image that begins at pixel (left, top)."""
        if left < 0 or top < 0 or left + width > self.width or top + height > self.height:
            raise CameraError(
                f"expected a crop inside {self.width}x{self.height}, got {width}x{height} at ({left}, {top})"
            )
        return replace(self, width=width, height=height, cx=self.cx - left, cy=self.cy - top)

    def project(self, points_in_camera: npt.NDArray[np.floating]) -> Array:
        """Return pixel coordinates (..., 2) of points (..., 3) in metres, camera frame, z > 0."""
        normalized = points_in_camera[..., :2] / points_in_camera[..., 2:3]
        distorted = self._distort(np.asarray(normalized, dtype=np.float64))
        return np.asarray(distorted * [self.fx, self.fy] + [self.cx, self.cy])

    def rays(self, pixels: npt.NDArray[np.floating]) -> Array:
        """Return the rays (..., 3) with z = 1, camera frame, through pixel coordinates (..., 2).

        A pixel that no ray in front of the camera reaches (outside the lens model's invertible range) gets NaN.
        """
        distorted = (np.asarray(pixels, dtype=np.float64) - [self.cx, self.cy]) / [self.fx, self.fy]
        normalized = self._undistort(distorted)
        return np.concatenate([normalized, np.ones_like(normalized[..., :1])], axis=-1)

    def ray_grid(self, stride: int = 1) -> Array:
        """Return the rays (h, w, 3) through the cell centres of a grid with `stride` pixels per cell.

        Cell i covers pixels stride*i .. stride*i + stride - 1, so its centre is stride*i + (stride - 1)/2.
        """
        columns = np.arange(self.width // stride) * stride + (stride - 1) / 2
        rows = np.arange(self.height // stride) * stride + (stride - 1) / 2
        return self.rays(np.stack(np.meshgrid(columns, rows), axis=-1))

    def _distort(self, normalized: Array) -> Array:
        if not any(self.distortion):
            return normalized
        if self.distortion_model == "equidistant":
            radius = np.linalg.norm(normalized, axis=-1, keepdims=True)
            angle = np.arctan(radius)
            scale = np.where(radius > 1e-12, _fisheye_radius(angle, self.distortion) / np.maximum(radius, 1e-12), 1.0)
            return np.asarray(normalized * scale)
        return _brown_conrady(normalized, _padded(self.distortion))[0]

    def _undistort(self, distorted: Array) -> Array:
        if not any(self.distortion):
            return distorted
        if self.distortion_model == "equidistant":
            return _invert_fisheye(distorted, self.distortion)
        return _invert_brown_conrady(distorted, _padded(self.distortion))


def resize_image(image: ImageRgb, camera: Camera, width: int, height: int) -> tuple[ImageRgb, Camera]:
    """Return the image (height, width, ...) resized, and the camera that belongs to it.

    Shrinking averages over the area a new pixel covers (no aliasing); enlarging interpolates linearly. Training
    and runtime both come through here.
    """
    if image.shape[:2] != (camera.height, camera.width):
        raise CameraError(
            f"expected an image of {camera.width}x{camera.height} as its camera says, "
            f"got {image.shape[1]}x{image.shape[0]}"
        )
    if (width, height) == (camera.width, camera.height):
        return image, camera
    shrinks = width <= camera.width and height <= camera.height
    interpolation = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    resized = cv2.resize(image, (width, height), interpolation=interpolation)
    return np.asarray(resized, dtype=np.uint8), camera.resized(width, height)


def _padded(coefficients: tuple[float, ...]) -> tuple[float, ...]:
    return coefficients + (0.0,) * (8 - len(coefficients))


def _brown_conrady(normalized: Array, coefficients: tuple[float, ...]) -> tuple[Array, Array]:
    """Return distorted coordinates (..., 2) and the Jacobian (..., 2, 2); OpenCV's rational model without prism."""
    k1, k2, p1, p2, k3, k4, k5, k6 = coefficients
    x, y = normalized[..., 0], normalized[..., 1]
    r2 = x * x + y * y
    numerator = 1 + r2 * (k1 + r2 * (k2 + r2 * k3))
    denominator = 1 + r2 * (k4 + r2 * (k5 + r2 * k6))
    radial = numerator / denominator
    slope = (  # d radial / d r2
        k1 + r2 * (2 * k2 + 3 * k3 * r2) - radial * (k4 + r2 * (2 * k5 + 3 * k6 * r2))
    ) / denominator
    distorted = np.stack(
        [
            x * radial + 2 * p1 * x * y + p2 * (r2 + 2 * x * x),
            y * radial + p1 * (r2 + 2 * y * y) + 2 * p2 * x * y,
        ],
        axis=-1,
    )
    cross = 2 * x * y * slope + 2 * p1 * x + 2 * p2 * y
    jacobian = np.stack(
        [
            np.stack([radial + 2 * x * x * slope + 2 * p1 * y + 6 * p2 * x, cross], axis=-1),
            np.stack([cross, radial + 2 * y * y * slope + 6 * p1 * y + 2 * p2 * x], axis=-1),
        ],
        axis=-2,
    )
    return distorted, jacobian


def _invert_brown_conrady(distorted: Array, coefficients: tuple[float, ...]) -> Array:
    """Newton's method with an exact Jacobian, a fixed number of steps; NaN where it finds no regular solution."""
    normalized = distorted.copy()
    with np.errstate(all="ignore"):
        for _ in range(_NEWTON_STEPS):
            value, jacobian = _brown_conrady(normalized, coefficients)
            error = value - distorted
            (a, b), (c, d) = (jacobian[..., 0, 0], jacobian[..., 0, 1]), (jacobian[..., 1, 0], jacobian[..., 1, 1])
            determinant = a * d - b * c
            step = np.stack(
                [d * error[..., 0] - b * error[..., 1], a * error[..., 1] - c * error[..., 0]], axis=-1
            )
            # A step longer than the lens' own scale is a jump across a fold of the polynomial: shorten it.
            step /= determinant[..., None]
            length = np.linalg.norm(step, axis=-1, keepdims=True)
            normalized = normalized - step * np.minimum(1.0, 0.5 / np.maximum(length, 1e-12))
        value, jacobian = _brown_conrady(normalized, coefficients)
        determinant = np.linalg.det(jacobian)
        solved = (np.abs(value - distorted).max(axis=-1) < _CONVERGED) & (determinant > 0)
    return np.where(solved[..., None], normalized, np.nan)


def _fisheye_radius(angle: Array, coefficients: tuple[float, ...]) -> Array:
    k1, k2, k3, k4 = coefficients
    a2 = angle * angle
    return np.asarray(angle * (1 + a2 * (k1 + a2 * (k2 + a2 * (k3 + a2 * k4)))))


def _invert_fisheye(distorted: Array, coefficients: tuple[float, ...]) -> Array:
    """Newton's method on the angle from the axis; NaN beyond 90 degrees or beyond the polynomial's fold."""
    k1, k2, k3, k4 = coefficients
    radius = np.linalg.norm(distorted, axis=-1, keepdims=True)
    angle = np.minimum(radius, math.pi / 2)
    with np.errstate(all="ignore"):
        for _ in range(_NEWTON_STEPS):
            a2 = angle * angle
            slope = 1 + a2 * (3 * k1 + a2 * (5 * k2 + a2 * (7 * k3 + a2 * 9 * k4)))
            step = (_fisheye_radius(angle, coefficients) - radius) / slope
            angle = angle - np.clip(step, -0.3, 0.3)
        a2 = angle * angle
        slope = 1 + a2 * (3 * k1 + a2 * (5 * k2 + a2 * (7 * k3 + a2 * 9 * k4)))
        solved = np.abs(_fisheye_radius(angle, coefficients) - radius) < _CONVERGED
        solved &= (slope > 0) & (angle >= 0) & (angle < math.pi / 2)
        scale = np.where(radius > 1e-12, np.tan(angle) / np.maximum(radius, 1e-12), 1.0)
    return np.where(solved, distorted * scale, np.nan)
