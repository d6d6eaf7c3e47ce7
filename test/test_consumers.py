"""What the packages that take a pose make of the node's messages, by readers written after their sources."""

from __future__ import annotations

import importlib
import math
import re
import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

import numpy as np
import pytest
import yaml

pytest.importorskip("rclpy", reason="rclpy is not installed: no ROS 2 here")

import tf2_ros
from consumers import (
    PLANE,
    Lookup,
    Reading,
    amcl_reads,
    autoware_ekf_reads,
    covariance_of,
    cuvslam_reads,
    particle_spread,
    pose_of,
    robot_localization_is_set_to,
    robot_localization_reads,
    rtabmap_global_pose_reads,
    rtabmap_initialpose_reads,
    slam_toolbox_reads,
    stamp_of,
)
from geometry_msgs.msg import PoseWithCovarianceStamped, TransformStamped
from model_files import HEIGHT, TRAINING_CAMERA, WIDTH, contract, write_model
from ros_helpers import (
    CAMERA_FRAME,
    NodeProcess,
    Peer,
    camera_info_message,
    image_message,
    nanoseconds,
    next_domain,
    ros_context,
    stamp,
)
from std_srvs.srv import Trigger

from structpose_ros.geometry import (
    invert,
    quaternion_from_rotation,
    rotation_from_vector,
    transform,
)

Start = Callable[..., NodeProcess]
BASE, ODOM, MAP = "base_link", "odom", "map"
# A robot on a floor, which is where the planar packages and the spatial ones agree.
MAP_FROM_BASE = transform(rotation_from_vector([0.0, 0.0, 0.7]), [2.5, -1.25, 0.0])
BASE_FROM_CAMERA = transform([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]], [0.3, 0.1, 1.2])
MAP_FROM_CAMERA = MAP_FROM_BASE @ BASE_FROM_CAMERA
ODOM_FROM_BASE = transform(rotation_from_vector([0.0, 0.0, -1.9]), [-7.0, 11.0, 0.0])
AHEAD = transform(np.eye(3), [0.4, 0.0, 0.0])  # the robot's motion between the image and now
FLOOR_POSITION, FLOOR_ROTATION = 0.05, 0.02
FLOORS = np.repeat([FLOOR_POSITION**2, FLOOR_ROTATION**2], 3)
DOCUMENT = Path(__file__).resolve().parent.parent / "docs" / "integration.md"
RELOCALIZE = "/structpose_relocalizer/relocalize"
STAMP = 1_700_000_000_250_000_000
LATER = STAMP + 150_000_000


def pose_message(
    map_from_base: np.ndarray, covariance: np.ndarray, frame: str = MAP, at: int = STAMP
) -> PoseWithCovarianceStamped:
    """A message made by hand."""
    message = PoseWithCovarianceStamped()
    message.header.frame_id, message.header.stamp = frame, stamp(at)
    position, orientation = message.pose.pose.position, message.pose.pose.orientation
    position.x, position.y, position.z = (float(value) for value in map_from_base[:3, 3])
    quaternion = quaternion_from_rotation(map_from_base[:3, :3])
    orientation.x, orientation.y, orientation.z, orientation.w = (float(value) for value in quaternion)
    message.pose.covariance = [float(value) for value in covariance.reshape(-1)]
    return message


def robot_tf(moves_at: int = LATER, map_from_odom: np.ndarray | None = None) -> Lookup:
    """TF of a robot that stands until `moves_at` and is AHEAD from then on; without map -> odom if None."""

    def lookup(target: str, source: str, at: int | None) -> np.ndarray | None:
        odom_from_base = ODOM_FROM_BASE @ AHEAD if at is not None and at >= moves_at else ODOM_FROM_BASE
        odom_from = {ODOM: np.eye(4), BASE: odom_from_base, CAMERA_FRAME: odom_from_base @ BASE_FROM_CAMERA}
        if map_from_odom is not None:
            odom_from[MAP] = invert(map_from_odom)
        if target not in odom_from or source not in odom_from:
            return None
        return invert(odom_from[target]) @ odom_from[source]

    return lookup


