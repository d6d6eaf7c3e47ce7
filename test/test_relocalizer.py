"""From image and camera to a judged pose, with model files whose answer is known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from model_files import DEPTH_RANGE, MINIMUM_DEPTH, TRAINING_CAMERA, contract, write_model

from structpose_ros.alignment import AlignmentOptions
from structpose_ros.camera import Camera, CameraError, resize_image
from structpose_ros.contract import ModelContract
from structpose_ros.gate import GateOptions, RejectReason
from structpose_ros.geometry import pose_error, rotation_from_vector, transform, transform_points
from structpose_ros.network import OnnxNetwork, Prediction
from structpose_ros.relocalizer import Relocalizer

MAP_FROM_CAMERA = transform(rotation_from_vector([0.3, -0.5, 0.2]), [2.0, 1.0, -3.0])
LENSES = {
    "pinhole": TRAINING_CAMERA,
    "another resolution": Camera(320, 240, 290.0, 295.0, 158.0, 121.0),
    "another aspect": Camera(200, 90, 190.0, 180.0, 101.0, 44.0),
    "plumb_bob": Camera(128, 96, 120.0, 120.0, 63.0, 48.0, "plumb_bob", (-0.2, 0.05, 1e-3, -1e-3, 0.0)),
    "rational_polynomial": Camera(
        128,
        96,
        120.0,
        120.0,
        63.0,
        48.0,
        "rational_polynomial",
        (0.5, -2.6, 6e-4, -2e-4, 1.5, 0.38, -2.4, 1.4),
    ),
    "equidistant": Camera(128, 96, 60.0, 60.0, 63.0, 48.0, "equidistant", (-0.02, 0.004, -0.003, 5e-4)),
}
each_lens = pytest.mark.parametrize("camera", LENSES.values(), ids=LENSES.keys())
Write = Callable[..., Relocalizer]


@pytest.fixture
def relocalizer(tmp_path: Path) -> Write:
    def write(
        model_contract: ModelContract | None = None,
        gate: GateOptions | None = None,
        alignment: AlignmentOptions | None = None,
    ) -> Relocalizer:
        path = write_model(tmp_path / "scene.onnx", MAP_FROM_CAMERA, model_contract)
        return Relocalizer(OnnxNetwork(path, "cpu"), gate, alignment)

    return write


def picture(camera: Camera, seed: int = 0) -> npt.NDArray[np.uint8]:
    """Return an image (H, W, 3) of random depth without any masked cell."""
    image = np.random.default_rng(seed).integers(
        0, 256, size=(camera.height, camera.width, 3), dtype=np.uint8
    )
    image[..., 2] = 0
    return image


class BrokenNetwork:
    """Predicts what a test wants for the contract's own camera."""

    def __init__(self, change: Callable[[Prediction], Prediction]) -> None:
        self.contract = contract()
        self.change = change

    def predict(self, input_tensor: npt.NDArray[np.float32], rays: npt.NDArray[np.float64]) -> Prediction:
        depth = (MINIMUM_DEPTH + DEPTH_RANGE * input_tensor[0, 0, ::8, ::8]).astype(np.float32)
        points = transform_points(MAP_FROM_CAMERA, rays * depth[..., None])
        return self.change(Prediction(depth, points, np.ones_like(depth)))


@each_lens
def test_the_pose_comes_back_through_any_lens_and_resolution(relocalizer: Write, camera: Camera) -> None:
    result = relocalizer().localize(picture(camera), camera)
    assert result.decision.accepted
    assert result.estimate is not None
    position, rotation = pose_error(result.estimate.map_from_camera, MAP_FROM_CAMERA)
    assert position < 1e-5
    assert rotation < 1e-4
    assert result.decision.confidence == 1.0
    assert result.estimate.residuals.max() < 1e-4


@each_lens
def test_the_points_lie_where_the_camera_sees_the_cells(relocalizer: Write, camera: Camera) -> None:
    result = relocalizer().localize(picture(camera), camera)
    assert result.points_in_camera.shape == (6, 8, 3)
    assert result.image_rgb.shape == (48, 64, 3)
    # Cell (row, column) stands at 8 i + 3.5 of the input; the camera's own pixels are the resizing's inverse.
    rows, columns = np.mgrid[0:6, 0:8] * 8 + 3.5
    scale = np.array([camera.width / 64, camera.height / 48])
    expected = (np.stack([columns, rows], axis=-1) + 0.5) * scale - 0.5
    np.testing.assert_allclose(camera.project(result.points_in_camera), expected, atol=1e-6)
    np.testing.assert_array_equal(result.points_in_camera[..., 2], result.prediction.depth)


