"""What `ros2 doctor` says: each finding in a machine made up for it, and the adapter."""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from structpose_ros import doctor
from structpose_ros.doctor import Finding, Level
from structpose_ros.resources import cache_path

ROOT = Path(__file__).resolve().parent.parent
CUDA, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"


def test_the_doctor_loads_nothing_that_may_be_broken() -> None:
    code = "import sys; old = set(sys.modules); import structpose_ros.doctor; print(*set(sys.modules) - old)"
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    )
    loaded = {name.partition(".")[0] for name in result.stdout.split()}
    assert not loaded & {"numpy", "cv2", "onnxruntime", "ros2doctor", "rclpy", "torch"}


def test_all_is_well_here() -> None:
    """Where the tests run, everything is installed."""
    found = doctor.findings()
    assert {finding.subject for finding in found} >= {"NumPy", "OpenCV", "ONNX Runtime", "Providers", "Cache"}
    assert not [finding for finding in found if finding.level is Level.ERROR]


def test_as_a_command_it_prints_the_findings() -> None:
    result = subprocess.run(
        [sys.executable, "-m", "structpose_ros.doctor"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert f"ok      NumPy: {np.__version__}" in result.stdout
    assert "Bundled model: 'room', input 640x480" in result.stdout


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("print('1.2.3')", Finding(Level.OK, "thing", "1.2.3")),
        (
            "import nothing_of_this_name",
            Finding(Level.ERROR, "thing", "ModuleNotFoundError: No module named 'nothing_of_this_name'"),
        ),
        ("import os; os.abort()", Finding(Level.ERROR, "thing", "expected to import, got SIGABRT")),
        (
            "from structpose_ros.network import ProviderError; raise ProviderError('expected one, got both')",
            Finding(Level.ERROR, "thing", "expected one, got both"),
        ),
    ],
)
def test_imports_are_tried_in_a_process_of_their_own(code: str, expected: Finding) -> None:
    assert doctor.import_finding("thing", code) == expected


def test_a_package_for_another_numpy_is_told_from_other_failures() -> None:
    finding = doctor.import_finding(
        "cv_bridge", "raise AttributeError('_ARRAY_API not found')", Level.WARNING
    )
    assert finding.level is Level.WARNING
    assert finding.message.startswith("AttributeError: _ARRAY_API not found (built for another NumPy: ")
    assert "pip install 'numpy<2'" in finding.message


def test_an_import_without_end_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "IMPORT_TIMEOUT", 0.2)
    finding = doctor.import_finding("thing", "import time; time.sleep(60)")
    assert (finding.level, "got no end" in finding.message) == (Level.ERROR, True)


def test_a_broken_import_ends_the_examination_of_what_needs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "REQUIRED_IMPORTS", {"NumPy": "import nothing_of_this_name"})
    found = doctor.findings.__wrapped__()
    assert found[0].level is Level.ERROR
    assert {finding.subject for finding in found} == {"NumPy", "Cache", "Images over DDS"}


def test_identity_model_is_one() -> None:
    """The bytes in the module are what onnx writes, and they run."""
    onnxruntime = pytest.importorskip("onnxruntime")
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", values[:1], values[1:])
    opset = [helper.make_opsetid("", 17)]
    assert helper.make_model(graph, opset_imports=opset, ir_version=8) == onnx.load_from_string(
        doctor.IDENTITY_MODEL
    )
    session = onnxruntime.InferenceSession(doctor.IDENTITY_MODEL, providers=[CPU])
    (result,) = session.run(None, {"x": np.array([1.5], dtype=np.float32)})
    assert result.tolist() == [1.5]


class Runtime:
    """ONNX Runtime as far as the doctor uses it, with CUDA that fails in some way."""

    class SessionOptions:
        log_severity_level = 2

    def __init__(self, cuda: str = "works") -> None:
        self._cuda = cuda
        self.severities: list[int] = []

    def set_default_logger_severity(self, severity: int) -> None:
        self.severities.append(severity)

    def get_available_providers(self) -> list[str]:
        return ["AzureExecutionProvider", CPU, *([CUDA] if self._cuda != "absent" else [])]

    def InferenceSession(self, model: bytes, sess_options: Any, providers: list[str]) -> Any:  # noqa: N802
        if providers == [CUDA] and self._cuda == "raises":
            raise RuntimeError("libcudnn.so.9: cannot open\nmore lines")
        taken = [CPU] if self._cuda == "falls back" else [*providers, CPU]
        session = ModuleType("session")
        session.get_providers = lambda: taken  # type: ignore[attr-defined]
        return session


