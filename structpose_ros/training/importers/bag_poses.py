"""Where the camera was: from TF alone, or from a topic of poses that TF joins with the camera."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from structpose_ros.training.frames import RecordingError
from structpose_ros.training.importers.bag_messages import frame_of, stamp_ns_of
from structpose_ros.training.importers.bag_options import BagOptions
from structpose_ros.training.importers.bag_reader import Bag
from structpose_ros.training.importers.bag_transforms import StampedTransforms, TransformTree, common_span

_TF = "tf2_msgs/msg/TFMessage"
_POSES = (
    "nav_msgs/msg/Odometry",
    "geometry_msgs/msg/PoseStamped",
    "geometry_msgs/msg/PoseWithCovarianceStamped",
)


@dataclass(frozen=True)
class CameraPoses:
    """map_from_camera over time: TF from the map to `header`, poses from there to `body`, TF to the camera.

    poses: None where TF alone says it, with `header` and `body` the camera's frame. max_gap: seconds.
    """

    tree: TransformTree
    poses: StampedTransforms | None
    topic: str | None
    map: str
    header: str
    body: str
    camera: str
    max_gap: float

    def span(self) -> tuple[int, int]:
        """Return from when to when (ns) the pose is known.

        Raises:
            RecordingError: TF does not connect the frames.
        """
        spans = [self.tree.span(self.map, self.header), self.tree.span(self.body, self.camera)]
        return common_span(spans if self.poses is None else [*spans, self.poses.span()])

    def at(self, stamp_ns: int) -> npt.NDArray[np.float64]:
        """Return map_from_camera (4, 4) at a time.

        Raises:
            RecordingError: there is a gap at that time.
        """
        header_from_body = np.eye(4)
        if self.poses is not None:
            try:
                header_from_body = self.poses.trajectory.at(stamp_ns, self.max_gap)
            except RecordingError as error:
                raise RecordingError(f"{self.topic}: {error}") from error
        map_from_header = self.tree.lookup(self.map, self.header, stamp_ns, self.max_gap)
        body_from_camera = self.tree.lookup(self.body, self.camera, stamp_ns, self.max_gap)
        return map_from_header @ header_from_body @ body_from_camera


class PoseMessages:
    """TF and poses as they are read from a bag."""

    def __init__(self, bag: Bag, options: BagOptions) -> None:
        """Choose the topics.

        Raises:
            RecordingError: the pose topic is missing or of another type, or there is neither it nor TF.
        """
        self._options = options
        self._static = f"{options.tf}_static"
        self._tree = TransformTree()
        self._poses = StampedTransforms()
        self._names: set[tuple[str, str]] = set()  # of the poses' frames: the header's, the child's
        self.topics = {topic for topic in (options.tf, self._static) if bag.topics.get(topic) == _TF}
        plausible = [topic for topic, name in bag.topics.items() if name in _POSES]
        if options.pose_topic is not None:
            if options.pose_topic not in plausible:
                raise RecordingError(
                    f"--pose-topic: expected one of {bag.describe(plausible)}, got {options.pose_topic}"
                )
            self.topics.add(options.pose_topic)
        elif not self.topics:
            transforms = [topic for topic, name in bag.topics.items() if name == _TF]
            raise RecordingError(
                f"expected poses on {options.tf} or --pose-topic, got neither; "
                f"topics: {bag.describe([*plausible, *transforms])}"
            )

    def add(self, topic: str, message: Any) -> None:
        """Add a message of one of `topics`."""
        if topic != self._options.pose_topic:
            for item in message.transforms:
                child = str(item.child_frame_id).removeprefix("/")
                static = topic == self._static
                self._tree.add(frame_of(item), child, stamp_ns_of(item), item.transform, static)
            return
        stamp_ns = stamp_ns_of(message)
        if not stamp_ns:
            raise RecordingError(f"{topic}: expected poses with a stamp in their header, got 0")
        pose = message.pose if hasattr(message.pose, "position") else message.pose.pose  # with covariance
        self._poses.add(stamp_ns, pose.position, pose.orientation)
        self._names.add((frame_of(message), getattr(message, "child_frame_id", "").removeprefix("/")))

    def of_camera(self, frame: str) -> CameraPoses:
        """Return the poses of a camera by its optical frame, once every message is there.

        Raises:
            RecordingError: there are no poses, or their frames change.
        """
        options, tree, topic = self._options, self._tree, self._options.pose_topic
        if topic is None:
            map_frame = options.map_frame or "map"
            return CameraPoses(tree, None, None, map_frame, frame, frame, frame, options.max_gap)
        if not self._poses:
            raise RecordingError(f"{topic}: expected poses, got none that are finite and rigid")
        if len(self._names) > 1:
            raise RecordingError(f"{topic}: expected poses between two frames, got {sorted(self._names)}")
        ((header, child),) = self._names
        body = options.pose_frame or child or frame
        map_frame = options.map_frame or header
        return CameraPoses(tree, self._poses, topic, map_frame, header, body, frame, options.max_gap)
