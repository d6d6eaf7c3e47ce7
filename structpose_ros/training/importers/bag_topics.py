"""Which topics of a bag are the camera's: as given, or found by type, content and name if there is one."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from structpose_ros.training.frames import RecordingError
from structpose_ros.training.importers.bag_messages import (
    CAMERA_INFO,
    COMPRESSED_IMAGE,
    IMAGE,
    expect_readable,
    is_depth,
)
from structpose_ros.training.importers.bag_options import BagOptions
from structpose_ros.training.importers.bag_reader import Bag

_TRANSPORTS = ("compressed", "compressedDepth")


@dataclass(frozen=True)
class CameraTopics:
    """The topics read; depth is None for an import without it, depth_info where depth has no CameraInfo."""

    image: str
    camera_info: str
    depth: str | None
    depth_info: str | None


def choose_topics(bag: Bag, options: BagOptions) -> CameraTopics:
    """Return the camera's topics.

    Raises:
        RecordingError: a topic is missing or of another type, none or several would do, or its images are of
            a kind that can't be read. The message lists the topics.
    """
    image = _image_topic(bag, "--image", options.image, depth=False)
    camera_info = _info_topic(bag, "--camera-info", options.camera_info, image)
    if camera_info is None:
        raise RecordingError(
            f"--camera-info: expected a CameraInfo topic beside {image}, got none; "
            f"topics: {bag.describe(_of_types(bag, [CAMERA_INFO]))}"
        )
    if not options.with_depth:
        return CameraTopics(image, camera_info, None, None)
    depth = _image_topic(bag, "--depth", options.depth, depth=True)
    return CameraTopics(
        image, camera_info, depth, _info_topic(bag, "--depth-info", options.depth_info, depth)
    )


def expect_topics(bag: Bag, topics: CameraTopics) -> None:
    """Raise RecordingError unless a second bag has the topics of the first."""
    for topic in (topics.image, topics.camera_info, topics.depth):
        if topic is not None and topic not in bag.topics:
            raise RecordingError(f"{bag.path}: expected the topic {topic}, got {bag.describe()}")


def _image_topic(bag: Bag, option: str, given: str | None, *, depth: bool) -> str:
    images = _of_types(bag, [IMAGE, COMPRESSED_IMAGE])
    what = "depth" if depth else "colour"
    if given is not None:
        first = _first(bag, _expect_type(bag, option, given, images))
        if first is None:
            raise RecordingError(f"{option}: expected images on {given}, got none")
    else:
        firsts = {topic: _first(bag, topic) for topic in images}
        plausible = [topic for topic, item in firsts.items() if item is not None and is_depth(item) == depth]
        if len(plausible) != 1:
            without = " (--no-depth imports without depth)" if depth else ""
            got = f"{len(plausible)}: {bag.describe(plausible)}" if plausible else f"none of {bag.describe()}"
            raise RecordingError(f"{option}: expected one topic of {what} images, got {got}{without}")
        (given,) = plausible
        first = firsts[given]
    expect_readable(first, given, depth)
    return given


def _info_topic(bag: Bag, option: str, given: str | None, image: str) -> str | None:
    """Return the CameraInfo topic that goes with an image topic, as image_transport finds it."""
    infos = _of_types(bag, [CAMERA_INFO])
    if given is not None:
        return _expect_type(bag, option, given, infos)
    base, _, transport = image.rpartition("/")
    if transport not in _TRANSPORTS:
        base = image
    beside = [f"{base.rpartition('/')[0]}/camera_info", f"{base}/camera_info"]
    found = [topic for topic in beside if topic in infos]
    return found[0] if len(found) == 1 else None


def _expect_type(bag: Bag, option: str, topic: str, plausible: Collection[str]) -> str:
    if topic not in plausible:
        got = bag.describe([topic]) if topic in bag.topics else f"no topic {topic}"
        raise RecordingError(f"{option}: expected one of {bag.describe(plausible)}, got {got}")
    return topic


def _of_types(bag: Bag, types: Collection[str]) -> list[str]:
    return sorted(topic for topic, name in bag.topics.items() if name in types)


def _first(bag: Bag, topic: str) -> Any:
    """Return the first message of a topic, None if there is none."""
    return next((bag.decode(message) for message in bag.messages([topic])), None)