@pytest.mark.parametrize(
    ("cuda", "problems"),
    [
        ("works", {"cuda": "", "cpu": ""}),
        ("absent", {"cpu": ""}),
        ("falls back", {"cuda": f"ONNX Runtime fell back to {CPU}", "cpu": ""}),
        ("raises", {"cuda": "libcudnn.so.9: cannot open", "cpu": ""}),
    ],
)
def test_providers_are_tried_and_not_believed(cuda: str, problems: dict[str, str]) -> None:
    runtime = Runtime(cuda)
    assert doctor.provider_problems(runtime) == problems
    assert runtime.severities == [4, 2], "silent while it tries, then as before"


def test_the_real_runtime_runs_on_the_cpu() -> None:
    assert doctor.provider_problems(pytest.importorskip("onnxruntime"))["cpu"] == ""


@pytest.mark.parametrize(
    ("problems", "gpu", "level", "parts"),
    [
        ({"cpu": ""}, False, Level.OK, ["cpu works"]),
        ({"cuda": "", "cpu": ""}, True, Level.OK, ["cuda and cpu works"]),
        ({"tensorrt": "no TRT", "cuda": "", "cpu": ""}, True, Level.OK, ["tensorrt does not: no TRT"]),
        ({"cuda": "no driver", "cpu": ""}, False, Level.OK, ["cuda does not: no driver"]),
        ({"cpu": ""}, True, Level.WARNING, ["NVIDIA GPU", "structpose_ros[gpu]"]),
        ({"cuda": "no cuDNN", "cpu": ""}, True, Level.WARNING, ["no cuDNN", "check that the driver"]),
        ({"cpu": "broken"}, False, Level.ERROR, ["expected the CPU to work", "nothing works", "broken"]),
    ],
)  # fmt: skip
def test_a_gpu_that_is_not_used_is_worth_a_warning(
    problems: dict[str, str], gpu: bool, level: Level, parts: list[str]
) -> None:
    finding = doctor.provider_finding(problems, gpu)
    assert finding.level is level
    assert all(part in finding.message for part in parts), finding.message


def test_models_that_do_not_load_are_errors(tmp_path: Path) -> None:
    foreign = tmp_path / "foreign.onnx"
    foreign.write_bytes(doctor.IDENTITY_MODEL)
    for path, part in ((foreign, "structpose export"), (tmp_path / "none.onnx", "got nothing")):
        finding = doctor.model_finding(path)
        assert finding.level is Level.ERROR
        assert part in finding.message


def test_cache_may_be_made(tmp_path: Path) -> None:
    """It need not exist, and looking makes nothing."""
    folder = tmp_path / "a" / "b"
    assert doctor.cache_finding(folder) == Finding(Level.OK, "Cache", str(folder))
    assert not folder.parent.exists()


def test_cache_that_cannot_be_made_is_worth_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "file"
    file.touch()
    in_the_way = doctor.cache_finding(file / "below")
    assert (in_the_way.level, "got a file" in in_the_way.message) == (Level.WARNING, True)
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write everywhere
    forbidden = doctor.cache_finding(tmp_path / "a")
    assert (forbidden.level, "no permission" in forbidden.message) == (Level.WARNING, True)


def test_cache_follows_xdg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_path() == tmp_path / "structpose_ros"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_path() == Path.home() / ".cache" / "structpose_ros"


