"""`make demo`: three processes over DDS (camera, node, recorder); then a table, a report and a picture."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from structpose_ros.contract import ModelFileError
from structpose_ros.demo import RECORDER_READY, positive
from structpose_ros.demo.processes import (
    ALONE,
    PYTHON,
    ProcessError,
    node_command,
    running,
    wait_for_end,
    wait_for_line,
)
from structpose_ros.demo.report import build_report, print_summary
from structpose_ros.resources import share_path
from structpose_ros.sessions import PROVIDERS, ProviderError
from structpose_ros.training.frames import RecordingError, open_recording
from structpose_ros.training.synthetic import ForeignFolderError, render_demo

DRAIN = 1.0  # seconds for the last poses to arrive


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
    except (
        ForeignFolderError,
        ModelFileError,
        ProcessError,
        ProviderError,
        RecordingError,
        OSError,
    ) as error:
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
    given = {"model.path": str(model.resolve()), "model.provider": provider, **ALONE, **(parameters or {})}
    recorded = out / "recorded.json"
    recorded.unlink(missing_ok=True)
    with (
        running(
            [*PYTHON, "structpose_ros.demo.recorder", "--out", str(recorded)], out, "recorder"
        ) as recorder,
        running(node_command(given), out, "node") as node,
    ):
        wait_for_line(recorder, out / "recorder.log", RECORDER_READY, "the node to be found")
        command = [*PYTHON, "structpose_ros.demo.camera", "--data", str(data), "--rate", str(rate)]
        with running([*command, "--stamps", str(out / "stamps.csv")], out, "camera") as camera:
            wait_for_end(camera, out, "camera", node)
        time.sleep(DRAIN)
    if not recorded.is_file():
        raise ProcessError(f"expected the recorder to write {recorded}, got nothing: {out}/recorder.log")


if __name__ == "__main__":
    sys.exit(main())
