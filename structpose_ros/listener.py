"""A thread that takes one subscription's messages and works on them, without rclpy's executor.

An executor gathers all of a node's entities anew for each message and hands it to a thread of its pool: a
millisecond, and more where the processor's caches are another's.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any

from rclpy.callback_groups import CallbackGroup
from rclpy.context import Context
from rclpy.guard_condition import GuardCondition
from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.subscription import Subscription

Taken = tuple[Any, Mapping[str, Any]]  # a message and its info
LOOK_UP = 1_000_000_000  # nanoseconds after which a wait looks whether the context is still there
RETRY, IN_A_ROW = 0.1, 10  # seconds before the next try where waiting failed, or so many messages in a row
FASTEST, BURST = 1000.0, 100  # messages a second, and at once, that a publisher may send
RECENT = 8  # messages that a topic's period is taken from
PLAUSIBLE_WAIT = 10.0  # seconds; a message that seems to have waited for longer says that the clock was set


class ListenerGroup(CallbackGroup):
    """For a subscription that no executor is to wait for, nor for its events.

    Fast DDS has one condition for both, and of two that wait for it one may sleep on until the next message.
    """

    def can_execute(self, entity: Any) -> bool:
        """Whether an executor may wait for something: never."""
        return False

    def beginning_execution(self, entity: Any) -> bool:
        """Whether an executor may call back: never."""
        return False

    def ending_execution(self, entity: Any) -> None:
        """Nothing is to be done."""


class Listener:
    """Calls a subscription's callback with each message and its info, and those of its events, in a thread.

    While a callback works nothing is taken, and the middleware keeps as many of the newest messages as the
    subscription's depth says. This waits in the way of `rclpy.wait_for_message`, always for the same.
    """

    def __init__(
        self,
        subscription: Subscription,
        context: Context,
        name: str,
        failed: Callable[[Exception], None],
        begin: Callable[[], None] = lambda: None,
    ) -> None:
        """Start the thread, which calls `begin` first; that must not raise.

        subscription: of a `ListenerGroup`; its callback takes a message and its info.
        failed: told what a message, its callback or the wait raises; it must not raise itself.
        """
        self._subscription, self._context = subscription, context
        self._failed, self._begin = failed, begin
        self._stopping, self._taking = threading.Event(), threading.Lock()
        self._failures = 0  # in a row
        self._interrupt = GuardCondition(None, None, context)
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Let the current callback finish and end the thread. The subscription is its owner's to destroy."""
        self._stopping.set()
        self._interrupt.trigger()
        self._thread.join()
        self._interrupt.destroy()

    def newer(self, seconds: float) -> Taken | None:
        """Wait for so long for the next message, and take it; None: none came. For the callback alone."""
        subscription = self._subscription
        wait_set = rclpy_implementation.WaitSet(1, 1, 0, 0, 0, 0, self._context.handle)
        index = wait_set.add_subscription(subscription.handle)
        wait_set.add_guard_condition(self._interrupt.handle)
        wait_set.wait(round(1e9 * seconds))
        if not wait_set.is_ready("subscription", index):
            return None
        return self._take_one()

    def take_all(self) -> None:
        """Take what has arrived by now, in the caller's thread: this one's may not have woken up yet."""
        while self._attempt(self._take):
            pass

    def _run(self) -> None:
        self._begin()
        while self._goes_on():
            try:
                self._listen()
            except Exception as error:  # of waiting itself
                self._failed(error)
                self._stopping.wait(RETRY)

    def _goes_on(self) -> bool:
        return not self._stopping.is_set() and bool(self._context.ok())

    def _listen(self) -> None:
        subscription, events = self._subscription, self._subscription.event_handlers
        with ExitStack() as in_use:
            for handle in (self._context.handle, subscription.handle, self._interrupt.handle, *events):
                in_use.enter_context(handle)
            wait_set = rclpy_implementation.WaitSet(1, 1, 0, 0, 0, len(events), self._context.handle)
            while self._goes_on():
                wait_set.clear_entities()
                index = wait_set.add_subscription(subscription.handle)
                wait_set.add_guard_condition(self._interrupt.handle)
                for event in events:
                    event.add_to_wait_set(wait_set)
                wait_set.wait(LOOK_UP)
                for event in events:
                    if event.is_ready(wait_set):
                        self._attempt(self._handle, event)
                if wait_set.is_ready("subscription", index):
                    self._attempt(self._take)

    def _attempt(self, action: Callable[..., bool], *arguments: Any) -> bool:
        """Do something; return whether it was done and is true."""
        try:
            done = action(*arguments)
        except Exception as error:  # the next message may be fine
            self._failed(error)
            self._failures += 1
            if self._failures >= IN_A_ROW:  # nothing may have been taken, so that waiting returns at once
                self._stopping.wait(RETRY)
            return False
        self._failures = 0
        return done

    def _handle(self, event: Any) -> bool:
        event.callback(event.take_data())
        return True

    def _take(self) -> bool:
        with self._taking:
            taken = self._take_one()
            if taken is not None:
                self._subscription.callback(*taken)
        return taken is not None

    def _take_one(self) -> Taken | None:
        subscription = self._subscription
        taken: Taken | None = subscription.handle.take_message(subscription.msg_type, subscription.raw)
        return taken


def arrival_time(info: Mapping[str, Any]) -> float:
    """Return when a message arrived, in seconds of `time.perf_counter`, from its info.

    Where the middleware doesn't say, as CycloneDDS, it is when it was sent.
    """
    came_ns = info["received_timestamp"] or info["source_timestamp"]
    waited = 1e-9 * (time.time_ns() - came_ns)
    return time.perf_counter() - (waited if 0.0 < waited < PLAUSIBLE_WAIT else 0.0)


class MissedMessages:
    """How many messages of a topic never came to a subscription: replaced by newer ones, or lost on the way.

    Known where the middleware numbers messages (CycloneDDS doesn't) and rclpy tells (Humble's doesn't), and
    while one publisher is there.
    """

    def __init__(self) -> None:
        # Number of the last messages, and when each was sent, in nanoseconds.
        self._recent: deque[tuple[int, int]] = deque(maxlen=RECENT)

    def before(self, info: Mapping[str, Any], publishers: Callable[[], int]) -> int:
        """Return how many are missing between the message before and the one of this info.

        publishers: counts them; asked only where something is missing.
        """
        number = info.get("publication_sequence_number")
        if number is None:
            self._recent.clear()
            return 0
        sent, last = info["source_timestamp"], self._recent[-1] if self._recent else None
        further = 0 if last is None else number - last[0]  # negative: a publisher that began anew
        possible = last is not None and 0 < further <= FASTEST * 1e-9 * (sent - last[1]) + BURST
        if not possible:  # the first one, or another publisher's number
            self._recent.clear()
        self._recent.append((number, sent))
        return further - 1 if possible and further > 1 and publishers() == 1 else 0

    @property
    def period(self) -> float | None:
        """Seconds from one message to the next when they were sent, on average of the last; None: unknown."""
        if len(self._recent) < 2:
            return None
        (first, begun), (last, ended) = self._recent[0], self._recent[-1]
        return 1e-9 * (ended - begun) / (last - first) if ended > begun else None
