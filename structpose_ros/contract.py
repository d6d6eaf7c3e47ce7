"""What a model file says of itself: JSON in the ONNX file's `metadata_props`, from export to node."""

from __future__ import annotations

import json
import math
import types
import typing
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, is_dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from structpose_ros.alignment import AlignmentOptions
from structpose_ros.camera import Camera
from structpose_ros.confidence import ConfidenceModel
from structpose_ros.covariance import with_floors

FORMAT_VERSION = 3
METADATA_KEY = "structpose_ros"

INPUT_IMAGE, INPUT_RAYS = "image", "rays"
OUTPUT_DEPTH, OUTPUT_SCENE_COORDINATES, OUTPUT_WEIGHTS = "depth", "scene_coordinates", "weights"
OUTPUT_OFFSETS = "offsets"  # of models with keypoints

_MOST_CHARACTERS = 1_000_000  # of a metadata entry, unless it says otherwise
_MOST_PIXELS = 2**24  # of an input image: what the node makes for each frame grows with it
_LARGEST = 1e9  # of metres and factors: their squares, and sums over all points, stay finite
_LARGEST_SCALE = 1e18  # of a covariance: where the data is exact, it makes much of what rounding leaves
_SHOWN = 200  # characters at most of a foreign value in a message

Built = TypeVar("Built")


class ModelFileError(ValueError):
    """A model file that can't be used; the message says what was expected and what came."""