def test_a_wrong_camera_gives_points_elsewhere(relocalizer: Write) -> None:
    image = picture(TRAINING_CAMERA)
    right = relocalizer().localize(image, TRAINING_CAMERA)
    wrong = relocalizer().localize(image, replace(TRAINING_CAMERA, fx=90.0))
    ratio = wrong.points_in_camera[..., 0] / right.points_in_camera[..., 0]
    np.testing.assert_allclose(ratio, 60.0 / 90.0, atol=1e-9)


def test_the_lens_that_the_model_knows_better_stands_for_the_training_camera(relocalizer: Write) -> None:
    refined = TRAINING_CAMERA.with_radial(-0.2)
    of_model = relocalizer(contract(refined_camera=refined))
    image = picture(TRAINING_CAMERA)
    result = of_model.localize(image, TRAINING_CAMERA)
    assert result.camera == refined
    np.testing.assert_array_equal(result.rays, refined.ray_grid(8))
    rows, columns = np.mgrid[0:6, 0:8] * 8 + 3.5
    centres = np.stack([columns, rows], axis=-1)
    np.testing.assert_allclose(refined.project(result.points_in_camera), centres, atol=1e-6)
    # A camera that was calibrated otherwise is believed.
    another = replace(TRAINING_CAMERA, fx=61.0)
    result = of_model.localize(image, another)
    assert result.camera == another
    np.testing.assert_allclose(another.project(result.points_in_camera), centres, atol=1e-6)


def test_cells_that_the_lens_does_not_reach_have_no_part_in_the_pose(relocalizer: Write) -> None:
    # The radius r (1 - 0.9 r^2) of this lens ends at 0.406, 24 of 64 pixels: the corners have no ray.
    camera = replace(TRAINING_CAMERA, distortion=(-0.9, 0.0, 0.0, 0.0))
    unreached = np.isnan(camera.ray_grid(8)[..., 0])
    assert 4 <= unreached.sum() < 24
    result = relocalizer().localize(picture(camera), camera)
    assert result.estimate is not None
    assert result.decision.accepted
    assert pose_error(result.estimate.map_from_camera, MAP_FROM_CAMERA)[0] < 1e-5
    np.testing.assert_array_equal(result.estimate.weights.reshape(6, 8) == 0.0, unreached)
    np.testing.assert_array_equal(result.points_in_camera[unreached], 0.0)
    assert np.isfinite(result.points_in_camera).all()


def test_cells_that_the_network_gives_no_weight_have_no_part_in_the_pose(relocalizer: Write) -> None:
    image = picture(TRAINING_CAMERA)
    image[:24, :, 2] = 255
    result = relocalizer().localize(image, TRAINING_CAMERA)
    assert result.estimate is not None
    np.testing.assert_array_equal(result.estimate.weights.reshape(6, 8)[:3], 0.0)
    assert (result.estimate.weights.reshape(6, 8)[3:] > 0).all()
    assert result.estimate.effective_points == pytest.approx(24, rel=1e-3)


def test_the_rays_are_made_once_for_each_camera(relocalizer: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Camera] = []
    ray_grid = Camera.ray_grid

    def counted(self: Camera, stride: int = 1) -> npt.NDArray[np.float64]:
        made.append(self)
        return ray_grid(self, stride)

    monkeypatch.setattr(Camera, "ray_grid", counted)
    subject = relocalizer()
    for _ in range(3):
        subject.localize(picture(TRAINING_CAMERA), TRAINING_CAMERA)
        subject.localize(picture(TRAINING_CAMERA), replace(TRAINING_CAMERA))
    assert made == [TRAINING_CAMERA]
    other = replace(TRAINING_CAMERA, fx=61.0)
    changed = subject.localize(picture(other), other)
    assert made == [TRAINING_CAMERA, other]
    np.testing.assert_allclose(other.project(changed.points_in_camera)[0, 0], [3.5, 3.5], atol=1e-9)


def test_an_image_of_another_size_than_its_camera_is_refused(relocalizer: Write) -> None:
    camera = LENSES["another resolution"]
    with pytest.raises(CameraError, match="expected an image of 320x240 as its camera says, got 64x48"):
        relocalizer().localize(picture(TRAINING_CAMERA), camera)


