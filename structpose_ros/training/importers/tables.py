"""Text files of stamps and poses: a line each, `timestamp ...`, in seconds; `#` begins a comment."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from structpose_ros.geometry import rotation_from_quaternion, transform
from structpose_ros.training.frames import RecordingError, read_bytes

_UNIT = 0.01  # a quaternion's length may be off by as much: files hold four decimals at the least


@dataclass(frozen=True)
class Row:
    """A line of a table: its fields, and where it stands (`rgb.txt:7`) for errors to name."""

    where: str
    fields: list[str]

    def number(self, column: int, *, finite: bool = True) -> float:
        """Return a column as a number, which may be infinite where it needn't be `finite`.

        Raises:
            RecordingError: it is none.
        """
        try:
            value = float(self.fields[column])
        except ValueError:
            value = math.nan
        if math.isnan(value) or (finite and math.isinf(value)):
            raise RecordingError(f"{self.where}: expected a number, got '{self.fields[column]}'")
        return value

    def pose(self) -> npt.NDArray[np.float64]:
        """Return target_from_body (4, 4) of the columns 1 to 7, `tx ty tz qx qy qz qw`, metres.

        Raises:
            RecordingError: these are no numbers, or the quaternion isn't one of length 1.
        """
        values = np.array([self.number(column) for column in range(1, 8)])
        length = float(np.linalg.norm(values[3:]))
        if abs(length - 1.0) > _UNIT:
            raise RecordingError(f"{self.where}: expected a quaternion of length 1, got one of {length:.3g}")
        return transform(rotation_from_quaternion(values[3:]), values[:3])


def read_table(path: Path, columns: str, counts: tuple[int, ...]) -> list[Row]:
    """Return a table's rows; blanks, tabs and commas part the fields.

    columns: what a line holds, for errors to say (`timestamp filename`). counts: how many fields it may have.

    Raises:
        RecordingError: there is no such file, it holds no rows, or one of another number of fields.
    """
    rows = []
    text = read_bytes(path, f"lines '{columns}'").decode(errors="replace")
    for number, line in enumerate(text.splitlines(), start=1):
        fields = re.split(r"[\s,]+", line.strip())
        if not fields[0] or fields[0].startswith("#"):
            continue
        if len(fields) not in counts:
            raise RecordingError(f"{path}:{number}: expected '{columns}', got '{line.strip()[:80]}'")
        rows.append(Row(f"{path}:{number}", fields))
    if not rows:
        raise RecordingError(f"{path}: expected lines '{columns}', got none")
    return rows


def read_matrix(path: Path) -> npt.NDArray[np.float64]:
    """Return a (4, 4) matrix from four lines of four numbers; infinite ones are let through.

    Raises:
        RecordingError: the file holds something else.
    """
    rows = read_table(path, "four numbers", (4,))
    if len(rows) != 4:
        raise RecordingError(f"{path}: expected a 4x4 matrix, got {len(rows)} lines of four numbers")
    return np.array([[row.number(column, finite=False) for column in range(4)] for row in rows])
