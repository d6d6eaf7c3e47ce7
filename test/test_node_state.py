"""The node never lies: a kidnap, a covered camera, foreign images; requests are answered by their deadline.

The kidnap and the foreign images are judged by the bundled model on rendered views of its room.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import cycle
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

pytest.importorskip("rclpy", reason="rclpy is not installed: no ROS 2 here")

from builtin_interfaces.msg import Time
from geometry_msgs.msg import PoseWithCovarianceStamped
from model_files import write_model
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, QoSProfile
from ros_helpers import (
    DEADLINE,
    NodeProcess,
    Peer,
    camera_info_message,
    image_message,
    nanoseconds,
    next_domain,
    ros_context,
)
from sensor_msgs.msg import Image
from std_msgs.msg import Bool
from std_srvs.srv import SetBool, Trigger
from test_node import MAP_FROM_CAMERA, blinding_image, good_image, good_info

from structpose_ros.camera import Camera
from structpose_ros.executor import ThreadsExecutor
from structpose_ros.geometry import pose_error, rotation_from_vector, transform
from structpose_ros.messages import pose_with_covariance_stamped, target_from_source_of_pose
from structpose_ros.node import StructposeRelocalizer
from structpose_ros.relocalizer import Result
from structpose_ros.resources import share_path
from structpose_ros.training.synthetic import demo

NODE = "/structpose_relocalizer"
SEED = 7
PLACES = {"here": range(40, 46), "there": range(200, 206)}  # frames of the localisation tour
LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
Frame = tuple[Image, np.ndarray]
Start = Callable[..., NodeProcess]

# The module's views are rendered once.
pytestmark = pytest.mark.xdist_group("rendered views")


class Watcher(Peer):
    """A peer that also keeps ~/localized, `initialpose` and the states in diagnostics."""

    def __init__(self, context: object) -> None:
        self.localized: list[bool] = []
        self.handed_off: list[PoseWithCovarianceStamped] = []
        super().__init__(context)  # type: ignore[arg-type]
        self.node.create_subscription(
            Bool, f"{NODE}/localized", lambda message: self.localized.append(message.data), LATCHED
        )
        self.node.create_subscription(PoseWithCovarianceStamped, "initialpose", self.handed_off.append, 10)
        self.hints = self.node.create_publisher(PoseWithCovarianceStamped, "trigger_localization", 1)

    def is_localized(self) -> bool | None:
        """What ~/localized said last, None before it said anything."""
        return self.localized[-1] if self.localized else None

    def state(self) -> str:
        """The state in the last diagnostics."""
        return self.values().get("state", "")

    def reasons(self) -> set[str]:
        """Every reason of a rejected frame so far."""
        rejected = (item for status in self.diagnostics for item in status.values)
        return {item.value for item in rejected if item.key == "last_reject_reason" and item.value}


@pytest.fixture
def domain(monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    number = next_domain()
    monkeypatch.setenv("ROS_DOMAIN_ID", str(number))
    return number


@pytest.fixture
def peer(domain: int) -> Iterator[Watcher]:
    with ros_context(domain) as context:
        made = Watcher(context)
        yield made
        made.close()


@pytest.fixture
def start(domain: int, tmp_path: Path) -> Iterator[Start]:
    """Start the node; at the end it is gone and has printed no traceback."""
    started: list[NodeProcess] = []

    def starter(**parameters: object) -> NodeProcess:
        alone = {"model.provider": "cpu", "model.threads": 1, "frames.base_frame": "''"}
        started.append(NodeProcess(domain, tmp_path / "node.log", **{**alone, **parameters}))
        return started[-1]

    yield starter
    for process in started:
        process.end()
        assert "Traceback" not in process.log, process.log


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_model(tmp_path / "model.onnx", MAP_FROM_CAMERA)


@pytest.fixture(scope="module")
def camera() -> Camera:
    return demo.camera_of_size(320, 240)


@pytest.fixture(scope="module")
def views(camera: Camera, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Frame]]:
    """Rendered views from two places of the demo room, with their true poses."""
    folder = tmp_path_factory.mktemp("views")
    space = demo.FreeSpace(demo.EXTENT, demo.room_footprints(SEED))
    tour = demo.plan_tour(space, "localization", SEED, 300)
    jobs = list(demo.tour_jobs(folder, "localization", tour))
    chosen = [jobs[number] for numbers in PLACES.values() for number in numbers]
    demo.render_jobs(chosen, camera, SEED, workers=1, progress=False)

    def frame(number: int) -> Frame:
        pixels = cv2.imread(str(demo.frame_path(jobs[number], "color.jpg")))
        return image_message(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)), jobs[number].map_from_camera

    return {place: [frame(number) for number in numbers] for place, numbers in PLACES.items()}


@pytest.fixture
def room_model() -> Path:
    return share_path("models", "demo_room.onnx")


def play(
    peer: Watcher, frames: list[Frame], camera: Camera, happened: Callable[[], object], what: str
) -> dict[int, np.ndarray]:
    """Show frames over and over at 10 Hz until `happened()`; return the true poses by stamp."""
    truth: dict[int, np.ndarray] = {}
    until = time.monotonic() + DEADLINE
    for image, map_from_camera in cycle(frames):
        truth[peer.send(image, camera_info_message(camera))] = map_from_camera
        due = time.monotonic() + 0.1
        while time.monotonic() < due and not happened():
            peer._executor.spin_once(timeout_sec=0.01)
        if happened():
            return truth
        assert time.monotonic() < until, f"waited {DEADLINE} s for {what}; {peer.last_line()}"
    raise AssertionError("no frames")


def assert_true(peer: Watcher, truth: dict[int, np.ndarray]) -> None:
    """Every pose published so far is near the true one of its image."""
    for pose in peer.poses:
        metres, degrees = pose_error(
            target_from_source_of_pose(pose.pose), truth[nanoseconds(pose.header.stamp)]
        )
        assert metres < 0.25 and degrees < 5.0


def test_a_kidnapped_camera_is_never_at_a_wrong_place(
    peer: Watcher, start: Start, views: dict[str, list[Frame]], camera: Camera, room_model: Path
) -> None:
    """From one place to another between two images: found again within lost_timeout, or LOST by then."""
    start(**{"model.path": room_model, "run.lost_timeout": 2.0, "handoff.mode": "on_lost"})
    truth = play(peer, views["here"], camera, lambda: len(peer.poses) >= 5, "poses here")
    apart, _ = pose_error(views["here"][0][1], views["there"][0][1])
    assert apart > 1.0
    before, jumped = len(peer.poses), time.monotonic()
    settled: list[float] = []

    def settles() -> bool:
        if not settled and (len(peer.poses) > before or peer.state() == "LOST"):
            # A pose of an image from before the jump may still have been on its way.
            if len(peer.poses) > before and nanoseconds(peer.poses[-1].header.stamp) <= max(truth_here):
                return False
            settled.append(time.monotonic() - jumped)
        return bool(settled)

    truth_here = dict(truth)
    truth |= play(peer, views["there"], camera, settles, "poses there, or LOST")
    assert settled[0] < 2.0 + 0.5
    truth |= play(peer, views["there"], camera, lambda: len(peer.poses) >= before + 5, "poses there")
    peer.wait(lambda: peer.state() == "LOCALIZED", "LOCALIZED")
    assert_true(peer, truth)
    assert "unconfirmed" in peer.reasons(), "the first pose there stood alone"
    assert len(peer.handed_off) == 2, "found at the start, and found again"


def unrecognisable() -> dict[str, np.ndarray]:
    """Images that show nothing of the demo room."""
    random = np.random.default_rng(5)
    rows, columns = np.mgrid[:240, :320]
    noise = random.integers(0, 256, (240, 320, 3), dtype=np.uint8)
    blobs = cv2.resize(random.integers(0, 256, (12, 16, 3), dtype=np.uint8), (320, 240))
    board = np.where((rows // 20 + columns // 20) % 2, 230, 25).astype(np.uint8)
    return {
        "covered": np.full((240, 320, 3), 8, dtype=np.uint8),
        "blinded": np.full((240, 320, 3), 255, dtype=np.uint8),
        "noise": noise,
        "blobs": blobs,
        "board": np.repeat(board[..., None], 3, axis=-1),
        "gradient": np.stack([columns * 255 // 320, rows * 255 // 240, rows * 0 + 128], -1).astype(np.uint8),
    }


def test_what_is_not_the_room_gives_no_pose_and_a_reason(
    peer: Watcher, start: Start, views: dict[str, list[Frame]], camera: Camera, room_model: Path
) -> None:
    """Covered, noise, foreign patterns: silence, the reason in diagnostics, then LOST; then found again."""
    start(**{"model.path": room_model, "run.lost_timeout": 1.0})
    truth = play(peer, views["here"], camera, lambda: len(peer.poses) >= 3, "poses")
    peer.wait(peer.is_localized, "localized")
    for name, pixels in unrecognisable().items():
        rejected = int(peer.values()["frames_rejected"])
        foreign = play(
            peer,
            [(image_message(pixels), np.eye(4))],
            camera,
            lambda rejected=rejected: int(peer.values()["frames_rejected"]) >= rejected + 2,  # type: ignore[misc]
            f"rejections of {name}",
        )
        assert not foreign.keys() & set(peer.pose_stamps()), name
        assert peer.values()["last_reject_reason"] in (
            "zero_weights",
            "too_few_points",
            "collinear",
            "low_confidence",
            "outside_map",
            "unconfirmed",
        )
        assert peer.diagnostics[-1].level != b"\x00"
    peer.wait(lambda: peer.state() == "LOST" and peer.is_localized() is False, "LOST")
    published = len(peer.poses)
    truth |= play(peer, views["here"], camera, lambda: len(peer.poses) > published, "a pose again")
    peer.wait(peer.is_localized, "localized again")
    assert_true(peer, truth)


def test_without_images_the_node_is_lost_in_time(peer: Watcher, start: Start, model: Path) -> None:
    """The clock alone makes it LOST, and ~/localized says so to who comes late."""
    start(**{"model.path": model, "run.lost_timeout": 0.5})
    peer.wait(lambda: peer.localized == [False], "false before the first pose")
    peer.send_until(lambda: True in peer.localized, "localized", good_image(), good_info())
    at = time.monotonic()
    peer.wait(lambda: peer.is_localized() is False, "lost")
    assert 0.3 < time.monotonic() - at < 2.0
    peer.wait(lambda: peer.state() == "LOST", "LOST in diagnostics")
    late: list[bool] = []
    peer.node.create_subscription(Bool, f"{NODE}/localized", lambda it: late.append(it.data), LATCHED)
    peer.wait(lambda: late, "the latched state")
    assert late == [False]


def relocalize(peer: Watcher, image: Image | None) -> Trigger.Response:
    """Call ~/relocalize, showing `image` over and over meanwhile, or nothing at all."""
    client = peer.node.create_client(Trigger, f"{NODE}/relocalize")
    peer.wait(client.service_is_ready, "the service")
    future = client.call_async(Trigger.Request())
    if image is None:
        peer.wait(future.done, "an answer")
    else:
        peer.send_until(future.done, "an answer", image, good_info())
    peer.node.destroy_client(client)
    return future.result()


def test_relocalize_answers_with_the_pose(peer: Watcher, start: Start, model: Path) -> None:
    """And hands it off once; without asking nothing is handed off, nor worked on."""
    start(**{"model.path": model, "run.mode": "on_trigger"})
    peer.wait_for_reason("no_image")
    peer.send_until(
        lambda: peer.reason() == "waiting_for_trigger" and int(peer.values()["frames_skipped"]) > 2,
        "skipped images",
        good_image(),
        good_info(),
    )
    assert not peer.poses
    assert peer.diagnostics[-1].level == b"\x00"
    answer = relocalize(peer, good_image())
    assert answer.success
    x, y, z = MAP_FROM_CAMERA[:3, 3]
    assert answer.message.startswith(f"localized: camera in 'map' at x={x:.3f} y={y:.3f} z={z:.3f} m, ")
    assert "confidence 1.00" in answer.message
    peer.wait(lambda: peer.poses and peer.handed_off, "the pose, handed off")
    assert len(peer.handed_off) == 1
    assert peer.handed_off[0].header == peer.poses[-1].header
    assert peer.handed_off[0].pose.pose == peer.poses[-1].pose
    peer.wait(lambda: peer.values().get("last_trigger", "").startswith("succeeded: localized"), "the outcome")


def test_relocalize_says_why_there_is_no_pose(peer: Watcher, start: Start, model: Path) -> None:
    """By the time-out, with the last frame's reason; and even while no image comes."""
    start(**{"model.path": model, "run.trigger_timeout": 1.0})
    peer.wait_for_reason("no_image")
    at = time.monotonic()
    answer = relocalize(peer, None)
    assert 0.9 < time.monotonic() - at < 3.0
    assert not answer.success
    assert answer.message == "no pose within 1 s; the last reason: no image came"
    answer = relocalize(peer, blinding_image())
    assert not answer.success
    assert answer.message.startswith("no pose within 1 s; the last reason: zero_weights: ")
    assert not peer.handed_off


