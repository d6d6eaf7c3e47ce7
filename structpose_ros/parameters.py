"""The node's parameters: each is described, with its unit, range and default, where its value is held."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.node import Node

from structpose_ros.gate import GateOptions
from structpose_ros.network import PROVIDERS

Value = bool | int | float | str

# Parameters that rclpy itself reads from every node's overrides.
_MIDDLEWARE_PARAMETERS = ("use_sim_time", "start_type_description_service")
_MIDDLEWARE_PREFIX = "qos_overrides."
_KINDS = {bool: "true or false", int: "an integer", float: "a number", str: "a string"}


class ParameterError(ValueError):
    """A parameter that can't be used; the message says what was expected and what came."""


@dataclass(frozen=True)
class Parameter:
    """One row of the parameter table. The type is the default's."""

    name: str
    default: Value
    description: str
    unit: str = ""
    minimum: float | None = None
    maximum: float | None = None
    choices: tuple[str, ...] = ()

    @property
    def expectation(self) -> str:
        """What a value must be, in words."""
        if self.choices:
            return "one of " + ", ".join(f"'{choice}'" for choice in self.choices)
        kind = _KINDS[type(self.default)]
        if self.minimum is None:
            return kind
        return f"{kind} from {self.minimum:g} to {self.maximum:g}{' ' + self.unit if self.unit else ''}"

    def checked(self, value: object) -> Value:
        """Return `value` in the parameter's type. A whole number is fine where a fraction could stand.

        Raises:
            ParameterError: it is of another type, or outside the range or choices.
        """
        if isinstance(self.default, float) and type(value) is int:
            value = float(value)
        if type(value) is not type(self.default) or not self._admits(value):
            shown = str(value).lower() if isinstance(value, bool) else repr(value)
            raise ParameterError(f"parameter '{self.name}': expected {self.expectation}, got {shown}")
        return value

    def _admits(self, value: Any) -> bool:
        if self.choices:
            return value in self.choices
        if self.minimum is None or self.maximum is None:
            return not isinstance(value, float) or math.isfinite(value)
        return bool(self.minimum <= value <= self.maximum)


def _parameter(name: str, default: Value, description: str, **limits: Any) -> Any:
    return field(default=default, metadata={"parameter": Parameter(name, default, description, **limits)})


@dataclass(frozen=True)
class Settings:
    """The values the node runs with. The fields' declarations are the parameter table (`PARAMETERS`)."""

    autostart: bool = _parameter(
        "autostart", True, "Configure and activate at start; false leaves that to a lifecycle manager."
    )
    model_path: str = _parameter(
        "model.path", "", "Model file (.onnx) of the scene, as `structpose export` wrote it; ~ is expanded."
    )
    model_provider: str = _parameter(
        "model.provider",
        "auto",
        "Where the network runs; auto takes the fastest that works here.",
        choices=("auto", *PROVIDERS),
    )
    model_threads: int = _parameter(
        "model.threads",
        0,
        "CPU threads of the network; 0: one per core.",
        unit="threads",
        minimum=0,
        maximum=256,
    )
    map_frame: str = _parameter(
        "frames.map_frame", "map", "TF frame of the map that the model was trained in."
    )
    camera_frame: str = _parameter(
        "frames.camera_frame",
        "",
        "TF frame of the camera (optical, z forward); empty: the image header's frame_id.",
    )
    tf_mode: str = _parameter(
        "tf.mode",
        "map_to_camera",
        "Transform sent on /tf for each accepted pose; none sends nothing.",
        choices=("map_to_camera", "none"),
    )
    min_inlier_ratio: float = _parameter(
        "gate.min_inlier_ratio",
        GateOptions.min_inlier_ratio,
        "Smallest accepted share of the points' weight that fits the pose.",
        minimum=0.0,
        maximum=1.0,
    )
    max_residual: float = _parameter(
        "gate.max_residual",
        GateOptions.max_residual,
        "Largest accepted weighted median distance between the points and their places in the map.",
        unit="m",
        minimum=0.001,
        maximum=100.0,
    )
    map_margin: float = _parameter(
        "gate.map_margin",
        GateOptions.map_margin,
        "How far outside the box around the map's points the camera may be.",
        unit="m",
        minimum=0.0,
        maximum=10000.0,
    )

    @property
    def gate(self) -> GateOptions:
        """The gate's bounds."""
        return GateOptions(self.min_inlier_ratio, self.max_residual, self.map_margin)


_FIELD_OF = {item.metadata["parameter"].name: item.name for item in fields(Settings)}
PARAMETERS: tuple[Parameter, ...] = tuple(item.metadata["parameter"] for item in fields(Settings))


def settings_from(values: Mapping[str, object]) -> Settings:
    """Return the settings with `values`, by parameter name, in place of the defaults.

    Raises:
        ParameterError: a name is unknown, a value unusable, or two of them contradict each other.
    """
    unknown = sorted(values.keys() - _FIELD_OF.keys())
    if unknown:
        known = ", ".join(sorted(_FIELD_OF))
        raise ParameterError(f"parameter '{unknown[0]}': unknown, expected one of {known}")
    given = {_FIELD_OF[row.name]: row.checked(values[row.name]) for row in PARAMETERS if row.name in values}
    settings = Settings(**given)  # type: ignore[arg-type]
    if not settings.map_frame:
        raise ParameterError("parameter 'frames.map_frame': expected a frame name, got ''")
    if settings.camera_frame == settings.map_frame:
        raise ParameterError(
            f"parameter 'frames.camera_frame': expected another frame than 'frames.map_frame', got "
            f"'{settings.camera_frame}' for both"
        )
    return settings


def declare_settings(node: Node) -> Settings:
    """Declare the parameters on `node` and return the settings that its overrides ask for.

    The overrides are checked before rclpy declares them: its own errors name neither range nor unit.

    Raises:
        ParameterError: see `settings_from`.
    """
    overrides = {
        name: override.value
        for name, override in node._parameter_overrides.items()  # rclpy has no public way to see unknown ones
        if name not in _MIDDLEWARE_PARAMETERS and not name.startswith(_MIDDLEWARE_PREFIX)
    }
    settings = settings_from(overrides)
    for row in PARAMETERS:
        value = getattr(settings, _FIELD_OF[row.name])
        node.declare_parameter(row.name, value, _descriptor(row), ignore_override=True)
    return settings


def _descriptor(row: Parameter) -> ParameterDescriptor:
    descriptor = ParameterDescriptor(
        name=row.name,
        description=row.description + (f" Unit: {row.unit}." if row.unit else ""),
        additional_constraints=f"expected {row.expectation}",
        read_only=True,
    )
    if row.minimum is not None and isinstance(row.default, float):
        descriptor.floating_point_range = [FloatingPointRange(from_value=row.minimum, to_value=row.maximum)]
    elif row.minimum is not None:
        descriptor.integer_range = [
            IntegerRange(from_value=int(row.minimum), to_value=int(row.maximum or 0), step=1)
        ]
    return descriptor
