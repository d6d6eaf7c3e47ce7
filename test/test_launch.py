"""The launch files: what they declare and what they start; and the config files they hand over."""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import pytest
import yaml

from structpose_ros import resources

ROOT = Path(__file__).resolve().parent.parent
RELOCALIZE, DEMO = "relocalize.launch.py", "demo.launch.py"
NODE = "structpose_relocalizer"
ARGUMENTS = {
    "model",
    "image",
    "camera_info",
    "transport",
    "rectified",
    "mode",
    "tf_mode",
    "map_frame",
    "odom_frame",
    "base_frame",
    "camera_frame",
    "handoff_mode",
    "provider",
    "autostart",
    "use_sim_time",
    "params_file",
    "namespace",
    "pose",
    "pose_with_covariance",
    "initialpose",
    "trigger_localization",
    "lifecycle_manager",
    "log_level",
    "rviz",
}


class Output(NamedTuple):
    """What the node publishes on a topic; all of it reliably."""

    kind: str
    latched: bool = False


OUTPUTS = {
    "/pose": Output("geometry_msgs/PoseStamped"),
    "/pose_with_covariance": Output("geometry_msgs/PoseWithCovarianceStamped"),
    "/initialpose": Output("geometry_msgs/PoseWithCovarianceStamped"),
    f"/{NODE}/localized": Output("std_msgs/Bool", latched=True),
    f"/{NODE}/points": Output("sensor_msgs/PointCloud2"),
    f"/{NODE}/map_points": Output("sensor_msgs/PointCloud2", latched=True),
    f"/{NODE}/depth": Output("sensor_msgs/Image"),
    f"/{NODE}/weights": Output("sensor_msgs/Image"),
    f"/{NODE}/path": Output("nav_msgs/Path"),
    f"/{NODE}/frustum": Output("visualization_msgs/Marker"),
    "/diagnostics": Output("diagnostic_msgs/DiagnosticArray"),
}
# What the camera publishes, best effort or better.
CAMERA = {"/image": "sensor_msgs/Image", "/image/compressed": "sensor_msgs/CompressedImage"}
PRIOR_TOPIC, PRIOR_TYPE = "/trigger_localization", "geometry_msgs/PoseWithCovarianceStamped"
SERVICES = {f"/{NODE}/{name}" for name in ("relocalize", "reset", "set_enabled")}
# Costly: the node builds what is listened to. Or idle: nobody publishes both kinds of image.
NOT_SHOWN_AT_FIRST = {f"/{NODE}/depth", f"/{NODE}/weights", "/image/compressed"}


# The launch files, as far as `launch` is there.


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


def parameters_of(node: dict[str, Any]) -> dict[str, Any]:
    """Return the parameters that come after the params file."""
    from launch import LaunchContext

    values = node["parameters"][1].items()
    return {
        name: value.evaluate(LaunchContext()) if hasattr(value, "evaluate") else value
        for name, value in values
    }


def test_relocalize_declares_the_arguments() -> None:
    """Each is described, and each has a default, so that none is required."""
    declared = {
        item.name: item for item in load(RELOCALIZE).generate_launch_description().get_launch_arguments()
    }
    assert declared.keys() == ARGUMENTS
    for argument in declared.values():
        assert argument.description
        assert argument.default_value is not None


def test_arguments_that_set_parameters_fit_them() -> None:
    """The parameter exists, is of the argument's type, and its choices are named."""
    pytest.importorskip("rclpy", reason="rclpy is not installed: no ROS 2 here")
    from structpose_ros.settings import PARAMETERS

    rows = {row.name: row for row in PARAMETERS}
    arguments = [item for item in load(RELOCALIZE).ARGUMENTS if item.parameter]
    assert len(arguments) > 10
    for argument in arguments:
        assert argument.default == ""
        if argument.parameter != "use_sim_time":  # that one is rclpy's
            row = rows[argument.parameter]
            assert type(row.default) is argument.kind
            assert set(row.choices) <= set(re.findall(r"\w+", argument.text))


def test_relocalize_by_default_starts_the_node_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """What an argument doesn't say stays as the params file says."""
    nodes = started(RELOCALIZE, monkeypatch)
    assert nodes.keys() == {NODE}
    node = nodes[NODE]
    assert node["package"] == "structpose_ros"
    assert Path(node["parameters"][0]).samefile(ROOT / "config" / "relocalize.yaml")
    assert parameters_of(node) == {}
    assert all(source == target for source, target in node["remappings"])


