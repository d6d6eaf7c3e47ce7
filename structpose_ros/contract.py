"""What a model file says of itself: JSON in the ONNX file's `metadata_props`, from export to node."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from structpose_ros.alignment import AlignmentOptions
from structpose_ros.camera import Camera

FORMAT_VERSION = 1
METADATA_KEY = "structpose_ros"

INPUT_IMAGE, INPUT_RAYS = "image", "rays"
OUTPUT_DEPTH, OUTPUT_SCENE_COORDINATES, OUTPUT_WEIGHTS = "depth", "scene_coordinates", "weights"

# What JSON makes of a field, by its annotation.
_JSON_TYPES: dict[str, tuple[type, ...]] = {
    "int": (int,),
    "float": (int, float),
    "str": (str,),
    "bool": (bool,),
    "tuple[float, float, float]": (list,),
    "tuple[float, ...]": (list,),
    "Mapping[str, float]": (dict,),
    "Camera": (dict,),
    "AlignmentOptions": (dict,),
}


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
    training_camera: camera of the training images at input size.
    alignment: how to solve; its inlier threshold is fitted on held-out frames where training had some.
    covariance_scale: factor on the alignment's covariance, fitted on held-out frames (1: not fitted).
    validation: metrics on held-out frames of the training split, and on how many.
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
    alignment: AlignmentOptions = field(default_factory=AlignmentOptions)
    covariance_scale: float = 1.0
    validation: Mapping[str, float] = field(default_factory=dict)
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
        if not (math.isfinite(self.depth_scale) and self.depth_scale > 0):
            raise ModelFileError(f"expected a depth scale above 0 m, got {self.depth_scale}")
        for name in ("normalization_mean", "normalization_std", "scene_mean", "map_min", "map_max"):
            values = getattr(self, name)
            if len(values) != 3 or not all(math.isfinite(value) for value in values):
                raise ModelFileError(f"expected three finite numbers as {name}, got {values}")
        if min(self.normalization_std) <= 0:
            raise ModelFileError(f"expected normalization_std above 0, got {self.normalization_std}")
        if any(low > high for low, high in zip(self.map_min, self.map_max, strict=True)):
            raise ModelFileError(f"expected map_min <= map_max, got {self.map_min} and {self.map_max}")
        if not (math.isfinite(self.covariance_scale) and self.covariance_scale > 0):
            raise ModelFileError(f"expected a covariance scale above 0, got {self.covariance_scale}")

    @property
    def grid_shape(self) -> tuple[int, int]:
        """(h, w) of the output cells."""
        return self.input_height // self.stride, self.input_width // self.stride

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
                f"got an ONNX file with metadata {sorted(metadata) or 'none'}"
            )
        content = json_object(text, METADATA_KEY)
        version = content.get("format_version")
        if version != FORMAT_VERSION:
            raise ModelFileError(
                f"expected model format version {FORMAT_VERSION}, got {version}: "
                "export the training run again with this release"
            )
        return _contract_from(content)


def json_object(text: str, key: str) -> dict[str, Any]:
    """Return the JSON object that a metadata entry holds; `key` is the entry's name.

    Raises:
        ModelFileError: it is no JSON, or another kind of value.
    """
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:  # also numbers too long, and nesting too deep
        raise ModelFileError(f"expected JSON in metadata '{key}', got: {error}") from error
    if not isinstance(content, dict):
        raise ModelFileError(f"expected a JSON object in metadata '{key}', got {type(content).__name__}")
    return content


def _contract_from(content: dict[str, Any]) -> ModelContract:
    try:
        values = _fields_of(ModelContract, content, "metadata")
        values["training_camera"] = Camera(**_fields_of(Camera, values["training_camera"], "training_camera"))
        values["alignment"] = AlignmentOptions(
            **_fields_of(AlignmentOptions, values["alignment"], "alignment")
        )
        return ModelContract(**values)
    except (TypeError, ValueError) as error:
        raise ModelFileError(f"expected usable model metadata, got: {error}") from error


def _fields_of(kind: type, content: dict[str, Any], place: str) -> dict[str, Any]:
    """Return the values of a JSON object for the dataclass `kind`, or raise if a field doesn't fit."""
    known = {item.name: str(item.type) for item in fields(kind)}
    missing, unknown = sorted(known.keys() - content.keys()), sorted(content.keys() - known.keys())
    if missing or unknown:
        raise ModelFileError(f"{place} of other fields: missing {missing}, unknown {unknown}")
    for name, value in content.items():
        expected = _JSON_TYPES[known[name]]
        if type(value) not in expected:
            raise ModelFileError(f"{place}: {name} = {value!r}, which is no {known[name]}")
    return {name: tuple(value) if isinstance(value, list) else value for name, value in content.items()}
