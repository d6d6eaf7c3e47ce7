"""What the node takes from TF and gives to it, without DDS: transforms go into its buffer by hand."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="rclpy is not installed: no ROS 2 here")


from geometry_msgs.msg import TransformStamped
from node_rig import matrix_of, tf_message
from rclpy.node import Node
from ros_helpers import nanoseconds, next_domain, ros_context, stamp

from structpose_ros import transforms
from structpose_ros.geometry import invert, rotation_from_vector, transform
from structpose_ros.settings import settings_from
from structpose_ros.transforms import TransformError, Transforms, WatchedBuffer

AT = 1_700_000_000_000_000_000
MS = 1_000_000
CAMERA = "camera"
HERE = transform(rotation_from_vector([0.1, 0.2, 0.3]), [1.0, 2.0, 3.0])
THERE = transform(rotation_from_vector([0.1, 0.2, 0.5]), [2.0, 2.0, 3.0])


@pytest.fixture
def buffer() -> WatchedBuffer:
    return WatchedBuffer()


def test_a_parent_is_known_as_long_as_somebody_gives_it(
    buffer: WatchedBuffer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One on /tf_static for good, one on /tf for the cache time after its last transform."""
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    buffer.set_transform_static(tf_message("link", CAMERA, HERE), "")
    buffer.set_transform(tf_message("map", "odom", HERE, AT), "")
    now += transforms.CACHE_TIME - 0.1
    buffer.set_transform(tf_message("map", "odom", HERE, AT + 1), "")
    now += transforms.CACHE_TIME - 0.1
    assert buffer.parent_by_others("odom") == "map"
    now += 0.2
    assert buffer.parent_by_others("odom") == ""
    now += 1e6
    assert buffer.parent_by_others(CAMERA) == "link"
    assert buffer.parent_by_others("base_link") == ""


def test_a_static_parent_outlives_a_moving_one(
    buffer: WatchedBuffer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody who gave a fixed frame another parent for a while leaves it with the fixed one."""
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    buffer.set_transform_static(tf_message("link", CAMERA, HERE), "")
    buffer.set_transform(tf_message("map", CAMERA, HERE, AT), "")
    assert buffer.parent_by_others(CAMERA) == "map"
    now += transforms.CACHE_TIME + 1.0
    assert buffer.parent_by_others(CAMERA) == "link"


def test_a_leading_slash_hides_no_parent(buffer: WatchedBuffer) -> None:
    """TF itself ignores it."""
    buffer.set_transform_static(tf_message("/link", "/camera", HERE), "")
    buffer.set_transform(tf_message("/map", "/odom", HERE, AT), "")
    assert (buffer.parent_by_others(CAMERA), buffer.parent_by_others("odom")) == ("link", "map")


def test_what_the_node_sent_is_nobody_elses(buffer: WatchedBuffer) -> None:
    """Its echo counts for nothing; the same edge by somebody else at the same time does."""
    own = tf_message("map", "odom", HERE, AT)
    buffer.note_sent(own)
    buffer.set_transform(own, "")
    buffer.set_transform(own, "")
    assert buffer.parent_by_others("odom") == ""
    buffer.set_transform(tf_message("map", "odom", THERE, AT), "")
    assert buffer.parent_by_others("odom") == "map"


class Sent(list[TransformStamped]):
    """A broadcaster that keeps what it gets."""

    def sendTransform(self, message: TransformStamped) -> None:  # noqa: N802
        self.append(message)


@pytest.fixture
def make() -> Iterator[Callable[..., tuple[Transforms, Sent]]]:
    """Make Transforms with these parameters, by name with `__` for the dot; its node is never spun."""
    with ros_context(next_domain()) as context:
        node = Node("test_transforms", context=context)

        def maker(**values: object) -> tuple[Transforms, Sent]:
            settings = settings_from({name.replace("__", "."): value for name, value in values.items()})
            made, sent = Transforms(node, settings), Sent()
            made._broadcaster = sent
            made._settled_at = 0.0
            return made, sent

        yield maker
        node.destroy_node()


Make = Callable[..., tuple[Transforms, Sent]]


def test_it_sends_again_once_the_other_is_silent(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refused as long as the cache time lasts, then sent: the correction of the last pose too."""
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now)
    made, sent = make(tf__mode="map_to_odom")
    made._buffer.set_transform(tf_message("map", "odom", THERE, AT), "")
    with pytest.raises(TransformError, match="'map' -> 'odom', but somebody else does") as refusal:
        made.send(HERE, stamp(AT), CAMERA, np.eye(4))
    assert refusal.value.reason == "tf_conflict"
    with pytest.raises(TransformError):
        made.send_map_to_odom()
    assert not sent
    now += transforms.CACHE_TIME + 0.1
    made.send_map_to_odom()
    assert len(sent) == 1
    np.testing.assert_allclose(matrix_of(sent[0].transform), HERE, atol=1e-12)


