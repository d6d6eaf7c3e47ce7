"""The node and TF over real DDS: what each tf.mode sends, at which time, and what it refuses to send."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="rclpy is not installed: no ROS 2 here")

from model_files import TRAINING_CAMERA, contract, write_model
from node_rig import (
    ACTIVATE,
    DEACTIVATE,
    MAP_FROM_CAMERA,
    Rig,
    Robot,
    image,
    info,
    matrix_of,
    pixels,
    rig,
)
from ros_helpers import CAMERA_FRAME, nanoseconds

from structpose_ros.covariance import CovarianceOptions, base_covariance, published_covariance
from structpose_ros.geometry import invert, rotation_from_vector, transform
from structpose_ros.messages import target_from_source_of_pose
from structpose_ros.network import OnnxNetwork
from structpose_ros.relocalizer import Relocalizer

MS = 1_000_000
SECOND = 1_000_000_000
BASE_FROM_MAST = transform(rotation_from_vector([0.0, 0.1, 0.4]), [0.3, -0.1, 1.2])
MAST_FROM_CAMERA = transform(rotation_from_vector([-1.2, 1.2, -1.2]), [0.05, 0.02, -0.1])
BASE_FROM_CAMERA = BASE_FROM_MAST @ MAST_FROM_CAMERA
MAP_FROM_BASE = MAP_FROM_CAMERA @ invert(BASE_FROM_CAMERA)
EXACT = {"rtol": 0.0, "atol": 1e-6}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_model(tmp_path / "model.onnx", MAP_FROM_CAMERA)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Rig]:
    with rig(tmp_path) as made:
        yield made


def mount(robot: Robot) -> None:
    """The camera stands on a mast on the robot's base."""
    robot.fix(("base_link", "mast", BASE_FROM_MAST), ("mast", CAMERA_FRAME, MAST_FROM_CAMERA))


def turned(yaw: float, x: float) -> np.ndarray:
    """A place in the plane."""
    return transform(rotation_from_vector([0.0, 0.0, yaw]), [x, 0.0, 0.0])


# A joint that moves fast around each image's time: places 40 ms before, and 40 and 55 ms after it.
AROUND = [(-40 * MS, turned(0.2, 1.0)), (40 * MS, turned(0.6, 2.0)), (55 * MS, turned(-3.0, -50.0))]
AT_THE_STAMP = turned(0.4, 1.5)


def drive(
    robot: Robot,
    happened: Callable[[], object],
    what: str,
    parent: str = "odom",
    child: str = "base_link",
    samples: Sequence[tuple[int, np.ndarray]] = AROUND,
) -> list[int]:
    """Send images, and a moving joint's transforms around the time of each, until `happened()`."""
    reached = 0

    def fed() -> object:
        nonlocal reached
        if robot._next != reached:  # an image was sent
            reached = robot._next
            robot.move(parent, child, [(reached + offset, place) for offset, place in samples])
        return happened()

    return robot.send_until(fed, what, image(), info())


def pose_of_base(robot: Robot) -> np.ndarray:
    return target_from_source_of_pose(robot.bases[-1].pose.pose)


# What each mode sends.


def test_map_to_camera(bench: Rig, model: Path) -> None:
    """The camera in the map at the image's time; without a base its pose is the one with covariance."""
    bench.start(model__path=model, frames__base_frame="''")
    robot = bench.robot
    sent = robot.send_until(
        lambda: len(robot.heard) > 1 and robot.bases, "transforms and a pose", image(), info()
    )
    for _, message in robot.heard:
        assert nanoseconds(message.header.stamp) in sent
        assert (message.header.frame_id, message.child_frame_id) == ("map", CAMERA_FRAME)
        np.testing.assert_allclose(matrix_of(message.transform), MAP_FROM_CAMERA, **EXACT)
    np.testing.assert_allclose(pose_of_base(robot), MAP_FROM_CAMERA, **EXACT)
    stamps = [nanoseconds(message.header.stamp) for _, message in robot.heard]
    assert sorted(set(stamps)) == stamps


def uncertain_model(path: Path) -> tuple[Path, np.ndarray]:
    """A model whose calibration makes centimetres of what rounding leaves, and its camera's covariance."""

    def covariance() -> np.ndarray:
        result = Relocalizer(OnnxNetwork(path, "cpu", 1)).localize(pixels(), TRAINING_CAMERA)
        assert result.covariance is not None
        return result.covariance

    write_model(path, MAP_FROM_CAMERA)
    factor = 0.05**2 / float(np.diag(covariance()).max())
    write_model(path, MAP_FROM_CAMERA, contract(covariance_scale=factor))
    return path, covariance()


