"""The folder of a run: its checkpoint, what held-out frames say of it, and its export as a model file."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from structpose_ros import __version__
from structpose_ros.alignment import weighted_median
from structpose_ros.camera import Camera
from structpose_ros.confidence import ConfidenceModel
from structpose_ros.contract import ModelContract, from_json
from structpose_ros.map_cloud import MapCloud
from structpose_ros.model_card import Parity
from structpose_ros.network import OnnxNetwork
from structpose_ros.relocalizer import Relocalizer, Result
from structpose_ros.training import dataset as data
from structpose_ros.training.config import ConfigError, TrainingConfig, load_config
from structpose_ros.training.description import from_plain, training_of
from structpose_ros.training.evaluate import Outcome, evaluate_frames, summarize
from structpose_ros.training.export import ExportedGraph, export_model
from structpose_ros.training.frames import (
    Frame,
    FrameFiles,
    Recording,
    open_recording,
    remove_temporaries,
    write_atomic,
)
from structpose_ros.training.landmarks import STRIDE as LANDMARK_STRIDE
from structpose_ros.training.landmarks import LandmarkNetwork
from structpose_ros.training.map_cloud import measure_scene
from structpose_ros.training.networks import STRIDE, StructPoseNetwork

CHECKPOINT, CONFIG, LOG, MODEL = "checkpoint.pt", "config.yaml", "log.jsonl", "model.onnx"
CALIBRATION = "validation.json"
DEGREES_OF_FREEDOM = 6  # of a pose: what the mean NEES of consistent covariances is
CHI_SQUARE_95 = 12.592  # that 95 % of such NEES lie below
CHECKPOINT_KEYS = ("network", "optimizer", "progress", "statistics", "recording")


@dataclass(frozen=True)
class Calibration:
    """What the held-out frames say of a model; a run keeps it for further exports.

    validation, covariance_scale, covariance_floor, confidence: as in `ModelContract`. inlier_threshold:
    metres, as in `AlignmentOptions`.
    """

    validation: Mapping[str, float]
    covariance_scale: float
    inlier_threshold: float
    covariance_floor: tuple[float, float] = (0.0, 0.0)
    confidence: ConfidenceModel | None = None


def export_run(
    run: Path,
    path: Path,
    calibration: Calibration | None = None,
    map_cloud: MapCloud | None = None,
    *,
    int8: bool = False,
) -> Parity:
    """Export a run's checkpoint, with what was measured on held-out frames and with the map's points.

    Both are given, or as the run keeps them; a run of an earlier release keeps no points, nor all that the
    model file's card could say. int8: a map of landmarks in whole numbers of 8 bits, for the CPU.

    Raises:
        ConfigError: there is no run, or none of a map that `int8` could be asked of.
        ExportError: the file does not do what the network does, or not in bytes; nothing is written then.
    """
    config = load_config(run / CONFIG)
    if config.method == "posenet":
        raise ConfigError(f"expected a run whose model has a map in {run}, got the baseline {config.method}")
    if int8 and config.method != "landmarks":
        raise ConfigError(f"int8: expected a run of method: landmarks in {run}, got {config.method}")
    state = read_checkpoint(run)
    measured = run / CALIBRATION
    if calibration is not None:
        write_atomic(measured, json.dumps(dataclasses.asdict(calibration), indent=1).encode())
    else:
        calibration = Calibration({}, 1.0, config.alignment.inlier_threshold)
        if measured.is_file():  # that of an earlier release has less in it
            kept = dataclasses.asdict(calibration) | json.loads(measured.read_text())
            calibration = from_json(Calibration, kept, CALIBRATION)
    if map_cloud is None and "map_cloud" in state:
        map_cloud = MapCloud(**{key: value.numpy() for key, value in state["map_cloud"].items()})
    contract = contract_of(config, state, calibration)
    return export_model(
        _graph(config, state, contract, int8),
        contract,
        path,
        images=data.normalize_images(state["examples"]) if "examples" in state else None,
        true_poses=state["example_poses"].double().numpy() if "example_poses" in state else None,
        map_cloud=map_cloud,
        training=training_of(config, state, run / LOG),
        views=from_plain(state["description"]) if "description" in state else None,
    )


def _graph(
    config: TrainingConfig, state: dict[str, Any], contract: ModelContract, int8: bool
) -> torch.nn.Module:
    """Return what a checkpoint's network exports as."""
    if config.method == "landmarks":
        landmarks = LandmarkNetwork(config.landmarks)
        landmarks.load_state_dict(state["network"])
        landmarks.int8 = int8
        return landmarks
    network = StructPoseNetwork(config.network)
    network.load_state_dict(state["network"])
    weighting = config.pose.correspondence_weighting and _weights_are_trained(state["progress"], config)
    return ExportedGraph(network, contract.depth_scale, weighting)


