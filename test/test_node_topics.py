"""Each topic and service of the node over real DDS: type, QoS, frame, stamp and what it says."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="rclpy is not installed: no ROS 2 here")

import tf2_ros
from diagnostic_msgs.msg import DiagnosticStatus
from geometry_msgs.msg import PoseStamped, PoseWithCovarianceStamped, TransformStamped
from model_files import (
    HEIGHT,
    STRIDE,
    TRAINING_CAMERA,
    WIDTH,
    View,
    write_model,
    write_model_of_views,
)
from nav_msgs.msg import Path as PathMessage
from node_bench import (
    BLUE,
    NODE,
    ONE_CAMERA,
    Bench,
    bench,
    depth_of,
    error_of,
    matrix_of,
    numbers_of,
    picture,
)
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from ros_helpers import CAMERA_FRAME, camera_info_message, image_message, nanoseconds
from sensor_msgs.msg import CameraInfo, Image, PointCloud2
from sensor_msgs_py import point_cloud2
from std_msgs.msg import Bool
from std_srvs.srv import Trigger
from visualization_msgs.msg import Marker

from structpose_ros.geometry import invert, quaternion_from_rotation, rotation_from_vector, transform
from structpose_ros.map_cloud import MapCloud
from structpose_ros.pictures import PATH_STEP

LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
BASE = "base_link"
BASE_FROM_CAMERA = transform([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]], [0.3, 0.1, 1.2])
FLOOR_POSITION, FLOOR_ROTATION = 0.05, 0.02
CELLS = (HEIGHT // STRIDE, WIDTH // STRIDE)
OUTLIERS = 12  # of 48 cells
CLOUD = MapCloud(
    np.array([[-1.0, 0.0, 0.5], [2.0, 4.0, 1.5], [0.5, 1.0, 0.75]], dtype=np.float32),
    np.array([[255, 0, 1], [2, 250, 3], [4, 5, 245]], dtype=np.uint8),
)

# Where the camera is, by view: it moves along x, the third time too little and the fifth time it turns.
STEPS = ((0.0, 0.0), (0.2, 0.0), (0.2 + 0.6 * PATH_STEP[0], 0.0), (0.4, 0.0), (0.4, 1.5 * PATH_STEP[1]))
WAY = [transform(rotation_from_vector([0.0, np.radians(turn), 0.0]), [x, 1.0, 0.5]) for x, turn in STEPS]
ON_THE_PATH = (0, 1, 3, 4)
DOUBTFUL = len(WAY)  # the view in which a quarter of the cells is where it should not be


def views() -> list[View]:
    """The way, and a doubtful view."""
    rays = TRAINING_CAMERA.ray_grid(STRIDE)
    misplaced = rays.copy()
    misplaced.reshape(-1, 3)[:OUTLIERS, 0] += 3.0
    return [View(pose, rays) for pose in WAY] + [View(WAY[0], misplaced)]


def base_under_camera() -> TransformStamped:
    """The base as the camera's child, so that the camera can have the map as its parent."""
    message = TransformStamped(child_frame_id=BASE)
    message.header.frame_id = CAMERA_FRAME
    camera_from_base = invert(BASE_FROM_CAMERA)
    moved, turned = message.transform.translation, message.transform.rotation
    moved.x, moved.y, moved.z = (float(value) for value in camera_from_base[:3, 3])
    quaternion = quaternion_from_rotation(camera_from_base[:3, :3])
    turned.x, turned.y, turned.z, turned.w = (float(value) for value in quaternion)
    return message


def info() -> CameraInfo:
    """The CameraInfo of all images here."""
    return camera_info_message(TRAINING_CAMERA)


