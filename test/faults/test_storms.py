"""More messages than anybody should send: the node goes on answering, and counts what it left out."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="rclpy is not installed: no ROS 2 here")

from fault_rig import VISIBLE, FaultBench, fault_bench, good_image, good_info
from geometry_msgs.msg import PoseStamped, PoseWithCovarianceStamped
from model_files import HEIGHT, STRIDE, WIDTH, View, write_model_of_views
from node_bench import NODE, error_of, picture
from node_rig import MAP_FROM_CAMERA, tf_message
from rclpy.serialization import serialize_message
from ros_helpers import camera_info_message, image_message
from sensor_msgs.msg import CameraInfo, Image
from std_srvs.srv import SetBool
from tf2_msgs.msg import TFMessage

from structpose_ros.camera import Camera

EXACT = 1e-3  # metres and radians
RATE, MESSAGES = 200.0, 500
CAMERAS = [Camera(WIDTH, HEIGHT, 60.0 + 4.0 * i, 60.0 + 3.0 * i, 31.5 + i, 23.5 - i) for i in range(8)]


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FaultBench]:
    """A node that knows its pose through eight cameras, each by an image of its own; localised."""
    folder = tmp_path_factory.mktemp("storms")
    views = [View(MAP_FROM_CAMERA, camera.ray_grid(STRIDE)) for camera in CAMERAS]
    with fault_bench(folder) as made:
        made.start(
            **{"model.path": write_model_of_views(folder / "model.onnx", views), "tf.mode": "map_to_camera"}
        )
        made.localize()
        yield made
        assert made.processes[0].stop() == 0


def frames(spoilt: bool) -> list[tuple[Image, CameraInfo]]:
    """An image of each view with its CameraInfo; `spoilt`: every other one can't be read."""
    made = [(image_message(picture(i)), camera_info_message(camera)) for i, camera in enumerate(CAMERAS)]
    for image, info in made[1::2] if spoilt else []:
        image.step, info.k[0] = 1, float("nan")
    return made


def storm(node: FaultBench, send: Callable[[], object]) -> tuple[float, float]:
    """Send MESSAGES at RATE, or as fast as can be; return the longest time without diagnostics, and the rate.

    The time by their stamps: who makes a storm is too busy to hear of each when it comes.
    """
    sent, began, from_ns = 0, time.monotonic(), time.time_ns()
    while sent < MESSAGES:
        if time.monotonic() >= began + sent / RATE:
            send()
            sent += 1
        now = time.monotonic()  # one that is behind its time listens too
        node.handle_until(max(now + 0.001, min(began + sent / RATE, now + 0.005)))
    rate = sent / (time.monotonic() - began)
    to_ns, stamps = time.time_ns(), node.diagnostics_stamps
    node.wait(lambda: stamps and stamps[-1] > to_ns, "diagnostics after the storm")
    moments = [from_ns, *(stamp for stamp in stamps if from_ns < stamp < to_ns), to_ns]
    longest = 1e-9 * max(after - before for before, after in itertools.pairwise(moments))
    print(f"{sent} at {rate:.0f} Hz; at most {longest:.2f} s without diagnostics")
    return longest, rate


def all_is_well(node: FaultBench, longest: float) -> None:
    """Diagnostics came all the while, every frame is accounted for, good ones are localised."""
    assert longest < VISIBLE + 1.0
    node.alive()
    assert node.localize() < EXACT
    node.settle()


@pytest.mark.parametrize("spoilt", [False, True], ids=["cameras that change", "every other one spoilt"])
def test_a_storm_of_frames(node: FaultBench, spoilt: bool) -> None:
    """Each with another camera than the one before: no image's pose is made with another's CameraInfo."""
    shown = itertools.cycle(frames(spoilt))
    node.settle()
    before, poses = node.counts(), node.hear(PoseStamped, "pose", 1000)
    longest, rate = storm(node, lambda: node.send(*next(shown)))
    all_is_well(node, longest)
    counts = {name: count - before[name] for name, count in node.counts().items()}
    print(counts)
    assert counts["received"] > 0.3 * MESSAGES
    assert counts["received"] == counts["processed"] + counts["dropped"] + counts["skipped"]
    assert (counts["rejected"] > counts["processed"] / 4) == spoilt
    assert len(poses) > 20
    assert max(error_of(pose, MAP_FROM_CAMERA) for pose in poses) < EXACT
    assert float(node.values()["image_rate_hz"]) > 0.25 * rate


def test_a_storm_of_requests(node: FaultBench) -> None:
    """Priors, good and bad, while images come and the node is turned off and on."""
    good, bad = PoseWithCovarianceStamped(), PoseWithCovarianceStamped()
    bad.header.frame_id, bad.pose.pose.position.x = "map", float("nan")
    publisher = node.node.create_publisher(PoseWithCovarianceStamped, "trigger_localization", 10)
    switch = node.node.create_client(SetBool, f"{NODE}/set_enabled")
    node.wait(switch.service_is_ready, "set_enabled")
    node.wait(lambda: publisher.get_subscription_count() == 1, "trigger_localization")
    number = itertools.count()

    def send() -> None:
        publisher.publish(bad if next(number) % 3 == 0 else good)
        node.send(good_image(), good_info())
        if next(number) % 40 == 0:
            switch.call_async(SetBool.Request(data=False))
            switch.call_async(SetBool.Request(data=True))

    longest, _ = storm(node, send)
    enabled = switch.call_async(SetBool.Request(data=True))
    node.wait(enabled.done, "an answer")
    all_is_well(node, longest)
    assert node.values()["last_trigger"].startswith(
        ("succeeded", "failed: bad_prior", "failed: no pose: disabled")
    )


def test_a_storm_of_transforms(node: FaultBench) -> None:
    """In a loop, from a frame to itself, without a name, nowhere, without a direction, and ever new ones."""
    publisher = node.node.create_publisher(TFMessage, "/tf", 10)
    node.wait(lambda: publisher.get_subscription_count() >= 2, "/tf")
    here = np.eye(4)
    nowhere, nan = here.copy(), tf_message("odom", "nan", here)
    nowhere[0, 3] = float("inf")
    nan.transform.rotation.w = float("nan")

    def odd_ones(at: int) -> TFMessage:
        loop = [
            tf_message("a", "b", here, at),
            tf_message("b", "c", here, at),
            tf_message("c", "a", here, at),
        ]
        odd = [tf_message("a", "a", here, at), tf_message("", "d", here, at), tf_message("d", "", here, at)]
        new = [tf_message("odom", f"frame {at}", here, at), tf_message("odom", "far", nowhere, at), nan]
        return TFMessage(transforms=[*loop, *odd, *new])

    # Made beforehand, and as bytes: the storm is to be the node's trouble.
    made = iter([serialize_message(odd_ones(at)) for at in range(1, MESSAGES + 1)])

    def send() -> None:
        publisher.publish(next(made))
        node.send(good_image(), good_info())

    all_is_well(node, storm(node, send)[0])
