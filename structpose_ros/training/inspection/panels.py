"""The panels of the page, each drawn into axes of its own; red titles where a warning was raised."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from structpose_ros.training.frames import NOTHING_SEEN_MM
from structpose_ros.training.inspection.findings import BLURRED
from structpose_ros.training.inspection.measure import Inspection
from structpose_ros.training.inspection.registration import depth_edges

TRAIN, TEST, INK, FAINT, WARN, GOOD = "#1f5fa8", "#e07b00", "#222222", "#9a9a9a", "#b3261e", "#2e7d32"
ARROWS = 60  # per split


def _title(axes: Any, text: str, names: set[str] | None = None, *flagged: str) -> None:
    """Set a title, red where one of the panel's warnings was raised."""
    axes.set_title(text, color=WARN if names and names.intersection(flagged) else INK)


def _nothing(axes: Any, why: str) -> None:
    axes.set_axis_off()
    axes.text(0.5, 0.5, why, ha="center", va="center", color=FAINT, transform=axes.transAxes)


def draw_trajectory(axes: Any, inspection: Inspection) -> None:
    """Draw positions and view directions in the plane that they spread in most."""
    views = inspection.views
    for split, color in (("train", TRAIN), ("test", TEST)):
        if split not in views.positions:
            continue
        positions, headings = views.positions[split], views.headings[split]
        axes.plot(*positions.T, ".", color=color, markersize=3, label=split)
        some = np.unique(np.linspace(0, len(positions) - 1, ARROWS).astype(int))
        axes.quiver(*positions[some].T, *headings[some].T, color=color, scale=22, width=0.0028, alpha=0.75)
    names = "xyz"
    axes.set_xlabel(f"{names[views.axes[0]]} [m]")
    axes.set_ylabel(f"{names[views.axes[1]]} [m]")
    axes.set_aspect("equal", adjustable="datalim")
    axes.margins(0.12)
    axes.legend(loc="best", markerscale=3, frameon=False)
    _title(axes, "where the camera was and looked (map frame)")


def draw_headings(axes: Any, inspection: Inspection, named: set[str]) -> None:
    """Draw the share of views in each of 24 headings."""
    views = inspection.views
    edges = np.radians(np.arange(0, 361, 15))
    for split, color in (("train", TRAIN), ("test", TEST)):
        if split in views.headings:
            counts = np.histogram(np.arctan2(*views.headings[split].T[::-1]) % (2 * np.pi), edges)[0]
            axes.bar(
                edges[:-1], counts / counts.sum(), width=np.radians(15), align="edge", color=color, alpha=0.6
            )
    axes.set_yticklabels([])
    axes.tick_params(labelsize=8)
    x, y = ("xyz"[axis] for axis in views.axes)
    _title(axes, f"headings (0: +{x}, 90: +{y}), {views.heading_share:.0%} covered", named, "narrow_views")


def draw_nearest(axes: Any, inspection: Inspection, named: set[str]) -> None:
    """Draw how far test views are from training views."""
    views = inspection.views
    if not len(views.nearest_m):
        _title(axes, "nearest training view", named, "no_test_split")
        return _nothing(axes, "no test split")
    axes.plot(views.nearest_m, views.nearest_deg, ".", color=TEST, markersize=5, alpha=0.7)
    median = np.median(views.nearest_m), np.median(views.nearest_deg)
    axes.plot(*median, "+", color=INK, markersize=16, markeredgewidth=2)
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("distance of test views [m]")
    axes.set_ylabel("angle [deg]")
    _title(
        axes, f"nearest training view: {median[0]:.2f} m, {median[1]:.0f} deg", named, "small_overlap", "roll"
    )


