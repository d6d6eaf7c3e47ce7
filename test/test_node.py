"""The node over real DDS: what it publishes, what it refuses, how it starts and ends."""

from __future__ import annotations

import hashlib
import json
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="rclpy is not installed: no ROS 2 here")

import onnx
from builtin_interfaces.msg import Time
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
from model_files import HEIGHT, TRAINING_CAMERA, WIDTH, contract, write_model
from rcl_interfaces.srv import SetParameters
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, ReliabilityPolicy
from ros_helpers import (
    CAMERA_FRAME,
    NodeProcess,
    Peer,
    camera_info_message,
    image_message,
    nanoseconds,
    next_domain,
    ros_context,
)
from sensor_msgs.msg import CameraInfo, Image, PointCloud2
from sensor_msgs_py import point_cloud2

from structpose_ros import compiled
from structpose_ros.contract import METADATA_KEY
from structpose_ros.frame_input import CameraInfos
from structpose_ros.geometry import (
    quaternion_from_rotation,
    rotation_from_quaternion,
    rotation_from_vector,
    transform,
)

Start = Callable[..., NodeProcess]
MAP_FROM_CAMERA = transform(rotation_from_vector([0.3, -1.1, 0.7]), [2.5, -1.25, 0.75])
# A camera by itself, each of whose poses counts.
ONE_CAMERA = {
    "model.provider": "cpu",
    "model.threads": 1,
    "frames.base_frame": "''",
    "gate.consistency_frames": 1,
}
POINTS_TOPIC = "/structpose_relocalizer/points"


def gradient() -> np.ndarray:
    """Colours that the test model localises: depth from red, blue away from full."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    return np.stack([columns * 255 // WIDTH, rows * 255 // HEIGHT, rows * 0 + 40], axis=-1).astype(np.uint8)


def good_image() -> Image:
    """An image that is accepted."""
    return image_message(gradient())


def blinding_image() -> Image:
    """An image whose every weight is zero."""
    return image_message(np.full((HEIGHT, WIDTH, 3), 255, dtype=np.uint8))


def good_info() -> CameraInfo:
    """The training camera's CameraInfo."""
    return camera_info_message(TRAINING_CAMERA)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model file that knows one pose."""
    return write_model(tmp_path / "model.onnx", MAP_FROM_CAMERA)


@pytest.fixture
def domain(monkeypatch: pytest.MonkeyPatch) -> int:
    """A domain of this test's own, on this machine only."""
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    number = next_domain()
    monkeypatch.setenv("ROS_DOMAIN_ID", str(number))
    return number


@pytest.fixture
def peer(domain: int) -> Iterator[Peer]:
    """The other side."""
    with ros_context(domain) as context:
        made = Peer(context)
        yield made
        made.close()


@pytest.fixture
def start(domain: int, tmp_path: Path) -> Iterator[Callable[..., NodeProcess]]:
    """Start the node as a process; at the end it is gone and has printed no traceback."""
    started: list[NodeProcess] = []

    def starter(**parameters: object) -> NodeProcess:
        log = tmp_path / f"node{len(started)}.log"
        started.append(NodeProcess(domain, log, **{**ONE_CAMERA, **parameters}))
        return started[-1]

    yield starter
    for process in started:
        process.end()
        assert "Traceback" not in process.log, process.log


def localize(peer: Peer) -> list[int]:
    """Send good frames until one is answered; return their stamps."""
    before = len(peer.poses)
    return peer.send_until(lambda: len(peer.poses) > before, "a pose", good_image(), good_info())


