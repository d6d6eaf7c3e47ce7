"""Renders the demo room's tours to disk: 7-Scenes layout with a camera.yaml, several processes, resumable."""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from structpose_ros.camera import Camera
from structpose_ros.training.frames import (
    RecordingError,
    read_stamps,
    write_atomic,
    write_camera,
    write_stamps,
)

from .baking import BakedScene
from .freespace import FreeSpace
from .raycast import Renderer
from .room import EXTENT, build_room, room_footprints
from .sensor import Sensor
from .surfaces import Array
from .tours import STYLES, Tour, plan_tour, planned_frames

MANIFEST = "demo_room.json"
RENDER_VERSION = 1  # raise it whenever the same seed gives other pixels or poses
SEQUENCES = {"mapping": 1, "localization": 2}
SPLITS = {"mapping": "TrainSplit.txt", "localization": "TestSplit.txt"}
JPEG_QUALITY = 92


class ForeignFolderError(ValueError):
    """The output folder holds something that this call would not have made."""


@dataclass(frozen=True)
class Job:
    """One frame to render: where to, from where (map_from_camera), turning how fast (rad/s), when (s)."""

    folder: Path
    tour: str
    frame: int
    map_from_camera: Array
    angular_velocity: Array
    seconds: float


@dataclass(frozen=True)
class Setup:
    """What a worker needs to render any job."""

    scene_folder: Path
    camera: Camera
    seed: int


def render_demo(
    out: Path,
    *,
    seed: int = 7,
    tours: Sequence[str] = ("mapping", "localization"),
    frames: Mapping[str, int] | None = None,
    width: int = 640,
    height: int = 480,
    workers: int | None = None,
    progress: bool = True,
) -> None:
    """Render tours of the demo room into `out`; frames that are already there are kept.

    frames: number of frames per tour, from its start (default: mapping 1500, localization 300, 10 Hz).
    workers: processes (default: one per available core). The files do not depend on it.
    """
    counts = {name: frame_count(name, frames) for name in tours}
    claim_folder(out, seed, width, height, counts)
    camera = camera_of_size(width, height)
    space = FreeSpace(EXTENT, room_footprints(seed))
    write_camera(out / "camera.yaml", camera)
    jobs: list[Job] = []
    for name, count in counts.items():
        folder = out / f"seq-{SEQUENCES[name]:02d}"
        folder.mkdir(exist_ok=True)
        tour = plan_tour(space, name, seed, count)
        keep_stamps(folder, tour)
        write_atomic(out / SPLITS[name], f"sequence{SEQUENCES[name]}\n".encode())
        jobs += [job for job in tour_jobs(folder, name, tour) if not is_complete(job)]
    if jobs:
        render_jobs(jobs, camera, seed, workers or len(os.sched_getaffinity(0)), progress)


def frame_count(name: str, frames: Mapping[str, int] | None) -> int:
    """Return the number of frames to render of a tour; refuse names and numbers that make no sense."""
    if name not in STYLES:
        raise ValueError(f"unknown tour {name!r}, expected one of {', '.join(STYLES)}")
    count = (frames or {}).get(name, STYLES[name].frames)
    if count < 1:
        raise ValueError(f"{name}: expected at least 1 frame, got {count}")
    return count


def claim_folder(out: Path, seed: int, width: int, height: int, counts: Mapping[str, int]) -> None:
    """Create `out`, or check that it holds the same room; note in its manifest what is rendered there."""
    wanted: dict[str, Any] = {"version": RENDER_VERSION, "seed": seed, "width": width, "height": height}
    planned = {name: planned_frames(name, count) for name, count in counts.items()}
    path = out / MANIFEST
    if path.is_file():
        found = json.loads(path.read_text())
        earlier = found.pop("planned", {})
        clash = [
            f"{key} {found.get(key)} (expected {value})"
            for key, value in wanted.items()
            if found.get(key) != value
        ]
        clash += [
            f"{name} planned for {earlier[name]} frames (expected {value})"
            for name, value in planned.items()
            if earlier.get(name, value) != value
        ]
        if clash:
            raise ForeignFolderError(f"{out} holds another demo room: {', '.join(clash)}")
        planned = {**earlier, **planned}
    elif out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ForeignFolderError(f"{out} exists and is not a rendered demo room (it has no {MANIFEST})")
    out.mkdir(parents=True, exist_ok=True)
    write_atomic(path, (json.dumps({**wanted, "planned": planned}, indent=1) + "\n").encode())


