"""What came of frames with known poses, and the files that such results are kept in."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from structpose_ros.geometry import (
    invert,
    pose_error,
    quaternion_from_rotation,
    rotation_from_quaternion,
    rotation_vector,
    transform,
)
from structpose_ros.relocalizer import Result
from structpose_ros.training.frames import RecordingError, write_atomic

_POSE_COLUMNS = ("x", "y", "z", "qx", "qy", "qz", "qw")
_COLUMNS = (
    *("frame", "accepted", "reject_reason", "confidence", "position_m", "rotation_deg"),
    *_POSE_COLUMNS,
    *(f"true_{column}" for column in _POSE_COLUMNS),
    *("nees", "latency_ms", "solve_ms"),
)


@dataclass(frozen=True)
class Outcome:
    """One frame's estimate against its truth.

    position_m and rotation_deg are infinite where there is no estimate: that is a failure, not an absence.
    nees: error' covariance^-1 error over the six degrees of freedom; None where there is no covariance.
    latency_ms: from image to pose. solve_ms: of these, from predictions to pose, if that is a step.
    """

    name: str
    accepted: bool
    reject_reason: str
    confidence: float
    position_m: float
    rotation_deg: float
    true_map_from_camera: npt.NDArray[np.float64]
    map_from_camera: npt.NDArray[np.float64] | None = None
    nees: float | None = None
    latency_ms: float = 0.0
    solve_ms: float | None = None


def outcome_of(name: str, result: Result, true_map_from_camera: npt.NDArray[np.float64]) -> Outcome:
    """Compare what the relocalizer said with the truth."""
    position, rotation, nees, estimated = math.inf, math.inf, None, None
    if result.estimate is not None:
        estimated = result.estimate.map_from_camera
        position, rotation = pose_error(estimated, true_map_from_camera)
        nees = _nees(estimated, true_map_from_camera, result.covariance)
    reason = result.decision.reject_reason
    return Outcome(
        name=name,
        accepted=result.decision.accepted,
        reject_reason="" if reason is None else reason.value,
        confidence=result.decision.confidence,
        position_m=position,
        rotation_deg=rotation,
        true_map_from_camera=true_map_from_camera,
        map_from_camera=estimated,
        nees=nees,
        latency_ms=sum(result.stage_ms.values()),
        solve_ms=result.stage_ms["align"],
    )


def outcome_of_pose(
    name: str,
    map_from_camera: npt.NDArray[np.float64] | None,
    true_map_from_camera: npt.NDArray[np.float64],
    *,
    confidence: float = 1.0,
    latency_ms: float = 0.0,
    solve_ms: float | None = None,
) -> Outcome:
    """Compare the pose of a method that judges nothing with the truth; None, no pose, is a failure."""
    found = map_from_camera is not None
    position, rotation = math.inf, math.inf
    if map_from_camera is not None:
        position, rotation = pose_error(map_from_camera, true_map_from_camera)
    return Outcome(
        name=name,
        accepted=found,
        reject_reason="" if found else "no_estimate",
        confidence=confidence if found else 0.0,
        position_m=position,
        rotation_deg=rotation,
        true_map_from_camera=true_map_from_camera,
        map_from_camera=map_from_camera,
        latency_ms=latency_ms,
        solve_ms=solve_ms,
    )


def _nees(
    estimated: npt.NDArray[np.float64],
    true: npt.NDArray[np.float64],
    covariance: npt.NDArray[np.float64] | None,
) -> float | None:
    if covariance is None or np.linalg.cond(covariance) > 1e12:
        return None
    error = pose_deviation(estimated, true)
    return float(error @ np.linalg.solve(covariance, error))


def pose_deviation(
    estimated: npt.NDArray[np.float64], true: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Return the error (6,) of map_from_camera, m and rad about the map's axes, as covariances are."""
    turned = rotation_vector(estimated[:3, :3] @ true[:3, :3].T)
    return np.concatenate([estimated[:3, 3] - true[:3, 3], turned])


