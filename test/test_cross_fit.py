"""What maps say of frames that they were not made from: each block apart, and fits that recover a truth."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
import pytest
from landmark_files import CAMERA, landmark_contract, random_network, textured_room
from model_files import contract
from recordings import frame, pose

from structpose_ros.alignment import PoseEstimate
from structpose_ros.gate import weighted_median_residual
from structpose_ros.geometry import pose_error, rotation_from_vector, transform
from structpose_ros.training import cross_fit
from structpose_ros.training.cross_fit import (
    BLOCKS,
    LEAST_INLIER_THRESHOLD,
    Localised,
    fit_calibration,
    fit_covariance,
    images_of,
    localise_blocks,
    nees_of,
)
from structpose_ros.training.frames import Frame
from structpose_ros.training.landmarks import LandmarkNetwork, Landmarks, collect
from structpose_ros.training.metrics import CHI2_95_6DOF
from structpose_ros.training.runs import Calibration

CONTRACT = landmark_contract()
RANDOM = np.random.default_rng


@pytest.fixture(scope="module", autouse=True)
def textured() -> Iterator[None]:
    with textured_room():
        yield


@pytest.fixture(scope="module")
def network() -> LandmarkNetwork:
    return random_network(2048)


@pytest.fixture(scope="module")
def frames() -> list[Frame]:
    """There and back again and again: every place is seen in every block."""
    return [frame(str(n), pose(0.1 * (n % 2), 0.0, 0.4), CAMERA) for n in range(2 * BLOCKS)]


@pytest.fixture(scope="module")
def candidates(network: LandmarkNetwork, frames: list[Frame]) -> Landmarks:
    return collect(network, frames, CAMERA, CAMERA)


def localised_of(
    network: LandmarkNetwork, candidates: Landmarks, frames: list[Frame], seed: int = 0
) -> list[Localised]:
    return list(localise_blocks(network, candidates, frames, CAMERA, CONTRACT, seed))


def test_frames_are_localised_in_maps_of_the_other_blocks(
    network: LandmarkNetwork, frames: list[Frame], candidates: Landmarks
) -> None:
    before = {key: value.clone() for key, value in network.state_dict().items()}
    found = localised_of(network, candidates, frames)
    own = [item for item in found if item.true_pose is not None]
    assert [item.block for item in own] == [number // 2 for number in range(2 * BLOCKS)]
    for item, seen in zip(own, frames, strict=True):
        np.testing.assert_array_equal(item.true_pose, seen.map_from_camera)
        assert off(item) < 0.02
        assert item.given_weights.shape == (80,)
    assert len(found) - len(own) == -(-2 * BLOCKS // cross_fit.FOREIGN_EVERY)  # spoilt
    assert abs(len(found) - images_of(2 * BLOCKS)) <= 1
    assert all((network.state_dict()[key] == value).all() for key, value in before.items())


def off(item: Localised) -> float:
    """Return how far a pose is off, metres; infinitely without one."""
    if item.estimate is None or item.true_pose is None:
        return np.inf
    return pose_error(item.estimate.map_from_camera, item.true_pose)[0]


def test_what_a_blocks_own_frames_say_does_not_matter_to_it(
    network: LandmarkNetwork, frames: list[Frame], candidates: Landmarks
) -> None:
    first = candidates.frames < 2
    alone = np.concatenate([np.flatnonzero(first), np.flatnonzero(~first)])[: first.sum() + 1000]
    falsified = dataclasses.replace(
        candidates, points_in_map=candidates.points_in_map + 50.0 * first[:, None]
    )[np.sort(alone)]
    found = [item for item in localised_of(network, falsified, frames) if item.true_pose is not None]
    assert max(off(item) for item in found if item.block == 0) < 0.02
    # The first block's are in the map of the last.
    assert min(off(item) for item in found if item.block == BLOCKS - 1) > 0.02


def test_the_same_seed_gives_the_same_poses(
    network: LandmarkNetwork, frames: list[Frame], candidates: Landmarks
) -> None:
    few = random_network(64)
    first, again = (localised_of(few, candidates, frames) for _ in range(2))
    for one, other in zip(first, again, strict=True):
        assert (one.estimate is None) == (other.estimate is None)
        if one.estimate is None or other.estimate is None:
            continue
        np.testing.assert_array_equal(one.estimate.map_from_camera, other.estimate.map_from_camera)


def test_a_block_that_is_the_whole_map_is_left_out(
    network: LandmarkNetwork, frames: list[Frame], candidates: Landmarks
) -> None:
    alone = candidates[candidates.frames < 2]
    found = localised_of(network, alone, frames)
    assert {item.block for item in found} == set(range(1, BLOCKS))


def test_of_a_long_recording_some_frames_are_localised(
    network: LandmarkNetwork, frames: list[Frame], candidates: Landmarks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cross_fit, "MOST_FRAMES", BLOCKS)
    own = [item for item in localised_of(network, candidates, frames) if item.true_pose is not None]
    assert [item.block for item in own] == list(range(BLOCKS))
    assert images_of(2 * BLOCKS) == BLOCKS + BLOCKS // 3


def made_up(count: int, seed: int, deviation: float = 0.01, residual: float = 0.04) -> list[Localised]:
    """Poses off by `deviation` (m, rad) on each axis, as their covariances say."""
    random = RANDOM(seed)
    made = []
    for number in range(count):
        true_pose = transform(rotation_from_vector(random.normal(size=3)), random.normal(size=3))
        error = deviation * random.normal(size=6)
        estimated = transform(
            rotation_from_vector(error[3:]) @ true_pose[:3, :3], true_pose[:3, 3] + error[:3]
        )
        residuals = residual * np.linalg.norm(random.normal(size=(40, 3)), axis=1)
        estimate = PoseEstimate(
            map_from_camera=estimated,
            residuals=residuals,
            weights=np.ones(40),
            inlier_ratio=0.0,
            effective_points=40.0,
            singular_values=np.array([2.0, 1.0, 0.5]),
            covariance=deviation**2 * np.eye(6) / 9.0,
        )
        made.append(Localised(number * BLOCKS // count, estimate, np.ones(40), true_pose))
    return made


def foreign(count: int, seed: int) -> list[Localised]:
    """Poses of no place: large residuals, little weight."""
    return [
        item._replace(
            true_pose=None,
            given_weights=0.01 * item.given_weights,
            estimate=item.estimate and dataclasses.replace(item.estimate, weights=np.full(40, 0.01)),
        )
        for item in made_up(count, seed, residual=0.5)
    ]


def fitted(localised: list[Localised]) -> Calibration:
    found = fit_calibration(contract(), localised)
    assert found is not None
    return found


def test_a_calibration_recovers_what_the_poses_were_made_with() -> None:
    own, others = made_up(300, 1), foreign(150, 2)
    found = fitted(own + others)
    expected = np.median([weighted_median_residual(item.estimate) for item in own if item.estimate])
    assert found.inlier_threshold == pytest.approx(expected)
    assert found.confidence is not None
    assert found.validation.keys() == {
        *("frames", "accepted", "median_position_m", "median_rotation_deg", "within_10cm_5deg"),
        *("accepted_median_position_m", "accepted_median_rotation_deg", "accepted_within_10cm_5deg"),
        *("foreign_accept", "nees_frames", "mean_nees", "ellipsoid95_coverage"),
    }
    assert found.validation["frames"] == 300
    assert found.validation["accepted"] == found.validation["nees_frames"] >= 0.95 * 300
    assert found.validation["foreign_accept"] == 0.0
    assert found.validation["within_10cm_5deg"] == 1.0
    assert found.validation["median_position_m"] == pytest.approx(0.01 * 1.538, rel=0.1)
    assert found.validation["median_rotation_deg"] == pytest.approx(np.degrees(0.01 * 1.538), rel=0.1)
    assert found.validation["mean_nees"] == pytest.approx(6.0, rel=0.15)
    assert found.validation["ellipsoid95_coverage"] == pytest.approx(0.95, abs=0.02)
    # A ninth of the true variance: the scale and the floors make it whole.
    whole = contract(covariance_scale=found.covariance_scale, covariance_floor=found.covariance_floor)
    covariance = whole.calibrated_covariance(0.01**2 * np.eye(6) / 9.0)
    np.testing.assert_allclose(np.diag(covariance), 0.01**2, rtol=0.35)


def test_gross_errors_are_told_by_their_residuals() -> None:
    sound, gross = made_up(300, 3), made_up(60, 4, deviation=1.0, residual=0.6)
    found = fitted(sound + gross)
    assert "foreign_accept" not in found.validation
    assert 0.95 * 300 <= found.validation["accepted"] <= 303
    assert found.validation["accepted_within_10cm_5deg"] >= 0.99
    assert found.validation["within_10cm_5deg"] == pytest.approx(300 / 360, abs=0.01)


def test_the_inlier_threshold_has_a_least_value() -> None:
    assert fitted(made_up(40, 5, residual=1e-4)).inlier_threshold == LEAST_INLIER_THRESHOLD


def test_one_pose_is_enough_and_none_is_no_calibration() -> None:
    found = fitted(made_up(1, 6))
    contract(
        covariance_scale=found.covariance_scale,
        covariance_floor=found.covariance_floor,
        validation=found.validation,
        confidence=found.confidence,
    )
    for nothing in ([], foreign(5, 7), [item._replace(estimate=None) for item in made_up(5, 8)]):
        assert fit_calibration(contract(), nothing) is None


def test_frames_without_a_pose_count() -> None:
    lost = [item._replace(estimate=None) for item in made_up(100, 9) + foreign(50, 10)]
    found = fitted(made_up(300, 1) + foreign(150, 2) + lost)
    assert found.validation["frames"] == 400
    assert found.validation["within_10cm_5deg"] == 0.75
    assert found.validation["foreign_accept"] == 0.0
    assert found.validation["accepted"] >= 0.95 * 300
    most_lost = fitted(made_up(20, 1) + [item._replace(estimate=None) for item in made_up(100, 9)])
    assert "median_position_m" not in most_lost.validation  # infinite
    assert most_lost.validation["accepted_median_position_m"] < 0.03


def drawn(count: int, seed: int, scale: float, floor: tuple[float, float]) -> tuple[np.ndarray, np.ndarray]:
    """Return covariances (N, 6, 6) of many sizes and shapes, and errors (N, 6) drawn from the true ones."""
    random = RANDOM(seed)
    roots = random.normal(size=(count, 6, 6)) * np.repeat([0.004, 0.002], 3)[:, None]
    roots *= random.lognormal(0.0, 0.7, size=(count, 1, 1))
    covariances = roots @ roots.transpose(0, 2, 1)
    true = scale * covariances + np.diag(np.repeat(np.square(floor), 3))
    errors = np.einsum("nij,nj->ni", np.linalg.cholesky(true), random.normal(size=(count, 6)))
    return errors, covariances


@pytest.mark.parametrize(
    ("scale", "floor"), [(1.0, (0.002, 0.001)), (6.0, (0.03, 0.004)), (0.5, (0.01, 0.02))]
)
def test_covariances_hold_for_errors_that_they_were_not_fitted_on(
    scale: float, floor: tuple[float, float]
) -> None:
    fitted_scale, fitted_floor = fit_covariance(*drawn(400, 8, scale, floor))
    errors, covariances = drawn(20_000, 9, scale, floor)
    fitted_covariances = fitted_scale * covariances + np.diag(np.repeat(np.square(fitted_floor), 3))
    nees = nees_of(errors, fitted_covariances)
    assert nees.mean() == pytest.approx(6.0, rel=0.15)
    assert (nees <= CHI2_95_6DOF).mean() == pytest.approx(0.95, abs=0.02)


def test_few_gross_errors_do_not_decide_the_floors() -> None:
    errors, covariances = drawn(400, 10, 2.0, (0.01, 0.005))
    clean = fit_covariance(errors, covariances)
    errors[:4] *= 5.0
    scale, floor = fit_covariance(errors, covariances)
    assert scale == pytest.approx(clean[0], rel=0.7)
    assert floor == pytest.approx(clean[1], rel=0.7)


@pytest.mark.parametrize("errors", [np.zeros((3, 6)), np.full((1, 6), 0.01)])
def test_covariances_of_zero_leave_the_floors(errors: np.ndarray) -> None:
    scale, floor = fit_covariance(errors, np.zeros((len(errors), 6, 6)))
    assert scale > 0
    assert all(value > 0 for value in floor)
    contract(covariance_scale=scale, covariance_floor=floor)


def test_nees_by_hand() -> None:
    covariances = np.stack([np.diag([4.0, 1.0, 1.0, 0.25, 1.0, 1.0]), np.eye(6)])
    errors = np.array([[2.0, 0.0, 0.0, 1.0, 0.0, 0.0], [1.0, 2.0, 3.0, 0.0, 0.0, 0.0]])
    np.testing.assert_allclose(nees_of(errors, covariances), [1.0 + 4.0, 14.0])
