"""A map of landmarks, looked up by the features of an image: scene coordinates without training.

Each landmark is a point of the map with the descriptor and the depth it was seen with. A cell of an image
takes the place of the landmark whose descriptor is most like its own: hard attention over the whole map, the
same work on every frame. The descriptors are XFeat's, which were learned elsewhere: they hold in views far
from the recorded ones, where a network that learned the recording by heart does not.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from structpose_ros.camera import Camera
from structpose_ros.training.config import LandmarkConfig
from structpose_ros.training.dataset import normalize_images
from structpose_ros.training.frames import Frame, RecordingError
from structpose_ros.training.labels import sample_labels
from structpose_ros.training.xfeat import CELL, CHANNELS, Features, XFeat

STRIDE = 2 * CELL  # of the output: the best keypoint of every 2 x 2 of XFeat's cells
LEAST_SCORE = 0.05  # probability of a keypoint; below it a cell has nothing to be recognised by
LEVELS = 200.0  # of int8 for 1.0: components of descriptors are hardly ever larger than 127 / 200
MOST_CANDIDATES = 1_500_000  # kept at a time: 250 MB
EDGE_PIXELS, EDGE = 3, 0.05  # a depth that changes by more than 5 % within 3 pixels may be a neighbour's
VOXEL = 0.10  # metres


@dataclass(frozen=True)
class Keypoints:
    """Points of images, one for each cell of h x w.

    pixels: (B, 2, h, w) of the image, x and y, whole numbers. scores: (B, 1, h, w) probability that there is
    a keypoint. descriptors: (B, h, w, 64), of length 1.
    """

    pixels: Tensor
    scores: Tensor
    descriptors: Tensor


class LandmarkNetwork(nn.Module):
    """XFeat and the landmarks it looks up.

    int8: look them up by descriptors rounded to 8 bits, as a model file for the CPU does (see `int8_lookup`).
    """

    keys: Tensor
    positions: Tensor
    depths: Tensor
    ray_spacing: Tensor

    def __init__(self, config: LandmarkConfig) -> None:
        """Build an empty map; XFeat's weights are random unless `xfeat.load` follows."""
        super().__init__()
        self.temperature = config.temperature
        self.int8 = False
        self.xfeat = XFeat()
        self.register_buffer("keys", torch.zeros(config.count, CHANNELS))  # of length 1
        self.register_buffer("positions", torch.zeros(config.count, 3))  # metres, map frame, centred
        self.register_buffer("depths", torch.ones(config.count))  # metres, as seen when recorded
        self.register_buffer("ray_spacing", torch.ones(()))  # between neighbouring cells when recorded, z = 1

    def forward(self, image_B3HW: Tensor, rays: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Look an image up.

        Args:
            image_B3HW: normalised; its sides are divisible by 16.
            rays: (B, 3, h, w) through the centres of the cells of 16 x 16 pixels.

        Returns:
            depth (B, 1, h, w) m; scene coordinates (B, 3, h, w) m, centred; weights (B, 1, h, w) in 0 .. 1;
            offsets (B, 2, h, w) pixels from the cells' centres to the keypoints that all this is said of.
        """
        points = strongest_of(self.xfeat(image_B3HW))
        batch, h, w, _ = points.descriptors.shape
        queries = points.descriptors.flatten(1, 2)  # (B, N, 64)
        nearest = torch.argmax(self._likeness(queries), dim=2)  # (B, N)
        similarity = (queries * self.keys[nearest]).sum(dim=2).reshape(batch, 1, h, w)
        weights = torch.exp((similarity - 1.0) / self.temperature) * (points.scores > LEAST_SCORE)
        # A feature looks as it did at the distance where it was f'/f times as large, by the focal lengths.
        zoom = self.ray_spacing / (rays[:, :1, h // 2, w // 2] - rays[:, :1, h // 2, w // 2 - 1])
        depth = self.depths[nearest].reshape(batch, 1, h, w) * zoom[..., None]
        scene_coordinates = self.positions[nearest].transpose(1, 2).reshape(batch, 3, h, w)
        return depth, scene_coordinates, weights, points.pixels - _centres(h, w, STRIDE, points.pixels)

    def _likeness(self, queries: Tensor) -> Tensor:
        """Return how alike queries (B, N, 64) and the landmarks are, (B, N, landmarks), to some scale."""
        if not self.int8:
            return queries @ self.keys.T
        # Whole numbers below 2^24: float32 holds them exactly, so that torch chooses as the model file does.
        levels = torch.clamp(torch.round(queries * LEVELS) + 128.0, 0.0, 255.0) - 128.0
        return levels @ key_levels(self.keys).T

    def keypoints(self, image_B3HW: Tensor) -> Keypoints:
        """Return the keypoint of each of XFeat's cells."""
        return keypoints_of(self.xfeat(image_B3HW))

    def set_landmarks(
        self, landmarks: Landmarks, scene_mean: npt.NDArray[np.float64], camera: Camera
    ) -> None:
        """Fill the map.

        Args:
            landmarks: too few are repeated, of too many the first are taken.
            scene_mean: (3,) m, what the coordinates are relative to.
            camera: of the images at input size.
        """
        count = len(self.keys)
        index = np.resize(np.arange(len(landmarks.depths)), count)
        self.keys.copy_(landmarks.descriptors[index])
        self.positions.copy_(torch.from_numpy(landmarks.points_in_map[index] - scene_mean))
        self.depths.copy_(torch.from_numpy(landmarks.depths[index]))
        rays = camera.ray_grid(STRIDE)
        h, w = rays.shape[:2]
        self.ray_spacing.fill_(float(rays[h // 2, w // 2, 0] - rays[h // 2, w // 2 - 1, 0]))


@dataclass(frozen=True)
class Landmarks:
    """Points that a recording's frames show.

    descriptors: (N, 64), of length 1. points_in_map: (N, 3) m. depths: (N,) m. scores: (N,) how reliably they
    are found again. frames: (N,) the number of the frame that shows each. pixels: (N, 2) where, in the image
    at input size.
    """

    descriptors: Tensor
    points_in_map: npt.NDArray[np.float64]
    depths: npt.NDArray[np.float32]
    scores: npt.NDArray[np.float32]
    frames: npt.NDArray[np.int32]
    pixels: npt.NDArray[np.float32]

    def __getitem__(self, index: npt.NDArray[np.integer] | npt.NDArray[np.bool_]) -> Landmarks:
        """Return those of an index or a mask."""
        return Landmarks(
            self.descriptors[torch.from_numpy(index)],
            *(self.points_in_map[index], self.depths[index], self.scores[index]),
            *(self.frames[index], self.pixels[index]),
        )

    def chosen(self, count: int, seed: int) -> Landmarks:
        """Return at most `count` of them, as `choice` does."""
        return self if len(self.depths) <= count else self[self.choice(count, seed)]

    def choice(self, count: int, seed: int) -> npt.NDArray[np.int64]:
        """Return the index of at most `count` of them, drawn at random, in order.

        Those are likely that are found reliably, and where there are few others: walls that were looked at
        for long would fill the map.
        """
        if len(self.depths) <= count:
            return np.arange(len(self.depths))
        voxels = np.floor(self.points_in_map / VOXEL).astype(np.int64)
        _, voxel_of, sizes = np.unique(voxels, axis=0, return_inverse=True, return_counts=True)
        chance = self.scores / np.sqrt(sizes[voxel_of.reshape(-1)])
        # Exponential variates over the chances: the smallest are a weighted sample without replacement.
        order = np.random.default_rng(seed).exponential(size=len(chance)) / chance
        return np.sort(np.argpartition(order, count)[:count])


def key_levels(keys: Tensor) -> Tensor:
    """Return descriptors (N, 64) in whole numbers, -127 .. 127."""
    return torch.clamp(torch.round(keys * LEVELS), -127.0, 127.0)


def keypoints_of(features: Features) -> Keypoints:
    """Return the most likely keypoint of each cell, and the descriptor there."""
    pixels, scores = _likeliest(features.keypoints)
    return Keypoints(pixels, scores, _descriptors_at(pixels, features.descriptors))


def strongest_of(features: Features) -> Keypoints:
    """Return the keypoint with the highest score of every 2 x 2 cells, and the descriptor there."""
    pixels, scores = _likeliest(features.keypoints)
    best = functional.pixel_unshuffle(scores, 2).argmax(dim=1, keepdim=True)

    def taken(values: Tensor) -> Tensor:
        batch, channels, h, w = values.shape
        grouped = functional.pixel_unshuffle(values, 2).reshape(batch, channels, 4, h // 2, w // 2)
        index = best[:, None].expand(batch, channels, 1, h // 2, w // 2)
        return torch.gather(grouped, 2, index)[:, :, 0]

    pixels = taken(pixels)
    return Keypoints(pixels, taken(scores), _descriptors_at(pixels, features.descriptors))


def _likeliest(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Return the most likely pixel (B, 2, h, w) of each cell, and its probability (B, 1, h, w).

    Of a softmax over all logits only the largest is needed. It is looked for in the rows of a cell's pixels,
    then in the best of them: ONNX Runtime tells what is largest much faster than where, and the time of the
    latter depends on the values.
    """
    rows = logits[:, :-1].unflatten(1, (CELL, CELL))  # (B, 8, 8, h, w)
    of_rows = rows.amax(dim=2)
    largest, y = of_rows.amax(dim=1, keepdim=True), of_rows.argmax(dim=1, keepdim=True)
    x = torch.gather(rows, 1, y[:, None].expand(-1, -1, CELL, -1, -1))[:, 0].argmax(dim=1, keepdim=True)
    above = torch.maximum(largest, logits[:, -1:])
    scores = torch.exp(largest - above) / torch.exp(logits - above).sum(dim=1, keepdim=True)
    within = torch.cat([x, y], dim=1)
    h, w = scores.shape[2:]
    return within.to(scores) - (CELL - 1) / 2 + _centres(h, w, CELL, scores), scores


def _descriptors_at(pixels: Tensor, descriptors: Tensor) -> Tensor:
    """Return descriptors (B, h, w, 64), of length 1, at pixels (B, 2, h, w) of the image.

    Of descriptors (B, 64, H, W) of length 1 at the cells' centres, interpolated linearly. Whole ones are
    gathered: ONNX Runtime's GridSample gathers number by number, which takes twice as long.
    """
    batch, channels, height, width = descriptors.shape
    rows = functional.normalize(descriptors, dim=1).flatten(2).transpose(1, 2).reshape(-1, channels)
    x, y = ((pixels + 0.5) / CELL - 0.5).unbind(1)
    x, y = x.clamp(0, width - 1), y.clamp(0, height - 1)
    left, top = x.floor().clamp(max=max(width - 2, 0)), y.floor().clamp(max=max(height - 2, 0))
    # To the next column and row, where there is one.
    across, down = min(1, width - 1), width * min(1, height - 1)
    first = torch.arange(batch, device=rows.device)[:, None, None] * (height * width)  # of each image
    index = first + (top * width + left).long()
    right, below = (x - left)[..., None], (y - top)[..., None]
    upper = rows[index] * (1.0 - right) + rows[index + across] * right
    lower = rows[index + down] * (1.0 - right) + rows[index + down + across] * right
    return functional.normalize(upper * (1.0 - below) + lower * below, dim=-1)


@torch.no_grad()
def collect(network: LandmarkNetwork, frames: Iterable[Frame], camera: Camera, size: Camera) -> Landmarks:
    """Return the keypoints of frames that have a depth to rely on.

    Args:
        network: whose XFeat is used.
        frames: images at input size, depth as recorded.
        camera: that of the depth.
        size: that of the images.

    Raises:
        RecordingError: none has a depth.
    """
    device = network.keys.device
    random = np.random.default_rng(0)
    kept: list[Landmarks] = []
    share, total = 1.0, 0
    for number, frame in enumerate(frames):
        image = torch.from_numpy(np.ascontiguousarray(frame.image_rgb.transpose(2, 0, 1))[None]).to(device)
        features = network.xfeat(normalize_images(image))
        points = keypoints_of(features)
        pixels = points.pixels[0].permute(1, 2, 0).reshape(-1, 2).double().cpu().numpy()
        scores = points.scores.flatten().cpu().numpy()
        labelled = _reliable_labels(frame, camera, size, pixels)
        usable = (scores > LEAST_SCORE) & (labelled[:, 3] > 0)
        usable &= random.random(len(usable)) < share
        reliability = features.reliability.flatten().cpu().numpy()
        kept.append(
            Landmarks(
                points.descriptors[0].flatten(0, 1).cpu()[torch.from_numpy(usable)],
                labelled[usable, :3],
                labelled[usable, 3].astype(np.float32),
                (scores * reliability)[usable],
                np.full(int(usable.sum()), number, dtype=np.int32),
                pixels[usable].astype(np.float32),
            )
        )
        total += len(kept[-1].depths)
        if total > MOST_CANDIDATES:  # a long recording needs no more of each frame
            kept, share = [item[random.random(len(item.depths)) < 0.5] for item in kept], share / 2
            total = sum(len(item.depths) for item in kept)
    if total == 0:
        raise RecordingError("expected keypoints with a valid depth in the training frames, got none")
    return Landmarks(
        torch.cat([item.descriptors for item in kept]),
        *(
            np.concatenate([getattr(item, name) for item in kept])
            for name in ("points_in_map", "depths", "scores", "frames", "pixels")
        ),
    )


def laid_out(landmarks: Landmarks, poses: Sequence[npt.NDArray[np.float64]], camera: Camera) -> Landmarks:
    """Return the landmarks where another camera saw them, at the depths that they have.

    A pixel keeps its depth: depth and colour cameras of one device mostly have lenses alike.

    Args:
        landmarks: as `collect` gives them.
        poses: map_from_camera (4, 4) of the frames that their numbers mean.
        camera: of the images.
    """
    map_from_camera = np.stack(poses)[landmarks.frames]
    points = camera.rays(landmarks.pixels.astype(np.float64)) * landmarks.depths[:, None]
    points_in_map = np.einsum("nij,nj->ni", map_from_camera[:, :3, :3], points) + map_from_camera[:, :3, 3]
    reached = np.isfinite(points_in_map).all(axis=1)
    return dataclasses.replace(landmarks, points_in_map=points_in_map)[reached]


def _reliable_labels(
    frame: Frame, camera: Camera, size: Camera, pixels: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Return x, y, z in the map and the depth, metres, of pixels (N, 2); (N, 4), depth 0 where unreliable."""

    def depths_at(shift: tuple[int, int]) -> npt.NDArray[np.float32]:
        rays = size.rays(pixels + shift)[:, None]
        return sample_labels(frame.depth_mm, camera, frame.map_from_camera, rays).depth[:, 0]

    rays = size.rays(pixels)[:, None]
    labels = sample_labels(frame.depth_mm, camera, frame.map_from_camera, rays)
    depth = labels.depth[:, 0]
    around = np.stack(
        [
            depths_at((x, y))
            for x, y in ((-EDGE_PIXELS, 0), (EDGE_PIXELS, 0), (0, -EDGE_PIXELS), (0, EDGE_PIXELS))
        ]
    )
    around = np.where(around > 0, around, depth)
    spread = np.maximum(around.max(axis=0), depth) - np.minimum(around.min(axis=0), depth)
    reliable = spread <= EDGE * depth
    return np.column_stack([labels.scene_coordinates[:, 0], np.where(reliable, depth, 0.0)])


def _centres(h: int, w: int, stride: int, like: Tensor) -> Tensor:
    """Return the pixel coordinates (1, 2, h, w) of cells' centres."""
    columns = torch.arange(w).to(like) * stride + (stride - 1) / 2
    rows = torch.arange(h).to(like) * stride + (stride - 1) / 2
    return torch.stack([columns.expand(h, w), rows[:, None].expand(h, w)])[None]
