"""COLMAP's recordings of the box room: poses, cameras and depth come out as they were, however written."""

from __future__ import annotations

import errno
import struct
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from recordings import CAMERA, HIGH, LOW, poses, render

from structpose_ros import cli
from structpose_ros.camera import Camera
from structpose_ros.geometry import (
    invert,
    pose_error,
    quaternion_from_rotation,
    transform_points,
)
from structpose_ros.training.frames import RecordingError, open_recording
from structpose_ros.training.importers.colmap import ColmapOptions, import_colmap, plan_colmap
from structpose_ros.training.importers.colmap_depth import sparse_depth
from structpose_ros.training.importers.colmap_model import SfmImage, SfmPoints
from structpose_ros.training.importers.common import Selection
from structpose_ros.training.labels import sample_labels

SCALE = 2.5  # metres per unit of the models here
MODEL = ("PINHOLE", [CAMERA.fx, CAMERA.fy, CAMERA.cx + 0.5, CAMERA.cy + 0.5])
NUMBERS = {"SIMPLE_PINHOLE": 0, "PINHOLE": 1, "SIMPLE_RADIAL": 2, "OPENCV": 4, "FOV": 7}
OPTIONS = ColmapOptions(SCALE, selection=Selection(test_fraction=0))


def wall_points(count: int, seed: int = 0) -> np.ndarray:
    """Return points (N, 3) in metres on the walls of the room, each of which every camera inside may see."""
    random = np.random.default_rng(seed)
    points = random.uniform(LOW, HIGH, (count, 3))
    wall = random.integers(0, 3, count)
    points[np.arange(count), wall] = np.where(random.random(count) < 0.5, LOW[wall], HIGH[wall])
    return points


