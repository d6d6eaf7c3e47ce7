"""A thread that works by the clock."""

from __future__ import annotations

import threading
from collections.abc import Callable


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
