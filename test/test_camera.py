"""The camera model against OpenCV, against itself, and against images of known patterns."""

from __future__ import annotations

import math
import warnings
from dataclasses import replace

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from structpose_ros.camera import (
    COEFFICIENTS,
    Camera,
    CameraError,
    _distort_by_polynomials,
    _fisheye_radius,
    _radial_table,
    resize_image,
)

Array = npt.NDArray[np.float64]

pytestmark = pytest.mark.usefixtures("each_implementation")

PINHOLE = Camera(640, 480, 520.0, 525.0, 318.2, 241.7)
PLUMB_BOB = replace(PINHOLE, distortion=(-0.28, 0.07, 1e-3, -5e-4, 0.01))
PLUMB_BOB_4 = replace(PINHOLE, distortion=(0.12, -0.05, -2e-3, 1e-3))
RATIONAL = replace(
    PINHOLE,
    distortion_model="rational_polynomial",
    distortion=(0.5, -2.6, 6e-4, -2e-4, 1.5, 0.38, -2.4, 1.4),
)
FISHEYE = Camera(640, 480, 285.0, 286.0, 318.2, 241.7, "equidistant", (-0.02, 0.004, -0.003, 5e-4))
IDEAL_FISHEYE = replace(FISHEYE, distortion=(0.0, 0.0, 0.0, 0.0))
LENSES = {
    "pinhole": PINHOLE,
    "plumb_bob": PLUMB_BOB,
    "plumb_bob of 4": PLUMB_BOB_4,
    "rational_polynomial": RATIONAL,
    "equidistant": FISHEYE,
    "ideal equidistant": IDEAL_FISHEYE,
}
each_lens = pytest.mark.parametrize("camera", LENSES.values(), ids=LENSES.keys())


def opencv_pixels(camera: Camera, points_in_camera: Array) -> Array:
    module = cv2.fisheye if camera.distortion_model == "equidistant" else cv2
    coefficients = np.asarray(camera.distortion or (0.0,) * 4)
    still = np.zeros(3)
    pixels, _ = module.projectPoints(points_in_camera[:, None], still, still, camera.matrix, coefficients)
    return np.asarray(pixels).reshape(-1, 2)


def points_in_view(camera: Camera, count: int = 500) -> Array:
    rng = np.random.default_rng(3)
    reach = 1.5 if camera.distortion_model == "equidistant" else 0.6
    depth = rng.uniform(0.3, 8.0, size=(count, 1))
    return np.hstack([rng.uniform(-reach, reach, size=(count, 2)) * depth, depth])


@each_lens
def test_projection_agrees_with_opencv(camera: Camera) -> None:
    points = points_in_view(camera)
    expected = opencv_pixels(camera, points)
    assert np.ptp(expected[:, 0]) > 300
    np.testing.assert_allclose(camera.project(points), expected, rtol=0, atol=1e-9)


@each_lens
def test_rays_agree_with_opencv(camera: Camera) -> None:
    points = points_in_view(camera)
    rays = camera.rays(opencv_pixels(camera, points))
    np.testing.assert_allclose(rays, points / points[:, 2:], rtol=0, atol=1e-9)


@each_lens
def test_every_pixel_of_the_image_has_a_ray_that_projects_back(camera: Camera) -> None:
    pixels = np.stack(np.meshgrid(np.arange(0.0, 640.0, 7), np.arange(0.0, 480.0, 7)), axis=-1)
    rays = camera.rays(pixels)
    assert np.isfinite(rays).all()
    np.testing.assert_array_equal(rays[..., 2], 1.0)
    np.testing.assert_allclose(camera.project(rays), pixels, rtol=0, atol=1e-6)


def test_no_coefficients_are_a_pinhole_whatever_the_model_is_called() -> None:
    points = points_in_view(PINHOLE)
    expected = points[:, :2] / points[:, 2:] * [520.0, 525.0] + [318.2, 241.7]
    for model, zeros in (("plumb_bob", 5), ("rational_polynomial", 8), ("equidistant", 0), ("plumb_bob", 0)):
        camera = replace(PINHOLE, distortion_model=model, distortion=(0.0,) * zeros)
        assert camera.is_pinhole
        np.testing.assert_allclose(camera.project(points), expected, rtol=0, atol=1e-9)
    assert not IDEAL_FISHEYE.is_pinhole


