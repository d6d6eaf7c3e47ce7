"""Does a model file do what its network does? Outputs and poses of ONNX Runtime against those of torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnxruntime
import torch
from torch import Tensor, nn

from structpose_ros import contract as names
from structpose_ros.alignment import AlignmentFailure, PoseEstimate, align
from structpose_ros.contract import ModelContract
from structpose_ros.geometry import pose_error, unproject
from structpose_ros.model_card import Parity
from structpose_ros.network import prediction_from_outputs

OUTPUTS = 1e-4  # relative to an output's largest magnitude
POSITION_M, ROTATION_DEG = 1e-3, 0.05
ROUNDING = 1e-5  # relative; what float32 may well do to an output, and must not matter to a pose
PROVIDER = "CPUExecutionProvider"

# Of keypoints and landmarks, which are chosen, rounding may choose others in so many cells.
OTHERWISE_CHOSEN = 0.01
Outputs = list[
    npt.NDArray[np.float32]
]  # (1, 1, h, w) depth, (1, 3, h, w) scene coordinates, (1, 1, h, w) weights, (1, 2, h, w) offsets or none
Solution = PoseEstimate | AlignmentFailure


class ExportError(RuntimeError):
    """The exported graph does not do what the torch network does."""


@dataclass(frozen=True)
class Examples:
    """What the two are compared on.

    images: (N, 3, H, W) float32, normalised. recorded: frames of the recording, not noise. true_poses: their
    map_from_camera, (N, 4, 4), where known.
    """

    images: Tensor
    recorded: bool
    true_poses: npt.NDArray[np.float64] | None = None


def check_parity(graph: nn.Module, content: bytes, contract: ModelContract, examples: Examples) -> Parity:
    """Run a graph in torch, and its ONNX file's `content` on the CPU, and compare outputs and poses.

    The poses come from the alignment that the node uses. A pose that hangs on the outputs' rounding, as an
    untrained network's may, is the same in no two programs: it is left out, and not counted.

    Raises:
        ExportError: the outputs of an image differ by more than 1e-4 relative or aren't finite; its poses
            differ by more than 1 mm or 0.05 degrees; or it has a pose in one and none in the other.
    """
    session = onnxruntime.InferenceSession(content, providers=[PROVIDER])
    rays = node_rays(contract)
    tensor = rays_tensor(rays)
    deviations, comparisons = [], []
    for index, image in enumerate(examples.images.split(1)):
        expected, found = outputs_of(graph, session, image, tensor)
        left_out = OTHERWISE_CHOSEN if contract.keypoints else 0.0
        deviations.append([_deviation(*pair, left_out) for pair in zip(found, expected, strict=True)])
        true_pose = None if examples.true_poses is None else examples.true_poses[index]
        comparisons.append(_compare(expected, found, rays, contract, true_pose))
    compared = [item for item in comparisons if item.difference is not None]
    # NaN if any is; the offsets' where there are some.
    depth, scene_coordinates, weights, *offsets = np.max(deviations, axis=0).tolist()
    position, rotation = _worst([item.difference for item in compared]) or (0.0, 0.0)
    parity = Parity(
        images=len(examples.images),
        recorded=examples.recorded,
        depth=depth,
        scene_coordinates=scene_coordinates,
        weights=weights,
        poses=len(compared),
        position_m=position,
        rotation_deg=rotation,
        torch_error=_worst([item.torch_error for item in compared]),
        onnx_error=_worst([item.onnx_error for item in compared]),
    )
    wrong = [
        f"image {at + 1} of {parity.images}: {item.wrong}"
        for at, item in enumerate(comparisons)
        if item.wrong
    ]
    moved = "".join(f" offsets={value:.2g}" for value in offsets)
    if not all(value <= OUTPUTS for value in (parity.worst, *offsets)) or wrong:
        raise ExportError(
            f"expected ONNX and torch to agree to {OUTPUTS:g} relative in the outputs, and to "
            f"{1e3 * POSITION_M:g} mm and {ROTATION_DEG:g} deg in the pose, got depth={depth:.2g} "
            f"scene_coordinates={scene_coordinates:.2g} weights={weights:.2g}{moved}, and "
            f"{wrong[0] if wrong else 'poses that agree'}"
        )
    return parity


def outputs_of(
    graph: nn.Module, session: onnxruntime.InferenceSession, image: Tensor, rays: Tensor
) -> tuple[Outputs, Outputs]:
    """Return what torch and what ONNX Runtime make of an image (1, 3, H, W) and rays (1, 3, h, w)."""
    with torch.no_grad():
        expected = [value.numpy() for value in graph(image, rays)]
    return expected, session.run(None, {names.INPUT_IMAGE: image.numpy(), names.INPUT_RAYS: rays.numpy()})


def node_rays(contract: ModelContract) -> npt.NDArray[np.float64]:
    """Return the training camera's rays (h, w, 3), as the node gives them: zero beyond the lens' reach."""
    rays = contract.refined(contract.training_camera).ray_grid(contract.stride)
    return np.where(np.isfinite(rays[..., :1]), rays, 0.0)


def rays_tensor(rays: npt.NDArray[np.float64]) -> Tensor:
    """Return rays (h, w, 3) as the graph takes them, (1, 3, h, w) float32."""
    return torch.from_numpy(np.ascontiguousarray(rays.transpose(2, 0, 1)[None], dtype=np.float32))


@dataclass(frozen=True)
class _Comparison:
    """Of one image: the poses' difference and their errors (metres, degrees), and in words what is wrong."""

    difference: tuple[float, float] | None = None
    torch_error: tuple[float, float] | None = None
    onnx_error: tuple[float, float] | None = None
    wrong: str = ""


