"""The differentiable alignment: NumPy's answer, and gradients that survive every degenerate case."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from structpose_ros.alignment import AlignmentOptions, PoseEstimate
from structpose_ros.alignment import align as numpy_align
from structpose_ros.geometry import rotation_from_vector, transform, transform_points
from structpose_ros.training.alignment import align


def points(seed: int, count: int = 60, noise: float = 0.05) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return camera points, noisy map points with outliers, and random weights."""
    random = np.random.default_rng(seed)
    a = random.normal(size=(count, 3)) + [0, 0, 3]
    map_from_camera = transform(rotation_from_vector(random.normal(size=3)), random.normal(size=3))
    b = transform_points(map_from_camera, a) + random.normal(0, noise, a.shape)
    b[: count // 5] += random.normal(size=(count // 5, 3))
    return a, b, random.uniform(0.05, 1.0, count)


def both(a: np.ndarray, b: np.ndarray, w: np.ndarray, rounds: int) -> tuple[PoseEstimate, np.ndarray]:
    estimate = numpy_align(a, b, w, AlignmentOptions(robust_rounds=rounds))
    assert isinstance(estimate, PoseEstimate)
    tensors = (torch.from_numpy(np.ascontiguousarray(value))[None] for value in (a, b, w))
    return estimate, align(*tensors, rounds)[0].numpy()


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), rounds=st.sampled_from([0, 1, 5]))
def test_numpy_and_torch_agree(seed: int, rounds: int) -> None:
    estimate, found = both(*points(seed), rounds)
    np.testing.assert_allclose(found, estimate.map_from_camera, rtol=0, atol=1e-9)


@pytest.mark.parametrize("rounds", [0, 5])
def test_agreement_on_special_sets(rounds: int) -> None:
    a, b, w = points(1)
    flat = a * [1, 1, 0]
    mirrored = a * [1, 1, -1]
    far = b + [1000.0, -2000.0, 300.0]
    for first, second in ((flat, flat @ rotation_from_vector([1, 2, 3])), (a, mirrored), (a, far)):
        estimate, found = both(first, second, w, rounds)
        np.testing.assert_allclose(found, estimate.map_from_camera, rtol=0, atol=1e-9)
        assert np.linalg.det(found[:3, :3]) == pytest.approx(1.0)


def test_batches_are_solved_one_by_one() -> None:
    sets = [points(seed) for seed in range(4)]
    stacked = [torch.from_numpy(np.stack(part)) for part in zip(*sets, strict=True)]
    together = align(*stacked, robust_rounds=3)
    for index, (a, b, w) in enumerate(sets):
        np.testing.assert_allclose(together[index], both(a, b, w, 3)[1], atol=1e-12)


def test_gradients_are_those_of_finite_differences() -> None:
    a, b, w = (torch.from_numpy(value)[None].requires_grad_() for value in points(2, 8))
    assert torch.autograd.gradcheck(lambda *inputs: align(*inputs)[:, :3], (a, b, w), atol=1e-6)
    reflected = (b.detach() * torch.tensor([1.0, 1.0, -1.0])).requires_grad_()
    assert torch.autograd.gradcheck(lambda *inputs: align(*inputs)[:, :3], (a, reflected, w), atol=1e-6)


def test_gradients_of_coplanar_points_are_right() -> None:
    a, b, w = points(6, 10)
    flat_a, flat_b = a * [1, 1, 0] + [0, 0, 2], b * [1, 0, 1]
    inputs = [torch.from_numpy(value)[None].requires_grad_() for value in (flat_a, flat_b, w)]
    assert torch.linalg.matrix_rank(torch.from_numpy(flat_a - flat_a.mean(axis=0))) == 2
    assert torch.autograd.gradcheck(lambda *given: align(*given)[:, :3], inputs, atol=1e-6)


TRAPS = {
    "tied singular values": np.array([[1, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0], [0, 0, 1], [0, 0, -1.0]]),
    "coplanar": np.array([[1, 0, 0], [0, 1, 0], [-1, 0, 0], [0, -1, 0], [0.5, 0.2, 0], [0.1, 0.7, 0]]),
    "nearly tied": np.concatenate([np.diag([1.0, 1.0 + 1e-9, 1.0 - 1e-9]), -np.eye(3)]),
    "collinear": np.linspace(-1, 1, 6)[:, None] * [1.0, 2.0, 3.0],
    "one point": np.ones((6, 3)),
    "zero": np.zeros((6, 3)),
}


@pytest.mark.parametrize("name", TRAPS)
@pytest.mark.parametrize("mirror", [1.0, -1.0])
@pytest.mark.parametrize("weight", [1.0, 1e-12, 0.0])
def test_gradients_stay_finite(name: str, mirror: float, weight: float) -> None:
    a = torch.from_numpy(TRAPS[name].astype(float))[None].requires_grad_()
    b = torch.from_numpy(TRAPS[name] * [1.0, 1.0, mirror])[None].requires_grad_()
    w = torch.full((1, 6), weight, dtype=torch.float64, requires_grad=True)
    map_from_camera = align(a, b, w, robust_rounds=2)
    assert torch.isfinite(map_from_camera).all()
    torch.testing.assert_close(
        map_from_camera[0, :3, :3] @ map_from_camera[0, :3, :3].T, torch.eye(3, dtype=torch.float64)
    )
    (map_from_camera - torch.eye(4)).square().sum().backward()
    for value in (a, b, w):
        assert value.grad is not None
        assert torch.isfinite(value.grad).all()


def test_learning_takes_weight_from_outliers() -> None:
    random = np.random.default_rng(4)
    a = random.normal(size=(40, 3))
    true = transform(rotation_from_vector([0.2, 0.4, -0.3]), [1.0, 0.0, 2.0])
    b = transform_points(true, a)
    b[:10] += random.normal(0, 1, (10, 3)) + [1.0, 0.0, 0.0]
    logits = torch.zeros(1, 40, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([logits], lr=0.1)
    losses = []
    for _ in range(150):
        found = align(torch.from_numpy(a)[None], torch.from_numpy(b)[None], torch.sigmoid(logits))
        loss = (found[0] - torch.from_numpy(true)).abs().sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.1 * losses[0]
    weights = torch.sigmoid(logits.detach())[0]
    assert weights[:10].mean() < 0.5 * weights[10:].mean()
