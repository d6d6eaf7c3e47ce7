"""The node's health: counts, rates, latencies and the one line that says how it is; and its message."""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from itertools import pairwise
from statistics import median

import numpy as np
from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.node import Node
from std_msgs.msg import Header

from structpose_ros.advice import NODE

WINDOW = 300  # frames that the latency percentiles look back on
RATE_EVENTS = 1000  # of which the times are kept
RATE_WINDOW = 5.0  # seconds that the rates look back on
SILENCE, SILENT_PERIODS = 0.8, 3.0  # seconds, and periods of the camera, without an image: worth a warning
PERIOD_IMAGES = 10  # the last ones, whose median distance in time is the camera's period
UNKNOWN_PERIOD = 1.0  # seconds, taken for it before there are two
NEWS_PERIOD = 0.25  # seconds; no more often are events shown that may come hundreds of times a second
LOADING = "loading the model"
COUNTS = ("received", "processed", "accepted", "rejected", "dropped", "skipped", "lost")


class Level(Enum):
    """How bad it is."""

    OK = DiagnosticStatus.OK
    WARN = DiagnosticStatus.WARN
    ERROR = DiagnosticStatus.ERROR


@dataclass(frozen=True)
class Condition:
    """How the node is: `reason` is a name that stays the same while it lasts, `message` a line for people."""

    level: Level
    reason: str
    message: str

    @staticmethod
    def of(level: Level, reason: str, detail: str) -> Condition:
        """Return a condition whose line begins with its reason."""
        return Condition(level, reason, f"{reason}: {detail}")


class _Rate:
    """How often something happens."""

    def __init__(self) -> None:
        self._times: deque[float] = deque(maxlen=RATE_EVENTS)

    def happened(self, times: int = 1) -> None:
        """Note that it happened, or so many times since the last time, which is taken for evenly."""
        now = time.monotonic()
        step = (now - (self._times[-1] if self._times else now)) / times
        self._times.extend(now - step * before for before in reversed(range(min(times, RATE_EVENTS))))

    def per_second(self) -> float:
        since = time.monotonic() - RATE_WINDOW
        recent = [at for at in self._times if at > since]
        return (len(recent) - 1) / (recent[-1] - recent[0]) if recent and recent[-1] > recent[0] else 0.0

    def period(self) -> float:
        """Seconds from one to the next, the median of the last ones."""
        recent = list(self._times)[-PERIOD_IMAGES:]
        return median(after - before for before, after in pairwise(recent)) if recent[1:] else UNKNOWN_PERIOD