def draw_shift(axes: Any, inspection: Inspection, named: set[str]) -> None:
    """Draw how poses and images disagree on turning, over the delay assumed for the poses."""
    agreement = inspection.agreement
    flagged = ("stamp_shift", "poses_disagree", "poses_inverted", "poses_turned")
    if not len(agreement.shifts):
        _title(axes, "do poses and images turn together?")
        return _nothing(
            axes, f"not measured: {agreement.pairs} pairs of frames could be followed,\nor nothing turns"
        )
    interval = inspection.interval_s
    factor, unit = (1.0, "frames") if interval is None else (1e3 * interval, "ms")
    axes.plot(factor * agreement.shifts, agreement.disagreement_deg, "-", color=INK, lw=1.5)
    axes.axvline(0, color=FAINT, lw=1)
    if agreement.shift is not None:
        color = WARN if "stamp_shift" in named else GOOD
        axes.axvline(factor * agreement.shift, color=color, lw=1.5, ls="--")
        _title(
            axes,
            f"delay of the poses: {factor * agreement.shift:+.{0 if interval else 1}f} {unit}",
            named,
            *flagged,
        )
    else:
        _title(axes, "poses and images do not turn together", named, *flagged)
    axes.set_ylim(bottom=0)
    axes.set_xlabel(f"assumed delay of the poses [{unit}]")
    axes.set_ylabel("turn: poses against images [deg]")


def draw_scale(axes: Any, inspection: Inspection, named: set[str]) -> None:
    """Draw how far pairs moved by their poses, and by images and depth."""
    agreement = inspection.agreement
    if agreement.depth_scale is None:
        _title(axes, "do poses and depth have one unit?")
        return _nothing(axes, "not measured")
    recorded, seen = (
        100 * np.linalg.norm(moves, axis=1) for moves in (agreement.recorded_moves, agreement.seen_moves)
    )
    scale = agreement.depth_scale
    axes.plot(recorded, seen, ".", color=TRAIN, markersize=4, alpha=0.6)
    end = float(np.percentile(recorded, 98)) * 1.1
    axes.plot([0, end], [0, end], color=FAINT, lw=1, label="depth and poses in one unit")
    color = WARN if "depth_unit" in named else GOOD
    axes.plot([0, end], [0, scale * end], "--", color=color, lw=1.5, label="fit")
    axes.set_xlim(0, end)
    axes.set_ylim(0, max(end, 1.1 * scale * end))
    axes.set_xlabel("motion by poses [cm]")
    axes.set_ylabel("motion by images and depth [cm]")
    axes.legend(loc="upper left", frameon=False)
    _title(axes, f"unit of depth over that of poses: {scale:.3g}", named, "depth_unit")


def draw_edges(axes: Any, inspection: Inspection, named: set[str]) -> None:
    """Draw a frame with its depth edges: as recorded, and where they would fit if that is far away."""
    frame, fit = inspection.edge_frame, inspection.registration
    if frame is None:
        return _nothing(axes, "no frame to show")
    gray = cv2.cvtColor(frame.image_rgb, cv2.COLOR_RGB2GRAY)
    axes.imshow(0.55 * gray + 60, cmap="gray", vmin=0, vmax=255)
    pixels = depth_edges(frame.depth_mm)[0]
    flagged = "depth_not_registered" in named
    size = 0.7 * 640 / inspection.camera.width
    axes.scatter(
        *pixels.T, s=size, color="#ff5a4d" if flagged else "#ffb000", linewidths=0, label="depth edges"
    )
    if fit is not None and flagged:
        moved = fit.moved(pixels, inspection.camera.width, inspection.camera.height)
        axes.scatter(*moved.T, s=size, color="#58e06f", linewidths=0, label="where they fit")
        axes.legend(loc="lower right", markerscale=8, frameon=True, framealpha=0.8)
    _as_picture(axes, inspection)
    offset = "not measured" if fit is None else f"{fit.displacement_px:.0f} px off"
    _title(axes, f"depth edges on the image: {offset}", named, "depth_not_registered")


def draw_reprojection(panels: Sequence[Any], inspection: Inspection) -> None:
    """Draw a frame, another one moved there, and both on top of each other."""
    shown = inspection.reprojection
    if shown is None:
        for axes in panels:
            _nothing(axes, "no two frames could be compared")
        return
    second, first = (
        cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
        for image in (shown.second.image_rgb, shown.first_seen_from_second)
    )
    # One image in red, the other in cyan: where they agree the picture is grey, else it has coloured fringes.
    both = np.stack([second, first, first], axis=2)
    both[~shown.seen] = 40
    pictures: list[tuple[str, npt.NDArray[np.uint8]]] = [
        (f"{shown.second.name}", shown.second.image_rgb),
        (f"{shown.first.name}, moved there by depth and poses", shown.first_seen_from_second),
        ("both: coloured fringes are disagreement", both),
    ]
    for axes, (title, picture) in zip(panels, pictures, strict=True):
        axes.imshow(picture)
        _as_picture(axes, inspection)
        _title(axes, title)


