"""COLMAP's sparse model: cameras, images and points from its text or binary files, strictly read.

The formats are those of COLMAP's documentation ("Output Format") and of its read_write_model.py. Files are
not trusted: every count in a binary file is checked against the bytes left before anything is taken.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from structpose_ros.camera import Camera, CameraError
from structpose_ros.geometry import rotation_from_quaternion, transform
from structpose_ros.training.frames import RecordingError
from structpose_ros.training.importers.colmap_files import BinaryFile, TextFile

# Models by their number in binary files: name and parameters, in the order of the files.
_MODELS = {
    0: ("SIMPLE_PINHOLE", "f cx cy"),
    1: ("PINHOLE", "fx fy cx cy"),
    2: ("SIMPLE_RADIAL", "f cx cy k1"),
    3: ("RADIAL", "f cx cy k1 k2"),
    4: ("OPENCV", "fx fy cx cy k1 k2 p1 p2"),
    5: ("OPENCV_FISHEYE", "fx fy cx cy k1 k2 k3 k4"),
    6: ("FULL_OPENCV", "fx fy cx cy k1 k2 p1 p2 k3 k4 k5 k6"),
    7: ("FOV", "fx fy cx cy omega"),
    8: ("SIMPLE_RADIAL_FISHEYE", "f cx cy k1"),
    9: ("RADIAL_FISHEYE", "f cx cy k1 k2"),
    10: ("THIN_PRISM_FISHEYE", "fx fy cx cy k1 k2 p1 p2 k3 k4 sx1 sy1"),
}
_PARAMETERS = dict(_MODELS.values())
# What CameraInfo calls a lens, and the order of its coefficients; a model without the lens is refused.
_LENSES = {
    "SIMPLE_PINHOLE": ("plumb_bob", ""),
    "PINHOLE": ("plumb_bob", ""),
    "SIMPLE_RADIAL": ("plumb_bob", "k1 k2 p1 p2 k3"),
    "RADIAL": ("plumb_bob", "k1 k2 p1 p2 k3"),
    "OPENCV": ("plumb_bob", "k1 k2 p1 p2 k3"),
    "FULL_OPENCV": ("rational_polynomial", "k1 k2 p1 p2 k3 k4 k5 k6"),
    "OPENCV_FISHEYE": ("equidistant", "k1 k2 k3 k4"),
    "SIMPLE_RADIAL_FISHEYE": ("equidistant", "k1 k2 k3 k4"),
    "RADIAL_FISHEYE": ("equidistant", "k1 k2 k3 k4"),
}
_TEXT_RECORDS = {
    "cameras": "CAMERA_ID, MODEL, WIDTH, HEIGHT, PARAMS[]",
    "images": "IMAGE_ID, QW, QX, QY, QZ, TX, TY, TZ, CAMERA_ID, NAME, then a line of X, Y, POINT3D_ID",
    "points3D": "POINT3D_ID, X, Y, Z, R, G, B, ERROR, TRACK[] as IMAGE_ID, POINT2D_IDX",
}
_POINT_2D = np.dtype([("x", "<f8"), ("y", "<f8"), ("point_id", "<i8")])
_Record = TypeVar("_Record")
_PointRow: TypeAlias = tuple[int, float, float, float, float, int]  # id, position, error, track


@dataclass(frozen=True)
class SfmCamera:
    """A camera as COLMAP keeps it: pixels whose first one is centred at (0.5, 0.5)."""

    model: str
    width: int
    height: int
    parameters: tuple[float, ...]

    def camera(self) -> Camera:
        """Return the same camera with integer pixel centres.

        Raises:
            RecordingError: CameraInfo has no such lens, or the numbers are no camera's.
        """
        if self.model not in _LENSES:
            raise RecordingError(f"expected a camera model of {', '.join(_LENSES)}, got {self.model}")
        names = _PARAMETERS[self.model].split()
        if len(self.parameters) != len(names):
            raise RecordingError(
                f"expected {len(names)} parameters ({', '.join(names)}) for {self.model}, "
                f"got {len(self.parameters)}"
            )
        given = dict(zip(names, self.parameters, strict=True))
        lens, coefficients = _LENSES[self.model]
        try:
            return Camera(
                self.width,
                self.height,
                fx=given.get("fx", given.get("f", 0.0)),
                fy=given.get("fy", given.get("f", 0.0)),
                cx=given["cx"] - 0.5,
                cy=given["cy"] - 0.5,
                distortion_model=lens,
                distortion=tuple(given.get(name, 0.0) for name in coefficients.split()),
            )
        except CameraError as error:
            raise RecordingError(str(error)) from error


@dataclass(frozen=True)
class SfmImage:
    """A registered image. camera_from_map: (4, 4), the model's unit. point_ids: (N,) int64 seen in it."""

    name: str
    camera_id: int
    camera_from_map: npt.NDArray[np.float64]
    point_ids: npt.NDArray[np.int64]


