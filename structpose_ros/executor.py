"""rclpy's MultiThreadedExecutor without its busy loop, which made images late and lost some, and cheaper."""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from rclpy.executors import MultiThreadedExecutor

try:
    from rclpy.event_handler import EventHandler
except ImportError:  # Humble
    from rclpy.qos_event import QoSEventHandler as EventHandler

LOOK_AGAIN = 5e-5  # seconds
EVENTS_PERIOD = 0.5  # seconds between two looks at the middleware's events
GATHERING = 2e-3  # seconds that rclpy takes at most to gather what to wait for


class ThreadsExecutor(MultiThreadedExecutor):
    """Hands each callback to a thread once, and looks for the next when that has begun.

    rclpy's own looks at once, finds the callback that nobody has begun yet, and hands it over again, a
    thousand times while the threads wait for the interpreter that this loop keeps busy: a camera's image then
    comes to its callback up to a second late (ros2/rclpy#1452). With Fast DDS nothing slows the loop down, as
    its wait returns at once while a message is unread. Where rclpy is mended (#1547), this changes nothing.

    The events of publishers and subscriptions, two or three of each, are looked at twice a second: rclpy
    gathers anew all that it waits for each time, and most of that are events that never come.
    The middleware keeps them until then. Who sleeps is not woken by one: a node has timers.
    """

    def __init__(self, num_threads: int, **options: Any) -> None:
        """Run callbacks in `num_threads` threads."""
        super().__init__(num_threads, **options)
        self._executor = _Pool(num_threads)  # rclpy has no public way
        self._events_at = 0.0

    def can_execute(self, entity: Any) -> bool:
        """Whether rclpy is to wait for something: free to run, and not an event before its time."""
        if isinstance(entity, EventHandler):
            now = time.monotonic()
            if now - self._events_at > EVENTS_PERIOD:
                self._events_at = now
            if now - self._events_at > GATHERING:
                return False
        return bool(super().can_execute(entity))

    def shutdown(self, *arguments: Any, **named: Any) -> bool:
        """Let the threads finish first: rclpy forgets what is queued there, and it would find no node."""
        self._executor.shutdown()
        return bool(super().shutdown(*arguments, **named))


class _Pool(ThreadPoolExecutor):
    """Returns from `submit` when a thread has begun the task.

    All threads are there from the start: one that is first needed after hours would look like a leak.
    """

    def __init__(self, threads: int) -> None:
        super().__init__(threads)
        together = threading.Barrier(threads)
        for started in [super(_Pool, self).submit(together.wait) for _ in range(threads)]:
            started.result()

    def submit(self, task: Any, /, *arguments: Any, **named: Any) -> Future[Any]:
        future = super().submit(task, *arguments, **named)
        while not (task.executing() or future.done()):
            time.sleep(LOOK_AGAIN)
        return future
