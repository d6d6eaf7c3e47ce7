"""Figures as PNG: paper Fig. 2 (cumulative errors) and Fig. 3 (outputs of a frame), risk and coverage."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import numpy.typing as npt

from structpose_ros.relocalizer import Result
from structpose_ros.training.frames import write_atomic
from structpose_ros.training.metrics import GOOD, risk_coverage_of
from structpose_ros.training.outcomes import Outcome

matplotlib.use("Agg")
import matplotlib.pyplot as plt

POSITION_LIMIT_M, ROTATION_LIMIT_DEG = 1.0, 25.0
PRINT_DPI = 200


def save(figure: Any, path: Path, dpi: int = 110) -> None:
    """Write a figure as PNG and close it."""
    buffer = io.BytesIO()
    try:
        figure.savefig(buffer, format="png", dpi=dpi)
    finally:
        plt.close(figure)
    write_atomic(path, buffer.getvalue())


def cumulative_errors(path: Path, methods: Mapping[str, Sequence[Outcome]]) -> None:
    """Draw the share of frames below each error (paper Fig. 2: up to 1 m and 25 degrees)."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 4), layout="constrained", sharey=True)
    # Solid, then dashed: ten colours serve twenty curves, and nearby ones stay apart without colour.
    for index, (name, outcomes) in enumerate(methods.items()):
        style = {"color": f"C{index % 10}", "linestyle": ("-", "--")[index // 10 % 2], "linewidth": 1.6}
        draw_cumulative(left, [item.position_m for item in outcomes], POSITION_LIMIT_M, name, **style)
        draw_cumulative(right, [item.rotation_deg for item in outcomes], ROTATION_LIMIT_DEG, name, **style)
    left.set_xlabel("position error [m]")
    right.set_xlabel("rotation error [deg]")
    left.set_ylabel("share of frames")
    right.legend(loc="lower right", fontsize=8)
    save(figure, path, dpi=PRINT_DPI)


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


def risk_coverage(path: Path, outcomes: Sequence[Outcome]) -> None:
    """Draw how many of the most confident frames are wrong, beside an oracle and no confidence at all."""
    curve, oracle = risk_coverage_of(outcomes)
    overall = float(curve.risk[-1])
    accepted = float(np.mean([item.accepted for item in outcomes]))
    figure, axes = plt.subplots(figsize=(5.5, 4.2), layout="constrained")
    axes.plot(
        curve.coverage, curve.risk, color="C0", linewidth=1.8, label=f"confidence, area {curve.area:.3f}"
    )
    axes.plot(
        oracle.coverage, oracle.risk, color="C2", linestyle="--", label=f"oracle, area {oracle.area:.3f}"
    )
    axes.axhline(overall, color="0.5", linestyle=":", label=f"no information, area {overall:.3f}")
    if accepted > 0:
        at = round(accepted * len(outcomes)) - 1
        axes.plot(
            accepted,
            curve.risk[at],
            "o",
            color="C3",
            zorder=3,
            label=f"gate: {100 * accepted:.0f} % accepted",
        )
    axes.set(
        xlim=(0, 1.01),
        ylim=(0, max(0.05, 1.1 * float(max(curve.risk.max(), overall)))),
        xlabel="coverage: share of frames, most confident first",
        ylabel=f"risk: share beyond {100 * GOOD[0]:.0f} cm or {GOOD[1]:.0f} deg",
    )
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    save(figure, path, dpi=PRINT_DPI)


def panels(
    path: Path,
    rows: Sequence[tuple[str, Outcome, Result]],
    scene_low: npt.ArrayLike,
    scene_high: npt.ArrayLike,
) -> None:
    """Draw outputs of frames (paper Fig. 3); for each a row: its title, its outcome and its result."""
    height, width = rows[0][2].image_rgb.shape[:2]
    figure = plt.figure(figsize=(12, (2.0 * height / width + 0.45) * len(rows)), layout="constrained")
    parts = figure.subfigures(len(rows), 1, squeeze=False)[:, 0]
    for part, (title, outcome, result) in zip(parts, rows, strict=True):
        draw_outputs(part.subplots(1, 5), result, scene_low, scene_high)
        part.suptitle(f"{title} ({_verdict(outcome)})", fontsize=10, x=0.01, ha="left")
    save(figure, path, dpi=PRINT_DPI)


def _verdict(outcome: Outcome) -> str:
    judged = "accepted" if outcome.accepted else f"rejected: {outcome.reject_reason}"
    if outcome.map_from_camera is None:
        return judged
    return f"{100 * outcome.position_m:.1f} cm, {outcome.rotation_deg:.2f}°, {judged}"


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
    # One cell that sees the sky, as it were, must not turn the others into one colour.
    near, far = np.percentile(result.prediction.depth, [1, 99])
    pictures: list[tuple[str, Any, dict[str, Any]]] = [
        ("image", result.image_rgb, {}),
        ("depth [m]", result.prediction.depth, {"cmap": "turbo", "vmin": near, "vmax": far}),
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
            scale = axis.figure.colorbar(shown, cax=axis.inset_axes((1.03, 0.0, 0.05, 1.0)))
            scale.ax.tick_params(labelsize=7)
    for axis in axes:
        axis.set_axis_off()
