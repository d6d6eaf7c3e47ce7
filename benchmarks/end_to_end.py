"""From an image's stamp to its pose in another process, over DDS, beside the bare network of the same run."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.timing import network_alone, percentiles
from benchmarks.viewer_process import READY as VIEWER_READY
from structpose_ros.demo import RECORDER_READY
from structpose_ros.demo.processes import (
    ALONE,
    PYTHON,
    node_command,
    running,
    wait_for_end,
    wait_for_line,
)
from structpose_ros.network import OnnxNetwork

BLOCKS = 6  # that the phases at 10 and 30 Hz come in, the bare network between them
OVERLOAD = 2.0  # times what the network can carry
EACH = {"gate.consistency_frames": "1"}  # a tour that is shown faster than it was walked is still one
FIRST_FRAMES = 10  # after which the node's memory is looked at first
IN_TURN, LOOKED_AT = "10 Hz, in turn with the bare network", "10 Hz, looked at, in turn with the bare network"
OVERLOADED = "twice the load"


@dataclass
class Phase:
    """Some frames at one rate.

    cpu: share of one core that the node took. rss: bytes at its end. network_ms: of the bare network after
    each frame, where it ran between them.
    """

    name: str
    rate: float
    stamps: list[int]
    cpu: float
    rss: int
    network_ms: list[float] = field(default_factory=list)


class Bench:
    """The node with its recorder, and phases of a camera beside them."""

    def __init__(self, data: Path, out: Path, node: Any, started: float) -> None:
        self._data, self._out, self._node = data, out, node
        self.started = started
        self.phases: dict[str, Phase] = {}
        # Stamps, and the quantiles of the bare network beside them.
        self.overloads: list[tuple[list[int], dict[str, float]]] = []

    def play(self, name: str, rate: float, frames: int, *options: str) -> list[int]:
        """Show so many frames at a rate, once more where the phase has had some; return their stamps.

        options: of the camera.
        """
        stamps = self._out / "stamps.txt"
        command = [*PYTHON, "benchmarks.camera_process", "--data", str(self._data), "--rate", f"{rate:.6f}"]
        command += options
        with running(
            [*command, "--frames", str(frames), "--stamps", str(stamps)], self._out, "camera"
        ) as camera:
            cpu, since = _cpu_seconds(self._node.pid), time.monotonic()
            wait_for_end(camera, self._out, "camera", self._node)
            busy = (_cpu_seconds(self._node.pid) - cpu) / (time.monotonic() - since)
        shown = [line.split() for line in stamps.read_text().splitlines()]
        before = self.phases.get(name, Phase(name, rate, [], 0.0, 0))
        played = [int(stamp) for stamp, *_ in shown]
        all_shown = [*before.stamps, *played]
        cpu = (before.cpu * len(before.stamps) + busy * len(played)) / len(all_shown)
        network_ms = [*before.network_ms, *(float(value) for _, *values in shown for value in values)]
        self.phases[name] = Phase(name, rate, all_shown, cpu, _rss(self._node.pid), network_ms)
        return played

    @contextmanager
    def somebody_looking(self) -> Iterator[None]:
        """Subscribe to all that is made for people only."""
        with running([*PYTHON, "benchmarks.viewer_process"], self._out, "viewer") as viewer:
            wait_for_line(viewer, self._out / "viewer.log", VIEWER_READY, "a viewer")
            yield


def bench_end_to_end(model: Path, network: OnnxNetwork, data: Path, out: Path, frames: int) -> dict[str, Any]:
    """Play the demo room to the node in all ways; `frames` in the longest phase, for its memory.

    Returns what goes into the summary: each phase's latency in milliseconds, and the ratios.
    """
    recorded = out / "recorded.json"
    recorded.unlink(missing_ok=True)
    parameters = {"model.path": str(model.resolve()), "model.provider": network.provider, **ALONE, **EACH}
    alone = network_alone(network, data)
    rested: list[float] = []
    with (
        running(
            [*PYTHON, "structpose_ros.demo.recorder", "--out", str(recorded)], out, "recorder"
        ) as recorder,
        running(node_command(parameters), out, "node") as node,
    ):
        bench = Bench(data, out, node, time.time())
        bench.play("first", 10.0, FIRST_FRAMES)
        wait_for_line(recorder, out / "recorder.log", RECORDER_READY, "the node to be found")
        for _ in range(BLOCKS):  # in turn, so that what the machine does besides falls on all alike
            rested += network_alone(network, data, runs=25, pause=0.08)
            alone += network_alone(network, data)
            bench.play("10 Hz", 10.0, 50)
            alone += network_alone(network, data)
            bench.play("30 Hz", 30.0, 100)
            before = network_alone(network, data)
            rate = OVERLOAD * 1e3 / percentiles(before)["p50"]
            stamps = bench.play(OVERLOADED, rate, 200)
            after = network_alone(network, data)
            bench.overloads.append((stamps, percentiles(before + after)))
            alone += before + after
        model_options = ("--model", str(model.resolve()), "--provider", network.provider)
        bench.play(IN_TURN, 10.0, 300, *model_options)
        with bench.somebody_looking():
            bench.play(LOOKED_AT, 10.0, 300, *model_options)
        bench.play("memory", 30.0, frames)
    poses = json.loads(recorded.read_text())["poses"]
    summary = summary_of(bench, poses, percentiles(alone))
    return {**summary, "network_after_a_rest_ms": percentiles(rested)}


def summary_of(bench: Bench, poses: list[dict[str, Any]], network_ms: dict[str, float]) -> dict[str, Any]:
    """Return each phase's figures, and the keys of the design made of them."""
    by_stamp = {pose["stamp_ns"]: pose["latency_ms"] for pose in poses}
    phases: dict[str, Any] = {}
    for name, phase in bench.phases.items():
        latency = [by_stamp[stamp] for stamp in phase.stamps if stamp in by_stamp]
        phases[name] = {
            "rate_hz": phase.rate,
            "frames": len(phase.stamps),
            "poses": len(latency),
            "latency_ms": percentiles(latency),
            "node_cpu_share": phase.cpu,
            "node_rss_bytes": phase.rss,
        }
    slow, fast = phases["10 Hz"]["latency_ms"], phases["30 Hz"]["latency_ms"]
    overload, of_slowest = (
        percentiles(
            [
                by_stamp[at] / beside[quantile]
                for stamps, beside in bench.overloads
                for at in stamps
                if at in by_stamp
            ]
        )
        for quantile in ("p50", "p99")
    )
    in_turn, looked_at = (_more_than_network(bench.phases[name], by_stamp) for name in (IN_TURN, LOOKED_AT))
    first = min(pose["stamp_ns"] * 1e-9 + 1e-3 * pose["latency_ms"] for pose in poses)
    return {
        "network_ms": network_ms,
        "end_to_end": phases,
        "end_to_end_over_network_p50": slow["p50"] / network_ms["p50"],
        "end_to_end_minus_network_ms": slow["p50"] - network_ms["p50"],
        "end_to_end_over_network_p50_at_30_hz": fast["p50"] / network_ms["p50"],
        "end_to_end_minus_network_ms_at_30_hz": fast["p50"] - network_ms["p50"],
        "end_to_end_minus_network_in_turn_ms": in_turn,
        "network_p99_over_p50": network_ms["p99"] / network_ms["p50"],
        "p99_over_p50": slow["p99"] / slow["p50"],
        "p99_over_p50_at_30_hz": fast["p99"] / fast["p50"],
        "overload_age_over_network_p50": overload["p50"],
        "overload_age_over_network_p95": overload["p95"],
        "overload_age_over_network_p99": overload["p99"],
        "overload_age_p99_over_network_p99": of_slowest["p99"],
        "pictures_ms": looked_at["p50"] - in_turn["p50"],
        "pictures_cpu_share": bench.phases[LOOKED_AT].cpu - bench.phases[IN_TURN].cpu,
        "first_pose_s": first - bench.started,
        "rss_growth": bench.phases["memory"].rss / bench.phases["first"].rss - 1.0,
    }


def _more_than_network(phase: Phase, latency_by_stamp: dict[int, float]) -> dict[str, float]:
    """Return by how many milliseconds frames took longer than the bare network after each; its percentiles.

    A machine that others share is slower for seconds, sometimes twice as slow: that falls on both.
    """
    pairs = zip(phase.stamps, phase.network_ms, strict=True)
    return percentiles(
        [latency_by_stamp[stamp] - network for stamp, network in pairs if stamp in latency_by_stamp]
    )


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100.0  # clock ticks, which Linux shows as hundredths


def _rss(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))
