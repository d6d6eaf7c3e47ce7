"""The node's parameters: each is described, with its unit, range and default, where its value is held."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from itertools import combinations
from pathlib import Path
from typing import Any

from rclpy.node import Node

from structpose_ros.cores import CoresError, parse_cores
from structpose_ros.covariance import CovarianceOptions
from structpose_ros.gate import GateOptions
from structpose_ros.parameters import Changes, Parameter, ParameterError, Value, descriptor_of, is_middleware
from structpose_ros.sessions import PRECISIONS, PROVIDERS, SPINNING, BackendOptions
from structpose_ros.tracking import TrackingOptions


def _parameter(name: str, default: Value, description: str, **limits: Any) -> Any:
    return field(default=default, metadata={"parameter": Parameter(name, default, description, **limits)})


def _tunable(name: str, default: Value, description: str, **limits: Any) -> Any:
    return _parameter(name, default, description, changes=Changes.ANY_TIME, **limits)


def _number(name: str, default: float, unit: str, minimum: float, maximum: float, description: str) -> Any:
    return _tunable(name, default, description, unit=unit, minimum=minimum, maximum=maximum)


@dataclass(frozen=True)
class Settings:
    """The values the node runs with. The fields' declarations are the parameter table (`PARAMETERS`)."""

    autostart: bool = _parameter(
        "autostart", True, "Configure and activate at start; false leaves that to a lifecycle manager."
    )
    model_path: str = _parameter(
        "model.path",
        "",
        "Model file (.onnx) of the scene, as `structpose export` wrote it; ~ is expanded.",
        changes=Changes.UNCONFIGURED,
    )
    model_sha256: str = _parameter(
        "model.sha256",
        "",
        "Digest that the model file must have, as `sha256sum` prints it: any other is refused. Empty: any.",
        changes=Changes.UNCONFIGURED,
    )
    model_provider: str = _parameter(
        "model.provider",
        "auto",
        "Where the network runs; auto takes the first of tensorrt (minutes to build its engine once), cuda "
        "and cpu that works here.",
        choices=("auto", *PROVIDERS),
        changes=Changes.UNCONFIGURED,
    )
    model_threads: int = _parameter(
        "model.threads",
        0,
        "CPU threads of the network; 0: one per core, or as many as model.cores.",
        unit="threads",
        minimum=0,
        maximum=256,
        changes=Changes.UNCONFIGURED,
    )
    model_cores: str = _parameter(
        "model.cores",
        "",
        "CPU cores that the network's threads are bound to, one each where they are as many, such as 2-3 or "
        "0,2; empty: any, or one each where there is a thread for every core.",
        changes=Changes.UNCONFIGURED,
    )
    model_spinning: str = _parameter(
        "model.spinning",
        BackendOptions.spinning,
        "When the network's threads wait without sleeping. frame: while a frame is in the network; never: "
        "where other programs need the same cores; always: on cores that nothing else uses.",
        choices=SPINNING,
        changes=Changes.UNCONFIGURED,
    )
    model_precision: str = _parameter(
        "model.precision",
        "auto",
        "auto: float32 as the provider multiplies it (on a GPU TF32); fp32: float32 throughout; fp16: "
        "convolutions in half precision, with tensorrt or cuda.",
        choices=PRECISIONS,
        changes=Changes.UNCONFIGURED,
    )
    model_allow_fallback: bool = _parameter(
        "model.allow_fallback",
        False,
        "Run elsewhere, with a warning, where model.provider or model.precision can't be had; else that is "
        "an error.",
        changes=Changes.UNCONFIGURED,
    )
    model_cache: str = _parameter(
        "model.cache",
        "",
        "Folder of TensorRT engines, which nobody else may write to; empty: "
        "~/.cache/structpose_ros/tensorrt.",
        changes=Changes.UNCONFIGURED,
    )
    input_transport: str = _parameter(
        "input.transport",
        "raw",
        "Which images are subscribed to: Image on `image`, or CompressedImage on `image/compressed`.",
        choices=("raw", "compressed"),
    )
    input_rectified: bool = _parameter(
        "input.rectified",
        False,
        "The images are rectified (image_rect): P of CameraInfo is their camera, without distortion.",
    )
    input_max_age: float = _number(
        "input.max_age",
        0.0,
        "s",
        0.0,
        3600.0,
        "Age by the node's clock beyond which an image is refused, and how far its stamp may lie in the "
        "future; 0: any.",
    )
    run_mode: str = _tunable(
        "run.mode",
        "continuous",
        "Localise all the time, or only after ~/relocalize or trigger_localization.",
        choices=("continuous", "on_trigger"),
    )
    max_rate: float = _number(
        "run.max_rate", 0.0, "Hz", 0.0, 1000.0, "Most images that are localised in a second; 0: all."
    )
    lost_timeout: float = _number(
        "run.lost_timeout",
        2.0,
        "s",
        0.1,
        3600.0,
        "Time without a pose after which the node is LOST, whether or not images came.",
    )
    trigger_timeout: float = _number(
        "run.trigger_timeout", 5.0, "s", 0.1, 3600.0, "Time that a trigger may take to find a pose."
    )
    map_frame: str = _parameter(
        "frames.map_frame", "map", "TF frame of the map that the model was trained in."
    )
    odom_frame: str = _parameter(
        "frames.odom_frame",
        "odom",
        "TF frame of the odometry (REP 105), if there is any; empty: none, and TF is not asked for it.",
    )
    base_frame: str = _parameter(
        "frames.base_frame",
        "base_link",
        "TF frame of the robot, whose pose `pose_with_covariance` and `initialpose` give; "
        "empty: there is none, they give the camera's.",
    )
    camera_frame: str = _parameter(
        "frames.camera_frame",
        "",
        "TF frame of the camera (optical, z forward); empty: the image header's frame_id.",
    )
    tf_mode: str = _parameter(
        "tf.mode",
        "map_to_camera",
        "Transform sent on /tf for each pose; none sends nothing.",
        choices=("map_to_camera", "map_to_odom", "map_to_base", "none"),
    )
    tf_rate: float = _number(
        "tf.rate", 20.0, "Hz", 1.0, 1000.0, "How often map_to_odom is sent again between poses."
    )
    tf_tolerance: float = _number(
        "tf.tolerance",
        0.1,
        "s",
        0.0,
        10.0,
        "How far into the future map_to_odom is stamped, to hold until the next.",
    )
    tf_timeout: float = _number(
        "tf.timeout", 0.1, "s", 0.0, 1.0, "Longest wait for a transform at the image's stamp."
    )
    tf_keep_when_lost: bool = _tunable(
        "tf.keep_when_lost",
        True,
        "Go on sending map_to_odom while LOST: the odometry then carries the last pose on.",
    )
    min_confidence: float = _number(
        "gate.min_confidence",
        GateOptions.min_confidence,
        "",
        0.0,
        1.0,
        "Smallest accepted probability of a pose within 10 cm and 5 degrees; 0: the model file's own bound.",
    )
    min_inlier_ratio: float = _number(
        "gate.min_inlier_ratio",
        GateOptions.min_inlier_ratio,
        "",
        0.0,
        1.0,
        "Smallest accepted share of the points' weight that fits the pose; for models without a calibrated "
        "confidence.",
    )
    max_residual: float = _number(
        "gate.max_residual",
        GateOptions.max_residual,
        "m",
        0.001,
        100.0,
        "Largest accepted weighted median distance between the points and their places in the map; for "
        "models without a calibrated confidence.",
    )
    map_margin: float = _number(
        "gate.map_margin",
        GateOptions.map_margin,
        "m",
        0.0,
        10000.0,
        "How far outside the box around the map's points the camera may be.",
    )
    consistency_frames: int = _tunable(
        "gate.consistency_frames",
        TrackingOptions.consistency_frames,
        "Poses in a row that must agree before the first is published; 1: each pose stands for itself.",
        unit="poses",
        minimum=1,
        maximum=100,
    )
    consistency_distance: float = _number(
        "gate.consistency_distance",
        TrackingOptions.consistency_distance,
        "m",
        0.0,
        1000.0,
        "Distance that agreeing poses may lie apart, the motion by odometry taken out.",
    )
    consistency_angle: float = _number(
        "gate.consistency_angle",
        TrackingOptions.consistency_angle,
        "rad",
        0.0,
        3.15,
        "Angle that agreeing poses may be turned by, the motion by odometry taken out.",
    )
    max_speed: float = _number(
        "gate.max_speed",
        TrackingOptions.max_speed,
        "m/s",
        0.0,
        1000.0,
        "Speed of the camera that is allowed for between poses where no odometry is known.",
    )
    max_turn_rate: float = _number(
        "gate.max_turn_rate",
        TrackingOptions.max_turn_rate,
        "rad/s",
        0.0,
        1000.0,
        "Turn rate of the camera that is allowed for between poses where no odometry is known.",
    )
    prior_sigmas: float = _number(
        "gate.prior_sigmas",
        3.0,
        "",
        0.1,
        100.0,
        "Standard deviations that a pose may differ from the prior of trigger_localization.",
    )
    covariance_scale: float = _number(
        "covariance.scale",
        CovarianceOptions.scale,
        "",
        0.001,
        1000000.0,
        "Factor on the model's covariance.",
    )
    floor_position: float = _number(
        "covariance.floor_position",
        CovarianceOptions.floor_position,
        "m",
        0.0001,
        100.0,
        "Standard deviation along each axis that is added in quadrature: no pose claims to be better.",
    )
    floor_rotation: float = _number(
        "covariance.floor_rotation",
        CovarianceOptions.floor_rotation,
        "rad",
        0.0001,
        3.15,
        "Standard deviation about each axis that is added in quadrature: no pose claims to be better.",
    )
    covariance_diagonal: bool = _tunable(
        "covariance.diagonal",
        False,
        "Leave the correlations out of `pose_with_covariance`, as robot_localization's two_d_mode needs it; "
        "`initialpose` never has any.",
    )
    handoff_mode: str = _tunable(
        "handoff.mode",
        "once_per_trigger",
        "When `initialpose` is published: never, after each successful trigger, or then and whenever the "
        "node finds itself again after SEARCHING, LOST or being carried away.",
        choices=("never", "once_per_trigger", "on_lost"),
    )

    @property
    def backend(self) -> BackendOptions:
        """Where the network runs."""
        return BackendOptions(
            self.model_provider,
            self.model_allow_fallback,
            self.model_precision,
            self.model_threads,
            parse_cores(self.model_cores),
            self.model_spinning,
            Path(self.model_cache).expanduser() if self.model_cache else None,
        )

    @property
    def gate(self) -> GateOptions:
        """The gate's bounds."""
        return GateOptions(self.min_confidence, self.min_inlier_ratio, self.max_residual, self.map_margin)

    @property
    def tracking(self) -> TrackingOptions:
        """When poses agree, and when the node is lost."""
        return TrackingOptions(
            self.consistency_frames,
            self.consistency_distance,
            self.consistency_angle,
            self.max_speed,
            self.max_turn_rate,
            self.lost_timeout,
        )

    @property
    def covariance(self) -> CovarianceOptions:
        """Scale and floors."""
        return CovarianceOptions(
            self.covariance_scale, self.floor_position, self.floor_rotation, self.covariance_diagonal
        )

    def __post_init__(self) -> None:
        try:
            parse_cores(self.model_cores)
        except CoresError as error:
            raise ParameterError(f"parameter 'model.cores': {error}") from error
        frames = {
            name: getattr(self, _FIELD_OF[f"frames.{name}"])
            for name in ("map_frame", "odom_frame", "base_frame", "camera_frame")
        }
        if not frames["map_frame"]:
            raise ParameterError("parameter 'frames.map_frame': expected a frame name, got ''")
        for name, frame in frames.items():
            if frame.startswith("/"):
                raise ParameterError(
                    f"parameter 'frames.{name}': expected a TF frame without a leading slash, got '{frame}'"
                )
        for (name, frame), (other, same) in combinations(frames.items(), 2):
            if frame and frame == same:
                raise ParameterError(
                    f"parameter 'frames.{other}': expected another frame than 'frames.{name}', got "
                    f"'{frame}' for both"
                )
        for mode, needed in (("map_to_odom", "odom_frame"), ("map_to_base", "base_frame")):
            if self.tf_mode == mode and not frames[needed]:
                raise ParameterError(
                    f"parameter 'frames.{needed}': expected a frame name for tf.mode '{mode}', got ''"
                )


