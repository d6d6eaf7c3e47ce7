"""Views that were not recorded: their images and labels are what a camera there would have seen."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from recordings import CAMERA, frame, pose, poses, render
from torch.utils.data import DataLoader

from structpose_ros.alignment import PoseEstimate, align
from structpose_ros.camera import Camera
from structpose_ros.geometry import pose_error, rotation_from_vector, transform
from structpose_ros.training.augmentation import View, photometric, random_view
from structpose_ros.training.config import AugmentationConfig
from structpose_ros.training.dataset import ViewDataset, collate, scene_statistics, start_worker

FISHEYE = Camera(64, 48, 40.0, 40.0, 31.5, 23.5, "equidistant", (0.02, -0.01, 0.0, 0.0))
BARREL = Camera(64, 48, 60.0, 60.0, 31.5, 23.5, "plumb_bob", (-0.2, 0.05, 0.002, -0.001))
PLAIN = AugmentationConfig(photometric=False, roll_degrees=20, tilt_degrees=6, scale_low=0.8, scale_high=1.25)


def dataset(augmentation: AugmentationConfig = PLAIN, camera: Camera = CAMERA) -> ViewDataset:
    frames = [
        frame(str(number), map_from_camera, camera) for number, map_from_camera in enumerate(poses(4, 9))
    ]
    return ViewDataset(frames, camera, camera, scene_statistics(frames, camera, camera), augmentation, seed=3)


@pytest.mark.parametrize("camera", [CAMERA, BARREL, FISHEYE])
def test_labels_of_a_turned_view_solve_to_its_pose(camera: Camera) -> None:
    views = dataset(camera=camera)
    views.rigid = True
    for index in range(len(views)):
        sample = views[index]
        depth = sample["depth"].numpy()[0]
        points = (np.nan_to_num(views.rays) * depth[..., None]).reshape(-1, 3)
        scene = sample["scene_coordinates"].numpy().transpose(1, 2, 0).reshape(-1, 3)
        labelled = (depth > 0).reshape(-1)
        assert labelled.mean() > 0.5
        estimate = align(points, scene, labelled.astype(float))
        assert isinstance(estimate, PoseEstimate)
        position, rotation = pose_error(estimate.map_from_camera, sample["map_from_camera"].numpy())
        assert position < 1e-6
        assert math.radians(rotation) < 1e-6
        recorded = views.frames[index].map_from_camera[:3, 3] - views.statistics.scene_mean
        np.testing.assert_allclose(sample["map_from_camera"][:3, 3], recorded, atol=1e-12)


@pytest.mark.parametrize("camera", [CAMERA, BARREL, FISHEYE])
def test_a_turned_image_is_what_the_turned_camera_sees(camera: Camera) -> None:
    map_from_camera = pose(0.1, 0.2, 0.5)
    rotation = rotation_from_vector([0.03, -0.05, 0.2])
    image, _ = render(camera, map_from_camera)
    seen, _ = render(camera, map_from_camera @ transform(rotation, [0, 0, 0]))
    warped = View(rotation, 1.0).warp(image, camera)
    inside = (slice(16, 32), slice(20, 44))  # away from what the recorded image does not hold
    difference = np.abs(warped[inside].astype(int) - seen[inside].astype(int))
    assert difference.max() <= 3
    unturned = np.abs(image[inside].astype(int) - seen[inside].astype(int))
    assert unturned.max() > 20


@pytest.mark.parametrize("tilt_degrees", [0, 30])
def test_what_the_lens_does_not_reach_has_no_label(tilt_degrees: float) -> None:
    # Its corners see more than 85 degrees off the axis, beyond the lens' reach.
    wide = Camera(64, 48, 20.0, 20.0, 31.5, 23.5, "equidistant", (0.0, 0.0, 0.0, 0.0))
    views = dataset(dataclasses.replace(PLAIN, tilt_degrees=tilt_degrees), wide)
    beyond = np.isnan(views.rays).any(axis=-1)
    assert 0 < beyond.sum() < beyond.size / 2
    for index in range(len(views)):
        sample = views[index]
        for key, value in sample.items():
            assert torch.isfinite(value.float()).all(), key
        assert not sample["depth"].numpy()[0][beyond].any()
        assert (sample["depth"].numpy()[0][~beyond] > 0).mean() > 0.5


def test_a_ray_behind_the_recorded_camera_is_no_ray() -> None:
    view = View(rotation_from_vector([0.0, math.radians(30), 0.0]), 1.0)
    angles = np.radians([-70.0, 0.0, 50.0, 59.9, 60.1, 70.0])  # from the view's axis; + 30 from the camera's
    rays = np.stack([np.tan(angles), np.zeros(6), np.ones(6)], axis=-1)
    camera_rays = view.camera_rays(rays)
    np.testing.assert_allclose(camera_rays[:4, 0], np.tan(angles[:4] + math.radians(30)), rtol=1e-9)
    assert np.isnan(camera_rays[4:]).all()
    np.testing.assert_array_equal(view.view_depth(np.zeros(6), camera_rays), np.zeros(6))


def test_magnified_is_nearer() -> None:
    view = View(np.eye(3), 1.25)
    camera_rays = view.camera_rays(np.array([[0.5, -0.25, 1.0]]))
    np.testing.assert_allclose(camera_rays, [[0.4, -0.2, 1.0]], atol=1e-15)
    np.testing.assert_allclose(view.view_depth(np.array([2.0]), camera_rays), [1.6], atol=1e-15)
    # The lateral offset of the point is kept: 2 m * 0.4 = 1.6 m * 0.5.
    image, _ = render(CAMERA, pose(0.0, 0.0, 0.4))
    warped = view.warp(image, CAMERA)
    # A point 10 px right of the centre moves to 12.5 px.
    np.testing.assert_allclose(warped[23, 44].astype(int), image[23, 41].astype(int), atol=3)


@pytest.mark.parametrize("camera", [CAMERA, FISHEYE])
def test_depths_of_a_turned_view_are_what_its_camera_measures(camera: Camera) -> None:
    views = dataset(camera=camera)
    views.rigid = True
    sample = views[0]
    map_from_view = sample["map_from_camera"].numpy().copy()
    map_from_view[:3, 3] += views.statistics.scene_mean
    true_depth = render(camera, map_from_view)[1]
    for key, stride in (("depth", 8), ("half_depth", 16)):
        depth = sample[key].numpy()[0]
        cells = true_depth.reshape(48 // stride, stride, 64 // stride, stride)
        middle = slice(stride // 2 - 1, stride // 2 + 1)
        seen = depth > 0
        assert seen.mean() > 0.5
        # The nearest recorded pixel is up to 0.71 px away: centimetres on a slanted wall.
        error = np.abs(depth - cells[:, middle, :, middle].mean(axis=(1, 3)))[seen]
        assert np.median(error) < 0.02
        assert error.max() < 0.1


def test_an_odd_grid_rounds_its_half_up() -> None:
    """Cell i of the half-resolution depth stands at pixel 16 i + 7.5, also where that is the image's edge."""
    views = dataset(camera=dataclasses.replace(CAMERA, height=56))
    assert views.rays.shape == (7, 8, 3)
    assert views.half_rays.shape == (4, 4, 3)
    pixels = CAMERA.project(views.half_rays)
    np.testing.assert_allclose(pixels[0, :, 0], [7.5, 23.5, 39.5, 55.5], atol=1e-9)
    np.testing.assert_allclose(pixels[:, 0, 1], [7.5, 23.5, 39.5, 55.5], atol=1e-9)


