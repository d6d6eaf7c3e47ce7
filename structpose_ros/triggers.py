"""Requests to localise now, each with an outcome by its deadline."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from structpose_ros.gate import Prior


@dataclass(frozen=True)
class Outcome:
    """How a request ended; `message` says it to people: the pose, or the reason why there is none."""

    success: bool
    message: str


class Trigger:
    """One request. Times are those of `time.perf_counter`, as of images' arrival."""

    def __init__(self, timeout: float, prior: Prior | None, on_end: Callable[[Outcome], None]) -> None:
        self.asked_at = time.perf_counter()
        self.deadline = self.asked_at + timeout
        self.timeout = timeout
        self.prior = prior
        self.last_reason = "no image came"
        self.outcome: Outcome | None = None
        self._on_end = on_end
        self._lock = threading.Lock()
        self._done = threading.Event()

    def end(self, success: bool, message: str) -> None:
        """Set the outcome, unless there is one."""
        with self._lock:
            if self.outcome is not None:
                return
            self.outcome = Outcome(success, message)
        self._on_end(self.outcome)
        self._done.set()

    def wait(self) -> Outcome:
        """Wait for the outcome, at most until the deadline."""
        if not self._done.wait(max(0.0, self.deadline - time.perf_counter())):
            self.time_out()
        assert self.outcome is not None, "done without an outcome"
        return self.outcome

    def time_out(self) -> None:
        """End without a pose."""
        self.end(False, f"no pose within {self.timeout:g} s; the last reason: {self.last_reason}")


class Triggers:
    """The requests that wait for a pose. Thread-safe."""

    def __init__(self, on_end: Callable[[Outcome], None]) -> None:
        """`on_end` hears of every outcome."""
        self._on_end = on_end
        self._lock = threading.Lock()
        self._waiting: list[Trigger] = []

    def ask(self, timeout: float, prior: Prior | None = None) -> Trigger:
        """Take in a request."""
        with self._lock:  # from its time on: nobody who asks for those before a later time misses it
            trigger = Trigger(timeout, prior, self._on_end)
            self._waiting.append(trigger)
        return trigger

    def waiting(self, arrived_at: float | None = None) -> list[Trigger]:
        """Return the requests without an outcome; those made before `arrived_at`, where it is given.

        An image that was there before somebody asked is no answer.
        """
        now = time.perf_counter()
        with self._lock:
            overdue = [trigger for trigger in self._waiting if now >= trigger.deadline]
        for trigger in overdue:
            trigger.time_out()
        with self._lock:
            self._waiting = [trigger for trigger in self._waiting if trigger.outcome is None]
            return [item for item in self._waiting if arrived_at is None or item.asked_at <= arrived_at]

    def cancel(self, why: str) -> None:
        """End all requests without a pose."""
        for trigger in self.waiting():
            trigger.end(False, why)
