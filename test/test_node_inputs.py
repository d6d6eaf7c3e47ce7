"""What the node makes of images, calibrations, stamps and clocks as robots have them, over real DDS."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("rclpy", reason="rclpy is not installed: no ROS 2 here")

from model_files import HEIGHT, STRIDE, TRAINING_CAMERA, WIDTH, View, write_model, write_model_of_views
from nav_msgs.msg import Path as PathMessage
from node_bench import NODE, Bench, bench, depth_of, error_of, numbers_of, picture
from rclpy.qos import DurabilityPolicy, QoSProfile
from ros_helpers import CAMERA_FRAME, STEP, Peer, camera_info_message, image_message, nanoseconds, stamp
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, RegionOfInterest
from std_msgs.msg import Bool
from std_srvs.srv import SetBool, Trigger
from visualization_msgs.msg import Marker

from structpose_ros.geometry import rotation_from_vector, transform

MAP_FROM_CAMERA = transform(rotation_from_vector([0.3, -1.1, 0.7]), [2.5, -1.25, 0.75])
SECOND = 1_000_000_000
LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)


@dataclass(frozen=True)
class Shot:
    """An image's size and the CameraInfo of its camera, as a driver would send both.

    `full` is the sensor's size; `roi` is left, top, width, height in its pixels, cut out before `binning`.
    """

    fx_fy_cx_cy: tuple[float, float, float, float]
    model: str = "plumb_bob"
    coefficients: tuple[float, ...] = ()
    full: tuple[int, int] = (WIDTH, HEIGHT)
    roi: tuple[int, int, int, int] | None = None
    binning: tuple[int, int] = (1, 1)
    pose: np.ndarray = field(default_factory=lambda: MAP_FROM_CAMERA, compare=False)

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the image."""
        width, height = self.roi[2:] if self.roi else self.full
        return width // self.binning[0], height // self.binning[1]

    def info(self) -> CameraInfo:
        """The CameraInfo."""
        fx, fy, cx, cy = self.fx_fy_cx_cy
        message = CameraInfo(width=self.full[0], height=self.full[1])
        message.k = [fx, 0.0, cx, 0.0, fy, cy, 0.0, 0.0, 1.0]
        message.distortion_model, message.d = self.model, list(self.coefficients)
        message.binning_x, message.binning_y = self.binning
        if self.roi:
            left, top, width, height = self.roi
            message.roi = RegionOfInterest(x_offset=left, y_offset=top, width=width, height=height)
        return message

    def rays(self) -> np.ndarray:
        """The rays (h, w, 3) of the model's cells."""
        columns = (np.arange(WIDTH // STRIDE) + 0.5) * STRIDE * self.size[0] / WIDTH - 0.5
        rows = (np.arange(HEIGHT // STRIDE) + 0.5) * STRIDE * self.size[1] / HEIGHT - 0.5
        return self.rays_of(np.stack(np.meshgrid(columns, rows), axis=-1))

    def rays_of(self, pixels: np.ndarray) -> np.ndarray:
        """The rays (..., 3) of the image's pixels (..., 2), by OpenCV's projection alone."""
        corner = self.roi[:2] if self.roi else (0, 0)
        on_sensor = (pixels + 0.5) * self.binning - 0.5 + corner
        return unprojected(on_sensor, self.fx_fy_cx_cy, self.model, self.coefficients)


def unprojected(
    pixels: np.ndarray, k: tuple[float, float, float, float], model: str, coefficients: tuple[float, ...]
) -> np.ndarray:
    """The rays (..., 3), z = 1, that OpenCV projects to `pixels` (..., 2): the error is taken off."""
    fx, fy, cx, cy = k
    matrix = np.array([[fx, 0.0, cx], [0.0, fy, cy], [0.0, 0.0, 1.0]])
    target = pixels.reshape(-1, 2)
    rays = np.ones((len(target), 3))
    rays[:, :2] = (target - [cx, cy]) / [fx, fy]
    for _ in range(300):
        still, given = np.zeros(3), np.array(coefficients or (0.0, 0.0, 0.0, 0.0))
        if model == "equidistant":
            projected = cv2.fisheye.projectPoints(rays[:, None], still, still, matrix, given)[0]
        else:
            projected = cv2.projectPoints(rays[:, None], still, still, matrix, given)[0]
        error = target - projected.reshape(-1, 2)
        rays[:, :2] += error / [fx, fy]
    assert np.abs(error).max() < 1e-9, "OpenCV's projection was not inverted"
    return rays.reshape(*pixels.shape[:-1], 3)


def moved(number: int) -> np.ndarray:
    """A pose of its own for each view."""
    return transform(rotation_from_vector([0.1 * number, -0.4, 0.2]), [0.5 * number, 1.0, -0.25 * number])


# By name: a camera, and what somebody may take it for by mistake. The last is what grey images show.
SHOTS: dict[str, tuple[Shot, Shot]] = {}


def _shot(name: str, right: Shot, **wrong: object) -> None:
    placed = replace(right, pose=moved(len(SHOTS)))
    SHOTS[name] = (placed, replace(placed, **wrong))  # type: ignore[arg-type]


EQUIDISTANT = (0.08, -0.02, 0.004, -0.001)
RATIONAL = (0.4, -0.1, 0.002, -0.003, 0.02, 0.6, -0.05, 0.01)
PLUMB_BOB = (-0.28, 0.09, 0.004, -0.006, -0.01)
_shot(
    "equidistant",
    Shot((34.0, 33.0, 30.0, 25.0), "equidistant", EQUIDISTANT),
    model="plumb_bob",
    coefficients=(),
)
_shot("rational_polynomial", Shot((45.0, 46.0, 33.0, 22.5), "rational_polynomial", RATIONAL), coefficients=())
_shot("plumb_bob", Shot((44.0, 43.0, 31.0, 24.5), "plumb_bob", PLUMB_BOB), coefficients=())
_shot(
    "region of interest",
    Shot((90.0, 92.0, 81.0, 62.0), "plumb_bob", PLUMB_BOB, full=(160, 128), roi=(24, 40, WIDTH, HEIGHT)),
    roi=(0, 0, WIDTH, HEIGHT),
)
_shot(
    "region and binning",
    Shot((95.0, 92.0, 83.0, 62.0), "plumb_bob", PLUMB_BOB, (160, 128), (16, 24, 128, 96), (2, 2)),
    roi=(32, 32, 128, 96),
)
_shot(
    "binning of one side",
    Shot((62.0, 118.0, 33.0, 49.0), full=(WIDTH, 2 * HEIGHT), binning=(1, 2)),
    full=(WIDTH, HEIGHT),
    binning=(1, 1),
)
_shot(
    "another resolution",
    Shot((130.0, 61.0, 60.0, 21.0), "equidistant", EQUIDISTANT, full=(2 * WIDTH, HEIGHT)),
    fx_fy_cx_cy=(65.0, 61.0, 30.0, 21.0),
)
_shot("another calibration", Shot((75.0, 74.0, 26.0, 27.0)), fx_fy_cx_cy=(60.0, 60.0, 31.5, 23.5))
_shot("training camera", Shot((60.0, 60.0, 31.5, 23.5)), fx_fy_cx_cy=(75.0, 74.0, 26.0, 27.0))
NAMES = list(SHOTS)
LAST = SHOTS[NAMES[-1]][0]


def image_of(name: str) -> Image:
    """An image that shows the view of this name."""
    return image_message(picture(NAMES.index(name), *SHOTS[name][0].size))


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """One node for the tests that need none of their own, with a model that knows all of SHOTS."""
    folder = tmp_path_factory.mktemp("inputs")
    views = [View(shot.pose, shot.rays()) for shot, _ in SHOTS.values()]
    with bench(folder) as made:
        made.start(**{"model.path": write_model_of_views(folder / "views.onnx", views)})
        yield made


@pytest.fixture
def camera(shared: Bench) -> Iterator[Bench]:
    """The shared node, localised and without memory of what came before."""
    shared.call(Trigger, f"{NODE}/reset", Trigger.Request())
    shared.pose_of(good_image(), good_info())
    yield shared
    shared.stop_hearing()
    shared.set_parameters(**{"input.max_age": 0.0, "gate.consistency_frames": 1, "run.max_rate": 0.0})


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Bench]:
    """A bench for a node of the test's own."""
    with bench(tmp_path) as made:
        yield made


def good_image() -> Image:
    """An image that is accepted."""
    return image_of("training camera")


def good_info() -> CameraInfo:
    """The CameraInfo of good images."""
    return LAST.info()


def compressed(image_rgb: np.ndarray, kind: str, frame_id: str = CAMERA_FRAME) -> CompressedImage:
    """An image as a PNG or JPEG file, as image_transport's compressed plugin sends it."""
    good, data = cv2.imencode(f".{kind}", np.ascontiguousarray(image_rgb[..., ::-1]))
    assert good
    message = CompressedImage(format=f"rgb8; {kind} compressed bgr8")
    message.header.frame_id = frame_id
    message.data.frombytes(data.tobytes())
    return message


# Calibrations.


@pytest.mark.parametrize("name", NAMES)
def test_the_rays_are_those_of_the_camera(camera: Bench, name: str) -> None:
    """The pose is right with the camera's own CameraInfo, and visibly wrong, or refused, with another."""
    right, wrong = SHOTS[name]
    assert error_of(camera.pose_of(image_of(name), right.info()), right.pose) < 1e-4
    assert wrong.size == right.size
    assert error_of(camera.answer(image_of(name), wrong.info()), right.pose) > 0.05
    assert error_of(camera.pose_of(image_of(name), right.info()), right.pose) < 1e-4


def test_resolution_and_calibration_may_change_from_frame_to_frame(camera: Bench) -> None:
    """Each image is taken with the CameraInfo of its stamp: not one frame is refused, nor its pose wrong."""
    for name in ("training camera", "another resolution", "another calibration", "region and binning") * 2:
        shot, expected = SHOTS[name][0], camera.next_stamp()
        pose = camera.pose_of(image_of(name), shot.info())
        assert nanoseconds(pose.header.stamp) == expected
        assert error_of(pose, shot.pose) < 1e-4


@pytest.mark.parametrize("name", ["equidistant", "region and binning", "another resolution"])
def test_the_frustum_goes_through_the_images_corners(camera: Bench, name: str) -> None:
    """It is the image as it came, not as the network gets it, and seen through the lens."""
    frustums = camera.hear(Marker, f"{NODE}/frustum")
    shot = SHOTS[name][0]
    marker = camera.first_of(frustums, image_of(name), shot.info())
    right, bottom = shot.size[0] - 0.5, shot.size[1] - 0.5
    corners = shot.rays_of(np.array([[-0.5, -0.5], [right, -0.5], [right, bottom], [-0.5, bottom]]))
    ends = np.array([[point.x, point.y, point.z] for point in marker.points if point.z > 0])
    rays = np.unique(np.round(ends[:, :2] / ends[:, 2:], 6), axis=0)
    np.testing.assert_allclose(rays, np.unique(np.round(corners[:, :2], 6), axis=0), atol=2e-6)


def test_rectified_images_have_the_camera_of_p(own: Bench, tmp_path: Path) -> None:
    """With input.rectified, P is the camera, without distortion; K and D are those of the lens."""
    rectified = Shot((52.0, 50.0, 35.0, 21.0))
    info = SHOTS["plumb_bob"][0].info()
    fx, fy, cx, cy = rectified.fx_fy_cx_cy
    info.r = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0]
    info.p = [fx, 0.0, cx, 0.0, 0.0, fy, cy, 0.0, 0.0, 0.0, 1.0, 0.0]
    model = write_model_of_views(tmp_path / "model.onnx", [View(MAP_FROM_CAMERA, rectified.rays())])
    own.start(**{"model.path": model, "input.rectified": True})
    assert error_of(own.pose_of(image_message(picture()), info), MAP_FROM_CAMERA) < 1e-4


# Images.


def test_grey_images_are_localised(camera: Bench) -> None:
    """A mono8 image is taken as grey: the depth comes from its one channel."""
    depths = camera.hear(Image, f"{NODE}/depth")
    grey = picture()[..., 0]
    image = image_message(np.ascontiguousarray(grey), "mono8")
    assert error_of(camera.pose_of(image, good_info()), LAST.pose) < 1e-4
    depth = numbers_of(camera.first_of(depths, image, good_info()))
    np.testing.assert_allclose(depth, depth_of(np.stack([grey] * 3, axis=-1)), atol=1e-5)


@pytest.mark.parametrize(
    ("remap", "raw", "topic"),
    [
        ("image:=/front/image", "/front/image", "/front/image/compressed"),
        ("image/compressed:=/jpegs", "/image", "/jpegs"),
    ],
)
def test_compressed_images_follow_the_remap(
    own: Bench, tmp_path: Path, remap: str, raw: str, topic: str
) -> None:
    """PNG comes through unchanged, JPEG nearly. Raw images alone: diagnostics says what to set."""
    own.images_on(Image, raw)
    depths = own.hear(Image, f"{NODE}/depth")
    model = write_model(tmp_path / "model.onnx", MAP_FROM_CAMERA)
    own.start("-r", remap, **{"model.path": model, "input.transport": "compressed"})
    hint = (
        f"no_image: expected images on {topic}, got none yet: nobody publishes there, but somebody on {raw}"
    )
    own.wait(lambda: own.last_line() == f"{hint}: set input.transport to 'raw'", "the hint")
    own.images_on(CompressedImage, topic)
    for kind, tolerance in (("png", 1e-5), ("jpg", 0.1)):
        message = compressed(picture(), kind)
        assert error_of(own.pose_of(message, camera_info_message(TRAINING_CAMERA)), MAP_FROM_CAMERA) < 1e-4
        depth = numbers_of(own.first_of(depths, message, camera_info_message(TRAINING_CAMERA)))
        np.testing.assert_allclose(depth, depth_of(picture()), atol=tolerance)


def test_compressed_images_alone_are_pointed_out(own: Bench, tmp_path: Path) -> None:
    """With raw transport, diagnostics names the compressed topic and the parameter to set."""
    own.images_on(CompressedImage, "/front/image/compressed")
    model = write_model(tmp_path / "model.onnx", MAP_FROM_CAMERA)
    own.start("-r", "image:=/front/image", **{"model.path": model})
    hint = (
        "nobody publishes there, but somebody on /front/image/compressed: set input.transport to 'compressed'"
    )
    own.wait(lambda: hint in own.last_line(), "the hint")
    assert own.reason() == "no_image"


def test_images_of_another_type_are_pointed_out(own: Bench, tmp_path: Path) -> None:
    """A raw topic remapped to the compressed one is no question of network or QoS."""
    own.images_on(CompressedImage, "/front/image/compressed")
    model = write_model(tmp_path / "model.onnx", MAP_FROM_CAMERA)
    own.start("-r", "image:=/front/image/compressed", **{"model.path": model})
    hint = "expected sensor_msgs/msg/Image there, somebody publishes sensor_msgs/msg/CompressedImage"
    own.wait(lambda: hint in own.last_line(), "the hint")
    assert own.reason() == "no_image"


# Stamps.


def test_an_image_without_a_stamp_is_refused(camera: Bench) -> None:
    """A stamp of 0 is none."""
    camera.send_at_until(0, lambda: camera.reason() == "bad_stamp", "a rejection", good_image(), good_info())
    assert camera.diagnostics[-1].level == b"\x02"
    assert 0 not in camera.pose_stamps()


def test_an_image_that_overtook_another_is_refused(camera: Bench) -> None:
    """A stamp a little before the last one's costs that frame and nothing else."""
    last = camera.pose_stamps()[-1]
    late = last - 300_000_000
    camera.send_at_until(
        late, lambda: camera.reason() == "out_of_order", "a rejection", good_image(), good_info()
    )
    assert "got one 0.300 s before it" in camera.last_line()
    assert camera.values()["state"] == "LOCALIZED"
    assert late not in camera.pose_stamps()


def test_max_age_is_by_the_systems_clock(camera: Bench) -> None:
    """An image beyond it, or as far ahead, is refused and changes nothing; 0 allows any."""
    camera.set_parameters(**{"input.max_age": 2.0})
    camera.continue_at(time.time_ns())
    camera.pose_of(good_image(), good_info())
    for name, offset, line in (
        ("too_old", -9 * SECOND, "expected an image of at most 2 s, got one of 9."),
        ("from_future", 9 * SECOND, "expected a stamp at most 2 s ahead of the clock, got one "),
    ):
        stamped = time.time_ns() + offset
        camera.send_at_until(
            stamped, lambda name=name: camera.reason() == name, "a rejection", good_image(), good_info()
        )
        assert line in camera.last_line()
        assert camera.values()["state"] == "LOCALIZED"
        assert stamped not in camera.pose_stamps()
    camera.pose_of(good_image(), good_info())
    camera.set_parameters(**{"input.max_age": 0.0})
    camera.continue_at(time.time_ns() + 9 * SECOND)
    camera.pose_of(good_image(), good_info())


def test_stamps_that_begin_anew_begin_the_state_anew(camera: Bench) -> None:
    """A bag that plays again: the poses must agree again, the path is empty, and poses go on."""
    localized = camera.hear(Bool, f"{NODE}/localized", LATCHED)
    paths = camera.hear(PathMessage, f"{NODE}/path")
    camera.send_until(lambda: localized and paths, "a path", good_image(), good_info())
    camera.set_parameters(**{"gate.consistency_frames": 2})
    again = camera.next_stamp() - 60 * SECOND
    soon = again + 30 * SECOND
    seen = len(camera.poses)
    camera.continue_at(again - STEP)
    camera.send_until(lambda: nanoseconds(paths[-1].header.stamp) < soon, "a path", good_image(), good_info())
    camera.wait(lambda: len(localized) >= 3, "~/localized")
    assert [message.data for message in localized] == [True, False, True]
    confirmed = [stamped for stamped in camera.pose_stamps()[seen:] if stamped < soon]
    assert confirmed[0] > again, "the first image after the jump was taken on its own word"
    (pose,) = paths[-1].poses
    assert nanoseconds(pose.header.stamp) == confirmed[0]
    line = "forgetting where the robot is: the images' stamps went back by"
    camera.wait(lambda: line in camera.processes[0].log, "the log line")


def test_max_rate_leaves_images_out(camera: Bench) -> None:
    """Of 10 images a second, 5 are localised; the others are counted as skipped."""
    camera.set_parameters(**{"run.max_rate": 5.0})
    seen = len(camera.diagnostics)
    camera.wait(lambda: len(camera.diagnostics) > seen, "counts of now")
    before, began = camera.counts(), time.monotonic()
    sent = 30
    for number in range(sent):
        camera.send(good_image(), good_info())
        camera.handle_until(began + 0.1 * (number + 1))
    seconds = time.monotonic() - began
    camera.wait(lambda: camera.counts()["received"] == before["received"] + sent, "all images")
    counts = {name: count - before[name] for name, count in camera.counts().items()}
    assert sent / 3 <= counts["processed"] <= 5.0 * seconds + 2
    assert counts["skipped"] == sent - counts["processed"] - counts["dropped"]


# Clocks.


def test_simulated_time_rules_what_depends_on_time(own: Bench, tmp_path: Path) -> None:
    """Stamps are the images'; LOST comes by /clock alone; services answer while it stands still."""
    localized = own.hear(Bool, f"{NODE}/localized", LATCHED)
    clock = own.node.create_publisher(Clock, "/clock", 10)
    timeouts = {"run.lost_timeout": 0.5, "run.trigger_timeout": 0.6}
    model = write_model(tmp_path / "model.onnx", MAP_FROM_CAMERA)
    process = own.start(**{"model.path": model, "use_sim_time": True, **timeouts})

    def tick(nanoseconds: int, happened: Callable[[], object], what: str) -> None:
        def checked() -> object:
            clock.publish(Clock(clock=stamp(nanoseconds)))
            return happened()

        own.wait(checked, what)

    def tick_to(nanoseconds: int) -> None:
        tick(nanoseconds, lambda: own.diagnostics_stamps[-1] == nanoseconds, "the node's clock")

    def localize() -> None:
        expected = own.next_stamp()
        assert nanoseconds(own.pose_of(good_image(), good_info()).header.stamp) >= expected
        own.wait(
            lambda: own.values().get("state") == "LOCALIZED" and localized and localized[-1].data, "LOCALIZED"
        )

    def relocalize() -> Trigger.Response:
        return own.call(Trigger, f"{NODE}/relocalize", Trigger.Request())  # type: ignore[no-any-return]

    localize()  # before there is a clock
    own.wait(lambda: own.diagnostics_stamps, "diagnostics")
    assert set(own.diagnostics_stamps) == {0}
    start = 5_000 * SECOND
    tick_to(start)
    own.continue_at(start)
    localize()
    changes, seen = len(localized), len(own.diagnostics)
    own.wait(lambda: len(own.diagnostics) >= seen + 3, "more of the true time than lost_timeout")
    assert own.call(SetBool, f"{NODE}/set_enabled", SetBool.Request(data=True)).success
    answer = relocalize()
    assert not answer.success
    assert "no pose within 0.6 s" in answer.message
    assert own.relocalized(good_image(), good_info()).success
    tick_to(start + SECOND // 3)
    assert own.values()["state"] == "LOCALIZED"
    assert len(localized) == changes, "LOST while the clock stood still"
    tick(start + 2 * SECOND, lambda: not localized[-1].data, "LOST")
    own.wait(lambda: own.values()["state"] == "LOST", "LOST in diagnostics")

    localize()
    assert "the clock was set back" not in process.log
    tick(start - 1000 * SECOND, lambda: not localized[-1].data, "SEARCHING")
    own.wait(lambda: own.values()["state"] == "SEARCHING", "SEARCHING in diagnostics")
    assert "forgetting where the robot is: the clock was set back" in process.log
    own.continue_at(start - 1000 * SECOND)
    localize()


# Several cameras.


def test_two_cameras_in_one_graph_keep_apart(tmp_path: Path) -> None:
    """Each node answers its own camera, on its own topics; TF has both."""
    sides = {"left": MAP_FROM_CAMERA, "right": moved(5)}
    with bench(tmp_path, "/left") as left:
        right = Peer(left.node.context, "/right")
        right._next += STEP // 2
        peers: dict[str, Peer] = {"left": left, "right": right}
        for side, pose in sides.items():
            model = write_model(tmp_path / f"{side}.onnx", pose)
            left.start("-r", f"__ns:=/{side}", **{"model.path": model, "tf.mode": "map_to_camera"})
        sent = {}
        for side, peer in peers.items():
            image = image_message(picture(), frame_id=f"{side}_optical")
            info = camera_info_message(TRAINING_CAMERA)
            sent[side] = peer.send_until(
                lambda peer=peer, frame=f"{side}_optical": len(peer.poses) >= 3 and frame in children(peer),
                "poses and transforms",
                image,
                info,
            )
        left.wait(lambda: {"left_optical", "right_optical"} <= children(left), "both frames in TF")
        right.wait(lambda: {"left_optical", "right_optical"} <= children(right), "both frames in TF")
        names = {f"/{side}/structpose_relocalizer: localization" for side in sides}
        for side, peer in peers.items():
            assert set(peer.pose_stamps()) <= set(sent[side])
            assert max(error_of(pose, sides[side]) for pose in peer.poses) < 1e-4
            peer.wait(lambda peer=peer: {item.name for item in peer.diagnostics} == names, "diagnostics")
            topics = left.node.get_publisher_names_and_types_by_node("structpose_relocalizer", f"/{side}")
            others = {"/tf", "/diagnostics", "/rosout", "/parameter_events"}
            assert all(name.startswith(f"/{side}/") or name in others for name, _ in topics)
        right.close()


def children(peer: Peer) -> set[str]:
    """The child frames that TF was given so far."""
    return {item.child_frame_id for message in peer.transforms for item in message.transforms}
