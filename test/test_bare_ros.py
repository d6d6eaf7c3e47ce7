"""The stand-ins of machines without ROS 2 behave as the real packages do."""

import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path
from threading import Thread

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent
TF_MESSAGE_HASH = "RIHS01_e369d0f05a23ae52508854b66f6aa0437f3449d652e8cbf22d5abe85d020f087"  # ROS 2 Jazzy's

tf2_ros = pytest.importorskip("tf2_ros", reason="neither ROS 2 nor its stand-ins are installed")
point_cloud2 = pytest.importorskip("sensor_msgs_py.point_cloud2", reason="no sensor_msgs_py is installed")
if not (getattr(tf2_ros, "STAND_IN", False) and getattr(sys.modules["sensor_msgs_py"], "STAND_IN", False)):
    pytest.skip("the real tf2_ros and sensor_msgs_py are in use", allow_module_level=True)

import rclpy  # noqa: E402
from geometry_msgs.msg import TransformStamped  # noqa: E402
from rclpy.duration import Duration  # noqa: E402
from rclpy.time import Time  # noqa: E402
from sensor_msgs.msg import PointField  # noqa: E402
from std_msgs.msg import Header  # noqa: E402

LATEST = Time()


def quaternion_about(axis, angle):
    axis = np.asarray(axis, dtype=float)
    return np.array([*(math.sin(angle / 2) * axis / np.linalg.norm(axis)), math.cos(angle / 2)])


def rotation_matrix(quaternion):
    x, y, z, w = quaternion
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )


def stamped(parent, child, stamp_s, translation=(0.0, 0.0, 0.0), quaternion=(0.0, 0.0, 0.0, 1.0)):
    message = TransformStamped()
    message.header.frame_id, message.child_frame_id = parent, child
    message.header.stamp = at(stamp_s).to_msg()
    origin, rotation = message.transform.translation, message.transform.rotation
    origin.x, origin.y, origin.z = (float(value) for value in translation)
    rotation.x, rotation.y, rotation.z, rotation.w = (float(value) for value in quaternion)
    return message


def at(seconds):
    return Time(nanoseconds=round(seconds * 1e9))


def matrix(message):
    origin, rotation = message.transform.translation, message.transform.rotation
    result = np.eye(4)
    result[:3, :3] = rotation_matrix([rotation.x, rotation.y, rotation.z, rotation.w])
    result[:3, 3] = origin.x, origin.y, origin.z
    return result


def random_transform(generator, parent, child, stamp_s):
    quaternion = generator.normal(size=4)
    return stamped(parent, child, stamp_s, generator.normal(size=3), quaternion / np.linalg.norm(quaternion))


@pytest.fixture
def buffer():
    return tf2_ros.Buffer()


def test_chain_composes_up_and_down_the_tree(buffer):
    generator = np.random.default_rng(1)
    map_base, base_left, base_right = (
        random_transform(generator, parent, child, 5.0)
        for parent, child in (("map", "base"), ("base", "left"), ("base", "right"))
    )
    buffer.set_transform(map_base, "test")
    buffer.set_transform_static(base_left, "test")
    buffer.set_transform_static(base_right, "test")
    map_from_left = buffer.lookup_transform("map", "left", LATEST)
    left_from_right = buffer.lookup_transform("left", "right", at(123.0))
    left_from_map = buffer.lookup_transform("left", "map", at(5.0))
    np.testing.assert_allclose(matrix(map_from_left), matrix(map_base) @ matrix(base_left), atol=1e-12)
    np.testing.assert_allclose(
        matrix(left_from_right), np.linalg.inv(matrix(base_left)) @ matrix(base_right), atol=1e-12
    )
    np.testing.assert_allclose(matrix(left_from_map), np.linalg.inv(matrix(map_from_left)), atol=1e-12)
    assert (map_from_left.header.frame_id, map_from_left.child_frame_id) == ("map", "left")
    assert Time.from_msg(map_from_left.header.stamp).nanoseconds == 5_000_000_000


def test_interpolates_linearly_and_by_slerp(buffer):
    axis = (1.0, 2.0, -1.0)
    start, end = quaternion_about(axis, 0.2), quaternion_about(axis, 1.4)
    buffer.set_transform(stamped("odom", "base", 10.0, (0.0, 0.0, 1.0), start), "test")
    # The negated quaternion is the same rotation: the short way round must be taken all the same.
    buffer.set_transform(stamped("odom", "base", 12.0, (4.0, -2.0, 1.0), -end), "test")
    answer = matrix(buffer.lookup_transform("odom", "base", at(10.5)))
    np.testing.assert_allclose(answer[:3, 3], (1.0, -0.5, 1.0), atol=1e-9)
    np.testing.assert_allclose(answer[:3, :3], rotation_matrix(quaternion_about(axis, 0.5)), atol=1e-9)