def test_map_to_base(bench: Rig, tmp_path: Path) -> None:
    """The base in the map over a static chain, at the image's time; its covariance is the camera's, moved."""
    model, covariance = uncertain_model(tmp_path / "model.onnx")
    options = CovarianceOptions(scale=2.0, floor_position=0.02, floor_rotation=0.03)
    mount(bench.robot)
    bench.start(
        model__path=model,
        tf__mode="map_to_base",
        covariance__scale=2.0,
        covariance__floor_position=0.02,
        covariance__floor_rotation=0.03,
    )
    robot = bench.robot

    def complete() -> bool:
        first = [message.header for _, message in robot.heard[:1]]
        shared = [pose.header for pose in robot.poses if pose.header in [base.header for base in robot.bases]]
        return bool(first) and first[0] in shared

    sent = robot.send_until(complete, "a transform and its poses", image(), info())
    message = robot.heard[0][1]
    assert (message.header.frame_id, message.child_frame_id) == ("map", "base_link")
    assert nanoseconds(message.header.stamp) in sent
    np.testing.assert_allclose(matrix_of(message.transform), MAP_FROM_BASE, **EXACT)

    base = next(base for base in robot.bases if base.header == message.header)
    pose = next(pose for pose in robot.poses if pose.header == base.header)
    np.testing.assert_allclose(target_from_source_of_pose(pose.pose), MAP_FROM_CAMERA, **EXACT)
    np.testing.assert_allclose(pose_of_base(robot), MAP_FROM_BASE, **EXACT)
    moved = base_covariance(covariance, MAP_FROM_CAMERA, invert(BASE_FROM_CAMERA))
    assert np.abs(moved - covariance).max() > 0.1 * np.abs(covariance).max(), "the lever arm counts"
    np.testing.assert_allclose(
        np.reshape(base.pose.covariance, (6, 6)), published_covariance(moved, options), rtol=1e-4, atol=1e-9
    )


def test_map_to_odom_is_composed_at_the_images_time_and_sent_again(bench: Rig, model: Path) -> None:
    """Odometry is interpolated at the image's stamp; its correction goes on at tf.rate, ahead of now."""
    tolerance = 5.0
    mount(bench.robot)
    bench.start(
        model__path=model, tf__mode="map_to_odom", tf__rate=50.0, tf__tolerance=tolerance, tf__timeout=1.0
    )
    robot = bench.robot
    sent = drive(robot, lambda: robot.heard and robot.bases, "a correction")
    assert nanoseconds(robot.bases[0].header.stamp) in sent
    np.testing.assert_allclose(pose_of_base(robot), MAP_FROM_BASE, **EXACT)

    robot.wait(lambda: len(robot.heard) >= 40, "the correction again and again")
    expected = MAP_FROM_BASE @ invert(AT_THE_STAMP)
    for _, message in robot.heard:
        assert (message.header.frame_id, message.child_frame_id) == ("map", "odom")
        np.testing.assert_allclose(matrix_of(message.transform), expected, **EXACT)
    ahead = [(nanoseconds(message.header.stamp) - at) / SECOND for at, message in robot.heard]
    assert max(ahead) < tolerance
    assert statistics.median(ahead) > tolerance - 0.2
    assert statistics.median(periods(robot)) == pytest.approx(1 / 50, rel=0.5)

    assert robot.set(tf__rate=5.0).successful
    seen = len(robot.heard) + 1
    robot.wait(lambda: len(robot.heard) >= seen + 4, "the correction at another rate")
    assert statistics.median(periods(robot)[seen:]) == pytest.approx(1 / 5, rel=0.2)

    assert robot.set(tf__rate=1000.0).successful
    seen = len(robot.heard)
    robot.wait(lambda: len(robot.heard) >= seen + 300, "the correction as often as can be")
    assert bench.process.stop() == 0
    assert min(periods(robot)) > 0, "stamps that don't increase"
    assert "tf_conflict" not in bench.process.log, "its own echo"


def periods(robot: Robot) -> list[float]:
    """Seconds between the stamps of what the node sent."""
    stamps = [nanoseconds(message.header.stamp) for _, message in robot.heard]
    return [(after - before) / SECOND for before, after in zip(stamps, stamps[1:], strict=False)]


