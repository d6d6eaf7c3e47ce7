"""`make soak`: the real node for an hour at 30 Hz, with faults sprinkled in: what it holds, where it errs."""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
from rclpy.executors import SingleThreadedExecutor

from benchmarks.run import machine
from benchmarks.soak_faults import FAULTS, Fault
from benchmarks.soak_player import Player, Shown, frames_of, info_of
from structpose_ros.resources import share_path
from structpose_ros.training.frames import write_atomic
from structpose_ros.training.metrics import write_metrics
from structpose_ros.training.synthetic import render_demo

EVERY = 8.0  # seconds from the end of a fault to the next one
VISIBLE = 1.0  # seconds within which diagnostics must show a fault
LEAST_SECONDS = 3.0  # a fault that lasts for less is waited for so long
WARM_UP_MINUTES, WARM_UP_SHARE = 5.0, 1 / 3  # from when on nothing may grow; of a short run a share of it
MOST_GROWTH = 0.01
TROUBLES = ("Traceback", "internal_error", "never retrieved", "terminate called")
START_DEADLINE = 60.0
ALONE = {"frames.base_frame": "''", "frames.odom_frame": "''"}  # a camera that no robot carries


@dataclass(frozen=True)
class Use:
    """What the node held: resident memory in bytes, threads, open files.

    at: seconds since the beginning. fault: the one that was made then, '' for none.
    """

    at: float
    fault: str
    resident: int
    threads: int
    handles: int

    @staticmethod
    def of(pid: int, at: float, fault: str) -> Use:
        """Ask the system."""
        process = Path(f"/proc/{pid}")
        pages = int((process / "statm").read_text().split()[1])
        threads, handles = (len(list((process / name).iterdir())) for name in ("task", "fd"))
        return Use(at, fault, pages * os.sysconf("SC_PAGE_SIZE"), threads, handles)


@dataclass
class Kind:
    """How often a fault was made, how often diagnostics showed it within VISIBLE, and the longest it took."""

    times: int = 0
    seen: int = 0
    seen_in_time: int = 0
    longest_s: float = 0.0


@dataclass
class Soak:
    """A run: what was measured, and how each kind of fault was seen."""

    uses: list[Use] = field(default_factory=list)
    kinds: dict[str, Kind] = field(default_factory=dict)
    frames: int = 0
    crashed: bool = False


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


def summary_of(soak: Soak, player: Player, log: str, minutes: float) -> dict[str, Any]:
    """Return what summary.json holds; growth is from the end of the warm-up to the end, by medians."""
    first_s = 60.0 * min(WARM_UP_MINUTES, WARM_UP_SHARE * minutes)
    window = min(60.0, 6.0 * minutes)
    began = [use for use in soak.uses if first_s - window / 2 <= use.at < first_s + window / 2]
    ended = [use for use in soak.uses if use.at >= soak.uses[-1].at - window]

    def medians(name: str) -> tuple[float, float]:
        return tuple(statistics.median(getattr(use, name) for use in part) for part in (began, ended))  # type: ignore[return-value]

    resident, threads, handles = medians("resident"), medians("threads"), medians("handles")
    at, latency = np.array(player.heard.latencies).T
    parts = latency[at < at[0] + window], latency[at >= at[-1] - window]
    return {
        "minutes": round(soak.uses[-1].at / 60, 2),
        "frames": soak.frames,
        "poses": player.heard.poses,
        "wrong_poses": len(player.heard.wrong),
        "wrong": player.heard.wrong[:20],
        "rss_growth": resident[1] / resident[0] - 1,
        "rss_mb": [round(value / 1e6, 2) for value in resident],
        "measured_from_minute": round(first_s / 60, 2),
        "threads": [int(value) for value in threads],
        "handles": [int(value) for value in handles],
        "latency_first_ms": _percentiles(parts[0]),
        "latency_last_ms": _percentiles(parts[1]),
        "faults": {name: asdict(kind) for name, kind in soak.kinds.items()},
        "reasons": dict(player.heard.reasons.most_common()),
        "unanswered_services": player.unanswered(),
        "crashes": int(soak.crashed),
        "tracebacks": sum(log.count(trouble) for trouble in TROUBLES),
        "machine": machine(),
    }


