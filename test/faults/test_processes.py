"""Other processes, and the node's own, that end or stop without a word."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("rclpy", reason="rclpy is not installed: no ROS 2 here")

from fault_rig import LOST, FaultBench, fault_bench, known_model
from node_bench import error_of
from node_rig import MAP_FROM_CAMERA

EXACT = 1e-3  # metres and radians
TRY = 1.0  # seconds that Fast DDS waits for a lock of another process
LOCK = 5.0  # seconds in which it has given the lock up, after three tries at most


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[FaultBench]:
    with fault_bench(tmp_path) as made:
        yield made


def new_poses(bench: FaultBench, count: int) -> None:
    """Wait for so many poses more, all of them right."""
    bench.poses.clear()
    bench.wait(lambda: len(bench.poses) >= count, "poses")
    assert max(error_of(pose, MAP_FROM_CAMERA) for pose in bench.poses) < EXACT


def test_a_camera_that_is_killed_is_missed_at_once_and_taken_back(bench: FaultBench, tmp_path: Path) -> None:
    """no_image within the second; the next camera's images are localised as if nothing had been."""
    bench.start(**{"model.path": known_model(tmp_path)})
    for _ in range(2):
        camera = bench.other_side("camera")
        new_poses(bench, 10)
        bench.wait_for_reason("localized")
        camera.kill()
        bench.visible(lambda: bench.reason() == "no_image", "a killed camera")
        assert bench.diagnostics[-1].level == b"\x01"
    bench.alive()


def test_a_reader_that_never_reads_keeps_nothing_from_others(bench: FaultBench, tmp_path: Path) -> None:
    """Reliable, of a process that was stopped: every frame is answered, and the node ends cleanly.

    A process that is stopped within the microseconds in which it holds a lock of Fast DDS's shared memory
    holds up, once, whoever sends to it, until Fast DDS no longer waits for that lock.
    """
    process = bench.start(**{"model.path": known_model(tmp_path)})
    reader = bench.other_side("reader")
    bench.localize()
    bench.wait(lambda: bench.node.count_subscribers("pose") == 2, "the reader")
    bench.localize()
    reader.send_signal(signal.SIGSTOP)
    seconds = [_seconds_of_a_frame(bench) for _ in range(300)]
    print(f"300 frames answered beside a stopped reader, the latest after {max(seconds):.3f} s")
    held_up = {number: taken for number, taken in enumerate(seconds) if taken > LOST}
    assert len(held_up) <= 1, f"frames were not answered in time: {held_up}"
    assert all(number < 3 and TRY < taken < LOCK for number, taken in held_up.items()), held_up
    assert bench.reason() == "localized"
    assert process.stop() == 0


def _seconds_of_a_frame(bench: FaultBench) -> float:
    began = time.monotonic()
    assert bench.localize() < EXACT
    return time.monotonic() - began


def test_a_node_that_is_killed_leaves_nothing_in_the_way_of_the_next(
    bench: FaultBench, tmp_path: Path
) -> None:
    """Its shared memory and its endpoints, which DDS believes in for some time, among them."""
    model = known_model(tmp_path)
    bench.other_side("camera")
    for _ in range(2):
        process = bench.start(**{"model.path": model})
        new_poses(bench, 5)
        process.process.kill()
        assert process.process.wait(20.0) == -signal.SIGKILL
        bench.processes.remove(process)
    assert bench.start(**{"model.path": model}) in bench.processes
    new_poses(bench, 5)
    bench.wait_for_reason("localized")
    assert bench.processes[-1].stop() == 0
