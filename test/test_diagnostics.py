"""The node's health by the clock, without DDS: when a camera is silent, what is worth saying at once."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

pytest.importorskip("rclpy", reason="rclpy is not installed: no ROS 2 here")

from structpose_ros import diagnostics as under_test
from structpose_ros.diagnostics import DiagnosticsPublisher, Health, Level


class Clock:
    """A clock that stands still until it is set on."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(time, "monotonic", made)
    return made


@pytest.fixture
def health() -> Health:
    """Of an active node that asks what may be wrong while no image comes."""
    made = Health("image", lambda: "is the camera on?")
    made.enter("active")
    return made


@pytest.mark.parametrize(("period", "silent_after"), [(1 / 30, 0.8), (0.2, 0.8), (1.0, 3.0), (5.0, 15.0)])
def test_a_camera_is_silent_by_its_own_measure(
    health: Health, clock: Clock, period: float, silent_after: float
) -> None:
    """0.8 seconds or three periods, whichever is longer; a gap that ended changes nothing."""
    for number in range(20):
        clock.now += 60.0 if number == 14 else period
        health.received()
        assert health.condition().reason == "first_image"
    clock.now += silent_after - 0.01
    assert health.condition().reason == "first_image"
    clock.now += 0.02
    condition = health.condition()
    assert (condition.level, condition.reason) == (Level.WARN, "no_image")
    assert condition.message.endswith(f"got none for {silent_after + 0.01:.1f} s: is the camera on?")


def test_a_long_frame_is_no_silence_of_the_camera(health: Health, clock: Clock) -> None:
    """No image is taken meanwhile; the silence counts from its end."""
    health.received()
    with health.working():
        clock.now += 60.0
        assert health.condition().reason == "first_image"
    clock.now += 2.9
    assert health.condition().reason == "first_image"
    clock.now += 0.2
    assert health.condition().reason == "no_image"


def test_a_frame_that_fails_is_over_too(health: Health, clock: Clock) -> None:
    health.received()
    with pytest.raises(ZeroDivisionError), health.working():
        raise ZeroDivisionError
    clock.now += 3.1
    assert health.condition().reason == "no_image"


def test_images_that_were_replaced_came_and_those_that_were_lost_did_not(
    health: Health, clock: Clock
) -> None:
    for _ in range(10):
        clock.now += 0.1
        health.received(dropped=4, lost=3)
    _, values = health.report()
    assert (values["frames_received"], values["frames_dropped"], values["frames_lost"]) == ("50", "40", "30")
    assert float(values["image_rate_hz"]) == pytest.approx(49 / 0.9, abs=0.1)


def test_the_period_of_a_camera_is_not_forgotten_over_a_long_frame(health: Health, clock: Clock) -> None:
    """What was dropped meanwhile came in time, as far as is known."""
    for _ in range(3):
        clock.now += 1.0
        health.received()
    clock.now += 20.0
    health.received(dropped=19)
    clock.now += 2.9
    assert health.condition().reason == "first_image"
    clock.now += 0.2
    assert health.condition().reason == "no_image"


def test_a_gap_of_any_length_is_counted_in_little_time(health: Health) -> None:
    """Numbers come from whoever publishes."""
    health.received(dropped=2**62)
    _, values = health.report()
    assert values["frames_received"] == str(2**62 + 1)


def test_one_image_is_not_a_camera_yet(health: Health, clock: Clock) -> None:
    """Its period isn't known: a second is taken for it."""
    health.received()
    clock.now += 2.9
    assert health.condition().reason == "first_image"
    clock.now += 0.2
    assert health.condition().reason == "no_image"


def test_what_is_worth_saying_at_once(health: Health, clock: Clock) -> None:
    """Level, reason and state; to ask for them asks nobody what may be wrong."""
    health = Health("image", lambda: pytest.fail("asked"))
    health.enter("active")
    keys = [health.key()]
    health.received()
    keys.append(health.key())
    health.note("state", "LOCALIZED")
    keys.append(health.key())
    health.rejected("bad_image", "expected an image, got none", Level.ERROR, {})
    keys.append(health.key())
    assert keys == [
        (Level.WARN, "no_image", ""),
        (Level.OK, "first_image", ""),
        (Level.OK, "first_image", "LOCALIZED"),
        (Level.ERROR, "bad_image", "LOCALIZED"),
    ]
    health.note("confidence", "0.9")
    clock.now += 0.5
    assert health.key() == keys[-1]


class Bench:
    """A publisher of diagnostics without ROS behind it."""

    def __init__(self, health: Health, monkeypatch: pytest.MonkeyPatch) -> None:
        self.shown: list[dict[str, str]] = []
        monkeypatch.setattr(
            under_test, "diagnostic_array", lambda name, stamp, condition, values: dict(values)
        )
        self.publisher = DiagnosticsPublisher(self, health)  # type: ignore[arg-type]

    def create_publisher(self, *_: object) -> Bench:
        return self

    def get_clock(self) -> Bench:
        return self

    def now(self) -> Bench:
        return self

    def to_msg(self) -> None:
        return None

    def get_fully_qualified_name(self) -> str:
        return "/bench"

    def publish(self, values: dict[str, str]) -> None:
        self.shown.append(values)


def test_an_event_is_shown_at_once_and_a_storm_of_them_four_times_a_second(
    health: Health, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(health, monkeypatch)
    bench.publisher.publish_news()
    assert bench.shown == [], "nothing happened"
    health.event("last_trigger", "succeeded")
    bench.publisher.publish_news()
    assert [values["last_trigger"] for values in bench.shown] == ["succeeded"]
    for number in range(400):  # two seconds
        clock.now += 0.005
        health.event("last_trigger", f"failed {number}")
        bench.publisher.publish_news()
    assert len(bench.shown) == 1 + 7
    clock.now += 0.3
    bench.publisher.publish_news()
    assert bench.shown[-1]["last_trigger"] == "failed 399"
    assert len(bench.shown) == 1 + 8


@pytest.mark.parametrize(
    ("count", "miss"),
    [
        ("frames_skipped", Health.skipped),
        ("frames_dropped", Health.replaced),
        ("frames_dropped", lambda health: health.received(dropped=1)),
        ("frames_lost", lambda health: health.received(lost=1)),
    ],
)
def test_the_first_image_that_nothing_comes_of_is_news_and_the_others_are_not(
    health: Health, clock: Clock, monkeypatch: pytest.MonkeyPatch, count: str, miss: Callable[[Health], None]
) -> None:
    bench = Bench(health, monkeypatch)
    health.received()
    bench.publisher.publish_news()
    assert bench.shown == [], "all is as it should be"
    for _ in range(300):
        clock.now += 0.033
        miss(health)
        bench.publisher.publish_news()
    assert [values[count] for values in bench.shown] == ["1"]
    clock.now += 10.0
    miss(health)
    bench.publisher.publish_news()
    assert bench.shown[-1][count] == "301"
