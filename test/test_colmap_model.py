"""COLMAP's files: those that COLMAP wrote (test/data/colmap, by pycolmap 4.2.1), and damaged ones."""

from __future__ import annotations

import json
import shutil
import struct
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from structpose_ros.geometry import invert
from structpose_ros.training.frames import RecordingError
from structpose_ros.training.importers.colmap_depth import read_depth_map
from structpose_ros.training.importers.colmap_model import SfmCamera, read_cameras, read_images, read_points

DATA = Path(__file__).resolve().parent / "data" / "colmap"
TRUTH = json.loads((DATA / "truth.json").read_text())
READERS = {"cameras": read_cameras, "images": read_images, "points3D": read_points}
MODELS = {model: (parameters, pixels) for model, parameters, pixels in TRUTH["projections"]}


@pytest.mark.parametrize("kind", ["binary", "text"])
def test_what_colmap_wrote_is_read(kind: str) -> None:
    folder = DATA / kind
    assert read_cameras(folder) == {3: SfmCamera("OPENCV", 64, 48, tuple(MODELS["OPENCV"][0]))}
    images = read_images(folder)
    assert [image.name for image in images] == sorted(TRUTH["images"])
    for image in images:
        truth = np.array(TRUTH["images"][image.name])
        np.testing.assert_allclose(invert(image.camera_from_map)[:3], truth, atol=1e-12)
        assert image.camera_id == 3
    by_name = {image.name: image.point_ids.tolist() for image in images}
    assert by_name == {
        "a one.jpg": [1, 2, 3, 4, -1, -1],
        "b/two.png": [1, 2, 3, 4, 5, -1],
        "c.png": [],
    }
    points = read_points(folder)
    read = np.column_stack([points.ids, points.positions, points.errors, points.tracks])
    np.testing.assert_allclose(read, TRUTH["points"], atol=1e-12)


@pytest.mark.parametrize("model", MODELS)
def test_every_camera_model_projects_as_colmap_does(model: str) -> None:
    parameters, pixels_from_corner = MODELS[model]
    camera = SfmCamera(model, 64, 48, tuple(parameters)).camera()
    points = np.array(TRUTH["rays"])
    # COLMAP counts from the corner of the first pixel, we from its centre.
    np.testing.assert_allclose(camera.project(points) + 0.5, pixels_from_corner, atol=1e-9)


@pytest.mark.parametrize("model", MODELS)
def test_every_camera_model_projects_as_opencv_does(model: str) -> None:
    given_parameters = MODELS[model][0]
    camera = SfmCamera(model, 64, 48, tuple(given_parameters)).camera()
    points = np.random.default_rng(0).uniform([-1.5, -1, 2], [1.5, 1, 6], (50, 3))
    two_focals = len(given_parameters) in (4, 8, 12) and "RADIAL" not in model
    fx, fy = given_parameters[:2] if two_focals else (given_parameters[0],) * 2
    cx, cy, *lens = given_parameters[2 if two_focals else 1 :]
    matrix = np.array([[fx, 0, cx - 0.5], [0, fy, cy - 0.5], [0, 0, 1]])
    if "FISHEYE" in model:
        coefficients = np.array(lens + [0.0] * (4 - len(lens)))
        zero = np.zeros((1, 1, 3))
        expected = cv2.fisheye.projectPoints(points[None], zero, zero, matrix, coefficients)[0][0]
    else:
        coefficients = np.array(lens + [0.0] * (4 - len(lens))) if len(lens) < 4 else np.array(lens)
        expected = cv2.projectPoints(points, np.zeros(3), np.zeros(3), matrix, coefficients)[0][:, 0]
    np.testing.assert_allclose(camera.project(points), expected, atol=1e-9)