def test_a_frame_without_weight_is_rejected_without_a_pose(relocalizer: Write) -> None:
    image = picture(TRAINING_CAMERA)
    image[..., 2] = 255
    result = relocalizer().localize(image, TRAINING_CAMERA)
    assert result.decision.reject_reason is RejectReason.ZERO_WEIGHTS
    assert result.decision.confidence == 0.0
    assert result.estimate is None
    assert result.covariance is None
    assert result.prediction.depth.shape == (6, 8)


def test_a_pose_outside_the_map_is_rejected_but_told(relocalizer: Write) -> None:
    small = contract(map_min=(10.0, 10.0, 10.0), map_max=(12.0, 12.0, 12.0))
    result = relocalizer(small).localize(picture(TRAINING_CAMERA), TRAINING_CAMERA)
    assert result.decision.reject_reason is RejectReason.OUTSIDE_MAP
    assert result.estimate is not None
    wide = GateOptions(map_margin=20.0)
    assert relocalizer(small, wide).localize(picture(TRAINING_CAMERA), TRAINING_CAMERA).decision.accepted


def test_predictions_that_do_not_fit_together_are_rejected() -> None:
    def scrambled(prediction: Prediction) -> Prediction:
        shuffled = np.random.default_rng(3).permutation(prediction.scene_coordinates.reshape(-1, 3))
        return replace(prediction, scene_coordinates=shuffled.reshape(6, 8, 3))

    result = Relocalizer(BrokenNetwork(scrambled)).localize(picture(TRAINING_CAMERA), TRAINING_CAMERA)
    assert result.decision.reject_reason is RejectReason.LOW_INLIER_RATIO


def test_a_prediction_that_is_not_finite_is_rejected() -> None:
    def poisoned(prediction: Prediction) -> Prediction:
        depth = prediction.depth.copy()
        depth[2, 3] = np.nan
        return replace(prediction, depth=depth)

    image = picture(TRAINING_CAMERA)
    sound = Relocalizer(BrokenNetwork(lambda prediction: prediction)).localize(image, TRAINING_CAMERA)
    assert sound.decision.accepted
    result = Relocalizer(BrokenNetwork(poisoned)).localize(image, TRAINING_CAMERA)
    assert result.decision.reject_reason is RejectReason.NON_FINITE


class KeypointNetwork:
    """Speaks of random pixels of the cells of one image, which `camera` (at input size) took."""

    def __init__(self, camera: Camera) -> None:
        self.contract = contract(keypoints=True)
        self.camera = camera
        self.offsets = np.random.default_rng(5).integers(-4, 4, size=(6, 8, 2)) + np.float32(0.5)

    def predict(self, input_tensor: npt.NDArray[np.float32], rays: npt.NDArray[np.float64]) -> Prediction:
        depth = np.random.default_rng(6).uniform(1.0, 5.0, size=(6, 8)).astype(np.float32)
        points = self.camera.rays(self.camera.pixel_grid(8) + self.offsets) * depth[..., None]
        scene_coordinates = np.nan_to_num(transform_points(MAP_FROM_CAMERA, points))
        return Prediction(depth, scene_coordinates, np.ones_like(depth), self.offsets)


@each_lens
def test_keypoints_are_seen_along_their_own_rays(camera: Camera) -> None:
    image = picture(camera)
    network = KeypointNetwork(resize_image(image, camera, 64, 48)[1])
    result = Relocalizer(network).localize(image, camera)
    assert result.decision.accepted
    assert result.estimate is not None
    position, rotation = pose_error(result.estimate.map_from_camera, MAP_FROM_CAMERA)
    assert position < 1e-5
    assert rotation < 1e-4
    rows, columns = np.mgrid[0:6, 0:8] * 8 + 3.5
    expected = np.stack([columns, rows], axis=-1) + network.offsets
    np.testing.assert_array_equal(expected, np.rint(expected))  # whole pixels
    np.testing.assert_allclose(network.camera.project(result.points_in_camera), expected, atol=1e-6)
    np.testing.assert_array_equal(result.points_in_camera[..., 2], result.prediction.depth)


def test_without_offsets_a_prediction_speaks_of_the_cells_centres() -> None:
    rays = TRAINING_CAMERA.ray_grid(8)
    plain = Prediction(np.ones((6, 8), np.float32), np.zeros((6, 8, 3)), np.ones((6, 8), np.float32))
    assert plain.rays(TRAINING_CAMERA, rays) is rays
    still = replace(plain, offsets=np.zeros((6, 8, 2), np.float32))
    np.testing.assert_allclose(still.rays(TRAINING_CAMERA, rays), rays, atol=1e-12)


