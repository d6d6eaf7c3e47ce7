"""The lens of a recording, as its own images show it.

Many recordings come with the data sheet's intrinsics and no distortion. At the border of the image such a
camera's rays are off by more than a match of features is. A landmark that two frames see at different places
of the image tells; k1, the radial distortion of first order, is nearly all of it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from structpose_ros.camera import Camera
from structpose_ros.training.landmarks import Landmarks

BLOCKS = 10  # of successive frames: a match within a block says little, both views are nearly the same
QUERIES = 30_000
TARGETS = 16384
LEAST_MOTION = 0.1  # between the views of a match, in the image at z = 1: where nothing moves, no lens shows
LEAST_MATCHES = 500
LARGEST = 0.4  # change of k1 that is looked for
LEAST_PIXELS = 1.0  # that a change must move the corners of the image by: less is left alone
_SCALE = 0.02  # of Geman-McClure, at z = 1: a match that is off by ten pixels counts half
_TEMPERATURE = 0.06
_CHUNK = 2048

Array = npt.NDArray[np.float64]


def refined_lens(landmarks: Landmarks, poses: Sequence[Array], camera: Camera, seed: int) -> Camera | None:
    """Return the camera with the k1 that makes landmarks of different frames agree best.

    Args:
        landmarks: of the recording, laid out with `camera`.
        poses: map_from_camera (4, 4) of its frames.
        camera: of the images that the landmarks' pixels are of.
        seed: of the choice of matches.

    Returns:
        None where the lens is right already, or where nothing tells.
    """
    queries, targets, weights = _matches(landmarks, len(poses), seed)
    map_from_camera = np.stack(poses)
    camera_from_map = np.linalg.inv(map_from_camera)
    query_from_target = (
        camera_from_map[landmarks.frames[queries]] @ map_from_camera[landmarks.frames[targets]]
    )
    seen, pixels = landmarks.pixels[queries], landmarks.pixels[targets]
    depths = landmarks.depths[targets, None]
    focal = np.array([camera.fx, camera.fy])

    def projected(lens: Camera) -> Array:
        points = np.einsum("nij,nj->ni", query_from_target[:, :3, :3], lens.rays(pixels) * depths)
        return lens.project(points + query_from_target[:, :3, 3])

    # Where a match should be seen, not where it was: what looks alike in one place of the image is no motion.
    motion = np.linalg.norm((projected(camera) - pixels) / focal, axis=1)
    telling = motion >= LEAST_MOTION  # NaN is not
    if telling.sum() < LEAST_MATCHES:
        return None
    query_from_target, seen, pixels = query_from_target[telling], seen[telling], pixels[telling]
    depths, weights = depths[telling], weights[telling]

    def cost(change: float) -> float:
        errors = (projected(camera.with_radial(change)) - seen) / focal
        squared = np.einsum("ni,ni->n", errors, errors)
        return float(weights @ np.where(np.isfinite(squared), squared / (squared + _SCALE**2), 1.0))

    best, step = 0.0, LARGEST / 20
    for reach in (20, 10, 10):  # the cost may have several minima: a grid, refined twice
        tried = best + step * np.arange(-reach, reach + 1)
        best, step = float(tried[np.argmin([cost(change) for change in tried])]), step / 10
    refined = camera.with_radial(best)
    corners = np.array([[0.0, 0.0], [camera.width - 1.0, 0.0], [0.0, camera.height - 1.0]])
    moved = np.linalg.norm(refined.project(camera.rays(corners)) - corners, axis=1)
    return refined if np.nanmax(moved) >= LEAST_PIXELS else None


def _matches(
    landmarks: Landmarks, frames: int, seed: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], Array]:
    """Return landmarks, those of other blocks of frames that look most like them, and weights; each (N,)."""
    random = np.random.default_rng(seed)
    count = len(landmarks.depths)
    queries = np.sort(random.permutation(count)[:QUERIES])
    pool = landmarks.choice(TARGETS, seed)
    blocks = landmarks.frames.astype(np.int64) * BLOCKS // frames
    keys, block_of_key = landmarks.descriptors[torch.from_numpy(pool)], torch.from_numpy(blocks[pool])
    nearest, similarity = [], []
    for first in range(0, len(queries), _CHUNK):
        part = torch.from_numpy(queries[first : first + _CHUNK])
        cosine = landmarks.descriptors[part] @ keys.T
        cosine[torch.from_numpy(blocks)[part][:, None] == block_of_key] = -1.0
        best = cosine.max(dim=1)
        nearest.append(pool[best.indices.numpy()])
        similarity.append(best.values.double().numpy())
    cosines = np.concatenate(similarity)
    known = cosines > 0
    weights = np.exp((cosines - 1.0) / _TEMPERATURE)
    return queries[known], np.concatenate(nearest)[known], weights[known]
