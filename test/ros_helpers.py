"""ROS 2 in tests: a domain for each test, the node as a process, a peer that waits with a deadline."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from geometry_msgs.msg import PoseStamped
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import QoSProfile
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header
from tf2_msgs.msg import TFMessage

from structpose_ros.camera import Camera

ROOT = Path(__file__).resolve().parent.parent
DEADLINE = 20.0  # seconds; only a failing test waits this long
END = 5.0  # seconds in which a node that is asked to end does
RESEND = (
    0.25  # seconds until an unanswered image is sent again: a best-effort reader may not have matched yet
)
CAMERA_FRAME = "test_camera_optical"
STEP = 100_000_001  # nanoseconds from one image's stamp to the next
DOMAINS = 100  # 1 .. 100; above 101 the ports of Linux's ephemeral range begin

_counter = itertools.count()


def next_domain() -> int:
    """Return a domain id that no other test of this run has, whichever worker it runs in."""
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:])
    run = os.environ.get("PYTEST_XDIST_TESTRUNUID", str(os.getpid()))
    block = max(DOMAINS // workers, 1)
    return 1 + (zlib.crc32(run.encode()) + worker * block + next(_counter) % block) % DOMAINS


def stamp(nanoseconds: int) -> Time:
    """Return a stamp."""
    return Time(sec=nanoseconds // 10**9, nanosec=nanoseconds % 10**9)


def nanoseconds(header_stamp: Time) -> int:
    """Return a stamp as one number."""
    return int(header_stamp.sec) * 10**9 + int(header_stamp.nanosec)


def image_message(pixels: np.ndarray, encoding: str = "rgb8", frame_id: str = CAMERA_FRAME) -> Image:
    """Return an image without row padding."""
    message = Image(height=pixels.shape[0], width=pixels.shape[1], encoding=encoding)
    message.header = Header(frame_id=frame_id)
    message.step = pixels.strides[0]
    message.data.frombytes(np.ascontiguousarray(pixels).tobytes())
    return message


def camera_info_message(camera: Camera) -> CameraInfo:
    """Return the CameraInfo of a camera."""
    message = CameraInfo(width=camera.width, height=camera.height)
    message.header = Header(frame_id=CAMERA_FRAME)
    message.k = camera.matrix.ravel()
    message.distortion_model, message.d = camera.distortion_model, list(camera.distortion)
    return message


@contextmanager
def ros_context(domain: int) -> Iterator[Context]:
    """A context of its own, shut down at the end."""
    context = Context()
    rclpy.init(context=context, domain_id=domain)
    try:
        yield context
    finally:
        rclpy.try_shutdown(context=context)


class NodeProcess:
    """The relocalizer as a process of its own; `arguments` are further ROS arguments, as -r and a remap.

    `environment` is added to this process' own, `before` is called in the new process before it begins.
    """

    program: Sequence[str] = ("structpose_ros.node",)  # for python -m

    def __init__(
        self,
        domain: int,
        log: Path,
        *arguments: str,
        environment: Mapping[str, str] | None = None,
        before: Callable[[], None] | None = None,
        **parameters: object,
    ) -> None:
        given = [part for name, value in parameters.items() for part in ("-p", f"{name}:={value}")]
        command = [sys.executable, "-m", *self.program, "--ros-args", *given, *arguments]
        self._log = log
        with log.open("w") as output:
            self.process = subprocess.Popen(
                command,
                env={**child_environment(domain), **(environment or {})},
                stdout=output,
                stderr=subprocess.STDOUT,
                preexec_fn=before,  # noqa: PLW1509  # it sets limits and takes no lock
            )

    @property
    def log(self) -> str:
        """Everything it printed so far."""
        return self._log.read_text()

    def stop(self, number: int = signal.SIGINT, times: int = 1) -> int:
        """Send a signal, wait for the end, return the exit code."""
        for _ in range(times):
            self.process.send_signal(number)
        return self.process.wait(DEADLINE)

    def end(self) -> None:
        """Make sure that it is gone; who is killed, not asked, leaves shared memory and a ghost in DDS."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(END)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait(DEADLINE)


