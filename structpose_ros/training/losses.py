"""The two losses of the paper (§3.4). Paper: silent on reductions; here: means, as each docstring says."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

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


def geometry_loss(
    output: NetworkOutput,
    labels: BatchLabels,
    depth_scale: float,
    half_depth_weight: float,
    validity_mask: bool,
) -> Tensor:
    """L_geom = |C - C'|_1 + |D - D'|_1 + alpha |D_1/2 - D'_1/2|_1, depths as proximity.

    With `validity_mask` only labelled cells count; without it (the paper's way) the network also learns where
    there is no label.
    """
    loss = _mean_l1(output.scene_coordinates, labels.scene_coordinates, labels.depth, validity_mask)
    for predicted, true, weight in (
        (output.depth, labels.depth, 1.0),
        (output.half_depth, labels.half_depth, half_depth_weight),
    ):
        target = proximity_from_depth(true, depth_scale)
        loss = loss + weight * _mean_l1(predicted, target, true, validity_mask)
    return loss


def pose_loss(map_from_camera: Tensor, true_map_from_camera: Tensor) -> Tensor:
    """L_pose = |R - R'|_1 + |T - T'|_1, sums over entries, mean over the batch (B, 4, 4)."""
    difference = (map_from_camera - true_map_from_camera)[:, :3].abs()
    return difference.sum(dim=(1, 2)).mean()


def _mean_l1(predicted: Tensor, target: Tensor, depth: Tensor, validity_mask: bool) -> Tensor:
    error = (predicted - target).abs()
    if not validity_mask:
        return error.mean()
    valid = (depth > 0).expand_as(error)
    return torch.where(valid, error, 0.0).sum() / valid.sum().clamp_min(1)
