"""Figures of the paper, written as PNG: Fig. 2 (cumulative errors) and Fig. 3 (one frame's outputs)."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
import numpy.typing as npt

from structpose_ros.relocalizer import Result
from structpose_ros.training.frames import write_atomic

if TYPE_CHECKING:
    from structpose_ros.training.evaluate import Outcome

matplotlib.use("Agg")
import matplotlib.pyplot as plt

POSITION_LIMIT_M, ROTATION_LIMIT_DEG = 1.0, 25.0


def save(figure: Any, path: Path) -> None:
    """Write a figure as PNG and close it."""
    buffer = io.BytesIO()
    try:
        figure.savefig(buffer, format="png", dpi=110)
    finally:
        plt.close(figure)
    write_atomic(path, buffer.getvalue())


def cumulative_errors(path: Path, methods: Mapping[str, Sequence[Outcome]]) -> None:
    """Draw the share of frames below each error (paper Fig. 2: up to 1 m and 25 degrees)."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for name, outcomes in methods.items():
        draw_cumulative(left, [item.position_m for item in outcomes], POSITION_LIMIT_M, name)
        draw_cumulative(right, [item.rotation_deg for item in outcomes], ROTATION_LIMIT_DEG, name)
    left.set_xlabel("position error [m]")
    right.set_xlabel("rotation error [deg]")
    left.set_ylabel("share of frames")
    left.legend(loc="lower right")
    save(figure, path)


def draw_cumulative(axes: Any, errors: Sequence[float], limit: float, label: str, **style: Any) -> None:
    """Draw one cumulative curve of `errors` (infinite for failures) up to `limit`."""
    values = np.sort(np.asarray(errors))
    shares = np.arange(1, len(values) + 1) / max(len(values), 1)
    below = values <= limit
    x = np.concatenate([[0.0], values[below], [limit]])
    y = np.concatenate([[0.0], shares[below], [float(below.mean()) if len(values) else 0.0]])
    axes.step(x, y, where="post", label=label, **style)
    axes.set_xlim(0, limit)
    axes.set_ylim(0, 1.02)
    axes.grid(alpha=0.3)


def draw_outputs(
    axes: Sequence[Any], result: Result, scene_low: npt.ArrayLike, scene_high: npt.ArrayLike
) -> None:
    """Draw image, depth, scene coordinates, weights and endpoint error (paper Fig. 3) into five axes.

    Scene coordinates are shown as RGB between the map's corners; weights are those of the last solve; the
    endpoint error |R p + T - c| is clamped to 1 m.
    """
    shape = result.prediction.depth.shape
    low, high = np.asarray(scene_low), np.asarray(scene_high)
    scene = np.clip((result.prediction.scene_coordinates - low) / (high - low), 0, 1)
    pictures: list[tuple[str, Any, dict[str, Any]]] = [
        ("image", result.image_rgb, {}),
        ("depth [m]", result.prediction.depth, {"cmap": "turbo"}),
        ("scene coordinates", scene, {}),
    ]
    if result.estimate is not None:
        weights = result.estimate.weights.reshape(shape)
        error = result.estimate.residuals.reshape(shape)
        pictures.append(
            ("weights", weights / max(weights.max(), 1e-12), {"cmap": "gray", "vmin": 0, "vmax": 1})
        )
        pictures.append(
            ("endpoint error [m]", np.minimum(error, 1.0), {"cmap": "inferno", "vmin": 0, "vmax": 1})
        )
    for axis, (title, picture, style) in zip(axes, pictures, strict=False):
        shown = axis.imshow(picture, **style)
        axis.set_title(title, fontsize=9)
        if "cmap" in style:
            axis.figure.colorbar(shown, ax=axis, fraction=0.046, pad=0.02).ax.tick_params(labelsize=7)
    for axis in axes:
        axis.set_axis_off()
