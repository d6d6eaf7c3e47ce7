"""A node as a program: what its callbacks raise, and where its threads' memory lies."""

from __future__ import annotations

import os
import platform
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

HEAPS = """
import ctypes, sys, threading
from structpose_ros.spinning import share_heap

libc = ctypes.CDLL(None)
libc.open_memstream.restype = ctypes.c_void_p
together = threading.Barrier(7)

def heaps():
    text, size = ctypes.c_char_p(), ctypes.c_size_t()
    stream = ctypes.c_void_p(libc.open_memstream(ctypes.byref(text), ctypes.byref(size)))
    libc.malloc_info(0, stream)
    libc.fclose(stream)
    return text.value.count(b"<heap nr=")

def allocate():
    libc.malloc(ctypes.c_size_t(200))
    together.wait()
    together.wait()

if "share" in sys.argv:
    share_heap()
before = heaps()
threads = [threading.Thread(target=allocate) for _ in range(6)]
for thread in threads:
    thread.start()
together.wait()
print(heaps() - before)
together.wait()
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has heaps for threads")
def test_threads_share_a_heap() -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OPENBLAS_NUM_THREADS": "1"}

    def more(*arguments: str) -> int:
        command = [sys.executable, "-c", HEAPS, *arguments]
        return int(subprocess.check_output(command, env=environment, timeout=20))

    assert more() > 0
    assert more("share") == 0


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