def test_relocalize_answers_at_once_when_it_can_not(peer: Watcher, start: Start, model: Path) -> None:
    """Not active, or disabled: nobody waits for the time-out."""
    start(**{"model.path": model, "run.trigger_timeout": 600.0, "autostart": "false"})
    answer = relocalize(peer, None)
    assert (answer.success, answer.message[:12]) == (False, "not active: ")
    from test_node import Transition, change_state

    for transition in (Transition.TRANSITION_CONFIGURE, Transition.TRANSITION_ACTIVATE):
        assert change_state(peer, transition)
    assert peer.call(SetBool, f"{NODE}/set_enabled", SetBool.Request(data=False)).success
    peer.wait_for_reason("disabled")
    answer = relocalize(peer, good_image())
    assert (answer.success, answer.message) == (False, "disabled: call ~/set_enabled with true")
    assert peer.call(SetBool, f"{NODE}/set_enabled", SetBool.Request(data=True)).success
    assert relocalize(peer, good_image()).success


def prior(offset: float, sigma: float, yaw: float = 0.0) -> PoseWithCovarianceStamped:
    """A guess that is `offset` metres and `yaw` radians off; without a base it is of the camera."""
    off = transform(rotation_from_vector([0.0, 0.0, yaw]), [0.0, 0.0, 0.0])
    guess = off @ MAP_FROM_CAMERA
    guess[:3, 3] = MAP_FROM_CAMERA[:3, 3] + [offset, 0.0, 0.0]
    return pose_with_covariance_stamped(guess, sigma**2 * np.eye(6), Time(), "map")


