"""What is learned, stage by stage: which parameters, at which rates, by which loss.

Each stage's loss is a module, forward pass and all, so that data-parallel wrappers see every gradient.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from structpose_ros.training.alignment import align
from structpose_ros.training.config import GeometryStage, TrainingConfig
from structpose_ros.training.dataset import normalize_images
from structpose_ros.training.landmarks import LandmarkNetwork
from structpose_ros.training.losses import BatchLabels, at_least_float32, geometry_loss, pose_loss
from structpose_ros.training.networks import StructPoseNetwork, depth_from_logits, load_pretrained
from structpose_ros.training.posenet import PoseNet
from structpose_ros.training.xfeat import load as load_xfeat

Groups = list[dict[str, Any]]


@dataclass(frozen=True)
class Stage:
    """A part of a training.

    rigid: views must be true camera motions. learns_statistics: batch normalisation measures its batches.
    schedule: how the learning rate goes; None leaves it as the parameter groups say.
    """

    name: str
    epochs: int
    rigid: bool
    learns_statistics: bool
    schedule: GeometryStage | None = None

    def learning_rate(self, epoch: int, step: int, steps: int) -> float | None:
        """Return the rate of a step, of `steps` in an epoch; None where the stage has no schedule."""
        if self.schedule is None:
            return None
        if self.schedule.schedule == "step":
            factor = self.schedule.step_factor ** (epoch // self.schedule.step_epochs)
        else:
            done = (epoch * steps + step + 1) / (self.epochs * steps)
            factor = done / 0.1 if done < 0.1 else 0.5 * (1 + math.cos(math.pi * (done - 0.1) / 0.9))
        return self.schedule.learning_rate * max(factor, 1e-4)


class StageLoss(nn.Module):
    """Image batch (B, 3, H, W) uint8 and the fields of `BatchLabels` to the loss and its named terms."""

    def forward(
        self, images: Tensor, scene_coordinates: Tensor, depth: Tensor, half_depth: Tensor, pose: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return a scalar to minimise, and scalars to look at."""
        kind = next(self.parameters()).dtype
        image_B3HW = normalize_images(images).to(kind, memory_format=torch.channels_last)
        return self.loss(image_B3HW, BatchLabels(scene_coordinates, depth, half_depth, pose))

    def loss(self, image_B3HW: Tensor, labels: BatchLabels) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the same from normalised images."""
        raise NotImplementedError


class GeometryLossModule(StageLoss):
    """Stage 1 (paper §3.4): depth and scene coordinates."""

    def __init__(self, network: StructPoseNetwork, options: GeometryStage, depth_scale: float) -> None:
        """`depth_scale`: mean valid depth, m."""
        super().__init__()
        self.network = network
        self.options = options
        self.depth_scale = depth_scale

    def loss(self, image_B3HW: Tensor, labels: BatchLabels) -> tuple[Tensor, dict[str, Tensor]]:
        """See `StageLoss`."""
        options = self.options
        loss = geometry_loss(
            self.network(image_B3HW),
            labels,
            self.depth_scale,
            options.half_depth_weight,
            options.validity_mask,
        )
        terms = {name: getattr(loss, name) for name in ("scene_coordinates", "depth", "half_depth")}
        return loss.total, terms


class PoseLossModule(StageLoss):
    """Stage 2 (paper §3.4): the pose, through the alignment."""

    def __init__(
        self, network: StructPoseNetwork, config: TrainingConfig, depth_scale: float, rays: Tensor
    ) -> None:
        """`rays`: (1, 3, h, w) at the cells' centres, 0 where the lens does not reach."""
        super().__init__()
        self.network = network
        self.config = config
        self.depth_scale = depth_scale
        self.rays: Tensor
        self.register_buffer("rays", rays, persistent=False)

    def loss(self, image_B3HW: Tensor, labels: BatchLabels) -> tuple[Tensor, dict[str, Tensor]]:
        """See `StageLoss`."""
        options = self.config.alignment
        output = self.network(image_B3HW)
        scene = at_least_float32(output.scene_coordinates)
        points = depth_from_logits(at_least_float32(output.depth_logits), self.depth_scale) * self.rays
        if self.config.pose.correspondence_weighting:
            weights = at_least_float32(self.network.correspondence_weights(scene, points))
        else:
            weights = torch.ones_like(points[:, :1])
        weights = weights * self.rays[:, 2:]  # where the lens does not reach, 0: as in the relocalizer
        map_from_camera = align(
            points.flatten(2).transpose(1, 2),
            scene.flatten(2).transpose(1, 2),
            weights.flatten(1),
            options.robust_rounds,
            options.robust_scale,
            options.robust_floor,
        )
        loss = pose_loss(map_from_camera, labels.map_from_camera)
        moved = (map_from_camera - labels.map_from_camera)[:, :3, 3].detach().norm(dim=1).mean()
        return loss, {"position_m": moved}


