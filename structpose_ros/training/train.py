"""Training, resumable to the bit, from a recording to a run folder with a model file.

A run folder holds config.yaml, checkpoint.pt (tensors and plain values only), log.jsonl, tensorboard/ and
model.onnx; while it trains also frames/, its frames made ready.
"""

from __future__ import annotations

import dataclasses
import io
import math
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import DataLoader
from tqdm import tqdm

from structpose_ros.camera import Camera
from structpose_ros.training import cross_fit, parallel
from structpose_ros.training import dataset as data
from structpose_ros.training.augmentation import NO_AUGMENTATION
from structpose_ros.training.config import ConfigError, TrainingConfig
from structpose_ros.training.description import FrameDescriber, as_plain
from structpose_ros.training.frame_store import FrameStore, build_store, remove_store
from structpose_ros.training.frames import (
    RecordingError,
    handle_bad,
    open_recording,
    write_atomic,
)
from structpose_ros.training.labels import Labels
from structpose_ros.training.landmarks import LandmarkNetwork, Landmarks, collect, laid_out
from structpose_ros.training.lens import refined_lens
from structpose_ros.training.map_cloud import MapCloudBuilder
from structpose_ros.training.monitor import Monitor
from structpose_ros.training.parity import rays_tensor
from structpose_ros.training.runs import (
    CHECKPOINT,
    MODEL,
    Calibration,
    as_tensors,
    calibrate,
    claim_folder,
    contract_of,
    expect_same_frames,
    export_run,
    read_checkpoint,
    training_environment,
)
from structpose_ros.training.stages import LandmarkMap, Method, PoseNetBaseline, Stage, StructPose

EXAMPLES = 24  # frames kept in a checkpoint, for exports to compare and calibrate on
STORE = "frames"
FEW_LABELS = 0.3  # the paper's way, without a mask, is for labels from a mesh: nearly everywhere


@dataclass
class Progress:
    """Where a run stands.

    stage: the one that trains. epoch, step: finished in that stage, and of the next epoch.
    epochs_done: finished of all stages. losses, steps_counted: sum and number of this epoch's finite losses.
    best_loss, best_epoch: of the held-out frames in this stage.
    """

    stage: int = 0
    epoch: int = 0
    step: int = 0
    epochs_done: int = 0
    skipped_steps: int = 0
    seconds: float = 0.0
    losses: float = 0.0
    steps_counted: int = 0
    best_loss: float = math.inf
    best_epoch: int = 0

    @classmethod
    def read(cls, content: dict[str, Any], stages: tuple[Stage, ...]) -> Progress:
        """Take what a checkpoint says; that of an earlier release counts epochs of all stages alone."""
        progress = cls(**content)
        if "stage" not in content:
            progress.epoch = progress.epochs_done
            while progress.stage < len(stages) and progress.epoch >= stages[progress.stage].epochs:
                progress.epoch -= stages[progress.stage].epochs
                progress.stage += 1
        return progress