def test_samples_may_arrive_out_of_order(buffer):
    for stamp_s in (12.0, 10.0, 11.0):
        buffer.set_transform(stamped("odom", "base", stamp_s, (stamp_s**2, 0.0, 0.0)), "test")
    assert buffer.lookup_transform("odom", "base", at(10.5)).transform.translation.x == pytest.approx(110.5)
    assert buffer.lookup_transform("odom", "base", LATEST).transform.translation.x == pytest.approx(144.0)


def test_latest_means_the_latest_common_time(buffer):
    for stamp_s in (1.0, 2.0):
        buffer.set_transform(stamped("map", "odom", stamp_s), "test")
    for stamp_s in (1.5, 3.0):
        buffer.set_transform(stamped("odom", "base", stamp_s, (stamp_s, 0.0, 0.0)), "test")
    answer = buffer.lookup_transform("map", "base", LATEST)
    assert Time.from_msg(answer.header.stamp).nanoseconds == 2_000_000_000
    assert answer.transform.translation.x == pytest.approx(2.0)
    assert buffer.get_latest_common_time("map", "base") == at(2.0)


def test_extrapolation_is_refused(buffer):
    buffer.set_transform(stamped("map", "base", 10.0), "test")
    with pytest.raises(tf2_ros.ExtrapolationException, match="only time 10"):
        buffer.lookup_transform("map", "base", at(10.1))
    buffer.set_transform(stamped("map", "base", 11.0), "test")
    with pytest.raises(tf2_ros.ExtrapolationException, match="future"):
        buffer.lookup_transform("map", "base", at(11.001))
    with pytest.raises(tf2_ros.ExtrapolationException, match="past"):
        buffer.lookup_transform("map", "base", at(9.999))
    assert buffer.lookup_transform("map", "base", at(11.0)).header.stamp.sec == 11


def test_frames_above_the_common_ancestor_do_not_matter(buffer):
    buffer.set_transform(stamped("map", "odom", 1.0), "test")
    buffer.set_transform(stamped("odom", "base", 10.0, (1.0, 0.0, 0.0)), "test")
    buffer.set_transform_static(stamped("base", "camera", 0.0, (0.0, 2.0, 0.0)), "test")
    answer = buffer.lookup_transform("odom", "camera", at(10.0))
    np.testing.assert_allclose(matrix(answer)[:3, 3], (1.0, 2.0, 0.0))


def test_unknown_unconnected_and_invalid_frames(buffer):
    buffer.set_transform_static(stamped("map", "base", 0.0), "test")
    buffer.set_transform_static(stamped("other_map", "other_base", 0.0), "test")
    with pytest.raises(tf2_ros.LookupException, match="'nowhere' does not exist"):
        buffer.lookup_transform("map", "nowhere", LATEST)
    for when in (LATEST, at(3.0)):
        with pytest.raises(tf2_ros.ConnectivityException):
            buffer.lookup_transform("base", "other_base", when)
    with pytest.raises(tf2_ros.InvalidArgumentException):
        buffer.lookup_transform("/map", "base", LATEST)
    for exception in ("Lookup", "Connectivity", "Extrapolation", "InvalidArgument", "Timeout"):
        assert issubclass(getattr(tf2_ros, f"{exception}Exception"), tf2_ros.TransformException)


def test_loop_is_refused(buffer):
    buffer.set_transform_static(stamped("a", "b", 0.0), "test")
    buffer.set_transform_static(stamped("b", "a", 0.0), "test")
    buffer.set_transform_static(stamped("c", "d", 0.0), "test")
    with pytest.raises(tf2_ros.LookupException, match="loop"):
        buffer.lookup_transform("a", "d", LATEST)


def test_same_frame_is_the_identity(buffer):
    buffer.set_transform(stamped("map", "base", 4.0, (1.0, 2.0, 3.0)), "test")
    np.testing.assert_array_equal(matrix(buffer.lookup_transform("base", "base", LATEST)), np.eye(4))


