"""One pass over a sample of a recording's frames, and what it measures."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np
import numpy.typing as npt

from structpose_ros.camera import Camera
from structpose_ros.geometry import invert
from structpose_ros.training.frames import (
    NOTHING_SEEN_MM,
    Frame,
    Recording,
    RecordingError,
    expect_size,
    read_color,
)
from structpose_ros.training.importers.trajectory import Trajectory
from structpose_ros.training.inspection.agreement import Agreement, Pair, compare
from structpose_ros.training.inspection.registration import Registration, RegistrationEstimator
from structpose_ros.training.inspection.repeats import Repeats, find_repeats
from structpose_ros.training.inspection.reprojection import Reprojection, reproject
from structpose_ros.training.inspection.views import Drive, Views, list_drives, measure_views
from structpose_ros.training.inspection.visual_motion import Tracks, estimate_motion, find_tracks

Array = npt.NDArray[np.float64]
Progress = Callable[[int, int], None]

SAMPLES = 200
REGISTERED = 24  # of the samples, for the correlation of edges
DEPTH_EVERY = 5  # pairs, of which the second one's depth is read as well
SHARPNESS_WIDTH = 320  # px; larger images' noise would pass for sharpness
LONGEST_STEP = 10  # frames between the two images of a pair
PAIR_M, PAIR_DEG = 0.03, 1.5  # a pair's images are about so far apart, in the median
FARTHEST_M = 2.0  # no camera moves as far from frame to frame


@dataclass(frozen=True)
class FrameFigures:
    """Figures of the sampled frames, each (N,).

    index: place among all frames. valid_share: of pixels with depth. sharpness: variance of the Laplacian
    over the squared mean grey, relative to the median. brightness: mean grey, 0-255. saturated: share of
    pixels at the upper end.
    """

    index: npt.NDArray[np.int64]
    valid_share: Array
    sharpness: Array
    brightness: Array
    saturated: Array


@dataclass(frozen=True)
class Inspection:
    """All that was measured; `findings` makes warnings of it.

    counts: frames by split. bad: a line for each frame that can't be used. interval_s: between frames, None
    where unknown. residual_px, image_motion_px: (P,) of the pairs, by how much poses and depth miss the
    images' motion, and that motion. depth_deviation (D,): share by which the second depth of a pair differs
    from what poses make of the first. valid_map (H, W) share of samples with depth. depth_counts: pixels of
    all samples at each depth in mm.
    """

    name: str
    camera: Camera
    counts: dict[str, int]
    starts: Sequence[tuple[int, str]]
    bad: Sequence[str]
    interval_s: float | None
    figures: FrameFigures
    views: Views
    valid_map: npt.NDArray[np.float32]
    depth_counts: npt.NDArray[np.int64]
    repeats: Repeats
    agreement: Agreement
    pair_step: int
    residual_px: Array
    image_motion_px: Array
    depth_deviation: Array
    registration: Registration | None
    edge_frame: Frame | None
    reprojection: Reprojection | None

    @property
    def depth_percentiles(self) -> tuple[float, float, float]:
        """Depth (m) that 5, 50 and 95 % of the valid pixels lie below; NaN where there are none."""
        return _percentiles(self.depth_counts)


@dataclass
class _Gathered:
    """What grows while frames are read: figures and pairs, never the frames themselves."""

    index: list[int] = field(default_factory=list)
    rows: list[tuple[float, float, float, float]] = field(default_factory=list)
    bad: list[str] = field(default_factory=list)
    depth_counts: npt.NDArray[np.int64] = field(
        default_factory=lambda: np.zeros(NOTHING_SEEN_MM, dtype=np.int64)
    )
    valid_sum: npt.NDArray[np.float32] | None = None
    pairs: list[Pair] = field(default_factory=list)
    residual_px: list[float] = field(default_factory=list)
    image_motion_px: list[float] = field(default_factory=list)
    depth_deviation: list[float] = field(default_factory=list)
    best_pair: tuple[float, Drive, int] | None = None
    edge_frame: Frame | None = None


def inspect(
    recording: Recording,
    *,
    samples: int = SAMPLES,
    rate: float | None = None,
    progress: Progress | None = None,
) -> Inspection:
    """Measure a recording from about `samples` of its frames, spread evenly; the same frames every time.

    Args:
        recording: frames of at least a training split.
        samples: frames to read; each is compared with a later one.
        rate: frames per second, where the recording has no stamps.
        progress: called with the number of frames done and their total.

    Raises:
        RecordingError: none of the frames can be read, or an argument makes no sense.
    """
    if samples < 1:
        raise RecordingError(f"expected 1 or more frames to sample, got {samples}")
    if rate is not None and not 0 < rate < math.inf:
        raise RecordingError(f"expected a rate above 0 Hz, got {rate:g}")
    drives, bad = list_drives(recording)
    chosen = _sample(drives, samples)
    step = _pair_step(drives)
    trajectories = {drive.name: _trajectory(drive) for drive in drives}
    registration = RegistrationEstimator(recording.camera.width, recording.camera.height)
    gathered = _Gathered(bad=list(bad))
    starts = np.concatenate([[0], np.cumsum([len(drive.files) for drive in drives])])
    every = -(-len(chosen) // REGISTERED)
    for count, (which, index) in enumerate(chosen):
        drive = drives[which]
        try:
            frame = recording.read(drive.files[index])
            _add_frame(gathered, frame, int(starts[which]) + index)
            if count % every == 0:
                registration.add(frame)
                if count >= len(chosen) // 2 and gathered.edge_frame is None:
                    gathered.edge_frame = frame
            if index + step < len(drive.files):
                _add_pair(gathered, recording, frame, drive, index, step, trajectories[drive.name])
        except RecordingError as error:
            gathered.bad.append(str(error))
        if progress:
            progress(count + 1, len(chosen))
    if not gathered.rows or gathered.valid_sum is None:
        raise RecordingError(
            f"expected frames that can be read in {recording.root}, got none: {gathered.bad[0]}"
        )

    rows = np.array(gathered.rows)
    rows[:, 1] /= max(float(np.median(rows[:, 1])), 1e-12)
    timed = all(drive.timed for drive in drives)
    seconds = float(np.median([drive.interval for drive in drives])) if timed else None
    agreement = compare(gathered.pairs)
    # Where the depth's unit is wrong, what is seen is still as far as the positions' unit has it.
    seen_depth = _percentiles(gathered.depth_counts)[1] / (agreement.depth_scale or 1.0)
    return Inspection(
        name=recording.name,
        camera=recording.camera,
        counts={
            split: sum(len(drive.files) for drive in drives if drive.split == split)
            for split in ("train", "test")
        },
        starts=[(int(start), drive.split) for start, drive in zip(starts, drives, strict=False)],
        bad=gathered.bad,
        interval_s=seconds if timed else (1 / rate if rate else None),
        figures=FrameFigures(np.array(gathered.index), rows[:, 0], rows[:, 1], rows[:, 2], rows[:, 3]),
        views=measure_views(drives, seen_depth if math.isfinite(seen_depth) else 1.0),
        valid_map=gathered.valid_sum / np.float32(len(rows)),
        depth_counts=gathered.depth_counts,
        repeats=find_repeats(drives),
        agreement=agreement,
        pair_step=step,
        residual_px=np.array(gathered.residual_px),
        image_motion_px=np.array(gathered.image_motion_px),
        depth_deviation=np.array(gathered.depth_deviation),
        registration=registration.result(),
        edge_frame=gathered.edge_frame,
        reprojection=_look_at(recording, gathered.best_pair, step),
    )


def _sample(drives: Sequence[Drive], samples: int) -> list[tuple[int, int]]:
    """Return (drive, frame) of at most `samples` frames, evenly over all."""
    every = [(which, index) for which, drive in enumerate(drives) for index in range(len(drive.files))]
    chosen = np.unique(np.linspace(0, len(every) - 1, min(samples, len(every))).round().astype(int))
    return [every[index] for index in chosen]


def _pair_step(drives: Sequence[Drive]) -> int:
    """Return how many frames apart two images should be: close enough to follow, far enough to measure."""
    metre = 1.0
    for step in range(1, LONGEST_STEP):
        moved, turned = [], []
        for drive in drives:
            first, second = drive.poses[:-step], drive.poses[step:]
            moved.append(np.linalg.norm(second[:, :3, 3] - first[:, :3, 3], axis=1))
            cosine = (np.einsum("nij,nij->n", first[:, :3, :3], second[:, :3, :3]) - 1) / 2
            turned.append(np.degrees(np.arccos(np.clip(cosine, -1, 1))))
        distances, angles = np.concatenate(moved), np.concatenate(turned)
        if step == 1 and len(distances) and np.median(distances) > FARTHEST_M:
            metre = 0.0  # positions in another unit say nothing here
        if len(distances) and np.median(metre * distances / PAIR_M + angles / PAIR_DEG) >= 2:
            return step
    return LONGEST_STEP


def _trajectory(drive: Drive) -> Trajectory:
    """Return the poses over time, in which an interval between frames takes a second."""
    return Trajectory([round(time * 1e9) for time in drive.times / drive.interval], list(drive.poses))


def _add_frame(gathered: _Gathered, frame: Frame, index: int) -> None:
    gray = cv2.cvtColor(frame.image_rgb, cv2.COLOR_RGB2GRAY)
    height, width = gray.shape
    factor = min(1.0, SHARPNESS_WIDTH / width)
    size = (round(factor * width), max(1, round(factor * height)))
    small = cv2.resize(gray, size, interpolation=cv2.INTER_AREA)
    valid = frame.depth_mm > 0
    sharpness = float(cv2.Laplacian(small, cv2.CV_64F).var()) / (float(gray.mean()) + 1) ** 2
    gathered.rows.append((float(valid.mean()), sharpness, float(gray.mean()), float((gray >= 250).mean())))
    gathered.index.append(index)
    gathered.depth_counts += np.bincount(frame.depth_mm[valid], minlength=NOTHING_SEEN_MM)
    if gathered.valid_sum is None:
        gathered.valid_sum = np.zeros(valid.shape, dtype=np.float32)
    gathered.valid_sum += valid


def _add_pair(
    gathered: _Gathered,
    recording: Recording,
    frame: Frame,
    drive: Drive,
    index: int,
    step: int,
    trajectory: Trajectory,
) -> None:
    """Measure the motion to the frame `step` frames on."""
    camera, second_file = recording.camera, drive.files[index + step]
    second_rgb = read_color(second_file.color)
    expect_size(second_file.color, second_rgb.shape, camera)
    tracks = find_tracks(frame, second_rgb)
    seen = estimate_motion(tracks, camera) if tracks else None
    if tracks is None or seen is None:
        return
    second_from_first = invert(drive.poses[index + step]) @ drive.poses[index]
    first, second = drive.times[[index, index + step]] / drive.interval
    gathered.pairs.append(Pair(trajectory, first, second, seen))
    gathered.residual_px.append(tracks.residual_px(camera, second_from_first))
    gathered.image_motion_px.append(tracks.length_px)
    if len(gathered.pairs) % DEPTH_EVERY == 1:
        second_depth_mm = recording.read(second_file).depth_mm
        gathered.depth_deviation.append(tracks.depth_deviation(camera, second_from_first, second_depth_mm))
    merit = _merit(tracks, frame)
    if gathered.best_pair is None or merit > gathered.best_pair[0]:
        gathered.best_pair = (merit, drive, index)


def _merit(tracks: Tracks, frame: Frame) -> float:
    """Return how well a pair shows what is wrong: much motion, many tracks, much depth."""
    return (
        min(tracks.length_px, 0.03 * frame.image_rgb.shape[1])
        * math.sqrt(len(tracks.depth))
        * float((frame.depth_mm > 0).mean())
    )


def _percentiles(counts: npt.NDArray[np.int64]) -> tuple[float, float, float]:
    total = np.cumsum(counts)
    if total[-1] == 0:
        return math.nan, math.nan, math.nan
    low, middle, high = np.searchsorted(total, np.array([0.05, 0.5, 0.95]) * total[-1]) * 1e-3
    return float(low), float(middle), float(high)


def _look_at(recording: Recording, pair: tuple[float, Drive, int] | None, step: int) -> Reprojection | None:
    if pair is None:
        return None
    _, drive, index = pair
    try:
        first, second = (recording.read(drive.files[at]) for at in (index, index + step))
    except RecordingError:
        return None  # the second one's depth is bad, and was not read before
    return reproject(first, second, recording.camera)