class Trainer:
    """One run: network, data, optimiser and where it stands. Every process of `torchrun` has one."""

    def __init__(
        self,
        config: TrainingConfig,
        data_root: Path,
        out: Path,
        *,
        skip_bad: bool = False,
        store: Path | None = None,
    ) -> None:
        """Prepare the data, build the network, and take up a checkpoint where `out` holds one.

        `store`: where the frames made ready are kept, for several runs; else in `out`, until it is trained.

        Raises:
            ConfigError: `out` holds a run with another configuration or of another recording, a checkpoint
                that can't be read, or other files; the device or the pretrained weights are not there.
            RecordingError: the recording can't be used.
        """
        self.config = config
        self.out = out
        self.fabric, self._scaler = parallel.launch(config.device, config.precision)
        _expect_equal_shares(config.batch_size)
        if self.fabric.is_global_zero:
            claim_folder(out, config)
        self._seed()
        self.recording = open_recording(data_root)
        files, missing = self.recording.files("train")
        handle_bad(missing, len(files) + len(missing), skip_bad)
        training_files, self.validation_files = data.split_validation(files, config.validation_fraction)
        self._own_store = store is None
        self.store_folder = out / STORE if store is None else store
        everything = self._open_store(files, skip_bad)
        self._say(f"left out: {line}" for line in missing + everything.bad)
        frames = everything.named([item.name for item in training_files])
        held_out = everything.named([item.name for item in self.validation_files])
        if config.patience > 0 and not held_out:
            raise ConfigError(
                f"patience: expected frames held out to judge by, got none of {len(frames)}: raise "
                "validation_fraction, or set patience to 0"
            )
        if not frames:
            raise RecordingError(f"expected training frames in {data_root}, got none that can be read")
        self.input_camera = self.recording.camera.resized(config.input.width, config.input.height)
        builder, describer = MapCloudBuilder(), FrameDescriber(self.recording.camera)
        labelled: list[float] = []

        def measure(image_rgb: npt.NDArray[np.uint8], labels: Labels) -> None:
            builder.add(image_rgb, labels)
            labelled.append(float(labels.valid_mask.mean()))

        self.statistics = data.scene_statistics(
            describer.watch(frames), self.recording.camera, self.input_camera, measure
        )
        if config.method == "structpose" and not config.geometry.validity_mask:
            self._say(_warning_of_few_labels(float(np.mean(labelled))))
        self.map_cloud = builder.cloud()
        self.description = describer.description()
        self.views = self._views(frames, augmented=True)
        self.held_out = self._views(held_out, augmented=False)
        self.method = self._method()
        self.network = self.method.network
        self.network.to(self.fabric.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        parallel.global_batch_norm(self.network, self.fabric.device)
        if config.compile:
            self.network.compile()
        self.progress = Progress()
        self.candidates: Landmarks | None = None
        self.refined_camera: Camera | None = None  # at input size
        self.optimizer: Any = None
        self._best: dict[str, torch.Tensor] | None = None
        self._resumed_optimizer: dict[str, Any] | None = None
        self._load_checkpoint()

    @property
    def steps_per_epoch(self) -> int:
        """Batches of all processes together in an epoch."""
        return math.ceil(len(self.views) / self.config.batch_size)

    def train(self, *, stop_after: int | None = None) -> None:
        """Train all stages, or until `stop_after` epochs are done; every epoch ends in a checkpoint."""
        if isinstance(self.network, LandmarkNetwork):
            self._build_map(self.network)
            return
        stages = self.method.stages
        steps = self.steps_per_epoch
        epochs = sum(stage.epochs for stage in stages)
        last = epochs if stop_after is None else min(stop_after, epochs)
        done = self.progress.epochs_done * steps + self.progress.step
        bar = tqdm(
            total=last * steps,
            initial=done,
            desc="training",
            unit="step",
            disable=not self.fabric.is_global_zero,
        )
        with bar, Monitor(self) as monitor:
            while self.progress.stage < len(stages) and self.progress.epochs_done < last:
                stage = stages[self.progress.stage]
                if self.progress.epoch < stage.epochs:
                    self._run_epoch(stage, bar, monitor)
                if self.progress.epoch >= stage.epochs or self._has_converged():
                    self._end_stage()
                self._save_checkpoint()

    def _build_map(self, network: LandmarkNetwork) -> None:
        """Collect the landmarks of the frames and fill the map with some of them."""
        started = time.monotonic()
        frames = tqdm(
            self.views.frames, desc="landmarks", unit="frame", disable=not self.fabric.is_global_zero
        )
        candidates = collect(network, frames, self.recording.camera, self.input_camera)
        if self.config.landmarks.refine_lens:
            poses = [frame.map_from_camera for frame in self.views.frames]
            self.refined_camera = refined_lens(candidates, poses, self.input_camera, self.config.seed)
            if self.refined_camera is not None:
                self._say([_word_of_lens(self.input_camera, self.refined_camera)])
                candidates = laid_out(candidates, poses, self.refined_camera)
        self.candidates = candidates
        network.set_landmarks(
            candidates.chosen(self.config.landmarks.count, self.config.seed),
            self.statistics.scene_mean,
            self.refined_camera or self.input_camera,
        )
        if self.progress.seconds == 0.0:  # of a finished run it is made again to the bit
            self.progress.seconds = time.monotonic() - started
        self._save_checkpoint()

    def cross_fit(self, network: LandmarkNetwork) -> Calibration | None:
        """Return what frames say of maps that were made without them; None where such maps know none.

        `train` comes first.
        """
        assert self.candidates is not None
        contract = contract_of(
            self.config, self._origin(), Calibration({}, 1.0, self.config.alignment.inlier_threshold)
        )
        total = cross_fit.images_of(len(self.views.frames))
        localised = list(
            tqdm(
                cross_fit.localise_blocks(
                    network, self.candidates, self.views.frames, self.input_camera, contract, self.config.seed
                ),
                total=total,
                desc="cross-fit",
                unit="image",
            )
        )
        calibration = cross_fit.fit_calibration(contract, localised)
        if calibration is None:
            print(
                "warning: expected frames that a map of the others knows, got none: the confidence and the "
                "covariance are not fitted"
            )
        return calibration

    def _run_epoch(self, stage: Stage, bar: tqdm[Any], monitor: Monitor) -> None:
        if self.optimizer is None:
            self._begin_stage(stage)
        started, before, steps = time.monotonic(), self.progress.seconds, self.steps_per_epoch
        saved = started
        self.module.train(stage.learns_statistics)
        self.views.epoch, self.views.rigid = self._epochs_begun(), stage.rigid
        batches = list(self._batches(self.views.epoch))[self.progress.step :]
        loader = DataLoader(
            self.views,
            batch_sampler=batches,
            collate_fn=data.collate,
            num_workers=self.config.workers,
            worker_init_fn=data.start_worker,
            pin_memory=self.fabric.device.type == "cuda",
        )
        for batch in loader:
            rate = stage.learning_rate(self.progress.epoch, self.progress.step, steps)
            if rate is not None:
                for group in self.optimizer.param_groups:
                    group["lr"] = rate
            loss, terms = self._step(batch)
            self.progress.step += 1
            if math.isfinite(loss):
                self.progress.losses += loss
                self.progress.steps_counted += 1
            monitor.step(stage, loss, terms)
            bar.set_postfix(stage=stage.name, epoch=self.views.epoch + 1, loss=f"{loss:.4f}", refresh=False)
            bar.update(1)
            now = time.monotonic()
            self.progress.seconds = before + now - started
            if now - saved > 60 * self.config.checkpoint_minutes and self.progress.step < steps:
                self._save_checkpoint()
                saved = time.monotonic()
        self._end_epoch(stage, monitor)

    def _end_epoch(self, stage: Stage, monitor: Monitor) -> None:
        progress = self.progress
        mean = progress.losses / progress.steps_counted if progress.steps_counted else math.nan
        held_out = self._held_out_loss(stage)
        progress.epoch += 1
        progress.epochs_done += 1
        progress.step, progress.losses, progress.steps_counted = 0, 0.0, 0
        if self.config.patience > 0 and held_out < progress.best_loss:
            progress.best_loss, progress.best_epoch = held_out, progress.epoch
            state = self.network.state_dict()
            self._best = {key: value.detach().cpu().clone() for key, value in state.items()}
        monitor.epoch(stage, mean, held_out)

    def _has_converged(self) -> bool:
        patience = self.config.patience
        return patience > 0 and self.progress.epoch - self.progress.best_epoch >= patience

    def _end_stage(self) -> None:
        if self._best is not None:
            self.network.load_state_dict(self._best)
        self._best, self.optimizer = None, None
        self.progress.stage += 1
        self.progress.epoch, self.progress.best_loss, self.progress.best_epoch = 0, math.inf, 0

    def _begin_stage(self, stage: Stage) -> None:
        groups = self.method.parameter_groups(stage)
        trained = {id(value) for group in groups for value in group["params"]}
        for value in self.network.parameters():
            value.requires_grad_(id(value) in trained)
        self.module, self.optimizer = self.fabric.setup(
            self.method.stage_loss(stage), torch.optim.Adam(groups)
        )
        if self._resumed_optimizer is not None:
            self.optimizer.load_state_dict(self._resumed_optimizer)
            self._resumed_optimizer = None

    def _step(self, batch: tuple[torch.Tensor, data.BatchLabels]) -> tuple[float, dict[str, torch.Tensor]]:
        loss, terms = self.module(*self._to_device(batch))
        self.optimizer.zero_grad(set_to_none=True)
        self.fabric.backward(loss)
        value = (parallel.total(loss.detach()) / parallel.processes()).item()
        if self._scaler is not None:  # it looks for gradients that are not finite by itself
            scale = self._scaler.get_scale()
            self.optimizer.step()
            skipped = self._scaler.get_scale() < scale
        else:
            # Called for the norm: at this bound nothing is clipped.
            norm = torch.nn.utils.clip_grad_norm_(self.network.parameters(), 1e9)
            skipped = not (math.isfinite(value) and math.isfinite(norm.item()))
            if not skipped:
                self.optimizer.step()
        self.progress.skipped_steps += skipped
        return math.nan if skipped else value, terms

    def _held_out_loss(self, stage: Stage) -> float:
        """Return the mean loss of a stage over the frames held out, as they are; NaN where there is none."""
        if len(self.held_out) == 0:
            return math.nan
        module = self.method.stage_loss(stage).to(self.fabric.device).eval()
        losses = []
        with torch.no_grad(), self.fabric.autocast():
            for index in range(len(self.held_out)):
                loss, _ = module(*self._to_device(data.collate([self.held_out[index]])))
                losses.append(loss.item())
        return float(np.mean(losses))

    def _to_device(self, batch: tuple[torch.Tensor, data.BatchLabels]) -> list[torch.Tensor]:
        images, labels = batch
        return [
            value.to(self.fabric.device, non_blocking=True)
            for value in (
                images,
                labels.scene_coordinates,
                labels.depth,
                labels.half_depth,
                labels.map_from_camera,
            )
        ]

    def _epochs_begun(self) -> int:
        """Return the number of the epoch that is trained: views depend on it, so it never occurs twice."""
        earlier = self.method.stages[: self.progress.stage]
        return sum(stage.epochs for stage in earlier) + self.progress.epoch

    def _batches(self, epoch: int) -> Iterator[list[int]]:
        """Yield this process' share of each batch; the last one is filled up from the first."""
        order = np.random.default_rng([self.config.seed, epoch]).permutation(len(self.views))
        size = self.config.batch_size
        full = np.resize(order, self.steps_per_epoch * size)
        share = size // self.fabric.world_size
        for first in range(self.fabric.global_rank * share, len(full), size):
            yield full[first : first + share].tolist()

    def _views(self, frames: FrameStore, *, augmented: bool) -> data.ViewDataset:
        augmentation = self.config.augmentation if augmented else NO_AUGMENTATION
        return data.ViewDataset(
            frames,
            self.recording.camera,
            self.input_camera,
            self.statistics,
            augmentation,
            self.config.seed,
        )

    def _method(self) -> Method:
        fresh = not (self.out / CHECKPOINT).is_file()
        if self.config.method == "posenet":
            return PoseNetBaseline(self.config, pretrained=fresh)
        if self.config.method == "landmarks":
            return LandmarkMap(self.config, pretrained=fresh)
        reached = np.isfinite(self.views.rays[..., :1])  # by the lens; beyond, rays are 0 as in the node
        rays = rays_tensor(np.where(reached, self.views.rays, 0.0))
        return StructPose(self.config, self.statistics.depth_scale, rays, pretrained=fresh)

    def _seed(self) -> None:
        torch.manual_seed(self.config.seed)
        if self.fabric.device.type == "cuda":  # resuming to the bit needs the same kernels every time
            torch.backends.cudnn.benchmark = False
            torch.backends.cudnn.deterministic = True

    def _open_store(self, files: list[data.FrameFiles], skip_bad: bool) -> FrameStore:
        if self.fabric.is_global_zero:
            with tqdm(total=len(files), desc="reading frames", unit="frame") as bar:
                build_store(
                    self.store_folder,
                    self.recording,
                    files,
                    self.config.input,
                    skip_bad=skip_bad,
                    progress=lambda *_: bar.update(1),
                )
        self.fabric.barrier()
        return FrameStore(self.store_folder)

    def discard_store(self) -> None:
        """Remove the frames made ready, if they are this run's own."""
        if self._own_store and self.fabric.is_global_zero:
            remove_store(self.store_folder)

    def _say(self, lines: Iterable[str]) -> None:
        if self.fabric.is_global_zero:
            for line in lines:
                print(line)

    def _save_checkpoint(self) -> None:
        if not self.fabric.is_global_zero:
            return
        state = {
            "network": self.network.state_dict(),
            # At the end of a stage the next one begins with an optimiser of its own.
            "optimizer": {} if self.optimizer is None else self.optimizer.state_dict(),
            "progress": vars(self.progress),
            **self._origin(),
        }
        if self._best is not None:
            state["best_network"] = self._best
        if self._scaler is not None:
            state["scaler"] = self._scaler.state_dict()
        buffer = io.BytesIO()
        torch.save(state, buffer)
        write_atomic(self.out / CHECKPOINT, buffer.getvalue())

    def _origin(self) -> dict[str, Any]:
        """What the run was trained on, as plain values and tensors."""
        frames = self.views.frames
        chosen = np.unique(np.linspace(0, len(frames) - 1, EXAMPLES).round().astype(int)).tolist()
        images = np.stack([frames[index].image_rgb.transpose(2, 0, 1) for index in chosen])
        return {
            "statistics": as_tensors(self.statistics),
            "recording": {
                "name": self.recording.name,
                "camera": dataclasses.asdict(self.recording.camera),
                "refined_camera": dataclasses.asdict(self.refined_camera) if self.refined_camera else None,
            },
            # For exports to compare and calibrate on: uint8 (N, 3, H, W) and map_from_camera (N, 4, 4).
            "examples": torch.from_numpy(np.ascontiguousarray(images)),
            "example_poses": torch.from_numpy(np.stack([frames[index].map_from_camera for index in chosen])),
            "description": as_plain(self.description),
            "environment": training_environment(self.fabric.device),
            "map_cloud": {key: torch.from_numpy(value) for key, value in vars(self.map_cloud).items()},
        }

    def _load_checkpoint(self) -> None:
        if not (self.out / CHECKPOINT).is_file():
            return
        state = read_checkpoint(self.out)
        expect_same_frames(
            state, self.statistics, self.recording, self.out, "choose another --out, or delete the folder"
        )
        self.network.load_state_dict(state["network"])
        self.progress = Progress.read(state["progress"], self.method.stages)
        if self.progress.epoch > 0 or self.progress.step > 0:
            self._resumed_optimizer = state["optimizer"]
        self._best = state.get("best_network")
        if self._scaler is not None and "scaler" in state:
            self._scaler.load_state_dict(state["scaler"])


def _word_of_lens(camera: Camera, refined: Camera) -> str:
    before = camera.distortion[0] if camera.distortion else 0.0
    return (
        f"the recording's images show a lens of k1 {refined.distortion[0]:.3f}, its calibration says "
        f"{before:.3f}: for this camera the model uses the former; better calibrate it"
    )


def _warning_of_few_labels(share: float) -> list[str]:
    if share >= FEW_LABELS:
        return []
    return [
        f"warning: {100 * share:.0f} % of the cells have a label, and without geometry.validity_mask the "
        "network learns zeros in the others: set it to true"
    ]


def _expect_equal_shares(batch_size: int) -> None:
    if batch_size % parallel.processes():
        raise ConfigError(
            f"batch_size: expected a multiple of the {parallel.processes()} processes, got {batch_size}"
        )


def train(
    config: TrainingConfig,
    data_root: Path,
    out: Path,
    *,
    skip_bad: bool = False,
    store: Path | None = None,
) -> Path:
    """Train, measure on the held-out frames, and write `out`/model.onnx; returns its path.

    The baseline has no model file: for it the run's folder is returned.
    """
    trainer = Trainer(config, data_root, out, skip_bad=skip_bad, store=store)
    trainer.train()
    if trainer.fabric.is_global_zero and config.method != "posenet":
        _export(trainer)
    trainer.discard_store()
    return out if config.method == "posenet" else out / MODEL


def _export(trainer: Trainer) -> None:
    model = trainer.out / MODEL
    # Given, not only kept in the checkpoint: an earlier release may have finished this run without it.
    parity = export_run(trainer.out, model, map_cloud=trainer.map_cloud)
    calibration = None
    if isinstance(trainer.network, LandmarkNetwork):
        calibration = trainer.cross_fit(trainer.network)
    elif trainer.validation_files:
        calibration = calibrate(model, trainer.recording, trainer.validation_files)
    if calibration is not None:
        parity = export_run(trainer.out, model, calibration, trainer.map_cloud)
        shown = ("frames", "accepted", "median_position_m", "median_rotation_deg", "within_10cm_5deg")
        kept = {key: calibration.validation[key] for key in shown if key in calibration.validation}
        measured = ", ".join(f"{key} {value:.4g}" for key, value in kept.items())
        print(f"held-out frames: {measured}; inlier threshold {calibration.inlier_threshold:.3f} m")
    print(f"wrote {model} (agrees with torch to {parity.worst:.1e} relative)")
