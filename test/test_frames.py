"""Recordings on disk: what is read is what was written, and what is damaged is named."""

from __future__ import annotations

import dataclasses
import errno
from pathlib import Path

import cv2
import numpy as np
import pytest
from import_helpers import CUT_OFF
from recordings import CAMERA, frame, pose, poses, write_recording

from structpose_ros.camera import Camera
from structpose_ros.training import dataset, frame_store
from structpose_ros.training import frames as under_test
from structpose_ros.training.config import InputConfig
from structpose_ros.training.dataset import scene_statistics
from structpose_ros.training.frame_store import FrameStore, build_store, remove_store
from structpose_ros.training.frames import (
    RecordingError,
    handle_bad,
    open_recording,
    read_camera,
    read_color,
    read_depth,
    read_pose,
    write_atomic,
    write_camera,
    write_frame,
)
from structpose_ros.training.labels import Labels


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_recording(tmp_path / "room", train=4, test=2)


def test_what_was_written_is_read(root: Path) -> None:
    recording = open_recording(root)
    assert recording.camera == CAMERA
    assert recording.name == "room"
    files, bad = recording.files("train")
    assert [item.name for item in files] == [f"seq-01/frame-00000{number}" for number in range(4)]
    assert bad == []
    for item, map_from_camera in zip(files, poses(4, 1), strict=True):
        expected = frame(item.name, map_from_camera)
        read = recording.read(item)
        np.testing.assert_array_equal(read.image_rgb, expected.image_rgb)
        np.testing.assert_array_equal(read.depth_mm, expected.depth_mm)
        np.testing.assert_allclose(read.map_from_camera, map_from_camera, atol=1e-15)
    assert [item.name[:6] for item in recording.files("test")[0]] == ["seq-02", "seq-02"]


def test_jpeg_bytes_are_kept_as_they_are(tmp_path: Path) -> None:
    shown = frame("", pose(0.0, 0.0, 0.0))
    content = cv2.imencode(".jpg", shown.image_rgb)[1].tobytes()
    write_frame(tmp_path, 3, shown, content)
    assert (tmp_path / "frame-000003.color.jpg").read_bytes() == content


@pytest.mark.parametrize(
    "camera",
    [
        CAMERA,
        Camera(640, 480, 520.5, 521.25, 318.125, 240.5, "plumb_bob", (-0.1, 0.02, 1e-4, -2e-4, 0.003)),
        Camera(640, 480, 400, 400, 320, 240, "rational_polynomial", (0.1, 0.2, 0, 0, 0.3, 0.4, 0.5, 0.6)),
        Camera(640, 480, 300, 300, 320, 240, "equidistant", (0.1, -0.02, 0.003, -0.0004)),
        Camera(640, 480, 300, 300, 320, 240, "plumb_bob", tuple(np.array([0.1, -0.02, 0.003, -0.0004]))),
    ],
)
def test_camera_file_round_trip(camera: Camera, tmp_path: Path) -> None:
    write_camera(tmp_path / "camera.yaml", camera)
    assert read_camera(tmp_path / "camera.yaml") == camera


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[1, 2", "expected a ROS camera_info YAML file, got: while parsing a flow sequence"),
        ("image_width: 64", "expected a ROS camera_info YAML file, got: no 'camera_matrix'"),
        ("64", "expected a ROS camera_info YAML file, got: 'int' object is not"),
        ("{image_width: 64, image_height: 48, camera_matrix: {data: [1, 2]}}", "expected 9 finite numbers"),
        (
            "{image_width: 64, image_height: 48, camera_matrix: {data: [0, 0, 0, 0, 0, 0, 0, 0, 1]}}",
            "expected focal lengths above 0",
        ),
        (
            "{image_width: 64, image_height: 48, distortion_model: magic, "
            "camera_matrix: {data: [9, 0, 3, 0, 9, 3, 0, 0, 1]}}",
            "got 'magic'",
        ),
    ],
)
def test_bad_camera_file(text: str, expected: str, tmp_path: Path) -> None:
    path = tmp_path / "camera.yaml"
    path.write_text(text)
    with pytest.raises(RecordingError, match=expected) as caught:
        read_camera(path)
    assert "\n" not in str(caught.value)


