"""The network of the paper (§3.2-3.4, Fig. 1) in configurable widths.

Parameter names of the residual layers are torchvision's, so that its ImageNet weights load.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from structpose_ros.training.config import ConfigError, NetworkConfig

STRIDE = 8
HALF_STRIDE = 16
RESIDUAL_LAYERS = ("conv1", "bn1", "layer")
# blocks of layer1 .. layer4, channels of layer1 (each further layer doubles them)
BACKBONE_SHAPES = {
    "resnet34": ((3, 4, 6, 3), 64),
    "resnet18": ((2, 2, 2, 2), 64),
    "resnet18_half": ((2, 2, 2, 2), 32),
}


@dataclass(frozen=True)
class NetworkOutput:
    """What the image alone gives.

    depth, half_depth: proximity in 0 .. 1, (B, 1, h, w) and half of it. depth_logits: (B, 1, h, w), before
    the sigmoid. scene_coordinates: (B, 3, h, w) m, centred.
    """

    depth: Tensor
    half_depth: Tensor
    scene_coordinates: Tensor
    depth_logits: Tensor


class BasicBlock(nn.Module):
    """Residual block of He et al. 2016, two 3x3 convolutions."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        """Map `inputs` channels to `outputs`; `stride` 2 halves the resolution."""
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample: nn.Module | None = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, h, w) to (B, outputs, h / stride, w / stride)."""
        shortcut = x if self.downsample is None else self.downsample(x)
        y = functional.relu(self.bn1(self.conv1(x)))
        return functional.relu(self.bn2(self.conv2(y)) + shortcut)