def test_a_model_that_camera_info_has_not_is_named() -> None:
    for model, count in (("FOV", 5), ("THIN_PRISM_FISHEYE", 12), ("MADE_UP", 3)):
        with pytest.raises(
            RecordingError, match=f"expected a camera model of SIMPLE_PINHOLE, .* got {model}"
        ):
            SfmCamera(model, 64, 48, (1.0,) * count).camera()
    with pytest.raises(RecordingError, match=r"expected 4 parameters \(fx, fy, cx, cy\) for PINHOLE, got 3"):
        SfmCamera("PINHOLE", 64, 48, (60.0, 32.0, 24.0)).camera()
    with pytest.raises(RecordingError, match="expected focal lengths above 0 px"):
        SfmCamera("SIMPLE_PINHOLE", 64, 48, (0.0, 32.0, 24.0)).camera()


@pytest.mark.parametrize("stem", READERS)
def test_a_file_cut_off_anywhere_is_named(stem: str, tmp_path: Path) -> None:
    whole = (DATA / "binary" / f"{stem}.bin").read_bytes()
    path = tmp_path / f"{stem}.bin"
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(
            RecordingError, match=rf"{stem}\.bin: expected .* at byte \d+, got \d+ bytes more$"
        ):
            READERS[stem](tmp_path)
    path.write_bytes(whole + b"\0")
    with pytest.raises(RecordingError, match="got 1 bytes more"):
        READERS[stem](tmp_path)


