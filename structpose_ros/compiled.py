"""A frame's inner loops, compiled where a C++ compiler was there at installation, else NumPy's and OpenCV's.

Both compute the same; `native/` takes a fraction of the time.
"""

from __future__ import annotations

import ctypes
import importlib.machinery
from pathlib import Path

import numpy as np
import numpy.typing as npt

from structpose_ros import consensus as _consensus
from structpose_ros import kabsch as _kabsch
from structpose_ros import pixels as _pixels
from structpose_ros import refinement as _refinement
from structpose_ros.kabsch import Rigid
from structpose_ros.refinement import Refined

Array = npt.NDArray[np.float64]
Floats = npt.NDArray[np.float32]
_VERSION = 2  # of the functions' arguments, as `native/pixels.cpp` has it
_ARRAY = np.ctypeslib.ndpointer(np.float64, flags="C_CONTIGUOUS")
_FLOATS = np.ctypeslib.ndpointer(np.float32, flags="C_CONTIGUOUS")


def load(folder: Path) -> ctypes.CDLL | None:
    """Return the library in a folder; None where none was built, or one for another machine or release."""
    paths = [folder / f"_native{suffix}" for suffix in importlib.machinery.EXTENSION_SUFFIXES]
    path = next((path for path in paths if path.is_file()), None)
    if path is None:
        return None
    try:
        library = ctypes.CDLL(str(path))
        if library.structpose_native_version() != _VERSION:
            return None
    except (OSError, AttributeError):
        return None
    number, whole = ctypes.c_double, ctypes.c_int
    library.structpose_weighted_median.argtypes = [_ARRAY, _ARRAY, whole]
    library.structpose_weighted_median.restype = number
    library.structpose_kabsch.argtypes = [_ARRAY, _ARRAY, _ARRAY, whole, _ARRAY, _ARRAY]
    library.structpose_kabsch.restype = None
    library.structpose_consensus.argtypes = [_ARRAY, _ARRAY, _ARRAY, whole, whole, _ARRAY]
    library.structpose_consensus.restype = None
    library.structpose_refine.argtypes = [
        *(_ARRAY, _ARRAY, _ARRAY, _ARRAY, whole, whole, number, number),
        *(_ARRAY, _ARRAY, _ARRAY, _ARRAY),
    ]
    library.structpose_refine.restype = whole
    library.structpose_scaled_planes.argtypes = [
        *(ctypes.c_void_p, ctypes.c_ssize_t, whole, whole),
        *(_FLOATS, _FLOATS, _FLOATS),
    ]
    library.structpose_scaled_planes.restype = None
    return library


LIBRARY = load(Path(__file__).parent)


def kabsch(a: Array, b: Array, weights: Array) -> Rigid:
    """See `kabsch.kabsch`."""
    if LIBRARY is None:
        return _kabsch.kabsch(a, b, weights)
    a, b, weights = (np.ascontiguousarray(array, dtype=np.float64) for array in (a, b, weights))
    pose, singular_values = np.empty(12), np.empty(3)
    LIBRARY.structpose_kabsch(a, b, weights, len(weights), pose, singular_values)
    return Rigid(pose[:9].reshape(3, 3), pose[9:], singular_values)


def weighted_median(values: Array, weights: Array) -> float:
    """See `kabsch.weighted_median`."""
    if LIBRARY is None or not len(values):
        return _kabsch.weighted_median(values, weights)
    values, weights = (np.ascontiguousarray(array, dtype=np.float64) for array in (values, weights))
    return float(LIBRARY.structpose_weighted_median(values, weights, len(values)))


def consensus(a: Array, b: Array, weights: Array, starts: int) -> Array:
    """See `consensus.consensus`."""
    if LIBRARY is None:
        return _consensus.consensus(a, b, weights, starts)
    a, b, weights = (np.ascontiguousarray(array, dtype=np.float64) for array in (a, b, weights))
    result = np.empty_like(weights)
    LIBRARY.structpose_consensus(a, b, weights, len(weights), starts, result)
    return result


def refine(
    rotation: Array,
    translation: Array,
    image_points: Array,
    points_in_map: Array,
    weights: Array,
    rounds: int,
    first_scale: float,
    last_scale: float,
) -> Refined:
    """See `refinement.refine`."""
    if LIBRARY is None:
        return _refinement.refine(
            *(rotation, translation, image_points, points_in_map, weights),
            *(rounds, first_scale, last_scale),
        )
    pose = np.empty(12)
    pose[:9], pose[9:] = rotation.reshape(-1), translation
    image_points, points_in_map, weights = (
        np.ascontiguousarray(array, dtype=np.float64) for array in (image_points, points_in_map, weights)
    )
    last_weights, squared_errors, distances = np.empty((3, len(weights)))
    normal_matrix = np.empty((6, 6))
    determined = LIBRARY.structpose_refine(
        *(pose, image_points, points_in_map, weights, len(weights)),
        *(rounds, first_scale, last_scale),
        *(last_weights, normal_matrix, squared_errors, distances),
    )
    return Refined(
        *(pose[:9].reshape(3, 3), pose[9:], last_weights, normal_matrix, squared_errors, distances),
        bool(determined),
    )


def scaled_planes(image: npt.NDArray[np.uint8], scale: Floats, shift: Floats, out: Floats) -> None:
    """See `pixels.scaled_planes`, which also takes what the library can't: pixels that lie otherwise."""
    height, width = image.shape[:2]
    packed = image.dtype == np.uint8 and image.strides[1:] == (3, 1)
    if LIBRARY is None or not packed or image.shape[2] != 3 or out.shape != (3, height, width):
        _pixels.scaled_planes(image, scale, shift, out)
    else:
        row_bytes = image.strides[0]
        LIBRARY.structpose_scaled_planes(image.ctypes.data, row_bytes, height, width, scale, shift, out)