def correlated() -> np.ndarray:
    """A covariance as a camera up on the robot has it: an error in pitch moves the base along x."""
    jacobian = np.eye(6)
    jacobian[0, 4], jacobian[1, 3] = -1.2, 1.2
    return jacobian @ np.diag([0.03**2] * 3 + [0.02**2] * 3) @ jacobian.T + np.diag(FLOORS)


def positive_definite(covariance: np.ndarray) -> bool:
    """Symmetric but for rounding, and all eigenvalues above it."""
    return bool(np.allclose(covariance, covariance.T, rtol=0, atol=1e-15)) and bool(
        np.linalg.eigvalsh(covariance).min() > 1e-12
    )


def assert_pose(reading: Reading, map_from_base: np.ndarray, atol: float = 1e-9) -> None:
    """It was taken, and is this pose."""
    assert not reading.refused
    np.testing.assert_allclose(reading.map_from_base, map_from_base, atol=atol)


def relayed(message: PoseWithCovarianceStamped, topic: str) -> PoseWithCovarianceStamped:
    """What docs/integration.md's relay to `topic` makes of a message, evaluated as topic_tools does."""
    commands = re.findall(r"^ros2 run topic_tools transform .*$", DOCUMENT.read_text(), re.MULTILINE)
    (command,) = (words for words in map(shlex.split, commands) if words[5] == topic)
    names = takewhile(lambda word: not word.startswith("-"), command[command.index("--import") + 1 :])
    modules = {name: importlib.import_module(name) for name in names}
    made = eval(f"lambda m: {command[7]}", modules)(message)
    assert isinstance(made, PoseWithCovarianceStamped)
    return made


# The readers, on messages made by hand.


def test_amcl_moves_the_pose_to_now_and_reads_the_plane() -> None:
    """By odometry, as far as TF reaches; x, y, their covariance, and yaw's variance."""
    covariance = np.arange(36.0).reshape(6, 6) + 1.0
    message = pose_message(MAP_FROM_BASE, covariance)
    reading = amcl_reads(message, robot_tf(), LATER)
    assert_pose(reading, MAP_FROM_BASE @ AHEAD)
    assert reading.planar == pytest.approx((2.5 + 0.4 * math.cos(0.7), -1.25 + 0.4 * math.sin(0.7), 0.7))
    assert reading.covariance[0, 1] == 2.0 and reading.covariance[1, 0] == 7.0
    assert reading.covariance[1, 1] == 8.0 and reading.covariance[5, 5] == 36.0
    assert reading.covariance[0, 5] == 0.0 and math.isnan(reading.covariance[2, 2])

    def odometry_is_late(target: str, source: str, at: int | None) -> np.ndarray | None:
        return None if at == LATER else robot_tf()(target, source, at)

    late = amcl_reads(message, odometry_is_late, LATER)
    assert_pose(late, MAP_FROM_BASE)
    assert late.warnings == ("motion since the stamp is not known",)


@pytest.mark.parametrize(
    ("spoil", "refused"),
    [
        (lambda message: setattr(message.header, "frame_id", ""), "malformed"),
        (lambda message: setattr(message.header, "frame_id", ODOM), "in frame 'odom', expected 'map'"),
        (lambda message: setattr(message.pose.pose.position, "z", math.nan), "malformed"),
        (lambda message: setattr(message.pose.pose.orientation, "w", 0.0), "malformed"),
        (lambda message: message.pose.covariance.__setitem__(14, math.inf), "malformed"),
        (lambda message: setattr(message.pose.pose.position, "x", 101.0), "out of the map"),
    ],
)
def test_amcl_refuses(spoil: Callable[[PoseWithCovarianceStamped], None], refused: str) -> None:
    """Nothing is taken of such a message."""
    message = pose_message(MAP_FROM_BASE, correlated())
    spoil(message)
    assert amcl_reads(message, robot_tf(), LATER, cells=(100, 100)).refused == refused


