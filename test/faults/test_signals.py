"""SIGINT and SIGTERM in each state, whatever the node is doing: it ends, cleanly and soon."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytest.importorskip("rclpy", reason="rclpy is not installed: no ROS 2 here")

from lifecycle_msgs.msg import Transition
from model_files import write_model
from node_rig import MAP_FROM_CAMERA, NODE, Rig, image, info, rig
from std_srvs.srv import Trigger

SIGNALS = [signal.SIGINT, signal.SIGTERM]
ALONE = {"frames__base_frame": "''", "tf__mode": "none"}


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Rig]:
    with rig(tmp_path) as made:
        yield made


def starting(bench: Rig, model: Path) -> None:
    """Before it has a state: Python has begun, the handlers may be there or not."""
    process = bench.start(model__path=model, **ALONE)
    # The signal must come when the node handles it: before, it is Python's own, and ends it without a word.
    bench.robot.wait(lambda: _handles_signals(process.process.pid), "its signal handlers")


def _handles_signals(pid: int) -> bool:
    status = Path(f"/proc/{pid}/status").read_text()
    caught = int(next(line for line in status.splitlines() if line.startswith("SigCgt")).split()[1], 16)
    return all(caught >> (number - 1) & 1 for number in SIGNALS)


def unconfigured(bench: Rig, model: Path) -> None:
    bench.start(model__path=model, autostart="false", **ALONE)
    bench.robot.wait_for_reason("unconfigured")


def inactive(bench: Rig, model: Path) -> None:
    unconfigured(bench, model)
    assert bench.robot.change(Transition.TRANSITION_CONFIGURE)
    bench.robot.wait_for_reason("inactive")


def silent(bench: Rig, model: Path) -> None:
    """Active, and no image comes."""
    bench.start(model__path=model, **ALONE)
    bench.robot.wait_for_reason("no_image")


def busy(bench: Rig, model: Path) -> None:
    """Active, with frames on their way and somebody who waits for a pose that will not come."""
    bench.start(model__path=model, run__mode="on_trigger", run__trigger_timeout=600.0, **ALONE)
    robot = bench.robot
    robot.wait_for_reason("no_image")
    client = robot.node.create_client(Trigger, f"{NODE}/relocalize")
    robot.wait(client.service_is_ready, "relocalize")
    client.call_async(Trigger.Request())
    nameless = image()
    nameless.header.frame_id = ""
    robot.send_until(lambda: robot.reason() == "bad_frame_id", "a rejection", nameless, info())
    for _ in range(20):
        robot.send(nameless, info())


def after_an_error(bench: Rig, model: Path) -> None:
    """Unconfigured, because the model file is none."""
    model.write_bytes(b"no model")
    bench.start(model__path=model, **ALONE)
    bench.robot.wait_for_reason("bad_model")


def finalized(bench: Rig, model: Path) -> None:
    unconfigured(bench, model)
    assert bench.robot.change(Transition.TRANSITION_UNCONFIGURED_SHUTDOWN)
    bench.robot.wait_for_reason("finalized")


STATES = [starting, unconfigured, inactive, silent, busy, after_an_error, finalized]


# While it is configuring: test_node_lifecycle.py, test_while_a_model_is_loaded_all_else_goes_on.
@pytest.mark.parametrize("number", SIGNALS, ids=["SIGINT", "SIGTERM"])
@pytest.mark.parametrize("reach", STATES, ids=lambda state: state.__name__)
def test_a_signal_ends_the_node_in_any_state(
    bench: Rig, tmp_path: Path, reach: Callable[[Rig, Path], None], number: int
) -> None:
    """Exit code 0, without a traceback (the rig looks at that), long before launch would kill it."""
    reach(bench, write_model(tmp_path / "model.onnx", MAP_FROM_CAMERA))
    bench.process.process.send_signal(number)
    assert bench.process.process.wait(5.0) == 0
