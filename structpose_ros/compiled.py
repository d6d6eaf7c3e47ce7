"""A frame's inner loops, compiled where a C++ compiler was there at installation, else NumPy's and OpenCV's.

Both compute the same; `native/` takes a fraction of the time.
"""

from __future__ import annotations

import ctypes
import importlib.machinery
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from structpose_ros import kabsch as _kabsch
from structpose_ros import pixels as _pixels
from structpose_ros.kabsch import Summary

Array = npt.NDArray[np.float64]
Floats = npt.NDArray[np.float32]
_VERSION = 3  # of the functions' arguments, as `native/pixels.cpp` has it
_ARRAY = np.ctypeslib.ndpointer(np.float64, flags="C_CONTIGUOUS")
_FLOATS = np.ctypeslib.ndpointer(np.float32, flags="C_CONTIGUOUS")


class _Options(ctypes.Structure):
    """`AlignmentOptions`, as `native/alignment.cpp` takes them."""

    _fields_ = (
        *((name, ctypes.c_int) for name in ("consensus_starts", "robust_rounds", "refine_rounds")),
        *((name, ctypes.c_double) for name in ("robust_scale", "robust_floor", "inlier_threshold")),
        *((name, ctypes.c_double) for name in ("min_effective_points", "min_spread")),
        *((name, ctypes.c_double) for name in ("refine_from", "refine_to")),
    )


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
    library.structpose_weighted_summary.argtypes = [_ARRAY, _ARRAY, whole, _ARRAY]
    library.structpose_weighted_summary.restype = None
    library.structpose_undistort.argtypes = [_ARRAY, whole, whole, _ARRAY, _ARRAY, _ARRAY, whole, _ARRAY]
    library.structpose_undistort.restype = None
    library.structpose_align.argtypes = [
        *(_ARRAY, _ARRAY, _ARRAY, whole, ctypes.POINTER(_Options)),
        *(_ARRAY, _ARRAY, _ARRAY),
    ]
    library.structpose_align.restype = whole
    library.structpose_scaled_planes.argtypes = [
        *(ctypes.c_void_p, ctypes.c_ssize_t, whole, whole),
        *(_FLOATS, _FLOATS, _FLOATS),
    ]
    library.structpose_scaled_planes.restype = None
    return library


LIBRARY = load(Path(__file__).parent)


def weighted_median(values: Array, weights: Array) -> float:
    """See `kabsch.weighted_median`."""
    if LIBRARY is None or not len(values):
        return _kabsch.weighted_median(values, weights)
    values, weights = (np.ascontiguousarray(array, dtype=np.float64) for array in (values, weights))
    return float(LIBRARY.structpose_weighted_median(values, weights, len(values)))


def weighted_summary(values: Array, weights: Array) -> Summary:
    """See `kabsch.weighted_summary`."""
    if LIBRARY is None or not len(values):
        return _kabsch.weighted_summary(values, weights)
    values, weights = (np.ascontiguousarray(array, dtype=np.float64) for array in (values, weights))
    summary = np.empty(3)
    LIBRARY.structpose_weighted_summary(values, weights, len(values), summary)
    return Summary(*summary.tolist())


def undistort(
    library: ctypes.CDLL,
    distorted: Array,
    coefficients: tuple[float, ...],
    table: tuple[Array, Array],
    *,
    equidistant: bool,
) -> Array:
    """Do what `camera._undistort` does; of points (..., 2).

    coefficients: up to 8. table: undistorted and distorted radii, both increasing.
    """
    distorted = np.ascontiguousarray(distorted)
    padded = np.zeros(8)
    padded[: len(coefficients)] = coefficients
    normalized = np.empty_like(distorted)
    library.structpose_undistort(
        *(distorted, distorted.size // 2, int(equidistant), padded, *table, len(table[0]), normalized)
    )
    return normalized


def align(
    library: ctypes.CDLL, a: Array, b: Array, weights: Array, options: Mapping[str, float]
) -> tuple[int, dict[str, Any] | None]:
    """Do what `alignment.attempt` does; of points (N, 3) and weights (N,) that lie one behind the other.

    options: those of `AlignmentOptions` by their names.

    Returns:
        The number of the failure, in the order of `AlignmentFailure` from 1 on, 0 for none; and the fields of
        the `PoseEstimate`, None where there is none.
    """
    residuals, current = np.empty((2, len(weights)))
    facts = np.empty(57)
    number = library.structpose_align(
        *(a, b, weights, len(weights), _Options(**options)),
        *(residuals, current, facts),
    )
    if number < 0:
        return -number, None
    inlier_ratio, effective_points = facts[16:18].tolist()
    return number, {
        "map_from_camera": facts[:16].reshape(4, 4),
        "residuals": residuals,
        "weights": current,
        "inlier_ratio": inlier_ratio,
        "effective_points": effective_points,
        "singular_values": facts[18:21],
        "covariance": facts[21:].reshape(6, 6),
    }


def scaled_planes(image: npt.NDArray[np.uint8], scale: Floats, shift: Floats, out: Floats) -> None:
    """See `pixels.scaled_planes`, which also takes what the library can't: pixels that lie otherwise."""
    height, width = image.shape[:2]
    packed = image.dtype == np.uint8 and image.strides[1:] == (3, 1)
    if LIBRARY is None or not packed or image.shape[2] != 3 or out.shape != (3, height, width):
        _pixels.scaled_planes(image, scale, shift, out)
    else:
        row_bytes = image.strides[0]
        LIBRARY.structpose_scaled_planes(image.ctypes.data, row_bytes, height, width, scale, shift, out)
