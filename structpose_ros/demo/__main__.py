"""`make demo`: three processes over DDS (camera, node, recorder); then a table, a report and a picture."""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from structpose_ros.contract import ModelFileError
from structpose_ros.demo import RECORDER_READY, positive
from structpose_ros.demo.report import build_report, print_summary
from structpose_ros.network import PROVIDERS, ProviderError
from structpose_ros.resources import share_path
from structpose_ros.training.frames import RecordingError, open_recording
from structpose_ros.training.synthetic import ForeignFolderError, render_demo

START_DEADLINE = 60.0  # seconds for the node to load its model and be discovered
ALONE = {"frames.base_frame": "''", "frames.odom_frame": "''"}  # a camera that no robot carries
DRAIN = 1.0  # seconds for the last poses to arrive


class DemoError(RuntimeError):
    """The demonstration could not be run; the message says what was expected and what came."""


def main() -> int:
    """Render the localisation tour unless a recording is given, play it, report."""
    parser = argparse.ArgumentParser(prog="python -m structpose_ros.demo", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("out/demo"))
    parser.add_argument("--model", type=Path, help="model file (default: the demo room's)")
    parser.add_argument("--data", type=Path, help="posed frames to play (default: the demo room's tour)")
    parser.add_argument("--rate", type=positive, default=10.0, help="frames per second")
    parser.add_argument("--provider", default="auto", choices=["auto", *PROVIDERS])
    arguments = parser.parse_args()
    try:
        model = arguments.model or share_path("models", "demo_room.onnx")
        data = arguments.data
        if data is None:
            data = arguments.out / "room"
            print("[1/3] rendering the localisation tour (kept for the next time)", flush=True)
            render_demo(data, tours=("localization",))
        seconds = len(open_recording(data).files("test")[0]) / arguments.rate
        print(f"[2/3] playing it at {arguments.rate:g} Hz into the node: {seconds:.0f} s", flush=True)
        arguments.out.mkdir(parents=True, exist_ok=True)
        play(model, data, arguments.out, arguments.rate, arguments.provider)
        print("[3/3] comparing with the truth", flush=True)
        report = build_report(model, data, arguments.out, arguments.provider)
    except (DemoError, ForeignFolderError, ModelFileError, ProviderError, RecordingError, OSError) as error:
        print(f"demo: error: {error}", file=sys.stderr)
        return 1
    print_summary(report, arguments.out)
    return 0


def play(
    model: Path,
    data: Path,
    out: Path,
    rate: float,
    provider: str,
    parameters: Mapping[str, str] | None = None,
) -> None:
    """Run the three processes until the recording has been played.

    `parameters` go to the node beside the model. Leaves stamps.csv (camera) and recorded.json (recorder) in
    `out`, and the logs of all three.
    """
    python = [sys.executable, "-m"]
    given = {"model.path": str(model.resolve()), "model.provider": provider, **ALONE, **(parameters or {})}
    assignments = [part for name, value in given.items() for part in ("-p", f"{name}:={value}")]
    recorded = out / "recorded.json"
    recorded.unlink(missing_ok=True)
    with (
        _process(
            [*python, "structpose_ros.demo.recorder", "--out", str(recorded)], out, "recorder"
        ) as recorder,
        _process([*python, "structpose_ros.node", "--ros-args", *assignments], out, "node") as node,
    ):
        _wait_for_line(recorder, out / "recorder.log")
        command = [*python, "structpose_ros.demo.camera", "--data", str(data), "--rate", str(rate)]
        with _process([*command, "--stamps", str(out / "stamps.csv")], out, "camera") as camera:
            while camera.poll() is None:
                if node.poll() is not None:
                    raise DemoError(
                        f"expected the node to run, but it ended with {node.returncode}: {out}/node.log"
                    )
                time.sleep(0.1)
            if camera.returncode:
                raise DemoError(
                    f"expected the camera to play, but it ended with {camera.returncode}: {out}/camera.log"
                )
        time.sleep(DRAIN)
    if not recorded.is_file():
        raise DemoError(f"expected the recorder to write {recorded}, got nothing: {out}/recorder.log")


@contextmanager
def _process(command: Sequence[str], out: Path, name: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a process with its output in a log; on leaving, ask it to end and wait."""
    log: IO[bytes]
    with (out / f"{name}.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=_environment())
        try:
            yield process
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _environment() -> dict[str, str]:
    """A domain of its own keeps a robot on the same network out of the demonstration."""
    environment = dict(os.environ)
    environment.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    environment.setdefault("ROS_DOMAIN_ID", str(30 + os.getpid() % 60))
    profile = share_path("config", "fastdds_shm.xml")
    environment.setdefault("FASTRTPS_DEFAULT_PROFILES_FILE", str(profile))
    environment["PYTHONUNBUFFERED"] = "1"
    return environment


def _wait_for_line(process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_DEADLINE
    while RECORDER_READY not in log.read_text():
        if process.poll() is not None or time.monotonic() > deadline:
            raise DemoError(
                f"expected the node to be found within {START_DEADLINE:.0f} s: see {log.parent}/*.log"
            )
        time.sleep(0.05)


if __name__ == "__main__":
    sys.exit(main())
