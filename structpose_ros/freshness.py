"""Whether the image at hand is the one to work on, or the next one, which is about to come."""

from __future__ import annotations

LATENESS = 0.5  # of a period, that the next image may come late


def patience(waited: float, work: float, period: float | None) -> float:
    """Return for how many seconds the next image is worth waiting for; 0: take the one at hand.

    waited: seconds since that one arrived. work: seconds that a frame takes. period: seconds from one image
    to the next; None: nobody knows.

    Where the camera is faster than the work, images come while a frame is worked on, and the newest of them
    waits for its turn: for up to a period, by which its pose is older. If the next one is due sooner than
    that, and before the work on this one could be done, it is the better one: of a steady camera no pose is
    then older than the work and half a period, and they come at most half a period later than they could
    have. Where the next one fails to come, the one at hand is older by what it was waited for.
    """
    if period is None:
        return 0.0
    due = max(0.0, period - waited)
    return due + LATENESS * period if due < min(waited, work) else 0.0
