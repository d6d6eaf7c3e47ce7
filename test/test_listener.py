"""The thread that takes a subscription's messages: the newest is next, and one at a time."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

pytest.importorskip("rclpy", reason="rclpy is not installed: no ROS 2 here")

from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.subscription import Subscription
from ros_helpers import next_domain, ros_context
from std_msgs.msg import String

from structpose_ros import listener as under_test
from structpose_ros.listener import IN_A_ROW, Listener, ListenerGroup, MissedMessages, arrival_time
from structpose_ros.qos_watch import QosWatch

DEADLINE = 10.0


class Bench:
    """A publisher, and a subscription whose callback lasts until it is let go on.

    It waits for a newer message then, for `patience` seconds.
    """

    def __init__(self, node: Node) -> None:
        self.node = node
        self.patience = 0.0
        self.listener: Listener | None = None
        self.events: list[str] = []
        self.infos: list[Mapping[str, Any]] = []
        self.begun, self.go_on, self.done = (threading.Semaphore(0) for _ in range(3))
        self.failed = threading.Event()
        newest = QoSProfile(depth=1)
        group = ListenerGroup()
        self.subscription: Subscription = node.create_subscription(
            String, "words", self.hear, newest, callback_group=group
        )
        self.publisher = node.create_publisher(String, "words", 10)
        end = time.monotonic() + DEADLINE
        while not self.publisher.get_subscription_count():
            assert time.monotonic() < end

    def hear(self, message: String, info: Mapping[str, Any]) -> None:
        self.begun.release()
        assert self.go_on.acquire(timeout=DEADLINE)
        if self.patience:
            assert self.listener is not None
            message, info = self.listener.newer(self.patience) or (message, info)
        self.events.append(f"{threading.current_thread().name} heard {message.data}")
        self.infos.append(info)
        self.done.release()
        if message.data == "bad":
            raise ValueError("of a message")

    def listen(self) -> Listener:
        self.listener = Listener(self.subscription, self.node.context, "ear", self.fail, self.begin)
        return self.listener

    def begin(self) -> None:
        self.events.append("begins")

    def fail(self, error: Exception) -> None:
        self.events.append(f"{type(error).__name__}: {error}")
        self.failed.set()

    def say(self, word: str) -> None:
        self.publisher.publish(String(data=word))

    def wait_for_work(self) -> None:
        assert self.begun.acquire(timeout=DEADLINE)

    def say_and_let_go_on(self, word: str) -> None:
        self.say(word)
        self.wait_for_work()
        self.go_on.release()

    def wait_until_done(self) -> None:
        assert self.done.acquire(timeout=DEADLINE), self.events


@pytest.fixture
def bench() -> Iterator[Bench]:
    with ros_context(next_domain()) as context:
        node = Node("bench", context=context)
        yield Bench(node)
        node.destroy_node()


def test_messages_come_to_the_callback_in_the_listeners_thread(bench: Bench) -> None:
    listener = bench.listen()
    for word in ("one", "two"):
        bench.say_and_let_go_on(word)
    listener.stop()
    assert bench.events == ["begins", "ear heard one", "ear heard two"]
    assert all(abs(1e-9 * info["received_timestamp"] - time.time()) < DEADLINE for info in bench.infos)


def test_the_newest_is_next_and_what_it_replaced_is_counted(bench: Bench) -> None:
    listener = bench.listen()
    bench.say("first")
    bench.wait_for_work()
    for word in ("second", "third", "fourth"):
        bench.say(word)
    bench.go_on.release(2)
    bench.wait_for_work()
    listener.stop()
    assert bench.events == ["begins", "ear heard first", "ear heard fourth"]
    missed = MissedMessages()
    assert [missed.before(info, lambda: 1) for info in bench.infos] == [0, 2]


def test_a_callback_may_wait_for_a_newer_message(bench: Bench) -> None:
    """It has the newest as soon as there is one, and its own where none comes in time."""
    listener = bench.listen()
    bench.patience = 2 * DEADLINE
    bench.say_and_let_go_on("old")
    bench.say("newer")
    bench.wait_until_done()
    bench.patience = 0.01
    bench.say_and_let_go_on("next")
    bench.wait_until_done()
    listener.stop()
    assert bench.events == ["begins", "ear heard newer", "ear heard next"]


def test_stop_ends_the_wait_for_a_newer_message(bench: Bench) -> None:
    """The callback goes on with its own."""
    listener = bench.listen()
    bench.patience = 100 * DEADLINE
    bench.say_and_let_go_on("only")
    stopping = threading.Thread(target=listener.stop)
    stopping.start()
    stopping.join(DEADLINE)
    assert not stopping.is_alive()
    assert bench.events == ["begins", "ear heard only"]


def test_stop_waits_for_the_callback_and_leaves_what_waits(bench: Bench) -> None:
    listener = bench.listen()
    bench.say("current")
    bench.wait_for_work()
    bench.say("waiting")
    stopping = threading.Thread(target=listener.stop)
    stopping.start()
    assert listener._stopping.wait(DEADLINE)
    assert stopping.is_alive(), "the callback is not done"
    bench.go_on.release()
    stopping.join(DEADLINE)
    assert not stopping.is_alive()
    assert bench.events == ["begins", "ear heard current"]


def test_a_listener_without_messages_stops_at_once(bench: Bench) -> None:
    for _ in range(20):
        started = time.monotonic()
        listener = bench.listen()
        listener.stop()
        if time.monotonic() - started < 0.5:  # a wait that nothing ends takes a second
            break
    else:
        pytest.fail("expected a listener to stop when it is told, got one that waits for its next look-up")
    assert not any(thread.name == "ear" for thread in threading.enumerate())


def test_what_a_message_raises_is_told_and_the_next_one_comes(bench: Bench) -> None:
    listener = bench.listen()
    bench.go_on.release(2)
    bench.say("bad")
    assert bench.failed.wait(DEADLINE)
    bench.say("good")
    bench.wait_for_work()
    bench.wait_for_work()
    listener.stop()
    assert bench.events == ["begins", "ear heard bad", "ValueError: of a message", "ear heard good"]


def test_no_executor_takes_its_messages_away(bench: Bench) -> None:
    executor = SingleThreadedExecutor(context=bench.node.context)
    executor.add_node(bench.node)
    bench.say("kept")
    for _ in range(5):
        executor.spin_once(timeout_sec=0.05)
    executor.shutdown()
    assert bench.events == []
    bench.go_on.release()
    listener = bench.listen()
    bench.wait_for_work()
    listener.stop()
    assert bench.events == ["begins", "ear heard kept"]


def test_it_hears_each_message_while_an_executor_spins_its_node(bench: Bench) -> None:
    """None sleeps on until the next one wakes it, as of two that wait for one subscription."""
    executor = SingleThreadedExecutor(context=bench.node.context)
    executor.add_node(bench.node)
    bench.node.create_subscription(String, "other_words", lambda _: None, 10)
    others = bench.node.create_publisher(String, "other_words", 10)
    ending = threading.Event()

    def spin() -> None:
        while not ending.is_set():
            executor.spin_once(timeout_sec=0.01)

    spinning = threading.Thread(target=spin)
    spinning.start()
    listener = bench.listen()
    slowest = 0.0
    for number in range(300):
        bench.go_on.release()
        said = time.monotonic()
        bench.say(str(number))
        others.publish(String())
        bench.wait_for_work()
        slowest = max(slowest, time.monotonic() - said)
    listener.stop()
    ending.set()
    spinning.join()
    executor.shutdown()
    assert bench.events[1:] == [f"ear heard {number}" for number in range(300)]
    assert slowest < 0.9, "it slept until it looked up"


def test_it_hears_of_its_subscriptions_events_too() -> None:
    """Whoever publishes what does not fit is told of, without an executor."""
    with ros_context(next_domain()) as context:
        node = Node("bench", context=context)
        heard: list[tuple[str, str]] = []
        told = threading.Event()

        def mismatch(topic: str, policy: str) -> None:
            heard.append((topic, policy))
            told.set()

        reliable = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE)
        best_effort = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
        subscription = QosWatch(node, mismatch).subscription(
            String, "words", lambda *_: None, reliable, ListenerGroup()
        )
        errors: list[Exception] = []
        listener = Listener(subscription, context, "ear", errors.append)
        node.create_publisher(String, "words", best_effort)
        assert told.wait(DEADLINE)
        listener.stop()
        node.destroy_node()
        assert heard == [("/words", "RELIABILITY")]
        assert errors == []


def test_what_has_arrived_can_be_taken_at_once(bench: Bench) -> None:
    """By a thread that can't wait until the listener's own has woken up."""
    newest = QoSProfile(depth=10)
    heard: list[str] = []
    subscription = bench.node.create_subscription(
        String, "words", lambda message, _: heard.append(message.data), newest, callback_group=ListenerGroup()
    )
    end = time.monotonic() + DEADLINE
    while bench.publisher.get_subscription_count() < 2:
        assert time.monotonic() < end
    listener = Listener(subscription, bench.node.context, "ear", bench.fail)
    listener.stop()  # so that it can't be the faster one
    for word in ("one", "two", "three"):
        bench.say(word)
    listener.take_all()
    assert heard == ["one", "two", "three"]


def test_it_ends_with_its_context() -> None:
    with ros_context(next_domain()) as context:
        node = Node("bench", context=context)
        bench = Bench(node)
        listener = bench.listen()
        context.try_shutdown()
        listener._thread.join(DEADLINE)
        assert not listener._thread.is_alive()
        assert not bench.failed.is_set()
        listener.stop()
        node.destroy_node()


def sent(*numbers: int | None, every: float = 0.033) -> list[dict[str, Any]]:
    """Return the infos of messages of these numbers, so many seconds from one to the next."""
    return [
        {"publication_sequence_number": number, "source_timestamp": round(1e9 * every * index)}
        for index, number in enumerate(numbers)
    ]


def test_missed_messages_are_counted_by_their_numbers() -> None:
    missed = MissedMessages()
    infos = sent(7, 8, 11, 1, 2, 5)
    assert [missed.before(info, lambda: 1) for info in infos] == [0, 0, 2, 0, 0, 2], "1: began anew"


def test_the_period_of_messages_follows_from_when_they_were_sent() -> None:
    """Those that never came counted. It is unknown at first, of another publisher, and without numbers."""
    missed = MissedMessages()
    periods = []
    for info in sent(7, 8, 11, 2, 3, 10_000, None, 4, 5, every=0.03):
        missed.before(info, lambda: 1)
        periods.append(missed.period)
    expected = [None, 0.03, 0.015, None, 0.03, None, None, None, 0.03]
    assert periods == [value if value is None else pytest.approx(value) for value in expected]
    for info in sent(1, 2, every=0.0):
        missed.before(info, lambda: 1)
    assert missed.period is None, "no time went by"


def test_the_period_follows_a_new_rate_and_not_each_late_message() -> None:
    missed = MissedMessages()

    def come(number: int, at: float) -> float | None:
        facts = {"publication_sequence_number": number, "source_timestamp": round(1e9 * at)}
        missed.before(facts, lambda: 1)
        return missed.period

    for number in range(20):
        come(number, 0.1 * number)
    assert come(20, 2.05) == pytest.approx(0.75 / 7), "half a period late"
    for number in range(21, 28):
        period = come(number, 2.05 + 0.01 * (number - 20))
    assert period == pytest.approx(0.01)


def test_nothing_is_said_of_missed_messages_of_several_publishers_or_without_numbers() -> None:
    missed = MissedMessages()
    assert [missed.before(info, lambda: 2) for info in sent(7, 20)] == [0, 0]
    assert [missed.before(info, lambda: 1) for info in sent(None, 25, None)] == [0, 0, 0]
    assert MissedMessages().before({}, lambda: 1) == 0


def test_a_number_that_no_publisher_can_have_reached_is_anothers() -> None:
    """One of two publishers has gone: the numbers go on with those of the other."""
    missed = MissedMessages()
    assert [missed.before(info, lambda: 1) for info in sent(5, 10_000, 10_003, 2**62)] == [0, 0, 2, 0]
    slow = MissedMessages()
    assert [slow.before(info, lambda: 1) for info in sent(5, 10_000, every=10.0)] == [0, 9994]
    burst = MissedMessages()
    assert [burst.before(info, lambda: 1) for info in sent(1, 50, every=0.0)] == [0, 48]


def test_publishers_are_counted_only_where_something_is_missing() -> None:
    missed = MissedMessages()
    assert [missed.before(info, lambda: 1 // 0) for info in sent(1, 2, 3, 3)] == [0, 0, 0, 0]


@pytest.mark.parametrize(("waited", "believed"), [(0.25, 0.25), (-3.0, 0.0), (3600.0, 0.0)])
def test_the_arrival_of_a_message_is_that_of_the_middleware(waited: float, believed: float) -> None:
    """Unless the clock was set meanwhile; where it doesn't say, it is when the message was sent."""
    then = time.time_ns() - round(1e9 * waited)
    for info in (
        {"received_timestamp": then, "source_timestamp": 1},
        {"received_timestamp": 0, "source_timestamp": then},
    ):
        before = time.perf_counter()
        arrived = arrival_time(info)
        assert -0.01 < arrived + believed - before < 1.0


def test_a_listener_that_fails_again_and_again_takes_breath(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A message that can't even be taken makes each wait return at once."""
    monkeypatch.setattr(under_test, "RETRY", 3600.0)
    failures: list[Exception] = []
    enough = threading.Event()

    def failed(error: Exception) -> None:
        failures.append(error)
        if len(failures) == IN_A_ROW:
            enough.set()

    listener = Listener(bench.subscription, bench.node.context, "ear", failed)
    monkeypatch.setattr(listener, "_take", lambda: 1 // 0)
    bench.say("one")
    assert enough.wait(DEADLINE)
    listener.stop()
    assert len(failures) == IN_A_ROW
