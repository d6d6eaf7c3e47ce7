"""The SROS 2 policy allows what the node has, and nothing that it has not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from model_files import write_model

pytest.importorskip("rclpy", reason="needs ROS 2 (see README)")

from node_rig import rig
from rclpy.node import NodeNameNonExistentError

from structpose_ros.resources import share_path

NODE = "/structpose_relocalizer"
OF_OTHER_SETTINGS = {"/image", "/image/compressed", "/initialpose", "/tf", "/clock", "/parameter_events"}


def allowed(kind: str, access: str) -> set[str]:
    """Return the full names that the policy allows."""
    policy = ElementTree.parse(share_path("config", "sros2_policy.xml")).getroot()
    assert policy.tag == "policy" and policy.get("version") == "0.2.0"
    (enclave,) = policy.findall("enclaves/enclave")
    (profile,) = enclave.findall("profiles/profile")
    assert (enclave.get("path"), profile.get("ns"), profile.get("node")) == (NODE, "/", NODE[1:])
    groups = [group for group in profile.findall(kind) if group.get(access) == "ALLOW"]
    found = [item.text or "" for group in groups for item in group]
    assert len(set(found)) == len(found)
    return {f"{NODE}{name[1:]}" if name.startswith("~") else f"/{name.lstrip('/')}" for name in found}


@pytest.mark.parametrize("transport", ["raw", "compressed"])
def test_the_policy_is_what_the_node_has(transport: str, tmp_path: Path) -> None:
    model = write_model(tmp_path / "scene.onnx", np.eye(4))
    with rig(tmp_path) as made:
        node = made.robot.node
        made.start(model__path=model, input__transport=transport, tf__mode="map_to_camera")

        def names(of_node: Callable[[str, str], list[tuple[str, list[str]]]]) -> set[str]:
            try:
                return {name for name, _ in of_node(NODE[1:], "/")}
            except NodeNameNonExistentError:  # not discovered yet
                return set()

        def found() -> dict[tuple[str, str], set[str]]:
            return {
                ("topics", "publish"): names(node.get_publisher_names_and_types_by_node),
                ("topics", "subscribe"): names(node.get_subscriber_names_and_types_by_node),
                ("services", "reply"): names(node.get_service_names_and_types_by_node),
            }

        def superfluous() -> set[str]:
            return set().union(*(allowed(*key) - has for key, has in found().items())) - OF_OTHER_SETTINGS

        made.robot.wait(lambda: not superfluous(), "everything that is allowed")
        for key, has in found().items():
            assert has <= allowed(*key)
