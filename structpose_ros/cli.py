"""The `structpose` command: recordings to models, models to figures."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

from structpose_ros import __version__
from structpose_ros.camera import CameraError
from structpose_ros.contract import ModelFileError
from structpose_ros.map_cloud import MapCloud
from structpose_ros.model_card import ModelCard
from structpose_ros.model_page import cost_of_int8, page
from structpose_ros.network import OnnxNetwork, ProviderError
from structpose_ros.sessions import PROVIDERS
from structpose_ros.training.importers.commands import add_formats, add_skip_bad

WARNED = 3  # status of `inspect --strict`


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns the exit status. Errors that a user can mend take one line."""
    arguments = _parser().parse_args(argv)
    try:
        status: int | None = arguments.run(arguments)
    except (CameraError, ModelFileError, ProviderError) as error:
        return _fail(error)
    except KeyboardInterrupt:
        print("structpose: interrupted; what was finished is kept", file=sys.stderr)
        return 130
    except ModuleNotFoundError as error:
        extra = "fusion" if error.name == "open3d" else "training"
        return _fail(f"expected the package '{error.name}', got none: pip install 'structpose_ros[{extra}]'")
    except (ValueError, OSError, RuntimeError) as error:
        if type(error).__module__.startswith("structpose_ros") or isinstance(error, OSError):
            return _fail(error)
        raise
    return status or 0


def _fail(error: object) -> int:
    line = " ".join(part.strip() for part in str(error).splitlines())  # YAML's, among others, take several
    print(f"structpose: error: {line}", file=sys.stderr)
    return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="structpose", description=__doc__)
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    command = commands.add_parser("import", help="turn a recording into posed frames on disk")
    add_formats(command)
    _add_mesh_commands(commands)

    command = commands.add_parser(
        "inspect", help="check a recording before training: one page of pictures, numbers and warnings"
    )
    command.add_argument("data", type=Path)
    command.add_argument("--out", type=Path, default=Path("inspect"), help="folder (default ./inspect)")
    command.add_argument(
        "--rate", type=float, metavar="HZ", help="frames per second, where there are no stamps"
    )
    command.add_argument(
        "--samples", type=int, metavar="N", help="frames to read, spread evenly (default 200)"
    )
    command.add_argument("--strict", action="store_true", help="exit with status 3 where there are warnings")
    command.set_defaults(run=_inspect)

    command = commands.add_parser(
        "render-demo", help="render the demo room: a mapping and a localisation tour"
    )
    command.add_argument("out", type=Path)
    command.add_argument("--tour", choices=["both", "mapping", "localization"], default="both")
    command.add_argument("--seed", type=int, default=7)
    command.set_defaults(run=_render_demo)

    command = commands.add_parser(
        "train", help="train a model on posed frames; resumes where OUT holds the same run"
    )
    command.add_argument("config", type=Path)
    command.add_argument("--data", type=Path, required=True)
    command.add_argument("--out", type=Path, required=True)
    add_skip_bad(command)
    command.set_defaults(run=_train)

    command = commands.add_parser("evaluate", help="measure a model file or a run on frames with known poses")
    command.add_argument("model", type=Path, metavar="MODEL_OR_RUN")
    command.add_argument("--data", type=Path, required=True)
    command.add_argument("--split", choices=["train", "test"], default="test")
    command.add_argument("--out", type=Path, required=True)
    command.add_argument("--provider", choices=["auto", *PROVIDERS], default="auto")
    command.add_argument(
        "--swap",
        choices=["none", "depth", "scene_coordinates"],
        default="none",
        help="replace one output by the truth, to see what the other one costs",
    )
    command.add_argument(
        "--foreign",
        type=Path,
        metavar="DIR",
        help="images that show another place: how many of them are accepted",
    )
    add_skip_bad(command)
    command.set_defaults(run=_evaluate)

    command = commands.add_parser(
        "ablate",
        help="what each part of the method brings: the paper's Table 5, or a map of landmarks without each",
    )
    command.add_argument("config", type=Path)
    command.add_argument("--data", type=Path, required=True)
    command.add_argument("--out", type=Path, required=True)
    command.add_argument("--split", choices=["train", "test"], default="test")
    add_skip_bad(command)
    command.set_defaults(run=_ablate)

    command = commands.add_parser("compare", help="put a model's pose solve beside PnP and published results")
    _add_comparison(command)

    command = commands.add_parser("export", help="write a run's model file; agreement with torch is checked")
    command.add_argument("training_run", type=Path, metavar="RUN")
    command.add_argument("--out", type=Path, required=True)
    command.add_argument(
        "--data",
        type=Path,
        help="the run's recording, to measure the map's points again (runs of earlier releases lack them)",
    )
    command.add_argument(
        "--int8",
        action="store_true",
        help="a map of landmarks in whole numbers of 8 bits: twice as fast on a CPU, not for a GPU",
    )
    add_skip_bad(command)
    command.set_defaults(run=_export)

    command = commands.add_parser(
        "reproduce", help="train and test on every scene of the paper's data, beside the paper's figures"
    )
    command.add_argument("benchmark", choices=["7scenes", "12scenes"])
    command.add_argument("--root", type=Path, required=True, help="folder of the scenes as downloaded")
    command.add_argument("--out", type=Path, required=True)
    command.add_argument("--config", type=Path, help="training configuration (default: the paper's)")
    command.add_argument(
        "--scenes",
        metavar="A,B",
        help="folders below the root, e.g. chess,fire (default: all that are there)",
    )
    add_skip_bad(command)
    command.set_defaults(run=_reproduce)

    command = commands.add_parser(
        "info", help="print what a model file says of itself: where it comes from, when it works, how well"
    )
    command.add_argument("model", type=Path)
    command.add_argument("--json", action="store_true", help="print everything, as JSON")
    command.set_defaults(run=_info)
    return parser


