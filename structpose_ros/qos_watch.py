"""Publishers and subscriptions that say when the other side's QoS keeps them from talking."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rclpy.callback_groups import CallbackGroup
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import QoSProfile, qos_policy_name_from_kind
from rclpy.subscription import Subscription

try:
    from rclpy.event_handler import (
        PublisherEventCallbacks,
        SubscriptionEventCallbacks,
        UnsupportedEventTypeError,
    )
except ImportError:  # Humble
    from rclpy.qos_event import (
        PublisherEventCallbacks,
        SubscriptionEventCallbacks,
        UnsupportedEventTypeError,
    )


class QosWatch:
    """Creates a node's endpoints; `on_mismatch(topic, policy)` hears of those that can't connect."""

    def __init__(self, node: Node, on_mismatch: Callable[[str, str], None]) -> None:
        """`on_mismatch` gets the topic's full name and the policy's, as RELIABILITY."""
        self._node = node
        self._on_mismatch = on_mismatch

    def publisher(self, kind: type, topic: str, qos: QoSProfile | int) -> Publisher:
        """Create a publisher."""
        callbacks = PublisherEventCallbacks(incompatible_qos=self._heard_on(topic))
        try:
            return self._node.create_publisher(kind, topic, qos, event_callbacks=callbacks)
        except UnsupportedEventTypeError:  # a middleware without this event
            return self._node.create_publisher(kind, topic, qos)

    def subscription(
        self,
        kind: type,
        topic: str,
        callback: Callable[..., None],
        qos: QoSProfile | int,
        group: CallbackGroup | None = None,
        *,
        raw: bool = False,
    ) -> Subscription:
        """Create a subscription; its callback takes a message (its bytes if `raw`), and maybe its info."""
        callbacks = SubscriptionEventCallbacks(incompatible_qos=self._heard_on(topic))
        try:
            return self._node.create_subscription(
                kind, topic, callback, qos, callback_group=group, event_callbacks=callbacks, raw=raw
            )
        except UnsupportedEventTypeError:
            return self._node.create_subscription(kind, topic, callback, qos, callback_group=group, raw=raw)

    def _heard_on(self, topic: str) -> Callable[[Any], None]:
        name = self._node.resolve_topic_name(topic)
        return lambda info: self._on_mismatch(name, qos_policy_name_from_kind(info.last_policy_kind))
