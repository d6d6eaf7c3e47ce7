"""The demo room: geometry of its frames, limits of its tours, files on disk."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from structpose_ros.camera import Camera
from structpose_ros.training import synthetic
from structpose_ros.training.synthetic import demo
from structpose_ros.training.synthetic.baking import BakedScene, bake
from structpose_ros.training.synthetic.freespace import FreeSpace
from structpose_ros.training.synthetic.raycast import Renderer
from structpose_ros.training.synthetic.room import EXTENT, Room, build_room, room_footprints
from structpose_ros.training.synthetic.sensor import Sensor
from structpose_ros.training.synthetic.surfaces import Array, Builder
from structpose_ros.training.synthetic.textures import Image, Paint, plain
from structpose_ros.training.synthetic.tours import FRAME_S, STYLES, Tour, plan_tour

SEED = 7
CAMERA = demo.camera_of_size(160, 120)


pytestmark = pytest.mark.xdist_group("synthetic")  # the room is built once


@pytest.fixture(scope="module")
def room() -> Room:
    """Return the room with coarse textures; its geometry is the real one's."""
    return build_room(SEED, texel_scale=0.2)


@pytest.fixture(scope="module")
def space() -> FreeSpace:
    return FreeSpace(EXTENT, room_footprints(SEED))


@pytest.fixture(scope="module")
def tours(space: FreeSpace) -> dict[str, Tour]:
    return {name: plan_tour(space, name, SEED, style.frames) for name, style in STYLES.items()}


def points_in_map(depth: Array, map_from_camera: Array) -> Array:
    """Unproject a depth image (H, W), m, to points (H, W, 3) in the map."""
    u, v = np.meshgrid(np.arange(CAMERA.width), np.arange(CAMERA.height))
    ones = np.ones_like(depth)
    points = np.stack([(u - CAMERA.cx) / CAMERA.fx, (v - CAMERA.cy) / CAMERA.fy, ones], -1) * depth[..., None]
    return np.asarray(points @ map_from_camera[:3, :3].T + map_from_camera[:3, 3])


def yaws(tour: Tour) -> Array:
    """Headings (N,) of the optical axis, rad, unwrapped."""
    return np.unwrap(np.arctan2(tour.map_from_camera[:, 1, 2], tour.map_from_camera[:, 0, 2]))


def looking_north(x: float, y: float, z: float) -> Array:
    """Pose of a level camera that looks along +y of the map."""
    pose = np.eye(4)
    pose[:3, :3] = [[1, 0, 0], [0, 0, 1], [0, -1, 0]]
    pose[:3, 3] = x, y, z
    return pose


def wall_scene(paint: Paint | None = None, distance: float = 2.0) -> BakedScene:
    """One wall at y = distance, 20 m wide and high around the origin, without lamps."""
    b = Builder(0)
    b.quad((-10, distance, 10), (20, 0, 0), (0, 0, -20), paint or plain((0.5, 0.5, 0.5)), 20.0, emission=1.0)
    b.box((50, 50, 0), (51, 51, 1), plain((0.5, 0.5, 0.5)), ppm=20.0)  # an occluder far away: light needs one
    return bake(b.surfaces, (), 1.0, 0)


def test_frames_lie_on_the_room(room: Room, tours: dict[str, Tour]) -> None:
    renderer = Renderer(room.scene, CAMERA)
    lowest = []
    for pose in tours["mapping"].map_from_camera[::150]:
        _, depth = renderer.render(pose)
        points = points_in_map(depth.astype(np.float64), pose)
        assert depth.min() > 0.3
        assert points.min() > -2e-3
        assert (points.reshape(-1, 3).max(0) < np.array(EXTENT) + 2e-3).all()
        lowest.append(points[..., 2][points[..., 2] < 0.01])
    # Below 1 cm there is the floor, and the feet of the furniture.
    low = np.concatenate(lowest)
    assert len(low) > 5000
    assert (np.abs(low) < 2e-3).mean() > 0.95
    assert np.median(np.abs(low)) < 1e-6