@contextmanager
def node_here(peer: Watcher, model: Path, mode: str) -> Iterator[StructposeRelocalizer]:
    """A node in this process, spun by a thread, that is active and listens to images."""
    given = {
        "model.path": str(model),
        "model.threads": 1,
        "frames.base_frame": "",
        "gate.consistency_frames": 1,
        "run.mode": mode,
    }
    overrides = [Parameter(name, value=value) for name, value in given.items()]
    node = StructposeRelocalizer(context=peer.node.context, parameter_overrides=overrides)
    executor = ThreadsExecutor(4, context=peer.node.context)
    executor.add_node(node)
    spinning = threading.Thread(target=executor.spin)
    spinning.start()
    try:
        peer.wait_for_reason("no_image")
        yield node
    finally:
        executor.shutdown()
        spinning.join(DEADLINE)
        node.destroy_node()


def hint(peer: Watcher, message: PoseWithCovarianceStamped) -> str:
    """Send a prior and images until there is an outcome; return it."""
    outcomes = {values.get("last_trigger", "") for values in [peer.values()]}
    peer.wait(lambda: peer.hints.get_subscription_count() > 0, "the node to listen")
    peer.hints.publish(message)

    def ended() -> bool:
        return peer.values().get("last_trigger", "") not in outcomes

    peer.send_until(ended, "an outcome", good_image(), good_info())
    return peer.values()["last_trigger"]


