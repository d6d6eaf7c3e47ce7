"""Fitting a confidence: a true probability is built and recovered, and thresholds keep what they promise."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from structpose_ros.confidence import FEATURES, ConfidenceModel, logistic
from structpose_ros.contract import from_json
from structpose_ros.training.confidence_fit import (
    ReliabilityBin,
    calibration_error,
    choose_threshold,
    fit_confidence,
    held_out_probabilities,
    reliability,
)
from structpose_ros.training.metrics import risk_coverage

COUNT = len(FEATURES)
MEAN, SCALE = np.linspace(-3.0, 3.0, COUNT), np.geomspace(0.1, 5.0, COUNT)
COEFFICIENTS = np.array([1.5, -1.0, 0.0, 0.8, 0.0, 0.0, -0.5, 0.0, 0.0, 0.3])
INTERCEPT = 0.7


def drawn(count: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return features (N, F), the true probability (N,) of each frame, and whether it came out good (N,)."""
    random = np.random.default_rng(seed)
    standard = random.normal(size=(count, COUNT))
    true = logistic(standard @ COEFFICIENTS + INTERCEPT)
    return MEAN + SCALE * standard, true, random.random(count) < true


def never(flags: np.ndarray) -> np.ndarray:
    return np.zeros(len(flags), dtype=bool)


def test_the_true_coefficients_are_recovered() -> None:
    x, _, good = drawn(6000, 0)
    model = fit_confidence(x, good, never(good))
    np.testing.assert_allclose(model.mean, MEAN, atol=0.05 * SCALE.max())
    np.testing.assert_allclose(model.scale, SCALE, rtol=0.05)
    # The standard error of a coefficient is 0.04 here.
    np.testing.assert_allclose(model.coefficients, COEFFICIENTS, atol=0.13)
    assert model.intercept == pytest.approx(INTERCEPT, abs=0.13)


@pytest.mark.parametrize("count", [200, 1000])
def test_frames_of_another_day_find_the_probability_calibrated(count: int) -> None:
    x, _, good = drawn(count, 1)
    model = fit_confidence(x, good, never(good))
    unseen, true, came_good = drawn(20_000, 2)
    p = model.probabilities(unseen)
    # By the Fisher information 0.8 sqrt(11 p (1 - p) / N), 1.2 / sqrt(N) here, is to be expected.
    assert np.abs(p - true).mean() < 1.8 / math.sqrt(count)
    table = reliability(p, came_good)
    assert sum(row.frames for row in table) == len(unseen)
    assert calibration_error(table) < 1.0 / math.sqrt(count)
    assert risk_coverage(p, ~came_good).area < risk_coverage(true, ~came_good).area + 0.02


def test_few_frames_are_not_taken_for_more_than_they_are() -> None:
    """Features that say nothing get next to no say, also where chance favours them in 30 frames."""
    random = np.random.default_rng(3)
    good = np.arange(30) % 3 > 0
    spread = []
    for _ in range(10):
        model = fit_confidence(random.normal(size=(30, COUNT)), good, never(good))
        spread.append(model.probabilities(random.normal(size=(500, COUNT))).std())
    assert np.median(spread) < 0.06


def test_the_same_frames_give_the_same_model_and_it_survives_a_file() -> None:
    x, _, good = drawn(300, 4)
    model = fit_confidence(x, good, never(good))
    assert fit_confidence(x.copy(), good.copy(), never(good)) == model
    assert from_json(ConfidenceModel, json.loads(json.dumps(asdict(model))), "confidence") == model


def test_separable_frames_are_told_apart_and_nothing_diverges() -> None:
    random = np.random.default_rng(5)
    x = random.normal(size=(200, COUNT))
    x[:, 0] += np.where(np.arange(200) < 80, 20.0, -20.0)
    good = np.arange(200) < 80
    model = fit_confidence(x, good, ~good, groups=np.arange(200) % 4)
    p = model.probabilities(x)
    assert p[good].min() > 0.9
    assert p[~good].max() < 0.1
    assert np.abs(model.coefficients).max() < 10
    assert ((p >= model.threshold) == good).all()
    assert 0.4 < model.threshold < 0.6  # between the two, not at the edge of either


