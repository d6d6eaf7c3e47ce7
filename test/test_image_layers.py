"""The layers on the image's pixels, rearranged in a model file: fewer bytes, the same values."""

from __future__ import annotations

import io

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from structpose_ros.training.image_layers import FEW, with_lean_image_layers
from structpose_ros.training.xfeat import XFeat


def exported(module: nn.Module, image: torch.Tensor) -> onnx.ModelProto:
    buffer = io.BytesIO()
    torch.onnx.export(module.eval(), (image,), buffer, input_names=["image"], opset_version=17, dynamo=False)
    return onnx.load_from_string(buffer.getvalue())


def values(model: onnx.ModelProto, image: torch.Tensor) -> list[np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL  # as it is written
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return list(session.run(None, {"image": image.numpy()}))


def convolutions(model: onnx.ModelProto) -> list[tuple[list[int], list[int]]]:
    """Return kernel and strides of each."""

    def of(node: onnx.NodeProto, name: str) -> list[int]:
        return next(list(item.ints) for item in node.attribute if item.name == name)

    return [
        (of(node, "kernel_shape"), of(node, "strides")) for node in model.graph.node if node.op_type == "Conv"
    ]


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def pair(channels: int, height: int = 3, bias: bool = True) -> nn.Sequential:
    """A convolution at full resolution, and one that halves it."""
    torch.manual_seed(2)
    return nn.Sequential(
        nn.Conv2d(height, channels, 3, 1, 1, bias=bias),
        nn.ReLU(),
        nn.Conv2d(channels, 5, 3, 2, 1, bias=bias),
    )


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("size", [(6, 10), (2, 2), (16, 8)])
def test_a_convolution_before_one_that_halves_works_on_half_the_resolution(
    size: tuple[int, int], bias: bool
) -> None:
    image = noise(1, 3, *size)
    model = exported(pair(4, bias=bias), image)
    lean = with_lean_image_layers(model)
    onnx.checker.check_model(lean, full_check=True)
    assert convolutions(model) == [([3, 3], [1, 1]), ([3, 3], [2, 2])]
    assert convolutions(lean) == [([4, 4], [2, 2]), ([2, 2], [1, 1])]
    np.testing.assert_allclose(values(lean, image)[0], values(model, image)[0], atol=2e-6)


def test_each_pixel_of_the_image_has_the_say_it_had() -> None:
    """At the borders too: one pixel at a time, positive and negative."""
    model = exported(pair(4, 1), noise(1, 1, 4, 6))
    lean = with_lean_image_layers(model)
    for index in range(24):
        for sign in (-3.0, 3.0):
            image = torch.zeros(1, 1, 4, 6)
            image.view(-1)[index] = sign
            np.testing.assert_allclose(values(lean, image)[0], values(model, image)[0], atol=2e-6)


def test_a_constant_term_that_two_layers_share_is_found() -> None:
    """torch writes equal constants once, and gives them a second name."""
    layers = pair(5)
    for layer in (layers[0], layers[2]):
        nn.init.constant_(layer.bias, 0.5)
    image = noise(1, 3, 8, 8)
    model = exported(layers, image)
    assert "Identity" in [node.op_type for node in model.graph.node]
    lean = with_lean_image_layers(model)
    assert convolutions(lean) == [([4, 4], [2, 2]), ([2, 2], [1, 1])]
    np.testing.assert_allclose(values(lean, image)[0], values(model, image)[0], atol=2e-6)


def test_the_first_layer_of_many_channels_stays_as_it_is() -> None:
    """Its larger kernels would cost more than they save."""
    image = noise(1, 3, 8, 8)
    few, many = (exported(pair(channels), image) for channels in (FEW, FEW + 1))
    assert convolutions(with_lean_image_layers(few)) == [([4, 4], [2, 2]), ([2, 2], [1, 1])]
    assert convolutions(with_lean_image_layers(many)) == convolutions(many)


class TwoUsers(nn.Module):
    """The first layer's values are taken by two."""

    def __init__(self) -> None:
        super().__init__()
        self.pair = pair(4)

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        first = self.pair[1](self.pair[0](image))
        return first, self.pair[2](first)


def others() -> list[tuple[nn.Module, tuple[int, int]]]:
    """What looks alike and must be left alone."""
    torch.manual_seed(3)
    halving = nn.Conv2d(4, 5, 3, 2, 1)
    return [
        (nn.Sequential(nn.Conv2d(3, 4, 3, 1, 1), nn.Sigmoid(), halving), (8, 8)),
        (nn.Sequential(nn.Conv2d(3, 4, 3, 1, 0), nn.ReLU(), halving), (8, 8)),
        (nn.Sequential(nn.Conv2d(3, 4, 3, 1, 1), nn.ReLU(), nn.Conv2d(4, 5, 3, 2, 0)), (8, 8)),
        (nn.Sequential(nn.Conv2d(3, 4, 3, 1, 1), nn.ReLU(), nn.Conv2d(4, 5, 3, 1, 1)), (8, 8)),
        (nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU(), halving), (8, 8)),
        (nn.Sequential(nn.Conv2d(3, 4, 5, 1, 2), nn.ReLU(), halving), (8, 8)),
        (nn.Sequential(nn.Conv2d(3, 4, 3, 1, 1), nn.ReLU(), nn.Conv2d(4, 4, 3, 2, 1, groups=2)), (8, 8)),
        (nn.Sequential(nn.Conv2d(3, 4, 3, 1, 1, dilation=2), nn.ReLU(), halving), (8, 8)),
        (pair(4), (7, 8)),
        (pair(4), (8, 7)),
        (TwoUsers(), (8, 8)),
        (nn.Sequential(nn.Conv2d(1, 4, 4, 4), nn.Conv2d(4, 6, 1)), (8, 8)),  # with a constant term
        (nn.Sequential(nn.AvgPool2d(4), nn.Conv2d(3, 6, 1)), (8, 8)),  # of three channels
        (nn.Sequential(nn.AvgPool2d(4, padding=1), nn.Conv2d(1, 6, 1)), (16, 16)),
        (nn.Sequential(nn.AvgPool2d(4), nn.Conv2d(1, 6, 2)), (8, 8)),
        (nn.Sequential(nn.AvgPool2d(4, ceil_mode=True), nn.Conv2d(1, 6, 1)), (10, 10)),
        (nn.Sequential(nn.Conv2d(3, 4, 3, 1, 1)), (8, 8)),
    ]


