"""What spoilers of frames have in common: how they draw, and the reasons that they give."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st

from structpose_ros.gate import RejectReason

# Draws an example of a strategy, as hypothesis' composite gives it.
Draw = Callable[[st.SearchStrategy[Any]], Any]
# Changes a message and returns the reasons that may refuse it then; none: it is as good as before.
Spoiler = Callable[[Draw, Any], frozenset[str]]


def reasons(*names: str) -> frozenset[str]:
    """A set of reasons."""
    return frozenset(names)


ANY = frozenset(reason.value for reason in RejectReason) - {"internal_error"}
BAD_IMAGE, BAD_INFO = reasons("bad_image"), reasons("bad_camera_info")
SIZE, FRAME = reasons("size_mismatch"), reasons("bad_frame_id")
FINE = reasons()
