"""The cloud gathered from training labels: that of all samples at once, whatever order they come in."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from recordings import CAMERA, HIGH, LOW, colors, frame, poses, write_recording
from test_train import CONFIG

from structpose_ros.camera import resize_image
from structpose_ros.map_cloud import MapCloud
from structpose_ros.training.dataset import scene_statistics, split_validation
from structpose_ros.training.frame_store import read_resized
from structpose_ros.training.frames import RecordingError, open_recording
from structpose_ros.training.labels import Labels, sample_labels
from structpose_ros.training.map_cloud import FINEST_VOXEL, MapCloudBuilder, measure_scene

Sample = tuple[np.ndarray, Labels]


def samples(count: int, seed: int, extent: float = 1.0) -> list[Sample]:
    """Return frames of 6x8 cells of one colour each, whose labels are anywhere, a fifth of them invalid."""
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        cells = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
        points = rng.uniform(-extent, extent, (6, 8, 3))
        valid_mask = rng.random((6, 8)) < 0.8
        labels = Labels(np.ones((6, 8), np.float32), np.where(valid_mask[..., None], points, 0.0), valid_mask)
        made.append((cells.repeat(8, axis=0).repeat(8, axis=1), labels))
    return made


def cloud_of(frames: list[Sample], **limits: int) -> MapCloud:
    builder = MapCloudBuilder(**limits)
    for image_rgb, labels in frames:
        builder.add(image_rgb, labels)
    return builder.cloud()


def brute_force(frames: list[Sample], size: float) -> dict[tuple[int, ...], tuple[np.ndarray, np.ndarray]]:
    """Return mean point and mean colour of each voxel, one sample after the other."""
    members: dict[tuple[int, ...], list[np.ndarray]] = {}
    for image_rgb, labels in frames:
        for row, column in np.argwhere(labels.valid_mask):
            point = labels.scene_coordinates[row, column]
            key = tuple(int(value) for value in np.floor(point / size))
            members.setdefault(key, []).append(np.append(point, image_rgb[8 * row, 8 * column]))
    means = {key: np.mean(values, axis=0) for key, values in members.items()}
    return {key: (mean[:3], np.rint(mean[3:])) for key, mean in means.items()}


def expect_equal(
    cloud: MapCloud, truth: dict[tuple[int, ...], tuple[np.ndarray, np.ndarray]], size: float
) -> None:
    keys = [tuple(row) for row in np.floor(cloud.points.astype(np.float64) / size).astype(int).tolist()]
    assert sorted(keys) == sorted(truth)
    for key, point, color in zip(keys, cloud.points, cloud.colors, strict=True):
        np.testing.assert_allclose(point, truth[key][0], atol=1e-6)
        np.testing.assert_array_equal(color, truth[key][1])


@pytest.mark.parametrize("points", [10_000, 700, 100, 8])
def test_equals_all_samples_at_once(points: int) -> None:
    frames = samples(30, 0, extent=0.5)
    sizes = [FINEST_VOXEL * n for n in (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 15, 18, 22)]
    truths = ((size, brute_force(frames, size)) for size in sizes)
    size, truth = next(item for item in truths if len(item[1]) <= points)
    expect_equal(cloud_of(frames, points=points), truth, size)


@pytest.mark.parametrize("every", [1, 7])
def test_neither_order_nor_early_merging_matters(every: int) -> None:
    """With few voxels kept the finest ones double on the way, as often as all samples at once ask for."""
    frames = samples(40, 1, extent=0.6)
    size = FINEST_VOXEL
    while len(brute_force(frames, size)) > 300:
        size *= 2
    assert size >= 4 * FINEST_VOXEL
    for seed in (None, 1, 2):
        order = list(range(40)) if seed is None else np.random.default_rng(seed).permutation(40).tolist()
        builder = MapCloudBuilder(points=300, voxels_kept=300)
        for done, index in enumerate(order):
            builder.add(*frames[index])
            if done % every == 0:
                builder._merge()
        expect_equal(builder.cloud(), brute_force(frames, size), size)


def test_looking_at_the_cloud_on_the_way_changes_nothing() -> None:
    frames = samples(10, 2)
    builder = MapCloudBuilder(points=50)
    for image_rgb, labels in frames:
        builder.add(image_rgb, labels)
        builder.cloud()
    np.testing.assert_array_equal(builder.cloud().points, cloud_of(frames, points=50).points)


def test_the_same_frames_give_the_same_cloud() -> None:
    first, again = cloud_of(samples(5, 3)), cloud_of(samples(5, 3))
    np.testing.assert_array_equal(first.points, again.points)
    np.testing.assert_array_equal(first.colors, again.colors)
    assert first.to_metadata() == again.to_metadata()


def test_far_from_the_origin_and_far_apart() -> None:
    rng = np.random.default_rng(4)
    (image_rgb, labels), *_ = samples(1, 4)
    spread = labels.scene_coordinates * 1e6 + rng.choice([-1e7, 1e7], (6, 8, 3))
    far = dataclasses.replace(labels, scene_coordinates=np.where(labels.valid_mask[..., None], spread, 0.0))
    cloud = cloud_of([(image_rgb, far)], points=8)
    assert 1 < len(cloud.points) <= 8
    assert np.abs(cloud.points).min() > 8e6


def test_cells_without_a_label_have_no_part() -> None:
    image_rgb, labels = samples(1, 5)[0]
    blind = dataclasses.replace(labels, valid_mask=np.zeros((6, 8), dtype=bool))
    only = cloud_of([(image_rgb, labels)])
    with_blind = cloud_of([(image_rgb, blind), (image_rgb, labels), (image_rgb, blind)])
    np.testing.assert_array_equal(only.points, with_blind.points)
    assert len(only.points) == labels.valid_mask.sum()


def test_a_colour_is_the_mean_of_its_cell() -> None:
    image_rgb = np.zeros((48, 64, 3), np.uint8)
    image_rgb[:8, :4] = [200, 100, 40]
    valid_mask = np.zeros((6, 8), dtype=bool)
    valid_mask[0, 0] = True
    points = np.where(valid_mask[..., None], [1.0, 2.0, 3.0], 0.0)
    cloud = cloud_of([(image_rgb, Labels(np.ones((6, 8), np.float32), points, valid_mask))])
    np.testing.assert_array_equal(cloud.points, [[1.0, 2.0, 3.0]])
    np.testing.assert_array_equal(cloud.colors, [[100, 50, 20]])


def test_points_of_a_room_lie_on_its_walls() -> None:
    camera, rays = CAMERA.resized(320, 240), CAMERA.ray_grid(8)
    builder = MapCloudBuilder()
    for map_from_camera in poses(30, 6):
        seen = frame("", map_from_camera, camera)
        image_rgb, _ = resize_image(seen.image_rgb, camera, CAMERA.width, CAMERA.height)
        builder.add(image_rgb, sample_labels(seen.depth_mm, camera, map_from_camera, rays))
    cloud = builder.cloud()
    off_wall = np.abs(np.stack([cloud.points - LOW, cloud.points - HIGH])).min(axis=(0, 2))
    assert len(off_wall) > 1000
    # A label's depth is that of the nearest pixel, sqrt(1/2) px of 300 px away: 2.4 mm per metre of depth.
    assert np.percentile(off_wall, 98) < 0.006
    assert off_wall.max() < FINEST_VOXEL  # where two walls meet in one voxel, the mean stands off both
    error = np.abs(cloud.colors.astype(int) - colors(cloud.points))
    assert np.percentile(error, 95) <= 3  # the mean of 8x8 pixels; a few of them hold the edge of two walls


@pytest.fixture
def room(tmp_path: Path) -> Path:
    return write_recording(tmp_path / "room", train=10, test=2)


def test_a_recording_measures_as_in_training(room: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recording = open_recording(room)
    statistics, cloud = measure_scene(recording, CONFIG, skip_bad=False)
    files, _ = split_validation(recording.files("train")[0], CONFIG.validation_fraction)
    frames = [read_resized(recording, item, CONFIG.input) for item in files]
    assert len(frames) == 8
    builder = MapCloudBuilder()
    expected = scene_statistics(frames, recording.camera, CAMERA, builder.add)
    np.testing.assert_array_equal(statistics.map_max, expected.map_max)
    assert statistics.depth_scale == expected.depth_scale
    np.testing.assert_array_equal(cloud.points, builder.cloud().points)
    assert capsys.readouterr().out == ""


def test_bad_frames_are_refused_or_left_out(room: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (room / "seq-01" / "frame-000002.depth.png").write_bytes(b"")
    recording = open_recording(room)
    with pytest.raises(RecordingError, match="1 of 10 frames are bad: .*000002"):
        measure_scene(recording, CONFIG, skip_bad=False)
    capsys.readouterr()
    _, cloud = measure_scene(recording, CONFIG, skip_bad=True)
    assert len(cloud.points) > 100
    assert capsys.readouterr().out.startswith("left out: ")
    (room / "seq-01" / "frame-000003.depth.png").unlink()
    with pytest.raises(RecordingError, match="1 of 10 frames are bad: .*000003.* got no depth"):
        measure_scene(recording, CONFIG, skip_bad=False)
