"""Labels at the cells' centres."""

from __future__ import annotations

import numpy as np
from recordings import CAMERA, millimetres, pose, render

from structpose_ros.camera import Camera
from structpose_ros.training.labels import sample_labels


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
