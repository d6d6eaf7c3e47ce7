"""Publish transforms that never change."""

from __future__ import annotations

from collections.abc import Sequence

from geometry_msgs.msg import TransformStamped
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile
from tf2_msgs.msg import TFMessage


class StaticTransformBroadcaster:
    """Send transforms on /tf_static, latched.

    A late subscriber gets only the last message, so each message repeats every transform sent before; one
    with the same child frame replaces the earlier one.
    """

    def __init__(self, node: Node, qos: QoSProfile | int | None = None) -> None:
        latched = QoSProfile(
            depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL, history=HistoryPolicy.KEEP_LAST
        )
        self.pub_tf = node.create_publisher(TFMessage, "/tf_static", latched if qos is None else qos)
        self._by_child: dict[str, TransformStamped] = {}

    def sendTransform(self, transform: TransformStamped | Sequence[TransformStamped]) -> None:
        """Publish one transform or several, together with all earlier ones."""
        several = transform if hasattr(transform, "__iter__") else [transform]
        self._by_child.update({one.child_frame_id: one for one in several})
        self.pub_tf.publish(TFMessage(transforms=list(self._by_child.values())))
