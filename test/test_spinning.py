"""A node as a program: what its callbacks raise."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

pytest.importorskip("rclpy", reason="rclpy is not installed: no ROS 2 here")

from ros_helpers import ROOT, next_domain

SPUN = """
import sys
from rclpy.exceptions import InvalidHandle
from rclpy.node import Node
from structpose_ros.spinning import run_node

class Spun(Node):
    def __init__(self):
        super().__init__("spun")
        self.errors = [InvalidHandle("destroyed meanwhile"), ValueError("of a callback")]
        self.create_timer(0.01, self.fail)

    def fail(self):
        if self.errors:
            raise self.errors.pop(0)
        print("still here", flush=True)

sys.exit(run_node(Spun, "spun"))
"""


def test_what_a_callback_raises_is_logged_and_survived() -> None:
    """But not that something was destroyed while the executor gathered it: that happens, and is none."""
    environment = {**os.environ, "ROS_DOMAIN_ID": str(next_domain()), "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [sys.executable, "-c", SPUN],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "still here\n"
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 0
    (line,) = errors.splitlines()
    assert line.endswith("internal_error: ValueError: of a callback")
