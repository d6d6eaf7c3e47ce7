"""The faults that the soak sprinkles in: what becomes of the frames, and how diagnostics must show it."""

from __future__ import annotations

import array
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from geometry_msgs.msg import PoseWithCovarianceStamped, TransformStamped
from sensor_msgs.msg import Image
from tf2_msgs.msg import TFMessage

from benchmarks.soak_player import FRAME, Player, Shown, info_of

Values = Mapping[str, str]
HALF = 0.5  # seconds that most of them last
STORM = 7  # images in the place of one


def _nothing(player: Player) -> None:
    """Begin or end without a word."""


def _good(player: Player, shown: Shown) -> None:
    player.show(shown.image, info_of(shown.camera), shown.map_from_camera)


@dataclass(frozen=True)
class Fault:
    """Something that goes wrong for some seconds, or a request in the middle of it all.

    show: publishes a frame in the fault's manner. seen: whether diagnostics' values show it, those before
    beside them.
    """

    name: str
    seen: Callable[[Values, Values], bool]
    show: Callable[[Player, Shown], None] = _good
    begin: Callable[[Player], None] = _nothing
    end: Callable[[Player], None] = _nothing
    seconds: float = HALF


def _reason(*names: str) -> Callable[[Values, Values], bool]:
    return lambda now, before: now["reason"] in names


def _changed(key: str, word: str) -> Callable[[Values, Values], bool]:
    return lambda now, before: word in now.get(key, "") and now.get(key) != before.get(key)


def _more(count: str) -> Callable[[Values, Values], bool]:
    return lambda now, before: int(now[count]) > int(before[count])


def _like(image: Image, **changes: Any) -> Image:
    """The same image with other fields."""
    names = ("height", "width", "encoding", "is_bigendian", "step", "data")
    made = Image(**{**{name: getattr(image, name) for name in names}, **changes})
    made.header.frame_id = image.header.frame_id
    return made


def _storm(player: Player, shown: Shown) -> None:
    """More images than anybody could work on; as many as ever are held in memory at a time."""
    for _ in range(STORM):
        _good(player, shown)


def _spoilt(**changes: Any) -> Callable[[Player, Shown], None]:
    def show(player: Player, shown: Shown) -> None:
        player.show(_like(shown.image, **changes), info_of(shown.camera), None)

    return show


def _cut_off(player: Player, shown: Shown) -> None:
    player.show(_like(shown.image, data=shown.image.data[:-1000]), info_of(shown.camera), None)


def _noise(player: Player, shown: Shown) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, len(shown.image.data), dtype=np.uint8)
    player.show(_like(shown.image, data=array.array("B", pixels.tobytes())), info_of(shown.camera), None)


def _black(player: Player, shown: Shown) -> None:
    player.show(
        _like(shown.image, data=array.array("B", bytes(len(shown.image.data)))), info_of(shown.camera), None
    )


def _nameless(player: Player, shown: Shown) -> None:
    image = _like(shown.image)
    image.header.frame_id = ""
    player.show(image, info_of(shown.camera), None)


def _uncalibrated(player: Player, shown: Shown) -> None:
    info = info_of(shown.camera)
    info.k = [float("nan")] * 9
    player.show(shown.image, info, None)