def _add_mesh_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    from structpose_ros.training.mesh_commands import add_mesh_commands

    add_mesh_commands(commands)


def _add_comparison(command: argparse.ArgumentParser) -> None:
    command.add_argument("model", type=Path, nargs="?", metavar="MODEL_OR_RUN")
    command.add_argument("--data", type=Path)
    command.add_argument("--split", choices=["train", "test"], default="test")
    command.add_argument("--out", type=Path, required=True)
    command.add_argument("--provider", choices=["auto", *PROVIDERS], default="auto")
    command.add_argument(
        "--pnp-threshold",
        type=float,
        default=10.0,
        metavar="PX",
        help="reprojection error of an inlier of PnP with RANSAC, at an image width of 640 px (default: 10)",
    )
    command.add_argument(
        "--posenet",
        action="store_true",
        help="train PoseNet (learned weights) as RUN was, in OUT/posenet-run, and measure it too",
    )
    command.add_argument(
        "--published",
        action="append",
        default=[],
        metavar="NAME=FILE",
        help="others' estimates: lines of file, qw qx qy qz, tx ty tz, world to camera; may be repeated",
    )
    command.add_argument("--truth", type=Path, metavar="FILE", help="true poses of the published estimates")
    add_skip_bad(command)
    command.set_defaults(run=_compare)


def _inspect(arguments: argparse.Namespace) -> int:
    from structpose_ros.training.inspection.command import inspect_into

    findings = inspect_into(arguments.data, arguments.out, samples=arguments.samples, rate=arguments.rate)
    return WARNED if findings and arguments.strict else 0


def _render_demo(arguments: argparse.Namespace) -> None:
    from structpose_ros.training.synthetic import render_demo

    tours = ("mapping", "localization") if arguments.tour == "both" else (arguments.tour,)
    render_demo(arguments.out, seed=arguments.seed, tours=tours)


def _train(arguments: argparse.Namespace) -> None:
    from structpose_ros.training.config import load_config
    from structpose_ros.training.train import train

    train(load_config(arguments.config), arguments.data, arguments.out, skip_bad=arguments.skip_bad)


def _ablate(arguments: argparse.Namespace) -> None:
    from structpose_ros.training import ablation, landmark_ablation
    from structpose_ros.training.config import load_config

    config = load_config(arguments.config)
    options = {"split": arguments.split, "skip_bad": arguments.skip_bad}
    if config.method == "landmarks":
        rows = landmark_ablation.ablate_landmarks(config, arguments.data, arguments.out, **options)
        print(landmark_ablation.table(rows), end="")
    else:
        rows = ablation.ablate(config, arguments.data, arguments.out, **options)
        print(ablation.table(rows), end="")


def _evaluate(arguments: argparse.Namespace) -> None:
    from structpose_ros.training.evaluate import evaluate

    metrics = evaluate(
        _model_file(arguments.model),
        arguments.data,
        arguments.split,
        arguments.out,
        provider=arguments.provider,
        swap=arguments.swap,
        skip_bad=arguments.skip_bad,
        foreign=arguments.foreign,
    )
    print(json.dumps(metrics, indent=2))


