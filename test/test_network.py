"""Model files through ONNX Runtime: what is refused and how, and which provider really runs."""

from __future__ import annotations

import hashlib
import importlib.metadata
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from model_files import DEPTH_RANGE, MINIMUM_DEPTH, TRAINING_CAMERA, contract, write_model
from onnx import TensorProto, helper
from stand_in_runtime import CPU, CUDA, TENSORRT, StandIn

from structpose_ros import network
from structpose_ros.contract import METADATA_KEY, ModelFileError
from structpose_ros.geometry import rotation_from_vector, transform, transform_points, unproject
from structpose_ros.map_cloud import MAP_CLOUD_KEY, MapCloud
from structpose_ros.network import OnnxNetwork, ProviderError, normalized_tensor

MAP_FROM_CAMERA = transform(rotation_from_vector([0.3, -0.5, 0.2]), [2.0, 1.0, -3.0])


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_model(tmp_path / "scene.onnx", MAP_FROM_CAMERA)


def changed(path: Path, change: Callable[[onnx.ModelProto], object]) -> Path:
    described = onnx.load(path)
    change(described)
    path.write_bytes(described.SerializeToString())
    return path


def test_a_model_predicts_what_its_graph_says(model: Path) -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, size=(48, 64, 3), dtype=np.uint8)
    image[:8, :8, 2] = 255
    image[8:, :, 2] = 0
    rays = TRAINING_CAMERA.ray_grid(8)
    loaded = OnnxNetwork(model, "cpu")
    prediction = loaded.predict(normalized_tensor(image, loaded.contract), rays)

    red = image[..., 0].reshape(6, 8, 8, 8).mean(axis=(1, 3)) / 255
    np.testing.assert_allclose(prediction.depth, MINIMUM_DEPTH + DEPTH_RANGE * red, atol=1e-5)
    points_in_camera = unproject(prediction.depth, rays)
    expected = transform_points(MAP_FROM_CAMERA, points_in_camera)
    assert prediction.scene_coordinates.dtype == np.float64
    np.testing.assert_allclose(prediction.scene_coordinates, expected, atol=1e-5)
    assert prediction.weights.shape == (6, 8)
    assert prediction.weights[0, 0] == 0.0
    np.testing.assert_array_equal(prediction.weights[1:], 1.0)


def test_the_scene_mean_is_added_in_float64(model: Path) -> None:
    described = contract(scene_mean=(1e6, 0.0, 0.0))
    rng = np.random.default_rng(1)
    centred = rng.normal(size=(1, 3, 6, 8)).astype(np.float32)
    flat = np.ones((1, 1, 6, 8), dtype=np.float32)
    prediction = network.prediction_from_outputs(flat, centred, flat, described)
    # float32 has steps of 6 cm at 1000 km.
    np.testing.assert_allclose(prediction.scene_coordinates[..., 0] - 1e6, centred[0, 0], atol=1e-9)
    np.testing.assert_array_equal(prediction.scene_coordinates[..., 2], centred[0, 2])


def test_an_image_is_normalised_per_channel() -> None:
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    image = np.random.default_rng(2).integers(0, 256, size=(48, 64, 3), dtype=np.uint8)
    tensor = normalized_tensor(image, contract(normalization_mean=mean, normalization_std=std))
    assert tensor.dtype == np.float32
    assert tensor.shape == (1, 3, 48, 64)
    assert tensor.flags.c_contiguous
    for channel in range(3):
        expected = (image[..., channel] / 255.0 - mean[channel]) / std[channel]
        np.testing.assert_allclose(tensor[0, channel], expected, atol=1e-6)


def test_a_tensor_that_lies_ready_is_filled() -> None:
    image = np.random.default_rng(3).integers(0, 256, size=(48, 64, 3), dtype=np.uint8)
    ready = np.full((1, 3, 48, 64), np.nan, dtype=np.float32)
    assert normalized_tensor(image[:, ::-1], contract(), ready) is ready
    np.testing.assert_array_equal(ready, normalized_tensor(image[:, ::-1], contract()))


def test_the_file_is_known_by_its_path_contract_and_hash(model: Path) -> None:
    loaded = OnnxNetwork(str(model))
    assert loaded.path == model
    assert loaded.contract == contract()
    assert loaded.sha256 == hashlib.sha256(model.read_bytes()).hexdigest()


