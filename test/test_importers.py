"""What every importer shares: thinning, splitting, poses between poses, and writing that resumes."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from import_helpers import CUT_OFF, contents, drive, expect_resumed_after_full_disk, read_all
from recordings import CAMERA, millimetres, render, write_sevenscenes

from structpose_ros.camera import Camera
from structpose_ros.cli import main
from structpose_ros.geometry import pose_error, rotation_from_vector, transform
from structpose_ros.training.frames import (
    RecordingError,
    decode_image,
    open_recording,
    read_color,
    read_split,
    read_stamps,
)
from structpose_ros.training.importers.common import (
    ORIGIN,
    FilePlan,
    Imported,
    Picture,
    PlannedFrame,
    Selection,
    decode_color,
    depth_in_millimetres,
    read_color_file,
    split_blocks,
    thin_by_motion,
    write_import,
)
from structpose_ros.training.importers.trajectory import Trajectory


def planned(count: int, **values: Any) -> list[PlannedFrame]:
    return [PlannedFrame(f"image {n}", drive(n / 10), n / 10, **values) for n in range(count)]


def picture(index: int) -> Picture:
    image, depth = render(CAMERA, drive(index / 10))
    return Picture(image, millimetres(depth))


def plan(count: int = 4, **values: Any) -> FilePlan:
    values = {"frames": planned(count), "origin": {"format": "test", "source": "drive"}} | values
    return FilePlan(**{"camera": CAMERA, "read_one": picture, **values})


# --- which frames are taken ---


def test_thinning_by_distance_and_by_angle() -> None:
    straight = [transform(np.eye(3), [0.1 * n, 0.0, 0.0]) for n in range(10)]
    assert thin_by_motion(straight, 0.25, 0.0) == [0, 3, 6, 9]
    assert thin_by_motion(straight, 0.0, 5.0) == [0]  # it never turns
    turning = [transform(rotation_from_vector([0.0, 0.0, 0.1 * n]), np.zeros(3)) for n in range(10)]
    assert thin_by_motion(turning, 0.0, np.degrees(0.25)) == [0, 3, 6, 9]
    assert thin_by_motion(turning, 1.0, np.degrees(0.45)) == [0, 5]
    assert thin_by_motion(turning, 0.0, 0.0) == list(range(10))
    assert thin_by_motion([], 0.1, 0.0) == []


@given(
    steps=st.lists(st.tuples(*[st.floats(-0.2, 0.2)] * 4), max_size=30),
    min_distance=st.sampled_from([0.0, 0.05, 0.3]),
    min_angle=st.sampled_from([0.0, 3.0, 20.0]),
)
def test_thinning_keeps_what_moved_and_nothing_else(
    steps: list[tuple[float, ...]], min_distance: float, min_angle: float
) -> None:
    poses = [np.eye(4)]
    for x, y, z, yaw in steps:
        poses.append(poses[-1] @ transform(rotation_from_vector([0.0, 0.0, yaw]), [x, y, z]))
    taken = thin_by_motion(poses, min_distance, min_angle)
    assert taken[0] == 0
    assert taken == sorted(set(taken))
    for index, pose in enumerate(poses[1:], start=1):
        last = max(number for number in taken if number < index)
        moved, turned = pose_error(pose, poses[last])
        far = (0 < min_distance <= moved) or (0 < min_angle <= turned + 1e-9)
        if abs(moved - min_distance) > 1e-9 and abs(turned - min_angle) > 1e-6:
            assert (index in taken) == (far or (min_distance == 0 and min_angle == 0))


@given(
    count=st.integers(0, 400),
    fraction=st.floats(0, 0.9),
    blocks=st.integers(1, 30),
    gap=st.integers(0, 50),
)
def test_split_into_blocks(count: int, fraction: float, blocks: int, gap: int) -> None:
    cuts = split_blocks(count, fraction, blocks, gap)
    assert [sequence for _, sequence, _, _ in cuts] == list(range(1, len(cuts) + 1))
    assert all(first < last for _, _, first, last in cuts)  # none is empty
    if count == 0:
        assert cuts == []
        return
    assert 0 <= cuts[0][2] <= cuts[-1][3] <= count
    held = sum(last - first for split, _, first, last in cuts if split == "test")
    trained = sum(last - first for split, _, first, last in cuts if split == "train")
    assert held == min(round(count * fraction), count - 1)  # to a frame
    assert trained >= max(1, (count - held) / 2)
    tests = [cut for cut in cuts if cut[0] == "test"]
    assert len(tests) == min(blocks, held)
    lengths = [last - first for _, _, first, last in tests]
    assert not tests or max(lengths) - min(lengths) <= 1
    rest = count - held
    left_out = gap if tests and rest >= 4 * gap * len(tests) else None
    for (split, _, _, end), (following, _, start, _) in zip(cuts, cuts[1:], strict=False):
        assert start >= end  # in order, each frame once
        if left_out is not None and split != following:
            assert start - end == left_out
        if split == following:  # two test blocks, with no room for training between them
            assert split == "test"


def test_blocks_stand_in_the_middles_of_equal_parts() -> None:
    assert split_blocks(100, 0.2, 2, 5) == [
        ("train", 1, 0, 15),
        ("test", 2, 20, 30),
        ("train", 3, 35, 65),
        ("test", 4, 70, 80),
        ("train", 5, 85, 100),
    ]
    assert split_blocks(100, 0.0, 2, 5) == [("train", 1, 0, 100)]
    assert split_blocks(8, 0.1, 2, 10) == [("train", 1, 0, 2), ("test", 2, 3, 4), ("train", 3, 5, 8)]
    assert split_blocks(3, 0.9, 1, 10) == [("test", 1, 0, 2), ("train", 2, 2, 3)]
    assert split_blocks(1, 0.9, 1, 10) == [("train", 1, 0, 1)]


@pytest.mark.parametrize(
    "values",
    [
        {"min_distance": -0.1},
        {"min_angle": 181.0},
        {"test_fraction": 0.91},
        {"test_fraction": float("nan")},
        {"blocks": 0},
        {"gap": -1},
    ],
)
def test_selections_out_of_range(values: dict[str, float]) -> None:
    with pytest.raises(RecordingError, match=rf"{next(iter(values))}: expected .* \.\. .*, got"):
        Selection(**values)  # type: ignore[arg-type]


@dataclass(frozen=True, kw_only=True)
class Listed(PlannedFrame):
    file: str


def test_selection_keeps_what_an_importers_frame_holds() -> None:
    frames = [Listed(f"{n}", drive(n), float(n), number=n, file=f"{n}.jpg") for n in range(20)]
    chosen = Selection(0.5, 0.0, 0.2, 1, 1).apply(frames)  # 0.316 m a second: every second one
    assert [item.file for item in chosen] == [f"{n}.jpg" for n in (0, 2, 4, 8, 10, 14, 16, 18)]
    assert [item.split for item in chosen] == ["train"] * 3 + ["test"] * 2 + ["train"] * 3
    assert [item.sequence for item in chosen] == [1] * 3 + [2] * 2 + [3] * 3
    assert [item.number for item in chosen] == [item.stamp for item in chosen]


# --- poses between poses ---

vectors = st.tuples(*[st.floats(-1, 1)] * 3)


@given(start=vectors, turn=vectors, velocity=vectors, at=st.floats(0, 1), step=st.integers(1, 9))
def test_even_motion_is_met_at_any_time(
    start: tuple[float, ...], turn: tuple[float, ...], velocity: tuple[float, ...], at: float, step: int
) -> None:
    def pose_at(seconds: float) -> np.ndarray:
        rotation = rotation_from_vector(start) @ rotation_from_vector(seconds * np.array(turn))
        return transform(rotation, seconds * np.array(velocity))

    stamps_ns = [1_700_000_000 * 10**9 + n * step * 10**8 for n in range(0, 10 // step + 2)]
    poses = [pose_at((stamp - stamps_ns[0]) * 1e-9) for stamp in stamps_ns]
    stamp = stamps_ns[0] + round(at * 1e9)
    between = Trajectory(stamps_ns[::-1], poses[::-1]).at(stamp, 1.0)
    position, rotation = pose_error(between, pose_at((stamp - stamps_ns[0]) * 1e-9))
    assert position < 1e-9
    assert rotation < 1e-6


def test_half_way() -> None:
    quarter = transform(rotation_from_vector([0.0, 0.0, np.pi / 2]), [2.0, 0.0, 0.0])
    between = Trajectory([0, 1000], [np.eye(4), quarter]).at(500, 1.0)
    np.testing.assert_allclose(
        between, transform(rotation_from_vector([0.0, 0.0, np.pi / 4]), [1, 0, 0]), atol=1e-12
    )


def test_recorded_poses_are_given_as_they_are_and_can_not_be_spoiled() -> None:
    poses = [drive(0.0), drive(1.0), drive(2.0)]
    trajectory = Trajectory([0, 10**9, 10**9], poses)
    assert len(trajectory) == 2
    np.testing.assert_array_equal(trajectory.at(0, 0.1), poses[0])
    np.testing.assert_array_equal(trajectory.at(10**9, 0.1), poses[2])  # of equal stamps the last counts
    trajectory.at(0, 0.1)[:] = 0.0
    np.testing.assert_array_equal(trajectory.at(0, 0.1), poses[0])


@given(tenths=st.integers(1, 10**6))
def test_a_gap_of_just_the_bound_is_bridged(tenths: int) -> None:
    trajectory = Trajectory([0, tenths * 10**8], [np.eye(4), np.eye(4)])
    np.testing.assert_array_equal(trajectory.at(1, tenths / 10), np.eye(4))
    with pytest.raises(RecordingError, match=r"expected poses at most .* s apart, got a gap of "):
        trajectory.at(1, tenths / 10 - 1e-3)
    np.testing.assert_array_equal(trajectory.at(1, float("inf")), np.eye(4))


def test_times_outside_the_recorded_ones() -> None:
    trajectory = Trajectory([10**9, 2 * 10**9], [np.eye(4), np.eye(4)])
    with pytest.raises(RecordingError, match=r"got 0.250 s before the first"):
        trajectory.at(750_000_000, 10.0)
    with pytest.raises(RecordingError, match=r"got 1.500 s after the last"):
        trajectory.at(3_500_000_000, 10.0)
    with pytest.raises(RecordingError, match="expected poses, got none"):
        Trajectory([], []).at(0, 1.0)


# --- writing ---


def test_what_is_written(tmp_path: Path) -> None:
    frames = [
        *planned(2),
        *[PlannedFrame(f"image {n}", drive(n / 10), None, "test", 12, 5 * n) for n in (2, 3)],
    ]
    assert write_import(plan(frames=frames), tmp_path / "out") == Imported(4, [])
    assert open_recording(tmp_path / "out").camera == CAMERA
    read = [*read_all(tmp_path / "out"), *read_all(tmp_path / "out", "test")]
    names = ["seq-01/frame-000000", "seq-01/frame-000001", "seq-12/frame-000010", "seq-12/frame-000015"]
    assert [item.name for item in read] == names
    for index, item in enumerate(read):
        np.testing.assert_array_equal(item.image_rgb, picture(index).image_rgb)
        np.testing.assert_array_equal(item.depth_mm, picture(index).depth_mm)
        np.testing.assert_allclose(item.map_from_camera, drive(index / 10), atol=1e-15)
    assert read_stamps(tmp_path / "out" / "seq-01") == {0: 0.0, 1: 0.1}
    assert not (tmp_path / "out" / "seq-12" / "stamps.txt").exists()  # none of these has a stamp
    assert read_split(tmp_path / "out", "test") == ["seq-12"]
    origin = json.loads((tmp_path / "out" / ORIGIN).read_text())
    assert (origin["format"], origin["source"], origin["frames"]) == ("test", "drive", 4)


@pytest.mark.parametrize("reached", range(5))
def test_an_interrupted_import_resumes(tmp_path: Path, reached: int) -> None:
    write_import(plan(), tmp_path / "whole")
    asked: list[int] = []

    def interrupted(index: int) -> Picture:
        if len(asked) == reached:
            raise KeyboardInterrupt
        asked.append(index)
        return picture(index)

    if reached < 4:
        with pytest.raises(KeyboardInterrupt):
            write_import(plan(read_one=interrupted), tmp_path / "out")
        assert not (tmp_path / "out" / "TrainSplit.txt").exists()
    else:
        write_import(plan(read_one=interrupted), tmp_path / "out")
    again: list[int] = []

    def counted(index: int) -> Picture:
        again.append(index)
        return picture(index)

    done: list[tuple[int, int]] = []
    imported = write_import(
        plan(read_one=counted), tmp_path / "out", progress=lambda *counts: done.append(counts)
    )
    assert imported == Imported(4, [])
    assert (asked, again) == (list(range(reached)), list(range(reached, 4)))
    assert done == [(number, 4) for number in range(reached, 5)]
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_a_killed_import_leaves_nothing_behind(tmp_path: Path) -> None:
    write_import(plan(), tmp_path / "whole")
    out = tmp_path / "out"
    (out / "seq-01").mkdir(parents=True)
    # Killed in its very first write: nothing else is there.
    (out / f".{ORIGIN}.123.tmp").write_bytes(b"{")
    (out / "seq-01").rmdir()
    write_import(plan(), out)
    assert contents(out) == contents(tmp_path / "whole")
    (out / "seq-01" / ".frame-000002.depth.png.4.tmp").write_bytes(b"half")
    (out / "seq-01" / "frame-000002.depth.png").unlink()
    (out / ".camera.yaml.4.tmp").write_bytes(b"half")
    write_import(plan(), out)
    assert contents(out) == contents(tmp_path / "whole")


def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frames = Selection(test_fraction=0.3, blocks=1, gap=0).apply(planned(4))
    expect_resumed_after_full_disk(lambda out: write_import(plan(frames=frames), out), tmp_path, monkeypatch)


@pytest.mark.parametrize(
    "other",
    [
        {"origin": {"format": "test", "source": "other"}},
        {"origin": {"format": "test", "source": "drive", "depth_scale": 2.0}},
        {"frames": planned(3)},
        {"frames": planned(4, sequence=2)},
        {"frames": planned(4, split="test")},
        {"frames": [PlannedFrame(f"image {n}", drive(n / 9), n / 10) for n in range(4)]},
        {"frames": [PlannedFrame(f"image {n}", drive(n / 10), n / 9) for n in range(4)]},
        {"frames": [PlannedFrame(f"image {n}", drive(n / 10), n / 10, number=n + 1) for n in range(4)]},
        {"camera": Camera(64, 48, 61.0, 60.0, 31.5, 23.5)},
    ],
)
def test_another_import_is_refused(tmp_path: Path, other: dict[str, Any]) -> None:
    write_import(plan(), tmp_path / "out")
    before = contents(tmp_path / "out")
    with pytest.raises(
        RecordingError, match=r"expected an empty folder or the same import at .*, got one of "
    ):
        write_import(plan(**other), tmp_path / "out")
    assert contents(tmp_path / "out") == before


def test_what_can_not_be_written_to(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(RecordingError, match=r"expected a folder to write to, got the file .*file"):
        write_import(plan(), tmp_path / "file")
    with pytest.raises(OSError, match="Not a directory|File exists"):
        write_import(plan(), tmp_path / "file" / "below")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / ".notes.tmp").write_text("mine")
    with pytest.raises(RecordingError, match=r"expected an empty folder or an earlier import .* other files"):
        write_import(plan(), tmp_path / "folder")
    assert contents(tmp_path) == {"file": b"mine", "folder/.notes.tmp": b"mine"}
    (tmp_path / "folder" / ORIGIN).write_text("{")
    with pytest.raises(RecordingError, match=rf"{ORIGIN}: expected what an import wrote, got"):
        write_import(plan(), tmp_path / "folder")


def test_bad_frames(tmp_path: Path) -> None:
    def bad(index: int) -> Picture:
        if index == 0:
            raise RecordingError("image 0: expected an image, got noise")
        image, depth = picture(index).image_rgb, picture(index).depth_mm
        return [
            Picture(image[:-1], depth),
            Picture(image, depth[:, :-1]),
            Picture(image, depth),
        ][index - 1]

    known = plan(read_one=bad, bad=["image 7: expected a pose, got none"])
    with pytest.raises(RecordingError, match=r"^1 of 5 frames are bad: image 7: .* \(--skip-bad leaves"):
        write_import(known, tmp_path / "out")
    assert not (tmp_path / "out").exists()  # what is known before reading is told before writing
    with pytest.raises(
        RecordingError, match="3 of 4 frames are bad: image 0: .*image 1: .*64x47; image 2: .*63x"
    ):
        write_import(plan(read_one=bad), tmp_path / "out")
    assert not (tmp_path / "out" / "TrainSplit.txt").exists()
    done: list[tuple[int, int]] = []
    imported = write_import(
        known, tmp_path / "out", skip_bad=True, progress=lambda *counts: done.append(counts)
    )
    assert imported.frames == 1
    assert [line.split(":")[0] for line in imported.bad] == ["image 7", "image 0", "image 1", "image 2"]
    assert done == [(1, 4), (2, 4), (3, 4), (4, 4)]  # image 3 had been written before the refusal
    assert [item.name for item in read_all(tmp_path / "out")] == ["seq-01/frame-000003"]
    assert read_stamps(tmp_path / "out" / "seq-01") == {3: 0.3}


def test_a_sequence_of_bad_frames_is_in_no_split(tmp_path: Path) -> None:
    def bad(index: int) -> Picture:
        if index != 3:
            raise RecordingError("noise")
        return picture(index)

    frames = [*planned(2, split="test"), *planned(4, sequence=2)[2:]]
    write_import(plan(frames=frames, read_one=bad), tmp_path / "out", skip_bad=True)
    assert not (tmp_path / "out" / "TestSplit.txt").exists()
    assert read_split(tmp_path / "out", "train") == ["seq-02"]
    frames = [*planned(3), *planned(4, split="test", sequence=2)[3:]]
    with pytest.raises(
        RecordingError, match="expected frames to train on in drive, got none that can be read"
    ):
        write_import(plan(frames=frames, read_one=bad), tmp_path / "other", skip_bad=True)
    with pytest.raises(RecordingError, match="expected frames with a pose in drive, got none of 2"):
        write_import(plan(frames=[], bad=["a", "b"]), tmp_path / "none", skip_bad=True)
    assert not (tmp_path / "none").exists()


@dataclass(frozen=True)
class Forgetful:
    """A plan that gives the first frame it is asked for, and no other."""

    camera: Camera = CAMERA
    frames: Sequence[PlannedFrame] = field(default_factory=lambda: planned(3))
    origin: dict[str, Any] = field(default_factory=lambda: {"source": "a bag"})
    bad: Sequence[str] = ()

    def read(self, wanted: Sequence[int]) -> Iterator[tuple[int, Picture | RecordingError]]:
        yield wanted[0], picture(wanted[0])


def test_frames_that_never_came(tmp_path: Path) -> None:
    with pytest.raises(RecordingError, match="3 frames from a bag, got none for image 1 and 1 others"):
        write_import(Forgetful(), tmp_path / "out")
    assert not (tmp_path / "out" / "TrainSplit.txt").exists()


def test_errors_of_the_command_take_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, data: bytes) -> int:
        raise OSError(28, "No space left on device", str(path))

    write_sevenscenes(tmp_path / "scene", 1)
    monkeypatch.setattr(Path, "write_bytes", full)
    assert main(["import", "7scenes", str(tmp_path / "scene"), str(tmp_path / "out")]) == 1
    lines = capsys.readouterr().err.splitlines()
    told = [line for line in lines if line and not line.startswith("importing")]  # the bar is no message
    assert len(told) == 1
    assert told[0].startswith("structpose: error: [Errno 28] No space left on device")
    assert contents(tmp_path / "out") == {}


# --- images ---


def encoded(ending: str) -> bytes:
    image = np.random.default_rng(0).integers(0, 255, (20, 30, 3)).astype(np.uint8)
    return bytes(cv2.imencode(ending, image)[1])


@pytest.mark.parametrize("ending", [".jpg", ".png"])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.3, 0.9, 0.999])
def test_images_cut_off_anywhere_are_refused(tmp_path: Path, ending: str, share: float) -> None:
    whole = encoded(ending)
    part = whole[: int(share * len(whole))]
    with pytest.raises(RecordingError, match=f"^topic: {CUT_OFF}"):
        decode_color(part, "topic")
    for name in ("a.jpg", "a.png"):  # whatever it is called
        (tmp_path / name).write_bytes(part)
        with pytest.raises(RecordingError, match=f"{name}: {CUT_OFF}"):
            read_color(tmp_path / name)
        with pytest.raises(RecordingError, match=f"{name}: {CUT_OFF}"):
            read_color_file(tmp_path / name)


def test_a_header_that_speaks_of_too_many_pixels() -> None:
    png = bytearray(encoded(".png"))
    png[16:24] = (70000).to_bytes(4, "big") * 2
    png[29:33] = zlib.crc32(bytes(png[12:29])).to_bytes(4, "big")
    never = mock.patch.object(cv2, "imdecode", side_effect=AssertionError("decoded"))
    with (
        never,
        pytest.raises(RecordingError, match="a: expected at most 100000000 pixels, got a PNG of 70000x"),
    ):
        decode_image(bytes(png), cv2.IMREAD_COLOR, "a")


def test_jpegs_keep_their_bytes(tmp_path: Path) -> None:
    for ending, kept in ((".jpg", True), (".png", False)):
        content = encoded(ending)
        image_rgb, jpeg = decode_color(content, "topic")
        assert jpeg == (content if kept else None)
        expected = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
        np.testing.assert_array_equal(image_rgb, expected[..., ::-1])
        (tmp_path / "image").write_bytes(content)
        read, bytes_read = read_color_file(tmp_path / "image")
        np.testing.assert_array_equal(read, image_rgb)
        assert bytes_read == jpeg
    with pytest.raises(RecordingError, match="absent.png: expected an image, got nothing"):
        read_color_file(tmp_path / "absent.png")
    with pytest.raises(RecordingError, match="expected an image, got: Is a directory"):
        read_color_file(tmp_path)


def test_depth_in_millimetres() -> None:
    nan, inf = float("nan"), float("inf")
    metres = np.array([[0.0, 0.0004, 0.0006, 1.2344, 65.534, 65.535, 1e9, -1.0, nan, inf, -inf]], np.float32)
    expected = [[0, 0, 1, 1234, 65534, 0, 0, 0, 0, 0, 0]]
    assert depth_in_millimetres(metres, 1.0).tolist() == expected
    units = np.array([[0, 5000, 5002, 5003, 65535]], np.uint16)
    assert depth_in_millimetres(units, 1 / 5000).tolist() == [[0, 1000, 1000, 1001, 13107]]
