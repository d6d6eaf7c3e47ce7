"""Methods side by side on the same frames: one table, one figure, the outcomes of each.

OUT/compare.json, compare.md   all methods
OUT/cumulative.png             their errors (paper Fig. 2)
OUT/METHOD/poses.csv           outcomes of one method, see `outcomes.write_poses`
OUT/METHOD/metrics.json        its metrics and what it was measured on; written last: with it, METHOD is done
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from structpose_ros.network import OnnxNetwork
from structpose_ros.relocalizer import Relocalizer, Result
from structpose_ros.training import plots
from structpose_ros.training.baselines import (
    PNP_THRESHOLD_PX,
    ComparisonError,
    PnpBaselines,
    PoseRegressor,
    RansacPnp,
    retrieval_oracle,
)
from structpose_ros.training.evaluate import evaluate_frames
from structpose_ros.training.frames import (
    Frame,
    FrameFiles,
    Recording,
    RecordingError,
    handle_bad,
    open_recording,
    write_atomic,
)
from structpose_ros.training.methods import Method, expect_names, keep, kept, published_method, table
from structpose_ros.training.metrics import write_metrics
from structpose_ros.training.outcomes import Outcome, outcome_of_pose

DIRECT, EPNP, RANSAC, ORACLE = "direct", "epnp", "pnp_ransac", "retrieval_oracle"
POSENET_RUN = "posenet-run"  # folder of its training
METHODS = (DIRECT, EPNP, RANSAC, ORACLE)


def compare(
    out: Path,
    *,
    model: Path | None = None,
    data_root: Path | None = None,
    split: str = "test",
    provider: str = "auto",
    skip_bad: bool = False,
    pnp_threshold_px: float = PNP_THRESHOLD_PX,
    regressors: Mapping[str, PoseRegressor] | None = None,
    published: Mapping[str, Path] | None = None,
    truth: Path | None = None,
) -> dict[str, Any]:
    """Compare a model's pose solve with others on its predictions, with regressors, with published results.

    Finished methods are kept in `out`: they are not computed again while what they depend on is the same.

    Args:
        out: the folder to write.
        model: the model file; like data_root it is not needed where only published results are compared.
        data_root: the recording that the model is run on.
        split: `train` or `test`.
        provider: see `OnnxNetwork`.
        skip_bad: whether to leave bad frames out instead of refusing them.
        pnp_threshold_px: of an inlier of RANSAC-PnP, at an image width of 640 px.
        regressors: further methods by name, run on every frame.
        published: files of others' estimates by name, see `read_world_to_camera`.
        truth: a file of that form with the true poses that belong to them.

    Returns:
        What compare.json holds.

    Raises:
        ComparisonError: what was asked for does not go together.
    """
    regressors, published = regressors or {}, published or {}
    expect_names([*regressors, *published], METHODS)
    if not model and not published:
        raise ComparisonError("expected a model, or published results, to compare, got neither")
    if model and not data_root:
        raise ComparisonError("expected a recording to run the model on (--data), got none")
    if published and not truth:
        raise ComparisonError("expected the true poses of the published results (--truth), got none")
    others = [published_method(name, path, truth) for name, path in published.items() if truth]
    methods: list[Method] = []
    notes: list[str] = []
    if model and data_root:
        methods, notes = _Measurement(
            OnnxNetwork(model, provider), open_recording(data_root), split, out, skip_bad
        ).run(pnp_threshold_px, regressors)
    for method in others:
        keep(out, method)
    if others and truth:
        names = ", ".join(method.name for method in others)
        notes = [
            *notes,
            f"Published ({names}): measured over the {len(others[0].outcomes)} frames of {truth.name}.",
        ]
    return write_comparison(out, [*methods, *others], notes)


def posenet_beside(run: Path, data_root: Path, out: Path, *, skip_bad: bool = False) -> PoseRegressor:
    """Return PoseNet with learned weights, trained in `out` as a run was: same backbone, input and epochs.

    Training is taken up where it was stopped.

    Raises:
        ComparisonError: `run` is no run; a model file, for instance, does not say how it was trained.
    """
    from structpose_ros.training.config import load_config
    from structpose_ros.training.posenet import TrainedPoseNet
    from structpose_ros.training.runs import CONFIG
    from structpose_ros.training.train import train

    if not (run / CONFIG).is_file():
        raise ComparisonError(f"expected a training run to train PoseNet beside, got {run}")
    train(replace(load_config(run / CONFIG), method="posenet"), data_root, out, skip_bad=skip_bad)
    trained = TrainedPoseNet(out)
    return PoseRegressor(trained.localize, trained.identity)


def write_comparison(out: Path, methods: Sequence[Method], notes: Sequence[str] = ()) -> dict[str, Any]:
    """Write compare.json, compare.md and cumulative.png of methods; returns what compare.json holds."""
    content = {"methods": [method.metrics() for method in methods], "notes": list(notes)}
    plots.cumulative_errors(out / "cumulative.png", {method.title: method.outcomes for method in methods})
    write_atomic(out / "compare.md", table(content).encode())
    write_metrics(out / "compare.json", content)
    return content


class _Measurement:
    """The methods that run here, on the frames of one split."""

    def __init__(
        self, network: OnnxNetwork, recording: Recording, split: str, out: Path, skip_bad: bool
    ) -> None:
        self.relocalizer = Relocalizer(network)
        self.network = network
        self.recording = recording
        self.split = split
        self.out = out
        self.skip_bad = skip_bad
        self.files, missing = recording.files(split)
        handle_bad(missing, len(self.files) + len(missing), skip_bad)
        self.frames = {
            "dataset": recording.name,
            "split": split,
            "frames_sha256": _digest(recording, self.files),
        }

    def run(
        self, pnp_threshold_px: float, regressors: Mapping[str, PoseRegressor]
    ) -> tuple[list[Method], list[str]]:
        """Return the methods' outcomes, measured now or before, and what a reader has to know of them."""
        ransac = RansacPnp(self.network.contract.input_width, pnp_threshold_px)
        methods = self._on_predictions(ransac)
        oracle, notes = self._oracle(methods[0].outcomes)
        notes = [
            f"structpose, EPnP and PnP solve the same predictions of model {self.network.sha256[:12]} "
            f"({self.network.provider}) for {self.recording.name}, split {self.split}. "
            "Solve: from these to the pose.",
            f"PnP by {ransac.solver}: threshold {ransac.threshold_px:.3g} px at the network's input width of "
            f"{self.network.contract.input_width} px.",
            *notes,
        ]
        return [*methods, *oracle, *(self._regressed(*item) for item in regressors.items())], notes

    def _on_predictions(self, ransac: RansacPnp) -> list[Method]:
        """The network runs once per frame; every solve gets what it said."""
        base = {**self.frames, "model_sha256": self.network.sha256, "provider": self.network.provider}
        robust = {**base, "solver": ransac.solver, "threshold_px": ransac.threshold_px}
        rows: list[tuple[str, str, str, dict[str, Any]]] = [
            (DIRECT, "structpose", "direct", base),
            (EPNP, "EPnP, no RANSAC", "direct", base),  # the paper's Table 1 has it among the direct ones
            (RANSAC, f"PnP, LO-RANSAC ({ransac.solver})", "indirect", robust),
        ]
        earlier = [kept(self.out, Method(*row[:3], [], row[3])) for row in rows]
        if all(earlier):
            return [method for method in earlier if method]
        from tqdm import tqdm

        baselines = PnpBaselines(ransac)
        solved: tuple[list[Outcome], list[Outcome]] = ([], [])
        with tqdm(total=len(self.files), desc="comparing", unit="frame") as bar:

            def solve(outcome: Outcome, result: Result, frame: Frame) -> None:
                for outcomes, found in zip(
                    solved, baselines.outcomes_of(outcome.name, result, frame.map_from_camera), strict=True
                ):
                    outcomes.append(found)
                bar.update(1)

            direct, _ = evaluate_frames(
                self.relocalizer, self.recording, self.files, skip_bad=self.skip_bad, on_frame=solve
            )
        methods = []
        for found, row, outcomes in zip(earlier, rows, (direct, *solved), strict=True):
            methods.append(found or Method(*row[:3], outcomes, row[3]))
            keep(self.out, methods[-1])
        return methods

    def _oracle(self, tested: Sequence[Outcome]) -> tuple[list[Method], list[str]]:
        try:
            files = self.recording.files("train")[0]
            training_poses = [self.recording.read_pose(item) for item in files]
        except RecordingError as error:
            return [], [f"The retrieval oracle is left out: {error}."]
        names = {item.name for item in tested}
        true_poses = [
            (item.name, self.recording.read_pose(item)) for item in self.files if item.name in names
        ]
        outcomes = retrieval_oracle(true_poses, training_poses)
        method = Method(ORACLE, "retrieval oracle", "indirect", outcomes, self.frames)
        keep(self.out, method)
        return [method], [
            f"The retrieval oracle knows the truth: its answer is the nearest of {len(files)} training "
            "poses, where 1 cm counts as much as 1 deg."
        ]

    def _regressed(self, name: str, regressor: PoseRegressor) -> Method:
        inputs = {**self.frames, "identity": regressor.identity}
        earlier = kept(self.out, Method(name, name, "direct", [], inputs))
        if earlier:
            return earlier
        outcomes: list[Outcome] = []
        bad: list[str] = []
        for item in self.files:
            try:
                frame = self.recording.read(item)
            except RecordingError as error:
                bad.append(str(error))
                continue
            started = time.perf_counter()
            pose = regressor.localize(frame.image_rgb, self.recording.camera)
            elapsed = 1e3 * (time.perf_counter() - started)
            outcomes.append(outcome_of_pose(item.name, pose, frame.map_from_camera, latency_ms=elapsed))
        handle_bad(bad, len(self.files), self.skip_bad)
        method = Method(name, name, "direct", outcomes, inputs)
        keep(self.out, method)
        return method


def _digest(recording: Recording, files: Sequence[FrameFiles]) -> str:
    """Digest of the frames' names, poses and the sizes of their images."""
    digest = hashlib.sha256()
    for item in files:
        digest.update(f"{item.name} {item.color.stat().st_size}\n".encode())
        digest.update(item.pose.read_bytes())
    return digest.hexdigest()
