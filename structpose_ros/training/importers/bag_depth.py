"""Depth of a bag as the colour camera would see it."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from structpose_ros.training.frames import RecordingError
from structpose_ros.training.importers.bag_messages import read_depth
from structpose_ros.training.importers.bag_options import BagOptions
from structpose_ros.training.importers.bag_poses import CameraPoses
from structpose_ros.training.importers.bag_scan import Scan
from structpose_ros.training.registration import register_depth


class DepthImages:
    """The depth images of a drive: registered already, or to be.

    They are registered if they have the colour images' frame and the same camera. Without a CameraInfo of
    their own, frame and size have to do.
    """

    def __init__(self, scan: Scan, poses: CameraPoses, options: BagOptions) -> None:
        """Find out how depth and colour go together.

        Raises:
            RecordingError: depth has another frame or size, and no CameraInfo; or TF does not connect them.
        """
        assert scan.depth is not None
        self.topic = scan.depth.topic
        self._tree, self._frame, self._color_frame = poses.tree, scan.depth.frame, scan.color.frame
        self._options = options
        self._color_camera = scan.camera
        same_frame = self._frame == self._color_frame
        same_size = scan.depth_size in (None, (scan.camera.width, scan.camera.height))
        if scan.depth_camera is None and not (same_frame and same_size):
            got = "none" if scan.depth_size is None else f"{scan.depth_size[0]}x{scan.depth_size[1]}"
            raise RecordingError(
                f"{self.topic}: expected a CameraInfo (--depth-info), as its size {got} or frame "
                f"'{self._frame}' differs from colour's, got none"
            )
        self._camera = scan.depth_camera or scan.camera
        self._is_registered = same_frame and self._camera == scan.camera
        self._tree.span(self._color_frame, self._frame)  # refuses frames that are not connected

    @cached_property
    def _rays(self) -> npt.NDArray[np.float64]:
        return self._camera.ray_grid()  # not before an image shows that the size is no mere claim

    def read(self, message: Any, stamp_ns: int, source: str) -> npt.NDArray[np.uint16]:
        """Return depth (H, W) in mm as the colour camera sees it at `stamp_ns`, 0 invalid.

        Raises:
            RecordingError: it can't be decoded, or has not the size that its camera says.
        """
        depth_mm = read_depth(message, self._options.depth_scale, f"{source}: depth")
        height, width = depth_mm.shape
        if (width, height) != (self._camera.width, self._camera.height):
            raise RecordingError(
                f"{source}: expected depth of {self._camera.width}x{self._camera.height} as its camera says, "
                f"got {width}x{height}"
            )
        if self._is_registered:
            return depth_mm
        color_from_depth = self._tree.lookup(self._color_frame, self._frame, stamp_ns, self._options.max_gap)
        return register_depth(depth_mm, self._rays, color_from_depth, self._color_camera)
