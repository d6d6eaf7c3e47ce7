"""A robot's own recording: a rosbag2 of its camera, with the poses that its SLAM found."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from structpose_ros.camera import Camera
from structpose_ros.training.frames import RecordingError
from structpose_ros.training.importers.bag_drive import Drive
from structpose_ros.training.importers.bag_options import BagOptions
from structpose_ros.training.importers.bag_reader import Bag
from structpose_ros.training.importers.bag_topics import choose_topics, expect_topics
from structpose_ros.training.importers.common import (
    Imported,
    Picture,
    PlannedFrame,
    Progress,
    Selection,
    write_import,
)


@dataclass(frozen=True)
class BagPlan:
    """The plan of one or two drives: `frames` are those of the first, then those of the second."""

    camera: Camera
    frames: Sequence[PlannedFrame]
    origin: dict[str, Any]
    bad: Sequence[str]
    drives: Sequence[Drive]
    counts: Sequence[int]  # of frames, by drive

    def read(self, wanted: Sequence[int]) -> Iterator[tuple[int, Picture | RecordingError]]:
        """See `Plan.read`."""
        start = 0
        for drive, count in zip(self.drives, self.counts, strict=True):
            here = {self.frames[index].source: index for index in wanted if start <= index < start + count}
            start += count
            if here:
                for source, picture in drive.read(list(here)):
                    yield here[source], picture


def import_rosbag2(
    source: Path,
    out: Path,
    *,
    options: BagOptions | None = None,
    selection: Selection | None = None,
    test: Path | None = None,
    skip_bad: bool = False,
    progress: Progress | None = None,
) -> Imported:
    """Write a bag as posed frames; what an earlier call wrote is kept.

    test: another drive in the same map, to test on; then nothing of the first is held back for that.

    Images before the first pose and after the last are left out, as SLAM starts later than the camera, and so
    are colour images whose depth was dropped: the result counts them. A gap in the poses between is a fault.

    Raises:
        RecordingError: the bag is damaged or lacks something, frames are bad, or `out` holds something else.
        OSError: a file can't be read or written.
    """
    with ExitStack() as stack:
        bags = [stack.enter_context(Bag(path)) for path in (source, test) if path is not None]
        plan = plan_rosbag2(bags, options or BagOptions(), selection or Selection())
        imported = write_import(plan, out, skip_bad=skip_bad, progress=progress)
    left_out = [line for drive in plan.drives for line in drive.left_out]
    return replace(imported, bad=[*imported.bad, *left_out])


def plan_rosbag2(bags: Sequence[Bag], options: BagOptions, selection: Selection) -> BagPlan:
    """Go through open bags once: a drive, and perhaps a second one to test on.

    Raises:
        RecordingError: one is damaged or lacks something, or their cameras differ.
    """
    topics = choose_topics(bags[0], options)
    for bag in bags[1:]:
        expect_topics(bag, topics)
        selection = replace(selection, test_fraction=0.0)
    drives = [Drive(bag, topics, options) for bag in bags]
    chosen = [selection.apply(drive.frames) for drive in drives]
    for number, (bag, drive) in enumerate(zip(bags[1:], drives[1:], strict=True), start=1):
        if drive.camera != drives[0].camera:
            raise RecordingError(
                f"{bag.path}: expected the camera of {bags[0].path}, {drives[0].camera}, got {drive.camera}"
            )
        chosen[number] = [replace(frame, split="test", sequence=number + 1) for frame in chosen[number]]
    origin = {
        "format": "rosbag2",
        "source": bags[0].name,
        "test": [bag.name for bag in bags[1:]],
        "topics": [topics.image, topics.depth],
        "depth_scale": options.depth_scale,
        "max_offset": options.max_offset,
        "rectified": options.rectified,
    }
    frames = [frame for of_drive in chosen for frame in of_drive]
    bad = [line for drive in drives for line in drive.bad]
    return BagPlan(drives[0].camera, frames, origin, bad, drives, [len(of_drive) for of_drive in chosen])
