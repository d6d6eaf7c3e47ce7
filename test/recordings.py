"""Small recordings of a known room: a box with smoothly coloured walls, seen by exact ray casting."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from structpose_ros.camera import Camera
from structpose_ros.geometry import rotation_from_vector, transform
from structpose_ros.training.frames import Frame, write_atomic, write_camera, write_frame
from structpose_ros.training.importers.sevenscenes import COLOR_CAMERA, COLOR_FROM_DEPTH, DEPTH_CAMERA

CAMERA = Camera(64, 48, 60.0, 60.0, 31.5, 23.5)
LOW, HIGH = np.array([-2.0, -1.5, 0.0]), np.array([2.0, 1.5, 2.5])
LEVEL = np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])  # optical axes of a camera facing x


def pose(x: float, y: float, yaw: float, pitch: float = 0.0) -> np.ndarray:
    """Return map_from_camera of a camera 1.2 m above the floor; yaw and pitch in radians."""
    turned = rotation_from_vector([0.0, 0.0, yaw]) @ LEVEL @ rotation_from_vector([pitch, 0.0, 0.0])
    return transform(turned, [x, y, 1.2])


def render(camera: Camera, map_from_camera: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the image (H, W, 3) uint8 and the true depth (H, W) in metres, 0 beyond the lens' reach."""
    rays = camera.ray_grid() @ map_from_camera[:3, :3].T
    origin = map_from_camera[:3, 3]
    with np.errstate(divide="ignore"):
        reach = np.where(rays > 0, (HIGH - origin) / rays, (LOW - origin) / rays)
    depth = np.nanmin(np.where(np.isfinite(reach), reach, np.inf), axis=-1)  # rays have z = 1 in the camera
    reached = np.isfinite(depth)
    depth = np.where(reached, depth, 0.0)
    points_in_map = origin + np.nan_to_num(rays) * depth[..., None]
    return np.where(reached[..., None], colors(points_in_map), np.uint8(0)), depth


def colors(points_in_map: np.ndarray) -> np.ndarray:
    """Return the colour (..., 3) uint8 of places on the walls: smooth, and different everywhere."""
    x, y, z = points_in_map[..., 0], points_in_map[..., 1], points_in_map[..., 2]
    waves = [np.sin(1.3 * x + 0.4) + y / 3, np.sin(1.1 * y + z), np.cos(1.4 * z + 0.7 * x)]
    return np.clip(127 + 90 * np.stack(waves, axis=-1), 0, 255).astype(np.uint8)


def millimetres(depth: np.ndarray) -> np.ndarray:
    """Return depth in metres as the files hold it."""
    return np.rint(1000 * depth).astype(np.uint16)


def frame(name: str, map_from_camera: np.ndarray, camera: Camera = CAMERA) -> Frame:
    """Return a rendered frame."""
    image, depth = render(camera, map_from_camera)
    return Frame(name, image, millimetres(depth), map_from_camera)


def poses(count: int, seed: int) -> list[np.ndarray]:
    """Return poses along a drive in the middle of the room."""
    random = np.random.default_rng(seed)
    return [pose(*random.uniform([-0.8, -0.6, -3.0, -0.2], [0.8, 0.6, 3.0, 0.2])) for _ in range(count)]


def write_recording(root: Path, train: int = 12, test: int = 4, camera: Camera = CAMERA) -> Path:
    """Write a recording in the project's own layout: seq-01 to train on, seq-02 to test on."""
    for sequence, count in ((1, train), (2, test)):
        for number, map_from_camera in enumerate(poses(count, sequence)):
            write_frame(root / f"seq-{sequence:02d}", number, frame("", map_from_camera, camera))
    write_atomic(root / "TrainSplit.txt", b"sequence1\n")
    write_atomic(root / "TestSplit.txt", b"sequence2\n")
    write_camera(root / "camera.yaml", camera)
    return root


def write_sevenscenes(root: Path, count: int = 2, seed: int = 5) -> list[np.ndarray]:
    """Write a scene in the layout of 7-Scenes; returns map_from_camera of its colour camera per frame."""
    folder = root / "seq-01"
    folder.mkdir(parents=True)
    map_from_colors = poses(count, seed)
    for number, map_from_color in enumerate(map_from_colors):
        map_from_depth = map_from_color @ COLOR_FROM_DEPTH
        stem = folder / f"frame-{number:06d}"
        image, _ = render(COLOR_CAMERA, map_from_color)
        _, depth = render(DEPTH_CAMERA, map_from_depth)
        cv2.imwrite(f"{stem}.color.png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
        cv2.imwrite(f"{stem}.depth.png", millimetres(depth))
        np.savetxt(f"{stem}.pose.txt", map_from_depth)
    (root / "TrainSplit.txt").write_text("sequence1\n")
    return map_from_colors


def real_data(*parts: str) -> Path:
    """Return a path of the real data, or skip where it is absent."""
    root = Path(os.environ.get("STRUCTPOSE_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
    path = root.joinpath(*parts)
    if not path.exists():
        pytest.skip(f"no real data at {path} (STRUCTPOSE_DATA names the folder)")
    return path
