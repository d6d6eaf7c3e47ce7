"""A node under test and its other side, for tests that start it with arguments of their own."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import PoseStamped
from model_files import DEPTH_RANGE, HEIGHT, MINIMUM_DEPTH, STRIDE, WIDTH
from rcl_interfaces.srv import SetParameters
from rclpy.context import Context
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile
from rclpy.subscription import Subscription
from ros_helpers import STEP, NodeProcess, Peer, nanoseconds, next_domain, ros_context
from sensor_msgs.msg import CameraInfo, Image
from std_srvs.srv import Trigger

from structpose_ros.advice import FRAMES
from structpose_ros.geometry import pose_error, rotation_from_quaternion, transform

NODE = "/structpose_relocalizer"
# A camera by itself, each of whose poses counts; TF takes a second to settle and is for those who test it.
ONE_CAMERA: dict[str, object] = {
    "model.provider": "cpu",
    "model.threads": 1,
    "frames.base_frame": "''",
    "gate.consistency_frames": 1,
    "tf.mode": "none",
}
BLUE = 40


class Bench(Peer):
    """A camera that chooses its stamps, and the node processes that it started."""

    def __init__(self, context: Context, domain: int, folder: Path, namespace: str = "") -> None:
        super().__init__(context, namespace)
        self.domain = domain
        self.diagnostics_stamps: list[int] = []
        self.processes: list[NodeProcess] = []
        self._folder = folder
        self._hearing: list[Subscription] = []
        # Whoever makes a storm reads them late, and is to miss none.
        self.node.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 1000)

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        self.diagnostics_stamps.append(nanoseconds(message.header.stamp))

    def start(self, *arguments: str, **parameters: object) -> NodeProcess:
        """Start a node with these ROS arguments and parameters."""
        log = self._folder / f"node{len(self.processes)}.log"
        values = {**ONE_CAMERA, **parameters}
        self.processes.append(NodeProcess(self.domain, log, *arguments, **values))
        return self.processes[-1]

    def hear(self, kind: type, topic: str, qos: QoSProfile | int = 10) -> list[Any]:
        """Return the list that what comes on a topic is put in."""
        heard: list[Any] = []
        self._hearing.append(self.node.create_subscription(kind, topic, heard.append, qos))
        return heard

    def stop_hearing(self) -> None:
        """Take back all that was subscribed to by `hear`."""
        for subscription in self._hearing:
            self.node.destroy_subscription(subscription)
        self._hearing = []

    def images_on(self, kind: type, topic: str) -> None:
        """From now on publish images, of this message type, on this topic and no other."""
        self.node.destroy_publisher(self._images)
        self._images = self.node.create_publisher(kind, topic, 10)

    def next_stamp(self) -> int:
        """Return the stamp that the next image will have."""
        return self._next + STEP

    def handle_until(self, at: float) -> None:
        """Handle messages until this time of time.monotonic()."""
        while (remaining := at - time.monotonic()) > 0:
            self._executor.spin_once(timeout_sec=remaining)

    def relocalized(self, image: Image, info: CameraInfo) -> Trigger.Response:
        """Call ~/relocalize, send images until it answers, and return what it says."""
        client = self.node.create_client(Trigger, f"{NODE}/relocalize")
        self.wait(client.service_is_ready, "service relocalize")
        future = client.call_async(Trigger.Request())
        self.send_until(future.done, "an answer of relocalize", image, info)
        self.node.destroy_client(client)
        return future.result()

    def continue_at(self, nanoseconds: int) -> None:
        """Let the stamps of the next images follow this one."""
        self._next = nanoseconds

    def send_at_until(
        self, nanoseconds: int, happened: Callable[[], Any], what: str, image: Image, info: CameraInfo | None
    ) -> None:
        """Publish an image under this stamp again until `happened()`; afterwards go on as before."""
        following = self._next

        def checked() -> Any:
            self._next = nanoseconds - STEP  # of the image that `send` makes of it next
            return happened()

        try:
            self.send_until(checked, what, image, info)
        finally:
            self._next = following

    def pose_of(self, image: Image, info: CameraInfo | None) -> PoseStamped:
        """Send an image until it gives a pose, and return that."""
        return self.first_of(self.poses, image, info)

    def first_of(self, heard: list[Any], image: Image, info: CameraInfo | None) -> Any:
        """Send an image until a message about it is in `heard`; return the first.

        What is on its way from images before counts for nothing.
        """
        news = self._news(heard)
        self.send_until(news, "a message", image, info)
        return news()[0]

    def answer(self, image: Image, info: CameraInfo) -> PoseStamped | str:
        """Send an image until it gives a pose, or a reason why there is none; return which.

        The frame before must have been accepted: diagnostics tell at once only what changed.
        """
        self.wait(lambda: self.reason() == "localized", "the frame before")
        found = self._news(self.poses)
        self.send_until(lambda: found() or self.reason() in FRAMES, "an answer", image, info)
        return found()[0] if found() else self.reason()

    def _news(self, heard: list[Any]) -> Callable[[], list[Any]]:
        """Return what gives the messages in `heard` about images that are sent from now on."""
        seen, last = len(heard), self._next
        return lambda: [message for message in heard[seen:] if nanoseconds(message.header.stamp) > last]

    def settle(self) -> None:
        """Wait until the node has nothing in work: no image was sent just now, and diagnostics counts all."""
        seen = len(self.diagnostics)

        def idle() -> bool:
            if len(self.diagnostics) == seen:
                return False
            counts = self.counts()
            return counts["received"] == counts["processed"] + counts["dropped"] + counts["skipped"]

        self.wait(idle, "the end of work")

    def set_parameters(self, **values: object) -> None:
        """Change parameters of the node."""
        given = [Parameter(name, value=value).to_parameter_msg() for name, value in values.items()]
        answer = self.call(SetParameters, f"{NODE}/set_parameters", SetParameters.Request(parameters=given))
        assert all(result.successful for result in answer.results), answer.results

    def counts(self) -> dict[str, int]:
        """Return the frames counted in the last diagnostics: received, processed, accepted and so on."""
        values = self.values().items()
        return {key.removeprefix("frames_"): int(value) for key, value in values if key.startswith("frames_")}


AnyBench = TypeVar("AnyBench", bound=Bench)


@contextmanager
def bench(folder: Path, namespace: str = "", kind: type[AnyBench] = Bench) -> Iterator[AnyBench]:
    """A bench in a domain of its own, on this machine only; its nodes end with it, without a traceback."""
    domain = next_domain()
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
        environment.setenv("ROS_DOMAIN_ID", str(domain))
        with ros_context(domain) as context:
            made = kind(context, domain, folder, namespace)
            try:
                yield made
            finally:
                for process in made.processes:
                    process.end()
                made.close()
    for process in made.processes:
        assert "Traceback" not in process.log, process.log


def picture(view: int = 0, width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    """An image (H, W, 3) that the test models localise; `view` is for those of several views."""
    rows, columns = np.mgrid[:height, :width]
    return np.stack([columns * 255 // width, 0 * rows + view, 0 * rows + BLUE], axis=-1).astype(np.uint8)


def depth_of(image_rgb: np.ndarray) -> np.ndarray:
    """The depth (h, w) that the test models see in an image (H, W, 3) of their input size."""
    red = image_rgb[..., 0].reshape(HEIGHT // STRIDE, STRIDE, WIDTH // STRIDE, STRIDE)
    return np.asarray(MINIMUM_DEPTH + DEPTH_RANGE * red.mean(axis=(1, 3)) / 255)


def numbers_of(message: Image) -> np.ndarray:
    """The values (h, w) of a 32FC1 image."""
    assert message.encoding == "32FC1"
    assert message.step == 4 * message.width
    values = np.frombuffer(message.data, ">f4" if message.is_bigendian else "<f4")
    return values.reshape(message.height, message.width)


def matrix_of(pose: Any) -> np.ndarray:
    """The transform (4, 4) of a geometry_msgs/Pose."""
    q, t = pose.orientation, pose.position
    return transform(rotation_from_quaternion([q.x, q.y, q.z, q.w]), [t.x, t.y, t.z])


def error_of(answer: PoseStamped | str, map_from_camera: np.ndarray) -> float:
    """How far an answer is from a pose: metres or radians, whichever is more; infinity for a rejection."""
    if isinstance(answer, str):
        return np.inf
    metres, degrees = pose_error(matrix_of(answer.pose), map_from_camera)
    return max(metres, np.radians(degrees))
