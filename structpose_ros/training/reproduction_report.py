"""The paper's tables with a row of one's own: reproduce.md to read, reproduce.json for programs."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from structpose_ros import __version__
from structpose_ros.training import published
from structpose_ros.training.config import TrainingConfig
from structpose_ros.training.frames import write_atomic
from structpose_ros.training.published import AVERAGE, OURS, PoseError, Row

HERE = "this run"


@dataclass(frozen=True)
class SceneOutcome:
    """What came of a scene: metrics as in metrics.json, each frame's errors in `poses`; or why it failed."""

    folder: str
    scene: str
    metrics: Mapping[str, Any] = field(default_factory=dict)
    poses: Path | None = None
    failure: str = ""

    @property
    def median(self) -> PoseError | None:
        """The median error; None where the scene failed, or half of its frames got no pose."""
        position, rotation = (self.metrics.get(f"median_{name}") for name in ("position_m", "rotation_deg"))
        return None if position is None or rotation is None else PoseError(position, rotation)

    def summary(self) -> str:
        """Return one line for the terminal."""
        if self.failure:
            return f"failed: {self.failure}"
        return f"median {_cell(self.median)} (m/deg) over {self.metrics['frames']} frames"

    def errors(self) -> npt.NDArray[np.float64]:
        """Return position (m) and rotation (deg) of each frame, (N, 2); infinite where there is no pose."""
        assert self.poses is not None
        rows = csv.DictReader(self.poses.read_text().splitlines())
        return np.array([(float(row["position_m"]), float(row["rotation_deg"])) for row in rows])


def write_report(
    out: Path,
    title: str,
    table: int,
    methods: Mapping[str, Row],
    config: TrainingConfig,
    outcomes: Sequence[SceneOutcome],
) -> None:
    """Write reproduce.md and reproduce.json."""
    complete = len([outcome for outcome in outcomes if outcome.median]) == len(
        methods[OURS].keys() - {AVERAGE}
    )
    paper = methods[OURS] if table != 1 else published.ablation(config) or methods[OURS]
    pooled = _pooled(outcomes) if table == 1 and complete else None
    average = _average([outcome.median for outcome in outcomes if outcome.median]) if complete else None
    content = {
        "benchmark": title,
        "table": table,
        "config_digest": config.digest(),
        "version": __version__,
        "scenes": {outcome.folder: _as_json(outcome, paper) for outcome in outcomes},
        "average": None if average is None else average._asdict(),
        "pooled": None if pooled is None else {"within_5cm_5deg": pooled[0], **pooled[1]._asdict()},
    }
    parts = [
        f"# {title}: the paper and {HERE}\n\nMedian errors, m/deg. Configuration {config.digest()}, "
        f"structpose_ros {__version__}. Labels are the sensor's depth; the paper's are ray-cast from a mesh.",
        _scene_table(outcomes, paper),
        f"## Table {table}\n\n" + _method_table(methods, outcomes, average),
    ]
    if average is not None and table == 1:
        parts.append("## Table 2 (averages over the scenes)\n\n" + _indirect_table(average))
    if pooled is not None:
        parts.append("## Table 3 (all images together)\n\n" + _pooled_table(pooled))
    write_atomic(out / "reproduce.json", (json.dumps(content, indent=1) + "\n").encode())
    write_atomic(out / "reproduce.md", ("\n\n".join(parts) + "\n").encode())


def _as_json(outcome: SceneOutcome, paper: Row) -> dict[str, Any]:
    shared = {"scene": outcome.scene, "paper": paper[outcome.scene]._asdict()}
    if outcome.failure:
        return {**shared, "failure": outcome.failure}
    names = ("frames", "median_position_m", "median_rotation_deg", "within_5cm_5deg", "model_sha256")
    return shared | {name: outcome.metrics[name] for name in names}


def _average(errors: Sequence[PoseError]) -> PoseError:
    return PoseError(*np.mean(errors, axis=0).tolist())


def _pooled(outcomes: Sequence[SceneOutcome]) -> tuple[float, PoseError]:
    """Return the share within 5 cm and 5 deg, and the median error, over the frames of all scenes."""
    errors = np.concatenate([outcome.errors() for outcome in outcomes])
    return float((errors <= [0.05, 5.0]).all(axis=1).mean()), PoseError(*np.median(errors, axis=0).tolist())


def _scene_table(outcomes: Sequence[SceneOutcome], paper: Row) -> str:
    rows = []
    for outcome in outcomes:
        frames = outcome.failure or str(outcome.metrics["frames"])
        rows.append([outcome.scene, _cell(paper[outcome.scene]), _cell(outcome.median), frames])
    return _markdown(["Scene", "Paper", HERE, "Frames"], rows)


def _method_table(
    methods: Mapping[str, Row], outcomes: Sequence[SceneOutcome], average: PoseError | None
) -> str:
    columns = list(methods[OURS])
    here = {outcome.scene: outcome.median for outcome in outcomes} | {AVERAGE: average}
    rows = [[name, *(_cell(row.get(column)) for column in columns)] for name, row in methods.items()]
    return _markdown(["", *columns], [*rows, [HERE, *(_cell(here.get(column)) for column in columns)]])


def _indirect_table(average: PoseError) -> str:
    rows = [[name, _cell(error), used] for name, (error, used) in published.TABLE_2.items()]
    return _markdown(["", "Error", "Techniques"], [*rows, [HERE, _cell(average), ""]])


def _pooled_table(pooled: tuple[float, PoseError]) -> str:
    everyone = {**published.TABLE_3, HERE: pooled}
    rows = [
        [name, f"{share:.3f}", f"{error.position_m:.3f}", f"{error.rotation_deg:.3f}"]
        for name, (share, error) in everyone.items()
    ]
    return _markdown(["", "Acc.", "Pos. (m)", "Rot. (deg)"], rows)


def _cell(error: PoseError | None) -> str:
    if error is None or not all(map(math.isfinite, error)):
        return "-"
    return f"{error.position_m:.2f}/{error.rotation_deg:.2f}"


def _markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
