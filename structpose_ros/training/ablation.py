"""The paper's Table 5 on one recording: what each part of the method brings.

Rows with the same loss mask share their first stage, so six rows cost two long trainings and four short ones.
Stage 2 and its weights are the paper's: one weighted solve, no robust rounds.
"""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from structpose_ros.network import OnnxNetwork
from structpose_ros.relocalizer import Relocalizer
from structpose_ros.training.config import PoseStage, TrainingConfig
from structpose_ros.training.evaluate import evaluate_frames, summarize
from structpose_ros.training.frame_store import remove_store
from structpose_ros.training.frames import handle_bad, open_recording, write_atomic
from structpose_ros.training.runs import CHECKPOINT, MODEL, claim_folder, read_checkpoint
from structpose_ros.training.train import STORE, train

POSE_EPOCHS = 10  # the paper's, where the configuration leaves stage 2 out
SWITCHES = ("pose_optimization", "correspondence_weighting", "loss_mask")
KEYS = ("median_position_m", "median_rotation_deg", "within_5cm_5deg", "within_10cm_5deg")


@dataclass(frozen=True)
class Row:
    """A row of Table 5: the parts that it has."""

    pose_optimization: bool
    correspondence_weighting: bool
    loss_mask: bool

    @property
    def first_stage(self) -> str:
        """Name of the run of the first stage."""
        return "geometry-masked" if self.loss_mask else "geometry"

    @property
    def name(self) -> str:
        """Name of the run's folder."""
        parts = [
            "pose" if self.pose_optimization else "",
            "weights" if self.correspondence_weighting else "",
        ]
        return "-".join([self.first_stage, *filter(None, parts)])


ROWS = (
    Row(False, False, False),
    Row(True, False, False),
    Row(False, True, False),
    Row(True, True, False),
    Row(False, False, True),
    Row(True, True, True),
)


def row_config(config: TrainingConfig, row: Row) -> TrainingConfig:
    """Return the configuration of a row's run."""
    geometry = dataclasses.replace(config.geometry, validity_mask=row.loss_mask)
    if row.name == row.first_stage:
        return dataclasses.replace(
            config, geometry=geometry, pose=PoseStage(epochs=0, correspondence_weighting=False)
        )
    pose = dataclasses.replace(
        config.pose,
        epochs=config.pose.epochs or POSE_EPOCHS,
        update_geometry=row.pose_optimization,
        correspondence_weighting=row.correspondence_weighting,
    )
    return dataclasses.replace(
        config,
        geometry=geometry,
        pose=pose,
        alignment=dataclasses.replace(config.alignment, robust_rounds=0),
    )


def start_from(first_stage: Path, run: Path, config: TrainingConfig) -> None:
    """Let a run begin after the first stage of another one; one that has begun is left alone.

    Raises:
        ConfigError: the first run has no readable checkpoint, or `run` is one of another configuration.
    """
    if (run / CHECKPOINT).is_file():
        return
    state = read_checkpoint(first_stage)
    progress = state["progress"]
    state["optimizer"] = {}
    state["progress"] = {
        "stage": 1,
        "epochs_done": config.geometry.epochs,
        "skipped_steps": progress["skipped_steps"],
        "seconds": progress["seconds"],
    }
    buffer = io.BytesIO()
    torch.save(state, buffer)
    claim_folder(run, config)
    write_atomic(run / CHECKPOINT, buffer.getvalue())


def ablate(
    config: TrainingConfig, data_root: Path, out: Path, *, split: str = "test", skip_bad: bool = False
) -> list[dict[str, Any]]:
    """Train and measure all rows; what an earlier call has finished is kept.

    Writes ablation.json and ablation.md after each row, and returns the rows: their switches, and for each
    solve (`one_solve`, and `robust` with the configured rounds, at least 5) what `metrics.json` calls by the
    same names.
    """
    rows: list[dict[str, Any]] = []
    for number, row in enumerate(ROWS, start=1):
        print(f"row {number} of {len(ROWS)}: {row.name}")
        run, row_of = out / row.name, row_config(config, row)
        claim_folder(run, row_of)
        measured = _measured(run, split)
        if measured is None:
            if row.name != row.first_stage:
                start_from(out / row.first_stage, run, row_of)
            train(row_of, data_root, run, skip_bad=skip_bad, store=out / STORE)
            measured = _measure(run, config, data_root, split, skip_bad)
        rows.append(dataclasses.asdict(row) | measured)
        content = {"dataset": data_root.resolve().name, "split": split, "rows": rows}
        write_atomic(out / "ablation.json", (json.dumps(content, indent=1) + "\n").encode())
        write_atomic(out / "ablation.md", table(rows).encode())
    remove_store(out / STORE)
    return rows


def _measured(run: Path, split: str) -> dict[str, Any] | None:
    """Return what was measured of the model that a run holds, None where that is still to be done."""
    path, model = run / f"{split}.json", run / MODEL
    if not path.is_file() or not model.is_file():
        return None
    kept: dict[str, Any] = json.loads(path.read_text())
    return kept if kept["model_sha256"] == OnnxNetwork(model, "cpu").sha256 else None


def _measure(
    run: Path, config: TrainingConfig, data_root: Path, split: str, skip_bad: bool
) -> dict[str, Any]:
    network = OnnxNetwork(run / MODEL, "cpu")
    recording = open_recording(data_root)
    files, missing = recording.files(split)
    handle_bad(missing, len(files) + len(missing), skip_bad)
    measured: dict[str, Any] = {"model_sha256": network.sha256}
    rounds = {"one_solve": 0, "robust": config.alignment.robust_rounds or 5}
    for solve, robust_rounds in rounds.items():
        alignment = dataclasses.replace(network.contract.alignment, robust_rounds=robust_rounds)
        with tqdm(total=len(files), desc=f"evaluating, {solve}", unit="frame") as bar:
            outcomes, _ = evaluate_frames(
                Relocalizer(network, alignment=alignment),
                recording,
                files,
                skip_bad=skip_bad,
                on_frame=lambda *_, bar=bar: bar.update(1),
            )
        metrics = summarize(outcomes)
        measured[solve] = {key: metrics[key] for key in ("frames", *KEYS)}
    write_atomic(run / f"{split}.json", (json.dumps(measured, indent=1) + "\n").encode())
    return measured


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Return the rows as a Markdown table, in the paper's order of columns."""
    lines = [
        "| pose opt | cor weighting | loss mask | one solve (paper) | within 10 cm/5° "
        "| robust solve | within 10 cm/5° |",
        "|:-:|:-:|:-:|--:|--:|--:|--:|",
    ]
    for row in rows:
        cells = ["✓" if row[switch] else "" for switch in SWITCHES]
        for solve in ("one_solve", "robust"):
            cells += [errors(row[solve]), f"{100 * row[solve]['within_10cm_5deg']:.0f} %"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def errors(metrics: dict[str, Any]) -> str:
    """Return the median errors in words."""
    position, rotation = metrics["median_position_m"], metrics["median_rotation_deg"]
    if position is None or rotation is None:
        return "no pose"
    return f"{100 * position:.1f} cm / {rotation:.2f}°"
