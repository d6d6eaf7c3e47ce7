"""Threads that work on the newest of what is offered, so that nothing waits behind it, or by the clock."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

Item = TypeVar("Item")


class NewestWorker(Generic[Item]):
    """Calls `work(item)` in a thread of its own. An item that is replaced before its turn is dropped."""

    def __init__(
        self, work: Callable[[Item], None], name: str, begin: Callable[[], None] = lambda: None
    ) -> None:
        """Start the thread, which calls `begin` first. Neither that nor `work` may raise."""
        self._work, self._begin = work, begin
        self._waiting: Item | None = None
        self._stopping = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def offer(self, item: Item) -> bool:
        """Hand over `item` for the next turn, at once. Returns whether a waiting item was dropped for it."""
        with self._changed:
            dropped = self._waiting is not None
            self._waiting = item
            self._changed.notify()
        return dropped

    def stop(self) -> None:
        """Let the current item finish, forget the waiting one, end the thread."""
        with self._changed:
            self._stopping = True
            self._waiting = None
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        self._begin()
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._stopping or self._waiting is not None)
                if self._stopping:
                    return
                item, self._waiting = self._waiting, None
            self._work(item)  # type: ignore[arg-type]  # the condition says it is not None


class Ticker:
    """Calls `work()` every so many seconds in a thread of its own: an executor's timer costs far more."""

    def __init__(self, work: Callable[[], None], period: float, failed: Callable[[Exception], None]) -> None:
        """Begin. `failed` is told what `work` raises; it must not raise itself."""
        self._work, self._period, self._failed = work, period, failed
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="ticker", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Let the current call finish and end the thread."""
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopping.wait(self._period):
            try:
                self._work()
            except Exception as error:  # the next call may be fine
                self._failed(error)