def test_its_own_echo_is_no_conflict_however_long(make: Make) -> None:
    """Ten thousand transforms, each heard after those that were sent since."""
    made, sent = make(tf__mode="map_to_odom")
    made.send(HERE, stamp(AT), CAMERA, np.eye(4))
    heard, behind = 0, 500
    while len(sent) < 10_000:
        made.send_map_to_odom()
        if len(sent) > heard + behind:
            made._buffer.set_transform(sent[heard], "")
            heard += 1
    assert made._buffer.parent_by_others("odom") == ""


def test_a_broadcaster_is_heard_before_a_frame_gets_its_first_parent(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that is discovered late may have a parent for it; a frame that has its parent already goes on."""
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now)
    made, sent = make(tf__mode="map_to_camera")
    others = made._broadcasters()
    monkeypatch.setattr(made, "_broadcasters", lambda: others)
    made.send(HERE, stamp(AT), "first", None)
    assert len(sent) == 1
    others += 1
    assert made.unsettled() == pytest.approx(transforms.HEARING)
    made.send(HERE, stamp(AT), "second", None)
    made.send(HERE, stamp(AT + 1), "first", None)
    assert [message.child_frame_id for message in sent] == ["first", "first"]
    now += 0.9 * transforms.HEARING
    made._buffer.set_transform_static(tf_message("link", CAMERA, HERE), "")
    with pytest.raises(TransformError, match=f"'link' -> '{CAMERA}'"):
        made.send(HERE, stamp(AT), CAMERA, None)
    others -= 1
    made.unsettled()
    others += 1  # one that comes and goes is waited for once
    now += 0.2 * transforms.HEARING
    assert made.unsettled() == 0.0
    made.send(HERE, stamp(AT + 2), "second", None)
    assert sent[-1].child_frame_id == "second"


@pytest.mark.parametrize(("mode", "child"), [("map_to_camera", CAMERA), ("map_to_base", "base_link")])
def test_another_parent_is_refused(make: Make, mode: str, child: str) -> None:
    made, sent = make(tf__mode=mode)
    made._buffer.set_transform_static(tf_message("base_link", CAMERA, np.eye(4)), "")
    if mode == "map_to_base":
        made._buffer.set_transform(tf_message("odom", "base_link", HERE, AT), "")
    with pytest.raises(TransformError, match=rf"expected '{child}' to have no parent, .* -> '{child}'"):
        made.send(HERE, stamp(AT), CAMERA, None, HERE)
    assert not sent


def test_stamps_increase_whoever_sends(make: Make) -> None:
    """The timer comes in while the worker sends a new correction: no older stamp follows a newer one."""
    made, sent = make(tf__mode="map_to_odom")
    made.send(HERE, stamp(AT), CAMERA, np.eye(4))
    noted, timer = made._buffer.note_sent, threading.Thread(target=made.send_map_to_odom)

    def interrupted(message: TransformStamped) -> None:
        noted(message)
        if threading.current_thread() is not timer:
            timer.start()
            timer.join(0.2)  # ends within that time only if nothing keeps it from sending

    made._buffer.note_sent = interrupted  # type: ignore[method-assign]
    made.send(THERE, stamp(AT + 1), CAMERA, np.eye(4))
    timer.join()
    stamps = [nanoseconds(message.header.stamp) for message in sent]
    assert stamps == sorted(set(stamps))
    np.testing.assert_allclose(matrix_of(sent[-1].transform), THERE, atol=1e-12)


def test_a_camera_may_be_the_base(make: Make) -> None:
    """Nobody needs to publish a transform from a frame to itself."""
    made, _ = make(frames__base_frame=CAMERA)
    np.testing.assert_array_equal(made.camera_from_base(CAMERA, stamp(AT)), np.eye(4))


def test_a_newer_transform_is_waited_for(make: Make) -> None:
    """The base's place between two transforms, the later of which comes while it is asked for."""
    made, _ = make(tf__mode="map_to_odom", tf__timeout=1.0)
    buffer = made._buffer
    buffer.set_transform_static(tf_message("base_link", CAMERA, np.eye(4)), "")
    buffer.set_transform(tf_message("odom", "base_link", HERE, AT - 50 * MS), "")
    waits, waiting = buffer.wait, threading.Event()

    def wait(seconds: float) -> None:
        waiting.set()
        waits(seconds)

    buffer.wait = wait  # type: ignore[method-assign]
    found: list[np.ndarray | None] = []
    asking = threading.Thread(target=lambda: found.append(made.odom_from_camera(CAMERA, stamp(AT))))
    asking.start()
    assert waiting.wait(5.0)
    assert not found
    buffer.set_transform(tf_message("odom", "base_link", THERE, AT + 50 * MS), "")
    asking.join(5.0)
    halfway = transform(rotation_from_vector([0.1, 0.2, 0.4]), [1.5, 2.0, 3.0])
    assert found[0] is not None
    np.testing.assert_allclose(found[0][:3, 3], halfway[:3, 3], atol=1e-9)


def test_only_what_is_on_its_way_is_waited_for(make: Make) -> None:
    """A frame that nobody knows costs no time, nor does odometry in a mode that can do without."""
    made, _ = make(tf__mode="map_to_camera", tf__timeout=1.0)
    made._buffer.wait = pytest.fail  # type: ignore[method-assign]
    with pytest.raises(TransformError, match="expected a transform from 'base_link' to 'camera'") as missing:
        made.camera_from_base(CAMERA, stamp(AT))
    assert missing.value.reason == "no_base_transform"
    made._buffer.set_transform(tf_message("odom", CAMERA, HERE, AT - MS), "")
    assert made.odom_from_camera(CAMERA, stamp(AT)) is None


def test_odometry_is_that_of_the_images_time(make: Make) -> None:
    """map_from_odom is composed of pose and odometry at the same time, whatever came since."""
    made, sent = make(tf__mode="map_to_odom")
    made._buffer.set_transform_static(tf_message("base_link", CAMERA, THERE), "")
    for offset, place in ((0, HERE), (10, THERE), (20, np.eye(4))):
        made._buffer.set_transform(tf_message("odom", "base_link", place, AT + offset * MS), "")
    odom_from_camera = made.odom_from_camera(CAMERA, stamp(AT + 10 * MS))
    assert odom_from_camera is not None
    np.testing.assert_allclose(odom_from_camera, THERE @ THERE, atol=1e-9)
    made.send(HERE, stamp(AT + 10 * MS), CAMERA, odom_from_camera)
    np.testing.assert_allclose(matrix_of(sent[0].transform), HERE @ invert(THERE @ THERE), atol=1e-9)


def test_what_was_forgotten_is_not_sent_again(make: Make) -> None:
    made, sent = make(tf__mode="map_to_odom")
    for forget in (made.forget, made.forget_odometry_correction):
        made.send(HERE, stamp(AT), CAMERA, np.eye(4))
        assert sent
        forget()
        sent.clear()
        made.send_map_to_odom()
        assert not sent


@pytest.mark.parametrize("far", [float("inf"), -float("inf"), 1e200])
@pytest.mark.filterwarnings("ignore:invalid value")
def test_a_place_that_is_none_is_not_used(make: Make, far: float) -> None:
    """TF refuses NaN, but takes infinity: no pose may be made of it."""
    made, _ = make(tf__mode="map_to_odom")
    nowhere = transform(np.eye(3), [1.0, far, 3.0])
    made._buffer.set_transform_static(tf_message("base_link", CAMERA, nowhere), "")
    made._buffer.set_transform(tf_message("odom", "base_link", HERE, AT), "")
    with pytest.raises(TransformError, match="expected a transform from 'base_link' to 'camera'") as missing:
        made.camera_from_base(CAMERA, stamp(AT))
    assert missing.value.reason == "no_base_transform"
    assert made.odom_from_camera(CAMERA, stamp(AT)) is None
