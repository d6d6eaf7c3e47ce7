"""`structpose inspect`: measure a recording, write the page and the numbers, print what matters."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

from structpose_ros.training.frames import open_recording, write_atomic
from structpose_ros.training.inspection.findings import Finding, find
from structpose_ros.training.inspection.measure import SAMPLES, inspect
from structpose_ros.training.inspection.page import draw_page
from structpose_ros.training.inspection.report import lines, numbers, to_json

PAGE, NUMBERS = "inspect.png", "inspect.json"


def inspect_into(
    root: Path, out: Path, *, samples: int | None = None, rate: float | None = None
) -> list[Finding]:
    """Write `inspect.png` and `inspect.json` of the recording in `root` into `out`; returns the warnings.

    Raises:
        RecordingError: see `open_recording` and `inspect`; nothing is written then.
        OSError: `out` can't be written to.
    """
    from tqdm import tqdm

    recording = open_recording(root)
    with ExitStack() as stack:
        bars: list[tqdm[Any]] = []

        def show(done: int, total: int) -> None:
            if not bars:  # not before there is something to show: an error takes one line
                bars.append(stack.enter_context(tqdm(desc="inspecting", unit="frame", total=total)))
            bars[0].update(done - bars[0].n)

        inspection = inspect(
            recording, samples=SAMPLES if samples is None else samples, rate=rate, progress=show
        )
    findings = find(inspection)
    write_atomic(out / NUMBERS, to_json(numbers(inspection, findings)))
    draw_page(out / PAGE, inspection, findings)
    for line in lines(inspection, findings):
        print(line)
    print(f"wrote {out / PAGE} and {NUMBERS}")
    return findings