@dataclass(frozen=True)
class ModelContract:
    """Everything besides the graph that turning an image into a pose needs.

    input_width, input_height: pixels of `image`; stride: input pixels per output cell.
    normalization_mean, normalization_std: RGB, in units of 0 .. 1, applied before the graph.
    scene_mean: metres, map frame; the graph's scene coordinates are relative to it.
    depth_scale: metres, the `a` of the proximity coding p = a / (d + a) that the graph already undoes.
    map_min, map_max: metres, corners of the box around all scene coordinates trained on.
    training_camera: camera of the training images at input size, as it was recorded.
    refined_camera: the same with its lens as the recording's own images show it; None: not looked for, or no
        better.
    alignment: how to solve; its inlier threshold is fitted on held-out frames where training had some.
    covariance_scale: factor on the alignment's covariance, fitted on held-out frames (1: not fitted).
    covariance_floor: standard deviations, m and rad, of errors that the points of a frame have in common and
        that their residuals can't show; fitted with the scale, added in quadrature.
    confidence: what P(error within 10 cm and 5 degrees) follows from; None: not fitted.
    validation: metrics on held-out frames of the training split, and on how many.
    keypoints: each cell speaks for one point within it, which stands at the cell's centre plus the graph's
        output `offsets`, (1, 2, h, w) pixels of the input; else for its centre.
    """

    dataset: str
    input_width: int
    input_height: int
    stride: int
    normalization_mean: tuple[float, float, float]
    normalization_std: tuple[float, float, float]
    scene_mean: tuple[float, float, float]
    depth_scale: float
    map_min: tuple[float, float, float]
    map_max: tuple[float, float, float]
    training_camera: Camera
    refined_camera: Camera | None = None
    alignment: AlignmentOptions = field(default_factory=AlignmentOptions)
    covariance_scale: float = 1.0
    covariance_floor: tuple[float, float] = (0.0, 0.0)
    confidence: ConfidenceModel | None = None
    validation: Mapping[str, float] = field(default_factory=dict)
    keypoints: bool = False
    network: str = ""
    config_digest: str = ""
    producer: str = ""
    format_version: int = FORMAT_VERSION

    def __post_init__(self) -> None:
        sides = (self.input_width, self.input_height)
        if self.stride < 1 or any(side < 1 or side % self.stride for side in sides):
            raise ModelFileError(
                f"expected an input size divisible by the stride {self.stride}, "
                f"got {self.input_width}x{self.input_height}"
            )
        if self.input_width * self.input_height > _MOST_PIXELS:
            raise ModelFileError(
                f"expected an input of at most {_MOST_PIXELS} pixels, got {shown(sides[0])}x{shown(sides[1])}"
            )
        if not (math.isfinite(self.depth_scale) and self.depth_scale > 0):
            raise ModelFileError(f"expected a depth scale above 0 m, got {self.depth_scale}")
        for name in ("normalization_mean", "normalization_std", "scene_mean", "map_min", "map_max"):
            values = getattr(self, name)
            if len(values) != 3 or not all(math.isfinite(value) for value in values):
                raise ModelFileError(f"expected three finite numbers as {name}, got {values}")
        if min(self.normalization_std) <= 0:
            raise ModelFileError(f"expected normalization_std above 0, got {self.normalization_std}")
        for name in ("scene_mean", "map_min", "map_max"):
            if max(map(abs, getattr(self, name))) > _LARGEST:
                raise ModelFileError(f"{name}: expected at most {_LARGEST:g} m, got {getattr(self, name)}")
        if any(low > high for low, high in zip(self.map_min, self.map_max, strict=True)):
            raise ModelFileError(f"expected map_min <= map_max, got {self.map_min} and {self.map_max}")
        if not 0 < self.covariance_scale <= _LARGEST_SCALE:
            raise ModelFileError(
                f"expected a covariance scale above 0, up to {_LARGEST_SCALE:g}, got {self.covariance_scale}"
            )
        floor = self.covariance_floor
        if len(floor) != 2 or not all(0 <= value <= _LARGEST for value in floor):
            raise ModelFileError(
                f"expected two numbers of 0 .. {_LARGEST:g} as covariance_floor, got {floor}"
            )
        if not all(math.isfinite(value) for value in self.validation.values()):
            raise ModelFileError(f"expected finite numbers as validation, got {shown(dict(self.validation))}")

    @property
    def grid_shape(self) -> tuple[int, int]:
        """(h, w) of the output cells."""
        return self.input_height // self.stride, self.input_width // self.stride

    def calibrated_covariance(self, covariance: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Return the covariance (6, 6) of `PoseEstimate` as it was found to be on held-out frames."""
        return with_floors(self.covariance_scale * covariance, *self.covariance_floor)

    def refined(self, camera: Camera) -> Camera:
        """Return what is known better of a camera at input size: the refined one of the training camera.

        A camera is taken for that one if its calibration says the same.
        """
        if self.refined_camera is not None and camera.agrees_with(self.training_camera):
            return self.refined_camera
        return camera

    def metres_outside(self, position: npt.NDArray[np.float64]) -> float:
        """Return how far a position (3,) in the map is from the box around the map's points; 0 inside."""
        x, y, z = (
            max(low - at, at - high, 0.0)  # NaN stays NaN
            for low, at, high in zip(self.map_min, position.tolist(), self.map_max, strict=True)
        )
        return math.hypot(x, y, z)

    def to_metadata(self) -> dict[str, str]:
        """Return the entries to store in the model file's `metadata_props`."""
        return {METADATA_KEY: json.dumps(asdict(self), sort_keys=True)}

    @staticmethod
    def from_metadata(metadata: Mapping[str, str]) -> ModelContract:
        """Read the contract back.

        Raises:
            ModelFileError: there is none, it is of another format version, or a field is missing, unknown, of
                another type or unusable.
        """
        text = metadata.get(METADATA_KEY)
        if text is None:
            raise ModelFileError(
                f"expected a model exported by `structpose export` (metadata '{METADATA_KEY}'), "
                f"got an ONNX file with metadata {shown(sorted(metadata)) if metadata else 'none'}"
            )
        content = json_object(text, METADATA_KEY)
        version = content.get("format_version")
        if version != FORMAT_VERSION:
            raise ModelFileError(
                f"expected model format version {FORMAT_VERSION}, got {shown(version)}: "
                "export the training run again with this release"
            )
        try:
            return from_json(ModelContract, content, "metadata")
        except (TypeError, ValueError) as error:
            raise ModelFileError(f"expected usable model metadata, got: {error}") from error


def json_object(text: str, key: str, most_characters: int = _MOST_CHARACTERS) -> dict[str, Any]:
    """Return the JSON object that a metadata entry holds; `key` is the entry's name.

    Raises:
        ModelFileError: it is longer than it may be, no JSON, or another kind of value.
    """
    if len(text) > most_characters:
        raise ModelFileError(
            f"expected at most {most_characters} characters in metadata '{key}', got {len(text)}"
        )
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:  # also numbers too long, and nesting too deep
        raise ModelFileError(f"expected JSON in metadata '{key}', got: {error}") from error
    if not isinstance(content, dict):
        raise ModelFileError(f"expected a JSON object in metadata '{key}', got {type(content).__name__}")
    return content


def from_json(kind: type[Built], content: object, place: str) -> Built:
    """Build the dataclass `kind`, and those within it, from a JSON object; `place` is its name in messages.

    No field may be missing or unknown, and each must have its type: a list does for a tuple, an int for a
    float. How many values a tuple has, and which, is for the class to check.

    Raises:
        ModelFileError: a field doesn't fit.
    """
    hints = typing.get_type_hints(kind)
    if not isinstance(content, dict):
        raise ModelFileError(f"{place} = {shown(content)}, which is no {kind.__name__}")
    missing, unknown = sorted(hints.keys() - content.keys()), sorted(content.keys() - hints.keys())
    if missing or unknown:
        raise ModelFileError(f"{place} of other fields: missing {missing}, unknown {shown(unknown)}")
    return kind(**{name: _value(hints[name], value, f"{place}.{name}") for name, value in content.items()})


def shown(value: object) -> str:
    """Return a value of unknown size as a message can show it."""
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def _value(hint: Any, value: object, place: str) -> Any:
    if is_dataclass(hint):
        return from_json(typing.cast("type[object]", hint), value, place)
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    if type(value) in options:
        return value
    if float in options and type(value) is int:
        try:
            return float(value)
        except OverflowError:
            raise ModelFileError(f"{place} = {shown(value)}, which no float can hold") from None
    for option in options:
        if is_dataclass(option) and isinstance(value, dict):
            return _value(option, value, place)
        parts = typing.get_args(option)
        if typing.get_origin(option) is tuple and isinstance(value, list):
            return tuple(_value(parts[0], item, f"{place}[{index}]") for index, item in enumerate(value))
        if typing.get_origin(option) is Mapping and isinstance(value, dict):
            return {key: _value(parts[1], item, f"{place}.{key}") for key, item in value.items()}
    name = hint.__name__ if hint in (int, float, str, bool) else str(hint).replace("collections.abc.", "")
    raise ModelFileError(f"{place} = {shown(value)}, which is no {name}")
