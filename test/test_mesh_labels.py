"""Depth ray-cast from a mesh: a box of triangles gives what the room's exact ray casting gives."""

from __future__ import annotations

import dataclasses
import errno
import platform
import shutil
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import trimesh
from hypothesis import given, settings
from hypothesis import strategies as st
from recordings import CAMERA, HIGH, LOW, millimetres, pose, poses, render, write_recording, write_sevenscenes

from structpose_ros.camera import Camera
from structpose_ros.cli import main
from structpose_ros.geometry import rotation_from_vector, transform, transform_points
from structpose_ros.training import frames as on_disk
from structpose_ros.training.frames import RecordingError, open_recording, write_atomic, write_stamps
from structpose_ros.training.importers import common
from structpose_ros.training.mesh_labels import Agreement, cast_labels
from structpose_ros.training.meshes import DepthCaster, Mesh, MeshError, embree_scene, read_mesh

LENSES = {
    "pinhole": CAMERA,
    "barrel": dataclasses.replace(CAMERA, distortion=(-0.25, 0.08, 0.001, -0.001, 0.01)),
    "rational": dataclasses.replace(
        CAMERA,
        distortion_model="rational_polynomial",
        distortion=(0.1, -0.05, 0.001, 0.0, 0.01, 0.08, 0.0, 0.0),
    ),
    # The image's corners lie beyond the lens' reach.
    "fisheye": Camera(64, 48, 22.0, 22.0, 31.5, 23.5, "equidistant", (0.02, -0.005, 0.0, 0.0)),
}


def box() -> trimesh.Trimesh:
    """Return the walls of the rendered room."""
    return trimesh.creation.box(bounds=[LOW, HIGH])


def room_mesh() -> Mesh:
    return Mesh(np.asarray(box().vertices), np.asarray(box().faces, dtype=np.int32))


@pytest.fixture
def mesh_file(tmp_path: Path) -> Path:
    box().export(tmp_path / "room.ply")
    return tmp_path / "room.ply"


@pytest.mark.parametrize("lens", LENSES)
def test_a_box_has_its_analytic_depth(lens: str) -> None:
    camera = LENSES[lens]
    caster = DepthCaster(room_mesh(), camera)
    reached = np.isfinite(camera.ray_grid()).all(axis=-1)
    assert reached.all() == (lens != "fisheye")
    for map_from_camera in poses(6, seed=3):
        _, true_depth = render(camera, map_from_camera)
        depth = caster.depth(map_from_camera)
        assert (depth > 0).tolist() == reached.tolist()
        np.testing.assert_allclose(depth, true_depth, atol=1e-4, rtol=2e-5)


@given(
    st.tuples(*[st.floats(-0.9, 0.9)] * 2, st.floats(-3.1, 3.1), st.floats(-0.5, 0.5)),
    st.tuples(*[st.floats(-3, 3)] * 3),
    st.tuples(*[st.floats(-1e5, 1e5)] * 3),
)
@settings(max_examples=40)
def test_the_meshes_frame_may_lie_anywhere(
    place: tuple[float, ...], vector: tuple[float, ...], translation: tuple[float, ...]
) -> None:
    """A national grid's coordinates have six digits before the point, which single precision can't hold."""
    mesh_from_map = transform(rotation_from_vector(vector), translation)
    mesh = room_mesh()
    moved = Mesh(transform_points(mesh_from_map, mesh.vertices), mesh.triangles)
    map_from_camera = pose(*place)
    depth = DepthCaster(moved, CAMERA).depth(mesh_from_map @ map_from_camera)
    np.testing.assert_allclose(depth, render(CAMERA, map_from_camera)[1], atol=1e-3)


def test_faces_count_from_both_sides_and_the_nearest_wins() -> None:
    ahead = pose(0.0, 0.0, 0.0)  # looks along x, 1.2 m above the floor
    for winding in ([0, 1, 2], [0, 2, 1]):
        wall = np.array([[1.0, -9.0, -9.0], [1.0, 9.0, -9.0], [1.0, 0.0, 18.0]])
        farther = wall + [1.0, 0.0, 0.0]
        mesh = Mesh(np.concatenate([farther, wall]), np.array([winding, np.add(winding, 3)], dtype=np.int32))
        np.testing.assert_allclose(DepthCaster(mesh, CAMERA).depth(ahead), 1.0, atol=1e-6)
    behind = Mesh(wall - [5.0, 0.0, 0.0], np.array([[0, 1, 2]], dtype=np.int32))
    assert not DepthCaster(behind, CAMERA).depth(ahead).any()


