"""TUM RGB-D: a drive with known poses, written in that layout, is recovered."""

from __future__ import annotations

import re
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
from recordings import CAMERA, render

from structpose_ros.camera import Camera
from structpose_ros.cli import main
from structpose_ros.geometry import quaternion_from_rotation
from structpose_ros.training.frames import RecordingError, open_recording, read_stamps, write_camera
from structpose_ros.training.importers.common import Imported, Selection, write_import
from structpose_ros.training.importers.tum import CAMERAS, TumOptions, associate, plan_tum

START = 1305031102.175304  # s: the benchmark's stamps are times of day
ALL = Selection(test_fraction=0.0)


def write_tum(root: Path, count: int = 5, camera: Camera = CAMERA, ending: str = "png") -> list[float]:
    """Write a drive: images at 30 Hz, depth 8 ms later, poses at 100 Hz; returns the images' seconds."""
    for folder in ("rgb", "depth"):
        (root / folder).mkdir(parents=True)
    seconds = [number / 30 for number in range(count)]
    images, depths = ["# color images"], ["# depth maps"]
    for second in seconds:
        image, depth = render(camera, drive(second))
        names = f"rgb/{START + second:.6f}.{ending}", f"depth/{START + second + 0.008:.6f}.png"
        cv2.imwrite(str(root / names[0]), cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
        cv2.imwrite(str(root / names[1]), np.rint(5000 * depth).astype(np.uint16))
        images.append(f"{START + second:.6f} {names[0]}")
        depths.append(f"{START + second + 0.008:.6f} {names[1]}")
    poses = ["# ground truth trajectory", "# timestamp tx ty tz qx qy qz qw"]
    for second in np.arange(-0.005, seconds[-1] + 0.02, 0.01):
        map_from_camera = drive(second)
        values = [*map_from_camera[:3, 3], *quaternion_from_rotation(map_from_camera[:3, :3])]
        poses.append(f"{START + second:.6f} " + " ".join(f"{value:.6f}" for value in values))
    for name, lines in (("rgb", images), ("depth", depths), ("groundtruth", poses)):
        (root / f"{name}.txt").write_text("\n".join(lines) + "\n")
    write_camera(root / "camera.yaml", camera)
    return seconds


def options(root: Path, **values: float) -> TumOptions:
    return TumOptions(camera=str(root / "camera.yaml"), **values)


def run(root: Path, out: Path, skip_bad: bool = False, **values: float) -> Imported:
    return write_import(plan_tum(root, options(root, **values), ALL), out, skip_bad=skip_bad)


def test_the_drive_is_recovered(tmp_path: Path) -> None:
    seconds = write_tum(tmp_path / "drive")
    assert run(tmp_path / "drive", tmp_path / "out") == Imported(5, [])
    frames = read_all(tmp_path / "out")
    expect_poses(frames, [drive(second) for second in seconds])
    for read, second in zip(frames, seconds, strict=True):
        image, depth = render(CAMERA, drive(second))
        np.testing.assert_array_equal(read.image_rgb, image)
        assert np.abs(read.depth_mm - 1000 * depth).max() <= 0.7  # half a mm, and a tenth from the file
    expect_the_room(tmp_path / "out", levels=2)
    stamps = read_stamps(tmp_path / "out" / "seq-01")
    np.testing.assert_allclose([stamps[n] for n in range(5)], [START + s for s in seconds], atol=1e-6)


def test_jpegs_are_kept_as_they_are(tmp_path: Path) -> None:
    write_tum(tmp_path / "drive", ending="jpg")
    run(tmp_path / "drive", tmp_path / "out")
    written = sorted((tmp_path / "out" / "seq-01").glob("*.color.jpg"))
    sources = sorted((tmp_path / "drive" / "rgb").iterdir())
    assert [path.read_bytes() for path in written] == [path.read_bytes() for path in sources]
    assert len(written) == 5


def test_the_folder_names_the_camera(tmp_path: Path) -> None:
    source = tmp_path / "rgbd_dataset_freiburg1_desk"
    write_tum(source, 1, CAMERAS["freiburg1"])
    write_import(plan_tum(source, TumOptions(), ALL), tmp_path / "out")
    assert open_recording(tmp_path / "out").camera == CAMERAS["freiburg1"]
    expect_the_room(tmp_path / "out", levels=2)
    assert plan_tum(source, TumOptions(camera="ros_default"), ALL).camera == CAMERAS["ros_default"]
    for name in ("freiburg2", "freiburg3"):
        source = source.rename(tmp_path / f"rgbd_dataset_{name}_desk")
        assert plan_tum(source, TumOptions(), ALL).camera == CAMERAS[name]


def test_distortion_is_in_the_order_of_opencv() -> None:
    points = np.random.default_rng(1).uniform([-0.5, -0.4, 1.0], [0.5, 0.4, 1.0], (50, 3))
    for camera in CAMERAS.values():
        expected, _ = cv2.projectPoints(
            points, np.zeros(3), np.zeros(3), camera.matrix, np.array(camera.distortion or (0.0,) * 4)
        )
        np.testing.assert_allclose(camera.project(points), expected[:, 0], atol=1e-9)
        assert np.isfinite(camera.ray_grid(8)).all()


def test_an_unknown_camera(tmp_path: Path) -> None:
    write_tum(tmp_path / "office")
    with pytest.raises(RecordingError, match=r"freiburg3, or --camera with .* YAML file, got office"):
        plan_tum(tmp_path / "office", TumOptions(), ALL)
    with pytest.raises(RecordingError, match="expected a ROS camera_info YAML file"):
        plan_tum(tmp_path / "office", TumOptions(camera="freiburg4"), ALL)
    with pytest.raises(RecordingError, match="5 of 5 frames are bad: .*expected 640x480 .* got 64x48"):
        write_import(plan_tum(tmp_path / "office", TumOptions(camera="freiburg1"), ALL), tmp_path / "out")
    assert not (tmp_path / "out").exists()


stamps = st.lists(st.integers(0, 60).map(lambda step: step / 100), max_size=12)


@given(first=stamps, second=stamps, max_offset=st.sampled_from([0.004, 0.024, 0.104, 5.0]))
def test_the_nearest_are_paired_first(first: list[float], second: list[float], max_offset: float) -> None:
    pairs = associate(first, second, max_offset)
    near = [(abs(a - b), i, j) for i, a in enumerate(first) for j, b in enumerate(second)]
    expected: list[tuple[int, int]] = []
    for offset, i, j in sorted(near):
        if offset <= max_offset and all(i != a and j != b for a, b in expected):
            expected.append((i, j))
    assert sorted(pairs) == sorted(expected)
    times = [first[i] for i, _ in pairs]
    assert times == sorted(times)


def test_images_without_depth_are_no_frames(tmp_path: Path) -> None:
    seconds = write_tum(tmp_path / "drive")
    lines = (tmp_path / "drive" / "depth.txt").read_text().splitlines()
    (tmp_path / "drive" / "depth.txt").write_text("\n".join([*lines[3:], *lines[:2]]))  # in any order
    assert run(tmp_path / "drive", tmp_path / "out") == Imported(4, [])
    expect_poses(read_all(tmp_path / "out"), [drive(s) for s in [seconds[0], *seconds[2:]]])


def edit(path: Path, pattern: str, replacement: str) -> None:
    text, count = re.subn(pattern, replacement, path.read_text(), count=1, flags=re.MULTILINE)
    assert count == 1
    path.write_text(text)


@pytest.mark.parametrize(
    ("name", "pattern", "replacement", "message"),
    [
        ("rgb.txt", r"(?s).*", "", r"rgb.txt: expected lines 'timestamp filename', got none"),
        ("depth.txt", r"^(\S+) depth/\S+", r"\1", r"depth.txt:2: expected 'timestamp filename', got '13"),
        ("rgb.txt", r"^1305\S+", "nan", r"rgb.txt:2: expected a number, got 'nan'"),
        ("depth.txt", r"^1305\S+", "soon", r"depth.txt:2: expected a number, got 'soon'"),
        ("groundtruth.txt", r"^(1305.*) \S+$", r"\1", r"groundtruth.txt:3: expected 'timestamp tx ty tz qx"),
        ("groundtruth.txt", r"^(1305\S+) \S+", r"\1 inf", r"groundtruth.txt:3: expected a number, got 'inf'"),
        ("groundtruth.txt", r"^(1305.*) \S+$", r"\1 2.5", r"groundtruth.txt:3: expected a quaternion of"),
        ("depth.txt", r"(?s).*", "12.5 depth/1.png", r"at most 0.02 s apart, got none of 5 and 1"),
    ],
)
def test_malformed_lists(tmp_path: Path, name: str, pattern: str, replacement: str, message: str) -> None:
    write_tum(tmp_path / "drive")
    edit(tmp_path / "drive" / name, pattern, replacement)
    with pytest.raises(RecordingError, match=message) as raised:
        run(tmp_path / "drive", tmp_path / "out", skip_bad=True)
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["rgb.txt", "depth.txt", "groundtruth.txt"])
def test_a_missing_list(tmp_path: Path, name: str) -> None:
    write_tum(tmp_path / "drive")
    (tmp_path / "drive" / name).unlink()
    with pytest.raises(RecordingError, match=rf"{name}: expected lines .*, got nothing"):
        run(tmp_path / "drive", tmp_path / "out")