def seen_from(view: int) -> Image:
    """The image of a view."""
    return image_message(picture(view))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of the views, with a cloud of its map."""
    path = tmp_path_factory.mktemp("topics") / "model.onnx"
    return write_model_of_views(path, views(), map_cloud=CLOUD)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Iterator[Bench]:
    """A node that all tests here share, on a robot with a base; localised."""
    with bench(tmp_path_factory.mktemp("node")) as made:
        static = tf2_ros.StaticTransformBroadcaster(made.node)
        static.sendTransform(base_under_camera())
        parameters = {
            "frames.base_frame": BASE,
            "tf.mode": "map_to_camera",
            "covariance.floor_position": FLOOR_POSITION,
            "covariance.floor_rotation": FLOOR_ROTATION,
        }
        made.start(**{"model.path": model, **parameters})
        bases = made.hear(PoseWithCovarianceStamped, "pose_with_covariance")
        made.send_until(lambda: bases, "a pose of the base", seen_from(0), info())
        yield made


@pytest.fixture
def robot(shared: Bench) -> Iterator[Bench]:
    """The shared node's other side; what a test subscribes to ends with it."""
    yield shared
    shared.stop_hearing()


SENSOR = (ReliabilityPolicy.BEST_EFFORT, DurabilityPolicy.VOLATILE)
RELIABLE = (ReliabilityPolicy.RELIABLE, DurabilityPolicy.VOLATILE)
KEPT = (ReliabilityPolicy.RELIABLE, DurabilityPolicy.TRANSIENT_LOCAL)
PUBLISHED = {
    "/pose": ("geometry_msgs/msg/PoseStamped", RELIABLE),
    "/pose_with_covariance": ("geometry_msgs/msg/PoseWithCovarianceStamped", RELIABLE),
    "/initialpose": ("geometry_msgs/msg/PoseWithCovarianceStamped", RELIABLE),
    f"{NODE}/localized": ("std_msgs/msg/Bool", KEPT),
    f"{NODE}/points": ("sensor_msgs/msg/PointCloud2", RELIABLE),
    f"{NODE}/map_points": ("sensor_msgs/msg/PointCloud2", KEPT),
    f"{NODE}/depth": ("sensor_msgs/msg/Image", RELIABLE),
    f"{NODE}/weights": ("sensor_msgs/msg/Image", RELIABLE),
    f"{NODE}/path": ("nav_msgs/msg/Path", RELIABLE),
    f"{NODE}/frustum": ("visualization_msgs/msg/Marker", RELIABLE),
    "/diagnostics": ("diagnostic_msgs/msg/DiagnosticArray", RELIABLE),
    "/tf": ("tf2_msgs/msg/TFMessage", RELIABLE),
    f"{NODE}/transition_event": ("lifecycle_msgs/msg/TransitionEvent", RELIABLE),
}
SUBSCRIBED = {
    "/image": ("sensor_msgs/msg/Image", SENSOR),
    "/camera_info": ("sensor_msgs/msg/CameraInfo", SENSOR),
    "/trigger_localization": ("geometry_msgs/msg/PoseWithCovarianceStamped", RELIABLE),
    "/tf": ("tf2_msgs/msg/TFMessage", RELIABLE),
    "/tf_static": ("tf2_msgs/msg/TFMessage", KEPT),
}
SERVICES = {
    f"{NODE}/relocalize": "std_srvs/srv/Trigger",
    f"{NODE}/reset": "std_srvs/srv/Trigger",
    f"{NODE}/set_enabled": "std_srvs/srv/SetBool",
    f"{NODE}/change_state": "lifecycle_msgs/srv/ChangeState",
    f"{NODE}/get_state": "lifecycle_msgs/srv/GetState",
}
# What every node has.
COMMON = {"/rosout", "/parameter_events"}


def test_topics_and_services_have_their_types_and_qos(robot: Bench) -> None:
    """As the interface lists them, and there is none besides."""
    name, graph = NODE.lstrip("/"), robot.node
    for expected, names, endpoints in (
        (PUBLISHED, graph.get_publisher_names_and_types_by_node, graph.get_publishers_info_by_topic),
        (SUBSCRIBED, graph.get_subscriber_names_and_types_by_node, graph.get_subscriptions_info_by_topic),
    ):
        assert {topic for topic, _ in names(name, "/")} - COMMON == set(expected)
        for topic, (kind, (reliability, durability)) in expected.items():
            (endpoint,) = (item for item in endpoints(topic) if item.node_name == name)
            assert endpoint.topic_type == kind, topic
            assert endpoint.qos_profile.reliability == reliability, topic
            assert endpoint.qos_profile.durability == durability, topic
    services = dict(graph.get_service_names_and_types_by_node(name, "/"))
    for service, kind in SERVICES.items():
        assert services[service] == [kind]


