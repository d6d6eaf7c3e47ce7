"""Where a robot can drive: clearance from walls and furniture on a grid, and shortest paths that keep it."""

from __future__ import annotations

import heapq
from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from .surfaces import Array

CELL_M = 0.05


class FreeSpace:
    """Distance from any point of the floor to the nearest wall or piece of furniture."""

    def __init__(self, extent: tuple[float, float, float], footprints: Sequence[Array]) -> None:
        self.shape = (round(extent[1] / CELL_M), round(extent[0] / CELL_M))
        free = np.ones(self.shape, np.uint8)
        for outline in footprints:
            cv2.fillConvexPoly(free, np.rint(outline / CELL_M - 0.5).astype(np.int32), 0)
        padded = np.pad(free, 1)
        distance = cv2.distanceTransform(padded, cv2.DIST_L2, 5)[1:-1, 1:-1]
        self.clearance_map = np.maximum(distance.astype(np.float64) * CELL_M - CELL_M / 2, 0)
        self._slope_y, self._slope_x = np.gradient(cv2.GaussianBlur(self.clearance_map, (0, 0), 1.5), CELL_M)

    def clearance(self, points: Array) -> Array:
        """Return clearance (N,) in m at points (N, 2)."""
        return self._at(self.clearance_map, points)

    def uphill(self, points: Array) -> Array:
        """Return unit directions (N, 2) in which the clearance grows."""
        slope = np.stack([self._at(self._slope_x, points), self._at(self._slope_y, points)], -1)
        return np.asarray(slope / np.maximum(np.linalg.norm(slope, axis=1, keepdims=True), 1e-6))

    def _at(self, field: Array, points: Array) -> Array:
        at = (np.asarray(points) / CELL_M - 0.5).astype(np.float32)
        sampled = cv2.remap(field.astype(np.float32), at[None, :, 0], at[None, :, 1], cv2.INTER_LINEAR)
        return np.asarray(sampled[0], np.float64)

    def reachable(self, margin: float) -> Array:
        """Return cell centres (N, 2) of the largest connected region with at least this clearance."""
        _, labels, stats, _ = cv2.connectedComponentsWithStats(
            (self.clearance_map >= margin).astype(np.uint8)
        )
        rows, columns = np.nonzero(labels == 1 + int(np.argmax(stats[1:, cv2.CC_STAT_AREA])))
        return np.asarray((np.stack([columns, rows], -1) + 0.5) * CELL_M, np.float64)

    def route(self, start: Array, goal: Array, margin: float) -> Array:
        """Return the shortest path (N, 2) over every second cell with at least this clearance, by A*."""
        usable = self.clearance_map[1::2, 1::2] >= margin
        first, last = (self._nearest(usable, point) for point in (start, goal))
        queue, came, cost = [(0.0, first)], {first: first}, {first: 0.0}
        while queue:
            _, here = heapq.heappop(queue)
            if here == last:
                break
            for dr, dc in ((0, 1), (1, 0), (0, -1), (-1, 0), (1, 1), (1, -1), (-1, 1), (-1, -1)):
                cell = (here[0] + dr, here[1] + dc)
                if (
                    not (0 <= cell[0] < usable.shape[0] and 0 <= cell[1] < usable.shape[1])
                    or not usable[cell]
                ):
                    continue
                total = cost[here] + float(np.hypot(dr, dc))
                if total < cost.get(cell, np.inf):
                    cost[cell], came[cell] = total, here
                    heapq.heappush(
                        queue, (total + float(np.hypot(cell[0] - last[0], cell[1] - last[1])), cell)
                    )
        cells = [last]
        while cells[-1] != first:
            cells.append(came[cells[-1]])
        return np.asarray((np.array(cells[::-1])[:, ::-1] * 2 + 1.5) * CELL_M, np.float64)

    @staticmethod
    def _nearest(usable: NDArray[np.bool_], point: Array) -> tuple[int, int]:
        cells = np.argwhere(usable)
        offset = (cells[:, ::-1] * 2 + 1.5) * CELL_M - point
        row, column = cells[int(np.argmin((offset**2).sum(1)))]
        return int(row), int(column)
