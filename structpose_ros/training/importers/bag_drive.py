"""One drive in a bag: its frames with pose and depth, then the second way through it, for their images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from structpose_ros.training.frames import RecordingError, expect_size
from structpose_ros.training.importers.bag_depth import DepthImages
from structpose_ros.training.importers.bag_messages import read_color, stamp_ns_of
from structpose_ros.training.importers.bag_options import BagOptions
from structpose_ros.training.importers.bag_reader import Bag, seconds_text
from structpose_ros.training.importers.bag_scan import Scan
from structpose_ros.training.importers.bag_topics import CameraTopics
from structpose_ros.training.importers.common import Picture, PlannedFrame


class Pair(NamedTuple):
    """A colour image and its depth by their stamps, ns; None without depth."""

    color_ns: int
    depth_ns: int | None


class Drive:
    """What a bag holds of a camera.

    camera: of the colour images. frames: those with pose and depth, by time. bad: a line for each that can't
    be used. left_out: lines that count the images whose lack of a pose or depth is no fault of the recording.
    """

    def __init__(self, bag: Bag, topics: CameraTopics, options: BagOptions) -> None:
        """Go through the bag once.

        Raises:
            RecordingError: images, cameras and poses don't fit each other, or some are missing.
        """
        scan = Scan(bag, topics, options)
        self._bag, self._max_offset = bag, options.max_offset
        self._color, self._depth = scan.color, scan.depth
        self._poses = scan.poses.of_camera(scan.color.frame)
        self._depth_images = None if scan.depth is None else DepthImages(scan, self._poses, options)
        self._pairs: dict[str, Pair] = {}  # by their frame's source
        self.camera = scan.camera
        self.bad = scan.bad
        self.left_out: list[str] = []
        self.frames = self._frames()

    def _frames(self) -> list[PlannedFrame]:
        first, last = self._poses.span()
        stamps = sorted(self._color.received_ns)
        within = [stamp for stamp in stamps if first <= stamp <= last]
        if not within:
            raise RecordingError(
                f"{self._bag.path}: expected images while there are poses, {seconds_text(first)} to "
                f"{seconds_text(last)}, got them {seconds_text(stamps[0])} to {seconds_text(stamps[-1])}"
            )
        pairs = self._with_depth(within)
        for count, why in (
            (sum(stamp < first for stamp in stamps), "before the first pose"),
            (sum(stamp > last for stamp in stamps), "after the last pose"),
            (len(within) - len(pairs), f"without depth within {self._max_offset:g} s"),
        ):
            if count:
                self.left_out.append(f"{count} of {len(stamps)} images in {self._bag.name}, {why}")
        frames = []
        for pair in pairs:
            source = f"{self._color.topic} at {seconds_text(pair.color_ns)}"
            try:
                frames.append(PlannedFrame(source, self._poses.at(pair.color_ns), pair.color_ns / 1e9))
            except RecordingError as error:
                self.bad.append(f"{source}: {error}")
            else:
                self._pairs[source] = pair
        return frames

    def _with_depth(self, stamps: Sequence[int]) -> list[Pair]:
        """Return those colour images that have depth near in time, with the nearest."""
        if self._depth is None:
            return [Pair(stamp, None) for stamp in stamps]
        color = np.array(stamps, dtype=np.int64)
        depth = np.array(sorted(self._depth.received_ns), dtype=np.int64)
        after = np.searchsorted(depth, color).clip(max=len(depth) - 1)
        before = (after - 1).clip(min=0)
        nearest = np.where(np.abs(depth[before] - color) <= np.abs(depth[after] - color), before, after)
        offsets = np.abs(depth[nearest] - color) * 1e-9
        if offsets.min() > self._max_offset:
            raise RecordingError(
                f"{self._depth.topic}: expected depth within {self._max_offset:g} s of a colour image, "
                f"got {offsets.min():.3f} s at best (--max-offset)"
            )
        rows = zip(stamps, depth[nearest].tolist(), offsets.tolist(), strict=True)
        return [Pair(color_ns, depth_ns) for color_ns, depth_ns, offset in rows if offset <= self._max_offset]

    def read(self, sources: Sequence[str]) -> Iterator[tuple[str, Picture | RecordingError]]:
        """Yield the wanted frames by their source, as they come; an image waits in memory for its depth only.

        Raises:
            RecordingError: the bag is damaged.
        """
        source_of = {self._pairs[source]: source for source in sources}
        waiting: dict[tuple[str, int], list[Pair]] = {}  # for a message, by topic and stamp
        received: set[int] = set()
        for pair in source_of:
            for sightings, stamp_ns in zip((self._color, self._depth), pair, strict=True):
                if sightings is not None and stamp_ns is not None:
                    waiting.setdefault((sightings.topic, stamp_ns), []).append(pair)
                    received.add(sightings.received_ns[stamp_ns])
        topics = {topic for topic, _ in waiting}
        here: dict[tuple[str, int], Any] = {}
        # One before the first: rosbags up to 0.11.5 at least leaves out an mcap chunk that ends at the start.
        for message in self._bag.messages(topics, min(received) - 1, max(received) + 1):
            if message.received_ns not in received:
                continue
            fields = self._bag.decode(message)
            key = (message.topic, stamp_ns_of(fields))
            if key not in waiting:
                continue
            here[key] = fields
            for pair in list(waiting[key]):
                keys = [(self._color.topic, pair.color_ns)]
                if self._depth is not None and pair.depth_ns is not None:
                    keys.append((self._depth.topic, pair.depth_ns))
                if not all(item in here for item in keys):
                    continue
                yield source_of[pair], self._picture(source_of[pair], pair, *(here[item] for item in keys))
                for item in keys:
                    waiting[item].remove(pair)
                    if not waiting[item]:
                        del waiting[item], here[item]

    def _picture(self, source: str, pair: Pair, color: Any, depth: Any = None) -> Picture | RecordingError:
        try:
            image_rgb, jpeg = read_color(color, source)
            expect_size(Path(source), image_rgb.shape, self.camera)
            if self._depth_images is None:
                depth_mm = np.zeros(image_rgb.shape[:2], dtype=np.uint16)
            else:
                depth_mm = self._depth_images.read(depth, pair.color_ns, source)
        except RecordingError as error:
            return error
        return Picture(image_rgb, depth_mm, jpeg)
