"""Parameters and multiply-adds of the network's parts, counted on the modules themselves."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from torch import nn

from structpose_ros.training.config import TrainingConfig, load_config
from structpose_ros.training.networks import STRIDE, StructPoseNetwork

PARTS = {
    "stem to layer2": ("conv1", "bn1", "layer1", "layer2"),
    "scene coordinates": ("scene_head",),
    "layer3 and layer4": ("layer3", "layer4"),
    "depth decoders": ("decoder4", "decoder3", "half_depth_head", "depth_head"),
    "weights": ("weight_head",),
}


def network_cost(config: TrainingConfig) -> dict[str, dict[str, float]]:
    """Return GMAC per image and millions of parameters per part, convolutions only for the former."""
    network = StructPoseNetwork(config.network).eval()
    macs: dict[str, int] = {}

    def count(name: str) -> Any:
        def hook(module: nn.Module, _: Any, output: torch.Tensor) -> None:
            weight = module.weight
            # Kernels are applied once per output cell, those of transposed convolutions once per input cell.
            cells = output[0, 0].numel() // (
                module.stride[0] ** 2 if isinstance(module, nn.ConvTranspose2d) else 1
            )
            macs[name] = macs.get(name, 0) + weight.numel() * cells

        return hook

    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            module.register_forward_hook(count(name.split(".")[0]))
    width, height = config.input.width, config.input.height
    with torch.no_grad():
        output = network(torch.zeros(1, 3, height, width))
        points = torch.zeros(1, 3, height // STRIDE, width // STRIDE)
        network.correspondence_weights(output.scene_coordinates, points)
    parameters = {
        name: sum(p.numel() for p in child.parameters()) for name, child in network.named_children()
    }
    costs = {
        part: {
            "gmac": sum(macs.get(name, 0) for name in names) / 1e9,
            "mparam": sum(parameters[name] for name in names) / 1e6,
        }
        for part, names in PARTS.items()
    }
    costs["total"] = {key: sum(part[key] for part in costs.values()) for key in ("gmac", "mparam")}
    return costs


def main() -> None:
    """Print the table for a training configuration."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", type=Path, nargs="?", default=Path("config/training/paper.yaml"))
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    costs = network_cost(load_config(arguments.config))
    if arguments.json:
        print(json.dumps(costs, indent=2))
        return
    print(f"{'part':<20}{'GMAC':>8}{'M param':>10}")
    for part, cost in costs.items():
        print(f"{part:<20}{cost['gmac']:>8.2f}{cost['mparam']:>10.2f}")


if __name__ == "__main__":
    main()
