"""A map of landmarks: its keypoints are where they are, and an image of the map finds its own place."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import recordings
import torch
import yaml
from landmark_files import (
    CAMERA,
    landmark_config,
    landmark_contract,
    random_network,
    textured_room,
    write_landmark_recording,
    write_weights,
)
from model_files import write_model
from recordings import frame, pose
from torch import Tensor
from torch.nn import functional

from structpose_ros.camera import Camera
from structpose_ros.cli import main
from structpose_ros.contract import ModelFileError
from structpose_ros.geometry import pose_error
from structpose_ros.network import OnnxNetwork, normalized_tensor
from structpose_ros.relocalizer import Relocalizer
from structpose_ros.training import landmarks as under_test
from structpose_ros.training import parity
from structpose_ros.training.config import ConfigError, InputConfig, TrainingConfig
from structpose_ros.training.cross_fit import MapNetwork
from structpose_ros.training.dataset import normalize_images
from structpose_ros.training.evaluate import evaluate
from structpose_ros.training.export import export_model
from structpose_ros.training.frames import Frame, RecordingError
from structpose_ros.training.labels import sample_labels
from structpose_ros.training.landmarks import (
    LEAST_SCORE,
    STRIDE,
    LandmarkNetwork,
    Landmarks,
    collect,
    keypoints_of,
    strongest_of,
)
from structpose_ros.training.parity import ExportError, node_rays, rays_tensor
from structpose_ros.training.train import train
from structpose_ros.training.xfeat import Features

POSE = pose(0.1, 0.2, 0.5)
CONTRACT = landmark_contract()
SCENE_MEAN = np.asarray(CONTRACT.scene_mean)


@pytest.fixture(scope="module", autouse=True)
def textured() -> Iterator[None]:
    with textured_room():
        yield


@pytest.fixture(scope="module")
def seen() -> Frame:
    return frame("seen", POSE, CAMERA)


@pytest.fixture(scope="module")
def network(seen: Frame) -> LandmarkNetwork:
    """A map made of one frame."""
    made = random_network(512)
    made.set_landmarks(collect(made, [seen], CAMERA, CAMERA), SCENE_MEAN, CAMERA)
    return made


def image_of(shown: Frame) -> Tensor:
    return normalize_images(torch.from_numpy(np.ascontiguousarray(shown.image_rgb.transpose(2, 0, 1))[None]))


def looked_up(network: LandmarkNetwork, shown: Frame, camera: Camera = CAMERA) -> list[np.ndarray]:
    with torch.no_grad():
        outputs = network(image_of(shown), rays_tensor(camera.ray_grid(STRIDE)))
    return [value[0].numpy().transpose(1, 2, 0) for value in outputs]


def constructed(features: Tensor | None = None) -> tuple[Tensor, Features]:
    """Return pixels within cells, 0 .. 64 where 64 is none, of 4 x 6 cells, and features that say so."""
    within = torch.randint(0, 64, (1, 4, 6), generator=torch.Generator().manual_seed(2))
    within[0, 0, :4] = torch.tensor([0, 7, 56, 63])
    logits = torch.zeros(1, 65, 4, 6).scatter(1, within[:, None], 6.0)
    given = torch.ones(1, 64, 4, 6) if features is None else features
    return within[0], Features(given, logits, torch.ones(1, 1, 4, 6))


def test_keypoints_stand_on_the_pixels_that_the_logits_name() -> None:
    within, features = constructed()
    points = keypoints_of(features)
    for row in range(4):
        for column in range(6):
            down, across = divmod(int(within[row, column]), 8)
            assert points.pixels[0, :, row, column].tolist() == [8 * column + across, 8 * row + down]
    expected = np.exp(6.0) / (np.exp(6.0) + 64)
    np.testing.assert_allclose(points.scores.numpy(), np.full((1, 1, 4, 6), expected), rtol=1e-5)


def test_where_there_is_none_the_best_pixel_has_the_score_that_is_left() -> None:
    within, features = constructed()
    features.keypoints[0, 64, 1, 2] = 12.0
    points = keypoints_of(features)
    down, across = divmod(int(within[1, 2]), 8)
    assert points.pixels[0, :, 1, 2].tolist() == [16 + across, 8 + down]
    expected = np.exp(6.0) / (np.exp(6.0) + np.exp(12.0) + 63)
    assert points.scores[0, 0, 1, 2].item() == pytest.approx(expected, rel=1e-4) and expected < LEAST_SCORE


def test_descriptors_are_sampled_at_the_keypoints() -> None:
    """Of length 1 at every cell's centre, on a straight line from one cell to the next."""
    rows, columns = torch.meshgrid(torch.arange(4.0), torch.arange(6.0), indexing="ij")
    ramp = torch.zeros(1, 64, 4, 6)
    ramp[0, 0], ramp[0, 1] = 0.05 * columns, 0.1 * rows
    ramp[0, 2] = torch.sqrt(1.0 - ramp[0, 0] ** 2 - ramp[0, 1] ** 2)
    points = keypoints_of(constructed(7.0 * ramp)[1])
    place = ((points.pixels[0] - 3.5) / 8.0).numpy()  # in cells
    place = np.clip(place, 0.0, np.array([5.0, 3.0])[:, None, None])  # beyond the outermost centres: theirs
    descriptors = points.descriptors[0].permute(2, 0, 1).numpy()
    np.testing.assert_allclose(np.linalg.norm(descriptors, axis=0), 1.0, rtol=1e-6)
    # The third component bends a little between the cells; the first two don't.
    slope = np.array([0.05, 0.1])[:, None, None]
    np.testing.assert_allclose(descriptors[:2], slope * place, atol=1e-3)
    assert (descriptors[3:] == 0.0).all()


