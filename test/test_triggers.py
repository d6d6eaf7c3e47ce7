"""Requests to localise now: every one ends, once, by its deadline; and what each reason advises."""

from __future__ import annotations

import threading
import time

import pytest

from structpose_ros.advice import ADVICE, FRAMES, NODE
from structpose_ros.gate import RejectReason
from structpose_ros.triggers import Outcome, Trigger, Triggers


@pytest.fixture
def ended() -> list[Outcome]:
    return []


@pytest.fixture
def triggers(ended: list[Outcome]) -> Triggers:
    return Triggers(ended.append)


def test_a_pose_answers_who_waits(triggers: Triggers, ended: list[Outcome]) -> None:
    trigger = triggers.ask(60.0)
    found: list[Outcome] = []
    waiter = threading.Thread(target=lambda: found.append(trigger.wait()))
    waiter.start()
    trigger.end(True, "here")
    waiter.join(10)
    assert found == ended == [Outcome(True, "here")]
    assert triggers.waiting() == []


def test_without_a_pose_the_last_reason_is_the_answer(triggers: Triggers, ended: list[Outcome]) -> None:
    trigger = triggers.ask(0.01)
    trigger.last_reason = "low_inlier_ratio: 0.1"
    assert trigger.wait() == Outcome(False, "no pose within 0.01 s; the last reason: low_inlier_ratio: 0.1")
    assert len(ended) == 1


def test_nobody_needs_to_wait_for_the_deadline_to_hold(triggers: Triggers, ended: list[Outcome]) -> None:
    """A prior that came by topic has no caller: whoever looks next ends it."""
    triggers.ask(0.0)
    assert triggers.waiting() == []
    assert ended == [Outcome(False, "no pose within 0 s; the last reason: no image came")]


def test_an_image_from_before_the_request_is_no_answer(triggers: Triggers) -> None:
    trigger = triggers.ask(60.0)
    assert triggers.waiting(trigger.asked_at - 0.001) == []
    assert triggers.waiting(trigger.asked_at + 0.001) == [trigger]


def test_the_first_outcome_stays(triggers: Triggers, ended: list[Outcome]) -> None:
    trigger = triggers.ask(60.0)
    trigger.end(False, "first")
    trigger.end(True, "second")
    assert trigger.wait() == Outcome(False, "first")
    assert ended == [Outcome(False, "first")]


def test_cancelling_ends_all(triggers: Triggers, ended: list[Outcome]) -> None:
    several = [triggers.ask(60.0) for _ in range(3)]
    triggers.cancel("shut down")
    assert [trigger.wait() for trigger in several] == ended == [Outcome(False, "shut down")] * 3
    assert triggers.waiting() == []


def test_every_reason_has_advice() -> None:
    assert {reason.value for reason in RejectReason} == FRAMES.keys()
    assert not FRAMES.keys() & NODE.keys()
    assert all(text and "\n" not in text and not text.endswith(".") for text in ADVICE.values())


def test_a_request_is_there_from_its_time_on(triggers: Triggers, monkeypatch: pytest.MonkeyPatch) -> None:
    """An image that came after it finds it, also while it is being taken in: its prior must be checked."""
    found: list[list[Trigger]] = []
    made = Trigger.__init__
    looking = threading.Thread(target=lambda: found.append(triggers.waiting(time.perf_counter())))

    def look_meanwhile(self: Trigger, *arguments: object) -> None:
        made(self, *arguments)  # type: ignore[arg-type]
        looking.start()
        looking.join(0.2)

    monkeypatch.setattr(Trigger, "__init__", look_meanwhile)
    request = triggers.ask(60.0)
    looking.join()
    assert found == [[request]]
