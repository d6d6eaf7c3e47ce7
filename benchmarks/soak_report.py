"""What the soak measured: growth of what the node holds, how faults were seen, and the verdict."""

from __future__ import annotations

import statistics
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.soak_player import Player
from benchmarks.timing import machine, percentiles

WARM_UP_MINUTES, WARM_UP_SHARE = 5.0, 1 / 3  # from when on nothing may grow; of a short run a share of it
MOST_GROWTH = 0.01
TROUBLES = ("Traceback", "internal_error", "never retrieved", "terminate called")


@dataclass(frozen=True)
class Use:
    """What the node held: resident memory in bytes, what of it is its own alone, threads, open files.

    at: seconds since the beginning. fault: the one that was made then, '' for none.
    """

    at: float
    fault: str
    resident: int
    own: int
    threads: int
    handles: int

    @staticmethod
    def of(pid: int, at: float, fault: str) -> Use:
        """Ask the system."""
        process = Path(f"/proc/{pid}")
        lines = [line.split() for line in (process / "status").read_text().splitlines()]
        kilobytes = {line[0]: int(line[1]) for line in lines if line[0] in ("VmRSS:", "RssAnon:")}
        threads, handles = (len(list((process / name).iterdir())) for name in ("task", "fd"))
        return Use(at, fault, 1024 * kilobytes["VmRSS:"], 1024 * kilobytes["RssAnon:"], threads, handles)


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


def summary_of(soak: Soak, player: Player, log: str, minutes: float) -> dict[str, Any]:
    """Return what summary.json holds; growth is from the end of the warm-up to the end, by medians."""
    first_s = 60.0 * min(WARM_UP_MINUTES, WARM_UP_SHARE * minutes)
    window = min(60.0, 6.0 * minutes)
    began = [use for use in soak.uses if first_s - window / 2 <= use.at < first_s + window / 2]
    ended = [use for use in soak.uses if use.at >= soak.uses[-1].at - window]

    def medians(name: str) -> tuple[float, float]:
        return tuple(statistics.median(getattr(use, name) for use in part) for part in (began, ended))  # type: ignore[return-value]

    resident, threads, handles = medians("resident"), medians("threads"), medians("handles")
    own = medians("own")
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
        "own_mb": [round(value / 1e6, 2) for value in own],  # without files and memory shared with others
        "measured_from_minute": round(first_s / 60, 2),
        "threads": [int(value) for value in threads],
        "handles": [int(value) for value in handles],
        "latency_first_ms": percentiles(parts[0]),
        "latency_last_ms": percentiles(parts[1]),
        "faults": {name: asdict(kind) for name, kind in soak.kinds.items()},
        "reasons": dict(player.heard.reasons.most_common()),
        "unanswered_services": player.unanswered(),
        "crashes": int(soak.crashed),
        "tracebacks": sum(log.count(trouble) for trouble in TROUBLES),
        "machine": machine(),
    }


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
        ("of it the node's alone", "{} -> {} MB".format(*summary["own_mb"])),
        ("threads", "{} -> {}".format(*summary["threads"])),
        ("handles", "{} -> {}".format(*summary["handles"])),
        ("latency p50, p99 at first", f"{first['p50']:.1f}, {first['p99']:.1f} ms"),
        ("latency p50, p99 at last", f"{last['p50']:.1f}, {last['p99']:.1f} ms"),
        ("crashes, tracebacks", f"{summary['crashes']}, {summary['tracebacks']}"),
    ]
    for name, value in rows:
        print(f"  {name:<32}{value}")
    print(f"\n  {'fault':<32}{'times':>6}{'seen':>6}{'within 1 s':>12}{'longest s':>11}")
    for name, kind in summary["faults"].items():
        counts = f"{kind['times']:>6}{kind['seen']:>6}{kind['seen_in_time']:>12}"
        print(f"  {name:<32}{counts}{kind['longest_s']:>11.2f}")