def test_a_file_carries_points_of_its_map_or_none(model: Path, tmp_path: Path) -> None:
    assert OnnxNetwork(model).map_cloud is None
    cloud = MapCloud(
        np.array([[0, 0, 0], [1, -2, 3]], dtype=np.float32), np.array([[0, 1, 2], [3, 4, 255]], np.uint8)
    )
    loaded = OnnxNetwork(write_model(tmp_path / "mapped.onnx", MAP_FROM_CAMERA, map_cloud=cloud))
    assert loaded.contract == contract()
    assert loaded.map_cloud is not None
    np.testing.assert_array_equal(loaded.map_cloud.points, cloud.points)
    np.testing.assert_array_equal(loaded.map_cloud.colors, cloud.colors)


def test_damaged_points_of_the_map_are_refused(model: Path) -> None:
    metadata = {**contract().to_metadata(), MAP_CLOUD_KEY: "{}"}
    changed(model, lambda described: helper.set_model_props(described, metadata))
    message = r"scene\.onnx: expected version 1 of metadata 'structpose_ros\.map_points', got None"
    with pytest.raises(ModelFileError, match=message):
        OnnxNetwork(model)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=r"expected a model file at .*none\.onnx, got nothing"):
        OnnxNetwork(tmp_path / "none.onnx")


def test_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="expected a model file at .*, got a folder"):
        OnnxNetwork(tmp_path)


@pytest.mark.parametrize("kept", [0.0, 0.3, 0.9])
def test_a_truncated_file_is_refused(model: Path, kept: float) -> None:
    content = model.read_bytes()
    model.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(ModelFileError, match=r"(scene\.onnx.*don't load|scene\.onnx: expected)"):
        OnnxNetwork(model)


def test_a_file_that_is_no_model_is_refused_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "notes.onnx"
    path.write_text("This is no model.\n")
    with pytest.raises(
        ModelFileError, match=r"expected an ONNX model at .*notes\.onnx, got 18 bytes"
    ) as caught:
        OnnxNetwork(path)
    assert "\n" not in str(caught.value)


def test_a_foreign_model_is_refused(model: Path) -> None:
    changed(model, lambda described: helper.set_model_props(described, {"names": "person"}))
    with pytest.raises(ModelFileError, match=r"scene\.onnx: expected a model exported by .*\['names'\]"):
        OnnxNetwork(model)


def test_a_model_of_another_version_is_refused(model: Path) -> None:
    text = contract().to_metadata()[METADATA_KEY].replace('"format_version": 3', '"format_version": 7')
    changed(model, lambda described: helper.set_model_props(described, {METADATA_KEY: text}))
    with pytest.raises(ModelFileError, match=r"scene\.onnx: expected model format version 3, got 7"):
        OnnxNetwork(model)


def test_a_graph_of_another_size_than_the_contract_says_is_refused(model: Path) -> None:
    other = contract(input_width=128, input_height=96)
    changed(model, lambda described: helper.set_model_props(described, other.to_metadata()))
    with pytest.raises(ModelFileError, match=r"expected the graph's tensors .*128.*, got .*64"):
        OnnxNetwork(model)


def test_a_graph_without_an_expected_tensor_is_refused(model: Path) -> None:
    def rename(described: onnx.ModelProto) -> None:
        described.graph.node[-1].output[0] = "confidence"
        described.graph.output[-1].name = "confidence"

    changed(model, rename)
    with pytest.raises(ModelFileError, match="expected the graph's tensors .*weights.*, got .*confidence"):
        OnnxNetwork(model)


def test_a_graph_of_other_numbers_than_float32_is_refused(model: Path) -> None:
    def widen(described: onnx.ModelProto) -> None:
        described.graph.node[-1].attribute[0].i = TensorProto.DOUBLE
        described.graph.output[-1].type.tensor_type.elem_type = TensorProto.DOUBLE

    changed(model, widen)
    with pytest.raises(ModelFileError, match=r"expected tensors of float32 .*\['tensor\(double\)', 'tensor"):
        OnnxNetwork(model)


@pytest.mark.parametrize(
    ("available", "working", "expected"),
    [
        ([TENSORRT, CUDA, CPU], [TENSORRT, CUDA, CPU], "tensorrt"),
        ([CPU, CUDA, TENSORRT], [CPU, CUDA, TENSORRT], "tensorrt"),
        ([TENSORRT, CUDA, CPU], [CUDA, CPU], "cuda"),
        ([TENSORRT, CUDA, CPU], [CPU], "cpu"),
        ([CUDA, CPU], [CUDA, CPU], "cuda"),
        ([CUDA, CPU], [CPU], "cpu"),
        ([CPU], [CPU], "cpu"),
        (["AzureExecutionProvider", CPU], ["AzureExecutionProvider", CPU], "cpu"),
    ],
)
def test_auto_takes_the_fastest_that_really_runs(
    model: Path, stand_in: StandIn, available: list[str], working: list[str], expected: str
) -> None:
    stand_in(available, working)
    loaded = OnnxNetwork(model, "auto")
    assert loaded.provider == expected
    image = np.zeros((1, 3, 48, 64), dtype=np.float32)
    assert loaded.predict(image, TRAINING_CAMERA.ray_grid(8)).depth.shape == (6, 8)