_FIELD_OF = {item.metadata["parameter"].name: item.name for item in fields(Settings)}
PARAMETERS: tuple[Parameter, ...] = tuple(item.metadata["parameter"] for item in fields(Settings))
_BY_NAME = {row.name: row for row in PARAMETERS}


def settings_from(values: Mapping[str, object], before: Settings | None = None) -> Settings:
    """Return the settings with `values`, by parameter name, in place of those of `before` or the defaults.

    Raises:
        ParameterError: a name is unknown, a value unusable, or two of them contradict each other.
    """
    unknown = sorted(values.keys() - _FIELD_OF.keys())
    if unknown:
        known = ", ".join(sorted(_FIELD_OF))
        raise ParameterError(f"parameter '{unknown[0]}': unknown, expected one of {known}")
    given: dict[str, Any] = {_FIELD_OF[name]: _BY_NAME[name].checked(value) for name, value in values.items()}
    return replace(before or Settings(), **given)


def changed_settings(before: Settings, values: Mapping[str, object], *, configured: bool) -> Settings:
    """Return the settings of a running node after a change of `values`, by parameter name.

    Raises:
        ParameterError: as `settings_from`, or a parameter can't change now.
    """
    for name in values:
        changes = _BY_NAME[name].changes if name in _BY_NAME else Changes.ANY_TIME
        if changes is Changes.UNCONFIGURED and configured:
            raise ParameterError(
                f"parameter '{name}': expected the node to be unconfigured (lifecycle: deactivate and clean "
                "up first), got a change while it is configured"
            )
        if changes is Changes.NEVER:
            raise ParameterError(f"parameter '{name}': expected to be set at start only, got a change")
    return settings_from(values, before)


def declare_settings(node: Node) -> Settings:
    """Declare the parameters on `node` and return the settings that its overrides ask for.

    The overrides are checked before rclpy declares them: its own errors name neither range nor unit.

    Raises:
        ParameterError: see `settings_from`.
    """
    overrides = {
        name: override.value
        for name, override in node._parameter_overrides.items()  # rclpy has no public way to see unknown ones
        if not is_middleware(name)
    }
    settings = settings_from(overrides)
    for row in PARAMETERS:
        value = getattr(settings, _FIELD_OF[row.name])
        node.declare_parameter(row.name, value, descriptor_of(row), ignore_override=True)
    return settings
