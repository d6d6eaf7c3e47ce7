"""`structpose import FORMAT SRC OUT`: one subcommand for each format, with the options that it has."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeVar

from structpose_ros.training.importers.common import Imported, Plan, Progress, Selection, write_import

Result = TypeVar("Result")


def add_formats(command: argparse.ArgumentParser) -> None:
    """Add every format to the `import` command."""
    formats = command.add_subparsers(required=True, metavar="FORMAT")
    for add in (
        _add_12scenes,
        _add_7scenes,
        _add_colmap,
        _add_rosbag2,
        _add_rtabmap,
        _add_scannet,
        _add_tum,
    ):
        add(formats)


def _add_format(
    formats: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    help_text: str,
    run: Callable[[argparse.Namespace, Progress], Imported],
) -> argparse.ArgumentParser:
    """Add a format with what all have: SRC, OUT and --skip-bad."""
    command = formats.add_parser(name, help=help_text, description=help_text)
    command.add_argument("source", type=Path, metavar="SRC")
    command.add_argument("out", type=Path, metavar="OUT")
    add_skip_bad(command)
    command.set_defaults(run=lambda arguments: _run(run, arguments))
    return command


def add_skip_bad(command: argparse.ArgumentParser) -> None:
    """Add --skip-bad, which every command that reads frames has."""
    command.add_argument(
        "--skip-bad", action="store_true", help="leave bad frames out instead of refusing them"
    )


def add_selection(command: argparse.ArgumentParser) -> None:
    """Add the options of `Selection`, for formats that are one drive with no split of their own."""
    defaults = Selection()
    command.add_argument(
        "--min-distance",
        type=float,
        default=defaults.min_distance,
        metavar="M",
        help="take a frame once the camera has moved as far (0: all)",
    )
    command.add_argument(
        "--min-angle",
        type=float,
        default=defaults.min_angle,
        metavar="DEG",
        help="or once it has turned as far (0: all)",
    )
    command.add_argument(
        "--test-fraction",
        type=float,
        default=defaults.test_fraction,
        metavar="SHARE",
        help="share of the frames held back for testing (default %(default)s)",
    )
    command.add_argument(
        "--test-blocks",
        type=int,
        default=defaults.blocks,
        metavar="N",
        help="in how many blocks, spread over the drive (default %(default)s)",
    )
    command.add_argument(
        "--test-gap",
        type=int,
        default=defaults.gap,
        metavar="FRAMES",
        help="frames left out beside a test block (default %(default)s)",
    )


def selection_of(arguments: argparse.Namespace) -> Selection:
    """Return what the options of `add_selection` say."""
    return Selection(
        arguments.min_distance,
        arguments.min_angle,
        arguments.test_fraction,
        arguments.test_blocks,
        arguments.test_gap,
    )


def write_plan(plan: Plan, arguments: argparse.Namespace, progress: Progress) -> Imported:
    """Write what an importer has planned."""
    return write_import(plan, arguments.out, skip_bad=arguments.skip_bad, progress=progress)


def with_progress_bar(work: Callable[[Progress], Result], description: str) -> Result:
    """Return what `work` returns, while a bar shows the progress in frames that it tells."""
    from tqdm import tqdm

    with ExitStack() as stack:
        bars: list[tqdm[Any]] = []

        def show(done: int, total: int) -> None:
            if not bars:  # not before there is something to show: an error takes one line
                bars.append(stack.enter_context(tqdm(desc=description, unit="frame", total=total)))
            bars[0].update(done - bars[0].n)

        return work(show)


def tell(imported: Imported, out: Path) -> None:
    """Print what has been written to `out`, and what has been left out."""
    for line in imported.bad:
        print(f"left out: {line}")
    print(f"wrote {imported.frames} frames to {out}")


def _run(run: Callable[[argparse.Namespace, Progress], Imported], arguments: argparse.Namespace) -> None:
    tell(with_progress_bar(lambda progress: run(arguments, progress), "importing"), arguments.out)


def _add_7scenes(formats: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    def run(arguments: argparse.Namespace, progress: Progress) -> Imported:
        from structpose_ros.training.importers.sevenscenes import import_7scenes

        return import_7scenes(arguments.source, arguments.out, skip_bad=arguments.skip_bad, progress=progress)

    _add_format(formats, "7scenes", "a scene of 7-Scenes as downloaded; its depth gets registered", run)


def _add_tum(formats: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    from structpose_ros.training.importers.tum import TumOptions, plan_tum

    def run(arguments: argparse.Namespace, progress: Progress) -> Imported:
        options = TumOptions(arguments.max_offset, arguments.max_gap, arguments.depth_scale, arguments.camera)
        return write_plan(plan_tum(arguments.source, options, selection_of(arguments)), arguments, progress)

    command = _add_format(formats, "tum", "a recording in the layout of the TUM RGB-D benchmark", run)
    defaults = TumOptions()
    for option, default, metavar, help_text in (
        ("--max-offset", defaults.max_offset, "S", "between an image and its depth"),
        ("--max-gap", defaults.max_gap, "S", "between the poses around an image"),
        ("--depth-scale", defaults.depth_scale, "UNITS", "units of depth per metre"),
    ):
        help_text = f"{help_text} (default %(default)g)"
        command.add_argument(option, type=float, default=default, metavar=metavar, help=help_text)
    command.add_argument(
        "--camera",
        help="freiburg1, freiburg2, freiburg3, ros_default or a camera_info YAML file "
        "(default: the folder's name tells)",
    )
    add_selection(command)


def _add_rtabmap(formats: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    def run(arguments: argparse.Namespace, progress: Progress) -> Imported:
        from structpose_ros.training.importers.rtabmap import plan_rtabmap

        plan = plan_rtabmap(arguments.source, selection_of(arguments), arguments.camera_index)
        return write_plan(plan, arguments, progress)

    command = _add_format(
        formats, "rtabmap", "what `rtabmap-export --images --poses_camera` wrote: SRC or SRC/NAME", run
    )
    command.add_argument(
        "--camera-index",
        type=int,
        default=0,
        metavar="N",
        help="of a robot with several cameras (default %(default)s)",
    )
    add_selection(command)


def _add_scannet(formats: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    def run(arguments: argparse.Namespace, progress: Progress) -> Imported:
        from structpose_ros.training.importers.scannet import plan_scannet

        plan = plan_scannet(arguments.source, selection_of(arguments))
        imported = write_plan(plan, arguments, progress)
        lost = [f"{plan.lost} frames whose tracking was lost"] if plan.lost else []
        return Imported(imported.frames, [*lost, *imported.bad])

    command = _add_format(formats, "scannet", "a scan of ScanNet as its SensReader exports it", run)
    add_selection(command)


def _add_12scenes(formats: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    def run(arguments: argparse.Namespace, progress: Progress) -> Imported:
        from structpose_ros.training.importers.twelvescenes import import_12scenes

        return import_12scenes(
            arguments.source, arguments.out, skip_bad=arguments.skip_bad, progress=progress
        )

    _add_format(formats, "12scenes", "a scene of 12-Scenes as downloaded, e.g. apt1/kitchen", run)


def _add_colmap(formats: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    def run(arguments: argparse.Namespace, progress: Progress) -> Imported:
        from structpose_ros.training.importers.colmap import ColmapOptions, import_colmap

        names = [name for name in ColmapOptions.__dataclass_fields__ if name != "selection"]
        given = {name: getattr(arguments, name) for name in names}
        options = ColmapOptions(**given, selection=selection_of(arguments))
        return import_colmap(
            arguments.source, arguments.out, options, skip_bad=arguments.skip_bad, progress=progress
        )

    command = _add_format(
        formats, "colmap", "images with a sparse model of COLMAP (and the maps of its MVS)", run
    )
    command.add_argument(
        "--scale",
        type=float,
        required=True,
        metavar="M",
        help="metres per unit of the model: it has none of its own, and the robot's positions come out in it",
    )
    command.add_argument("--model", type=Path, help="folder of the model (default SRC/sparse/0, SRC/sparse)")
    command.add_argument("--images", type=Path, help="folder of the images (default SRC/images)")
    command.add_argument("--camera-id", type=int, metavar="N", help="take the images of this camera alone")
    command.add_argument(
        "--depth",
        choices=["auto", "sparse", "mvs"],
        default="auto",
        help="from the points seen in an image, or from SRC/stereo/depth_maps (auto: maps if there are any)",
    )
    command.add_argument(
        "--max-error", type=float, default=2.0, metavar="PX", help="of a point (default %(default)s)"
    )
    command.add_argument(
        "--min-track", type=int, default=3, metavar="N", help="images that see a point (default %(default)s)"
    )
    command.add_argument(
        "--test-list", type=Path, metavar="FILE", help="names of images to test on, instead of blocks"
    )
    add_selection(command)


_ROSBAG2 = """
A robot's own recording: a bag's folder, or a .mcap or .db3 file. Poses come from TF, --map-frame to the
images' frame, or from --pose-topic. Topics left out are found by type where there is one; else the error
lists them. Images before the first pose and after the last are left out and counted, as are colour images
without depth near in time. A gap of more than --max-gap between two poses makes the images in it bad.
"""


def _add_rosbag2(formats: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    def run(arguments: argparse.Namespace, progress: Progress) -> Imported:
        from structpose_ros.training.importers.bag_options import BagOptions
        from structpose_ros.training.importers.rosbag2 import import_rosbag2

        names = [field.name for field in dataclasses.fields(BagOptions)]
        return import_rosbag2(
            arguments.source,
            arguments.out,
            options=BagOptions(**{name: getattr(arguments, name) for name in names}),
            selection=selection_of(arguments),
            test=arguments.test,
            skip_bad=arguments.skip_bad,
            progress=progress,
        )

    command = _add_format(formats, "rosbag2", "a robot's bag: a camera, and poses from TF or a topic", run)
    command.description = _ROSBAG2
    add = command.add_argument
    add("--image", metavar="TOPIC", help="colour images, raw or compressed")
    add("--camera-info", metavar="TOPIC", help="their CameraInfo (default: camera_info beside them)")
    depth = command.add_mutually_exclusive_group()
    depth.add_argument("--depth", metavar="TOPIC", help="depth images, raw or compressedDepth")
    depth.add_argument(
        "--no-depth", dest="with_depth", action="store_false", help="import without depth (all 0)"
    )
    add("--depth-info", metavar="TOPIC", help="depth's CameraInfo, unless depth is registered to colour")
    add(
        "--depth-scale",
        type=float,
        metavar="M",
        help="metres per unit of depth (default 0.001 for integers, 1 for floats)",
    )
    add("--rectified", action="store_true", help="the images are rectified: P is their camera, not K and D")
    add(
        "--max-offset",
        type=float,
        default=0.02,
        metavar="S",
        help="how far the stamps of colour and depth may lie apart (default %(default)s)",
    )
    add("--map-frame", metavar="FRAME", help="the map's frame (default: map, or that of --pose-topic)")
    add("--tf", default="/tf", metavar="TOPIC", help="TF's topic; _static is appended (default %(default)s)")
    add(
        "--pose-topic",
        metavar="TOPIC",
        help="poses as Odometry, PoseStamped or PoseWithCovarianceStamped; TF joins them with the camera",
    )
    add(
        "--pose-frame",
        metavar="FRAME",
        help="whose poses these are (default: Odometry's child frame, else the images' frame)",
    )
    add(
        "--max-gap",
        type=float,
        default=0.2,
        metavar="S",
        help="how far apart two poses may lie that a third is interpolated from (default %(default)s)",
    )
    add("--test", type=Path, metavar="BAG", help="a second drive in the same map, to test on all of it")
    add_selection(command)