def _as_picture(axes: Any, inspection: Inspection) -> None:
    axes.set_xlim(-0.5, inspection.camera.width - 0.5)
    axes.set_ylim(inspection.camera.height - 0.5, -0.5)
    axes.set_anchor("NW")
    axes.set_axis_off()


def _bands(axes: Any, inspection: Inspection) -> None:
    """Shade the test sequences of a curve over all frames."""
    total = sum(inspection.counts.values())
    ends = [start for start, _ in inspection.starts[1:]] + [total]
    for (start, split), end in zip(inspection.starts, ends, strict=True):
        if split == "test":
            axes.axvspan(start, end, color=TEST, alpha=0.12, lw=0)
    axes.set_xlim(0, max(total, 1))
    axes.set_xlabel("frame (shaded: test)")


def draw_valid(axes: Any, picture: Any, inspection: Inspection, named: set[str]) -> None:
    """Draw the share of pixels with depth, over frames and over the image."""
    figures = inspection.figures
    axes.plot(figures.index, 100 * figures.valid_share, color=TRAIN, lw=1)
    axes.set_ylim(0, 100)
    _bands(axes, inspection)
    _title(
        axes, f"pixels with depth [%]: {100 * np.median(figures.valid_share):.0f}", named, "low_valid_depth"
    )
    picture.imshow(inspection.valid_map, cmap="viridis", vmin=0, vmax=1)
    _as_picture(picture, inspection)
    _title(picture, "where (bright: always)")


def draw_depth(axes: Any, inspection: Inspection) -> None:
    """Draw the histogram of depth."""
    high = inspection.depth_percentiles[2]
    if not np.isfinite(high):
        return _nothing(axes, "no depth")
    edges = np.linspace(0, 1.4 * high, 50)
    values = np.arange(NOTHING_SEEN_MM) * 1e-3
    counts = np.histogram(values, edges, weights=inspection.depth_counts)[0]
    axes.stairs(100 * counts / inspection.depth_counts.sum(), edges, fill=True, color=TRAIN)
    axes.set_xlabel("depth [m]")
    axes.set_ylabel("pixels [%]")
    _title(axes, f"depth: median {inspection.depth_percentiles[1]:.2g} m")


def draw_images(axes: Any, inspection: Inspection, named: set[str]) -> None:
    """Draw sharpness and brightness over the frames."""
    figures = inspection.figures
    axes.plot(figures.index, figures.sharpness, color=TRAIN, lw=1, label="sharpness / median")
    axes.axhline(BLURRED, color=WARN, lw=0.8, ls=":")
    axes.plot(figures.index, figures.brightness / 127.5, color=TEST, lw=1, label="brightness / mid-grey")
    axes.set_ylim(0, max(3.0, 1.2 * float(figures.sharpness.max())))
    axes.legend(loc="upper right", frameon=False, fontsize=8)
    _bands(axes, inspection)
    repeated = len(inspection.repeats.same_image)
    flagged = ("duplicate_frames", "frozen_poses", "blurred_frames", "dark_frames", "overexposed_frames")
    _title(axes, f"images: {repeated} repeat the one before", named, *flagged)


def draw_steps(distances: Any, angles: Any, inspection: Inspection, named: set[str]) -> None:
    """Draw how far each frame is from the one before."""
    views = inspection.views
    for axes, steps, unit in ((distances, 100 * views.step_m, "cm"), (angles, views.step_deg, "deg")):
        axes.plot(steps, color=TRAIN, lw=0.6)
        axes.set_ylim(bottom=0)
        axes.set_ylabel(f"[{unit}]")
        _bands(axes, inspection)
    distances.set_xticklabels([])
    distances.set_xlabel("")
    _title(distances, f"steps: {len(views.jumps)} jumps", named, "pose_jump")