def _weights_are_trained(progress: dict[str, Any], config: TrainingConfig) -> bool:
    """Whether stage 2 has begun; an earlier release counted the epochs of both stages alone."""
    if "stage" not in progress:
        return bool(progress["epochs_done"] > config.geometry.epochs)
    return (progress["stage"], progress["epoch"], progress["step"]) > (1, 0, 0)


def claim_folder(run: Path, config: TrainingConfig) -> None:
    """Make a folder a run of this configuration, or see that it is one.

    Raises:
        ConfigError: it holds a run with another configuration, or other files.
    """
    path = run / CONFIG
    if path.is_file() and load_config(path) == config:
        remove_temporaries(run)
        return
    if run.is_dir() and any(item != path for item in run.iterdir()):
        raise ConfigError(
            f"expected {run} to hold a run with this configuration, got another one in {path}: "
            "choose another --out, or delete the folder"
            if path.is_file()
            else f"expected a run or an empty folder at {run}, got a folder with other files"
        )
    write_atomic(path, yaml.safe_dump(dataclasses.asdict(config), sort_keys=False).encode())


def training_environment(device: torch.device) -> dict[str, str]:
    """Return what a checkpoint may keep as `environment`: the torch and the device that train."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return {"torch": str(torch.__version__), "device": name}  # its own class is code to a checkpoint


def measure_map_cloud(run: Path, data_root: Path, *, skip_bad: bool = False) -> MapCloud:
    """Return the map's points of a run, from the recording that it was trained on.

    Raises:
        ConfigError: there is no run, or it was trained on other frames.
        RecordingError: the recording can't be used.
    """
    config = load_config(run / CONFIG)
    state = read_checkpoint(run)
    recording = open_recording(data_root)
    statistics, map_cloud = measure_scene(recording, config, skip_bad=skip_bad)
    expect_same_frames(state, statistics, recording, run, "name that recording with --data")
    return map_cloud


def as_tensors(statistics: data.SceneStatistics) -> dict[str, torch.Tensor]:
    """Return the measured values as a checkpoint keeps them."""
    return {
        key: torch.tensor(np.asarray(value), dtype=torch.float64) for key, value in vars(statistics).items()
    }


def expect_same_frames(
    state: dict[str, Any], statistics: data.SceneStatistics, recording: Recording, run: Path, remedy: str
) -> None:
    """Raise ConfigError unless a recording measures as the one that a checkpoint was trained on."""
    before, now = state["statistics"], as_tensors(statistics)
    if not all(torch.allclose(before[key], now[key], rtol=1e-6, atol=1e-6) for key in now):
        raise ConfigError(
            f"expected the frames of '{state['recording']['name']}' that the run in {run} "
            f"began with, got others in {recording.root}: {remedy}"
        )


def read_checkpoint(run: Path) -> dict[str, Any]:
    """Read a run's checkpoint: tensors and plain values, never code."""
    path = run / CHECKPOINT
    if not path.is_file():
        raise ConfigError(f"expected a training run with {CHECKPOINT} in {run}, got nothing")
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever unpickling meets in a damaged file, some of it without a message
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ConfigError(f"expected a readable checkpoint at {path}, got: {reason}") from error
    missing = set(CHECKPOINT_KEYS).difference(state if isinstance(state, dict) else ())
    if missing:
        raise ConfigError(f"expected a checkpoint of a run at {path}, got one without {sorted(missing)}")
    return state


