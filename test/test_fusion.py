"""Depth images fused into a mesh: the rendered room's walls come back, from any lens, always the same."""

from __future__ import annotations

import errno
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from recordings import CAMERA, HIGH, LOW, millimetres, poses, real_data, render, write_recording

from structpose_ros.camera import Camera
from structpose_ros.cli import main
from structpose_ros.geometry import transform
from structpose_ros.training import fusion
from structpose_ros.training.frames import RecordingError, open_recording
from structpose_ros.training.fusion import FRAMES_SEEN, FusionError, Volume, fuse_recording, in_order, ply
from structpose_ros.training.mesh_labels import cast_labels
from structpose_ros.training.meshes import DepthCaster, Mesh, read_mesh

VOXEL = 0.05
LENSES = {
    "pinhole": Camera(96, 72, 66.0, 66.0, 47.5, 35.5),
    "barrel": Camera(96, 72, 66.0, 66.0, 47.5, 35.5, "plumb_bob", (-0.25, 0.08, 0.001, -0.001)),
    "fisheye": Camera(96, 72, 36.0, 36.0, 47.5, 35.5, "equidistant", (0.02, -0.005, 0.0, 0.0)),
}


@pytest.fixture
def _open3d() -> None:
    try:
        import open3d  # noqa: F401
    except ImportError as error:
        pytest.skip(f"Open3D is not installed (structpose_ros[fusion]) or does not load: {error}")


needs_open3d = pytest.mark.usefixtures("_open3d")


def distance_to_walls(points_in_map: np.ndarray) -> np.ndarray:
    """Return the signed distance (N,) to the nearest wall, positive inside the room."""
    return np.minimum(points_in_map - LOW, HIGH - points_in_map).min(axis=-1)


def fuse_room(camera: Camera, count: int = 40) -> Mesh:
    volume = Volume(camera, VOXEL, 5.0)
    for map_from_camera in poses(count, seed=1):
        volume.add(millimetres(render(camera, map_from_camera)[1]), map_from_camera)
    return volume.mesh()


@needs_open3d
@pytest.mark.parametrize("lens", LENSES)
def test_walls_come_back_to_within_half_a_voxel(lens: str) -> None:
    mesh = fuse_room(LENSES[lens])
    distance = distance_to_walls(mesh.vertices)
    assert np.percentile(np.abs(distance), 99) < VOXEL / 2
    assert np.median(np.abs(distance)) < VOXEL / 20
    assert abs(distance.mean()) < VOXEL / 20
    corners = mesh.vertices[mesh.triangles]
    area = (
        np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1).sum()
        / 2
    )
    length, width, height = HIGH - LOW
    of_room = 2 * (length * width + length * height + width * height)
    # Cameras are level: with a narrow lens few of them see floor and ceiling, half of the area.
    assert 0.4 * of_room < area < 1.05 * of_room


@needs_open3d
@pytest.mark.parametrize("normal", [(0.8, 0.0, 0.6), (-0.8, 0.0, 0.6), (0.0, 0.8, 0.6), (0.0, -0.8, 0.6)])
def test_a_slanted_plane_is_not_shifted(normal: tuple[float, ...]) -> None:
    """Half a pixel, if Open3D had the pixels' centres elsewhere, would be 2 cm here, this or that way."""
    volume = Volume(CAMERA, 0.02, 4.0)
    depth = 1.5 / (CAMERA.ray_grid() @ np.array(normal))
    depth_mm = millimetres(np.where((depth > 0) & (depth < 4.0), depth, 0.0))
    for _ in range(FRAMES_SEEN):
        volume.add(depth_mm, np.eye(4))
    distance = volume.mesh().vertices @ np.array(normal) - 1.5
    assert abs(np.median(distance)) < 0.003


@needs_open3d
def test_a_surface_counts_from_the_third_frame_on() -> None:
    volume = Volume(CAMERA, VOXEL, 4.0)
    depth_mm = np.full((CAMERA.height, CAMERA.width), 2000, dtype=np.uint16)
    for _ in range(FRAMES_SEEN - 1):
        volume.add(depth_mm, np.eye(4))
    with pytest.raises(FusionError, match=r"expected surfaces that at least 3 frames saw, got none \("):
        volume.mesh()
    volume.add(np.zeros_like(depth_mm), np.eye(4))  # a frame of nothing changes nothing
    volume.add(np.full_like(depth_mm, 4500), np.eye(4))  # nor does what is beyond the largest depth
    volume.add(depth_mm, np.eye(4))
    np.testing.assert_allclose(volume.mesh().vertices[:, 2], 2.0, atol=1e-3)


