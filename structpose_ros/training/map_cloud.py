"""The coarse coloured point cloud of a scene, gathered from the training labels frame by frame."""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from structpose_ros.map_cloud import MapCloud
from structpose_ros.training import dataset as data
from structpose_ros.training.config import TrainingConfig
from structpose_ros.training.frame_store import read_resized
from structpose_ros.training.frames import Frame, Recording, RecordingError, handle_bad
from structpose_ros.training.labels import Labels

FINEST_VOXEL = 0.025  # metres
POINTS = 10_000  # at most, in the cloud
VOXELS_KEPT = 500_000  # at most, while gathering: 40 MB
_PENDING = 200_000  # samples between two merges

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]


class MapCloudBuilder:
    """Averages samples within the cells of a voxel grid that stands at the map's origin.

    Samples are merged as they come, in voxels of `FINEST_VOXEL` that are doubled while there are more than
    `voxels_kept`. The cloud's voxels are n times that, n being the first of 1, 2, ... 8, 10, 12, 15 ... that
    leaves at most `points`. Whole multiples cut no voxel in two, so the cloud is what all samples at once
    would give, whatever the order of the frames.
    """

    def __init__(self, points: int = POINTS, voxels_kept: int = VOXELS_KEPT) -> None:
        """`points`: the most that the cloud may have; `voxels_kept`: the most to keep while gathering."""
        self._points = points
        self._voxels_kept = voxels_kept
        self._voxel = FINEST_VOXEL
        # Per voxel (x, y, z) the sums of its samples: number, x, y, z, red, green, blue.
        self._pending: list[tuple[IntArray, FloatArray]] = []
        self._pending_samples = 0

    def add(self, image_rgb: npt.NDArray[np.uint8], labels: Labels) -> None:
        """Add a frame: its image (H, W, 3), and labels at the centres of the image's (h, w) cells."""
        height, width = labels.depth.shape
        colors = cv2.resize(image_rgb, (width, height), interpolation=cv2.INTER_AREA)[labels.valid_mask]
        points_in_map = labels.scene_coordinates[labels.valid_mask]
        if len(points_in_map) == 0:
            return
        voxels = np.floor(points_in_map / self._voxel).astype(np.int64)
        sums = np.concatenate([np.ones((len(colors), 1)), points_in_map, colors], axis=1)
        self._pending.append((voxels, sums))
        self._pending_samples += len(sums)
        if self._pending_samples >= _PENDING:
            self._merge()

    def cloud(self) -> MapCloud:
        """Return the cloud of all frames so far; raises ModelFileError where there was no valid label."""
        self._merge()
        factor = 1
        voxels, sums = self._pending[0]
        while len(voxels) > self._points:
            factor += max(1, factor // 4)
            voxels, sums = _merged(self._pending[0][0] // factor, self._pending[0][1])
        means = sums[:, 1:] / sums[:, :1]
        return MapCloud(means[:, :3].astype(np.float32), np.rint(means[:, 3:]).astype(np.uint8))

    def _merge(self) -> None:
        """Make one entry per voxel of what is pending, doubling the voxels while there are too many."""
        voxels = np.concatenate([np.empty((0, 3), np.int64), *(item[0] for item in self._pending)])
        sums = np.concatenate([np.empty((0, 7)), *(item[1] for item in self._pending)])
        voxels, sums = _merged(voxels, sums)
        while len(voxels) > self._voxels_kept:
            self._voxel *= 2.0
            voxels, sums = _merged(voxels // 2, sums)
        self._pending, self._pending_samples = [(voxels, sums)], 0


def _merged(voxels: IntArray, sums: FloatArray) -> tuple[IntArray, FloatArray]:
    """Add up the sums (N, 7) of equal voxels (N, 3); returns each voxel once, in order."""
    if len(voxels) == 0:
        return voxels, sums
    order = np.lexsort(voxels.T)
    voxels, sums = voxels[order], sums[order]
    first = np.flatnonzero(np.append(True, (np.diff(voxels, axis=0) != 0).any(axis=1)))
    return voxels[first], np.add.reduceat(sums, first, axis=0)


def measure_scene(
    recording: Recording, config: TrainingConfig, *, skip_bad: bool
) -> tuple[data.SceneStatistics, MapCloud]:
    """Read a recording's training frames, one at a time, and return what training would measure of them.

    Raises:
        RecordingError: frames are bad, unless they are to be skipped, or none is left.
    """
    files, bad = recording.files("train")
    total = len(files) + len(bad)
    handle_bad(bad, total, skip_bad)
    training_files, _ = data.split_validation(files, config.validation_fraction)

    def frames() -> Iterator[Frame]:
        for item in tqdm(training_files, desc="reading frames", unit="frame"):
            try:
                yield read_resized(recording, item, config.input)
            except RecordingError as error:
                bad.append(str(error))

    builder = MapCloudBuilder()
    input_camera = recording.camera.resized(config.input.width, config.input.height)
    statistics = data.scene_statistics(frames(), recording.camera, input_camera, builder.add)
    handle_bad(bad, total, skip_bad)
    for line in bad:
        print(f"left out: {line}")
    return statistics, builder.cloud()