def test_amcl_of_today_refuses_any_negative_covariance() -> None:
    """Also off the diagonal, where negative numbers are as good as positive ones."""
    message = pose_message(MAP_FROM_BASE, correlated())
    assert not amcl_reads(message, robot_tf(), LATER).refused
    assert amcl_reads(message, robot_tf(), LATER, signs_matter=True).refused == "malformed"
    diagonal = pose_message(MAP_FROM_BASE, np.diag(np.diag(correlated())))
    assert not amcl_reads(diagonal, robot_tf(), LATER, signs_matter=True).refused


def test_amcl_without_covariance_puts_all_particles_in_one_place() -> None:
    """And one that is no covariance makes them NaN."""
    nothing = amcl_reads(pose_message(MAP_FROM_BASE, np.zeros((6, 6))), robot_tf(), LATER)
    np.testing.assert_array_equal(particle_spread(nothing), np.zeros(3))
    indefinite = np.eye(6)
    indefinite[0, 1] = indefinite[1, 0] = 2.0
    assert np.isnan(
        particle_spread(amcl_reads(pose_message(MAP_FROM_BASE, indefinite), robot_tf(), LATER))
    ).any()


def test_robot_localization_turns_pose_covariance_and_axes_into_its_world() -> None:
    """A quarter turn between map and world: what was x is y."""
    world_from_map = transform(rotation_from_vector([0.0, 0.0, math.pi / 2]), [1.0, 2.0, 3.0])

    def lookup(target: str, source: str, at: int | None) -> np.ndarray | None:
        return world_from_map if (target, source) == ("world", MAP) else None

    message = pose_message(MAP_FROM_BASE, np.diag([1.0, 4.0, 9.0, 0.1, 0.2, 0.3]))
    config = (True, False, False, False, False, True)
    reading = robot_localization_reads(message, lookup, config=config, world_frame="world")
    assert_pose(reading, world_from_map @ MAP_FROM_BASE)
    assert reading.used == (False, True, False, False, False, True)
    assert reading.covariance[1, 1] == pytest.approx(1.0)
    assert reading.covariance[5, 5] == pytest.approx(0.3)
    assert robot_localization_reads(message, robot_tf(), world_frame="world").refused
    assert robot_localization_reads(message, robot_tf(), last_set_pose=STAMP).refused
    assert not robot_localization_reads(message, robot_tf()).refused  # its own world needs no TF


def test_robot_localization_never_takes_less_than_1e_9() -> None:
    """Zero becomes 1e-9 m^2, 0.03 mm, and a negative variance its absolute value; set_pose takes them raw."""
    message = pose_message(MAP_FROM_BASE, np.diag([0.0, -0.5, 1.0, 0.0, 0.0, 1e-12]))
    corrected = np.diag(robot_localization_reads(message, robot_tf()).covariance)
    np.testing.assert_allclose(corrected, [1e-9, 0.5, 1.0, 1e-9, 1e-9, 1e-9])
    raw = np.diag(robot_localization_is_set_to(message, robot_tf()).covariance)
    np.testing.assert_allclose(raw, [0.0, -0.5, 1.0, 0.0, 0.0, 1e-12])


def test_robot_localization_in_the_plane_needs_a_diagonal_covariance() -> None:
    """two_d_mode sets the variances of z, roll and pitch to 1e-6 and leaves what they share with x and y."""
    full = robot_localization_reads(pose_message(MAP_FROM_BASE, correlated()), robot_tf(), two_d_mode=True)
    assert not positive_definite(full.covariance)
    diagonal = np.diag(np.diag(correlated()))
    reading = robot_localization_reads(pose_message(MAP_FROM_BASE, diagonal), robot_tf(), two_d_mode=True)
    assert positive_definite(reading.covariance)