def test_float32_points_project_as_precisely_as_float64() -> None:
    points = points_in_view(PLUMB_BOB).astype(np.float32)
    np.testing.assert_array_equal(PLUMB_BOB.project(points), PLUMB_BOB.project(points.astype(np.float64)))


@pytest.mark.parametrize("depth", [0.0, -1.0])
@each_lens
def test_points_not_in_front_of_the_camera_have_no_pixel(camera: Camera, depth: float) -> None:
    pixels = camera.project(np.array([[0.1, 0.2, depth], [0.1, 0.2, 1.0]]))
    assert np.isnan(pixels[0]).all()
    assert np.isfinite(pixels[1]).all()


coefficient = st.floats(-0.6, 0.6)
lenses = st.one_of(
    st.tuples(st.just("plumb_bob"), st.tuples(coefficient, coefficient, coefficient)),
    st.tuples(st.just("rational_polynomial"), st.tuples(*[coefficient] * 6)),
    st.tuples(st.just("equidistant"), st.tuples(*[coefficient] * 4)),
)


def first_branch(model: str, radial: tuple[float, ...]) -> tuple[Array, Array]:
    """Return angles up to 85 degrees and distorted radii, as long as the radius grows with the angle."""
    angles = np.linspace(0.0, math.radians(85.0), 20001)
    if model == "equidistant":
        radii = angles + sum(k * angles ** (2 * power + 3) for power, k in enumerate(radial))
    else:
        r2 = np.tan(angles) ** 2
        above, below = radial[:3], radial[3:]
        with np.errstate(divide="ignore"):
            radii = (
                np.tan(angles)
                * (1 + sum(k * r2 ** (power + 1) for power, k in enumerate(above)))
                / (1 + sum(k * r2 ** (power + 1) for power, k in enumerate(below)))
            )
    folds = np.flatnonzero(np.diff(radii) <= 0)
    end = folds[0] + 1 if len(folds) else len(angles)
    return angles[:end], radii[:end]


@settings(max_examples=150)
@given(lens=lenses, direction=st.floats(0.0, 2 * math.pi))
def test_a_ray_is_right_or_nan_and_nan_only_beyond_the_first_fold(
    lens: tuple[str, tuple[float, ...]], direction: float
) -> None:
    model, radial = lens
    distortion = radial if model == "equidistant" else (*radial[:2], 0.0, 0.0, *radial[2:])
    camera = Camera(640, 480, 1.0, 1.0, 0.0, 0.0, model, distortion)
    if camera.is_pinhole:
        return
    angles, radii = first_branch(model, radial)
    targets = np.linspace(0.0, 2.0, 101)
    rays = camera.rays(targets[:, None] * [math.cos(direction), math.sin(direction)])

    reached = np.isfinite(rays[:, 0])
    found = np.arctan(rays[:, :2] @ [math.cos(direction), math.sin(direction)])
    expected = np.interp(targets, radii, angles)
    # Where the radius hardly grows, near the fold, the angle is ill-conditioned: compare what it projects to.
    np.testing.assert_allclose(np.interp(found[reached], angles, radii), targets[reached], atol=1e-4)
    np.testing.assert_allclose(found[reached], expected[reached], atol=2e-2)
    assert (targets[reached] <= radii[-1] + 1e-4).all()
    well_inside = expected < angles[-1] - 5e-3
    assert reached[well_inside].all()
    np.testing.assert_allclose(np.linalg.norm(rays[reached, :2], axis=1), np.tan(found[reached]), atol=1e-9)


def grid_of() -> Array:
    """Return pixels (N, 2) from corner to corner and beyond, where a lens' image may end."""
    columns, rows = np.meshgrid(np.arange(-40.0, 681.0, 12.0), np.arange(-40.0, 521.0, 12.0))
    return np.stack([columns.ravel(), rows.ravel()], axis=-1)


