"""NumPy to ROS messages and back: every encoding with padded rows, malformed messages refused in words."""

from __future__ import annotations

import array
import math
import sys

import cv2
import numpy as np
import pytest

pytest.importorskip("rclpy", reason="rclpy is not installed: no ROS 2 here")

from hypothesis import given, settings
from hypothesis import strategies as st
from model_files import TRAINING_CAMERA
from ros_helpers import camera_info_message
from sensor_msgs.msg import CameraInfo, Image, RegionOfInterest
from sensor_msgs_py import point_cloud2

from structpose_ros import messages, picture_messages
from structpose_ros.camera import Camera, CameraError, resize_image
from structpose_ros.geometry import rotation_from_quaternion, rotation_from_vector, transform
from structpose_ros.messages import ImageMessageError, camera_from_info, image_rgb_from_message

ENCODINGS = sorted(messages._ENCODINGS)
PLAIN = ("rgb8", "bgr8", "8UC3", "rgba8", "bgra8", "mono8", "8UC1")
BAYER = {"bayer_rggb8": "RGGB", "bayer_bggr8": "BGGR", "bayer_gbrg8": "GBRG", "bayer_grbg8": "GRBG"}


def message_of(pixels: np.ndarray, encoding: str, padding: int = 0, big_endian: bool = False) -> Image:
    """Lay pixels out as a message, each row followed by `padding` bytes that are not zero."""
    height, width = pixels.shape[:2]
    content = pixels.astype(pixels.dtype.newbyteorder(">" if big_endian else "<"))
    rows = np.ascontiguousarray(content).view(np.uint8).reshape(height, -1)
    padded = np.full((height, rows.shape[1] + padding), 0xA5, np.uint8)
    padded[:, : rows.shape[1]] = rows
    message = Image(height=height, width=width, encoding=encoding, is_bigendian=int(big_endian))
    message.step = padded.shape[1]
    message.data = array.array("B", padded.tobytes())
    return message


def encoded(image_rgb: np.ndarray, encoding: str) -> np.ndarray:
    """Return an RGB image (grey where the encoding is) as the encoding's pixels."""
    if encoding in ("mono8", "8UC1"):
        return image_rgb[..., 0]
    order = {"rgb8": "RGB", "bgr8": "BGR", "8UC3": "BGR", "rgba8": "RGBA", "bgra8": "BGRA"}[encoding]
    alpha = np.full(image_rgb.shape[:2], 7, np.uint8)
    return np.stack([alpha if name == "A" else image_rgb[..., "RGB".index(name)] for name in order], axis=-1)


@given(
    encoding=st.sampled_from(PLAIN),
    width=st.integers(1, 20),
    height=st.integers(1, 20),
    padding=st.integers(0, 17),
    seed=st.integers(0, 2**32 - 1),
)
@settings(deadline=None)
def test_plain_encodings_come_back_exactly(
    encoding: str, width: int, height: int, padding: int, seed: int
) -> None:
    image_rgb = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    if encoding in ("mono8", "8UC1"):
        image_rgb[..., 1:] = image_rgb[..., :1]
    read = image_rgb_from_message(message_of(encoded(image_rgb, encoding), encoding, padding))
    assert read.dtype == np.uint8
    np.testing.assert_array_equal(read, image_rgb)