@pytest.mark.parametrize("size", [(4, 6), (1, 5), (5, 1), (1, 1)])
def test_descriptors_are_sampled_as_torch_samples(size: tuple[int, int]) -> None:
    """Of several images, at their edges and where there is no next row or column."""
    height, width = size
    generator = torch.Generator().manual_seed(5)
    dense = torch.randn(2, 64, height, width, generator=generator)
    logits = torch.randn(2, 65, height, width, generator=generator)
    points = keypoints_of(Features(dense, logits, torch.ones(2, 1, height, width)))
    grid = (points.pixels.permute(0, 2, 3, 1) + 0.5) / torch.tensor([8.0 * width, 8.0 * height]) * 2.0 - 1.0
    unit = functional.normalize(dense, dim=1)
    expected = functional.grid_sample(unit, grid, padding_mode="border", align_corners=False)
    expected = functional.normalize(expected, dim=1).permute(0, 2, 3, 1)
    torch.testing.assert_close(points.descriptors, expected, rtol=1e-5, atol=1e-6)


def test_the_strongest_of_four_keeps_its_pixel_and_descriptor() -> None:
    generator = torch.Generator().manual_seed(4)
    features = Features(
        torch.randn(2, 64, 6, 8, generator=generator),
        3.0 * torch.randn(2, 65, 6, 8, generator=generator),
        torch.ones(2, 1, 6, 8),
    )
    points, best = keypoints_of(features), strongest_of(features)
    assert best.descriptors.shape == (2, 3, 4, 64)
    for batch in range(2):
        for row in range(3):
            for column in range(4):
                group = points.scores[batch, 0, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
                down, across = divmod(int(group.argmax()), 2)
                at = (2 * row + down, 2 * column + across)
                for name in ("pixels", "scores"):
                    found, expected = getattr(best, name)[batch], getattr(points, name)[batch]
                    torch.testing.assert_close(
                        found[:, row, column], expected[(slice(None), *at)], rtol=1e-6, atol=1e-6
                    )
                descriptors = best.descriptors[batch, row, column]
                torch.testing.assert_close(
                    descriptors, points.descriptors[(batch, *at)], rtol=1e-6, atol=1e-6
                )


def test_a_score_is_the_probability_among_all_that_a_cell_may_hold() -> None:
    """Also where the logits' exponentials are beyond float32."""
    logits = 3.0 * torch.randn(1, 65, 4, 4, generator=torch.Generator().manual_seed(1))
    logits[:, 64, 0, 0] += 200.0
    logits[:, 7, 1, 1] += 200.0
    scores = keypoints_of(Features(torch.ones(1, 64, 4, 4), logits, torch.ones(1, 1, 4, 4))).scores
    expected = torch.softmax(logits.double(), dim=1)[:, :-1].amax(dim=1, keepdim=True)
    torch.testing.assert_close(scores.double(), expected, rtol=1e-5, atol=1e-30)


def test_an_image_of_the_map_finds_its_own_points(network: LandmarkNetwork, seen: Frame) -> None:
    depth, scene_coordinates, weights, offsets = looked_up(network, seen)
    pixels = CAMERA.pixel_grid(STRIDE) + offsets
    np.testing.assert_array_equal(pixels, np.rint(pixels))
    assert np.abs(offsets).max() <= 7.5
    labels = sample_labels(seen.depth_mm, CAMERA, POSE, CAMERA.rays(pixels))
    sure = weights[..., 0] > 0.99
    assert sure.sum() > 60  # of 80
    np.testing.assert_allclose(
        (scene_coordinates + SCENE_MEAN)[sure], labels.scene_coordinates[sure], atol=1e-5
    )
    np.testing.assert_allclose(depth[sure, 0], labels.depth[sure], rtol=1e-6)


def test_an_image_of_the_map_finds_its_pose(network: LandmarkNetwork, seen: Frame) -> None:
    result = Relocalizer(MapNetwork(network, CONTRACT)).localize(seen.image_rgb, CAMERA)
    assert result.decision.accepted
    assert result.estimate is not None
    position, rotation = pose_error(result.estimate.map_from_camera, POSE)
    assert position < 0.002
    assert rotation < 0.1


def test_what_is_not_in_the_map_has_little_weight(network: LandmarkNetwork, seen: Frame) -> None:
    behind = looked_up(network, frame("behind", pose(0.1, 0.2, 3.6), CAMERA))
    assert behind[2].mean() < 0.1
    assert looked_up(network, seen)[2].mean() > 0.7


@pytest.mark.parametrize("factor", [0.5, 1.0, 1.25])
def test_depth_grows_with_the_focal_length(network: LandmarkNetwork, seen: Frame, factor: float) -> None:
    longer = dataclasses.replace(CAMERA, fx=factor * CAMERA.fx, fy=factor * CAMERA.fy)
    depth, *others = looked_up(network, seen)
    zoomed, *same = looked_up(network, seen, longer)
    np.testing.assert_allclose(zoomed, factor * depth, rtol=1e-5)
    for one, other in zip(others, same, strict=True):
        np.testing.assert_array_equal(one, other)


def test_where_no_keypoint_is_likely_there_is_no_weight(network: LandmarkNetwork, seen: Frame) -> None:
    unsure = random_network(512)
    unsure.load_state_dict(network.state_dict())
    with torch.no_grad():
        unsure.xfeat.keypoint_head[-1].bias[64] += 100.0
    assert (looked_up(unsure, seen)[2] == 0.0).all()


def landmarks(count: int, **given: object) -> Landmarks:
    """Return landmarks spread over 20 m, each in a place of its own, or as given."""
    random = np.random.default_rng(1)
    values: dict[str, object] = {
        "descriptors": torch.nn.functional.normalize(torch.randn(count, 64, generator=torch.manual_seed(1))),
        "points_in_map": random.uniform(-10.0, 10.0, size=(count, 3)),
        "depths": np.arange(count, dtype=np.float32) + 1,
        "scores": np.full(count, 0.5, dtype=np.float32),
        "frames": np.zeros(count, dtype=np.int32),
        "pixels": np.zeros((count, 2), dtype=np.float32),
    }
    return Landmarks(**{**values, **given})  # type: ignore[arg-type]


def indices(chosen: Landmarks) -> np.ndarray:
    """Return which of `landmarks` these are."""
    return np.rint(chosen.depths).astype(int) - 1


def test_the_choice_depends_on_the_seed_alone() -> None:
    given = landmarks(1000)
    first, again, other = (indices(given.chosen(300, seed)) for seed in (5, 5, 6))
    np.testing.assert_array_equal(first, again)
    assert len(first) == len(other) == len(set(first)) == 300
    assert len(set(first) & set(other)) == pytest.approx(90, abs=30)
    chosen = given.chosen(300, 5)
    np.testing.assert_array_equal(chosen.points_in_map, given.points_in_map[first])
    assert torch.equal(chosen.descriptors, given.descriptors[torch.from_numpy(first)])


def test_few_landmarks_are_all_kept() -> None:
    given = landmarks(50)
    assert given.chosen(50, 0) is given
    np.testing.assert_array_equal(indices(given.chosen(51, 0)), np.arange(50))
    assert len(given.chosen(49, 0).depths) == 49


def test_reliable_landmarks_are_more_likely() -> None:
    scores = np.where(np.arange(4000) < 2000, 0.8, 0.2).astype(np.float32)
    chosen = indices(landmarks(4000, scores=scores).chosen(200, 3))
    assert (chosen < 2000).sum() == pytest.approx(160, abs=20)  # four to one


def test_landmarks_where_there_are_few_others_are_more_likely() -> None:
    points = np.random.default_rng(1).uniform(-10.0, 10.0, size=(4000, 3))
    points[2000:] = np.repeat(10.05 + np.arange(20.0), 100)[:, None]  # 20 places with 100 each
    chosen = indices(landmarks(4000, points_in_map=points).chosen(220, 4))
    assert (chosen < 2000).sum() == pytest.approx(200, abs=20)  # ten to one, the root of their number


def test_landmarks_that_are_too_few_for_the_map_are_repeated(network: LandmarkNetwork, seen: Frame) -> None:
    found = collect(network, [seen], CAMERA, CAMERA)
    count = len(found.depths)
    assert count < 512
    assert torch.equal(network.keys[count : 2 * count], network.keys[: 512 - count][:count])
    exact = random_network(count)
    exact.set_landmarks(found, SCENE_MEAN, CAMERA)
    for one, other in zip(looked_up(exact, seen), looked_up(network, seen), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


def columns_of(found: Landmarks) -> np.ndarray:
    """Return pixel columns and rows (N, 2) of landmarks of a frame at the origin."""
    return np.rint(CAMERA.project(found.points_in_map)).astype(int)


def test_keypoints_at_edges_of_the_depth_or_without_it_are_left_out(
    network: LandmarkNetwork, seen: Frame
) -> None:
    depth_mm = np.full((128, 160), 2000, dtype=np.uint16)
    depth_mm[:, 80:] = 3000
    depth_mm[:32] = 0
    stepped = dataclasses.replace(seen, depth_mm=depth_mm, map_from_camera=np.eye(4))
    found = columns_of(collect(network, [stepped], CAMERA, CAMERA))
    with torch.no_grad():
        points = network.keypoints(image_of(seen))
    pixels = points.pixels[0].flatten(1).T.numpy().astype(int)
    likely = points.scores.flatten().numpy() > LEAST_SCORE
    edge = (pixels[:, 0] >= 77) & (pixels[:, 0] <= 82)
    expected = pixels[likely & (pixels[:, 1] >= 32) & ~edge]
    assert edge.sum() > 5
    assert sorted(map(tuple, found)) == sorted(map(tuple, expected))
    # A slope is no edge: 5 % within 3 pixels is as much as is let pass.
    slope = np.broadcast_to(2000 * 1.006 ** np.arange(160), (128, 160)).astype(np.uint16)
    sloped = dataclasses.replace(stepped, depth_mm=slope)
    assert len(collect(network, [sloped], CAMERA, CAMERA).depths) == likely.sum()


def test_depth_of_another_resolution_is_looked_up_where_the_camera_sees_it(
    network: LandmarkNetwork, seen: Frame
) -> None:
    finer = Camera(320, 256, 300.0, 300.0, 159.5, 127.5)
    fine = frame("fine", POSE, finer)
    given = dataclasses.replace(fine, image_rgb=seen.image_rgb)
    found = collect(network, [given], finer, CAMERA)
    same = collect(network, [seen], CAMERA, CAMERA)
    assert len(found.depths) == pytest.approx(len(same.depths), rel=0.05)
    assert np.median(found.depths) == pytest.approx(np.median(same.depths), rel=0.02)
    walls = np.concatenate(
        [np.abs(found.points_in_map - recordings.LOW), np.abs(found.points_in_map - recordings.HIGH)], axis=1
    )
    assert walls.min(axis=1).max() < 0.03


def test_no_depth_at_any_keypoint_is_refused(network: LandmarkNetwork, seen: Frame) -> None:
    blind = dataclasses.replace(seen, depth_mm=np.zeros((128, 160), np.uint16))
    with pytest.raises(RecordingError, match="expected keypoints with a valid depth .*, got none"):
        collect(network, [blind, blind], CAMERA, CAMERA)


def test_a_long_recording_keeps_landmarks_of_every_frame(
    network: LandmarkNetwork, seen: Frame, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = collect(network, [seen] * 8, CAMERA, CAMERA)
    np.testing.assert_array_equal(np.unique(whole.frames, return_counts=True)[1], len(whole.depths) // 8)
    monkeypatch.setattr(under_test, "MOST_CANDIDATES", 400)
    thinned = collect(network, [seen] * 8, CAMERA, CAMERA)
    frames, counts = np.unique(thinned.frames, return_counts=True)
    np.testing.assert_array_equal(frames, range(8))
    assert 200 <= len(thinned.depths) <= 400
    assert counts.max() < 2 * counts.min()
    again = collect(network, [seen] * 8, CAMERA, CAMERA)
    np.testing.assert_array_equal(again.points_in_map, thinned.points_in_map)


def test_the_model_file_does_what_the_map_does(network: LandmarkNetwork, seen: Frame, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    found = export_model(network, CONTRACT, path, images=image_of(seen), true_poses=POSE[None])
    assert found.worst < 1e-4
    assert (found.images, found.poses) == (1, 1)
    assert found.onnx_error is not None and found.onnx_error[0] < 0.002
    loaded = OnnxNetwork(path, "cpu")
    assert loaded.contract == CONTRACT
    input_tensor = normalized_tensor(seen.image_rgb, CONTRACT)
    rays = node_rays(CONTRACT)
    of_file = loaded.predict(input_tensor, rays)
    of_torch = MapNetwork(network, CONTRACT).predict(input_tensor, rays)
    assert of_file.offsets is not None and of_torch.offsets is not None
    assert of_file.offsets.shape == (8, 10, 2)
    np.testing.assert_array_equal(of_file.offsets, of_torch.offsets)
    np.testing.assert_allclose(of_file.scene_coordinates, of_torch.scene_coordinates, atol=1e-5)
    estimates = [
        Relocalizer(item).localize(seen.image_rgb, CAMERA).estimate
        for item in (loaded, MapNetwork(network, CONTRACT))
    ]
    assert estimates[0] is not None and estimates[1] is not None
    position, rotation = pose_error(estimates[0].map_from_camera, estimates[1].map_from_camera)
    assert position < 1e-4
    assert rotation < 1e-3


def test_a_file_of_other_offsets_is_found_out(
    network: LandmarkNetwork, seen: Frame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even where there is no pose that could tell."""
    truth = LandmarkNetwork.forward

    def shifted(self: LandmarkNetwork, image: Tensor, rays: Tensor) -> tuple[Tensor, ...]:
        depth, scene_coordinates, weights, offsets = truth(self, image, rays)
        moved = offsets + (1.0 if torch.onnx.is_in_onnx_export() else 0.0)
        return depth, scene_coordinates, 0.0 * weights, moved

    monkeypatch.setattr(LandmarkNetwork, "forward", shifted)
    with pytest.raises(ExportError, match="offsets=0.1"):
        export_model(network, CONTRACT, tmp_path / "model.onnx", images=image_of(seen))
    assert not list(tmp_path.iterdir())


def test_of_keypoints_few_may_be_chosen_otherwise() -> None:
    expected = np.ones((1, 1, 20, 20), np.float32)
    found = expected.copy()
    found[0, 0, 3, 4:8] = 2.0  # 1 % of 400
    assert parity._deviation(found, expected, parity.OTHERWISE_CHOSEN) == 0.0
    assert parity._deviation(found, expected, 0.0) == 1.0
    found[0, 0, 3, 8] = 2.0
    assert parity._deviation(found, expected, parity.OTHERWISE_CHOSEN) == 1.0
    found[0, 0, 3, 8] = np.nan
    assert np.isnan(parity._deviation(found, expected, parity.OTHERWISE_CHOSEN))


def test_a_model_with_keypoints_needs_offsets(tmp_path: Path) -> None:
    path = write_model(tmp_path / "scene.onnx", POSE, CONTRACT)
    with pytest.raises(ModelFileError, match="expected the graph's tensors .*'offsets'.*, got ") as caught:
        OnnxNetwork(path, "cpu")
    assert "\n" not in str(caught.value)


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_landmark_recording(tmp_path_factory.mktemp("data") / "room")


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> TrainingConfig:
    return landmark_config(write_weights(tmp_path_factory.mktemp("weights") / "xfeat.pt"))


def test_from_recording_to_model(
    room: Path, config: TrainingConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, out = tmp_path / "run", tmp_path / "out"
    model = train(config, room, run)
    validation = json.loads((run / "validation.json").read_text())
    loaded = OnnxNetwork(model, "cpu").contract
    assert (loaded.stride, loaded.keypoints, loaded.network) == (16, True, "xfeat")
    assert loaded.config_digest == config.digest()
    assert loaded.confidence is not None
    assert loaded.confidence.threshold == validation["confidence"]["threshold"]
    assert loaded.covariance_scale == validation["covariance_scale"]
    assert list(loaded.covariance_floor) == validation["covariance_floor"]
    assert loaded.alignment.inlier_threshold == validation["inlier_threshold"] >= 0.02
    assert loaded.validation == validation["validation"]
    assert loaded.validation["frames"] == 10
    assert "held-out frames: frames" in capsys.readouterr().out
    seen = evaluate(model, room, "train", tmp_path / "seen", provider="cpu")
    assert seen["median_position_m"] < 0.002
    assert seen["median_rotation_deg"] < 0.1

    # A finished run is made again to the bit.
    content = model.read_bytes()
    train(config, room, run)
    assert model.read_bytes() == content
    assert json.loads((run / "validation.json").read_text()) == validation

    assert main(["evaluate", str(run), "--data", str(room), "--out", str(out)]) == 0
    assert json.loads((out / "metrics.json").read_text())["frames"] == 2


@pytest.mark.parametrize("size", [(200, 120), (168, 128), (160, 120)])
def test_sides_that_do_not_make_cells_are_refused(config: TrainingConfig, size: tuple[int, int]) -> None:
    InputConfig(*size)
    with pytest.raises(ConfigError, match=r"input: expected sides divisible by 16 with method: landmarks, g"):
        dataclasses.replace(config, input=InputConfig(*size))


def test_weights_that_are_not_there_are_one_line(
    room: Path, config: TrainingConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "config.yaml"
    missing = dataclasses.replace(config.landmarks, weights=str(tmp_path / "nothing.pt"))
    path.write_text(yaml.safe_dump(dataclasses.asdict(dataclasses.replace(config, landmarks=missing))))
    command = ["train", str(path), "--data", str(room), "--out", str(tmp_path / "run")]
    assert main(command) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith(f"structpose: error: expected XFeat's weights at {missing.weights}, got no")
    assert not (tmp_path / "run" / "model.onnx").exists()