def _compare(arguments: argparse.Namespace) -> None:
    from structpose_ros.training.comparison import POSENET_RUN, compare, posenet_beside
    from structpose_ros.training.methods import published_files, table

    regressors = {}
    if arguments.posenet and arguments.model and arguments.data:
        run, beside = arguments.model, arguments.out / POSENET_RUN
        regressors["PoseNet"] = posenet_beside(run, arguments.data, beside, skip_bad=arguments.skip_bad)
    content = compare(
        arguments.out,
        model=_model_file(arguments.model) if arguments.model else None,
        data_root=arguments.data,
        split=arguments.split,
        provider=arguments.provider,
        skip_bad=arguments.skip_bad,
        pnp_threshold_px=arguments.pnp_threshold,
        regressors=regressors,
        published=published_files(arguments.published),
        truth=arguments.truth,
    )
    print(table(content), end="")


def _export(arguments: argparse.Namespace) -> None:
    from structpose_ros.training.runs import export_run, measure_map_cloud

    run, root = arguments.training_run, arguments.data
    map_cloud = measure_map_cloud(run, root, skip_bad=arguments.skip_bad) if root else None
    parity = export_run(run, arguments.out, map_cloud=map_cloud, int8=arguments.int8)
    outputs = ", ".join(
        f"{name} {getattr(parity, name):.2e}" for name in ("depth", "scene_coordinates", "weights")
    )
    print(f"wrote {arguments.out}; largest relative deviation from torch:")
    print(f"  {outputs}")
    print(
        f"  of {parity.poses} poses {1e3 * parity.position_m:.2g} mm and {parity.rotation_deg:.2g} deg"
        if parity.poses
        else "  no pose was certain enough to be compared"
    )
    if arguments.int8:
        card = ModelCard.from_metadata(OnnxNetwork(arguments.out, provider="cpu").metadata)
        if card is not None and card.export.int8 is not None:
            print(f"int8 costs, {cost_of_int8(card.export.int8)}")


def _reproduce(arguments: argparse.Namespace) -> None:
    from structpose_ros.resources import share_path
    from structpose_ros.training.config import load_config
    from structpose_ros.training.reproduce import BENCHMARKS, reproduce

    reproduce(
        BENCHMARKS[arguments.benchmark],
        arguments.root,
        arguments.out,
        load_config(arguments.config or share_path("config", "training", "paper.yaml")),
        scenes=[name.strip() for name in arguments.scenes.split(",")] if arguments.scenes else None,
        skip_bad=arguments.skip_bad,
    )


def _info(arguments: argparse.Namespace) -> None:
    network = OnnxNetwork(arguments.model, provider="cpu")
    try:
        card = ModelCard.from_metadata(network.metadata)
    except ModelFileError as error:
        raise ModelFileError(f"{arguments.model}: {error}") from error
    if not arguments.json:
        text = page(arguments.model, network.sha256, network.contract, card, network.map_cloud)
        encoding = sys.stdout.encoding or "utf-8"  # a dataset's name may have letters that a terminal has not
        print(text.encode(encoding, "backslashreplace").decode(encoding))
        return
    content: dict[str, Any] = {"file": str(arguments.model), "sha256": network.sha256}
    content["size_bytes"] = arguments.model.stat().st_size
    content.update(dataclasses.asdict(network.contract))
    content["map_points"] = None if network.map_cloud is None else _summary_of(network.map_cloud)
    content["card"] = None if card is None else dataclasses.asdict(card)
    print(json.dumps(content, indent=2))


def _summary_of(cloud: MapCloud) -> dict[str, Any]:
    """Return number and extent (metres, map frame, to the millimetre) of a cloud."""
    low, high = cloud.points.min(axis=0), cloud.points.max(axis=0)
    corners = {name: [round(value, 3) for value in at.tolist()] for name, at in (("min", low), ("max", high))}
    return {"count": len(cloud.points), **corners}


def _model_file(path: Path) -> Path:
    """Return the model file itself, or that of a run, exported first if training has gone on since."""
    if not path.is_dir():
        return path
    from structpose_ros.training.runs import CHECKPOINT, MODEL, export_run

    model, checkpoint = path / MODEL, path / CHECKPOINT
    if not model.is_file() or (checkpoint.is_file() and checkpoint.stat().st_mtime > model.stat().st_mtime):
        export_run(path, model)
    return model


if __name__ == "__main__":
    sys.exit(main())