@pytest.mark.parametrize("ending", ["ply", "obj", "stl", "off", "glb"])
def test_mesh_formats(ending: str, tmp_path: Path) -> None:
    scaled = box()
    scaled.apply_scale(1000.0)
    scaled.export(tmp_path / f"room.{ending}")
    mesh = read_mesh(tmp_path / f"room.{ending}", metres_per_unit=1e-3)
    assert len(mesh.triangles) == 12
    np.testing.assert_allclose([mesh.vertices.min(axis=0), mesh.vertices.max(axis=0)], [LOW, HIGH], atol=1e-6)


def test_the_parts_of_a_scene_become_one_mesh(tmp_path: Path) -> None:
    scene = trimesh.Scene()
    low = trimesh.creation.box(bounds=[[0, 0, 0], [1, 1, 1]])
    scene.add_geometry(low)
    scene.add_geometry(low, transform=transform(np.eye(3), [0.0, 0.0, 5.0]))
    scene.export(tmp_path / "two.glb")
    mesh = read_mesh(tmp_path / "two.glb")
    assert len(mesh.triangles) == 24
    assert mesh.vertices[:, 2].max() == pytest.approx(6.0)


ASCII_PLY = """ply
format ascii 1.0
element vertex 3
property float x
property float y
property float z
element face 1
property list uchar int vertex_indices
end_header
0 0 {z}
1 0 0
0 1 0
3 0 1 {index}
"""
CLOUD = ASCII_PLY.split("element face", maxsplit=1)[0] + "end_header\n0 0 0\n1 0 0\n0 1 0\n"


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("empty.ply", b"", "expected a mesh that trimesh reads, got: "),
        ("junk.ply", bytes(range(200)), "expected a mesh that trimesh reads, got: "),
        ("cut.ply", -20, "expected a mesh that trimesh reads, got: "),
        ("mesh.fbx", b"Kaydara", "expected a mesh file ending in .ply, .obj, .stl, .off, .glb, got .fbx"),
        ("bomb.zip", b"PK", "expected a mesh file ending in .ply, .obj, .stl, .off, .glb, got .zip"),
        ("links.gltf", b"{}", "expected a mesh file ending in .ply, .obj, .stl, .off, .glb, got .gltf"),
        ("cloud.ply", CLOUD.encode(), "expected a mesh with faces, got none"),
        ("junk.obj", b"hello", "expected a mesh with faces, got none"),
        ("nan.ply", ASCII_PLY.format(z="nan", index=2).encode(), "expected finite vertices, got 1 that are"),
        ("index.ply", ASCII_PLY.format(z="0", index=7).encode(), "expected faces of vertices 0 .. 2, got 0 "),
        (
            "minus.ply",
            ASCII_PLY.format(z="0", index=-1).encode(),
            "expected faces of vertices 0 .. 2, got -",
        ),
    ],
)
def test_bad_meshes(name: str, content: bytes | int, expected: str, tmp_path: Path, mesh_file: Path) -> None:
    path = tmp_path / name
    path.write_bytes(mesh_file.read_bytes()[:content] if isinstance(content, int) else content)
    with pytest.raises(MeshError) as caught:
        read_mesh(path)
    assert str(caught.value).startswith(f"{path}: {expected}")


def test_other_bad_input(tmp_path: Path, mesh_file: Path) -> None:
    with pytest.raises(MeshError, match=r"expected a mesh file at .*absent.ply, got nothing"):
        read_mesh(tmp_path / "absent.ply")
    with pytest.raises(MeshError, match=r"expected a mesh file at .*, got a folder"):
        read_mesh(tmp_path)
    for unit in (0.0, -1.0, np.nan, np.inf):
        with pytest.raises(MeshError, match="expected a number of metres per unit above 0, got"):
            read_mesh(mesh_file, unit)


