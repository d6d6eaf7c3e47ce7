"""The whole way of a frame: image and camera in, a judged pose out."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from structpose_ros.alignment import AlignmentOptions, PoseEstimate, attempt
from structpose_ros.camera import Camera, resize_image
from structpose_ros.gate import Decision, GateOptions, judge
from structpose_ros.geometry import unproject
from structpose_ros.network import Network, Prediction, normalized_tensor


@dataclass(frozen=True)
class Result:
    """Everything known about one frame.

    image_rgb: (H, W, 3) at the model's input size. camera: of that image. rays: (h, w, 3), z = 1, of the
    points spoken of, 0 beyond the lens' reach. points_in_camera: (h, w, 3) metres, camera frame. weights: (h,
    w) that went into the solve, 0 beyond the lens' reach.
    covariance: (6, 6) as in `PoseEstimate`, calibrated by the model file; None without an estimate.
    stage_ms: milliseconds spent in `preprocess`, `network`, `align`.
    """

    decision: Decision
    estimate: PoseEstimate | None
    covariance: npt.NDArray[np.float64] | None
    prediction: Prediction
    camera: Camera
    rays: npt.NDArray[np.float64]
    points_in_camera: npt.NDArray[np.float64]
    weights: npt.NDArray[np.float64]
    image_rgb: npt.NDArray[np.uint8]
    stage_ms: dict[str, float]


class Relocalizer:
    """Runs the steps in order. Deterministic, and the same work on every frame. For one thread."""

    def __init__(
        self, network: Network, gate: GateOptions | None = None, alignment: AlignmentOptions | None = None
    ) -> None:
        """Use the alignment options of the model file unless others are given."""
        self.network = network
        self.gate = gate or GateOptions()
        self.alignment = alignment or network.contract.alignment
        contract = network.contract
        self._input_tensor = np.empty((1, 3, contract.input_height, contract.input_width), dtype=np.float32)
        self._rays_of: tuple[Camera, npt.NDArray[np.float64]] | None = None

    def localize(self, image_rgb: npt.NDArray[np.uint8], camera: Camera) -> Result:
        """Estimate and judge the pose of `camera` from its `image_rgb` (H, W, 3).

        Raises:
            CameraError: the image is not of 8 bits, or of another size than `camera` says.
        """
        contract = self.network.contract
        started = time.perf_counter()
        image, input_camera = resize_image(image_rgb, camera, contract.input_width, contract.input_height)
        input_camera = contract.refined(input_camera)
        cell_rays = self._cell_rays(input_camera)
        input_tensor = normalized_tensor(image, contract, self._input_tensor)
        prepared = time.perf_counter()
        prediction = self.network.predict(input_tensor, cell_rays)
        predicted = time.perf_counter()
        rays = prediction.rays(input_camera, cell_rays)
        points_in_camera = unproject(prediction.depth, rays)
        weights = np.where(rays[..., 2] > 0, prediction.weights, 0.0).astype(np.float64)
        attempted = attempt(
            points_in_camera.reshape(-1, 3),
            prediction.scene_coordinates.reshape(-1, 3),
            weights.reshape(-1),
            self.alignment,
        )
        decision = judge(attempted, contract, self.gate)
        finished = time.perf_counter()
        estimate = None if attempted.failure is not None else attempted.estimate
        return Result(
            decision=decision,
            estimate=estimate,
            covariance=None if estimate is None else contract.calibrated_covariance(estimate.covariance),
            prediction=prediction,
            camera=input_camera,
            rays=rays,
            points_in_camera=points_in_camera,
            weights=weights,
            image_rgb=image,
            stage_ms={
                "preprocess": 1e3 * (prepared - started),
                "network": 1e3 * (predicted - prepared),
                "align": 1e3 * (finished - predicted),
            },
        )

    def _cell_rays(self, camera: Camera) -> npt.NDArray[np.float64]:
        """Ray grid of a camera, kept until it changes; what the lens can't reach is zero."""
        if self._rays_of is None or self._rays_of[0] != camera:
            rays = camera.ray_grid(self.network.contract.stride)
            self._rays_of = (camera, np.where(np.isfinite(rays[..., :1]), rays, 0.0))
        return self._rays_of[1]