class LinkNetDecoder(nn.Module):
    """Decoder block of LinkNet (Chaurasia and Culurciello 2017): squeeze, double the resolution, expand."""

    def __init__(self, inputs: int, outputs: int) -> None:
        """Map `inputs` channels to `outputs` at twice the resolution."""
        super().__init__()
        squeezed = inputs // 4
        self.layers = nn.Sequential(
            nn.Conv2d(inputs, squeezed, 1, bias=False),
            nn.BatchNorm2d(squeezed),
            nn.ReLU(),
            nn.ConvTranspose2d(squeezed, squeezed, 3, stride=2, padding=1, output_padding=1, bias=False),
            nn.BatchNorm2d(squeezed),
            nn.ReLU(),
            nn.Conv2d(squeezed, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
        )

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """Decode x and add the encoder's feature; where its height does not divide by two, crop to it."""
        decoded = self.layers(x)
        return decoded[..., : skip.shape[-2], : skip.shape[-1]] + skip


class StructPoseNetwork(nn.Module):
    """Image to depth, scene coordinates and, with rays, correspondence weights."""

    def __init__(self, config: NetworkConfig) -> None:
        """Build the parts; weights are He-initialised unless `load_pretrained` follows."""
        super().__init__()
        _, width = BACKBONE_SHAPES[config.backbone]
        widths = [width, 2 * width, 4 * width, 8 * width]
        self.conv1, self.bn1, self.layer1, self.layer2, self.layer3, self.layer4 = residual_layers(config)
        self.decoder4 = LinkNetDecoder(widths[3], widths[2])
        self.decoder3 = LinkNetDecoder(widths[2], widths[1])
        self.half_depth_head = nn.Conv2d(widths[2], 1, 3, 1, 1)
        self.depth_head = nn.Conv2d(widths[1], 1, 3, 1, 1)
        self.scene_head = nn.Sequential(
            *_convolutions(widths[1], config.head_width, config.head_layers),
            nn.Conv2d(config.head_width, 3, 1),
        )
        self.weight_head = nn.Sequential(
            *_convolutions(6, config.weight_width, config.weight_layers), nn.Conv2d(config.weight_width, 1, 1)
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, image_B3HW: Tensor) -> NetworkOutput:
        """Predict from normalised images (B, 3, H, W)."""
        x = functional.relu(self.bn1(self.conv1(image_B3HW)))
        x = functional.max_pool2d(x, 3, 2, 1)
        shared = self.layer2(self.layer1(x))
        scene_coordinates = _in_float32(self.scene_head[-1], self.scene_head[:-1](shared))
        encoded3 = self.layer3(shared)
        decoded4 = self.decoder4(self.layer4(encoded3), encoded3)
        depth_logits = _in_float32(self.depth_head, self.decoder3(decoded4, shared))
        half_depth = torch.sigmoid(_in_float32(self.half_depth_head, decoded4))
        return NetworkOutput(torch.sigmoid(depth_logits), half_depth, scene_coordinates, depth_logits)

    def correspondence_weights(self, scene_coordinates: Tensor, points_in_camera: Tensor) -> Tensor:
        """Return weights in 0 .. 1 (B, 1, h, w) from centred scene and camera points (B, 3, h, w) m."""
        return torch.sigmoid(self.weight_head(torch.cat([scene_coordinates, points_in_camera], dim=1)))


def depth_from_logits(depth_logits: Tensor, depth_scale: float) -> Tensor:
    """Return metres: with p = sigmoid(x), d = a (1 - p) / p = a exp(-x), bounded to a * [5e-5, 150]."""
    return depth_scale * torch.exp(-torch.clamp(depth_logits, -5.0, 10.0))


def proximity_from_depth(depth: Tensor, depth_scale: float) -> Tensor:
    """Return CodeSLAM's proximity p = a / (d + a); an invalid depth of 0 becomes 1."""
    return depth_scale / (depth + depth_scale)


def load_pretrained(network: nn.Module, source: str, backbone: str) -> int:
    """Copy the residual layers from `imagenet` (torchvision) or a weights file; returns how many tensors.

    Raises:
        ConfigError: the file can't be read, or a tensor is missing or of another shape.
    """
    if source == "imagenet":
        import torchvision

        if backbone not in torchvision.models.list_models():
            raise ConfigError(
                f"expected a backbone with ImageNet weights (resnet34, resnet18), got {backbone}"
            )
        weights = torchvision.models.get_model(backbone, weights="DEFAULT").state_dict()
    else:
        weights = _read_weights(Path(source))
    own = {key: value for key, value in network.state_dict().items() if key.startswith(RESIDUAL_LAYERS)}
    fitting = {key: weights[key] for key in own if key in weights and weights[key].shape == own[key].shape}
    if len(fitting) < len(own):
        raise ConfigError(
            f"expected the weights of a {backbone} in '{source}', got {len(fitting)} of {len(own)} tensors; "
            "ImageNet weights exist for resnet34 and resnet18"
        )
    network.load_state_dict(fitting, strict=False)
    return len(fitting)


def _read_weights(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise ConfigError(f"expected pretrained weights at {path}, got nothing")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            content = load_file(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except ModuleNotFoundError:
        raise
    except Exception as error:  # whatever the readers meet in a damaged file
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ConfigError(f"expected readable pretrained weights at {path}, got: {reason}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"expected tensors by name in {path}, got {type(content).__name__}")
    return {key: value for key, value in content.items() if isinstance(value, Tensor)}


def residual_layers(
    config: NetworkConfig,
) -> tuple[nn.Conv2d, nn.BatchNorm2d, nn.Sequential, nn.Sequential, nn.Sequential, nn.Sequential]:
    """Return conv1, bn1 and layer1 .. layer4 of the configured ResNet, of strides 2, 1, 1, 2, 2, 2."""
    blocks, width = BACKBONE_SHAPES[config.backbone]
    return (
        nn.Conv2d(3, width, 7, 2, 3, bias=False),
        nn.BatchNorm2d(width),
        _layer(width, width, blocks[0], 1),
        _layer(width, 2 * width, blocks[1], 2),
        _layer(2 * width, 4 * width, blocks[2], 2),
        _layer(4 * width, 8 * width, blocks[3], 2),
    )


def _in_float32(module: nn.Module, x: Tensor) -> Tensor:
    """Apply a last layer in full precision: metres in 8 or 11 bits would be centimetres apart."""
    if not torch.is_autocast_enabled(x.device.type):
        return module(x)
    with torch.autocast(x.device.type, enabled=False):
        return module(x.float())


def _layer(inputs: int, outputs: int, blocks: int, stride: int) -> nn.Sequential:
    rest = [BasicBlock(outputs, outputs, 1) for _ in range(blocks - 1)]
    return nn.Sequential(BasicBlock(inputs, outputs, stride), *rest)


def _convolutions(inputs: int, width: int, count: int) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for index in range(count):
        layers += [nn.Conv2d(inputs if index == 0 else width, width, 3, 1, 1), nn.ReLU()]
    return layers