@needs_open3d
def test_the_same_recording_gives_the_same_file(tmp_path: Path) -> None:
    data = write_recording(tmp_path / "data", train=20, test=3, camera=LENSES["pinhole"])
    first, second = tmp_path / "a.ply", tmp_path / "b.ply"
    told: list[tuple[int, int]] = []
    fused = fuse_recording(data, first, voxel=VOXEL, progress=lambda *counts: told.append(counts))
    assert told == [(number, 20) for number in range(1, 21)]
    assert (fused.frames, fused.bad) == (20, [])
    assert main(["fuse", str(data), "--out", str(second), "--voxel", str(VOXEL)]) == 0
    assert first.read_bytes() == second.read_bytes()
    mesh = read_mesh(first)
    assert len(mesh.triangles) == fused.triangles
    assert np.percentile(np.abs(distance_to_walls(mesh.vertices)), 99) < VOXEL / 2


@needs_open3d
def test_only_the_split_asked_for_is_fused(tmp_path: Path) -> None:
    """Frames held back for testing must not come into training by way of the mesh."""
    data = write_recording(tmp_path / "data", train=8, test=4, camera=LENSES["pinhole"])
    fuse_recording(data, tmp_path / "train.ply", voxel=VOXEL)
    for path in data.glob("seq-02/*.depth.png"):
        path.write_bytes(b"")
    fuse_recording(data, tmp_path / "again.ply", voxel=VOXEL)
    assert (tmp_path / "train.ply").read_bytes() == (tmp_path / "again.ply").read_bytes()
    with pytest.raises(RecordingError, match="4 of 4 frames are bad: .*seq-02"):
        fuse_recording(data, tmp_path / "test.ply", split="test", voxel=VOXEL)
    assert not (tmp_path / "test.ply").exists()


@needs_open3d
def test_holes_of_the_sensor_get_filled(tmp_path: Path) -> None:
    data = write_recording(tmp_path / "data", train=40, test=2, camera=LENSES["pinhole"])
    random = np.random.default_rng(0)
    for path in data.glob("seq-*/*.depth.png"):
        depth_mm = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        row, column = random.integers(0, 40), random.integers(0, 50)
        depth_mm[row : row + 30, column : column + 40] = 0
        cv2.imwrite(str(path), depth_mm)
    fuse_recording(data, tmp_path / "room.ply", voxel=VOXEL)
    _, agreement = cast_labels(data, tmp_path / "out", tmp_path / "room.ply")
    assert agreement.filled > 0.75
    assert agreement.median_error is not None
    assert agreement.median_error < VOXEL / 5
    written = open_recording(tmp_path / "out")
    for item in written.files("train")[0][:5]:
        frame = written.read(item)
        true_depth = render(written.camera, frame.map_from_camera)[1]
        filled = frame.depth_mm > 0
        assert np.median(np.abs(frame.depth_mm[filled] * 1e-3 - true_depth[filled])) < VOXEL / 5


@needs_open3d
def test_too_many_voxels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = write_recording(tmp_path / "data", train=4, test=1)
    monkeypatch.setattr(fusion, "MOST_BLOCKS", 50)
    with pytest.raises(FusionError, match="expected at most 50 blocks of 8x8x8 voxels, got more: a larger"):
        fuse_recording(data, tmp_path / "room.ply")
    assert not (tmp_path / "room.ply").exists()


@needs_open3d
def test_too_far_from_the_origin() -> None:
    volume = Volume(CAMERA, VOXEL, 4.0)
    depth_mm = np.full((CAMERA.height, CAMERA.width), 2000, dtype=np.uint16)
    with pytest.raises(FusionError, match="expected cameras within 10000 m of .*, got 4180000 m"):
        volume.add(depth_mm, transform(np.eye(3), [390000.0, 4180000.0, 20.0]))


