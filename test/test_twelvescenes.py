"""12-Scenes: a miniature in its layout, with colour and depth cameras as in the scenes, and with others."""

from __future__ import annotations

import errno
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from recordings import render
from twelvescenes_files import COLOR, DEPTH, SPLIT, matrix, write_scene

from structpose_ros import cli
from structpose_ros.camera import Camera
from structpose_ros.geometry import invert, pose_error, rotation_from_vector, transform
from structpose_ros.training.frames import RecordingError, open_recording
from structpose_ros.training.importers.twelvescenes import (
    SceneInfo,
    import_12scenes,
    plan_12scenes,
    read_info,
    read_sequences,
)


def tree(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_what_was_rendered_comes_out(tmp_path: Path) -> None:
    truth = write_scene(tmp_path / "apt1" / "kitchen")
    imported = import_12scenes(tmp_path / "apt1" / "kitchen", tmp_path / "out")
    assert (imported.frames, list(imported.bad)) == (5, [])
    recording = open_recording(tmp_path / "out")
    camera = recording.camera
    assert (camera.width, camera.height) == (80, 60)
    assert camera.fx == pytest.approx(COLOR.fx * 80 / 162)
    assert camera.fy == pytest.approx(COLOR.fy * 60 / 121)
    assert (camera.cx, camera.cy) == pytest.approx((81.1875 * 80 / 162 - 0.5, 60.5 * 60 / 121 - 0.5))
    names = {split: [item.name for item in recording.files(split)[0]] for split in ("train", "test")}
    assert names == {
        "test": ["seq-01/frame-000000", "seq-01/frame-000001"],  # the first sequence
        "train": ["seq-02/frame-000002", "seq-02/frame-000003", "seq-02/frame-000004"],
    }
    for split in names:
        for item in recording.files(split)[0]:
            frame = recording.read(item)
            true_pose = truth[int(item.name[-1])]
            position, rotation = pose_error(frame.map_from_camera, true_pose)
            assert position < 1e-6
            assert rotation < 1e-5
            true_image, _ = render(camera, true_pose)
            _, seen_by_depth_camera = render(DEPTH, true_pose)
            # Depth is kept as it was recorded; the image is resized, whatever its proportions.
            np.testing.assert_allclose(frame.depth_mm, 1000 * seen_by_depth_camera, atol=0.6)
            assert np.abs(frame.image_rgb.astype(int) - true_image).mean() < 1.5


def test_the_cameras_of_the_scenes_coincide() -> None:
    """The numbers of info.txt as published in code that reads it."""
    color = Camera(1296, 968, 1158.3, 1153.53, 649.0, 483.5)
    depth = Camera(640, 480, 572.0, 572.0, 320.0, 240.0)
    assert SceneInfo(color, depth, np.eye(4), 1e-3).is_registered()
    resized = color.resized(640, 480)
    assert (resized.fx, resized.fy, resized.cx, resized.cy) == pytest.approx((572, 572, 320, 240), abs=0.51)
    for moved in (
        replace(depth, cx=322.0),
        replace(depth, fx=576.0),
        replace(depth, fy=568.0),
    ):
        assert not SceneInfo(color, moved, np.eye(4), 1e-3).is_registered()
    for color_from_depth in (
        transform(np.eye(3), [0.03, 0, 0]),
        transform(rotation_from_vector([0, 0.01, 0]), [0, 0, 0]),
        transform(rotation_from_vector([0, 3.1, 0]), [0, 0, 0]),
    ):
        assert not SceneInfo(color, depth, color_from_depth, 1e-3).is_registered()


@pytest.mark.parametrize("per_metre", [1000, 5000])
def test_depth_of_another_camera_is_registered(per_metre: int, tmp_path: Path) -> None:
    color_from_depth = transform(rotation_from_vector([0.01, -0.02, 0.005]), [0.05, -0.01, 0.02])
    depth_camera = replace(DEPTH, fx=66.0, fy=67.0)  # sees more than the colour camera
    truth = write_scene(tmp_path / "scene", depth_camera, color_from_depth, per_metre)
    import_12scenes(tmp_path / "scene", tmp_path / "out")
    recording = open_recording(tmp_path / "out")
    for item in recording.files("train")[0]:
        frame = recording.read(item)
        _, true_depth = render(recording.camera, truth[int(item.name[-1])])
        seen = frame.depth_mm > 0
        assert 0.6 < seen.mean() < 1
        error = np.abs(frame.depth_mm / 1000 - true_depth)[seen]
        assert np.median(error) < 0.01
        assert np.percentile(error, 99) < 0.08


@given(
    vectors=st.lists(st.tuples(*[st.floats(-1, 1)] * 6), min_size=2, max_size=2),
    focal=st.floats(20, 2000),
    shift=st.sampled_from([1000, 5000]),
)
@settings(max_examples=25, deadline=None)
def test_info_is_read_as_written(
    vectors: list[tuple[float, ...]], focal: float, shift: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    device_from_color, device_from_depth = (
        transform(rotation_from_vector(vector[:3]), vector[3:]) for vector in vectors
    )
    path = tmp_path_factory.getbasetemp() / "info.txt"
    intrinsic = np.diag([focal, focal + 1, 1, 1])
    intrinsic[:2, 2] = 30, 20
    lines = [
        *("m_colorWidth = 90", "m_colorHeight = 60", "m_depthWidth = 64", "m_depthHeight = 48"),
        f"m_depthShift = {shift}",
        "m_sensorName = an iPad = of ours",
        f"m_calibrationColorIntrinsic = {matrix(intrinsic)}",
        f"m_calibrationDepthIntrinsic = {matrix(intrinsic / [[2], [2], [1], [1]])}",
        f"m_calibrationColorExtrinsic = {matrix(device_from_color)}",
        f"m_calibrationDepthExtrinsic = {matrix(device_from_depth)}",
    ]
    path.write_text("\n".join(lines))
    info = read_info(path)
    assert info.color_camera == Camera(90, 60, focal, focal + 1, 30, 20)
    assert info.depth_camera == Camera(64, 48, focal / 2, (focal + 1) / 2, 15, 10)
    assert info.depth_unit == 1 / shift
    np.testing.assert_allclose(device_from_color @ info.color_from_depth, device_from_depth, atol=1e-9)


def test_frames_without_a_pose_are_left_out(tmp_path: Path) -> None:
    write_scene(tmp_path / "scene")
    for number, text in ((1, "-1.#INF " * 4 + "\n"), (3, "-inf " * 16), (4, "nan " * 16)):
        (tmp_path / "scene" / "data" / f"frame-00000{number}.pose.txt").write_text(text)
    imported = import_12scenes(tmp_path / "scene", tmp_path / "out")
    assert (imported.frames, list(imported.bad)) == (2, [])
    assert '"frames_without_pose": 3' in (tmp_path / "out" / "import.json").read_text()


def test_bad_frames_are_named(tmp_path: Path) -> None:
    write_scene(tmp_path / "scene", count=6)
    data = tmp_path / "scene" / "data"
    (data / "frame-000000.depth.png").unlink()
    (data / "frame-000001.pose.txt").write_text("1 2 3")
    with pytest.raises(
        RecordingError,
        match=r"3 of 6 .*frame-000000: expected color, depth and pose, got no depth; .*frame-000001.pose.txt"
        r": expected a 4x4 .*; data/frame-000005: expected a frame of a sequence in split.txt",
    ):
        import_12scenes(tmp_path / "scene", tmp_path / "out")
    (data / "frame-000002.color.jpg").write_bytes(b"\xff\xd8half")
    cv2.imwrite(str(data / "frame-000003.depth.png"), np.zeros((121, 162), np.uint16))
    imported = import_12scenes(tmp_path / "scene", tmp_path / "out", skip_bad=True)
    assert imported.frames == 1
    assert len(imported.bad) == 5
    assert "frame-000003.depth.png: expected 80x60 as its camera says, got 162x121" in imported.bad[-1]
    cv2.imwrite(str(data / "frame-000002.color.jpg"), np.zeros((60, 80, 3), np.uint8))
    imported = import_12scenes(tmp_path / "scene", tmp_path / "other", skip_bad=True)
    assert "frame-000002.color.jpg: expected 162x121 as its camera says, got 80x60" in imported.bad[-2]


def test_what_is_no_scene(tmp_path: Path) -> None:
    with pytest.raises(RecordingError, match="expected a scene of 12-Scenes .* got none"):
        plan_12scenes(tmp_path)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("m_depthShift = 1000", "", "expected a line 'm_depthShift = ...', got none"),
        ("m_depthShift = 1000", "m_depthShift = 0", "expected an m_depthShift above 0, got 0"),
        ("m_colorWidth = 162", "m_colorWidth = wide", "expected numbers for m_colorWidth"),
        ("m_colorWidth = 162", "m_colorWidth = 1e12", "expected images of at most 20000 px"),
        ("m_colorWidth = 162", "m_colorWidth = 0", "expected an image size of at least 1x1"),
        ("Extrinsic = 1 0", "Extrinsic = 2 0", "expected rigid extrinsics"),
        ("Extrinsic = 1 0", "Extrinsic = 1", "expected 16 finite numbers for m_calibrationColorExtrinsic"),
        ("Intrinsic = 144", "Intrinsic = -144", "expected focal lengths above 0 px"),
        ("Intrinsic = 144", "Intrinsic = nan 144", "expected 16 finite numbers"),
    ],
)
def test_a_bad_info_is_named(old: str, new: str, message: str, tmp_path: Path) -> None:
    write_scene(tmp_path / "scene", count=0)
    path = tmp_path / "scene" / "info.txt"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(RecordingError, match=f"info.txt: {message}"):
        read_info(path)