def test_relocalize_hands_its_arguments_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """Strings stay strings, whatever YAML would make of them."""
    node = started(
        RELOCALIZE,
        monkeypatch,
        model="/m/kitchen.onnx",
        image="/front/image_raw",
        transport="raw",
        rectified="True",
        mode="on_trigger",
        tf_mode="none",
        map_frame="007",
        odom_frame="none",
        base_frame="none",
        camera_frame="front_optical",
        handoff_mode="on_lost",
        provider="cpu",
        autostart="false",
        use_sim_time="true",
        namespace="robot1",
        initialpose="/initialpose",
        log_level="debug",
    )[NODE]
    assert parameters_of(node) == {
        "model.path": "/m/kitchen.onnx",
        "model.provider": "cpu",
        "input.transport": "raw",
        "input.rectified": True,
        "run.mode": "on_trigger",
        "tf.mode": "none",
        "frames.map_frame": "007",
        "frames.odom_frame": "",
        "frames.base_frame": "",
        "frames.camera_frame": "front_optical",
        "handoff.mode": "on_lost",
        "autostart": False,
        "use_sim_time": True,
    }
    assert dict(node["remappings"]) == {
        "image": "/front/image_raw",
        "camera_info": "/front/camera_info",
        "pose": "pose",
        "pose_with_covariance": "pose_with_covariance",
        "initialpose": "/initialpose",
        "trigger_localization": "trigger_localization",
    }
    assert node["namespace"] == "robot1"
    assert node["ros_arguments"] == ["--log-level", "debug"]


def test_relocalize_takes_camera_info_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """The argument wins over the place beside the image."""
    node = started(RELOCALIZE, monkeypatch, image="/a/image", camera_info="/b/info")[NODE]
    assert dict(node["remappings"])["camera_info"] == "/b/info"


def test_relocalize_knows_a_compressed_topic_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """As RViz does. The node itself takes the image topic without the ending."""
    node = started(RELOCALIZE, monkeypatch, image="/front/image_raw/compressed")[NODE]
    assert parameters_of(node) == {"input.transport": "compressed"}
    remappings = dict(node["remappings"])
    assert (remappings["image"], remappings["camera_info"]) == ("/front/image_raw", "/front/camera_info")


@pytest.mark.parametrize("argument", ["rviz", "lifecycle_manager", "rectified"])
def test_relocalize_refuses_what_is_neither_true_nor_false(
    monkeypatch: pytest.MonkeyPatch, argument: str
) -> None:
    with pytest.raises(ValueError, match=f"'{argument}': expected true or false, got 'perhaps'"):
        started(RELOCALIZE, monkeypatch, **{argument: "perhaps"})


def test_relocalize_refuses_a_missing_params_file(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"'params_file': expected a file, got '/nowhere\.yaml'"):
        started(RELOCALIZE, monkeypatch, params_file="/nowhere.yaml")


@pytest.mark.parametrize(("autostart", "brings_up"), [("", True), ("true", True), ("false", False)])
def test_lifecycle_manager_drives_the_node(
    monkeypatch: pytest.MonkeyPatch, autostart: str, brings_up: bool
) -> None:
    """It has the node's namespace, waits for no bond, and the node leaves its states alone."""
    nodes = started(
        RELOCALIZE, monkeypatch, lifecycle_manager="true", namespace="robot1", autostart=autostart
    )
    assert nodes.keys() == {NODE, "lifecycle_manager"}
    manager = nodes["lifecycle_manager"]
    assert (manager["package"], manager["namespace"]) == ("nav2_lifecycle_manager", "robot1")
    (parameters,) = manager["parameters"]
    assert parameters["node_names"] == [NODE]
    assert (parameters["autostart"], parameters["bond_timeout"]) == (brings_up, 0.0)
    assert parameters_of(nodes[NODE]) == {"autostart": False}


