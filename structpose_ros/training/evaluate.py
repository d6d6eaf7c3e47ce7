"""How good a model is on frames with known poses: per-frame outcomes, metrics, trajectory and figures."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from structpose_ros.geometry import (
    invert,
    pose_error,
    quaternion_from_rotation,
    rotation_from_quaternion,
    rotation_vector,
    transform,
)
from structpose_ros.network import Network, OnnxNetwork, Prediction
from structpose_ros.relocalizer import Relocalizer, Result
from structpose_ros.training import plots
from structpose_ros.training.frames import (
    Frame,
    FrameFiles,
    Recording,
    RecordingError,
    handle_bad,
    open_recording,
    write_atomic,
)
from structpose_ros.training.labels import sample_labels

SWAPS = ("none", "depth", "scene_coordinates")


@dataclass(frozen=True)
class Outcome:
    """One frame's estimate against its truth.

    position_m and rotation_deg are infinite where there is no estimate: that is a failure, not an absence.
    nees: error' covariance^-1 error over the six degrees of freedom; None where there is no estimate.
    """

    name: str
    accepted: bool
    reject_reason: str
    confidence: float
    position_m: float
    rotation_deg: float
    true_map_from_camera: npt.NDArray[np.float64]
    map_from_camera: npt.NDArray[np.float64] | None = None
    nees: float | None = None
    latency_ms: float = 0.0


def outcome_of(name: str, result: Result, true_map_from_camera: npt.NDArray[np.float64]) -> Outcome:
    """Compare what the relocalizer said with the truth."""
    position, rotation, nees, estimated = math.inf, math.inf, None, None
    if result.estimate is not None:
        estimated = result.estimate.map_from_camera
        position, rotation = pose_error(estimated, true_map_from_camera)
        nees = _nees(estimated, true_map_from_camera, result.covariance)
    reason = result.decision.reject_reason
    return Outcome(
        name=name,
        accepted=result.decision.accepted,
        reject_reason="" if reason is None else reason.value,
        confidence=result.decision.confidence,
        position_m=position,
        rotation_deg=rotation,
        true_map_from_camera=true_map_from_camera,
        map_from_camera=estimated,
        nees=nees,
        latency_ms=sum(result.stage_ms.values()),
    )


class SwappedNetwork:
    """A network whose depth or scene coordinates are replaced by the truth, to see what the other head costs.

    Call `prepare` with each frame before it is predicted. Cells without a label get weight 0.
    """

    def __init__(self, network: Network, swap: str, recording: Recording) -> None:
        """Swap `depth` or `scene_coordinates`."""
        self.network = network
        self.contract = network.contract
        self.swap = swap
        self.recording = recording
        self._frame: Frame | None = None

    def prepare(self, frame: Frame) -> None:
        """Take the labels of this frame for the next prediction."""
        self._frame = frame

    def predict(self, input_tensor: npt.NDArray[np.float32], rays: npt.NDArray[np.float64]) -> Prediction:
        """See `Network.predict`."""
        assert self._frame is not None
        predicted = self.network.predict(input_tensor, rays)
        labels = sample_labels(self._frame.depth_mm, self.recording.camera, self._frame.map_from_camera, rays)
        weights = np.where(labels.valid_mask, predicted.weights, 0.0).astype(np.float32)
        if self.swap == "depth":
            return replace(predicted, depth=labels.depth, weights=weights)
        return replace(predicted, scene_coordinates=labels.scene_coordinates, weights=weights)


def evaluate_frames(
    relocalizer: Relocalizer,
    recording: Recording,
    files: Sequence[FrameFiles],
    *,
    skip_bad: bool = False,
    swap: str = "none",
    on_frame: Callable[[Outcome, Result, Frame], None] | None = None,
) -> tuple[list[Outcome], list[str]]:
    """Localise every frame; returns the outcomes and a line for each frame that could not be read."""
    outcomes: list[Outcome] = []
    bad: list[str] = []
    network = relocalizer.network
    if swap != "none":
        network = SwappedNetwork(relocalizer.network, swap, recording)
        relocalizer = Relocalizer(network, relocalizer.gate, relocalizer.alignment)
    for item in files:
        try:
            frame = recording.read(item)
        except RecordingError as error:
            bad.append(str(error))
            continue
        if isinstance(network, SwappedNetwork):
            network.prepare(frame)
        result = relocalizer.localize(frame.image_rgb, recording.camera)
        outcomes.append(outcome_of(frame.name, result, frame.map_from_camera))
        if on_frame:
            on_frame(outcomes[-1], result, frame)
    handle_bad(bad, len(files), skip_bad)
    if not outcomes:
        raise RecordingError("expected frames to evaluate on, got none that can be read")
    return outcomes, bad


def summarize(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Return the metrics of `metrics.json`; a median over too many failures is None."""
    accepted = [outcome for outcome in outcomes if outcome.accepted]
    metrics: dict[str, Any] = {"frames": len(outcomes), "accepted": len(accepted)}
    metrics.update(_error_metrics(outcomes))
    metrics.update({f"accepted_{key}": value for key, value in _error_metrics(accepted).items()})
    metrics["latency_ms"] = percentiles([outcome.latency_ms for outcome in outcomes])
    rejected = [outcome.reject_reason for outcome in outcomes if not outcome.accepted]
    metrics["rejected"] = {reason: rejected.count(reason) for reason in sorted(set(rejected))}
    return metrics


