"""The node's health: counts, latencies and the one line that says how it is; and its diagnostics message."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

import numpy as np
from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.node import Node
from std_msgs.msg import Header

WINDOW = 300  # frames that the latency percentiles look back on
IMAGE_TIMEOUT = 2.0  # seconds without an image that are worth a warning


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


class Health:
    """What happened so far. Thread-safe: the callbacks and the worker write, diagnostics reads."""

    def __init__(self, image_topic: str, model_path: str) -> None:
        self._lock = threading.Lock()
        self._image_topic = image_topic
        self._model = {"model_path": model_path, "model_sha256": "", "provider": ""}
        self._state = "unconfigured"
        self._fault: Condition | None = None
        self._last_frame: Condition | None = None
        self._last_reject: tuple[str, str] = ("", "")
        self._counts = dict.fromkeys(("received", "processed", "accepted", "rejected", "dropped"), 0)
        self._latencies: dict[str, deque[float]] = {}
        self._image_at: float | None = None
        self._pose_at: float | None = None
        self._camera_info = "none yet"

    def enter(self, state: str, fault: Condition | None = None) -> None:
        """Note the lifecycle state, and what keeps the node from the next one."""
        with self._lock:
            self._state = state
            self._fault = fault
            self._last_frame = None
            self._image_at = None

    def model_loaded(self, sha256: str, provider: str) -> None:
        """Note what runs."""
        with self._lock:
            self._model |= {"model_sha256": sha256, "provider": provider}

    def received(self) -> None:
        """Count an image that arrived."""
        with self._lock:
            self._counts["received"] += 1
            self._image_at = time.monotonic()

    def dropped(self) -> None:
        """Count an image that a newer one replaced."""
        with self._lock:
            self._counts["dropped"] += 1

    def camera_info(self, matched: bool) -> None:
        """Note whether the CameraInfo had the image's stamp."""
        with self._lock:
            self._camera_info = "matched by stamp" if matched else "latest: none has the image's stamp"

    def accepted(self, stage_ms: Mapping[str, float], camera_info_matched: bool) -> None:
        """Note a frame whose pose was published."""
        if camera_info_matched:
            condition = Condition(Level.OK, "localized", "localized")
        else:
            condition = Condition(
                Level.WARN,
                "camera_info_unmatched",
                "localized with the latest CameraInfo: expected one with the image's stamp",
            )
        with self._lock:
            self._processed("accepted", condition)
            self._pose_at = time.monotonic()
            self._time(stage_ms)

    def rejected(self, reason: str, detail: str, level: Level, stage_ms: Mapping[str, float]) -> None:
        """Note a frame that gave no pose."""
        with self._lock:
            self._processed("rejected", Condition(level, reason, f"{reason}: {detail}"))
            self._last_reject = (reason, detail)
            self._time(stage_ms)

    def condition(self) -> Condition:
        """Return how the node is now."""
        with self._lock:
            return self._condition()

    def report(self) -> tuple[Condition, dict[str, str]]:
        """Return how the node is now, and everything known, as diagnostics' keys and values."""
        with self._lock:
            values = {"state": self._state}
            values |= {"last_reject_reason": self._last_reject[0], "last_reject_detail": self._last_reject[1]}
            values |= {f"frames_{name}": str(count) for name, count in self._counts.items()}
            for stage, window in self._latencies.items():
                p50, p95, p99 = np.percentile(list(window), (50, 95, 99))
                values[f"latency_{stage}_ms"] = f"p50={p50:.2f} p95={p95:.2f} p99={p99:.2f}"
            age = "" if self._pose_at is None else f"{time.monotonic() - self._pose_at:.2f}"
            values |= {"last_pose_age_s": age, "camera_info": self._camera_info}
            return self._condition(), values | self._model

    def _processed(self, verdict: str, condition: Condition) -> None:
        self._counts["processed"] += 1
        self._counts[verdict] += 1
        self._last_frame = condition

    def _time(self, stage_ms: Mapping[str, float]) -> None:
        for stage, milliseconds in stage_ms.items():
            self._latencies.setdefault(stage, deque(maxlen=WINDOW)).append(milliseconds)

    def _condition(self) -> Condition:
        if self._fault is not None:
            return self._fault
        if self._state != "active":
            return Condition(Level.WARN, self._state, f"{self._state}: not localizing")
        if self._image_at is None:
            return Condition(
                Level.WARN, "no_image", f"no_image: expected images on {self._image_topic}, got none yet"
            )
        silence = time.monotonic() - self._image_at
        if silence > IMAGE_TIMEOUT:
            line = f"no_image: expected images on {self._image_topic}, got none for {silence:.1f} s"
            return Condition(Level.WARN, "no_image", line)
        return self._last_frame or Condition(Level.OK, "first_image", "working on the first image")


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
        self._shown: tuple[Level, str] | None = None

    def publish(self) -> None:
        """Publish now."""
        with self._lock:
            condition, values = self._health.report()
            self._shown = (condition.level, condition.reason)
            stamp = self._node.get_clock().now().to_msg()
            name = self._node.get_fully_qualified_name()
            self._publisher.publish(diagnostic_array(name, stamp, condition, values))

    def publish_if_changed(self) -> None:
        """Publish if the level or the reason is another than the one last shown."""
        condition = self._health.condition()
        if (condition.level, condition.reason) != self._shown:
            self.publish()
