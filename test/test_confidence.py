"""The probability that a pose is right: its features of any estimate, its formula, and its file form."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from structpose_ros.alignment import AlignmentOptions, PoseEstimate, align
from structpose_ros.confidence import FEATURES, ConfidenceModel, features, logistic
from structpose_ros.contract import ModelFileError, from_json
from structpose_ros.geometry import rotation_from_vector, transform, transform_points

COUNT = len(FEATURES)
MODEL = ConfidenceModel(
    names=FEATURES,
    mean=tuple(float(number) for number in range(COUNT)),
    scale=(2.0,) * COUNT,
    coefficients=tuple(0.5 * (-1.0) ** number for number in range(COUNT)),
    intercept=0.25,
    threshold=0.5,
)
ESTIMATE = PoseEstimate(
    map_from_camera=np.eye(4),
    residuals=np.array([0.1, 0.1, 0.1, 0.3]),
    weights=np.array([1.0, 1.0, 1.0, 0.5]),
    inlier_ratio=0.75,
    effective_points=3.5**2 / 3.25,
    singular_values=np.array([2.0, 1.0, 0.5]),
    covariance=np.diag([1e-4, 2e-4, 1e-4, 4e-6, 4e-6, 8e-6]),
)


def named(estimate: PoseEstimate, outside: float = 0.0) -> dict[str, float]:
    return dict(zip(FEATURES, features(estimate, outside).tolist(), strict=True))


def test_features_by_hand() -> None:
    root_mean_square = math.sqrt((3 * 0.1**2 + 0.5 * 0.3**2) / 3.5)
    expected = {
        "log_effective_points": math.log(3.5**2 / 3.25),
        "inlier_ratio": 0.75,
        "log_median_residual": math.log(0.1),
        "log_residual_tail": math.log(root_mean_square / 0.1),
        "log_total_weight": math.log(3.5),
        "log_first_singular_value": math.log(2.0),
        "log_third_singular_value": math.log(0.5),
        "log_position_deviation": math.log(0.02),
        "log_rotation_deviation": math.log(0.004),
        "log_outside_map": math.log(3.0),
    }
    assert named(ESTIMATE, 2.0) == pytest.approx(expected, rel=1e-12)
    assert named(ESTIMATE)["log_outside_map"] == 0.0


def test_features_follow_the_noise_of_the_points() -> None:
    """Ten times the noise is ten times the residual and the deviations, and nothing else."""
    rng = np.random.default_rng(0)
    points = rng.uniform([-1.5, -1.0, 1.0], [1.5, 1.0, 4.0], size=(4000, 3))
    noise = rng.normal(size=(4000, 3))
    some, more = (
        named(align(points, points + scale * noise, np.ones(4000), AlignmentOptions(robust_rounds=0)))  # type: ignore[arg-type]
        for scale in (0.002, 0.02)
    )
    for name in ("log_median_residual", "log_position_deviation", "log_rotation_deviation"):
        assert more[name] - some[name] == pytest.approx(math.log(10), abs=0.03)
    for name in ("log_effective_points", "log_total_weight", "log_residual_tail"):
        assert more[name] == pytest.approx(some[name], abs=0.03)
    # Isotropic residuals of three dimensions: root mean square 1.732 and median 1.538 standard deviations.
    assert some["log_residual_tail"] == pytest.approx(math.log(1.732 / 1.538), abs=0.03)


def test_weights_count_by_their_size() -> None:
    """Weights a tenth as large say that the image matches the map less, and nothing else."""
    weaker = replace(ESTIMATE, weights=0.1 * ESTIMATE.weights)
    difference = features(weaker, 0.0) - features(ESTIMATE, 0.0)
    expected = [math.log(0.1) if name == "log_total_weight" else 0.0 for name in FEATURES]
    np.testing.assert_allclose(difference, expected, atol=1e-12)


@given(
    seed=st.integers(0, 2**32 - 1),
    count=st.integers(6, 40),
    magnitude=st.floats(-6, 6),
    noise=st.floats(-12, 3),
    weight=st.floats(-30, 3),
    flat=st.booleans(),
    robust_rounds=st.sampled_from([0, 5]),
    outside=st.floats(0, 1e12),
)
@settings(deadline=None)
def test_of_any_pose_solved_the_features_are_finite_and_the_probability_is_one(
    seed: int,
    count: int,
    magnitude: float,
    noise: float,
    weight: float,
    flat: bool,
    robust_rounds: int,
    outside: float,
) -> None:
    rng = np.random.default_rng(seed)
    points = 10**magnitude * rng.normal(size=(count, 3)) * [1.0, 1.0, 0.0 if flat else 1.0]
    map_from_camera = transform(rotation_from_vector(rng.normal(size=3)), rng.normal(size=3))
    seen = transform_points(map_from_camera, points) + 10**noise * rng.normal(size=(count, 3))
    weights = 10**weight * rng.uniform(0.1, 1.0, size=count)
    outcome = align(points, seen, weights, AlignmentOptions(robust_rounds=robust_rounds))
    if not isinstance(outcome, PoseEstimate):
        return
    values = features(outcome, outside)
    assert values.shape == (COUNT,)
    assert np.isfinite(values).all()
    assert 0.0 <= MODEL.probability(values) <= 1.0


@given(st.lists(st.floats(allow_nan=True, allow_infinity=True), min_size=12, max_size=12))
def test_no_estimate_whatever_it_holds_gives_features_that_are_not_finite(values: list[float]) -> None:
    made = PoseEstimate(
        map_from_camera=np.eye(4),
        residuals=np.abs(values[:3]),
        weights=np.abs(values[3:6]),
        inlier_ratio=values[6],
        effective_points=values[7],
        singular_values=np.array(values[8:11]),
        covariance=np.full((6, 6), values[11]),
    )
    found = features(made, values[0])
    assert np.isfinite(found).all()
    assert 0.0 <= MODEL.probability(found) <= 1.0


def test_what_is_not_a_number_counts_as_the_worst() -> None:
    worst = named(
        replace(
            ESTIMATE,
            inlier_ratio=math.nan,
            effective_points=math.nan,
            covariance=np.full((6, 6), math.nan),
            singular_values=np.full(3, math.nan),
        ),
        math.nan,
    )
    assert worst["inlier_ratio"] == 0.0
    for name in ("log_effective_points", "log_first_singular_value", "log_third_singular_value"):
        assert worst[name] == math.log(1e-9)
    for name in ("log_position_deviation", "log_rotation_deviation"):
        assert worst[name] == math.log(1e9)
    assert worst["log_outside_map"] == pytest.approx(math.log(1e9))


def test_probability_by_hand() -> None:
    at_mean = np.array(MODEL.mean)
    assert MODEL.probability(at_mean) == pytest.approx(1 / (1 + math.exp(-0.25)))
    step = at_mean + np.eye(COUNT)[0] * 3.0  # 1.5 standard deviations of the first feature
    assert MODEL.probability(step) == pytest.approx(1 / (1 + math.exp(-(0.25 + 0.75))))
    both = MODEL.probabilities(np.stack([at_mean, step]))
    assert both.tolist() == pytest.approx([MODEL.probability(at_mean), MODEL.probability(step)], rel=1e-14)


def test_what_was_never_seen_does_not_decide_alone() -> None:
    far, further = (np.array(MODEL.mean) + np.eye(COUNT)[0] * reach for reach in (12.0, 1e300))
    assert MODEL.probability(far) == MODEL.probability(further) == pytest.approx(1 / (1 + math.exp(-3.25)))


def test_log_odds_of_any_size_give_a_probability() -> None:
    assert logistic(np.array([-np.inf, -800.0, 0.0, 800.0, np.inf])).tolist() == [0.0, 0.0, 0.5, 1.0, 1.0]


def test_a_model_file_holds_it_to_the_last_digit() -> None:
    model = replace(MODEL, mean=tuple(math.pi * number for number in range(COUNT)), intercept=1 / 3)
    assert from_json(ConfidenceModel, json.loads(json.dumps(asdict(model))), "confidence") == model


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"names": FEATURES[::-1]}, "expected the features log_effective_points, .*, got log_outside_map, "),
        ({"names": FEATURES[:-1]}, "expected the features"),
        ({"mean": (0.0,)}, rf"mean: expected {COUNT} finite numbers, got \[0.0\]"),
        ({"scale": (1.0,) * (COUNT + 1)}, f"scale: expected {COUNT} finite numbers"),
        ({"coefficients": (math.nan,) * COUNT}, f"coefficients: expected {COUNT} finite numbers"),
        ({"mean": (math.inf,) * COUNT}, f"mean: expected {COUNT} finite numbers"),
        ({"scale": (0.0,) * COUNT}, "scale: expected numbers above 0, got "),
        ({"coefficients": (1e7,) * COUNT}, r"expected coefficients and an intercept within \+-1e\+06, got "),
        ({"intercept": math.nan}, "expected coefficients and an intercept within"),
        ({"threshold": 1.1}, "threshold: expected 0 .. 1, got 1.1"),
        ({"threshold": -0.1}, "threshold: expected 0 .. 1, got -0.1"),
        ({"threshold": math.nan}, "threshold: expected 0 .. 1, got nan"),
    ],
)
def test_an_unusable_model_can_be_neither_made_nor_read(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(MODEL, **changes)
    with pytest.raises(ValueError, match=message):
        from_json(
            ConfidenceModel, {**json.loads(json.dumps(asdict(MODEL))), **_listed(changes)}, "confidence"
        )


def _listed(changes: dict[str, Any]) -> dict[str, Any]:
    return {name: list(value) if isinstance(value, tuple) else value for name, value in changes.items()}


def test_a_field_of_another_type_is_refused() -> None:
    content = {**json.loads(json.dumps(asdict(MODEL))), "mean": ["a"] * COUNT}
    with pytest.raises(ModelFileError, match=r"confidence.mean\[0\] = 'a', which is no float"):
        from_json(ConfidenceModel, content, "confidence")