def test_a_gap_in_the_poses(tmp_path: Path) -> None:
    seconds = write_tum(tmp_path / "drive")
    path = tmp_path / "drive" / "groundtruth.txt"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:5], *lines[12:-3]]))  # 80 ms lack in the middle, and the end
    with pytest.raises(
        RecordingError, match=r"3 of 5 .*at most 0.03 s apart, got a gap of 0.08.*after the last"
    ):
        run(tmp_path / "drive", tmp_path / "out", max_gap=0.03)
    assert not (tmp_path / "out").exists()
    imported = run(tmp_path / "drive", tmp_path / "out", skip_bad=True, max_gap=0.03)
    assert (imported.frames, len(imported.bad)) == (2, 3)
    expect_poses(read_all(tmp_path / "out"), [drive(seconds[0]), drive(seconds[3])])
    assert run(tmp_path / "drive", tmp_path / "other", skip_bad=True).frames == 4  # 0.1 s are bridged
    expect_poses(read_all(tmp_path / "other"), [drive(second) for second in seconds[:4]])


def test_bad_images(tmp_path: Path) -> None:
    write_tum(tmp_path / "drive")
    images, depths = (sorted((tmp_path / "drive" / part).iterdir()) for part in ("rgb", "depth"))
    cv2.imwrite(str(depths[0]), np.ones((24, 32), np.uint16))
    images[1].write_bytes(images[1].read_bytes()[:-40])
    images[2].unlink()
    cv2.imwrite(str(depths[3]), np.ones((48, 64), np.uint8))
    with pytest.raises(RecordingError) as raised:
        run(tmp_path / "drive", tmp_path / "out")
    for message in (
        f"{depths[0]}: expected 64x48 as its camera says, got 32x24",
        f"{images[1]}: expected a PNG with its end marker, got one cut off at ",
        f"{images[2]}: expected an image, got nothing",
        f"{depths[3]}: expected one channel of uint16 mm, got uint8",
    ):
        assert message in str(raised.value)
    assert not (tmp_path / "out" / "TrainSplit.txt").exists()
    imported = run(tmp_path / "drive", tmp_path / "out", skip_bad=True)
    assert (imported.frames, len(imported.bad)) == (1, 4)
    assert [read.name for read in read_all(tmp_path / "out")] == ["seq-01/frame-000004"]


