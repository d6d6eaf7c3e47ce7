"""Fill a buffer from /tf and /tf_static."""

from __future__ import annotations

from threading import Thread

from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile
from tf2_msgs.msg import TFMessage

from .buffer import Buffer

AUTHORITY = "default_authority"


class TransformListener:
    """Hand every published transform to a buffer, while the node is spun or by a thread of its own."""

    def __init__(
        self,
        buffer: Buffer,
        node: Node,
        *,
        spin_thread: bool = False,
        qos: QoSProfile | int | None = None,
        static_qos: QoSProfile | int | None = None,
    ) -> None:
        changing = QoSProfile(depth=100, history=HistoryPolicy.KEEP_LAST)
        latched = QoSProfile(
            depth=100, durability=DurabilityPolicy.TRANSIENT_LOCAL, history=HistoryPolicy.KEEP_LAST
        )
        self.buffer = buffer
        self.node = node
        # Reentrant: a callback that waits for a transform must not keep the transform from coming in.
        self.group = ReentrantCallbackGroup()
        self.tf_sub = node.create_subscription(
            TFMessage, "/tf", self.callback, changing if qos is None else qos, callback_group=self.group
        )
        self.tf_static_sub = node.create_subscription(
            TFMessage,
            "/tf_static",
            self.static_callback,
            latched if static_qos is None else static_qos,
            callback_group=self.group,
        )
        if spin_thread:
            self.executor = SingleThreadedExecutor()
            self.executor.add_node(node)
            self.dedicated_listener_thread = Thread(target=self.executor.spin, daemon=True)
            self.dedicated_listener_thread.start()

    def __del__(self) -> None:
        if hasattr(self, "dedicated_listener_thread"):
            self.executor.shutdown()
            self.dedicated_listener_thread.join()
        if hasattr(self, "tf_static_sub"):
            self.unregister()

    def unregister(self) -> None:
        """Stop listening."""
        self.node.destroy_subscription(self.tf_sub)
        self.node.destroy_subscription(self.tf_static_sub)

    def callback(self, data: TFMessage) -> None:
        """Take in a message from /tf."""
        for transform in data.transforms:
            self.buffer.set_transform(transform, AUTHORITY)

    def static_callback(self, data: TFMessage) -> None:
        """Take in a message from /tf_static."""
        for transform in data.transforms:
            self.buffer.set_transform_static(transform, AUTHORITY)