class Health:
    """What happened so far. Thread-safe: callbacks in several threads write, diagnostics reads.

    image_hint: asked for what may be wrong while no image comes.
    """

    def __init__(self, image_topic: str, image_hint: Callable[[], str] = lambda: "") -> None:
        self._lock = threading.Lock()
        self._image_topic = image_topic
        self._image_hint = image_hint
        self._values = dict.fromkeys(("model_path", "model_sha256", "model_file", "provider"), "")
        self._values["camera_info"] = "none yet"
        self._lifecycle = "unconfigured"
        self._since = time.monotonic()
        self._fault: Condition | None = None
        self._loading = LOADING
        self._standing: Condition | None = None
        self._idle: Condition | None = None
        self._last_frame: Condition | None = None
        self._last_reject: tuple[str, str] = ("", "")
        self._counts = dict.fromkeys(COUNTS, 0)
        self._rates = {"image": _Rate(), "camera_info": _Rate(), "pose": _Rate()}
        self._latencies: dict[str, deque[float]] = {}
        self._image_at: float | None = None
        self._working = False
        self._news = False
        self._missed_at = dict.fromkeys(("dropped", "skipped", "lost"), -math.inf)
        self._pose_at: float | None = None

    def enter(self, lifecycle: str, fault: Condition | None = None) -> None:
        """Note the lifecycle state, and what keeps the node from the next one."""
        with self._lock:
            self._lifecycle = lifecycle
            self._loading = LOADING
            self._since = time.monotonic()
            self._fault = fault
            self._last_frame = None
            self._image_at = None

    def loading(self, line: str) -> None:
        """Note what is done with the model while it is loaded."""
        with self._lock:
            self._loading = line

    def stand(self, condition: Condition | None) -> None:
        """Note what there is to be said while all is well otherwise; None: nothing."""
        with self._lock:
            self._standing = condition

    def note(self, key: str, value: str) -> None:
        """Note a value for diagnostics."""
        with self._lock:
            self._values[key] = value

    def event(self, key: str, value: str) -> None:
        """Note a value that people wait for: diagnostics show it soon if it is another."""
        with self._lock:
            self._news |= self._values.get(key) != value
            self._values[key] = value

    def idle(self, condition: Condition | None) -> None:
        """Note why images are not worked on although the node is active; None: they are."""
        with self._lock:
            self._idle = condition

    def received(self, dropped: int = 0, lost: int = 0) -> None:
        """Count an image that arrived, and those before it that a newer one replaced or that were lost."""
        with self._lock:
            self._counts["received"] += 1 + dropped
            self._missed("dropped", dropped)
            self._missed("lost", lost)
            self._rates["image"].happened(1 + dropped)
            self._image_at = time.monotonic()

    def replaced(self) -> None:
        """Count an image that had arrived, and that a newer one replaced after all."""
        with self._lock:
            self._missed("dropped", 1)

    @contextmanager
    def working(self) -> Iterator[None]:
        """While a frame is worked on no image is taken, which is no silence of the camera's."""
        with self._lock:
            self._working = True
        try:
            yield
        finally:
            with self._lock:
                self._working, self._image_at = False, time.monotonic()

    def camera_info_received(self) -> None:
        """Count a CameraInfo that arrived."""
        with self._lock:
            self._rates["camera_info"].happened()

    def skipped(self) -> None:
        """Count an image that nobody asked to be localised: `run.max_rate`, `on_trigger`, disabled."""
        with self._lock:
            self._missed("skipped", 1)

    def camera_info(self, matched: bool) -> None:
        """Note whether the CameraInfo had the image's stamp."""
        self.note("camera_info", "matched by stamp" if matched else "latest: none has the image's stamp")

    def accepted(
        self, stage_ms: Mapping[str, float], confidence: float, complaints: Sequence[Condition] = ()
    ) -> None:
        """Note a frame whose pose was published; the worst of `complaints` is what is said of it."""
        fine = Condition(Level.OK, "localized", "localized")
        with self._lock:
            worst = max(complaints, key=lambda item: int.from_bytes(item.level.value, "big"), default=fine)
            self._processed("accepted", worst)
            self._pose_at = time.monotonic()
            self._rates["pose"].happened()
            self._values["confidence"] = f"{confidence:.3f}"
            self._time(stage_ms)

    def rejected(self, reason: str, detail: str, level: Level, stage_ms: Mapping[str, float]) -> None:
        """Note a frame that gave no pose."""
        with self._lock:
            self._processed("rejected", Condition.of(level, reason, detail))
            self._last_reject = (reason, detail)
            self._time(stage_ms)

    def condition(self) -> Condition:
        """Return how the node is now."""
        with self._lock:
            return self._condition(hint=True)

    def key(self) -> tuple[Level, str, str]:
        """Return level, reason and state, which diagnostics show at once when one changes; costs little."""
        with self._lock:
            condition = self._condition(hint=False)
            return condition.level, condition.reason, self._values.get("state", "")

    @property
    def has_news(self) -> bool:
        """Whether something has happened since the last report that is to be shown soon."""
        return self._news

    def report(self) -> tuple[Condition, dict[str, str]]:
        """Return how the node is now, and everything known, as diagnostics' keys and values."""
        with self._lock:
            self._news = False
            values = {"lifecycle": self._lifecycle}
            values |= {"last_reject_reason": self._last_reject[0], "last_reject_detail": self._last_reject[1]}
            values |= {f"frames_{name}": str(count) for name, count in self._counts.items()}
            values |= {f"{name}_rate_hz": f"{rate.per_second():.1f}" for name, rate in self._rates.items()}
            for stage, window in self._latencies.items():
                p50, p95, p99 = np.percentile(list(window), (50, 95, 99))
                values[f"latency_{stage}_ms"] = f"p50={p50:.2f} p95={p95:.2f} p99={p99:.2f}"
            age = "" if self._pose_at is None else f"{time.monotonic() - self._pose_at:.2f}"
            values["last_pose_age_s"] = age
            return self._condition(hint=True), values | self._values

    def _missed(self, count: str, images: int) -> None:
        """Count images that nothing came of; the first after a while is shown soon, not each of many."""
        if images:
            now = time.monotonic()
            self._counts[count] += images
            self._news |= now - self._missed_at[count] > RATE_WINDOW
            self._missed_at[count] = now

    def _processed(self, verdict: str, condition: Condition) -> None:
        self._counts["processed"] += 1
        self._counts[verdict] += 1
        self._last_frame = condition

    def _time(self, stage_ms: Mapping[str, float]) -> None:
        for stage, milliseconds in stage_ms.items():
            self._latencies.setdefault(stage, deque(maxlen=WINDOW)).append(milliseconds)

    def _condition(self, *, hint: bool) -> Condition:
        if self._fault is not None:
            return self._fault
        if self._lifecycle == "configuring":
            seconds = time.monotonic() - self._since
            return Condition.of(Level.WARN, "configuring", f"{seconds:.0f} s of {self._loading}")
        if self._lifecycle != "active":
            return Condition.of(Level.WARN, self._lifecycle, f"not localizing; {NODE[self._lifecycle]}")
        if self._idle is not None and self._idle.level is not Level.OK:
            return self._idle
        last = self._last_frame or Condition(Level.OK, "first_image", "working on the first image")
        # Between two requests the last frame counts for nothing, but for an error.
        resting = None if last.level is Level.ERROR else self._idle
        now = self._silence(hint) or resting or last
        return self._standing if self._standing is not None and now.level is Level.OK else now

    def _silence(self, with_hint: bool) -> Condition | None:
        if self._working:
            return None
        silence = None if self._image_at is None else time.monotonic() - self._image_at
        if silence is not None and (
            silence <= SILENCE or silence <= SILENT_PERIODS * self._rates["image"].period()
        ):
            return None
        since = "none yet" if silence is None else f"none for {silence:.1f} s"
        hint = self._image_hint() if with_hint else ""
        line = f"expected images on {self._image_topic}, got {since}{': ' if hint else ''}{hint}"
        return Condition.of(Level.WARN, "no_image", line)


