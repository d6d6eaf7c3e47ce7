"""The parameters: each described and limited once, each bad value refused in one line."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("rclpy", reason="rclpy is not installed: no ROS 2 here")

import yaml
from rclpy.context import Context
from rclpy.node import Node
from rclpy.parameter import Parameter as RosParameter
from ros_helpers import next_domain, ros_context

from structpose_ros.gate import GateOptions
from structpose_ros.parameters import Changes, ParameterError
from structpose_ros.settings import PARAMETERS, Settings, changed_settings, declare_settings, settings_from

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def context(monkeypatch: pytest.MonkeyPatch) -> Iterator[Context]:
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    with ros_context(next_domain()) as made:
        yield made


def node_with(context: Context, **overrides: Any) -> Node:
    given = [RosParameter(name, value=value) for name, value in overrides.items()]
    return Node("parameters", context=context, parameter_overrides=given)


def test_without_values_the_defaults_hold() -> None:
    assert settings_from({}) == Settings()
    assert settings_from({row.name: row.default for row in PARAMETERS}) == Settings()
    assert Settings().gate == GateOptions()


def test_every_parameter_is_described_and_its_default_is_allowed() -> None:
    names = [row.name for row in PARAMETERS]
    assert len(set(names)) == len(names)
    for row in PARAMETERS:
        assert row.description.endswith(".")
        assert row.checked(row.default) == row.default
        assert (row.minimum is None) == (row.maximum is None)
        if isinstance(row.default, float):
            assert row.minimum is not None


def test_values_reach_their_fields() -> None:
    settings = settings_from(
        {"gate.max_residual": 0.5, "tf.mode": "none", "model.threads": 3, "autostart": False}
    )
    assert settings.gate.max_residual == 0.5
    assert (settings.tf_mode, settings.model_threads, settings.autostart) == ("none", 3, False)


def test_a_whole_number_serves_as_a_fraction() -> None:
    """`max_residual: 1` in YAML is an integer; nobody means to be refused for it."""
    value = settings_from({"gate.max_residual": 1}).max_residual
    assert value == 1.0
    assert isinstance(value, float)


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ({"gate.min_inlier_ratio": 1.01}, "'gate.min_inlier_ratio': expected a number from 0 to 1, got 1.01"),
        ({"gate.min_inlier_ratio": float("nan")}, "expected a number from 0 to 1, got nan"),
        ({"gate.max_residual": 0.0}, "'gate.max_residual': expected a number from 0.001 to 100 m, got 0.0"),
        ({"gate.max_residual": "0.1"}, "expected a number from 0.001 to 100 m, got '0.1'"),
        ({"gate.map_margin": True}, "expected a number from 0 to 10000 m, got true"),
        ({"model.threads": -1}, "'model.threads': expected an integer from 0 to 256 threads, got -1"),
        ({"model.threads": 2.0}, "expected an integer from 0 to 256 threads, got 2.0"),
        (
            {"model.provider": "gpu"},
            "expected one of 'auto', 'tensorrt', 'cuda', 'openvino', 'cpu', got 'gpu'",
        ),
        ({"autostart": "yes"}, "'autostart': expected true or false, got 'yes'"),
        ({"model.path": 3}, "'model.path': expected a string, got 3"),
        ({"model.path": ["a"]}, "'model.path': expected a string, got ['a']"),
        ({"model.pth": "a"}, "'model.pth': unknown, expected one of autostart, covariance.diagonal, "),
        ({"frames.map_frame": ""}, "'frames.map_frame': expected a frame name, got ''"),
        ({"frames.base_frame": "/base"}, "'frames.base_frame': expected a TF frame without a leading slash"),
        (
            {"tf.mode": "map_to_odom", "frames.odom_frame": ""},
            "'frames.odom_frame': expected a frame name for tf.mode 'map_to_odom', got ''",
        ),
        (
            {"tf.mode": "map_to_base", "frames.base_frame": ""},
            "'frames.base_frame': expected a frame name for tf.mode 'map_to_base', got ''",
        ),
        (
            {"frames.base_frame": "odom"},
            "'frames.base_frame': expected another frame than 'frames.odom_frame', got 'odom' for both",
        ),
        ({"run.mode": "once"}, "'run.mode': expected one of 'continuous', 'on_trigger', got 'once'"),
        ({"gate.consistency_frames": 0}, "expected an integer from 1 to 100 poses, got 0"),
        ({"run.lost_timeout": 0.0}, "expected a number from 0.1 to 3600 s, got 0.0"),
        (
            {"frames.camera_frame": "map"},
            "expected another frame than 'frames.map_frame', got 'map' for both",
        ),
    ],
)
def test_a_bad_value_is_refused_with_what_was_expected(values: dict[str, object], line: str) -> None:
    with pytest.raises(ParameterError) as raised:
        settings_from(values)
    assert line in str(raised.value)
    assert "\n" not in str(raised.value)


def test_overrides_reach_the_settings_and_the_parameters(context: Context) -> None:
    node = node_with(context, **{"gate.max_residual": 2, "frames.map_frame": "site"})
    settings = declare_settings(node)
    assert settings == Settings(max_residual=2.0, map_frame="site")
    for row in PARAMETERS:
        declared = node.get_parameter(row.name)
        described = node.describe_parameter(row.name)
        assert type(declared.value) is type(row.default)
        assert described.description.startswith(row.description)
        assert described.read_only == (row.changes is Changes.NEVER)
        assert row.expectation in described.additional_constraints
        ranges = [*described.floating_point_range, *described.integer_range]
        assert [(item.from_value, item.to_value) for item in ranges] == (
            [] if row.minimum is None else [(row.minimum, row.maximum)]
        )
    assert node.get_parameter("gate.max_residual").value == 2.0
    node.destroy_node()


def test_what_ros_itself_reads_is_no_unknown_parameter(context: Context) -> None:
    given = {
        "use_sim_time": True,
        "qos_overrides./tf.publisher.depth": 50,
        "start_type_description_service": False,
    }
    node = node_with(context, **given)
    assert declare_settings(node) == Settings()
    node.destroy_node()


def test_what_is_fixed_at_start_is_read_only(context: Context) -> None:
    node = node_with(context)
    declare_settings(node)
    (answer,) = node.set_parameters([RosParameter("tf.mode", value="none")])
    assert not answer.successful
    assert "read-only" in answer.reason
    node.destroy_node()


def test_changes_are_checked_as_at_start_and_by_when_they_may_come() -> None:
    before = settings_from({"gate.max_residual": 0.5})
    after = changed_settings(before, {"gate.map_margin": 2, "run.mode": "on_trigger"}, configured=True)
    assert (after.max_residual, after.map_margin, after.run_mode) == (0.5, 2.0, "on_trigger")
    assert before.map_margin == GateOptions.map_margin
    with pytest.raises(ParameterError, match="expected a number from 0 to 10000 m, got -1"):
        changed_settings(before, {"gate.map_margin": -1}, configured=True)
    with pytest.raises(ParameterError, match="'tf.mode': expected to be set at start only, got a change"):
        changed_settings(before, {"tf.mode": "none"}, configured=False)
    with pytest.raises(ParameterError, match="'model.path': expected the node to be unconfigured"):
        changed_settings(before, {"model.path": "b.onnx"}, configured=True)
    assert changed_settings(before, {"model.path": "b.onnx"}, configured=False).model_path == "b.onnx"


def flattened(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= flattened(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def test_the_params_file_holds_every_default() -> None:
    (of_node,) = yaml.safe_load((ROOT / "config" / "relocalize.yaml").read_text()).values()
    assert flattened(of_node["ros__parameters"]) == {row.name: row.default for row in PARAMETERS}


def test_what_is_written_from_the_declarations_is_up_to_date() -> None:
    """One definition per fact: after a change of a parameter, `make docs` writes both files anew."""
    spec = importlib.util.spec_from_file_location("parameter_docs", ROOT / "tools" / "parameter_docs.py")
    assert spec is not None and spec.loader is not None
    docs = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(docs)
    assert docs.TABLE.read_text() == docs.table()
    assert docs.VALUES.read_text() == docs.values()
    for row in PARAMETERS:
        assert f"| `{row.name}` |" in docs.table()


@pytest.mark.parametrize("namespace", ["", "/robot1", "/fleet/robot1"])
def test_the_params_file_reaches_the_node_in_any_namespace(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, namespace: str
) -> None:
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    changed = (
        (ROOT / "config" / "relocalize.yaml").read_text().replace("max_residual: 0.25", "max_residual: 0.5")
    )
    path = tmp_path / "changed.yaml"
    path.write_text(changed)
    with ros_context(next_domain()) as context:
        arguments = ["--ros-args", "--params-file", str(path)]
        node = Node("structpose_relocalizer", context=context, namespace=namespace, cli_args=arguments)
        assert declare_settings(node) == Settings(max_residual=0.5)
        node.destroy_node()
