"""CameraInfo as no camera should send it."""

from __future__ import annotations

from hypothesis import strategies as st
from model_files import HEIGHT, WIDTH
from sensor_msgs.msg import CameraInfo
from spoiling import ANY, BAD_INFO, FINE, SIZE, Draw, Spoiler

NOT_FINITE = [float("nan"), float("inf"), float("-inf")]
# Images, CameraInfo, regions and files of another size have no number in common: none fits another by chance.
SIDES = st.sampled_from([2, 9, 46, 50, 62, 66, 320, 65534, 2**31 - 1, 2**32 - 2])


def _k(draw: Draw, info: CameraInfo) -> frozenset[str]:
    k = list(info.k)
    for place in draw(st.lists(st.integers(0, 8), min_size=1, max_size=3)):
        k[place] = draw(st.sampled_from(NOT_FINITE))
    info.k = draw(st.sampled_from([k, [0.0] * 9, [-k[0], *info.k[1:]], [*info.k[:4], 0.0, *info.k[5:]]]))
    return BAD_INFO


def _skew(draw: Draw, info: CameraInfo) -> frozenset[str]:
    info.k[1] = draw(st.sampled_from([-1.0, 0.5, 1e300]))
    return BAD_INFO


def _d(draw: Draw, info: CameraInfo) -> frozenset[str]:
    info.distortion_model = draw(st.sampled_from(["plumb_bob", "rational_polynomial", "equidistant"]))
    count = {"plumb_bob": 5, "rational_polynomial": 8, "equidistant": 4}[info.distortion_model]
    d = [0.1] * count
    d[draw(st.integers(0, count - 1))] = draw(st.sampled_from(NOT_FINITE))
    info.d = draw(st.sampled_from([d, [0.1] * (count - 2), [0.1] * (count + 5), [0.1] * 500]))
    return BAD_INFO


def _lens(draw: Draw, info: CameraInfo) -> frozenset[str]:
    info.distortion_model = draw(st.sampled_from(["fisheye", "Plumb_Bob", "none", "🙂", "x" * 300]))
    return BAD_INFO


def _info_of_another_size(draw: Draw, info: CameraInfo) -> frozenset[str]:
    setattr(info, draw(st.sampled_from(["width", "height"])), draw(SIDES))
    return SIZE


def _info_without_size(draw: Draw, info: CameraInfo) -> frozenset[str]:
    setattr(info, draw(st.sampled_from(["width", "height"])), 0)
    return BAD_INFO


def _region(draw: Draw, info: CameraInfo) -> frozenset[str]:
    outside = [(1, 0, WIDTH, HEIGHT), (0, 0, 2**32 - 1, 1), (2**31, 2**31, 2**31, 2**31), (3, 3, 0, 0)]
    inside = [(0, 0, 4, 3), (5, 5, WIDTH - 10, HEIGHT - 10)]
    region = draw(st.sampled_from([*outside, *inside]))
    info.roi.x_offset, info.roi.y_offset, info.roi.width, info.roi.height = region
    return SIZE if region in inside else BAD_INFO


def _binning(draw: Draw, info: CameraInfo) -> frozenset[str]:
    setattr(
        info, draw(st.sampled_from(["binning_x", "binning_y"])), draw(st.sampled_from([2, 40, 65, 2**32 - 1]))
    )
    return SIZE | BAD_INFO


def _unused(draw: Draw, info: CameraInfo) -> frozenset[str]:
    """P, R and the frame id of a CameraInfo say nothing of images that aren't rectified."""
    info.p, info.r = draw(
        st.sampled_from([([value] * 12, [value] * 9) for value in [*NOT_FINITE, 1e308, 0.0]])
    )
    info.header.frame_id = draw(st.sampled_from(["", "other", "🙂"]))
    return FINE


def _extreme(draw: Draw, info: CameraInfo) -> frozenset[str]:
    """A calibration of finite numbers that no camera has: whatever is made of it, it must not be a pose."""
    if draw(st.booleans()):
        focal = draw(st.sampled_from([5e-324, 1e-200, 1e-9, 0.1, 1e5, 1e30, 1e308]))
        info.k = [focal, 0.0, info.k[2], 0.0, focal, info.k[5], 0.0, 0.0, 1.0]
    else:
        centre = draw(st.sampled_from([-1e308, -1e9, 1e9, 1e30, 1e308]))
        info.k = [info.k[0], 0.0, centre, 0.0, info.k[4], info.k[5], 0.0, 0.0, 1.0]
    return ANY


def extreme_lens(draw: Draw, info: CameraInfo) -> frozenset[str]:
    info.distortion_model = draw(st.sampled_from(["plumb_bob", "rational_polynomial", "equidistant"]))
    count = {"plumb_bob": 5, "rational_polynomial": 8, "equidistant": 4}[info.distortion_model]
    info.d = [draw(st.sampled_from([-1e308, -1e10, -50.0, 0.0, 50.0, 1e10, 1e308])) for _ in range(count)]
    return ANY


# One of each group at most: each changes fields of its own.
GROUPS: list[list[Spoiler]] = [
    [_k, _skew, _extreme],
    [_d, _lens, extreme_lens],
    [_info_of_another_size, _info_without_size, _region, _binning],
    [_unused],
]
