"""`make bench`: what a pose costs, stage by stage and from end to end, beside well-known solvers.

Absolute times belong to one machine; each stands beside a ratio taken in the same run.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.end_to_end import bench_end_to_end
from benchmarks.frame import bench_frame
from benchmarks.network_cost import network_cost
from benchmarks.solvers import bench_solvers, print_solvers
from benchmarks.timing import machine
from structpose_ros.contract import ModelFileError
from structpose_ros.demo.processes import ProcessError
from structpose_ros.network import OnnxNetwork, ProviderError
from structpose_ros.resources import share_path
from structpose_ros.training.config import load_config
from structpose_ros.training.metrics import write_metrics
from structpose_ros.training.synthetic import render_demo

PARTS = ("solvers", "frame", "end-to-end")
# Keys of the summary that are one number, and what they are in words.
RATIOS = {
    "pnp_ransac_over_align": "the faster PnP with RANSAC over five robust rounds, a third wrong",
    "pnp_ransac_over_align_of_right_points": "the faster PnP with RANSAC over the closed form, all right",
    "scipy_over_align": "SciPy over the closed form",
    "scipy_differs_by": "largest difference of SciPy's pose from ours",
    "content_spread": "spread of the medians over contents",
    "content_spread_in_turn": "the same, of each frame's time over the mean of its round",
    "end_to_end_over_network_p50": "image stamp to pose over bare network, p50 at 10 Hz",
    "end_to_end_minus_network_ms": "the same as a difference, ms",
    "end_to_end_over_network_p50_at_30_hz": "image stamp to pose over bare network, p50 at 30 Hz",
    "end_to_end_minus_network_ms_at_30_hz": "the same as a difference, ms",
    "network_p99_over_p50": "bare network, p99 over p50",
    "p99_over_p50": "image stamp to pose, p99 over p50, at 10 Hz",
    "p99_over_p50_at_30_hz": "the same at 30 Hz",
    "overload_age_over_network_p50": "age of a pose at twice the load over the network beside it, p50",
    "overload_age_over_network_p95": "the same, p95",
    "overload_age_over_network_p99": "the same, p99",
    "overload_age_p99_over_network_p99": "its p99 over the network's p99 beside it",
    "pictures_ms": "what clouds and images add to p50 while somebody looks, ms",
    "pictures_cpu_share": "and to the CPU share of the node",
    "first_pose_s": "start of the node's process to its first pose, s",
    "rss_growth": "growth of the node's memory from the first frames to the last",
}


def main() -> int:
    """Run everything, print tables, write summary.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("out/bench"))
    parser.add_argument("--model", type=Path, help="model file (default: the demo room's)")
    parser.add_argument("--data", type=Path, help="posed frames to show (default: the demo room's tour)")
    parser.add_argument("--frames", type=int, default=10_000, help="frames for the memory's growth")
    parser.add_argument("--only", choices=PARTS, action="append", help="a part; may be given again")
    arguments = parser.parse_args()
    parts = arguments.only or PARTS
    summary: dict[str, Any] = {"machine": machine()}
    arguments.out.mkdir(parents=True, exist_ok=True)
    try:
        model = arguments.model or share_path("models", "demo_room.onnx")
        network = OnnxNetwork(model)
        data = arguments.data or _demo_room(arguments.out)
        if "solvers" in parts:
            summary |= bench_solvers()
        if "frame" in parts:
            summary |= bench_frame(network, data)
        if "end-to-end" in parts:
            summary |= bench_end_to_end(model, network, data, arguments.out, arguments.frames)
    except (FileNotFoundError, ModelFileError, ProcessError, ProviderError) as error:
        print(f"bench: error: {error}", file=sys.stderr)
        return 1
    summary["provider"], summary["model_sha256"] = network.provider, network.sha256
    summary["paper_network_cost"] = network_cost(load_config(share_path("config", "training", "paper.yaml")))
    write_metrics(arguments.out / "summary.json", summary)
    _print(summary)
    print(f"\nmachine: {summary['machine']}\nwrote {arguments.out / 'summary.json'}")
    return 0


def _demo_room(out: Path) -> Path:
    print("rendering the demo room's tour (kept for the next time)", flush=True)
    render_demo(out / "room", tours=("localization",))
    return out / "room"


def _print(summary: Mapping[str, Any]) -> None:
    if "solvers" in summary:
        print_solvers(summary["solvers"])
    rows = {
        "bare network": summary.get("network_ms"),
        "bare network, 80 ms after its last run": summary.get("network_after_a_rest_ms"),
        "stamp to pose at 10 Hz less the network after it": summary.get(
            "end_to_end_minus_network_in_turn_ms"
        ),
        **{f"frame, {name}": times for name, times in summary.get("frame_by_content_ms", {}).items()},
        **{f"stage {name}": times for name, times in summary.get("stages_ms", {}).items()},
        **{
            f"stamp to pose, {name}": phase["latency_ms"]
            for name, phase in summary.get("end_to_end", {}).items()
        },
    }
    print(f"\n{'milliseconds':<52}{'p50':>9}{'p95':>9}{'p99':>9}{'samples':>9}")
    for name, times in rows.items():
        if times is not None:
            values = "".join(f"{times[key]:>9.2f}" for key in ("p50", "p95", "p99"))
            print(f"{name:<52}{values}{times['samples']:>9}")
    print()
    for name, phase in summary.get("end_to_end", {}).items():
        print(
            f"{name}: {phase['frames']} frames at {phase['rate_hz']:.0f} Hz, {phase['poses']} poses, node on "
            f"{100 * phase['node_cpu_share']:.0f} % of a core, {phase['node_rss_bytes'] / 2**20:.1f} MiB"
        )
    print()
    for key, words in RATIOS.items():
        if key in summary:
            print(f"{words:<72}{summary[key]:>10.3g}")


if __name__ == "__main__":
    sys.exit(main())
