"""`structpose labels` and `structpose fuse`: from a mesh to labels, and from depth images to a mesh."""

from __future__ import annotations

import argparse
from pathlib import Path

from structpose_ros.training.importers.commands import add_skip_bad, tell, with_progress_bar


def add_mesh_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add both commands."""
    _add_labels(commands)
    _add_fuse(commands)


def _add_labels(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    command = commands.add_parser(
        "labels",
        help="write a recording whose depth is ray-cast from a mesh",
        description="Write a recording to OUT with the colour and poses of DATA and the depth that a mesh "
        "has there. Faces count from both sides. DATA needs no depth; what it has is compared with the mesh.",
    )
    command.add_argument("data", type=Path, metavar="DATA")
    command.add_argument("out", type=Path, metavar="OUT")
    command.add_argument("--mesh", type=Path, required=True, metavar="FILE", help="PLY, OBJ, STL, OFF or GLB")
    command.add_argument(
        "--unit",
        type=float,
        default=1.0,
        metavar="M",
        help="metres per unit of the mesh (0.001: it is in mm)",
    )
    command.add_argument(
        "--mesh-from-map",
        type=Path,
        metavar="FILE",
        help="text file of 4x4 numbers: the rigid transform, in metres, from the map's frame into the mesh's",
    )
    command.add_argument(
        "--combine", action="store_true", help="keep the sensor's depth; the mesh fills its holes alone"
    )
    add_skip_bad(command)
    command.set_defaults(run=_labels)


def _add_fuse(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    command = commands.add_parser(
        "fuse", help="fuse a recording's depth into a mesh, for `structpose labels --mesh`"
    )
    command.add_argument("data", type=Path, metavar="DATA")
    command.add_argument("--out", type=Path, required=True, metavar="MESH.ply")
    command.add_argument("--split", choices=["train", "test"], default="train")
    command.add_argument(
        "--voxel",
        type=float,
        default=0.02,
        metavar="M",
        help="size of a voxel (default %(default)s)",
    )
    command.add_argument(
        "--max-depth",
        type=float,
        default=4.0,
        metavar="M",
        help="depth beyond it is not used: a sensor's error grows with it (default %(default)s)",
    )
    add_skip_bad(command)
    command.set_defaults(run=_fuse)


def _labels(arguments: argparse.Namespace) -> None:
    from structpose_ros.training.mesh_labels import cast_labels

    imported, agreement = with_progress_bar(
        lambda progress: cast_labels(
            arguments.data,
            arguments.out,
            arguments.mesh,
            metres_per_unit=arguments.unit,
            mesh_from_map_file=arguments.mesh_from_map,
            combine=arguments.combine,
            skip_bad=arguments.skip_bad,
            progress=progress,
        ),
        "casting rays",
    )
    tell(imported, arguments.out)
    print("\n".join(agreement.lines()))


def _fuse(arguments: argparse.Namespace) -> None:
    from structpose_ros.training.fusion import fuse_recording

    fused = with_progress_bar(
        lambda progress: fuse_recording(
            arguments.data,
            arguments.out,
            split=arguments.split,
            voxel=arguments.voxel,
            max_depth=arguments.max_depth,
            skip_bad=arguments.skip_bad,
            progress=progress,
        ),
        "fusing",
    )
    for line in fused.bad:
        print(f"left out: {line}")
    print(f"wrote {fused.triangles} faces from {fused.frames} frames to {arguments.out}")