def test_options_out_of_range() -> None:
    for name in ("max_offset", "max_gap", "depth_scale"):
        for value in (0.0, -1.0, float("nan"), float("inf")):
            with pytest.raises(RecordingError, match=f"{name}: expected more than 0"):
                TumOptions(**{name: value})


def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_tum(tmp_path / "drive", 3)
    expect_resumed_after_full_disk(lambda out: run(tmp_path / "drive", out), tmp_path, monkeypatch)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_tum(tmp_path / "drive", 20)
    source, out = str(tmp_path / "drive"), tmp_path / "out"
    command = ["import", "tum", source, str(out), "--camera", f"{source}/camera.yaml"]
    command += ["--min-distance", "0.02", "--test-fraction", "0.3", "--test-blocks", "1", "--test-gap", "1"]
    assert main(command) == 0
    # 1/30 s at 0.32 m/s are 1.05 cm: every second frame is taken. Of these 10, 3 are for testing.
    assert "wrote 8 frames" in capsys.readouterr().out
    expect_poses(read_all(out, "test"), [drive(number / 15) for number in (3, 4, 5)])
    expect_poses(read_all(out), [drive(number / 15) for number in (0, 1, 7, 8, 9)])
    before = contents(out)
    assert main(command) == 0
    assert contents(out) == before
    capsys.readouterr()
    assert main([*command, "--depth-scale", "1000"]) == 1
    told = capsys.readouterr().err
    assert told.startswith("structpose: error: expected an empty folder or the same import")
    assert told.count("\n") == 1
    assert contents(out) == before
    assert main(["import", "tum", source, str(tmp_path / "b"), "--max-offset", "-1"]) == 1
    assert "max_offset: expected more than 0" in capsys.readouterr().err