def assert_opencv_sees_the_rays_at(camera: Camera, pixels: Array) -> Array:
    """Send the camera as a CameraInfo, compare in normalised coordinates, return which pixels have a ray.

    The rays are projected: cv2.fisheye.undistortPoints itself is iterated to 1e-8 only.
    """
    pytest.importorskip("rclpy", reason="rclpy is not installed: no ROS 2 here")
    from ros_helpers import camera_info_message

    from structpose_ros.camera_info import camera_from_info

    received = camera_from_info(camera_info_message(camera))
    assert received == camera
    rays = received.rays(pixels)
    reached = np.isfinite(rays[:, 0])
    module = cv2.fisheye if camera.distortion_model == "equidistant" else cv2
    lens, still = np.asarray(camera.distortion or (0.0,) * 4), np.zeros(3)
    seen, _ = module.projectPoints(rays[reached][:, None], still, still, np.eye(3), lens)
    expected = (pixels[reached] - [camera.cx, camera.cy]) / [camera.fx, camera.fy]
    np.testing.assert_allclose(seen[:, 0], expected, rtol=0, atol=1e-9)
    return reached


@each_lens
def test_opencv_sees_the_rays_of_a_camera_info_at_their_pixels(camera: Camera) -> None:
    pixels = grid_of()
    reached = assert_opencv_sees_the_rays_at(camera, pixels)
    inside = ((pixels >= 0) & (pixels <= [639, 479])).all(axis=-1)
    assert reached[inside].all()


drawn_lenses = st.one_of(
    st.tuples(st.just("plumb_bob"), st.tuples(*[coefficient] * 5)),
    st.tuples(st.just("rational_polynomial"), st.tuples(*[coefficient] * 8)),
    st.tuples(st.just("equidistant"), st.tuples(*[coefficient] * 4)),
)


@settings(max_examples=150)
@given(lens=drawn_lenses, tangential=st.floats(-0.02, 0.02), focal=st.floats(250.0, 900.0))
def test_opencv_sees_the_rays_of_any_lens_at_their_pixels(
    lens: tuple[str, tuple[float, ...]], tangential: float, focal: float
) -> None:
    model, distortion = lens
    if model != "equidistant":
        distortion = (*distortion[:2], tangential, -tangential / 2, *distortion[4:])
    camera = Camera(640, 480, focal, 1.01 * focal, 318.2, 241.7, model, distortion)
    assume(camera.reach() >= 0.25)  # of others the CameraInfo is refused
    pixels = np.vstack([grid_of(), [[318.0, 242.0]]])
    reached = assert_opencv_sees_the_rays_at(camera, pixels)
    assert reached[-1], "the axis is in reach of every lens"


@pytest.mark.parametrize(("k1", "is_refused"), [(-0.3, False), (-1.2, False), (-6.0, True)])
def test_a_lens_that_misses_most_of_the_image_is_no_calibration(k1: float, is_refused: bool) -> None:
    """It ends where r (1 + k1 r^2) is largest, at 2/3 sqrt(1 / -3 k1): a circle in the image."""
    pytest.importorskip("rclpy", reason="rclpy is not installed: no ROS 2 here")
    from ros_helpers import camera_info_message

    from structpose_ros.camera_info import camera_from_info

    camera = Camera(640, 480, 520.0, 520.0, 319.5, 239.5, distortion=(k1, 0.0, 0.0, 0.0))
    radius = 520.0 * 2 / 3 * math.sqrt(1 / (-3 * k1))
    pixels = np.stack(np.meshgrid(np.arange(640.0), np.arange(480.0)), axis=-1)
    inside = np.linalg.norm(pixels - [319.5, 239.5], axis=-1) < radius
    assert camera.reach() == pytest.approx(inside.mean(), abs=0.02)
    if not is_refused:
        assert camera_from_info(camera_info_message(camera)) == camera
    else:
        with pytest.raises(CameraError, match="expected a lens that reaches at least 25% of the image, got"):
            camera_from_info(camera_info_message(camera))


def test_beyond_a_fold_there_is_no_ray_and_no_pixel() -> None:
    # r (1 - 0.3 r^2) grows up to r = 1.054, where it is 0.703; from r = 1.83 on it is negative and falls.
    camera = Camera(640, 480, 300.0, 300.0, 319.5, 239.5, distortion=(-0.3, 0.0, 0.0, 0.0))
    radii = np.array([0.0, 0.5, 0.70, 0.71, 1.0, 2.0])
    rays = camera.rays(np.stack([319.5 + 300.0 * radii, np.full(6, 239.5)], axis=-1))
    assert np.isfinite(rays[:, 0]).tolist() == [True, True, True, False, False, False]
    assert (rays[1:3, 0] < 1.054).all()
    ahead = np.array([[1.0, 0.0, 1.0], [1.1, 0.0, 1.0], [2.0, 0.0, 1.0]])
    assert np.isfinite(camera.project(ahead)[:, 0]).tolist() == [True, False, False]


