"""Stamps that lie, and transforms in a loop: in diagnostics within a second, and never in a pose."""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="rclpy is not installed: no ROS 2 here")

from fault_rig import FaultBench, fault_bench, good_image, good_info, known_model
from node_rig import tf_message
from ros_helpers import CAMERA_FRAME, nanoseconds
from tf2_msgs.msg import TFMessage

EXACT = 1e-3  # metres and radians
SECOND = 10**9


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FaultBench]:
    """A node with a base, whose transforms are the tests' to give; localised."""
    folder = tmp_path_factory.mktemp("stamps")
    with fault_bench(folder) as made:
        made.start(**{"model.path": known_model(folder), "frames.base_frame": "base_link"})
        made.localize()
        yield made
        assert made.processes[0].stop() == 0


def seen(node: FaultBench, stamped: int, reason: str) -> None:
    """Send a good frame with this stamp: it is refused, for this reason, at once."""
    began = time.monotonic()
    answer = node.answer_to(good_image(), good_info(), (stamped // SECOND, stamped % SECOND))
    node.shown_since(began, f"a stamp that is {reason}")
    assert answer.reason == node.values()["last_reject_reason"] == reason, node.last_line()


def test_a_stamp_that_lies_is_seen(node: FaultBench) -> None:
    """Zero, negative, the same again: named. Far from the clock too, if input.max_age asks for that."""
    assert node.localize() < EXACT
    last = node._next
    for stamped, reason in ((0, "bad_stamp"), (-5 * SECOND, "bad_stamp"), (last, "out_of_order")):
        seen(node, stamped, reason)
        assert node.localize() < EXACT
        last = node._next
    node.set_parameters(**{"input.max_age": 2.0})
    node.continue_at(time.time_ns())
    assert node.localize() < EXACT
    for away, reason in ((-9, "too_old"), (9, "from_future")):
        seen(node, time.time_ns() + away * SECOND, reason)
        node.continue_at(time.time_ns())
        assert node.localize() < EXACT
    node.set_parameters(**{"input.max_age": 0.0})


@pytest.mark.parametrize("away", [-1000.0, 1000.0])
def test_a_clock_that_differs_is_seen_though_nobody_asked(node: FaultBench, away: float) -> None:
    """Bags are played without their clock, so no stamp is refused; an image's age stands in diagnostics."""
    node.continue_at(time.time_ns() + round(away * SECOND))
    assert node.localize() < EXACT
    node.visible(lambda: abs(float(node.values()["image_age_s"]) + away) < 30.0, "a clock that differs")


def test_time_that_goes_back_is_seen(node: FaultBench) -> None:
    """A bag that begins anew: said in diagnostics, and localised."""
    node.continue_at(time.time_ns())
    node.localize()
    node.continue_at(time.time_ns() - 100 * SECOND)
    node.localize()
    line = "the images' stamps went back by"
    node.visible(lambda: node.values().get("last_reset", "").startswith(line), "stamps that went back")


def test_transforms_in_a_loop_are_seen(node: FaultBench) -> None:
    """The base's place can't be told then; the camera's pose comes, and with better transforms the base's."""
    publisher = node.node.create_publisher(TFMessage, "/tf", 10)
    node.wait(lambda: publisher.get_subscription_count() >= 2, "/tf")
    now = node.next_stamp()

    def publish(*edges: tuple[str, str]) -> None:
        """Give each frame a parent for the next nine seconds; TF remembers ten."""
        times = (now, now + 9 * SECOND)
        publisher.publish(
            TFMessage(transforms=[tf_message(*edge, np.eye(4), at) for edge in edges for at in times])
        )

    publish(("base_link", "mast"), ("mast", "tilt"), ("tilt", "mast"), ("tilt", CAMERA_FRAME))
    node.visible(lambda: "loop" in node.last_line(), "a loop in TF", sending=True)
    assert node.reason() == "no_base_transform"
    assert node.localize() < EXACT
    now += 60 * SECOND
    node.continue_at(now)
    publish(("base_link", "mast"), ("mast", "tilt"), ("tilt", CAMERA_FRAME))
    node.visible(lambda: node.reason() == "localized", "better transforms", sending=True)
    assert nanoseconds(node.poses[-1].header.stamp) > now
