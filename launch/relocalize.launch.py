"""Start the relocalizer on a robot's camera.

ros2 launch structpose_ros relocalize.launch.py model:=kitchen.onnx image:=/camera/image_raw rviz:=true

Include it once for each camera, with a `namespace` of its own. An argument that sets a parameter is empty by
default, and then leaves the parameter as params_file says.
"""

from pathlib import Path
from typing import NamedTuple

from launch import LaunchContext, LaunchDescription, LaunchDescriptionEntity
from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue
from launch_ros.utilities import make_namespace_absolute, prefix_namespace

PACKAGE, NODE = "structpose_ros", "structpose_relocalizer"
# Beside this folder in the installed share and in the sources.
CONFIG = Path(__file__).resolve().parent.parent / "config"
COMPRESSED = "/compressed"
MODEL_LOADING_TIMEOUT = 600.0  # seconds; TensorRT builds an engine first


class Argument(NamedTuple):
    """A launch argument. One with a `parameter` is empty by default, and then sets none."""

    name: str
    text: str
    default: str = ""
    parameter: str = ""
    kind: type = str


ARGUMENTS = (
    Argument("model", "model file (.onnx) of the scene", parameter="model.path"),
    Argument("image", "image topic", default="image"),
    Argument("camera_info", "CameraInfo topic; empty: camera_info beside the image topic"),
    Argument(
        "transport",
        "raw, or compressed: CompressedImage on <image>/compressed",
        parameter="input.transport",
    ),
    Argument(
        "rectified",
        "true: the images are rectified, and P of CameraInfo is their camera",
        parameter="input.rectified",
        kind=bool,
    ),
    Argument("mode", "continuous, or on_trigger: localise only when asked", parameter="run.mode"),
    Argument(
        "tf_mode",
        "transform to send: map_to_camera, map_to_odom, map_to_base or none",
        parameter="tf.mode",
    ),
    Argument("map_frame", "TF frame of the map", parameter="frames.map_frame"),
    Argument(
        "odom_frame", "TF frame of the odometry; none: there is no odometry", parameter="frames.odom_frame"
    ),
    Argument(
        "base_frame",
        "TF frame of the robot; none: there is no robot, poses with covariance are the camera's",
        parameter="frames.base_frame",
    ),
    Argument(
        "camera_frame", "TF frame of the camera, if not the image header's", parameter="frames.camera_frame"
    ),
    Argument(
        "handoff_mode",
        "when initialpose is published: never, once_per_trigger or on_lost",
        parameter="handoff.mode",
    ),
    Argument("provider", "where the network runs: auto, tensorrt, cuda or cpu", parameter="model.provider"),
    Argument("autostart", "true: the node is brought up at start", parameter="autostart", kind=bool),
    Argument("use_sim_time", "true: time comes from /clock", parameter="use_sim_time", kind=bool),
    Argument("params_file", "YAML file with the node's parameters", default=str(CONFIG / "relocalize.yaml")),
    Argument("namespace", "namespace of the node and of its relative topics"),
    Argument("pose", "topic for the camera's pose", default="pose"),
    Argument(
        "pose_with_covariance", "topic for the robot's pose with covariance", default="pose_with_covariance"
    ),
    Argument(
        "initialpose",
        "topic for the pose handed to SLAM or Nav2; with a namespace usually /initialpose",
        default="initialpose",
    ),
    Argument(
        "trigger_localization",
        "topic on which a pose is asked for, with a guess of it",
        default="trigger_localization",
    ),
    Argument(
        "lifecycle_manager",
        "true: Nav2's lifecycle manager brings the node up, unless autostart is false "
        "(package nav2_lifecycle_manager)",
        default="false",
    ),
    Argument("log_level", "debug, info, warn, error or fatal", default="info"),
    Argument("rviz", "true: RViz opens on the result (package rviz2)", default="false"),
)
OPTIONAL_FRAMES = ("odom_frame", "base_frame")
# Topics that the arguments of these names remap.
TOPICS = ("image", "camera_info", "pose", "pose_with_covariance", "initialpose", "trigger_localization")
# Topics that the RViz config shows: some of the above, and some below the node's own name.
SHOWN_TOPICS = ("image", "pose", "pose_with_covariance", "trigger_localization")
SHOWN_PRIVATE_TOPICS = ("points", "map_points", "depth", "weights", "path", "frustum")


def generate_launch_description() -> LaunchDescription:
    """Declare the arguments; the nodes follow when their values are known."""
    declared = [
        DeclareLaunchArgument(
            argument.name,
            default_value=argument.default,
            description=f"{argument.text}; empty: as params_file says"
            if argument.parameter
            else argument.text,
        )
        for argument in ARGUMENTS
    ]
    return LaunchDescription([*declared, OpaqueFunction(function=_nodes)])


