"""A map looked up in bytes: what torch chooses, the file chooses, and it is nearly what floats choose."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from landmark_files import CAMERA, landmark_contract, random_network, textured_room
from recordings import frame, pose
from test_train import CONFIG

from structpose_ros.geometry import pose_error
from structpose_ros.network import OnnxNetwork, normalized_tensor, output_names
from structpose_ros.relocalizer import Relocalizer
from structpose_ros.training import int8_lookup
from structpose_ros.training.config import ConfigError
from structpose_ros.training.cross_fit import MapNetwork
from structpose_ros.training.dataset import normalize_images
from structpose_ros.training.export import noise_image, onnx_model
from structpose_ros.training.frames import Frame
from structpose_ros.training.int8_lookup import with_int8_lookup
from structpose_ros.training.landmarks import LEVELS, LandmarkNetwork, collect, key_levels
from structpose_ros.training.parity import Examples, check_parity, node_rays, rays_tensor
from structpose_ros.training.runs import claim_folder, export_run

POSE = pose(0.1, 0.2, 0.5)
CONTRACT = landmark_contract()


@pytest.fixture(scope="module")
def seen() -> Frame:
    with textured_room():
        return frame("seen", POSE, CAMERA)


@pytest.fixture(scope="module")
def network(seen: Frame) -> LandmarkNetwork:
    with textured_room():
        made = random_network(512)
    made.set_landmarks(collect(made, [seen], CAMERA, CAMERA), np.asarray(CONTRACT.scene_mean), CAMERA)
    return made


def in_bytes(network: LandmarkNetwork) -> LandmarkNetwork:
    changed = copy.deepcopy(network)
    changed.int8 = True
    return changed


@pytest.mark.parametrize("parts", [1, 3])
def test_the_file_chooses_what_torch_chooses(
    parts: int, network: LandmarkNetwork, seen: Frame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    h, w = CONTRACT.grid_shape
    monkeypatch.setattr(int8_lookup, "PART_BYTES", 4 * h * w * len(network.keys) / parts)
    image = normalize_images(torch.from_numpy(np.ascontiguousarray(seen.image_rgb.transpose(2, 0, 1))[None]))
    paths = {int8: tmp_path / f"{int8}.onnx" for int8 in (False, True)}
    for int8, path in paths.items():
        shown = in_bytes(network) if int8 else network
        model = onnx_model(shown, image, rays_tensor(node_rays(CONTRACT)), output_names(CONTRACT))
        model = with_int8_lookup(model, network) if int8 else model
        onnx.helper.set_model_props(model, CONTRACT.to_metadata())
        onnx.save(model, path)
        parity = check_parity(shown, path.read_bytes(), CONTRACT, Examples(image, True, POSE[None]))
        assert parity.worst < 1e-4
        assert parity.onnx_error is not None and parity.onnx_error[0] < 0.002
    operators = [node.op_type for node in onnx.load(paths[True]).graph.node]
    assert operators.count("MatMulInteger") == parts
    assert operators.count("MatMul") == 1, "the mean of red, green and blue"
    assert paths[True].stat().st_size < paths[False].stat().st_size

    tensor, rays = normalized_tensor(seen.image_rgb, CONTRACT), node_rays(CONTRACT)
    of_file = OnnxNetwork(paths[True], "cpu").predict(tensor, rays)
    of_torch = MapNetwork(in_bytes(network), CONTRACT).predict(tensor, rays)
    np.testing.assert_array_equal(of_file.scene_coordinates, of_torch.scene_coordinates)
    np.testing.assert_array_equal(of_file.depth, of_torch.depth)

    of_floats = OnnxNetwork(paths[False], "cpu").predict(tensor, rays)
    same = (of_file.scene_coordinates == of_floats.scene_coordinates).all(axis=-1)
    assert same.mean() > 0.9
    np.testing.assert_allclose(of_file.weights[same], of_floats.weights[same], rtol=1e-5)
    estimates = [
        Relocalizer(OnnxNetwork(path, "cpu")).localize(seen.image_rgb, CAMERA) for path in paths.values()
    ]
    assert estimates[0].estimate is not None and estimates[1].estimate is not None
    position, rotation = pose_error(
        estimates[0].estimate.map_from_camera, estimates[1].estimate.map_from_camera
    )
    assert position < 0.002
    assert rotation < 0.1


def test_levels_are_whole_numbers_of_bytes() -> None:
    keys = torch.tensor([[0.0, 0.1, -0.1004, 1.0, -1.0, 0.6349]])
    assert key_levels(keys).tolist() == [[0.0, 20.0, -20.0, 127.0, -127.0, 127.0]]
    assert 64 * 128 * 127 < 2**24  # sums of products are exact in float32
    assert LEVELS * 0.6 < 127


def test_a_graph_without_such_a_look_up_is_refused(network: LandmarkNetwork) -> None:
    rays = rays_tensor(node_rays(CONTRACT))
    model = onnx_model(network, noise_image(CONTRACT), rays, output_names(CONTRACT))
    with pytest.raises(ValueError, match=r"expected one look-up of Clip, .* ArgMax, got \[\['MatMul'\]\]"):
        with_int8_lookup(model, network)


def test_only_a_map_of_landmarks_has_a_look_up(tmp_path: Path) -> None:
    claim_folder(tmp_path / "run", CONFIG)
    with pytest.raises(ConfigError, match="int8: expected a run of method: landmarks in .*, got structpose"):
        export_run(tmp_path / "run", tmp_path / "model.onnx", int8=True)
    assert not (tmp_path / "model.onnx").exists()
