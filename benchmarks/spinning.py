"""When should the network's threads wait without sleeping? What that costs a frame, and a program beside it.

    python -m benchmarks.spinning --model models/demo_room.onnx

Never, within a frame, always (`model.spinning`). Three kinds of load: one frame after the other, ten a
second, and ten a second beside a second process that always works.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.timing import percentiles
from structpose_ros.network import OnnxNetwork
from structpose_ros.relocalizer import Relocalizer
from structpose_ros.sessions import SPINNING, BackendOptions

RATE = 10.0  # frames a second
WARM_UP = 5
LOOP = 40_000  # additions of the other process's task: about 2 ms
OTHER = f"""
import json, sys, time
taken, end = [], time.time() + float(sys.argv[1])
while time.time() < end:
    started, total = time.perf_counter(), 0
    for number in range({LOOP}):
        total += number
    taken.append(1e3 * (time.perf_counter() - started))
print(json.dumps(taken))
"""


def measure(
    model: Path, threads: int, frames: int, spinning: str, paced: bool, beside: bool
) -> dict[str, Any]:
    """Return the times of a frame's stages and the CPU's work for it, and the other process's times."""
    network = OnnxNetwork(model, options=BackendOptions("cpu", threads=threads, spinning=spinning))
    relocalizer, camera = Relocalizer(network), network.contract.training_camera
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (5, camera.height, camera.width, 3), dtype=np.uint8)
    for image in images[:WARM_UP]:
        relocalizer.localize(image, camera)
    other = None
    if beside:
        command = [sys.executable, "-c", OTHER, str(frames / RATE)]
        other = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        time.sleep(0.2)
    began, work = time.perf_counter(), time.process_time()
    stages = []
    for number in range(frames):
        stages.append(relocalizer.localize(images[number % len(images)], camera).stage_ms)
        if paced:
            time.sleep(max(0.0, began + (number + 1) / RATE - time.perf_counter()))
    row: dict[str, Any] = {"spinning": spinning, "paced": paced, "beside_another": beside}
    row["cpu_ms_per_frame"] = round(1e3 * (time.process_time() - work) / frames, 1)
    for stage in ("network", "align"):
        row[stage] = percentiles([times[stage] for times in stages])
    row["frame"] = percentiles([sum(times.values()) for times in stages])
    if other is not None:
        row["other_process"] = percentiles(json.loads(other.communicate()[0]))
    return row


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, default=Path("models/demo_room.onnx"))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--frames", type=int, default=100)
    parser.add_argument("--out", type=Path, default=Path("out/bench/spinning.json"))
    arguments = parser.parse_args()
    rows = [
        measure(arguments.model, arguments.threads, arguments.frames, spinning, paced, beside)
        for paced, beside in ((False, False), (True, False), (True, True))
        for spinning in SPINNING
    ]
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(rows, indent=2))
    for row in rows:
        print(row)
    return 0


if __name__ == "__main__":
    sys.exit(main())
