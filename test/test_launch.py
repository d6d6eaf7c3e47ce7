"""The launch files: what they declare and what they start; and the config files they hand over."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from structpose_ros import resources

ROOT = Path(__file__).resolve().parent.parent
RELOCALIZE, DEMO = "relocalize.launch.py", "demo.launch.py"
ARGUMENTS = {
    "model",
    "image",
    "camera_info",
    "tf_mode",
    "rviz",
    "params_file",
    "map_frame",
    "camera_frame",
    "provider",
    "namespace",
    "log_level",
}


def load(name: str) -> ModuleType:
    """Import a launch file, or skip where launch is not installed."""
    pytest.importorskip("launch_ros", reason="launch_ros comes with a ROS 2 installation only")
    spec = importlib.util.spec_from_file_location(name.split(".", maxsplit=1)[0], ROOT / "launch" / name)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def started(name: str, monkeypatch: pytest.MonkeyPatch, **arguments: str) -> dict[str, dict[str, Any]]:
    """Visit a launch file with these arguments; return what it gives to each node, by executable."""
    module = load(name)
    from launch import LaunchContext, LaunchDescription

    nodes: dict[str, dict[str, Any]] = {}

    def node(**options: Any) -> LaunchDescription:
        nodes[options["executable"]] = options
        return LaunchDescription([])

    monkeypatch.setattr(module, "Node", node)
    context = LaunchContext()
    context.launch_configurations.update(arguments)
    for entity in module.generate_launch_description().entities:
        entity.visit(context)
    return nodes


def overrides_of(node: dict[str, Any]) -> dict[str, str]:
    """Return the parameters that come after the params file."""
    from launch import LaunchContext

    return {name: value.evaluate(LaunchContext()) for name, value in node["parameters"][1].items()}


def test_relocalize_declares_the_arguments() -> None:
    """Each is described, and each has a default, so that none is required."""
    declared = {
        item.name: item for item in load(RELOCALIZE).generate_launch_description().get_launch_arguments()
    }
    assert declared.keys() == ARGUMENTS
    for argument in declared.values():
        assert argument.description
        assert argument.default_value is not None


def test_relocalize_by_default_starts_the_node_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What an argument doesn't say stays as the params file says."""
    nodes = started(RELOCALIZE, monkeypatch)
    assert nodes.keys() == {"structpose_relocalizer"}
    node = nodes["structpose_relocalizer"]
    assert node["package"] == "structpose_ros"
    assert Path(node["parameters"][0]).samefile(ROOT / "config" / "relocalize.yaml")
    assert overrides_of(node) == {}
    assert node["remappings"] == [("image", "image"), ("camera_info", "camera_info")]


def test_relocalize_hands_its_arguments_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """Strings stay strings, whatever YAML would make of them."""
    node = started(
        RELOCALIZE,
        monkeypatch,
        model="/m/kitchen.onnx",
        image="/front/image_raw",
        tf_mode="none",
        map_frame="007",
        camera_frame="front_optical",
        provider="cpu",
        namespace="robot1",
        log_level="debug",
    )["structpose_relocalizer"]
    assert overrides_of(node) == {
        "model.path": "/m/kitchen.onnx",
        "model.provider": "cpu",
        "tf.mode": "none",
        "frames.map_frame": "007",
        "frames.camera_frame": "front_optical",
    }
    assert node["remappings"] == [("image", "/front/image_raw"), ("camera_info", "/front/camera_info")]
    assert node["namespace"] == "robot1"
    assert node["ros_arguments"] == ["--log-level", "debug"]


def test_relocalize_takes_camera_info_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """The argument wins over the place beside the image."""
    node = started(RELOCALIZE, monkeypatch, image="/a/image", camera_info="/b/info")["structpose_relocalizer"]
    assert dict(node["remappings"])["camera_info"] == "/b/info"


def test_relocalize_opens_rviz_on_the_nodes_topics(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every topic that the RViz config shows is led to the node's."""
    nodes = started(
        RELOCALIZE, monkeypatch, rviz="true", namespace="robot1", image="cam/image", map_frame="site"
    )
    rviz = nodes["rviz2"]
    assert rviz["arguments"] == ["-d", str(ROOT / "config" / "relocalize.rviz"), "-f", "site"]
    assert dict(rviz["remappings"]) == {
        "/pose": "/robot1/pose",
        "/structpose_relocalizer/points": "/robot1/structpose_relocalizer/points",
        "/image": "/robot1/cam/image",
    }
    assert dict(rviz["remappings"]).keys() == rviz_topics()


def test_demo_starts_camera_and_node(monkeypatch: pytest.MonkeyPatch) -> None:
    """The camera's topics are the node's, and the node gets the bundled model."""
    module = load(DEMO)
    from launch.actions import IncludeLaunchDescription

    camera = started(DEMO, monkeypatch)["demo_camera"]
    assert dict(camera["remappings"]) == {
        "image": "/demo_camera/image",
        "camera_info": "/demo_camera/camera_info",
    }
    entities = module.generate_launch_description().entities
    include = next(entity for entity in entities if isinstance(entity, IncludeLaunchDescription))
    given = dict(include.launch_arguments)
    assert given.keys() <= ARGUMENTS
    assert given["image"] == "/demo_camera/image"


def test_installed_launch_file_brings_the_node_up() -> None:
    """`ros2 launch` itself, where the package is installed: the arguments print and the node is found."""
    pytest.importorskip("ros2launch", reason="ros2 launch comes with a ROS 2 installation only")
    from ament_index_python.packages import PackageNotFoundError, get_package_prefix

    try:
        get_package_prefix("structpose_ros")
    except (PackageNotFoundError, LookupError):
        pytest.skip("structpose_ros is not installed in a sourced workspace")
    shown = subprocess.run(
        ["ros2", "launch", "structpose_ros", RELOCALIZE, "--show-args"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        env=dict(os.environ),
    ).stdout
    assert all(f"'{name}'" in shown for name in ARGUMENTS)


def rviz_topics() -> set[str]:
    """Return the topics that the RViz config subscribes to."""
    config = yaml.safe_load((ROOT / "config" / "relocalize.rviz").read_text())
    displays = config["Visualization Manager"]["Displays"]
    return {display["Topic"]["Value"] for display in displays if "Topic" in display}


def test_rviz_config_shows_what_the_node_publishes() -> None:
    """Map frame, TF, pose, point cloud and camera image, with QoS that matches the publishers."""
    config = yaml.safe_load((ROOT / "config" / "relocalize.rviz").read_text())["Visualization Manager"]
    assert config["Global Options"]["Fixed Frame"] == "map"
    displays = {display["Class"].split("/")[1]: display for display in config["Displays"]}
    assert {"TF", "Pose", "PointCloud2", "Image"} <= displays.keys()
    assert displays["Pose"]["Topic"]["Value"] == "/pose"
    assert displays["PointCloud2"]["Topic"]["Value"] == "/structpose_relocalizer/points"
    assert displays["Image"]["Topic"]["Reliability Policy"] == "Best Effort"
    assert all(display["Enabled"] for display in config["Displays"])


def test_resources_are_found_in_the_source_checkout() -> None:
    """Without an installation the checkout's own files are taken; what is nowhere is named."""
    code = "from structpose_ros.resources import share_path; print(share_path('config', 'relocalize.yaml'))"
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    ).stdout.strip()
    assert Path(found).read_text() == (ROOT / "config" / "relocalize.yaml").read_text()
    with pytest.raises(FileNotFoundError, match=r"expected models/nothing\.onnx at one of .*got nothing"):
        resources.share_path("models", "nothing.onnx")