@pytest.mark.parametrize("count", [1, 2, 7, 100])
@pytest.mark.parametrize("outcome", [True, False])
def test_frames_all_alike_give_a_probability_by_their_number(count: int, outcome: bool) -> None:
    x = np.random.default_rng(6).normal(size=(count, COUNT))
    good = np.full(count, outcome)
    model = fit_confidence(x, good, ~good)
    expected = (count + 1) / (count + 2) if outcome else 1 / (count + 2)
    np.testing.assert_allclose(model.coefficients, 0.0, atol=1e-12)
    np.testing.assert_allclose(model.probabilities(10 * x), expected, rtol=1e-9)
    assert (model.probabilities(x) >= model.threshold).all() == outcome


def test_a_feature_that_never_changes_has_no_say() -> None:
    x, _, good = drawn(400, 7)
    x[:, 4] = 0.1
    model = fit_confidence(x, good, never(good))
    assert model.coefficients[4] == pytest.approx(0.0, abs=1e-9)
    assert model.scale[4] == 1.0
    other = x.copy()
    other[:, 4] = 5.0
    np.testing.assert_allclose(model.probabilities(other), model.probabilities(x), rtol=1e-6)


def test_foreign_frames_are_kept_out_and_do_not_cost_the_map_its_calibration() -> None:
    x, true, good = drawn(500, 8)
    random = np.random.default_rng(9)
    other = MEAN + SCALE * random.normal(size=(3000, COUNT))
    other[:, [0, 3]] = MEAN[[0, 3]] - SCALE[[0, 3]] * random.uniform(4.0, 8.0, size=(3000, 2))
    rows, flags = np.concatenate([x, other]), np.concatenate([good, np.zeros(3000, dtype=bool)])
    foreign = np.arange(3500) >= 500
    model = fit_confidence(rows, flags, never(flags), foreign)
    p = model.probabilities(rows)
    assert (p[foreign] >= model.threshold).mean() <= 0.0025
    assert (p[~foreign][good] >= model.threshold).mean() >= 0.95
    assert np.abs(p[~foreign] - true).mean() < 0.06
    assert p[~foreign].mean() == pytest.approx(good.mean(), abs=0.02)


def test_the_number_of_foreign_frames_changes_little() -> None:
    x, _, good = drawn(400, 10)
    foreign_x = drawn(2000, 11)[0] - 5.0 * SCALE * np.sign(COEFFICIENTS)
    p = []
    for count in (400, 2000):
        rows, flags = np.concatenate([x, foreign_x[:count]]), np.append(good, np.zeros(count, dtype=bool))
        foreign = np.arange(len(rows)) >= 400
        p.append(fit_confidence(rows, flags, never(flags), foreign).probabilities(x))
    assert np.abs(p[0] - p[1]).mean() < 0.02


def test_held_out_probabilities_have_not_seen_the_group() -> None:
    """Labels that only a memory of the frame could know are not known."""
    random = np.random.default_rng(12)
    x, good = random.normal(size=(60, COUNT)), random.random(60) < 0.5
    groups = np.arange(60) // 20
    p = held_out_probabilities(x, good, groups=groups)
    changed = good.copy()
    changed[:20] = ~changed[:20]
    # The first group's own labels have no part in its probabilities but by the choice of the penalty.
    assert abs(p[:20].mean() - held_out_probabilities(x, changed, groups=groups)[:20].mean()) < 0.02
    assert risk_coverage(p, ~good).area > 0.35


def test_one_group_alone_is_judged_by_itself() -> None:
    x, _, good = drawn(100, 13)
    together = np.zeros(100, dtype=int)
    model = fit_confidence(x, good, never(good), groups=together)
    np.testing.assert_array_equal(held_out_probabilities(x, good, groups=together), model.probabilities(x))


def test_the_threshold_keeps_gross_errors_to_a_hundredth() -> None:
    p = np.linspace(0.0, 1.0, 1001)
    gross = p < 0.2
    threshold = choose_threshold(p, ~gross, gross, never(gross))
    accepted = p >= threshold
    assert gross[accepted].mean() <= 0.01
    assert gross[p >= threshold - 0.0011].mean() > 0.01  # one frame more would be too many
    assert accepted[~gross].all()


def test_the_threshold_keeps_foreign_frames_out() -> None:
    p = np.concatenate([np.linspace(0.5, 1.0, 500), np.linspace(0.0, 0.4, 800)])
    foreign = np.arange(1300) >= 500
    threshold = choose_threshold(p, ~foreign, never(foreign), foreign)
    assert (p[foreign] >= threshold).sum() == 2  # 0.25 % of 800
    # Of ten no four hundredth part can be accepted: midway between the last one and the first of the map.
    few = np.concatenate([np.linspace(0.5, 1.0, 500), np.linspace(0.0, 0.4, 10)])
    is_foreign = np.arange(510) >= 500
    assert choose_threshold(few, ~is_foreign, never(few), is_foreign) == pytest.approx(0.45)