@pytest.mark.parametrize(("module", "size"), others())
def test_what_only_looks_alike_stays_as_it_is(module: nn.Module, size: tuple[int, int]) -> None:
    channels = next(module.parameters()).shape[1]
    image = noise(1, channels, *size)
    model = exported(module, image)
    lean = with_lean_image_layers(model)
    assert [node.op_type for node in lean.graph.node] == [node.op_type for node in model.graph.node]
    assert convolutions(lean) == convolutions(model)
    for one, other in zip(values(lean, image), values(model, image), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("operator", ["Conv", "AveragePool"])
def test_padding_by_a_rule_is_left_alone(operator: str) -> None:
    """torch writes none, but the standard has it."""
    image = noise(1, 1, 8, 8)
    model = exported(nn.Sequential(nn.AvgPool2d(4), nn.Conv2d(1, 6, 1)), image)
    node = next(node for node in model.graph.node if node.op_type == operator)
    for item in [item for item in node.attribute if item.name == "pads"]:
        node.attribute.remove(item)
    node.attribute.append(onnx.helper.make_attribute("auto_pad", "SAME_UPPER"))
    lean = with_lean_image_layers(model)
    assert [node.op_type for node in lean.graph.node] == ["AveragePool", "Conv"]


@pytest.mark.parametrize("first", [nn.AvgPool2d(4), nn.Conv2d(1, 7, 4, 4, bias=False)])
@pytest.mark.parametrize("bias", [True, False])
def test_what_mixes_the_values_of_one_channel_is_one_convolution_with_what_made_them(
    first: nn.Module, bias: bool
) -> None:
    torch.manual_seed(4)
    image = noise(1, 1, 12, 8)
    inputs = first(image).shape[1]
    model = exported(nn.Sequential(first, nn.Conv2d(inputs, 6, 1, bias=bias)), image)
    lean = with_lean_image_layers(model)
    onnx.checker.check_model(lean, full_check=True)
    assert [node.op_type for node in lean.graph.node] == ["Conv"]
    assert convolutions(lean) == [([4, 4], [4, 4])]
    np.testing.assert_allclose(values(lean, image)[0], values(model, image)[0], atol=1e-6)


def test_xfeats_image_layers_are_lean_and_its_features_the_same() -> None:
    torch.manual_seed(5)
    network = XFeat()
    for name, buffer in network.named_buffers():
        if name.endswith("running_var"):
            buffer.uniform_(0.5, 2.0)
        if name.endswith("running_mean"):
            buffer.normal_()
    image = noise(1, 3, 32, 48)
    model = exported(network, image)
    lean = with_lean_image_layers(model)
    onnx.checker.check_model(lean, full_check=True)
    assert not [node for node in lean.graph.node if node.op_type == "AveragePool"]
    assert convolutions(lean)[:5] == [
        ([4, 4], [2, 2]),
        ([2, 2], [1, 1]),
        ([4, 4], [2, 2]),
        ([2, 2], [1, 1]),
        ([4, 4], [4, 4]),
    ]
    assert ([8, 8], [8, 8]) in convolutions(lean)
    assert len(convolutions(lean)) == len(convolutions(model)) - 1
    for one, other in zip(values(lean, image), values(model, image), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
