"""The page: warnings in plain words, then pictures from poses to pixels, 1600 px wide."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from structpose_ros.training import plots
from structpose_ros.training.inspection import panels, report
from structpose_ros.training.inspection.findings import Finding
from structpose_ros.training.inspection.measure import Inspection
from structpose_ros.training.inspection.panels import FAINT, GOOD, INK, WARN
from structpose_ros.training.plots import plt

WIDTH_IN = 14.55  # 1600 px, as plots.save writes 110 of them to an inch
BODY_IN = 14.2
WRAP = 150  # characters of a sentence on one line
STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": FAINT,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "text.color": INK,
    "text.parse_math": False,  # a path may hold a dollar sign
    "figure.constrained_layout.w_pad": 0.1,
    "figure.constrained_layout.h_pad": 0.06,
}


def draw_page(path: Path, inspection: Inspection, findings: Sequence[Finding]) -> None:
    """Write the page as PNG."""
    with plt.rc_context(STYLE):
        rows = sum(_height_of(item) for item in findings) or 1
        head = 1.25 + 0.24 * rows
        figure = plt.figure(figsize=(WIDTH_IN, head + BODY_IN), layout="constrained")
        parts: Any = figure.subfigures(2, 1, height_ratios=[head, BODY_IN])
        top, body = parts
        _draw_head(top, head, inspection, findings)
        grid = body.add_gridspec(4, 12, height_ratios=[1.15, 1.0, 1.0, 0.85])
        named = {item.name for item in findings}
        panels.draw_trajectory(body.add_subplot(grid[0, :5]), inspection)
        panels.draw_headings(body.add_subplot(grid[0, 5:8], projection="polar"), inspection, named)
        panels.draw_nearest(body.add_subplot(grid[0, 8:]), inspection, named)
        panels.draw_shift(body.add_subplot(grid[1, :4]), inspection, named)
        panels.draw_scale(body.add_subplot(grid[1, 4:8]), inspection, named)
        panels.draw_edges(body.add_subplot(grid[1, 8:]), inspection, named)
        panels.draw_reprojection([body.add_subplot(grid[2, 4 * i : 4 * i + 4]) for i in range(3)], inspection)
        panels.draw_valid(body.add_subplot(grid[3, :3]), body.add_subplot(grid[3, 3:5]), inspection, named)
        panels.draw_depth(body.add_subplot(grid[3, 5:7]), inspection)
        panels.draw_images(body.add_subplot(grid[3, 7:10]), inspection, named)
        steps = grid[3, 10:].subgridspec(2, 1)
        panels.draw_steps(body.add_subplot(steps[0]), body.add_subplot(steps[1]), inspection, named)
        plots.save(figure, path)


def _height_of(finding: Finding) -> int:
    return len(textwrap.wrap(finding.sentence, WRAP))


def _draw_head(figure: Any, height: float, inspection: Inspection, findings: Sequence[Finding]) -> None:
    """Write title, numbers and warnings from the top down, in inches."""
    at = height - 0.12

    def write(x: float, text: str, **style: Any) -> None:
        figure.text(x / WIDTH_IN, at / height, text, va="top", **style)

    write(0.25, report.headline(inspection), fontsize=17, fontweight="bold")
    at -= 0.42
    for line in report.facts(inspection):
        write(0.25, line, fontsize=10, color="#555555")
        at -= 0.2
    at -= 0.08
    if not findings:
        write(0.25, "no warnings", fontsize=11, fontweight="bold", color=GOOD)
    for item in findings:
        write(0.25, item.name, fontsize=10.5, fontweight="bold", color=WARN)
        write(2.3, textwrap.fill(item.sentence, WRAP), fontsize=10.5, linespacing=1.25)
        at -= 0.24 * _height_of(item)