def test_gross_counts_for_frames_of_the_map_alone() -> None:
    p = np.concatenate([np.linspace(0.5, 1.0, 400), np.full(1, 0.9)])
    foreign = np.arange(401) >= 400
    assert choose_threshold(p, ~foreign, foreign, never(foreign)) == 0.0  # 1 of 401 is under a hundredth
    assert choose_threshold(p, ~foreign, foreign, foreign) > 0.5


def test_the_threshold_costs_at_most_a_twentieth_of_the_good_frames() -> None:
    p = np.linspace(0.0, 1.0, 1000)
    good = np.arange(1000) % 2 == 0  # as good as a coin
    threshold = choose_threshold(p, good, ~good, never(good))
    assert threshold == pytest.approx(0.05, abs=0.002)
    assert 0.95 <= (p[good] >= threshold).mean() < 0.955


def test_nothing_to_keep_out_is_no_threshold() -> None:
    p = np.linspace(0.1, 0.9, 50)
    assert choose_threshold(p, p > 0.5, never(p), never(p)) == 0.0


@given(st.integers(0, 2**32 - 1), st.integers(1, 60))
def test_the_threshold_is_safe_or_at_its_limit_on_any_frames(seed: int, count: int) -> None:
    random = np.random.default_rng(seed)
    p = np.round(random.random(count), 1)
    kind = random.integers(4, size=count)  # good, neither, gross, foreign
    good, gross, foreign = kind == 0, kind == 2, kind == 3
    threshold = choose_threshold(p, good, gross, foreign)
    accepted = p >= threshold
    assert 0.0 <= threshold <= 1.0
    assert accepted[good].sum() >= 0.95 * good.sum()
    safe = (accepted & gross).sum() <= 0.01 * (accepted & ~foreign).sum() and not accepted[foreign].any()
    if not safe:  # then the next higher one would refuse too many good frames
        higher = p > p[accepted].min()
        assert (higher & good).sum() < 0.95 * good.sum() or higher.sum() == 0


def test_reliability_by_hand() -> None:
    p, good = [0.05, 0.15, 0.1, 1.0, 0.95, 0.95], [False, False, True, True, True, False]
    table = reliability(p, good)
    assert [(row.low, row.high, row.frames) for row in table] == [
        (0.0, pytest.approx(0.1), 1),
        (pytest.approx(0.1), pytest.approx(0.2), 2),
        (pytest.approx(0.9), 1.0, 3),
    ]
    assert [row.probability for row in table] == pytest.approx([0.05, 0.125, 2.9 / 3])
    assert [row.good for row in table] == pytest.approx([0.0, 0.5, 2 / 3])
    assert calibration_error(table) == pytest.approx((0.05 + 2 * 0.375 + 3 * 0.3) / 6)
    assert reliability(p, good, bins=1) == [
        ReliabilityBin(0.0, 1.0, 6, pytest.approx(3.2 / 6), pytest.approx(0.5))
    ]
    assert reliability([], []) == []
    assert calibration_error([]) == 0.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"features": np.zeros((0, COUNT))}, rf"expected features \(N, {COUNT}\) of at least one frame, got"),
        ({"features": np.zeros((3, 2))}, r"got \(3, 2\)"),
        ({"features": np.full((3, COUNT), np.nan)}, f"expected finite features, got {3 * COUNT} others"),
        ({"good": [True]}, r"good: expected one value for each of 3 frames, got \(1,\)"),
        ({"gross": [True] * 4}, r"gross: expected one value for each of 3 frames"),
        ({"foreign": [[True]]}, r"foreign: expected one value for each of 3 frames"),
        ({"groups": [1, 2]}, r"groups: expected one value for each of 3 frames"),
        ({"gross": [True, False, False]}, "expected no good frame to be gross or foreign, got 1 that are"),
        ({"foreign": [True, True, True]}, "expected no good frame to be gross or foreign, got 2 that are"),
    ],
)
def test_frames_that_do_not_fit_are_refused(arguments: dict[str, Any], message: str) -> None:
    given_frames = {"features": np.zeros((3, COUNT)), "good": [True, True, False], "gross": [False] * 3}
    with pytest.raises(ValueError, match=message):
        fit_confidence(**{**given_frames, **arguments})
