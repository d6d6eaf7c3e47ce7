"""The parts of a model file's page that speak of views: those trained on, and those it can be given."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from structpose_ros.camera import Camera
from structpose_ros.contract import ModelContract
from structpose_ros.model_card import ModelCard, TrainingDescription, TrainingRun
from structpose_ros.text_table import Rows, box, plain, span

_TILTED_DEG = 45.0  # views whose upper side is further from the map's z axis hardly stand on its floor


def field_of_view(camera: Camera) -> tuple[float, float]:
    """Return the horizontal and vertical field of view in degrees, as far as the lens reaches."""
    across = np.linspace(-0.5, camera.width - 0.5, 129)
    down = np.linspace(-0.5, camera.height - 0.5, 129)
    x = camera.rays(np.stack([across, np.full_like(across, camera.cy)], axis=-1))[:, 0]
    y = camera.rays(np.stack([np.full_like(down, camera.cx), down], axis=-1))[:, 1]
    angles = [np.degrees(np.arctan(values[np.isfinite(values)])) for values in (x, y)]
    horizontal, vertical = (float(np.ptp(values)) if len(values) else 0.0 for values in angles)
    return horizontal, vertical


def trained_on(contract: ModelContract, card: ModelCard | None) -> Rows:
    """Say what the training views show, as far as the file knows."""
    camera = contract.training_camera
    horizontal, vertical = field_of_view(camera)
    lens = "no distortion" if camera.is_pinhole else f"lens {camera.distortion_model}"
    optics = f"field of view {horizontal:.0f} x {vertical:.0f} deg, {lens}; the network sees "
    optics += f"{contract.input_width}x{contract.input_height}"
    if contract.refined_camera is not None:
        optics += f"; its images show a lens of k1 {contract.refined_camera.distortion[0]:.3f}, which is "
        optics += "used for cameras of this calibration"
    surfaces = ("surfaces seen", f"{box(contract.map_min, contract.map_max)} (map frame, without outliers)")
    if card is None:
        unknown = "no card: the file was exported by an earlier release, which did not record what they show"
        return [("views", unknown), ("camera", optics), surfaces]
    if card.views is None:
        unknown = "not recorded: the run was trained with an earlier release"
        return [("views", unknown), ("camera", optics), surfaces]
    views = card.views
    more = views.sequences - len(views.sequence_names)
    names = [*map(plain, views.sequence_names), *([f"{more} more sequences"] if more else [])]
    low, median, high = views.brightness
    rows = [
        ("views", f"{views.frames} frames of {', '.join(names)}"),
        ("camera", f"{views.image_width}x{views.image_height}, {optics}"),
        ("camera positions", f"{box(views.position_min, views.position_max)} (map frame)"),
        ("camera directions", _directions(views)),
        surfaces,
    ]
    if views.depth_m is not None:
        near, middle, far = views.depth_m
        depth = (
            f"{near:.1f} .. {far:.1f} m along the optical axis (90 % of the pixels), median {middle:.1f} m"
        )
        rows.append(("distances", depth))
    light = f"mean brightness {low:.0f} .. {high:.0f} of 255 (90 % of the images), median {median:.0f}; "
    return [*rows, ("light", f"{light}standard deviation within an image {views.contrast:.0f}")]


def _directions(views: TrainingDescription) -> str:
    """Say which way the cameras looked, and whether the map's z axis can be up."""
    parts = [f"pitch {span(views.pitch_deg)} deg (upwards positive)"]
    if views.heading_deg is not None:
        parts.insert(0, f"heading {span(views.heading_deg)} deg (from the map's x towards y)")
    if views.roll_deg is not None:
        parts.append(f"roll {span(views.roll_deg)} deg (right side down positive)")
    text = ", ".join(parts) + "; the map's z axis is taken as up"
    if views.up_deviation_deg > _TILTED_DEG:
        text += f", but the images' upper side points {views.up_deviation_deg:.0f} deg away from it: "
        text += "z is not up in this map, or the camera is mounted turned"
    return text


def works_on(contract: ModelContract, views: TrainingDescription, training: TrainingRun) -> Rows:
    """Say what follows from the training views and their augmentation for a view that shall be found."""
    low, high = views.position_min, views.position_max
    step = _step_along_axis(views, training.augmentation)
    ahead = (
        f", or up to {step:.1f} m ahead of or behind a trained view (augmentation)" if step >= 0.05 else ""
    )
    tilt, roll = (_number(training.augmentation, name) for name in ("tilt_degrees", "roll_degrees"))
    horizontal, vertical = field_of_view(contract.training_camera)
    light = f"mean brightness about {views.brightness[0]:.0f} .. {views.brightness[2]:.0f} of 255"
    if training.augmentation.get("photometric") is True:
        light += ", and somewhat beyond (exposure, contrast and colour were varied)"
    rows = [
        ("", "Views like those trained on; beyond them expect larger errors, or no pose."),
        ("camera position", f"within {box(low, high)}{ahead}"),
        ("camera height", f"z {span((low[2], high[2]), 2)} m"),
        ("pitch", _widened(views.pitch_deg, tilt)),
        ("field of view", f"about {horizontal:.0f} x {vertical:.0f} deg; lens and resolution may differ"),
        ("light", light),
    ]
    if views.roll_deg is not None:
        rows.insert(3, ("roll", _widened(views.roll_deg, roll)))
    if views.heading_deg is not None:
        rows.insert(3, ("heading", _widened(views.heading_deg, tilt)))
    return rows


def _step_along_axis(views: TrainingDescription, augmentation: Mapping[str, object]) -> float:
    """Metres ahead and back that the change of scale stands for at the median depth; 0 without."""
    low, high = _number(augmentation, "scale_low", 1.0), _number(augmentation, "scale_high", 1.0)
    if views.depth_m is None or not 0 < low <= 1 <= high:
        return 0.0
    return views.depth_m[1] * min(1.0 / low - 1.0, 1.0 - 1.0 / high)


def _widened(values: tuple[float, float], by: float) -> str:
    low, high = values[0] - by, values[1] + by
    if high - low >= 360.0:
        return "any"
    return f"{span((low, high))} deg" + (f" ({by:g} deg at either end by augmentation)" if by else "")


def _number(values: Mapping[str, object], name: str, default: float = 0.0) -> float:
    value = values.get(name, default)
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else default