def test_a_pose_is_the_cameras_and_with_covariance_the_bases(robot: Bench) -> None:
    """Both at the image's stamp in the map; the covariance has the floors and stands in RViz's order."""
    robot.send_until(lambda: robot.transforms, "the first transform", seen_from(1), info())
    bases = robot.hear(PoseWithCovarianceStamped, "pose_with_covariance")
    base = robot.first_of(bases, seen_from(1), info())
    at = nanoseconds(base.header.stamp)
    robot.wait(lambda: at in robot.pose_stamps(), "the camera's pose")
    robot.wait(lambda: robot.transforms[-1].transforms[0].header.stamp == base.header.stamp, "its transform")
    pose = robot.poses[robot.pose_stamps().index(at)]
    assert pose.header == base.header
    assert base.header.frame_id == "map"
    assert error_of(pose, WAY[1]) < 1e-5
    map_from_base = matrix_of(base.pose.pose)
    np.testing.assert_allclose(map_from_base, WAY[1] @ invert(BASE_FROM_CAMERA), atol=1e-5)
    covariance = np.reshape(base.pose.covariance, (6, 6))
    np.testing.assert_allclose(
        covariance, np.diag([FLOOR_POSITION**2] * 3 + [FLOOR_ROTATION**2] * 3), atol=1e-6
    )
    (edge,) = robot.transforms[-1].transforms
    assert edge.header == base.header
    assert edge.child_frame_id == CAMERA_FRAME
    assert edge.transform.rotation == pose.pose.orientation
    moved, position = edge.transform.translation, pose.pose.position
    assert (moved.x, moved.y, moved.z) == (position.x, position.y, position.z)


def test_a_trigger_hands_its_pose_over_once(robot: Bench) -> None:
    """`initialpose` is that frame's pose_with_covariance, with variances alone."""
    bases = robot.hear(PoseWithCovarianceStamped, "pose_with_covariance")
    seeds = robot.hear(PoseWithCovarianceStamped, "initialpose")
    robot.send_until(lambda: bases, "a pose", seen_from(0), info())
    assert not seeds
    answer = robot.relocalized(seen_from(0), info())
    assert answer.success, answer.message
    robot.wait(lambda: seeds, "initialpose")
    (seed,) = seeds
    at = nanoseconds(seed.header.stamp)
    assert f"stamp {at * 1e-9:.3f}" in answer.message
    robot.wait(lambda: any(base.header == seed.header for base in bases), "the pose of the base")
    (base,) = (base for base in bases if base.header == seed.header)
    assert seed.pose.pose == base.pose.pose
    covariance = np.reshape(base.pose.covariance, (6, 6))
    np.testing.assert_array_equal(np.reshape(seed.pose.covariance, (6, 6)), np.diag(np.diag(covariance)))
    seen = len(bases)
    robot.send_until(lambda: len(bases) >= seen + 2, "further poses", seen_from(0), info())
    assert len(seeds) == 1


def test_who_comes_late_hears_whether_it_is_localised(robot: Bench) -> None:
    """The last value is kept, and only changes are said."""
    localized = robot.hear(Bool, f"{NODE}/localized", LATCHED)
    robot.wait(lambda: localized, "the value that was there")
    assert robot.call(Trigger, f"{NODE}/reset", Trigger.Request()).success
    robot.wait(lambda: len(localized) == 2, "the reset")
    robot.pose_of(seen_from(0), info())
    robot.pose_of(seen_from(0), info())
    robot.wait(lambda: len(localized) >= 3, "the pose")
    assert [message.data for message in localized] == [True, False, True]


def test_who_comes_late_gets_the_models_cloud(robot: Bench) -> None:
    """x y z rgb of the file, in the map, without weights."""
    clouds = robot.hear(PointCloud2, f"{NODE}/map_points", LATCHED)
    robot.wait(lambda: clouds, "the cloud")
    (cloud,) = clouds
    assert cloud.header.frame_id == "map"
    points = point_cloud2.read_points(cloud)
    assert points.dtype.names == ("x", "y", "z", "rgb")
    np.testing.assert_allclose(np.stack([points[axis] for axis in "xyz"], axis=-1), CLOUD.points, atol=1e-4)
    np.testing.assert_array_equal(colors_of(points), CLOUD.colors)


