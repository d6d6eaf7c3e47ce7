"""XFeat with random weights, and a room with fine texture: an image recognises itself, and views near it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import recordings
import torch
from model_files import contract
from recordings import frame, pose, poses, write_recording

from structpose_ros.alignment import AlignmentOptions
from structpose_ros.camera import Camera
from structpose_ros.contract import ModelContract
from structpose_ros.training.config import InputConfig, LandmarkConfig, TrainingConfig
from structpose_ros.training.dataset import IMAGENET_MEAN, IMAGENET_STD, normalize_images
from structpose_ros.training.landmarks import STRIDE, LandmarkNetwork
from structpose_ros.training.xfeat import XFeat

CAMERA = Camera(160, 128, 150.0, 150.0, 79.5, 63.5)
_random = np.random.default_rng(3)
_DIRECTIONS, _PHASES = _random.normal(size=(3, 24)), _random.uniform(0.0, 6.0, size=24)
_FREQUENCIES = np.geomspace(4.0, 30.0, 24)  # rad/m
_smooth_colors = recordings.colors


@contextlib.contextmanager
def textured_room() -> Iterator[None]:
    """Give `recordings` the room with texture, and torch one thread: images are small."""
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recordings, "colors", textured_colors)
        yield


def textured_colors(points_in_map: np.ndarray) -> np.ndarray:
    """Return colours (..., 3) uint8 with waves of 0.2 m to 1.5 m over those of `recordings.colors`."""
    directions = _FREQUENCIES * _DIRECTIONS / np.linalg.norm(_DIRECTIONS, axis=0)
    waves = np.sin(points_in_map @ directions + _PHASES).sum(axis=-1, keepdims=True)
    return np.clip(0.5 * _smooth_colors(points_in_map) + 64 + 12 * waves, 0, 255).astype(np.uint8)


def random_xfeat(seed: int = 0) -> XFeat:
    """Return XFeat whose features tell places apart, and whose keypoints are sure, though untrained."""
    torch.manual_seed(seed)
    network = XFeat()
    images = np.stack([frame("", pose, CAMERA).image_rgb.transpose(2, 0, 1) for pose in poses(4, 99)])
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None  # statistics are those of these images
    with torch.no_grad():
        network.train()(normalize_images(torch.from_numpy(images)))
        network.keypoint_head[-1].weight *= 10.0
        network.block_fusion[-1].bias.zero_()
    return network.eval()


def write_weights(path: Path) -> Path:
    """Save the weights of `random_xfeat`."""
    torch.save(random_xfeat().state_dict(), path)
    return path


def random_network(count: int) -> LandmarkNetwork:
    """Return a network of `random_xfeat` and an empty map."""
    network = LandmarkNetwork(LandmarkConfig(count=count))
    network.xfeat.load_state_dict(random_xfeat().state_dict())
    return network.eval()


def landmark_contract(**changes: object) -> ModelContract:
    """Return a contract of a map of landmarks for `CAMERA`."""
    values: dict[str, object] = {
        "input_width": CAMERA.width,
        "input_height": CAMERA.height,
        "stride": STRIDE,
        "normalization_mean": IMAGENET_MEAN,
        "normalization_std": IMAGENET_STD,
        "scene_mean": (0.5, 0.25, 1.0),
        "training_camera": CAMERA,
        "alignment": AlignmentOptions(refine_rounds=10),
        "keypoints": True,
    }
    return contract(**{**values, **changes})


def write_landmark_recording(root: Path) -> Path:
    """Write a recording of views from nearly one place, so that untrained features hold across its blocks."""

    def nearby(count: int, seed: int) -> list[np.ndarray]:
        places = [np.random.default_rng([seed, number]) for number in range(count)]
        return [pose(*random.uniform([0.0, 0.0, 0.4, 0.0], [0.02, 0.02, 0.41, 0.01])) for random in places]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recordings, "poses", nearby)
        return write_recording(root, train=10, test=2, camera=CAMERA)


def landmark_config(weights: Path) -> TrainingConfig:
    """Return what makes a map of such a recording with the features of `weights`."""
    return TrainingConfig(
        method="landmarks",
        input=InputConfig(CAMERA.width, CAMERA.height),
        landmarks=LandmarkConfig(count=4096, temperature=0.3, weights=str(weights)),
        alignment=landmark_contract().alignment,
        device="cpu",
        validation_fraction=0.0,
    )
