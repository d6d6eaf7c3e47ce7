"""Several cameras in one process: each has its poses, and one model serves them all."""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="rclpy is not installed: no ROS 2 here")

from model_files import HEIGHT, TRAINING_CAMERA, WIDTH, write_model
from ros_helpers import NodeProcess, Peer, camera_info_message, child_environment, image_message, ros_context
from ros_helpers import next_domain as domain_of_its_own

from structpose_ros.geometry import pose_error, rotation_from_vector, transform
from structpose_ros.messages import target_from_source_of_pose

MAP_FROM_CAMERA = transform(rotation_from_vector([0.3, -1.1, 0.7]), [2.5, -1.25, 0.75])
CAMERAS = ("front", "rear")


class Cameras(NodeProcess):
    """`structpose_cameras front rear`."""

    program = ("structpose_ros.cameras", *CAMERAS)


def pixels() -> np.ndarray:
    """Colours that the test model localises: depth from red, blue away from full."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    return np.stack([columns * 255 // WIDTH, rows * 255 // HEIGHT, rows * 0 + 40], axis=-1).astype(np.uint8)


def test_each_camera_has_its_poses_of_one_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    domain = domain_of_its_own()
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    model = write_model(tmp_path / "model.onnx", MAP_FROM_CAMERA)
    parameters: dict[str, object] = {
        "model.path": model,
        "model.provider": "cpu",
        "gate.consistency_frames": 1,
        "frames.base_frame": "''",
        "tf.mode": "none",
    }
    with ros_context(domain) as context, contextlib.ExitStack() as cleanup:
        peers = {name: Peer(context, f"/{name}") for name in CAMERAS}
        for peer in peers.values():
            cleanup.callback(peer.close)
        process = Cameras(domain, tmp_path / "cameras.log", **parameters)
        cleanup.callback(process.end)
        image, info = image_message(pixels()), camera_info_message(TRAINING_CAMERA)
        for name, peer in peers.items():
            peer.send_until(lambda peer=peer: peer.poses, f"a pose of {name}", image, info)  # type: ignore[misc]
            position, rotation = pose_error(target_from_source_of_pose(peer.poses[0].pose), MAP_FROM_CAMERA)
            assert position < 1e-3
            assert rotation < 0.1
        front = peers["front"]
        names = {f"/{name}/structpose_relocalizer: localization" for name in CAMERAS}
        front.wait(lambda: names <= {status.name for status in front.diagnostics}, "diagnostics of both")
        assert process.stop() == 0
    # The one that came second took the first one's.
    log = process.log
    assert len(re.findall("running on cpu", log)) == 2
    assert len(re.findall("shares the model that is loaded already", log)) == 1
    assert "Traceback" not in log


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], "the following arguments are required: CAMERA"),
        (["front", "re ar"], "expected a ROS namespace, got 're ar'"),
        (["front", "front"], "expected a namespace for each camera, got the nodes /front/structpose_rel"),
        (["a", "b", "--ros-args", "-r", "__ns:=/c"], "got the nodes /c/structpose_relocalizer, /c/struct"),
        (["a", "b", "--ros-args", "-p", "gate.map_margin:=-1.0"], "gate.map_margin"),
    ],
)
def test_cameras_that_can_not_be_told_apart_are_refused(arguments: list[str], expected: str) -> None:
    environment = {**child_environment(domain_of_its_own()), "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST"}
    command = [sys.executable, "-m", "structpose_ros.cameras", *arguments]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 2
    assert expected in ended.stderr
    assert "Traceback" not in ended.stderr + ended.stdout
