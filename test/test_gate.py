"""The gate: each reason for its cause alone, and the exact bounds."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from model_files import contract

from structpose_ros import gate
from structpose_ros.alignment import AlignmentFailure, Attempt, PoseEstimate
from structpose_ros.confidence import FEATURES, ConfidenceModel, features
from structpose_ros.contract import ModelContract
from structpose_ros.gate import (
    Decision,
    GateOptions,
    Prior,
    RejectReason,
    judge,
    prior_disagreement,
    weighted_median_residual,
)
from structpose_ros.geometry import rotation_from_vector, transform

CONTRACT = contract(map_min=(-1.0, -2.0, 0.0), map_max=(4.0, 3.0, 2.0))
OPTIONS = GateOptions(min_inlier_ratio=0.5, max_residual=0.25, map_margin=1.0)
GOOD = PoseEstimate(
    map_from_camera=np.eye(4),
    residuals=np.full(4, 0.1),
    weights=np.ones(4),
    inlier_ratio=0.8,
    effective_points=4.0,
    singular_values=np.array([3.0, 2.0, 1.0]),
    covariance=np.eye(6),
)


def judged(
    outcome: PoseEstimate | AlignmentFailure, contract: ModelContract, options: GateOptions
) -> Decision:
    """Judge an estimate, or a failure that left none."""
    if isinstance(outcome, AlignmentFailure):
        return judge(Attempt(outcome, None), contract, options)
    return judge(Attempt(None, outcome), contract, options)


def test_a_failure_is_one_however_good_its_estimate_looks() -> None:
    for described in (CONTRACT, CALIBRATED):
        for failure in AlignmentFailure:
            decision = judge(Attempt(failure, GOOD), described, OPTIONS)
            assert decision.reject_reason is RejectReason[failure.name]
            assert decision.confidence == 0.0
            assert decision.detail == f"alignment failed: {failure.value}"


def test_the_confidence_of_a_failure_is_computed_like_any_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """A frame takes as long whatever the camera sees."""
    seen: list[PoseEstimate] = []

    def counted(estimate: PoseEstimate, outside: float) -> np.ndarray:
        seen.append(estimate)
        return features(estimate, outside)

    monkeypatch.setattr(gate, "features", counted)
    judge(Attempt(None, GOOD), CALIBRATED, OPTIONS)
    judge(Attempt(AlignmentFailure.COLLINEAR, GOOD), CALIBRATED, OPTIONS)
    assert [estimate is GOOD for estimate in seen] == [True, True]
    judge(Attempt(AlignmentFailure.NON_FINITE, None), CALIBRATED, OPTIONS)
    assert len(seen) == 2


def test_a_good_estimate_is_accepted_with_its_inlier_ratio_as_confidence() -> None:
    decision = judged(GOOD, CONTRACT, OPTIONS)
    assert decision.accepted
    assert decision.reject_reason is None
    assert decision.confidence == 0.8
    assert decision.detail == ""


@pytest.mark.parametrize("failure", AlignmentFailure)
def test_every_failure_of_the_alignment_is_a_reason_of_the_same_name(failure: AlignmentFailure) -> None:
    decision = judged(failure, CONTRACT, OPTIONS)
    assert not decision.accepted
    assert decision.reject_reason is RejectReason[failure.name]
    assert decision.confidence == 0.0
    assert decision.detail == f"alignment failed: {failure.value}"


def test_the_inlier_ratio_may_be_at_its_bound() -> None:
    assert judged(replace(GOOD, inlier_ratio=0.5), CONTRACT, OPTIONS).accepted
    decision = judged(replace(GOOD, inlier_ratio=0.49), CONTRACT, OPTIONS)
    assert decision.reject_reason is RejectReason.LOW_INLIER_RATIO
    assert decision.confidence == 0.0
    assert decision.detail == "inlier ratio 0.49, expected at least 0.50"


def test_the_median_residual_may_be_at_its_bound() -> None:
    assert judged(replace(GOOD, residuals=np.full(4, 0.25)), CONTRACT, OPTIONS).accepted
    decision = judged(replace(GOOD, residuals=np.full(4, 0.251)), CONTRACT, OPTIONS)
    assert decision.reject_reason is RejectReason.HIGH_RESIDUAL
    assert decision.confidence == 0.0
    assert decision.detail == "median residual 0.251 m, expected at most 0.250 m"


def test_the_median_residual_is_that_of_the_weight() -> None:
    residuals = np.array([9.0, 0.3, 0.1, 0.2])
    assert weighted_median_residual(replace(GOOD, residuals=residuals)) == 0.2
    light = np.array([0.0, 1.0, 0.4, 0.5])
    assert weighted_median_residual(replace(GOOD, residuals=residuals, weights=light)) == 0.3
    decision = judged(replace(GOOD, residuals=residuals, weights=light), CONTRACT, OPTIONS)
    assert decision.reject_reason is RejectReason.HIGH_RESIDUAL


@pytest.mark.parametrize("axis", range(3))
@pytest.mark.parametrize("side", [-1, 1])
def test_the_camera_may_stand_on_the_border_of_the_margin(axis: int, side: int) -> None:
    border = (CONTRACT.map_min if side < 0 else CONTRACT.map_max)[axis] + side * 1.0
    map_from_camera = np.eye(4)
    map_from_camera[axis, 3] = border
    assert judged(replace(GOOD, map_from_camera=map_from_camera), CONTRACT, OPTIONS).accepted
    map_from_camera[axis, 3] += side * 0.01
    decision = judged(replace(GOOD, map_from_camera=map_from_camera), CONTRACT, OPTIONS)
    assert decision.reject_reason is RejectReason.OUTSIDE_MAP
    assert decision.confidence == 0.0
    at = np.round(map_from_camera[:3, 3], 2).tolist()
    assert decision.detail == f"position {at} m, expected within [-2.0, -3.0, -1.0] .. [5.0, 4.0, 3.0] m"


def test_the_place_outside_the_map_is_told_in_centimetres() -> None:
    decision = judged(replace(GOOD, map_from_camera=placed(x=7.123456)), CONTRACT, OPTIONS)
    assert decision.detail.startswith("position [7.12, 0.0, 0.0] m, expected within ")


def test_the_margin_may_be_nothing() -> None:
    for margin in (0.0, 0.5):
        options = replace(OPTIONS, map_margin=margin)
        assert judged(replace(GOOD, map_from_camera=placed(x=4.0 + margin)), CONTRACT, options).accepted
        assert not judged(replace(GOOD, map_from_camera=placed(x=4.01 + margin)), CONTRACT, options).accepted


def by(feature: str, coefficient: float, mean: float, threshold: float) -> ConfidenceModel:
    """Return a model whose log odds are coefficient * (feature - mean)."""
    zeros = [0.0] * len(FEATURES)
    means, coefficients = list(zeros), list(zeros)
    means[FEATURES.index(feature)], coefficients[FEATURES.index(feature)] = mean, coefficient
    ones = (1.0,) * len(FEATURES)
    return ConfidenceModel(FEATURES, tuple(means), ones, tuple(coefficients), 0.0, threshold)


CALIBRATED = replace(CONTRACT, confidence=by("inlier_ratio", 10.0, 0.5, threshold=0.5))


def test_a_calibrated_confidence_is_a_probability_and_may_be_at_its_bound() -> None:
    assert judged(GOOD, CALIBRATED, OPTIONS).confidence == pytest.approx(1 / (1 + math.exp(-3.0)))
    decision = judged(replace(GOOD, inlier_ratio=0.5), CALIBRATED, OPTIONS)
    assert decision.accepted
    assert decision.confidence == 0.5
    decision = judged(replace(GOOD, inlier_ratio=0.4), CALIBRATED, OPTIONS)
    assert decision.reject_reason is RejectReason.LOW_CONFIDENCE
    assert decision.confidence == 0.0
    assert decision.detail == "confidence 0.269, expected at least 0.500"


def test_the_users_least_confidence_takes_the_place_of_the_models() -> None:
    strict, lenient = replace(OPTIONS, min_confidence=0.99), replace(OPTIONS, min_confidence=0.2)
    decision = judged(GOOD, CALIBRATED, strict)
    assert decision.reject_reason is RejectReason.LOW_CONFIDENCE
    assert decision.detail == "confidence 0.953, expected at least 0.990"
    decision = judged(replace(GOOD, inlier_ratio=0.4), CALIBRATED, lenient)
    assert decision.accepted
    assert decision.confidence == pytest.approx(1 / (1 + math.e))
    assert judged(GOOD, CONTRACT, strict).accepted  # a file without confidence has none to bound


def test_a_calibrated_confidence_decides_in_place_of_inliers_and_residuals() -> None:
    loose = replace(CALIBRATED, confidence=by("inlier_ratio", 10.0, 0.5, threshold=0.0))
    estimate = replace(GOOD, inlier_ratio=0.1, residuals=np.full(4, 3.0))
    assert judged(estimate, CONTRACT, OPTIONS).reject_reason is RejectReason.LOW_INLIER_RATIO
    assert judged(estimate, loose, OPTIONS).accepted


def test_outside_the_map_no_confidence_helps_and_it_is_a_feature_itself() -> None:
    outside = replace(GOOD, map_from_camera=placed(x=5.5))  # 1.5 m, the margin is 1 m
    assert judged(outside, CALIBRATED, OPTIONS).reject_reason is RejectReason.OUTSIDE_MAP
    wary = replace(CONTRACT, confidence=by("log_outside_map", -2.0, 0.0, threshold=0.25))
    assert judged(GOOD, wary, OPTIONS).confidence == 0.5
    near = judged(replace(GOOD, map_from_camera=placed(x=4.5)), wary, OPTIONS)
    assert near.confidence == pytest.approx(1 / (1 + 1.5**2))
    decision = judged(replace(GOOD, map_from_camera=placed(x=5.0)), wary, OPTIONS)
    assert decision.detail == "confidence 0.200, expected at least 0.250"


@pytest.mark.parametrize("failure", AlignmentFailure)
def test_without_a_pose_there_is_no_confidence_to_ask(failure: AlignmentFailure) -> None:
    assert judged(failure, CALIBRATED, OPTIONS).reject_reason is RejectReason[failure.name]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"min_confidence": -0.1}, "min_confidence: expected 0 .. 1, got -0.1"),
        ({"min_confidence": 1.1}, "min_confidence: expected 0 .. 1, got 1.1"),
        ({"min_confidence": math.nan}, "min_confidence: expected 0 .. 1, got nan"),
        ({"min_inlier_ratio": -0.1}, "min_inlier_ratio: expected 0 .. 1, got -0.1"),
        ({"min_inlier_ratio": 1.1}, "min_inlier_ratio: expected 0 .. 1, got 1.1"),
        ({"max_residual": 0.0}, "max_residual: expected metres above 0, got 0.0"),
        ({"max_residual": math.nan}, "max_residual: expected metres above 0, got nan"),
        ({"map_margin": -0.1}, "map_margin: expected metres of at least 0, got -0.1"),
    ],
)
def test_options_out_of_range_are_refused(changes: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GateOptions(**changes)


def placed(x: float = 0.0, yaw: float = 0.0, z: float = 0.0) -> np.ndarray:
    return transform(rotation_from_vector([0.0, 0.0, yaw]), [x, 0.0, z])


ESTIMATED = np.diag([0.03, 0.03, 0.03, 0.03, 0.03, 0.03]) ** 2


def test_a_prior_bounds_each_component_by_its_own_and_the_estimates_variance() -> None:
    prior = Prior(placed(), np.diag([0.4, 0.4, 0.4, 0.04, 0.04, 0.04]) ** 2)
    bound = 3.0 * np.hypot(0.4, 0.03)
    assert prior_disagreement(prior, placed(x=bound - 1e-6), ESTIMATED, 3.0) == ""
    assert prior_disagreement(prior, placed(x=-bound - 1e-6), ESTIMATED, 3.0) == (
        "x is -1.20 m from the prior, expected at most 1.20 m"
    )
    assert prior_disagreement(prior, placed(x=1.5 * bound), ESTIMATED, 5.0) == ""
    assert prior_disagreement(prior, placed(yaw=0.16), ESTIMATED, 3.0) == (
        "rz is 9 deg from the prior, expected at most 9 deg"
    )
    assert prior_disagreement(prior, placed(yaw=0.14), ESTIMATED, 3.0) == ""


def test_the_worst_component_is_named() -> None:
    prior = Prior(placed(), np.diag([1.0, 1.0, 0.1, 1.0, 1.0, 1.0]))
    assert prior_disagreement(prior, placed(x=4.0, z=4.0), ESTIMATED, 3.0).startswith("z is 4.00 m")


@pytest.mark.parametrize("axis", range(6))
def test_each_component_is_named_with_its_unit(axis: int) -> None:
    """The prior stands anywhere: it is the difference that counts."""
    at = transform(rotation_from_vector([0.3, -0.2, 1.0]), [12.0, -7.0, 3.0])
    prior = Prior(at, np.eye(6) * 0.01)
    assert prior_disagreement(prior, at, np.zeros((6, 6)), 3.0) == ""
    away = np.eye(6)[axis] * 0.5
    moved = transform(rotation_from_vector(away[3:]) @ at[:3, :3], at[:3, 3] + away[:3])
    expected = "0.50 m from the prior, expected at most 0.30 m"
    if axis >= 3:
        expected = "29 deg from the prior, expected at most 17 deg"
    name = ("x", "y", "z", "rx", "ry", "rz")[axis]
    assert prior_disagreement(prior, moved, np.zeros((6, 6)), 3.0) == f"{name} is {expected}"


def test_the_bound_of_a_prior_itself_fits() -> None:
    prior = Prior(placed(), np.eye(6))
    assert prior_disagreement(prior, placed(x=2.0), np.zeros((6, 6)), 2.0) == ""
    assert prior_disagreement(prior, placed(x=2.0 + 1e-9), np.zeros((6, 6)), 2.0) != ""


def test_what_a_prior_does_not_know_is_not_compared() -> None:
    """RViz sends variances of x, y and yaw alone."""
    variances = np.zeros((6, 6))
    variances[0, 0] = variances[1, 1] = 0.25
    variances[5, 5] = 0.07
    assert prior_disagreement(Prior(placed(), variances), placed(z=30.0), ESTIMATED, 3.0) == ""
    assert prior_disagreement(Prior(placed(), variances), placed(x=3.0), ESTIMATED, 3.0) != ""
    assert prior_disagreement(Prior(placed(), np.zeros((6, 6))), placed(x=3.0), ESTIMATED, 3.0) == ""


@given(turn=st.floats(-3.1, 3.1), offset=st.floats(-0.1, 0.1))
def test_a_prior_compares_rotations_where_they_wrap(turn: float, offset: float) -> None:
    prior = Prior(placed(yaw=turn), np.diag([1.0] * 3 + [0.05**2] * 3))
    away = prior_disagreement(prior, placed(yaw=turn + offset), np.zeros((6, 6)), 1.0)
    assert (away == "") == (abs(offset) <= 0.05) or abs(abs(offset) - 0.05) < 1e-9


def confident(threshold: float) -> ConfidenceModel:
    """Return a model that gives `GOOD` log odds of 0.5, and a pose with more inliers more."""
    mean = tuple(features(GOOD, 0.0).tolist())
    coefficients = tuple(10.0 if name == "inlier_ratio" else 0.0 for name in FEATURES)
    return ConfidenceModel(FEATURES, mean, (1.0,) * len(FEATURES), coefficients, 0.5, threshold)


def test_a_calibrated_confidence_decides_in_place_of_the_bounds() -> None:
    probability = 1 / (1 + math.exp(-0.5))
    loose = GateOptions(min_inlier_ratio=1.0, max_residual=0.001)
    decision = judged(GOOD, replace(CONTRACT, confidence=confident(probability - 1e-6)), loose)
    assert decision.accepted
    assert decision.confidence == pytest.approx(probability)
    decision = judged(GOOD, replace(CONTRACT, confidence=confident(0.63)), loose)
    assert decision.reject_reason is RejectReason.LOW_CONFIDENCE
    assert decision.confidence == 0.0
    assert decision.detail == "confidence 0.622, expected at least 0.630"
    better = replace(GOOD, inlier_ratio=0.9)
    assert judged(better, replace(CONTRACT, confidence=confident(0.63)), loose).accepted


def test_the_users_bound_goes_before_the_models() -> None:
    described = replace(CONTRACT, confidence=confident(0.3))
    assert judged(GOOD, described, GateOptions(min_confidence=0.62)).accepted
    decision = judged(GOOD, described, GateOptions(min_confidence=0.7))
    assert decision.detail == "confidence 0.622, expected at least 0.700"
    assert judged(
        GOOD, replace(CONTRACT, confidence=confident(0.9)), GateOptions(min_confidence=0.6)
    ).accepted
    with pytest.raises(ValueError, match="min_confidence: expected 0 .. 1, got 2"):
        GateOptions(min_confidence=2)


def test_a_confident_pose_outside_the_map_is_refused_all_the_same() -> None:
    away = replace(GOOD, map_from_camera=transform(np.eye(3), [9.0, 0.0, 1.0]))
    decision = judged(away, replace(CONTRACT, confidence=confident(0.0)), GateOptions())
    assert decision.reject_reason is RejectReason.OUTSIDE_MAP
