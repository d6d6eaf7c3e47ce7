"""Where the images come from: raw or compressed, by which topic, and what may be wrong while none comes."""

from __future__ import annotations

from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CompressedImage, Image

from structpose_ros.advice import NODE

KINDS = {"raw": Image, "compressed": CompressedImage}
TYPES = {"raw": "sensor_msgs/msg/Image", "compressed": "sensor_msgs/msg/CompressedImage"}
OTHER = {"raw": "compressed", "compressed": "raw"}
# Every publisher's QoS fits these. Of images the newest counts; CameraInfo is looked up by stamp.
IMAGE_QOS, CAMERA_INFO_QOS = (
    QoSProfile(
        history=HistoryPolicy.KEEP_LAST,
        depth=depth,
        reliability=ReliabilityPolicy.BEST_EFFORT,
        durability=DurabilityPolicy.VOLATILE,
    )
    for depth in (1, 10)
)


class ImageTopic:
    """The topic of a node's images.

    name: resolved, remaps and namespace included. kind: its message type. serialized: whether messages are
    to come as their bytes; a file of some kilobytes is copied soon enough.
    """

    def __init__(self, node: Node, transport: str) -> None:
        """`transport` is raw or compressed."""
        self._node = node
        self._transport = transport
        self.kind = KINDS[transport]
        self.serialized = transport == "raw"
        self.name = self._named(transport)

    def publishers(self) -> int:
        """How many there are."""
        return int(self._node.count_publishers(self.name))

    def why_silent(self) -> str:
        """Say what may be wrong while no image comes."""
        expected = TYPES[self._transport]
        types = [info.topic_type for info in self._node.get_publishers_info_by_topic(self.name)]
        if expected in types:
            return (
                f"{types.count(expected)} publisher(s) there, but nothing arrives: large images are lost "
                "over DDS unless the camera is started with config/fastdds_shm.xml"
            )
        if types:
            return f"expected {expected} there, somebody publishes {types[0]}: {NODE['no_image']}"
        other = self._named(OTHER[self._transport])
        if self._node.count_publishers(other):
            transport = OTHER[self._transport]
            return f"nobody publishes there, but somebody on {other}: set input.transport to '{transport}'"
        return f"nobody publishes there: {NODE['no_image']}"

    def _named(self, transport: str) -> str:
        """Compressed images follow a remap of `image`, as image_transport has it, or one of their own."""
        raw = str(self._node.resolve_topic_name("image"))
        if transport == "raw":
            return raw
        own = str(self._node.resolve_topic_name("image/compressed"))
        unchanged = str(self._node.resolve_topic_name("image/compressed", only_expand=True))
        return f"{raw}/compressed" if own == unchanged else own
