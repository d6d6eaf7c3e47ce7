"""COLMAP: images with the cameras, poses and points of a sparse model, and depth from points or from MVS.

COLMAP's poses are camera_from_world and its first pixel is centred at (0.5, 0.5); ours is centred at (0, 0).
It reads images as they lie in the file, whatever turn their EXIF data ask for (its issue 2104), and so do we.
A model has no unit of its own: `scale` says how many metres one of it is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import zip_longest
from pathlib import Path

import numpy as np
import numpy.typing as npt

from structpose_ros.camera import Camera
from structpose_ros.geometry import invert
from structpose_ros.training.frames import RecordingError, expect_size
from structpose_ros.training.importers.colmap_depth import mvs_depth, sparse_depth
from structpose_ros.training.importers.colmap_model import (
    SfmImage,
    holds_model,
    read_cameras,
    read_images,
    read_points,
)
from structpose_ros.training.importers.common import (
    FilePlan,
    Imported,
    Picture,
    PlannedFrame,
    Selection,
    below,
    read_color_file,
    write_import,
)

DEPTHS = ("auto", "sparse", "mvs")
_MAPS = Path("stereo", "depth_maps")
_SAME_INTRINSICS = 1e-3  # of the focal length; over a whole image that is less than a pixel


@dataclass(frozen=True)
class ColmapOptions:
    """How a model is taken.

    scale: metres per unit of the model. model, images: folders, where they are not below the source.
    camera_id: take this camera's images alone. depth: of DEPTHS; `auto` is `mvs` where there are maps.
    max_error (px), min_track (images): of the points that sparse depth is made of.
    test_list: a file of image names to test on; without it `selection` chooses them.
    """

    scale: float
    model: Path | None = None
    images: Path | None = None
    camera_id: int | None = None
    depth: str = "auto"
    max_error: float = 2.0
    min_track: int = 3
    test_list: Path | None = None
    selection: Selection = field(default_factory=Selection)

    def __post_init__(self) -> None:
        if not 0 < self.scale < float("inf"):
            raise RecordingError(f"scale: expected metres per unit of the model, above 0, got {self.scale}")
        if self.depth not in DEPTHS:
            raise RecordingError(f"depth: expected one of {', '.join(DEPTHS)}, got '{self.depth}'")


def import_colmap(
    source: Path,
    out: Path,
    options: ColmapOptions,
    *,
    skip_bad: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Imported:
    """Write a model's images as posed frames with depth; what an earlier call wrote is kept.

    Raises:
        RecordingError: there is no such model, it can't be used, or `out` holds another recording.
    """
    return write_import(plan_colmap(source, options), out, skip_bad=skip_bad, progress=progress)


def plan_colmap(source: Path, options: ColmapOptions) -> FilePlan:
    """Read the model; nothing is read of the images yet."""
    model = _model_folder(source, options.model)
    folder = options.images or source / "images"
    if not folder.is_dir():
        raise RecordingError(f"expected the folder of the images at {folder}, got none (--images names it)")
    images, camera = _images_of_one_camera(model, options.camera_id)
    by_path = {str(below(folder, image.name)): image for image in images}
    everything = [
        PlannedFrame(path, _map_from_camera(image, options.scale)) for path, image in by_path.items()
    ]
    frames, bad = options.selection.apply(everything), list[str]()
    if options.test_list is not None:
        frames, bad = _split_by_list(everything, folder, options.test_list)
    depth = _depth_reader(source, model, camera, options)

    def read_one(index: int) -> Picture:
        path = Path(frames[index].source)
        image_rgb, jpeg = read_color_file(path)
        expect_size(path, image_rgb.shape, camera)
        return Picture(image_rgb, depth(by_path[str(path)]), jpeg)

    return FilePlan(camera, frames, _origin(source, camera, options), read_one, bad)


def _model_folder(source: Path, named: Path | None) -> Path:
    candidates = [named] if named else [source / "sparse" / "0", source / "sparse", source]
    for candidate in candidates:
        if holds_model(candidate):
            return candidate
    looked = ", ".join(map(str, candidates))
    raise RecordingError(
        f"expected a sparse model (cameras and images as .bin or .txt) in {looked}, got none"
    )


def _images_of_one_camera(model: Path, camera_id: int | None) -> tuple[list[SfmImage], Camera]:
    """Return the images that count, and the camera that took them all."""
    cameras, images = read_cameras(model), read_images(model)
    if camera_id is not None:
        images = [image for image in images if image.camera_id == camera_id]
    if not images:
        of_camera = "" if camera_id is None else f" of camera {camera_id}"
        raise RecordingError(f"expected registered images{of_camera} in {model}, got none")
    used = sorted({image.camera_id for image in images})
    try:
        taken = {number: cameras[number].camera() for number in used}
    except KeyError as error:
        raise RecordingError(f"{model}: expected camera {error} that images name, got none") from error
    except RecordingError as error:
        raise RecordingError(f"{model}: {error}") from error
    first = taken[used[0]]
    for number in used[1:]:
        if not _alike(first, taken[number]):
            shown = ", ".join(map(str, used[:8])) + (", ..." if len(used) > 8 else "")
            raise RecordingError(
                f"expected one camera in {model}, got {len(used)}, of which {used[0]} and {number} differ by "
                f"more than {_SAME_INTRINSICS:.1%} (--camera-id takes the images of one: {shown})"
            )
    return images, first


def _alike(one: Camera, other: Camera) -> bool:
    kinds = [(camera.width, camera.height, camera.distortion_model) for camera in (one, other)]
    differences = [
        (other.fx - one.fx) / one.fx,
        (other.fy - one.fy) / one.fy,
        (other.cx - one.cx) / one.fx,
        (other.cy - one.cy) / one.fy,
        *(b - a for a, b in zip_longest(one.distortion, other.distortion, fillvalue=0.0)),
    ]
    return kinds[0] == kinds[1] and max(map(abs, differences)) <= _SAME_INTRINSICS


def _map_from_camera(image: SfmImage, scale: float) -> npt.NDArray[np.float64]:
    map_from_camera = invert(image.camera_from_map)
    map_from_camera[:3, 3] *= scale
    return map_from_camera


def _split_by_list(
    everything: Sequence[PlannedFrame], folder: Path, test_list: Path
) -> tuple[list[PlannedFrame], list[str]]:
    """Return the frames, those that the list names for testing, and a line for each name that has no pose.

    The first word of a line counts, if it has an ending as a file has: lists by COLMAP's users, hloc and
    Cambridge Landmarks have headings, and further words.
    """
    try:
        words = [line.split()[:1] for line in test_list.read_text().splitlines()]
    except UnicodeDecodeError as error:
        raise RecordingError(f"{test_list}: expected names of images, got: {error.reason}") from error
    names = [name for first in words for name in first if Path(name).suffix and not name.startswith("#")]
    listed = {str(folder / name): name for name in names}
    frames = [
        replace(frame, split="test", sequence=2) if frame.source in listed else frame for frame in everything
    ]
    registered = {frame.source for frame in everything}
    bad = [
        f"{name}: expected a pose for an image in {test_list.name}, got none"
        for path, name in listed.items()
        if path not in registered
    ]
    if len(bad) == len(listed):
        raise RecordingError(f"{test_list}: expected names of registered images, got {names[:3]}")
    return frames, bad


def _depth_reader(
    source: Path, model: Path, camera: Camera, options: ColmapOptions
) -> Callable[[SfmImage], npt.NDArray[np.uint16]]:
    maps = source / _MAPS
    if _kind_of_depth(source, options) == "mvs":
        if not camera.is_pinhole:
            raise RecordingError(
                f"expected the undistorted model that the maps in {maps} belong to, got one whose camera has "
                f"a {camera.distortion_model} distortion"
            )
        return lambda image: mvs_depth(maps / f"{image.name}.geometric.bin", camera, options.scale)
    points = read_points(model).reliable(options.max_error, options.min_track)
    if len(points.ids) == 0:
        raise RecordingError(
            f"expected points of at most {options.max_error:g} px in at least {options.min_track} images in "
            f"{model}, got none"
        )
    return lambda image: sparse_depth(image, points, camera, options.scale)


def _kind_of_depth(source: Path, options: ColmapOptions) -> str:
    if options.depth != "auto":
        return options.depth
    return "mvs" if any((source / _MAPS).rglob("*.geometric.bin")) else "sparse"


def _origin(source: Path, camera: Camera, options: ColmapOptions) -> dict[str, object]:
    origin: dict[str, object] = {"format": "colmap", "source": source.resolve().name, "scale": options.scale}
    kind = _kind_of_depth(source, options)
    if kind == "sparse":
        origin |= {"max_error": options.max_error, "min_track": options.min_track}
    return {**origin, "depth": kind}
