"""Each part of a map of landmarks left out alone: which rows there are, and that they do what they say."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from landmark_files import landmark_config, textured_room, write_landmark_recording, write_weights

from structpose_ros.alignment import AlignmentOptions
from structpose_ros.cli import main
from structpose_ros.network import OnnxNetwork
from structpose_ros.resources import share_path
from structpose_ros.training import landmark_ablation
from structpose_ros.training.config import LandmarkConfig, load_config
from structpose_ros.training.landmark_ablation import ablate_landmarks, rows_of, table


def test_every_part_that_a_configuration_has_is_left_out_once() -> None:
    shipped = load_config(share_path("config/training/landmarks.yaml"))
    rows = rows_of(shipped.landmarks, shipped.alignment)
    assert [row.name for row in rows] == [
        "nothing left out",
        "lens as calibrated",
        "a quarter of the landmarks",
        "landmarks drawn by their score alone",
        "landmarks at edges of the depth, too",
        "all matches weigh the same",
        "robust rounds in place of the consensus",
        "one solve, neither consensus nor robust rounds",
        "Gauss-Newton at its last scale from the start",
        "Gauss-Newton by angles from the start",
        "no Gauss-Newton",
    ]
    for row in rows:
        landmarks = dataclasses.replace(shipped.landmarks, **row.landmarks)
        alignment = dataclasses.replace(shipped.alignment, **row.alignment)
        same = (landmarks, alignment) == (shipped.landmarks, shipped.alignment) and not row.constants
        assert same == (row.name == "nothing left out")
    runs = {row.run: row.landmarks for row in rows}
    assert all(runs[row.run] == row.landmarks for row in rows)  # rows of one run share its map

    plain = rows_of(LandmarkConfig(refine_lens=False), AlignmentOptions(robust_rounds=0))
    assert [row.name for row in plain] == [
        "nothing left out",
        "a quarter of the landmarks",
        "landmarks drawn by their score alone",
        "landmarks at edges of the depth, too",
        "all matches weigh the same",
    ]


def test_constants_are_changed_for_a_row_alone() -> None:
    shipped = load_config(share_path("config/training/landmarks.yaml"))
    changed = [row for row in rows_of(shipped.landmarks, shipped.alignment) if row.constants]
    assert len(changed) == 3
    for row in changed:
        for module, name, value in row.constants:
            before = getattr(module, name)
            with row.in_force():
                assert getattr(module, name) == value != before
            assert getattr(module, name) == before


def test_rows_are_measured_with_what_they_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with textured_room():
        room = write_landmark_recording(tmp_path / "room")
        config = landmark_config(write_weights(tmp_path / "xfeat.pt"))
        seen: list[tuple[str, AlignmentOptions]] = []
        measure = landmark_ablation._measure

        def noted(network: OnnxNetwork, alignment: AlignmentOptions, *rest: object) -> dict[str, object]:
            seen.append((network.sha256, alignment))
            return measure(network, alignment, *rest)

        monkeypatch.setattr(landmark_ablation, "_measure", noted)
        rows = ablate_landmarks(config, room, tmp_path / "out")
    expected = rows_of(config.landmarks, config.alignment)
    assert [row["without"] for row in rows] == [row.name for row in expected]
    assert [alignment for _, alignment in seen] == [
        dataclasses.replace(config.alignment, **row.alignment) for row in expected
    ]
    models = {(row.run, digest) for row, (digest, _) in zip(expected, seen, strict=True)}
    assert len(models) == len({row.run for row in expected}) == len({digest for _, digest in models})
    assert rows[0]["frames"] == 2 and rows[0]["median_position_m"] < 0.01

    content = json.loads((tmp_path / "out" / "ablation.json").read_text())
    assert content == {"dataset": "room", "split": "test", "rows": rows}
    text = (tmp_path / "out" / "ablation.md").read_text()
    assert text == table(rows)
    assert len(text.splitlines()) == 2 + len(rows)
    assert f"| nothing left out | {100 * rows[0]['median_position_m']:.1f} cm / " in text
    assert not (tmp_path / "out" / "map" / "frames").exists()


def test_the_command_takes_both_methods(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(
        landmark_ablation, "ablate_landmarks", lambda *given, **options: asked.append((given, options)) or []
    )
    path = share_path("config/training/landmarks.yaml")
    assert main(["ablate", str(path), "--data", "DATA", "--out", str(tmp_path), "--split", "train"]) == 0
    assert asked == [
        ((load_config(path), Path("DATA"), tmp_path), {"split": "train", "skip_bad": False}),
    ]


def test_rows_without_a_pose_are_said() -> None:
    lost = {
        "without": "everything",
        "median_position_m": None,
        "median_rotation_deg": None,
        "within_5cm_5deg": 0.0,
        "within_10cm_5deg": 0.25,
    }
    assert table([lost]).splitlines()[2] == "| everything | no pose | 0 % | 25 % |"
