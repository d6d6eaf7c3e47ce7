"""`make soak`: the real node for an hour at 30 Hz, with faults sprinkled in: what it holds, where it errs."""

from __future__ import annotations

import argparse
import itertools
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import rclpy
from rclpy.executors import SingleThreadedExecutor

from benchmarks.soak_faults import FAULTS, Fault
from benchmarks.soak_player import Player, Shown, frames_of, info_of
from benchmarks.soak_report import Kind, Soak, Use, failures_of, print_table, summary_of
from structpose_ros.demo.processes import ALONE, PROFILE, START_DEADLINE, node_command, running
from structpose_ros.resources import share_path
from structpose_ros.training.frames import write_atomic
from structpose_ros.training.metrics import write_metrics
from structpose_ros.training.synthetic import render_demo

EVERY = 8.0  # seconds from the end of a fault to the next one
VISIBLE = 1.0  # seconds within which diagnostics must show a fault
LEAST_SECONDS = 3.0  # a fault that lasts for less is waited for so long
DOMAIN = "101"  # none of the tests', whose nodes would answer these images too


class Show:
    """Plays frames at a rate into the node and makes one fault after the other."""

    def __init__(self, player: Player, frames: Sequence[Shown], rate: float, pid: int) -> None:
        self._player, self._period, self._pid = player, 1.0 / rate, pid
        self._frames = itertools.cycle(frames)
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(player)
        self._began = self._due = time.monotonic()
        self._fault = ""
        self.soak = Soak()

    def run(self, seconds: float, is_alive: Callable[[], bool]) -> Soak:
        """Play for so long, or until the node has ended."""
        faults = itertools.cycle(FAULTS)
        self._began = self._due = time.monotonic()
        until = self._began + seconds
        while time.monotonic() < until and is_alive():
            self._play(EVERY, self._good)
            if time.monotonic() + EVERY < until:
                self._make(next(faults))
        self.soak.crashed = not is_alive()
        return self.soak

    def wait(self, happened: Callable[[], bool], deadline: float) -> bool:
        """Handle messages until `happened()`; return whether it did."""
        until = time.monotonic() + deadline
        while not happened() and time.monotonic() < until:
            self._executor.spin_once(timeout_sec=0.05)
        return happened()

    def _good(self, shown: Shown) -> None:
        self._player.show(shown.image, info_of(shown.camera), shown.map_from_camera)

    def _make(self, fault: Fault) -> None:
        player, kind = self._player, self.soak.kinds.setdefault(fault.name, Kind())
        before, began, taken = dict(player.heard.values), time.time(), float("inf")

        def look() -> None:
            nonlocal taken
            heard = player.heard
            if taken == float("inf") and heard.reported_at >= began and fault.seen(heard.values, before):
                taken = heard.reported_at - began

        self._fault = fault.name
        fault.begin(player)
        self._play(fault.seconds, lambda shown: fault.show(player, shown), look)
        fault.end(player)
        rest = LEAST_SECONDS - fault.seconds
        if rest > 0:
            self._play(rest, self._good, look)
        self._fault = ""
        kind.times += 1
        if taken < float("inf"):
            kind.seen += 1
            kind.seen_in_time += taken <= VISIBLE
            kind.longest_s = max(kind.longest_s, round(taken, 3))

    def _play(
        self, seconds: float, show: Callable[[Shown], None], look: Callable[[], None] = lambda: None
    ) -> None:
        until = time.monotonic() + seconds
        while (now := time.monotonic()) < until:
            if now >= self._due:
                show(next(self._frames))
                self.soak.frames += 1
                self._due = max(self._due + self._period, now)
            self._executor.spin_once(timeout_sec=max(0.0, min(self._due, until) - time.monotonic()))
            look()
            self._measure(now - self._began)

    def _measure(self, at: float) -> None:
        uses = self.soak.uses
        if not uses or at >= uses[-1].at + 1.0:
            try:
                uses.append(Use.of(self._pid, at, self._fault))
            except OSError:  # it has ended
                self.soak.crashed = True


def main() -> int:
    """Run it, print a table, write summary.json; 1 if something happened that must not."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("out/soak"))
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--rate", type=float, default=30.0, help="frames per second")
    parser.add_argument("--model", type=Path, help="model file (default: the demo room's)")
    arguments = parser.parse_args()
    os.environ.setdefault("ROS_DOMAIN_ID", DOMAIN)
    os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    profile = share_path("config", "fastdds_shm.xml")
    os.environ.setdefault(PROFILE, str(profile))
    model = arguments.model or share_path("models", "demo_room.onnx")
    arguments.out.mkdir(parents=True, exist_ok=True)
    render_demo(arguments.out / "room", tours=("localization",))
    frames, log = frames_of(arguments.out / "room"), arguments.out / "node.log"
    rclpy.init()
    command = node_command({"model.path": str(model.resolve()), **ALONE})
    # The profile for large images is the camera's: with it the node would have 16 MiB of shared memory too,
    # which fill up over hours with its own small messages.
    with running(command, arguments.out, "node", sends_images=False) as process:
        player = Player()
        show = Show(player, frames, arguments.rate, process.pid)
        if not show.wait(lambda: player.is_connected() and bool(player.heard.values), START_DEADLINE):
            print(f"soak: error: expected the node to come up, got none: {log}", file=sys.stderr)
            return 1
        print(f"soak: {arguments.minutes:g} minutes at {arguments.rate:g} Hz", flush=True)
        soak = show.run(60.0 * arguments.minutes, lambda: process.poll() is None)
        show.wait(lambda: player.unanswered() == 0, 10.0)
    soak.crashed |= process.returncode != 0
    summary = summary_of(soak, player, log.read_text(), arguments.minutes)
    failures = summary["failures"] = failures_of(summary)
    lines = [
        f"{use.at:.1f},{use.fault},{use.resident},{use.own},{use.threads},{use.handles}" for use in soak.uses
    ]
    write_atomic(
        arguments.out / "use.csv",
        "\n".join(["seconds,fault,resident,own,threads,handles", *lines, ""]).encode(),
    )
    write_metrics(arguments.out / "summary.json", summary)
    print_table(summary)
    print(f"\n  {arguments.out / 'summary.json'}")
    for failure in failures:
        print(f"soak: error: {failure}", file=sys.stderr)
    return bool(failures)


if __name__ == "__main__":
    sys.exit(main())
