"""ScanNet: a drive with known poses, written as SensReader writes it, is recovered."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from import_helpers import (
    contents,
    drive,
    expect_poses,
    expect_resumed_after_full_disk,
    expect_the_room,
    read_all,
)
from recordings import millimetres, render

from structpose_ros.camera import Camera, resize_image
from structpose_ros.cli import main
from structpose_ros.geometry import rotation_from_vector, transform
from structpose_ros.training.frames import RecordingError, open_recording, read_color
from structpose_ros.training.importers.common import Imported, Selection, write_import
from structpose_ros.training.importers.scannet import plan_scannet
from structpose_ros.training.registration import largest_shift, register_depth, resample_depth

ALL = Selection(test_fraction=0.0)
COLOR = Camera(162, 121, 146.2, 145.9, 80.79, 60.47)  # an eighth of the real ones, 1296x968 and 640x480
DEPTH = COLOR.resized(80, 60)
SENSOR_FROM_DEPTH = transform(rotation_from_vector([0.01, -0.02, 0.005]), [0.03, -0.01, 0.004])
SENSOR_FROM_COLOR = transform(rotation_from_vector([-0.01, 0.0, 0.02]), [-0.02, 0.0, 0.01])


def write_matrix(path: Path, matrix: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savetxt(path, matrix, fmt="%f")


def intrinsics(camera: Camera) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:3, :3] = camera.matrix
    return matrix


def write_scan(
    root: Path,
    count: int = 4,
    color: Camera = COLOR,
    depth: Camera = DEPTH,
    sensor_from_color: np.ndarray | None = None,
    sensor_from_depth: np.ndarray | None = None,
) -> list[np.ndarray]:
    """Write every tenth frame of a drive; returns map_from_camera of the colour camera."""
    for folder in ("color", "depth"):
        (root / folder).mkdir(parents=True)
    for name, camera in (("color", color), ("depth", depth)):
        write_matrix(root / "intrinsic" / f"intrinsic_{name}.txt", intrinsics(camera))
    mounts = [np.eye(4) if given is None else given for given in (sensor_from_color, sensor_from_depth)]
    for name, mount in zip(("color", "depth"), mounts, strict=True):
        write_matrix(root / "intrinsic" / f"extrinsic_{name}.txt", mount)
    truth = []
    for number in range(count):
        map_from_sensor = drive(number / 3)
        truth.append(map_from_sensor @ mounts[0])
        image = render(color, truth[-1])[0]
        cv2.imwrite(str(root / "color" / f"{10 * number}.jpg"), cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
        measured = millimetres(render(depth, map_from_sensor @ mounts[1])[1])
        cv2.imwrite(str(root / "depth" / f"{10 * number}.png"), measured)
        write_matrix(root / "pose" / f"{10 * number}.txt", map_from_sensor)
    return truth


def run(root: Path, out: Path, skip_bad: bool = False) -> Imported:
    return write_import(plan_scannet(root, ALL), out, skip_bad=skip_bad)


def test_the_image_is_brought_to_the_depths_size(tmp_path: Path) -> None:
    truth = write_scan(tmp_path / "scan")
    assert run(tmp_path / "scan", tmp_path / "out") == Imported(4, [])
    camera = open_recording(tmp_path / "out").camera
    assert (camera.width, camera.height) == (80, 60)
    np.testing.assert_allclose(camera.matrix, DEPTH.matrix, atol=1e-6)
    frames = read_all(tmp_path / "out")
    assert [read.name for read in frames] == [f"seq-01/frame-{10 * n:06d}" for n in range(4)]
    expect_poses(frames, truth)
    for number, read in enumerate(frames):
        source = read_color(tmp_path / "scan" / "color" / f"{10 * number}.jpg")
        np.testing.assert_array_equal(read.image_rgb, resize_image(source, COLOR, 80, 60)[0])
        np.testing.assert_array_equal(read.depth_mm, millimetres(render(DEPTH, truth[number])[1]))
    expect_the_room(tmp_path / "out", levels=4)


def test_images_of_one_size_are_kept_as_they_are(tmp_path: Path) -> None:
    truth = write_scan(tmp_path / "scan", color=DEPTH)
    run(tmp_path / "scan", tmp_path / "out")
    expect_poses(read_all(tmp_path / "out"), truth)
    for number in range(4):
        kept = tmp_path / "out" / "seq-01" / f"frame-{10 * number:06d}.color.jpg"
        assert kept.read_bytes() == (tmp_path / "scan" / "color" / f"{10 * number}.jpg").read_bytes()


@pytest.mark.parametrize(
    ("color", "depth", "sensor_from_color", "sensor_from_depth", "share"),
    [
        # Other intrinsics: a quarter of the view, for 10 % longer focal lengths, is outside.
        (COLOR, Camera(80, 60, 79.0, 79.0, 40.5, 29.0), None, None, 0.75),
        (COLOR, DEPTH, None, SENSOR_FROM_DEPTH, 0.85),
        (COLOR, DEPTH, SENSOR_FROM_COLOR, SENSOR_FROM_DEPTH, 0.8),
        # A larger depth: each pixel of colour is hit by several.
        (DEPTH, COLOR, SENSOR_FROM_COLOR, None, 0.9),
    ],
)
def test_depth_elsewhere_is_registered(
    tmp_path: Path,
    color: Camera,
    depth: Camera,
    sensor_from_color: np.ndarray | None,
    sensor_from_depth: np.ndarray | None,
    share: float,
) -> None:
    truth = write_scan(tmp_path / "scan", 3, color, depth, sensor_from_color, sensor_from_depth)
    run(tmp_path / "scan", tmp_path / "out")
    camera = open_recording(tmp_path / "out").camera
    assert (camera.width, camera.height) == (80, 60)
    frames = read_all(tmp_path / "out")
    expect_poses(frames, truth, metres=1e-5, deg=1e-3)
    for read, map_from_camera in zip(frames, truth, strict=True):
        seen = read.depth_mm > 0
        assert seen.mean() > share - 0.1
        error = np.abs(read.depth_mm[seen] - 1000 * render(camera, map_from_camera)[1][seen])
        # Points land up to half a pixel off: 1/150 of the distance sideways, on walls of up to 60 deg.
        assert np.median(error) < 8
        assert np.percentile(error, 95) < 40
    expect_the_room(tmp_path / "out", levels=6, share=share - 0.1)


def test_a_pixel_decides_whether_depth_is_registered(tmp_path: Path) -> None:
    for shift, registered in ((0.9, False), (1.1, True)):
        root = tmp_path / f"scan-{registered}"
        depth = Camera(80, 60, DEPTH.fx, DEPTH.fy, DEPTH.cx + shift, DEPTH.cy)
        write_scan(root, 1, depth=depth)
        run(root, tmp_path / f"out-{registered}")
        read = read_all(tmp_path / f"out-{registered}")[0]
        measured = millimetres(render(depth, drive(0))[1])
        if registered:
            measured = register_depth(measured, depth.ray_grid(), np.eye(4), DEPTH)
        np.testing.assert_array_equal(read.depth_mm, measured)


def test_frames_whose_tracking_was_lost_are_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    truth = write_scan(tmp_path / "scan")
    write_matrix(tmp_path / "scan" / "pose" / "10.txt", np.full((4, 4), -np.inf))
    assert plan_scannet(tmp_path / "scan", ALL).lost == 1
    command = ["import", "scannet", str(tmp_path / "scan"), str(tmp_path / "out"), "--test-fraction", "0"]
    assert main(command) == 0
    told = capsys.readouterr().out
    assert "left out: 1 frames whose tracking was lost\n" in told
    assert "wrote 3 frames" in told
    expect_poses(read_all(tmp_path / "out"), [truth[0], *truth[2:]])
    for number in (0, 20, 30):
        write_matrix(tmp_path / "scan" / "pose" / f"{number}.txt", np.full((4, 4), -np.inf))
    with pytest.raises(RecordingError, match=r"expected frames with a pose .* none of 4, tracking lost in 4"):
        plan_scannet(tmp_path / "scan", ALL)


def test_without_extrinsics_the_cameras_are_one(tmp_path: Path) -> None:
    truth = write_scan(tmp_path / "scan", 2)
    for path in (tmp_path / "scan" / "intrinsic").glob("extrinsic_*"):
        path.unlink()
    run(tmp_path / "scan", tmp_path / "out")
    expect_poses(read_all(tmp_path / "out"), truth)


@pytest.mark.parametrize("folder", ["color", "depth", "pose", "intrinsic"])
def test_a_missing_folder(tmp_path: Path, folder: str) -> None:
    write_scan(tmp_path / "scan", 1)
    (tmp_path / "scan" / folder).rename(tmp_path / "elsewhere")
    with pytest.raises(RecordingError, match=rf"expected the folders color, .* in .*scan, got no {folder}"):
        run(tmp_path / "scan", tmp_path / "out")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("intrinsic_color.txt", None, "intrinsic_color.txt: expected lines 'four numbers', got nothing"),
        ("intrinsic_depth.txt", "", "intrinsic_depth.txt: expected lines 'four numbers', got none"),
        (
            "intrinsic_depth.txt",
            "1 0 0 0\n1 0\n",
            "intrinsic_depth.txt:2: expected 'four numbers', got '1 0'",
        ),
        ("intrinsic_color.txt", "1 0 0 0\n0 1 x 0\n", "intrinsic_color.txt:2|expected a 4x4 matrix, got 2"),
        ("intrinsic_color.txt", "1 0 x 0\n" * 4, "intrinsic_color.txt:1: expected a number, got 'x'"),
        ("intrinsic_color.txt", "0 0 0 0\n" * 4, "intrinsic_color.txt: expected focal lengths above 0 px"),
        ("intrinsic_color.txt", "inf 0 0 0\n" * 4, "intrinsic_color.txt: expected finite intrinsics"),
        ("extrinsic_depth.txt", "2 0 0 0\n" * 4, "extrinsic_depth.txt: expected 0 0 0 1 as the last row"),
    ],
)
def test_a_malformed_calibration(tmp_path: Path, name: str, text: str | None, message: str) -> None:
    write_scan(tmp_path / "scan", 1)
    path = tmp_path / "scan" / "intrinsic" / name
    if text is None:
        path.unlink()
    else:
        path.write_text(text)
    with pytest.raises(RecordingError, match=message):
        run(tmp_path / "scan", tmp_path / "out", skip_bad=True)
    assert not (tmp_path / "out").exists()


def test_bad_frames(tmp_path: Path) -> None:
    root = tmp_path / "scan"
    write_scan(root, 9)
    (root / "pose" / "10.txt").unlink()
    (root / "pose" / "20.txt").write_text("1 0 0 0\n0 1 0 0\n0 0 1\n0 0 0 1\n")
    write_matrix(root / "pose" / "30.txt", np.diag([1.0, 2.0, 1.0, 1.0]))
    write_matrix(root / "pose" / "40.txt", np.full((4, 4), np.nan))
    (root / "color" / "80.jpg").write_bytes(b"\xff\xd8")
    cv2.imwrite(str(root / "color" / "50.jpg"), np.zeros((60, 80, 3), np.uint8))
    cv2.imwrite(str(root / "depth" / "60.png"), np.ones((30, 40), np.uint16))
    (root / "depth" / "70.png").unlink()
    with pytest.raises(RecordingError) as raised:
        run(root, tmp_path / "out")
    for message in (
        "4 of 9 frames are bad: ",
        "10.txt: expected lines 'four numbers', got nothing",
        "20.txt:3: expected 'four numbers', got '0 0 1'",
        "30.txt: expected a rotation in the upper left 3x3 block, got one that is off by",
        "40.txt:1: expected a number, got 'nan'",
    ):
        assert message in str(raised.value)
    assert not (tmp_path / "out").exists()
    imported = run(root, tmp_path / "out", skip_bad=True)
    assert imported.frames == 1
    for line, message in zip(
        imported.bad[4:],
        (
            "50.jpg: expected 162x121 as its camera says, got 80x60",
            "60.png: expected 80x60 as its camera says, got 40x30",
            "70.png: expected a depth image, got nothing",
            "80.jpg: expected a JPEG or PNG file, got 2 bytes",
        ),
        strict=True,
    ):
        assert message in line
    assert [read.name for read in read_all(tmp_path / "out")] == ["seq-01/frame-000000"]


def test_images_were_resized_but_not_their_intrinsics(tmp_path: Path) -> None:
    write_scan(tmp_path / "scan", 1)
    write_matrix(tmp_path / "scan" / "intrinsic" / "intrinsic_color.txt", intrinsics(COLOR.resized(324, 242)))
    with pytest.raises(
        RecordingError, match=r"intrinsic_color.txt: .* of images of 162x121, got 162.* resized"
    ):
        run(tmp_path / "scan", tmp_path / "out")


def test_no_frame_can_be_read(tmp_path: Path) -> None:
    write_scan(tmp_path / "scan", 2)
    for path in (tmp_path / "scan" / "depth").iterdir():
        path.write_bytes(b"")
    with pytest.raises(RecordingError, match=r"0.png: expected a JPEG or PNG file, got 0 bytes"):
        run(tmp_path / "scan", tmp_path / "out", skip_bad=True)


def test_a_changed_calibration_is_another_import(tmp_path: Path) -> None:
    write_scan(tmp_path / "scan", 1)
    run(tmp_path / "scan", tmp_path / "out")
    run(tmp_path / "scan", tmp_path / "out")
    write_matrix(tmp_path / "scan" / "intrinsic" / "extrinsic_depth.txt", SENSOR_FROM_DEPTH)
    with pytest.raises(RecordingError, match="expected an empty folder or the same import"):
        run(tmp_path / "scan", tmp_path / "out")


def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_scan(tmp_path / "scan", 3)
    expect_resumed_after_full_disk(lambda out: run(tmp_path / "scan", out), tmp_path, monkeypatch)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    truth = write_scan(tmp_path / "scan", 10)
    command = ["import", "scannet", str(tmp_path / "scan"), str(tmp_path / "out")]
    command += ["--test-fraction", "0.2", "--test-blocks", "1", "--test-gap", "1"]
    assert main(command) == 0
    assert "wrote 8 frames" in capsys.readouterr().out
    expect_poses(read_all(tmp_path / "out", "test"), truth[4:6])
    expect_poses(read_all(tmp_path / "out"), [*truth[:3], *truth[7:]])
    assert [read.name for read in read_all(tmp_path / "out", "test")] == [
        "seq-02/frame-000040",
        "seq-02/frame-000050",
    ]
    before = contents(tmp_path / "out")
    assert main(command) == 0
    assert contents(tmp_path / "out") == before


sizes = st.integers(1, 12)


@given(sizes, sizes, sizes, sizes)
def test_resampled_depth_is_that_of_the_nearest_pixel(width: int, height: int, wide: int, high: int) -> None:
    depth = np.arange(1, width * height + 1, dtype=np.uint16).reshape(height, width)
    resampled = resample_depth(depth, wide, high)
    assert resampled.shape == (high, wide)
    for (row, column), value in np.ndenumerate(resampled):
        at_row, at_column = (row + 0.5) * height / high - 0.5, (column + 0.5) * width / wide - 0.5
        nearest_row, nearest_column = divmod(int(value) - 1, width)
        assert abs(nearest_row - at_row) <= 0.5 + 1e-9
        assert abs(nearest_column - at_column) <= 0.5 + 1e-9


def test_shift_of_corners() -> None:
    assert largest_shift(COLOR, COLOR) < 1e-9
    moved = Camera(162, 121, COLOR.fx, COLOR.fy, COLOR.cx - 0.3, COLOR.cy + 2.0)
    assert largest_shift(COLOR, moved) == pytest.approx(2.0)
    longer = Camera(162, 121, COLOR.fx * 1.01, COLOR.fy, COLOR.cx, COLOR.cy)
    assert largest_shift(COLOR, longer) == pytest.approx(0.01 * max(COLOR.cx, 161 - COLOR.cx))
