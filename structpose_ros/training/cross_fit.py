"""What a map of landmarks is worth in views it was not made from: confidence, covariance and inliers.

The recording is cut into blocks of successive frames, and each block is localised in a map of the others.
What is fitted on these poses holds for the map of all frames, which is a little better.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from structpose_ros.alignment import PoseEstimate
from structpose_ros.camera import Camera
from structpose_ros.confidence import features
from structpose_ros.contract import ModelContract
from structpose_ros.gate import weighted_median_residual
from structpose_ros.geometry import pose_error
from structpose_ros.network import Prediction, prediction_from_outputs
from structpose_ros.relocalizer import Relocalizer
from structpose_ros.training.confidence_fit import fit_confidence, held_out_probabilities
from structpose_ros.training.corruptions import KINDS, TEXTURES, corrupt, texture
from structpose_ros.training.frames import Frame
from structpose_ros.training.landmarks import LandmarkNetwork, Landmarks
from structpose_ros.training.metrics import CHI2_95_6DOF, GOOD, WRONG
from structpose_ros.training.outcomes import pose_deviation
from structpose_ros.training.parity import rays_tensor
from structpose_ros.training.runs import Calibration

BLOCKS = 10
MOST_FRAMES = 600  # localised, of all blocks: more say little more
FOREIGN_EVERY = 3  # of these, the share that is also shown spoilt: one kind after the other
LEAST_INLIER_THRESHOLD = 0.02  # metres

Array = npt.NDArray[np.float64]


class MapNetwork:
    """A torch map of landmarks behind the interface of `Network`."""

    def __init__(self, network: LandmarkNetwork, contract: ModelContract) -> None:
        """Use `network` as it is."""
        self._network = network
        self.contract = contract

    @torch.no_grad()
    def predict(self, input_tensor: npt.NDArray[np.float32], rays: Array) -> Prediction:
        """See `Network.predict`."""
        device = self._network.keys.device
        outputs = self._network(torch.from_numpy(input_tensor).to(device), rays_tensor(rays).to(device))
        depth, scene_coordinates, weights, offsets = (value.cpu().numpy() for value in outputs)
        return prediction_from_outputs(depth, scene_coordinates, weights, self.contract, offsets)


class Localised(NamedTuple):
    """An image looked up in a map that was not made from its frame.

    block: of the frame. estimate: None without a pose. given_weights: (N,) the network's, of its points.
    true_pose: map_from_camera (4, 4); None of an image that is no view of the map.
    """

    block: int
    estimate: PoseEstimate | None
    given_weights: Array
    true_pose: Array | None


def images_of(frames: int) -> int:
    """Return about how many images `localise_blocks` localises of so many frames."""
    members = -(-frames // -(-frames // MOST_FRAMES))
    return members + members // FOREIGN_EVERY


def localise_blocks(
    network: LandmarkNetwork,
    candidates: Landmarks,
    frames: Sequence[Frame],
    camera: Camera,
    contract: ModelContract,
    seed: int,
) -> Iterator[Localised]:
    """Localise frames, and spoilt images of them, each in a map of the other blocks' candidates.

    Args:
        network: whose XFeat and number of landmarks are used.
        candidates: of all frames.
        frames: those that the candidates' numbers mean, images at input size.
        camera: of these images, as recorded.
        contract: of the model file.
        seed: of the choice of landmarks.
    """
    spoilt = (*KINDS, *TEXTURES)
    blocks = np.arange(len(frames)) * BLOCKS // len(frames)
    step = -(-len(frames) // MOST_FRAMES)
    localised = 0
    for block in range(BLOCKS):
        others = candidates[blocks[candidates.frames] != block]
        members = np.flatnonzero(blocks == block)[::step]
        if len(others.depths) == 0 or len(members) == 0:
            continue
        of_others = copy.deepcopy(network)
        chosen = others.chosen(len(network.keys), seed)
        of_others.set_landmarks(chosen, np.asarray(contract.scene_mean), contract.refined(camera))
        relocalizer = Relocalizer(MapNetwork(of_others, contract))
        for number in members.tolist():
            frame = frames[number]
            images: list[tuple[npt.NDArray[np.uint8], Array | None]] = [
                (np.asarray(frame.image_rgb), frame.map_from_camera)
            ]
            if localised % FOREIGN_EVERY == 0:
                kind = spoilt[localised // FOREIGN_EVERY % len(spoilt)]
                random = np.random.default_rng([seed, number])
                size = (camera.width, camera.height)
                image = corrupt(images[0][0], kind, random) if kind in KINDS else texture(kind, size, random)
                images.append((image, None))
            localised += 1
            for image, true_pose in images:
                result = relocalizer.localize(image, camera)
                yield Localised(block, result.estimate, result.weights.reshape(-1), true_pose)


class _Solved(NamedTuple):
    """Images with a pose; each (N,) or (N, ...). Errors of an image that is no view of the map are inf."""

    estimates: list[PoseEstimate]
    features: Array
    errors: Array
    deviations: Array
    foreign: npt.NDArray[np.bool_]
    blocks: npt.NDArray[np.int64]


def fit_calibration(contract: ModelContract, localised: Sequence[Localised]) -> Calibration | None:
    """Fit the inlier threshold, the confidence and the covariance on poses of `localise_blocks`.

    None where no frame has a pose in a map of the others.
    """
    medians = [
        weighted_median_residual(item.estimate)
        for item in localised
        if item.estimate is not None and item.true_pose is not None
    ]
    if not medians:
        return None
    threshold = max(LEAST_INLIER_THRESHOLD, float(np.median(medians)))
    solved = _solved(contract, localised, threshold)
    foreign, errors = solved.foreign, solved.errors
    good = np.asarray((errors <= GOOD).all(axis=1))
    gross = np.asarray((errors > WRONG).any(axis=1))
    confidence = fit_confidence(solved.features, good, gross, foreign, solved.blocks)
    probabilities = held_out_probabilities(solved.features, good, foreign, solved.blocks)
    accepted = probabilities >= confidence.threshold
    used = np.flatnonzero(accepted & ~foreign)
    covariances = np.array([solved.estimates[index].covariance for index in used]).reshape(-1, 6, 6)
    deviations = solved.deviations[used]
    scale, floor = fit_covariance(deviations, covariances) if len(used) else (1.0, (0.0, 0.0))

    frames = sum(item.true_pose is not None for item in localised)
    without_pose = np.full((frames - int((~foreign).sum()), 2), np.inf)
    of_frames = np.concatenate([errors[~foreign], without_pose])
    validation = {"frames": float(frames), "accepted": float(len(used)), **_metrics("", of_frames)}
    if frames < len(localised):
        validation["foreign_accept"] = float((accepted & foreign).sum()) / (len(localised) - frames)
    if len(used):
        fitted = dataclasses.replace(contract, covariance_scale=scale, covariance_floor=floor)
        nees = nees_of(deviations, np.array([fitted.calibrated_covariance(item) for item in covariances]))
        validation |= _metrics("accepted_", errors[used]) | {
            "nees_frames": float(len(used)),
            "mean_nees": float(nees.mean()),
            "ellipsoid95_coverage": float((nees <= CHI2_95_6DOF).mean()),
        }
    return Calibration(validation, scale, threshold, floor, confidence)


def _solved(contract: ModelContract, localised: Sequence[Localised], threshold: float) -> _Solved:
    """Return the images that have a pose, as if their solve had had this inlier threshold."""
    estimates, rows, errors, deviations, foreign, blocks = [], [], [], [], [], []
    for item in localised:
        if item.estimate is None:
            continue
        inliers = item.estimate.residuals <= threshold
        ratio = float(item.given_weights[inliers].sum() / item.given_weights.sum())
        estimate = dataclasses.replace(item.estimate, inlier_ratio=ratio)
        pose = estimate.map_from_camera
        estimates.append(estimate)
        rows.append(features(estimate, contract.metres_outside(pose[:3, 3])))
        known = item.true_pose is not None
        errors.append(pose_error(pose, item.true_pose) if item.true_pose is not None else (np.inf, np.inf))
        deviations.append(pose_deviation(pose, item.true_pose if item.true_pose is not None else pose))
        foreign.append(not known)
        blocks.append(item.block)
    return _Solved(
        estimates, np.array(rows), np.array(errors), np.array(deviations), np.array(foreign), np.array(blocks)
    )


def _metrics(prefix: str, errors: Array) -> dict[str, float]:
    """Return median errors (m, deg), where finite, and the share of good ones."""
    position, rotation = np.median(errors, axis=0).tolist()
    metrics = {f"{prefix}median_position_m": position, f"{prefix}median_rotation_deg": rotation}
    metrics = {key: value for key, value in metrics.items() if np.isfinite(value)}
    return metrics | {f"{prefix}within_10cm_5deg": float((errors <= GOOD).all(axis=1).mean())}


def fit_covariance(errors: Array, covariances: Array) -> tuple[float, tuple[float, float]]:
    """Return the scale of covariances (N, 6, 6), and the floors (m, rad), that fit errors (N, 6) best.

    The residuals of a frame tell how its points scatter, not how far all of them are off together: by the
    poses that the map was made with, by the depth's bias. The floors stand for that. The likelihood is that
    of Student's t with 6 degrees of freedom, so that a few gross errors don't decide. At last the whole is
    scaled to lie between what a mean NEES of 6 asks for and what 95 % of the errors within the ellipsoid do.
    """
    best = (np.inf, 1.0, (0.0, 0.0))
    for scale in np.geomspace(0.25, 256.0, 11):
        for position in np.geomspace(0.0005, 0.256, 10):
            for rotation in np.geomspace(0.00025, 0.128, 10):
                floors = np.diag(np.repeat([position**2, rotation**2], 3))
                calibrated = scale * covariances + floors
                _, log_volume = np.linalg.slogdet(calibrated)
                cost = float(np.mean(12.0 * np.log1p(nees_of(errors, calibrated) / 6.0) + log_volume))
                if cost < best[0]:
                    best = (cost, float(scale), (float(position), float(rotation)))
    _, scale, floor = best
    nees = nees_of(errors, scale * covariances + np.diag(np.repeat(np.square(floor), 3)))
    factor = max(float(np.sqrt(nees.mean() / 6.0 * np.quantile(nees, 0.95) / CHI2_95_6DOF)), 1e-6)
    return scale * factor, (floor[0] * factor**0.5, floor[1] * factor**0.5)


def nees_of(errors: Array, covariances: Array) -> Array:
    """Return the normalised squared errors (N,) of errors (N, 6) with covariances (N, 6, 6)."""
    return np.einsum("ni,ni->n", errors, np.linalg.solve(covariances, errors[..., None])[..., 0])
