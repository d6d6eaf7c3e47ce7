"""The first way through a bag: stamps of the images, cameras and poses; no image is kept."""

from __future__ import annotations

from typing import Any

from structpose_ros.camera import Camera, CameraError
from structpose_ros.camera_info import camera_from_info
from structpose_ros.training.frames import RecordingError
from structpose_ros.training.importers.bag_messages import frame_of, read_depth, stamp_ns_of
from structpose_ros.training.importers.bag_options import BagOptions
from structpose_ros.training.importers.bag_poses import PoseMessages
from structpose_ros.training.importers.bag_reader import Bag
from structpose_ros.training.importers.bag_topics import CameraTopics


class Sightings:
    """The images of a topic: when each was taken and received, ns, and in which frame."""

    def __init__(self, topic: str) -> None:
        self.topic = topic
        self.frame = ""
        self.received_ns: dict[int, int] = {}  # by stamp; of two images with one stamp the first counts

    def add(self, message: Any, received_ns: int) -> None:
        """Add an image by its header."""
        stamp_ns, frame = stamp_ns_of(message), frame_of(message)
        if not stamp_ns:
            raise RecordingError(f"{self.topic}: expected images with a stamp in their header, got 0")
        if self.received_ns and frame != self.frame:
            raise RecordingError(f"{self.topic}: expected images of one frame, got '{self.frame}', '{frame}'")
        self.frame = frame
        self.received_ns.setdefault(stamp_ns, received_ns)


class Scan:
    """What a bag tells before its images are read.

    color, depth (None for an import without): the images. depth_size: (width, height), None if no depth image
    can be read. poses: all of TF and the pose topic. bad: a line for each message that can't be decoded.
    """

    def __init__(self, bag: Bag, topics: CameraTopics, options: BagOptions) -> None:
        """Go through the bag once.

        Raises:
            RecordingError: there are no images or no CameraInfo, these change, or the bag is damaged.
        """
        self.color = Sightings(topics.image)
        self.depth = Sightings(topics.depth) if topics.depth else None
        self.depth_size: tuple[int, int] | None = None
        self.poses = PoseMessages(bag, options)
        self.bad: list[str] = []
        self._options = options
        self._cameras: dict[str, Camera] = {}  # by topic
        self._read(bag, topics)
        for sightings in (self.color, self.depth):
            if sightings is not None and not sightings.received_ns:
                raise RecordingError(f"{bag.path}: expected images on {sightings.topic}, got none")
        if topics.camera_info not in self._cameras:
            raise RecordingError(f"{bag.path}: expected a CameraInfo on {topics.camera_info}, got none")
        self.camera = self._cameras[topics.camera_info]
        self.depth_camera = self._cameras.get(topics.depth_info) if topics.depth_info else None

    def _read(self, bag: Bag, topics: CameraTopics) -> None:
        images = {item.topic: item for item in (self.color, self.depth) if item is not None}
        infos = {topic for topic in (topics.camera_info, topics.depth_info) if topic}
        for message in bag.messages({*images, *infos, *self.poses.topics}):
            try:
                fields = bag.decode(message)
            except RecordingError as error:
                self.bad.append(str(error))
                continue
            if message.topic in images:
                images[message.topic].add(fields, message.received_ns)
                if message.topic == topics.depth and self.depth_size is None:
                    self.depth_size = self._size_of_depth(fields)
            elif message.topic in infos:
                self._add_camera(message.topic, fields)
            else:
                self.poses.add(message.topic, fields)

    def _size_of_depth(self, fields: Any) -> tuple[int, int] | None:
        try:
            height, width = read_depth(fields, self._options.depth_scale, "").shape
        except RecordingError:
            return None  # a damaged one: it is named when its frame is read, and the next one has the size
        return width, height

    def _add_camera(self, topic: str, info: Any) -> None:
        try:
            camera = camera_from_info(info, self._options.rectified)
        except CameraError as error:
            raise RecordingError(f"{topic}: {error}") from error
        first = self._cameras.setdefault(topic, camera)
        if camera != first:
            raise RecordingError(f"{topic}: expected one camera all along, got {first}, then {camera}")
