"""The demonstration's processes: what comes out of the node is what `structpose evaluate` computes."""

from __future__ import annotations

import json
import math
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="rclpy is not installed: no ROS 2 here")

import torch
from model_files import HEIGHT, TRAINING_CAMERA, WIDTH, contract
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from ros_helpers import DEADLINE, next_domain, ros_context
from sensor_msgs.msg import CameraInfo, Image

from structpose_ros.demo.__main__ import play
from structpose_ros.demo.camera import main as camera_main
from structpose_ros.demo.report import build_report
from structpose_ros.gate import GateOptions
from structpose_ros.geometry import pose_error, rotation_from_vector, transform
from structpose_ros.network import OnnxNetwork
from structpose_ros.relocalizer import Relocalizer
from structpose_ros.training.config import NetworkConfig
from structpose_ros.training.evaluate import evaluate_frames
from structpose_ros.training.export import ExportedGraph, export_model
from structpose_ros.training.frames import Frame, open_recording, write_atomic, write_camera, write_frame
from structpose_ros.training.networks import StructPoseNetwork

FRAMES = 6
REPORT_KEYS = {
    "frames",
    "accepted",
    "median_position_m",
    "median_rotation_deg",
    "mean_position_m",
    "mean_rotation_deg",
    "within_5cm_5deg",
    "within_10cm_5deg",
    "latency_ms",
    "method",
    "model_sha256",
    "accepted_median_position_m",
    "node_latency_ms",
    "network_ms",
}


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    """Images of noise with made-up poses: nothing to recognise, but every image differs."""
    folder = tmp_path / "recording"
    random = np.random.default_rng(3)
    for number in range(FRAMES):
        image = random.integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)
        pose = transform(rotation_from_vector(random.normal(size=3)), random.normal(size=3))
        depth = np.full((HEIGHT, WIDTH), 1500, dtype=np.uint16)
        write_frame(folder / "seq-02", number, Frame("", image, depth, pose))
    write_atomic(folder / "TestSplit.txt", b"sequence2\n")
    write_camera(folder / "camera.yaml", TRAINING_CAMERA)
    return folder


def test_poses_over_ros_are_those_of_the_evaluation(
    recording: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    monkeypatch.setenv("ROS_DOMAIN_ID", str(next_domain()))
    torch.manual_seed(0)
    network = StructPoseNetwork(NetworkConfig("resnet18_half", 16, 1, 8, 1))
    model = tmp_path / "model.onnx"
    export_model(ExportedGraph(network, contract().depth_scale, True), contract(), model)
    # An untrained network's poses are nonsense, yet a function of the image: the gate must let them pass.
    everything = GateOptions(min_inlier_ratio=0.0, max_residual=100.0, map_margin=10000.0)
    files = open_recording(recording).files("test")[0]
    expected, _ = evaluate_frames(
        Relocalizer(OnnxNetwork(model, "cpu"), everything), open_recording(recording), files
    )
    assert [outcome.accepted for outcome in expected] == [True] * FRAMES

    out = tmp_path / "out"
    out.mkdir()
    gate = {"gate.min_inlier_ratio": "0.0", "gate.max_residual": "100.0", "gate.map_margin": "10000.0"}
    gate["gate.consistency_frames"] = "1"
    play(model, recording, out, 2.0, "cpu", gate)  # Hz: a busy machine must not have to drop one

    stamps = dict(line.split(",") for line in (out / "stamps.csv").read_text().split())
    recorded = json.loads((out / "recorded.json").read_text())
    poses = {pose["stamp_ns"]: np.array(pose["map_from_camera"]) for pose in recorded["poses"]}
    assert {pose["frame_id"] for pose in recorded["poses"]} == {"map"}
    assert len(poses) == FRAMES
    assert recorded["transforms"] == FRAMES
    for outcome in expected:
        assert outcome.map_from_camera is not None
        position, rotation = pose_error(poses[int(stamps[outcome.name])], outcome.map_from_camera)
        assert position < 1e-6
        assert math.radians(rotation) < 1e-6

    report = build_report(model, recording, out, "cpu")
    assert report.keys() >= REPORT_KEYS
    assert report["frames"] == report["accepted"] == FRAMES
    assert report["median_position_m"] == pytest.approx(
        float(np.median([outcome.position_m for outcome in expected])), abs=1e-6
    )
    assert json.loads((out / "report.json").read_text()) == report
    assert (out / "report.png").read_bytes().startswith(b"\x89PNG")
    assert min(pose["latency_ms"] for pose in recorded["poses"]) > 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_camera_ends_cleanly_at_a_signal(
    number: int, recording: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    domain = next_domain()
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    monkeypatch.setenv("ROS_DOMAIN_ID", str(domain))
    stamps = tmp_path / "stamps.csv"
    command = [sys.executable, "-m", "structpose_ros.demo.camera", "--data", str(recording), "--loop"]
    with ros_context(domain) as context:
        peer = Node("test_peer", context=context)
        executor = SingleThreadedExecutor(context=context)
        executor.add_node(peer)
        images: list[Image] = []
        peer.create_subscription(Image, "image", images.append, 10)
        peer.create_subscription(CameraInfo, "camera_info", lambda _: None, 10)
        camera = subprocess.Popen(
            [*command, "--rate", "20", "--stamps", str(stamps)], stderr=subprocess.PIPE, text=True
        )
        try:
            until = time.monotonic() + DEADLINE
            while len(images) <= FRAMES and time.monotonic() < until:  # once around, so it does loop
                executor.spin_once(timeout_sec=0.05)
            camera.send_signal(number)
            _, error = camera.communicate(timeout=DEADLINE)
        finally:
            camera.kill()
            executor.shutdown()
            peer.destroy_node()
    assert len(images) > FRAMES
    assert (camera.returncode, error) == (0, "")
    assert len(stamps.read_text().splitlines()) >= len(images)


@pytest.mark.parametrize("rate", ["0", "-1", "nan", "inf", "fast"])
def test_a_rate_that_no_camera_has_is_refused(rate: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        camera_main(["demo_camera", f"--rate={rate}"])
    assert stopped.value.code == 2
    assert "argument --rate: " in capsys.readouterr().err