def test_depths_of_a_magnified_view() -> None:
    views = dataset(AugmentationConfig(photometric=False, roll_degrees=0, scale_low=1, scale_high=1.25))
    scale = random_view(np.random.default_rng([3, 0, 2]), 0, 0, (1, 1.25)).scale
    assert scale > 1.02
    sample, recorded = views[2], views.frames[2].depth_mm
    for key, rays in (("depth", views.rays), ("half_depth", views.half_rays)):
        columns = np.rint(31.5 + 60 * rays[..., 0] / scale).astype(int)
        rows = np.rint(23.5 + 60 * rays[..., 1] / scale).astype(int)
        np.testing.assert_allclose(sample[key][0], recorded[rows, columns] * 1e-3 / scale, rtol=1e-6)


def test_cells_without_depth_have_no_label() -> None:
    views = dataset(dataclasses.replace(PLAIN, roll_degrees=0, tilt_degrees=0, scale_low=1, scale_high=1))
    views.frames[0].depth_mm[:, :32] = 0
    sample = views[0]
    for key in ("scene_coordinates", "depth", "half_depth"):
        half = sample[key].shape[2] // 2
        assert not sample[key][:, :, :half].any()
        assert (sample[key][:, :, half:] != 0).all()


def test_views_keep_to_their_bounds() -> None:
    random = np.random.default_rng(0)
    for _ in range(200):
        view = random_view(random, 10.0, 0.0, (0.9, 1.1))
        angle = math.degrees(math.atan2(view.camera_from_view[1, 0], view.camera_from_view[0, 0]))
        assert abs(angle) <= 10
        np.testing.assert_allclose(view.camera_from_view[2], [0, 0, 1], atol=1e-12)
        assert 0.9 <= view.scale <= 1.1


