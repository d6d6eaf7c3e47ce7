"""Whether the depth image lies on the colour image: edges of both, correlated.

Where depth jumps, the image nearly always has an edge of the same direction. Edges are complex numbers
whose angle is twice the edge's, so that unrelated edges cancel on average and only related ones add up.
Neither poses nor the unit of depth play a part.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from structpose_ros.training.frames import Frame

Array = npt.NDArray[np.float64]

WORKING_WIDTH = 256  # px; edges are matched at this size
MAGNIFICATION_STEP = 0.03  # of the logarithm
MAGNIFICATIONS = np.exp(np.arange(-16, 17) * MAGNIFICATION_STEP)  # 0.62 .. 1.62
LARGEST_SHIFT = 0.06  # of the width
JUMP = 1.1  # depth behind an edge over depth at it
SHADOW_PX = 9  # beside near things depth cameras see nothing; the jump is looked for across as much
ENOUGH_EDGES = 100  # per frame


@dataclass(frozen=True)
class Registration:
    """The similarity that brings depth edges onto image edges: u' = m (u - c) + c + shift, c the middle.

    shift_px (x, y) in pixels of the recording; displacement_px: what it moves a pixel by, RMS over the
    image. gain: score with it over the score of the depth as it is. contrast: of the peak against all that
    was tried, in standard deviations.
    """

    magnification: float
    shift_px: tuple[float, float]
    displacement_px: float
    gain: float
    contrast: float

    def moved(self, pixels: Array, width: int, height: int) -> Array:
        """Return where depth pixels (N, 2) should lie."""
        middle = np.array([(width - 1) / 2, (height - 1) / 2])
        return np.asarray(self.magnification * (pixels - middle) + middle + self.shift_px)


class RegistrationEstimator:
    """Gathers frames of one size; what is kept is one spectrum for each magnification."""

    def __init__(self, width: int, height: int) -> None:
        """`width`, `height`: of the recording's images."""
        self._size = (width, height)
        self._factor = min(1.0, WORKING_WIDTH / width)
        self._working = (round(width * self._factor), round(height * self._factor))
        self._spectra = np.zeros(
            (len(MAGNIFICATIONS), self._working[1], self._working[0]), dtype=np.complex64
        )
        self._frames = 0

    def add(self, frame: Frame) -> None:
        """Add a frame, unless its depth has too few edges."""
        pixels, directions = depth_edges(frame.depth_mm)
        if len(pixels) < ENOUGH_EDGES:
            return
        image = cv2.resize(frame.image_rgb, self._working, interpolation=cv2.INTER_AREA)
        spectrum = np.fft.fft2(_image_edges(image))
        middle = (np.array(self._working) - 1) / 2
        working = (pixels + 0.5) * self._factor - 0.5 - middle
        for index, magnification in enumerate(MAGNIFICATIONS):
            columns, rows = np.rint(magnification * working + middle).astype(int).T
            inside = (columns >= 0) & (rows >= 0) & (columns < self._working[0]) & (rows < self._working[1])
            depth = np.zeros(self._working[::-1], dtype=np.complex64)
            np.add.at(depth, (rows[inside], columns[inside]), directions[inside])
            # By the root of the number: else the magnification that leaves most edges inside would win.
            weight = 1 / math.sqrt(max(int(np.count_nonzero(inside)), 1))
            self._spectra[index] += weight * spectrum * np.conj(np.fft.fft2(depth))
        self._frames += 1

    def result(self) -> Registration | None:
        """Return the best similarity, or None where too few frames had edges or nothing stands out."""
        if self._frames < 3:
            return None
        reach = max(2, round(LARGEST_SHIFT * self._working[0]))
        if 2 * reach + 1 > min(self._working):
            return None
        wrap = np.arange(-reach, reach + 1)
        scores: Array = np.stack(
            [np.fft.ifft2(spectrum).real[np.ix_(wrap, wrap)] for spectrum in self._spectra]
        )
        peak = [int(at) for at in np.unravel_index(int(scores.argmax()), scores.shape)]
        highest, identity = float(scores.max()), float(scores[len(MAGNIFICATIONS) // 2, reach, reach])
        contrast = (highest - float(np.median(scores))) / max(float(scores.std()), 1e-12)
        step, row, column = _refined(scores, peak)
        magnification = float(np.exp(MAGNIFICATION_STEP * (step - len(MAGNIFICATIONS) // 2)))
        shift = (float(column - reach) / self._factor, float(row - reach) / self._factor)
        width, height = self._size
        turned_out = abs(magnification - 1) * np.sqrt((width**2 + height**2) / 12)
        return Registration(
            magnification=magnification,
            shift_px=shift,
            displacement_px=float(np.sqrt(turned_out**2 + shift[0] ** 2 + shift[1] ** 2)),
            gain=highest / max(identity, 1e-3 * highest),
            contrast=contrast,
        )


def depth_edges(depth_mm: npt.NDArray[np.uint16]) -> tuple[Array, npt.NDArray[np.complex64]]:
    """Return pixels (N, 2) on the near side of jumps in depth, and exp(2i angle) of its gradient there."""
    window = np.ones((SHADOW_PX, SHADOW_PX), dtype=np.uint8)
    filled = np.where(depth_mm > 0, depth_mm, cv2.dilate(depth_mm, window))
    filled = cv2.medianBlur(filled, 5).astype(np.float32)
    behind = cv2.dilate(filled, np.ones((3, 3), dtype=np.uint8))
    known = cv2.erode((filled > 0).astype(np.uint8), np.ones((5, 5), dtype=np.uint8)) > 0
    logarithm = np.log(np.maximum(filled, 1))
    gradient = cv2.Sobel(logarithm, cv2.CV_32F, 1, 0) + 1j * cv2.Sobel(logarithm, cv2.CV_32F, 0, 1)
    rows, columns = np.nonzero(known & (behind > JUMP * filled) & (np.abs(gradient) > 0))
    direction = gradient[rows, columns] / np.abs(gradient[rows, columns])
    return np.stack([columns, rows], axis=1).astype(np.float64), (direction**2).astype(np.complex64)


def _image_edges(image_rgb: npt.NDArray[np.uint8]) -> npt.NDArray[np.complex64]:
    """Return (h, w) edge strength relative to the surroundings, times exp(2i angle); the mean is zero."""
    gray = cv2.cvtColor(image_rgb, cv2.COLOR_RGB2GRAY).astype(np.float32)
    gray = cv2.GaussianBlur(gray, (0, 0), 1.0)
    gradient = cv2.Sobel(gray, cv2.CV_32F, 1, 0) + 1j * cv2.Sobel(gray, cv2.CV_32F, 0, 1)
    strength = np.abs(gradient).astype(np.float32)
    strength = np.minimum(strength / (cv2.GaussianBlur(strength, (0, 0), 12.0) + 2), 3)
    edges = strength * np.exp(2j * np.angle(gradient))
    return np.asarray(edges - edges.mean(), dtype=np.complex64)


def _refined(scores: Array, peak: Sequence[int]) -> tuple[float, float, float]:
    """Return a peak's place between samples: a parabola through three, along each axis."""
    place = []
    for axis, at in enumerate(peak):
        line = scores[tuple(slice(None) if other == axis else peak[other] for other in range(3))]
        offset = 0.0
        if 0 < at < len(line) - 1:
            left, middle, right = line[at - 1 : at + 2]
            bend = left - 2 * middle + right
            offset = 0.5 * (left - right) / bend if bend < 0 else 0.0
        place.append(at + offset)
    return place[0], place[1], place[2]