def test_without_embree(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "embreex.mesh_construction", None)
    mesh = room_mesh()
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    with pytest.raises(ModuleNotFoundError):  # the command names the extra that installs it
        embree_scene(mesh.vertices, mesh.triangles)
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    with pytest.raises(MeshError, match=r"it has wheels for x86-64 alone, not for aarch64"):
        embree_scene(mesh.vertices, mesh.triangles)


def content_of(root: Path) -> dict[str, bytes]:
    """Return all files below a folder, by name."""
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.mark.parametrize("lens", ["pinhole", "fisheye"])
def test_a_recording_with_the_meshes_depth(lens: str, tmp_path: Path, mesh_file: Path) -> None:
    data = write_recording(tmp_path / "data", train=4, test=2, camera=LENSES[lens])
    write_stamps(data / "seq-01", {number: 100.0 + number / 30 for number in range(4)})
    jpeg = cv2.imencode(".jpg", np.full((48, 64, 3), 99, np.uint8))[1].tobytes()
    (data / "seq-02" / "frame-000001.color.png").unlink()
    (data / "seq-02" / "frame-000001.color.jpg").write_bytes(jpeg)
    imported, agreement = cast_labels(data, tmp_path / "out", mesh_file)
    assert (imported.frames, imported.bad) == (6, [])
    assert agreement.frames == 6
    assert agreement.median_error == 0.0
    before, after = content_of(data), content_of(tmp_path / "out")
    assert after.keys() == before.keys() | {"import.json"}
    for name, content in before.items():
        if "depth" not in name and "pose" not in name:
            assert after[name] == content, name
    source, written = open_recording(data), open_recording(tmp_path / "out")
    assert written.camera == source.camera
    for split in ("train", "test"):
        pairs = zip(source.files(split)[0], written.files(split)[0], strict=True)
        for a, b in pairs:
            first, second = source.read(a), written.read(b)
            np.testing.assert_allclose(second.map_from_camera, first.map_from_camera, atol=1e-15)
            # To one of rounding: the sensor's is the room's exact depth.
            assert np.abs(second.depth_mm.astype(int) - first.depth_mm).max() <= 1


def test_no_depth_is_needed(tmp_path: Path, mesh_file: Path) -> None:
    data = write_recording(tmp_path / "data", train=3, test=1)
    complete, _ = cast_labels(data, tmp_path / "complete", mesh_file)
    for path in data.glob("seq-*/*.depth.png"):
        path.unlink()
    imported, agreement = cast_labels(data, tmp_path / "out", mesh_file)
    assert imported.frames == complete.frames == 4
    assert content_of(tmp_path / "out") == content_of(tmp_path / "complete")
    assert agreement == Agreement(4, None, 1.0, 1.0)
    assert agreement.lines() == [
        "mesh and sensor, on 4 frames: no pixel has both; of the pixels without the sensor's depth "
        "the mesh fills 100%"
    ]


def test_combined_the_mesh_fills_holes_alone(tmp_path: Path) -> None:
    data = write_recording(tmp_path / "data", train=3, test=1)
    hole = (slice(10, 30), slice(20, 50))
    for path in data.glob("seq-*/*.depth.png"):
        depth = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        depth[hole] = 0
        depth[0, 0] = 65535
        cv2.imwrite(str(path), depth)
    larger = box()
    larger.apply_translation([0.0, 0.0, 0.01])
    larger.export(tmp_path / "room.stl")
    _, agreement = cast_labels(data, tmp_path / "out", tmp_path / "room.stl", combine=True)
    assert agreement.filled == 1.0
    source, written = open_recording(data), open_recording(tmp_path / "out")
    for a, b in zip(source.files("train")[0], written.files("train")[0], strict=True):
        first, second = source.read(a), written.read(b)
        seen = first.depth_mm > 0
        assert not seen[hole].any()
        assert seen.sum() == seen.size - 600 - 1
        np.testing.assert_array_equal(second.depth_mm[seen], first.depth_mm[seen])
        moved = first.map_from_camera.copy()
        moved[2, 3] -= 0.01
        expected = millimetres(render(CAMERA, moved)[1])
        assert np.abs(second.depth_mm[~seen].astype(int) - expected[~seen]).max() <= 1


