"""A method of the comparison: its outcomes, what they depend on, and the folder that keeps them."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from structpose_ros.training.baselines import ComparisonError
from structpose_ros.training.metrics import percentiles, summarize, write_metrics
from structpose_ros.training.outcomes import (
    Outcome,
    outcome_of_pose,
    read_poses,
    read_world_to_camera,
    write_poses,
)

_NAME = re.compile(r"[A-Za-z0-9][\w.+-]*")


@dataclass(frozen=True)
class Method:
    """One row of the comparison.

    name: of its folder. title: of its row and curve. family: `direct` (an image gives a pose in one pass),
    `indirect` (hypotheses are sampled, or a frame is looked up), `published`. inputs: what the outcomes
    depend on, plain values; a result is taken up again only where they are the same.
    """

    name: str
    title: str
    family: str
    outcomes: Sequence[Outcome]
    inputs: Mapping[str, Any] = field(default_factory=dict)

    def metrics(self) -> dict[str, Any]:
        """Return what `summarize` says, with the time of the solve; no times where none were measured."""
        metrics = summarize(self.outcomes)
        timed = [item.latency_ms for item in self.outcomes if item.latency_ms > 0]
        solved = [item.solve_ms for item in self.outcomes if item.solve_ms is not None]
        return {
            "name": self.name,
            "method": self.title,
            "family": self.family,
            **metrics,
            "latency_ms": percentiles(timed),
            "solve_ms": percentiles(solved),
            "inputs": dict(self.inputs),
        }


def published_files(arguments: Sequence[str]) -> dict[str, Path]:
    """Return the files by name of arguments `NAME=FILE`."""
    files: dict[str, Path] = {}
    for argument in arguments:
        name, equals, path = argument.partition("=")
        if not equals or not path or name in files:
            raise ComparisonError(f"expected NAME=FILE with a name of its own, got '{argument}'")
        files[name] = Path(path)
    return files


def published_method(name: str, path: Path, truth: Path) -> Method:
    """Return others' estimates for every frame of `truth`, both files as `read_world_to_camera` takes them.

    A frame without an estimate is a failure; estimates without a truth are counted in the inputs.

    Raises:
        ComparisonError: no estimate belongs to a frame of `truth`.
        RecordingError: a file is of another kind.
    """
    true = {key: pose for key, (pose, _) in read_world_to_camera(truth).items()}
    estimates = {key: pose for key, (pose, _) in read_world_to_camera(path).items()}
    if not true.keys() & estimates.keys():
        raise ComparisonError(
            f"expected estimates for the frames of {truth} in {path}, got none of these: "
            f"{next(iter(true), 'no frame')} against {next(iter(estimates), 'no frame')}"
        )
    outcomes = [outcome_of_pose(key, estimates.get(key), pose) for key, pose in true.items()]
    inputs = {
        "estimates_sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "truth": truth.name,
        "truth_sha256": hashlib.sha256(truth.read_bytes()).hexdigest(),
        "without_truth": len(estimates.keys() - true.keys()),
    }
    return Method(name, f"{name} (published)", "published", outcomes, inputs)


def expect_names(names: Sequence[str], reserved: Sequence[str]) -> None:
    """Raise ComparisonError unless names can be folders, each of its own and none of `reserved`."""
    taken = set(reserved)
    for name in names:
        if not _NAME.fullmatch(name) or name in taken:
            raise ComparisonError(
                f"expected a name of letters, digits, and . + - _ that no other method has, got '{name}'"
            )
        taken.add(name)


def table(content: Mapping[str, Any]) -> str:
    """Return a comparison, as compare.json holds it, as a Markdown table with its notes."""
    lines = [
        "| method | family | frames | median m | median deg | mean m | mean deg "
        "| within 5 cm/5 deg | within 10 cm/5 deg | solve p50 ms | solve p99 ms |",
        "|---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for item in content["methods"]:
        cells = [item["method"], item["family"], str(item["frames"])]
        for kind in ("median", "mean"):
            cells += [_number(item[f"{kind}_position_m"], 3), _number(item[f"{kind}_rotation_deg"], 2)]
        cells += [_percent(item["within_5cm_5deg"]), _percent(item["within_10cm_5deg"])]
        cells += [_number(item["solve_ms"][key], 2) for key in ("p50", "p99")]
        lines.append(f"| {' | '.join(cells)} |")
    ended = ["A frame without an estimate is a failure: no mean is finite then (-).", *content["notes"]]
    return "\n".join([*lines, "", *(f"- {note}" for note in ended)]) + "\n"


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def keep(out: Path, method: Method) -> None:
    """Write OUT/NAME/poses.csv and metrics.json, the latter last: with it the method is finished."""
    write_poses(out / method.name / "poses.csv", method.outcomes)
    write_metrics(out / method.name / "metrics.json", method.metrics())


def kept(out: Path, method: Method) -> Method | None:
    """Return the method with the outcomes that an earlier call left; None where it had other inputs."""
    folder = out / method.name
    try:
        metrics = json.loads((folder / "metrics.json").read_text())
        outcomes = read_poses(folder / "poses.csv")
        same = metrics["inputs"] == method.inputs and metrics["frames"] == len(outcomes)
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None  # what can't be used is measured again
    return replace(method, outcomes=outcomes) if same else None
