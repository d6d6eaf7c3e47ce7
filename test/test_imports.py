"""Who may import whom: core and training know no ROS, the node no torch; only the command knows training."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from fnmatch import fnmatch
from functools import cache
from pathlib import Path

import coverage
import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "structpose_ros"
FILES = sorted((ROOT / PACKAGE).rglob("*.py"))

CORE = {
    "camera",
    "geometry",
    "alignment",
    "refinement",
    "camera_info",
    "confidence",
    "consensus",
    "compiled",
    "kabsch",
    "pixels",
    "contract",
    "covariance",
    "image_files",
    "image_messages",
    "map_cloud",
    "model_card",
    "model_page",
    "model_page_views",
    "network",
    "onnx_files",
    "gate",
    "relocalizer",
    "text_table",
    "tracking",
    "triggers",
    "advice",
    "model_file_watch",
    "backend",
    "bound_session",
    "build_engine",
    "cores",
    "engine_cache",
    "freshness",
    "gpu",
    "mixed_precision",
    "sessions",
    "shared_networks",
    "ticker",
}
NODE = {
    "cameras",
    "diagnostics",
    "executor",
    "frame_input",
    "image_topic",
    "listener",
    "localization",
    "messages",
    "model_loading",
    "node",
    "outputs",
    "parameters",
    "picture_messages",
    "pictures",
    "qos_watch",
    "serialized_image",
    "settings",
    "spinning",
    "throttled_log",
    "transforms",
}
# What each module of the core may import of the package: the direction of DESIGN.md, one step finer.
CORE_IMPORTS = {
    "geometry": set(),
    "camera": {"compiled"},
    "ticker": set(),
    "model_file_watch": set(),
    "freshness": set(),
    "advice": set(),
    "covariance": {"geometry"},
    "tracking": {"geometry"},
    "triggers": {"gate"},
    "alignment": {"compiled", "consensus", "geometry", "kabsch", "refinement"},
    "compiled": {"kabsch", "pixels"},
    "kabsch": set(),
    "pixels": set(),
    "consensus": set(),
    "refinement": {"geometry"},
    "camera_info": {"camera"},
    "confidence": {"alignment", "compiled"},
    "image_files": set(),
    "image_messages": {"image_files"},
    "contract": {"alignment", "camera", "confidence", "covariance"},
    "map_cloud": {"contract"},
    "text_table": set(),
    "model_card": {"contract"},
    "model_page_views": {"camera", "contract", "model_card", "text_table"},
    "model_page": {"contract", "map_cloud", "model_card", "model_page_views", "text_table"},
    "network": {
        *("backend", "bound_session", "camera", "compiled", "contract", "map_cloud"),
        *("onnx_files", "sessions"),
    },
    "bound_session": set(),
    "backend": {"cores", "engine_cache", "gpu", "mixed_precision", "resources", "sessions"},
    "sessions": {"contract", "cores", "engine_cache"},
    "shared_networks": {"network", "sessions"},
    "build_engine": {"contract", "network", "sessions"},
    "cores": set(),
    "engine_cache": set(),
    "gpu": set(),
    "mixed_precision": {"contract"},
    "onnx_files": set(),
    "gate": {"alignment", "confidence", "contract", "geometry"},
    "relocalizer": {"alignment", "camera", "gate", "geometry", "network"},
}
ROS = {
    "action_msgs",
    "ament_index_python",
    "builtin_interfaces",
    "cv_bridge",
    "diagnostic_msgs",
    "geometry_msgs",
    "launch",
    "launch_ros",
    "lifecycle_msgs",
    "message_filters",
    "nav_msgs",
    "rcl_interfaces",
    "rclpy",
    "rosbag2_py",
    "sensor_msgs",
    "sensor_msgs_py",
    "std_msgs",
    "std_srvs",
    "tf2_msgs",
    "tf2_ros",
    "visualization_msgs",
}
OPTIONAL_ROS = {"image_messages": {"cv_bridge"}}  # asked for rare encodings, where it is installed
TRAINING_ONLY = {"torch", "torchvision", "safetensors", "torchmetrics"}


def module_of(path: Path) -> str:
    """Return a file's module name within the package, '' for the package itself."""
    parts = path.relative_to(ROOT / PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def imports_of(path: Path) -> frozenset[str]:
    """Return the full names of all modules that a file imports, anywhere in it."""
    names: set[str] = set()
    for statement in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(statement, ast.Import):
            names |= {alias.name for alias in statement.names}
        elif isinstance(statement, ast.ImportFrom):
            above = path.relative_to(ROOT).parts[: -statement.level] if statement.level else ()
            source = ".".join([*above, *([statement.module] if statement.module else [])])
            names |= {source} | {f"{source}.{alias.name}" for alias in statement.names}
    return frozenset(names)


def roots(names: frozenset[str]) -> set[str]:
    """Return the top-level packages of module names."""
    return {name.partition(".")[0] for name in names}


def own_imports(path: Path) -> set[str]:
    """Return the modules of this package (first level) that a file imports."""
    known = {module_of(other).partition(".")[0] for other in FILES}
    parts = [name.split(".") for name in imports_of(path)]
    return {name[1] for name in parts if name[0] == PACKAGE and len(name) > 1 and name[1] in known}


def test_every_module_of_core_and_node_exists() -> None:
    """A renamed file must not slip out of these rules."""
    assert {module_of(path) for path in FILES} >= CORE | NODE


def test_coverage_is_measured_of_the_core_alone() -> None:
    """A module that moves from the node to the core, or is new, must not slip out of the measurement."""
    omitted = coverage.Coverage(config_file=ROOT / "pyproject.toml").get_option("run:omit")
    assert isinstance(omitted, list)
    top = {module_of(path).partition(".")[0] for path in FILES}
    measured = {name for name in top if not any(fnmatch(f"{PACKAGE}/{name}.py", line) for line in omitted)}
    assert {name for name in measured if f"{PACKAGE}/{name}/*" not in omitted} == CORE | {""}


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_imports_follow_the_design(path: Path) -> None:
    module = module_of(path)
    top = module.partition(".")[0]
    imported = roots(imports_of(path))
    if top in CORE or top == "training":
        assert imported & ROS <= OPTIONAL_ROS.get(top, set()), "knows ROS"
    if top in CORE:
        assert own_imports(path) <= CORE_IMPORTS[module]
    if top != "training":
        assert not imported & TRAINING_ONLY, "knows torch"
    if top not in ("training", "cli", "demo"):  # the demo plays recordings and renders one
        assert "training" not in own_imports(path), "knows training"
    if top in ("messages", "parameters"):
        assert own_imports(path) <= CORE
    if top not in NODE | {"demo", "resources"}:
        assert not own_imports(path) & NODE, "knows the node"


def loaded_by(module: str) -> set[str]:
    """Return the top-level packages, and this package's modules, that importing a module loads."""
    code = f"import json, sys, {module}; print(json.dumps(sorted(sys.modules)))"
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True, timeout=120
    )
    names = json.loads(result.stdout.splitlines()[-1])
    return {name.partition(".")[0] for name in names} | {name for name in names if name.startswith(PACKAGE)}


@pytest.mark.parametrize("module", ["relocalizer", "ticker", "cli", "training"])
def test_without_the_node_no_ros_is_loaded(module: str) -> None:
    loaded = loaded_by(f"{PACKAGE}.{module}")
    assert f"{PACKAGE}.{module}" in loaded
    # The ROS 2 wheels' start-up file may load rclpy's own loader, but never the messages.
    assert not loaded & {"rclpy", "sensor_msgs", "geometry_msgs", "tf2_ros"}
    assert not loaded & TRAINING_ONLY, "torch is loaded only by what trains"


def test_the_node_loads_neither_torch_nor_training() -> None:
    pytest.importorskip("rclpy", reason="rclpy is not installed: no ROS 2 here")
    loaded = loaded_by(f"{PACKAGE}.node")
    assert "rclpy" in loaded
    assert not loaded & TRAINING_ONLY
    assert not {name for name in loaded if name.startswith(f"{PACKAGE}.training")}