@pytest.mark.parametrize(
    ("raising", "working", "expected"),
    [((TENSORRT,), [CUDA, CPU], "cuda"), ((TENSORRT, CUDA), [CPU], "cpu"), ((CUDA,), [CPU], "cpu")],
)
def test_auto_goes_on_where_a_provider_raises(
    model: Path, stand_in: StandIn, raising: tuple[str, ...], working: list[str], expected: str
) -> None:
    stand_in([TENSORRT, CUDA, CPU], working, raising)
    assert OnnxNetwork(model, "auto").provider == expected


@pytest.mark.parametrize(
    ("provider", "chain"), [("tensorrt", [TENSORRT, CUDA, CPU]), ("cuda", [CUDA, CPU]), ("cpu", [CPU])]
)
def test_a_requested_provider_is_the_one_asked_for(
    model: Path, stand_in: StandIn, provider: str, chain: list[str]
) -> None:
    runtime = stand_in([TENSORRT, CUDA, CPU], [TENSORRT, CUDA, CPU])
    assert OnnxNetwork(model, provider).provider == provider
    assert runtime.asked[0] == [CPU]
    assert runtime.asked[-1] == chain
    assert len(runtime.asked) == (1 if provider == "cpu" else 2)


@pytest.mark.parametrize(
    ("provider", "working", "taken"),
    [("cuda", [CPU], CPU), ("tensorrt", [CPU], CPU), ("tensorrt", [CUDA, CPU], CUDA)],
)
def test_a_silent_fall_back_from_a_requested_provider_is_an_error(
    model: Path, stand_in: StandIn, provider: str, working: list[str], taken: str
) -> None:
    stand_in([TENSORRT, CUDA, CPU], working)
    message = f"expected to run on '{provider}', but ONNX Runtime fell back to {taken}: check the GPU driver"
    with pytest.raises(ProviderError, match=message):
        OnnxNetwork(model, provider)


def test_a_requested_provider_that_raises_is_an_error_in_one_line(model: Path, stand_in: StandIn) -> None:
    stand_in([CUDA, CPU], [CPU], (CUDA,))
    message = "expected provider 'cuda' to load .*, got: CUDAExecutionProvider is broken$"
    with pytest.raises(ProviderError, match=message):
        OnnxNetwork(model, "cuda")


def test_a_provider_this_runtime_was_not_built_with_is_an_error(model: Path, stand_in: StandIn) -> None:
    stand_in([CPU], [CPU])
    message = (
        r"expected provider 'cuda', but this ONNX Runtime has CPUExecutionProvider: pip install .*\[gpu\]"
    )
    with pytest.raises(ProviderError, match=message):
        OnnxNetwork(model, "cuda")


def test_an_unknown_provider_is_an_error(model: Path) -> None:
    with pytest.raises(
        ProviderError, match="expected a provider of auto, tensorrt, cuda, openvino, cpu, got"
    ):
        OnnxNetwork(model, "tpu")


def test_a_foreign_file_never_reaches_a_gpu(model: Path, stand_in: StandIn) -> None:
    runtime = stand_in([TENSORRT, CUDA, CPU], [TENSORRT, CUDA, CPU])
    changed(model, lambda described: helper.set_model_props(described, {}))
    with pytest.raises(ModelFileError):
        OnnxNetwork(model, "tensorrt")
    assert runtime.asked == [[CPU]]


def install_packages(monkeypatch: pytest.MonkeyPatch, *packages: str) -> None:
    def version(name: str) -> str:
        if name not in packages:
            raise importlib.metadata.PackageNotFoundError(name)
        return "1.0"

    monkeypatch.setattr(importlib.metadata, "version", version)


def test_both_packages_of_the_runtime_are_an_error_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    install_packages(monkeypatch, "onnxruntime", "onnxruntime-gpu")
    with pytest.raises(
        ProviderError, match="got both, .*pip uninstall -y onnxruntime onnxruntime-gpu"
    ) as caught:
        network.import_onnxruntime()
    assert "\n" not in str(caught.value)


def test_no_package_of_the_runtime_is_an_error_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    install_packages(monkeypatch)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(
        ProviderError, match=r"expected ONNX Runtime, got none: pip install .*\[cpu\]"
    ) as caught:
        network.import_onnxruntime()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("package", ["onnxruntime", "onnxruntime-gpu"])
def test_one_package_of_the_runtime_is_imported(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    install_packages(monkeypatch, package)
    assert network.import_onnxruntime() is onnxruntime
