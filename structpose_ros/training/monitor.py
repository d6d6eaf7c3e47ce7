"""What a training tells while it runs: log.jsonl, and scalars and pictures for TensorBoard."""

from __future__ import annotations

import json
import math
from types import TracebackType
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import numpy.typing as npt
import torch

from structpose_ros.training.dataset import collate, normalize_images
from structpose_ros.training.frames import write_atomic
from structpose_ros.training.networks import StructPoseNetwork, depth_from_logits
from structpose_ros.training.runs import LOG
from structpose_ros.training.stages import Stage

if TYPE_CHECKING:
    from structpose_ros.training.train import Trainer

TENSORBOARD = "tensorboard"
PANELS = 3  # frames shown


class Monitor:
    """Writes for one run; in all but the first process it does nothing."""

    def __init__(self, trainer: Trainer) -> None:
        """Take up the log where the checkpoint stands: what a killed run wrote beyond it is taken back."""
        self.trainer = trainer
        self._writer: Any = None
        self._path = trainer.out / LOG
        if trainer.fabric.is_global_zero:
            self._trim_log()

    def __enter__(self) -> Monitor:
        """Open TensorBoard's file."""
        if self.trainer.fabric.is_global_zero:
            from torch.utils.tensorboard import SummaryWriter

            folder = self.trainer.out / TENSORBOARD
            self._writer = SummaryWriter(str(folder), purge_step=self._steps_done() + 1)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it."""
        if self._writer is not None:
            self._writer.close()

    def step(self, stage: Stage, loss: float, terms: dict[str, torch.Tensor]) -> None:
        """Tell of a step: its loss, the terms of this process' share, and the learning rate."""
        if self._writer is None:
            return
        at = self._steps_done()
        if math.isfinite(loss):
            self._writer.add_scalar(f"{stage.name}/loss", loss, at)
        for name, value in terms.items():
            self._writer.add_scalar(f"{stage.name}/{name}", value.item(), at)
        self._writer.add_scalar("learning_rate", self.trainer.optimizer.param_groups[0]["lr"], at)

    def epoch(self, stage: Stage, loss: float, held_out: float) -> None:
        """Tell of a finished epoch."""
        if self._writer is None:
            return
        progress = self.trainer.progress
        line = {
            "epoch": progress.epochs_done,
            "stage": stage.name,
            "loss": loss if math.isfinite(loss) else None,
            "held_out_loss": held_out if math.isfinite(held_out) else None,
            "skipped_steps": progress.skipped_steps,
            "seconds": round(progress.seconds, 1),
        }
        with self._path.open("a") as stream:
            stream.write(json.dumps(line) + "\n")
        if math.isfinite(held_out):
            self._writer.add_scalar(f"{stage.name}/held_out_loss", held_out, self._steps_done())
        if progress.epoch % self.trainer.config.panels_every == 0 or progress.epoch == stage.epochs:
            for name, picture in self._panels():
                self._writer.add_image(name, picture, self._steps_done(), dataformats="HWC")

    def _steps_done(self) -> int:
        progress = self.trainer.progress
        return progress.epochs_done * self.trainer.steps_per_epoch + progress.step

    def _trim_log(self) -> None:
        if not self._path.is_file():
            return
        lines = [line for line in self._path.read_text().splitlines() if line]
        kept = [line for line in lines if _epoch_of(line) <= self.trainer.progress.epochs_done]
        if kept != lines:
            write_atomic(self._path, "".join(f"{line}\n" for line in kept).encode())

    def _panels(self) -> list[tuple[str, npt.NDArray[np.uint8]]]:
        """Return pictures of a few frames, held-out ones where there are: what the network makes of them."""
        network = self.trainer.network
        if not isinstance(network, StructPoseNetwork):
            return []
        views = self.trainer.held_out if len(self.trainer.held_out) else self.trainer.views
        chosen = np.unique(np.linspace(0, len(views) - 1, PANELS).round().astype(int)).tolist()
        training = network.training
        network.eval()
        pictures = []
        for index in chosen:
            images, labels = collate([views[index]])
            with torch.no_grad():
                like = next(network.parameters())
                output = network(normalize_images(images.to(like.device)).to(like.dtype))
            depth = depth_from_logits(output.depth_logits, self.trainer.statistics.depth_scale)
            scene = output.scene_coordinates[0].permute(1, 2, 0).float().cpu().numpy()
            picture = self._panel(
                images[0].permute(1, 2, 0).numpy(),
                labels.depth[0, 0].numpy(),
                depth[0, 0].float().cpu().numpy(),
                labels.scene_coordinates[0].permute(1, 2, 0).numpy(),
                scene,
            )
            pictures.append((f"frames/{views.frames[index].name}", picture))
        network.train(training)
        return pictures

    def _panel(
        self,
        image_rgb: npt.NDArray[np.uint8],
        true_depth: npt.NDArray[np.float32],
        depth: npt.NDArray[np.float32],
        true_scene: npt.NDArray[np.float32],
        scene: npt.NDArray[np.float32],
    ) -> npt.NDArray[np.uint8]:
        """Return image | depth, true and predicted | scene coordinates, true and predicted, side by side."""
        statistics = self.trainer.statistics
        low, high = statistics.map_min - statistics.scene_mean, statistics.map_max - statistics.scene_mean
        unlabelled = (true_depth == 0)[..., None]

        def colored_depth(values: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
            shown = np.clip(values / (3 * statistics.depth_scale) * 255, 0, 255).astype(np.uint8)
            return np.asarray(cv2.applyColorMap(shown, cv2.COLORMAP_TURBO)[..., ::-1], dtype=np.uint8)

        def colored_scene(values: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
            return np.clip((values - low) / (high - low) * 255, 0, 255).astype(np.uint8)

        pictures = [
            np.where(unlabelled, np.uint8(0), colored_depth(true_depth)),
            colored_depth(depth),
            np.where(unlabelled, np.uint8(0), colored_scene(true_scene)),
            colored_scene(scene),
        ]
        size = (image_rgb.shape[1], image_rgb.shape[0])
        large = [cv2.resize(picture, size, interpolation=cv2.INTER_NEAREST) for picture in pictures]
        return np.concatenate([image_rgb, *large], axis=1)


def _epoch_of(line: str) -> float:
    """Return a log line's epoch; a line that was cut off lies beyond all."""
    try:
        return float(json.loads(line)["epoch"])
    except (ValueError, KeyError, TypeError):
        return math.inf
