"""Which poses are published over time, and when the robot is lost: single outliers, kidnaps, odometry."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from structpose_ros.geometry import rotation_from_vector, transform
from structpose_ros.tracking import Sighting, State, Tracker, TrackingOptions, disagreement

STRICT = TrackingOptions(
    consistency_frames=3, consistency_distance=0.2, consistency_angle=0.1, max_speed=1.0, max_turn_rate=0.5
)
PERIOD_NS = 100_000_000


def at(x: float, number: int, yaw: float = 0.0, odom: np.ndarray | None = None) -> Sighting:
    """The pose of image `number`, at x metres along the map's x axis."""
    return Sighting(number * PERIOD_NS, transform(rotation_from_vector([0, 0, yaw]), [x, 0.0, 1.0]), odom)


def confirmed(tracker: Tracker, xs: list[float], start: int = 1) -> list[bool]:
    """Observe one pose per period; return which were confirmed."""
    return [
        tracker.observe(at(x, start + number), 0.1 * (start + number)).confirmed
        for number, x in enumerate(xs)
    ]


def test_the_first_poses_must_agree() -> None:
    tracker = Tracker(STRICT)
    assert tracker.state is State.SEARCHING
    first = tracker.observe(at(1.0, 1), 0.1)
    assert (first.confirmed, first.detail) == (False, "1 of 3 poses in a row agree")
    assert tracker.state is State.SEARCHING
    assert confirmed(tracker, [1.05, 1.0, 1.1], start=2) == [False, True, True]
    assert tracker.state is State.LOCALIZED


def test_with_one_frame_each_pose_stands_for_itself() -> None:
    tracker = Tracker(TrackingOptions(consistency_frames=1))
    first, near, far = (tracker.observe(at(x, n), 0.1 * n) for n, x in enumerate([0.0, 0.1, 50.0], start=1))
    assert all(verdict.confirmed for verdict in (first, near, far))
    assert [first.relocalized, near.relocalized, far.relocalized] == [True, False, True]


def test_a_single_outlier_is_held_back_and_costs_its_neighbours_nothing() -> None:
    tracker = Tracker(STRICT)
    assert confirmed(tracker, [0.0, 0.0, 0.0, 9.0, 0.0, 0.1, -9.0, 9.0, 0.1]) == [
        False, False, True, False, True, True, False, False, True,
    ]  # fmt: skip


def test_a_kidnapped_robot_is_followed_once_poses_elsewhere_agree() -> None:
    tracker = Tracker(STRICT)
    confirmed(tracker, [0.0, 0.0, 0.0])
    verdicts = [tracker.observe(at(9.0, number), 0.1 * number) for number in (4, 5, 6)]
    assert [verdict.confirmed for verdict in verdicts] == [False, False, True]
    assert "9.00 m and 0 deg away" in verdicts[0].detail
    assert verdicts[2].relocalized
    assert tracker.observe(at(9.0, 7), 0.7).confirmed
    assert not tracker.observe(at(0.0, 8), 0.8).confirmed, "the old place has no claim left"


def test_disagreeing_candidates_never_add_up() -> None:
    tracker = Tracker(STRICT)
    assert not any(confirmed(tracker, [0.0, 5.0, 0.0, 5.0, 0.0, 5.0, 10.0, 15.0]))
    assert tracker.state is State.SEARCHING