class Room:
    """A project of COLMAP on disk: images, and a model of them with the points that each has seen."""

    def __init__(
        self,
        root: Path,
        kind: str = "text",
        *,
        count: int = 3,
        camera: Camera = CAMERA,
        models: Sequence[tuple[str, list[float]]] = (MODEL,),
        model_folder: str = "sparse/0",
    ) -> None:
        self.root, self.camera = root, camera
        self.points = wall_points(300)
        self.poses = {f"run/{number:03d}.png": pose for number, pose in enumerate(poses(count, 3))}
        self.model = root / model_folder
        self.model.mkdir(parents=True)
        (root / "images" / "run").mkdir(parents=True)
        self.seen: dict[str, list[int]] = {}
        for name, pose in self.poses.items():
            image, _ = render(camera, pose)
            cv2.imwrite(str(root / "images" / name), cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
            pixels = camera.project(transform_points(invert(pose), self.points))
            inside = (pixels >= 0).all(axis=1) & (pixels <= [camera.width - 1, camera.height - 1]).all(axis=1)
            self.seen[name] = np.flatnonzero(inside).tolist()
        (self.write_text if kind == "text" else self.write_binary)(models)

    def rows(self) -> list[tuple[int, list[float], str, list[tuple[float, float, int]]]]:
        """Return id, pose (quaternion w x y z, translation), name and points (x, y, id + 100) per image."""
        rows = []
        for number, (name, pose) in enumerate(self.poses.items(), start=1):
            camera_from_map = invert(pose)
            x, y, z, w = quaternion_from_rotation(camera_from_map[:3, :3])
            seen = [(1.0, 2.0, index + 100) for index in self.seen[name]]
            numbers = [float(value) for value in (w, x, y, z, *camera_from_map[:3, 3] / SCALE)]
            rows.append((number, numbers, name, [(5.0, 6.0, -1), *seen]))
        return rows[::-1]  # in another order than that of the names

    def write_text(self, models: Sequence[tuple[str, list[float]]]) -> None:
        size = f"{self.camera.width} {self.camera.height}"
        cameras = [
            f"{number} {name} {size} {words(values)}" for number, (name, values) in enumerate(models, 1)
        ]
        (self.model / "cameras.txt").write_text("# cameras\n" + "\n".join(cameras) + "\n")
        images = ["# images"]
        for number, pose, name, seen in self.rows():
            images.append(f"{number} {words(pose)} {1 + number % len(models)} {name}")
            images.append(" ".join(f"{x} {y} {point}" for x, y, point in seen))
        (self.model / "images.txt").write_text("\n".join(images) + "\n")
        points = [
            f"{index + 100} {words((point / SCALE).tolist())} 9 9 9 0.5 1 0 2 0 3 0"
            for index, point in enumerate(self.points)
        ]
        (self.model / "points3D.txt").write_text("\n".join(points) + "\n")

    def write_binary(self, models: Sequence[tuple[str, list[float]]]) -> None:
        content = struct.pack("<Q", len(models))
        for number, (name, values) in enumerate(models, 1):
            content += struct.pack("<iiQQ", number, NUMBERS[name], self.camera.width, self.camera.height)
            content += struct.pack(f"<{len(values)}d", *values)
        (self.model / "cameras.bin").write_bytes(content)
        content = struct.pack("<Q", len(self.poses))
        for number, pose, name, seen in self.rows():
            content += struct.pack("<i7di", number, *pose, 1 + number % len(models)) + name.encode() + b"\0"
            content += struct.pack("<Q", len(seen)) + b"".join(struct.pack("<ddq", *point) for point in seen)
        (self.model / "images.bin").write_bytes(content)
        content = struct.pack("<Q", len(self.points))
        for index, point in enumerate(self.points):
            content += struct.pack(
                "<Q3d3BdQ6i", index + 100, *(point / SCALE), 9, 9, 9, 0.5, 3, 1, 0, 2, 0, 3, 0
            )
        (self.model / "points3D.bin").write_bytes(content)


def words(values: Sequence[float]) -> str:
    return " ".join(f"{value:.17g}" for value in values)


def tree(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.mark.parametrize("kind", ["text", "binary"])
def test_what_was_rendered_comes_out(kind: str, tmp_path: Path) -> None:
    room = Room(tmp_path / "room", kind)
    imported = import_colmap(room.root, tmp_path / "out", OPTIONS)
    assert (imported.frames, list(imported.bad)) == (3, [])
    recording = open_recording(tmp_path / "out")
    assert recording.camera == CAMERA  # a half pixel off the file's principal point
    files, _ = recording.files("train")
    for item, (name, pose) in zip(files, room.poses.items(), strict=True):
        frame = recording.read(item)
        position, rotation = pose_error(frame.map_from_camera, pose)
        assert position < 1e-6
        assert rotation < 1e-5
        image, true_depth = render(CAMERA, pose)
        np.testing.assert_array_equal(frame.image_rgb, image)
        points_in_camera = transform_points(invert(pose), room.points[room.seen[name]])
        columns, rows = np.rint(CAMERA.project(points_in_camera)).astype(int).T
        assert len(rows) > 10
        for row, column in {*zip(rows.tolist(), columns.tolist(), strict=True)}:
            here = (rows == row) & (columns == column)
            nearest = np.rint(1000 * points_in_camera[here, 2].min())
            assert abs(int(frame.depth_mm[row, column]) - nearest) <= 1  # metres went through the scale
            # A pixel's middle and a point in it differ by as much as the wall slants.
            assert abs(frame.depth_mm[row, column] / 1000 - true_depth[row, column]) < 0.15
        assert np.count_nonzero(frame.depth_mm) == len({*zip(rows, columns, strict=True)})


def test_text_equals_binary(tmp_path: Path) -> None:
    written = []
    for kind in ("text", "binary"):
        room = Room(tmp_path / kind / "room", kind)
        import_colmap(room.root, tmp_path / kind / "out", OPTIONS)
        written.append(tree(tmp_path / kind / "out"))
    assert written[0] == written[1]


@pytest.mark.parametrize("model_folder", ["sparse/0", "sparse", "."])
def test_where_the_model_may_lie(model_folder: str, tmp_path: Path) -> None:
    room = Room(tmp_path / "room", model_folder=model_folder)
    assert len(plan_colmap(room.root, OPTIONS).frames) == 3


def test_model_and_images_in_folders_of_their_own(tmp_path: Path) -> None:
    room = Room(tmp_path / "room", model_folder="elsewhere/1")
    (room.root / "images").rename(tmp_path / "pictures")
    with pytest.raises(RecordingError, match=r"expected a sparse model .* in .*sparse/0, .*, got none"):
        plan_colmap(room.root, OPTIONS)
    options = replace(OPTIONS, model=room.model)
    with pytest.raises(RecordingError, match="expected the folder of the images at .*--images names it"):
        plan_colmap(room.root, options)
    options = replace(options, images=tmp_path / "pictures")
    assert import_colmap(room.root, tmp_path / "out", options).frames == 3


def test_a_distorted_lens_is_kept(tmp_path: Path) -> None:
    lens = replace(CAMERA, distortion=(-0.1, 0.02, 0.001, -0.002, 0.0))
    values = [lens.fx, lens.fy, lens.cx + 0.5, lens.cy + 0.5, *lens.distortion[:4]]
    room = Room(tmp_path / "room", camera=lens, models=[("OPENCV", values)])
    import_colmap(room.root, tmp_path / "out", OPTIONS)
    recording = open_recording(tmp_path / "out")
    assert recording.camera == lens
    frame = recording.read(recording.files("train")[0][0])
    _, true_depth = render(lens, room.poses["run/000.png"])
    seen = frame.depth_mm > 0
    assert seen.sum() > 20
    assert np.abs(frame.depth_mm / 1000 - true_depth)[seen].max() < 0.15


def test_a_point_labels_the_cell_it_lies_in(tmp_path: Path) -> None:
    camera = CAMERA.resized(640, 480)
    pose = poses(1, 3)[0]
    points = wall_points(2000)
    model = SfmPoints(np.arange(2000), points, np.zeros(2000), np.full(2000, 3))
    image = SfmImage("", 1, invert(pose), np.arange(2000))
    points_in_camera = transform_points(invert(pose), points)
    pixels = camera.project(points_in_camera)
    nearest = np.rint(pixels)
    cells = nearest // 8
    inside = ((nearest >= 0) & (nearest < [640, 480])).all(axis=1)
    taken = {(int(y), int(x)) for x, y in cells[inside]}
    depth_mm = sparse_depth(image, model, camera, 1.0)
    labels = sample_labels(depth_mm, camera, pose, camera.ray_grid(8))
    labelled = {(int(row), int(column)) for row, column in np.argwhere(labels.valid_mask)}
    assert labelled == taken
    _, true_depth = render(camera, pose)
    truth = true_depth[4::8, 4::8]  # a cell's middle, 3.5, is rounded to 4
    error = np.abs(labels.depth - truth)[labels.valid_mask]
    assert np.median(error) < 0.01
    assert np.percentile(error, 99) < 0.1


def test_the_nearer_of_two_points_in_a_pixel_counts() -> None:
    camera = Camera(9, 7, 10.0, 10.0, 4.0, 3.0)
    at = np.array([[0.0, 0.0, 1.0], [0.1, 0.0, 1.0], [0.1, 0.0, 1.0], [-0.3, 0.2, 1.0], [0.0, 0.0, -1.0]])
    depths = np.array([[2.0], [1.0], [3.0], [70.0], [1.0]])  # the fourth is beyond what 16 bits hold
    model = SfmPoints(np.arange(5), at * depths, np.zeros(5), np.full(5, 3))
    image = SfmImage("", 1, np.eye(4), np.arange(5))
    expected = np.zeros((7, 9), dtype=np.uint16)
    expected[3, 4], expected[3, 5] = 2000, 1000
    np.testing.assert_array_equal(sparse_depth(image, model, camera, 1.0), expected)
    # The fifth is behind the camera: the mirrored place is not its own.
    alone = SfmImage("", 1, np.eye(4), np.array([4, 77, -1]))
    assert not sparse_depth(alone, model, camera, 1.0).any()


def test_unreliable_points_are_left_out(tmp_path: Path) -> None:
    room = Room(tmp_path / "room")
    for options, why in (
        (replace(OPTIONS, max_error=0.4), "0.4 px"),
        (replace(OPTIONS, min_track=4), "4 images"),
    ):
        with pytest.raises(RecordingError, match=f"expected points of .*{why}.* got none"):
            plan_colmap(room.root, options)


def write_map(path: Path, depth: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    height, width = depth.shape
    path.write_bytes(f"{width}&{height}&1&".encode() + depth.astype("<f4").tobytes())


def test_maps_of_mvs(tmp_path: Path) -> None:
    room = Room(tmp_path / "room", model_folder="sparse")
    (room.model / "points3D.txt").unlink()  # not needed
    for name, pose in room.poses.items():
        depth = render(CAMERA, pose)[1] / SCALE
        depth[:5] = 0
        depth[5, :4] = [np.nan, np.inf, -1, 1e9]
        write_map(room.root / "stereo" / "depth_maps" / f"{name}.geometric.bin", depth)
    import_colmap(room.root, tmp_path / "out", OPTIONS)
    recording = open_recording(tmp_path / "out")
    for item, pose in zip(recording.files("train")[0], room.poses.values(), strict=True):
        read = recording.read(item).depth_mm
        truth = render(CAMERA, pose)[1]
        assert not read[:5].any()
        assert not read[5, :4].any()
        np.testing.assert_allclose(read[6:], 1000 * truth[6:], atol=0.6)


def test_smaller_maps_are_enlarged_by_the_nearest_pixel(tmp_path: Path) -> None:
    room = Room(tmp_path / "room")
    small = CAMERA.resized(32, 24)
    for name, pose in room.poses.items():
        write_map(
            room.root / "stereo" / "depth_maps" / f"{name}.geometric.bin", render(small, pose)[1] / SCALE
        )
    plan = plan_colmap(room.root, replace(OPTIONS, depth="mvs"))
    for index, pose in enumerate(room.poses.values()):
        expected = np.rint(1000 * render(small, pose)[1]).repeat(2, axis=0).repeat(2, axis=1)
        np.testing.assert_allclose(plan.read_one(index).depth_mm, expected, atol=1)


def test_maps_that_do_not_belong(tmp_path: Path) -> None:
    room = Room(tmp_path / "room", count=2)
    maps = room.root / "stereo" / "depth_maps" / "run"
    write_map(maps / "000.png.geometric.bin", np.ones((48, 48)))
    with pytest.raises(
        RecordingError,
        match=r"2 of 2 .*expected the proportions of 64x48, got 48x48.*; .*001.png.geometric.bin",
    ):
        import_colmap(room.root, tmp_path / "out", OPTIONS)
    values = [60.0, 32.0, 24.0, -0.1]
    distorted = Room(tmp_path / "distorted", models=[("SIMPLE_RADIAL", values)])
    write_map(distorted.root / "stereo" / "depth_maps" / "a.geometric.bin", np.ones((48, 64)))
    with pytest.raises(RecordingError, match="expected the undistorted model that the maps in .* belong to"):
        plan_colmap(distorted.root, OPTIONS)
    assert len(plan_colmap(distorted.root, replace(OPTIONS, depth="sparse")).frames) == 3


def test_blocks_or_a_list_are_for_testing(tmp_path: Path) -> None:
    room = Room(tmp_path / "room", count=10)
    selection = Selection(test_fraction=0.2, blocks=1, gap=0)
    chosen = plan_colmap(room.root, replace(OPTIONS, selection=selection)).frames
    assert [frame.split for frame in chosen] == ["train"] * 4 + ["test"] * 2 + ["train"] * 4
    assert [Path(frame.source).stem for frame in chosen] == [f"{number:03d}" for number in range(10)]

    test_list = tmp_path / "list_test.txt"
    test_list.write_text(
        "Visual Landmark Dataset V1\nImageFile, Camera Position [X Y Z W P Q R]\n\n"
        "# comment.txt\nrun/003.png 1 2 3 0.5 0.5 0.5 0.5\nrun/001.png SIMPLE_PINHOLE 64 48\n"
    )
    plan = plan_colmap(room.root, replace(OPTIONS, test_list=test_list))
    assert [Path(frame.source).stem for frame in plan.frames if frame.split == "test"] == ["001", "003"]
    assert {(frame.split, frame.sequence) for frame in plan.frames} == {("train", 1), ("test", 2)}
    import_colmap(room.root, tmp_path / "out", replace(OPTIONS, test_list=test_list))
    recording = open_recording(tmp_path / "out")
    assert [len(recording.files(split)[0]) for split in ("train", "test")] == [8, 2]

    test_list.write_text("run/003.png\nrun/900.png\n")
    with pytest.raises(RecordingError, match="run/900.png: expected a pose .* in list_test.txt, got none"):
        import_colmap(room.root, tmp_path / "other", replace(OPTIONS, test_list=test_list))
    for content, got in ((b"elsewhere.png\n", "'elsewhere.png'"), (b"", r"\[\]"), (b"\xff.png", "invalid")):
        test_list.write_bytes(content)
        with pytest.raises(RecordingError, match=rf"list_test.txt: expected names of .*got:? .*{got}"):
            plan_colmap(room.root, replace(OPTIONS, test_list=test_list))


def test_several_cameras(tmp_path: Path) -> None:
    nearly = ("PINHOLE", [value * 1.0005 for value in MODEL[1]])
    same = Room(tmp_path / "same", models=[MODEL, nearly])
    assert plan_colmap(same.root, OPTIONS).camera == CAMERA
    radial = Room(tmp_path / "radial", models=[MODEL, ("SIMPLE_RADIAL", [60.0, 32.0, 24.0, 0.0005])])
    assert plan_colmap(radial.root, OPTIONS).camera == CAMERA

    for other in (
        ("PINHOLE", [value * 1.002 for value in MODEL[1]]),
        ("SIMPLE_RADIAL", [60.0, 32.0, 24.0, 0.002]),
        ("SIMPLE_PINHOLE", [60.0, 32.0, 24.1]),
    ):
        folder = tmp_path / other[0] / str(other[1][-1])
        room = Room(folder, models=[MODEL, other])
        with pytest.raises(
            RecordingError, match=r"expected one camera in .*, got 2, of which 1 and 2 differ by "
        ):
            plan_colmap(room.root, OPTIONS)
        only = plan_colmap(room.root, replace(OPTIONS, camera_id=1))
        assert only.camera == CAMERA
        assert [Path(frame.source).name for frame in only.frames] == ["001.png"]  # even ids
    with pytest.raises(RecordingError, match="expected registered images of camera 7 in .*, got none"):
        plan_colmap(room.root, replace(OPTIONS, camera_id=7))

    odd = Room(tmp_path / "odd", "binary", models=[MODEL, ("FOV", [60, 60, 32, 24, 0.9])])
    with pytest.raises(RecordingError, match=r"sparse/0: expected a camera model of .*, got FOV"):
        plan_colmap(odd.root, OPTIONS)
    assert len(plan_colmap(odd.root, replace(OPTIONS, camera_id=1)).frames) == 1
    (odd.model / "cameras.bin").write_bytes(struct.pack("<Q", 0))
    with pytest.raises(RecordingError, match="expected camera 1 that images name, got none"):
        plan_colmap(odd.root, OPTIONS)


def test_images_are_read_as_they_lie_in_the_file(tmp_path: Path) -> None:
    """COLMAP does not turn images as their EXIF data ask for, and OpenCV does."""
    room = Room(tmp_path / "room", count=2)
    for (name, pose), orientation in zip(room.poses.items(), (1, 3), strict=True):  # 3: turned by 180 degrees
        image = cv2.cvtColor(render(CAMERA, pose)[0], cv2.COLOR_RGB2BGR)
        jpeg = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 100])[1].tobytes()
        tags = b"Exif\0\0II*\0" + struct.pack("<IHHHIHHI", 8, 1, 0x0112, 3, 1, orientation, 0, 0)
        tagged = jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(tags) + 2) + tags + jpeg[2:]
        (room.root / "images" / name).write_bytes(tagged)
    import_colmap(room.root, tmp_path / "out", OPTIONS)
    recording = open_recording(tmp_path / "out")
    files, _ = recording.files("train")
    assert [item.color.suffix for item in files] == [".jpg", ".png"]  # bytes are kept where nobody turns them
    for item, pose in zip(files, room.poses.values(), strict=True):
        difference = recording.read(item).image_rgb.astype(int) - render(CAMERA, pose)[0]
        assert np.abs(difference).max() < 12


