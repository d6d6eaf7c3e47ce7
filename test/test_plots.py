"""Figures: what is drawn, and which way up."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pictures import colors
from recordings import pose

from structpose_ros.geometry import orthonormalize, transform
from structpose_ros.map_cloud import MapCloud
from structpose_ros.training import overview, plots
from structpose_ros.training.outcomes import Outcome, outcome_of_pose


def outcomes(count: int, spread: float = 0.1) -> list[Outcome]:
    random = np.random.default_rng(3)
    found = []
    for index in range(count):
        true = pose(*random.uniform(-1, 1, 3))
        estimate = transform(true[:3, :3], true[:3, 3] + random.normal(0, spread, 3))
        found.append(outcome_of_pose(f"f{index}", estimate if index % 4 else None, true, confidence=0.5))
    return found


@pytest.mark.parametrize("count", [1, 12])
@pytest.mark.parametrize("with_cloud", [False, True])
def test_map(count: int, with_cloud: bool, tmp_path: Path) -> None:
    points = np.random.default_rng(0).uniform(-2, 2, (200, 3)).astype(np.float32)
    cloud = MapCloud(points, np.zeros((200, 3), np.uint8)) if with_cloud else None
    overview.from_above(tmp_path / "map.png", outcomes(count), cloud)
    assert colors(tmp_path / "map.png") > 20


@pytest.mark.parametrize("axis", range(3))
@pytest.mark.parametrize("sign", [-1, 1])
def test_the_map_is_seen_from_above_and_not_mirrored(axis: int, sign: int) -> None:
    up = np.full(3, 0.2)
    up[axis] = sign
    forward = np.cross(up, [0.3, -0.5, 0.7])
    rotation = orthonormalize(np.stack([np.cross(-up, forward), -up, forward], axis=1))
    found = outcome_of_pose("f", None, transform(rotation, np.zeros(3)))
    right, ahead, told = overview.view_from_above([found])
    assert {right, ahead, axis} == {0, 1, 2}
    assert told == sign
    out_of_the_picture = np.cross(np.eye(3)[right], np.eye(3)[ahead])
    np.testing.assert_array_equal(out_of_the_picture, sign * np.eye(3)[axis])


def test_cumulative_errors_of_many_methods(tmp_path: Path) -> None:
    methods = {f"method {index}": outcomes(9, 0.05 * (index + 1)) for index in range(12)}
    plots.cumulative_errors(tmp_path / "cumulative.png", methods)
    assert colors(tmp_path / "cumulative.png") > 100


def test_risk_and_coverage(tmp_path: Path) -> None:
    for index, found in enumerate((outcomes(1), outcomes(20), outcomes(20, 0.0))):
        plots.risk_coverage(tmp_path / f"{index}.png", found)
        assert colors(tmp_path / f"{index}.png") > 20
