"""What is wrong with a recording, in words that say what to do."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from structpose_ros.training.inspection.agreement import Agreement
from structpose_ros.training.inspection.measure import Inspection

FEW_FRAMES = 100
LOW_VALID_SHARE = 0.4
IMPLAUSIBLE_DEPTH_M = 0.15, 20.0
SCALE = 1.25  # the real kitchen: 0.97 .. 1.02, with unregistered depth too
SURE = 4.0  # standard deviations
SHIFT_INTERVALS, SHIFT_MS = 0.75, 40.0
UNREGISTERED_SHARE = 0.02  # of the image's width; the real kitchen as registered by its authors: 0.009
UNREGISTERED_GAIN, EDGES_CONTRAST = 1.3, 5.0
REPEATS = 0.03
SPOILT = 0.1  # share of frames
BLURRED, DARK, SATURATED = 0.2, 40.0, 0.3
FAR_VIEWS = 0.25
KNOWN_UNITS = {
    10.0: "tenths of a millimetre",
    5.0: "1/5000 m, as TUM RGB-D has it",
    1000.0: "micrometres",
    0.2: "taken for 1/5000 m, as TUM RGB-D has it",
    0.1: "centimetres",
    0.001: "metres",
}


@dataclass(frozen=True)
class Finding:
    """A warning: a fixed name, a number with its unit, and a sentence that says what to do."""

    name: str
    value: float
    unit: str
    sentence: str


def find(inspection: Inspection) -> list[Finding]:
    """Return the warnings, the gravest first."""
    return [
        *_of_poses(inspection.agreement),
        *_of_stamps(inspection),
        *_of_depth(inspection),
        *_of_frames(inspection),
        *_of_views(inspection),
    ]


def _of_poses(agreement: Agreement) -> Iterator[Finding]:
    explained = agreement.explained
    if explained is None:
        return
    share = f"{max(explained, 0):.0%}"
    if agreement.reading == "inverted":
        yield Finding(
            "poses_inverted",
            explained,
            "share of turning explained",
            f"poses fit the images ({share} of the turning) only as camera_from_map: invert every pose; "
            "map_from_camera is expected",
        )
    elif agreement.reading == "turned":
        yield Finding(
            "poses_turned",
            agreement.turned_deg,
            "deg",
            f"poses fit the images ({share} of the turning) only with their axes turned by "
            f"{agreement.turned_deg:.0f} deg: give poses of the optical frame (x right, y down, z forward)",
        )
    elif agreement.reading == "none":
        yield Finding(
            "poses_disagree",
            explained,
            "share of turning explained",
            f"poses explain {share} of the turning that the images show: check that poses and images belong "
            "together, their stamps and camera.yaml",
        )


def _of_stamps(inspection: Inspection) -> Iterator[Finding]:
    agreement = inspection.agreement
    if agreement.shift is None or agreement.shift_std is None:
        return
    interval, shift = inspection.interval_s, agreement.shift
    milliseconds = None if interval is None else 1e3 * interval * shift
    far = abs(shift) >= SHIFT_INTERVALS or (milliseconds is not None and abs(milliseconds) >= SHIFT_MS)
    still = int(np.abs(agreement.shifts).argmin())
    better = agreement.disagreement_deg.min() < 0.85 * agreement.disagreement_deg[still]
    if not (far and better and abs(shift) >= SURE * agreement.shift_std):
        return
    side, verb, preposition = ("late", "subtract", "from") if shift > 0 else ("early", "add", "to")
    least = "at least" if agreement.at_limit else "about"
    if milliseconds is None:
        amount, also = f"{abs(shift):.1f} frames", " (--rate HZ gives it in ms)"
    else:
        amount, also = f"{abs(milliseconds):.0f} ms", f" ({abs(shift):.1f} frames)"
    yield Finding(
        "stamp_shift",
        shift if milliseconds is None else milliseconds,
        "frames" if milliseconds is None else "ms",
        f"poses are {least} {amount}{also} {side}: an image is stored with the pose that the camera had "
        f"that long {'before' if shift > 0 else 'after'} it; {verb} {amount} {preposition} the poses' "
        "stamps and import again",
    )


def _of_depth(inspection: Inspection) -> Iterator[Finding]:
    yield from _of_unit(inspection)
    fit, width = inspection.registration, inspection.camera.width
    if (
        fit is not None
        and fit.displacement_px > UNREGISTERED_SHARE * width
        and fit.gain > UNREGISTERED_GAIN
        and fit.contrast > EDGES_CONTRAST
    ):
        yield Finding(
            "depth_not_registered",
            fit.displacement_px,
            "px",
            f"depth edges lie {fit.displacement_px:.0f} px beside those of the image (they fit magnified "
            f"by {fit.magnification:.2f} and moved by {fit.shift_px[0]:+.0f}, {fit.shift_px[1]:+.0f} px): "
            "register depth into the colour camera with both cameras' calibration, and give that "
            "camera's poses",
        )
    share = float(np.median(inspection.figures.valid_share))
    if share < LOW_VALID_SHARE:
        yield Finding(
            "low_valid_depth",
            share,
            "share of pixels",
            f"only {share:.0%} of the pixels have depth (median frame): check range, exposure and "
            "encoding of the depth camera",
        )


def _of_unit(inspection: Inspection) -> Iterator[Finding]:
    agreement, median = inspection.agreement, inspection.depth_percentiles[1]
    scale, std = agreement.depth_scale, agreement.depth_scale_std
    low, high = IMPLAUSIBLE_DEPTH_M
    if scale is None or std is None:
        if math.isfinite(median) and not low < median < high:
            yield Finding(
                "depth_unit",
                median,
                "m",
                f"the median depth is {_number(median)} m: expected uint16 millimetres along z; check the "
                "depth's unit",
            )
        return
    if abs(math.log(scale)) < max(math.log(SCALE), SURE * std):
        return
    known = next((value for value in KNOWN_UNITS if abs(math.log(scale / value)) < 0.15), None)
    meant = f" ({KNOWN_UNITS[known]}?)" if known else ""
    if low < median < high and not low < median / scale < high:
        sentence = (
            f"the poses' positions are {_number(1 / scale)} times what depth and images call for, while "
            f"the depth is plausible (median {median:.1f} m): "
            f"{_fix('their translations', 1 / (known or scale))}; metres are expected"
        )
    else:
        sentence = (
            f"depth is {_number(scale)} times what poses and images call for, its median "
            f"{_number(median)} m{meant}: {_fix('it', known or scale)}; millimetres are expected (or else "
            "positions are not in metres)"
        )
    yield Finding("depth_unit", scale, "recorded / true", sentence)


def _fix(what: str, factor: float) -> str:
    if factor > 1:
        return f"divide {what} by {_number(factor)}"
    return f"multiply {what} by {_number(1 / factor)}"


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.2g}"


def _of_frames(inspection: Inspection) -> Iterator[Finding]:
    if inspection.bad:
        yield Finding(
            "bad_frames",
            len(inspection.bad),
            "frames",
            f"{len(inspection.bad)} frames can't be used, such as {inspection.bad[0]}; --skip-bad leaves "
            "them out",
        )
    repeats, figures = inspection.repeats, inspection.figures
    same_image = len(repeats.same_image)
    if same_image > REPEATS * max(repeats.neighbours, 1):
        yield Finding(
            "duplicate_frames",
            same_image,
            "frames",
            f"{same_image} of {repeats.neighbours} frames repeat the image before at another pose, so "
            "that pose is wrong for it: leave them out (the camera's driver dropped frames)",
        )
    if repeats.same_pose > REPEATS * max(repeats.neighbours, 1):
        yield Finding(
            "frozen_poses",
            repeats.same_pose,
            "frames",
            f"{repeats.same_pose} of {repeats.neighbours} frames repeat the pose before while the image "
            "changes: the pose source is slower than the camera or lost track; interpolate poses or "
            "leave these frames out",
        )
    jumps = inspection.views.jumps
    if jumps:
        yield Finding(
            "pose_jump",
            len(jumps),
            "jumps",
            f"the camera leaps {len(jumps)} times, first at {jumps[0]}: tracking was lost or the map "
            "corrected; cut the recording there or use optimised poses",
        )
    for name, mask, what in (
        (
            "blurred_frames",
            figures.sharpness < BLURRED,
            "far less sharp than the median frame: move slower or expose shorter",
        ),
        ("dark_frames", figures.brightness < DARK, "nearly black: add light or expose longer"),
        ("overexposed_frames", figures.saturated > SATURATED, "overexposed over a third: expose shorter"),
    ):
        share = float(mask.mean())
        if share > SPOILT:
            yield Finding(name, share, "share of frames", f"{share:.0%} of the frames are {what}")


def _of_views(inspection: Inspection) -> Iterator[Finding]:
    counts, views = inspection.counts, inspection.views
    if counts["train"] < FEW_FRAMES:
        yield Finding(
            "few_frames",
            counts["train"],
            "frames",
            f"{counts['train']} training frames are few: record some hundreds, from all places and in all "
            "directions",
        )
    if counts["test"] == 0:
        yield Finding(
            "no_test_split",
            0,
            "frames",
            "no frames are held back for testing: import with --test-fraction, or record a second drive",
        )
    if views.spread_deg < 10 and max(views.extent_m) < 0.25 * views.seen_depth:
        yield Finding(
            "narrow_views",
            views.spread_deg,
            "deg",
            f"half of the training views look within {views.spread_deg:.0f} deg of one direction, from a "
            f"space of {max(views.extent_m):.1f} m: a model will only know these views; record more",
        )
    if counts["test"]:
        reach = 0.5 * math.degrees(2 * math.atan(inspection.camera.width / 2 / inspection.camera.fx))
        far = float(((views.nearest_deg > reach) | (views.nearest_m > 0.75 * views.seen_depth)).mean())
        if far > FAR_VIEWS:
            yield Finding(
                "small_overlap",
                far,
                "share of test views",
                f"{far:.0%} of the test views share less than half of what they see with any training "
                "view: record training views there, or expect large errors",
            )
        if views.roll_deg["test"] > views.roll_deg["train"] + 15:
            yield Finding(
                "roll",
                views.roll_deg["test"],
                "deg",
                f"test views are rolled by up to {views.roll_deg['test']:.0f} deg, training views by "
                f"{views.roll_deg['train']:.0f}: roll the camera while recording, or hold it level in use",
            )