def percentiles(milliseconds: Sequence[float]) -> dict[str, float | None]:
    """Return p50, p95 and p99."""
    if len(milliseconds) == 0:
        return {"p50": None, "p95": None, "p99": None}
    values = np.percentile(milliseconds, [50, 95, 99])
    return dict(zip(("p50", "p95", "p99"), values.tolist(), strict=True))


def _error_metrics(outcomes: Sequence[Outcome]) -> dict[str, float | None]:
    position = np.array([outcome.position_m for outcome in outcomes])
    rotation = np.array([outcome.rotation_deg for outcome in outcomes])

    def finite(value: float) -> float | None:
        return float(value) if math.isfinite(value) else None

    def share(metres: float, degrees: float) -> float | None:
        return float(np.mean((position <= metres) & (rotation <= degrees))) if len(position) else None

    def statistic(
        function: Callable[[npt.NDArray[np.float64]], Any], values: npt.NDArray[np.float64]
    ) -> float | None:
        return finite(function(values)) if len(values) else None

    return {
        "median_position_m": statistic(np.median, position),
        "median_rotation_deg": statistic(np.median, rotation),
        "mean_position_m": statistic(np.mean, position),
        "mean_rotation_deg": statistic(np.mean, rotation),
        "within_5cm_5deg": share(0.05, 5.0),
        "within_10cm_5deg": share(0.10, 5.0),
    }


def _nees(
    estimated: npt.NDArray[np.float64],
    true: npt.NDArray[np.float64],
    covariance: npt.NDArray[np.float64] | None,
) -> float | None:
    if covariance is None or np.linalg.cond(covariance) > 1e12:
        return None
    error = np.concatenate(
        [estimated[:3, 3] - true[:3, 3], rotation_vector(estimated[:3, :3] @ true[:3, :3].T)]
    )
    return float(error @ np.linalg.solve(covariance, error))


