"""`structpose_cameras`: a node for each of several cameras, in one process that loads their model once."""

from __future__ import annotations

import argparse
import sys

from rclpy.exceptions import InvalidNamespaceException
from rclpy.node import Node
from rclpy.utilities import remove_ros_args
from rclpy.validate_namespace import validate_namespace

from structpose_ros.node import NODE_NAME, StructposeRelocalizer
from structpose_ros.parameters import ParameterError
from structpose_ros.spinning import run_nodes

PROGRAM = "structpose_cameras"


def namespace(text: str) -> str:
    """Read a name for a camera's namespace, for argparse: absolute, or below the root."""
    absolute = text if text.startswith("/") else f"/{text}"
    try:
        validate_namespace(absolute)
    except InvalidNamespaceException as error:  # of three lines, the last a mark below the second
        raise argparse.ArgumentTypeError(f"expected a ROS namespace, got '{text}'") from error
    return absolute


def make_nodes(namespaces: list[str]) -> list[Node]:
    """Make the cameras' nodes, each in its namespace.

    Raises:
        ParameterError: a parameter is unusable, or two cameras would have the same node.
    """
    nodes: list[Node] = []
    try:
        for name in namespaces:
            nodes.append(StructposeRelocalizer(namespace=name))
        names = [node.get_fully_qualified_name() for node in nodes]
        if len(set(names)) < len(names):
            raise ParameterError(
                f"expected a namespace for each camera, got the nodes {', '.join(names)}: give the whole "
                "namespace in the camera's name, as /robot/front, in place of a remap of __ns"
            )
    except BaseException:
        for node in nodes:
            node.destroy_node()
        raise
    return nodes


def main(args: list[str] | None = None) -> int:
    """Run the nodes until SIGINT or SIGTERM; return the exit code."""
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description=__doc__,
        epilog=f"A parameter file addresses a node as /CAMERA/{NODE_NAME}; what is given by -p goes to all.",
    )
    parser.add_argument("cameras", nargs="+", type=namespace, metavar="CAMERA", help="namespace of a camera")
    given = sys.argv if args is None else args
    namespaces = parser.parse_args(remove_ros_args(given)[1:]).cameras
    return run_nodes(lambda: make_nodes(namespaces), PROGRAM, given)


if __name__ == "__main__":
    sys.exit(main())
