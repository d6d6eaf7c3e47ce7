"""Drives of a wheeled robot through the free space of the room: camera poses at 10 Hz.

A drive is a list of way-points, joined by shortest paths that keep clear of the furniture, smoothed, with a
heading that follows the path, looks aside and, at some way-points, turns on the spot. Everything follows from
the seed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from .freespace import FreeSpace
from .surfaces import Array

FRAME_S = 0.1
FINE_STEPS = 10  # simulation steps per frame
BODY_FROM_OPTICAL = np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])


@dataclass(frozen=True)
class Style:
    """How a tour is driven; speeds in m/s and degrees/s, lengths in m, angles in degrees."""

    number: int  # keeps the random streams of the tours apart
    frames: int  # usual length
    speed: float
    turn_rate: float
    look_aside: float
    look_period: float  # metres driven per swing of the head
    spin_share: float  # share of the way-points where the robot turns by 360 degrees
    height: float
    pitch: float
    spacing: float  # least distance between successive way-points
    reverse_every: int  # way-points after which the robot rather turns back
    margin: float  # clearance kept
    attempts: int  # random drives to choose from


STYLES = {
    "mapping": Style(1, 1500, 0.58, 48.0, 45.0, 3.7, 0.3, 1.0, -1.0, 1.5, 9, 0.5, 24),
    "localization": Style(2, 300, 0.45, 38.0, 28.0, 3.3, 0.0, 1.02, 0.5, 1.2, 99, 0.57, 1),
}


@dataclass(frozen=True)
class Tour:
    """Poses map_from_camera (N, 4, 4), angular velocities (N, 3) rad/s in the camera frame, stamps (N,) s."""

    map_from_camera: Array
    angular_velocity: Array
    stamps: Array


def planned_frames(name: str, frames: int) -> int:
    """Return length a tour is planned for: shorter requests are its beginning, longer ones another tour."""
    return max(frames, STYLES[name].frames)


def plan_tour(space: FreeSpace, name: str, seed: int, frames: int) -> Tour:
    """Return the first `frames` poses of the tour that is planned for planned_frames(name, frames).

    Of several random drives, the one is taken that leaves the fewest gaps in what has been seen.
    """
    style = STYLES[name]
    length = planned_frames(name, frames)
    drives = (
        plan_drive(space, style, np.random.default_rng([seed, 50, style.number, attempt]), length)
        for attempt in range(style.attempts)
    )
    best = min(drives, key=lambda tour: gaps(space, tour)) if style.attempts > 1 else next(drives)
    return Tour(best.map_from_camera[:frames], best.angular_velocity[:frames], best.stamps[:frames])


def plan_drive(space: FreeSpace, style: Style, rng: Generator, frames: int) -> Tour:
    """Return one random drive of this many frames."""
    duration = frames * FRAME_S
    way_points, spins = choose_way_points(space, style, rng, duration)
    path, stops = smooth_path(space, style, way_points, spins)
    states = add_headings(path, stops, style, rng)
    timed = drive(states, style, duration + 1.0)
    return to_poses(timed, style, rng, frames)


def gaps(space: FreeSpace, tour: Tour) -> float:
    """Return the mean, over poses one could take, of the squared way to the nearest frame of the tour.

    A step of 25 cm counts as much as a turn of 15 degrees.
    """
    places = space.reachable(0.53)[::11]
    views = tour.map_from_camera[::3]
    away = np.linalg.norm(places[:, None] - views[:, :2, 3], axis=-1) / 0.25
    headings = np.arctan2(views[:, 1, 2], views[:, 0, 2])
    total = 0.0
    for wanted in np.arange(12) * np.pi / 6:
        turn = np.abs((headings - wanted + np.pi) % (2 * np.pi) - np.pi) / np.deg2rad(15)
        total += float(np.mean(np.min(away + turn, axis=1) ** 2))
    return total / 12


def choose_way_points(
    space: FreeSpace, style: Style, rng: Generator, duration: float
) -> tuple[Array, list[int]]:
    """Return way-points (N, 2) that seek the least visited parts, and the indices of the full turns."""
    candidates = space.reachable(style.margin + 0.02)
    points = [candidates[rng.integers(len(candidates))]]
    spins: list[int] = []
    course = np.zeros(2)
    budget, last_visit = duration, np.linalg.norm(candidates - points[0], axis=1)
    spin_visit = np.full(len(candidates), 3.0)
    while budget > -0.5 * duration:  # legs cut short by smoothing must not leave the tour too short
        offset = candidates - points[-1]
        away = np.linalg.norm(offset, axis=1)
        # Going on in the same direction saves the time of turning round.
        onward = (offset @ course) / np.maximum(away, 1e-6)
        score = (
            np.minimum(last_visit, 1.5) + 0.8 * onward + rng.uniform(0, 0.6, len(candidates)) - 0.12 * away
        )
        score[away < style.spacing] -= 10.0
        points.append(candidates[int(np.argmax(score))])
        course = (
            (-1.0 if len(points) % style.reverse_every == 0 else 1.0)
            * (points[-1] - points[-2])
            / np.linalg.norm(points[-1] - points[-2])
        )
        reach = np.linalg.norm(candidates - points[-1], axis=1)
        last_visit = np.minimum(last_visit + 0.1, reach)
        budget -= 1.2 * float(np.linalg.norm(points[-1] - points[-2])) / style.speed
        nearest = int(np.argmin(reach))
        if rng.random() < style.spin_share * min(1.0, spin_visit[nearest] / 0.8):
            spins.append(len(points) - 1)
            spin_visit = np.minimum(spin_visit, reach)
            budget -= 360.0 / style.turn_rate
    return np.array(points), spins


def smooth_path(
    space: FreeSpace, style: Style, way_points: Array, spins: Sequence[int]
) -> tuple[Array, list[int]]:
    """Return a path (N, 2), a point every 3 cm through all way-points, and the indices of the full turns."""
    legs = [space.route(a, b, style.margin) for a, b in zip(way_points[:-1], way_points[1:], strict=True)]
    rough = np.concatenate(legs)
    marks = np.cumsum([0] + [len(leg) for leg in legs])
    travelled = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(rough, axis=0), axis=1))])
    even = np.arange(0, travelled[-1], 0.03)
    path = np.stack([np.interp(even, travelled, rough[:, k]) for k in (0, 1)], -1)
    for _ in range(40):
        path = blur_rows(path, 4.0)
        lack = np.maximum(style.margin - space.clearance(path), 0)
        path = path + lack[:, None] * space.uphill(path)
    stops = [int(np.searchsorted(even, travelled[min(marks[k], len(travelled) - 1)])) for k in spins]
    return path, stops


def blur_rows(values: Array, sigma: float) -> Array:
    """Return Gaussian smoothing along axis 0 with replicated ends."""
    radius = int(4 * sigma) + 1
    kernel = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    padded = np.pad(values, ((radius, radius), (0, 0)), mode="edge")
    return np.stack([np.convolve(column, kernel / kernel.sum(), "valid") for column in padded.T], -1)


def add_headings(path: Array, stops: Sequence[int], style: Style, rng: Generator) -> Array:
    """Return states (N, 3): x, y, yaw (rad, unwrapped); full turns are states that differ in yaw alone."""
    ahead = np.gradient(blur_rows(path, 3.0), axis=0)
    yaw = blur_rows(np.unwrap(np.arctan2(ahead[:, 1], ahead[:, 0]))[:, None], 5.0)[:, 0]
    driven = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(path, axis=0), axis=1))])
    phase, tempo = rng.uniform(0, 2 * np.pi, 2), rng.uniform(0.8, 1.2, 2)
    swing = np.sin(2 * np.pi * driven * tempo[0] / style.look_period + phase[0])
    swing += 0.5 * np.sin(2 * np.pi * driven * tempo[1] / (2.7 * style.look_period) + phase[1])
    states = np.column_stack([path, yaw + np.deg2rad(style.look_aside) * swing])
    pieces, start, turned = [], 0, 0.0
    for stop in sorted(set(stops)):
        stop = min(stop, len(states) - 1)
        pieces.append(states[start : stop + 1] + [0, 0, turned])
        full = 2 * np.pi * (1 if rng.random() < 0.5 else -1)
        spin = np.repeat(pieces[-1][-1:], 180, axis=0)
        spin[:, 2] += np.linspace(0, full, 180)
        pieces.append(spin)
        start, turned = stop + 1, turned + full
    pieces.append(states[start:] + [0, 0, turned])
    return np.concatenate(pieces)


def drive(states: Array, style: Style, duration: float) -> Array:
    """Return states (N, 3), FINE_STEPS per frame, within the limits, changing pace smoothly."""
    step = np.diff(states, axis=0)
    seconds = np.maximum(
        np.linalg.norm(step[:, :2], axis=1) / style.speed, np.abs(step[:, 2]) / np.deg2rad(style.turn_rate)
    )
    reached = np.concatenate([[0.0], np.cumsum(seconds)])
    if reached[-1] < duration:
        raise RuntimeError(f"planned drive lasts {reached[-1]:.1f} s, expected at least {duration:.1f} s")
    fine = np.arange(0, duration, FRAME_S / FINE_STEPS)
    timed = np.stack([np.interp(fine, reached, states[:, k]) for k in range(3)], -1)
    return blur_rows(timed, 0.25 * FINE_STEPS / FRAME_S)


def to_poses(timed: Array, style: Style, rng: Generator, frames: int) -> Tour:
    """Return camera poses at 10 Hz with the small pitch, roll and height wobble of a mast on wheels."""
    seconds = np.arange(len(timed)) * FRAME_S / FINE_STEPS
    pitch = np.deg2rad(style.pitch + wobble(rng, seconds, 0.9))
    roll = np.deg2rad(wobble(rng, seconds, 0.8))
    height = style.height + wobble(rng, seconds * 0.3, 0.03)
    rotation = rotations(timed[:, 2], pitch, roll)
    used = np.arange(frames) * FINE_STEPS
    before, after = rotation[np.maximum(used - 1, 0)], rotation[used + 1]
    change = np.swapaxes(before, 1, 2) @ after
    span = (used + 1 - np.maximum(used - 1, 0)) * FRAME_S / FINE_STEPS
    spin = np.stack(
        [
            change[:, 2, 1] - change[:, 1, 2],
            change[:, 0, 2] - change[:, 2, 0],
            change[:, 1, 0] - change[:, 0, 1],
        ],
        -1,
    ) / (2 * span[:, None])
    poses = np.tile(np.eye(4), (frames, 1, 1))
    poses[:, :3, :3] = rotation[used]
    poses[:, :2, 3], poses[:, 2, 3] = timed[used, :2], height[used]
    return Tour(poses, spin, np.arange(frames, dtype=np.float64) * FRAME_S)


def wobble(rng: Generator, seconds: Array, amplitude: float) -> Array:
    """Return sum of three slow sines (N,) that stays within ± amplitude."""
    frequency, phase = rng.uniform(0.15, 1.2, 3), rng.uniform(0, 2 * np.pi, 3)
    waves = np.sin(2 * np.pi * seconds[:, None] * frequency + phase)
    return np.asarray(waves @ np.array([0.5, 0.3, 0.2]) * amplitude)


def rotations(yaw: Array, pitch: Array, roll: Array) -> Array:
    """Return map_from_camera rotations (N, 3, 3) of a body turned by yaw, tipped nose-down, rolled."""
    zero, one = np.zeros_like(yaw), np.ones_like(yaw)

    def stack(rows: list[list[Array]]) -> Array:
        return np.stack([np.stack(row, -1) for row in rows], -2)

    (cy, sy), (cp, sp), (cr, sr) = ((np.cos(angle), np.sin(angle)) for angle in (yaw, pitch, roll))
    about_z = stack([[cy, -sy, zero], [sy, cy, zero], [zero, zero, one]])
    about_y = stack([[cp, zero, sp], [zero, one, zero], [-sp, zero, cp]])
    about_x = stack([[one, zero, zero], [zero, cr, -sr], [zero, sr, cr]])
    rotation: Array = about_z @ about_y @ about_x @ BODY_FROM_OPTICAL
    return rotation