@pytest.mark.parametrize(
    ("pushed", "namespace", "prefix"),
    [("", "", ""), ("", "robot1", "/robot1"), ("fleet", "robot1", "/fleet/robot1"), ("fleet", "", "/fleet")],
)
def test_relocalize_opens_rviz_on_the_nodes_topics(
    monkeypatch: pytest.MonkeyPatch, pushed: str, namespace: str, prefix: str
) -> None:
    """Every topic that the RViz config names is led to the node's."""
    around = {"ros_namespace": pushed} if pushed else {}
    nodes = started(
        RELOCALIZE,
        monkeypatch,
        rviz="true",
        namespace=namespace,
        image="cam/image",
        pose="/there",
        map_frame="site",
        use_sim_time="true",
        **around,
    )
    rviz = nodes["rviz2"]
    assert rviz["arguments"] == ["-d", str(ROOT / "config" / "relocalize.rviz"), "-f", "site"]
    assert rviz["parameters"] == [{"use_sim_time": True}]
    private = {f"/{NODE}/{name}" for name in ("points", "map_points", "depth", "weights", "path", "frustum")}
    assert dict(rviz["remappings"]) == {
        "/pose": "/there",
        "/pose_with_covariance": f"{prefix}/pose_with_covariance",
        "/trigger_localization": f"{prefix}/trigger_localization",
        "/image": f"{prefix}/cam/image",
        "/image/compressed": f"{prefix}/cam/image/compressed",
        **{topic: f"{prefix}{topic}" for topic in private},
    }
    assert dict(rviz["remappings"]).keys() == {topic for _, topic, _ in rviz_topics()}


def test_demo_starts_camera_and_node(monkeypatch: pytest.MonkeyPatch) -> None:
    """The camera's topics are the node's, and the node has neither robot nor odometry."""
    module = load(DEMO)
    from launch.actions import IncludeLaunchDescription

    camera = started(DEMO, monkeypatch, rviz="false")["demo_camera"]
    assert camera["arguments"] == ["--loop"]
    assert dict(camera["remappings"]) == {
        "image": "/demo_camera/image",
        "camera_info": "/demo_camera/camera_info",
    }
    entities = module.generate_launch_description().entities
    include = next(entity for entity in entities if isinstance(entity, IncludeLaunchDescription))
    given = dict(include.launch_arguments)
    assert given.keys() <= ARGUMENTS
    assert given["image"] == "/demo_camera/image"
    assert given["base_frame"] == given["odom_frame"] == "none"


# `ros2 launch` itself, where the package is installed too.


@pytest.fixture
def ros2_launch() -> list[str]:
    """The command, or a skip."""
    pytest.importorskip("ros2launch", reason="ros2 launch comes with a ROS 2 installation only")
    from ament_index_python.packages import get_package_prefix

    try:
        get_package_prefix("structpose_ros")
    except LookupError:
        pytest.skip("structpose_ros is not installed in a sourced workspace")
    return ["ros2", "launch", "structpose_ros"]


@pytest.mark.parametrize("name", [RELOCALIZE, DEMO])
def test_installed_launch_files_show_their_arguments(ros2_launch: list[str], name: str) -> None:
    """The demo's file shows what the included one takes besides."""
    shown = subprocess.run(
        [*ros2_launch, name, "--show-args"], capture_output=True, text=True, timeout=60, check=True
    ).stdout
    fixed = {"image", "odom_frame", "base_frame"} if name == DEMO else set()
    assert all(f"'{argument}'" in shown for argument in ARGUMENTS - fixed)


def test_installed_launch_file_brings_the_node_up(ros2_launch: list[str], tmp_path: Path) -> None:
    """Two cameras in one graph: each node answers below its own namespace, and ends with the launch."""
    from model_files import HEIGHT, TRAINING_CAMERA, WIDTH, write_model
    from ros_helpers import DEADLINE, Peer, camera_info_message, image_message, next_domain, ros_context

    domain = next_domain()
    map_from_camera = np.eye(4)
    map_from_camera[:3, 3] = (1.0, 2.0, 3.0)
    model = write_model(tmp_path / "model.onnx", map_from_camera)
    arguments = [f"model:={model}", "provider:=cpu", "odom_frame:=none", "base_frame:=none", "tf_mode:=none"]
    environment = {
        **os.environ,
        "ROS_DOMAIN_ID": str(domain),
        "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
        "ROS_LOG_DIR": str(tmp_path / "log"),
    }
    names = ("left", "right")
    log = tmp_path / "output"
    launches = []
    with log.open("w") as output, ros_context(domain) as context:
        peers = [Peer(context, namespace=name) for name in names]
        try:
            launches = [
                subprocess.Popen(
                    [*ros2_launch, RELOCALIZE, *arguments, f"namespace:={name}"],
                    env=environment,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                )
                for name in names
            ]
            image = image_message(np.full((HEIGHT, WIDTH, 3), 100, dtype=np.uint8))
            for peer in peers:
                peer.send_until(
                    lambda peer=peer: peer.poses, "a pose", image, camera_info_message(TRAINING_CAMERA)
                )
                position = peer.poses[-1].pose.position
                assert (position.x, position.y, position.z) == pytest.approx((1.0, 2.0, 3.0), abs=1e-3)
        finally:
            for launch in launches:
                launch.send_signal(signal.SIGINT)
            codes = [launch.wait(DEADLINE) for launch in launches]
            print(log.read_text())
            for peer in peers:
                peer.close()
    assert codes == [0, 0]
    assert "Traceback" not in log.read_text()


