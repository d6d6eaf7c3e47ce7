"""Where a model goes wrong: estimated and true cameras on the map, seen from above."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from structpose_ros.map_cloud import MapCloud
from structpose_ros.training import plots
from structpose_ros.training.outcomes import Outcome

_MARGIN_M = 0.5
_LEAST_SCALE_M = 0.05  # the colours' upper end is not below this


def from_above(path: Path, outcomes: Sequence[Outcome], cloud: MapCloud | None = None) -> None:
    """Draw true and estimated cameras, coloured by position error, on the map's points if there are any."""
    right, forward, sign = view_from_above(outcomes)
    axes_shown = [right, forward]
    true = np.array([item.true_map_from_camera[axes_shown, 3] for item in outcomes])
    estimated = np.array(
        [
            [np.nan] * 2 if item.map_from_camera is None else item.map_from_camera[axes_shown, 3]
            for item in outcomes
        ]
    )
    points = np.empty((0, 2)) if cloud is None else cloud.points[:, axes_shown].astype(np.float64)
    # A pose that is metres off must not shrink the rest: what is shown is the map and where the cameras were.
    low = np.concatenate([true, points]).min(axis=0) - _MARGIN_M
    high = np.concatenate([true, points]).max(axis=0) + _MARGIN_M
    width, height = high - low
    figure, axes = plots.plt.subplots(
        figsize=(8.5, min(9.0, 1.0 + 6.5 * max(height / width, 0.4))), layout="constrained"
    )
    axes.scatter(
        points[:, 0], points[:, 1], c="0.72", s=2.5, linewidths=0, rasterized=True, zorder=1, label="map"
    )
    _draw_cameras(figure, axes, outcomes, true, estimated, (low, high))
    names = "xyz"
    axes.set(
        xlim=(low[0], high[0]),
        ylim=(low[1], high[1]),
        xlabel=f"{names[right]} [m]",
        ylabel=f"{names[forward]} [m]",
        title=f"from above ({'' if sign > 0 else '-'}{names[3 - right - forward]} is up)",
    )
    axes.set_aspect("equal")
    plots.save(figure, path, dpi=plots.PRINT_DPI)


def view_from_above(outcomes: Sequence[Outcome]) -> tuple[int, int, int]:
    """Return the map's axes to draw to the right and upwards, and the sign of the third, which points up.

    Up is the axis nearest to the true cameras' mean up (minus y of an optical frame): a map's frame need not
    be level, that of 7-Scenes is its first camera's. The picture is never mirrored.
    """
    up = -np.mean([item.true_map_from_camera[:3, 1] for item in outcomes], axis=0)
    axis = int(np.argmax(np.abs(up)))
    sign = 1 if up[axis] >= 0 else -1
    right, forward = (axis + 1) % 3, (axis + 2) % 3  # right x forward = axis
    return (right, forward, sign) if sign > 0 else (forward, right, sign)


def _draw_cameras(
    figure: Any,
    axes: Any,
    outcomes: Sequence[Outcome],
    true: npt.NDArray[np.float64],
    estimated: npt.NDArray[np.float64],
    shown: tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]],
) -> None:
    error = np.array([item.position_m for item in outcomes])
    accepted = np.array([item.accepted for item in outcomes], dtype=bool)
    found = np.isfinite(error)
    inside = found & ((estimated >= shown[0]) & (estimated <= shown[1])).all(axis=1)
    for start, end in zip(true[found], estimated[found], strict=True):
        axes.plot(*zip(start, end, strict=True), color="0.35", linewidth=0.5, alpha=0.7, zorder=2)
    axes.scatter(*true.T, s=6, c="black", linewidths=0, zorder=3, label=f"true ({len(true)})")
    scale = max(_LEAST_SCALE_M, float(np.percentile(error[found], 90))) if found.any() else _LEAST_SCALE_M
    style: dict[str, Any] = {"cmap": "plasma", "vmin": 0.0, "vmax": scale, "zorder": 4}
    for label, chosen, marker, size in (
        ("estimated, accepted", found & accepted, "o", 15),
        ("estimated, rejected", found & ~accepted, "X", 22),
    ):
        if chosen.any():
            look: dict[str, Any] = {"marker": marker, "s": size, "edgecolors": "black", "linewidths": 0.35}
            drawn = axes.scatter(*estimated[chosen].T, c=error[chosen], **style, **look)
            axes.scatter([], [], c="white", label=f"{label} ({chosen.sum()})", **look)
    if found.any():
        figure.colorbar(drawn, ax=axes, label="position error [m]", extend="max", fraction=0.035, pad=0.02)
    if not found.all():
        axes.scatter(
            *true[~found].T,
            s=45,
            facecolors="none",
            edgecolors="royalblue",
            label=f"no estimate ({(~found).sum()})",
            zorder=4,
        )
    if (found & ~inside).any():
        axes.plot([], [], " ", label=f"beyond this picture ({(found & ~inside).sum()})")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.1), ncols=3, fontsize=8, frameon=False)
