"""Differentiable weighted alignment: the torch twin of `structpose_ros.alignment`, batched and in float64.

The gradient is that of the rotation as polar factor of the cross-covariance. Its denominators are sums of
singular values only, so ties and rank 2 are harmless, unlike in the backward of a general SVD; where the
rotation itself is about to flip (s2 + d s3 near 0) the denominator is floored: gradients stay finite.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

_FLOOR = 1e-4  # of the largest singular value


class _ClosestRotation(torch.autograd.Function):
    """R (B, 3, 3) that maximises trace(R H) for H = sum w a b^T (B, 3, 3), paper §3.3."""

    @staticmethod
    def forward(ctx: Any, cross_covariance: Tensor) -> Tensor:
        u, s, vt = torch.linalg.svd(cross_covariance)
        v = vt.transpose(-1, -2)
        sign = torch.where(torch.linalg.det(v @ u.transpose(-1, -2)) < 0, -1.0, 1.0).to(s)
        handed = torch.ones_like(s)
        handed[:, 2] = sign
        rotation = (v * handed[:, None, :]) @ u.transpose(-1, -2)
        ctx.save_for_backward(rotation, u, s * handed)
        return rotation

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        # H^T = R P with P = U diag(p) U^T; Omega = R^T dR is skew and solves
        # Omega P + P Omega = R^T dH^T - dH R.
        rotation, u, p = ctx.saved_tensors
        ut = u.transpose(-1, -2)
        y = ut @ rotation.transpose(-1, -2) @ gradient @ u
        sums = p[:, :, None] + p[:, None, :]
        floor = (_FLOOR * p[:, :1]).clamp_min(1e-30)[:, :, None]
        z = (y - y.transpose(-1, -2)) / torch.maximum(sums, floor)
        return (rotation @ u @ z @ ut).transpose(-1, -2)


def align(
    points_in_camera: Tensor,
    points_in_map: Tensor,
    weights: Tensor,
    robust_rounds: int = 0,
    robust_scale: float = 1.0,
    robust_floor: float = 0.01,
) -> Tensor:
    """Return map_from_camera (B, 4, 4), float64, that minimises sum w |b - R a - t|^2.

    Args:
        points_in_camera: a, (B, N, 3) metres.
        points_in_map: b, (B, N, 3) metres.
        weights: w, (B, N), not negative.
        robust_rounds: Geman-McClure rounds, as in `structpose_ros.alignment.AlignmentOptions`; no gradient
            flows through the robust weights themselves, as is usual for IRLS.
        robust_scale: see there.
        robust_floor: see there.

    A sum of weights below 1e-9 is floored, so the pose is then meaningless but finite: skip such a sample.
    """
    a, b, given = points_in_camera.double(), points_in_map.double(), weights.double()
    map_from_camera = _solve(a, b, given)
    for _ in range(robust_rounds):
        with torch.no_grad():
            residual = b - a @ map_from_camera[:, :3, :3].transpose(-1, -2) - map_from_camera[:, None, :3, 3]
            squared = residual.square().sum(dim=-1)
            scale = robust_scale**2 * _weighted_median(squared, given) + robust_floor**2
            robust = (scale[:, None] / (scale[:, None] + squared)).square()
        map_from_camera = _solve(a, b, given * robust)
    return map_from_camera


def _solve(a: Tensor, b: Tensor, weights: Tensor) -> Tensor:
    share = weights / weights.sum(dim=1, keepdim=True).clamp_min(1e-9)
    mean_a = (share[..., None] * a).sum(dim=1)
    mean_b = (share[..., None] * b).sum(dim=1)
    centred_a, centred_b = a - mean_a[:, None], b - mean_b[:, None]
    cross_covariance = (centred_a * share[..., None]).transpose(-1, -2) @ centred_b
    rotation = _ClosestRotation.apply(cross_covariance)
    translation = mean_b - (rotation @ mean_a[..., None]).squeeze(-1)
    bottom = torch.tensor([0.0, 0.0, 0.0, 1.0], dtype=a.dtype, device=a.device).expand(len(a), 1, 4)
    return torch.cat([torch.cat([rotation, translation[..., None]], dim=2), bottom], dim=1)


def _weighted_median(values: Tensor, weights: Tensor) -> Tensor:
    ordered, order = values.sort(dim=1)
    cumulative = weights.gather(1, order).cumsum(dim=1)
    index = torch.searchsorted(cumulative, 0.5 * cumulative[:, -1:]).clamp_max(values.shape[1] - 1)
    return ordered.gather(1, index).squeeze(1)