def test_robot_localization_is_set_to_the_origin_without_tf() -> None:
    """set_pose in a frame that TF doesn't know isn't refused."""
    message = pose_message(MAP_FROM_BASE, correlated())
    assert_pose(robot_localization_is_set_to(message, robot_tf(), world_frame=ODOM), np.eye(4))
    map_from_odom = transform(np.eye(3), [5.0, 0.0, 0.0])
    known = robot_localization_is_set_to(message, robot_tf(map_from_odom=map_from_odom), world_frame=ODOM)
    assert_pose(known, invert(map_from_odom) @ MAP_FROM_BASE)


def test_rtabmap_takes_an_initial_pose_in_any_frame_it_knows() -> None:
    """None is the map; only in localization mode."""
    message = pose_message(MAP_FROM_BASE, np.zeros((6, 6)))
    assert_pose(rtabmap_initialpose_reads(message, robot_tf()), MAP_FROM_BASE)
    assert rtabmap_initialpose_reads(message, robot_tf(), localization=False).refused
    assert rtabmap_initialpose_reads(message, robot_tf(), map_frame="other").refused
    message.header.frame_id = ""
    assert rtabmap_initialpose_reads(message, robot_tf()).warnings == ("no frame_id, taken as 'map'",)


def test_rtabmaps_global_pose_names_the_sensor_not_the_map() -> None:
    """With the map in the header, the robot's pose would be applied twice."""
    tf = robot_tf(map_from_odom=MAP_FROM_BASE @ invert(ODOM_FROM_BASE))
    named = rtabmap_global_pose_reads(pose_message(MAP_FROM_BASE, correlated(), BASE), tf, STAMP)
    assert_pose(named, MAP_FROM_BASE)
    np.testing.assert_allclose(named.covariance, correlated(), atol=1e-12)
    of_camera = rtabmap_global_pose_reads(
        pose_message(MAP_FROM_CAMERA, correlated(), CAMERA_FRAME), tf, STAMP
    )
    assert_pose(of_camera, MAP_FROM_BASE)
    wrong = rtabmap_global_pose_reads(pose_message(MAP_FROM_BASE, correlated(), MAP), tf, STAMP)
    assert_pose(wrong, MAP_FROM_BASE @ MAP_FROM_BASE)
    moved_on = rtabmap_global_pose_reads(pose_message(MAP_FROM_BASE, correlated(), BASE), tf, LATER)
    assert_pose(moved_on, MAP_FROM_BASE @ invert(AHEAD))  # it goes back where the robot went ahead


def test_rtabmaps_graph_needs_a_covariance_that_can_be_inverted() -> None:
    """Zero ends in an assertion; 9999 in a rotation means that there is a position only."""
    zero = rtabmap_global_pose_reads(pose_message(MAP_FROM_BASE, np.zeros((6, 6)), BASE), robot_tf(), STAMP)
    assert zero.refused.startswith("assertion failed")
    covariance = np.diag([0.01, 0.01, 0.01, 9999.0, 9999.0, 9999.0])
    position = rtabmap_global_pose_reads(pose_message(MAP_FROM_BASE, covariance, BASE), robot_tf(), STAMP)
    assert position.used == (True, True, True, False, False, False)
    old = pose_message(MAP_FROM_BASE, correlated(), BASE, at=STAMP - 10**9)
    assert rtabmap_global_pose_reads(old, robot_tf(), STAMP).refused