def test_depth_of_two_frames_agrees(room: Room, tours: dict[str, Tour]) -> None:
    renderer = Renderer(room.scene, CAMERA)
    first, second = tours["localization"].map_from_camera[[40, 46]]
    (_, depth_a), (_, depth_b) = renderer.render(first), renderer.render(second)
    points = points_in_map(depth_a.astype(np.float64), first).reshape(-1, 3)
    seen = (points - second[:3, 3]) @ second[:3, :3]
    u = seen[:, 0] / seen[:, 2] * CAMERA.fx + CAMERA.cx
    v = seen[:, 1] / seen[:, 2] * CAMERA.fy + CAMERA.cy
    inside = (u > 0) & (u < CAMERA.width - 1) & (v > 0) & (v < CAMERA.height - 1) & (seen[:, 2] > 0.1)
    assert inside.mean() > 0.5
    maps = u[inside].astype(np.float32)[None], v[inside].astype(np.float32)[None]
    sampled = cv2.remap(depth_b, *maps, cv2.INTER_LINEAR)[0]
    visible = np.abs(sampled - seen[inside, 2]) < 0.1
    assert visible.mean() > 0.85
    assert np.median(np.abs(sampled - seen[inside, 2])[visible]) < 5e-3


def test_pixel_centres_are_integers() -> None:
    # A wall turned by 45 degrees: the ray of pixel u meets it at depth 2 / (1 - (u - cx) / fx).
    b = Builder(0)
    b.quad((-10, -8, 10), (20, 20, 0), (0, 0, -20), plain((0.5, 0.5, 0.5)), 20.0)
    renderer = Renderer(bake(b.surfaces, (), 1.0, 0), CAMERA)
    _, depth = renderer.render(looking_north(0, 0, 0))
    for u, v in ((0, 0), (17, 60), (80, 60), (81, 119)):
        expected = 2.0 / (1.0 - (u - 79.5) / (417.0 / 4))
        assert depth[v, u] == pytest.approx(expected, abs=1e-4)


