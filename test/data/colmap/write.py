"""Writes this folder's files with COLMAP's own code (pycolmap 4.2.1): what our reader has to agree with."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pycolmap

OUT = Path(__file__).resolve().parent
MODELS = {
    "SIMPLE_PINHOLE": [60.0, 32.25, 23.75],
    "PINHOLE": [60.0, 61.0, 32.25, 23.75],
    "SIMPLE_RADIAL": [60.0, 32.25, 23.75, -0.1],
    "RADIAL": [60.0, 32.25, 23.75, -0.1, 0.02],
    "OPENCV": [60.0, 61.0, 32.25, 23.75, -0.1, 0.02, 0.001, -0.002],
    "FULL_OPENCV": [60.0, 61.0, 32.25, 23.75, -0.1, 0.02, 0.001, -0.002, 0.003, 0.01, 0.004, 0.002],
    "OPENCV_FISHEYE": [30.0, 31.0, 32.25, 23.75, 0.01, -0.02, 0.003, 0.001],
    "SIMPLE_RADIAL_FISHEYE": [30.0, 32.25, 23.75, 0.01],
    "RADIAL_FISHEYE": [30.0, 32.25, 23.75, 0.01, -0.02],
}


def camera(model: str, camera_id: int) -> pycolmap.Camera:
    return pycolmap.Camera(model=model, width=64, height=48, params=MODELS[model], camera_id=camera_id)


def main() -> None:
    random = np.random.default_rng(1)
    opencv, reconstruction = camera("OPENCV", 3), pycolmap.Reconstruction()
    reconstruction.add_camera_with_trivial_rig(opencv)
    points = random.uniform([-1, -1, 3], [1, 1, 5], (6, 3))
    truth: dict[str, object] = {"images": {}, "points": [], "rays": points.tolist()}
    for number, name in enumerate(["b/two.png", "a one.jpg", "c.png"], start=1):
        quaternion = random.normal(size=4) * [0.05, 0.05, 0.05, 0] + [0, 0, 0, 1]
        rotation = pycolmap.Rotation3d(quaternion / np.linalg.norm(quaternion))
        camera_from_map = pycolmap.Rigid3d(rotation, random.uniform(-0.2, 0.2, 3))
        seen = [
            opencv.img_from_cam(rotation.matrix() @ point + camera_from_map.translation) for point in points
        ]
        keypoints = np.reshape(seen[: 6 if number < 3 else 0], (-1, 2))
        image = pycolmap.Image(name=name, keypoints=keypoints, camera_id=3, image_id=number)
        reconstruction.add_image_with_trivial_frame(image, camera_from_map)
        truth["images"][name] = camera_from_map.inverse().matrix().tolist()
    for index, point in enumerate(points[:5]):
        track = pycolmap.Track()
        for number in (1, 2) if index < 4 else (1,):
            track.add_element(number, index)
        point_id = reconstruction.add_point3D(point, track, np.array([1, 2, 3], np.uint8))
        reconstruction.points3D[point_id].error = 0.25 * index
        truth["points"].append([int(point_id), *point.tolist(), 0.25 * index, track.length()])
    truth["projections"] = [
        [model, values, [np.ravel(camera(model, 1).img_from_cam(point)).tolist() for point in points]]
        for model, values in MODELS.items()
    ]
    for kind, write in (("binary", reconstruction.write_binary), ("text", reconstruction.write_text)):
        (OUT / kind).mkdir(exist_ok=True)
        write(OUT / kind)
    numbers = np.arange(12, dtype=np.float32).reshape(3, 4)
    pycolmap.DepthMap.from_array(numbers, 0.0, 100.0).write(OUT / "map.geometric.bin")
    (OUT / "truth.json").write_text(json.dumps(truth, indent=1) + "\n")


if __name__ == "__main__":
    main()
