"""The worker thread: the newest item is next, what was replaced is dropped, stop() waits for the work."""

from __future__ import annotations

import threading

from structpose_ros.worker import NewestWorker, Ticker

DEADLINE = 10.0


class Bench:
    """A worker whose work lasts until it is let go on."""

    def __init__(self) -> None:
        self.begun, self.go_on = threading.Semaphore(0), threading.Semaphore(0)
        self.done: list[str] = []
        self.worker: NewestWorker[str] = NewestWorker(self.work, "bench")

    def work(self, item: str) -> None:
        self.begun.release()
        assert self.go_on.acquire(timeout=DEADLINE)
        self.done.append(item)


def test_the_newest_of_what_waits_is_next_and_the_others_are_dropped() -> None:
    bench = Bench()
    assert not bench.worker.offer("first")
    assert bench.begun.acquire(timeout=DEADLINE)
    assert not bench.worker.offer("second"), "the first is worked on and waits no more"
    assert bench.worker.offer("third") and bench.worker.offer("fourth")
    bench.go_on.release(2)
    assert bench.begun.acquire(timeout=DEADLINE)
    bench.worker.stop()
    assert bench.done == ["first", "fourth"]


def test_stop_waits_for_the_current_item_and_forgets_the_waiting_one() -> None:
    bench = Bench()
    worker = bench.worker
    worker.offer("current")
    assert bench.begun.acquire(timeout=DEADLINE)
    worker.offer("waiting")
    stopping = threading.Thread(target=worker.stop)
    with worker._changed:
        stopping.start()
        assert worker._changed.wait_for(lambda: worker._stopping, DEADLINE)
    assert stopping.is_alive(), "the current item is not done"
    bench.go_on.release()
    stopping.join(DEADLINE)
    assert not stopping.is_alive()
    assert bench.done == ["current"]


def test_a_worker_without_work_stops_at_once() -> None:
    bench = Bench()
    bench.worker.stop()
    assert bench.done == []


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
