"""Bags with something wrong: one clear line, nothing half-written, and a full disk loses no time."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rosbags", reason="rosbags is not installed")

from bags import (
    COLOR,
    COLOR_FRAME,
    DEPTH,
    DEPTH_INFO,
    INFO,
    STORAGES,
    Robot,
    Sent,
    camera_info,
    compressed,
    full_disk,
    image,
    moved,
    moving_tf,
    pose_message,
    rendered,
    tf,
    write_bag,
    write_drive,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from recordings import CAMERA

from structpose_ros.cli import main
from structpose_ros.training.frames import RecordingError, open_recording
from structpose_ros.training.importers.bag_reader import seconds_text
from structpose_ros.training.importers.common import Selection
from structpose_ros.training.importers.rosbag2 import import_rosbag2

SHOTS = rendered(6)
ROBOT = Robot(color_from_depth=np.eye(4))
ALL = Selection(test_fraction=0.0)


def good(robot: Robot = ROBOT) -> Sent:
    return [*robot.static(), *moving_tf(SHOTS), *robot.camera_messages(SHOTS)]


def without(sent: Sent, *topics: str) -> Sent:
    return [item for item in sent if item[1] not in topics]


def changed(sent: Sent, topic: str, index: int, change: Callable[[Any], None]) -> Sent:
    """Return what was sent with one message of a topic changed."""
    message = [item for item in sent if item[1] == topic][index][2]
    change(message)
    return sent


def edge_of(item: tuple[int, str, Any]) -> str:
    return f"{item[2].transforms[0].header.frame_id}-{item[2].transforms[0].child_frame_id}"


def without_edge(sent: Sent, edge: str, first_ns: int = 0, last_ns: int = 2**63) -> Sent:
    return [
        item
        for item in sent
        if item[1] != "/tf" or edge_of(item) != edge or not first_ns <= item[0] <= last_ns
    ]


def refusal(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """Return the one line that `structpose import rosbag2` ends with."""
    assert main(["import", "rosbag2", *map(str, arguments)]) == 1
    captured = capsys.readouterr()
    lines = [line for line in captured.err.splitlines() if line and not line.startswith("importing: ")]
    assert len(lines) == 1, captured.err
    assert captured.out == ""
    return lines[0].removeprefix("structpose: error: ")


def set_stamps_to_zero(message: Any) -> None:
    message.header.stamp.sec = message.header.stamp.nanosec = 0


def twice_the_colour() -> Sent:
    more = [(at, "/infra/image_raw", message) for at, topic, message in good() if topic == COLOR]
    return [*good(), *more]


def mistaken_lens() -> Sent:
    late = SHOTS[3].stamp_ns
    return [*good(), (late, INFO, camera_info(late, replace(CAMERA, fx=61.0)))]


def static_twice() -> Sent:
    other = tf(moved(0, "camera_link", COLOR_FRAME, np.eye(4)))
    return [*good(), (SHOTS[1].stamp_ns, "/tf_static", other)]


def two_parents() -> Sent:
    return [*good(), (SHOTS[1].stamp_ns, "/tf_static", tf(moved(0, "world", "base_link", np.eye(4))))]


def other_clock() -> Sent:
    robot = Robot()
    shots = [replace(shot, stamp_ns=shot.stamp_ns % 1_000_000_000_000) for shot in SHOTS]
    return [*robot.static(), *moving_tf(SHOTS), *robot.camera_messages(shots)]


def odd_frames() -> Sent:
    return changed(good(), COLOR, 3, lambda message: setattr(message.header, "frame_id", "other"))


def video() -> Sent:
    sent = without(good(), COLOR)
    at = SHOTS[0].stamp_ns
    return [*sent, (at, f"{COLOR}/compressedDepth", compressed(at, b"x", "16UC1; compressedDepth rvl"))]


CASES: list[tuple[Callable[[], Sent], list[str], str]] = [
    (lambda: [], [], "--image: expected one topic of colour images, got none of none"),
    (
        lambda: without(good(), COLOR),
        [],
        "--image: expected one topic of colour images, got none of /camera/",
    ),
    (twice_the_colour, [], f"--image: expected one topic of colour images, got 2: {COLOR} (sensor_msgs/msg/"),
    (good, ["--image", "/nowhere"], f"--image: expected one of {COLOR} (sensor_msgs/msg/Image), "),
    (good, ["--image", INFO], f"got {INFO} (sensor_msgs/msg/CameraInfo)"),
    (good, ["--image", DEPTH], f"{DEPTH}: expected an encoding of rgb8, "),
    (good, ["--depth", COLOR], f"{COLOR}: expected an encoding of 16UC1, mono16, 32FC1, 64FC1, got 'rgb8'"),
    (lambda: good(Robot(color="h264")), [], f"{COLOR}: expected an encoding of rgb8, "),
    (
        lambda: without(good(), INFO),
        [],
        f"--camera-info: expected a CameraInfo topic beside {COLOR}, got none",
    ),
    (lambda: without(good(), DEPTH), [], "(--no-depth imports without depth)"),
    (video, ["--no-depth"], "--image: expected one topic of colour images, got none of"),
    (lambda: without(good(), DEPTH_INFO), [], f"{DEPTH}: expected a CameraInfo (--depth-info), as its size"),
    (mistaken_lens, [], f"{INFO}: expected one camera all along, got Camera("),
    (odd_frames, [], f"{COLOR}: expected images of one frame, got '{COLOR_FRAME}', 'other'"),
    (
        lambda: changed(good(), COLOR, 2, set_stamps_to_zero),
        [],
        f"{COLOR}: expected images with a stamp in their header, got 0",
    ),
    (
        lambda: without(good(), "/tf", "/tf_static"),
        [],
        "expected poses on /tf or --pose-topic, got neither; topics: none",
    ),
    (good, ["--pose-topic", "/odom"], "--pose-topic: expected one of none, got /odom"),
    (
        lambda: without_edge(good(), "map-odom"),
        [],
        f"TF: expected 'map' and '{COLOR_FRAME}' in one tree, got no 'map' among base_link, ",
    ),
    (
        lambda: [*without_edge(good(), "odom-base_link")],
        [],
        "got trees that are not connected: base_link, camera_color_optical_frame, "
        "camera_depth_optical_frame, camera_link; map, odom",
    ),
    (good, ["--map-frame", "earth"], "got no 'earth' among base_link, "),
    (static_twice, [], "TF 'camera_link' from 'camera_color_optical_frame': expected one transform as it is"),
    (two_parents, [], "TF: expected one parent of 'base_link', got odom, world"),
    (other_clock, [], "expected images while there are poses, 1690000000."),
    (
        lambda: without_edge(good(), "odom-base_link", SHOTS[1].stamp_ns, SHOTS[4].stamp_ns),
        [],
        "3 of 6 frames are bad: /camera/color/image_raw at 1690000000.223456796: TF 'odom' from 'base_link': "
        "expected poses at most 0.2 s apart, got a gap of 0.350 s",
    ),
    (
        lambda: good(Robot(depth_delay_ns=45_000_000)),
        [],
        f"{DEPTH}: expected depth within 0.02 s of a colour image, got 0.045 s at best (--max-offset)",
    ),
    (good, ["--max-gap", "0"], "max_gap: expected a number above 0, got 0.0"),
]


@pytest.mark.parametrize("number", range(len(CASES)))
def test_one_line_and_nothing_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], number: int
) -> None:
    sent, options, expected = CASES[number]
    bag = write_bag(tmp_path / "bag", sent())
    assert expected in refusal(capsys, bag, tmp_path / "out", *options)
    assert not (tmp_path / "out").exists()


def test_bad_frames_are_left_out_on_request(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of frames 0 to 5, 2 and 3 lie in a gap of TF, 4 has bad depth and 5 a bad image."""
    sent = without_edge(
        good(), "odom-base_link", SHOTS[1].stamp_ns + 1 + 3_000_000, SHOTS[3].stamp_ns + 3_000_000
    )
    sent = changed(sent, DEPTH, 4, lambda message: setattr(message, "step", 10))
    sent = changed(sent, COLOR, 5, lambda message: setattr(message, "height", 47))
    bag, out = write_bag(tmp_path / "bag", sent), tmp_path / "out"
    options = ["--test-fraction", "0"]
    assert refusal(capsys, bag, out, *options).startswith("2 of 6 frames are bad: ")  # before any is read
    assert not out.exists()
    assert main(["import", "rosbag2", str(bag), str(out), "--skip-bad", *options]) == 0
    *left_out, last = capsys.readouterr().out.splitlines()
    beginnings = [line.partition(" at ")[2].partition(": ")[0] for line in left_out]
    assert beginnings == [seconds_text(SHOTS[number].stamp_ns) for number in (2, 3, 4, 5)]
    for line, reason in zip(
        left_out, ["a gap of 0.250 s", "a gap of 0.250 s", "step >= 2 x width", "bytes of data"], strict=True
    ):
        assert reason in line
    assert last == f"wrote 2 frames to {out}"
    assert len(open_recording(out).files("train")[0]) == 2


