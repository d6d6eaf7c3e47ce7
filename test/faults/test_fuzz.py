"""Frames that no camera should send, by the hundred, over DDS to one node.

FUZZ_CASES=10000 is the long run (`make faults`).
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from random import Random

import pytest

pytest.importorskip("rclpy", reason="rclpy is not installed: no ROS 2 here")

from cases import Case, cases
from fault_rig import FaultBench, fault_bench, good_image, good_info, known_model
from hypothesis import HealthCheck, Phase, given, settings
from rclpy.serialization import serialize_message
from ros_helpers import nanoseconds
from sensor_msgs.msg import CompressedImage, Image

CASES = int(os.environ.get("FUZZ_CASES", "500"))
KINDS = {"raw": (Image, "image"), "compressed": (CompressedImage, "image/compressed")}
EXACT = 1e-3  # metres and radians
FITTING = 0.5  # of a lens that is wrong, but near enough to a real one for the gate
ONCE = settings(
    max_examples=CASES // len(KINDS),
    phases=[Phase.generate],  # the node's state is not the same when a case is tried again
    suppress_health_check=list(HealthCheck),
)


@dataclass
class Tally:
    """What was sent so far. forbidden: stamps of frames that must give no pose."""

    cases: int = 0
    answers: Counter[str] = field(default_factory=Counter)
    forbidden: set[int] = field(default_factory=set)


@pytest.fixture(params=list(KINDS), scope="module")
def node(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[FaultBench]:
    """A node that takes raw or compressed images, and has localised one."""
    folder = tmp_path_factory.mktemp(request.param)
    with fault_bench(folder) as made:
        made.transport = request.param
        made.images_on(*KINDS[made.transport])
        made.start(
            **{
                "model.path": known_model(folder),
                "input.transport": made.transport,
                "tf.mode": "map_to_camera",
            }
        )
        yield made
        assert made.processes[0].stop() == 0


def test_whatever_a_camera_sends_is_localised_rightly_or_refused_by_name(node: FaultBench) -> None:
    """After each frame that was refused, a good one gives the right pose again; the node never ends."""
    tally = Tally()
    node.localize()
    node.resent = 0  # until here the node was starting

    @ONCE
    @given(cases(node.transport))
    def try_out(case: Case) -> None:
        _check(node, case, tally)

    try_out()
    before = node.count("received")
    node.settle()
    node.alive()
    received, rejected = node.count("received"), node.count("rejected")
    print(f"{node.transport}: {tally.cases} cases, each answered: {dict(tally.answers.most_common())}")
    print(f"{received} frames reached the node, {node.resent} were sent again")
    assert tally.cases >= 0.95 * CASES // len(KINDS)
    assert before >= tally.cases
    assert rejected >= sum(tally.answers.values()) - tally.answers["pose"]
    assert tally.answers["pose"] > tally.cases / 20, "hardly a good frame among them"


def test_bytes_that_are_no_message_are_survived(node: FaultBench) -> None:
    """Messages cut off, with lengths beyond their end, with other headers.

    Raw images that are none are refused by the node and stand in diagnostics. What is no CompressedImage or
    CameraInfo the middleware throws away, and diagnostics can't show it.
    """
    random = Random(0)
    node.localize()
    whole = [serialize_message(good_image(node.transport)), serialize_message(good_info())]
    senders = [node._images, node._infos]
    for number in range(100):
        data = bytearray(whole[number % 2])
        if number % 3 == 0:
            del data[random.randrange(4, len(data)) :]
        elif number % 3 == 1:
            data[16:20] = b"\xff\xff\xff\x7f"  # the frame id's length
        else:
            data[random.randrange(4, 60)] = random.randrange(256)
        senders[number % 2].publish(bytes(data))
        if number % 10 == 0:
            assert node.localize() < EXACT
    assert node.localize() < EXACT
    if node.transport == "raw":
        senders[0].publish(whole[0][:100])
        node.wait(lambda: "expected an image message, got 100 bytes" in node.last_line(), "the refusal")
    node.alive()


def _check(node: FaultBench, case: Case, tally: Tally) -> None:
    answer = node.answer_to(case.image, case.info, case.stamped)
    tally.cases += 1
    tally.answers[answer.reason or "pose"] += 1
    if case.stamped is not None or answer.reason:  # the next stamp must follow a usual one
        assert node.localize() < EXACT, case.spoilt
    if answer.reason:
        assert answer.reason in case.reasons, f"{case.spoilt}: {node.last_line()}"
        if case.stamped is None:
            tally.forbidden.add(nanoseconds(case.image.header.stamp))
    else:
        assert case.may_pose, f"{case.spoilt} gave a pose, {answer.error:.3g} m or rad from the truth"
        assert answer.error < (FITTING if "extreme_lens" in case.spoilt else EXACT), case.spoilt
    assert not tally.forbidden & node.posed, case.spoilt
