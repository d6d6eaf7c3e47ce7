"""The figures of the paper: Blanton, Workman, Jacobs, "A Structure-Aware Method for Direct Pose Estimation".

Errors are medians over a scene's test images, metres and degrees, unless a table says otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from structpose_ros.training.config import TrainingConfig


class PoseError(NamedTuple):
    """Position in metres, rotation in degrees."""

    position_m: float
    rotation_deg: float


Row = Mapping[str, PoseError]  # by scene; a scene for which nothing was published is left out
OURS = "Ours"


def _table(columns: str, rows: str) -> dict[str, dict[str, PoseError]]:
    """Read lines `method | m/deg m/deg ...` as the paper prints them."""
    table = {}
    for line in rows.strip().splitlines():
        method, _, cells = line.partition("|")
        named = zip(columns.split(","), cells.split(), strict=True)
        table[method.strip()] = {column: _error(cell) for column, cell in named if cell != "-"}
    return table


def _error(cell: str) -> PoseError:
    position, rotation = map(float, cell.split("/"))
    return PoseError(position, rotation)


_SEVEN = "Chess,Fire,Heads,Office,Pumpkin,Kitchen,Stairs"
AVERAGE = "Avg."

# Direct methods on 7-Scenes.
TABLE_1 = _table(
    f"{_SEVEN},{AVERAGE}",
    """
  PoseNet                 | 0.32/8.12 0.47/14.4 0.29/12.0 0.48/7.68 0.47/8.42 0.59/8.64 0.47/13.8 0.44/10.44
  PoseNet Learned Weights | 0.14/4.50 0.27/11.8 0.18/12.1 0.20/5.77 0.25/4.82 0.24/5.52 0.37/10.6 0.24/7.87
  Geo PoseNet             | 0.13/4.48 0.27/11.3 0.17/13.0 0.19/5.55 0.26/4.75 0.23/5.35 0.35/12.4 0.23/8.12
  LSTM PoseNet            | 0.24/5.77 0.34/11.9 0.21/13.7 0.30/8.08 0.33/7.00 0.37/8.83 0.40/13.7 0.31/9.85
  GPoseNet                | 0.20/7.11 0.38/12.3 0.21/13.8 0.28/8.83 0.37/6.94 0.35/8.15 0.37/12.5 0.31/9.95
  Hourglass PN            | 0.15/6.17 0.27/10.8 0.19/11.6 0.21/8.48 0.25/7.01 0.27/10.2 0.29/12.5 0.23/9.54
  BranchNet               | 0.18/5.17 0.34/8.99 0.20/14.2 0.30/7.05 0.27/5.10 0.33/7.40 0.38/10.3 0.29/8.32
  MapNet                  | 0.08/3.25 0.27/11.7 0.18/13.3 0.17/5.15 0.22/4.02 0.23/4.93 0.30/12.1 0.21/7.78
  MapNet++                | 0.10/3.17 0.20/9.04 0.13/11.1 0.18/5.38 0.19/3.92 0.20/5.01 0.30/13.4 0.19/7.29
  Sequence Enhancement    | 0.09/3.28 0.26/10.92 0.17/12.70 0.18/5.45 0.20/3.66 0.23/4.92 0.23/11.3 0.19/7.46
  ESAC no RANSAC          | 0.12/2.96 0.28/7.58 1.04/60.68 0.48/9.05 0.21/4.32 0.31/6.88 0.58/10.25 0.43/14.53
  SC-conf no RANSAC       | - - 0.18/10.6 - - - - -
  Ours                    | 0.08/2.17 0.21/6.14 0.13/7.93 0.11/2.65 0.14/3.34 0.12/2.75 0.29/6.88 0.15/4.55
    """,
)

# Indirect methods on 7-Scenes, averages over the scenes, and what they use: retrieval (Ret), correspondence
# (Cor), hypothesis averaging (Avg), RANSAC (RAN), refinement (Ref).
TABLE_2: dict[str, tuple[PoseError, str]] = {
    "Ours": (PoseError(0.15, 4.55), ""),
    "Bayesian PN": (PoseError(0.47, 9.81), "Avg"),
    "MapNet+PGO": (PoseError(0.18, 6.56), "Ref"),
    "DenseVLAD": (PoseError(0.26, 13.11), "Ret"),
    "AnchorNet": (PoseError(0.10, 6.74), "Avg"),
    "RelocNet": (PoseError(0.21, 6.73), "Ret, Avg"),
    "PnLP": (PoseError(0.12, 3.93), "Ret, Cor, RAN, Ref"),
    "Active Search": (PoseError(0.05, 2.46), "Cor, RAN, Ref"),
    "SCoRe": (PoseError(0.08, 1.60), "RAN, Ref"),
    "CamNet": (PoseError(0.04, 1.69), "Ret, Avg"),
    "SANet": (PoseError(0.05, 1.68), "Ret, Cor, RAN, Ref"),
    "SC-conf": (PoseError(0.059, 3.057), "RAN, Ref"),
    "DSAC++": (PoseError(0.03, 1.10), "RAN, Ref"),
}

# All images of 7-Scenes together: share within 5 cm and 5 deg, and the median error.
TABLE_3: dict[str, tuple[float, PoseError]] = {
    "PoseNet": (0.024, PoseError(0.212, 6.54)),
    "MapNet": (0.052, PoseError(0.199, 5.794)),
    "Ours": (0.116, PoseError(0.131, 3.287)),
    "ESAC": (0.752, PoseError(0.030, 0.946)),
}

_TWELVE = "Kitchen1,Living1,Kitchen2,Living2,Bed,Luke,Office 5a,Office 5b,Lounge,Manolis,Gates362,Gates381"

# 12-Scenes; the paper has the scenes below each other.
TABLE_4 = _table(
    _TWELVE,
    """
    PoseNet | 0.29/15.48 0.29/15.31 0.21/18.18 0.31/23.58 0.57/17.85 0.35/20.07 \
              0.57/14.55 0.47/15.49 0.29/18.42 0.22/17.45 0.27/16.71 0.37/20.52
    Ours    | 0.08/4.45 0.08/2.50 0.08/2.96 0.09/3.13 0.07/3.87 0.12/4.82 \
              0.10/5.08 0.09/2.57 0.07/2.53 0.09/3.52 0.06/2.04 0.12/5.02
    PnLP    | 0.09/4.1 0.08/2.9 0.10/3.7 0.10/4.7 0.12/5.7 0.14/5.5 \
              0.09/3.6 0.10/3.7 0.10/3.5 0.09/3.7 0.10/4.7 0.11/4.4
    ESAC    | 0.01/0.44 0.01/0.43 0.01/0.46 0.01/0.40 0.01/0.46 0.01/0.59 \
              0.01/0.59 0.02/0.59 0.02/0.61 0.01/0.53 0.01/0.46 0.01/0.67
    """,
)

_ABLATION = _table(
    _SEVEN,
    """
    none                    | 0.36/10.72 0.29/9.06 0.23/12.69 0.15/3.81 0.21/4.92 0.17/4.10 0.35/8.15
    pose                    | 0.36/10.70 0.26/9.10 0.22/12.4 0.14/3.68 0.20/4.86 0.16/4.08 0.34/7.89
    weighting               | 0.08/2.27 0.23/6.01 0.14/7.75 0.11/2.70 0.15/3.47 0.13/2.93 0.31/7.14
    pose and weighting      | 0.08/2.17 0.21/6.14 0.13/7.93 0.11/2.65 0.14/3.34 0.12/2.75 0.29/6.88
    mask                    | 0.14/3.70 0.25/8.41 0.23/15.52 0.14/3.59 0.17/3.86 0.16/4.21 0.30/7.89
    mask and both           | 0.08/2.46 0.21/5.51 0.16/10.67 0.11/2.75 0.18/4.17 0.14/2.99 0.29/6.36
    """,
)

# What each part brings on 7-Scenes, by (pose optimisation, correspondence weighting, loss mask).
TABLE_5: dict[tuple[bool, bool, bool], Row] = {
    (False, False, False): _ABLATION["none"],
    (True, False, False): _ABLATION["pose"],
    (False, True, False): _ABLATION["weighting"],
    (True, True, False): _ABLATION["pose and weighting"],
    (False, False, True): _ABLATION["mask"],
    (True, True, True): _ABLATION["mask and both"],
}


def ablation(config: TrainingConfig) -> Row | None:
    """Return the row of Table 5 whose parts a configuration has, None where the paper has none such."""
    optimised = config.pose.epochs > 0 and config.pose.update_geometry
    return TABLE_5.get((optimised, config.pose.correspondence_weighting, config.geometry.validity_mask))
