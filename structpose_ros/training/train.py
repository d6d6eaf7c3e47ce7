"""Both training stages of the paper (§3.4), resumable, from a recording to a run folder with a model file.

A run folder holds config.yaml, checkpoint.pt (tensors and plain values only), log.jsonl and model.onnx.
"""

from __future__ import annotations

import dataclasses
import io
import json
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from torch.utils.data import DataLoader
from tqdm import tqdm

from structpose_ros.training import dataset as data
from structpose_ros.training.alignment import align
from structpose_ros.training.config import ConfigError, TrainingConfig, load_config
from structpose_ros.training.frames import (
    RecordingError,
    handle_bad,
    open_recording,
    write_atomic,
)
from structpose_ros.training.losses import BatchLabels, geometry_loss, pose_loss
from structpose_ros.training.map_cloud import MapCloudBuilder
from structpose_ros.training.networks import StructPoseNetwork, depth_from_logits, load_pretrained
from structpose_ros.training.runs import (
    CHECKPOINT,
    CONFIG,
    LOG,
    MODEL,
    as_tensors,
    calibrate,
    expect_same_frames,
    export_run,
    read_checkpoint,
)

EXAMPLES = 4  # frames kept in a checkpoint


@dataclass
class Progress:
    """Where a run stands: epochs finished of both stages together, steps skipped as not finite, seconds."""

    epochs_done: int = 0
    skipped_steps: int = 0
    seconds: float = 0.0


