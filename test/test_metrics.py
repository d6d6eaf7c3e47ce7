"""Numbers that outcomes come to, by hand and in closed form."""

from __future__ import annotations

import dataclasses
import json
import math
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from structpose_ros.training.metrics import (
    percentiles,
    risk_coverage,
    risk_coverage_of,
    summarize,
    write_metrics,
)
from structpose_ros.training.outcomes import Outcome


def outcome(position_m: float, rotation_deg: float, accepted: bool = True) -> Outcome:
    return Outcome(
        "f", accepted, "" if accepted else "low_inlier_ratio", 0.5, position_m, rotation_deg, np.eye(4)
    )


def test_metrics_by_hand() -> None:
    outcomes = [
        outcome(0.01, 1.0),
        outcome(0.04, 6.0),
        outcome(0.08, 2.0),
        outcome(0.20, 3.0, accepted=False),
        outcome(math.inf, math.inf, accepted=False),
    ]
    metrics = summarize(outcomes)
    assert metrics["frames"] == 5
    assert metrics["accepted"] == 3
    assert metrics["median_position_m"] == 0.08
    assert metrics["median_rotation_deg"] == 3.0
    assert metrics["mean_position_m"] is None  # one failure makes a mean infinite
    assert metrics["within_5cm_5deg"] == 0.2
    assert metrics["within_10cm_5deg"] == 0.4
    assert metrics["accepted_median_position_m"] == 0.04
    assert metrics["accepted_mean_rotation_deg"] == 3.0
    assert metrics["accepted_within_5cm_5deg"] == pytest.approx(1 / 3)
    assert metrics["rejected"] == {"low_inlier_ratio": 2}


def test_mostly_failures_have_no_median() -> None:
    metrics = summarize([outcome(math.inf, math.inf, False)] * 2 + [outcome(0.1, 1.0)])
    assert metrics["median_position_m"] is None
    assert metrics["accepted_median_position_m"] == 0.1
    json.dumps(metrics, allow_nan=False)
    assert summarize([outcome(math.inf, math.inf, False)])["accepted_median_position_m"] is None


def test_percentiles() -> None:
    assert percentiles(list(range(101))) == {"p50": 50.0, "p95": 95.0, "p99": 99.0}
    assert percentiles([]) == {"p50": None, "p95": None, "p99": None}


def test_what_the_gate_and_the_covariance_are_worth() -> None:
    found = [
        dataclasses.replace(outcome(0.05, 1.0), nees=4.0),
        dataclasses.replace(outcome(0.09, 4.0), nees=12.5),
        dataclasses.replace(outcome(0.20, 1.0), nees=12.7),  # neither right nor wrong
        dataclasses.replace(outcome(0.05, 11.0), nees=400.0),
        outcome(0.26, 1.0),  # no covariance
        dataclasses.replace(outcome(0.05, 1.0, accepted=False), nees=1e6),
        outcome(math.inf, math.inf, accepted=False),
    ]
    metrics = summarize(found)
    assert metrics["false_accept"] == 2 / 5
    assert metrics["true_accept"] == 2 / 3
    assert metrics["mean_nees"] == pytest.approx((4.0 + 12.5 + 12.7 + 400.0) / 4)
    assert metrics["ellipsoid95_coverage"] == 2 / 4
    nothing = summarize([outcome(math.inf, math.inf, accepted=False)])
    assert [nothing[key] for key in ("false_accept", "true_accept", "mean_nees")] == [None] * 3
    assert nothing["ellipsoid95_coverage"] is None


@given(st.lists(st.booleans(), min_size=1, max_size=40))
def test_risk_of_a_constant_confidence_is_that_of_all_frames(wrong: list[bool]) -> None:
    curve = risk_coverage(np.full(len(wrong), 0.3), wrong)
    np.testing.assert_allclose(curve.risk, np.mean(wrong))
    assert curve.area == pytest.approx(np.mean(wrong))
    np.testing.assert_allclose(curve.coverage, np.arange(1, len(wrong) + 1) / len(wrong))


@given(st.integers(1, 30), st.integers(0, 30))
def test_risk_of_a_perfect_confidence(good: int, bad: int) -> None:
    wrong = np.array([False] * good + [True] * bad)
    curve = risk_coverage(np.linspace(1, 0, good + bad), wrong)
    expected = [max(0, taken - good) / taken for taken in range(1, good + bad + 1)]
    np.testing.assert_allclose(curve.risk, expected)
    assert curve.area == pytest.approx(np.mean(expected))
    assert curve.risk[-1] == pytest.approx(bad / (good + bad))


@given(st.lists(st.tuples(st.integers(0, 4), st.booleans()), min_size=1, max_size=6))
def test_ties_count_as_in_every_order(frames: list[tuple[int, bool]]) -> None:
    """The mean curve over all orders of the frames that keep confidence descending."""
    curves = [
        np.cumsum([wrong for _, wrong in order]) / np.arange(1, len(order) + 1)
        for order in permutations(frames)
        if all(a[0] >= b[0] for a, b in zip(order, order[1:], strict=False))
    ]
    confidence, wrong = zip(*frames, strict=True)
    np.testing.assert_allclose(risk_coverage(confidence, wrong).risk, np.mean(curves, axis=0))


def test_rejected_frames_come_last_and_the_oracle_is_no_worse() -> None:
    found = [
        dataclasses.replace(outcome(0.02, 1.0), confidence=0.9),
        dataclasses.replace(outcome(0.50, 1.0), confidence=0.6),
        dataclasses.replace(outcome(0.08, 4.9), confidence=0.8),
        dataclasses.replace(outcome(0.02, 1.0, accepted=False), confidence=0.0),
        dataclasses.replace(outcome(0.02, 6.0), confidence=0.95),
    ]
    curve, oracle = risk_coverage_of(found)
    np.testing.assert_allclose(curve.risk, [1, 1 / 2, 1 / 3, 2 / 4, 2 / 5])
    np.testing.assert_allclose(oracle.risk, [0, 0, 0, 1 / 4, 2 / 5])
    assert curve.area == pytest.approx((1 + 1 / 2 + 1 / 3 + 1 / 2 + 2 / 5) / 5)


def test_metrics_files_are_strict_json(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_metrics(tmp_path / "metrics.json", {"median_position_m": math.inf})
    assert not list(tmp_path.iterdir())
