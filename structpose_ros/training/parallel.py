"""One process or many (`torchrun`), on GPUs or CPUs, by the same code, through Lightning Fabric."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, distributed, nn

from structpose_ros.training.config import ConfigError

if TYPE_CHECKING:
    from lightning_fabric import Fabric


def launch(device: str, precision: str) -> tuple[Fabric, torch.amp.GradScaler | None]:
    """Join the processes that `torchrun` has started, or be the only one.

    The scaler (of `16-mixed` alone) is part of a run's state.

    Raises:
        ConfigError: there is no such device, or it has no such precision.
    """
    from lightning_fabric import Fabric
    from lightning_fabric.plugins import MixedPrecision

    count = int(os.environ.get("WORLD_SIZE", "1"))
    local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    kind = _device(device)
    if kind == "cpu" and precision == "16-mixed":
        raise ConfigError("precision: expected 32-true or bf16-mixed on a CPU, got '16-mixed'")
    scaler = torch.amp.GradScaler() if precision == "16-mixed" else None
    plugins: list[Any] = [MixedPrecision("16-mixed", kind, scaler)] if scaler else []
    fabric = Fabric(
        accelerator=kind,
        devices=local,
        num_nodes=count // local,
        strategy="ddp" if count > 1 else "auto",
        precision=None if scaler else precision,  # type: ignore[arg-type]
        plugins=plugins,
    )
    fabric.launch()
    return fabric, scaler


def _device(requested: str) -> str:
    if requested == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            "device: expected a CUDA GPU, got none that torch can use (set device: auto or cpu)"
        )
    if requested == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return requested


def total(value: Tensor) -> Tensor:
    """Return the sum of a tensor over all processes; no gradient flows through it."""
    if not _many():
        return value
    summed = value.detach().clone()
    distributed.all_reduce(summed)
    return summed


def processes() -> int:
    """Return how many processes train together."""
    return distributed.get_world_size() if _many() else 1


def _many() -> bool:
    return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1


class _Sum(torch.autograd.Function):
    """The sum of a tensor over all processes: each one's part has its share in every process' loss."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        return total(value)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return total(gradient)


class GlobalBatchNorm2d(nn.BatchNorm2d):
    """Batch normalisation by the statistics of all processes' samples: torch's own wants GPUs for that."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w), the same B in every process."""
        if not self.training:
            return super().forward(x)
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        count = x.numel() // x.shape[1] * processes()
        mean = _Sum.apply(x.sum(dim=(0, 2, 3))) / count
        centred = x - mean[:, None, None]
        variance = _Sum.apply(centred.square().sum(dim=(0, 2, 3))) / count
        with torch.no_grad():
            self.num_batches_tracked += 1
            momentum = 0.1 if self.momentum is None else self.momentum
            self.running_mean.lerp_(mean, momentum)
            self.running_var.lerp_(variance * (count / (count - 1)), momentum)
        scale = self.weight * torch.rsqrt(variance + self.eps)
        return centred * scale[:, None, None] + self.bias[:, None, None]


def global_batch_norm(network: nn.Module, device: torch.device) -> nn.Module:
    """Let the batch statistics of a network be those of all processes; names and values stay."""
    if not _many():
        return network
    if device.type == "cuda":
        return nn.SyncBatchNorm.convert_sync_batchnorm(network)
    for module in network.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = GlobalBatchNorm2d
    return network
