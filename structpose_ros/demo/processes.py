"""The camera, the node and who listens, as processes of their own that talk over DDS."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from structpose_ros.resources import share_path

START_DEADLINE = 60.0  # seconds for the node to load its model and be discovered
ALONE = {"frames.base_frame": "''", "frames.odom_frame": "''"}  # a camera that no robot carries
PYTHON = [sys.executable, "-m"]
PROFILE = "FASTRTPS_DEFAULT_PROFILES_FILE"
_END_DEADLINE = 20.0  # seconds to end after SIGINT


class ProcessError(RuntimeError):
    """A process did not do its part; the message says what was expected and what came."""


def node_command(parameters: Mapping[str, str]) -> list[str]:
    """Return the command that runs the node with these parameters."""
    assignments = [part for name, value in parameters.items() for part in ("-p", f"{name}:={value}")]
    return [*PYTHON, "structpose_ros.node", "--ros-args", *assignments]


@contextmanager
def running(
    command: Sequence[str], out: Path, name: str, *, sends_images: bool = True
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a process with its output in a log; on leaving, ask it to end and wait.

    What `sends_images` has Fast DDS's profile for large ones.
    """
    log: IO[bytes]
    with (out / f"{name}.log").open("wb") as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=subprocess.STDOUT, env=_environment(sends_images)
        )
        try:
            yield process
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
            try:
                process.wait(timeout=_END_DEADLINE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _environment(sends_images: bool) -> dict[str, str]:
    """A domain of its own keeps a robot on the same network out of the demonstration."""
    environment = dict(os.environ)
    environment.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    environment.setdefault("ROS_DOMAIN_ID", str(30 + os.getpid() % 60))
    if sends_images:
        environment.setdefault(PROFILE, str(share_path("config", "fastdds_shm.xml")))
    else:
        environment.pop(PROFILE, None)
    environment["PYTHONUNBUFFERED"] = "1"
    return environment


def wait_for_line(process: subprocess.Popen[bytes], log: Path, line: str, what: str) -> None:
    """Wait until a process has printed a line.

    Raises:
        ProcessError: it ended before, or too much time went by; `what` is what was expected.
    """
    deadline = time.monotonic() + START_DEADLINE
    while line not in log.read_text():
        if process.poll() is not None or time.monotonic() > deadline:
            raise ProcessError(f"expected {what} within {START_DEADLINE:.0f} s: see {log.parent}/*.log")
        time.sleep(0.05)


def wait_for_end(
    process: subprocess.Popen[bytes], out: Path, name: str, *others: subprocess.Popen[bytes]
) -> None:
    """Wait until a process has done its work.

    Raises:
        ProcessError: it failed, or one of `others`, which it needs, has ended before it.
    """
    while process.poll() is None:
        for other in others:
            if other.poll() is not None:
                raise ProcessError(
                    f"expected the node to run, but it ended with {other.returncode}: {out}/node.log"
                )
        time.sleep(0.1)
    if process.returncode:
        raise ProcessError(
            f"expected the {name} to do its part, but it ended with {process.returncode}: {out}/{name}.log"
        )
