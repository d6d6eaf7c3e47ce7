"""How good a model is on frames with known poses: per-frame outcomes, metrics, trajectory and figures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from structpose_ros.camera import Camera
from structpose_ros.gate import weighted_median_residual
from structpose_ros.network import Network, OnnxNetwork, Prediction
from structpose_ros.relocalizer import Relocalizer, Result
from structpose_ros.training import overview, plots
from structpose_ros.training.frames import (
    Frame,
    FrameFiles,
    Recording,
    RecordingError,
    handle_bad,
    open_recording,
    read_color,
    read_stamps,
)
from structpose_ros.training.labels import sample_labels
from structpose_ros.training.metrics import GOOD, risk_coverage, summarize, within, write_metrics
from structpose_ros.training.outcomes import Outcome, outcome_of, write_poses, write_trajectory

SWAPS = ("none", "depth", "scene_coordinates")


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
        contract = self.contract
        camera = self.recording.camera.resized(contract.input_width, contract.input_height)
        seen = predicted.rays(contract.refined(camera), rays)
        labels = sample_labels(self._frame.depth_mm, self.recording.camera, self._frame.map_from_camera, seen)
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


class Judged(NamedTuple):
    """What may tell whether a pose is right, and what the gate made of it.

    confidence: 0 if rejected. residual_m: weighted median, inf without an estimate.
    """

    accepted: bool
    confidence: float
    residual_m: float

    @classmethod
    def of(cls, result: Result) -> Judged:
        """Read a result."""
        residual = float("inf") if result.estimate is None else weighted_median_residual(result.estimate)
        return cls(result.decision.accepted, result.decision.confidence, residual)


def risk_coverage_areas(judged: Sequence[Judged], wrong: npt.NDArray[np.bool_]) -> dict[str, float]:
    """Return the area under the risk-coverage curve by the confidence, by the residual alone, at best."""
    rankings = {
        "risk_coverage_auc": np.array([item.confidence for item in judged]),
        "risk_coverage_auc_residual": -np.array([item.residual_m for item in judged]),
        "risk_coverage_auc_oracle": ~wrong,
    }
    return {key: risk_coverage(ranking, wrong).area for key, ranking in rankings.items()}


def judge_foreign(relocalizer: Relocalizer, root: Path) -> list[Judged]:
    """Localise images of another place, where every pose is wrong.

    Every `.jpg` and `.png` below `root` counts, but `*.depth.png`. A recording's own camera is used; that of
    other images is taken to be the one the model was trained with, at their size.

    Raises:
        RecordingError: there is none, or one can't be read.
    """
    paths = sorted(
        path
        for path in root.rglob("*")
        if path.suffix in (".jpg", ".png") and not path.name.endswith(".depth.png")
    )
    if not paths:
        raise RecordingError(f"expected images of another place (.jpg, .png) in {root}, got none")
    try:
        camera: Camera | None = open_recording(root).camera
    except RecordingError:
        camera = None
    trained = relocalizer.network.contract.training_camera
    judged = []
    for path in paths:
        image_rgb = read_color(path)
        taken_by = camera or trained.resized(image_rgb.shape[1], image_rgb.shape[0])
        judged.append(Judged.of(relocalizer.localize(image_rgb, taken_by)))
    return judged


def trajectory_stamps(recording: Recording, names: Sequence[str]) -> list[float]:
    """Return the stamp (s) of each frame, or its number in `names` where not every one has its own stamp."""
    recorded: dict[str, dict[int, float]] = {}
    stamps = []
    for name in names:
        sequence, _, number = name.partition("/frame-")
        if sequence not in recorded:
            recorded[sequence] = read_stamps(recording.root / sequence)
        stamps.append(recorded[sequence].get(int(number)))
    known = [stamp for stamp in stamps if stamp is not None]
    # Sequences that each begin at 0 would share their stamps: no tool could tell their frames apart.
    return known if len(set(known)) == len(names) else [float(index) for index in range(len(names))]


def evaluate(
    model: Path,
    data_root: Path,
    split: str,
    out: Path,
    *,
    provider: str = "auto",
    swap: str = "none",
    skip_bad: bool = False,
    foreign: Path | None = None,
) -> dict[str, Any]:
    """Evaluate a model file on a split and write metrics.json, poses.csv, two TUM trajectories and figures.

    foreign: a folder of images that show another place, see `judge_foreign`. The areas under the
    risk-coverage curve are then also given of these and the split's frames together.

    Returns:
        The metrics, as written.
    """
    from tqdm import tqdm

    network = OnnxNetwork(model, provider)
    recording = open_recording(data_root)
    files, missing = recording.files(split)
    handle_bad(missing, len(files) + len(missing), skip_bad)
    relocalizer = Relocalizer(network)
    strangers = judge_foreign(relocalizer, foreign) if foreign else []
    judged: list[Judged] = []
    with tqdm(total=len(files), desc="evaluating", unit="frame") as bar:

        def on_frame(_outcome: Outcome, result: Result, _frame: Frame) -> None:
            judged.append(Judged.of(result))
            bar.update(1)

        outcomes, unreadable = evaluate_frames(
            relocalizer,
            recording,
            files,
            skip_bad=skip_bad,
            swap=swap,
            on_frame=on_frame,
        )
    wrong = ~within(outcomes, *GOOD)
    metrics = summarize(outcomes) | risk_coverage_areas(judged, wrong)
    if strangers:
        all_wrong = np.append(wrong, np.ones(len(strangers), dtype=bool))
        areas = risk_coverage_areas([*judged, *strangers], all_wrong)
        metrics |= {
            "foreign_frames": len(strangers),
            "foreign_accept": sum(item.accepted for item in strangers) / len(strangers),
            **{f"foreign_{key}": area for key, area in areas.items()},
        }
    metrics |= {
        "covariance_scale": network.contract.covariance_scale,
        "method": "structpose" if swap == "none" else f"structpose with true {swap}",
        "model_sha256": network.sha256,
        "provider": network.provider,
        "dataset": recording.name,
        "split": split,
        "skipped_frames": missing + unreadable,
    }
    out.mkdir(parents=True, exist_ok=True)
    write_poses(out / "poses.csv", outcomes)
    stamps = trajectory_stamps(recording, [item.name for item in outcomes])
    stamped = list(zip(stamps, outcomes, strict=True))
    write_trajectory(out / "truth.tum", [(stamp, item.true_map_from_camera) for stamp, item in stamped])
    estimated = [(at, item.map_from_camera) for at, item in stamped if item.map_from_camera is not None]
    write_trajectory(out / "estimate.tum", estimated)
    plots.cumulative_errors(out / "cumulative.png", {metrics["method"]: outcomes})
    plots.risk_coverage(out / "risk_coverage.png", outcomes)
    overview.from_above(out / "map.png", outcomes, network.map_cloud)
    _draw_panels(out / "panels.png", outcomes, relocalizer, recording, files, swap)
    write_metrics(out / "metrics.json", metrics)
    return metrics


def _draw_panels(
    path: Path,
    outcomes: Sequence[Outcome],
    relocalizer: Relocalizer,
    recording: Recording,
    files: Sequence[FrameFiles],
    swap: str,
) -> None:
    """Draw the best, the median and the worst frame by position error; they are localised once more."""
    ordered = sorted(outcomes, key=lambda item: (item.position_m, item.rotation_deg))
    chosen = {"best": ordered[0], "median": ordered[len(ordered) // 2], "worst": ordered[-1]}
    by_name = {item.name: item for item in files}
    results: dict[str, Result] = {}
    evaluate_frames(
        relocalizer,
        recording,
        [by_name[name] for name in dict.fromkeys(item.name for item in chosen.values())],
        swap=swap,
        on_frame=lambda outcome, result, _: results.update({outcome.name: result}),
    )
    rows = [(f"{title}: {item.name}", item, results[item.name]) for title, item in chosen.items()]
    contract = relocalizer.network.contract
    plots.panels(path, rows, contract.map_min, contract.map_max)
