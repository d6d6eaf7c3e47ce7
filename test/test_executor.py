"""Callbacks run in threads, each begun once, and the loop that finds them rests in between."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

pytest.importorskip("rclpy", reason="rclpy is not installed: no ROS 2 here")

from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from ros_helpers import next_domain, ros_context
from std_msgs.msg import Empty

from structpose_ros import executor as under_test
from structpose_ros.executor import ThreadsExecutor
from structpose_ros.qos_watch import QosWatch

DEADLINE = 10.0
THREADS = 4


class Spun:
    """A node that an executor spins in a thread; `turns` counts its spin_once, `errors` what they raised."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.turns = 0
        self.errors: list[Exception] = []
        self.ending = threading.Event()

    def spin(self, executor: ThreadsExecutor) -> None:
        """Spin until `ending`."""
        while not self.ending.is_set():
            try:
                executor.spin_once()
            except ZeroDivisionError as error:
                self.errors.append(error)
            self.turns += 1


@contextmanager
def spun(monkeypatch: pytest.MonkeyPatch) -> Iterator[Spun]:
    """A node in a domain of its own, spun by THREADS threads."""
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    with ros_context(next_domain()) as context:
        executor = ThreadsExecutor(THREADS, context=context)
        made = Spun(Node("test_executor", context=context))
        executor.add_node(made.node)
        spinner = threading.Thread(target=made.spin, args=[executor])
        spinner.start()
        try:
            yield made
        finally:
            made.ending.set()
            executor.create_task(lambda: None)
            spinner.join(DEADLINE)
            executor.shutdown()
            made.node.destroy_node()
        assert not spinner.is_alive()


def test_the_loop_rests_while_no_thread_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    """It does not hand a message's callback over again and again until a thread has begun it."""
    begun, go_on, heard = threading.Semaphore(0), threading.Event(), threading.Semaphore(0)

    def wait() -> None:
        begun.release()
        assert go_on.wait(DEADLINE)

    with spun(monkeypatch) as made:
        node, apart = made.node, MutuallyExclusiveCallbackGroup
        kept = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        publisher = node.create_publisher(Empty, "empty", kept)
        node.create_subscription(Empty, "empty", lambda _: heard.release(), kept, callback_group=apart())
        publisher.publish(Empty())
        assert heard.acquire(timeout=DEADLINE)
        for _ in range(THREADS):
            node.create_guard_condition(wait, apart()).trigger()
            assert begun.acquire(timeout=DEADLINE)
        before = made.turns
        publisher.publish(Empty())
        threading.Timer(0.2, go_on.set).start()
        assert heard.acquire(timeout=DEADLINE)
        assert made.turns - before <= 20


def test_a_callback_may_wait_for_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of different groups run at the same time."""
    begun, go_on, done = threading.Event(), threading.Event(), threading.Event()

    def wait() -> None:
        begun.set()
        if go_on.wait(DEADLINE):
            done.set()

    with spun(monkeypatch) as made:
        waiting = made.node.create_guard_condition(wait, MutuallyExclusiveCallbackGroup())
        releasing = made.node.create_guard_condition(go_on.set, MutuallyExclusiveCallbackGroup())
        waiting.trigger()
        assert begun.wait(DEADLINE)
        releasing.trigger()
        assert done.wait(DEADLINE)


def test_all_threads_are_there_from_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    with spun(monkeypatch) as made:
        before = threading.active_count()
        done = threading.Semaphore(0)
        for _ in range(3 * THREADS):
            made.node.create_guard_condition(done.release, MutuallyExclusiveCallbackGroup()).trigger()
            assert done.acquire(timeout=DEADLINE)
        assert threading.active_count() == before


def test_events_are_looked_at_now_and_then_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mismatch is heard of, though no message makes rclpy gather the events."""
    mismatched, heard = threading.Event(), threading.Semaphore(0)
    gathered = [0]
    add = under_test.EventHandler.add_to_wait_set

    def counted(handler: under_test.EventHandler, wait_set: object) -> None:
        gathered[0] += 1
        add(handler, wait_set)

    monkeypatch.setattr(under_test.EventHandler, "add_to_wait_set", counted)
    with spun(monkeypatch) as made:
        node = made.node
        watch = QosWatch(node, lambda topic, policy: mismatched.set())
        reliable = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE)
        watch.subscription(Empty, "asks_more", lambda _: None, reliable)
        publisher = node.create_publisher(Empty, "empty", 10)
        node.create_subscription(Empty, "empty", lambda _: heard.release(), 10)
        monkeypatch.setattr(under_test, "EVENTS_PERIOD", 1e6)
        monkeypatch.setattr(under_test, "GATHERING", 0.0)  # ends the look that is going on
        publisher.publish(Empty())
        assert heard.acquire(timeout=DEADLINE)
        before, turns = gathered[0], made.turns
        for _ in range(20):
            publisher.publish(Empty())
            assert heard.acquire(timeout=DEADLINE)
        assert made.turns - turns > 10
        assert gathered[0] == before
        best_effort = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
        node.create_publisher(Empty, "asks_more", best_effort)
        monkeypatch.setattr(under_test, "EVENTS_PERIOD", 0.0)
        node.create_timer(0.02, lambda: None)
        assert mismatched.wait(DEADLINE)
        assert gathered[0] > before


def test_an_error_comes_out_of_spinning_and_the_next_callback_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever spins hears of it."""
    called = threading.Event()
    with spun(monkeypatch) as made:
        failing = made.node.create_guard_condition(lambda: 1 / 0, MutuallyExclusiveCallbackGroup())
        working = made.node.create_guard_condition(called.set, MutuallyExclusiveCallbackGroup())
        failing.trigger()
        until = threading.Event()
        while not made.errors and not until.wait(0.01):
            called.clear()
            working.trigger()
            assert called.wait(DEADLINE)
        assert isinstance(made.errors[0], ZeroDivisionError)