def test_colour_and_depth_are_registered() -> None:
    # The left half of the wall is red and the right half blue: the edge passes between pixels 79 and 80.
    def halves(_: np.random.Generator, h: int, w: int, ppm: float) -> Image:
        image = np.zeros((h, w, 3), np.float32)
        image[:, : w // 2, 0], image[:, w // 2 :, 2] = 1.0, 1.0
        return image

    image, depth = Renderer(wall_scene(halves), CAMERA).render(looking_north(0, 0, 0))
    assert depth == pytest.approx(2.0, abs=1e-5)
    assert image[60, 76].tolist() == [255, 0, 0]
    assert image[60, 83].tolist() == [0, 0, 255]
    assert image[60, 79] + image[60, 80] == pytest.approx(np.array([255, 0, 255]), abs=4)


@pytest.mark.parametrize("name", sorted(STYLES))
def test_tours_are_drives_of_a_wheeled_robot(name: str, tours: dict[str, Tour], space: FreeSpace) -> None:
    tour = tours[name]
    positions = tour.map_from_camera[:, :3, 3]
    speed = np.linalg.norm(np.diff(positions, axis=0), axis=1) / FRAME_S
    turning = np.rad2deg(np.abs(np.diff(yaws(tour)))) / FRAME_S
    assert len(positions) == STYLES[name].frames
    assert speed.max() <= 0.6
    assert np.abs(np.diff(speed)).max() / FRAME_S < 1.5
    assert turning.max() <= 50.0
    assert space.clearance(positions[:, :2]).min() > 0.45
    assert positions[:, 2].min() >= 0.9
    assert positions[:, 2].max() <= 1.1
    tilt = np.rad2deg(np.arcsin(tour.map_from_camera[:, 2, 2]))
    assert np.abs(tilt).max() < 3.0
    rotation = tour.map_from_camera[:, :3, :3]
    assert np.swapaxes(rotation, 1, 2) @ rotation == pytest.approx(np.tile(np.eye(3), (len(rotation), 1, 1)))
    assert np.linalg.det(rotation) == pytest.approx(1.0)


def test_angular_velocity_is_that_of_the_poses(tours: dict[str, Tour]) -> None:
    tour = tours["localization"]
    rotation = tour.map_from_camera[:, :3, :3]
    change = np.swapaxes(rotation[:-2], 1, 2) @ rotation[2:]
    about_y = np.arctan2(change[:, 0, 2], change[:, 2, 2]) / (2 * FRAME_S)
    assert tour.angular_velocity[1:-1, 1] == pytest.approx(about_y, abs=0.05)


def test_localization_tour_is_another_path_through_what_was_mapped(tours: dict[str, Tour]) -> None:
    mapped, driven = tours["mapping"], tours["localization"]
    offset = driven.map_from_camera[:, None, :3, 3] - mapped.map_from_camera[None, :, :3, 3]
    distance = np.linalg.norm(offset, axis=-1)
    turn = np.abs((yaws(driven)[:, None] - yaws(mapped)[None] + np.pi) % (2 * np.pi) - np.pi)
    nearest = np.argmin(distance / 0.25 + np.rad2deg(turn) / 15.0, axis=1)
    gap = distance[np.arange(len(distance)), nearest]
    assert 0.1 < np.median(gap) < 0.4
    assert gap.max() < 1.0


def test_shorter_request_is_the_beginning_of_the_tour(space: FreeSpace, tours: dict[str, Tour]) -> None:
    short = plan_tour(space, "localization", SEED, 20)
    assert np.array_equal(short.map_from_camera, tours["localization"].map_from_camera[:20])


def test_free_space_is_the_distance_to_walls_and_furniture() -> None:
    square = np.array([(2.0, 2.0), (3.0, 2.0), (3.0, 3.0), (2.0, 3.0)])
    space = FreeSpace((6.0, 5.0, 2.5), [square])
    points = np.array([(1.0, 2.5), (5.0, 4.6), (2.5, 2.5), (4.5, 2.5)])
    assert space.clearance(points) == pytest.approx([1.0, 0.4, 0.0, 1.5], abs=0.08)
    path = space.route(np.array([1.2, 2.5]), np.array([4.2, 2.5]), 0.4)
    assert space.clearance(path).min() >= 0.39
    assert path[0] == pytest.approx([1.2, 2.5], abs=0.1)
    assert path[-1] == pytest.approx([4.2, 2.5], abs=0.1)


def test_motion_blur_runs_along_the_turn_and_keeps_the_brightness() -> None:
    clean = np.zeros((120, 160, 3), np.float32)
    clean[60, 80] = 200.0
    camera = Camera(160, 120, 400.0, 400.0, 79.5, 59.5)
    turning = Sensor(camera, 1, 1)._motion_blur(clean, np.array([0.0, 1.0, 0.0]))
    # 1 rad/s for 8 ms at 400 px is 3.2 pixels.
    assert turning.sum() == pytest.approx(clean.sum(), rel=1e-3)
    assert turning[59].max() == 0
    assert (turning[60, :, 0] > 5).sum() in (3, 4, 5)
    still = Sensor(camera, 1, 1)._motion_blur(clean, np.zeros(3))
    assert np.array_equal(still, clean)


def test_gains_drift_slowly_within_20_percent() -> None:
    sensor = Sensor(CAMERA, SEED, 1)
    gains = np.stack([sensor.gains(t * FRAME_S, 100.0) for t in range(1500)])
    assert 0.75 < gains.min() < 0.95
    assert 1.05 < gains.max() < 1.25
    assert np.abs(np.diff(gains, axis=0)).max() < 0.03


@pytest.fixture
def coarse_room(monkeypatch: pytest.MonkeyPatch, room: Room) -> None:
    """Let render_demo use the coarse room: painting the fine one takes seconds."""
    monkeypatch.setattr(demo, "build_room", lambda seed: room)


def render_small(out: Path, count: int = 5, workers: int = 1, seed: int = SEED) -> None:
    """Render the first frames of the short tour."""
    synthetic.render_demo(
        out,
        seed=seed,
        tours=("localization",),
        frames={"localization": count},
        width=160,
        height=120,
        workers=workers,
        progress=False,
    )


def files_of(out: Path) -> dict[str, bytes]:
    """Every file below out, by its relative path."""
    return {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*") if path.is_file()}


@pytest.mark.usefixtures("coarse_room")
def test_files_on_disk(tmp_path: Path, tours: dict[str, Tour]) -> None:
    render_small(tmp_path / "demo", 2)
    found = files_of(tmp_path / "demo")
    parts = [f"seq-02/frame-{k:06d}.{end}" for k in (0, 1) for end in ("color.jpg", "depth.png", "pose.txt")]
    expected = {*parts, "seq-02/stamps.txt", "camera.yaml", "TestSplit.txt", "demo_room.json"}
    assert set(found) == expected
    assert found["TestSplit.txt"] == b"sequence2\n"
    assert found["seq-02/stamps.txt"].split() == [b"0", b"0.000000000", b"1", b"0.100000000"]
    pose = np.loadtxt(tmp_path / "demo/seq-02/frame-000001.pose.txt")
    assert pose == pytest.approx(tours["localization"].map_from_camera[1], abs=1e-9)
    depth = cv2.imread(str(tmp_path / "demo/seq-02/frame-000001.depth.png"), cv2.IMREAD_UNCHANGED)
    assert depth is not None
    assert depth.dtype == np.uint16
    points = points_in_map(depth.astype(np.float64) / 1000.0, pose)
    assert points.min() > -3e-3
    image = cv2.imread(str(tmp_path / "demo/seq-02/frame-000001.color.jpg"))
    assert image is not None
    assert image.shape == (120, 160, 3)
    assert image.std() > 20
    assert b"data: [104.25, 0.0, 79.5, 0.0, 104.25, 59.5, 0.0, 0.0, 1.0]" in found["camera.yaml"]


@pytest.mark.usefixtures("coarse_room")
def test_workers_and_resuming_do_not_change_the_files(tmp_path: Path) -> None:
    render_small(tmp_path / "one", 5, workers=1)
    render_small(tmp_path / "two", 5, workers=2)
    render_small(tmp_path / "resumed", 2)
    kept = (tmp_path / "resumed/seq-02/frame-000001.color.jpg").stat().st_mtime_ns
    (tmp_path / "resumed/seq-02/frame-000000.pose.txt").unlink()
    render_small(tmp_path / "resumed", 5)
    once = files_of(tmp_path / "one")
    assert len(once) == 5 * 3 + 4
    assert files_of(tmp_path / "two") == once
    assert files_of(tmp_path / "resumed") == once
    assert (tmp_path / "resumed/seq-02/frame-000001.color.jpg").stat().st_mtime_ns == kept


@pytest.mark.usefixtures("coarse_room")
def test_other_folders_are_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(synthetic.ForeignFolderError, match=r"is not a rendered demo room"):
        render_small(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
    render_small(tmp_path / "demo", 1)
    with pytest.raises(synthetic.ForeignFolderError, match=r"seed 7 \(expected 8\)"):
        render_small(tmp_path / "demo", 1, seed=8)


def test_unknown_tours_and_empty_ones_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="unknown tour 'lap', expected one of mapping, localization"):
        synthetic.render_demo(tmp_path / "demo", tours=("lap",))
    with pytest.raises(ValueError, match="expected at least 1 frame, got 0"):
        render_small(tmp_path / "demo", 0)
    assert not (tmp_path / "demo").exists()
