"""What the demonstration showed: report.json with the keys of metrics.json, and one picture."""

from __future__ import annotations

import itertools
import json
import math
import os
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from structpose_ros.camera import Camera, ImageRgb, resize_image
from structpose_ros.geometry import pose_error
from structpose_ros.network import OnnxNetwork, normalized_tensor
from structpose_ros.relocalizer import Relocalizer, Result
from structpose_ros.training.frames import Recording, open_recording
from structpose_ros.training.labels import sample_labels
from structpose_ros.training.metrics import percentiles, summarize, write_metrics
from structpose_ros.training.outcomes import Outcome

CLOUD_EVERY = 10  # frames
NETWORK_IMAGES, NETWORK_WARM_UP, NETWORK_RUNS = 30, 20, 200
CLOUD_HEIGHT = (0.05, 1.9)  # metres above the floor: neither floor nor ceiling hides the furniture from above


@dataclass(frozen=True)
class Run:
    """One played recording: outcomes in the order played, and what to draw beside them.

    seconds: (N,) since the first image. latency_ms: stamp to pose in the recorder, accepted frames only.
    """

    outcomes: list[Outcome]
    seconds: npt.NDArray[np.float64]
    latency_ms: list[float]
    network_ms: list[float]


def build_report(model: Path, data: Path, out: Path, provider: str) -> dict[str, Any]:
    """Join what was recorded with the truth; write report.json and report.png in `out`."""
    network = OnnxNetwork(model, provider)
    recording = open_recording(data)
    recorded = json.loads((out / "recorded.json").read_text())
    run = _join(recording, out / "stamps.csv", recorded, network)
    report = summarize(run.outcomes)
    report["latency_ms"] = percentiles(run.latency_ms)
    report |= {
        "method": "structpose",
        "model_sha256": network.sha256,
        "dataset": network.contract.dataset,
        "provider": network.provider,
        "node_latency_ms": percentiles(run.latency_ms),
        "network_ms": percentiles(run.network_ms),
        "transforms": recorded["transforms"],
        "diagnostics": recorded["diagnostics"],
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
    }
    _draw(out / "report.png", run, report, recording, Relocalizer(network))
    write_metrics(out / "report.json", report)
    return report


def print_summary(report: dict[str, Any], out: Path) -> None:
    """Print the table for the terminal."""
    latency, network = report["node_latency_ms"], report["network_ms"]
    rows = [
        ("frames played", str(report["frames"])),
        ("accepted", f"{report['accepted']} ({100 * report['accepted'] / report['frames']:.1f} %)"),
        ("median error", _median_error(report)),
        ("within 5 cm and 5 deg", f"{100 * report['within_5cm_5deg']:.1f} %"),
        ("within 10 cm and 5 deg", f"{100 * report['within_10cm_5deg']:.1f} %"),
        ("image stamp to pose, p50/p95/p99", _milliseconds(latency)),
        ("bare network, p50/p95/p99", f"{_milliseconds(network)} on {report['provider']}"),
    ]
    if report["rejected"]:
        rows.append(
            ("without a pose", ", ".join(f"{count} {reason}" for reason, count in report["rejected"].items()))
        )
    print()
    for name, value in rows:
        print(f"  {name:<34} {value}")
    print(f"\n  {out / 'report.json'}\n  {out / 'report.png'}")


def _median_error(report: dict[str, Any]) -> str:
    """Return both medians as text; a median over too many failures is a dash."""
    position, rotation = report["median_position_m"], report["median_rotation_deg"]
    return ", ".join(
        [
            "-" if position is None else f"{100 * position:.1f} cm",
            "-" if rotation is None else f"{rotation:.2f} deg",
        ]
    )


def _milliseconds(values: dict[str, float | None]) -> str:
    return "/".join("-" if value is None else f"{value:.1f}" for value in values.values()) + " ms"