def child_environment(domain: int) -> dict[str, str]:
    """The environment of a process that takes part in a domain and imports this package."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "ROS_DOMAIN_ID": str(domain), "PYTHONPATH": path}


class Peer:
    """A robot in miniature: publishes images and CameraInfo, keeps what the relocalizer says."""

    def __init__(self, context: Context, namespace: str = "") -> None:
        self.node = Node("test_peer", context=context, namespace=namespace)
        self.poses: list[PoseStamped] = []
        self.transforms: list[TFMessage] = []
        self.diagnostics: list[DiagnosticStatus] = []
        self._executor = SingleThreadedExecutor(context=context)
        self._executor.add_node(self.node)
        self._images = self.node.create_publisher(Image, "image", 10)
        self._infos = self.node.create_publisher(CameraInfo, "camera_info", 10)
        self._next = 1_700_000_000_123_456_789
        keep = QoSProfile(depth=100)
        self.node.create_subscription(PoseStamped, "pose", self.poses.append, keep)
        self.node.create_subscription(TFMessage, "/tf", self.transforms.append, keep)
        # Last, so that whoever's diagnostics arrive has matched the others too.
        self.node.create_subscription(
            DiagnosticArray, "/diagnostics", lambda message: self.diagnostics.extend(message.status), keep
        )

    def close(self) -> None:
        """Destroy the node."""
        self._executor.shutdown()
        self.node.destroy_node()

    def wait(self, happened: Callable[[], Any], what: str, deadline: float = DEADLINE) -> None:
        """Handle messages until `happened()`, or fail at the deadline."""
        until = time.monotonic() + deadline
        while not happened():
            if time.monotonic() > until:
                raise AssertionError(f"waited {deadline} s for {what}; diagnostics: {self.last_line()}")
            self._executor.spin_once(timeout_sec=0.05)

    def call(self, service_type: Any, name: str, request: Any) -> Any:
        """Call a service and return its response."""
        client = self.node.create_client(service_type, name)
        self.wait(client.service_is_ready, f"service {name}")
        future = client.call_async(request)
        self.wait(future.done, f"an answer of {name}")
        self.node.destroy_client(client)
        return future.result()

    def send(self, image: Image, info: CameraInfo | None) -> int:
        """Publish an image and its CameraInfo under a fresh stamp; return it."""
        self._next += STEP
        image.header.stamp = stamp(self._next)
        if info is not None:
            info.header.stamp = image.header.stamp
            self._infos.publish(info)
        self._images.publish(image)
        return self._next

    def send_until(
        self, happened: Callable[[], Any], what: str, image: Image, info: CameraInfo | None
    ) -> list[int]:
        """Publish an image again and again until `happened()`; return the stamps."""
        until = time.monotonic() + DEADLINE
        stamps = []
        while not happened():
            if time.monotonic() > until:
                raise AssertionError(f"waited {DEADLINE} s for {what}; diagnostics: {self.last_line()}")
            stamps.append(self.send(image, info))
            again = time.monotonic() + RESEND
            while not happened() and time.monotonic() < again:
                self._executor.spin_once(timeout_sec=0.05)
        return stamps

    def reason(self) -> str:
        """Return the reason in the last diagnostics, '' before any."""
        return self.values().get("reason", "")

    def wait_for_reason(self, reason: str) -> DiagnosticStatus:
        """Wait until diagnostics give this reason; return that status."""
        self.wait(lambda: self.reason() == reason, f"reason {reason}")
        return self.diagnostics[-1]

    def values(self) -> dict[str, str]:
        """Return keys and values of the last diagnostics."""
        return {item.key: item.value for item in self.diagnostics[-1].values} if self.diagnostics else {}

    def last_line(self) -> str:
        """Return the message of the last diagnostics."""
        return self.diagnostics[-1].message if self.diagnostics else "none"

    def pose_stamps(self) -> list[int]:
        """Return the stamps of all poses so far."""
        return [nanoseconds(pose.header.stamp) for pose in self.poses]
