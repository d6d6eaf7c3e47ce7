"""The paper's losses against numbers worked out by hand."""

from __future__ import annotations

import pytest
import torch

from structpose_ros.training.losses import BatchLabels, geometry_loss, pose_loss
from structpose_ros.training.networks import NetworkOutput

SCALE = 2.0


def case() -> tuple[NetworkOutput, BatchLabels]:
    """Two cells: the first labelled 2 m (proximity 0.5), the second not; one coarse cell, labelled."""
    scene = torch.tensor([[[[0.1, 0.4]], [[0.0, 0.0]], [[0.0, -0.2]]]], requires_grad=True)
    depth = torch.tensor([[[[0.75, 0.5]]]], requires_grad=True)
    half = torch.tensor([[[[0.25]]]], requires_grad=True)
    labels = BatchLabels(
        scene_coordinates=torch.tensor([[[[0.4, 0.0]], [[0.0, 0.0]], [[0.3, 0.0]]]]),
        depth=torch.tensor([[[[2.0, 0.0]]]]),
        half_depth=torch.tensor([[[[2.0]]]]),
        map_from_camera=torch.eye(4, dtype=torch.float64)[None],
    )
    return NetworkOutput(depth, half, scene, depth), labels


def test_masked() -> None:
    output, labels = case()
    loss = geometry_loss(output, labels, SCALE, 0.5, validity_mask=True).total
    # scene (0.3 + 0 + 0.3) / 3, depth |0.75 - 0.5|, half 0.5 * |0.25 - 0.5|
    assert loss.item() == pytest.approx(0.2 + 0.25 + 0.125)
    loss.backward()
    assert output.scene_coordinates.grad is not None
    assert not output.scene_coordinates.grad[..., 1].any()
    assert output.depth.grad is not None
    assert output.depth.grad[0, 0, 0, 1] == 0


def test_unmasked_teaches_where_there_is_no_label() -> None:
    output, labels = case()
    loss = geometry_loss(output, labels, SCALE, 0.5, validity_mask=False).total
    # scene (0.3 + 0.3 + 0.4 + 0.2) / 6, depth (0.25 + |0.5 - 1|) / 2, half 0.125
    assert loss.item() == pytest.approx(0.2 + 0.375 + 0.125)
    loss.backward()
    assert output.depth.grad is not None
    assert output.depth.grad[0, 0, 0, 1] < 0  # a larger proximity, which is a smaller depth
    assert output.scene_coordinates.grad is not None
    assert output.scene_coordinates.grad[0, 0, 0, 1] > 0  # towards 0


def test_no_label_at_all() -> None:
    output, labels = case()
    empty = BatchLabels(
        labels.scene_coordinates, torch.zeros(1, 1, 1, 2), torch.zeros(1, 1, 1, 1), labels.map_from_camera
    )
    loss = geometry_loss(output, empty, SCALE, 0.5, validity_mask=True).total
    assert loss.item() == 0.0
    loss.backward()
    assert output.depth.grad is not None
    assert torch.isfinite(output.depth.grad).all()


def test_pose() -> None:
    true = torch.eye(4, dtype=torch.float64).repeat(2, 1, 1)
    found = true.clone()
    found[0, :3, 3] = torch.tensor([0.5, -0.25, 0.0])
    found[1, 0, 1], found[1, 1, 0] = 0.1, -0.1
    assert pose_loss(found, true).item() == pytest.approx((0.75 + 0.2) / 2)