def test_a_frame_is_answered_with_the_models_pose(peer: Peer, start: Start, model: Path) -> None:
    """Pose, TF and points carry the known pose, the image's stamp and the right frames."""
    clouds: list[PointCloud2] = []
    peer.node.create_subscription(PointCloud2, POINTS_TOPIC, clouds.append, 10)
    start(**{"model.path": model})
    sent = localize(peer)
    peer.wait(lambda: peer.transforms and clouds, "a transform and points")

    pose = peer.poses[0]
    assert nanoseconds(pose.header.stamp) in sent
    assert pose.header.frame_id == "map"
    position, orientation = pose.pose.position, pose.pose.orientation
    quaternion = [orientation.x, orientation.y, orientation.z, orientation.w]
    np.testing.assert_allclose([position.x, position.y, position.z], MAP_FROM_CAMERA[:3, 3], atol=1e-6)
    np.testing.assert_allclose(quaternion, quaternion_from_rotation(MAP_FROM_CAMERA[:3, :3]), atol=1e-6)

    (sent_transform,) = peer.transforms[0].transforms
    assert sent_transform.header == pose.header
    assert sent_transform.child_frame_id == CAMERA_FRAME
    moved, rotation = sent_transform.transform.translation, sent_transform.transform.rotation
    assert [moved.x, moved.y, moved.z] == [position.x, position.y, position.z]
    assert rotation == orientation

    cloud = clouds[-1]
    assert cloud.header.frame_id == "map"
    assert nanoseconds(cloud.header.stamp) in sent
    points = point_cloud2.read_points(cloud)
    assert list(points.dtype.names) == ["x", "y", "z", "rgb", "weight"]
    assert len(points) == (HEIGHT // 8) * (WIDTH // 8)
    in_map = np.stack([points["x"], points["y"], points["z"]], axis=-1)
    in_camera = (in_map - MAP_FROM_CAMERA[:3, 3]) @ MAP_FROM_CAMERA[:3, :3]
    assert in_camera[:, 2].min() > 1.0  # the model's depths are 1 .. 5 m
    assert (points["weight"] > 0).all()
    blue = np.ascontiguousarray(points["rgb"]).view(np.uint32) & 0xFF
    assert (blue == 40).all()


def test_nothing_is_published_on_rejection(peer: Peer, start: Start, model: Path) -> None:
    """A rejected frame leaves a reason in diagnostics and no pose; the next good one is answered."""
    start(**{"model.path": model})
    good = localize(peer)
    peer.send_until(lambda: peer.reason() == "zero_weights", "a rejection", blinding_image(), good_info())
    status = peer.diagnostics[-1]
    assert status.level == b"\x01"
    assert status.message == "zero_weights: alignment failed: zero_weights"
    assert peer.values()["last_reject_reason"] == "zero_weights"
    assert int(peer.values()["frames_rejected"]) >= 1
    good += localize(peer)
    peer.wait_for_reason("localized")
    assert set(peer.pose_stamps()) <= set(good)
    assert {nanoseconds(message.transforms[0].header.stamp) for message in peer.transforms} <= set(good)
    assert peer.values()["last_reject_reason"] == "zero_weights"


def bad_frames() -> dict[str, tuple[str, str, Image, CameraInfo | None]]:
    """By name: the reason expected, a part of the line expected, the image and its CameraInfo."""
    empty = Image(encoding="rgb8")
    empty.header.frame_id = CAMERA_FRAME
    short_step = good_image()
    short_step.step = WIDTH
    short_data = good_image()
    short_data.data = short_data.data[:-1]
    depth = image_message(np.zeros((HEIGHT, WIDTH), np.float32), "32FC1")
    unknown = image_message(gradient(), "h264")
    nameless = image_message(gradient(), frame_id="")
    smaller = image_message(gradient()[: HEIGHT // 2])
    zeros, not_a_number, other_model = good_info(), good_info(), good_info()
    zeros.k = [0.0] * 9
    not_a_number.k = [float("nan")] * 9
    other_model.distortion_model = "fisheye"
    return {
        "zero-size": ("bad_image", "expected an image of at least 1x1, got 0x0", empty, good_info()),
        "step": ("bad_image", f"expected a step of at least {WIDTH * 3} bytes", short_step, good_info()),
        "data": ("bad_image", f"expected {WIDTH * HEIGHT * 3} bytes of data", short_data, good_info()),
        "depth image": ("bad_image", "got 32FC1", depth, good_info()),
        "encoding": ("bad_image", "got 'h264'", unknown, good_info()),
        "no frame": ("bad_frame_id", "got ''", nameless, good_info()),
        "size": ("size_mismatch", f"expected an image of {WIDTH}x{HEIGHT}", smaller, good_info()),
        "K zeros": ("bad_camera_info", "uncalibrated", good_image(), zeros),
        "K NaN": ("bad_camera_info", "NaN", good_image(), not_a_number),
        "model": ("bad_camera_info", "got 'fisheye'", good_image(), other_model),
    }


def test_each_bad_input_is_named_and_survived(peer: Peer, start: Start, model: Path) -> None:
    """Each gives its reason and a log line; after each the node still localises, good frames alone."""
    process = start(**{"model.path": model})
    peer.wait_for_reason("no_image")
    peer.send_until(lambda: peer.reason() == "no_camera_info", "no_camera_info", good_image(), None)
    good = localize(peer)
    for name, (reason, line, image, info) in bad_frames().items():

        def named(reason: str = reason, line: str = line) -> bool:
            return peer.reason() == reason and line in peer.last_line()

        peer.send_until(named, name, image, info)
        assert peer.diagnostics[-1].level == b"\x02"
        good += localize(peer)
        peer.wait_for_reason("localized")
    assert set(peer.pose_stamps()) <= set(good)
    assert process.stop() == 0
    lines = process.log.splitlines()
    for reason in ("no_camera_info", "bad_image", "bad_frame_id", "size_mismatch", "bad_camera_info"):
        assert any(f"no pose: {reason}: expected" in line for line in lines), process.log


def test_a_camera_info_of_another_stamp_is_used_and_said(peer: Peer, start: Start, model: Path) -> None:
    """The latest CameraInfo serves when none has the image's stamp, and diagnostics warns."""
    start(**{"model.path": model})
    localize(peer)
    peer.send_until(lambda: peer.reason() == "camera_info_unmatched", "the warning", good_image(), None)
    assert peer.diagnostics[-1].level == b"\x01"
    assert peer.values()["camera_info"] == "latest: none has the image's stamp"
    localize(peer)
    peer.wait_for_reason("localized")
    assert peer.values()["camera_info"] == "matched by stamp"


def test_the_newest_image_is_answered_and_older_ones_dropped(
    peer: Peer, start: Start, tmp_path: Path
) -> None:
    """Of a burst of images faster than the network, the last is answered, and not all before it are."""
    large = contract(input_width=WIDTH * 12, input_height=HEIGHT * 12)
    start(**{"model.path": write_model(tmp_path / "large.onnx", MAP_FROM_CAMERA, large)})
    localize(peer)
    burst = [peer.send(good_image(), good_info()) for _ in range(60)]
    peer.wait(lambda: burst[-1] in peer.pose_stamps(), "the last image's pose")
    answered = [number for number in peer.pose_stamps() if number in burst]
    assert answered == sorted(answered)
    assert len(answered) < len(burst) / 2

    def counts() -> dict[str, int]:
        return {name: int(value) for name, value in peer.values().items() if name.startswith("frames_")}

    # They are replaced in the middleware's queue of one; the node counts them by their numbers.
    peer.wait(lambda: counts()["frames_processed"] >= len(peer.poses), "counts up to the last image")
    assert counts()["frames_dropped"] + counts()["frames_lost"] >= len(burst) - len(answered)
    assert counts()["frames_received"] == counts()["frames_processed"] + counts()["frames_dropped"]
    assert counts()["frames_accepted"] == counts()["frames_processed"]


def test_diagnostics_say_what_runs(peer: Peer, start: Start, model: Path) -> None:
    """State, counts, latencies per stage, model hash and provider; again every second without being asked."""
    import hashlib

    start(**{"model.path": model})
    localize(peer)
    peer.wait_for_reason("localized")
    seen = len(peer.diagnostics)
    peer.wait(lambda: len(peer.diagnostics) >= seen + 3, "diagnostics every second")
    values = peer.values()
    assert peer.diagnostics[-1].name == "/structpose_relocalizer: localization"
    assert values["lifecycle"] == "active"
    assert values["provider"] == "cpu"
    assert values["solve"] == ("numpy" if compiled.LIBRARY is None else "compiled")
    assert values["model_path"] == str(model)
    assert values["model_sha256"] == hashlib.sha256(model.read_bytes()).hexdigest()
    assert float(values["last_pose_age_s"]) > 0
    for stage in ("wait", "read", "preprocess", "network", "align", "publish", "total"):
        assert [part[:4] for part in values[f"latency_{stage}_ms"].split()] == ["p50=", "p95=", "p99="]
    peer.wait_for_reason("no_image")  # two seconds of silence
    assert "got none for" in peer.last_line()


def truncated(path: Path) -> None:
    """Cut a model file in half."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def foreign(path: Path) -> None:
    """Take our metadata out of a model file."""
    described = onnx.load(path)
    del described.metadata_props[:]
    onnx.save(described, path)


def of_another_version(path: Path) -> None:
    """Raise a model file's format version."""
    described = onnx.load(path)
    entry = next(item for item in described.metadata_props if item.key == METADATA_KEY)
    entry.value = json.dumps({**json.loads(entry.value), "format_version": 99})
    onnx.save(described, path)


@pytest.mark.parametrize(
    ("spoil", "line"),
    [
        (Path.unlink, "got nothing"),
        (truncated, "expected an ONNX model"),
        (foreign, "expected a model exported by `structpose export`"),
        (of_another_version, "expected model format version 3, got 99"),
    ],
)
def test_an_unusable_model_file_is_named_and_the_node_stays_up(
    peer: Peer,
    start: Start,
    model: Path,
    spoil: Callable[[Path], None],
    line: str,
) -> None:
    """One line in log and diagnostics; the node waits unconfigured, and configures once the file is right."""
    content = model.read_bytes()
    spoil(model)
    process = start(**{"model.path": model})
    status = peer.wait_for_reason("bad_model")
    assert status.level == b"\x02"
    assert line in status.message
    assert peer.values()["lifecycle"] == "unconfigured"
    assert sum(line in logged for logged in process.log.splitlines()) == 1
    model.write_bytes(content)
    assert change_state(peer, Transition.TRANSITION_CONFIGURE)
    assert change_state(peer, Transition.TRANSITION_ACTIVATE)
    localize(peer)
    assert process.stop() == 0


def test_another_model_file_than_the_pinned_one_is_refused(peer: Peer, start: Start, model: Path) -> None:
    digest = hashlib.sha256(model.read_bytes()).hexdigest()
    process = start(**{"model.path": model, "model.sha256": "ab" * 32})
    status = peer.wait_for_reason("bad_model")
    assert f"expected a model file of sha256 {'ab' * 32} at {model}, got {digest}" in status.message
    pinned = Parameter("model.sha256", value=digest.upper()).to_parameter_msg()
    request = SetParameters.Request(parameters=[pinned])
    answer = peer.call(SetParameters, "/structpose_relocalizer/set_parameters", request)
    assert answer.results[0].successful
    assert change_state(peer, Transition.TRANSITION_CONFIGURE)
    assert change_state(peer, Transition.TRANSITION_ACTIVATE)
    localize(peer)
    assert process.stop() == 0


def test_a_provider_that_cannot_run_is_named(peer: Peer, start: Start, model: Path) -> None:
    """As with a model file: the reason stands in diagnostics and the node stays up."""
    import onnxruntime

    if "TensorrtExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this ONNX Runtime has TensorRT")
    start(**{"model.path": model, "model.provider": "tensorrt"})
    assert "expected provider 'tensorrt'" in peer.wait_for_reason("bad_provider").message


@pytest.mark.parametrize(
    ("parameters", "line"),
    [
        ({"gate.max_residual": -1.0}, "'gate.max_residual': expected a number from 0.001 to 100 m, got -1.0"),
        ({"gate.max_residul": 0.1}, "'gate.max_residul': unknown, expected one of autostart, "),
        ({"model.threads": "many"}, "'model.threads': expected an integer from 0 to 256 threads, got 'many'"),
        (
            {"tf.mode": "map"},
            "'tf.mode': expected one of 'map_to_camera', 'map_to_odom', 'map_to_base', 'none', got 'map'",
        ),
    ],
)
def test_a_bad_parameter_stops_the_start(start: Start, parameters: dict[str, object], line: str) -> None:
    """One line says what was expected, and the exit code is not zero."""
    process = start(**parameters)
    assert process.process.wait(20) == 2
    assert len(process.log.splitlines()) == 1
    assert line in process.log


@pytest.mark.parametrize(("number", "times"), [(signal.SIGINT, 1), (signal.SIGINT, 2), (signal.SIGTERM, 1)])
def test_a_signal_ends_the_node_cleanly(
    peer: Peer, start: Start, model: Path, number: int, times: int
) -> None:
    """Exit code 0 and no traceback, also when the terminal and launch both send it."""
    process = start(**{"model.path": model})
    localize(peer)
    assert process.stop(number, times) == 0


def change_state(peer: Peer, transition: int) -> bool:
    """Ask for a lifecycle transition; return whether it succeeded."""
    request = ChangeState.Request(transition=Transition(id=transition))
    return bool(peer.call(ChangeState, "/structpose_relocalizer/change_state", request).success)


def test_a_lifecycle_manager_can_drive_it(peer: Peer, start: Start, model: Path) -> None:
    """Without autostart it waits; it localises only while active, and can come back."""
    process = start(**{"model.path": model, "autostart": "false"})
    assert peer.wait_for_reason("unconfigured").level == b"\x01"
    for _ in range(2):
        assert change_state(peer, Transition.TRANSITION_CONFIGURE)
        peer.wait_for_reason("inactive")
        assert change_state(peer, Transition.TRANSITION_ACTIVATE)
        localize(peer)
        peer.wait_for_reason("localized")
        assert change_state(peer, Transition.TRANSITION_DEACTIVATE)
        peer.wait_for_reason("inactive")
        peer.wait(lambda: peer.node.count_subscribers("image") == 0, "the end of the subscription")
        assert change_state(peer, Transition.TRANSITION_CLEANUP)
        peer.wait_for_reason("unconfigured")
    assert change_state(peer, Transition.TRANSITION_UNCONFIGURED_SHUTDOWN)
    state = peer.call(GetState, "/structpose_relocalizer/get_state", GetState.Request())
    assert state.current_state.label == "finalized"
    assert process.stop() == 0


def test_the_endpoints_match_what_robots_use(peer: Peer, start: Start, model: Path) -> None:
    """Sensor data is taken best effort with depth 1; what is published is reliable."""
    start(**{"model.path": model, "tf.mode": "none"})
    localize(peer)
    (image,) = peer.node.get_subscriptions_info_by_topic("/image")
    assert image.qos_profile.reliability == ReliabilityPolicy.BEST_EFFORT
    assert image.qos_profile.durability == DurabilityPolicy.VOLATILE
    for topic in ("/pose", POINTS_TOPIC):
        (publisher,) = peer.node.get_publishers_info_by_topic(topic)
        assert publisher.qos_profile.reliability == ReliabilityPolicy.RELIABLE
    assert peer.node.count_publishers("/tf") == 0


def test_frames_come_from_the_parameters(domain: int, model: Path) -> None:
    """Map and camera frame are renamed; the camera's stands for the image header's. In this process."""
    from structpose_ros.node import StructposeRelocalizer

    given = {
        "model.path": str(model),
        "model.threads": 1,
        "frames.map_frame": "site",
        "frames.camera_frame": "renamed_optical",
    }
    overrides = [Parameter(name, value=value) for name, value in given.items()]
    with ros_context(domain) as context:
        peer = Peer(context)
        node = StructposeRelocalizer(context=context, parameter_overrides=overrides)
        peer._executor.add_node(node)
        peer.send_until(
            lambda: peer.transforms, "a transform", image_message(gradient(), frame_id=""), good_info()
        )
        assert peer.transforms[0].transforms[0].header.frame_id == "site"
        assert peer.transforms[0].transforms[0].child_frame_id == "renamed_optical"
        peer._executor.remove_node(node)
        node.destroy_node()
        peer.close()


def test_an_unforeseen_error_costs_one_frame(domain: int, model: Path) -> None:
    """What no one expected is named in diagnostics, and the next frame is worked on. In this process."""
    from structpose_ros.node import StructposeRelocalizer

    overrides = [Parameter("model.path", value=str(model)), Parameter("model.threads", value=1)]
    with ros_context(domain) as context:
        peer = Peer(context)
        node = StructposeRelocalizer(context=context, parameter_overrides=overrides)
        peer._executor.add_node(node)
        localize(peer)
        assert node._relocalizer is not None
        working = node._relocalizer.localize
        node._relocalizer.localize = lambda *_: 1 / 0  # type: ignore[method-assign]
        peer.send_until(lambda: peer.reason() == "internal_error", "an error", good_image(), good_info())
        assert peer.last_line() == "internal_error: ZeroDivisionError: division by zero"
        node._relocalizer.localize = working  # type: ignore[method-assign]
        localize(peer)
        peer._executor.remove_node(node)
        node.destroy_node()
        peer.close()


def info_at(seconds: int) -> CameraInfo:
    """A CameraInfo with only a stamp."""
    message = CameraInfo()
    message.header.stamp = Time(sec=seconds)
    return message


def test_camera_infos_wait_for_a_match_that_follows_the_image() -> None:
    """Drivers publish the image first: its CameraInfo is found although it comes a moment later."""
    infos = CameraInfos()
    infos.MATCH_WAIT = 10.0  # type: ignore[misc]
    infos.add(info_at(1))
    later = threading.Timer(0.05, infos.add, [info_at(2)])
    later.start()
    found, matched = infos.find(Time(sec=2))
    later.join()
    assert matched
    assert found is not None and found.header.stamp.sec == 2


def test_camera_infos_wait_only_while_stamps_match() -> None:
    """A stream whose stamps never match costs one wait, not one for each frame; a late match ends that."""
    infos = CameraInfos()
    infos.MATCH_WAIT = 0.01  # type: ignore[misc]
    infos.add(info_at(1))
    assert infos.find(Time(sec=2))[1] is False
    infos.MATCH_WAIT = 3600.0  # type: ignore[misc]
    found, matched = infos.find(Time(sec=3))
    assert not matched
    assert found is not None and found.header.stamp.sec == 1
    infos.add(info_at(3))
    infos.add(info_at(4))
    assert infos.find(Time(sec=4))[1] is True


def test_camera_infos_forget_the_oldest() -> None:
    """Memory stays bounded, and the latest is the last that arrived, also when stamps go back."""
    infos = CameraInfos()
    for seconds in range(100, 100 + 2 * CameraInfos.CAPACITY):
        infos.add(info_at(seconds))
    assert len(infos._by_stamp) == CameraInfos.CAPACITY
    infos.add(info_at(1))
    infos.MATCH_WAIT = 0.0  # type: ignore[misc]
    found, _ = infos.find(Time(sec=50))
    assert found is not None and found.header.stamp.sec == 1


def test_quaternion_order_is_ros() -> None:
    """x y z w, as the pose's fields are named."""
    quaternion = quaternion_from_rotation(MAP_FROM_CAMERA[:3, :3])
    np.testing.assert_allclose(rotation_from_quaternion(quaternion), MAP_FROM_CAMERA[:3, :3], atol=1e-12)
