"""The calibration that RTAB-Map writes for each image: OpenCV's YAML with the fields of ROS' camera_info."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import yaml

from structpose_ros.camera import Camera
from structpose_ros.geometry import rigid_from_matrix
from structpose_ros.training.frames import MALFORMED, RecordingError, read_bytes


@dataclass(frozen=True)
class Calibration:
    """A rectified camera, and base_from_camera (4, 4) where the file says how it is mounted."""

    camera: Camera
    base_from_camera: npt.NDArray[np.float64] | None


class Calibrations:
    """Reads calibrations; the many that differ in nothing but the image's name are parsed once."""

    def __init__(self) -> None:
        """Start without any."""
        self._known: dict[str, Calibration] = {}

    def read(self, path: Path) -> Calibration:
        """Return what a file says.

        Raises:
            RecordingError: it is missing or malformed.
        """
        text = read_bytes(path, "an image's calibration").decode(errors="replace")
        # OpenCV's own first line is no YAML.
        kept = [line for line in text.splitlines() if not line.startswith(("%YAML", "camera_name:"))]
        content = "\n".join(kept)
        if content not in self._known:
            try:
                self._known[content] = _parse(yaml.safe_load(content))
            except (yaml.YAMLError, *MALFORMED) as error:
                reason = f"no {error}" if isinstance(error, KeyError) else " ".join(str(error).split())
                raise RecordingError(f"{path}: expected a calibration of RTAB-Map, got: {reason}") from error
        return self._known[content]


def common_camera(cameras: Sequence[Camera]) -> Camera:
    """Return the median of cameras that differ in their focus.

    Raises:
        RecordingError: they differ in size.
    """
    sizes = sorted({(camera.width, camera.height) for camera in cameras})
    if len(sizes) > 1:
        (a, b), (c, d) = sizes[:2]
        raise RecordingError(f"expected images of one size, got {a}x{b} and {c}x{d}")
    intrinsics = np.median([(camera.fx, camera.fy, camera.cx, camera.cy) for camera in cameras], axis=0)
    return Camera(*sizes[0], *intrinsics.tolist())


def _parse(content: dict[str, Any]) -> Calibration:
    projection = content.get("projection_matrix")
    k = _matrix(projection, 4) if projection else _matrix(content["camera_matrix"], 3)
    size = int(content["image_width"]), int(content["image_height"])
    camera = Camera(*size, float(k[0, 0]), float(k[1, 1]), float(k[0, 2]), float(k[1, 2]))
    local = content.get("local_transform")
    mounted = rigid_from_matrix(np.vstack([_matrix(local, 4), [0.0, 0.0, 0.0, 1.0]])) if local else None
    return Calibration(camera, mounted)


def _matrix(content: dict[str, Any], columns: int) -> npt.NDArray[np.float64]:
    return np.array(content["data"], dtype=np.float64).reshape(3, columns)