def test_frame_and_unit_of_the_mesh(tmp_path: Path) -> None:
    data = write_recording(tmp_path / "data", train=3, test=1)
    mesh_from_map = transform(rotation_from_vector([0.3, -0.4, 2.0]), [5.0, -40.0, 3.0])
    moved = box()
    moved.apply_transform(mesh_from_map)
    moved.apply_scale(1000.0)
    moved.export(tmp_path / "room.ply")
    np.savetxt(tmp_path / "mesh_from_map.txt", mesh_from_map)
    command = ["labels", data, tmp_path / "out", "--mesh", tmp_path / "room.ply", "--unit", 0.001]
    command += ["--mesh-from-map", tmp_path / "mesh_from_map.txt"]
    assert main([str(item) for item in command]) == 0
    source, written = open_recording(data), open_recording(tmp_path / "out")
    for a, b in zip(source.files("train")[0], written.files("train")[0], strict=True):
        difference = source.read(a).depth_mm.astype(int) - written.read(b).depth_mm
        assert np.abs(difference).max() <= 1


def fails(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """Run the command, expect status 1; return the last line on stderr."""
    assert main([str(item) for item in arguments]) == 1
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith("structpose: error: ")
    return line


def test_a_mesh_that_no_camera_sees(
    tmp_path: Path, mesh_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, out = write_recording(tmp_path / "data", train=3, test=1), tmp_path / "out"
    np.savetxt(tmp_path / "far.txt", transform(np.eye(3), [100.0, 0.0, 0.0]))
    command = ("labels", data, out, "--mesh", mesh_file)
    line = fails(capsys, *command, "--mesh-from-map", tmp_path / "far.txt")
    assert "got one that no ray of 4 frames meets: it spans (-2.0, -1.5, 0.0) .. (2.0, 1.5, 2.5) m" in line
    assert "the cameras stand around (99." in line or "the cameras stand around (100." in line
    (tmp_path / "scaled.txt").write_text("2 0 0 0\n0 2 0 0\n0 0 2 0\n0 0 0 1\n")
    line = fails(capsys, *command, "--mesh-from-map", tmp_path / "scaled.txt")
    assert "scaled.txt: expected a 4x4 rigid pose" in line
    assert "expected a mesh file at" in fails(capsys, *command[:-1], tmp_path / "absent.ply")
    assert "expected another folder than the recording's own" in fails(
        capsys, "labels", data, data, *command[3:]
    )
    assert "expected a recording's folder" in fails(capsys, "labels", out, *command[2:])
    assert not out.exists()


def test_quality_lines(tmp_path: Path, mesh_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_recording(tmp_path / "data", train=3, test=1)
    command = ["labels", str(data), str(tmp_path / "out"), "--mesh", str(mesh_file)]
    assert main(command) == 0
    told = capsys.readouterr().out.splitlines()
    assert told[0] == f"wrote 4 frames to {tmp_path / 'out'}"
    assert told[1].startswith("mesh and sensor, on 4 frames: 0.0 cm apart (median); of the pixels without")
    assert len(told) == 2
    np.savetxt(tmp_path / "turned.txt", transform(rotation_from_vector([0.0, 0.0, 1.57]), [0.0, 0.0, 0.0]))
    command[2:3] = [str(tmp_path / "turned"), "--mesh-from-map", str(tmp_path / "turned.txt")]
    assert main(command) == 0
    told = capsys.readouterr().out.splitlines()
    assert told[2].startswith("warning: more than 5 cm apart: is it a mesh of this place, in the map's frame")


def test_a_part_of_the_mesh_is_missing(tmp_path: Path) -> None:
    """A ray that meets nothing has depth 0."""
    data = write_recording(tmp_path / "data", train=4, test=1)
    opened = box()
    opened.update_faces(opened.triangles_center[:, 2] < 2.4)  # no ceiling
    opened.export(tmp_path / "room.ply")
    cast_labels(data, tmp_path / "out", tmp_path / "room.ply")
    written = open_recording(tmp_path / "out")
    rays = CAMERA.ray_grid()
    for item in written.files("train")[0]:
        frame = written.read(item)
        _, depth = render(CAMERA, frame.map_from_camera)
        at = transform_points(frame.map_from_camera, rays * depth[..., None])
        ceiling = at[..., 2] > HIGH[2] - 1e-6
        assert not frame.depth_mm[ceiling].any()
        assert frame.depth_mm[~ceiling].all()


def test_sevenscenes_are_labelled_in_their_colour_camera(tmp_path: Path, mesh_file: Path) -> None:
    map_from_colors = write_sevenscenes(tmp_path / "scene")
    cast_labels(tmp_path / "scene", tmp_path / "out", mesh_file)
    written = open_recording(tmp_path / "out")
    for item, map_from_color in zip(written.files("train")[0], map_from_colors, strict=True):
        frame = written.read(item)
        np.testing.assert_allclose(frame.map_from_camera, map_from_color, atol=1e-6)
        _, depth = render(written.camera, map_from_color)
        assert np.abs(frame.depth_mm - 1000 * depth).max() < 1.5


def test_it_resumes(tmp_path: Path, mesh_file: Path) -> None:
    data, out = write_recording(tmp_path / "data", train=3, test=1), tmp_path / "out"
    cast_labels(data, out, mesh_file)
    before = content_of(out)
    kept = out / "seq-01" / "frame-000000.depth.png"
    written_at = kept.stat().st_mtime_ns
    (out / "seq-01" / "frame-000002.depth.png").unlink()
    (out / "TrainSplit.txt").unlink()
    _, agreement = cast_labels(data, out, mesh_file)
    assert content_of(out) == before
    assert kept.stat().st_mtime_ns == written_at
    assert agreement.frames == 4
    with pytest.raises(RecordingError, match="expected an empty folder or the same import"):
        cast_labels(data, out, mesh_file, combine=True)
    with pytest.raises(RecordingError, match="expected an empty folder or the same import"):
        cast_labels(data, out, mesh_file, metres_per_unit=1.001)


@pytest.mark.parametrize("number", range(13))
def test_a_full_disk(
    number: int,
    tmp_path: Path,
    mesh_file: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """At whichever write it gets full, no half file and no recording is left; later it goes on."""
    data, out = write_recording(tmp_path / "data", train=2, test=1), tmp_path / "out"
    writes = 0

    def write_until_full(path: Path, content: bytes) -> None:
        nonlocal writes
        writes += 1
        if writes > number:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        write_atomic(path, content)

    for module in (on_disk, common):
        monkeypatch.setattr(module, "write_atomic", write_until_full)
    command = ("labels", data, out, "--mesh", mesh_file)
    assert "No space left on device" in fails(capsys, *command)
    assert not (out / "TestSplit.txt").exists()
    for path in out.rglob("*.depth.png"):
        assert cv2.imread(str(path), cv2.IMREAD_UNCHANGED) is not None
    monkeypatch.undo()
    assert main([str(item) for item in command]) == 0
    assert len(open_recording(out).files("train")[0]) == 2


def test_bad_frames(tmp_path: Path, mesh_file: Path) -> None:
    data = write_recording(tmp_path / "data", train=4, test=1)
    (data / "seq-01" / "frame-000000.color.png").write_bytes(b"")
    (data / "seq-01" / "frame-000001.pose.txt").write_text("nan")
    (data / "seq-01" / "frame-000002.depth.png").write_bytes(b"half")
    with pytest.raises(RecordingError, match="1 of 5 frames are bad: .*frame-000001.pose.txt"):
        cast_labels(data, tmp_path / "out", mesh_file)
    imported, agreement = cast_labels(data, tmp_path / "out", mesh_file, skip_bad=True)
    assert (imported.frames, len(imported.bad)) == (2, 3)
    assert agreement.frames == 2


def test_labels_need_no_test_split(tmp_path: Path, mesh_file: Path) -> None:
    data = write_recording(tmp_path / "data", train=2, test=1)
    (data / "TestSplit.txt").unlink()
    shutil.rmtree(data / "seq-02")
    imported, _ = cast_labels(data, tmp_path / "out", mesh_file)
    assert imported.frames == 2
    assert not (tmp_path / "out" / "TestSplit.txt").exists()