@dataclass(frozen=True)
class SfmPoints:
    """Points of the map, by ascending id: ids (N,), positions (N, 3) in the model's unit, errors, tracks.

    errors: (N,) px, mean over the observations; -1 where COLMAP has not measured it. tracks: (N,) how many
    observations.
    """

    ids: npt.NDArray[np.int64]
    positions: npt.NDArray[np.float64]
    errors: npt.NDArray[np.float64]
    tracks: npt.NDArray[np.int64]

    def reliable(self, max_error: float, min_track: int) -> SfmPoints:
        """Return the points with at most `max_error` px and at least `min_track` observations."""
        kept = (self.errors <= max_error) & (self.tracks >= min_track)
        return SfmPoints(self.ids[kept], self.positions[kept], self.errors[kept], self.tracks[kept])

    def positions_of(self, ids: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        """Return the positions (M, 3) of those of `ids` that are here."""
        if len(self.ids) == 0:
            return np.empty((0, 3))
        at = np.minimum(np.searchsorted(self.ids, ids), len(self.ids) - 1)
        return np.asarray(self.positions[at[self.ids[at] == ids]])


def holds_model(folder: Path) -> bool:
    """Whether a folder holds a sparse model."""
    return any((folder / f"images{ending}").is_file() for ending in (".bin", ".txt"))


def read_cameras(folder: Path) -> dict[int, SfmCamera]:
    """Return the cameras of a model by their ids; as COLMAP does, .bin is preferred to .txt.

    Raises:
        RecordingError: the file is missing, cut off or malformed.
    """
    return dict(_read(folder, "cameras", _binary_camera, _text_camera))


def read_images(folder: Path) -> list[SfmImage]:
    """Return the registered images of a model in the order of their names.

    Raises:
        RecordingError: the file is missing, cut off or malformed, or a name comes twice.
    """
    images = sorted(_read(folder, "images", _binary_image, _text_image), key=lambda image: image.name)
    for image, following in zip(images, images[1:], strict=False):
        if image.name == following.name:
            raise RecordingError(f"{folder}: expected each image once, got '{image.name}' twice")
    return images


def read_points(folder: Path) -> SfmPoints:
    """Return the points of a model.

    Raises:
        RecordingError: the file is missing, cut off or malformed.
    """
    rows = sorted(_read(folder, "points3D", _binary_point, _text_point))
    numbers = np.array([row[1:5] for row in rows], dtype=np.float64).reshape(-1, 4)
    ids, tracks = (np.array([row[i] for row in rows], dtype=np.int64) for i in (0, 5))
    return SfmPoints(ids, numbers[:, :3], numbers[:, 3], tracks)


def _read(
    folder: Path,
    stem: str,
    from_binary: Callable[[BinaryFile], _Record],
    from_text: Callable[[list[str], TextFile], _Record],
) -> list[_Record]:
    binary, text = folder / f"{stem}.bin", folder / f"{stem}.txt"
    if binary.is_file():
        content = BinaryFile(binary)
        records = [from_binary(content) for _ in range(content.count("records"))]
        if content.left:
            raise RecordingError(f"{binary}: expected {len(records)} records, got {content.left} bytes more")
        return records
    if text.is_file():
        return TextFile(text).records(from_text, _TEXT_RECORDS[stem])
    raise RecordingError(f"expected {stem}.bin or {stem}.txt in {folder}, got neither")


def _binary_camera(content: BinaryFile) -> tuple[int, SfmCamera]:
    camera_id, model_id, width, height = content.take("iiQQ")
    if model_id not in _MODELS:
        known = ", ".join(_LENSES)
        raise RecordingError(f"{content.path}: expected a camera model of {known}, got number {model_id}")
    model, names = _MODELS[model_id]
    parameters = content.array(len(names.split()), "<f8").tolist()
    return camera_id, SfmCamera(model, width, height, tuple(parameters))


def _text_camera(words: list[str], _: TextFile) -> tuple[int, SfmCamera]:
    parameters = tuple(map(float, words[4:]))
    return int(words[0]), SfmCamera(words[1], int(words[2]), int(words[3]), parameters)


def _binary_image(content: BinaryFile) -> SfmImage:
    _, *pose, camera_id = content.take("i7di")
    name = content.text()
    seen = content.array(content.count("points", _POINT_2D.itemsize), _POINT_2D)
    try:
        return SfmImage(name, camera_id, _camera_from_map(pose), seen["point_id"].astype(np.int64))
    except ValueError as error:
        raise RecordingError(f"{content.path}: image '{name}': {error}") from error


def _text_image(words: list[str], lines: TextFile) -> SfmImage:
    name = " ".join([words[9], *words[10:]])
    int(words[0])
    pose, camera_id = _camera_from_map([float(word) for word in words[1:8]]), int(words[8])
    seen = lines.following()
    if len(seen) % 3:
        raise ValueError(f"{len(seen)} numbers, which is no multiple of 3")
    for column in (0, 1):
        np.array(seen[column::3], dtype=np.float64)
    return SfmImage(name, camera_id, pose, np.array([int(word) for word in seen[2::3]], dtype=np.int64))


def _camera_from_map(pose: list[float]) -> npt.NDArray[np.float64]:
    """Return (4, 4) of a quaternion w x y z and a translation."""
    if not np.isfinite(pose).all():
        raise ValueError(f"expected a finite pose, got {pose}")
    w, x, y, z = pose[:4]
    with np.errstate(over="ignore"):  # its length is then infinite, which is refused
        return transform(rotation_from_quaternion([x, y, z, w]), pose[4:])


def _binary_point(content: BinaryFile) -> _PointRow:
    point_id, x, y, z, _, _, _, error = content.take("q3d3Bd")
    track = content.count("observations", 8)
    content.array(track, "<i8")
    return point_id, x, y, z, error, track


def _text_point(words: list[str], _: TextFile) -> _PointRow:
    x, y, z = map(float, words[1:4])
    return int(np.int64(int(words[0]))), x, y, z, float(words[7]), len(words[8:]) // 2
