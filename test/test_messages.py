"""NumPy to ROS messages and back: cameras see along the same rays, unusable ones are refused in words."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest

pytest.importorskip("rclpy", reason="rclpy is not installed: no ROS 2 here")

from hypothesis import given, settings
from hypothesis import strategies as st
from model_files import TRAINING_CAMERA
from ros_helpers import camera_info_message
from sensor_msgs.msg import CameraInfo, RegionOfInterest
from sensor_msgs_py import point_cloud2

from structpose_ros import messages, picture_messages
from structpose_ros.camera import Camera, CameraError
from structpose_ros.camera_info import camera_from_info
from structpose_ros.geometry import rotation_from_quaternion, rotation_from_vector, transform


def test_a_camera_comes_back_from_its_info() -> None:
    lens = Camera(
        640,
        480,
        525.0,
        520.0,
        319.5,
        239.5,
        "rational_polynomial",
        (0.1, -0.2, 1e-3, 2e-3, 0.05, 0.3, 0.1, 0.02),
    )
    for camera in (TRAINING_CAMERA, lens):
        assert camera_from_info(camera_info_message(camera)) == camera


@pytest.mark.parametrize(
    ("model", "given_d", "expected_model", "expected_d"),
    [
        ("", [], "plumb_bob", ()),
        ("", [0.0] * 5, "plumb_bob", ()),
        ("plumb_bob", [], "plumb_bob", ()),
        ("plumb_bob", [0.1, 0.2, 0.3, 0.4], "plumb_bob", (0.1, 0.2, 0.3, 0.4)),
        ("plumb_bob", [0.1, 0.2, 0.3, 0.4, 0.5], "plumb_bob", (0.1, 0.2, 0.3, 0.4, 0.5)),
        ("plumb_bob", [0.1, 0.2, 0.3, 0.4, 0.5, 0.0, 0.0, 0.0], "plumb_bob", (0.1, 0.2, 0.3, 0.4, 0.5)),
        ("rational_polynomial", [0.1] * 8 + [0.0] * 6, "rational_polynomial", (0.1,) * 8),
        ("equidistant", [0.0] * 4, "equidistant", (0.0,) * 4),
    ],
)
def test_distortion_is_taken_as_the_drivers_send_it(
    model: str, given_d: list[float], expected_model: str, expected_d: tuple[float, ...]
) -> None:
    info = camera_info_message(TRAINING_CAMERA)
    info.distortion_model, info.d = model, given_d
    camera = camera_from_info(info)
    assert (camera.distortion_model, camera.distortion) == (expected_model, expected_d)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"k": [0.0] * 9}, "expected a calibrated camera, got K with zeros only: the camera is uncalibrated"),
        ({"k": [math.nan] * 9}, "expected a calibrated camera, got K with NaN or infinity"),
        ({"k": [60.0, 0.5, 31.5, 0.0, 60.0, 23.5, 0.0, 0.0, 1.0]}, "expected K without skew"),
        ({"k": [-60.0, 0.0, 31.5, 0.0, 60.0, 23.5, 0.0, 0.0, 1.0]}, "expected focal lengths above 0 px"),
        ({"width": 0}, "expected an image size of at least 1x1, got 0x48"),
        ({"distortion_model": "fisheye"}, "expected a distortion model of plumb_bob, "),
        ({"distortion_model": "", "d": [0.1] * 5}, "expected a distortion model of plumb_bob, "),
        ({"distortion_model": "plumb_bob", "d": [0.1] * 8}, "coefficients for plumb_bob, got 8"),
        ({"distortion_model": "equidistant", "d": [0.0] * 3}, "coefficients for equidistant, got 3"),
        ({"distortion_model": "plumb_bob", "d": [math.inf] * 5}, "expected finite distortion coefficients"),
        (
            {"roi": RegionOfInterest(x_offset=8, y_offset=0, width=64, height=48)},
            "expected a crop inside 64x48",
        ),
        ({"roi": RegionOfInterest(x_offset=8)}, "expected a region of interest with a size"),
        ({"binning_x": 100}, "expected an image size of at least 1x1, got 0x48"),
    ],
)
def test_an_unusable_camera_info_is_refused(changes: dict[str, object], line: str) -> None:
    info = camera_info_message(TRAINING_CAMERA)
    for name, value in changes.items():
        setattr(info, name, value)
    with pytest.raises(CameraError) as raised:
        camera_from_info(info)
    assert line in str(raised.value)


@given(
    rectified=st.booleans(),
    k=st.lists(st.floats(width=64), min_size=12, max_size=12),
    d=st.lists(st.floats(width=64), max_size=14),
    model=st.sampled_from(["plumb_bob", "rational_polynomial", "equidistant", "", "none"]),
    size=st.tuples(st.integers(0, 100), st.integers(0, 100)),
)
@settings(deadline=None)
def test_any_camera_info_gives_a_camera_or_a_camera_error(
    rectified: bool, k: list[float], d: list[float], model: str, size: tuple[int, int]
) -> None:
    info = CameraInfo(width=size[0], height=size[1], distortion_model=model)
    info.k, info.p, info.d = k[:9], k, d
    try:
        camera = camera_from_info(info, rectified=rectified)
    except CameraError as error:
        assert "got" in str(error)
    else:
        assert (camera.width, camera.height) == size
        assert camera.fx > 0


LENS = Camera(640, 480, 520.0, 525.0, 318.2, 241.7, "plumb_bob", (-0.28, 0.07, 1e-3, -5e-4, 0.01))
RECTIFIED = Camera(640, 480, 470.0, 468.0, 322.9, 238.4)


def lens_message() -> CameraInfo:
    """Return the CameraInfo of LENS, whose images are rectified to those of RECTIFIED."""
    info = camera_info_message(LENS)
    info.r = np.eye(3).ravel()
    info.p = np.hstack([RECTIFIED.matrix, [[-47.0], [0.0], [0.0]]]).ravel()
    return info


@pytest.mark.parametrize("rectified", [False, True])
@pytest.mark.parametrize("binning", [(0, 0), (1, 1), (2, 2), (2, 1), (1, 4), (3, 2)])
@pytest.mark.parametrize("region", [None, (96, 40, 480, 384), (0, 0, 640, 480), (17, 31, 301, 203)])
def test_region_and_binning_see_the_same_rays(
    region: tuple[int, int, int, int] | None, binning: tuple[int, int], rectified: bool
) -> None:
    """OpenCV projects points into the full image; their pixels are cut and binned here."""
    info = lens_message()
    left, top, width, height = region or (0, 0, 640, 480)
    if region:
        info.roi = RegionOfInterest(x_offset=left, y_offset=top, width=width, height=height, do_rectify=True)
    info.binning_x, info.binning_y = binning
    camera = camera_from_info(info, rectified=rectified)
    across, down = max(binning[0], 1), max(binning[1], 1)
    assert (camera.width, camera.height) == (width // across, height // down)

    points = np.random.default_rng(5).uniform([-0.5, -0.4, 1.0], [0.5, 0.4, 1.0], (200, 3))
    matrix, distortion = (RECTIFIED.matrix, None) if rectified else (LENS.matrix, np.array(LENS.distortion))
    full = cv2.projectPoints(points[:, None], np.zeros(3), np.zeros(3), matrix, distortion)[0][:, 0]
    # Super-pixel i stands for pixels i b .. i b + b - 1, also where the width (301) is no multiple of b.
    size = np.array([across, down])
    pixels = (full - [left, top] - (size - 1) / 2) / size
    np.testing.assert_allclose(camera.rays(pixels), points, rtol=0, atol=1e-9)


def test_a_rectified_camera_is_p_without_distortion() -> None:
    info = lens_message()
    assert camera_from_info(info) == LENS
    assert camera_from_info(info, rectified=True) == RECTIFIED
    info.k, info.distortion_model, info.d = [0.0] * 9, "thin_prism", [1.0] * 12
    assert camera_from_info(info, rectified=True) == RECTIFIED


def test_a_rectified_camera_sees_what_the_lens_saw_there() -> None:
    """OpenCV's map, which image_proc uses, says where the lens' image has each pixel of the rectified one."""
    info = lens_message()
    p = np.array(info.p).reshape(3, 4)[:, :3]
    columns, rows = cv2.initUndistortRectifyMap(
        LENS.matrix, np.array(LENS.distortion), np.eye(3), p, (640, 480), cv2.CV_32FC1
    )
    seen = LENS.project(camera_from_info(info, rectified=True).ray_grid())
    np.testing.assert_allclose(seen, np.stack([columns, rows], axis=-1), rtol=0, atol=1e-4)  # float32


def test_r_must_be_the_identity_or_left_out_with_rectified_images() -> None:
    info = lens_message()
    turned = rotation_from_vector([0.0, 0.01, 0.0])
    for r in (turned, np.full((3, 3), math.nan), -np.eye(3), np.diag([1.0, 1.0, 0.0])):
        info.r = r.ravel()
        assert camera_from_info(info) == LENS
        with pytest.raises(CameraError, match="expected R to be the identity with rectified images, got"):
            camera_from_info(info, rectified=True)
    for r in (np.zeros((3, 3)), np.eye(3), rotation_from_vector([0.0, 5e-7, 0.0])):
        info.r = r.ravel()
        assert camera_from_info(info, rectified=True) == RECTIFIED


@pytest.mark.parametrize(
    ("p", "line"),
    [
        ([0.0] * 12, "expected a calibrated camera, got P with zeros only"),
        ([0.0] * 3 + [-47.0] + [0.0] * 8, "expected a calibrated camera, got P with zeros only"),
        ([math.nan] * 12, "expected a calibrated camera, got P with NaN or infinity"),
        ([470.0, 3.0, 322.0, 0.0, 0.0, 468.0, 238.0, 0.0, 0.0, 0.0, 1.0, 0.0], "expected P without skew"),
        ([0.0, 0.0, 322.0, 0.0, 0.0, 468.0, 238.0, 0.0, 0.0, 0.0, 1.0, 0.0], "expected focal lengths above"),
    ],
)
def test_an_unusable_p_is_refused_with_rectified_images(p: list[float], line: str) -> None:
    info = lens_message()
    info.p = p
    assert camera_from_info(info) == LENS
    with pytest.raises(CameraError, match=line):
        camera_from_info(info, rectified=True)


def test_poses_and_transforms_say_the_same() -> None:
    map_from_camera = transform(rotation_from_vector([0.4, -2.0, 1.0]), [1.0, 2.0, 3.0])
    stamp = messages.stamp_from_seconds(12.5)
    pose = messages.pose_stamped(map_from_camera, stamp, "map")
    moved = messages.transform_stamped(map_from_camera, stamp, "map", "camera")
    assert pose.header.frame_id == moved.header.frame_id == "map"
    assert moved.child_frame_id == "camera"
    assert pose.header.stamp == moved.header.stamp == stamp
    orientation, rotation = pose.pose.orientation, moved.transform.rotation
    assert orientation == rotation
    np.testing.assert_allclose(
        rotation_from_quaternion([rotation.x, rotation.y, rotation.z, rotation.w]),
        map_from_camera[:3, :3],
        atol=1e-12,
    )
    translation = moved.transform.translation
    assert [translation.x, translation.y, translation.z] == [1.0, 2.0, 3.0]
    assert [pose.pose.position.x, pose.pose.position.y, pose.pose.position.z] == [1.0, 2.0, 3.0]


def test_a_point_cloud_holds_points_colours_and_weights() -> None:
    points = np.array([[1.0, 2.0, 3.0], [-1.0, 0.5, 0.25]])
    colors = np.array([[255, 128, 1], [0, 0, 0]], np.uint8)
    stamp = messages.stamp_from_seconds(3.0)
    cloud = picture_messages.point_cloud(points, colors, np.array([0.25, 1.0]), stamp, "map")
    assert [(field.name, field.offset, field.datatype) for field in cloud.fields] == [
        ("x", 0, 7),
        ("y", 4, 7),
        ("z", 8, 7),
        ("rgb", 12, 7),
        ("weight", 16, 7),
    ]
    assert (cloud.width, cloud.height, cloud.point_step, cloud.row_step) == (2, 1, 20, 40)
    read = point_cloud2.read_points(cloud)
    np.testing.assert_array_equal(np.stack([read["x"], read["y"], read["z"]], axis=-1), points)
    np.testing.assert_array_equal(np.ascontiguousarray(read["rgb"]).view(np.uint32), [0xFF8001, 0])
    np.testing.assert_array_equal(read["weight"], [0.25, 1.0])
    empty = picture_messages.point_cloud(
        np.empty((0, 3)), np.empty((0, 3), np.uint8), np.empty(0), stamp, "map"
    )
    assert empty.width == 0


@given(st.integers(0, 2**31 * 10**9 - 1))
def test_stamps_come_back(nanoseconds: int) -> None:
    stamp = messages.stamp_from_seconds(nanoseconds / 1e9)
    assert (
        abs(messages.nanoseconds_from_stamp(stamp) - nanoseconds) < 300
    )  # what a float64 of seconds can hold
    assert messages.seconds_from_stamp(stamp) == pytest.approx(nanoseconds / 1e9, abs=3e-7)
