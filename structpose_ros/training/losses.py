"""The two losses of the paper (§3.4). Paper: silent on reductions; here: means, as each docstring says."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from structpose_ros.training import parallel
from structpose_ros.training.networks import NetworkOutput, proximity_from_depth


@dataclass(frozen=True)
class BatchLabels:
    """scene_coordinates (B, 3, h, w) m centred, depth (B, 1, h, w) m, half_depth (B, 1, h/2, w/2) m.

    Where there is no label depth is 0 and so are the centred scene coordinates. map_from_camera (B, 4, 4) is
    float64, its translation centred as well.
    """

    scene_coordinates: Tensor
    depth: Tensor
    half_depth: Tensor
    map_from_camera: Tensor


@dataclass(frozen=True)
class GeometryLoss:
    """The three terms of L_geom, scalars: scene coordinates in metres, both depths as proximity."""

    scene_coordinates: Tensor
    depth: Tensor
    half_depth: Tensor
    half_depth_weight: float

    @property
    def total(self) -> Tensor:
        """L_geom = |C - C'|_1 + |D - D'|_1 + alpha |D_1/2 - D'_1/2|_1."""
        return self.scene_coordinates + self.depth + self.half_depth_weight * self.half_depth


def geometry_loss(
    output: NetworkOutput,
    labels: BatchLabels,
    depth_scale: float,
    half_depth_weight: float,
    validity_mask: bool,
) -> GeometryLoss:
    """Return L_geom of a batch, or of this process' equal share of one.

    With `validity_mask` only labelled cells count; without it (the paper's way) the network also learns where
    there is no label.
    """

    def depth_loss(predicted: Tensor, true: Tensor) -> Tensor:
        target = proximity_from_depth(true, depth_scale)
        return _mean_l1(at_least_float32(predicted), target, true, validity_mask)

    return GeometryLoss(
        _mean_l1(
            at_least_float32(output.scene_coordinates), labels.scene_coordinates, labels.depth, validity_mask
        ),
        depth_loss(output.depth, labels.depth),
        depth_loss(output.half_depth, labels.half_depth),
        half_depth_weight,
    )


def pose_loss(map_from_camera: Tensor, true_map_from_camera: Tensor) -> Tensor:
    """L_pose = |R - R'|_1 + |T - T'|_1, sums over entries, mean over the batch (B, 4, 4)."""
    difference = (map_from_camera - true_map_from_camera)[:, :3].abs()
    return difference.sum(dim=(1, 2)).mean()


def at_least_float32(value: Tensor) -> Tensor:
    """Return what mixed precision has left in 16 bits in 32."""
    return value.to(torch.promote_types(value.dtype, torch.float32))


def _mean_l1(predicted: Tensor, target: Tensor, depth: Tensor, validity_mask: bool) -> Tensor:
    error = (predicted - target).abs()
    if not validity_mask:
        return error.mean()
    valid = (depth > 0).expand_as(error)
    # The mean is over the labelled cells of all processes, of which the gradients are averaged.
    count = parallel.total(valid.sum()) / parallel.processes()
    return torch.where(valid, error, 0.0).sum() / count.clamp_min(1)