@given(
    width=st.integers(1, 20),
    height=st.integers(1, 20),
    padding=st.integers(0, 5),
    big_endian=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
@settings(deadline=None)
def test_mono16_keeps_its_high_byte_in_either_byte_order(
    width: int, height: int, padding: int, big_endian: bool, seed: int
) -> None:
    grey = np.random.default_rng(seed).integers(0, 65536, (height, width), dtype=np.uint16)
    read = image_rgb_from_message(message_of(grey, "mono16", padding, big_endian))
    np.testing.assert_array_equal(read, np.repeat((grey // 256)[..., None], 3, axis=-1))


@pytest.mark.parametrize("padding", [0, 1, 5])
@pytest.mark.parametrize("encoding", sorted(BAYER))
def test_bayer_patterns_give_their_colours(encoding: str, padding: int) -> None:
    """A uniform colour seen through the pattern's filters is that colour again."""
    color = {"R": 200, "G": 120, "B": 30}
    pattern = [[color[name] for name in BAYER[encoding][:2]], [color[name] for name in BAYER[encoding][2:]]]
    mosaic = np.tile(np.array(pattern, np.uint8), (8, 10))
    read = image_rgb_from_message(message_of(mosaic, encoding, padding))
    np.testing.assert_array_equal(read, np.broadcast_to([200, 120, 30], (16, 20, 3)))


@pytest.mark.parametrize("padding", [0, 1, 5])
@pytest.mark.parametrize("encoding", ["yuv422", "uyvy", "yuv422_yuy2", "yuyv"])
def test_yuv_gives_its_colours(encoding: str, padding: int) -> None:
    """Two colours, converted by the formula of BT.601 in video range."""
    colors = np.array([[220, 60, 40], [30, 90, 200]], np.float64)
    red, green, blue = colors.T
    y = 16 + (65.481 * red + 128.553 * green + 24.966 * blue) / 255
    u = 128 + (-37.797 * red - 74.203 * green + 112.0 * blue) / 255
    v = 128 + (112.0 * red - 93.786 * green - 18.214 * blue) / 255
    luma_first = encoding in ("yuv422_yuy2", "yuyv")
    pairs = [[y, u, y, v] if luma_first else [u, y, v, y] for y, u, v in zip(y, u, v, strict=True)]
    pixels = np.repeat(np.rint(pairs).astype(np.uint8).reshape(1, 4, 2), 6, axis=0)
    read = image_rgb_from_message(message_of(pixels, encoding, padding))
    expected = np.broadcast_to(np.repeat(colors, 2, axis=0), (6, 4, 3))
    np.testing.assert_allclose(read.astype(np.float64), expected, atol=3)


def test_rgb8_is_a_view() -> None:
    """No copy, also with padding: what changes in the message changes in the image."""
    message = message_of(np.zeros((4, 5, 3), np.uint8), "rgb8", padding=2)
    read = image_rgb_from_message(message)
    message.data[message.step] = 99
    assert read[1, 0, 0] == 99
    resized, _ = resize_image(read, Camera(5, 4, 1.0, 1.0, 0.0, 0.0), 3, 2)
    assert resized.shape == (2, 3, 3)


@pytest.mark.parametrize("data", [bytes(12), np.zeros(12, np.uint8), [0] * 12])
def test_data_of_any_kind_is_read(data: object) -> None:
    """rclpy gives an array.array; what a program builds itself may be something else."""
    message = Image(height=2, width=2, encoding="rgb8", step=6)
    message.data = data
    assert image_rgb_from_message(message).shape == (2, 2, 3)


@given(
    encoding=st.sampled_from([*ENCODINGS, "", "16UC1", "32FC1", "nv21", "rgb16", "bayer_rggb16", "jpeg"]),
    size=st.tuples(st.integers(0, 6), st.integers(0, 6)),
    step=st.integers(0, 24),
    data=st.binary(max_size=150),
    big_endian=st.integers(0, 1),
)
@settings(deadline=None, max_examples=500)
def test_malformed_messages_are_refused_and_never_crash(
    encoding: str, size: tuple[int, int], step: int, data: bytes, big_endian: int
) -> None:
    height, width = size
    message = Image(height=height, width=width, encoding=encoding, step=step, is_bigendian=big_endian)
    message.data = data
    try:
        read = image_rgb_from_message(message)
    except ImageMessageError as error:
        assert str(error).startswith("expected ")
        assert "got " in str(error)
    else:
        assert read.shape == (height, width, 3)
        assert len(data) == step * height


@given(
    encoding=st.sampled_from(ENCODINGS),
    width=st.integers(1, 6),
    height=st.integers(1, 6),
    padding=st.integers(0, 3),
)
@settings(deadline=None, max_examples=300)
def test_well_formed_messages_of_any_size_are_read_or_refused(
    encoding: str, width: int, height: int, padding: int
) -> None:
    """OpenCV demands even sizes of some encodings: that must come as our error."""
    described = messages._ENCODINGS[encoding]
    dtype = np.dtype(f"u{described.bytes_per_channel}")
    message = message_of(np.zeros((height, width, described.channels), dtype), encoding, padding)
    try:
        assert image_rgb_from_message(message).shape == (height, width, 3)
    except ImageMessageError as error:
        assert encoding in str(error)
        assert encoding not in PLAIN


def test_image_errors_say_what_was_expected_and_what_came() -> None:
    good = message_of(np.zeros((4, 6, 3), np.uint8), "rgb8")

    def error_of(**changes: object) -> str:
        message = message_of(np.zeros((4, 6, 3), np.uint8), "rgb8")
        for name, value in changes.items():
            setattr(message, name, value)
        with pytest.raises(ImageMessageError) as raised:
            image_rgb_from_message(message)
        return str(raised.value)

    assert image_rgb_from_message(good).shape == (4, 6, 3)
    assert error_of(width=0) == "expected an image of at least 1x1, got 0x4"
    assert error_of(step=17) == "expected a step of at least 18 bytes for 6 pixels of rgb8, got 17"
    assert error_of(data=bytes(71)) == "expected 72 bytes of data (step 18 x height 4), got 71"
    assert error_of(encoding="32FC1") == "expected a colour or grey image, got 32FC1: is it a depth image?"
    assert "rgb8, bgr8" in error_of(encoding="h265")
    assert error_of(encoding="h265").endswith("got 'h265'")


def test_other_encodings_go_to_cv_bridge_where_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    class CvBridge:
        """Stands for the real one: knows rgb16."""

        def imgmsg_to_cv2(self, message: Image, desired_encoding: str) -> np.ndarray:
            if message.encoding != "rgb16":
                raise KeyError(message.encoding)
            assert desired_encoding == "rgb8"
            return np.full((message.height, message.width, 3), 5, np.uint8)

    monkeypatch.setitem(sys.modules, "cv_bridge", type(sys)("cv_bridge"))
    monkeypatch.setattr(sys.modules["cv_bridge"], "CvBridge", CvBridge, raising=False)
    pixels = np.zeros((2, 3, 3), np.uint16)
    assert (image_rgb_from_message(message_of(pixels, "rgb16")) == 5).all()
    with pytest.raises(
        ImageMessageError, match="expected an encoding that cv_bridge turns into rgb8, got 'odd'"
    ):
        image_rgb_from_message(message_of(pixels, "odd"))


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
    k=st.lists(st.floats(width=64), min_size=9, max_size=9),
    d=st.lists(st.floats(width=64), max_size=14),
    model=st.sampled_from(["plumb_bob", "rational_polynomial", "equidistant", "", "none"]),
    size=st.tuples(st.integers(0, 100), st.integers(0, 100)),
)
@settings(deadline=None)
def test_any_camera_info_gives_a_camera_or_a_camera_error(
    k: list[float], d: list[float], model: str, size: tuple[int, int]
) -> None:
    info = CameraInfo(width=size[0], height=size[1], distortion_model=model)
    info.k, info.d = k, d
    try:
        camera = camera_from_info(info)
    except CameraError as error:
        assert "got" in str(error)
    else:
        assert (camera.width, camera.height) == size
        assert camera.fx > 0


@pytest.mark.parametrize(("x", "y"), [(0, 0), (1, 1), (1, 0)])
def test_region_and_binning_see_the_same_rays(x: int, y: int) -> None:
    """A pixel of the cut and binned image looks where the mean of its pixels in the full image does."""
    full = Camera(64, 48, 60.0, 61.0, 31.2, 24.1)
    info = camera_info_message(full)
    info.roi = RegionOfInterest(x_offset=8, y_offset=4, width=40, height=32, do_rectify=False)
    info.binning_x, info.binning_y = 2 * x, 2 * y
    across, down = max(2 * x, 1), max(2 * y, 1)
    camera = camera_from_info(info)
    assert (camera.width, camera.height) == (40 // across, 32 // down)
    columns = 8 + 5 * across + (across - 1) / 2
    rows = 4 + 3 * down + (down - 1) / 2
    np.testing.assert_allclose(
        camera.rays(np.array([5, 3])), full.rays(np.array([columns, rows])), atol=1e-12
    )


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


def test_opencv_still_takes_what_a_view_gives() -> None:
    """The resize that follows must read rows with padding between them."""
    image_rgb = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    view = image_rgb_from_message(message_of(image_rgb, "rgb8", padding=7))
    np.testing.assert_array_equal(
        cv2.resize(view, (32, 24), interpolation=cv2.INTER_AREA),
        cv2.resize(image_rgb, (32, 24), interpolation=cv2.INTER_AREA),
    )