@pytest.mark.parametrize(
    "bad",
    [
        stamped("base", "base", 1.0),
        stamped("", "base", 1.0),
        stamped("map", "base", 1.0, (math.nan, 0.0, 0.0)),
        stamped("map", "base", 1.0, quaternion=(0.0, 0.0, 0.0, 0.0)),
    ],
    ids=["same frame", "no parent", "NaN", "zero quaternion"],
)
def test_bad_transforms_are_ignored(buffer, bad):
    buffer.set_transform(bad, "test")
    assert buffer.all_frames_as_yaml() == "[]"


def test_cache_keeps_its_time_only():
    buffer = tf2_ros.Buffer(cache_time=Duration(seconds=2))
    for stamp_s in (10.0, 11.0, 12.0, 13.0):
        buffer.set_transform(stamped("map", "base", stamp_s), "test")
    buffer.set_transform(stamped("map", "base", 10.5), "test")
    assert not buffer.can_transform("map", "base", at(10.9))
    assert buffer.can_transform("map", "base", at(11.1))


def test_clear_keeps_static_transforms(buffer):
    buffer.set_transform(stamped("map", "base", 1.0), "test")
    buffer.set_transform_static(stamped("base", "camera", 0.0), "test")
    buffer.clear()
    assert buffer.can_transform("base", "camera", LATEST)
    possible, reason = buffer.can_transform("map", "camera", LATEST, return_debug_tuple=True)
    assert not possible
    assert "different trees" in reason


def test_frames_are_listed_with_their_parents(buffer):
    yaml = pytest.importorskip("yaml")
    buffer.set_transform(stamped("map", "base", 1.0), "me")
    buffer.set_transform_static(stamped("base", "camera", 0.0), "me")
    frames = yaml.safe_load(buffer.all_frames_as_yaml())
    assert {name: frame["parent"] for name, frame in frames.items()} == {"base": "map", "camera": "base"}
    assert frames["base"]["broadcaster"] == "me"


@pytest.fixture
def domain():
    """Set a ROS domain of this process's own."""
    before = os.environ.get("ROS_DOMAIN_ID")
    os.environ["ROS_DOMAIN_ID"] = str(1 + os.getpid() % 100)
    yield
    if before is None:
        del os.environ["ROS_DOMAIN_ID"]
    else:
        os.environ["ROS_DOMAIN_ID"] = before


@pytest.fixture
def nodes(domain):
    """Two nodes of one context: a sender and a receiver."""
    context = rclpy.Context()
    rclpy.init(context=context)
    pair = [rclpy.create_node(name, context=context) for name in ("tf_sender", "tf_receiver")]
    yield pair
    for node in pair:
        node.destroy_node()
    rclpy.shutdown(context=context)


def wait_until(condition, deadline_s=10.0):
    end = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < end, "the deadline passed"
        time.sleep(0.01)


def test_broadcast_reaches_a_listener(nodes):
    sender, receiver = nodes
    static = tf2_ros.StaticTransformBroadcaster(sender)
    static.sendTransform(stamped("base", "left", 0.0, (0.0, 1.0, 0.0)))
    static.sendTransform([stamped("base", "right", 0.0, (0.0, -1.0, 0.0))])
    buffer = tf2_ros.Buffer(node=receiver)
    executor = rclpy.executors.SingleThreadedExecutor(context=receiver.context)
    executor.add_node(receiver)
    listener = tf2_ros.TransformListener(buffer, receiver)  # after both: the last message must hold both
    moving = tf2_ros.TransformBroadcaster(sender)

    def arrived():
        moving.sendTransform(stamped("map", "base", 7.0, (3.0, 0.0, 0.0)))
        executor.spin_once(timeout_sec=0.1)
        return buffer.can_transform("map", "left", LATEST) and buffer.can_transform("map", "right", LATEST)

    wait_until(arrived)
    np.testing.assert_allclose(matrix(buffer.lookup_transform("map", "left", at(7.0)))[:3, 3], (3, 1, 0))
    np.testing.assert_allclose(matrix(buffer.lookup_transform("left", "right", LATEST))[:3, 3], (0, -2, 0))
    listener.unregister()


def test_lookup_waits_for_the_transform(nodes):
    """Another thread brings the transform in while the lookup waits."""
    sender, receiver = nodes
    buffer = tf2_ros.Buffer()
    executor = rclpy.executors.SingleThreadedExecutor(context=receiver.context)
    executor.add_node(receiver)
    tf2_ros.TransformListener(buffer, receiver)
    moving = tf2_ros.TransformBroadcaster(sender)
    timer = sender.create_timer(0.05, lambda: moving.sendTransform([stamped("map", "base", 7.0)]))
    executor.add_node(sender)
    thread = Thread(target=executor.spin, daemon=True)
    thread.start()
    try:
        answer = buffer.lookup_transform("map", "base", at(7.0), timeout=Duration(seconds=10))
        assert answer.child_frame_id == "base"
    finally:
        timer.cancel()
        executor.shutdown()
        thread.join(timeout=5.0)


