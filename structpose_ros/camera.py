"""Camera model: intrinsics, the three distortion models of CameraInfo, resizing, cropping and rays.

One pixel convention everywhere: the centre of the first pixel is (0, 0), so an image of width w covers
-0.5 .. w - 0.5. Resizing by s maps a coordinate c to (c + 0.5) s - 0.5.
"""

from __future__ import annotations

import functools
import itertools
import math
from dataclasses import dataclass, field, replace

import cv2
import numpy as np
import numpy.typing as npt

from structpose_ros import compiled

Array = npt.NDArray[np.float64]
ImageRgb = npt.NDArray[np.uint8]

# Number of coefficients that each model may have; an empty list means no distortion (sensor_msgs/CameraInfo).
COEFFICIENTS = {"plumb_bob": (0, 4, 5), "rational_polynomial": (0, 8), "equidistant": (0, 4)}
_MAX_ANGLE = math.radians(85.0)  # from the axis; there 1 m along z is already 11 m along the ray
_TABLE_SIZE = 1025
_NEWTON_STEPS = 10
_ON_AXIS = 1e-12  # a radius below which nothing is divided by it
_CONVERGED = 1e-10  # normalised image coordinates; 1e-10 is below 1e-7 px for any real lens


class CameraError(ValueError):
    """A calibration that can't be used; the message says what was expected and what came."""