def test_invalid_depths_are_zero(tmp_path: Path) -> None:
    stored = np.array([[0, 65535, 1, 65534]], dtype=np.uint16)
    cv2.imwrite(str(tmp_path / "d.png"), stored)
    np.testing.assert_array_equal(read_depth(tmp_path / "d.png"), [[0, 0, 1, 65534]])


def test_depth_of_another_kind_is_refused(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "d.png"), np.zeros((4, 4, 3), dtype=np.uint8))
    with pytest.raises(RecordingError, match=r"expected one channel of uint16 mm, got uint8 \(4, 4, 3\)"):
        read_depth(tmp_path / "d.png")


@pytest.mark.parametrize("ending", [".png", ".jpg"])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.99])
def test_an_image_that_was_cut_off_is_refused(ending: str, share: float, tmp_path: Path) -> None:
    path = tmp_path / f"frame{ending}"
    content = cv2.imencode(ending, frame("", pose(0.0, 0.0, 0.0)).image_rgb)[1].tobytes()
    path.write_bytes(content)
    assert read_color(path).shape == (48, 64, 3)
    cut = int(share * len(content))
    path.write_bytes(content[:cut])
    with pytest.raises(RecordingError, match=f"frame{ending}: {CUT_OFF}"):
        read_color(path)


@pytest.mark.parametrize(
    "text",
    ["", "1 2 3", "nan " * 16, "1 0 0 0 0 1 0 0 0 0 2 0 0 0 0 1", "1 0 0 0 0 1 0 0 0 0 1 0 0 0 0 one"],
)
def test_bad_pose_file(text: str, tmp_path: Path) -> None:
    path = tmp_path / "pose.txt"
    path.write_text(text)
    with pytest.raises(RecordingError, match="expected a 4x4 rigid pose in metres, got"):
        read_pose(path)


def test_incomplete_frames_are_named(root: Path) -> None:
    (root / "seq-01" / "frame-000001.depth.png").unlink()
    (root / "seq-01" / "frame-000002.color.png").unlink()
    (root / "seq-01" / "frame-000002.pose.txt").unlink()
    files, bad = open_recording(root).files("train")
    assert [item.name for item in files] == ["seq-01/frame-000000", "seq-01/frame-000003"]
    assert bad == [
        "seq-01/frame-000001: expected color, depth and pose, got no depth",
        "seq-01/frame-000002: expected color, depth and pose, got no color and no pose",
    ]
    with pytest.raises(RecordingError, match=r"2 of 4 frames are bad: seq-01/frame-000001.*--skip-bad"):
        handle_bad(bad, 4, skip_bad=False)
    handle_bad(bad, 4, skip_bad=True)


def test_damaged_frames_are_named_counted_and_left_out(root: Path, tmp_path: Path) -> None:
    folder = root / "seq-01"
    (folder / "frame-000000.color.png").write_bytes(b"no image")
    cv2.imwrite(str(folder / "frame-000001.depth.png"), np.ones((24, 32), dtype=np.uint16))
    (folder / "frame-000002.pose.txt").write_text("1 2 3")
    recording = open_recording(root)
    files, _ = recording.files("train")
    with pytest.raises(
        RecordingError, match=r"3 of 4 frames are bad: .*frame-000000.color.png: expected a JPEG or PNG"
    ):
        build_store(tmp_path / "store", recording, files, InputConfig(64, 48), skip_bad=False)
    assert not (tmp_path / "store").exists()
    store = build_store(tmp_path / "store", recording, files, InputConfig(64, 48), skip_bad=True)
    assert [item.name for item in store] == ["seq-01/frame-000003"]
    assert len(store.bad) == 3
    assert "expected 64x48 as its camera says, got 32x24" in store.bad[1]