@pytest.mark.parametrize("stem", READERS)
@given(at=st.integers(0, 537), value=st.binary(min_size=1, max_size=8))
@settings(max_examples=150)
def test_a_damaged_file_is_refused_or_read(
    stem: str, at: int, value: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """No count, however large, makes a reader hang or take memory; nothing but RecordingError is raised."""
    whole = bytearray((DATA / "binary" / f"{stem}.bin").read_bytes())
    at %= len(whole)
    whole[at : at + len(value)] = value
    folder = tmp_path_factory.getbasetemp() / "damaged"
    folder.mkdir(exist_ok=True)
    (folder / f"{stem}.bin").write_bytes(whole)
    try:
        READERS[stem](folder)
    except RecordingError as error:
        assert "\n" not in str(error)


def test_counts_are_checked_before_anything_is_taken(tmp_path: Path) -> None:
    head = struct.pack("<Q", 1)
    image = struct.pack("<i7di", 1, 1, 0, 0, 0, 0, 0, 0, 1) + b"a.png\0"
    for stem, content, what in (
        ("cameras", struct.pack("<Q", 2**64 - 1), r"18446744073709551615 records at byte 8"),
        ("images", head + image + struct.pack("<Q", 2**61), r"2305843009213693952 points at byte 86"),
        ("points3D", head + bytes(43) + struct.pack("<Q", 2**63), r"9223372036854775808 observations"),
    ):
        (tmp_path / f"{stem}.bin").write_bytes(content)
        with pytest.raises(RecordingError, match=f"expected {what}"):
            READERS[stem](tmp_path)


def test_an_unknown_number_of_a_camera_model(tmp_path: Path) -> None:
    (tmp_path / "cameras.bin").write_bytes(struct.pack("<QiiQQ", 1, 1, 17, 64, 48))
    with pytest.raises(RecordingError, match="expected a camera model of .*, got number 17"):
        read_cameras(tmp_path)


@pytest.mark.parametrize(
    ("stem", "line", "text", "got"),
    [
        ("cameras", 4, "3 OPENCV 64", "the end of the line"),
        ("cameras", 4, "3 OPENCV wide 48 1 2", "invalid literal for int"),
        ("cameras", 4, "3 OPENCV 64 48 1 2 x", "could not convert string to float: 'x'"),
        ("images", 5, "1 0.99 0 0 0 0 0 0 3", "the end of the line"),
        ("images", 5, "1 0 0 0 0 0 0 0 3 a.png", "expected a quaternion of length 1"),
        ("images", 5, "1 1 0 0 0 0 nan 0 3 a.png", "expected a finite pose"),
        ("images", 6, "31.0 47.6 1 43.8", "4 numbers, which is no multiple of 3"),
        ("images", 6, "31.0 47.6 1.5", "invalid literal for int"),
        ("images", 6, f"31.0 47.6 {2**70}", "too"),
        ("points3D", 4, "1 0.5 0.5", "not enough values"),
        ("points3D", 4, "1 0.5 0.5 3 1 2 3", "the end of the line"),
        ("points3D", 4, f"{2**70} 0.5 0.5 3 1 2 3 0.1", "too"),
    ],
)
def test_a_malformed_line_is_named(stem: str, line: int, text: str, got: str, tmp_path: Path) -> None:
    lines = (DATA / "text" / f"{stem}.txt").read_text().split("\n")
    lines[line - 1] = text
    (tmp_path / f"{stem}.txt").write_text("\n".join(lines))
    with pytest.raises(
        RecordingError, match=rf"{stem}\.txt: line {line}: expected [A-Z0-9]+_ID, .*got: .*{got}"
    ):
        READERS[stem](tmp_path)


def test_text_that_ends_between_the_two_lines_of_an_image(tmp_path: Path) -> None:
    (tmp_path / "images.txt").write_text("# comment\n1 1 0 0 0 0 0 0 3 a.png")
    with pytest.raises(RecordingError, match=r"images\.txt: line 3: .*got: the end of the file"):
        read_images(tmp_path)


def test_names_must_be_text_and_unique(tmp_path: Path) -> None:
    image = struct.pack("<i7di", 1, 1, 0, 0, 0, 0, 0, 0, 1) + b"\xff\xfe\0" + struct.pack("<Q", 0)
    (tmp_path / "images.bin").write_bytes(struct.pack("<Q", 1) + image)
    with pytest.raises(RecordingError, match=r"images\.bin: expected a name in UTF-8, got b'\\xff\\xfe'"):
        read_images(tmp_path)
    (tmp_path / "images.bin").unlink()
    (tmp_path / "images.txt").write_bytes(b"\xff")
    with pytest.raises(RecordingError, match="expected text in UTF-8"):
        read_images(tmp_path)
    (tmp_path / "images.txt").write_text("1 1 0 0 0 0 0 0 3 a.png\n\n2 1 0 0 0 0 0 0 3 a.png\n\n")
    with pytest.raises(RecordingError, match="expected each image once, got 'a.png' twice"):
        read_images(tmp_path)


def test_binary_is_preferred_and_one_is_needed(tmp_path: Path) -> None:
    with pytest.raises(RecordingError, match=r"expected cameras\.bin or cameras\.txt in .*, got neither"):
        read_cameras(tmp_path)
    shutil.copy(DATA / "binary" / "cameras.bin", tmp_path)
    (tmp_path / "cameras.txt").write_text("nonsense")
    assert set(read_cameras(tmp_path)) == {3}


def test_points_are_chosen_by_error_and_track() -> None:
    points = read_points(DATA / "binary")  # errors 0, 0.25 .. 1; tracks of 2, and 1 for the last
    assert points.reliable(0.5, 1).ids.tolist() == [1, 2, 3]
    assert points.reliable(9, 2).ids.tolist() == [1, 2, 3, 4]
    assert len(points.reliable(9, 3).ids) == 0
    found = points.positions_of(np.array([-1, 4, 99, 2]))
    np.testing.assert_allclose(found, [TRUTH["points"][3][1:4], TRUTH["points"][1][1:4]])
    assert points.reliable(9, 3).positions_of(np.array([1])).shape == (0, 3)


def test_a_map_that_colmap_wrote_is_read(tmp_path: Path) -> None:
    np.testing.assert_array_equal(
        read_depth_map(DATA / "map.geometric.bin"), np.arange(12, dtype=np.float32).reshape(3, 4)
    )
    whole, path = (DATA / "map.geometric.bin").read_bytes(), tmp_path / "cut.bin"
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(RecordingError, match="expected (WIDTH&HEIGHT|4x3x1 numbers of 4 bytes each)"):
            read_depth_map(path)
    for head in (b"4&3&3&", b"999999999&999999999&1&", b"-4&3&1&", b"4&3&"):
        path.write_bytes(head + bytes(48))
        with pytest.raises(RecordingError, match="expected"):
            read_depth_map(path)
    with pytest.raises(RecordingError, match="expected a depth map, got nothing"):
        read_depth_map(tmp_path / "none.bin")