class PoseNetLossModule(StageLoss):
    """The baseline's only stage."""

    def __init__(self, network: PoseNet) -> None:
        """`network` has the learned weights of the loss among its parameters."""
        super().__init__()
        self.network = network

    def loss(self, image_B3HW: Tensor, labels: BatchLabels) -> tuple[Tensor, dict[str, Tensor]]:
        """See `StageLoss`."""
        position, quaternion = self.network(image_B3HW)
        moved = (position - labels.map_from_camera[:, :3, 3].to(position)).detach().norm(dim=1).mean()
        return self.network.loss(position, quaternion, labels.map_from_camera), {"position_m": moved}


class Method(Protocol):
    """A network and the stages that train it."""

    @property
    def network(self) -> nn.Module: ...  # noqa: D102
    @property
    def stages(self) -> tuple[Stage, ...]: ...  # noqa: D102

    def parameter_groups(self, stage: Stage) -> Groups:
        """Return what a stage trains, as an optimiser takes it."""

    def stage_loss(self, stage: Stage) -> StageLoss:
        """Return the loss of a stage."""


class StructPose:
    """The paper's network and its two stages."""

    def __init__(self, config: TrainingConfig, depth_scale: float, rays: Tensor, *, pretrained: bool) -> None:
        """With `pretrained` the configured weights are loaded: not where a checkpoint follows anyway."""
        self.config = config
        self.depth_scale = depth_scale
        self.rays = rays
        self.network = StructPoseNetwork(config.network)
        if pretrained and config.network.pretrained:
            load_pretrained(self.network, config.network.pretrained, config.network.backbone)
        self.stages: tuple[Stage, ...] = (
            Stage("geometry", config.geometry.epochs, False, True, config.geometry),
            # Stage 2 keeps the batch statistics of stage 1: its steps on the backbone are tiny.
            Stage("pose", config.pose.epochs, True, False),
        )

    def parameter_groups(self, stage: Stage) -> Groups:
        """See `Method`."""
        if stage.name == "geometry":
            return [{"params": self._parameters(weight_head=False), "lr": self.config.geometry.learning_rate}]
        options = self.config.pose
        groups: Groups = []
        if options.correspondence_weighting:
            groups.append({"params": self._parameters(weight_head=True), "lr": options.weight_learning_rate})
        if options.update_geometry:
            coarse = {id(value) for value in self.network.half_depth_head.parameters()}  # not in this loss
            seen = [value for value in self._parameters(weight_head=False) if id(value) not in coarse]
            groups.append({"params": seen, "lr": options.learning_rate})
        return groups

    def stage_loss(self, stage: Stage) -> StageLoss:
        """See `Method`."""
        if stage.name == "geometry":
            return GeometryLossModule(self.network, self.config.geometry, self.depth_scale)
        return PoseLossModule(self.network, self.config, self.depth_scale, self.rays)

    def _parameters(self, *, weight_head: bool) -> list[nn.Parameter]:
        named = self.network.named_parameters()
        return [value for name, value in named if name.startswith("weight_head") == weight_head]


class LandmarkMap:
    """XFeat and the landmarks that it looks up. Nothing is learned, so there is no stage."""

    stages: tuple[Stage, ...] = ()

    def __init__(self, config: TrainingConfig, *, pretrained: bool) -> None:
        """With `pretrained` XFeat's weights are loaded: not where a checkpoint follows anyway."""
        self.network = LandmarkNetwork(config.landmarks).eval()
        if pretrained:
            load_xfeat(self.network.xfeat, config.landmarks.weights)

    def parameter_groups(self, stage: Stage) -> Groups:
        """See `Method`."""
        raise ValueError(f"expected no stage, got {stage.name}")

    def stage_loss(self, stage: Stage) -> StageLoss:
        """See `Method`."""
        raise ValueError(f"expected no stage, got {stage.name}")


class PoseNetBaseline:
    """PoseNet, for as many epochs of the same schedule as stage 1 has."""

    def __init__(self, config: TrainingConfig, *, pretrained: bool) -> None:
        """With `pretrained` the configured weights are loaded: not where a checkpoint follows anyway."""
        self.config = config
        self.network = PoseNet(config.network)
        if pretrained and config.network.pretrained:
            load_pretrained(self.network, config.network.pretrained, config.network.backbone)
        self.stages: tuple[Stage, ...] = (
            Stage("regression", config.geometry.epochs, True, True, config.geometry),
        )

    def parameter_groups(self, stage: Stage) -> Groups:
        """See `Method`."""
        return [{"params": list(self.network.parameters()), "lr": self.config.geometry.learning_rate}]

    def stage_loss(self, stage: Stage) -> StageLoss:
        """See `Method`."""
        return PoseNetLossModule(self.network)
