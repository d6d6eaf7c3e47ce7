"""A miniature scene in the layout of 12-Scenes, of the box room."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from recordings import poses, render

from structpose_ros.camera import Camera

# An eighth of 1296x968 and 640x480: the sides shrink by different factors.
COLOR = Camera(162, 121, 144.7875, 144.19125, 80.6875, 60.0)
DEPTH = Camera(80, 60, 71.5, 71.5, 39.6, 29.4)
SPLIT = "sequence0 [frames=2]  [start=0 ; end=1]\nsequence1 [frames=3]  [start=2 ; end=4]\n"


def matrix(values: np.ndarray) -> str:
    return " ".join(f"{value:.17g}" for value in np.asarray(values).reshape(-1)) + " "


def write_scene(
    root: Path,
    depth_camera: Camera = DEPTH,
    color_from_depth: np.ndarray | None = None,
    per_metre: int = 1000,
    count: int = 5,
) -> list[np.ndarray]:
    """Write a scene in the layout of 12-Scenes; returns map_from_camera of its colour camera per frame."""
    extrinsic = np.eye(4) if color_from_depth is None else color_from_depth
    (root / "data").mkdir(parents=True)
    lines = {
        "m_versionNumber": 4,
        "m_sensorName": "StructureSensor",
        "m_colorWidth": COLOR.width,
        "m_colorHeight": COLOR.height,
        "m_depthWidth": depth_camera.width,
        "m_depthHeight": depth_camera.height,
        "m_depthShift": per_metre,
    }
    for kind, camera, pose in (("Color", COLOR, np.eye(4)), ("Depth", depth_camera, extrinsic)):
        intrinsic = np.eye(4)
        intrinsic[:3, :3] = camera.matrix
        lines[f"m_calibration{kind}Intrinsic"] = matrix(intrinsic)
        lines[f"m_calibration{kind}Extrinsic"] = matrix(pose)
    lines["m_frames.size"] = count
    (root / "info.txt").write_text("".join(f"{key} = {value}\n" for key, value in lines.items()))
    (root / "split.txt").write_text(SPLIT)
    map_from_colors = poses(count, 4)
    for number, map_from_color in enumerate(map_from_colors):
        stem = root / "data" / f"frame-{number:06d}"
        image, _ = render(COLOR, map_from_color)
        _, depth = render(depth_camera, map_from_color @ extrinsic)
        cv2.imwrite(
            f"{stem}.color.jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 100]
        )
        cv2.imwrite(f"{stem}.depth.png", np.rint(depth * per_metre).astype(np.uint16))
        np.savetxt(f"{stem}.pose.txt", map_from_color)
    return map_from_colors