def colors_of(points: np.ndarray) -> np.ndarray:
    """The colours (N, 3) RGB of a cloud's points."""
    packed = np.ascontiguousarray(points["rgb"]).view(np.uint32)
    return np.stack([packed >> 16 & 255, packed >> 8 & 255, packed & 255], axis=-1)


def test_points_are_this_frames_in_the_map(robot: Bench) -> None:
    """What depth and rays make of it, moved by the pose; colours of the image, weights of the solve."""
    clouds = robot.hear(PointCloud2, f"{NODE}/points")
    cloud = robot.first_of(clouds, seen_from(1), info())
    assert cloud.header.frame_id == "map"
    points = point_cloud2.read_points(cloud)
    assert points.dtype.names == ("x", "y", "z", "rgb", "weight")
    assert all(points.dtype[name] == np.float32 for name in points.dtype.names)
    in_camera = (depth_of(picture(1))[..., None] * TRAINING_CAMERA.ray_grid(STRIDE)).reshape(-1, 3)
    in_map = in_camera @ WAY[1][:3, :3].T + WAY[1][:3, 3]
    np.testing.assert_allclose(np.stack([points[axis] for axis in "xyz"], axis=-1), in_map, atol=1e-5)
    means = picture(1).reshape(CELLS[0], STRIDE, CELLS[1], STRIDE, 3).mean(axis=(1, 3)).reshape(-1, 3)
    np.testing.assert_allclose(colors_of(points), means, atol=1)
    assert (colors_of(points)[:, 2] == BLUE).all()
    np.testing.assert_allclose(points["weight"], 1.0, atol=1e-3)


def test_depth_and_weights_are_the_networks(robot: Bench) -> None:
    """As images of the grid in the camera's frame; where the test model trusts nothing, the weight is 0."""
    depths, weights = robot.hear(Image, f"{NODE}/depth"), robot.hear(Image, f"{NODE}/weights")
    pixels = picture(0)
    pixels[: 2 * STRIDE, :STRIDE, 2] = 255  # two cells that are not to be trusted
    depth = robot.first_of(depths, image_message(pixels), info())
    weight = robot.first_of(weights, image_message(pixels), info())
    for message in (depth, weight):
        assert message.header.frame_id == CAMERA_FRAME
        assert (message.height, message.width) == CELLS
    np.testing.assert_allclose(numbers_of(depth), depth_of(pixels), atol=1e-5)
    trusted = np.ones(CELLS)
    trusted[:2, 0] = 0.0
    np.testing.assert_allclose(numbers_of(weight), trusted, atol=1e-3)


def test_the_path_grows_with_the_motion(robot: Bench) -> None:
    """Poses close to the last one are left out; who listens late gets the whole path on the next pose."""
    robot.settle()
    assert robot.call(Trigger, f"{NODE}/reset", Trigger.Request()).success
    early = robot.hear(PathMessage, f"{NODE}/path")
    stamps = {}
    for view in range(len(WAY)):
        stamps[view] = nanoseconds(robot.pose_of(seen_from(view), info()).header.stamp)
        robot.pose_of(seen_from(view), info())  # standing still adds nothing
    robot.wait(lambda: early and len(early[-1].poses) == len(ON_THE_PATH), "the path")
    late = robot.hear(PathMessage, f"{NODE}/path")
    robot.send_until(lambda: late, "the path for a late listener", seen_from(len(WAY) - 1), info())
    for path in (early[-1], late[0]):
        assert path.header.frame_id == "map"
        assert [nanoseconds(pose.header.stamp) for pose in path.poses] == [
            stamps[view] for view in ON_THE_PATH
        ]
        assert all(pose.header.frame_id == "map" for pose in path.poses)
        for pose, view in zip(path.poses, ON_THE_PATH, strict=True):
            assert error_of(pose, WAY[view]) < 1e-5
    assert [len(path.poses) for path in early][:4] == sorted({len(path.poses) for path in early})