def _percentiles(milliseconds: np.ndarray) -> dict[str, float]:
    return {f"p{q}": round(float(np.percentile(milliseconds, q)), 2) for q in (50, 95, 99)}


def failures_of(summary: dict[str, Any]) -> list[str]:
    """Return in words what must not have happened."""
    failures = [
        f"{summary[name]} {name.replace('_', ' ')}"
        for name in ("wrong_poses", "crashes", "tracebacks", "unanswered_services")
        if summary[name]
    ]
    if summary["rss_growth"] > MOST_GROWTH:
        failures.append(f"memory grew by {summary['rss_growth']:.1%}, expected at most {MOST_GROWTH:.0%}")
    for name in ("threads", "handles"):
        before, after = summary[name]
        if after > before:
            failures.append(f"{after} {name} at the end, {before} before")
    unseen = [name for name, kind in summary["faults"].items() if kind["seen"] < kind["times"]]
    return failures + [f"'{name}' was not always seen in diagnostics" for name in unseen]


def print_table(summary: dict[str, Any]) -> None:
    """Print what matters of it."""
    first, last = summary["latency_first_ms"], summary["latency_last_ms"]
    rows = [
        ("minutes, frames, poses", f"{summary['minutes']}, {summary['frames']}, {summary['poses']}"),
        ("wrong poses", summary["wrong_poses"]),
        ("memory", f"{summary['rss_mb'][0]} -> {summary['rss_mb'][1]} MB ({summary['rss_growth']:+.2%})"),
        ("threads", "{} -> {}".format(*summary["threads"])),
        ("handles", "{} -> {}".format(*summary["handles"])),
        ("latency p50, p99 at first", f"{first['p50']}, {first['p99']} ms"),
        ("latency p50, p99 at last", f"{last['p50']}, {last['p99']} ms"),
        ("crashes, tracebacks", f"{summary['crashes']}, {summary['tracebacks']}"),
    ]
    for name, value in rows:
        print(f"  {name:<32}{value}")
    print(f"\n  {'fault':<32}{'times':>6}{'seen':>6}{'within 1 s':>12}{'longest s':>11}")
    for name, kind in summary["faults"].items():
        counts = f"{kind['times']:>6}{kind['seen']:>6}{kind['seen_in_time']:>12}"
        print(f"  {name:<32}{counts}{kind['longest_s']:>11.2f}")


@contextmanager
def node_process(model: Path, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The node; at the end it is asked to go."""
    given = {"model.path": str(model.resolve()), **ALONE}
    assignments = [part for name, value in given.items() for part in ("-p", f"{name}:={value}")]
    command = [sys.executable, "-m", "structpose_ros.node", "--ros-args", *assignments]
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        try:
            yield process
        finally:
            if process.poll() is None:
                process.terminate()
            process.wait(timeout=20)


def main() -> int:
    """Run it, print a table, write summary.json; 1 if something happened that must not."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("out/soak"))
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--rate", type=float, default=30.0, help="frames per second")
    parser.add_argument("--model", type=Path, help="model file (default: the demo room's)")
    arguments = parser.parse_args()
    os.environ.setdefault("ROS_DOMAIN_ID", str(30 + os.getpid() % 60))
    os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    profile = share_path("config", "fastdds_shm.xml")
    os.environ.setdefault("FASTRTPS_DEFAULT_PROFILES_FILE", str(profile))
    model = arguments.model or share_path("models", "demo_room.onnx")
    arguments.out.mkdir(parents=True, exist_ok=True)
    render_demo(arguments.out / "room", tours=("localization",))
    frames, log = frames_of(arguments.out / "room"), arguments.out / "node.log"
    rclpy.init()
    with node_process(model, log) as process:
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
    lines = [f"{use.at:.1f},{use.fault},{use.resident},{use.threads},{use.handles}" for use in soak.uses]
    write_atomic(
        arguments.out / "use.csv", "\n".join(["seconds,fault,resident,threads,handles", *lines, ""]).encode()
    )
    write_metrics(arguments.out / "summary.json", summary)
    print_table(summary)
    print(f"\n  {arguments.out / 'summary.json'}")
    for failure in failures:
        print(f"soak: error: {failure}", file=sys.stderr)
    return bool(failures)


if __name__ == "__main__":
    sys.exit(main())
