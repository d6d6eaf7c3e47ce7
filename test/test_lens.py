"""The lens that a recording's images show: a known k1 is recovered, a right one is left alone."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from structpose_ros.camera import Camera
from structpose_ros.geometry import invert, rotation_from_vector, transform, transform_points
from structpose_ros.training.landmarks import Landmarks, laid_out
from structpose_ros.training.lens import refined_lens

PINHOLE = Camera(640, 480, 525.0, 520.0, 320.0, 241.0)
FRAMES, POINTS = 40, 800


def recorded(
    camera: Camera, noise_px: float = 0.5, wrong: float = 0.2, motion: float = 1.0
) -> tuple[Landmarks, list[np.ndarray]]:
    """Return what frames on a walk see of random points, through `camera`, and their poses.

    A share of `wrong` descriptors is that of nothing else. motion: of 6 m and some ten degrees.
    """
    random = np.random.default_rng(0)
    points = random.uniform([-4.0, -1.5, 2.0], [4.0, 1.5, 5.0], (POINTS, 3))
    looks = torch.nn.functional.normalize(torch.from_numpy(random.normal(size=(POINTS, 64))).float(), dim=1)
    poses = [
        transform(
            rotation_from_vector(motion * random.normal(0.0, 0.15, 3)),
            motion * np.array([x, *random.normal(0.0, 0.3, 2)]),
        )
        for x in np.linspace(-3.0, 3.0, FRAMES)
    ]
    kept: list[tuple[np.ndarray, ...]] = []
    for number, pose in enumerate(poses):
        in_camera = transform_points(invert(pose), points)
        pixels = camera.project(in_camera)
        seen = np.flatnonzero(((pixels >= 0) & (pixels < [640, 480])).all(axis=1) & (in_camera[:, 2] > 0.5))
        noisy = pixels[seen] + random.normal(0.0, noise_px, (len(seen), 2))
        kept.append((seen, in_camera[seen, 2], np.full(len(seen), number), noisy))
    seen, depths, numbers, pixels = (np.concatenate(values) for values in zip(*kept, strict=True))
    descriptors = looks[torch.from_numpy(seen)]
    lost = torch.from_numpy(random.random(len(seen)) < wrong)
    descriptors[lost] = torch.nn.functional.normalize(
        torch.from_numpy(random.normal(size=(int(lost.sum()), 64))).float(), dim=1
    )
    landmarks = Landmarks(
        descriptors,
        *(points[seen], depths.astype(np.float32), np.full(len(seen), 0.5, np.float32)),
        *(numbers.astype(np.int32), pixels.astype(np.float32)),
    )
    return landmarks, poses


@pytest.mark.parametrize(
    ("calibrated", "true_k1"),
    [
        (PINHOLE, -0.11),
        (PINHOLE, 0.08),
        (dataclasses.replace(PINHOLE, distortion=(0.05, -0.02, 0.001, 0.0)), -0.05),
        (
            dataclasses.replace(
                PINHOLE, distortion_model="equidistant", distortion=(0.02, -0.01, 0.003, -0.001)
            ),
            0.09,
        ),
    ],
)
def test_a_known_lens_is_recovered(calibrated: Camera, true_k1: float) -> None:
    rest = calibrated.distortion[1:] or (0.0, 0.0, 0.0)
    landmarks, poses = recorded(dataclasses.replace(calibrated, distortion=(true_k1, *rest)))
    found = refined_lens(landmarks, poses, calibrated, seed=0)
    assert found is not None
    assert found.distortion[0] == pytest.approx(true_k1, abs=0.003)
    assert found == dataclasses.replace(calibrated, distortion=(found.distortion[0], *rest))


@pytest.mark.parametrize("k1", [0.0, -0.2])
def test_a_right_calibration_is_left_alone(k1: float) -> None:
    camera = dataclasses.replace(PINHOLE, distortion=(k1, 0.03, 0.0, 0.0))
    landmarks, poses = recorded(camera)
    assert refined_lens(landmarks, poses, camera, seed=0) is None


def test_where_the_camera_hardly_moves_nothing_is_said() -> None:
    """Any lens explains views from one place alike: what noise makes of it is no lens."""
    landmarks, poses = recorded(PINHOLE, motion=0.02)
    assert refined_lens(landmarks, poses, PINHOLE.with_radial(0.1), seed=0) is None


def test_where_nothing_is_seen_twice_nothing_is_said() -> None:
    landmarks, poses = recorded(PINHOLE)
    of_one_block = landmarks[np.flatnonzero(landmarks.frames < FRAMES // 10)]
    assert refined_lens(of_one_block, poses, PINHOLE.with_radial(0.1), seed=0) is None


def test_landmarks_are_laid_out_again_with_their_depth() -> None:
    camera = Camera(160, 128, 150.0, 150.0, 79.5, 63.5)
    random = np.random.default_rng(0)
    poses = [
        transform(rotation_from_vector([0.0, 0.3, 0.1]), [0.4, -0.2, 0.3]),
        transform(rotation_from_vector([0.2, -0.4, 0.0]), [-0.1, 0.5, 1.0]),
    ]
    count = 60
    landmarks = Landmarks(
        torch.eye(64)[:count],
        random.normal(size=(count, 3)),
        random.uniform(0.5, 4.0, count).astype(np.float32),
        np.ones(count, np.float32),
        (np.arange(count) // 30).astype(np.int32),
        random.uniform([0.0, 0.0], [159.0, 127.0], (count, 2)).astype(np.float32),
    )
    lens = camera.with_radial(-0.1)
    moved = laid_out(landmarks, poses, lens)
    assert len(moved.depths) == count
    for number, map_from_camera in enumerate(poses):
        of_frame = moved.frames == number
        in_camera = transform_points(invert(map_from_camera), moved.points_in_map[of_frame])
        np.testing.assert_allclose(lens.project(in_camera), moved.pixels[of_frame], atol=1e-6)
        np.testing.assert_allclose(in_camera[:, 2], landmarks.depths[of_frame], atol=1e-6)


def test_landmarks_beyond_the_reach_of_the_lens_go() -> None:
    camera = Camera(160, 128, 150.0, 150.0, 79.5, 63.5)
    landmarks = Landmarks(
        torch.eye(64)[:2],
        np.zeros((2, 3)),
        *(np.ones(2, np.float32), np.ones(2, np.float32)),
        *(np.zeros(2, np.int32), np.array([[0.0, 0.0], [80.0, 64.0]], np.float32)),
    )
    moved = laid_out(landmarks, [np.eye(4)], camera.with_radial(-0.9))
    assert moved.pixels.tolist() == [[80.0, 64.0]]
