"""What is measured of a scene before training, and batches of augmented views of its frames."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import Dataset, default_collate

from structpose_ros.camera import Camera
from structpose_ros.training.augmentation import IDENTITY_VIEW, photometric, random_view
from structpose_ros.training.config import AugmentationConfig
from structpose_ros.training.frames import Frame, FrameFiles, RecordingError
from structpose_ros.training.labels import Labels, sample_labels
from structpose_ros.training.losses import BatchLabels
from structpose_ros.training.networks import HALF_STRIDE, STRIDE

POINTS_KEPT = 8_000_000  # at most, while measuring a scene: 100 MB
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class SceneStatistics:
    """Measured once: scene_mean (3,) m, depth_scale m (mean valid depth), corners of the map (3,) m."""

    scene_mean: npt.NDArray[np.float64]
    depth_scale: float
    map_min: npt.NDArray[np.float64]
    map_max: npt.NDArray[np.float64]


def scene_statistics(
    frames: Iterable[Frame],
    camera: Camera,
    input_camera: Camera,
    on_labels: Callable[[npt.NDArray[np.uint8], Labels], None] | None = None,
) -> SceneStatistics:
    """Measure the scene from every frame's labels at the network's cells.

    `on_labels` sees each frame's image and labels on the way; no frame is kept.

    Raises:
        RecordingError: there is no frame, or none has a valid depth.
    """
    rays = input_camera.ray_grid(STRIDE)
    kept: list[npt.NDArray[np.float32]] = []
    frames_read, samples, samples_kept, share = 0, 0, 0, 1.0
    random = np.random.default_rng(0)  # every second one would miss whole columns of cells
    points_sum, depth_sum = np.zeros(3), 0.0
    for frame in frames:
        frames_read += 1
        labels = sample_labels(frame.depth_mm, camera, frame.map_from_camera, rays)
        points = labels.scene_coordinates[labels.valid_mask]
        samples += len(points)
        points_sum += points.sum(axis=0)
        depth_sum += float(labels.depth.sum(dtype=np.float64))
        kept.append(points[random.random(len(points)) < share].astype(np.float32))
        samples_kept += len(kept[-1])
        if samples_kept > POINTS_KEPT:  # the extent of a large place needs no more of them
            kept, share = [item[random.random(len(item)) < 0.5] for item in kept], share / 2
            samples_kept = sum(map(len, kept))
        if on_labels:
            on_labels(frame.image_rgb, labels)
    if frames_read == 0:
        raise RecordingError("expected training frames, got none")
    if samples == 0:
        raise RecordingError(
            "expected valid depth in the training frames, got none (structpose labels takes it from a mesh)"
        )
    # Single flying pixels are not the map.
    low, high = np.percentile(np.concatenate(kept), [0.1, 99.9], axis=0)
    return SceneStatistics(points_sum / samples, depth_sum / samples, low, high)


class ViewDataset(Dataset[dict[str, torch.Tensor]]):
    """Augmented views of frames. A view depends on (seed, epoch, index) alone, not on workers or order."""

    def __init__(
        self,
        frames: Sequence[Frame],
        camera: Camera,
        input_camera: Camera,
        statistics: SceneStatistics,
        augmentation: AugmentationConfig,
        seed: int,
    ) -> None:
        """Use `frames` taken by `camera` (that of the depth), with images of `input_camera`."""
        self.frames = frames
        self.camera = camera
        self.input_camera = input_camera
        self.statistics = statistics
        self.augmentation = augmentation
        self.seed = seed
        self.epoch = 0
        self.rigid = False  # stage 2 compares poses, so its views must be true camera motions
        self.rays = input_camera.ray_grid(STRIDE)
        self.half_rays = _half_rays(input_camera)

    def __len__(self) -> int:
        """Return the number of frames."""
        return len(self.frames)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        """Return image (3, H, W), scene_coordinates (3, h, w), depth and half_depth (1, ...), pose."""
        frame = self.frames[index]
        random = np.random.default_rng([self.seed, self.epoch, index])
        options = self.augmentation
        scale = (1.0, 1.0) if self.rigid else (options.scale_low, options.scale_high)
        view = IDENTITY_VIEW
        image_rgb = frame.image_rgb
        if options.roll_degrees > 0 or options.tilt_degrees > 0 or scale != (1.0, 1.0):
            view = random_view(random, options.roll_degrees, options.tilt_degrees, scale)
            image_rgb = view.warp(image_rgb, self.input_camera)
        if options.photometric:
            image_rgb = photometric(image_rgb, random)

        camera_rays = view.camera_rays(self.rays)
        labels = sample_labels(frame.depth_mm, self.camera, frame.map_from_camera, camera_rays)
        centred = np.where(
            labels.valid_mask[..., None], labels.scene_coordinates - self.statistics.scene_mean, 0.0
        )
        half_rays = view.camera_rays(self.half_rays)
        half = sample_labels(frame.depth_mm, self.camera, frame.map_from_camera, half_rays)
        map_from_view = frame.map_from_camera.copy()
        map_from_view[:3, :3] = frame.map_from_camera[:3, :3] @ view.camera_from_view
        map_from_view[:3, 3] -= self.statistics.scene_mean
        return {
            "image": torch.from_numpy(np.ascontiguousarray(image_rgb.transpose(2, 0, 1))),
            "scene_coordinates": torch.from_numpy(centred.transpose(2, 0, 1).astype(np.float32)),
            "depth": torch.from_numpy(view.view_depth(labels.depth, camera_rays)[None].astype(np.float32)),
            "half_depth": torch.from_numpy(view.view_depth(half.depth, half_rays)[None].astype(np.float32)),
            "map_from_camera": torch.from_numpy(map_from_view),
        }


def _half_rays(camera: Camera) -> npt.NDArray[np.float64]:
    """Return the rays (ceil(h / 2), ceil(w / 2), 3) of the half-resolution depth of an (h, w) grid.

    Where a side is odd its last cells stand at the image's edge, where there is no label.
    """
    width, height = (-(-side // HALF_STRIDE) * HALF_STRIDE for side in (camera.width, camera.height))
    return replace(camera, width=width, height=height).ray_grid(HALF_STRIDE)


def start_worker(_: int) -> None:
    """Prepare a loader's worker: one thread, as OpenCV's pool does not survive a fork, on any core.

    A parent whose OpenMP threads are bound to cores (OMP_PROC_BIND) would pass on its own one core.
    """
    cv2.setNumThreads(0)
    os.sched_setaffinity(0, range(os.cpu_count() or 1))


def collate(samples: list[dict[str, torch.Tensor]]) -> tuple[torch.Tensor, BatchLabels]:
    """Stack samples into uint8 images (B, 3, H, W) and labels."""
    batch = default_collate(samples)
    image = batch.pop("image")
    return image, BatchLabels(**batch)


def normalize_images(image_B3HW: torch.Tensor) -> torch.Tensor:
    """Return float32 images with ImageNet's mean and deviation taken out."""
    mean = torch.tensor(IMAGENET_MEAN, device=image_B3HW.device).view(1, 3, 1, 1) * 255.0
    deviation = torch.tensor(IMAGENET_STD, device=image_B3HW.device).view(1, 3, 1, 1) * 255.0
    return (image_B3HW.float() - mean) / deviation


def split_validation(
    files: Sequence[FrameFiles], fraction: float
) -> tuple[list[FrameFiles], list[FrameFiles]]:
    """Return (training, held-out) frames: the last `fraction` of each sequence is held out, as one block."""
    training: list[FrameFiles] = []
    held_out: list[FrameFiles] = []
    sequences = dict.fromkeys(item.name.split("/")[0] for item in files)
    for sequence in sequences:
        members = [item for item in files if item.name.startswith(f"{sequence}/")]
        keep = len(members) - int(round(fraction * len(members)))
        training += members[:keep]
        held_out += members[keep:]
    return training, held_out