def _nodes(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    value = {item.name: LaunchConfiguration(item.name).perform(context) for item in ARGUMENTS}
    params_file = Path(value["params_file"]).expanduser()
    if not params_file.is_file():  # launch itself would go on without
        raise ValueError(f"launch argument 'params_file': expected a file, got '{params_file}'")
    if value["image"].endswith(COMPRESSED) and value["transport"] != "raw":
        value["image"] = value["image"][: -len(COMPRESSED)]
        value["transport"] = "compressed"
    value["camera_info"] = value["camera_info"] or _beside(value["image"], "camera_info")
    parameters = _parameters(value)
    sim_time = {"use_sim_time": parameters["use_sim_time"]} if value["use_sim_time"] else {}
    nodes = []
    if _boolean(value, "lifecycle_manager"):
        nodes.append(_lifecycle_manager(value["namespace"], parameters.get("autostart", True), sim_time))
        parameters["autostart"] = False
    if _boolean(value, "rviz"):
        nodes.append(_rviz(value, _namespace(context, value["namespace"]), sim_time))
    relocalizer = Node(
        package=PACKAGE,
        executable=NODE,
        name=NODE,
        namespace=value["namespace"],
        parameters=[str(params_file), parameters],
        remappings=[(topic, value[topic]) for topic in TOPICS],
        ros_arguments=["--log-level", value["log_level"]],
        output="screen",
    )
    return [relocalizer, *nodes]


def _parameters(value: dict[str, str]) -> dict[str, bool | ParameterValue]:
    """The parameters that arguments set. Strings stay strings, whatever YAML would make of them."""
    parameters: dict[str, bool | ParameterValue] = {}
    for argument in ARGUMENTS:
        text = value[argument.name]
        if not argument.parameter or not text:
            continue
        if argument.kind is bool:
            parameters[argument.parameter] = _boolean(value, argument.name)
        else:
            lacks = argument.name in OPTIONAL_FRAMES and text == "none"
            parameters[argument.parameter] = ParameterValue("" if lacks else text, value_type=str)
    return parameters


def _lifecycle_manager(namespace: str, autostart: bool, sim_time: dict[str, bool]) -> Node:
    """Nav2's lifecycle manager for the node alone, which has no bond to it."""
    return Node(
        package="nav2_lifecycle_manager",
        executable="lifecycle_manager",
        name="lifecycle_manager_structpose",
        namespace=namespace,
        parameters=[
            {
                "node_names": [NODE],
                "autostart": autostart,
                "bond_timeout": 0.0,
                "service_timeout": MODEL_LOADING_TIMEOUT,  # since Kilted; 5 seconds by default
                **sim_time,
            }
        ],
        output="screen",
    )


def _rviz(value: dict[str, str], namespace: str, sim_time: dict[str, bool]) -> Node:
    """RViz with the config's topic names led to the node's."""
    topics = {name: value[name] for name in SHOWN_TOPICS}
    topics |= {f"{NODE}/{name}": f"{NODE}/{name}" for name in SHOWN_PRIVATE_TOPICS}
    # RViz resolves <image>/compressed by itself, so that a remap of <image> doesn't lead it along.
    topics[f"image{COMPRESSED}"] = f"{value['image']}{COMPRESSED}"
    fixed_frame = ["-f", value["map_frame"]] if value["map_frame"] else []
    return Node(
        package="rviz2",
        executable="rviz2",
        name="rviz",
        namespace=value["namespace"],
        arguments=["-d", str(CONFIG / "relocalize.rviz"), *fixed_frame],
        parameters=[sim_time] if sim_time else [],
        remappings=[(f"/{shown}", _absolute(topic, namespace)) for shown, topic in topics.items()],
    )


def _namespace(context: LaunchContext, namespace: str) -> str:
    """Return the node's absolute namespace, below one that a launch file around this one has pushed."""
    pushed = context.launch_configurations.get("ros_namespace")
    return str(make_namespace_absolute(prefix_namespace(pushed, namespace)))


def _absolute(topic: str, namespace: str) -> str:
    return topic if topic.startswith("/") else f"{namespace.rstrip('/')}/{topic}"


def _beside(topic: str, name: str) -> str:
    """Return the topic `name` in the namespace of `topic`."""
    namespace, slash, _ = topic.rpartition("/")
    return f"{namespace}{slash}{name}"


def _boolean(value: dict[str, str], argument: str) -> bool:
    text = value[argument].lower()
    if text not in ("true", "false"):
        raise ValueError(f"launch argument '{argument}': expected true or false, got '{value[argument]}'")
    return text == "true"