def test_a_prior_is_checked(peer: Watcher, start: Start, model: Path) -> None:
    """A pose that fits is handed off; one that doesn't is withheld from everybody while the request lasts."""
    start(**{"model.path": model, "run.mode": "on_trigger", "run.trigger_timeout": 1.0})
    peer.wait_for_reason("no_image")
    assert hint(peer, prior(5.0, 0.5)).startswith(
        "failed: no pose within 1 s; the last reason: prior_mismatch: x is -5.00 m from the prior"
    )
    assert not peer.poses and not peer.handed_off
    assert hint(peer, prior(0.0, 0.2, yaw=math.pi / 2)).startswith("failed: ")
    assert "prior_mismatch: rz is -90 deg from the prior" in peer.values()["last_trigger"]
    assert not peer.poses
    assert hint(peer, prior(1.0, 0.5)).startswith("succeeded: localized")
    peer.wait(lambda: len(peer.handed_off) == 1, "the hand-off")


@pytest.mark.parametrize("mode", ["on_trigger", "continuous"])
def test_a_prior_that_comes_just_after_an_image_withholds_its_pose(
    domain: int, peer: Watcher, model: Path, mode: str
) -> None:
    """The image is no answer, and its pose would be taken for one. In this process."""
    with node_here(peer, model, mode) as node:
        arrived = node._arrived

        def asked_after_it(info: Mapping[str, Any]) -> float:
            at = arrived(info)
            node._on_prior(prior(5.0, 0.5))
            return at

        node._arrived = asked_after_it  # type: ignore[method-assign]
        expected = "skipped" if mode == "on_trigger" else "rejected"
        peer.send_until(
            lambda: int(peer.values()[f"frames_{expected}"]) > 0, expected, good_image(), good_info()
        )
        assert peer.values()["last_reject_reason"] == ("" if mode == "on_trigger" else "prior_mismatch")
        assert not peer.poses


