"""Table 5: six rows from two first stages, resumable, each trained as its switches say."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from recordings import write_recording
from test_train import CONFIG, weights

from structpose_ros.training import ablation
from structpose_ros.training.ablation import ROWS, SWITCHES, ablate, row_config, table
from structpose_ros.training.config import ConfigError, PoseStage, load_config

pytestmark = pytest.mark.xdist_group("ablation")  # its rows are trained once

SMALL = dataclasses.replace(
    CONFIG,
    geometry=dataclasses.replace(CONFIG.geometry, epochs=1, validity_mask=False),
    pose=PoseStage(epochs=1, learning_rate=1e-3),
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("ablation")
    room = write_recording(root / "room", train=8, test=3)
    ablate(SMALL, room, root / "out")
    return room, root / "out"


def test_rows_are_the_papers() -> None:
    switches = [dataclasses.astuple(row) for row in ROWS]
    assert switches == [
        (False, False, False),
        (True, False, False),
        (False, True, False),
        (True, True, False),
        (False, False, True),
        (True, True, True),
    ]
    for row in ROWS:
        config = row_config(SMALL, row)
        assert config.geometry.validity_mask == row.loss_mask
        assert config.pose.correspondence_weighting == row.correspondence_weighting
        trains_poses = row.pose_optimization or row.correspondence_weighting
        assert config.pose.epochs == (1 if trains_poses else 0)
        if trains_poses:
            assert config.pose.update_geometry == row.pose_optimization
            assert config.alignment.robust_rounds == 0
    without = dataclasses.replace(SMALL, pose=PoseStage(epochs=0, correspondence_weighting=False))
    assert row_config(without, ROWS[1]).pose.epochs == ablation.POSE_EPOCHS


def test_each_row_trains_what_its_switches_say(finished: tuple[Path, Path]) -> None:
    _, out = finished
    runs = {row.name: weights(out / row.name) for row in ROWS}
    for row in ROWS:
        first, own = runs[row.first_stage], runs[row.name]
        changed = {key for key in own if not torch.equal(own[key], first[key])}
        head = any(key.startswith("weight_head") for key in changed)
        rest = any(not key.startswith("weight_head") for key in changed)
        assert (rest, head) == (row.pose_optimization, row.correspondence_weighting)
    assert not torch.equal(runs["geometry"]["conv1.weight"], runs["geometry-masked"]["conv1.weight"])
    assert load_config(out / "geometry-pose" / "config.yaml") == row_config(SMALL, ROWS[1])
    assert not (out / "frames").exists()


def test_the_table_is_what_was_measured(finished: tuple[Path, Path]) -> None:
    _, out = finished
    rows = json.loads((out / "ablation.json").read_text())["rows"]
    assert (out / "ablation.md").read_text() == table(rows)
    lines = table(rows).splitlines()
    assert len(lines) == 8
    for row, line in zip(rows, lines[2:], strict=True):
        measured = json.loads((out / _name(row) / "test.json").read_text())
        assert measured["one_solve"]["frames"] == 3
        solve = measured["one_solve"]
        assert f"{100 * solve['median_position_m']:.1f} cm / {solve['median_rotation_deg']:.2f}°" in line
        assert line.count("✓") == sum(row[switch] for switch in SWITCHES)


def _name(row: dict[str, bool]) -> str:
    return ablation.Row(*(row[switch] for switch in SWITCHES)).name


def test_what_is_finished_is_kept(finished: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    room, out = finished
    before = {path: path.read_bytes() for path in out.glob("*/*") if path.is_file()}
    table_before = (out / "ablation.json").read_text()

    def never(*_: object, **__: object) -> None:
        raise AssertionError("trained or measured again")

    monkeypatch.setattr(ablation, "evaluate_frames", never)
    monkeypatch.setattr(ablation, "train", never)
    ablate(SMALL, room, out)
    assert {path: path.read_bytes() for path in out.glob("*/*") if path.is_file()} == before
    assert (out / "ablation.json").read_text() == table_before


def test_rows_of_another_configuration_are_refused(finished: tuple[Path, Path]) -> None:
    room, out = finished
    before = (out / "ablation.json").read_text()
    with pytest.raises(ConfigError, match="expected .*geometry to hold a run with this configuration"):
        ablate(dataclasses.replace(SMALL, seed=1), room, out)
    assert (out / "ablation.json").read_text() == before


def test_a_median_over_failures_is_said() -> None:
    lost = {"median_position_m": None, "median_rotation_deg": None, "within_10cm_5deg": 0.25}
    row = dataclasses.asdict(ROWS[3]) | {"one_solve": lost, "robust": lost}
    assert table([row]).splitlines()[2] == "| ✓ | ✓ |  | no pose | 25 % | no pose | 25 % |"
