"""Build a TensorRT engine beforehand, so that no robot waits: `ros2 run structpose_ros build_engine`."""

from __future__ import annotations

import argparse
import sys
import threading
import time
from pathlib import Path

import numpy as np

from structpose_ros.contract import ModelFileError
from structpose_ros.network import OnnxNetwork
from structpose_ros.sessions import PRECISIONS, BackendOptions, ProviderError

PERIOD = 1.0  # seconds between two signs of life


def main(argv: list[str] | None = None) -> int:
    """Build the engine, or find that there is one; returns the exit status."""
    arguments = _parser().parse_args(argv)
    options = BackendOptions("tensorrt", precision=arguments.precision, cache=arguments.cache)
    try:
        with _Progress() as progress:
            network = OnnxNetwork(arguments.model, options=options, say=progress.say)
            _run_once(network)
    except (ModelFileError, ProviderError) as error:
        print(f"build_engine: error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("build_engine: interrupted; nothing is kept", file=sys.stderr)
        return 130
    backend = network.backend
    print(f"engine for {arguments.model} in {backend.precision}: {backend.engine}")
    for warning in backend.warnings:
        print(f"build_engine: warning: {warning}", file=sys.stderr)
    return 1 if "not kept" in backend.engine else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="build_engine", description=__doc__)
    parser.add_argument("model", type=Path, help="model file (.onnx)")
    parser.add_argument(
        "--precision", choices=PRECISIONS, default="auto", help="the node's model.precision (default: auto)"
    )
    parser.add_argument(
        "--cache", type=Path, help="the node's model.cache (default: ~/.cache/structpose_ros/tensorrt)"
    )
    return parser


def _run_once(network: OnnxNetwork) -> None:
    """Run the model on a black image: what can't run must not be found on the robot first."""
    contract = network.contract
    image = np.zeros((1, 3, contract.input_height, contract.input_width), dtype=np.float32)
    rays = contract.training_camera.ray_grid(contract.stride)
    network.predict(image, np.where(np.isfinite(rays[..., :1]), rays, 0.0))


class _Progress:
    """Says what is done, and each second for how long."""

    def __init__(self) -> None:
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._count, daemon=True)
        self._building = False

    def __enter__(self) -> _Progress:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def say(self, line: str) -> None:
        """Print a line; time is counted from the first one on."""
        print(line, flush=True)
        self._building = True

    def _count(self) -> None:
        started = time.monotonic()
        in_place = sys.stderr.isatty()
        while not self._ended.wait(PERIOD if in_place else 30 * PERIOD):
            if self._building:
                end = "\r" if in_place else "\n"
                print(f"{time.monotonic() - started:.0f} s", end=end, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
