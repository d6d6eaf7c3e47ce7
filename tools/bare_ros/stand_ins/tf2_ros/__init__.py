"""A stand-in for tf2_ros on machines without ROS 2: the part of its interface that structpose_ros uses.

Written from the documented behaviour of the real package and installed by tools/bare_ros/install.py only
where the real one can't be imported. What isn't here (async lookups, lookups through a fixed frame, the
tf2_frames service) raises AttributeError, never a wrong answer.
"""

from .buffer import Buffer
from .exceptions import (
    ConnectivityException,
    ExtrapolationException,
    InvalidArgumentException,
    LookupException,
    TimeoutException,
    TransformException,
)
from .static_transform_broadcaster import StaticTransformBroadcaster
from .transform_broadcaster import TransformBroadcaster
from .transform_listener import TransformListener

STAND_IN = True

__all__ = [
    "Buffer",
    "ConnectivityException",
    "ExtrapolationException",
    "InvalidArgumentException",
    "LookupException",
    "StaticTransformBroadcaster",
    "TimeoutException",
    "TransformBroadcaster",
    "TransformException",
    "TransformListener",
]
