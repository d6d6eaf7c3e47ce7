"""Frames made ready once and read through the page cache: a recording may be larger than memory.

A store is a folder: `frames.json` (what is in it, written last), `images.bin` (N, H, W, 3) uint8 at the
network's input size and `depths.bin` (N, h, w) uint16 mm at the recording's own. Several processes may read
one.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from structpose_ros.camera import resize_image
from structpose_ros.training.config import InputConfig
from structpose_ros.training.frames import (
    Frame,
    FrameFiles,
    Recording,
    RecordingError,
    handle_bad,
    write_atomic,
)

INDEX, IMAGES, DEPTHS = "frames.json", "images.bin", "depths.bin"


class FrameStore(Sequence[Frame]):
    """Frames of one recording, images at input size, depth at its own."""

    def __init__(self, folder: Path, chosen: Sequence[int] | None = None) -> None:
        """Open what `build_store` wrote in `folder`; `chosen` takes only these of its frames."""
        content = json.loads((folder / INDEX).read_text())
        self.bad: list[str] = content["bad"]
        self._folder = folder
        self._names: list[str] = content["names"]
        self._poses = np.array(content["poses"], dtype=np.float64).reshape(-1, 4, 4)
        self._images = _mapped(folder / IMAGES, np.uint8, (len(self._names), *content["image_shape"]))
        self._depths = _mapped(folder / DEPTHS, np.uint16, (len(self._names), *content["depth_shape"]))
        self._chosen = list(range(len(self._names))) if chosen is None else list(chosen)

    def __len__(self) -> int:
        """Return the number of frames."""
        return len(self._chosen)

    def __getitem__(self, index: Any) -> Any:
        """Return one frame; its arrays are views of the files."""
        if isinstance(index, slice):
            return FrameStore(self._folder, self._chosen[index])
        at = self._chosen[index]
        return Frame(self._names[at], self._images[at], self._depths[at], self._poses[at])

    def named(self, names: Sequence[str]) -> FrameStore:
        """Return the frames of these names that the store holds, in the store's order."""
        wanted = set(names)
        return FrameStore(self._folder, [at for at in self._chosen if self._names[at] in wanted])


def build_store(
    folder: Path,
    recording: Recording,
    files: Sequence[FrameFiles],
    size: InputConfig,
    *,
    skip_bad: bool,
    progress: Callable[[int, int], None] | None = None,
) -> FrameStore:
    """Read frames into a store, or open the one in `folder` if it was made from the same files.

    Raises:
        RecordingError: frames are bad, and not to be skipped; or none can be read.
        OSError: the disk is full, or not to be written to.
    """
    key = _key(recording, files, size, skip_bad)
    index = folder / INDEX
    if index.is_file() and json.loads(index.read_text())["key"] == key:
        return FrameStore(folder)
    index.unlink(missing_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
    content: dict[str, Any] = {"key": key, "names": [], "poses": [], "bad": []}
    content |= {"image_shape": [size.height, size.width, 3], "depth_shape": [0, 0]}
    # Written, not mapped: a full disk is then an error that can be caught, not a signal.
    try:
        with (folder / IMAGES).open("wb") as images, (folder / DEPTHS).open("wb") as depths:
            for frame in _read(recording, files, size, content["bad"], progress):
                _append(images, frame.image_rgb)
                _append(depths, frame.depth_mm)
                content["names"].append(frame.name)
                content["poses"].append(frame.map_from_camera.tolist())
                content["depth_shape"] = list(frame.depth_mm.shape)
            handle_bad(content["bad"], len(files), skip_bad)
            if not content["names"]:
                raise RecordingError(f"expected frames in {recording.root}, got none that can be read")
        write_atomic(index, json.dumps(content).encode())
    except BaseException:
        remove_store(folder)
        raise
    return FrameStore(folder)


def remove_store(folder: Path) -> None:
    """Remove a store and nothing else; its folder too, where it is then empty."""
    for name in (INDEX, IMAGES, DEPTHS):
        (folder / name).unlink(missing_ok=True)
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


def read_resized(recording: Recording, item: FrameFiles, size: InputConfig) -> Frame:
    """Read a frame: its image at input size, its depth at its own.

    Raises:
        RecordingError: it can't be read.
    """
    frame = recording.read(item)
    image_rgb, _ = resize_image(frame.image_rgb, recording.camera, size.width, size.height)
    return Frame(frame.name, image_rgb, frame.depth_mm, frame.map_from_camera)


def _read(
    recording: Recording,
    files: Sequence[FrameFiles],
    size: InputConfig,
    bad: list[str],
    progress: Callable[[int, int], None] | None,
) -> Iterator[Frame]:
    for done, item in enumerate(files, start=1):
        try:
            yield read_resized(recording, item, size)
        except RecordingError as error:
            bad.append(str(error))
        if progress:
            progress(done, len(files))


def _append(stream: BinaryIO, array: npt.NDArray[Any]) -> None:
    stream.write(np.ascontiguousarray(array).data)


def _mapped(path: Path, kind: type, shape: tuple[int, ...]) -> npt.NDArray[Any]:
    if 0 in shape:
        return np.empty(shape, dtype=kind)
    return np.memmap(path, dtype=kind, mode="r", shape=shape)


def _key(recording: Recording, files: Sequence[FrameFiles], size: InputConfig, skip_bad: bool) -> str:
    """Return a hash of all that a store depends on, file sizes and times among it."""
    parts: list[object] = [str(recording.root.resolve()), recording.camera, size, skip_bad]
    for item in files:
        for path in (item.color, item.depth, item.pose):
            state = path.stat() if os.path.exists(path) else None
            parts.append((item.name, path.name, state and (state.st_size, state.st_mtime_ns)))
    return hashlib.sha256(repr(parts).encode()).hexdigest()