def _join(recording: Recording, stamps: Path, recorded: dict[str, Any], network: OnnxNetwork) -> Run:
    """One outcome per played frame; a frame for which no pose came is a failure."""
    played = [line.split(",") for line in stamps.read_text().split()]
    by_stamp = {pose["stamp_ns"]: pose for pose in recorded["poses"]}
    files = {item.name: item for item in recording.files("test")[0]}
    outcomes, latency = [], []
    images: list[ImageRgb] = []
    for name, stamp in played:
        frame = recording.read(files[name])
        if len(images) < NETWORK_IMAGES:
            images.append(frame.image_rgb)
        pose = by_stamp.get(int(stamp))
        if pose is None:
            outcomes.append(Outcome(name, False, "no_pose", 0.0, math.inf, math.inf, frame.map_from_camera))
            continue
        map_from_camera = np.array(pose["map_from_camera"])
        position, rotation = pose_error(map_from_camera, frame.map_from_camera)
        outcomes.append(
            Outcome(name, True, "", 1.0, position, rotation, frame.map_from_camera, map_from_camera)
        )
        latency.append(pose["latency_ms"])
    seconds = np.array([int(stamp) for _, stamp in played], dtype=np.float64) * 1e-9
    network_ms = bare_network_ms(images, recording.camera, network)
    return Run(outcomes, seconds - seconds[0], latency, network_ms)


def bare_network_ms(
    images: list[ImageRgb],
    camera: Camera,
    network: OnnxNetwork,
    *,
    runs: int = NETWORK_RUNS,
    pause: float = 0.0,
) -> list[float]:
    """Return the milliseconds of the bare network on images of `camera`, one right after another, warmed up.

    Nothing else runs in between: reading files wakes other libraries' threads, which hold up the network's.
    pause: seconds before each run, in which the caches go to others.
    """
    run = timed_network(images, camera, network)
    milliseconds = []
    for _ in range(NETWORK_WARM_UP + runs):
        if pause:
            time.sleep(pause)
        milliseconds.append(run())
    return milliseconds[NETWORK_WARM_UP:]


def timed_network(images: list[ImageRgb], camera: Camera, network: OnnxNetwork) -> Callable[[], float]:
    """Return a call that runs the bare network on the next of the images and returns its milliseconds."""
    contract = network.contract
    resized = [resize_image(image, camera, contract.input_width, contract.input_height) for image in images]
    input_camera = contract.refined(camera.resized(contract.input_width, contract.input_height))
    rays = np.nan_to_num(input_camera.ray_grid(contract.stride))
    tensors = itertools.cycle([normalized_tensor(image, contract) for image, _ in resized])

    def run() -> float:
        tensor = next(tensors)
        started = time.perf_counter()
        network.predict(tensor, rays)
        return 1e3 * (time.perf_counter() - started)

    return run


def _draw(
    path: Path, run: Run, report: dict[str, Any], recording: Recording, relocalizer: Relocalizer
) -> None:
    from structpose_ros.training import plots

    figure = plots.plt.figure(figsize=(17, 9.5), layout="constrained")
    rows = figure.add_gridspec(3, 1, height_ratios=[2.1, 1.1, 1.45])
    top = rows[0].subgridspec(1, 2, width_ratios=[1, 1.2])
    figure.suptitle(
        f"structpose_ros, {report['dataset']}: {report['accepted']} of {report['frames']} frames localised, "
        f"median error {_median_error(report)}",
        fontsize=14,
    )
    _draw_map(figure.add_subplot(top[0]), run, recording)
    right = top[1].subgridspec(2, 2)
    cumulative = figure.add_subplot(right[0, 0])
    plots.draw_cumulative(cumulative, [o.position_m for o in run.outcomes], 0.3, "position", color="C0")
    cumulative.set(xlabel="position error [m]", ylabel="share of frames", title="cumulative error")
    rotation = figure.add_subplot(right[0, 1])
    plots.draw_cumulative(rotation, [o.rotation_deg for o in run.outcomes], 10.0, "rotation", color="C1")
    rotation.set(xlabel="rotation error [deg]", title="cumulative error")
    latency = figure.add_subplot(right[1, :])
    spread = [*run.latency_ms, *run.network_ms]
    bins = np.linspace(0, np.percentile(spread, 99.5) * 1.1, 60).tolist() if spread else 10
    latency.hist(run.network_ms, bins=bins, alpha=0.7, label="bare network")
    latency.hist(run.latency_ms, bins=bins, alpha=0.7, label="image stamp to pose, other process")
    latency.set(xlabel="milliseconds", ylabel="frames", title="latency")
    latency.legend(fontsize=8)
    _draw_errors(figure.add_subplot(rows[1]), run)
    panel = rows[2].subgridspec(1, 5)
    contract = relocalizer.network.contract
    plots.draw_outputs(
        [figure.add_subplot(panel[0, column]) for column in range(5)],
        _typical_result(run, recording, relocalizer),
        contract.map_min,
        contract.map_max,
    )
    plots.save(figure, path)