@pytest.mark.parametrize("size", [(24, 32), (96, 128)])
def test_depth_of_another_size_than_its_camera(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], size: tuple[int, int]
) -> None:
    stamp = SHOTS[2].stamp_ns
    sent = [item for item in good() if (item[0], item[1]) != (stamp, DEPTH)]
    sent.append(
        (stamp, DEPTH, image(stamp, np.zeros(size, np.uint16), "16UC1", "camera_depth_optical_frame"))
    )
    line = refusal(capsys, write_bag(tmp_path / "bag", sent), tmp_path / "out")
    assert line.startswith(
        f"1 of 4 frames are bad: {COLOR} at 1690000000.323456803: expected depth of 64x48 "
    )
    assert not (tmp_path / "out" / "camera.yaml").exists()


@pytest.mark.parametrize("topic", [INFO, DEPTH_INFO])
def test_a_camera_that_claims_any_size(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], topic: str
) -> None:
    """Nothing is made of that size before an image has shown it."""
    huge = replace(CAMERA, width=2**31, height=2**31)
    sent = [(at, topic, camera_info(at, huge)) for at, name, _ in good() if name == topic]
    bag = write_bag(tmp_path / "bag", [*without(good(), topic), *sent])
    line = refusal(capsys, bag, tmp_path / "out")
    assert line.startswith("4 of 4 frames are bad: ")
    assert "2147483648x2147483648 as its camera says, got 64x48" in line
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 1.0])
@pytest.mark.parametrize(("storage", "compression"), STORAGES)
def test_a_recording_that_is_cut_off(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], storage: str, compression: str, share: float
) -> None:
    bag = write_drive(tmp_path / "bag", SHOTS, storage=storage, compression=compression)
    file = next(path for path in bag.iterdir() if path.name != "metadata.yaml")
    content = file.read_bytes()
    file.write_bytes(content[: min(int(len(content) * share), len(content) - 1)])
    line = refusal(capsys, bag, tmp_path / "out")
    assert line.startswith(f"{bag}: expected a whole rosbag2 recording, got one cut off or damaged (")
    assert not (tmp_path / "out").exists()