# The config files.


def rviz_config() -> dict[str, Any]:
    """Return the part of the RViz config that names topics."""
    return dict(yaml.safe_load((ROOT / "config" / "relocalize.rviz").read_text())["Visualization Manager"])


def rviz_topics() -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield the kind of display or tool, the topic, and the topic's settings."""
    config = rviz_config()
    for item in [*config["Displays"], *config["Tools"]]:
        if "Topic" in item:
            yield item["Class"].split("/")[1], item["Topic"]["Value"], item["Topic"]


RVIZ_TYPES = {
    "Pose": "geometry_msgs/PoseStamped",
    "PoseWithCovariance": "geometry_msgs/PoseWithCovarianceStamped",
    "PointCloud2": "sensor_msgs/PointCloud2",
    "Path": "nav_msgs/Path",
    "Marker": "visualization_msgs/Marker",
    "Image": "sensor_msgs/Image",
    "SetInitialPose": PRIOR_TYPE,
}


def test_rviz_config_shows_what_the_node_publishes() -> None:
    """The types fit, and the QoS matches the publishers': nothing latched is missed."""
    kinds = set()
    for kind, topic, qos in rviz_topics():
        kinds.add(kind)
        reliability, durability = qos["Reliability Policy"], qos["Durability Policy"]
        if topic in OUTPUTS:
            assert OUTPUTS[topic].kind == RVIZ_TYPES[kind]
            assert durability == ("Transient Local" if OUTPUTS[topic].latched else "Volatile")
            assert reliability == "Reliable"
        elif topic == PRIOR_TOPIC:
            assert (RVIZ_TYPES[kind], reliability) == (PRIOR_TYPE, "Reliable")
        else:
            assert (kind, topic in CAMERA) == ("Image", True)
            assert (reliability, durability) == ("Best Effort", "Volatile")
    assert kinds == RVIZ_TYPES.keys()


def test_rviz_config_begins_with_what_is_cheap() -> None:
    config = rviz_config()
    assert config["Global Options"]["Fixed Frame"] == "map"
    assert {"rviz_default_plugins/Grid", "rviz_default_plugins/TF"} <= {
        display["Class"] for display in config["Displays"]
    }
    hidden = {display["Topic"]["Value"] for display in config["Displays"] if not display["Enabled"]}
    assert hidden == NOT_SHOWN_AT_FIRST
    assert all(display["Enabled"] == display["Value"] for display in config["Displays"])
    (covariance,) = (item["Covariance"] for item in config["Displays"] if "Covariance" in item)
    assert covariance["Value"] and covariance["Position"]["Value"] and covariance["Orientation"]["Value"]


FOXGLOVE_3D_TYPES = {
    "sensor_msgs/PointCloud2",
    "nav_msgs/Path",
    "visualization_msgs/Marker",
    "geometry_msgs/PoseStamped",
    "geometry_msgs/PoseWithCovarianceStamped",
}


def foxglove_layout() -> dict[str, Any]:
    """Return the layout."""
    return dict(json.loads((ROOT / "config" / "relocalize_foxglove.json").read_text()))


def leaves(tree: str | dict[str, Any]) -> list[str]:
    """Return the panels of a split."""
    return [tree] if isinstance(tree, str) else [*leaves(tree["first"]), *leaves(tree["second"])]


def check_message_path(path: str) -> None:
    """Fail unless a Foxglove message path leads to a field of what the node publishes on the topic."""
    topic, *parts = re.findall(r"^/[\w/]+|\.\w+(?:\[:\])?(?:\{\w+=='[^']*'\})?", path)
    assert "".join([topic, *parts]) == path
    kind = OUTPUTS[topic].kind
    for part in parts:
        package, name = kind.split("/")
        fields = getattr(importlib.import_module(f"{package}.msg"), name).get_fields_and_field_types()
        match = re.fullmatch(r"\.(\w+)(\[:\])?(?:\{(\w+)==.*\})?", part)
        assert match is not None
        field, is_array, filtered_by = match.groups()
        kind = fields[field]
        assert bool(is_array) == kind.startswith("sequence")
        kind = kind.removeprefix("sequence<").removesuffix(">")
        if filtered_by:
            package, name = kind.split("/")
            item = getattr(importlib.import_module(f"{package}.msg"), name)
            assert item.get_fields_and_field_types()[filtered_by] == "string"
    assert kind in ("boolean", "double", "string"), "something to draw"


