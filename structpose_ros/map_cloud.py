"""The coarse coloured point cloud of its scene that a model file carries, to be seen and not computed with.

It is an entry of its own in the ONNX file's `metadata_props`, a JSON object with the fields

version   of this entry
count     N, the number of points
min, max  metres, map frame: two corners [x, y, z] of the box around the points
data      base64 of zlib of 9 N bytes: N uint16 x, then y, then z, little-endian, 0 at `min` and 65535 at
          `max`; then N uint8 red, then green, then blue
"""

from __future__ import annotations

import base64
import binascii
import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from structpose_ros.contract import ModelFileError, json_object, shown

MAP_CLOUD_KEY = "structpose_ros.map_points"
MAP_CLOUD_VERSION = 1
MOST_POINTS = 200_000
_MOST_CHARACTERS = 4_000_000

_FIELDS = {"version": int, "count": int, "min": list, "max": list, "data": str}
_HIGHEST_LEVEL = 65535
_BYTES_PER_POINT = 9


@dataclass(frozen=True, eq=False)
class MapCloud:
    """points: (N, 3) float32 metres, map frame. colors: (N, 3) uint8 RGB. N is 1 .. `MOST_POINTS`."""

    points: npt.NDArray[np.float32]
    colors: npt.NDArray[np.uint8]

    def __post_init__(self) -> None:
        points, colors = self.points, self.colors
        if points.dtype != np.float32 or points.ndim != 2 or points.shape[1] != 3:
            raise ModelFileError(f"expected map points (N, 3) float32, got {points.shape} {points.dtype}")
        if colors.dtype != np.uint8 or colors.shape != points.shape:
            raise ModelFileError(
                f"expected map colours {points.shape} uint8, got {colors.shape} {colors.dtype}"
            )
        _expect_count(len(points))
        if not np.isfinite(points).all():
            raise ModelFileError("expected finite map points, got NaN or infinity")

    def to_metadata(self) -> dict[str, str]:
        """Return the entry to store in the model file's `metadata_props`; rounds to 1/65535 of the box."""
        points = self.points.astype(np.float64)
        low, high = points.min(axis=0), points.max(axis=0)
        extent = np.where(high > low, high - low, 1.0)
        levels = np.rint((points - low) / extent * _HIGHEST_LEVEL).astype("<u2")
        planes = levels.T.tobytes() + self.colors.T.tobytes()
        content = {
            "version": MAP_CLOUD_VERSION,
            "count": len(points),
            "min": low.tolist(),
            "max": high.tolist(),
            "data": base64.b64encode(zlib.compress(planes, 9)).decode("ascii"),
        }
        return {MAP_CLOUD_KEY: json.dumps(content)}

    @staticmethod
    def from_metadata(metadata: Mapping[str, str]) -> MapCloud | None:
        """Read the cloud back; None where the file carries none.

        Raises:
            ModelFileError: the entry is of another version, or damaged.
        """
        text = metadata.get(MAP_CLOUD_KEY)
        if text is None:
            return None
        content = _content_of(text)
        count: int = content["count"]
        _expect_count(count)
        low, high = _corner(content, "min"), _corner(content, "max")
        if (low > high).any():
            raise ModelFileError(
                f"expected min <= max in metadata '{MAP_CLOUD_KEY}', got {low.tolist()} and {high.tolist()}"
            )
        planes = _inflate(content["data"], _BYTES_PER_POINT * count)
        levels = np.frombuffer(planes, dtype="<u2", count=3 * count).reshape(3, count).T
        colors = np.frombuffer(planes, dtype=np.uint8, offset=6 * count).reshape(3, count).T
        points = low + levels / _HIGHEST_LEVEL * (high - low)
        return MapCloud(
            np.ascontiguousarray(points, dtype=np.float32), np.ascontiguousarray(colors, dtype=np.uint8)
        )


def _content_of(text: str) -> dict[str, Any]:
    """Return the entry's JSON object once its version, field names and field types are right."""
    content = json_object(text, MAP_CLOUD_KEY, _MOST_CHARACTERS)
    version = content.get("version")
    if version != MAP_CLOUD_VERSION:
        raise ModelFileError(
            f"expected version {MAP_CLOUD_VERSION} of metadata '{MAP_CLOUD_KEY}', got {shown(version)}: "
            "export the training run again with this release"
        )
    if content.keys() != _FIELDS.keys():
        raise ModelFileError(
            f"expected the fields {sorted(_FIELDS)} in metadata '{MAP_CLOUD_KEY}', "
            f"got {shown(sorted(content))}"
        )
    for name, kind in _FIELDS.items():
        if type(content[name]) is not kind:
            raise ModelFileError(
                f"expected {kind.__name__} as {name} in metadata '{MAP_CLOUD_KEY}', "
                f"got {type(content[name]).__name__}"
            )
    return content


def _expect_count(count: int) -> None:
    if not 1 <= count <= MOST_POINTS:
        raise ModelFileError(f"expected 1 .. {MOST_POINTS} map points, got {count}")


def _corner(content: dict[str, Any], name: str) -> npt.NDArray[np.float64]:
    """Return a corner of the box, three numbers that float32 can hold."""
    values, most = content[name], float(np.finfo(np.float32).max)
    # NaN fails every comparison; a bool is no number here.
    if len(values) != 3 or not all(type(v) in (int, float) and -most <= v <= most for v in values):
        raise ModelFileError(
            f"expected three finite numbers as {name} in metadata '{MAP_CLOUD_KEY}', got {str(values)[:80]}"
        )
    return np.array(values, dtype=np.float64)


def _inflate(data: str, size: int) -> bytes:
    """Return the `size` bytes that `data` holds; never makes more of them, whatever it holds."""
    inflater = zlib.decompressobj()
    try:
        content = inflater.decompress(base64.b64decode(data, validate=True), size + 1)
    except (ValueError, binascii.Error, zlib.error) as error:
        raise ModelFileError(
            f"expected base64 of zlib as data in metadata '{MAP_CLOUD_KEY}', got: {error}"
        ) from error
    whole = inflater.eof and not inflater.unused_data
    if len(content) != size or not whole:
        got = "more" if len(content) > size else f"{len(content)}{'' if whole else ', not properly ended'}"
        raise ModelFileError(f"expected {size} bytes of data in metadata '{MAP_CLOUD_KEY}', got {got}")
    return content