def test_what_is_no_bag(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    expected = "expected a rosbag2 folder with metadata.yaml, or a .mcap or .db3 file, got "
    out = tmp_path / "out"
    (tmp_path / "notes.txt").write_text("notes")
    (tmp_path / "old.bag").write_text("#ROSBAG V2.0")
    (tmp_path / "empty").mkdir()
    (tmp_path / "no.mcap").write_text("notes, and more than fits into a header")
    (tmp_path / "no.db3").write_text("notes, and more than fits into a header")
    for name, got in (
        ("nowhere", "nothing at "),
        ("notes.txt", "the file "),
        ("old.bag", f"{tmp_path / 'old.bag'}, which looks like ROS 1: rosbags-convert makes it ROS 2"),
        ("empty", f"the folder {tmp_path / 'empty'} with []"),
    ):
        assert refusal(capsys, tmp_path / name, out).startswith(expected + got)
    for name in ("no.mcap", "no.db3"):
        assert "expected a whole rosbag2 recording" in refusal(capsys, tmp_path / name, out)
    bag = write_drive(tmp_path / "bag", SHOTS)
    (bag / "metadata.yaml").rename(tmp_path / "metadata.yaml")
    line = refusal(capsys, bag, out)
    assert line.endswith(f"; give {bag / 'bag.mcap'} itself, or run `ros2 bag reindex {bag}`")
    for content in ("", "a: [", "!!python/object/apply:os.getcwd []", "rosbag2_bagfile_information: 3"):
        (bag / "metadata.yaml").write_text(content)
        assert "expected a whole rosbag2 recording" in refusal(capsys, bag, out)
    assert not out.exists()


def test_a_file_out_of_a_compressed_bag_says_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bag = write_drive(tmp_path / "bag", SHOTS, storage="sqlite3", compression="message")
    line = refusal(capsys, bag / "bag.db3", tmp_path / "out")
    assert "got a compressed one: give the bag's folder" in line


def test_a_second_bag_has_to_fit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = write_bag(tmp_path / "first", good())
    lens = replace(CAMERA, fx=61.0)
    other = write_drive(tmp_path / "other", SHOTS, replace(ROBOT, camera=lens))
    line = refusal(capsys, first, tmp_path / "out", "--test", other)
    assert line.startswith(f"{other}: expected the camera of {first}, Camera(width=64")
    bare = write_bag(tmp_path / "bare", without(good(), DEPTH))
    line = refusal(capsys, first, tmp_path / "out", "--test", bare)
    assert line.startswith(f"{bare}: expected the topic {DEPTH}, got ")


def test_poses_between_changing_frames(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sent = without(good(), "/tf")
    for shot, child in zip(SHOTS, ["base_link", "imu"] * 3, strict=True):
        message = pose_message("Odometry", shot.stamp_ns, "odom", child, np.eye(4))
        sent.append((shot.stamp_ns, "/odom", message))
    line = refusal(capsys, write_bag(tmp_path / "bag", sent), tmp_path / "out", "--pose-topic", "/odom")
    assert line == "/odom: expected poses between two frames, got [('odom', 'base_link'), ('odom', 'imu')]"


def contents(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_a_full_disk_at_every_write(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bag = write_drive(tmp_path / "bag", SHOTS[:3], ROBOT)
    options = ["--test-fraction", "0.34", "--test-blocks", "1", "--test-gap", "0"]
    with full_disk(after=1000) as writes:
        assert main(["import", "rosbag2", str(bag), str(tmp_path / "whole"), *options]) == 0
    expected = contents(tmp_path / "whole")
    total = writes[0]
    assert total == len(expected) == 3 * 3 + 7  # origin, camera, stamps of three sequences, two splits
    capsys.readouterr()
    for after in range(total):
        out = tmp_path / f"out{after}"
        with full_disk(after):
            assert main(["import", "rosbag2", str(bag), str(out), *options]) == 1
        line = capsys.readouterr().err.strip().splitlines()[-1]
        assert "No space left on device" in line
        assert contents(out).items() <= expected.items()
        assert main(["import", "rosbag2", str(bag), str(out), *options]) == 0
        assert contents(out) == expected
        shutil.rmtree(out)


@cache
def small_bags() -> list[dict[str, bytes]]:
    """Return the files of a small bag in each storage."""
    with tempfile.TemporaryDirectory() as folder:
        bags = [Path(folder, f"{index}", "bag") for index in range(len(STORAGES))]
        robot = Robot(color="jpeg", depth="compressed")
        return [
            contents(write_drive(bag, SHOTS[:2], robot, *how))
            for bag, how in zip(bags, STORAGES, strict=True)
        ]


@given(data=st.data())
@settings(max_examples=60)
def test_damage_anywhere_is_an_error_of_ours_or_none(data: st.DataObject) -> None:
    files = data.draw(st.sampled_from(small_bags()))
    damaged = data.draw(st.sampled_from(sorted(files)))
    content = bytearray(files[damaged])
    for _ in range(data.draw(st.integers(1, 8))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    with tempfile.TemporaryDirectory() as folder:
        bag, out = Path(folder, "bag"), Path(folder, "out")
        bag.mkdir()
        for name, whole in files.items():
            (bag / name).write_bytes(bytes(content) if name == damaged else whole)
        try:
            assert import_rosbag2(bag, out, selection=ALL).frames in (1, 2)
        except RecordingError:
            assert not (out / "camera.yaml").exists()