def diagnostic_array(
    name: str, stamp: Time, condition: Condition, values: Mapping[str, str]
) -> DiagnosticArray:
    """Return the message for /diagnostics."""
    status = DiagnosticStatus(
        level=condition.level.value,
        name=f"{name}: localization",
        message=condition.message,
        hardware_id=name,
        values=[KeyValue(key="reason", value=condition.reason)]
        + [KeyValue(key=key, value=value) for key, value in values.items()],
    )
    return DiagnosticArray(header=Header(stamp=stamp), status=[status])


class DiagnosticsPublisher:
    """Publishes a node's health on /diagnostics: when asked, or when the condition changed. Thread-safe."""

    def __init__(self, node: Node, health: Health) -> None:
        self._node = node
        self._health = health
        self._publisher = node.create_publisher(DiagnosticArray, "/diagnostics", 10)
        self._lock = threading.Lock()
        self._shown: tuple[Level, str, str] | None = None
        self._published_at = -math.inf

    def publish(self) -> None:
        """Publish now."""
        with self._lock:
            condition, values = self._health.report()
            self._shown = (condition.level, condition.reason, values.get("state", ""))
            stamp = self._node.get_clock().now().to_msg()
            name = self._node.get_fully_qualified_name()
            self._publisher.publish(diagnostic_array(name, stamp, condition, values))
            self._published_at = time.monotonic()

    def publish_if_changed(self) -> None:
        """Publish if level, reason or state is another than the one last shown."""
        if self._health.key() != self._shown:
            self.publish()

    def publish_news(self) -> None:
        """Publish if something happened, unless that was done a moment ago."""
        if self._health.has_news and time.monotonic() - self._published_at > NEWS_PERIOD:
            self.publish()
