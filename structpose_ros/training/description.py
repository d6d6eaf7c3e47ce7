"""What a model file's card says of a run: what its views show, measured frame by frame, and how it went."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from structpose_ros.camera import Camera
from structpose_ros.contract import from_json
from structpose_ros.model_card import TrainingDescription, TrainingRun, Vector
from structpose_ros.training.config import TrainingConfig
from structpose_ros.training.frames import NOTHING_SEEN_MM, Frame, RecordingError

SAMPLES_PER_SIDE = 32  # pixels looked at of an image's rows and columns
NAMES_KEPT = 20
STEEPEST_DEG = 80.0  # a view that looks further up or down has no heading and no roll to speak of
_LUMA = np.array([0.299, 0.587, 0.114])
_SHARES = (0.05, 0.50, 0.95)


class FrameDescriber:
    """Takes in one frame at a time and keeps a few numbers of it."""

    def __init__(self, camera: Camera) -> None:
        """`camera` took the frames; those given may be resized."""
        self._camera = camera
        self._frames_of: dict[str, int] = {}
        self._positions: list[npt.NDArray[np.float64]] = []
        self._headings: list[float] = []
        self._pitches: list[float] = []
        self._rolls: list[float] = []
        self._up = np.zeros(3)
        self._depths_mm = np.zeros(NOTHING_SEEN_MM + 1, dtype=np.int64)  # how often each was seen
        self._brightnesses: list[float] = []
        self._contrasts: list[float] = []

    def add(self, frame: Frame) -> None:
        """Add a frame that the model is trained on."""
        sequence = frame.name.partition("/")[0]
        self._frames_of[sequence] = self._frames_of.get(sequence, 0) + 1
        self._add_pose(frame.map_from_camera)
        depth_mm = _sampled(frame.depth_mm).reshape(-1)
        self._depths_mm += np.bincount(depth_mm[depth_mm > 0], minlength=len(self._depths_mm))
        luma = _sampled(frame.image_rgb) @ _LUMA
        self._brightnesses.append(float(luma.mean()))
        self._contrasts.append(float(luma.std()))

    def watch(self, frames: Iterable[Frame]) -> Iterator[Frame]:
        """Yield frames on their way to another, each added."""
        for frame in frames:
            self.add(frame)
            yield frame

    def _add_pose(self, map_from_camera: npt.NDArray[np.float64]) -> None:
        right, down, forward = map_from_camera[:3, :3].T
        self._positions.append(map_from_camera[:3, 3].copy())
        self._up -= down
        pitch = float(np.degrees(np.arcsin(np.clip(forward[2], -1.0, 1.0))))
        self._pitches.append(pitch)
        if abs(pitch) <= STEEPEST_DEG:
            self._headings.append(float(np.degrees(np.arctan2(forward[1], forward[0]))))
            self._rolls.append(float(np.degrees(np.arctan2(-right[2], -down[2]))))

    def description(self) -> TrainingDescription:
        """Return what all frames so far show; raises RecordingError where there was none."""
        if not self._positions:
            raise RecordingError("expected training frames, got none")
        positions = np.array(self._positions)
        return TrainingDescription(
            frames=len(positions),
            sequences=len(self._frames_of),
            sequence_names=tuple(self._frames_of)[:NAMES_KEPT],
            image_width=self._camera.width,
            image_height=self._camera.height,
            position_min=_vector(positions.min(axis=0)),
            position_max=_vector(positions.max(axis=0)),
            heading_deg=covering_arc(self._headings),
            pitch_deg=(min(self._pitches), max(self._pitches)),
            roll_deg=covering_arc(self._rolls),
            up_deviation_deg=float(np.degrees(np.arctan2(np.linalg.norm(self._up[:2]), self._up[2]))),
            depth_m=self._depth_quantiles(),
            brightness=_vector(np.quantile(self._brightnesses, _SHARES)),
            contrast=float(np.mean(self._contrasts)),
        )

    def _depth_quantiles(self) -> Vector | None:
        reached = np.cumsum(self._depths_mm)
        if reached[-1] == 0:
            return None
        return _vector(np.searchsorted(reached, np.multiply(_SHARES, reached[-1])) / 1000.0)


def describe_frames(frames: Iterable[Frame], camera: Camera) -> TrainingDescription:
    """Describe the frames that a model is trained on, one at a time; none is kept.

    Args:
        frames: as read, images may be resized.
        camera: that took them.

    Raises:
        RecordingError: there is no frame.
    """
    describer = FrameDescriber(camera)
    for frame in frames:
        describer.add(frame)
    return describer.description()


def as_plain(description: TrainingDescription) -> dict[str, Any]:
    """Return a description as numbers, strings and lists, which a checkpoint keeps as `description`."""
    plain: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(description)))
    return plain


def from_plain(content: object) -> TrainingDescription:
    """Return what `as_plain` was given; raises ModelFileError where a value doesn't fit."""
    return from_json(TrainingDescription, content, "the checkpoint's description")


def training_of(config: TrainingConfig, state: dict[str, Any], log: Path) -> TrainingRun:
    """Return how a run went, by its configuration, its checkpoint's content and its log.

    The checkpoint may have, as `environment`, the names of the `torch` and the `device` that trained.
    """
    progress, environment = state["progress"], state.get("environment", {})
    trained = config.method != "landmarks"
    geometry, done = config.geometry.epochs, progress["epochs_done"]
    losses = _losses(log, geometry, done)
    return TrainingRun(
        epochs=done,
        epochs_planned=geometry + config.pose.epochs if trained else 0,
        seconds=float(progress["seconds"]),
        skipped_steps=progress["skipped_steps"],
        geometry_loss=losses.get("geometry"),
        pose_loss=losses.get("pose"),
        seed=config.seed,
        torch=environment.get("torch", ""),
        device=environment.get("device", ""),
        augmentation=dataclasses.asdict(config.augmentation) if trained else {},
    )


def _losses(log: Path, geometry_epochs: int, done: int) -> dict[str, float | None]:
    """Return the mean loss of the last of `done` epochs in each stage, by a run's log; None: not finite."""
    losses: dict[str, float | None] = {}
    for line in log.read_text().splitlines() if log.is_file() else []:
        try:
            entry = json.loads(line)
        except ValueError:  # cut off, where the disk was full
            continue
        if entry["epoch"] > done:
            continue
        # An earlier release did not name the stage, nor end one before its time.
        stage = entry.get("stage", "geometry" if entry["epoch"] <= geometry_epochs else "pose")
        losses[stage] = entry["loss"]
    return losses


def covering_arc(degrees: list[float]) -> tuple[float, float] | None:
    """Return the smallest range that holds all angles: (low in -180 .. 180, high >= low); None of none."""
    if not degrees:
        return None
    angles = np.sort((np.asarray(degrees) + 180.0) % 360.0 - 180.0)
    gaps = np.diff(angles, append=angles[0] + 360.0)
    before = int(np.argmax(gaps))
    low = float(angles[(before + 1) % len(angles)])
    high = float(angles[before])
    return low, high if high >= low else high + 360.0


def _sampled(image: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return pixels of an image (H, W, ...) on a grid of about `SAMPLES_PER_SIDE` each way."""
    rows, columns = (max(1, side // SAMPLES_PER_SIDE) for side in image.shape[:2])
    return image[rows // 2 :: rows, columns // 2 :: columns]


def _vector(values: npt.NDArray[np.floating]) -> Vector:
    first, second, third = np.asarray(values, dtype=np.float64).tolist()
    return first, second, third