def test_bad_images_are_named(tmp_path: Path) -> None:
    room = Room(tmp_path / "room", count=4)
    images = room.root / "images" / "run"
    (images / "000.png").unlink()
    (images / "001.png").write_bytes(b"half")
    cv2.imwrite(str(images / "002.png"), np.zeros((480, 640, 3), np.uint8))
    with pytest.raises(
        RecordingError,
        match=r"3 of 4 .*000.png: expected an image, got nothing; .*001.png: expected "
        r"a JPEG or PNG file, .*002.png: expected 64x48 as its camera says, got 640x480",
    ):
        import_colmap(room.root, tmp_path / "out", OPTIONS)
    assert not (tmp_path / "out" / "camera.yaml").exists()
    imported = import_colmap(room.root, tmp_path / "out", OPTIONS, skip_bad=True)
    assert (imported.frames, len(imported.bad)) == (1, 3)


@pytest.mark.parametrize("name", ["../secret.png", "/etc/secret.png", "run/../../secret.png"])
def test_a_model_names_no_files_elsewhere(name: str, tmp_path: Path) -> None:
    room = Room(tmp_path / "room", count=1)
    path = room.model / "images.txt"
    path.write_text(path.read_text().replace("run/000.png", name))
    with pytest.raises(RecordingError, match=f"expected names of images below .*, got '{name}'"):
        plan_colmap(room.root, OPTIONS)


