"""The thread that works by the clock."""

from __future__ import annotations

import threading

from structpose_ros.ticker import Ticker

DEADLINE = 10.0


def test_a_ticker_goes_on_after_what_was_raised_and_ends_when_told() -> None:
    ticked, errors = threading.Semaphore(0), []

    def work() -> None:
        ticked.release()
        raise ValueError("of a call")

    ticker = Ticker(work, 0.001, lambda error: errors.append(f"{type(error).__name__}: {error}"))
    for _ in range(3):
        assert ticked.acquire(timeout=DEADLINE)
    ticker.stop()
    assert set(errors) == {"ValueError: of a call"}
    assert not any(thread.name == "ticker" for thread in threading.enumerate())
