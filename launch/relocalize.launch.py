"""Start the relocalizer on a robot's camera.

ros2 launch structpose_ros relocalize.launch.py model:=kitchen.onnx image:=/camera/image_raw rviz:=true
"""

from pathlib import Path

from launch import LaunchContext, LaunchDescription, LaunchDescriptionEntity
from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

PACKAGE, NODE = "structpose_ros", "structpose_relocalizer"
CONFIG = (
    Path(__file__).resolve().parent.parent / "config"
)  # beside this folder in the share and in the sources

ARGUMENTS = (
    ("model", "", "model file (.onnx); empty: as params_file says"),
    ("image", "image", "image topic"),
    ("camera_info", "", "CameraInfo topic; empty: camera_info beside the image topic"),
    ("tf_mode", "", "map_to_camera or none; empty: as params_file says"),
    ("map_frame", "", "TF frame of the map; empty: as params_file says"),
    ("camera_frame", "", "TF frame of the camera; empty: as params_file says"),
    ("provider", "", "auto, tensorrt, cuda or cpu; empty: as params_file says"),
    ("params_file", str(CONFIG / "relocalize.yaml"), "YAML file with the node's parameters"),
    ("namespace", "", "namespace of the node"),
    ("log_level", "info", "debug, info, warn, error or fatal"),
    ("rviz", "false", "true opens RViz on the result"),
)
PARAMETER_OF_ARGUMENT = {
    "model": "model.path",
    "provider": "model.provider",
    "tf_mode": "tf.mode",
    "map_frame": "frames.map_frame",
    "camera_frame": "frames.camera_frame",
}


def generate_launch_description() -> LaunchDescription:
    """Declare the arguments; the nodes follow when their values are known."""
    declared = [
        DeclareLaunchArgument(name, default_value=default, description=description)
        for name, default, description in ARGUMENTS
    ]
    return LaunchDescription([*declared, OpaqueFunction(function=_nodes)])


def _nodes(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    value = {name: LaunchConfiguration(name).perform(context) for name, _, _ in ARGUMENTS}
    camera_info = value["camera_info"] or _beside(value["image"], "camera_info")
    overrides = {
        parameter: ParameterValue(value[argument], value_type=str)
        for argument, parameter in PARAMETER_OF_ARGUMENT.items()
        if value[argument]
    }
    relocalizer = Node(
        package=PACKAGE,
        executable=NODE,
        name=NODE,
        namespace=value["namespace"],
        parameters=[value["params_file"], overrides],
        remappings=[("image", value["image"]), ("camera_info", camera_info)],
        ros_arguments=["--log-level", value["log_level"]],
        output="screen",
    )
    if value["rviz"].lower() not in ("true", "1", "yes", "on"):
        return [relocalizer]
    return [relocalizer, _rviz(value["namespace"], value["image"], value["map_frame"])]


def _rviz(namespace: str, image: str, map_frame: str) -> Node:
    """RViz with the config's topic names led to the node's."""
    prefix = f"/{namespace.strip('/')}" if namespace.strip("/") else ""
    return Node(
        package="rviz2",
        executable="rviz2",
        name="rviz",
        arguments=["-d", str(CONFIG / "relocalize.rviz"), *(["-f", map_frame] if map_frame else [])],
        remappings=[
            ("/pose", f"{prefix}/pose"),
            (f"/{NODE}/points", f"{prefix}/{NODE}/points"),
            ("/image", image if image.startswith("/") else f"{prefix}/{image}"),
        ],
    )


def _beside(topic: str, name: str) -> str:
    """Return the topic `name` in the namespace of `topic`."""
    namespace, slash, _ = topic.rpartition("/")
    return f"{namespace}{slash}{name}"
