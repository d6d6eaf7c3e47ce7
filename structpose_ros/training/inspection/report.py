"""An inspection in numbers: `inspect.json`, and a few lines for the terminal."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import numpy.typing as npt

from structpose_ros.training.inspection.findings import Finding
from structpose_ros.training.inspection.measure import Inspection


def numbers(inspection: Inspection, findings: Sequence[Finding]) -> dict[str, Any]:
    """Return what `inspect.json` holds: plain values, None where something could not be measured."""
    views, figures, agreement = inspection.views, inspection.figures, inspection.agreement
    low, middle, high = inspection.depth_percentiles
    fit, repeats = inspection.registration, inspection.repeats
    content = {
        "recording": inspection.name,
        "image": [inspection.camera.width, inspection.camera.height],
        "frames": {**inspection.counts, "sampled": len(figures.index), "bad": len(inspection.bad)},
        "interval_s": inspection.interval_s,
        "warnings": [asdict(finding) for finding in findings],
        "views": {
            "extent_m": list(views.extent_m),
            "spread_deg": views.spread_deg,
            "heading_share": views.heading_share,
            "roll_deg": views.roll_deg,
            "test_to_train_m": _middle(views.nearest_m),
            "test_to_train_deg": _middle(views.nearest_deg),
            "step_m": _middle(views.step_m),
            "step_deg": _middle(views.step_deg),
            "largest_step_m": float(views.step_m.max(initial=0.0)),
            "largest_step_deg": float(views.step_deg.max(initial=0.0)),
            "jumps": list(views.jumps),
        },
        "depth": {
            "valid_share": _middle(figures.valid_share),
            "percentile_5_m": low,
            "median_m": middle,
            "percentile_95_m": high,
        },
        "images": {
            "least_sharpness": float(figures.sharpness.min()),
            "brightness": _middle(figures.brightness),
            "saturated_share": _middle(figures.saturated),
            "repeated_images": list(repeats.same_image),
            "repeated_poses": repeats.same_pose,
        },
        "agreement": {
            "pairs": agreement.pairs,
            "frames_apart": inspection.pair_step,
            "reading": agreement.reading,
            "turning_explained": agreement.explained,
            "turned_deg": agreement.turned_deg,
            "pose_delay_frames": agreement.shift,
            "pose_delay_frames_std": agreement.shift_std,
            "pose_delay_s": None
            if agreement.shift is None or inspection.interval_s is None
            else agreement.shift * inspection.interval_s,
            "depth_scale": agreement.depth_scale,
            "depth_scale_log_std": agreement.depth_scale_std,
            "residual_px": _middle(inspection.residual_px),
            "image_motion_px": _middle(inspection.image_motion_px),
            "depth_deviation": _middle(inspection.depth_deviation),
        },
        "registration": None
        if fit is None
        else {
            "magnification": fit.magnification,
            "shift_px": list(fit.shift_px),
            "displacement_px": fit.displacement_px,
            "gain": fit.gain,
            "contrast": fit.contrast,
        },
    }
    return _plain(content)


def to_json(content: dict[str, Any]) -> bytes:
    """Return the content as JSON text."""
    return (json.dumps(content, indent=2) + "\n").encode()


def lines(inspection: Inspection, findings: Sequence[Finding]) -> list[str]:
    """Return the numbers that matter most, then the warnings, for the terminal."""
    return [
        headline(inspection),
        *facts(inspection),
        *(f"{item.name}: {item.sentence}" for item in findings),
    ] + ([] if findings else ["no warnings"])


def headline(inspection: Inspection) -> str:
    """Return name and counts."""
    camera = inspection.camera
    return (
        f"{inspection.name}: {inspection.counts['train']} training + {inspection.counts['test']} test "
        f"frames, {camera.width} x {camera.height}"
    )


def facts(inspection: Inspection) -> list[str]:
    """Return three lines of numbers."""
    views, fit = inspection.views, inspection.registration
    low, middle, high = inspection.depth_percentiles
    extent = " x ".join(f"{side:.1f}" for side in views.extent_m)
    where = f"space {extent} m, step {100 * _middle(views.step_m):.1f} cm / {_middle(views.step_deg):.1f} deg"
    if len(views.nearest_m):
        where += (
            f", test views {100 * _middle(views.nearest_m):.0f} cm / {_middle(views.nearest_deg):.0f} deg "
            "from the nearest training view"
        )
    depth = f"depth in {_middle(inspection.figures.valid_share):.0%} of the pixels"
    if math.isfinite(middle):
        depth += f", {low:.1f} .. {middle:.1f} .. {high:.1f} m (5, 50, 95 %)"
    depth += "" if fit is None else f", edges {fit.displacement_px:.0f} px from the image's"
    return [where, depth, _agreement(inspection)]


def _agreement(inspection: Inspection) -> str:
    """Return how poses, depth and images agree, or why that could not be measured."""
    agreement = inspection.agreement
    pairs, shift, scale = agreement.pairs, agreement.shift, agreement.depth_scale
    if shift is None:
        if agreement.explained is not None:
            return f"poses and images disagree ({pairs} pairs of frames)"
        return f"poses against images: not measured ({pairs} pairs of frames could be followed)"
    delay = f"{shift:+.1f} frames"
    if inspection.interval_s is not None:
        delay = f"{1e3 * shift * inspection.interval_s:+.0f} ms"
    factor = "not measured" if scale is None else f"{scale:.2f}"
    return (
        f"delay of the poses {delay}, scale of depth {factor}, residual "
        f"{_middle(inspection.residual_px):.1f} px of {_middle(inspection.image_motion_px):.0f} px motion, "
        f"depth off by {_middle(inspection.depth_deviation):.1%} ({pairs} pairs of frames)"
    )


def _middle(values: npt.NDArray[np.float64]) -> float:
    return float(np.nanmedian(values)) if np.isfinite(values).any() else math.nan


def _plain(value: Any) -> Any:
    """Return a value with NaN and infinity, which JSON lacks, as None."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