def test_a_dangling_link_is_a_bad_frame(root: Path, tmp_path: Path) -> None:
    for number, part in enumerate(("color.png", "depth.png", "pose.txt")):
        path = root / "seq-01" / f"frame-{number:06d}.{part}"
        path.unlink()
        path.symlink_to(tmp_path / "gone")
    recording = open_recording(root)
    done: list[int] = []
    store = build_store(
        tmp_path / "store",
        recording,
        recording.files("train")[0],
        InputConfig(64, 48),
        skip_bad=True,
        progress=lambda n, _: done.append(n),
    )
    assert [item.name for item in store] == ["seq-01/frame-000003"]
    bad = store.bad
    assert bad[0].endswith("frame-000000.color.png: expected an image, got nothing")
    assert bad[1].endswith("frame-000001.depth.png: expected a depth image, got nothing")
    assert "frame-000002.pose.txt: expected a 4x4 rigid pose" in bad[2]
    assert done == [1, 2, 3, 4]


def test_a_store_holds_what_the_recording_does(root: Path, tmp_path: Path) -> None:
    recording = open_recording(root)
    files, _ = recording.files("train")
    store = build_store(tmp_path / "store", recording, files, InputConfig(64, 48), skip_bad=False)
    again = FrameStore(tmp_path / "store")
    assert len(store) == len(again) == 4
    for item, kept, reopened in zip(files, store, again, strict=True):
        read = recording.read(item)
        for found in (kept, reopened):
            assert found.name == read.name
            np.testing.assert_array_equal(found.image_rgb, read.image_rgb)
            np.testing.assert_array_equal(found.depth_mm, read.depth_mm)
            np.testing.assert_array_equal(found.map_from_camera, read.map_from_camera)
    some = store.named([files[3].name, files[1].name, "seq-01/frame-000099"])
    assert [item.name for item in some] == [files[1].name, files[3].name]
    assert [item.name for item in store[1:3]] == [files[1].name, files[2].name]


def test_a_store_is_made_anew_only_where_its_files_have_changed(root: Path, tmp_path: Path) -> None:
    recording = open_recording(root)
    files, _ = recording.files("train")
    read: list[int] = []

    def build(width: int = 64) -> FrameStore:
        read.clear()
        return build_store(
            tmp_path / "store",
            recording,
            files,
            InputConfig(width, 48),
            skip_bad=False,
            progress=lambda n, _: read.append(n),
        )

    build()
    assert read == [1, 2, 3, 4]
    build()
    assert read == []
    assert build(56)[0].image_rgb.shape == (48, 56, 3)
    assert read == [1, 2, 3, 4]
    files[2].pose.write_text(files[0].pose.read_text() + "\n")
    np.testing.assert_array_equal(build(56)[2].map_from_camera, read_pose(files[0].pose))
    assert read == [1, 2, 3, 4]
    (tmp_path / "store" / "mine.txt").write_text("kept")
    remove_store(tmp_path / "store")
    assert [path.name for path in (tmp_path / "store").iterdir()] == ["mine.txt"]


