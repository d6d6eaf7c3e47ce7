"""The whole way of a frame through the node: from the message that arrived to what is published."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from builtin_interfaces.msg import Time
from rclpy.clock import Clock

from structpose_ros.advice import FRAMES, NODE
from structpose_ros.covariance import base_covariance, published_covariance
from structpose_ros.diagnostics import Condition, Health, Level
from structpose_ros.frame_input import (
    CameraInfos,
    FrameRejectedError,
    ImageMessage,
    StampOrder,
    TimeWentBackError,
    camera_frame_of,
    image_message,
    read_frame,
)
from structpose_ros.gate import RejectReason, prior_disagreement
from structpose_ros.geometry import quaternion_from_rotation
from structpose_ros.messages import nanoseconds_from_stamp, seconds_from_stamp
from structpose_ros.outputs import Outputs
from structpose_ros.pictures import Pictures
from structpose_ros.relocalizer import Relocalizer, Result
from structpose_ros.settings import Settings
from structpose_ros.spinning import one_line
from structpose_ros.throttled_log import ThrottledLog
from structpose_ros.tracking import Sighting, Tracker, Verdict
from structpose_ros.transforms import TransformError, Transforms
from structpose_ros.triggers import Trigger as Request
from structpose_ros.triggers import Triggers

Array = npt.NDArray[np.float64]
# Reasons that lie in the input, not in what the camera sees.
_FAULTS = {
    RejectReason.BAD_IMAGE,
    RejectReason.NO_CAMERA_INFO,
    RejectReason.BAD_CAMERA_INFO,
    RejectReason.SIZE_MISMATCH,
    RejectReason.BAD_FRAME_ID,
    RejectReason.BAD_STAMP,
    RejectReason.INTERNAL_ERROR,
}


@dataclass(frozen=True)
class Arrival:
    """An image, its bytes where it is not compressed, and when it came, in seconds of `time.perf_counter`.

    asked: the requests that it may answer. One that ends meanwhile gets no answer, but its prior counts.
    """

    message: bytes | ImageMessage
    at: float
    asked: Sequence[Request]


@dataclass
class _Stages:
    """Milliseconds spent in each stage of a frame."""

    arrived: float
    last: float = field(default_factory=time.perf_counter)
    ms: dict[str, float] = field(default_factory=dict)

    def done(self, name: str) -> None:
        now = time.perf_counter()
        self.ms[name] = 1e3 * (now - self.last)
        self.last = now

    def finished(self) -> dict[str, float]:
        waited = {"wait": 1e3 * (self.last - self.arrived) - sum(self.ms.values())}
        return {**waited, **self.ms, "total": 1e3 * (time.perf_counter() - self.arrived)}


@dataclass(frozen=True)
class _Place:
    """Where an accepted frame was taken: of camera, base and odometry, what TF knows at its stamp.

    no_base: why there is no map_from_base. covariance: (6, 6) as published, of the base's pose where there is
    one, else of the camera's.
    """

    map_from_camera: Array
    map_from_base: Array | None
    no_base: str
    odom_from_camera: Array | None
    covariance: Array


class Localization:
    """Works on one frame at a time, in the images' thread.

    settings: replaced when parameters change.
    """

    def __init__(
        self,
        settings: Settings,
        relocalizer: Relocalizer,
        clock: Clock,
        camera_infos: CameraInfos,
        tracker: Tracker,
        triggers: Triggers,
        transforms: Transforms,
        outputs: Outputs,
        pictures: Pictures,
        health: Health,
        log: ThrottledLog,
        forget: Callable[[str], None],
    ) -> None:
        """`forget(why)` is called when time went back."""
        self.settings = settings
        self.relocalizer = relocalizer
        self._clock = clock
        self._camera_infos = camera_infos
        self._tracker = tracker
        self._triggers = triggers
        self._transforms = transforms
        self._outputs = outputs
        self._pictures = pictures
        self._health = health
        self._log = log
        self._forget = forget
        self._order = StampOrder()
        self._hand_off_due = False

    def process(self, arrival: Arrival) -> None:
        """Localise a frame and publish what came of it, or note why nothing did. Never raises."""
        stages = _Stages(arrival.at)
        try:
            self._localize(arrival, stages)
        except FrameRejectedError as rejected:
            self._reject(rejected.reason, str(rejected), arrival, stages)
        except Exception as error:
            self._reject(RejectReason.INTERNAL_ERROR, one_line(error), arrival, stages)

    def _localize(self, arrival: Arrival, stages: _Stages) -> None:
        settings, message = self.settings, image_message(arrival.message)
        stamp = message.header.stamp
        self._check_stamp(message)
        camera_frame = camera_frame_of(message, settings)
        frame = read_frame(message, self._camera_infos, rectified=settings.input_rectified)
        self._health.camera_info(frame.matched)
        stages.done("read")
        result = self.relocalizer.localize(frame.image_rgb, frame.camera)
        stages.ms |= result.stage_ms
        stages.last = time.perf_counter()
        if result.decision.reject_reason is not None:
            raise FrameRejectedError(result.decision.reject_reason, result.decision.detail)
        place = self._place(result, message, camera_frame)
        self._check_priors(place, arrival)
        verdict = self._confirm(place, message)
        stages.done("confirm")
        self._outputs.publish_pose(place.map_from_camera, stamp)
        complaints = self._send(place, stamp, camera_frame)
        if verdict.relocalized:
            self._log.event(_describe(result, message, settings))
        self._answer(place, result, message, arrival, verdict)
        self._pictures.publish(result, frame.camera, message.header, camera_frame)
        stages.done("publish")
        if not frame.matched:
            line = "localized with the latest CameraInfo: expected one with the image's stamp"
            complaints.append(Condition(Level.WARN, "camera_info_unmatched", line))
        self._health.accepted(stages.finished(), result.decision.confidence, complaints)

    def _check_stamp(self, message: ImageMessage) -> None:
        now, max_age = self._clock.now().nanoseconds, self.settings.input_max_age
        age = 1e-9 * (now - nanoseconds_from_stamp(message.header.stamp))
        self._health.note("image_age_s", f"{age:.3f}")
        try:
            self._order.check(message.header.stamp, now, max_age)
        except TimeWentBackError as back:
            self._forget(str(back))
            self._order.check(message.header.stamp, now, max_age)

    def _place(self, result: Result, message: ImageMessage, camera_frame: str) -> _Place:
        assert result.estimate is not None and result.covariance is not None, "accepted without an estimate"
        stamp = message.header.stamp
        map_from_camera, covariance = result.estimate.map_from_camera, result.covariance
        odom_from_camera = self._transforms.odom_from_camera(camera_frame, stamp)
        map_from_base, no_base = None, ""
        try:
            camera_from_base = self._transforms.camera_from_base(camera_frame, stamp)
        except TransformError as error:
            no_base = str(error)
        else:
            map_from_base = map_from_camera @ camera_from_base
            covariance = base_covariance(covariance, map_from_camera, camera_from_base)
        covariance = published_covariance(covariance, self.settings.covariance)
        return _Place(map_from_camera, map_from_base, no_base, odom_from_camera, covariance)

    def _check_priors(self, place: _Place, arrival: Arrival) -> None:
        """Raise unless the pose fits the priors of who may be answered by the frame, or waits by now."""
        for request in dict.fromkeys([*arrival.asked, *self._triggers.waiting()]):
            if request.prior is None:
                continue
            if place.map_from_base is None:
                raise FrameRejectedError(RejectReason.NO_BASE_TRANSFORM, place.no_base)
            away = prior_disagreement(
                request.prior, place.map_from_base, place.covariance, self.settings.prior_sigmas
            )
            if away:
                raise FrameRejectedError(RejectReason.PRIOR_MISMATCH, away)

    def _confirm(self, place: _Place, message: ImageMessage) -> Verdict:
        stamp_ns = nanoseconds_from_stamp(message.header.stamp)
        sighting = Sighting(stamp_ns, place.map_from_camera, place.odom_from_camera)
        verdict = self._tracker.observe(sighting, 1e-9 * self._clock.now().nanoseconds)
        if not verdict.confirmed:
            raise FrameRejectedError(RejectReason.UNCONFIRMED, verdict.detail)
        return verdict

    def _send(self, place: _Place, stamp: Time, camera_frame: str) -> list[Condition]:
        """Send what `tf.mode` asks for; return, and log, what keeps parts of the pose from who needs them."""
        complaints = []
        if place.map_from_base is None:
            advice = FRAMES["no_base_transform"]
            line = f"no pose_with_covariance: no_base_transform: {place.no_base} ({advice})"
            self._log.problem("no_base_transform", line)
            complaints.append(Condition.of(Level.WARN, "no_base_transform", place.no_base))
        try:
            self._transforms.send(
                place.map_from_camera, stamp, camera_frame, place.odom_from_camera, place.map_from_base
            )
        except TransformError as error:
            is_conflict = error.reason == "tf_conflict"
            line = f"no transform sent: {error.reason}: {error} ({NODE[error.reason]})"
            self._log.problem(error.reason, line, error=is_conflict)
            level = Level.ERROR if is_conflict else Level.WARN
            complaints.append(Condition.of(level, error.reason, str(error)))
        return complaints

    def _answer(
        self, place: _Place, result: Result, message: ImageMessage, arrival: Arrival, verdict: Verdict
    ) -> None:
        """Publish the base's pose, hand it off where that is due, and answer who asked."""
        mode = self.settings.handoff_mode
        waiting = [request for request in self._triggers.waiting() if request in arrival.asked]
        self._hand_off_due |= verdict.relocalized and mode == "on_lost"
        hand_off = mode != "never" and (self._hand_off_due or bool(waiting))
        if place.map_from_base is not None:
            stamp = message.header.stamp
            self._outputs.publish_base(place.map_from_base, place.covariance, stamp, hand_off=hand_off)
            self._hand_off_due = False
        elif hand_off:  # stays due, and those who asked go on waiting
            for request in waiting:
                request.last_reason = (
                    f"the camera was found, the robot not: no_base_transform: {place.no_base}"
                )
            return
        for request in waiting:
            request.end(True, _describe(result, message, self.settings))

    def _reject(self, reason: RejectReason, detail: str, arrival: Arrival, stages: _Stages) -> None:
        for request in arrival.asked:
            request.last_reason = f"{reason.value}: {detail}"
        level = Level.ERROR if reason in _FAULTS else Level.WARN
        self._health.rejected(reason.value, detail, level, stages.finished())
        line = f"no pose: {reason.value}: {detail} ({FRAMES[reason.value]})"
        self._log.problem(reason.value, line)


def _describe(result: Result, message: ImageMessage, settings: Settings) -> str:
    """The camera's pose as a line for whoever asked for it."""
    assert result.estimate is not None and result.covariance is not None, "accepted without an estimate"
    map_from_camera = result.estimate.map_from_camera
    variances = np.diag(published_covariance(result.covariance, settings.covariance))
    x, y, z = map_from_camera[:3, 3]
    qx, qy, qz, qw = quaternion_from_rotation(map_from_camera[:3, :3])
    position, rotation = math.sqrt(variances[:3].max()), math.sqrt(variances[3:].max())
    return (
        f"localized: camera in '{settings.map_frame}' at x={x:.3f} y={y:.3f} z={z:.3f} m, "
        f"qx={qx:.4f} qy={qy:.4f} qz={qz:.4f} qw={qw:.4f}, sigma {position:.3f} m and "
        f"{math.degrees(rotation):.1f} deg, confidence {result.decision.confidence:.2f}, "
        f"stamp {seconds_from_stamp(message.header.stamp):.3f}"
    )
