"""RTAB-Map: a drive with known poses, written as `rtabmap-export` writes it, is recovered."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from import_helpers import (
    contents,
    drive,
    expect_poses,
    expect_resumed_after_full_disk,
    expect_the_room,
    read_all,
)
from recordings import CAMERA, millimetres, render

from structpose_ros.camera import Camera
from structpose_ros.cli import main
from structpose_ros.geometry import invert, quaternion_from_rotation, rotation_from_vector, transform
from structpose_ros.training.frames import RecordingError, open_recording, read_stamps
from structpose_ros.training.importers.common import Imported, Selection, write_import
from structpose_ros.training.importers.rtabmap import plan_rtabmap
from structpose_ros.training.importers.rtabmap_calibration import Calibrations, common_camera
from structpose_ros.training.registration import largest_shift

START = 1700000000.123456
ALL = Selection(test_fraction=0.0)
OPTICAL = np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])
BASE_FROM_CAMERA = transform(OPTICAL @ rotation_from_vector([0.2, 0.1, 0.0]), [0.25, -0.05, 0.4])


def numbers(values: np.ndarray) -> str:
    """Return numbers as OpenCV writes them: `525.`, `1.5000000000000000e-01`."""
    return ", ".join(f"{v:.0f}." if v == round(v) else f"{v:.16e}" for v in values.ravel().tolist())


def calibration(name: str, camera: Camera, base_from_camera: np.ndarray | None = BASE_FROM_CAMERA) -> str:
    """Return a calibration file. K and the distortion are those before rectification: not to be used."""
    raw = np.diag([camera.fx * 1.1, camera.fy * 1.1, 1.0])
    projection = np.hstack([camera.matrix, np.zeros((3, 1))])
    lines = [
        "%YAML:1.0",
        "---",
        f'camera_name: "{name}"',
        f"image_width: {camera.width}",
        f"image_height: {camera.height}",
        f"camera_matrix:\n   rows: 3\n   cols: 3\n   data: [ {numbers(raw)} ]",
        f"distortion_coefficients:\n   rows: 1\n   cols: 5\n   data: [ {numbers(np.eye(5)[0] / 10)} ]",
        "distortion_model: plumb_bob",
        f"projection_matrix:\n   rows: 3\n   cols: 4\n   data: [ {numbers(projection)} ]",
    ]
    if base_from_camera is not None:
        lines.append(
            f"local_transform:\n   rows: 3\n   cols: 4\n   data: [ {numbers(base_from_camera[:3])} ]"
        )
    return "\n".join(lines) + "\n"


def pose_line(second: float, target_from_body: np.ndarray, identity: int | None) -> str:
    values = [*target_from_body[:3, 3], *quaternion_from_rotation(target_from_body[:3, :3])]
    ending = "" if identity is None else f" {identity}"
    return f"{START + second:.6f} " + " ".join(f"{value:.6f}" for value in values) + ending


def write_export(
    root: Path,
    count: int = 4,
    *,
    by_id: bool = False,
    of_camera: bool = True,
    ids: bool = True,
    cameras: tuple[Camera, ...] = (CAMERA,),
) -> list[float]:
    """Write a drive as `room`, an image a second, ids from 3 on; cameras take turns. Returns the seconds."""
    for part in ("rgb", "depth", "calib"):
        (root / f"room_{part}").mkdir(parents=True)
    seconds = [float(number) for number in range(count)]
    lines = ["#timestamp x y z qx qy qz qw" + (" id" if ids else "")]
    for number, second in enumerate(seconds):
        camera = cameras[number % len(cameras)]
        stem = str(number + 3) if by_id else f"{START + second:.6f}"
        map_from_camera = drive(second)
        image, depth = render(camera, map_from_camera)
        cv2.imwrite(str(root / "room_rgb" / f"{stem}.jpg"), cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
        cv2.imwrite(str(root / "room_depth" / f"{stem}.png"), millimetres(depth))
        (root / "room_calib" / f"{stem}.yaml").write_text(calibration(stem, camera))
        pose = map_from_camera if of_camera else map_from_camera @ invert(BASE_FROM_CAMERA)
        lines.append(pose_line(second, pose, number + 3 if ids else None))
    if ids:
        lines.append(
            "0.000000 1.000000 0.000000 0.000000 0.000000 0.000000 0.000000 1.000000 -7"
        )  # a landmark
    (root / f"room_{'camera_' if of_camera else ''}poses.txt").write_text("\n".join(lines) + "\n")
    return seconds


def run(root: Path, out: Path, skip_bad: bool = False, camera_index: int = 0) -> Imported:
    return write_import(plan_rtabmap(root, ALL, camera_index), out, skip_bad=skip_bad)


@pytest.mark.parametrize("of_camera", [True, False])
@pytest.mark.parametrize(("by_id", "ids"), [(False, True), (False, False), (True, True)])
def test_the_drive_is_recovered(tmp_path: Path, of_camera: bool, by_id: bool, ids: bool) -> None:
    seconds = write_export(tmp_path / "export", by_id=by_id, of_camera=of_camera, ids=ids)
    assert run(tmp_path / "export", tmp_path / "out") == Imported(4, [])
    assert open_recording(tmp_path / "out").camera == CAMERA
    frames = read_all(tmp_path / "out")
    expect_poses(frames, [drive(second) for second in seconds], metres=4e-6)
    for read, second in zip(frames, seconds, strict=True):
        np.testing.assert_array_equal(read.depth_mm, millimetres(render(CAMERA, drive(second))[1]))
    expect_the_room(tmp_path / "out", levels=4)
    first = 3 if by_id else 0
    assert [read.name for read in frames] == [f"seq-01/frame-{first + n:06d}" for n in range(4)]
    read_back = read_stamps(tmp_path / "out" / "seq-01")
    np.testing.assert_allclose(list(read_back.values()), [START + s for s in seconds], atol=1e-6)
    written = sorted((tmp_path / "out" / "seq-01").glob("*.color.jpg"))
    sources = sorted((tmp_path / "export" / "room_rgb").iterdir())
    assert [path.read_bytes() for path in written] == [path.read_bytes() for path in sources]


def test_poses_of_the_camera_come_first(tmp_path: Path) -> None:
    seconds = write_export(tmp_path / "export")
    (tmp_path / "export" / "room_poses.txt").write_text(pose_line(0.0, np.eye(4), 3))
    run(tmp_path / "export", tmp_path / "out")
    expect_poses(read_all(tmp_path / "out"), [drive(second) for second in seconds])


def test_several_cameras_stand_side_by_side(tmp_path: Path) -> None:
    root, second_camera = tmp_path / "export", Camera(64, 48, 50.0, 52.0, 30.0, 25.0)
    mounts = (
        BASE_FROM_CAMERA,
        transform(rotation_from_vector([0.0, 0.0, 2.0]), [0, 0, 0.1]) @ BASE_FROM_CAMERA,
    )
    for part in ("rgb", "depth", "calib"):
        (root / f"room_{part}").mkdir(parents=True)
    lines: list[list[str]] = [[], [], []]
    truth: list[list[np.ndarray]] = [[], []]
    for number in range(3):
        stem = f"{START + number:.6f}"
        map_from_base = drive(number) @ invert(mounts[0])
        views = []
        for index, camera in enumerate((CAMERA, second_camera)):
            truth[index].append(map_from_base @ mounts[index])
            views.append(render(camera, truth[index][-1]))
            (root / "room_calib" / f"{stem}_{index}.yaml").write_text(
                calibration(f"{stem}_{index}", camera, mounts[index])
            )
            lines[index].append(pose_line(number, truth[index][-1], number + 1))
        lines[2].append(pose_line(number, map_from_base, number + 1))
        image, depth = (np.concatenate(parts, axis=1) for parts in zip(*views, strict=True))
        cv2.imwrite(str(root / "room_rgb" / f"{stem}.jpg"), cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
        cv2.imwrite(str(root / "room_depth" / f"{stem}.png"), millimetres(depth))
    for name, of_file in zip(("camera_poses_0", "camera_poses_1", "poses"), lines, strict=True):
        (root / f"room_{name}.txt").write_text("\n".join(of_file))
    for index, camera in enumerate((CAMERA, second_camera)):
        run(root, tmp_path / f"out-{index}", camera_index=index)
        assert open_recording(tmp_path / f"out-{index}").camera == camera
        expect_poses(read_all(tmp_path / f"out-{index}"), truth[index])
        expect_the_room(tmp_path / f"out-{index}", levels=4)
    (root / "room_camera_poses_1.txt").unlink()
    run(root, tmp_path / "out-base", camera_index=1)
    expect_poses(read_all(tmp_path / "out-base"), truth[1], metres=4e-6)
    with pytest.raises(RecordingError, match=r"camera_index: expected 0 .. 1, got 2"):
        run(root, tmp_path / "other", camera_index=2)


def test_a_smaller_depth_shows_the_same_view(tmp_path: Path) -> None:
    write_export(tmp_path / "export", 2)
    smaller = [millimetres(render(CAMERA.resized(16, 12), drive(second))[1]) for second in range(2)]
    for path, depth in zip(sorted((tmp_path / "export" / "room_depth").iterdir()), smaller, strict=True):
        cv2.imwrite(str(path), depth)
    run(tmp_path / "export", tmp_path / "out")
    for read, depth in zip(read_all(tmp_path / "out"), smaller, strict=True):
        np.testing.assert_array_equal(read.depth_mm, depth.repeat(4, axis=0).repeat(4, axis=1))


def test_where_the_focus_moved_images_are_brought_to_one_camera(tmp_path: Path) -> None:
    cameras = [Camera(64, 48, 60.0 + d, 60.0 + d, 31.5 + d / 4, 23.5 - d / 4) for d in (-3.0, 0.0, 0.2, 4.0)]
    seconds = write_export(tmp_path / "export", cameras=tuple(cameras))
    run(tmp_path / "export", tmp_path / "out")
    camera = open_recording(tmp_path / "out").camera
    assert (camera.fx, camera.cx, camera.cy) == (60.1, pytest.approx(31.525), pytest.approx(23.475))
    expect_poses(read_all(tmp_path / "out"), [drive(second) for second in seconds])
    expect_the_room(tmp_path / "out", levels=4, share=0.85)
    for number, read in enumerate(read_all(tmp_path / "out")):
        kept = (tmp_path / "out" / "seq-01" / f"frame-{number:06d}.color.jpg").exists()
        assert kept == (largest_shift(cameras[number], camera) <= 0.5)
        true = millimetres(render(camera, drive(number))[1])
        seen = read.depth_mm > 0
        assert np.percentile(np.abs(read.depth_mm[seen].astype(int) - true[seen]), 95) < 40


def test_what_opencv_writes_is_read(tmp_path: Path) -> None:
    path = tmp_path / "1.yaml"
    storage = cv2.FileStorage(str(path), cv2.FileStorage_WRITE)
    storage.write("camera_name", "1700000000.5")
    storage.write("image_width", 640)
    storage.write("image_height", 480)
    matrices = {"camera_matrix": np.array([[525.25, 0, 319.5], [0, 524.125, 239.5], [0, 0, 1.0]])}
    matrices["local_transform"] = transform(OPTICAL, [1e-5, -0.25, 1 / 3])[:3]
    for name, matrix in matrices.items():
        storage.startWriteStruct(name, cv2.FileNode_MAP)
        storage.write("rows", matrix.shape[0])
        storage.write("cols", matrix.shape[1])
        storage.startWriteStruct("data", cv2.FileNode_SEQ | cv2.FileNode_FLOW)
        for value in matrix.ravel().tolist():
            storage.write("", value)
        storage.endWriteStruct()
        storage.endWriteStruct()
    storage.release()
    assert path.read_text().startswith("%YAML")
    read = Calibrations().read(path)
    assert read.camera == Camera(640, 480, 525.25, 524.125, 319.5, 239.5)
    assert read.base_from_camera is not None
    np.testing.assert_allclose(read.base_from_camera[:3], matrices["local_transform"], atol=1e-12)


def test_cameras_of_several_sizes() -> None:
    with pytest.raises(RecordingError, match="expected images of one size, got 32x24 and 64x48"):
        common_camera([CAMERA, CAMERA.resized(32, 24)])


def test_one_of_several_exports(tmp_path: Path) -> None:
    write_export(tmp_path / "export", 2)
    (tmp_path / "export" / "hall_rgb").mkdir()
    with pytest.raises(RecordingError, match=r"expected one export in .*, got hall, room: give .*/hall"):
        run(tmp_path / "export", tmp_path / "out")
    assert run(tmp_path / "export" / "room", tmp_path / "out").frames == 2


def test_what_is_no_export(tmp_path: Path) -> None:
    with pytest.raises(RecordingError, match=r"expected NAME_rgb and NAME_depth .* got none"):
        run(tmp_path, tmp_path / "out")
    with pytest.raises(RecordingError, match=r"expected NAME_rgb and NAME_depth .* got none"):
        run(tmp_path / "absent" / "room", tmp_path / "out")
    (tmp_path / "room_left").mkdir()
    with pytest.raises(RecordingError, match="got room_left, of a stereo camera"):
        run(tmp_path, tmp_path / "out")
    (tmp_path / "room_rgb").mkdir()
    with pytest.raises(RecordingError, match="expected images named by stamp or id"):
        run(tmp_path, tmp_path / "out")
    (tmp_path / "room_rgb" / "3.jpg").write_bytes(b"")
    with pytest.raises(
        RecordingError, match=r"expected room_camera_poses.txt or .* export --poses_camera too"
    ):
        run(tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_images_by_id_need_poses_with_ids(tmp_path: Path) -> None:
    write_export(tmp_path / "export", by_id=True, ids=False)
    with pytest.raises(RecordingError, match=r"got none of 4: room_rgb/3.jpg: .*need --poses_format 11"):
        run(tmp_path / "export", tmp_path / "out", skip_bad=True)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            "1 0 0 0 0 1 0 0 0 0 1 0",
            r"poses.txt:7: expected 'timestamp x y z qx qy qz qw \[id\]', got '1 0 0",
        ),
        ("1 0 0 zero 0 0 0 1", r"poses.txt:7: expected a number, got 'zero'"),
        ("1 0 0 0 0 0 0 0 9", r"poses.txt:7: expected a quaternion of length 1, got one of 0"),
    ],
)
def test_malformed_poses(tmp_path: Path, line: str, message: str) -> None:
    write_export(tmp_path / "export")
    with (tmp_path / "export" / "room_camera_poses.txt").open("a") as file:
        file.write(line + "\n")
    with pytest.raises(RecordingError, match=message):
        run(tmp_path / "export", tmp_path / "out", skip_bad=True)


def test_bad_frames(tmp_path: Path) -> None:
    root = tmp_path / "export"
    write_export(root, 9, by_id=True, of_camera=False)
    poses = (root / "room_poses.txt").read_text().splitlines()
    (root / "room_poses.txt").write_text("\n".join(line for line in poses if not line.endswith(" 4")))
    calibrations, depths = root / "room_calib", root / "room_depth"
    (calibrations / "5.yaml").unlink()
    (calibrations / "6.yaml").write_text("image_width: 64\nimage_height: 48\n")
    (calibrations / "7.yaml").write_text(calibration("7", CAMERA, None))
    cv2.imwrite(str(depths / "8.png"), np.ones((24, 64), np.uint16))
    cv2.imwrite(str(depths / "9.png"), np.ones((96, 128), np.uint16))
    cv2.imwrite(str(root / "room_rgb" / "10.jpg"), np.zeros((24, 32, 3), np.uint8))
    (depths / "11.png").unlink()
    with pytest.raises(RecordingError) as raised:
        run(root, tmp_path / "out")
    for message in (
        "4 of 9 frames are bad: room_rgb/4.jpg: expected its pose in room_poses.txt, got none",
        "5.yaml: expected an image's calibration, got nothing",
        "6.yaml: expected a calibration of RTAB-Map, got: no 'camera_matrix'",
        "room_rgb/7.jpg: expected local_transform in its calibration, got none",
    ):
        assert message in str(raised.value)
    assert not (tmp_path / "out").exists()
    imported = run(root, tmp_path / "out", skip_bad=True)
    assert imported.frames == 1
    for line, message in zip(
        imported.bad[4:],
        (
            "8.png: expected 64x48 or a part of it, got 64x24",
            "9.png: expected 64x48 or a part of it, got 128x96",
            "10.jpg: expected 64x48 as its calibration says, got 32x24",
            "11.png: expected a depth image, got nothing",
        ),
        strict=True,
    ):
        assert message in line
    assert [read.name for read in read_all(tmp_path / "out")] == ["seq-01/frame-000003"]


@pytest.mark.parametrize("text", ["", "[1, 2]", "{", "\xff", "image_width: {"])
def test_what_is_no_calibration(tmp_path: Path, text: str) -> None:
    (tmp_path / "1.yaml").write_text(text)
    with pytest.raises(RecordingError, match=r"1.yaml: expected a calibration of RTAB-Map, got: ") as raised:
        Calibrations().read(tmp_path / "1.yaml")
    assert "\n" not in str(raised.value)


def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_export(tmp_path / "export", 3, cameras=(CAMERA, Camera(64, 48, 65.0, 65.0, 31.5, 23.5)))
    expect_resumed_after_full_disk(lambda out: run(tmp_path / "export", out), tmp_path, monkeypatch)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_export(tmp_path / "export", 10)
    command = ["import", "rtabmap", str(tmp_path / "export"), str(tmp_path / "out"), "--camera-index", "0"]
    command += ["--test-fraction", "0.2", "--test-blocks", "1", "--test-gap", "0"]
    assert main(command) == 0
    assert "wrote 10 frames" in capsys.readouterr().out
    expect_poses(read_all(tmp_path / "out", "test"), [drive(4.0), drive(5.0)])
    before = contents(tmp_path / "out")
    assert main(command) == 0
    assert contents(tmp_path / "out") == before
