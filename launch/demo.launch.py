"""Play the bundled demo room as a camera into the relocalizer and show the result in RViz.

ros2 launch structpose_ros demo.launch.py

Without a display: rviz:=false. The arguments of relocalize.launch.py work here too.
"""

import os
from pathlib import Path

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription, Shutdown
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

SHARE = Path(__file__).resolve().parent.parent
# A camera image is larger than Fast DDS's default shared memory; this profile at the publisher has room.
PROFILE_VARIABLES = ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE")


def generate_launch_description() -> LaunchDescription:
    """The demo camera, the node and, unless rviz:=false, RViz."""
    profile = (
        {}
        if any(name in os.environ for name in PROFILE_VARIABLES)
        else {name: str(SHARE / "config" / "fastdds_shm.xml") for name in PROFILE_VARIABLES}
    )
    camera = Node(
        package="structpose_ros",
        executable="demo_camera",
        name="demo_camera",
        arguments=["--loop"],
        remappings=[("image", "/demo_camera/image"), ("camera_info", "/demo_camera/camera_info")],
        additional_env=profile,
        output="screen",
        on_exit=Shutdown(reason="the demo camera ended"),
    )
    relocalizer = IncludeLaunchDescription(
        PythonLaunchDescriptionSource(str(SHARE / "launch" / "relocalize.launch.py")),
        launch_arguments={
            "model": LaunchConfiguration("model"),
            "image": "/demo_camera/image",
            "rviz": LaunchConfiguration("rviz"),
            # The camera flies through the room by itself.
            "odom_frame": "none",
            "base_frame": "none",
        }.items(),
    )
    return LaunchDescription(
        [
            DeclareLaunchArgument(
                "model",
                default_value=str(SHARE / "models" / "demo_room.onnx"),
                description="model file of the demo room",
            ),
            DeclareLaunchArgument("rviz", default_value="true", description="true opens RViz on the result"),
            camera,
            relocalizer,
        ]
    )
