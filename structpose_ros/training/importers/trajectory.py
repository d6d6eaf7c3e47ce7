"""Poses at any time between the recorded ones."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from structpose_ros.geometry import rotation_from_vector, rotation_vector, transform
from structpose_ros.training.frames import RecordingError


class Trajectory:
    """Poses target_from_body over time; between two of them straight and evenly turning, beyond them none."""

    def __init__(self, stamps_ns: Sequence[int], poses: Sequence[npt.NDArray[np.float64]]) -> None:
        """Take stamps in ns, in any order, and a pose (4, 4) for each; of equal stamps the last counts."""
        latest = {int(stamp): index for index, stamp in enumerate(stamps_ns)}
        self.stamps_ns = np.array(sorted(latest), dtype=np.int64)
        self.poses = np.array([poses[latest[stamp]] for stamp in self.stamps_ns.tolist()]).reshape(-1, 4, 4)

    def __len__(self) -> int:
        """Return the number of poses."""
        return len(self.stamps_ns)

    def at(self, stamp_ns: int, max_gap: float) -> npt.NDArray[np.float64]:
        """Return target_from_body (4, 4) at a time.

        Raises:
            RecordingError: the time lies outside the recorded ones, or in a gap of more than `max_gap` s.
        """
        after = int(np.searchsorted(self.stamps_ns, stamp_ns))
        if after < len(self) and self.stamps_ns[after] == stamp_ns:
            return np.array(self.poses[after])
        if len(self) == 0:
            raise RecordingError("expected poses, got none")
        if after == 0 or after == len(self):
            edge = self.stamps_ns[0] if after == 0 else self.stamps_ns[-1]
            side = "before the first" if after == 0 else "after the last"
            beyond = abs(int(edge) - stamp_ns) * 1e-9
            raise RecordingError(f"expected a time within that of the poses, got {beyond:.3f} s {side}")
        before = after - 1
        gap_ns = int(self.stamps_ns[after] - self.stamps_ns[before])
        if gap_ns > max_gap * 1e9 + 0.5:  # half a ns more: a gap of just the bound is none
            raise RecordingError(
                f"expected poses at most {max_gap:g} s apart, got a gap of {gap_ns * 1e-9:.3f} s"
            )
        share = (stamp_ns - int(self.stamps_ns[before])) / gap_ns
        first, second = self.poses[before], self.poses[after]
        turn = rotation_vector(first[:3, :3].T @ second[:3, :3])
        rotation = first[:3, :3] @ rotation_from_vector(share * turn)
        return transform(rotation, (1 - share) * first[:3, 3] + share * second[:3, 3])