def test_a_fisheye_ends_at_85_degrees() -> None:
    angles = np.radians([0.0, 60.0, 84.0, 86.0, 90.0, 100.0, 180.0])
    rays = IDEAL_FISHEYE.rays(np.stack([318.2 + 285.0 * angles, np.full(7, 241.7)], axis=-1))
    assert np.isfinite(rays[:, 0]).tolist() == [True, True, True, False, False, False, False]
    np.testing.assert_allclose(np.arctan(rays[:3, 0]), angles[:3], atol=1e-12)


@each_lens
@pytest.mark.parametrize("size", [(320, 240), (160, 120), (900, 300)])
def test_resizing_moves_every_projection_by_the_pixel_centre_rule(
    camera: Camera, size: tuple[int, int]
) -> None:
    points = points_in_view(camera)
    scale = np.array(size) / [640, 480]
    expected = (camera.project(points) + 0.5) * scale - 0.5
    resized = camera.resized(*size)
    assert (resized.width, resized.height) == size
    np.testing.assert_allclose(resized.project(points), expected, rtol=0, atol=1e-9)
    np.testing.assert_allclose(resized.resized(640, 480).matrix, camera.matrix, rtol=1e-12)


@each_lens
def test_cropping_moves_every_projection_by_the_corner(camera: Camera) -> None:
    points = points_in_view(camera)
    cropped = camera.cropped(100, 40, 300, 200)
    assert (cropped.width, cropped.height) == (300, 200)
    np.testing.assert_allclose(cropped.project(points), camera.project(points) - [100, 40], rtol=0, atol=1e-9)


def blob(camera: Camera, center: tuple[float, float], sigma: float) -> npt.NDArray[np.uint8]:
    x, y = np.meshgrid(np.arange(camera.width), np.arange(camera.height))
    bell = np.exp(-((x - center[0]) ** 2 + (y - center[1]) ** 2) / (2 * sigma**2))
    return np.repeat(np.rint(255 * bell)[..., None], 3, axis=-1).astype(np.uint8)


def centroid(image: npt.NDArray[np.uint8]) -> Array:
    weight = image[..., 0].astype(np.float64)
    x, y = np.meshgrid(np.arange(image.shape[1]), np.arange(image.shape[0]))
    return np.array([(weight * x).sum(), (weight * y).sum()]) / weight.sum()


@pytest.mark.parametrize("size", [(320, 240), (160, 120), (213, 160), (160, 240), (1280, 960), (640, 240)])
def test_a_marker_in_a_resized_image_stands_where_the_resized_camera_says(size: tuple[int, int]) -> None:
    point = np.array([0.213, -0.117, 2.0])
    x, y = PINHOLE.project(point)
    image, camera = resize_image(blob(PINHOLE, (x, y), 12.0), PINHOLE, *size)
    assert image.shape == (size[1], size[0], 3)
    # A camera that scaled c' = c s would be off by (s - 1) / 2: a quarter pixel at half the size.
    np.testing.assert_allclose(centroid(image), camera.project(point), atol=0.02)


def test_shrinking_averages_the_area_and_does_not_alias() -> None:
    stripes = np.zeros((480, 640, 3), dtype=np.uint8)
    stripes[:, ::2] = 200
    image, _ = resize_image(stripes, PINHOLE, 160, 120)
    np.testing.assert_array_equal(image, 100)


def test_an_image_of_the_right_size_is_returned_as_it_is() -> None:
    image = blob(PINHOLE, (3.0, 4.0), 2.0)
    same, camera = resize_image(image, PINHOLE, 640, 480)
    assert same is image
    assert camera is PINHOLE


def test_cells_of_a_grid_of_stride_8_stand_at_8_i_plus_3_5() -> None:
    grid = PLUMB_BOB.ray_grid(8)
    assert grid.shape == (60, 80, 3)
    pixels = PLUMB_BOB.project(grid)
    np.testing.assert_allclose(pixels[:, :, 0], np.tile(8.0 * np.arange(80) + 3.5, (60, 1)), atol=1e-6)
    np.testing.assert_allclose(pixels[:, :, 1].T, np.tile(8.0 * np.arange(60) + 3.5, (80, 1)), atol=1e-6)
    np.testing.assert_allclose(PINHOLE.project(PINHOLE.ray_grid())[7, 5], [5.0, 7.0], atol=1e-9)


