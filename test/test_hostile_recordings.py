"""Recordings made to do harm: nothing is written beside the output's folder, no bomb is unpacked."""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import cv2
import pytest
from bags import COLOR, DEPTH, INFO, STORAGES, Robot, Sent, moving_tf, rendered, write_bag
from import_helpers import contents
from recordings import write_recording, write_sevenscenes
from test_colmap import OPTIONS, Room
from test_rtabmap import write_export
from test_scannet import write_scan
from test_tum import options, write_tum
from twelvescenes_files import SPLIT, write_scene

from structpose_ros.training.config import ConfigError, load_config
from structpose_ros.training.frames import RecordingError, read_camera, read_split
from structpose_ros.training.importers.bag_options import BagOptions
from structpose_ros.training.importers.bag_reader import Bag
from structpose_ros.training.importers.colmap import import_colmap
from structpose_ros.training.importers.common import Selection, write_import
from structpose_ros.training.importers.rosbag2 import import_rosbag2
from structpose_ros.training.importers.rtabmap import plan_rtabmap
from structpose_ros.training.importers.rtabmap_calibration import Calibrations
from structpose_ros.training.importers.scannet import plan_scannet
from structpose_ros.training.importers.sevenscenes import import_7scenes
from structpose_ros.training.importers.tum import plan_tum
from structpose_ros.training.importers.twelvescenes import import_12scenes

ALL = Selection(test_fraction=0.0)
# All that an importer writes, whatever the recording's own names are.
WRITTEN = re.compile(
    r"camera\.yaml|import\.json|(Train|Test)Split\.txt|"
    r"seq-\d{2,9}/(stamps\.txt|frame-\d{6,18}\.(color\.(jpg|png)|depth\.png|pose\.txt))"
)
NAMES = ["../beside.png", "/tmp/beside.png", "rgb/../../beside.png", "rgb\0.png", "..", "."]
LONG = 40 * "very_long_"


def import_tum(source: Path, out: Path) -> None:
    write_tum(source, 2)
    write_import(plan_tum(source, options(source), ALL), out)


def import_rtabmap(source: Path, out: Path) -> None:
    """An image named by an id of 18 digits, and others that no importer may take for one."""
    write_export(source, 3, by_id=True)
    for part in ("rgb", "depth", "calib"):
        file = next((source / f"room_{part}").glob("5.*"))
        file.rename(file.with_stem("9" * 18))
    poses = source / "room_camera_poses.txt"
    poses.write_text(re.sub(r" 5$", " " + "9" * 18, poses.read_text(), flags=re.MULTILINE))
    for name in ("..jpg", f"{'9' * 200}.jpg", "\N{ARABIC-INDIC DIGIT ONE}\n.jpg"):
        (source / "room_rgb" / name).write_bytes(b"")
    write_import(plan_rtabmap(source, ALL), out)


def import_scannet(source: Path, out: Path) -> None:
    write_scan(source, 2)
    for name in (f"{'9' * 200}.jpg", "..jpg", "-1.jpg", "1\n.jpg"):
        (source / "color" / name).write_bytes(b"")
    write_import(plan_scannet(source, ALL), out)


def import_colmap_room(source: Path, out: Path) -> None:
    room = Room(source, count=2)
    name = f"run/{LONG[:200]}\n.png".replace("\n", "%0a")
    (source / "images" / "run" / "000.png").rename(source / "images" / name)
    listing = room.model / "images.txt"
    listing.write_text(listing.read_text().replace("run/000.png", name))
    import_colmap(source, out, OPTIONS)


def import_7scenes_scene(source: Path, out: Path) -> None:
    write_sevenscenes(source, 1)
    (source / "seq-01").rename(source / "seq-999999999")
    (source / "TrainSplit.txt").write_text("sequence999999999\n")
    import_7scenes(source, out)


def import_12scenes_scene(source: Path, out: Path) -> None:
    write_scene(source)
    (source / "split.txt").write_text(SPLIT.replace("sequence1", "sequence99999999"))
    import_12scenes(source, out)


def import_bag(source: Path, out: Path) -> None:
    """Topics that are paths."""
    shots = rendered(2)
    robot = Robot()
    renamed = {topic: f"/../../..{topic}/../../etc/passwd" for topic in (COLOR, INFO, DEPTH)}
    sent: Sent = [*robot.static(), *moving_tf(shots), *robot.camera_messages(shots)]
    sent = [(at, renamed.get(topic, topic), message) for at, topic, message in sent]
    write_bag(source, sent, *STORAGES[0])
    named = dict(zip(("image", "camera_info", "depth"), renamed.values(), strict=True))
    import_rosbag2(source, out, options=BagOptions(**named), selection=ALL)


IMPORTS: list[Callable[[Path, Path], None]] = [
    import_tum,
    import_rtabmap,
    import_scannet,
    import_colmap_room,
    import_7scenes_scene,
    import_12scenes_scene,
    import_bag,
]


@pytest.mark.parametrize("run", IMPORTS)
def test_an_import_writes_files_of_its_own_names_in_its_own_folder(
    run: Callable[[Path, Path], None], tmp_path: Path
) -> None:
    written: set[Path] = set()
    write, rename = Path.write_bytes, Path.replace

    def watched(self: Path, content: bytes) -> int:
        written.add(self)
        return write(self, content)

    def renamed(self: Path, target: Path) -> Path:
        written.add(target)
        return rename(self, target)

    out = tmp_path / "deep" / "out"
    with mock.patch.object(Path, "write_bytes", watched), mock.patch.object(Path, "replace", renamed):
        run(tmp_path / "deep" / "source", out)
    names = set(contents(out))
    assert {path for path in names if not WRITTEN.fullmatch(path)} == set()
    assert {"camera.yaml", "TrainSplit.txt"} < names
    ours = {path for path in written if tmp_path / "deep" / "source" not in path.parents}
    assert all(path.resolve().is_relative_to(out.resolve()) for path in ours)
    assert {item.name for item in tmp_path.iterdir()} == {"deep"}
    assert {item.name for item in (tmp_path / "deep").iterdir()} == {"source", "out"}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("table", ["rgb.txt", "depth.txt"])
