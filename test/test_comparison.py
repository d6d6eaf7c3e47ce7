"""Methods side by side: what is measured, what is kept, and other people's published estimates."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from model_files import View, contract, write_model, write_model_of_views
from pictures import colors
from recordings import CAMERA, frame, poses, real_data, write_recording

from structpose_ros.camera import Camera
from structpose_ros.cli import main
from structpose_ros.geometry import invert, quaternion_from_rotation, rotation_from_vector, transform
from structpose_ros.network import OnnxNetwork
from structpose_ros.training import comparison
from structpose_ros.training.baselines import ComparisonError, PoseRegressor
from structpose_ros.training.comparison import compare
from structpose_ros.training.frames import write_frame
from structpose_ros.training.methods import published_files
from structpose_ros.training.outcomes import read_poses, read_world_to_camera

OWN = ["direct", "epnp", "pnp_ransac", "retrieval_oracle"]


@pytest.fixture
def setting(tmp_path: Path) -> tuple[Path, Path]:
    """A recording whose images tell a model, which knows both true poses, which of them and how deep."""
    root = write_recording(tmp_path / "room", train=4, test=2)
    true = poses(2, 2)
    random = np.random.default_rng(0)
    for number, map_from_camera in enumerate(true):
        shot = frame("", map_from_camera)
        image = np.zeros_like(shot.image_rgb)
        # Depth is what the model reads from red; a plane would leave EPnP, which needs relief, in doubt.
        image[..., 0] = np.kron(random.integers(20, 230, (6, 8)), np.ones((8, 8)))
        image[..., 1] = number
        write_frame(root / "seq-02", number, type(shot)("", image, shot.depth_mm, map_from_camera))
    views = [View(map_from_camera, CAMERA.ray_grid(8)) for map_from_camera in true]
    return root, write_model_of_views(tmp_path / "model.onnx", views)


def by_name(content: dict) -> dict[str, dict]:
    return {item["name"]: item for item in content["methods"]}


def test_all_solves_agree_on_exact_predictions(setting: tuple[Path, Path], tmp_path: Path) -> None:
    root, model = setting
    out = tmp_path / "out"
    content = compare(out, model=model, data_root=root, provider="cpu")
    assert content == json.loads((out / "compare.json").read_text())
    methods = by_name(content)
    assert list(methods) == OWN
    for name in OWN[:3]:
        assert methods[name]["frames"] == 2
        assert methods[name]["within_5cm_5deg"] == 1.0
        assert methods[name]["mean_position_m"] < 1e-4
        assert methods[name]["solve_ms"]["p50"] > 0
        assert methods[name]["inputs"]["model_sha256"] == OnnxNetwork(model, "cpu").sha256
        assert [item.name for item in read_poses(out / name / "poses.csv")] == [
            "seq-02/frame-000000",
            "seq-02/frame-000001",
        ]
    assert methods["retrieval_oracle"]["solve_ms"]["p50"] is None
    assert methods["retrieval_oracle"]["latency_ms"]["p50"] is None
    assert methods["pnp_ransac"]["inputs"]["threshold_px"] == 1.0
    assert [item["family"] for item in content["methods"]] == ["direct", "direct", "indirect", "indirect"]
    lines = (out / "compare.md").read_text().splitlines()
    assert len([line for line in lines if line.startswith("|")]) == 2 + 4
    assert lines[2].startswith("| structpose | direct | 2 | 0.000 | 0.00 |")
    assert "| 100.0 % | 100.0 % |" in lines[2]
    assert colors(out / "cumulative.png") > 50


def counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list that grows by the name of each frame that the network is run on."""
    seen: list[str] = []
    evaluate_frames = comparison.evaluate_frames

    def count(*given: object, on_frame: Callable[..., None], **options: object) -> object:
        def counting(outcome: object, result: object, shot: object) -> None:
            seen.append(outcome.name)  # type: ignore[attr-defined]
            on_frame(outcome, result, shot)

        return evaluate_frames(*given, on_frame=counting, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(comparison, "evaluate_frames", count)
    return seen


def test_what_is_finished_is_kept(
    setting: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, model = setting
    out, seen = tmp_path / "out", counted(monkeypatch)
    first = compare(out, model=model, data_root=root, provider="cpu")
    assert len(seen) == 2  # once per frame, for all solves
    assert compare(out, model=model, data_root=root, provider="cpu") == first
    assert len(seen) == 2

    # Another threshold: the other methods keep even their times.
    changed = by_name(compare(out, model=model, data_root=root, provider="cpu", pnp_threshold_px=20.0))
    assert len(seen) == 4
    assert changed["pnp_ransac"]["inputs"]["threshold_px"] == 2.0
    assert changed["direct"] == by_name(first)["direct"] and changed["epnp"] == by_name(first)["epnp"]

    # A call that was cut off while it wrote, or a damaged file: measured again.
    (out / "epnp" / "metrics.json").unlink()
    again = by_name(compare(out, model=model, data_root=root, provider="cpu", pnp_threshold_px=20.0))
    assert len(seen) == 6 and again["epnp"]["frames"] == 2
    (out / "direct" / "poses.csv").write_text("frame")
    compare(out, model=model, data_root=root, provider="cpu", pnp_threshold_px=20.0)
    assert len(seen) == 8

    # Another model, and other true poses.
    other = write_model(tmp_path / "other.onnx", poses(1, 9)[0])
    assert (
        by_name(compare(out, model=other, data_root=root, provider="cpu"))["direct"]["within_5cm_5deg"] == 0
    )
    assert len(seen) == 10
    write_frame(root / "seq-02", 1, frame("", poses(1, 9)[0]))
    assert (
        by_name(compare(out, model=other, data_root=root, provider="cpu"))["direct"]["within_5cm_5deg"] == 0.5
    )
    assert len(seen) == 12


def test_a_lens_is_undone(tmp_path: Path) -> None:
    """A fisheye: PnP gets the rays that the camera really sees along."""
    camera = Camera(64, 48, 40.0, 40.0, 31.5, 23.5, "equidistant", (0.05, -0.02, 0.0, 0.0))
    root = write_recording(tmp_path / "room", train=1, test=1, camera=camera)
    shot = frame("", poses(1, 2)[0], camera)
    shot.image_rgb[..., 0] = np.kron(np.random.default_rng(0).integers(20, 230, (6, 8)), np.ones((8, 8)))
    shot.image_rgb[..., 1:] = 0
    write_frame(root / "seq-02", 0, shot)
    rays = camera.ray_grid(8)
    assert np.isfinite(rays).all()
    model = write_model_of_views(
        tmp_path / "model.onnx", [View(shot.map_from_camera, rays)], contract(training_camera=camera)
    )
    methods = by_name(compare(tmp_path / "out", model=model, data_root=root, provider="cpu"))
    assert all(methods[name]["mean_position_m"] < 1e-4 for name in OWN[:3])


def test_regressors(setting: tuple[Path, Path], tmp_path: Path) -> None:
    root, model = setting
    out, calls = tmp_path / "out", []
    true = poses(2, 2)

    def localize(image_rgb: np.ndarray, camera: Camera) -> np.ndarray | None:
        calls.append(camera)
        number = int(image_rgb[0, 0, 1])
        return transform(true[0][:3, :3], true[0][:3, 3] + [0.07, 0.0, 0.0]) if number == 0 else None

    def run(identity: str) -> dict:
        regressors = {"posenet": PoseRegressor(localize, identity)}
        return compare(out, model=model, data_root=root, provider="cpu", regressors=regressors)

    found = by_name(run("one"))["posenet"]
    assert (found["frames"], found["accepted"], found["family"]) == (2, 1, "direct")
    assert found["within_10cm_5deg"] == 0.5 and found["within_5cm_5deg"] == 0.0
    assert found["mean_position_m"] is None and found["rejected"] == {"no_estimate": 1}
    assert found["latency_ms"]["p50"] > 0 and found["solve_ms"]["p50"] is None
    assert calls == [CAMERA] * 2
    assert by_name(run("one"))["posenet"] == found and len(calls) == 2
    run("another")
    assert len(calls) == 4
    for name in ("epnp", "a/b", "..", ""):
        with pytest.raises(ComparisonError, match="expected a name of letters"):
            compare(out, model=model, data_root=root, regressors={name: PoseRegressor(localize, "one")})


def test_without_a_training_split_there_is_no_oracle(setting: tuple[Path, Path], tmp_path: Path) -> None:
    root, model = setting
    (root / "TrainSplit.txt").unlink()
    content = compare(tmp_path / "out", model=model, data_root=root, provider="cpu")
    assert list(by_name(content)) == OWN[:3]
    assert any(
        "The retrieval oracle is left out: expected TrainSplit.txt" in note for note in content["notes"]
    )


def test_frames_that_say_nothing_are_failures_of_every_method(
    setting: tuple[Path, Path], tmp_path: Path
) -> None:
    """What has weight 0 is no correspondence: neither the direct solve nor PnP has one left."""
    root, model = setting
    image = cv2.imread(str(root / "seq-02" / "frame-000001.color.png"))
    image[..., 0] = 255
    cv2.imwrite(str(root / "seq-02" / "frame-000001.color.png"), image)
    methods = by_name(compare(tmp_path / "out", model=model, data_root=root, provider="cpu"))
    assert methods["direct"]["rejected"] == {"zero_weights": 1}
    assert methods["direct"]["mean_position_m"] is None
    assert methods["pnp_ransac"]["accepted"] == 1
    assert methods["pnp_ransac"]["mean_position_m"] is None


def line(name: str, map_from_camera: np.ndarray, *rest: float) -> str:
    camera_from_map = invert(map_from_camera)
    x, y, z, w = quaternion_from_rotation(camera_from_map[:3, :3])
    return " ".join(map(str, [name, w, x, y, z, *camera_from_map[:3, 3], *rest])) + "\n"


def test_published_estimates_without_a_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    true = poses(3, 4)
    turned = rotation_from_vector([0.0, 0.0, math.radians(3.0)])
    estimate = transform(turned @ true[1][:3, :3], true[1][:3, 3] + [0.0, 0.08, 0.0])
    (tmp_path / "truth.txt").write_text("".join(line(f"{i}.png", pose, 525.0) for i, pose in enumerate(true)))
    lines = [line("0.png", true[0]), line("1.png", estimate), line("9.png", true[2])]
    (tmp_path / "theirs.txt").write_text("".join(lines))
    out = tmp_path / "out"
    command = ["compare", "--truth", str(tmp_path / "truth.txt"), "--out", str(out)]
    command += ["--published", f"theirs={tmp_path / 'theirs.txt'}"]
    assert main(command) == 0
    (found,) = json.loads((out / "compare.json").read_text())["methods"]
    assert found["method"] == "theirs (published)" and found["frames"] == 3 and found["accepted"] == 2
    assert found["within_5cm_5deg"] == pytest.approx(1 / 3)
    assert found["within_10cm_5deg"] == pytest.approx(2 / 3)
    assert found["median_position_m"] == pytest.approx(0.08)
    assert found["median_rotation_deg"] == pytest.approx(3.0)
    assert found["rejected"] == {"no_estimate": 1}
    assert found["inputs"]["without_truth"] == 1
    assert capsys.readouterr().out == (out / "compare.md").read_text()
    assert "| theirs (published) | published | 3 | 0.080 | 3.00 | - | - | 33.3 % | 66.7 % | - | - |" in (
        out / "compare.md"
    ).read_text().replace("\n", " ")


def test_published_estimates_beside_a_model(setting: tuple[Path, Path], tmp_path: Path) -> None:
    root, model = setting
    (tmp_path / "truth.txt").write_text(line("a.png", poses(1, 4)[0]))
    content = compare(
        tmp_path / "out",
        model=model,
        data_root=root,
        provider="cpu",
        published={"theirs": tmp_path / "truth.txt"},
        truth=tmp_path / "truth.txt",
    )
    assert list(by_name(content)) == [*OWN, "theirs"]
    assert any("theirs" in note and "truth.txt" in note for note in content["notes"])


def test_arguments_that_do_not_go_together(
    setting: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, model = setting
    truth = tmp_path / "truth.txt"
    truth.write_text(line("0.png", np.eye(4)))
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00\n")
    (tmp_path / "elsewhere.txt").write_text(line("seq-01/0.png", np.eye(4)))
    out = tmp_path / "out"
    published = [f"--truth={truth}", "--published"]
    for arguments, expected in (
        ([], "expected a model, or published results"),
        ([model], "expected a recording to run the model on (--data)"),
        ([model, f"--data={root}", "--pnp-threshold=0"], "expected a PnP threshold above 0 px"),
        ([f"--published=a={truth}"], "(--truth), got none"),
        ([*published, "a"], "expected NAME=FILE with a name of its own, got 'a'"),
        (
            [*published, f"a={truth}", "--published", f"a={truth}"],
            "expected NAME=FILE with a name of its own",
        ),
        ([*published, f"../a={truth}"], "expected a name of letters, digits"),
        ([*published, f"direct={truth}"], "expected a name of letters, digits"),
        ([*published, f"a={tmp_path / 'none.txt'}"], "none.txt"),
        ([*published, f"a={tmp_path / 'binary.txt'}"], "expected a file name, a unit quaternion"),
        ([*published, f"a={tmp_path / 'empty.txt'}"], "0.png against no frame"),
        ([*published, f"a={tmp_path / 'elsewhere.txt'}"], "0.png against seq-01/0.png"),
    ):
        assert main(["compare", "--out", str(out), *map(str, arguments)]) == 1
        error = capsys.readouterr().err.strip().splitlines()
        assert len(error) == 1 and expected in error[0], error
        assert not out.exists()
    assert published_files(["a=b=c"]) == {"a": Path("b=c")}


def test_a_folder_that_cannot_be_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    truth, out = tmp_path / "truth.txt", tmp_path / "out"
    truth.write_text(line("0.png", np.eye(4)))
    out.write_text("a file")
    assert main(["compare", "--out", str(out), f"--truth={truth}", f"--published=a={truth}"]) == 1
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
    assert out.read_text() == "a file"


# Median error (cm, degrees) and share (percent) within 5 cm and 5 degrees, against both ground truths.
PUBLISHED = {
    ("dslam", "chess"): {
        "as": (2.68, 0.87, 86.4),
        "hloc": (2.40, 0.77, 94.2),
        "dsac_rgb": (1.83, 0.59, 97.8),
        "dsac_rgbd": (0.85, 0.38, 99.4),
    },
    ("sfm", "redkitchen"): {
        "hloc": (1.10, 0.14, 98.6),
        "dsac_rgb": (0.74, 0.21, 97.0),
    },
}


@pytest.mark.parametrize(("truth", "scene"), PUBLISHED)
def test_errors_of_published_estimates_are_their_authors(truth: str, scene: str, tmp_path: Path) -> None:
    root = real_data("visloc_estimates")
    expected = PUBLISHED[truth, scene]
    files = {name: root / "estimates" / truth / f"{scene}_{name}.txt" for name in expected}
    content = compare(tmp_path, published=files, truth=root / "ground_truth" / truth / f"{scene}_test.txt")
    for name, (centimetres, degrees, percent) in expected.items():
        found = by_name(content)[name]
        assert found["accepted"] == found["frames"] == {"chess": 2000, "redkitchen": 5000}[scene]
        assert 100 * found["median_position_m"] == pytest.approx(centimetres, abs=0.006)
        assert found["median_rotation_deg"] == pytest.approx(degrees, abs=0.006)
        assert 100 * found["within_5cm_5deg"] == pytest.approx(percent, abs=0.06)
    for name in [name for name in expected if name.startswith("dsac")]:  # the others tell no errors
        theirs = {key: rest for key, (_, rest) in read_world_to_camera(files[name]).items()}
        ours = read_poses(tmp_path / name / "poses.csv")
        deviations = np.abs(
            [[item.rotation_deg, item.position_m] - np.array(theirs[item.name]) for item in ours]
        )
        rotation, position = np.median(deviations, axis=0)
        assert rotation <= 1e-3 and position <= 1e-4
        # Their own columns come to the same figures.
        errors = np.array(list(theirs.values()))
        assert 100 * np.median(errors[:, 1]) == pytest.approx(expected[name][0], abs=0.02)
        assert np.median(errors[:, 0]) == pytest.approx(expected[name][1], abs=0.006)


def test_a_bad_frame(setting: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root, model = setting
    (root / "seq-02" / "frame-000001.color.png").write_bytes(b"")
    out = tmp_path / "out"
    command = ["compare", str(model), "--data", str(root), "--out", str(out), "--provider", "cpu"]
    assert main(command) == 1
    assert "1 of 2 frames are bad: " in capsys.readouterr().err
    assert not out.exists()
    assert main([*command, "--skip-bad"]) == 0
    assert {item["frames"] for item in json.loads((out / "compare.json").read_text())["methods"]} == {1}
    shutil.rmtree(out)
