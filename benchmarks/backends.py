"""What runs a model fastest on a CPU, and how good the poses then are: ONNX Runtime, OpenVINO, ncnn.

    python -m benchmarks.backends --model models/demo_room.onnx --model my_room.onnx --data DATA

Packages that are missing are named with what installs them. onnxruntime-openvino goes without onnxruntime, so
its line comes from an environment of its own. DATA, posed frames, gives the images, those that int8 is
calibrated on (of the train split), and the test split's errors (`--errors`); without it images are noise.
"""

from __future__ import annotations

import argparse
import importlib
import json
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from structpose_ros.camera import resize_image
from structpose_ros.contract import ModelContract
from structpose_ros.geometry import pose_error
from structpose_ros.network import (
    OnnxNetwork,
    Prediction,
    normalized_tensor,
    output_names,
    prediction_from_outputs,
)
from structpose_ros.relocalizer import Relocalizer
from structpose_ros.sessions import BackendOptions, ProviderError, spinning_entries
from structpose_ros.training.frames import Recording, open_recording, read_color, read_pose

CALIBRATION_FRAMES = 48
ROUND = 10  # runs of a back end before the next one's turn: what else the machine does falls on all of them
WARM_UP = 5
# XFeat within a map of landmarks: the convolutions alone, which is what ncnn can run.
BACKBONE_INPUT = "/xfeat/Div_output_0"
BACKBONE_OUTPUTS = (
    "/xfeat/block_fusion/block_fusion.2/Conv_output_0",
    "/xfeat/keypoint_head/keypoint_head.3/Conv_output_0",
)

Run = Callable[[np.ndarray, np.ndarray], Sequence[np.ndarray]]  # image and rays to the graph's outputs


class UnavailableError(RuntimeError):
    """What is needed isn't there; the message says what to do about it."""


@dataclass(frozen=True)
class Subject:
    """A model to measure: `content` is its ONNX file's, `backbone` that of its convolutions, where known."""

    name: str
    path: Path
    contract: ModelContract
    rays: np.ndarray
    images: list[np.ndarray]
    calibration: list[np.ndarray]


class ForeignNetwork:
    """A model that something else than `OnnxNetwork` runs."""

    def __init__(self, contract: ModelContract, run: Run) -> None:
        self.contract, self._run = contract, run

    def predict(self, input_tensor: np.ndarray, rays: np.ndarray) -> Prediction:
        """See `Network.predict`."""
        tensor = np.ascontiguousarray(rays.transpose(2, 0, 1)[None], dtype=np.float32)
        depth, scene_coordinates, weights, *offsets = self._run(input_tensor, tensor)
        return prediction_from_outputs(depth, scene_coordinates, weights, self.contract, *offsets)


def needed(module: str, package: str) -> Any:
    """Import a module, or say what installs it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UnavailableError(f"not installed: pip install {package}") from error


def with_onnx_runtime(
    path: Path, names: Sequence[str], inputs: Sequence[str], threads: int, provider: str
) -> Run:
    runtime = needed("onnxruntime", "onnxruntime")
    if provider not in runtime.get_available_providers():
        raise UnavailableError("not installed: pip install onnxruntime-openvino, without onnxruntime")
    settings = runtime.SessionOptions()
    settings.intra_op_num_threads = threads
    settings.log_severity_level = 3
    for key, value in spinning_entries(BackendOptions.spinning).items():
        settings.add_session_config_entry(key, value)
    told = {"device_type": "CPU", "num_of_threads": str(threads), "precision": "FP32"}
    chain = [(provider, told)] if provider.startswith("OpenVINO") else [provider]
    session = runtime.InferenceSession(str(path), settings, providers=chain)
    return lambda *tensors: session.run(list(names), dict(zip(inputs, tensors, strict=False)))


def with_openvino(path: Path, names: Sequence[str], inputs: Sequence[str], threads: int) -> Run:
    openvino = needed("openvino", "openvino")
    core = openvino.Core()
    told = {
        **{"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": 1},
        "INFERENCE_PRECISION_HINT": "f32",
    }
    request = core.compile_model(core.read_model(path), "CPU", told).create_infer_request()

    def run(*tensors: np.ndarray) -> list[np.ndarray]:
        found = request.infer(dict(zip(inputs, tensors, strict=False)))
        return [found[name] for name in names]

    return run


def with_ncnn(path: Path, names: Sequence[str], shape: Sequence[int], threads: int, folder: Path) -> Run:
    ncnn = needed("ncnn", "ncnn")
    needed("pnnx", "pnnx")
    sides = ",".join(str(side) for side in shape)
    command = [str(Path(sys.executable).parent / "pnnx"), path.name, f"inputshape=[{sides}]", "fp16=0"]
    subprocess.run(command, cwd=path.parent, check=True, capture_output=True)
    net = ncnn.Net()
    net.opt.num_threads = threads
    net.load_param(str(path.with_suffix(".ncnn.param")))
    net.load_model(str(path.with_suffix(".ncnn.bin")))

    def run(image: np.ndarray, _: np.ndarray) -> list[np.ndarray]:
        with net.create_extractor() as extractor:
            extractor.input("in0", ncnn.Mat(image[0]))
            return [np.array(extractor.extract(f"out{at}")[1])[None] for at in range(len(names))]

    return run


def float_model(path: Path) -> Any:
    """Load a model whose convolutions are in float32."""
    model = needed("onnx", "onnx").load(path)
    if any(node.op_type == "QuantizeLinear" for node in model.graph.node):
        raise UnavailableError("convolutions are in int8: give a model exported without --int8")
    return model


def quantised(path: Path, folder: Path, feeds: list[dict[str, np.ndarray]]) -> Path:
    """Return a model file whose convolutions alone are in int8 as in `structpose export --int8`."""
    onnx = needed("onnx", "onnx")
    if not feeds:
        raise UnavailableError("no frames to calibrate on: give --data")
    target = folder / f"{path.stem}_int8_convolutions.onnx"
    if not target.is_file():
        model = float_model(path)
        from structpose_ros.training.int8_convolutions import with_int8_convolutions  # needs onnx

        onnx.save(with_int8_convolutions(model, feeds), target)
    return target


def backbone(path: Path, folder: Path) -> tuple[Path, tuple[int, ...]]:
    """Return the file of a model's convolutions alone, and the shape of its input."""
    onnx = needed("onnx", "onnx")
    model = onnx.shape_inference.infer_shapes(float_model(path))
    made = onnx.utils.Extractor(model).extract_model([BACKBONE_INPUT], list(BACKBONE_OUTPUTS))
    target = folder / f"{path.stem}_backbone.onnx"
    onnx.save(made, target)
    return target, tuple(side.dim_value for side in made.graph.input[0].type.tensor_type.shape.dim)


