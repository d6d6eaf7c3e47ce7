"""Bags: frames written with a known truth come back, whatever the storage, encoding and source of poses."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("rosbags", reason="rosbags is not installed")

from bags import (
    COLOR,
    COLOR_FRAME,
    DEPTH,
    INFO,
    OPTICAL,
    START_NS,
    STORAGES,
    Robot,
    Sent,
    Shot,
    camera_info,
    map_from_base,
    map_from_odom,
    moved,
    moving_tf,
    pose_message,
    rendered,
    tf,
    write_bag,
    write_drive,
)
from recordings import CAMERA, pose, real_data

from structpose_ros.camera import Camera
from structpose_ros.geometry import invert, rotation_from_vector, transform
from structpose_ros.training.frames import Frame, open_recording, read_pose, read_stamps
from structpose_ros.training.importers.bag_options import BagOptions
from structpose_ros.training.importers.common import Selection
from structpose_ros.training.importers.rosbag2 import import_rosbag2
from structpose_ros.training.importers.sevenscenes import (
    COLOR_CAMERA,
    COLOR_FROM_DEPTH,
    DEPTH_CAMERA,
    SevenScenesRecording,
)

ALL = Selection(test_fraction=0.0)


def frames(root: Path, split: str = "train") -> list[Frame]:
    """Return what an import has written."""
    recording = open_recording(root)
    return [recording.read(item) for item in recording.files(split)[0]]


def assert_poses(found: list[Frame], shots: list[Shot]) -> None:
    for frame, shot in zip(found, shots, strict=True):
        np.testing.assert_allclose(frame.map_from_camera, shot.map_from_camera, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("storage", "compression"), STORAGES)
@pytest.mark.parametrize(
    ("color", "depth"),
    [("rgb8", "16UC1"), ("bgr8", "32FC1"), ("png", "compressed"), ("jpeg", "32FC1 compressed")],
)
def test_rendered_frames_come_back(
    tmp_path: Path, storage: str, compression: str, color: str, depth: str
) -> None:
    shots = rendered(3)
    bag = write_drive(tmp_path / "bag", shots, Robot(color=color, depth=depth), storage, compression)
    imported = import_rosbag2(bag, tmp_path / "out", selection=ALL)
    assert (imported.frames, imported.bad) == (3, [])
    found = frames(tmp_path / "out")
    assert_poses(found, shots)
    assert open_recording(tmp_path / "out").camera == CAMERA
    stamps = read_stamps(tmp_path / "out" / "seq-01")
    assert [stamps[number] for number in range(3)] == [float(f"{shot.stamp_ns / 1e9:.9f}") for shot in shots]
    for number, (frame, shot) in enumerate(zip(found, shots, strict=True)):
        if color == "jpeg":
            kept = tmp_path / "out" / "seq-01" / f"frame-{number:06d}.color.jpg"
            assert kept.read_bytes() == shot.jpeg
        else:
            np.testing.assert_array_equal(frame.image_rgb, shot.image_rgb)
        if depth == "32FC1 compressed":  # inverse depth in steps of 1 / A
            error = np.abs(frame.depth_mm * 1e-3 - shot.depth_mm * 1e-3)
            assert (error <= 5e-4 + (shot.depth_mm * 1e-3) ** 2 / 10100 * 1.01).all()
        else:
            np.testing.assert_array_equal(frame.depth_mm, shot.depth_mm)


@cache
def kitchen() -> tuple[list[Shot], list[Frame]]:
    """Return twelve real frames as a Kinect sends them, and what import_7scenes makes of them."""
    recording = SevenScenesRecording(real_data("7scenes_kitchen"))
    files = [item for split in ("train", "test") for item in recording.files(split)[0]][::60][:12]
    shots, expected = [], []
    for number, item in enumerate(files):
        depth_mm = cv2.imread(str(item.depth), cv2.IMREAD_UNCHANGED)
        expected.append(recording.read(item))
        map_from_color = read_pose(item.pose) @ invert(COLOR_FROM_DEPTH)
        stamp_ns = START_NS + number * 33_333_333
        shots.append(
            Shot(stamp_ns, expected[-1].image_rgb, depth_mm, map_from_color, item.color.read_bytes())
        )
    return shots, expected


KINECT = Robot(COLOR_CAMERA, "jpeg", "compressed", DEPTH_CAMERA, COLOR_FROM_DEPTH)


@pytest.mark.parametrize(("storage", "compression"), STORAGES[:4])
@pytest.mark.parametrize(("color", "depth"), [("rgb8", "16UC1"), ("jpeg", "compressed")])
def test_a_real_kinect_is_registered_as_7scenes_is(
    tmp_path: Path, storage: str, compression: str, color: str, depth: str
) -> None:
    count = 12 if (storage, compression, color) == ("mcap", "none", "jpeg") else 2
    shots, expected = (items[:count] for items in kitchen())
    robot = replace(KINECT, color=color, depth=depth)
    bag = write_drive(tmp_path / "bag", shots, robot, storage, compression)
    assert import_rosbag2(bag, tmp_path / "out", selection=ALL).frames == len(shots)
    for found, frame in zip(frames(tmp_path / "out"), expected, strict=True):
        np.testing.assert_allclose(found.map_from_camera, frame.map_from_camera, rtol=0, atol=1e-6)
        np.testing.assert_array_equal(found.depth_mm, frame.depth_mm)
        np.testing.assert_array_equal(found.image_rgb, frame.image_rgb)


def pose_topic(kind: str, shots: list[Shot]) -> tuple[Sent, BagOptions]:
    """Return what one source of poses sends, and the options that read it."""
    if kind == "tf":
        return moving_tf(shots), BagOptions()
    sent: Sent = []
    for shot in shots:
        stamp, in_map = shot.stamp_ns, map_from_base(shot.map_from_camera)
        if kind == "Odometry":  # in odom, which TF joins with the map
            in_map = invert(map_from_odom(stamp)) @ in_map
            message = pose_message(kind, stamp, "odom", "base_link", in_map)
        elif kind == "PoseStamped":  # the camera itself
            message = pose_message(kind, stamp, "world", "", shot.map_from_camera)
        else:
            message = pose_message(kind, stamp, "world", "", in_map)
        sent.append((stamp, "/pose", message))
    if kind == "Odometry":
        sent += [item for item in moving_tf(shots) if item[2].transforms[0].header.frame_id == "map"]
        return sent, BagOptions(pose_topic="/pose", map_frame="map")
    body = None if kind == "PoseStamped" else "base_link"
    return sent, BagOptions(pose_topic="/pose", pose_frame=body)


@pytest.mark.parametrize("kind", ["tf", "Odometry", "PoseStamped", "PoseWithCovarianceStamped"])
def test_each_source_of_poses_gives_the_same(tmp_path: Path, kind: str) -> None:
    shots = rendered(4)
    sent, options = pose_topic(kind, shots)
    bag = write_bag(tmp_path / "bag", [*Robot().static(), *Robot().camera_messages(shots), *sent])
    import_rosbag2(bag, tmp_path / "out", selection=ALL, options=options)
    assert_poses(frames(tmp_path / "out"), shots)


def test_a_body_frame_looks_along_x_and_an_optical_frame_along_z(tmp_path: Path) -> None:
    """A robot faces 30 deg left of x; its camera, 0.3 m ahead and 0.1 m left, looks 10 deg down."""
    yaw, down = np.radians(30), np.radians(10)
    world_from_base = transform(rotation_from_vector([0, 0, yaw]), [2.0, 1.0, 0.0])
    base_from_link = transform(rotation_from_vector([0, down, 0]), [0.3, 0.1, 0.5])
    shot = rendered(1)[0]
    fixed = [
        moved(0, "base_link", "camera_link", base_from_link),
        moved(0, "camera_link", COLOR_FRAME, transform(OPTICAL, [0.0, 0.0, 0.0])),
    ]
    sent: Sent = [
        *Robot().camera_messages([shot]),
        (shot.stamp_ns, "/tf_static", tf(*fixed)),
    ]
    odometry = pose_message("Odometry", shot.stamp_ns, "odom", "base_link", world_from_base)
    sent.append((shot.stamp_ns, "/odom", odometry))
    bag = write_bag(tmp_path / "bag", sent)
    import_rosbag2(bag, tmp_path / "out", selection=ALL, options=BagOptions(pose_topic="/odom"))
    found = frames(tmp_path / "out")[0].map_from_camera
    forward = [np.cos(yaw) * np.cos(down), np.sin(yaw) * np.cos(down), -np.sin(down)]
    np.testing.assert_allclose(found[:3, 2], forward, atol=1e-12)
    np.testing.assert_allclose(found[:3, 0], [np.sin(yaw), -np.cos(yaw), 0], atol=1e-12)
    ahead = [0.3 * np.cos(yaw) - 0.1 * np.sin(yaw), 0.3 * np.sin(yaw) + 0.1 * np.cos(yaw), 0.5]
    np.testing.assert_allclose(found[:3, 3], np.add([2.0, 1.0, 0.0], ahead), atol=1e-12)


def test_depth_of_the_same_frame_and_another_size_is_scaled_by_its_camera(tmp_path: Path) -> None:
    shots = rendered(1)
    small = CAMERA.resized(32, 24)
    shots[0].depth_mm = np.full((24, 32), 2000, dtype=np.uint16)
    robot = Robot(depth_camera=small)
    info = (shots[0].stamp_ns, "/camera/depth/camera_info", camera_info(shots[0].stamp_ns, small))
    sent = [*robot.static(), *moving_tf(shots), *robot.camera_messages(shots), info]
    import_rosbag2(write_bag(tmp_path / "bag", sent), tmp_path / "out", selection=ALL)
    found = frames(tmp_path / "out")[0].depth_mm
    assert set(found[found > 0].tolist()) == {2000}
    assert (found > 0).sum() == 32 * 24  # nearest: every depth pixel hits one of four


def test_a_distorted_lens_is_kept_and_a_rectified_image_has_none(tmp_path: Path) -> None:
    lens = Camera(64, 48, 60.0, 61.0, 31.0, 24.0, "equidistant", (0.1, -0.02, 0.003, 1e-4))
    rectified = Camera(64, 48, 50.0, 51.0, 30.0, 22.0)
    shots = rendered(1)
    p = np.insert(rectified.matrix, 3, 0.0, axis=1).reshape(-1)
    sent = [item for item in Robot().camera_messages(shots) if item[1] != INFO]
    sent.append((shots[0].stamp_ns, INFO, camera_info(shots[0].stamp_ns, lens, p=p)))
    bag = write_bag(tmp_path / "bag", [*Robot().static(), *moving_tf(shots), *sent])
    for flag, expected in ((False, lens), (True, rectified)):
        out = tmp_path / f"out{flag}"
        import_rosbag2(bag, out, selection=ALL, options=BagOptions(rectified=flag))
        assert open_recording(out).camera == expected


def test_odd_units_of_depth(tmp_path: Path) -> None:
    shots = rendered(1)
    bag = write_drive(tmp_path / "bag", shots)
    import_rosbag2(bag, tmp_path / "out", selection=ALL, options=BagOptions(depth_scale=2.5e-4))
    np.testing.assert_array_equal(
        frames(tmp_path / "out")[0].depth_mm, np.rint(shots[0].depth_mm / 4).astype(np.uint16)
    )


def test_an_import_without_depth(tmp_path: Path) -> None:
    shots = rendered(2)
    bag = write_drive(tmp_path / "bag", shots, Robot(depth=None))
    import_rosbag2(bag, tmp_path / "out", selection=ALL, options=BagOptions(with_depth=False))
    assert not any(frame.depth_mm.any() for frame in frames(tmp_path / "out"))


def test_a_file_alone_is_read_like_its_folder(tmp_path: Path) -> None:
    shots = rendered(2)
    for storage, name in (("mcap", "m.mcap"), ("sqlite3", "s.db3")):
        bag = write_drive(tmp_path / name[0], shots, storage=storage)
        import_rosbag2(bag / name, tmp_path / f"out_{storage}", selection=ALL)
        assert_poses(frames(tmp_path / f"out_{storage}"), shots)


def test_the_nearest_depth_is_taken_by_header_and_not_by_arrival(tmp_path: Path) -> None:
    shots = rendered(4)
    robot = Robot(depth_delay_ns=15_000_000, latency_ns={COLOR: 250_000_000, DEPTH: 10_000_000})
    bag = write_drive(tmp_path / "bag", shots, robot)
    assert import_rosbag2(bag, tmp_path / "out", selection=ALL).frames == 4
    for frame, shot in zip(frames(tmp_path / "out"), shots, strict=True):
        np.testing.assert_array_equal(frame.depth_mm, shot.depth_mm)
        np.testing.assert_array_equal(frame.image_rgb, shot.image_rgb)


def test_images_without_pose_or_depth_are_counted(tmp_path: Path) -> None:
    """The camera starts two images before SLAM and stops one after it; one depth image was dropped."""
    shots = rendered(8)
    sent = Robot().camera_messages(shots)
    sent = [item for item in sent if (item[0], item[1]) != (shots[4].stamp_ns, DEPTH)]
    bag = write_bag(tmp_path / "bag", [*Robot().static(), *moving_tf(shots[2:7]), *sent])
    imported = import_rosbag2(bag, tmp_path / "out", selection=ALL)
    assert imported.bad == [
        "2 of 8 images in bag, before the first pose",
        "1 of 8 images in bag, after the last pose",
        "1 of 8 images in bag, without depth within 0.02 s",
    ]
    assert_poses(frames(tmp_path / "out"), [shots[2], shots[3], shots[5], shots[6]])


def test_a_second_drive_is_the_test_split(tmp_path: Path) -> None:
    first, second = rendered(6), rendered(5, seed=4, start_ns=START_NS + 600_000_000_000)
    bag = write_drive(tmp_path / "first", first)
    other = write_drive(tmp_path / "second", second, storage="sqlite3")
    import_rosbag2(bag, tmp_path / "out", test=other, selection=Selection(test_fraction=0.5))
    assert_poses(frames(tmp_path / "out", "train"), first)
    assert_poses(frames(tmp_path / "out", "test"), second)
    assert read_stamps(tmp_path / "out" / "seq-02")[0] == pytest.approx(second[0].stamp_ns / 1e9, abs=1e-6)


def test_thinning_and_blocks_of_one_drive(tmp_path: Path) -> None:
    shots = rendered(1) * 9
    for index in range(9):  # 4 cm from one to the next
        at = pose(0.04 * index, 0.1, 0.3)
        shots[index] = replace(shots[0], stamp_ns=shots[0].stamp_ns + index * 50_000_000, map_from_camera=at)
    bag = write_drive(tmp_path / "bag", shots)
    import_rosbag2(bag, tmp_path / "thin", selection=Selection(min_distance=0.1, test_fraction=0.0))
    assert_poses(frames(tmp_path / "thin"), shots[::3])
    import_rosbag2(bag, tmp_path / "cut", selection=Selection(test_fraction=0.3, blocks=1, gap=1))
    assert_poses(frames(tmp_path / "cut", "test"), shots[3:6])
    assert_poses(frames(tmp_path / "cut"), [*shots[:2], *shots[7:]])


def test_registered_depth_of_another_camera_is_not_taken_as_it_is(tmp_path: Path) -> None:
    """One frame and one size, but its CameraInfo says half the focal length: it covers the middle twice."""
    shots = rendered(1)
    wide = replace(CAMERA, fx=30.0, fy=30.0)
    shots[0].depth_mm = np.full((48, 64), 1500, dtype=np.uint16)
    info = (shots[0].stamp_ns, "/camera/depth/camera_info", camera_info(shots[0].stamp_ns, wide))
    sent = [*Robot().static(), *moving_tf(shots), *Robot().camera_messages(shots), info]
    import_rosbag2(write_bag(tmp_path / "bag", sent), tmp_path / "out", selection=ALL)
    found = frames(tmp_path / "out")[0].depth_mm
    assert (found > 0).sum() == 32 * 24


def test_two_drives_of_a_topic_sent_twice(tmp_path: Path) -> None:
    """A second publisher repeats every image with its stamp: each is taken once."""
    shots = rendered(2)
    sent = Robot().camera_messages(shots)
    again = [(received + 1000, topic, message) for received, topic, message in sent]
    bag = write_bag(tmp_path / "bag", [*Robot().static(), *moving_tf(shots), *sent, *again])
    assert import_rosbag2(bag, tmp_path / "out", selection=ALL).frames == 2