def test_a_full_disk_leaves_no_store(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recording = open_recording(root)
    files, _ = recording.files("train")
    writes: list[int] = []

    def full(*_: object) -> None:
        writes.append(1)
        if len(writes) == 5:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(frame_store, "_append", full)
    with pytest.raises(OSError, match="No space left on device"):
        build_store(tmp_path / "store", recording, files, InputConfig(64, 48), skip_bad=False)
    assert not (tmp_path / "store").exists()


def test_the_extent_of_a_large_place_is_measured_on_some_of_its_points(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    walls = [
        dataclasses.replace(frame("", pose(0.1 * n, 0.0, 0.0)), depth_mm=np.full((48, 64), 2000, np.uint16))
        for n in range(20)
    ]
    exact = scene_statistics(walls, CAMERA, CAMERA)
    monkeypatch.setattr(dataset, "POINTS_KEPT", 400)
    thinned = scene_statistics(walls, CAMERA, CAMERA)
    np.testing.assert_allclose(thinned.scene_mean, exact.scene_mean, atol=1e-9)
    assert thinned.depth_scale == pytest.approx(exact.depth_scale)
    np.testing.assert_allclose(thinned.map_min, exact.map_min, atol=0.3)
    np.testing.assert_allclose(thinned.map_max, exact.map_max, atol=0.3)


def test_no_frame_has_no_statistics() -> None:
    with pytest.raises(RecordingError, match="expected training frames, got none"):
        scene_statistics([], CAMERA, CAMERA)
    blind = dataclasses.replace(frame("", pose(0.0, 0.0, 0.0)), depth_mm=np.zeros((48, 64), dtype=np.uint16))
    with pytest.raises(RecordingError, match="expected valid depth in the training frames, got none"):
        scene_statistics([blind], CAMERA, CAMERA)


def test_statistics_are_those_of_a_wall() -> None:
    wall = dataclasses.replace(
        frame("", pose(0.5, -0.25, 0.0)), depth_mm=np.full((48, 64), 2000, dtype=np.uint16)
    )
    seen: list[tuple[np.ndarray, Labels]] = []
    frames = (item for item in [wall, wall])  # one at a time will do
    statistics = scene_statistics(frames, CAMERA, CAMERA, lambda *given: seen.append(given))
    assert [image is wall.image_rgb for image, _ in seen] == [True, True]
    assert all(labels.scene_coordinates.shape == (6, 8, 3) for _, labels in seen)
    assert statistics.depth_scale == pytest.approx(2.0)
    # The camera looks along x; 8 x 6 cells centred on the axis reach 3.5 and 2.5 cells of 8 px to each side.
    np.testing.assert_allclose(statistics.scene_mean, [2.5, -0.25, 1.2], atol=1e-6)
    reach = np.array([0.0, 2.0 * 28 / 60, 2.0 * 20 / 60])
    np.testing.assert_allclose(statistics.map_max, statistics.scene_mean + reach, atol=1e-6)
    np.testing.assert_allclose(statistics.map_min, statistics.scene_mean - reach, atol=1e-6)


def test_a_sequence_named_twice_is_read_once(root: Path) -> None:
    (root / "TrainSplit.txt").write_text("sequence1\nseq-01\n")
    assert len(open_recording(root).files("train")[0]) == 4


def test_a_lossless_image_is_preferred(root: Path) -> None:
    write_frame(root / "seq-01", 0, frame("", pose(0.0, 0.0, 0.0)), b"jpeg")
    assert open_recording(root).files("train")[0][0].color.name == "frame-000000.color.png"


@pytest.mark.parametrize(
    ("break_it", "expected"),
    [
        (lambda root: (root / "TestSplit.txt").unlink(), "expected TestSplit.txt"),
        (lambda root: (root / "TestSplit.txt").write_text("second\n"), "expected lines like 'sequence1'"),
        (lambda root: (root / "TestSplit.txt").write_bytes(b"\xff\xfe"), "expected lines like 'sequence1'"),
        (lambda root: (root / "TestSplit.txt").write_text("sequence9\n"), "expected the folder .*seq-09"),
        (lambda root: (root / "TestSplit.txt").write_text(""), "expected frames in split 'test'"),
    ],
)
def test_bad_split(break_it: object, expected: str, root: Path) -> None:
    break_it(root)  # type: ignore[operator]
    with pytest.raises(RecordingError, match=expected):
        open_recording(root).files("test")


def test_what_is_no_recording(tmp_path: Path) -> None:
    with pytest.raises(RecordingError, match=r"got nothing"):
        open_recording(tmp_path / "absent")
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(RecordingError, match=r"expected camera.yaml, or .* got \['notes.txt'\]"):
        open_recording(tmp_path)


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    write_atomic(path, b"old")

    def full(self: Path, content: bytes) -> int:
        with self.open("wb") as stream:
            stream.write(content[:1])
        raise OSError("No space left on device")

    monkeypatch.setattr(under_test.Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space"):
        write_atomic(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