@given(
    x=st.floats(-5, 5),
    yaw=st.floats(-3, 3),
    step=st.floats(-3, 3),
    turn=st.floats(-3, 3),
    odom_x=st.floats(-50, 50),
    odom_yaw=st.floats(-3, 3),
    error=st.floats(0.0, 0.19),
)
def test_odometry_takes_the_motion_out(
    x: float, yaw: float, step: float, turn: float, odom_x: float, odom_yaw: float, error: float
) -> None:
    """However far and fast the camera moved, poses agree if odometry moved alike, and else not."""
    map_from_odom = transform(rotation_from_vector([0.1, -0.2, odom_yaw]), [odom_x, 3.0, -1.0])
    before = transform(rotation_from_vector([0, 0, yaw]), [x, 0.0, 1.0])
    moved = before @ transform(rotation_from_vector([0, turn, 0]), [0.3, 0.0, step])
    odom_before, odom_moved = (np.linalg.inv(map_from_odom) @ pose for pose in (before, moved))
    off = moved.copy()
    off[1, 3] += error
    first = Sighting(0, before, odom_before)
    assert disagreement(first, Sighting(PERIOD_NS, off, odom_moved), STRICT) == ""
    off[1, 3] += 0.21
    assert disagreement(first, Sighting(PERIOD_NS, off, odom_moved), STRICT) != ""
    # A kidnap: the wheels stood still while the camera went 3 m.
    carried = Sighting(PERIOD_NS, transform(before[:3, :3], before[:3, 3] + [0, 3.0, 0]), odom_before)
    assert disagreement(first, carried, STRICT).startswith("3.00 m and 0 deg")


def test_without_odometry_the_greatest_speed_is_allowed_for() -> None:
    """0.2 m and 0.1 rad, and 1 m/s and 0.5 rad/s for the time between."""
    first = at(0.0, 0)
    # The last is half a minute later, when no more is allowed for than after lost_timeout, 2 s.
    for number, reach, angle in ((1, 0.3, 0.15), (10, 1.2, 0.6), (300, 2.2, 1.1)):
        assert disagreement(first, at(reach - 1e-6, number), STRICT) == ""
        assert disagreement(first, at(reach + 1e-6, number), STRICT) != ""
        assert disagreement(first, at(0.0, number, angle - 1e-6), STRICT) == ""
        assert disagreement(first, at(0.0, number, angle + 1e-6), STRICT) != ""


def test_odometry_on_one_side_alone_is_none() -> None:
    with_odom = at(0.29, 1, odom=np.eye(4))
    assert disagreement(at(0.0, 0), with_odom, STRICT) == ""
    assert disagreement(at(0.0, 0, odom=np.eye(4)), with_odom, STRICT) != ""


def test_without_poses_the_robot_is_lost_after_the_timeout_and_not_before() -> None:
    tracker = Tracker(TrackingOptions(consistency_frames=2, lost_timeout=2.0))
    assert tracker.expire(100.0) is State.SEARCHING, "what was never found is not lost"
    assert confirmed(tracker, [0.0, 0.0]) == [False, True]  # at 0.2 s
    assert tracker.expire(2.2) is State.LOCALIZED
    assert tracker.expire(2.2 + 1e-6) is State.LOST
    first = tracker.observe(at(0.0, 30), 3.0)
    assert not first.confirmed, "what was lost must be found again"
    again = tracker.observe(at(0.0, 31), 3.1)
    assert again.confirmed and again.relocalized
    assert tracker.state is State.LOCALIZED


def test_poses_that_are_held_back_do_not_keep_the_robot_localized() -> None:
    tracker = Tracker(TrackingOptions(consistency_frames=2, lost_timeout=1.0))
    confirmed(tracker, [0.0, 0.0])
    for number, x in enumerate([9.0, 18.0, 27.0], start=10):
        tracker.observe(at(x, number), 0.1 * number)
    assert tracker.expire(1.3) is State.LOST


def test_reset_forgets() -> None:
    tracker = Tracker(STRICT)
    confirmed(tracker, [0.0, 0.0, 0.0, 0.0])
    tracker.reset()
    assert tracker.state is State.SEARCHING
    assert confirmed(tracker, [0.0, 0.0, 0.0], start=10) == [False, False, True]


def test_options_may_change_in_between() -> None:
    tracker = Tracker(STRICT)
    assert confirmed(tracker, [0.0]) == [False]
    tracker.options = TrackingOptions(consistency_frames=1)
    assert confirmed(tracker, [5.0], start=2) == [True]


@pytest.mark.parametrize("angle", [0.0, math.pi / 2, math.pi])
def test_a_turn_on_the_spot_is_a_disagreement_too(angle: float) -> None:
    away = disagreement(at(0.0, 0), at(0.0, 1, angle), STRICT)
    assert away == ("" if angle == 0.0 else f"0.00 m and {math.degrees(angle):.0f} deg")