def _draw_map(axes: Any, run: Run, recording: Recording) -> None:
    points, colors = _cloud(recording)
    axes.scatter(points[:, 0], points[:, 1], c=colors, s=0.6, linewidths=0, alpha=0.7, rasterized=True)
    true = np.array([o.true_map_from_camera[:2, 3] for o in run.outcomes])
    axes.plot(true[:, 0], true[:, 1], color="black", alpha=0.35, linewidth=6, label="true")
    estimated = np.array(
        [o.map_from_camera[:2, 3] if o.map_from_camera is not None else [np.nan] * 2 for o in run.outcomes]
    )
    axes.plot(
        estimated[:, 0],
        estimated[:, 1],
        ".-",
        color="crimson",
        linewidth=0.8,
        markersize=3,
        label="estimated",
    )
    missing = true[[o.map_from_camera is None for o in run.outcomes]]
    axes.plot(missing[:, 0], missing[:, 1], "x", color="royalblue", label=f"no pose ({len(missing)})")
    axes.set(xlabel="x [m]", ylabel="y [m]", title="from above: the map, the true and the estimated camera")
    axes.set_aspect("equal")
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), fontsize=8)


def _draw_errors(axes: Any, run: Run) -> None:
    axes.plot(run.seconds, [100 * o.position_m for o in run.outcomes], color="C0", linewidth=1)
    axes.set(xlabel="time [s]", title="error over time")
    axes.set_ylabel("position [cm]", color="C0")
    axes.set_ylim(0, None)
    axes.set_xlim(0, run.seconds[-1])
    axes.grid(alpha=0.3)
    twin = axes.twinx()
    twin.plot(run.seconds, [o.rotation_deg for o in run.outcomes], color="C1", linewidth=1)
    twin.set_ylabel("rotation [deg]", color="C1")
    twin.set_ylim(0, None)


def _cloud(recording: Recording) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Points (N, 3) m, map frame, seen along the way, and their colours (N, 3) in 0 .. 1."""
    rays = recording.camera.ray_grid(8)
    points, colors = [], []
    for item in recording.files("test")[0][::CLOUD_EVERY]:
        frame = recording.read(item)
        labels = sample_labels(frame.depth_mm, recording.camera, frame.map_from_camera, rays)
        height = labels.scene_coordinates[..., 2]
        shown = labels.valid_mask & (height > CLOUD_HEIGHT[0]) & (height < CLOUD_HEIGHT[1])
        points.append(labels.scene_coordinates[shown])
        colors.append(frame.image_rgb[4::8, 4::8][: rays.shape[0], : rays.shape[1]][shown] / 255.0)
    return np.concatenate(points), np.concatenate(colors)


def _typical_result(run: Run, recording: Recording, relocalizer: Relocalizer) -> Result:
    """The frame whose position error is the median: neither the best nor the worst."""
    order = np.argsort([o.position_m for o in run.outcomes])
    name = run.outcomes[int(order[len(order) // 2])].name
    files = {item.name: item for item in recording.files("test")[0]}
    return relocalizer.localize(recording.read(files[name]).image_rgb, recording.camera)