@needs_open3d
def test_a_full_disk(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    data, out = write_recording(tmp_path / "data", train=12, test=1), tmp_path / "room.ply"

    def full(path: Path, _: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(Path, "write_bytes", full)
    assert main(["fuse", str(data), "--out", str(out), "--voxel", "0.1"]) == 1
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith("structpose: error: [Errno 28] No space left on device")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data"]


@needs_open3d
def test_nothing_to_fuse(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_recording(tmp_path / "data", train=12, test=1)
    command = ["fuse", str(data), "--out", str(tmp_path / "room.ply"), "--voxel", "0.1", "--max-depth", "0.1"]
    assert main(command) == 1
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith("structpose: error: expected surfaces that at least 3 frames saw, got none")
    (data / "seq-01" / "frame-000001.depth.png").write_bytes(b"half")
    assert main(command[:6]) == 1
    assert "1 of 12 frames are bad: " in capsys.readouterr().err
    assert not (tmp_path / "room.ply").exists()
    assert main([*command[:6], "--skip-bad"]) == 0
    assert "left out: " in capsys.readouterr().out


@needs_open3d
def test_a_real_room(tmp_path: Path) -> None:
    """A mesh of ten frames agrees with the sensor to a centimetre or two."""
    recording = open_recording(real_data("7scenes_kitchen"))
    volume = Volume(recording.camera, 0.04, 4.0)
    files = recording.files("train")[0]
    for item in files[:50:5]:
        frame = recording.read(item)
        volume.add(frame.depth_mm, frame.map_from_camera)
    caster = DepthCaster(volume.mesh(), recording.camera)
    frame = recording.read(files[22])
    depth_mm = 1000 * caster.depth(frame.map_from_camera)
    both = (frame.depth_mm > 0) & (depth_mm > 0)
    assert both.mean() > 0.5
    assert np.median(np.abs(frame.depth_mm[both] - depth_mm[both])) < 25


def test_the_order_of_a_mesh() -> None:
    vertices = np.array([[1, 0, 0], [0, 0, 0], [0, 1, 0], [-0.0, 0, 0], [0, 1, 0]], dtype=np.float32)
    triangles = np.array([[0, 2, 1], [3, 0, 4], [1, 3, 2], [0, 1, 0]], dtype=np.int32)
    mesh = in_order(vertices, triangles)
    assert mesh.vertices.tolist() == [[0, 0, 0], [0, 1, 0], [1, 0, 0]]
    # Both faces are of the same three places and turn as they did; the last two have no area.
    assert mesh.triangles.tolist() == [[0, 2, 1], [0, 2, 1]]
    random = np.random.default_rng(0)
    shuffled = random.permutation(5)
    other = in_order(
        vertices[shuffled], np.argsort(shuffled)[triangles][random.permutation(4)].astype(np.int32)
    )
    assert ply(other) == ply(mesh)


def test_bad_options(tmp_path: Path) -> None:
    for options, expected in (
        ({"voxel": 0.0}, r"voxel: expected 0.001 .. 1 m, got 0.0"),
        ({"voxel": np.nan}, r"voxel: expected 0.001 .. 1 m, got nan"),
        ({"max_depth": 70.0}, r"max_depth: expected 0.001 .. 65 m, got 70.0"),
    ):
        with pytest.raises(FusionError, match=expected):
            fuse_recording(tmp_path, tmp_path / "room.ply", **options)
    with pytest.raises(FusionError, match=r"expected a file ending in .ply to write the mesh to, got"):
        fuse_recording(tmp_path, tmp_path / "room.obj")
    with pytest.raises(RecordingError, match="expected camera.yaml"):
        fuse_recording(tmp_path, tmp_path / "room.ply")


def test_without_open3d(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = write_recording(tmp_path / "data", train=3, test=1)
    monkeypatch.setitem(sys.modules, "open3d", None)
    assert main(["fuse", str(data), "--out", str(tmp_path / "room.ply")]) == 1
    assert capsys.readouterr().err == (
        "structpose: error: expected the package 'open3d', got none: pip install 'structpose_ros[fusion]'\n"
    )


def test_open3d_without_its_system_libraries(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = write_recording(tmp_path / "data", train=3, test=1)
    stand_in = tmp_path / "site" / "open3d.py"
    stand_in.parent.mkdir()
    stand_in.write_text("raise ImportError('libusb-1.0.so.0: cannot open shared object file')\n")
    monkeypatch.delitem(sys.modules, "open3d", raising=False)
    monkeypatch.syspath_prepend(stand_in.parent)
    assert main(["fuse", str(data), "--out", str(tmp_path / "room.ply")]) == 1
    line = capsys.readouterr().err
    assert line.startswith("structpose: error: expected Open3D to load, got: libusb-1.0.so.0: cannot open")
    assert "apt install libusb-1.0-0" in line
