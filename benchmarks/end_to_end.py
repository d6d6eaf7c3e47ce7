"""From an image's stamp to its pose in another process, over DDS, beside the bare network of the same run."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
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


@dataclass
class Phase:
    """Some frames at one rate. cpu: share of one core that the node took. rss: bytes at its end."""

    name: str
    rate: float
    stamps: list[int]
    cpu: float
    rss: int


@dataclass
class Block:
    """Some frames of a phase, and the bare network's milliseconds right before and right after them."""

    stamps: list[int]
    network_ms: list[float]


class Bench:
    """The node with its recorder, and phases of a camera beside them."""

    def __init__(self, data: Path, out: Path, node: Any, started: float) -> None:
        self._data, self._out, self._node = data, out, node
        self.started = started
        self.phases: dict[str, Phase] = {}
        self.blocks: dict[str, list[Block]] = {}

    def play(self, name: str, rate: float, frames: int) -> list[int]:
        """Show so many frames at a rate, once more where the phase has had some; return their stamps."""
        stamps = self._out / "stamps.txt"
        command = [*PYTHON, "benchmarks.camera_process", "--data", str(self._data), "--rate", f"{rate:.6f}"]
        with running(
            [*command, "--frames", str(frames), "--stamps", str(stamps)], self._out, "camera"
        ) as camera:
            cpu, since = _cpu_seconds(self._node.pid), time.monotonic()
            wait_for_end(camera, self._out, "camera", self._node)
            busy = (_cpu_seconds(self._node.pid) - cpu) / (time.monotonic() - since)
        shown = [int(line) for line in stamps.read_text().split()]
        before = self.phases.get(name, Phase(name, rate, [], 0.0, 0))
        all_shown = [*before.stamps, *shown]
        cpu = (before.cpu * len(before.stamps) + busy * len(shown)) / len(all_shown)
        self.phases[name] = Phase(name, rate, all_shown, cpu, _rss(self._node.pid))
        return shown

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
    rate = OVERLOAD * 1e3 / percentiles(alone)["p50"]
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
            before = network_alone(network, data)
            alone += before
            for name, block_rate, shown in (("10 Hz", 10.0, 50), ("30 Hz", 30.0, 100)):
                stamps = bench.play(name, block_rate, shown)
                after = network_alone(network, data)
                bench.blocks.setdefault(name, []).append(Block(stamps, before + after))
                alone, before = alone + after, after
        bench.play("twice the load", rate, 600)
        with bench.somebody_looking():
            bench.play("10 Hz, clouds and images looked at", 10.0, 200)
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
    overload = phases["twice the load"]["latency_ms"]
    looked_at = phases["10 Hz, clouds and images looked at"]
    added = {name: _added_by_blocks(bench.blocks.get(name, []), by_stamp) for name in ("10 Hz", "30 Hz")}
    first = min(pose["stamp_ns"] * 1e-9 + 1e-3 * pose["latency_ms"] for pose in poses)
    return {
        "network_ms": network_ms,
        "end_to_end": phases,
        "end_to_end_over_network_p50": slow["p50"] / network_ms["p50"],
        "end_to_end_minus_network_ms": slow["p50"] - network_ms["p50"],
        "end_to_end_over_network_p50_at_30_hz": fast["p50"] / network_ms["p50"],
        "end_to_end_minus_network_ms_at_30_hz": fast["p50"] - network_ms["p50"],
        "end_to_end_minus_network_ms_by_blocks": added["10 Hz"],
        "end_to_end_minus_network_ms_by_blocks_at_30_hz": added["30 Hz"],
        "p99_over_p50": slow["p99"] / slow["p50"],
        "p99_over_p50_at_30_hz": fast["p99"] / fast["p50"],
        "overload_age_over_network_p50": overload["p50"] / network_ms["p50"],
        "overload_age_over_network_p99": overload["p99"] / network_ms["p50"],
        "pictures_ms": looked_at["latency_ms"]["p50"] - slow["p50"],
        "pictures_cpu_share": looked_at["node_cpu_share"] - phases["10 Hz"]["node_cpu_share"],
        "first_pose_s": first - bench.started,
        "rss_growth": bench.phases["memory"].rss / bench.phases["first"].rss - 1.0,
    }


def _added_by_blocks(blocks: list[Block], latency_by_stamp: dict[int, float]) -> float:
    """Return the median over blocks of their p50 less that of the bare network beside them; NaN of none.

    What slows the whole machine for seconds falls on both. Blocks without a pose say nothing.
    """
    differences = []
    for block in blocks:
        latency = [latency_by_stamp[stamp] for stamp in block.stamps if stamp in latency_by_stamp]
        if latency:
            differences.append(percentiles(latency)["p50"] - percentiles(block.network_ms)["p50"])
    return percentiles(differences)["p50"]


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100.0  # clock ticks, which Linux shows as hundredths


def _rss(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))
