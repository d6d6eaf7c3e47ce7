"""What a model file says of itself, as a page of plain text: where it comes from, when it works, how well."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

from structpose_ros.contract import ModelContract
from structpose_ros.map_cloud import MapCloud
from structpose_ros.model_card import Export, Int8Loss, ModelCard, TrainingRun
from structpose_ros.model_page_views import trained_on, works_on
from structpose_ros.text_table import Rows, plain, table

FEW_FRAMES = 50  # held out; the figures of fewer say little


def page(
    path: Path, sha256: str, contract: ModelContract, card: ModelCard | None, map_cloud: MapCloud | None
) -> str:
    """Return the page of a model file, in lines of 100 characters; a file without a card has a shorter one.

    All of it is ASCII but for names that the file holds.
    """
    views = None if card is None else card.views
    in_float32 = "" if card is None or card.export.int8 is None else " of the network in float32"
    sections = [
        ("Trained on", trained_on(contract, card)),
        ("Works on", [] if card is None or views is None else works_on(contract, views, card.training)),
        (f"Accuracy{in_float32}", _accuracy(contract.validation)),
        (f"Calibration{in_float32}", _calibration(contract)),
        ("Training", _training(contract, None if card is None else card.training)),
        ("File", _file(path, sha256, contract, None if card is None else card.export, map_cloud)),
    ]
    blocks = [f"{plain(str(path))}: finds a camera in the map of '{plain(contract.dataset)}'"]
    blocks += [f"{title}\n{table(rows)}" for title, rows in sections if rows]
    return "\n\n".join(blocks)


def _accuracy(validation: Mapping[str, float]) -> Rows:
    frames = int(validation.get("frames", 0))
    if frames < 1:
        unknown = "not measured: no frame was held out of training (validation_fraction in its configuration)"
        return [("caution", unknown)]
    rows = [("measured on", f"{frames} frames of the recording, held out of training")]
    rows += _errors(validation, "", "all of them")
    if "accepted" in validation:
        rows.append(("accepted", f"{validation['accepted']:.0f} of {frames} by the default gate"))
    rows += _errors(validation, "accepted_", "of the accepted")
    if frames < FEW_FRAMES:
        few = f"{frames} frames are few (fewer than {FEW_FRAMES}): these figures may be far off"
        rows.append(("caution", few))
    return rows


def _errors(validation: Mapping[str, float], prefix: str, label: str) -> Rows:
    parts = []
    if f"{prefix}median_position_m" in validation and f"{prefix}median_rotation_deg" in validation:
        position, rotation = (validation[f"{prefix}median_{name}"] for name in ("position_m", "rotation_deg"))
        parts.append(f"median error {position:.3f} m and {rotation:.2f} deg")
    if f"{prefix}within_10cm_5deg" in validation:
        parts.append(f"{100 * validation[f'{prefix}within_10cm_5deg']:.0f} % within 10 cm and 5 deg")
    return [(label, ", ".join(parts))] if parts else []


def _calibration(contract: ModelContract) -> Rows:
    validation, threshold = contract.validation, contract.alignment.inlier_threshold
    fitted = validation.get("frames", 0) >= 1
    source = "fitted on the held-out frames" if fitted else "as configured"
    rows = [("inlier threshold", f"residuals up to {threshold:.3f} m count as inliers; {source}")]
    if "mean_nees" in validation or contract.covariance_scale != 1.0:
        scale = f"what a frame's residuals alone say, times {contract.covariance_scale:.3g}"
        if any(contract.covariance_floor):
            position, rotation = contract.covariance_floor
            degrees = math.degrees(rotation)
            scale += f", and {position:.3f} m and {degrees:.2f} deg for what all points are off by together"
        rows.append(("covariance", f"{scale}; fitted on the held-out frames"))
    else:
        rows.append(("covariance", "what a frame's residuals alone say, most likely too small; not fitted"))
    if "mean_nees" in validation and "ellipsoid95_coverage" in validation:
        coverage = f"{100 * validation['ellipsoid95_coverage']:.0f} % of the errors within the 95 % ellipsoid"
        count = f"{validation.get('nees_frames', 0):.0f} accepted held-out frames"
        nees = f"mean NEES {validation['mean_nees']:.2f} (6 is right)"
        rows.append(("consistency", f"{nees}, {coverage}; over {count}"))
    if contract.confidence is None:
        rows.append(("confidence", "the inlier ratio: ordered, no probability; not fitted"))
    else:
        bound = f"poses are accepted from {contract.confidence.threshold:.2f} on"
        foreign = validation.get("foreign_accept")
        spoilt = "" if foreign is None else f"; of spoilt images {100 * foreign:.1f} % were accepted"
        rows.append(("confidence", f"probability of an error within 10 cm and 5 deg; {bound}{spoilt}"))
    return rows


def _training(contract: ModelContract, training: TrainingRun | None) -> Rows:
    network = ("network", plain(contract.network) or "not recorded")
    configuration = ("configuration", f"digest {plain(contract.config_digest) or 'not recorded'}")
    if training is None:
        return [network, configuration]
    duration = _duration(training.seconds)
    progress = f"{training.epochs} of {training.epochs_planned} epochs in {duration}"
    if training.epochs_planned == 0:
        progress = f"nothing is trained; the map's landmarks took {duration}"
    if training.skipped_steps:
        progress += f", {training.skipped_steps} steps left out as not finite"
    losses = (("geometry stage", training.geometry_loss), ("pose stage", training.pose_loss))
    last = ", ".join(f"{name} {value:.4g}" for name, value in losses if value is not None)
    varied = (f"{plain(name)} {_shown(value)}" for name, value in training.augmentation.items())
    machine = [plain(training.device), f"torch {plain(training.torch)}"] if training.torch else []
    return [
        network,
        ("progress", progress),
        ("last loss", last or "not recorded"),
        ("augmentation", ", ".join(varied) or "none"),
        ("machine", ", ".join(machine) or "not recorded"),
        (configuration[0], f"{configuration[1]}, seed {training.seed}"),
    ]


def _file(
    path: Path, sha256: str, contract: ModelContract, export: Export | None, map_cloud: MapCloud | None
) -> Rows:
    opset = "" if export is None else f", ONNX opset {export.opset}"
    if export is not None and export.int8 is not None:
        opset += ", in int8 (for a CPU)"
    size = f"{path.stat().st_size / 1e6:.1f} MB, format version {contract.format_version}{opset}"
    rows = [("size", f"{size}, written by {plain(contract.producer) or 'an unnamed program'}")]
    if export is not None:
        rows.append(("tested", _tested(export)))
        rows += [] if export.int8 is None else [("int8 costs", cost_of_int8(export.int8))]
    points = "none" if map_cloud is None else f"{len(map_cloud.points)} points to look at (~/map_points)"
    return [*rows, ("map cloud", points), ("sha256", sha256)]


def cost_of_int8(loss: Int8Loss) -> str:
    """Return in words what whole numbers of 8 bits cost a model file."""
    apart = f"{1e3 * loss.position_m:.1f} mm and {loss.rotation_deg:.2f} deg"
    text = (
        f"on {loss.frames} training frames, calibrated on {loss.calibrated} others: {loss.poses} poses in "
        f"the median {apart} from those in float32"
    )
    if loss.float_error is None or loss.int8_error is None:
        return text
    before, after = (
        f"{1e3 * error[0]:.1f} mm, {error[1]:.2f} deg" for error in (loss.float_error, loss.int8_error)
    )
    return f"{text} (median error there: float32 {before}; int8 {after})"


def _tested(export: Export) -> str:
    parity = export.parity
    source = "training frames" if parity.recorded else "images of noise"
    text = (
        f"ONNX Runtime {plain(export.onnxruntime)} ({plain(export.provider)}) against torch "
        f"{plain(export.torch)} on {parity.images} {source}: outputs agree to {parity.worst:.0e} relative"
    )
    if parity.poses == 0:
        return f"{text}; no pose was certain enough to be compared"
    text += f", {parity.poses} poses to {1e3 * parity.position_m:.2g} mm and {parity.rotation_deg:.2g} deg"
    if parity.torch_error is None or parity.onnx_error is None:
        return text
    of_torch, of_onnx = (
        f"{error[0]:.3f} m, {error[1]:.2f} deg" for error in (parity.torch_error, parity.onnx_error)
    )
    return f"{text} (largest error there: torch {of_torch}; ONNX {of_onnx})"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _shown(value: object) -> str:
    return {True: "on", False: "off"}[value] if isinstance(value, bool) else plain(str(value))