@dataclass(frozen=True)
class Camera:
    """Intrinsics in pixels (integer pixel centres) and lens distortion, as in sensor_msgs/CameraInfo.

    `distortion` holds k1 k2 p1 p2 [k3] (plumb_bob), k1 k2 p1 p2 k3 k4 k5 k6 (rational_polynomial) or
    k1 k2 k3 k4 (equidistant, the Kannala-Brandt fisheye; four zeros are the ideal lens, r = f theta). Empty
    is the pinhole. A distorted lens reaches from its axis to 85 degrees or to where its polynomial folds.

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
                f"expected focal lengths above 0 px, got fx={self.fx} fy={self.fy}: is the camera calibrated?"
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

    @property
    def is_pinhole(self) -> bool:
        """Whether the lens has no distortion."""
        return not self.distortion or (self.distortion_model != "equidistant" and not any(self.distortion))

    def agrees_with(self, other: Camera) -> bool:
        """Whether the calibrations say the same but for rounding: 0.01 pixels, 1e-6 in a coefficient."""
        if (self.width, self.height) != (other.width, other.height) or self.is_pinhole != other.is_pinhole:
            return False
        pixels = [
            abs(getattr(self, name) - getattr(other, name)) <= 0.01 for name in ("fx", "fy", "cx", "cy")
        ]
        if self.is_pinhole or not all(pixels):
            return all(pixels)
        return self.distortion_model == other.distortion_model and all(
            abs(one - two) <= 1e-6
            for one, two in itertools.zip_longest(self.distortion, other.distortion, fillvalue=0.0)
        )

    def with_radial(self, change: float) -> Camera:
        """Return the camera with k1, the first coefficient of its lens, larger by `change`."""
        if not self.distortion:  # a pinhole, whatever the model
            return replace(self, distortion_model="plumb_bob", distortion=(change, 0.0, 0.0, 0.0))
        return replace(self, distortion=(self.distortion[0] + change, *self.distortion[1:]))

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
        """Return the camera of the sub-image that begins at pixel (left, top).

        Raises:
            CameraError: the crop reaches beyond the image.
        """
        if left < 0 or top < 0 or left + width > self.width or top + height > self.height:
            raise CameraError(
                f"expected a crop inside {self.width}x{self.height}, got {width}x{height} at ({left}, {top})"
            )
        return replace(self, width=width, height=height, cx=self.cx - left, cy=self.cy - top)

    def project(self, points_in_camera: npt.NDArray[np.floating]) -> Array:
        """Return pixel coordinates (..., 2) of points (..., 3) in metres, camera frame.

        A point behind the camera or beyond the lens' reach gets NaN; the bare formula may put it inside.
        """
        points = np.asarray(points_in_camera, dtype=np.float64)
        with np.errstate(divide="ignore", invalid="ignore"):
            normalized = np.where(points[..., 2:] > 0, points[..., :2] / points[..., 2:], np.nan)
        if not self.is_pinhole:
            reach = _kept_radial_table(self.distortion_model, self.distortion)[0][-1]
            within = np.linalg.norm(normalized, axis=-1, keepdims=True) <= reach
            normalized = _distort(
                np.where(within, normalized, np.nan), self.distortion_model, self.distortion
            )
        return np.asarray(normalized * [self.fx, self.fy] + [self.cx, self.cy])

    def rays(self, pixels: npt.NDArray[np.floating]) -> Array:
        """Return the rays (..., 3) with z = 1, camera frame, through pixel coordinates (..., 2).

        A pixel that no ray within the lens' reach falls on gets NaN.
        """
        pixels = np.asarray(pixels, dtype=np.float64)
        rays = np.ones((*pixels.shape[:-1], 3))
        rays[..., :2] = (pixels - [self.cx, self.cy]) / [self.fx, self.fy]
        if not self.is_pinhole:
            rays[..., :2] = _undistort(rays[..., :2], self.distortion_model, self.distortion)
        return rays

    def reach(self) -> float:
        """Return the share of the image, 0 .. 1, that rays within the lens' reach fall on."""
        if self.is_pinhole:
            return 1.0
        columns = (np.arange(16) + 0.5) * self.width / 16 - 0.5
        rows = (np.arange(12) + 0.5) * self.height / 12 - 0.5
        return float(np.isfinite(self.rays(np.stack(np.meshgrid(columns, rows), axis=-1))[..., 0]).mean())

    def ray_grid(self, stride: int = 1) -> Array:
        """Return the rays (h, w, 3) through the cell centres of a grid with `stride` pixels per cell.

        Cell i covers pixels stride*i .. stride*i + stride - 1, so its centre is stride*i + (stride - 1)/2.
        """
        return self.rays(self.pixel_grid(stride))

    def pixel_grid(self, stride: int = 1) -> Array:
        """Return the pixel coordinates (h, w, 2) of the cell centres of `ray_grid`."""
        return _cell_centres(self.width // stride, self.height // stride, stride)


@functools.lru_cache(maxsize=16)
def _cell_centres(columns: int, rows: int, stride: int) -> Array:
    """Return the pixel coordinates (rows, columns, 2), kept and not to be written to."""
    x, y = (np.arange(count) * stride + (stride - 1) / 2 for count in (columns, rows))
    centres = np.stack(np.meshgrid(x, y), axis=-1)
    centres.setflags(write=False)
    return centres


def resize_image(image: ImageRgb, camera: Camera, width: int, height: int) -> tuple[ImageRgb, Camera]:
    """Return the image (height, width, ...) resized, and the camera that belongs to it.

    Shrinking averages over the area a new pixel covers (no aliasing); enlarging interpolates linearly, and so
    does shrinking one side alone. Training and runtime both come through here.

    Raises:
        CameraError: the image is not of 8 bits, or of another size than its camera's.
    """
    if image.shape[:2] != (camera.height, camera.width):
        raise CameraError(
            f"expected an image of {camera.width}x{camera.height} as its camera says, "
            f"got {image.shape[1]}x{image.shape[0]}"
        )
    if image.dtype != np.uint8:
        raise CameraError(f"expected an image of uint8, got {image.dtype}")
    if (width, height) == (camera.width, camera.height):
        return image, camera
    shrinks = width <= camera.width and height <= camera.height
    interpolation = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    resized = cv2.resize(image, (width, height), interpolation=interpolation)
    return np.asarray(resized, dtype=np.uint8), camera.resized(width, height)


def _fisheye_radius(angle: Array, coefficients: tuple[float, ...]) -> tuple[Array, Array]:
    """Return the distorted radius of an equidistant lens at an angle from its axis, and its derivative."""
    k1, k2, k3, k4 = coefficients
    a2 = angle * angle
    radius = angle * (1 + a2 * (k1 + a2 * (k2 + a2 * (k3 + a2 * k4))))
    return radius, 1 + a2 * (3 * k1 + a2 * (5 * k2 + a2 * (7 * k3 + a2 * 9 * k4)))


def _radial(r2: Array, coefficients: tuple[float, ...]) -> tuple[Array, Array]:
    """Return distorted over undistorted radius, and its derivative by r2, the undistorted radius squared."""
    k1, k2, _, _, k3, k4, k5, k6 = coefficients + (0.0,) * (8 - len(coefficients))
    denominator = 1 + r2 * (k4 + r2 * (k5 + r2 * k6))
    radial = (1 + r2 * (k1 + r2 * (k2 + r2 * k3))) / denominator
    slope = k1 + r2 * (2 * k2 + 3 * k3 * r2) - radial * (k4 + r2 * (2 * k5 + 3 * k6 * r2))
    return radial, slope / denominator


def _distort_by_polynomials(normalized: Array, coefficients: tuple[float, ...]) -> tuple[Array, Array]:
    """Return distorted coordinates (..., 2) and their Jacobian (..., 2, 2): OpenCV's, without thin prism."""
    p1, p2 = coefficients[2:4]
    x, y = normalized[..., 0], normalized[..., 1]
    r2 = x * x + y * y
    radial, slope = _radial(r2, coefficients)
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


def _distort(normalized: Array, model: str, coefficients: tuple[float, ...]) -> Array:
    """Return distorted coordinates (..., 2)."""
    if model != "equidistant":
        return _distort_by_polynomials(normalized, coefficients)[0]
    radius = np.linalg.norm(normalized, axis=-1, keepdims=True)
    distorted_radius, _ = _fisheye_radius(np.arctan(radius), coefficients)
    return normalized * (distorted_radius / np.maximum(radius, _ON_AXIS))


def _radial_table(model: str, coefficients: tuple[float, ...]) -> tuple[Array, Array]:
    """Return undistorted and distorted radii, both increasing, from the axis to the end of the reach.

    Not to be written to.
    """
    angles = np.linspace(0.0, _MAX_ANGLE, _TABLE_SIZE)
    undistorted = np.tan(angles)
    if model == "equidistant":
        distorted, _ = _fisheye_radius(angles, coefficients)
    else:
        with np.errstate(all="ignore"):
            distorted = undistorted * _radial(undistorted**2, coefficients)[0]
    folds = np.flatnonzero(~(np.diff(distorted) > 0))
    end = folds[0] + 1 if len(folds) else _TABLE_SIZE
    table = undistorted[:end], distorted[:end]
    for radii in table:
        radii.setflags(write=False)
    return table


_kept_radial_table = functools.lru_cache(maxsize=16)(_radial_table)


def _undistort(distorted: Array, model: str, coefficients: tuple[float, ...]) -> Array:
    """Newton's method with an exact derivative, a fixed number of steps; NaN outside the lens' reach.

    It starts from the inverse of the radial part on its first, increasing branch. Beyond a fold the model
    has further solutions, which fit the pixel as well and are wrong: start and bound exclude them.
    """
    table = _kept_radial_table(model, coefficients)
    fisheye = model == "equidistant"
    if compiled.LIBRARY is not None:
        return compiled.undistort(compiled.LIBRARY, distorted, coefficients, table, equidistant=fisheye)
    table_undistorted, table_distorted = table
    radius = np.linalg.norm(distorted, axis=-1, keepdims=True)
    start, reach = np.interp(radius, table_distorted, table_undistorted), table_undistorted[-1]
    undistort = _undistort_fisheye if fisheye else _undistort_polynomials
    with np.errstate(all="ignore"):
        normalized, solved = undistort(distorted, radius, start, float(reach), coefficients)
    return np.where(solved[..., None], normalized, np.nan)


def _undistort_fisheye(
    distorted: Array, radius: Array, start: Array, reach: float, coefficients: tuple[float, ...]
) -> tuple[Array, npt.NDArray[np.bool_]]:
    """By the angle from the axis: such a lens changes nothing else."""
    angle = np.arctan(start)
    for _ in range(_NEWTON_STEPS):
        value, slope = _fisheye_radius(angle, coefficients)
        angle = angle - (value - radius) / slope
    value, slope = _fisheye_radius(angle, coefficients)
    solved = (np.abs(value - radius) < _CONVERGED) & (slope > 0) & (np.abs(angle) <= math.atan(reach))
    return distorted * (np.tan(angle) / np.maximum(radius, _ON_AXIS)), solved[..., 0]


def _undistort_polynomials(
    distorted: Array, radius: Array, start: Array, reach: float, coefficients: tuple[float, ...]
) -> tuple[Array, npt.NDArray[np.bool_]]:
    normalized = distorted * (start / np.maximum(radius, _ON_AXIS))
    for _ in range(_NEWTON_STEPS):
        value, jacobian = _distort_by_polynomials(normalized, coefficients)
        (a, b), (c, d) = (
            (jacobian[..., 0, 0], jacobian[..., 0, 1]),
            (jacobian[..., 1, 0], jacobian[..., 1, 1]),
        )
        error_x, error_y = value[..., 0] - distorted[..., 0], value[..., 1] - distorted[..., 1]
        step = np.stack([d * error_x - b * error_y, a * error_y - c * error_x], axis=-1)
        normalized = normalized - step / (a * d - b * c)[..., None]
    value, jacobian = _distort_by_polynomials(normalized, coefficients)
    solved = np.abs(value - distorted).max(axis=-1) < _CONVERGED
    solved &= np.linalg.det(jacobian) > 0
    solved &= np.linalg.norm(normalized, axis=-1) <= reach
    return normalized, solved
