"""Frames as broken cameras send them, each with the reasons that may refuse it."""

from __future__ import annotations

from dataclasses import dataclass

from fault_rig import good_image, good_info
from hypothesis import strategies as st
from image_spoilers import SPOILERS, garbled
from info_spoilers import GROUPS, extreme_lens
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from spoiling import Draw

MAY_POSE = {garbled, extreme_lens}  # whether they give a pose is not known beforehand
STAMPS = [(0, 0), (-1, 0), (-(2**31), 5), (1_700_000_000, 10**9), (0, 2**32 - 1)]
GOOD_STAMPS = [(0, 1), (1, 0), (2**31 - 1, 10**9 - 1), (1_000_000_000, 0)]


@dataclass(frozen=True, repr=False)
class Case:
    """A frame. reasons: those that may refuse it. may_pose: whether it may give a pose, the right one.

    stamped: seconds and nanoseconds, where it has another stamp than the one that follows the last.
    """

    image: Image | CompressedImage
    info: CameraInfo
    reasons: frozenset[str]
    may_pose: bool
    spoilt: tuple[str, ...]
    stamped: tuple[int, int] | None

    def __repr__(self) -> str:
        return f"Case({', '.join(self.spoilt)})"


@st.composite
def cases(draw: Draw, transport: str) -> Case:
    """Frames that are spoilt in up to three ways, some of which do no harm."""
    kind = draw(st.sampled_from(["png", "jpg"]))
    image, info = good_image(transport, kind), good_info()
    of_image = draw(st.lists(st.sampled_from(SPOILERS[transport]), max_size=1))
    groups = draw(st.lists(st.sampled_from(range(len(GROUPS))), max_size=2, unique=True))
    of_info = [draw(st.sampled_from(GROUPS[group])) for group in groups]
    stamped, refusals, may_pose = None, set(), True
    if draw(st.integers(0, 9)) == 7:  # small numbers are drawn more often than others
        stamped = draw(st.sampled_from([*STAMPS, *GOOD_STAMPS]))
        refusals |= {"bad_stamp"} if stamped in STAMPS else set()
    for spoil in [*of_image, *of_info]:
        given = spoil(draw, image if spoil in of_image else info)
        refusals |= given
        may_pose &= not given or spoil in MAY_POSE
    may_pose &= stamped not in STAMPS
    names = tuple(spoil.__name__.lstrip("_") for spoil in [*of_image, *of_info])
    return Case(
        image,
        info,
        frozenset(refusals),
        may_pose,
        names + ((f"stamp {stamped}",) if stamped else ()),
        stamped,
    )