class Trainer:
    """One run: network, data, optimiser and where it stands."""

    def __init__(self, config: TrainingConfig, data_root: Path, out: Path, *, skip_bad: bool = False) -> None:
        """Load the data, build the network, and take up a checkpoint where `out` holds one.

        Raises:
            ConfigError: `out` holds a run with another configuration or of another recording, a checkpoint
                that can't be read, or other files; the device or the pretrained weights are not there.
            RecordingError: the recording can't be used.
        """
        self.config = config
        self.out = out
        self._claim_folder()
        torch.manual_seed(config.seed)
        self.device = _device(config.device)
        self.recording = open_recording(data_root)
        files, bad = self.recording.files("train")
        handle_bad(bad, len(files) + len(bad), skip_bad)
        training_files, self.validation_files = data.split_validation(files, config.validation_fraction)
        with tqdm(total=len(files), desc="reading frames", unit="frame") as bar:
            everything, unreadable = data.load_frames(
                self.recording, files, config.input, skip_bad=skip_bad, progress=lambda *_: bar.update(1)
            )
        training_names = {item.name for item in training_files}
        frames = [frame for frame in everything if frame.name in training_names]
        if not frames:
            raise RecordingError(f"expected training frames in {data_root}, got none that can be read")
        for line in bad + unreadable:
            print(f"left out: {line}")
        self.input_camera = self.recording.camera.resized(config.input.width, config.input.height)
        builder = MapCloudBuilder()
        self.statistics = data.scene_statistics(frames, self.recording.camera, self.input_camera, builder.add)
        self.map_cloud = builder.cloud()
        self.views = data.ViewDataset(
            frames,
            self.recording.camera,
            self.input_camera,
            self.statistics,
            config.augmentation,
            config.seed,
        )
        self.network = StructPoseNetwork(config.network)
        if config.network.pretrained and not (out / CHECKPOINT).is_file():
            load_pretrained(self.network, config.network.pretrained, config.network.backbone)
        self.network.to(self.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.rays = (
            torch.from_numpy(np.nan_to_num(self.views.rays)).permute(2, 0, 1)[None].float().to(self.device)
        )
        self.progress = Progress()
        self.optimizer: torch.optim.Optimizer | None = None
        self._resumed_optimizer: dict[str, Any] | None = None
        self._load_checkpoint()

    @property
    def total_epochs(self) -> int:
        """Epochs of both stages."""
        return self.config.geometry.epochs + self.config.pose.epochs

    def train(self, *, stop_after: int | None = None) -> None:
        """Train until both stages, or `stop_after` epochs, are done; every epoch ends in a checkpoint."""
        last = self.total_epochs if stop_after is None else min(stop_after, self.total_epochs)
        steps = math.ceil(len(self.views) / self.config.batch_size)
        bar = tqdm(
            total=last * steps, initial=self.progress.epochs_done * steps, desc="training", unit="step"
        )
        with bar:
            while self.progress.epochs_done < last:
                started = time.monotonic()
                loss = self._run_epoch(self.progress.epochs_done, bar)
                self.progress.epochs_done += 1
                self.progress.seconds += time.monotonic() - started
                self._save_checkpoint()
                self._log(loss)

    def _run_epoch(self, epoch: int, bar: tqdm[Any]) -> float:
        geometry = epoch < self.config.geometry.epochs
        if self.optimizer is None or epoch == self.config.geometry.epochs:
            self.optimizer = self._geometry_optimizer() if geometry else self._pose_optimizer()
            if self._resumed_optimizer is not None and epoch != self.config.geometry.epochs:
                self.optimizer.load_state_dict(self._resumed_optimizer)
            self._resumed_optimizer = None
        # Stage 2 keeps the batch statistics of stage 1: its steps on the backbone are tiny.
        self.network.train(geometry)
        self.views.epoch, self.views.rigid = epoch, not geometry
        losses = []
        batches = list(self._batches(epoch))
        loader = DataLoader(
            self.views,
            batch_sampler=batches,
            collate_fn=data.collate,
            num_workers=self.config.workers,
            worker_init_fn=data.start_worker,
        )
        for step, (images, labels) in enumerate(loader):
            if geometry:
                self._set_learning_rate(epoch, step, len(batches))
            loss = self._step(images, labels, geometry)
            if math.isfinite(loss):
                losses.append(loss)
            bar.set_postfix(stage=1 if geometry else 2, epoch=epoch + 1, loss=f"{loss:.4f}", refresh=False)
            bar.update(1)
        return float(np.mean(losses)) if losses else math.nan

    def _step(self, images: torch.Tensor, labels: BatchLabels, geometry: bool) -> float:
        assert self.optimizer is not None
        image_B3HW = data.normalize_images(images.to(self.device)).to(memory_format=torch.channels_last)
        labels = BatchLabels(**{key: value.to(self.device) for key, value in vars(labels).items()})
        loss = self._geometry_loss(image_B3HW, labels) if geometry else self._pose_loss(image_B3HW, labels)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        # Called for the norm: at this bound nothing is clipped.
        norm = torch.nn.utils.clip_grad_norm_(self.network.parameters(), 1e9)
        if not (math.isfinite(loss.item()) and math.isfinite(norm.item())):
            self.progress.skipped_steps += 1
            return math.nan
        self.optimizer.step()
        return loss.item()

    def _geometry_loss(self, image_B3HW: torch.Tensor, labels: BatchLabels) -> torch.Tensor:
        stage = self.config.geometry
        output = self.network(image_B3HW)
        return geometry_loss(
            output, labels, self.statistics.depth_scale, stage.half_depth_weight, stage.validity_mask
        )

    def _pose_loss(self, image_B3HW: torch.Tensor, labels: BatchLabels) -> torch.Tensor:
        stage, alignment = self.config.pose, self.config.alignment
        output = self.network(image_B3HW)
        points = depth_from_logits(output.depth_logits, self.statistics.depth_scale) * self.rays
        scene = output.scene_coordinates
        if stage.correspondence_weighting:
            weights = self.network.correspondence_weights(scene, points)
        else:
            weights = torch.ones_like(points[:, :1])
        weights = weights * self.rays[:, 2:]  # 0 where the lens does not reach: the relocalizer does the same
        map_from_camera = align(
            points.flatten(2).transpose(1, 2),
            scene.flatten(2).transpose(1, 2),
            weights.flatten(1),
            alignment.robust_rounds,
            alignment.robust_scale,
            alignment.robust_floor,
        )
        return pose_loss(map_from_camera, labels.map_from_camera)

    def _geometry_optimizer(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self._parameters(weight_head=False), lr=self.config.geometry.learning_rate)

    def _pose_optimizer(self) -> torch.optim.Optimizer:
        stage = self.config.pose
        groups = []
        if stage.correspondence_weighting:
            groups.append({"params": self._parameters(weight_head=True), "lr": stage.weight_learning_rate})
        if stage.update_geometry:
            groups.append({"params": self._parameters(weight_head=False), "lr": stage.learning_rate})
        return torch.optim.Adam(groups)

    def _parameters(self, *, weight_head: bool) -> list[torch.nn.Parameter]:
        named = self.network.named_parameters()
        return [value for name, value in named if name.startswith("weight_head") == weight_head]

    def _set_learning_rate(self, epoch: int, step: int, steps: int) -> None:
        stage = self.config.geometry
        if stage.schedule == "step":
            factor = stage.step_factor ** (epoch // stage.step_epochs)
        else:
            done = (epoch * steps + step + 1) / (stage.epochs * steps)
            factor = done / 0.1 if done < 0.1 else 0.5 * (1 + math.cos(math.pi * (done - 0.1) / 0.9))
        assert self.optimizer is not None
        for group in self.optimizer.param_groups:
            group["lr"] = stage.learning_rate * max(factor, 1e-4)

    def _batches(self, epoch: int) -> Iterator[list[int]]:
        order = np.random.default_rng([self.config.seed, epoch]).permutation(len(self.views)).tolist()
        for first in range(0, len(order), self.config.batch_size):
            yield order[first : first + self.config.batch_size]

    def _claim_folder(self) -> None:
        path = self.out / CONFIG
        if path.is_file() and load_config(path) == self.config:
            return
        if self.out.is_dir() and any(item != path for item in self.out.iterdir()):
            raise ConfigError(
                f"expected {self.out} to hold a run with this configuration, got another one in {path}: "
                "choose another --out, or delete the folder"
                if path.is_file()
                else f"expected a run or an empty folder at {self.out}, got a folder with other files"
            )
        text = yaml.safe_dump(dataclasses.asdict(self.config), sort_keys=False)
        write_atomic(path, text.encode())

    def _save_checkpoint(self) -> None:
        assert self.optimizer is not None
        buffer = io.BytesIO()
        state = {
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "progress": vars(self.progress),
            **self._origin(),
        }
        torch.save(state, buffer)
        write_atomic(self.out / CHECKPOINT, buffer.getvalue())

    def _origin(self) -> dict[str, Any]:
        """What the run was trained on, as plain values and tensors."""
        return {
            "statistics": as_tensors(self.statistics),
            "recording": {"name": self.recording.name, "camera": dataclasses.asdict(self.recording.camera)},
            "examples": self._examples(),
            "map_cloud": {key: torch.from_numpy(value) for key, value in vars(self.map_cloud).items()},
        }

    def _examples(self) -> torch.Tensor:
        """Return a few frames (N, 3, H, W) uint8, spread over the recording, for the export to compare on."""
        frames = self.views.frames
        chosen = np.unique(np.linspace(0, len(frames) - 1, EXAMPLES).round().astype(int))
        images = np.stack([frames[index].image_rgb for index in chosen])
        return torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))

    def _load_checkpoint(self) -> None:
        if not (self.out / CHECKPOINT).is_file():
            return
        state = read_checkpoint(self.out)
        expect_same_frames(
            state, self.statistics, self.recording, self.out, "choose another --out, or delete the folder"
        )
        self.network.load_state_dict(state["network"])
        self.progress = Progress(**state["progress"])
        self._resumed_optimizer = state["optimizer"]

    def _log(self, loss: float) -> None:
        line = {
            "epoch": self.progress.epochs_done,
            "loss": loss if math.isfinite(loss) else None,
            "skipped_steps": self.progress.skipped_steps,
            "seconds": round(self.progress.seconds, 1),
        }
        with (self.out / LOG).open("a") as stream:
            stream.write(json.dumps(line) + "\n")


def train(config: TrainingConfig, data_root: Path, out: Path, *, skip_bad: bool = False) -> Path:
    """Train, measure on the held-out frames, and write `out`/model.onnx; returns its path."""
    trainer = Trainer(config, data_root, out, skip_bad=skip_bad)
    trainer.train()
    # Given, not only kept in the checkpoint: an earlier release may have finished this run without it.
    parity = export_run(out, out / MODEL, map_cloud=trainer.map_cloud)
    if trainer.validation_files:
        calibration = calibrate(out / MODEL, trainer.recording, trainer.validation_files)
        parity = export_run(out, out / MODEL, calibration, trainer.map_cloud)
        measured = ", ".join(f"{key} {value:.4g}" for key, value in calibration.validation.items())
        print(f"held-out frames: {measured}; inlier threshold {calibration.inlier_threshold:.3f} m")
    print(f"wrote {out / MODEL} (agrees with torch to {parity.worst:.1e} relative)")
    return out / MODEL


def _device(requested: str) -> torch.device:
    if requested == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            "device: expected a CUDA GPU, got none that torch can use (set device: auto or cpu)"
        )
    if requested == "auto":
        requested = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(requested)