def test_lookup_gives_up_at_the_timeout(buffer):
    start = time.monotonic()
    with pytest.raises(tf2_ros.LookupException):
        buffer.lookup_transform("map", "base", LATEST, timeout=Duration(seconds=0.2))
    assert 0.2 <= time.monotonic() - start < 2.0


def cloud_fields():
    return [
        *(
            PointField(name=name, offset=4 * index, datatype=PointField.FLOAT32, count=1)
            for index, name in enumerate("xyz")
        ),
        PointField(name="rgb", offset=12, datatype=PointField.UINT32, count=1),
    ]


def test_structured_cloud_round_trip():
    fields = cloud_fields()
    points = np.zeros(100, dtype=point_cloud2.dtype_from_fields(fields))
    generator = np.random.default_rng(2)
    for name in "xyz":
        points[name] = generator.normal(size=100)
    points["rgb"] = generator.integers(0, 2**24, size=100)
    header = Header(frame_id="map")
    cloud = point_cloud2.create_cloud(header, fields, points)
    assert (cloud.width, cloud.height, cloud.point_step, cloud.row_step) == (100, 1, 16, 1600)
    assert cloud.header.frame_id == "map"
    np.testing.assert_array_equal(point_cloud2.read_points(cloud), points)
    xyz = point_cloud2.read_points_numpy(cloud, field_names=["x", "y", "z"])
    np.testing.assert_array_equal(xyz[:, 1], points["y"])
    assert xyz.shape == (100, 3)
    points["y"][3] = math.nan
    with_nan = point_cloud2.create_cloud(header, fields, points)
    np.testing.assert_array_equal(
        point_cloud2.read_points(with_nan, skip_nans=True), points[~np.isnan(points["y"])]
    )


def test_a_strided_view_gives_the_same_cloud():
    fields = cloud_fields()
    points = np.zeros((6, 4), dtype=point_cloud2.dtype_from_fields(fields))
    points["x"] = np.arange(24).reshape(6, 4)
    cloud = point_cloud2.create_cloud(Header(), fields, points[::2].ravel()[::3])
    np.testing.assert_array_equal(point_cloud2.read_points(cloud)["x"], [0, 3, 10, 17])


def test_plain_arrays_and_tuples_make_the_same_cloud():
    points = np.arange(12, dtype=np.float32).reshape(4, 3)
    from_array = point_cloud2.create_cloud_xyz32(Header(), points)
    from_tuples = point_cloud2.create_cloud_xyz32(Header(), points.tolist())
    assert from_array == from_tuples
    np.testing.assert_array_equal(point_cloud2.read_points_numpy(from_array), points)


def test_mismatched_points_are_refused():
    with pytest.raises(AssertionError, match="one datatype"):
        point_cloud2.create_cloud(Header(), cloud_fields(), np.zeros((2, 4), dtype=np.float32))
    with pytest.raises(AssertionError, match="the fields describe"):
        point_cloud2.create_cloud(Header(), cloud_fields(), np.zeros(2, dtype=[("x", np.float32)]))


def test_type_hash_of_tf_message_is_the_official_one():
    import tf2_msgs

    prefix = Path(tf2_msgs.__file__).resolve().parents[4]
    description = json.loads((prefix / "share/tf2_msgs/msg/TFMessage.json").read_text())
    hashes = {entry["type_name"]: entry["hash_string"] for entry in description["type_hashes"]}
    assert hashes["tf2_msgs/msg/TFMessage"] == TF_MESSAGE_HASH


def test_fast_dds_takes_the_shared_memory_profile(domain):
    """Fast DDS complains on standard error about a profile that it can't read."""
    script = (
        "import rclpy; from std_msgs.msg import Empty; rclpy.init(); n = rclpy.create_node('profiled'); "
        "n.create_publisher(Empty, 'x', 1); n.destroy_node(); rclpy.shutdown()"
    )
    environment = {**os.environ, "FASTRTPS_DEFAULT_PROFILES_FILE": str(ROOT / "config" / "fastdds_shm.xml")}
    result = subprocess.run(
        [sys.executable, "-c", script],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert "Error" not in result.stderr
    assert "rror" not in result.stdout