def test_no_registered_image(tmp_path: Path) -> None:
    room = Room(tmp_path / "room", count=1)
    (room.model / "images.txt").write_text("# Number of images: 0\n")
    with pytest.raises(RecordingError, match="expected registered images in .*, got none"):
        plan_colmap(room.root, OPTIONS)


def test_options_out_of_range() -> None:
    for scale in (0.0, -1.0, float("inf"), float("nan")):
        with pytest.raises(RecordingError, match="scale: expected metres per unit"):
            ColmapOptions(scale)
    with pytest.raises(RecordingError, match="depth: expected one of auto, sparse, mvs, got 'lidar'"):
        ColmapOptions(1.0, depth="lidar")


def test_a_full_disk_at_any_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    room = Room(tmp_path / "room", count=2)
    import_colmap(room.root, tmp_path / "undisturbed", OPTIONS)
    expected = tree(tmp_path / "undisturbed")
    write_bytes = Path.write_bytes
    for failing in range(len(expected)):
        out = tmp_path / f"out{failing}"
        done = 0

        def fill(path: Path, content: bytes, failing: int = failing) -> int:
            nonlocal done
            done += 1
            if done > failing:
                write_bytes(path, content[: len(content) // 2])
                raise OSError(errno.ENOSPC, "No space left on device")
            return write_bytes(path, content)

        monkeypatch.setattr(Path, "write_bytes", fill)
        with pytest.raises(OSError, match="No space left"):
            import_colmap(room.root, out, OPTIONS)
        monkeypatch.setattr(Path, "write_bytes", write_bytes)
        kept = tree(out)
        assert {name: expected[name] for name in kept} == kept  # whole files alone
        assert import_colmap(room.root, out, OPTIONS).frames == 2
        assert tree(out) == expected


def test_another_scale_is_another_import(tmp_path: Path) -> None:
    room = Room(tmp_path / "room", count=1)
    import_colmap(room.root, tmp_path / "out", OPTIONS)
    with pytest.raises(RecordingError, match="expected an empty folder or the same import"):
        import_colmap(room.root, tmp_path / "out", replace(OPTIONS, scale=1.0))


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    room = Room(tmp_path / "room", count=6)
    arguments = ["import", "colmap", str(room.root), str(tmp_path / "out")]
    with pytest.raises(SystemExit):
        cli.main(arguments)
    assert "the following arguments are required: --scale" in capsys.readouterr().err
    status = cli.main(
        [*arguments, "--scale", "2.5", "--test-fraction", "0.34", "--test-blocks", "1", "--test-gap", "0"]
    )
    assert status == 0
    assert capsys.readouterr().out == f"wrote 6 frames to {tmp_path / 'out'}\n"
    recording = open_recording(tmp_path / "out")
    assert [len(recording.files(split)[0]) for split in ("train", "test")] == [4, 2]
    position, _ = pose_error(recording.read(recording.files("train")[0][0]).map_from_camera, poses(6, 3)[0])
    assert position < 1e-6
    assert cli.main([*arguments[:-1], str(tmp_path / "o"), "--scale", "1", "--model", str(tmp_path)]) == 1
    assert capsys.readouterr().err.startswith("structpose: error: expected a sparse model")