def test_sequences(tmp_path: Path) -> None:
    path = tmp_path / "split.txt"
    path.write_text(SPLIT.replace("\n", "\r\n") + "\n")
    assert read_sequences(path) == {0: (0, 1), 1: (2, 4)}
    path.write_text("sequence0 [frames=2]\n")
    with pytest.raises(
        RecordingError, match=r"split.txt: line 1: expected 'sequence0 \[frames=N\] .*got 'sequ"
    ):
        read_sequences(path)
    path.write_text("")
    with pytest.raises(RecordingError, match="expected a line for each sequence, got none"):
        read_sequences(path)


def test_a_full_disk_at_any_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_scene(tmp_path / "scene", count=3)
    import_12scenes(tmp_path / "scene", tmp_path / "undisturbed")
    expected = tree(tmp_path / "undisturbed")
    write_bytes = Path.write_bytes
    for failing in range(len(expected)):
        out = tmp_path / f"out{failing}"
        calls: list[Path] = []

        def fill(path: Path, content: bytes, failing: int = failing, calls: list[Path] = calls) -> int:
            calls.append(path)
            if len(calls) > failing:
                write_bytes(path, content[: len(content) // 2])
                raise OSError(errno.ENOSPC, "No space left on device")
            return write_bytes(path, content)

        monkeypatch.setattr(Path, "write_bytes", fill)
        with pytest.raises(OSError, match="No space left"):
            import_12scenes(tmp_path / "scene", out)
        monkeypatch.setattr(Path, "write_bytes", write_bytes)
        kept = tree(out)
        assert {name: expected[name] for name in kept} == kept  # whole files alone
        assert import_12scenes(tmp_path / "scene", out).frames == 3
        assert tree(out) == expected


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    truth = write_scene(tmp_path / "scene")
    assert cli.main(["import", "12scenes", str(tmp_path / "scene"), str(tmp_path / "out")]) == 0
    assert capsys.readouterr().out == f"wrote 5 frames to {tmp_path / 'out'}\n"
    recording = open_recording(tmp_path / "out")
    frame = recording.read(recording.files("test")[0][1])
    assert pose_error(frame.map_from_camera, truth[1])[0] < 1e-6
    np.testing.assert_allclose(invert(frame.map_from_camera) @ truth[1], np.eye(4), atol=1e-6)
    assert cli.main(["import", "12scenes", str(tmp_path), str(tmp_path / "other")]) == 1
    assert capsys.readouterr().err.startswith("structpose: error: expected a scene of 12-Scenes")