@each_lens
def test_the_rays_of_keypoints_go_through_their_pixels(camera: Camera) -> None:
    camera = camera.resized(128, 96)
    random = np.random.default_rng(2)
    offsets = random.uniform(-4.0, 4.0, (12, 16, 2)).astype(np.float32)
    said = Prediction(np.ones((12, 16), np.float32), np.zeros((12, 16, 3)), offsets[..., 0], offsets)
    cell_rays = np.nan_to_num(camera.ray_grid(8))
    before = cell_rays.copy()
    rays = said.rays(camera, cell_rays)
    np.testing.assert_array_equal(cell_rays, before)
    pixels = camera.pixel_grid(8) + offsets
    reached = rays[..., 2] > 0
    assert reached.mean() > 0.5
    np.testing.assert_allclose(camera.project(rays[reached]), pixels[reached], atol=1e-6)
    np.testing.assert_array_equal(rays[~reached], 0.0)


def test_keypoints_that_the_lens_does_not_reach_have_no_part_in_the_pose() -> None:
    camera = replace(TRAINING_CAMERA, distortion=(-0.9, 0.0, 0.0, 0.0))
    network = KeypointNetwork(camera)
    unreached = np.isnan(camera.rays(camera.pixel_grid(8) + network.offsets)[..., 0])
    assert 4 <= unreached.sum() < 24
    assert (unreached != np.isnan(camera.ray_grid(8)[..., 0])).any()  # not the cells whose centres are
    result = Relocalizer(network).localize(picture(camera), camera)
    assert result.estimate is not None
    assert pose_error(result.estimate.map_from_camera, MAP_FROM_CAMERA)[0] < 1e-5
    np.testing.assert_array_equal(result.estimate.weights.reshape(6, 8) == 0.0, unreached)
    np.testing.assert_array_equal(result.points_in_camera[unreached], 0.0)


def noisy(prediction: Prediction) -> Prediction:
    noise = np.random.default_rng(4).normal(scale=0.05, size=prediction.scene_coordinates.shape)
    return replace(prediction, scene_coordinates=prediction.scene_coordinates + noise)


def test_the_covariance_is_the_estimates_by_the_models_calibration() -> None:
    network = BrokenNetwork(noisy)
    network.contract = contract(covariance_scale=7.0, covariance_floor=(0.1, 0.03))
    result = Relocalizer(network).localize(picture(TRAINING_CAMERA), TRAINING_CAMERA)
    assert result.estimate is not None
    assert result.covariance is not None
    floors = np.diag([0.01, 0.01, 0.01, 0.0009, 0.0009, 0.0009])
    np.testing.assert_allclose(result.covariance, 7.0 * result.estimate.covariance + floors)
    assert np.linalg.eigvalsh(result.covariance).min() > 0


def test_the_alignment_options_are_the_models_unless_others_are_given() -> None:
    network = BrokenNetwork(noisy)
    network.contract = contract(alignment=AlignmentOptions(robust_rounds=0))
    image = picture(TRAINING_CAMERA)
    plain = Relocalizer(network).localize(image, TRAINING_CAMERA).estimate
    robust = Relocalizer(network, alignment=AlignmentOptions(robust_rounds=5))
    reweighted = robust.localize(image, TRAINING_CAMERA).estimate
    assert plain is not None
    assert reweighted is not None
    np.testing.assert_array_equal(plain.weights, 1.0)
    assert reweighted.weights.min() < 0.5


def test_the_same_frame_gives_the_same_bits_whatever_came_between(relocalizer: Write) -> None:
    camera = LENSES["plumb_bob"]
    image = picture(camera, 1)
    before = image.copy()
    subject = relocalizer()
    first = subject.localize(image, camera)
    assert first.estimate is not None
    for seed in range(2, 6):
        subject.localize(picture(TRAINING_CAMERA, seed), TRAINING_CAMERA)
        again = subject.localize(image, camera)
        assert again.estimate is not None
        for name in ("map_from_camera", "residuals", "weights", "singular_values", "covariance"):
            assert getattr(again.estimate, name).tobytes() == getattr(first.estimate, name).tobytes()
        assert again.points_in_camera.tobytes() == first.points_in_camera.tobytes()
        assert again.decision == first.decision
    np.testing.assert_array_equal(image, before)


def test_every_stage_is_timed(relocalizer: Write) -> None:
    stage_ms = relocalizer().localize(picture(TRAINING_CAMERA), TRAINING_CAMERA).stage_ms
    assert list(stage_ms) == ["preprocess", "network", "align"]
    assert all(0 < duration < 60_000 for duration in stage_ms.values())
