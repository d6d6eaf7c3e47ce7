"""Where a model goes wrong: estimated and true cameras on the map, seen from above."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from structpose_ros.map_cloud import MapCloud
from structpose_ros.training import plots
from structpose_ros.training.outcomes import Outcome

_MARGIN_M, _CLOSE_MARGIN_M = 0.5, 0.15
_CLOSE_UP = 0.4  # cameras that keep to a smaller share of the map's length are shown closer as well
_LEAST_SCALE_M = 0.05  # the colours' upper end is not below this
_WIDEST, _HIGHEST = 10.0, 5.5  # inches of what is drawn, without scales and titles


@dataclass(frozen=True)
class _Cameras:
    """true, estimated: (N, 2) metres, estimated NaN where there is none. error: (N,) m, infinite there."""

    true: npt.NDArray[np.float64]
    estimated: npt.NDArray[np.float64]
    error: npt.NDArray[np.float64]
    accepted: npt.NDArray[np.bool_]

    @property
    def found(self) -> npt.NDArray[np.bool_]:
        return np.isfinite(self.error)


def from_above(path: Path, outcomes: Sequence[Outcome], cloud: MapCloud | None = None) -> None:
    """Draw true and estimated cameras, coloured by position error, on the map's points if there are any."""
    right, ahead, sign = view_from_above(outcomes)
    shown = [right, ahead]
    none = np.full(2, np.nan)
    cameras = _Cameras(
        np.array([item.true_map_from_camera[shown, 3] for item in outcomes]),
        np.array(
            [none if item.map_from_camera is None else item.map_from_camera[shown, 3] for item in outcomes]
        ),
        np.array([item.position_m for item in outcomes]),
        np.array([item.accepted for item in outcomes], dtype=bool),
    )
    points = np.empty((0, 2)) if cloud is None else cloud.points[:, shown].astype(np.float64)
    # A pose that is metres off must not shrink the rest: what is shown is the map and where the cameras were.
    whole = _box(np.concatenate([cameras.true, points]), _MARGIN_M)
    inside = ((cameras.estimated >= whole[0]) & (cameras.estimated <= whole[1])).all(axis=1)
    close = _box(np.concatenate([cameras.true, cameras.estimated[inside]]), _CLOSE_MARGIN_M)
    sizes = [np.ptp(box, axis=0).max() for box in (whole, close)]
    boxes = [whole, close] if sizes[1] < _CLOSE_UP * sizes[0] else [whole]
    ratios = [float(np.clip(np.divide(*np.ptp(box, axis=0)), 0.4, 2.0)) for box in boxes]
    height = min(_HIGHEST, _WIDEST / sum(ratios))
    figure, grid = plots.plt.subplots(
        1,
        len(boxes),
        figsize=(height * sum(ratios) + 2.0, height + 1.3),
        layout="compressed",
        squeeze=False,
        gridspec_kw={"width_ratios": ratios},
    )
    for axes, box in zip(grid[0], boxes, strict=True):
        if len(points):
            axes.scatter(
                points[:, 0], points[:, 1], c="0.72", s=2.5, linewidths=0, rasterized=True, label="map"
            )
        drawn = _draw_cameras(axes, cameras)
        axes.set(xlim=box[:, 0], ylim=box[:, 1], xlabel=f"{'xyz'[right]} [m]", ylabel=f"{'xyz'[ahead]} [m]")
        axes.set_aspect("equal")
    if drawn is not None:
        figure.colorbar(drawn, ax=grid[0, -1], label="position error [m]", extend="max", fraction=0.04)
    beyond = int((cameras.found & ~inside).sum())
    if beyond:
        grid[0, 0].plot([], [], " ", label=f"beyond this picture ({beyond})")
    grid[0, 0].legend(loc="upper center", bbox_to_anchor=(0.5, -0.13), ncols=3, fontsize=8, frameon=False)
    grid[0, 0].set_title(f"from above ({'' if sign > 0 else '-'}{'xyz'[3 - right - ahead]} is up)")
    if len(boxes) == 2:
        grid[0, 0].add_patch(plots.plt.Rectangle(close[0], *np.ptp(close, axis=0), fill=False, zorder=5))
        grid[0, 1].set_title("the cameras, closer")
    plots.save(figure, path, dpi=plots.PRINT_DPI)


def view_from_above(outcomes: Sequence[Outcome]) -> tuple[int, int, int]:
    """Return the map's axes to draw to the right and upwards, and the sign of the third, which points up.

    Up is the axis nearest to the true cameras' mean up (minus y of an optical frame): a map's frame need not
    be level, that of 7-Scenes is its first camera's. The picture is never mirrored.
    """
    up = -np.mean([item.true_map_from_camera[:3, 1] for item in outcomes], axis=0)
    axis = int(np.argmax(np.abs(up)))
    sign = 1 if up[axis] >= 0 else -1
    right, ahead = (axis + 1) % 3, (axis + 2) % 3  # right x ahead = axis
    return (right, ahead, sign) if sign > 0 else (ahead, right, sign)


def _box(points: npt.NDArray[np.float64], margin: float) -> npt.NDArray[np.float64]:
    """Return the lowest and the highest coordinates, (2, 2), with a margin in metres."""
    return np.stack([points.min(axis=0) - margin, points.max(axis=0) + margin])


def _draw_cameras(axes: Any, cameras: _Cameras) -> Any:
    """Draw the cameras and the lines from true to estimated ones; returns what a colour bar is made of."""
    found, error = cameras.found, cameras.error
    for start, end in zip(cameras.true[found], cameras.estimated[found], strict=True):
        axes.plot(*zip(start, end, strict=True), color="0.35", linewidth=0.4, alpha=0.6, zorder=2)
    axes.scatter(*cameras.true.T, s=6, c="black", linewidths=0, zorder=3, label=f"true ({len(cameras.true)})")
    scale = max(_LEAST_SCALE_M, float(np.percentile(error[found], 90))) if found.any() else _LEAST_SCALE_M
    style: dict[str, Any] = {"cmap": "plasma", "vmin": 0.0, "vmax": scale, "zorder": 4}
    drawn = None
    for label, chosen, marker, size in (
        ("estimated, accepted", found & cameras.accepted, "o", 15),
        ("estimated, rejected", found & ~cameras.accepted, "X", 22),
    ):
        if chosen.any():
            look: dict[str, Any] = {"marker": marker, "s": size, "edgecolors": "black", "linewidths": 0.35}
            drawn = axes.scatter(*cameras.estimated[chosen].T, c=error[chosen], **style, **look)
            axes.scatter([], [], c="white", label=f"{label} ({chosen.sum()})", **look)
    if not found.all():
        hollow: dict[str, Any] = {"s": 45, "facecolors": "none", "edgecolors": "royalblue", "zorder": 4}
        axes.scatter(*cameras.true[~found].T, label=f"no estimate ({(~found).sum()})", **hollow)
    return drawn