def write_poses(path: Path, outcomes: Sequence[Outcome]) -> None:
    """Write one line per frame: outcome, errors, both poses (position m, quaternion x y z w), NEES, times."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for item in outcomes:
        head = [item.name, int(item.accepted), item.reject_reason, item.confidence]
        estimated = [""] * 7 if item.map_from_camera is None else _pose_columns(item.map_from_camera)
        poses = [*estimated, *_pose_columns(item.true_map_from_camera)]
        # The writer leaves None empty.
        writer.writerow(
            [
                *head,
                item.position_m,
                item.rotation_deg,
                *poses,
                item.nees,
                item.latency_ms,
                item.solve_ms,
            ]
        )
    write_atomic(path, stream.getvalue().encode())


def read_poses(path: Path) -> list[Outcome]:
    """Read what `write_poses` wrote; poses to 12 digits, everything else as it was.

    Raises:
        RecordingError: the file holds something else.
    """
    outcomes = []
    try:
        rows = csv.DictReader(io.StringIO(path.read_bytes().decode()), strict=True)
        if tuple(rows.fieldnames or ()) != _COLUMNS:
            raise ValueError(f"columns {rows.fieldnames}")
        for row in rows:
            pose = _pose_of([row[key] for key in _POSE_COLUMNS]) if row["x"] else None
            outcomes.append(
                Outcome(
                    name=row["frame"],
                    accepted=row["accepted"] == "1",
                    reject_reason=row["reject_reason"],
                    confidence=float(row["confidence"]),
                    position_m=float(row["position_m"]),
                    rotation_deg=float(row["rotation_deg"]),
                    true_map_from_camera=_pose_of([row[f"true_{key}"] for key in _POSE_COLUMNS]),
                    map_from_camera=pose,
                    nees=float(row["nees"]) if row["nees"] else None,
                    latency_ms=float(row["latency_ms"]),
                    solve_ms=float(row["solve_ms"]) if row["solve_ms"] else None,
                )
            )
    except (ValueError, TypeError, KeyError, csv.Error) as error:
        raise RecordingError(f"{path}: expected the outcomes of an evaluation, got: {error!r}") from error
    return outcomes


def write_trajectory(path: Path, poses: Sequence[tuple[float, npt.NDArray[np.float64]]]) -> None:
    """Write (stamp s, map_from_camera) pairs in TUM format, which `evo` opens."""
    lines = (" ".join([f"{stamp:.6f}", *_pose_columns(pose)]) + "\n" for stamp, pose in poses)
    write_atomic(path, "".join(lines).encode())


def _pose_columns(map_from_camera: npt.NDArray[np.float64]) -> list[str]:
    values = np.concatenate([map_from_camera[:3, 3], quaternion_from_rotation(map_from_camera[:3, :3])])
    return [f"{value:.12g}" for value in values]


def _pose_of(columns: Sequence[str]) -> npt.NDArray[np.float64]:
    values = [float(value) for value in columns]
    return transform(rotation_from_quaternion(values[3:]), values[:3])


def read_world_to_camera(path: Path) -> dict[str, tuple[npt.NDArray[np.float64], list[float]]]:
    """Read published per-frame results: `file qw qx qy qz tx ty tz rest...`, world to camera.

    Returns:
        map_from_camera (4, 4), and the numbers that follow on the line, by file name.

    Raises:
        RecordingError: a line is of another kind.
        OSError: the file can't be read.
    """
    poses = {}
    for line in path.read_text(errors="replace").splitlines():
        try:
            name, *numbers = line.split()
            qw, qx, qy, qz, tx, ty, tz, *rest = map(float, numbers)
            if not all(map(math.isfinite, (tx, ty, tz))):
                raise ValueError("a translation that is not finite")
            camera_from_map = transform(rotation_from_quaternion([qx, qy, qz, qw]), [tx, ty, tz])
        except ValueError as error:
            raise RecordingError(
                f"{path}: expected a file name, a unit quaternion and a translation, got '{line[:200]}'"
            ) from error
        poses[name] = (invert(camera_from_map), rest)
    return poses
