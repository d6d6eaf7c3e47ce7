"""Publish transforms that change."""

from __future__ import annotations

from collections.abc import Sequence

from geometry_msgs.msg import TransformStamped
from rclpy.node import Node
from rclpy.qos import QoSProfile
from tf2_msgs.msg import TFMessage


class TransformBroadcaster:
    """Send transforms on /tf."""

    def __init__(self, node: Node, qos: QoSProfile | int | None = None) -> None:
        self.pub_tf = node.create_publisher(TFMessage, "/tf", QoSProfile(depth=100) if qos is None else qos)

    def sendTransform(self, transform: TransformStamped | Sequence[TransformStamped]) -> None:
        """Publish one transform, or several in one message."""
        several = transform if hasattr(transform, "__iter__") else [transform]
        self.pub_tf.publish(TFMessage(transforms=list(several)))