def write_poses(path: Path, outcomes: Sequence[Outcome]) -> None:
    """Write one line per frame: outcome, errors and both poses (position m, quaternion x y z w)."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    columns = ["x", "y", "z", "qx", "qy", "qz", "qw"]
    writer.writerow(
        ["frame", "accepted", "reject_reason", "confidence", "position_m", "rotation_deg"]
        + columns
        + [f"true_{column}" for column in columns]
    )
    for item in outcomes:
        estimated = [""] * 7 if item.map_from_camera is None else _pose_columns(item.map_from_camera)
        head = [
            item.name,
            int(item.accepted),
            item.reject_reason,
            item.confidence,
            item.position_m,
            item.rotation_deg,
        ]
        writer.writerow([*head, *estimated, *_pose_columns(item.true_map_from_camera)])
    write_atomic(path, stream.getvalue().encode())


def write_trajectory(path: Path, poses: Sequence[tuple[float, npt.NDArray[np.float64]]]) -> None:
    """Write (stamp s, map_from_camera) pairs in TUM format, which `evo` opens."""
    lines = (" ".join([f"{stamp:.6f}", *_pose_columns(pose)]) + "\n" for stamp, pose in poses)
    write_atomic(path, "".join(lines).encode())


def _pose_columns(map_from_camera: npt.NDArray[np.float64]) -> list[str]:
    values = np.concatenate([map_from_camera[:3, 3], quaternion_from_rotation(map_from_camera[:3, :3])])
    return [f"{value:.12g}" for value in values]


def read_world_to_camera(path: Path) -> dict[str, tuple[npt.NDArray[np.float64], list[float]]]:
    """Read published per-frame results: `file qw qx qy qz tx ty tz rest...`, world to camera.

    Returns:
        map_from_camera (4, 4), and the numbers that follow on the line, by file name.

    Raises:
        RecordingError: a line is of another kind.
    """
    poses = {}
    for line in path.read_text().splitlines():
        try:
            name, *numbers = line.split()
            qw, qx, qy, qz, tx, ty, tz, *rest = map(float, numbers)
            camera_from_map = transform(rotation_from_quaternion([qx, qy, qz, qw]), [tx, ty, tz])
        except ValueError as error:
            raise RecordingError(
                f"{path}: expected a file name, a unit quaternion and a translation, got '{line}'"
            ) from error
        poses[name] = (invert(camera_from_map), rest)
    return poses


def write_metrics(path: Path, metrics: dict[str, Any]) -> None:
    """Write metrics as strict JSON (no NaN, no infinity)."""
    write_atomic(path, (json.dumps(metrics, indent=2, allow_nan=False) + "\n").encode())


def evaluate(
    model: Path,
    data_root: Path,
    split: str,
    out: Path,
    *,
    provider: str = "auto",
    swap: str = "none",
    skip_bad: bool = False,
) -> dict[str, Any]:
    """Evaluate a model file on a split and write metrics.json, poses.csv, two TUM trajectories and figures.

    Returns:
        The metrics, as written.
    """
    from tqdm import tqdm

    network = OnnxNetwork(model, provider)
    recording = open_recording(data_root)
    files, missing = recording.files(split)
    handle_bad(missing, len(files) + len(missing), skip_bad)
    with tqdm(total=len(files), desc="evaluating", unit="frame") as bar:
        outcomes, unreadable = evaluate_frames(
            Relocalizer(network),
            recording,
            files,
            skip_bad=skip_bad,
            swap=swap,
            on_frame=lambda *_: bar.update(1),
        )
    metrics = summarize(outcomes)
    metrics |= {
        "method": "structpose" if swap == "none" else f"structpose with true {swap}",
        "model_sha256": network.sha256,
        "provider": network.provider,
        "dataset": recording.name,
        "split": split,
        "skipped_frames": missing + unreadable,
    }
    out.mkdir(parents=True, exist_ok=True)
    write_poses(out / "poses.csv", outcomes)
    indexed = list(enumerate(outcomes))  # no recorded stamps: the frame's number stands for seconds
    write_trajectory(out / "truth.tum", [(float(i), item.true_map_from_camera) for i, item in indexed])
    estimated = [(float(i), item.map_from_camera) for i, item in indexed if item.map_from_camera is not None]
    write_trajectory(out / "estimate.tum", estimated)
    plots.cumulative_errors(out / "cumulative.png", {metrics["method"]: outcomes})
    write_metrics(out / "metrics.json", metrics)
    return metrics
