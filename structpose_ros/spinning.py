"""Run a node as a program: until SIGINT or SIGTERM, with one line and an exit code when it can't start."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable

import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.logging import get_logger
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions

from structpose_ros.parameters import ParameterError

EXIT_BAD_START = 2


def run_node(make_node: Callable[[], Node], name: str, args: list[str] | None = None) -> int:
    """Make a node and spin it until SIGINT or SIGTERM; return the exit code. `name` is for its last words."""
    stopping = set_by_signals()
    try:
        rclpy.init(args=args, signal_handler_options=SignalHandlerOptions.NO)
        node = make_node()
    except ParameterError as error:
        get_logger(name).fatal(str(error))
        return EXIT_BAD_START
    except Exception as error:
        get_logger(name).fatal(f"expected usable ROS arguments, got: {one_line(error)}")
        return EXIT_BAD_START
    _spin(node, stopping)
    return 0


def set_by_signals() -> threading.Event:
    """Return an event that SIGINT and SIGTERM set; init rclpy with SignalHandlerOptions.NO beside it.

    rclpy's own handlers swallow SIGTERM while spinning, raise from clean-up at a second SIGINT, and shut the
    context down under a publisher that is in use.
    """
    stopping = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopping.set())
    return stopping


def _spin(node: Node, stopping: threading.Event) -> None:
    """Spin in a thread, so that this one, the main thread, is there when Python hands it a signal."""
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    failures: list[BaseException] = []

    def spin() -> None:
        try:
            while not stopping.is_set():
                executor.spin_once()
        except BaseException as error:
            failures.append(error)
            stopping.set()

    spinner = threading.Thread(target=spin, name="executor", daemon=True)
    spinner.start()
    stopping.wait()
    executor.create_task(lambda: None)  # spin_once returns only for work
    spinner.join()
    executor.shutdown()
    node.destroy_node()
    rclpy.try_shutdown()
    if failures:
        raise failures[0]


def one_line(error: BaseException) -> str:
    """Return an error's type and text as one line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
