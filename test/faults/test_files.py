"""Files that are not what they were, or can't be written."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("rclpy", reason="rclpy is not installed: no ROS 2 here")

from fault_rig import FaultBench, fault_bench, good_image, good_info, known_model
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from model_files import write_model
from node_bench import NODE
from node_rig import MAP_FROM_CAMERA

from structpose_ros.geometry import transform
from structpose_ros.model_file_watch import AS_LOADED, CHANGED, GONE

EXACT = 1e-3  # metres and radians


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[FaultBench]:
    with fault_bench(tmp_path) as made:
        yield made


def change(bench: FaultBench, *transitions: int) -> bool:
    """Ask for lifecycle transitions; return whether the last one succeeded."""
    for number in transitions:
        request = ChangeState.Request(transition=Transition(id=number))
        succeeded = bool(bench.call(ChangeState, f"{NODE}/change_state", request).success)
    return succeeded


def test_a_model_file_that_changes_is_seen_and_changes_nothing(bench: FaultBench, tmp_path: Path) -> None:
    """Spoilt, removed, replaced: the node goes on with what it loaded until it is configured anew."""
    model = known_model(tmp_path)
    content = model.read_bytes()
    bench.start(**{"model.path": model})
    bench.localize()
    assert bench.values()["model_file"] == AS_LOADED

    def shown(state: str) -> None:
        bench.visible(
            lambda: bench.values()["model_file"] == state,
            f"a model file that is {state.split(maxsplit=1)[0]}",
        )
        assert bench.localize() < EXACT

    model.write_bytes(content[: len(content) // 2])
    shown(CHANGED)
    model.unlink()
    shown(GONE)
    moved = transform(MAP_FROM_CAMERA[:3, :3], MAP_FROM_CAMERA[:3, 3] + [1.0, 0.0, 0.0])
    write_model(model, moved)
    shown(CHANGED)
    assert change(bench, Transition.TRANSITION_DEACTIVATE, Transition.TRANSITION_CLEANUP)
    assert change(bench, Transition.TRANSITION_CONFIGURE, Transition.TRANSITION_ACTIVATE)
    bench.resent = 0
    assert bench.localize() == pytest.approx(1.0, abs=EXACT)
    bench.visible(lambda: bench.values()["model_file"] == AS_LOADED, "the model file that was loaded")
    model.unlink()
    assert not change(
        bench,
        Transition.TRANSITION_DEACTIVATE,
        Transition.TRANSITION_CLEANUP,
        Transition.TRANSITION_CONFIGURE,
    )
    bench.visible(lambda: bench.reason() == "bad_model", "a model file that is missing")
    assert bench.processes[0].stop() == 0


def nothing_can_be_written() -> None:
    """As on a full disk, or one that is read-only: files of this process can't grow."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))


@pytest.mark.parametrize("disk", ["read-only", "full"])
def test_a_disk_that_takes_nothing_keeps_nobody_from_localising(
    bench: FaultBench, tmp_path: Path, disk: str
) -> None:
    """No log files, no cache, no shared memory: poses come all the same, and the node ends cleanly."""
    unwritable = "/proc/none"  # for root too
    if disk == "read-only":
        places = dict.fromkeys(("HOME", "ROS_LOG_DIR", "XDG_CACHE_HOME", "TMPDIR"), unwritable)
        process = bench.start(**{"model.path": known_model(tmp_path)}, environment=places)
    else:
        process = bench.start(**{"model.path": known_model(tmp_path)}, before=nothing_can_be_written)
    assert bench.localize() < EXACT
    assert not bench.answer_to(good_image(), good_info()).reason
    assert process.stop() == 0
    if disk == "read-only":
        line = "no log files, only this output: expected a folder for log files that can be written"
        assert line in process.log
