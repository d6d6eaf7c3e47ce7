"""The node's log: one line each, and not the same over and over."""

from __future__ import annotations

import threading
import time

from rclpy.impl.rcutils_logger import RcutilsLogger

PERIOD = 5.0  # seconds between two lines about the same reason


class ThrottledLog:
    """Logs problems, each reason at most once in `PERIOD` seconds, and events. Thread-safe."""

    def __init__(self, logger: RcutilsLogger) -> None:
        self._logger = logger
        self._lock = threading.Lock()
        self._logged_at: dict[str, float] = {}

    def problem(self, reason: str, line: str, *, error: bool = False) -> None:
        """Log a warning or an error, unless there was one about this reason just now."""
        now = time.monotonic()
        with self._lock:
            due = now - self._logged_at.get(reason, -PERIOD) >= PERIOD
            if due:
                self._logged_at[reason] = now
        if due and error:
            self._logger.error(line)
        elif due:
            self._logger.warning(line)

    def event(self, line: str) -> None:
        """Log something that happens seldom."""
        self._logger.info(line)