def test_a_grid_of_the_full_image_is_the_full_grid_of_the_image_shrunk_by_the_stride() -> None:
    # The pixel of a shrunk image is the cell of the full one: one convention for both.
    small = PLUMB_BOB.resized(80, 60)
    np.testing.assert_allclose(PLUMB_BOB.ray_grid(8), small.ray_grid(), atol=1e-9)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"width": 0}, "expected an image size of at least 1x1, got 0x480"),
        ({"height": -4}, "expected an image size of at least 1x1, got 640x-4"),
        ({"fx": math.nan}, "expected finite intrinsics, got fx=nan"),
        ({"cy": math.inf}, "expected finite intrinsics, .*cy=inf"),
        ({"fx": 0.0}, "expected focal lengths above 0 px, got fx=0.0 fy=525.0: is the camera calibrated"),
        ({"fy": 0.0}, "expected focal lengths above 0 px, got fx=520.0 fy=0.0"),
        ({"fy": -1.0}, "expected focal lengths above 0 px, got fx=520.0 fy=-1.0"),
        (
            {"distortion_model": "thin_prism"},
            "expected a distortion model of plumb_bob, rational_polynomial, equidistant, got 'thin_prism'",
        ),
        ({"distortion": (0.1,)}, "expected 0 or 4 or 5 coefficients for plumb_bob, got 1"),
        (
            {"distortion_model": "rational_polynomial", "distortion": (0.1,) * 5},
            "expected 0 or 8 coefficients for rational_polynomial, got 5",
        ),
        (
            {"distortion_model": "equidistant", "distortion": (0.1,) * 5},
            "expected 0 or 4 coefficients for equidistant, got 5",
        ),
        (
            {"distortion": (0.1, math.nan, 0.0, 0.0)},
            r"expected finite distortion coefficients, got \[0.1, nan",
        ),
    ],
)
def test_an_unusable_calibration_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(CameraError, match=message):
        replace(PINHOLE, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("crop", [(-1, 0, 10, 10), (0, -1, 10, 10), (631, 0, 10, 10), (0, 471, 10, 10)])
def test_a_crop_beyond_the_image_is_refused(crop: tuple[int, int, int, int]) -> None:
    with pytest.raises(CameraError, match=rf"inside 640x480, got 10x10 at \({crop[0]}, {crop[1]}\)"):
        PINHOLE.cropped(*crop)
    assert PINHOLE.cropped(630, 470, 10, 10).width == 10
    assert PINHOLE.cropped(0, 0, 640, 480) == PINHOLE


def test_a_camera_may_have_a_single_pixel() -> None:
    np.testing.assert_array_equal(Camera(1, 1, 1.0, 1.0, 0.0, 0.0).ray_grid(), [[[0.0, 0.0, 1.0]]])


def test_an_image_of_another_size_than_its_camera_is_refused() -> None:
    with pytest.raises(CameraError, match="expected an image of 640x480 as its camera says, got 320x240"):
        resize_image(np.zeros((240, 320, 3), dtype=np.uint8), PINHOLE, 320, 240)


def test_an_image_that_is_not_of_8_bits_is_refused() -> None:
    image = np.zeros((480, 640, 3), dtype=np.float32)
    with pytest.raises(CameraError, match="expected an image of uint8, got float32"):
        resize_image(image, PINHOLE, 320, 240)  # type: ignore[arg-type]


def test_cameras_agree_when_their_calibrations_say_the_same() -> None:
    zeros = replace(PINHOLE, distortion=(0.0,) * 5)
    assert PINHOLE.agrees_with(zeros)
    assert zeros.agrees_with(PINHOLE)
    assert PLUMB_BOB.agrees_with(replace(PLUMB_BOB, cx=PLUMB_BOB.cx + 0.009))
    centred = replace(PLUMB_BOB, cx=0.0)
    assert centred.agrees_with(replace(centred, cx=0.01)), "the bounds themselves agree"
    assert PLUMB_BOB_4.agrees_with(replace(PLUMB_BOB_4, distortion=(*PLUMB_BOB_4.distortion, 1e-6)))
    assert replace(PLUMB_BOB_4, distortion=(*PLUMB_BOB_4.distortion, 0.0)).agrees_with(PLUMB_BOB_4)
    for other in (
        replace(PLUMB_BOB, cx=PLUMB_BOB.cx + 0.02),
        replace(PLUMB_BOB, width=PLUMB_BOB.width + 1),
        PLUMB_BOB.with_radial(1e-4),
        replace(PLUMB_BOB, distortion=()),
        replace(PLUMB_BOB, distortion_model="equidistant", distortion=PLUMB_BOB.distortion[:4]),
    ):
        assert not PLUMB_BOB.agrees_with(other)
        assert not other.agrees_with(PLUMB_BOB)


@pytest.mark.parametrize("model", list(COEFFICIENTS))
def test_k1_moves_alone(model: str) -> None:
    count = COEFFICIENTS[model][1]
    plain = replace(PINHOLE, distortion_model=model, distortion=())
    assert plain.with_radial(0.1) == replace(PINHOLE, distortion=(0.1, 0.0, 0.0, 0.0))
    bent = replace(plain, distortion=tuple((0.01 * np.arange(1, count + 1)).tolist()))
    assert bent.with_radial(-0.02).distortion == pytest.approx((-0.01, *bent.distortion[1:]))


@pytest.mark.parametrize("size", [(3, 2), (4, 1), (2, 2)])
def test_shrinking_averages_all_of_the_pixels_that_one_takes_the_place_of(size: tuple[int, int]) -> None:
    """Also where one side stays as it is; sampling would miss the bright row or column."""
    width, height = size
    camera = Camera(4 * width, 4 * height, 1.0, 1.0, 0.0, 0.0)
    image = np.zeros((4 * height, 4 * width, 3), np.uint8)
    image[::4], image[:, ::4] = 200, 200
    both = resize_image(image, camera, width, height)[0]
    np.testing.assert_array_equal(both, np.full((height, width, 3), round(200 * 7 / 16)))
    narrow, low = np.zeros_like(image), np.zeros_like(image)
    narrow[:, ::4], low[::4] = 200, 200
    np.testing.assert_array_equal(resize_image(narrow, camera, width, 4 * height)[0], 50)
    np.testing.assert_array_equal(resize_image(low, camera, 4 * width, height)[0], 50)


def test_enlarging_interpolates_linearly_and_so_does_shrinking_one_side_alone() -> None:
    camera = Camera(4, 4, 1.0, 1.0, 0.0, 0.0)
    ramp = np.repeat(np.array([[0, 80, 160, 240]], np.uint8)[..., None], 3, axis=2).repeat(4, axis=0)
    enlarged, _ = resize_image(ramp, camera, 8, 4)
    np.testing.assert_array_equal(enlarged[0, :, 0], [0, 20, 60, 100, 140, 180, 220, 240])
    mixed, _ = resize_image(ramp.transpose(1, 0, 2).copy(), camera, 8, 1)
    np.testing.assert_array_equal(mixed[0, :, 0], np.full(8, 120))
    steps = np.zeros((4, 4, 3), np.uint8)
    steps[0] = 200  # the mean is 50; the two rows in the middle are dark
    np.testing.assert_array_equal(resize_image(steps, camera, 8, 1)[0], 0)


def test_cells_that_an_image_does_not_fill_are_left_out() -> None:
    camera = replace(PINHOLE, width=21, height=17)
    assert camera.ray_grid(8).shape == (2, 2, 3)
    assert camera.pixel_grid(4).shape == (4, 5, 2)
    np.testing.assert_array_equal(camera.pixel_grid()[-1, -1], [20, 16])


@pytest.mark.parametrize("camera", [PINHOLE, PLUMB_BOB, PLUMB_BOB_4, RATIONAL])
def test_the_jacobian_of_the_lens_is_its_derivative(camera: Camera) -> None:
    """Newton's method would find its way with a worse one too, in more steps."""
    coefficients = camera.distortion or (0.0,) * 4
    bent = [0.05 * (1 + index) for index in range(len(coefficients))]
    points = np.random.default_rng(2).uniform(-0.4, 0.4, (50, 2))
    for values in (coefficients, tuple(bent)):
        _, jacobian = _distort_by_polynomials(points, values)
        for axis in range(2):
            step = 1e-6 * np.eye(2)[axis]
            ahead, _ = _distort_by_polynomials(points + step, values)
            behind, _ = _distort_by_polynomials(points - step, values)
            np.testing.assert_allclose(jacobian[:, :, axis], (ahead - behind) / 2e-6, atol=1e-8)


@pytest.mark.parametrize("coefficients", [FISHEYE.distortion, (0.05, 0.1, -0.15, 0.2)])
def test_the_slope_of_a_fisheyes_radius_is_its_derivative(coefficients: tuple[float, ...]) -> None:
    angles = np.linspace(0.0, 1.4, 50)
    _, slope = _fisheye_radius(angles, coefficients)
    ahead, _ = _fisheye_radius(angles + 1e-6, coefficients)
    behind, _ = _fisheye_radius(angles - 1e-6, coefficients)
    np.testing.assert_allclose(slope, (ahead - behind) / 2e-6, atol=1e-7)


@each_lens
def test_a_single_pixel_has_the_ray_that_it_has_among_others(camera: Camera) -> None:
    ray = camera.rays(np.array([100.0, 300.0]))
    np.testing.assert_allclose(ray, camera.rays(np.array([[100.0, 300.0], [7.0, 8.0]]))[0], atol=1e-12)
    np.testing.assert_allclose(camera.project(ray), [100.0, 300.0], atol=1e-6)


def test_the_reach_of_a_lens_ends_at_85_degrees_or_one_step_of_a_table_before_its_fold() -> None:
    """A step is a twelfth of a degree."""
    step = math.radians(85.0) / 1024

    def seen(camera: Camera, angle: float) -> bool:
        pixel = camera.project(np.array([math.tan(angle), 0.0, 1.0]))
        ray = camera.rays(pixel)
        return bool(np.isfinite(pixel).all() and np.abs(ray[0] - math.tan(angle)) < 1e-6)

    assert seen(IDEAL_FISHEYE, math.radians(85.0) - step / 2)
    assert np.isfinite(IDEAL_FISHEYE.project(np.array([math.tan(math.radians(85.0)), 0.0, 1.0]))).all()
    assert not seen(IDEAL_FISHEYE, math.radians(85.0) + step / 100)
    folding = replace(IDEAL_FISHEYE, distortion=(-0.2, 0.0, 0.0, 0.0))
    fold = math.sqrt(1 / 0.6)  # where the derivative 1 - 3 * 0.2 angle^2 of the radius is 0
    assert seen(folding, fold - 1.05 * step)
    assert not seen(folding, fold + 1.05 * step)
    barrel = replace(PINHOLE, distortion=(-0.3, 0.0, 0.0, 0.0))
    fold = math.atan(math.sqrt(1 / 0.9))
    assert seen(barrel, fold - 1.05 * step)
    assert not seen(barrel, fold + 1.05 * step)


@each_lens
def test_what_the_lens_cannot_reach_is_no_warning(camera: Camera) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        points = np.array([[0.0, 0.0, 0.0], [1.0, -1.0, 0.0], [1.0, 1.0, -1.0], [1e9, 0.0, 1.0]])
        assert np.isnan(camera.project(points[:3])).all()
        camera.project(points)
        camera.rays(np.array([[1e6, 1e6], [-1e9, 3.0], [1e100, 3.0]]))


def test_the_reach_is_the_share_of_the_image_that_rays_fall_on() -> None:
    """Of an image of 16 by 12 pixels each is looked at: a lens that folds, its centre off the middle."""
    lens = Camera(16, 12, 8.0, 8.0, 3.3, 2.6, "plumb_bob", (-0.4, 0.0, 0.0, 0.0, 0.0))
    seen = np.isfinite(lens.rays(lens.pixel_grid())[..., 0])
    assert 0.3 < seen.mean() < 0.7
    assert seen[:, 0].any() and not seen[:, -1].any() and seen[0].any() and not seen[-1].any()
    assert lens.reach() == seen.mean()
    assert Camera(16, 12, 8.0, 8.0, 4.3, 3.1).reach() == 1.0


def test_the_radii_that_are_kept_can_not_be_written_to() -> None:
    for radii in _radial_table("plumb_bob", PLUMB_BOB.distortion):
        with pytest.raises(ValueError, match="read-only"):
            radii[0] = 1.0