def tour_jobs(folder: Path, name: str, tour: Tour) -> Iterator[Job]:
    """Yield one job per frame."""
    for frame, (pose, turning, stamp) in enumerate(
        zip(tour.map_from_camera, tour.angular_velocity, tour.stamps, strict=True)
    ):
        yield Job(folder, name, frame, pose, turning, float(stamp))


def frame_path(job: Job, ending: str) -> Path:
    """Return path of one of a frame's files."""
    return job.folder / f"frame-{job.frame:06d}.{ending}"


def is_complete(job: Job) -> bool:
    """Return whether all three files are there; each gets its name only once it is whole."""
    return all(frame_path(job, ending).is_file() for ending in ("color.jpg", "depth.png", "pose.txt"))


def render_jobs(jobs: Sequence[Job], camera: Camera, seed: int, workers: int, progress: bool) -> None:
    """Render all jobs, in this process when one worker is enough."""
    with tempfile.TemporaryDirectory(prefix="demo_room_") as scratch:
        build_room(seed).scene.save(Path(scratch))
        setup = Setup(Path(scratch), camera, seed)
        if workers == 1 or len(jobs) < 4:
            with one_thread():
                report(map(partial(render_frame, setup), jobs), len(jobs), progress)
            _renderers.clear()  # the atlas is large, and this process goes on
            return
        # Forking a process that has started threads (OpenCV, a progress bar…) can hang: always spawn.
        context = multiprocessing.get_context("spawn")
        with context.Pool(min(workers, len(jobs)), start_worker, (setup,)) as pool:
            report(pool.imap_unordered(work, jobs, chunksize=4), len(jobs), progress)


def report(done: Iterable[Any], total: int, progress: bool) -> None:
    """Run through the finished frames and show how many there are."""
    for number, _ in enumerate(done, 1):
        if progress and (number % 10 == 0 or number == total):
            print(
                f"\rdemo room: {number}/{total} frames",
                end="\n" if number == total else "",
                file=sys.stderr,
                flush=True,
            )


@contextmanager
def one_thread() -> Iterator[None]:
    """Keep OpenCV from starting threads of its own: the processes already use the cores."""
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(before)


_worker_setup: list[Setup] = []
_renderers: dict[Path, Renderer] = {}


def start_worker(setup: Setup) -> None:
    """Prepare a worker process."""
    cv2.setNumThreads(1)
    _worker_setup.append(setup)


def work(job: Job) -> None:
    """Render one job in a worker process."""
    render_frame(_worker_setup[0], job)


def renderer_for(setup: Setup) -> Renderer:
    """Return this process's renderer, made at its first frame."""
    if setup.scene_folder not in _renderers:
        _renderers.clear()
        _renderers[setup.scene_folder] = Renderer(BakedScene.load(setup.scene_folder), setup.camera)
    return _renderers[setup.scene_folder]


def render_frame(setup: Setup, job: Job) -> None:
    """Render one frame and write its three files."""
    clean, depth = renderer_for(setup).render(job.map_from_camera)
    sensor = Sensor(setup.camera, setup.seed, STYLES[job.tour].number)
    image = sensor.expose(clean, job.frame, job.seconds, job.angular_velocity)
    millimetres = np.clip(np.rint(depth * 1000.0), 0, 65534).astype(np.uint16)
    write_atomic(
        frame_path(job, "color.jpg"),
        encode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY),
    )
    write_atomic(frame_path(job, "depth.png"), encode(".png", millimetres, cv2.IMWRITE_PNG_COMPRESSION, 1))
    rows = (" ".join(f"{value:.10e}" for value in row) for row in job.map_from_camera)
    write_atomic(frame_path(job, "pose.txt"), ("\n".join(rows) + "\n").encode())


def encode(ending: str, image: np.ndarray[Any, Any], option: int, value: int) -> bytes:
    """Return an image file's bytes."""
    done, data = cv2.imencode(ending, image, [option, value])
    if not done:
        raise RuntimeError(f"could not encode an image as {ending}")
    return bytes(data)


def keep_stamps(folder: Path, tour: Tour) -> None:
    """Write the frames' seconds from the start; a longer list from an earlier call stays."""
    try:
        kept = len(read_stamps(folder))
    except RecordingError:  # an earlier release wrote seconds alone
        kept = 0
    if kept <= len(tour.stamps):
        write_stamps(folder, dict(enumerate(tour.stamps.tolist())))


def camera_of_size(width: int, height: int) -> Camera:
    """Return a camera about 75 degrees wide, square pixels, principal point in the middle, no distortion."""
    focal = 417.0 * width / 640.0
    return Camera(width, height, focal, focal, (width - 1) / 2, (height - 1) / 2, "plumb_bob", (0.0,) * 5)
