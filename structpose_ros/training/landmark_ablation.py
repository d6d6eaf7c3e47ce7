"""What each part of a map of landmarks and of its solve brings: each switched off alone, on one recording.

Maps are made without cross-fitting: errors are compared, not confidences.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

from tqdm import tqdm

from structpose_ros import refinement
from structpose_ros.alignment import AlignmentOptions
from structpose_ros.network import OnnxNetwork
from structpose_ros.relocalizer import Relocalizer
from structpose_ros.training import landmarks
from structpose_ros.training.ablation import KEYS, errors
from structpose_ros.training.config import LandmarkConfig, TrainingConfig
from structpose_ros.training.evaluate import evaluate_frames
from structpose_ros.training.frames import handle_bad, open_recording, write_atomic
from structpose_ros.training.metrics import summarize
from structpose_ros.training.runs import MODEL, export_run
from structpose_ros.training.train import Trainer

ROBUST_ROUNDS = 5  # what stands in for the consensus where that is left out
ALL_ALIKE = 1.0  # temperature at which all matches weigh about the same


@dataclass(frozen=True)
class Row:
    """A part that is left out, and what the configuration, or a constant of the code, says instead.

    run: folder of the map, which rows that change the solve alone share.
    """

    name: str
    run: str = "map"
    landmarks: dict[str, Any] = field(default_factory=dict)
    alignment: dict[str, Any] = field(default_factory=dict)
    constants: tuple[tuple[ModuleType, str, float], ...] = ()

    @contextlib.contextmanager
    def in_force(self) -> Iterator[None]:
        """Give the constants their values."""
        with contextlib.ExitStack() as stack:
            for module, name, value in self.constants:
                stack.enter_context(mock.patch.object(module, name, value))
            yield


def rows_of(config: LandmarkConfig, alignment: AlignmentOptions) -> list[Row]:
    """Return the rows for a configuration: everything, then each part that it has left out alone."""
    rows = [Row("nothing left out")]
    if config.refine_lens:
        rows.append(Row("lens as calibrated", "lens", {"refine_lens": False}))
    rows += [
        Row("a quarter of the landmarks", "quarter", {"count": max(config.count // 4, 1)}),
        Row("landmarks drawn by their score alone", "score", constants=((landmarks, "VOXEL", 1e6),)),
        Row("landmarks at edges of the depth, too", "edges", constants=((landmarks, "EDGE", math.inf),)),
        Row("all matches weigh the same", "alike", {"temperature": ALL_ALIKE}),
    ]
    plain = {"consensus_starts": 0, "robust_rounds": 0}
    if alignment.consensus_starts > 0:
        robust = {"consensus_starts": 0, "robust_rounds": ROBUST_ROUNDS}
        rows.append(Row("robust rounds in place of the consensus", alignment=robust))
    if alignment.consensus_starts > 0 or alignment.robust_rounds > 0:
        rows.append(Row("one solve, neither consensus nor robust rounds", alignment=plain))
    if alignment.refine_rounds > 0:
        one_scale = {"refine_from": alignment.refine_to}
        rows += [
            Row("Gauss-Newton at its last scale from the start", alignment=one_scale),
            Row("Gauss-Newton by angles from the start", constants=((refinement, "IN_METRES", 0.0),)),
            Row("no Gauss-Newton", alignment={"refine_rounds": 0}),
        ]
    return rows


def ablate_landmarks(
    config: TrainingConfig, data_root: Path, out: Path, *, split: str = "test", skip_bad: bool = False
) -> list[dict[str, Any]]:
    """Measure all rows; writes ablation.json and ablation.md after each, and returns them."""
    rows: list[dict[str, Any]] = []
    todo = rows_of(config.landmarks, config.alignment)
    networks: dict[str, OnnxNetwork] = {}
    for number, row in enumerate(todo, start=1):
        print(f"row {number} of {len(todo)}: {row.name}")
        with row.in_force():
            if row.run not in networks:
                networks[row.run] = OnnxNetwork(_made(config, row, data_root, out, skip_bad), "cpu")
            alignment = dataclasses.replace(config.alignment, **row.alignment)
            metrics = _measure(networks[row.run], alignment, data_root, split, skip_bad)
        rows.append({"without": row.name, **metrics})
        content = {"dataset": data_root.resolve().name, "split": split, "rows": rows}
        write_atomic(out / "ablation.json", (json.dumps(content, indent=1) + "\n").encode())
        write_atomic(out / "ablation.md", table(rows).encode())
    return rows


def _made(config: TrainingConfig, row: Row, data_root: Path, out: Path, skip_bad: bool) -> Path:
    run = out / row.run
    changed = dataclasses.replace(config, landmarks=dataclasses.replace(config.landmarks, **row.landmarks))
    trainer = Trainer(changed, data_root, run, skip_bad=skip_bad)
    trainer.train()
    export_run(run, run / MODEL)
    trainer.discard_store()
    return run / MODEL


def _measure(
    network: OnnxNetwork, alignment: AlignmentOptions, data_root: Path, split: str, skip_bad: bool
) -> dict[str, Any]:
    recording = open_recording(data_root)
    files, missing = recording.files(split)
    handle_bad(missing, len(files) + len(missing), skip_bad)
    with tqdm(total=len(files), desc="evaluating", unit="frame") as bar:
        outcomes, _ = evaluate_frames(
            Relocalizer(network, alignment=alignment),
            recording,
            files,
            skip_bad=skip_bad,
            on_frame=lambda *_: bar.update(1),
        )
    metrics = summarize(outcomes)
    return {key: metrics[key] for key in ("frames", *KEYS)}


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Return the rows as a Markdown table."""
    lines = ["| left out | median | within 5 cm/5° | within 10 cm/5° |", "|---|--:|--:|--:|"]
    for row in rows:
        shares = [f"{100 * row[key]:.0f} %" for key in ("within_5cm_5deg", "within_10cm_5deg")]
        lines.append(f"| {' | '.join([row['without'], errors(row), *shares])} |")
    return "\n".join(lines) + "\n"