def whole(subject: Subject, folder: Path) -> dict[str, Callable[[int], Run]]:
    """Return what can run all of a model, by name: each takes a number of threads."""
    names, inputs = output_names(subject.contract), ("image", "rays")

    def in_int8() -> Path:
        feeds = [{"image": image, "rays": subject.rays} for image in subject.calibration]
        return quantised(subject.path, folder, feeds)

    cpu, other = "CPUExecutionProvider", "OpenVINOExecutionProvider"
    return {
        "ONNX Runtime": lambda threads: with_onnx_runtime(subject.path, names, inputs, threads, cpu),
        "ONNX Runtime, int8 convolutions": lambda threads: with_onnx_runtime(
            in_int8(), names, inputs, threads, cpu
        ),
        "OpenVINO": lambda threads: with_openvino(subject.path, names, inputs, threads),
        "ONNX Runtime's OpenVINO provider": lambda threads: with_onnx_runtime(
            subject.path, names, inputs, threads, other
        ),
    }


def of_backbone(subject: Subject, folder: Path) -> dict[str, Callable[[int], Run]]:
    """Return what can run a model's convolutions alone, on what enters them."""
    inputs = (BACKBONE_INPUT,)

    def part() -> tuple[Path, tuple[int, ...]]:
        return backbone(subject.path, folder)

    def on_noise(make: Callable[[Path, tuple[int, ...]], Run]) -> Run:
        path, shape = part()
        run, grey = make(path, shape), np.random.default_rng(0).normal(size=shape).astype(np.float32)
        return lambda image, rays: run(grey, rays)

    cpu = "CPUExecutionProvider"
    return {
        "ONNX Runtime": lambda threads: on_noise(
            lambda path, _: with_onnx_runtime(path, BACKBONE_OUTPUTS, inputs, threads, cpu)
        ),
        "OpenVINO": lambda threads: on_noise(
            lambda path, _: with_openvino(path, BACKBONE_OUTPUTS, inputs, threads)
        ),
        "ncnn": lambda threads: on_noise(
            lambda path, shape: with_ncnn(path, BACKBONE_OUTPUTS, shape, threads, folder)
        ),
    }


def built(makers: dict[str, Callable[[int], Run]], threads: int) -> tuple[dict[str, Run], dict[str, str]]:
    """Return those that can be had, and why the others can't."""
    runs, missing = {}, {}
    for name, make in makers.items():
        try:
            runs[name] = make(threads)
        except (UnavailableError, ProviderError) as error:
            missing[name] = str(error)
        except Exception as error:  # of a library, which can't take this graph
            missing[name] = f"fails: {(str(error).strip() or type(error).__name__).splitlines()[0][:120]}"
    return runs, missing


def times_of(runs: dict[str, Callable[[], object]], count: int) -> dict[str, dict[str, float]]:
    """Return milliseconds, p50 and p99, of each; they take turns."""
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for at in range(0, WARM_UP + count, ROUND):
        for name, run in runs.items():
            for number in range(at, min(at + ROUND, WARM_UP + count)):
                started = time.perf_counter()
                run()
                if number >= WARM_UP:
                    taken[name].append(1e3 * (time.perf_counter() - started))
    quantiles = {name: np.percentile(values, (50, 99)) for name, values in taken.items()}
    return {
        name: {"p50_ms": round(p50, 2), "p99_ms": round(p99, 2)} for name, (p50, p99) in quantiles.items()
    }