def test_map_to_odom_while_lost(bench: Rig, model: Path) -> None:
    """tf.keep_when_lost decides, also when it changes while the robot is lost."""
    mount(bench.robot)
    bench.start(
        model__path=model, tf__mode="map_to_odom", tf__rate=100.0, tf__timeout=1.0, run__lost_timeout=0.3
    )
    robot = bench.robot
    drive(robot, lambda: robot.heard, "a correction")
    robot.wait(lambda: robot.state() == "LOST", "LOST")
    kept = len(robot.heard)
    robot.wait(lambda: len(robot.heard) >= kept + 20, "the correction, carried on by odometry")

    assert robot.set(tf__keep_when_lost=False).successful
    assert_silence(robot)
    seen = len(robot.heard)
    drive(robot, lambda: len(robot.heard) > seen, "a correction again")
    robot.wait(lambda: robot.state() == "LOCALIZED", "LOCALIZED")
    robot.wait(lambda: robot.state() == "LOST", "LOST again")
    assert_silence(robot)


def assert_silence(robot: Robot) -> None:
    """From now on nothing arrives on /tf, while diagnostics do: for a second."""
    # What was sent before now may still be on its way: the diagnostics that come next follow it.
    arrays = len(robot.arrays)
    robot.wait(lambda: len(robot.arrays) > arrays, "diagnostics")
    since = nanoseconds(robot.arrays[-1].header.stamp)
    robot.wait(lambda: len(robot.arrays) > arrays + 2, "diagnostics after that")
    late = [at for at, message in robot.heard if nanoseconds(message.header.stamp) - SECOND // 10 > since]
    assert not late, f"{len(late)} transforms"


def test_an_inactive_node_sends_no_transforms(bench: Rig, model: Path) -> None:
    """And an active one none before its next pose: what it loaded meanwhile may be another map."""
    mount(bench.robot)
    bench.start(model__path=model, tf__mode="map_to_odom", tf__rate=100.0, tf__timeout=1.0)
    robot = bench.robot
    drive(robot, lambda: robot.heard, "a correction")
    robot.wait(lambda: len(robot.heard) >= 5, "the correction")
    assert robot.change(DEACTIVATE)
    robot.wait_for_reason("inactive")
    assert_silence(robot)
    assert robot.state() == "SEARCHING"
    seen = len(robot.heard)
    assert robot.change(ACTIVATE)
    robot.wait_for_reason("no_image")
    assert len(robot.heard) == seen
    drive(robot, lambda: len(robot.heard) > seen, "the correction again")


def test_none_sends_nothing(bench: Rig, model: Path) -> None:
    """No publisher on /tf; the base's pose is there all the same."""
    mount(bench.robot)
    bench.start(model__path=model, tf__mode="none")
    robot = bench.robot
    robot.send_until(lambda: robot.bases, "a pose of the base", image(), info())
    robot.wait_for_reason("localized")
    np.testing.assert_allclose(pose_of_base(robot), MAP_FROM_BASE, **EXACT)
    assert robot.node.count_publishers("/tf") == 0


# What it refuses.


def test_a_camera_with_a_parent_gets_no_second_one(bench: Rig, model: Path) -> None:
    """tf_conflict names both frames, once in the log; the poses go on."""
    bench.robot.fix(("camera_link", CAMERA_FRAME, MAST_FROM_CAMERA))
    bench.start(model__path=model, frames__base_frame="''")
    robot = bench.robot
    robot.send_until(
        lambda: robot.reason() == "tf_conflict" and len(robot.bases) > 3,
        "the refusal, and poses all the same",
        image(),
        info(),
    )
    assert robot.diagnostics[-1].level == b"\x02"
    assert f"'camera_link' -> '{CAMERA_FRAME}'" in robot.last_line()
    assert not robot.heard
    assert bench.process.stop() == 0
    lines = [line for line in bench.log if "tf_conflict" in line]
    assert len(lines) == 1
    assert f"no transform sent: tf_conflict: expected '{CAMERA_FRAME}' to have no parent" in lines[0]


def test_a_second_broadcaster_of_the_same_edge_is_refused(bench: Rig, model: Path) -> None:
    """As AMCL's map -> odom beside ours."""
    robot = bench.robot
    mount(robot)
    bench.start(model__path=model, tf__mode="map_to_odom", tf__rate=100.0, tf__timeout=1.0)
    robot.node.create_timer(0.05, lambda: robot.move("map", "odom", [(time.time_ns(), turned(1.0, 7.0))]))
    robot.wait_for_reason("no_image")
    drive(robot, lambda: robot.reason() == "tf_conflict", "the refusal")
    assert robot.diagnostics[-1].level == b"\x02"
    assert "'map' -> 'odom', but somebody else does" in robot.last_line()
    seen = len(robot.bases)
    drive(robot, lambda: len(robot.bases) >= seen + 3, "poses all the same")
    assert not robot.heard
    assert bench.process.stop() == 0
    assert sum("tf_conflict" in line for line in bench.log) <= 2, (
        "throttled, although the timer tries at 100 Hz"
    )


# What is missing.


def test_without_the_base_only_its_poses_are_missing(bench: Rig, model: Path) -> None:
    """no_base_transform is a warning; as soon as the transform is there, so is everything else."""
    bench.start(model__path=model, tf__mode="map_to_base")
    robot = bench.robot
    robot.localize()
    status = robot.wait_for_reason("no_base_transform")
    assert status.level == b"\x01"
    assert f"expected a transform from 'base_link' to '{CAMERA_FRAME}' at the image's stamp" in status.message
    robot.localize()
    robot.wait_for_reason("no_base_transform")
    assert not robot.bases and not robot.heard
    mount(robot)
    robot.send_until(lambda: robot.bases and robot.heard, "the base", image(), info())
    robot.wait_for_reason("localized")
    np.testing.assert_allclose(pose_of_base(robot), MAP_FROM_BASE, **EXACT)


def test_without_odometry_only_its_correction_is_missing(bench: Rig, model: Path) -> None:
    """no_odom_transform is a warning; both poses are published; the correction comes with the odometry."""
    mount(bench.robot)
    bench.start(model__path=model, tf__mode="map_to_odom", tf__timeout=1.0)
    robot = bench.robot
    robot.send_until(lambda: robot.bases, "a pose of the base", image(), info())
    status = robot.wait_for_reason("no_odom_transform")
    assert status.level == b"\x01"
    assert f"expected a transform from '{CAMERA_FRAME}' to 'odom'" in status.message
    assert not robot.heard
    drive(robot, lambda: robot.heard, "the correction")
    drive(robot, lambda: robot.reason() == "localized", "localized")


def test_a_transform_that_comes_after_the_image_is_waited_for(bench: Rig, model: Path) -> None:
    """The odometry at an image's time is sent 0.3 s after the image, within tf.timeout."""
    robot = bench.robot
    mount(robot)
    bench.start(model__path=model, tf__mode="map_to_odom", tf__timeout=1.0)
    drive(robot, lambda: robot.heard, "a first correction")
    known = robot._next + AROUND[-1][0]
    seen = len(robot.diagnostics)
    sent = robot.send(image(), info())
    assert sent > known, "the node can't know the odometry at this time yet"

    def catch_up() -> None:
        late.cancel()
        # Another place than before, so that the correction shows that it was this one.
        robot.move(
            "odom", "base_link", [(sent - 20 * MS, turned(1.0, 4.0)), (sent + 20 * MS, turned(1.4, 5.0))]
        )

    late = robot.node.create_timer(0.3, catch_up)
    robot.wait(lambda: sent in robot.pose_stamps(), "the pose of the image whose odometry came late")
    expected = MAP_FROM_BASE @ invert(turned(1.2, 4.5))

    def corrected() -> bool:
        return np.allclose(matrix_of(robot.heard[-1][1].transform), expected, **EXACT)

    robot.wait(corrected, "its correction")

    def longest_wait() -> float:
        return float(robot.values()["latency_confirm_ms"].split("p99=")[1])

    robot.wait(lambda: longest_wait() > 200.0, "the latency of that")
    assert not any("no_odom_transform" in status.message for status in robot.diagnostics[seen:])


def test_a_camera_that_pans_is_taken_where_it_was(bench: Rig, model: Path) -> None:
    """base -> camera moves; the base's pose uses where it stood at the image's time."""
    robot = bench.robot
    robot.fix(("pan", CAMERA_FRAME, MAST_FROM_CAMERA))
    bench.start(model__path=model, tf__mode="map_to_base", tf__timeout=1.0)
    drive(
        robot,
        lambda: len(robot.bases) > 1 and len(robot.heard) > 1,
        "poses of the base, and transforms",
        "base_link",
        "pan",
    )
    expected = MAP_FROM_CAMERA @ invert(AT_THE_STAMP @ MAST_FROM_CAMERA)
    for base in robot.bases:
        np.testing.assert_allclose(target_from_source_of_pose(base.pose.pose), expected, **EXACT)
    for message in robot.heard_of("base_link"):
        np.testing.assert_allclose(matrix_of(message.transform), expected, **EXACT)