@pytest.mark.parametrize(
    ("view", "red", "green"), [(0, 0.0, 1.0), (DOUBTFUL, 2 * OUTLIERS / (CELLS[0] * CELLS[1]), 1.0)]
)
def test_the_frustum_is_the_cameras_view(robot: Bench, view: int, red: float, green: float) -> None:
    """Lines from the camera through the image's corners; green for confidence 1, yellowish for 0.75."""
    frustums = robot.hear(Marker, f"{NODE}/frustum")
    marker = robot.first_of(frustums, seen_from(view), info())
    assert marker.header.frame_id == "map"
    assert (marker.type, marker.action) == (Marker.LINE_LIST, Marker.ADD)
    np.testing.assert_allclose(matrix_of(marker.pose), WAY[view % DOUBTFUL], atol=1e-3)
    np.testing.assert_allclose(
        [marker.color.r, marker.color.g, marker.color.b, marker.color.a], [red, green, 0.0, 1.0], atol=1e-6
    )
    camera = TRAINING_CAMERA
    edges = [(x, y) for x in (-0.5, WIDTH - 0.5) for y in (-0.5, HEIGHT - 0.5)]
    corners = {
        (round((x - camera.cx) / camera.fx, 6), round((y - camera.cy) / camera.fy, 6)) for x, y in edges
    }
    lines = np.array([[point.x, point.y, point.z] for point in marker.points]).reshape(-1, 2, 3)
    assert len(lines) == 8
    ends = lines.reshape(-1, 3)
    seen = {(round(x / z, 6), round(y / z, 6)) for x, y, z in ends if z > 0}
    assert seen == corners
    assert sum(not start.any() for start, _ in lines) == 4, "a line from the camera to each corner"


def test_diagnostics_have_all_they_promise(robot: Bench, model: Path) -> None:
    """Every key that monitors may ask for, with values that fit."""
    bases = robot.hear(PoseWithCovarianceStamped, "pose_with_covariance")
    robot.send_until(lambda: len(bases) >= 3, "poses", seen_from(0), info())
    seen = len(robot.diagnostics)
    robot.send_until(lambda: len(robot.diagnostics) >= seen + 1, "diagnostics", seen_from(0), info())
    status, values = robot.diagnostics[-1], robot.values()
    assert status.name == f"{NODE}: localization"
    assert status.hardware_id == NODE
    assert status.level == DiagnosticStatus.OK
    assert status.message == "localized"
    fixed = {
        "reason": "localized",
        "state": "LOCALIZED",
        "lifecycle": "active",
        "provider": "cpu",
        "model_path": str(model),
        "model_sha256": hashlib.sha256(model.read_bytes()).hexdigest(),
        "model_file": "as loaded",
        "camera_info": "matched by stamp",
        "confidence": "1.000",
    }
    assert {key: values[key] for key in fixed} == fixed
    assert 0.0 <= float(values["last_pose_age_s"]) < 5.0
    age = time.time() - 1e-9 * robot.next_stamp()
    assert float(values["image_age_s"]) == pytest.approx(age, abs=60.0)
    for rate in ("image_rate_hz", "camera_info_rate_hz", "pose_rate_hz"):
        assert float(values[rate]) > 0.1
    for stage in ("wait", "read", "preprocess", "network", "align", "confirm", "publish", "total"):
        percentiles = dict(part.split("=") for part in values[f"latency_{stage}_ms"].split())
        assert float(percentiles["p50"]) <= float(percentiles["p95"]) <= float(percentiles["p99"])
    counts = robot.counts()
    assert counts["received"] >= counts["processed"] == counts["accepted"] + counts["rejected"]
    assert {"dropped", "skipped"} <= set(counts)
    assert {"last_reject_reason", "last_reject_detail"} <= set(values)