def errors_of(subject: Subject, run: Run, recording: Recording) -> dict[str, float]:
    """Return the median errors on the test split, and the share within 10 cm and 5 degrees."""
    relocalizer = Relocalizer(ForeignNetwork(subject.contract, run))
    errors = []
    for files in recording.files("test")[0]:
        estimate = relocalizer.localize(read_color(files.color), recording.camera).estimate
        found = (
            (np.inf, np.inf)
            if estimate is None
            else pose_error(estimate.map_from_camera, read_pose(files.pose))
        )
        errors.append(found)
    position, rotation = np.array(errors).T
    within = np.mean((position <= 0.10) & (rotation <= 5.0))
    medians = {"median_position_m": np.median(position), "median_rotation_deg": np.median(rotation)}
    return {name: round(float(value), 4) for name, value in {**medians, "within_10cm_5deg": within}.items()}


def subject_of(path: Path, recording: Recording | None) -> Subject:
    network = OnnxNetwork(path, "cpu")
    contract = network.contract
    rays = contract.refined(contract.training_camera).ray_grid(contract.stride)
    tensor = np.where(np.isfinite(rays[..., :1]), rays, 0.0).transpose(2, 0, 1)[None].astype(np.float32)

    def tensors(files: Sequence[Any]) -> list[np.ndarray]:
        assert recording is not None
        made = []
        for item in files:
            image, _ = resize_image(
                read_color(item.color), recording.camera, contract.input_width, contract.input_height
            )
            made.append(normalized_tensor(image, contract))
        return made

    if recording is None:
        noise = np.random.default_rng(0).normal(size=(1, 3, contract.input_height, contract.input_width))
        return Subject(
            path.stem, path, contract, np.ascontiguousarray(tensor), [noise.astype(np.float32)], []
        )
    (train, _), (test, _) = recording.files("train"), recording.files("test")
    calibration = tensors(train[:: max(len(train) // CALIBRATION_FRAMES, 1)])
    images = tensors(test[:: max(len(test) // 20, 1)])
    return Subject(path.stem, path, contract, np.ascontiguousarray(tensor), images, calibration)


def cycled(run: Run, subject: Subject) -> Callable[[], object]:
    """Return a call that runs the next image of the subject's."""
    at = iter(range(1_000_000_000))
    return lambda: run(subject.images[next(at) % len(subject.images)], subject.rays)


def measure(
    subject: Subject, threads: int, count: int, recording: Recording | None, folder: Path
) -> list[dict[str, Any]]:
    """Return the rows of a model with so many threads; `recording`: to measure errors on, too."""
    rows: list[dict[str, Any]] = []
    for part, makers in (
        ("whole", whole(subject, folder)),
        ("convolutions alone", of_backbone(subject, folder)),
    ):
        if part != "whole" and subject.contract.network != "xfeat":
            continue
        runs, missing = built(makers, threads)
        times = times_of({name: cycled(run, subject) for name, run in runs.items()}, count) if count else {}
        for name in makers:
            row: dict[str, Any] = {"model": subject.name, "part": part, "backend": name, "threads": threads}
            row |= times.get(name, {})
            if name in missing:
                row["missing"] = missing[name]
            elif recording is not None and part == "whole":
                row |= errors_of(subject, runs[name], recording)
            rows.append(row)
    return rows


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Return rows as a table in Markdown."""
    columns = ("model", "part", "backend", "threads", "p50_ms", "p99_ms")
    columns += ("median_position_m", "median_rotation_deg", "within_10cm_5deg")
    lines = ["| " + " | ".join(columns) + " | |", "|---" * len(columns) + "|---|"]
    for row in rows:
        cells = [str(row.get(name, "")) for name in columns]
        lines.append("| " + " | ".join(cells) + f" | {row.get('missing', '')} |")
    return "\n".join(lines)


def versions() -> dict[str, str]:
    found = {"python": platform.python_version(), "machine": platform.machine()}
    for package in ("onnxruntime", "openvino", "ncnn", "numpy"):
        try:
            found[package] = str(importlib.import_module(package).__version__)
        except (ImportError, AttributeError):
            continue
    return found


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, action="append", required=True)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--threads", type=int, nargs="+", default=[2, 1])
    parser.add_argument("--runs", type=int, default=120, help="per back end; 0: no times")
    parser.add_argument("--errors", action="store_true", help="also the errors on DATA's test split")
    parser.add_argument("--work", type=Path, help="folder that keeps the models in int8 for the next time")
    parser.add_argument("--out", type=Path, default=Path("out/bench/backends.json"))
    arguments = parser.parse_args()
    recording = open_recording(arguments.data) if arguments.data else None
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.work or Path(temporary)
        folder.mkdir(exist_ok=True)
        for path in arguments.model:
            subject = subject_of(path, recording)
            for threads in arguments.threads:
                judged = recording if arguments.errors and threads == arguments.threads[0] else None
                rows += measure(subject, threads, arguments.runs, judged, folder)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    content = {"versions": versions(), "runs": arguments.runs, "rows": rows}
    arguments.out.write_text(json.dumps(content, indent=2))
    print(table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