def test_tum_names_no_files_elsewhere(name: str, table: str, tmp_path: Path) -> None:
    write_tum(tmp_path / "drive", 1)
    path = tmp_path / "drive" / table
    path.write_text(re.sub(r"(rgb|depth)/\S+", lambda _: name, path.read_text()))
    with pytest.raises(RecordingError) as raised:
        write_import(plan_tum(tmp_path / "drive", options(tmp_path / "drive"), ALL), tmp_path / "out")
    assert str(raised.value).count("expected ") == 1
    assert not (tmp_path / "out").exists()


def test_a_name_longer_than_a_file_system_takes_is_a_bad_frame(tmp_path: Path) -> None:
    write_tum(tmp_path / "drive", 1)
    path = tmp_path / "drive" / "rgb.txt"
    path.write_text(re.sub(r"rgb/\S+", LONG, path.read_text()))
    with pytest.raises(RecordingError, match="expected an image, got: File name too long"):
        write_import(plan_tum(tmp_path / "drive", options(tmp_path / "drive"), ALL), tmp_path / "out")


@pytest.mark.parametrize("line", ["sequence" + 5000 * "9", "../seq-01", "seq-01/../..", "sequence-1"])
def test_a_split_names_sequences_by_number_alone(line: str, tmp_path: Path) -> None:
    root = write_recording(tmp_path / "room", train=1, test=1)
    (root / "TrainSplit.txt").write_text(f"{line}\n")
    with pytest.raises(RecordingError, match="expected lines like 'sequence1' in ") as raised:
        read_split(root, "train")
    assert len(str(raised.value)) < len(str(root)) + 200


@pytest.mark.parametrize("named", ["../elsewhere.mcap", "/etc/passwd"])
def test_a_bags_metadata_names_no_files_elsewhere(named: str, tmp_path: Path) -> None:
    """The library looks for the name alone, beside metadata.yaml."""
    write_bag(tmp_path / "bag", Robot().static(), "mcap", "none")
    file = next((tmp_path / "bag").glob("*.mcap"))
    file.rename(tmp_path / "elsewhere.mcap")
    metadata = tmp_path / "bag" / "metadata.yaml"
    metadata.write_text(metadata.read_text().replace(file.name, named))
    with pytest.raises(RecordingError, match="expected a whole rosbag2 recording, got .* files are missing"):
        Bag(tmp_path / "bag")


# --- bombs ---


def png_bomb(side: int = 60_000) -> bytes:
    """Return a whole PNG of some kB whose header claims `side` x `side` pixels of black."""

    def chunk(name: bytes, content: bytes) -> bytes:
        checksum = zlib.crc32(name + content)
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", checksum)

    header = struct.pack(">IIBBBBB", side, side, 16, 0, 0, 0, 0)
    pixels = zlib.compress(bytes(10_000_000), 9)
    begin = b"\x89PNG\r\n\x1a\n"
    return begin + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


@pytest.mark.parametrize("part", ["rgb", "depth"])
def test_an_image_bomb_is_refused_before_it_is_decoded(part: str, tmp_path: Path) -> None:
    write_tum(tmp_path / "drive", 1)
    next((tmp_path / "drive" / part).iterdir()).write_bytes(png_bomb())
    plan = plan_tum(tmp_path / "drive", options(tmp_path / "drive"), ALL)
    decoded: list[int] = []
    decode = cv2.imdecode

    def watched(content: object, flags: int) -> object:
        decoded.append(flags)
        return decode(content, flags)

    with mock.patch.object(cv2, "imdecode", watched), pytest.raises(RecordingError) as raised:
        write_import(plan, tmp_path / "out")
    assert "expected at most 100000000 pixels, got a PNG of 60000x60000" in str(raised.value)
    assert len(decoded) == (0 if part == "rgb" else 1), "the good colour image is read before the bomb"


@pytest.mark.parametrize(
    "begin", [b"II*\0", b"MM\0*", b"\x76\x2f\x31\x01", b"RIFF....WEBPVP8 ", b"BM", b"#?RADIANCE"]
)
def test_formats_whose_size_is_not_checked_are_not_decoded(begin: bytes, tmp_path: Path) -> None:
    write_tum(tmp_path / "drive", 1)
    next((tmp_path / "drive" / "rgb").iterdir()).write_bytes(begin + bytes(100))
    plan = plan_tum(tmp_path / "drive", options(tmp_path / "drive"), ALL)
    never = mock.patch.object(cv2, "imdecode", side_effect=AssertionError("decoded"))
    with never, pytest.raises(RecordingError, match="expected a JPEG or PNG file, got"):
        write_import(plan, tmp_path / "out")


@pytest.mark.parametrize("text", [5000 * "[", "!!python/object/apply:os.system ['touch harm']", "a: *b"])
def test_yaml_that_is_nested_deep_or_wants_to_run_is_refused(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "file.yaml"
    path.write_text(text)
    with pytest.raises(RecordingError, match="expected a ROS camera_info YAML file, got: "):
        read_camera(path)
    with pytest.raises(RecordingError, match="expected a calibration of RTAB-Map, got: "):
        Calibrations().read(path)
    with pytest.raises(ConfigError, match="expected YAML, got: "):
        load_config(path)
    assert [item.name for item in tmp_path.iterdir()] == ["file.yaml"]
