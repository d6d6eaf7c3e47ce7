"""What a ROS parameter is: described, with its unit, range, default and when it may change."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum
from typing import Any

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor

Value = bool | int | float | str

# Parameters that rclpy itself reads from every node's overrides.
_MIDDLEWARE_PARAMETERS = ("use_sim_time", "start_type_description_service")
_MIDDLEWARE_PREFIX = "qos_overrides."
_KINDS = {bool: "true or false", int: "an integer", float: "a number", str: "a string"}


class ParameterError(ValueError):
    """A parameter that can't be used; the message says what was expected and what came."""


class Changes(Enum):
    """When a parameter may change."""

    ANY_TIME = "any time"
    UNCONFIGURED = "while unconfigured"  # the next configure reads it
    NEVER = "at start only"


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
    changes: Changes = Changes.NEVER

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


def is_middleware(name: str) -> bool:
    """Whether a parameter is rclpy's own business."""
    return name in _MIDDLEWARE_PARAMETERS or name.startswith(_MIDDLEWARE_PREFIX)


def descriptor_of(row: Parameter) -> ParameterDescriptor:
    """Return what ROS tools show of a parameter, and what rclpy itself checks."""
    descriptor = ParameterDescriptor(
        name=row.name,
        description=row.description + (f" Unit: {row.unit}." if row.unit else ""),
        additional_constraints=f"expected {row.expectation}; may change {row.changes.value}",
        read_only=row.changes is Changes.NEVER,
    )
    if row.minimum is not None and isinstance(row.default, float):
        descriptor.floating_point_range = [FloatingPointRange(from_value=row.minimum, to_value=row.maximum)]
    elif row.minimum is not None:
        descriptor.integer_range = [
            IntegerRange(from_value=int(row.minimum), to_value=int(row.maximum or 0), step=1)
        ]
    return descriptor