def _compare(
    expected: Outputs,
    found: Outputs,
    rays: npt.NDArray[np.float64],
    contract: ModelContract,
    true_pose: npt.NDArray[np.float64] | None,
) -> _Comparison:
    of_torch, of_onnx = solve_outputs(expected, rays, contract), solve_outputs(found, rays, contract)
    if _is_by_chance(of_torch, expected, rays, contract):
        return _Comparison()
    if isinstance(of_torch, AlignmentFailure) or isinstance(of_onnx, AlignmentFailure):
        same = of_torch is of_onnx
        return _Comparison(wrong="" if same else f"{_named(of_torch)} in torch, {_named(of_onnx)} in ONNX")
    position, rotation = pose_error(of_onnx.map_from_camera, of_torch.map_from_camera)
    torch_error = onnx_error = None
    if true_pose is not None:
        torch_error = pose_error(of_torch.map_from_camera, true_pose)
        onnx_error = pose_error(of_onnx.map_from_camera, true_pose)
    wrong = ""
    if not (position <= POSITION_M and rotation <= ROTATION_DEG):
        wrong = f"poses {1e3 * position:.3g} mm and {rotation:.3g} deg apart"
        if torch_error and onnx_error:
            errors = (
                f"{1e3 * error[0]:.4g} mm and {error[1]:.3g} deg" for error in (torch_error, onnx_error)
            )
            wrong += " (off the true pose by {} in torch, {} in ONNX)".format(*errors)
    return _Comparison((position, rotation), torch_error, onnx_error, wrong)


def solve_outputs(outputs: Outputs, rays: npt.NDArray[np.float64], contract: ModelContract) -> Solution:
    """Return the pose that the node makes of a graph's outputs; rays (h, w, 3) as `node_rays` gives them."""
    depth, scene_coordinates, weights, *offsets = outputs
    prediction = prediction_from_outputs(depth, scene_coordinates, weights, contract, *offsets)
    rays = prediction.rays(contract.refined(contract.training_camera), rays)
    return align(
        unproject(prediction.depth, rays).reshape(-1, 3),
        prediction.scene_coordinates.reshape(-1, 3),
        np.where(rays[..., 2] > 0, prediction.weights, 0.0).reshape(-1),
        contract.alignment,
    )


def _is_by_chance(
    solution: Solution, outputs: Outputs, rays: npt.NDArray[np.float64], contract: ModelContract
) -> bool:
    """Return whether noise of `ROUNDING` moves a pose by half of what two poses may differ, or ends one."""
    random = np.random.default_rng(0)
    depth, scene_coordinates, weights, *offsets = outputs
    for _ in range(2):
        noise = [ROUNDING * random.uniform(-1.0, 1.0, item.shape).astype(np.float32) for item in outputs]
        moved = solve_outputs(
            [
                depth * (1.0 + noise[0]),
                scene_coordinates + noise[1] * np.abs(scene_coordinates).max(),
                weights * (1.0 + noise[2]),
                *offsets,
            ],
            rays,
            contract,
        )
        if isinstance(solution, AlignmentFailure) or isinstance(moved, AlignmentFailure):
            if moved is not solution:
                return True
            continue
        position, rotation = pose_error(moved.map_from_camera, solution.map_from_camera)
        if position > 0.5 * POSITION_M or rotation > 0.5 * ROTATION_DEG:
            return True
    return False


def _named(solution: Solution) -> str:
    return f"no pose ({solution.value})" if isinstance(solution, AlignmentFailure) else "a pose"


def _deviation(found: npt.NDArray[np.float32], expected: npt.NDArray[np.float32], left_out: float) -> float:
    """Return the largest deviation of a cell, relative to the output's largest magnitude; NaN if any is.

    A share `left_out` of the cells, those that deviate most, does not count.
    """
    of_cells = np.sort(np.abs(found - expected).max(axis=1).reshape(-1))  # NaN is sorted to the end
    if np.isnan(of_cells[-1]):
        return math.nan
    return float(of_cells[-1 - int(left_out * len(of_cells))] / max(np.abs(expected).max(), 1e-12))


def _worst(pairs: Sequence[tuple[float, float] | None]) -> tuple[float, float] | None:
    """Return the largest of each of the two numbers, None where there are none."""
    known = [pair for pair in pairs if pair is not None]
    return (max(pair[0] for pair in known), max(pair[1] for pair in known)) if known else None
