"""A map of landmarks in whole numbers of 8 bits, and what that costs: its poses beside those in float32."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from torch import Tensor

from structpose_ros import contract as names
from structpose_ros.alignment import AlignmentFailure
from structpose_ros.contract import ModelContract
from structpose_ros.geometry import pose_error
from structpose_ros.model_card import Int8Loss, Range
from structpose_ros.training.int8_convolutions import with_int8_convolutions
from structpose_ros.training.landmarks import LandmarkNetwork
from structpose_ros.training.metrics import GOOD
from structpose_ros.training.parity import (
    PROVIDER,
    Examples,
    ExportError,
    Outputs,
    node_rays,
    outputs_of,
    rays_tensor,
    solve_outputs,
)

Pose = npt.NDArray[np.float64]
MOST_POSITION_M, MOST_ROTATION_DEG = 0.02, 1.0  # between the poses of half of the frames


def in_int8(
    model: onnx.ModelProto, network: LandmarkNetwork, contract: ModelContract, examples: Examples
) -> tuple[onnx.ModelProto, Int8Loss]:
    """Return a map's graph with its convolutions in bytes, and what the whole loses against float32.

    Every second example calibrates; the others are localised by both.

    Args:
        model: of `network`, its look-up in bytes already.
        network: without its `int8` it is what the graph is measured by.
        contract: of the model file.
        examples: frames of the recording, at least two.

    Raises:
        ExportError: there are too few frames, or more is lost than rounding may lose.
    """
    frames = len(examples.images) if examples.recorded else 0
    if frames < 2:
        raise ExportError(
            "int8: expected a run that keeps at least two of its frames, to calibrate on and to measure the "
            f"loss, got {frames}: train it again, or export it without int8"
        )
    rays = rays_tensor(node_rays(contract)).numpy()
    feeds = [
        {names.INPUT_IMAGE: image.numpy(), names.INPUT_RAYS: rays} for image in examples.images[::2].split(1)
    ]
    model = with_int8_convolutions(model, feeds)
    true_poses = [None] * frames if examples.true_poses is None else list(examples.true_poses)
    poses = _poses(model, network, contract, examples.images[1::2])
    return model, _loss(len(feeds), poses, true_poses[1::2])


def _poses(
    model: onnx.ModelProto, network: LandmarkNetwork, contract: ModelContract, images: Tensor
) -> list[tuple[Pose | None, Pose | None]]:
    """Return map_from_camera (4, 4) by torch in float32 and by the graph, None where there is none."""
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=[PROVIDER])
    in_float32 = copy.copy(network)
    in_float32.int8 = False
    rays = node_rays(contract)

    def pose_of(outputs: Outputs) -> Pose | None:
        solution = solve_outputs(outputs, rays, contract)
        return None if isinstance(solution, AlignmentFailure) else solution.map_from_camera

    poses = []
    for image in images.split(1):
        of_float32, of_int8 = outputs_of(in_float32, session, image, rays_tensor(rays))
        poses.append((pose_of(of_float32), pose_of(of_int8)))
    return poses


def _loss(
    calibrated: int, poses: Sequence[tuple[Pose | None, Pose | None]], true_poses: Sequence[Pose | None]
) -> Int8Loss:
    """Compare the poses of `_poses` with each other and with the true ones, where known.

    Raises:
        ExportError: there is nothing to compare; a pose that is known to be good is lost, or far from where
            it was; or most of them have moved by more than rounding may move them.
    """
    apart: list[Range] = []
    errors: list[tuple[Range, Range]] = []
    for number, ((of_float32, of_int8), true_pose) in enumerate(zip(poses, true_poses, strict=True)):
        if of_float32 is None:
            continue
        moved = (np.inf, np.inf) if of_int8 is None else pose_error(of_int8, of_float32)
        float_error = None if true_pose is None else pose_error(of_float32, true_pose)
        if float_error is not None and _is_good(float_error) and not _is_good(moved):
            got = "none" if of_int8 is None else f"one {moved[0]:.3g} m and {moved[1]:.3g} deg from it"
            raise ExportError(
                f"int8: expected a pose of frame {number + 1} of {len(poses)} within {GOOD[0]} m and "
                f"{GOOD[1]} deg of float32's, which is right, got {got}: export it without int8"
            )
        if of_int8 is None:
            continue
        apart.append(moved)
        if float_error is not None and true_pose is not None:
            errors.append((float_error, pose_error(of_int8, true_pose)))
    if not apart:
        raise ExportError(
            f"int8: expected poses of the {len(poses)} frames that measure the loss, got none: "
            "export it without int8"
        )
    position, rotation = np.median(apart, axis=0).tolist()
    if not (position <= MOST_POSITION_M and rotation <= MOST_ROTATION_DEG):
        raise ExportError(
            f"int8: expected poses within {MOST_POSITION_M} m and {MOST_ROTATION_DEG} deg of float32's for "
            f"half of the frames, got {position:.3g} m and {rotation:.3g} deg: export it without int8"
        )
    medians = [tuple(pair) for pair in np.median(errors, axis=0).tolist()] if errors else [None, None]
    return Int8Loss(calibrated, len(poses), len(apart), position, rotation, *medians)


def _is_good(error: Range) -> bool:
    return bool(np.less_equal(error, GOOD).all())
