"""What a frame needs before the network sees it, without DDS: stamps, and sizes before decoding."""

from __future__ import annotations

from contextlib import nullcontext
from unittest import mock

import cv2
import numpy as np
import pytest

pytest.importorskip("rclpy", reason="rclpy is not installed: no ROS 2 here")

from builtin_interfaces.msg import Time
from model_files import HEIGHT, TRAINING_CAMERA, WIDTH
from ros_helpers import camera_info_message
from sensor_msgs.msg import CompressedImage

from structpose_ros.frame_input import CameraInfos, FrameRejectedError, StampOrder, read_frame

NOW_NS = 1_700_000_000 * 10**9


@pytest.mark.parametrize(
    ("second", "nanosecond"), [(0, 0), (-1, 0), (-(2**31), 10**9 - 1), (1_700_000_000, 10**9), (0, 2**32 - 1)]
)
def test_a_stamp_that_is_none_is_refused(second: int, nanosecond: int) -> None:
    """Neither TF nor rclpy takes a negative time; the next stamp is judged as if it had not been there."""
    order = StampOrder()
    order.check(Time(sec=1_700_000_000), NOW_NS, 0.0)
    with pytest.raises(FrameRejectedError, match="expected a") as refusal:
        order.check(Time(sec=second, nanosec=nanosecond), NOW_NS, 0.0)
    assert refusal.value.reason.value == "bad_stamp"
    order.check(Time(sec=1_700_000_001), NOW_NS, 0.0)


def png(width: int, height: int) -> CompressedImage:
    good, data = cv2.imencode(".png", np.zeros((height, width), np.uint8))
    assert good
    message = CompressedImage(format="png")
    message.data = data.tobytes()
    return message


def test_a_file_of_another_size_than_the_cameras_is_not_decoded() -> None:
    """One of some kB may hold gigabytes; of the camera's own size it is."""
    infos = CameraInfos()
    infos.add(camera_info_message(TRAINING_CAMERA))
    large = png(4000, 4000)
    with (
        mock.patch.object(cv2, "imdecode", side_effect=AssertionError("decoded")),
        pytest.raises(FrameRejectedError, match=f"of {WIDTH}x{HEIGHT} as its CameraInfo says, got 4000x4000"),
    ):
        read_frame(large, infos, rectified=False)
    assert read_frame(png(WIDTH, HEIGHT), infos, rectified=False).image_rgb.shape == (HEIGHT, WIDTH, 3)


def test_a_lost_camera_info_is_replaced_only_while_the_camera_stays_the_same() -> None:
    """By the latest; after a change, not until all that are kept are of the new camera."""
    other = camera_info_message(TRAINING_CAMERA.resized(2 * WIDTH, 2 * HEIGHT))
    lost = Time(sec=5)
    infos = CameraInfos()
    infos.add(camera_info_message(TRAINING_CAMERA))
    assert infos.find(lost)[0] is not None
    for second in range(10, 10 + CameraInfos.CAPACITY):
        with (
            pytest.raises(FrameRejectedError, match="as the camera changes") if second > 10 else nullcontext()
        ):
            assert not infos.find(lost)[1]
        changed = camera_info_message(TRAINING_CAMERA.resized(2 * WIDTH, 2 * HEIGHT))
        changed.header.stamp = Time(sec=second)
        infos.add(changed)
        assert infos.find(changed.header.stamp) == (changed, True)
    latest, matched = infos.find(lost)
    assert latest is not None and (latest.width, matched) == (other.width, False)
