"""The paper's network: its shapes, its size, its coding of depth."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from benchmarks.network_cost import network_cost
from structpose_ros.training.config import ConfigError, NetworkConfig, load_config
from structpose_ros.training.networks import (
    StructPoseNetwork,
    depth_from_logits,
    load_pretrained,
    proximity_from_depth,
)

ROOT = Path(__file__).resolve().parent.parent
TINY = NetworkConfig("resnet18_half", 16, 1, 8, 1)


@pytest.mark.parametrize("height", [48, 80, 112, 120, 240])
def test_shapes_of_heights_that_do_not_halve_evenly(height: int) -> None:
    network = StructPoseNetwork(TINY).eval()
    with torch.no_grad():
        output = network(torch.zeros(2, 3, height, 96))
        assert output.depth.shape == output.depth_logits.shape == (2, 1, height // 8, 12)
        assert output.half_depth.shape == (2, 1, -(-height // 16), 6)
        assert output.scene_coordinates.shape == (2, 3, height // 8, 12)
        weights = network.correspondence_weights(output.scene_coordinates, output.scene_coordinates)
    assert weights.shape == (2, 1, height // 8, 12)
    assert ((weights > 0) & (weights < 1)).all()


def test_size_of_the_papers_network() -> None:
    costs = network_cost(load_config(ROOT / "config" / "training" / "paper.yaml"))
    expected = {
        "stem to layer2": (10.3, 1.35),
        "scene coordinates": (9.9, 2.07),
        "layer3 and layer4": (12.1, 19.9),
        "depth decoders": (0.22, 0.31),
        "weights": (0.37, 0.08),
        "total": (32.9, 23.7),
    }
    for part, (gmac, mparam) in expected.items():
        assert costs[part]["gmac"] == pytest.approx(gmac, rel=0.05)
        assert costs[part]["mparam"] == pytest.approx(mparam, rel=0.03, abs=0.005)  # printed to 0.01


def test_proximity_and_logits_are_inverse() -> None:
    depth = torch.tensor([0.05, 0.5, 2.0, 9.0, 40.0])
    proximity = proximity_from_depth(depth, 1.9)
    assert proximity[2].item() == pytest.approx(1.9 / 3.9)
    torch.testing.assert_close(depth_from_logits(torch.logit(proximity), 1.9), depth)
    assert proximity_from_depth(torch.zeros(1), 1.9).item() == 1.0


def test_depth_stays_finite_and_positive() -> None:
    depth = depth_from_logits(torch.tensor([-1e4, 1e4]), 2.0)
    assert torch.isfinite(depth).all()
    assert (depth > 0).all()


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_pretrained_residual_layers(suffix: str, tmp_path: Path) -> None:
    torch.manual_seed(1)
    donor = StructPoseNetwork(NetworkConfig("resnet18", 16, 1, 8, 1)).state_dict()
    names = ("conv1", "bn1", "layer")
    weights = {key: value.clone() for key, value in donor.items() if key.startswith(names)}
    weights["fc.weight"] = torch.zeros(1000, 512)
    path = tmp_path / f"resnet18{suffix}"
    save_file(weights, path) if suffix == ".safetensors" else torch.save(weights, path)

    torch.manual_seed(2)
    network = StructPoseNetwork(NetworkConfig("resnet18", 16, 1, 8, 1))
    head = network.state_dict()["scene_head.0.weight"].clone()
    assert load_pretrained(network, str(path), "resnet18") == len(weights) - 1
    loaded = network.state_dict()
    assert all(torch.equal(loaded[key], value) for key, value in weights.items() if key in loaded)
    assert torch.equal(loaded["scene_head.0.weight"], head)

    with pytest.raises(ConfigError, match="expected the weights of a resnet18_half in .* got"):
        load_pretrained(StructPoseNetwork(TINY), str(path), "resnet18_half")


def test_pretrained_files_carry_no_code(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return print, ("executed",)

    path = tmp_path / "weights.pth"
    torch.save({"conv1.weight": Trap()}, path)
    with pytest.raises(ConfigError, match="Weights only load failed"):
        load_pretrained(StructPoseNetwork(TINY), str(path), "resnet18_half")


def torchvision_shapes(blocks: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the weights that torchvision publishes for a ResNet of basic blocks."""

    def norm(name: str, width: int) -> dict[str, tuple[int, ...]]:
        vectors = {f"{name}.{key}": (width,) for key in ("weight", "bias", "running_mean", "running_var")}
        return {**vectors, f"{name}.num_batches_tracked": ()}

    shapes: dict[str, tuple[int, ...]] = {"conv1.weight": (64, 3, 7, 7), **norm("bn1", 64)}
    inputs = 64
    for stage, count in enumerate(blocks):
        width = 64 * 2**stage
        for block in range(count):
            name = f"layer{stage + 1}.{block}"
            shapes[f"{name}.conv1.weight"] = (width, inputs, 3, 3)
            shapes[f"{name}.conv2.weight"] = (width, width, 3, 3)
            shapes |= norm(f"{name}.bn1", width) | norm(f"{name}.bn2", width)
            if inputs != width:
                shapes[f"{name}.downsample.0.weight"] = (width, inputs, 1, 1)
                shapes |= norm(f"{name}.downsample.1", width)
            inputs = width
    return shapes


@pytest.mark.parametrize(
    ("backbone", "blocks", "tensors"), [("resnet18", (2, 2, 2, 2), 120), ("resnet34", (3, 4, 6, 3), 216)]
)
def test_residual_layers_have_torchvisions_names(
    backbone: str, blocks: tuple[int, ...], tensors: int
) -> None:
    own = StructPoseNetwork(NetworkConfig(backbone, 16, 1, 8, 1)).state_dict()
    residual = {
        name: tuple(value.shape)
        for name, value in own.items()
        if name.split(".")[0] in ("conv1", "bn1", "layer1", "layer2", "layer3", "layer4")
    }
    assert residual == torchvision_shapes(blocks)
    assert len(residual) == tensors


def test_incomplete_pretrained_weights_are_refused(tmp_path: Path) -> None:
    network = StructPoseNetwork(TINY)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    weights = {name: torch.zeros_like(value) for name, value in before.items()}
    del weights["layer3.0.bn1.bias"]
    path = tmp_path / "weights.pth"
    torch.save(weights, path)
    with pytest.raises(ConfigError, match="got 119 of 120 tensors"):
        load_pretrained(network, str(path), "resnet18_half")
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize("content", [None, b"", b"no weights at all"])
def test_unreadable_pretrained_weights_are_named(content: bytes | None, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"weights{suffix}"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match="^expected .*pretrained weights at .*, got") as caught:
        load_pretrained(StructPoseNetwork(TINY), str(path), "resnet18_half")
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
