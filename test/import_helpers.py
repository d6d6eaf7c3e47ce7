"""What the tests of importers share: a drive whose pose is known at any time, and a disk that gets full."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from recordings import colors, pose

from structpose_ros.geometry import pose_error, transform_points, unproject
from structpose_ros.training.frames import Frame, open_recording

# How a message begins of an image that was cut off somewhere: at its head, or before its end.
CUT_OFF = "expected (a JPEG|a PNG|an image of at least 1x1)"


def drive(seconds: float) -> np.ndarray:
    """Return map_from_camera after some time: straight on at 0.3 m/s, turning at 40 deg/s."""
    return pose(-0.5 + 0.3 * seconds, 0.2 - 0.1 * seconds, 0.3 + 0.7 * seconds)


def read_all(root: Path, split: str = "train") -> list[Frame]:
    """Return the frames of a recording in order."""
    recording = open_recording(root)
    files, bad = recording.files(split)
    assert bad == []
    return [recording.read(item) for item in files]


def expect_poses(
    frames: list[Frame], truth: list[np.ndarray], metres: float = 2e-6, deg: float = 2e-4
) -> None:
    """Assert that the poses are the true ones; files hold six decimals."""
    for read, true in zip(frames, truth, strict=True):
        position, rotation = pose_error(read.map_from_camera, true)
        assert position < metres
        assert rotation < deg


def expect_the_room(root: Path, levels: float, share: float = 0.9, split: str = "train") -> None:
    """Assert that each pixel shows the colour that the room has where depth, camera and pose put it.

    levels: by how much 95 % of the values may differ (JPEG blurs colour where two views meet).
    share: of the pixels with depth, at least.
    """
    rays = open_recording(root).camera.ray_grid()
    for read in read_all(root, split):
        seen = read.depth_mm > 0
        assert seen.mean() > share
        points = transform_points(read.map_from_camera, unproject(read.depth_mm * 1e-3, rays))
        errors = np.abs(colors(points[seen]).astype(int) - read.image_rgb[seen].astype(int))
        assert np.percentile(errors, 95) <= levels


def contents(root: Path) -> dict[str, bytes]:
    """Return every file below a folder."""
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def expect_resumed_after_full_disk(
    run: Callable[[Path], object], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Assert that a disk full at any write leaves no half file, and that a second call completes."""
    write = Path.write_bytes
    left = [-1]

    def write_bytes(path: Path, data: bytes) -> int:
        if left[0] == 0:
            write(path, data[: len(data) // 2])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        left[0] -= 1
        return write(path, data)

    monkeypatch.setattr(Path, "write_bytes", write_bytes)
    run(folder / "whole")
    whole, writes = contents(folder / "whole"), -1 - left[0]
    assert writes == len(whole)
    for number in range(writes):
        out, left[0] = folder / f"full-{number}", number
        with pytest.raises(OSError, match="No space left"):
            run(out)
        before = contents(out)
        assert len(before) == number
        assert before.items() <= whole.items()
        left[0] = -1
        run(out)
        assert contents(out) == whole
