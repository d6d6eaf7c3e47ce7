"""The paper's experiments on 7-Scenes and 12-Scenes: each scene is trained, tested and put beside the paper.

OUT/data/SCENE holds what had to be imported, OUT/SCENE/run the training run, OUT/SCENE/test the evaluation;
OUT/reproduce.md and reproduce.json put all scenes together. Whatever is there already is kept: a call after
an interruption goes on where the last one stood.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from structpose_ros.training import published
from structpose_ros.training.config import TrainingConfig, load_config
from structpose_ros.training.evaluate import evaluate
from structpose_ros.training.frames import open_recording
from structpose_ros.training.importers.sevenscenes import SevenScenesRecording
from structpose_ros.training.importers.twelvescenes import import_12scenes
from structpose_ros.training.importers.twelvescenes import recognises as is_twelvescenes
from structpose_ros.training.reproduction_report import SceneOutcome, write_report
from structpose_ros.training.runs import CONFIG, MODEL
from structpose_ros.training.train import train


class ReproductionError(ValueError):
    """Scenes that could not be reproduced, or none to begin with."""


@dataclass(frozen=True)
class Benchmark:
    """A data set of the paper.

    scenes: what a table calls a scene, by its folder below the root. recognises: whether a folder is a scene.
    recording: where a scene's frames can be read, given its folder and one that it may be imported into.
    """

    title: str
    table: int
    methods: Mapping[str, published.Row]
    scenes: Mapping[str, str]
    recognises: Callable[[Path], bool]
    recording: Callable[[Path, Path, bool], Path]


def _is_sevenscenes(scene: Path) -> bool:
    return (scene / "camera.yaml").is_file() or SevenScenesRecording.recognises(scene)


def _import_twelvescenes(scene: Path, out: Path, skip_bad: bool) -> Path:
    import_12scenes(scene, out, skip_bad=skip_bad)
    return out


BENCHMARKS = {
    "7scenes": Benchmark(
        "7-Scenes",
        1,
        published.TABLE_1,
        {
            "chess": "Chess",
            "fire": "Fire",
            "heads": "Heads",
            "office": "Office",
            "pumpkin": "Pumpkin",
            "redkitchen": "Kitchen",
            "stairs": "Stairs",
        },
        _is_sevenscenes,
        lambda scene, _out, _skip_bad: scene,
    ),
    "12scenes": Benchmark(
        "12-Scenes",
        4,
        published.TABLE_4,
        {
            "apt1/kitchen": "Kitchen1",
            "apt1/living": "Living1",
            "apt2/kitchen": "Kitchen2",
            "apt2/living": "Living2",
            "apt2/bed": "Bed",
            "apt2/luke": "Luke",
            "office2/5a": "Office 5a",
            "office2/5b": "Office 5b",
            "office1/lounge": "Lounge",
            "office1/manolis": "Manolis",
            "office1/gates362": "Gates362",
            "office1/gates381": "Gates381",
        },
        is_twelvescenes,
        _import_twelvescenes,
    ),
}


def reproduce(
    benchmark: Benchmark,
    root: Path,
    out: Path,
    config: TrainingConfig,
    *,
    scenes: Sequence[str] | None = None,
    skip_bad: bool = False,
) -> list[SceneOutcome]:
    """Train and test on every scene found below `root`, or on those named; the report grows with each.

    Other scenes that `out` holds the outcome of are in the report too.

    Raises:
        ReproductionError: no scene is found, one is named that there is not, or some have failed.
        OSError: the report can't be written.
    """
    chosen = _scenes(benchmark, root, scenes)
    outcomes = {folder: _finished(benchmark, folder, out, config) for folder in benchmark.scenes}
    for folder in chosen:
        print(f"{folder}: begins")
        outcome = outcomes[folder] or _train_and_test(benchmark, root, folder, out, config, skip_bad)
        print(f"{folder}: {outcome.summary()}", file=sys.stderr if outcome.failure else sys.stdout)
        outcomes[folder] = outcome
        known = [outcome for outcome in outcomes.values() if outcome]
        write_report(out, benchmark.title, benchmark.table, benchmark.methods, config, known)
    print((out / "reproduce.md").read_text())
    failed = [outcome.folder for outcome in known if outcome.failure]
    if failed:
        raise ReproductionError(
            f"expected {len(chosen)} scenes to be reproduced, got {len(failed)} that failed: "
            f"{', '.join(failed)} (see {out / 'reproduce.md'})"
        )
    return known


def _scenes(benchmark: Benchmark, root: Path, named: Sequence[str] | None) -> list[str]:
    unknown = [name for name in named or () if name not in benchmark.scenes]
    if unknown:
        raise ReproductionError(
            f"expected scenes of {', '.join(benchmark.scenes)}, got '{', '.join(unknown)}'"
        )
    found = [folder for folder in benchmark.scenes if benchmark.recognises(root / folder)]
    missing = [name for name in named or () if name not in found]
    if missing or not found:
        raise ReproductionError(
            f"expected scenes of {benchmark.title} as downloaded at "
            f"{', '.join(str(root / folder) for folder in missing or benchmark.scenes)}, got none"
        )
    return [folder for folder in found if not named or folder in named]


def _train_and_test(
    benchmark: Benchmark, root: Path, folder: str, out: Path, config: TrainingConfig, skip_bad: bool
) -> SceneOutcome:
    run, test = out / folder / "run", out / folder / "test"
    try:
        data = benchmark.recording(root / folder, out / "data" / folder, skip_bad)
        open_recording(data).files("test")  # nothing is trained that can't be tested
        model = train(config, data, run, skip_bad=skip_bad)
        metrics = evaluate(model, data, "test", test, skip_bad=skip_bad)
    except Exception as error:  # one scene of a night's work must not cost the others
        line = " ".join(str(error).split())
        expected = type(error).__module__.startswith("structpose_ros") or isinstance(error, OSError)
        failure = line if expected else f"{type(error).__name__}: {line}"
        return SceneOutcome(folder, benchmark.scenes[folder], failure=failure)
    return SceneOutcome(folder, benchmark.scenes[folder], metrics, test / "poses.csv")


def _finished(benchmark: Benchmark, folder: str, out: Path, config: TrainingConfig) -> SceneOutcome | None:
    """Return what became of a scene, if it was trained with this configuration and its model was tested."""
    run, test = out / folder / "run", out / folder / "test"
    needed = (run / CONFIG, run / MODEL, test / "metrics.json", test / "poses.csv")
    if not all(path.is_file() for path in needed) or load_config(run / CONFIG).digest() != config.digest():
        return None
    metrics = json.loads((test / "metrics.json").read_text())
    if metrics.get("model_sha256") != hashlib.sha256((run / MODEL).read_bytes()).hexdigest():
        return None
    return SceneOutcome(folder, benchmark.scenes[folder], metrics, test / "poses.csv")