def contract_of(config: TrainingConfig, state: dict[str, Any], calibration: Calibration) -> ModelContract:
    """Return what a run's model file says of itself."""
    landmarks = config.method == "landmarks"
    statistics = {key: value.tolist() for key, value in state["statistics"].items()}
    camera = _camera_of(state["recording"]["camera"])
    refined = state["recording"].get("refined_camera")  # runs of earlier releases have none
    return ModelContract(
        dataset=state["recording"]["name"],
        input_width=config.input.width,
        input_height=config.input.height,
        stride=LANDMARK_STRIDE if landmarks else STRIDE,
        normalization_mean=data.IMAGENET_MEAN,
        normalization_std=data.IMAGENET_STD,
        scene_mean=tuple(statistics["scene_mean"]),
        depth_scale=statistics["depth_scale"],
        map_min=tuple(statistics["map_min"]),
        map_max=tuple(statistics["map_max"]),
        training_camera=camera.resized(config.input.width, config.input.height),
        refined_camera=None if refined is None else _camera_of(refined),
        alignment=dataclasses.replace(config.alignment, inlier_threshold=calibration.inlier_threshold),
        covariance_scale=calibration.covariance_scale,
        covariance_floor=calibration.covariance_floor,
        confidence=calibration.confidence,
        validation=calibration.validation,
        keypoints=landmarks,
        network="xfeat" if landmarks else config.network.backbone,
        config_digest=config.digest(),
        producer=f"structpose_ros {__version__}",
    )


def _camera_of(fields: dict[str, Any]) -> Camera:
    return Camera(**{**fields, "distortion": tuple(fields["distortion"])})


def calibrate(model: Path, recording: Recording, held_out: Sequence[FrameFiles]) -> Calibration:
    """Errors on the held-out frames, and the factor that makes the mean NEES of their accepted poses 6.

    The metrics are those of `summarize`, and of the accepted frames with a covariance, scaled: nees_frames,
    how many; mean_nees, 6 unless every error is next to nothing; ellipsoid95_coverage, the share of errors
    within the 95 % ellipsoid, 0.95 if they are spread as the covariances say.
    """
    network = OnnxNetwork(model, provider="cpu")
    threshold = _fitted_inlier_threshold(network, recording, held_out)
    alignment = dataclasses.replace(network.contract.alignment, inlier_threshold=threshold)
    outcomes, _ = evaluate_frames(
        Relocalizer(network, alignment=alignment),
        recording,
        held_out,
        skip_bad=True,
    )
    metrics = summarize(outcomes)
    kept = [
        *("frames", "accepted", "median_position_m", "median_rotation_deg", "within_10cm_5deg"),
        *("accepted_median_position_m", "accepted_median_rotation_deg", "accepted_within_10cm_5deg"),
    ]
    validation = {key: float(metrics[key]) for key in kept if metrics[key] is not None}
    nees = np.array([item.nees for item in outcomes if item.accepted and item.nees is not None])
    scale = 1.0
    if len(nees):
        factor = max(float(nees.mean()) / DEGREES_OF_FREEDOM, 1e-6)
        scale = network.contract.covariance_scale * factor
        validation |= {
            "nees_frames": float(len(nees)),
            "mean_nees": float(nees.mean()) / factor,
            "ellipsoid95_coverage": float((nees / factor <= CHI_SQUARE_95).mean()),
        }
    return Calibration(validation=validation, covariance_scale=scale, inlier_threshold=threshold)


def _fitted_inlier_threshold(
    network: OnnxNetwork, recording: Recording, held_out: Sequence[FrameFiles]
) -> float:
    """Return the median over held-out frames of the residual that half of a frame's weight lies below.

    Half of the points of a typical unseen frame are then inliers, whatever the size of the place. The
    configuration's threshold is the least: residuals of a place learned by heart would reject new views.
    """
    medians: list[float] = []

    def collect(_outcome: Outcome, result: Result, _frame: Frame) -> None:
        if result.estimate is not None:
            medians.append(weighted_median(result.estimate.residuals, result.weights.reshape(-1)))

    evaluate_frames(Relocalizer(network), recording, held_out, skip_bad=True, on_frame=collect)
    least = network.contract.alignment.inlier_threshold
    return max(least, float(np.median(medians))) if medians else least