def test_a_prior_counts_for_a_frame_that_was_begun_before_it_ended(
    domain: int, peer: Watcher, model: Path
) -> None:
    """The request times out while its image is worked on: the pose is withheld. In this process."""
    with node_here(peer, model, "on_trigger") as node:
        assert node._localization is not None
        relocalizer = node._localization.relocalizer

        class Slow:
            def localize(self, *arguments: Any) -> Result:
                for request in node._triggers.waiting():
                    request.time_out()
                return relocalizer.localize(*arguments)

        node._localization.relocalizer = Slow()  # type: ignore[assignment]
        node._on_prior(prior(5.0, 0.5))
        peer.send_until(
            lambda: int(peer.values()["frames_processed"]) > 0, "the frame", good_image(), good_info()
        )
        assert peer.values()["last_trigger"].startswith("failed: no pose within")
        assert peer.values()["last_reject_reason"] == "prior_mismatch"
        assert not peer.poses and not peer.handed_off


def test_a_prior_that_is_none_is_refused(peer: Watcher, start: Start, model: Path) -> None:
    """Another frame, NaN, a negative variance: refused by name; an empty message asks without a prior."""
    start(**{"model.path": model, "run.mode": "on_trigger"})
    peer.wait_for_reason("no_image")
    elsewhere, not_a_number, negative = prior(0.0, 0.5), prior(0.0, 0.5), prior(0.0, 0.5)
    elsewhere.header.frame_id = "odom"
    not_a_number.pose.pose.position.x = math.nan
    negative.pose.covariance[7] = -1.0
    assert hint(peer, elsewhere) == "failed: bad_prior: expected a prior in 'map', got one in 'odom'"
    assert hint(peer, not_a_number).startswith("failed: bad_prior: expected a finite position")
    assert hint(peer, negative).startswith("failed: bad_prior: expected finite variances of at least 0")
    assert not peer.handed_off
    assert hint(peer, PoseWithCovarianceStamped()).startswith("succeeded: localized")


@pytest.mark.parametrize(("mode", "handed_off"), [("never", 0), ("once_per_trigger", 1), ("on_lost", 2)])
def test_hand_off_by_mode(peer: Watcher, start: Start, model: Path, mode: str, handed_off: int) -> None:
    """Found by itself, then asked for, then two more poses: each mode hands off what it says."""
    start(**{"model.path": model, "handoff.mode": mode})
    peer.send_until(lambda: peer.poses, "a pose", good_image(), good_info())
    assert relocalize(peer, good_image()).success
    seen = len(peer.poses)
    peer.send_until(lambda: len(peer.poses) > seen, "another pose", good_image(), good_info())
    assert len(peer.handed_off) == handed_off


def test_reset_begins_anew(peer: Watcher, start: Start, model: Path) -> None:
    """SEARCHING at once; then found again, and handed off again where on_lost says so."""
    start(**{"model.path": model, "handoff.mode": "on_lost", "run.lost_timeout": 100.0})
    peer.send_until(lambda: peer.handed_off, "a pose", good_image(), good_info())
    answer = peer.call(Trigger, f"{NODE}/reset", Trigger.Request())
    assert (answer.success, answer.message) == (True, "forgot everything: SEARCHING")
    peer.wait(lambda: peer.is_localized() is False, "not localized")
    peer.send_until(lambda: len(peer.handed_off) == 2, "found again", good_image(), good_info())
    peer.wait(peer.is_localized, "localized")


def test_the_first_pose_waits_for_others_that_agree(peer: Watcher, start: Start, model: Path) -> None:
    """Three poses are held back, with the count as detail; the fourth is published."""
    start(**{"model.path": model, "gate.consistency_frames": 4})
    peer.send_until(lambda: peer.poses, "a pose", good_image(), good_info())
    peer.wait(lambda: int(peer.values()["frames_accepted"]) > 0, "the count of it")
    assert int(peer.values()["frames_rejected"]) == 3
    assert peer.values()["last_reject_reason"] == "unconfirmed"
    assert peer.values()["last_reject_detail"] == "3 of 4 poses in a row agree"