def _of_another_size(player: Player, shown: Shown) -> None:
    info = info_of(shown.camera.resized(shown.camera.width // 2, shown.camera.height // 2))
    player.show(shown.image, info, None)


def _smaller(player: Player, shown: Shown) -> None:
    """Another resolution, with its CameraInfo: no fault, but all that was prepared is to be made anew."""
    width, height = shown.camera.width // 2, shown.camera.height // 2
    pixels = np.frombuffer(shown.image.data, np.uint8).reshape(2 * height, 2 * width, 3)
    small = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA)
    data = array.array("B", small.tobytes())
    image = _like(shown.image, width=width, height=height, step=3 * width, data=data)
    player.show(image, info_of(shown.camera.resized(width, height)), shown.map_from_camera)


def _without_stamp(player: Player, shown: Shown) -> None:
    player.show(shown.image, info_of(shown.camera), None, 0)


def _late(player: Player, shown: Shown) -> None:
    """A stamp a little before that of the last pose, which the node has seen, however busy the machine is."""
    player.show(shown.image, info_of(shown.camera), shown.map_from_camera, player.heard.posed_ns - 50_000_000)


def _from_the_past(player: Player, shown: Shown) -> None:
    player.show(shown.image, info_of(shown.camera), shown.map_from_camera, time.time_ns() - 1000 * 10**9)


def _silent(player: Player, shown: Shown) -> None:
    """Publish nothing."""


def _without_info(player: Player, shown: Shown) -> None:
    player.show(shown.image, None, shown.map_from_camera)


def _bad_prior(player: Player) -> None:
    prior = PoseWithCovarianceStamped()
    prior.header.frame_id, prior.pose.pose.position.x = "map", float("inf")
    player.priors.publish(prior)


def _odd_transforms(player: Player) -> None:
    """A loop; the node of the soak has neither base nor odometry, so that poses go on."""
    loop = [TransformStamped(child_frame_id=child) for child in ("a", "b")]
    loop[0].header.frame_id, loop[1].header.frame_id = "b", "a"
    player.tf.publish(TFMessage(transforms=loop))


def _another_parent(player: Player) -> None:
    """Somebody else gives the camera a parent: the node must not give it a second one."""
    message = TransformStamped(child_frame_id=FRAME)
    message.header.frame_id = "mast"
    player.tf.publish(TFMessage(transforms=[message]))


FAULTS = [
    Fault("images at 200 Hz", _more("frames_dropped"), _storm, seconds=2.0),
    Fault("image with a wrong step", _reason("bad_image"), _spoilt(step=7)),
    Fault("depth image", _reason("bad_image"), _spoilt(encoding="16UC1")),
    Fault("image cut off", _reason("bad_image"), _cut_off),
    Fault("noise", _reason("low_confidence", "zero_weights", "too_few_points", "outside_map"), _noise),
    Fault("black image", _reason("low_confidence", "zero_weights", "too_few_points", "outside_map"), _black),
    Fault("no frame id", _reason("bad_frame_id"), _nameless),
    Fault("uncalibrated camera", _reason("bad_camera_info"), _uncalibrated),
    Fault("CameraInfo of another size", _reason("size_mismatch"), _of_another_size),
    Fault("another resolution", _more("frames_accepted"), _smaller, seconds=2.0),
    Fault("no stamp", _reason("bad_stamp"), _without_stamp),
    Fault("late image", _reason("out_of_order"), _late),
    Fault("clock set back", _changed("last_reset", "went back by"), _from_the_past),
    Fault("camera gone", _reason("no_image"), _silent, seconds=3.0),
    Fault("no CameraInfo", _reason("camera_info_unmatched"), _without_info),
    Fault(
        "~/relocalize", _changed("last_trigger", "succeeded"), begin=lambda player: player.ask("relocalize")
    ),
    Fault("bad prior", _changed("last_trigger", "bad_prior"), begin=_bad_prior),
    Fault("~/reset", _changed("last_reset", "asked to"), begin=lambda player: player.ask("reset")),
    Fault(
        "~/set_enabled",
        _reason("disabled"),
        begin=lambda player: player.enable(False),
        end=lambda player: player.enable(True),
    ),
    Fault(
        "run.max_rate",
        _more("frames_skipped"),
        begin=lambda player: player.set("run.max_rate", 5.0),
        end=lambda player: player.set("run.max_rate", 0.0),
        seconds=2.0,
    ),
    Fault(
        "gate.min_confidence",
        _reason("low_confidence"),
        begin=lambda player: player.set("gate.min_confidence", 1.0),
        end=lambda player: player.set("gate.min_confidence", 0.0),
    ),
    Fault(
        "somebody looks",
        _more("frames_accepted"),
        begin=lambda player: player.look(True),
        end=lambda player: player.look(False),
        seconds=3.0,
    ),
    Fault("transforms in a loop", _more("frames_accepted"), begin=_odd_transforms),
    Fault("another parent for the camera", _reason("tf_conflict"), begin=_another_parent, seconds=1.0),
]
