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
        # The figures have two decimals: half a digit of 0.08 is 6 %.
        assert costs[part]["gmac"] == pytest.approx(gmac, rel=0.03)
        assert costs[part]["mparam"] == pytest.approx(mparam, rel=0.01, abs=0.005)


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

    with pytest.raises(ConfigError, match=r"network.pretrained: expected the weights of a resnet18_half in"):
        load_pretrained(StructPoseNetwork(TINY), str(path), "resnet18_half")


def test_pretrained_files_carry_no_code(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return print, ("executed",)

    path = tmp_path / "weights.pth"
    torch.save({"conv1.weight": Trap()}, path)
    with pytest.raises(ConfigError, match="got: Weights only load failed"):
        load_pretrained(StructPoseNetwork(TINY), str(path), "resnet18_half")


@pytest.mark.parametrize("name", ["absent.pth", "absent.safetensors", "noise.pth", "noise.safetensors"])
def test_pretrained_files_that_cannot_be_read(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    if "noise" in name:
        path.write_bytes(b"no weights at all")
    with pytest.raises(ConfigError, match=f"expected readable weights in '.*{name}', got: .") as caught:
        load_pretrained(StructPoseNetwork(TINY), str(path), "resnet18_half")
    assert "\n" not in str(caught.value)
