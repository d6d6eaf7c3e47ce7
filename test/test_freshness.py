"""Which image is worked on where the camera is faster than the work."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from structpose_ros.freshness import patience

SECONDS = st.floats(1e-4, 10.0)


@given(waited=SECONDS, work=SECONDS)
def test_without_a_known_period_the_image_at_hand_is_taken(waited: float, work: float) -> None:
    assert patience(waited, work, None) == 0.0


@pytest.mark.parametrize(
    ("waited", "work", "period", "expected"),
    [
        (0.001, 0.2, 0.1, 0.0),  # it has just come
        (0.045, 0.2, 0.1, 0.0),  # the next is due in 55 ms: later than this one is old
        (0.055, 0.2, 0.1, 0.045 + 0.05),
        (0.055, 0.04, 0.1, 0.0),  # there is time for both
        (0.055, 0.05, 0.1, 0.045 + 0.05),
        (0.1, 0.2, 0.1, 0.05),  # the next is due now
        (0.35, 0.2, 0.1, 0.05),  # and here it should have come long ago
        (0.35, 0.0, 0.1, 0.0),
    ],
)
def test_the_next_image_is_waited_for_where_it_is_due_sooner_than_the_one_at_hand_is_old(
    waited: float, work: float, period: float, expected: float
) -> None:
    assert patience(waited, work, period) == pytest.approx(expected)


def played(period: int, work: int, start: int) -> tuple[list[int], list[int], int]:
    """Return the numbers of 200 images that are worked on, their ages when that is done, and when that is.

    All in microseconds. The camera sends image n at n periods; the work begins at `start`, on the newest.
    """
    now, ages, taken = start, [], [-1]
    for _ in range(200):
        newest = now // period
        if newest == taken[-1]:  # nothing new has come
            newest, now = newest + 1, (newest + 1) * period
        worth = patience(1e-6 * (now - newest * period), 1e-6 * work, 1e-6 * period)
        if worth:
            newest += 1
            assert newest * period <= now + 1e6 * worth, "it comes within what was waited for it"
            now = max(now, newest * period)
        taken.append(newest)
        now += work
        ages.append(now - newest * period)
    return taken[1:], ages, now


@given(period=st.integers(1000, 1_000_000), slower=st.floats(1.0, 20.0), start=st.floats(0.0, 1.0))
def test_of_a_camera_that_is_too_fast_no_pose_is_older_than_the_work_and_half_a_period(
    period: int, slower: float, start: float
) -> None:
    """And one comes after each work and half a period at least."""
    begun, work = round(start * period), math.ceil(slower * period)
    taken, ages, end = played(period, work, begun)
    assert max(ages) <= work + period / 2 + 1
    assert end - begun <= 200 * (work + period / 2 + 1)
    assert taken == sorted(set(taken))


@given(period=st.integers(1000, 1_000_000), faster=st.floats(0.0, 0.99), start=st.floats(0.0, 0.99))
def test_of_a_camera_that_is_slow_enough_no_image_is_left_out(
    period: int, faster: float, start: float
) -> None:
    """But for the first, where it has waited and the second is due before the work on it could be done."""
    begun, work = round(start * period), round(faster * period)
    taken, _, _ = played(period, work, begun)
    first = int(begun > period / 2 and begun + work > period)
    assert taken == list(range(first, first + 200))