def test_a_view_depends_on_seed_epoch_and_index_alone() -> None:
    everything = AugmentationConfig(tilt_degrees=3)
    first, second = dataset(everything), dataset(everything)
    second[0]
    for key, value in first[2].items():
        assert torch.equal(value, second[2][key])
    other_seed = ViewDataset(first.frames, CAMERA, CAMERA, first.statistics, everything, seed=4)
    assert not torch.equal(first[2]["image"], other_seed[2]["image"])
    same_frames = ViewDataset(first.frames[:1] * 2, CAMERA, CAMERA, first.statistics, everything, seed=3)
    assert not torch.equal(same_frames[0]["map_from_camera"], same_frames[1]["map_from_camera"])
    second.epoch = 1
    assert not torch.equal(first[2]["image"], second[2]["image"])
    loaders = [
        DataLoader(
            first,
            batch_sampler=[[2, 0], [1, 3]],
            collate_fn=collate,
            num_workers=n,
            worker_init_fn=start_worker,
        )
        for n in (0, 2)
    ]
    for (image_a, labels_a), (image_b, labels_b) in zip(*loaders, strict=True):
        assert torch.equal(image_a, image_b)
        assert torch.equal(labels_a.map_from_camera, labels_b.map_from_camera)


def test_switched_off_gives_the_very_frame() -> None:
    off = AugmentationConfig(photometric=False, roll_degrees=0, tilt_degrees=0, scale_low=1, scale_high=1)
    views = dataset(off)
    sample = views[1]
    np.testing.assert_array_equal(sample["image"].numpy().transpose(1, 2, 0), views.frames[1].image_rgb)
    expected = views.frames[1].map_from_camera.copy()
    expected[:3, 3] -= views.statistics.scene_mean
    np.testing.assert_array_equal(sample["map_from_camera"], expected)


def test_light_changes_stay_moderate() -> None:
    image = frame("", pose(0.0, 0.0, 0.0)).image_rgb
    means = []
    for seed in range(50):
        changed = photometric(image, np.random.default_rng(seed))
        assert changed.shape == image.shape
        assert changed.dtype == np.uint8
        means.append(changed.mean())
    assert 0.8 < np.mean(means) / image.mean() < 1.2
    assert np.std(means) > 5


def test_noise_and_colours_stay_moderate() -> None:
    image = np.empty((48, 64, 3), dtype=np.uint8)
    image[:] = (150, 110, 90)
    spreads = []
    for seed in range(50):
        changed = photometric(image, np.random.default_rng(seed)).reshape(-1, 3).astype(int)
        middle = np.median(changed, axis=0)
        assert np.abs(changed - middle).max() <= 8 + 1  # the noise alone: there is nothing else to tell apart
        spreads.append(np.ptp(middle))
    assert 0.8 < np.mean(spreads) / 60 < 1.3
    assert np.std(spreads) > 10
