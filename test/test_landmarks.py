"""A map of landmarks: what it is made of, that it finds a known view, and its way into a model file."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from recordings import millimetres, poses, render, write_recording

from structpose_ros.alignment import AlignmentOptions
from structpose_ros.camera import Camera
from structpose_ros.cli import main
from structpose_ros.geometry import pose_error
from structpose_ros.network import OnnxNetwork
from structpose_ros.relocalizer import Relocalizer
from structpose_ros.training import cross_fit
from structpose_ros.training import landmarks as under_test
from structpose_ros.training.config import ConfigError, LandmarkConfig, parse_config
from structpose_ros.training.cross_fit import MapNetwork, fit_covariance, nees_of
from structpose_ros.training.frames import Frame, RecordingError, open_recording, write_frame
from structpose_ros.training.landmarks import (
    STRIDE,
    LandmarkNetwork,
    Landmarks,
    collect,
    keypoints_of,
)
from structpose_ros.training.runs import Calibration, contract_of, export_run, read_checkpoint
from structpose_ros.training.train import Trainer, train
from structpose_ros.training.xfeat import CELL, Features, XFeat

CAMERA = Camera(160, 128, 150.0, 150.0, 79.5, 63.5)
H, W = 128 // CELL, 160 // CELL
REFINED = AlignmentOptions(refine_rounds=10, refine_from=0.12, refine_to=0.02)


def xfeat() -> XFeat:
    """Return a network of random weights; such features know a view that they have seen, to the pixel."""
    torch.manual_seed(0)
    network = XFeat().eval()
    with torch.no_grad():
        network.keypoint_head[-1].weight.mul_(100.0)
        noise = torch.rand(1, 3, 128, 160)
        network.block_fusion[-1].bias -= network(noise).descriptors.mean(dim=(0, 2, 3))  # else all are alike
    return network


def textured(number: int, map_from_camera: np.ndarray) -> Frame:
    """Return a view of the room whose image is noise of its own."""
    _, depth = render(CAMERA, map_from_camera)
    image = np.random.default_rng(number).integers(0, 255, (128, 160, 3), dtype=np.uint8)
    return Frame(f"seq-01/frame-{number:06d}", image, millimetres(depth), map_from_camera)


def filled(frames: list[Frame], count: int = 2048) -> LandmarkNetwork:
    network = LandmarkNetwork(LandmarkConfig(count=count)).eval()
    network.xfeat = xfeat()
    network.set_landmarks(collect(network, frames, CAMERA, CAMERA), np.zeros(3), CAMERA)
    return network


def landmarks(count: int, seed: int = 0) -> Landmarks:
    random = np.random.default_rng(seed)
    descriptors = torch.nn.functional.normalize(
        torch.from_numpy(random.normal(size=(count, 64))).float(), dim=1
    )
    return Landmarks(
        descriptors,
        random.uniform(0.0, 10.0, (count, 3)),
        random.uniform(1.0, 3.0, count).astype(np.float32),
        np.full(count, 0.5, np.float32),
        np.zeros(count, np.int32),
        random.uniform(0.0, 100.0, (count, 2)).astype(np.float32),
    )


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> None:
    """Images as small as these take longest where threads wait for one another."""
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "xfeat.pt"
    torch.save(xfeat().state_dict(), path)
    return path


def test_keypoints_stand_on_their_pixels() -> None:
    logits = torch.full((1, 65, 2, 3), -10.0)
    logits[0, 64] = 5.0  # no keypoint, but in the cells below
    logits[0, 8 * 2 + 7, 0, 0] = 20.0  # row 2, column 7 of the first cell
    logits[0, 8 * 5 + 1, 1, 2] = 20.0
    columns = torch.arange(3.0).expand(2, 3)
    rows = torch.arange(2.0)[:, None].expand(2, 3)
    ramp = torch.stack([columns, rows, torch.ones(2, 3)])[None]
    found = keypoints_of(Features(ramp, logits, torch.ones(1, 1, 2, 3)))
    assert found.pixels[0, :, 0, 0].tolist() == [7.0, 2.0]
    assert found.pixels[0, :, 1, 2].tolist() == [8 * 2 + 1.0, 8 * 1 + 5.0]
    assert found.scores[0, 0, 0, 0].item() == pytest.approx(1.0, abs=1e-4)
    assert found.scores[0, 0, 0, 1].item() < 1e-4
    np.testing.assert_allclose(found.descriptors.norm(dim=-1), 1.0, atol=1e-6)


def test_descriptors_are_sampled_where_the_keypoint_is() -> None:
    logits = torch.full((1, 65, 1, 4), -10.0)
    logits[0, 8 * 3 + 7, 0, 1] = 20.0  # 3.5 pixels to the right of its cell's centre
    angle = torch.tensor([0.0, 0.0, 1.0, 1.0])
    dense = torch.stack([torch.cos(angle), torch.sin(angle)])[None, :, None]
    found = keypoints_of(Features(dense, logits, torch.ones(1, 1, 1, 4)))
    share = 3.5 / 8  # linear between the cells' descriptors
    expected = (1 - share) * dense[0, :, 0, 1] + share * dense[0, :, 0, 2]
    np.testing.assert_allclose(found.descriptors[0, 0, 1], expected / expected.norm(), atol=1e-6)


def test_a_view_of_the_map_finds_itself() -> None:
    frames = [textured(number, pose) for number, pose in enumerate(poses(3, seed=4))]
    network = filled(frames)
    contract = contract_like(network)
    for frame in frames:
        result = Relocalizer(MapNetwork(network, contract)).localize(frame.image_rgb, CAMERA)
        assert result.estimate is not None
        position, rotation = pose_error(result.estimate.map_from_camera, frame.map_from_camera)
        assert position < 0.01
        assert rotation < 0.3
        assert result.prediction.offsets is not None
        pixels = CAMERA.pixel_grid(STRIDE) + result.prediction.offsets
        np.testing.assert_array_equal(pixels, np.rint(pixels))
        recognised = result.prediction.weights > 0.999
        assert recognised.mean() > 0.5
        rows, columns = pixels[recognised].astype(int).T[::-1]
        seen = frame.depth_mm[rows, columns] / 1000
        right = np.abs(result.prediction.depth[recognised] - seen) < 1e-3
        assert right.mean() > 0.95


def contract_like(network: LandmarkNetwork):  # type: ignore[no-untyped-def]
    from model_files import contract

    return dataclasses.replace(
        contract(),
        input_width=CAMERA.width,
        input_height=CAMERA.height,
        stride=STRIDE,
        scene_mean=(0.0, 0.0, 0.0),
        training_camera=CAMERA,
        keypoints=True,
        normalization_mean=(0.485, 0.456, 0.406),
        normalization_std=(0.229, 0.224, 0.225),
        alignment=REFINED,
        map_min=(-3.0, -3.0, -3.0),
        map_max=(3.0, 3.0, 3.0),
    )


def test_a_longer_lens_sees_the_same_from_further_away() -> None:
    frame = textured(0, poses(1, seed=4)[0])
    network = filled([frame])
    image = torch.from_numpy(frame.image_rgb.transpose(2, 0, 1)[None].copy()).float()
    rays = torch.from_numpy(CAMERA.ray_grid(STRIDE).transpose(2, 0, 1)[None].copy()).float()
    longer = rays * torch.tensor([0.5, 0.5, 1.0])[None, :, None, None]
    with torch.no_grad():
        depth, *rest = network(image, rays)
        doubled, *rest_of_longer = network(image, longer)
    torch.testing.assert_close(doubled, 2.0 * depth)
    for one, other in zip(rest, rest_of_longer, strict=True):
        torch.testing.assert_close(one, other)


def test_the_choice_is_repeatable_and_covers_the_place() -> None:
    crowded, rare = landmarks(3000), landmarks(300, seed=1)
    crowded.points_in_map[:] = 0.01 * crowded.points_in_map  # all of them in one voxel
    both = Landmarks(
        *(
            torch.cat([crowded.descriptors, rare.descriptors]),
            np.concatenate([crowded.points_in_map, rare.points_in_map]),
            *(np.concatenate([getattr(crowded, name), getattr(rare, name)]) for name in ("depths", "scores")),
            np.arange(3300, dtype=np.int32),
            np.concatenate([crowded.pixels, rare.pixels]),
        )
    )
    chosen = both.chosen(400, seed=0)
    assert len(set(chosen.frames.tolist())) == 400
    assert (chosen.frames >= 3000).sum() > 250  # 36 by numbers alone
    np.testing.assert_array_equal(chosen.frames, both.chosen(400, seed=0).frames)
    assert set(chosen.frames.tolist()) != set(both.chosen(400, seed=1).frames.tolist())
    assert both.chosen(5000, seed=0) is both


def test_few_landmarks_are_repeated() -> None:
    frame = textured(0, poses(1, seed=4)[0])
    image = torch.from_numpy(frame.image_rgb.transpose(2, 0, 1)[None].copy()).float()
    rays = torch.from_numpy(CAMERA.ray_grid(STRIDE).transpose(2, 0, 1)[None].copy()).float()
    small, large = filled([frame], count=512), filled([frame], count=4096)
    with torch.no_grad():
        for one, other in zip(small(image, rays), large(image, rays), strict=True):
            torch.testing.assert_close(one, other)


def test_no_landmark_without_depth_or_on_an_edge() -> None:
    frame = textured(0, poses(1, seed=4)[0])
    depth = np.full((128, 160), 2000, np.uint16)
    depth[:, 80:] = 3000
    depth[:30] = 0
    network = LandmarkNetwork(LandmarkConfig(count=64)).eval()
    network.xfeat = xfeat()
    found = collect(network, [dataclasses.replace(frame, depth_mm=depth)], CAMERA, CAMERA)
    camera_from_map = np.linalg.inv(frame.map_from_camera)
    pixels = CAMERA.project(found.points_in_map @ camera_from_map[:3, :3].T + camera_from_map[:3, 3])
    assert len(pixels) > 100
    assert pixels[:, 1].min() > 29.5
    assert (np.abs(pixels[:, 0] - 79.5) > 3.0).all()
    np.testing.assert_allclose(found.depths, np.where(pixels[:, 0] < 80, 2.0, 3.0), atol=1e-6)
    with pytest.raises(RecordingError, match="expected keypoints with a valid depth .*, got none"):
        collect(network, [dataclasses.replace(frame, depth_mm=np.zeros_like(depth))], CAMERA, CAMERA)


def test_a_long_recording_is_thinned_evenly(monkeypatch: pytest.MonkeyPatch) -> None:
    frames = [textured(number, pose) for number, pose in enumerate(poses(6, seed=4))]
    network = LandmarkNetwork(LandmarkConfig(count=64)).eval()
    network.xfeat = xfeat()
    everything = collect(network, frames, CAMERA, CAMERA)
    monkeypatch.setattr(under_test, "MOST_CANDIDATES", len(everything.depths) // 2)
    thinned = collect(network, frames, CAMERA, CAMERA)
    assert len(thinned.depths) <= len(everything.depths) // 2
    shares = np.bincount(thinned.frames) / np.bincount(everything.frames)
    assert len(shares) == 6
    assert shares.max() < 2 * shares.min()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, weights: Path) -> tuple[Path, Path, Path]:
    """Return a recording of noise, its configuration and the run of it."""
    folder = tmp_path_factory.mktemp("landmarks")
    data = write_recording(folder / "data", train=12, test=2, camera=CAMERA)
    for number, pose in enumerate(2 * poses(6, seed=1)):  # each view twice: a map without one has the other
        write_frame(data / "seq-01", number, textured(number % 6, pose))
    path = folder / "landmarks.yaml"
    path.write_text(
        "method: landmarks\ninput: {width: 160, height: 128}\nvalidation_fraction: 0.0\ndevice: cpu\n"
        f"landmarks: {{count: 1024, weights: {weights}}}\nalignment: {{refine_rounds: 5}}\n"
    )
    config = parse_config(yaml.safe_load(path.read_text()))
    train(config, data, folder / "run")
    return data, path, folder / "run"


def test_from_a_recording_to_a_model_file(run: tuple[Path, Path, Path]) -> None:
    data, path, folder = run
    names = sorted(item.name for item in folder.iterdir())
    assert names == ["checkpoint.pt", "config.yaml", "model.onnx", "validation.json"]
    network = OnnxNetwork(folder / "model.onnx", "cpu")
    contract = network.contract
    assert (contract.stride, contract.keypoints, contract.network) == (STRIDE, True, "xfeat")
    assert contract.confidence is not None
    kept = json.loads((folder / "validation.json").read_text())
    assert kept["confidence"]["threshold"] == contract.confidence.threshold
    assert kept["validation"]["frames"] == 12
    assert kept["validation"]["within_10cm_5deg"] == 1.0
    recording = open_recording(data)
    frame = recording.read(recording.files("train")[0][0])
    result = Relocalizer(network).localize(frame.image_rgb, recording.camera)
    assert result.prediction.offsets is not None
    assert np.abs(result.prediction.offsets).max() <= 7.5
    again = Trainer(parse_config(yaml.safe_load(path.read_text())), data, folder)
    assert torch.equal(again.network.state_dict()["keys"], read_checkpoint(folder)["network"]["keys"])


def test_the_same_recording_gives_the_same_file(run: tuple[Path, Path, Path], tmp_path: Path) -> None:
    data, path, folder = run
    config = parse_config(yaml.safe_load(path.read_text()))
    train(config, data, tmp_path / "run")
    one, other = (OnnxNetwork(place / "model.onnx", "cpu") for place in (folder, tmp_path / "run"))
    assert one.contract == other.contract
    before, after = (read_checkpoint(place)["network"] for place in (folder, tmp_path / "run"))
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_commands_take_the_run(
    run: tuple[Path, Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, _, folder = run
    arguments = [
        "evaluate",
        str(folder),
        "--data",
        str(data),
        "--out",
        str(tmp_path / "out"),
        "--provider",
        "cpu",
    ]
    assert main(arguments) == 0
    assert json.loads((tmp_path / "out" / "metrics.json").read_text())["frames"] == 2
    assert main(["info", str(folder / "model.onnx")]) == 0
    page = " ".join(capsys.readouterr().out.split())
    assert "nothing is trained; the map's landmarks took" in page
    assert "probability of an error within 10 cm and 5 deg" in page
    export_run(folder, tmp_path / "again.onnx")
    assert (
        OnnxNetwork(tmp_path / "again.onnx", "cpu").contract
        == OnnxNetwork(folder / "model.onnx", "cpu").contract
    )


def test_a_run_is_exported_in_int8(
    run: tuple[Path, Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, _, folder = run
    path = tmp_path / "int8.onnx"
    assert main(["export", str(folder), "--out", str(path), "--int8"]) == 0
    printed = capsys.readouterr().out
    assert "int8 costs, on 6 training frames, calibrated on 6 others: 6 poses in the median " in printed
    assert main(["info", str(path)]) == 0
    assert "in int8 (for a CPU)" in " ".join(capsys.readouterr().out.split())


def test_without_a_frame_that_the_others_know_nothing_is_fitted(
    run: tuple[Path, Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    data, path, _ = run
    monkeypatch.setattr(cross_fit, "localise_blocks", lambda *_: iter(()))
    model = train(parse_config(yaml.safe_load(path.read_text())), data, tmp_path / "run")
    assert "expected frames that a map of the others knows, got none: the conf" in capsys.readouterr().out
    assert OnnxNetwork(model, "cpu").contract.confidence is None


def test_configurations_that_can_not_be_used(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="input: expected sides divisible by 16 .*, got .200, 120."):
        parse_config({"method": "landmarks", "input": {"width": 200, "height": 120}})
    with pytest.raises(ConfigError, match="landmarks.count: expected 64 .. 1048576, got 3"):
        parse_config({"landmarks": {"count": 3}})
    config = parse_config(
        {
            "method": "landmarks",
            "input": {"width": 160, "height": 128},
            "landmarks": {"weights": str(tmp_path / "none.pt")},
        }
    )
    data = write_recording(tmp_path / "data", train=3, test=1, camera=CAMERA)
    with pytest.raises(ConfigError, match="expected .*none.pt"):
        train(config, data, tmp_path / "run")


def test_covariances_are_fitted_to_the_errors_they_have() -> None:
    random = np.random.default_rng(0)
    roots = random.normal(0.0, 0.01, (4000, 6, 6)) * random.uniform(0.3, 2.0, (4000, 1, 1))
    covariances = roots @ roots.transpose(0, 2, 1) + 1e-8 * np.eye(6)
    true = 9.0 * covariances + np.diag(np.repeat([0.03**2, 0.01**2], 3))
    errors = np.einsum("nij,nj->ni", np.linalg.cholesky(true), random.normal(size=(4000, 6)))
    scale, floor = fit_covariance(errors[:2000], covariances[:2000])
    calibrated = scale * covariances + np.diag(np.repeat(np.square(floor), 3))
    nees = nees_of(errors[2000:], calibrated[2000:])
    assert nees.mean() == pytest.approx(6.0, rel=0.15)
    assert (nees <= 12.592).mean() == pytest.approx(0.95, abs=0.02)
    assert 3.0 < scale < 20.0
    assert 0.015 < floor[0] < 0.06


def test_exact_poses_have_floors_alone() -> None:
    errors = np.random.default_rng(0).normal(0.0, 0.01, (200, 6))
    scale, floor = fit_covariance(errors, np.zeros((200, 6, 6)))
    assert np.isfinite([scale, *floor]).all()
    assert floor[0] == pytest.approx(0.01, rel=0.6)


def test_a_run_of_this_method_says_so(run: tuple[Path, Path, Path]) -> None:
    _, path, folder = run
    config = parse_config(yaml.safe_load(path.read_text()))
    contract = contract_of(config, read_checkpoint(folder), Calibration({}, 1.0, 0.1))
    assert contract.grid_shape == (8, 10)
    assert contract.confidence is None