def test_shared_memory_profile(tmp_path: Path) -> None:
    """The hint names a profile that exists; a profile that doesn't is worth a warning."""
    hint = doctor.shared_memory_finding({})
    assert hint.level is Level.OK
    assert Path(hint.message.rpartition("=")[2]).is_file()
    profile = tmp_path / "profile.xml"
    environment = {"FASTDDS_DEFAULT_PROFILES_FILE": str(profile)}
    assert doctor.shared_memory_finding(environment).level is Level.WARNING
    profile.touch()
    assert doctor.shared_memory_finding(environment).message == f"Fast DDS with {profile}"
    other = doctor.shared_memory_finding({"RMW_IMPLEMENTATION": "rmw_cyclonedds_cpp"})
    assert other == Finding(Level.OK, "Images over DDS", "rmw_cyclonedds_cpp")


# The adapter: first with a stand-in of ros2doctor's interface, then with the real one where it is.

FOUND = (
    Finding(Level.OK, "fine", "as it should be"),
    Finding(Level.WARNING, "odd", "worth a look"),
    Finding(Level.ERROR, "broken", "doesn't work"),
)


@pytest.fixture
def ros2doctor(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A stand-in for ros2doctor; returns what it is told to print."""
    said: list[str] = []
    package, api, text_format = (
        ModuleType(name) for name in ("ros2doctor", "ros2doctor.api", "ros2doctor.api.format")
    )

    class Result:
        error = warning = 0

        def add_error(self) -> None:
            self.error += 1

        def add_warning(self) -> None:
            self.warning += 1

    class Report:
        def __init__(self, name: str) -> None:
            self.name = name
            self.items: list[tuple[str, str]] = []

        def add_to_report(self, item_name: str, item_info: str) -> None:
            self.items.append((item_name, item_info))

    for module, contents in (
        (package, {}),
        (api, {"Result": Result, "Report": Report}),
        (
            text_format,
            {"doctor_warn": said.append, "doctor_error": lambda text: said.append(f"ERROR: {text}")},
        ),
    ):
        vars(module).update(contents)
        monkeypatch.setitem(sys.modules, module.__name__, module)
    return said


def test_check_counts_and_says_what_is_wrong(ros2doctor: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "findings", lambda: FOUND)
    result = doctor.StructposeCheck().check()
    assert (result.error, result.warning) == (1, 1)
    assert ros2doctor == [
        "structpose_ros: odd: worth a look",
        "ERROR: structpose_ros: broken: doesn't work",
    ]


def test_report_says_everything(ros2doctor: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "findings", lambda: FOUND)
    report = doctor.StructposeReport().report()
    assert report.name == "STRUCTPOSE_ROS"
    assert report.items == [
        ("fine [ok]", "as it should be"),
        ("odd [warning]", "worth a look"),
        ("broken [error]", "doesn't work"),
    ]
    assert doctor.StructposeReport().category() == doctor.StructposeCheck().category() == "structpose_ros"


def test_ros2doctor_finds_check_and_report() -> None:
    """Both are entry points of the installed package, and lead to the classes."""
    try:
        importlib.metadata.distribution("structpose_ros")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("structpose_ros is not installed, only on the path")
    for group, name in (
        ("ros2doctor.checks", "StructposeCheck"),
        ("ros2doctor.report", "StructposeReport"),
    ):
        (entry,) = importlib.metadata.entry_points(group=group, name=name)
        assert entry.load() is getattr(doctor, name)


def test_the_real_ros2doctor_runs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ros2doctor.api", reason="ros2doctor comes with a ROS 2 installation only")
    monkeypatch.setattr(doctor, "findings", lambda: FOUND)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        result = doctor.StructposeCheck().check()
    assert (result.error, result.warning) == (1, 1)
    assert [str(item.message) for item in said] == [
        "structpose_ros: odd: worth a look",
        "ERROR: structpose_ros: broken: doesn't work",
    ]
    assert doctor.StructposeReport().report().items[0] == ("fine [ok]", "as it should be")


def test_engines_that_are_kept_are_named(tmp_path: Path) -> None:
    folder = tmp_path / "tensorrt"
    assert "none in" in doctor.engine_finding(folder).message
    (folder / "key").mkdir(parents=True)
    parts = {"model": "0123456789ab", "precision": "fp16", "gpu": "Orin", "seconds": 80.0}
    (folder / "key" / "engine.json").write_text(json.dumps(parts))
    found = doctor.engine_finding(folder)
    assert found.level is doctor.Level.OK
    assert found.message == f"model 01234567 in fp16 on Orin: {folder}"