def test_foxglove_layout_shows_what_the_node_publishes() -> None:
    """Every panel is placed, and every topic, field and service in it is the node's or the camera's."""
    pytest.importorskip("diagnostic_msgs", reason="the ROS 2 messages are not installed")
    layout = foxglove_layout()
    panels = layout["configById"]
    assert sorted(leaves(layout["layout"])) == sorted(panels)
    kinds = {name.split("!")[0] for name in panels}
    assert kinds >= {"3D", "Image", "DiagnosticSummary", "DiagnosticStatusPanel", "StateTransitions", "Plot"}
    for name, panel in panels.items():
        match name.split("!")[0]:
            case "3D":
                shown = {OUTPUTS[topic].kind for topic in panel["topics"]}
                assert shown == FOXGLOVE_3D_TYPES
                assert panel["publish"]["poseEstimateTopic"] == PRIOR_TOPIC
                assert panel["followTf"] == "map"
            case "Image":
                assert CAMERA[panel["imageMode"]["imageTopic"]] == "sensor_msgs/Image"
            case "DiagnosticSummary" | "DiagnosticStatusPanel":
                assert OUTPUTS[panel["topicToRender"]].kind == "diagnostic_msgs/DiagnosticArray"
            case "StateTransitions" | "Plot":
                assert panel["paths"]
                for path in panel["paths"]:
                    check_message_path(path["value"])
            case "Indicator":
                check_message_path(panel["path"])
            case "CallService":
                assert panel["serviceName"] in SERVICES
            case unknown:
                pytest.fail(f"no rule for a panel of kind {unknown}")


def test_the_node_publishes_what_these_files_rely_on(tmp_path: Path) -> None:
    """The table above, read from a running node; and what the diagnostics panels select."""
    pytest.importorskip("rclpy", reason="rclpy is not installed: no ROS 2 here")
    from rclpy.qos import DurabilityPolicy, ReliabilityPolicy
    from rclpy.topic_endpoint_info import TopicEndpointInfo
    from ros_helpers import NodeProcess, Peer, next_domain, ros_context

    domain = next_domain()
    process = NodeProcess(domain, tmp_path / "log")
    try:
        with ros_context(domain) as context:
            peer = Peer(context)
            peer.wait(lambda: peer.diagnostics, "diagnostics")

            def publishers(topic: str) -> list[TopicEndpointInfo]:
                found = peer.node.get_publishers_info_by_topic(topic)
                return [item for item in found if item.node_name == NODE]

            for topic, output in OUTPUTS.items():
                peer.wait(lambda topic=topic: publishers(topic), f"a publisher of {topic}")
                endpoints = publishers(topic)
                assert [item.topic_type for item in endpoints] == [output.kind.replace("/", "/msg/")], topic
                qos = endpoints[0].qos_profile
                assert qos.reliability is ReliabilityPolicy.RELIABLE
                assert (qos.durability is DurabilityPolicy.TRANSIENT_LOCAL) == output.latched, topic

            def services() -> set[str]:
                return {name for name, _ in peer.node.get_service_names_and_types_by_node(NODE, "/")}

            peer.wait(lambda: services() >= SERVICES, "the services")
            panel = foxglove_layout()["configById"]["DiagnosticStatusPanel!node"]
            status = peer.diagnostics[-1]
            assert (status.hardware_id, status.name) == (panel["selectedHardwareId"], panel["selectedName"])
            assert {"state", "reason"} <= peer.values().keys()
            peer.close()
    finally:
        process.end()


def test_resources_are_found_in_the_source_checkout() -> None:
    """Without an installation the checkout's own files are taken; what is nowhere is named."""
    code = "from structpose_ros.resources import share_path; print(share_path('config', 'relocalize.yaml'))"
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    ).stdout.strip()
    assert Path(found).read_text() == (ROOT / "config" / "relocalize.yaml").read_text()
    with pytest.raises(FileNotFoundError, match=r"expected models/nothing\.onnx at one of .*got nothing"):
        resources.share_path("models", "nothing.onnx")