def test_the_others_take_the_pose_as_it_stands() -> None:
    """slam_toolbox in any frame, Autoware with a warning, cuVSLAM with the latest TF."""
    message = pose_message(MAP_FROM_BASE, correlated(), ODOM)
    assert slam_toolbox_reads(message).planar == pytest.approx((2.5, -1.25, 0.7))
    assert autoware_ekf_reads(message).warnings == ("in frame 'odom', taken as 'map'",)
    np.testing.assert_allclose(np.diag(autoware_ekf_reads(message).covariance), 5 * np.diag(correlated()))
    assert autoware_ekf_reads(message).covariance[0, 4] == 0.0
    assert cuvslam_reads(message, robot_tf()).refused == "exception: no transform to the map"
    map_from_odom = transform(np.eye(3), [5.0, 0.0, 0.0])
    known = cuvslam_reads(message, robot_tf(map_from_odom=map_from_odom))
    assert_pose(known, map_from_odom @ MAP_FROM_BASE)
    message.pose.pose.position.x = math.nan
    assert autoware_ekf_reads(message).refused


def test_the_documents_relay_changes_what_it_says() -> None:
    """It names the base."""
    message = pose_message(MAP_FROM_BASE, correlated())
    named = relayed(message, "/rtabmap/global_pose")
    assert (named.header.frame_id, stamp_of(named)) == (BASE, STAMP)
    assert named.pose == message.pose


def test_the_documents_yaml_is_for_nodes() -> None:
    """Each block gives one node its parameters."""
    blocks = re.findall(r"^```yaml\n(.*?)^```", DOCUMENT.read_text(), re.MULTILINE | re.DOTALL)
    assert len(blocks) == 3
    for block in blocks:
        (node,) = yaml.safe_load(block).values()
        assert list(node) == ["ros__parameters"]


# The same on what the node says.


@dataclass(frozen=True)
class Consumed:
    """What one run gave: the images' stamps, and a message of each topic."""

    stamps: list[int]
    pose_with_covariance: PoseWithCovarianceStamped
    initialpose: PoseWithCovarianceStamped
    diagonal: bool


