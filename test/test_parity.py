"""A model file whose poses are not those of its network is found out, whatever its outputs look like."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
import torch
from model_files import HEIGHT, WIDTH, contract
from torch import Tensor, nn

from structpose_ros.camera import Camera
from structpose_ros.contract import ModelContract
from structpose_ros.geometry import rotation_from_vector, transform
from structpose_ros.model_card import Parity
from structpose_ros.network import output_names
from structpose_ros.training.export import onnx_model
from structpose_ros.training.parity import Examples, ExportError, check_parity, node_rays, rays_tensor

TRUE_POSE = transform(rotation_from_vector([0.3, -0.5, 0.2]), [100.0, -3.0, 2.0])
BOUNDS = (
    "expected ONNX and torch to agree to 0.0001 relative in the outputs, and to 1 mm and 0.05 deg in the pose"
)


class KnownPose(nn.Module):
    """A graph that sees red as depth and knows where it stands; `spread` shrinks its scene coordinates."""

    def __init__(self, described: ModelContract, spread: float = 1.0) -> None:
        super().__init__()
        offset = TRUE_POSE[:3, 3] - np.asarray(described.scene_mean)
        self.rotation = nn.Parameter(torch.tensor(TRUE_POSE[:3, :3] * spread, dtype=torch.float32))
        self.offset = nn.Parameter(torch.tensor(offset, dtype=torch.float32))
        self.weight = nn.Parameter(torch.tensor(1.0))

    def forward(self, image: Tensor, rays: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        depth = 1.0 + 4.0 * nn.functional.avg_pool2d(image, 8)[:, :1]
        turned = nn.functional.conv2d(rays * depth, self.rotation[:, :, None, None])
        return depth, turned + self.offset[None, :, None, None], self.weight * torch.ones_like(depth)


def images(count: int = 3) -> Tensor:
    return torch.rand(count, 3, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(1))


def exported(
    graph: KnownPose, described: ModelContract, **altered: Callable[[np.ndarray], npt.ArrayLike]
) -> bytes:
    """Return a graph as ONNX whose named parameters are other ones."""
    other = copy.deepcopy(graph)
    for name, change in altered.items():
        parameter = getattr(other, name)
        parameter.data = torch.tensor(np.asarray(change(parameter.numpy(force=True)), np.float32))
    model = onnx_model(other, images(1), rays_tensor(node_rays(described)), output_names(described))
    return bytes(model.SerializeToString())


def check(
    confidence: float = 1.0,
    spread: float = 1.0,
    true_pose: np.ndarray | None = TRUE_POSE,
    described: ModelContract | None = None,
    **altered: Callable[[np.ndarray], npt.ArrayLike],
) -> Parity:
    """Check a graph of weight `confidence` against its file, some parameters of which were altered."""
    described, given = described or contract(), images()
    graph = KnownPose(described, spread)
    nn.init.constant_(graph.weight, confidence)
    truths = None if true_pose is None else np.stack([true_pose] * len(given))
    return check_parity(
        graph, exported(graph, described, **altered), described, Examples(given, True, truths)
    )


def test_a_faithful_file_has_the_same_poses() -> None:
    parity = check()
    assert (parity.images, parity.poses, parity.recorded) == (3, 3, True)
    assert parity.worst < 1e-6
    assert parity.position_m < 1e-4
    assert parity.rotation_deg < 1e-3
    assert parity.torch_error is not None and parity.onnx_error is not None
    assert max(parity.torch_error) < 1e-3
    assert max(parity.onnx_error) < 1e-3


def test_errors_are_those_of_the_poses() -> None:
    moved = TRUE_POSE @ transform(rotation_from_vector([0.0, 0.1, 0.0]), [0.3, 0.0, 0.0])
    parity = check(true_pose=moved)
    assert parity.torch_error == pytest.approx((0.3, np.degrees(0.1)), abs=1e-3)
    assert parity.onnx_error == pytest.approx((0.3, np.degrees(0.1)), abs=1e-3)
    assert check(true_pose=None).torch_error is None


def test_a_pose_may_be_off_where_all_outputs_seem_to_agree() -> None:
    """In a map of 100 m an output that agrees to 1e-4 may still be off by 1 cm."""
    with pytest.raises(ExportError, match=BOUNDS) as caught:
        check(offset=lambda value: value + [0.0, 0.005, 0.0])
    line = str(caught.value)
    assert re.search(r"image 1 of 3: poses 5 mm and \S+ deg apart", line)
    assert re.search(
        r"off the true pose by \S+ mm and \S+ deg in torch, 5\S* mm and \S+ deg in ONNX\)$", line
    )
    found = re.search(r"scene_coordinates=(\S+) ", line)
    assert found is not None and float(found[1]) < 1e-4
    assert "\n" not in line


def test_a_rotation_is_compared_as_well() -> None:
    turn = rotation_from_vector([0.0, 0.0, np.radians(0.08)])
    with pytest.raises(ExportError, match=r"poses \S+ mm and 0\.08 deg apart$"):
        check(rotation=lambda value: turn @ value, true_pose=None)
    check(offset=lambda value: value + [0.0, 0.0005, 0.0])  # within what two poses may differ


@pytest.mark.parametrize(("in_torch", "in_onnx"), [(1.0, 0.0), (0.0, 1.0)])
def test_a_pose_in_one_and_none_in_the_other_is_named(in_torch: float, in_onnx: float) -> None:
    said = {1.0: "a pose", 0.0: r"no pose \(zero_weights\)"}
    message = f"image 1 of 3: {said[in_torch]} in torch, {said[in_onnx]} in ONNX$"
    with pytest.raises(ExportError, match=message):
        check(in_torch, weight=lambda value: np.full_like(value, in_onnx))


def test_no_pose_in_either_is_agreement() -> None:
    parity = check(0.0)
    assert (parity.poses, parity.position_m, parity.rotation_deg) == (0, 0.0, 0.0)
    assert parity.torch_error is None


def test_a_pose_that_rounding_decides_is_not_compared() -> None:
    parity = check(spread=1e-6)  # micrometres at 100 m: float32 holds next to nothing of them
    assert parity.poses == 0
    assert parity.worst < 1e-4


@pytest.mark.parametrize("name", ["rotation", "offset", "weight"])
def test_what_is_not_finite_is_refused(name: str) -> None:
    with pytest.raises(ExportError, match=BOUNDS + ", got .*nan"):
        check(**{name: lambda value: value * np.nan})


def test_every_image_is_compared() -> None:
    """Altered so that only dark images show it: the last one does."""
    described, given = contract(), images()
    graph = KnownPose(described)
    content = exported(graph, described)

    class Wrong(nn.Module):
        def forward(self, image: Tensor, rays: Tensor) -> tuple[Tensor, ...]:
            depth, scene, weights = graph(image, rays)
            return depth, scene + (0.004 if float(image.mean()) < 0.2 else 0.0), weights

    given[2] *= 0.3
    with pytest.raises(ExportError, match="image 3 of 3: poses 6.93 mm"):
        check_parity(Wrong(), content, described, Examples(given, True))


def test_cells_beyond_the_lens_have_no_say() -> None:
    """The node gives them rays of zero and no weight, whatever the network says of them."""
    wide = Camera(WIDTH, HEIGHT, 18.0, 18.0, 31.5, 23.5, "equidistant", (0.0, 0.0, 0.0, 0.0))
    described = contract(training_camera=wide)
    beyond = node_rays(described)[..., 2] == 0
    assert 0 < beyond.sum() < beyond.size
    parity = check(described=described)
    assert parity.poses == 3
    assert parity.torch_error is not None and max(parity.torch_error) < 1e-3
