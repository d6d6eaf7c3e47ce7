"""Where a model comes from: an entry of the model file that people read, and the node does without.

It is an entry of its own in the ONNX file's `metadata_props`: a JSON object with the fields of `ModelCard`
and of what it holds, and `version`, that of the entry. What the contract says already isn't said again.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, is_dataclass
from typing import Any

from structpose_ros.contract import ModelFileError, from_json, json_object, shown

CARD_KEY = "structpose_ros.card"
CARD_VERSION = 2
_MOST_CHARACTERS = 100_000

Vector = tuple[float, float, float]
Range = tuple[float, float]


@dataclass(frozen=True)
class TrainingDescription:
    """What the views show that a model was trained on, before augmentation.

    sequences: how many; sequence_names: the first of them.
    image_width, image_height: pixels, as recorded.
    position_min, position_max: metres, map frame, corners of the box around the camera's positions.
    heading_deg: the smallest range that holds all directions of view about the map's z axis, from x to y; its
        upper end is below 540. pitch_deg: lowest and highest, upwards is positive. roll_deg: as the heading,
        right side down is positive. The map's z axis is taken as up; views within 10 degrees of it have
        no heading and no roll, and None is where no view has one.
    up_deviation_deg: between the map's z axis and the mean direction of the images' upper side.
    depth_m: 5, 50 and 95 % of the valid depth, metres along the optical axis; None where there is none.
    brightness: 5, 50 and 95 % over the views of an image's mean luma, 0 .. 255.
    contrast: mean over the views of an image's standard deviation of luma.
    """

    frames: int
    sequences: int
    sequence_names: tuple[str, ...]
    image_width: int
    image_height: int
    position_min: Vector
    position_max: Vector
    heading_deg: Range | None
    pitch_deg: Range
    roll_deg: Range | None
    up_deviation_deg: float
    depth_m: Vector | None
    brightness: Vector
    contrast: float

    def __post_init__(self) -> None:
        _expect_finite(self)
        for name in ("frames", "sequences", "image_width", "image_height"):
            _expect(getattr(self, name) >= 1, name, "at least 1", getattr(self, name))
        for name, length in (("heading_deg", 2), ("pitch_deg", 2), ("roll_deg", 2), ("depth_m", 3)):
            _expect_ascending(name, getattr(self, name), length)
        _expect_ascending("brightness", self.brightness, 3)
        for name in ("position_min", "position_max"):
            _expect(len(getattr(self, name)) == 3, name, "three numbers", getattr(self, name))
        for low, high in zip(self.position_min, self.position_max, strict=True):
            _expect(low <= high, "position_min", f"at most {high}", low)


@dataclass(frozen=True)
class TrainingRun:
    """How a model was trained.

    epochs, epochs_planned: of both stages. seconds: of training, without reading and measuring.
    skipped_steps: left out as not finite. geometry_loss, pose_loss: the last of each stage, None where there
    is none. torch, device: as far as the run kept them, else empty. augmentation: the configuration's.
    """

    epochs: int
    epochs_planned: int
    seconds: float
    skipped_steps: int
    geometry_loss: float | None
    pose_loss: float | None
    seed: int
    torch: str
    device: str
    augmentation: Mapping[str, bool | int | float | str]

    def __post_init__(self) -> None:
        _expect_finite(self)
        for name in ("epochs", "epochs_planned", "seconds", "skipped_steps"):
            _expect(getattr(self, name) >= 0, name, "at least 0", getattr(self, name))


@dataclass(frozen=True)
class Parity:
    """How far ONNX Runtime is from torch on the same images; of each figure the worst.

    images: how many; recorded: they are frames of the recording, else noise.
    depth, scene_coordinates, weights: deviation relative to the output's largest magnitude.
    poses: images whose pose could be compared: solved in both, and not by chance. position_m, rotation_deg:
        largest difference of the two poses.
    torch_error, onnx_error: the largest errors (metres, degrees) of those poses against the true ones; None
        where these aren't known.
    """

    images: int
    recorded: bool
    depth: float
    scene_coordinates: float
    weights: float
    poses: int
    position_m: float
    rotation_deg: float
    torch_error: Range | None = None
    onnx_error: Range | None = None

    def __post_init__(self) -> None:
        _expect_pairs(self, "torch_error", "onnx_error")

    @property
    def worst(self) -> float:
        """The largest deviation of an output; NaN if any is, which max() would pass over."""
        values = (self.depth, self.scene_coordinates, self.weights)
        return math.nan if any(map(math.isnan, values)) else max(values)


@dataclass(frozen=True)
class Int8Loss:
    """What whole numbers of 8 bits cost: a file's poses beside those of the network in float32.

    calibrated: frames of the recording that the ranges of values were taken from. frames: others, that this
        was measured on. poses: those of them that have one in both; of these the medians:
    position_m, rotation_deg: between the two poses.
    float_error, int8_error: of each (metres, degrees); None where the true poses aren't known.
    """

    calibrated: int
    frames: int
    poses: int
    position_m: float
    rotation_deg: float
    float_error: Range | None = None
    int8_error: Range | None = None

    def __post_init__(self) -> None:
        _expect_pairs(self, "float_error", "int8_error")


@dataclass(frozen=True)
class Export:
    """With what a model file was written and tested.

    provider: that of ONNX Runtime. int8: what the file's whole numbers cost; None of a file in float32.
    """

    opset: int
    torch: str
    onnxruntime: str
    provider: str
    parity: Parity
    int8: Int8Loss | None = None

    def __post_init__(self) -> None:
        _expect_finite(self.parity)  # what was written agreed
        if self.int8 is not None:
            _expect_finite(self.int8)


@dataclass(frozen=True)
class ModelCard:
    """What a model file says to people. views: None for a run of an earlier release, which kept none."""

    training: TrainingRun
    views: TrainingDescription | None
    export: Export

    def to_metadata(self) -> dict[str, str]:
        """Return the entry to store in the model file's `metadata_props`."""
        content = {"version": CARD_VERSION, **asdict(self)}
        return {CARD_KEY: json.dumps(content, sort_keys=True)}

    @staticmethod
    def from_metadata(metadata: Mapping[str, str]) -> ModelCard | None:
        """Read the card back; None where the file carries none.

        Raises:
            ModelFileError: the entry is of another version, or damaged.
        """
        text = metadata.get(CARD_KEY)
        if text is None:
            return None
        content = json_object(text, CARD_KEY, _MOST_CHARACTERS)
        version = content.pop("version", None)
        if type(version) is not int or version != CARD_VERSION:
            raise ModelFileError(
                f"expected version {CARD_VERSION} of metadata '{CARD_KEY}', got {shown(version)}: "
                "export the training run again with this release"
            )
        try:
            return from_json(ModelCard, content, "card")
        except ModelFileError as error:
            raise ModelFileError(f"expected a usable card in metadata '{CARD_KEY}', got: {error}") from error


def _expect(condition: bool, name: str, expected: str, got: object) -> None:
    if not condition:
        raise ModelFileError(f"{name}: expected {expected}, got {shown(got)}")


def _expect_pairs(item: Any, *names: str) -> None:
    """Raise unless each of these is None or a pair."""
    for name in names:
        value = getattr(item, name)
        _expect(value is None or len(value) == 2, name, "two numbers", value)


def _expect_finite(item: Any) -> None:
    """Raise unless every number of a dataclass is finite, in tuples and mappings as well."""
    for entry in fields(item):
        value = getattr(item, entry.name)
        parts = (
            value.values() if isinstance(value, Mapping) else value if isinstance(value, tuple) else [value]
        )
        if is_dataclass(value):
            _expect_finite(value)
        numbers = [part for part in parts if isinstance(part, float)]
        _expect(all(map(math.isfinite, numbers)), entry.name, "finite numbers", value)


def _expect_ascending(name: str, values: tuple[float, ...] | None, length: int) -> None:
    fits = values is None or (len(values) == length and list(values) == sorted(values))
    _expect(fits, name, f"{length} ascending numbers", values)
