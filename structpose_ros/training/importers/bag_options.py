"""What an import of a bag can be told."""

from __future__ import annotations

import math
from dataclasses import dataclass

from structpose_ros.training.frames import RecordingError


@dataclass(frozen=True)
class BagOptions:
    """Topics (None: found by their types), where the poses come from, and how images are read.

    with_depth: False imports without depth. rectified: the images are rectified, P is their camera.
    depth_scale: metres per unit of depth; None for millimetres as integers, metres as floats.
    max_offset (s): how far the stamps of a colour image and its depth may lie apart.

    map_frame: None for `map`, or for the frame of the poses on `pose_topic`. tf: the topic of moving
    transforms; with `_static` appended, of static ones. pose_topic: poses of `pose_frame` instead of TF
    alone. pose_frame: None for Odometry's child_frame_id, else the camera. max_gap (s): between two poses.
    """

    image: str | None = None
    camera_info: str | None = None
    depth: str | None = None
    depth_info: str | None = None
    with_depth: bool = True
    rectified: bool = False
    depth_scale: float | None = None
    max_offset: float = 0.02
    map_frame: str | None = None
    tf: str = "/tf"
    pose_topic: str | None = None
    pose_frame: str | None = None
    max_gap: float = 0.2

    def __post_init__(self) -> None:
        for name in ("max_offset", "max_gap", "depth_scale"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise RecordingError(f"{name}: expected a number above 0, got {value}")