def test_sensor_data_of_any_reliability_is_taken(robot: Bench) -> None:
    """A driver that publishes best effort is heard as well as a reliable one."""
    sensor = QoSProfile(depth=5, reliability=ReliabilityPolicy.BEST_EFFORT)
    reliable = robot._images, robot._infos
    robot._images = robot.node.create_publisher(Image, "image", sensor)
    robot._infos = robot.node.create_publisher(CameraInfo, "camera_info", sensor)
    assert error_of(robot.pose_of(seen_from(1), info()), WAY[1]) < 1e-5
    robot.node.destroy_publisher(robot._images)
    robot.node.destroy_publisher(robot._infos)
    robot._images, robot._infos = reliable


def test_a_listener_that_asks_for_more_is_named(robot: Bench) -> None:
    """Who wants poses kept for late joiners gets none; diagnostics and one line of the log say so."""
    kept = robot.hear(PoseStamped, "pose", LATCHED)

    def named() -> bool:
        return robot.values().get("qos_mismatch") == "/pose: DURABILITY"

    robot.send_until(named, "the mismatch", seen_from(0), info())
    line = "qos_mismatch: somebody on /pose asks for another DURABILITY: nothing passes between us"
    assert robot.processes[0].log.count(line) == 1
    assert robot.reason() == "localized", "a mismatch is not a failure of the frame"
    assert not kept


@pytest.fixture
def inside(tmp_path: Path) -> Iterator[tuple[Bench, Any]]:
    """A bench and a node, both in this process, whose publishers can be asked."""
    from structpose_ros.node import StructposeRelocalizer

    model = write_model(tmp_path / "model.onnx", transform(np.eye(3), [1.0, 2.0, 3.0]))
    given = {**ONE_CAMERA, "model.path": str(model), "frames.base_frame": ""}
    overrides = [Parameter(name, value=value) for name, value in given.items()]
    with bench(tmp_path) as made:
        node = StructposeRelocalizer(context=made.node.context, parameter_overrides=overrides)
        made._executor.add_node(node)
        made.pose_of(seen_from(0), info())
        yield made, node
        made._executor.remove_node(node)
        node.destroy_node()


def test_queues_are_as_long_as_they_should_be(inside: tuple[Bench, Any]) -> None:
    """One image waits in the middleware, the newest; pictures don't pile up. In this process."""
    _, node = inside
    depths = {item.topic_name: item.qos_profile.depth for item in node.publishers}
    depths |= {item.topic_name: item.qos_profile.depth for item in node.subscriptions}
    expected = {"/image": 1, "/camera_info": 10, "/trigger_localization": 1}
    expected |= {"/pose": 10, "/pose_with_covariance": 10, "/initialpose": 10}
    expected |= {f"{NODE}/{name}": 2 for name in ("points", "depth", "weights", "path", "frustum")}
    expected |= {f"{NODE}/{name}": 1 for name in ("localized", "map_points")}
    assert {topic: depths[topic] for topic in expected} == expected


def test_pictures_are_built_only_for_listeners(
    inside: tuple[Bench, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody listens: nothing is built. Each listener costs its own message alone. In this process."""
    from structpose_ros import pictures

    made, node = inside
    built: list[str] = []

    def counted(name: str) -> Callable[..., object]:
        true = getattr(pictures, name)

        def count(*arguments: object, **fields: object) -> object:
            built.append(name)
            return true(*arguments, **fields)

        return count

    for name in ("point_cloud", "image_of_numbers", "frustum_marker", "Path"):
        monkeypatch.setattr(pictures, name, counted(name))
    for _ in range(3):
        made.pose_of(seen_from(0), info())
    assert not built
    for kind, topic, name in (
        (Image, "depth", "image_of_numbers"),
        (Image, "weights", "image_of_numbers"),
        (PointCloud2, "points", "point_cloud"),
        (Marker, "frustum", "frustum_marker"),
        (PathMessage, "path", "Path"),
    ):
        heard = made.hear(kind, f"{NODE}/{topic}")
        made.send_until(lambda heard=heard: heard, topic, seen_from(0), info())
        made.stop_hearing()
        (publisher,) = (item for item in node.publishers if item.topic_name == f"{NODE}/{topic}")
        made.wait(lambda publisher=publisher: not publisher.get_subscription_count(), "the end of listening")
        made.pose_of(seen_from(0), info())
        assert set(built) == {name}
        del built[:]
