"""Run a node as a program: until SIGINT or SIGTERM, with one line and an exit code when it can't start."""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import sys
import threading
from collections.abc import Callable

import rclpy
from rclpy._rclpy_pybind11 import RCLError
from rclpy.exceptions import InvalidHandle
from rclpy.logging import get_logger
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions

from structpose_ros.executor import ThreadsExecutor
from structpose_ros.parameters import ParameterError

EXIT_BAD_START = 2
_M_ARENA_MAX = -8  # of malloc.h
THREADS = 8  # of the executor, for each node: one for each thing that may wait or be slow, some to spare


def run_node(make_node: Callable[[], Node], name: str, args: list[str] | None = None) -> int:
    """Make a node and spin it until SIGINT or SIGTERM; see `run_nodes`."""
    return run_nodes(lambda: [make_node()], name, args)


def run_nodes(make_nodes: Callable[[], list[Node]], name: str, args: list[str] | None = None) -> int:
    """Make nodes and spin them until SIGINT or SIGTERM; return the exit code. `name` is for the last words.

    A node whose callbacks may wait has a method `interrupt` that ends that.
    """
    share_heap()
    stopping = set_by_signals()
    try:
        _init(name, args)
        nodes = make_nodes()
    except ParameterError as error:
        get_logger(name).fatal(str(error))
        return EXIT_BAD_START
    except Exception as error:
        get_logger(name).fatal(f"expected usable ROS arguments, got: {one_line(error)}")
        return EXIT_BAD_START
    _spin(nodes, stopping)
    _leave_unfinished_threads()
    return 0


def share_heap() -> None:
    """Let all threads of this process allocate from one heap, where glibc would give each its own.

    Threads of the middleware and of the node pass images on, and each heap would come to hold as many of them
    as were ever in it at a time: memory would go on growing.
    """
    with contextlib.suppress(AttributeError):  # not glibc
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1)


def _init(name: str, args: list[str] | None) -> None:
    """Init rclpy; where log files can't be written, on a read-only root for instance, without them."""
    try:
        rclpy.init(args=args, signal_handler_options=SignalHandlerOptions.NO)
    except RCLError as error:
        if "log directory" not in str(error):
            raise
        rclpy.try_shutdown()  # makes way for a new context
        given = [*(sys.argv if args is None else args), "--ros-args", "--disable-external-lib-logs"]
        rclpy.init(args=given, signal_handler_options=SignalHandlerOptions.NO)
        advice = "expected a folder for log files that can be written (ROS_LOG_DIR)"
        get_logger(name).warning(f"no log files, only this output: {advice}, got: {one_line(error)}")


class Stopping:
    """An event that a signal handler may set at any moment.

    threading.Event is not that: a handler that runs while the main thread holds the event's lock waits for
    itself, and a signal that the system hands to another thread wakes nobody up. A pipe has neither trouble.
    """

    def __init__(self) -> None:
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._writer, False)

    def set(self) -> None:
        """Let every `wait` return, now and later."""
        with contextlib.suppress(BlockingIOError):  # full: it has been set often enough
            os.write(self._writer, b"!")

    def is_set(self) -> bool:
        """Whether it was set."""
        return self.wait(0.0)

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until it is set, at most `timeout` seconds; return whether it is."""
        return bool(select.select([self._reader], [], [], timeout)[0])

    def wake_by_signals(self) -> None:
        """Let a signal set it, whichever thread the system hands it to. For the main thread."""
        signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)


def set_by_signals() -> Stopping:
    """Return an event that SIGINT and SIGTERM set; init rclpy with SignalHandlerOptions.NO beside it.

    rclpy's own handlers swallow SIGTERM while spinning, raise from clean-up at a second SIGINT, and shut the
    context down under a publisher that is in use.
    """
    stopping = Stopping()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopping.set())
    stopping.wake_by_signals()
    return stopping


def _spin(nodes: list[Node], stopping: Stopping) -> None:
    """Spin in a thread, so that this one, the main thread, is there when Python hands it a signal."""
    executor = ThreadsExecutor(THREADS * len(nodes))
    for node in nodes:
        executor.add_node(node)

    def spin() -> None:
        while not stopping.is_set() and rclpy.ok():
            try:
                executor.spin_once()
            except InvalidHandle:  # of what was destroyed while the executor gathered what to wait for
                continue
            except Exception as error:  # of a callback: the next one may be fine, and the node stays up
                nodes[0].get_logger().error(f"internal_error: {one_line(error)}", throttle_duration_sec=5.0)
        stopping.set()

    spinner = threading.Thread(target=spin, name="executor", daemon=True)
    spinner.start()
    stopping.wait()
    for node in nodes:
        if hasattr(node, "interrupt"):
            node.interrupt()
    executor.create_task(lambda: None)  # spin_once returns only for work
    spinner.join()
    executor.shutdown()
    for node in nodes:
        node.destroy_node()
    rclpy.try_shutdown()


def _leave_unfinished_threads() -> None:
    """End the process here if a daemon thread, of a model that was given up, is still inside a library.

    An ordinary exit would take down what the library stands on while it works, and it would crash.
    """
    if any(thread.daemon for thread in threading.enumerate()):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


def one_line(error: BaseException) -> str:
    """Return an error's type and text as one line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
