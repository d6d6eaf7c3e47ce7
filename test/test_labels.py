"""Labels at the cells' centres."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from recordings import CAMERA, millimetres, pose, poses, render

from structpose_ros.camera import Camera
from structpose_ros.geometry import transform_points
from structpose_ros.training.augmentation import random_view
from structpose_ros.training.labels import Labels, is_sparse, sample_labels

LENSES = {
    "pinhole": Camera(128, 96, 110.0, 115.0, 62.0, 49.0),
    "barrel": Camera(128, 96, 100.0, 100.0, 63.5, 47.5, "plumb_bob", (-0.25, 0.08, 0.001, -0.001)),
    "fisheye": Camera(128, 96, 60.0, 60.0, 63.5, 47.5, "equidistant", (0.02, -0.005, 0.001, 0.0)),
}


def test_labels_are_the_known_room() -> None:
    map_from_camera = pose(0.3, -0.2, 0.7, 0.1)
    _, depth = render(CAMERA, map_from_camera)
    rays = CAMERA.ray_grid(8)
    labels = sample_labels(millimetres(depth), CAMERA, map_from_camera, rays)
    assert labels.depth.shape == (6, 8)
    assert labels.valid_mask.all()
    # A cell's centre lies between four pixels; the nearest is at most 0.71 px away.
    centres = depth.reshape(6, 8, 8, 8)[:, 3:5, :, 3:5].mean(axis=(1, 3))
    assert np.abs(labels.depth - centres).max() < 0.05
    expected = (rays * labels.depth[..., None]) @ map_from_camera[:3, :3].T + map_from_camera[:3, 3]
    np.testing.assert_allclose(labels.scene_coordinates, expected, atol=1e-6)


def test_the_nearest_pixel_is_taken() -> None:
    camera = Camera(32, 32, 30.0, 30.0, 15.5, 15.5)
    depth_mm = (1000 + np.arange(32)[None, :] * 10 + np.arange(32)[:, None]).astype(np.uint16)
    pixels = np.array([[3.4, 7.6], [0.0, 0.0], [31.4, 31.4]])
    labels = sample_labels(depth_mm, camera, np.eye(4), camera.rays(pixels)[None])
    np.testing.assert_allclose(labels.depth[0], [1.038, 1.0, 1.341], atol=1e-6)


def test_cell_centres() -> None:
    for stride, first in ((8, 3.5), (16, 7.5)):
        grid = CAMERA.project(CAMERA.ray_grid(stride))
        np.testing.assert_allclose(grid[0, :3, 0], first + stride * np.arange(3), atol=1e-12)
        np.testing.assert_allclose(grid[:3, 0, 1], first + stride * np.arange(3), atol=1e-12)


def test_what_has_no_label() -> None:
    depth_mm = np.full((48, 64), 2000, dtype=np.uint16)
    depth_mm[10, 10] = 0
    rays = np.concatenate(
        [
            CAMERA.rays(np.array([[10.0, 10.0], [-1.0, 5.0], [64.0, 5.0], [5.0, 48.0], [5.0, 5.0]])),
            [[np.nan] * 3],
        ]
    )
    labels = sample_labels(depth_mm, CAMERA, np.eye(4), rays[None])
    assert labels.valid_mask[0].tolist() == [False, False, False, False, True, False]
    assert labels.depth[0].tolist() == [0, 0, 0, 0, 2, 0]
    assert not labels.scene_coordinates[0, :4].any()
    assert not labels.scene_coordinates[0, 5].any()


def nearest_pixel_labels(
    depth_mm: np.ndarray, camera: Camera, map_from_camera: np.ndarray, rays: np.ndarray
) -> Labels:
    """Return the labels as they are defined for dense depth, ray by ray."""
    depth = np.zeros(rays.shape[:2])
    for index in np.ndindex(*depth.shape):
        column, row = np.rint(camera.project(rays[index]))
        if 0 <= column < camera.width and 0 <= row < camera.height:
            depth[index] = depth_mm[int(row), int(column)] * 1e-3
    points_in_map = transform_points(map_from_camera, rays * depth[..., None])
    valid_mask = depth > 0
    return Labels(depth.astype(np.float32), np.where(valid_mask[..., None], points_in_map, 0.0), valid_mask)


@pytest.mark.parametrize("lens", LENSES)
def test_dense_depth_takes_the_nearest_pixel_and_no_other(lens: str) -> None:
    camera = LENSES[lens]
    map_from_camera = pose(0.2, 0.1, -0.6, 0.1)
    depth_mm = millimetres(render(camera, map_from_camera)[1])
    depth_mm[20:60, 30:90] = 0  # a hole, as of a window
    depth_mm[70:, :50] = 0
    rays = random_view(np.random.default_rng(1), 10.0, 5.0, (0.9, 1.1)).camera_rays(camera.ray_grid(8))
    labels = sample_labels(depth_mm, camera, map_from_camera, rays)
    expected = nearest_pixel_labels(depth_mm, camera, map_from_camera, rays)
    assert 0.3 < labels.valid_mask.mean() < 0.9
    for name, values in vars(expected).items():
        np.testing.assert_array_equal(getattr(labels, name), values)


def test_what_is_sparse() -> None:
    depth_mm = np.full((48, 64), 1500, dtype=np.uint16)
    assert not is_sparse(depth_mm)
    assert not is_sparse(np.zeros_like(depth_mm))
    depth_mm[:, 3:] = 0
    assert not is_sparse(depth_mm)  # a sensor that saw little is no cloud of points
    depth_mm[:] = 0
    depth_mm[::6] = 1500
    assert is_sparse(depth_mm)  # a lidar's rings
    assert is_sparse(depth_mm.T)
    points = np.zeros_like(depth_mm)
    points.reshape(-1)[np.random.default_rng(0).permutation(points.size)[:700]] = 1500
    assert is_sparse(points)


@pytest.mark.parametrize("lens", LENSES)
def test_every_sparse_point_labels_its_cell(lens: str) -> None:
    """One point in every third cell, anywhere within it, in a view turned and scaled; nothing gets lost."""
    camera = LENSES[lens]
    stride, random = 8, np.random.default_rng(3)
    for map_from_camera in poses(6, seed=4):
        view = random_view(random, 15.0, 5.0, (0.85, 1.2))
        true_mm = millimetres(render(camera, map_from_camera)[1])
        depth_mm = np.zeros_like(true_mm)
        expected = np.zeros((camera.height // stride, camera.width // stride), dtype=np.uint16)
        for row, column in np.ndindex(*expected.shape):
            # Not within a pixel of the cell's border: rounding to a pixel may carry it over.
            in_view = np.array([column, row]) * stride + random.uniform(1.0, stride - 2.0, 2)
            landed = camera.project(view.camera_rays(camera.rays(in_view)))
            if (row + column) % 3 or not np.isfinite(landed).all():
                continue
            x, y = np.rint(landed).astype(int)
            if 0 <= x < camera.width and 0 <= y < camera.height:
                depth_mm[y, x] = expected[row, column] = true_mm[y, x]
        rays = view.camera_rays(camera.ray_grid(stride))
        labels = sample_labels(depth_mm, camera, map_from_camera, rays)
        assert (expected > 0).sum() > 30
        np.testing.assert_array_equal(labels.depth, (expected * 1e-3).astype(np.float32))
        # Depth, ray and scene coordinates are one point.
        points_in_map = transform_points(map_from_camera, rays * (expected * 1e-3)[..., None])[expected > 0]
        np.testing.assert_allclose(labels.scene_coordinates[expected > 0], points_in_map, atol=1e-12)
        assert not labels.scene_coordinates[expected == 0].any()


@given(st.data())
@settings(max_examples=30)
def test_of_several_sparse_points_the_nearest_counts(data: st.DataObject) -> None:
    camera = Camera(48, 32, 40.0, 40.0, 23.5, 15.5)
    numbers = st.integers(0, camera.width * camera.height - 1)
    chosen = data.draw(st.lists(numbers, min_size=2, max_size=60, unique=True))
    depth_mm = np.zeros((camera.height, camera.width), dtype=np.uint16)
    depth_mm.reshape(-1)[chosen] = 1000 + np.arange(len(chosen))
    labels = sample_labels(depth_mm, camera, np.eye(4), camera.ray_grid(8))
    if not is_sparse(depth_mm):
        return
    for row, column in np.ndindex(4, 6):
        block = depth_mm[8 * row : 8 * row + 8, 8 * column : 8 * column + 8]
        ys, xs = np.nonzero(block)
        assert labels.valid_mask[row, column] == (len(ys) > 0)
        if len(ys):
            distance = np.hypot(ys - 3.5, xs - 3.5)
            nearest = block[ys, xs][distance <= distance.min() + 1e-9]
            assert np.rint(1000 * labels.depth[row, column]) in nearest


def test_sparse_points_outside_the_grid_are_left_out() -> None:
    camera = Camera(40, 40, 40.0, 40.0, 19.5, 19.5)
    depth_mm = np.zeros((40, 40), dtype=np.uint16)
    depth_mm[2, 2] = depth_mm[20, 37] = 1000
    depth_mm[13, 12] = 2000
    rays = camera.ray_grid(8)[1:4, 1:4]  # cells that cover pixels 8 .. 31
    labels = sample_labels(depth_mm, camera, np.eye(4), rays)
    assert np.argwhere(labels.valid_mask).tolist() == [[0, 0]]
    assert labels.depth[0, 0] == 2.0
    unseen = np.full_like(rays, np.nan)  # every ray points behind the recorded camera
    assert not sample_labels(depth_mm, camera, np.eye(4), unseen).valid_mask.any()


def test_sparse_labels_are_near_those_of_dense_depth() -> None:
    """On slanted walls too: what is off is the depth's slope over half a cell, not the half cell itself."""
    camera = LENSES["pinhole"]
    off, sideways = [], []
    for map_from_camera in poses(8, seed=2):
        true_mm = millimetres(render(camera, map_from_camera)[1])
        depth_mm = np.where(np.random.default_rng(0).random(true_mm.shape) < 0.03, true_mm, 0).astype(
            np.uint16
        )
        rays = camera.ray_grid(8)
        sparse = sample_labels(depth_mm, camera, map_from_camera, rays)
        dense = sample_labels(true_mm, camera, map_from_camera, rays)
        both = sparse.valid_mask
        assert both.mean() > 0.75  # 1 - 0.97^64 = 0.86; the nearest pixel alone would leave 0.03
        off.append(np.linalg.norm(sparse.scene_coordinates - dense.scene_coordinates, axis=-1)[both])
        sideways.append(2.0 / camera.fx * dense.depth[both])
    assert np.median(np.concatenate(off)) < 0.5 * np.median(np.concatenate(sideways))
