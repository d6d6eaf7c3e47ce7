"""PointCloud2 messages from and to NumPy arrays."""

from __future__ import annotations

import array
import sys
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.lib.recfunctions import structured_to_unstructured, unstructured_to_structured
from sensor_msgs.msg import PointCloud2, PointField
from std_msgs.msg import Header

_DATATYPES = {
    PointField.INT8: np.dtype(np.int8),
    PointField.UINT8: np.dtype(np.uint8),
    PointField.INT16: np.dtype(np.int16),
    PointField.UINT16: np.dtype(np.uint16),
    PointField.INT32: np.dtype(np.int32),
    PointField.UINT32: np.dtype(np.uint32),
    PointField.FLOAT32: np.dtype(np.float32),
    PointField.FLOAT64: np.dtype(np.float64),
}
DUMMY_FIELD_PREFIX = "unnamed_field"


def dtype_from_fields(fields: Iterable[PointField], point_step: int | None = None) -> np.dtype:
    """Return the structured dtype of one point; a field with a count above 1 becomes name_0, name_1, ..."""
    names: list[str] = []
    formats: list[str] = []
    offsets: list[int] = []
    for index, field in enumerate(fields):
        datatype = _DATATYPES[field.datatype]
        name = field.name or f"{DUMMY_FIELD_PREFIX}_{index}"
        assert field.count > 0, f"field {name} has count 0"
        for element in range(field.count):
            names.append(name if field.count == 1 else f"{name}_{element}")
            formats.append(datatype.str)
            offsets.append(field.offset + element * datatype.itemsize)
    assert len(set(names)) == len(names), f"field names repeat: {names}"
    description = {"names": names, "formats": formats, "offsets": offsets}
    if point_step is not None:
        description["itemsize"] = point_step
    return np.dtype(description)


def create_cloud(
    header: Header, fields: Sequence[PointField], points: Iterable, point_step: int | None = None
) -> PointCloud2:
    """Return a cloud of the points: a structured array, a plain one with a last axis of fields, or tuples.

    An array of points with two axes makes an organized cloud, width first.
    """
    dtype = dtype_from_fields(fields, point_step)
    if not isinstance(points, np.ndarray):
        points = np.array([tuple(point) for point in points], dtype=dtype)
    elif points.dtype.names is None:
        assert len({field.datatype for field in fields}) <= 1, (
            "a plain array needs fields of one datatype; pass a structured array"
        )
        points = unstructured_to_structured(points, dtype=dtype)
    else:
        assert points.dtype == dtype, f"the fields describe {dtype}, the points are {points.dtype}"
    assert points.ndim <= 2, f"points have at most two axes, got {points.ndim}"
    width, height = points.shape if points.ndim == 2 else (points.shape[0], 1)
    cloud = PointCloud2(
        header=header,
        height=height,
        width=width,
        is_dense=False,
        is_bigendian=sys.byteorder != "little",
        fields=list(fields),
        point_step=dtype.itemsize,
        row_step=dtype.itemsize * width,
    )
    # The setter takes an array.array as it is; anything else it checks byte by byte.
    data = array.array("B")
    data.frombytes(np.ascontiguousarray(points).tobytes())
    cloud.data = data
    return cloud


def create_cloud_xyz32(header: Header, points: Iterable) -> PointCloud2:
    """Return a cloud of points (N, 3) with float32 fields x, y, z."""
    fields = [
        PointField(name=name, offset=4 * index, datatype=PointField.FLOAT32, count=1)
        for index, name in enumerate("xyz")
    ]
    return create_cloud(header, fields, points)


def read_points(
    cloud: PointCloud2,
    field_names: Sequence[str] | None = None,
    skip_nans: bool = False,
    uvs: Iterable | None = None,
    reshape_organized_cloud: bool = False,
) -> np.ndarray:
    """Return the cloud's points as a structured array, without copying where nothing is left out."""
    assert isinstance(cloud, PointCloud2), f"expected a PointCloud2, got {type(cloud).__name__}"
    points = np.ndarray(
        shape=(cloud.width * cloud.height,),
        dtype=dtype_from_fields(cloud.fields, cloud.point_step),
        buffer=cloud.data,
    )
    if cloud.is_bigendian != (sys.byteorder != "little"):
        points = points.byteswap()
    if field_names is not None:
        assert set(field_names) <= set(points.dtype.names or ()), (
            f"asked for fields {list(field_names)}, the cloud has {points.dtype.names}"
        )
        points = points[list(field_names)]
    if skip_nans and not cloud.is_dense:
        keep = np.ones(len(points), dtype=bool)
        for name in points.dtype.names or ():
            keep &= ~np.isnan(points[name])
        points = points[keep]
    if uvs is not None:
        points = points[uvs if isinstance(uvs, np.ndarray) else np.fromiter(uvs, int)]
    if reshape_organized_cloud and cloud.height > 1:
        points = points.reshape(cloud.width, cloud.height)
    return points


def read_points_numpy(
    cloud: PointCloud2,
    field_names: Sequence[str] | None = None,
    skip_nans: bool = False,
    uvs: Iterable | None = None,
    reshape_organized_cloud: bool = False,
) -> np.ndarray:
    """Return fields of one datatype as a plain array, with the fields along its last axis."""
    datatypes = {field.datatype for field in cloud.fields if field_names is None or field.name in field_names}
    assert len(datatypes) <= 1, "fields of several datatypes: use read_points"
    return structured_to_unstructured(
        read_points(cloud, field_names, skip_nans, uvs, reshape_organized_cloud)
    )