class Robot(Peer):
    """The other side with a robot's TF: odom -> base on /tf, base -> camera on /tf_static."""

    def __init__(self, context: object) -> None:
        super().__init__(context)  # type: ignore[arg-type]
        self.bases: list[PoseWithCovarianceStamped] = []
        self.seeds: list[PoseWithCovarianceStamped] = []
        self.sent: list[int] = []
        self.node.create_subscription(
            PoseWithCovarianceStamped, "pose_with_covariance", self.bases.append, 10
        )
        self.node.create_subscription(PoseWithCovarianceStamped, "initialpose", self.seeds.append, 10)
        self._odometry = tf2_ros.TransformBroadcaster(self.node)
        self._mounting = tf2_ros.StaticTransformBroadcaster(self.node)
        self._mounting.sendTransform(tf_message(BASE_FROM_CAMERA, BASE, CAMERA_FRAME, 0))

    def drive_until(self, happened: Callable[[], object], what: str) -> None:
        """Send good images, and odometry up to beyond them, until `happened()`."""
        rows, columns = np.mgrid[:HEIGHT, :WIDTH]
        colours = [columns * 255 // WIDTH, rows * 255 // HEIGHT, rows * 0 + 40]
        image = image_message(np.stack(colours, axis=-1).astype(np.uint8))
        reached = 0

        def checked() -> object:
            nonlocal reached
            if self._next != reached:
                reached = self._next
                self._odometry.sendTransform(tf_message(ODOM_FROM_BASE, ODOM, BASE, reached + 300_000_000))
            return happened()

        self.sent += self.send_until(checked, what, image, camera_info_message(TRAINING_CAMERA))


def tf_message(parent_from_child: np.ndarray, parent: str, child: str, at: int) -> TransformStamped:
    """A transform for TF."""
    message = TransformStamped(child_frame_id=child)
    message.header.frame_id, message.header.stamp = parent, stamp(at)
    moved, turned = message.transform.translation, message.transform.rotation
    moved.x, moved.y, moved.z = (float(value) for value in parent_from_child[:3, 3])
    quaternion = quaternion_from_rotation(parent_from_child[:3, :3])
    turned.x, turned.y, turned.z, turned.w = (float(value) for value in quaternion)
    return message


def write_uncertain_model(path: Path) -> Path:
    """A model of the known pose whose covariance is that of centimetres.

    Its residuals are those of rounding alone, so that its calibration has to make much of them.
    """
    from structpose_ros.network import OnnxNetwork
    from structpose_ros.relocalizer import Relocalizer

    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    colours = [columns * 255 // WIDTH, rows * 255 // HEIGHT, rows * 0 + 40]
    exact = Relocalizer(OnnxNetwork(write_model(path, MAP_FROM_CAMERA), "cpu"))
    result = exact.localize(np.stack(colours, axis=-1).astype(np.uint8), TRAINING_CAMERA)
    assert result.covariance is not None
    factor = 0.05**2 / float(np.diag(result.covariance).max())
    return write_model(path, MAP_FROM_CAMERA, contract(covariance_scale=factor))


@contextmanager
def running(folder: Path, handoff: str, diagonal: bool = False) -> Iterator[Robot]:
    """The node with a hand-off mode, and the robot that it runs on."""
    domain = next_domain()
    parameters = {
        "model.path": write_uncertain_model(folder / "model.onnx"),
        "model.provider": "cpu",
        "model.threads": 1,
        "tf.mode": "none",
        "handoff.mode": handoff,
        "covariance.floor_position": FLOOR_POSITION,
        "covariance.floor_rotation": FLOOR_ROTATION,
        "covariance.diagonal": diagonal,
    }
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
        environment.setenv("ROS_DOMAIN_ID", str(domain))
        node = NodeProcess(domain, folder / "node.log", **parameters)
        try:
            with ros_context(domain) as context:
                robot = Robot(context)
                yield robot
                robot.close()
        finally:
            node.end()
        assert "Traceback" not in node.log, node.log


@pytest.fixture(scope="module", params=["once_per_trigger", "on_lost"])
def consumed_messages(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Consumed:
    """What arrives where the node hands off after a trigger, or as soon as it knows where it is.

    The latter with `covariance.diagonal`.
    """
    diagonal = request.param == "on_lost"
    with running(tmp_path_factory.mktemp("consumers"), request.param, diagonal) as robot:
        robot.drive_until(lambda: robot.bases, "a pose of the base")
        if request.param == "once_per_trigger":
            assert not robot.seeds, "handed off without a trigger"
            client = robot.node.create_client(Trigger, RELOCALIZE)
            robot.wait(client.service_is_ready, f"service {RELOCALIZE}")
            future = client.call_async(Trigger.Request())
            robot.drive_until(future.done, "an answer of relocalize")
            assert future.result().success, future.result().message
        robot.drive_until(lambda: robot.seeds, "initialpose")
        assert len(robot.seeds) == 1, "handed off more than once"
        return Consumed(robot.sent, robot.bases[-1], robot.seeds[0], diagonal)


@pytest.fixture(params=["pose_with_covariance", "initialpose"])
def message(request: pytest.FixtureRequest, consumed_messages: Consumed) -> PoseWithCovarianceStamped:
    """Each of the two messages."""
    found = getattr(consumed_messages, request.param)
    assert isinstance(found, PoseWithCovarianceStamped)
    return found


def test_the_message_is_the_base_in_the_map_at_the_images_stamp(
    message: PoseWithCovarianceStamped, consumed_messages: Consumed
) -> None:
    """Frame, stamp and pose."""
    assert message.header.frame_id == MAP
    assert nanoseconds(message.header.stamp) in consumed_messages.stamps
    np.testing.assert_allclose(pose_of(message), MAP_FROM_BASE, atol=1e-6)


def test_the_covariance_can_be_inverted_and_has_the_floors(message: PoseWithCovarianceStamped) -> None:
    """Positive definite; each axis has at least the floor, and none is left out or without bound."""
    covariance = covariance_of(message)
    assert positive_definite(covariance)
    assert (np.diag(covariance) > FLOORS).all()
    assert (np.diag(covariance) < 0.25**2).all()


@pytest.mark.parametrize("signs_matter", [False, True])
def test_amcl_puts_the_robot_where_it_is_now(consumed_messages: Consumed, signs_matter: bool) -> None:
    """The particles spread by the covariance, moved on since the image; no entry is negative."""
    message = consumed_messages.initialpose
    at = stamp_of(message)
    reading = amcl_reads(message, robot_tf(moves_at=at + 1), at + 1, signs_matter=signs_matter)
    assert not reading.warnings
    assert_pose(reading, MAP_FROM_BASE @ AHEAD, atol=1e-6)
    assert (particle_spread(reading) >= FLOOR_ROTATION - 1e-9).all()


@pytest.mark.parametrize("two_d_mode", [False, True])
def test_robot_localization_corrects_with_it(
    message: PoseWithCovarianceStamped, consumed_messages: Consumed, two_d_mode: bool
) -> None:
    """The matrix that its gain inverts is positive definite; in the plane it has to be diagonal."""
    tf = robot_tf()
    reading = robot_localization_reads(message, tf, two_d_mode=two_d_mode)
    assert_pose(reading, MAP_FROM_BASE, atol=1e-6)
    diagonal = consumed_messages.diagonal or message is consumed_messages.initialpose
    assert positive_definite(reading.covariance) == (diagonal or not two_d_mode)
    assert reading.used == (True,) * 6
    assert (np.diag(reading.covariance)[PLANE] >= FLOORS[PLANE] - 1e-12).all()
    assert_pose(robot_localization_is_set_to(message, tf), MAP_FROM_BASE, atol=1e-6)


def test_rtabmap_starts_there_and_its_graph_takes_it(message: PoseWithCovarianceStamped) -> None:
    """initialpose as it is, global_pose relayed with the base's name."""
    tf = robot_tf(map_from_odom=MAP_FROM_BASE @ invert(ODOM_FROM_BASE), moves_at=2 * stamp_of(message))
    assert_pose(rtabmap_initialpose_reads(message, tf), MAP_FROM_BASE, atol=1e-6)
    reading = rtabmap_global_pose_reads(relayed(message, "/rtabmap/global_pose"), tf, stamp_of(message))
    assert not reading.warnings
    assert_pose(reading, MAP_FROM_BASE, atol=1e-6)
    assert reading.used == (True,) * 6
    np.testing.assert_allclose(reading.covariance, covariance_of(message), atol=1e-9)


def test_slam_toolbox_cuvslam_and_autoware_take_it(message: PoseWithCovarianceStamped) -> None:
    """In the plane, as a hint, and in the EKF's own frame."""
    assert slam_toolbox_reads(message).planar == pytest.approx((2.5, -1.25, 0.7), abs=1e-6)
    tf = robot_tf(map_from_odom=np.eye(4))
    assert_pose(cuvslam_reads(message, tf), MAP_FROM_BASE, atol=1e-6)
    reading = autoware_ekf_reads(message)
    assert not reading.warnings
    assert_pose(reading, MAP_FROM_BASE, atol=1e-6)
    assert positive_definite(reading.covariance)


def test_cuvslams_call_for_a_hint_is_answered(tmp_path: Path) -> None:
    """`visual_slam/trigger_hint` is an empty message: no frame, no covariance, no prior."""
    with running(tmp_path, "once_per_trigger") as robot:
        hint = robot.node.create_publisher(PoseWithCovarianceStamped, "trigger_localization", 10)
        robot.drive_until(lambda: robot.bases, "a pose of the base")
        robot.wait(lambda: hint.get_subscription_count() > 0, "the node's subscription")
        hint.publish(PoseWithCovarianceStamped())
        robot.drive_until(lambda: robot.seeds, "initialpose")
        assert_pose(cuvslam_reads(robot.seeds[0], robot_tf(map_from_odom=np.eye(4))), MAP_FROM_BASE, 1e-6)
