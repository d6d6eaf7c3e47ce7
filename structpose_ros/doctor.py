"""What `ros2 doctor` says of this package's surroundings; without it: python3 -m structpose_ros.doctor.

Only the standard library is loaded with it: what is broken must not break the doctor.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from structpose_ros.resources import PACKAGE, cache_path, share_path

if TYPE_CHECKING:
    from ros2doctor.api import Report, Result

IMPORT_TIMEOUT = 60.0  # seconds
GPU_FILES = (Path("/proc/driver/nvidia/version"), Path("/etc/nv_tegra_release"))  # a PC's driver, a Jetson
PROFILE_VARIABLES = ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE")
# A subject, and code that crosses from it into C and prints its version.
REQUIRED_IMPORTS = {
    "NumPy": "import numpy; print(numpy.__version__)",
    "OpenCV": "import cv2, numpy; cv2.resize(numpy.zeros((2, 2), 'uint8'), (1, 1)); print(cv2.__version__)",
    "ONNX Runtime": "from structpose_ros.network import import_onnxruntime as i; print(i().__version__)",
}
CV_BRIDGE = "from cv_bridge.boost.cv_bridge_boost import getCvType; print('imported')"
# y = x, as ONNX: opset 17, x and y float32 of shape [1].
IDENTITY_MODEL = (
    b'\x08\x08:7\n\x10\n\x01x\x12\x01y"\x08Identity\x12\x01gZ\x0f\n\x01x\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x01'
    b"b\x0f\n\x01y\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x01B\x04\n\x00\x10\x11"
)
LOG_NOTHING_BUT_FATAL, LOG_WARNINGS = 4, 2  # ONNX Runtime's severities


class Level(Enum):
    """How bad it is."""

    OK = "ok"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at, and how it is."""

    level: Level
    subject: str
    message: str


@cache
def findings() -> tuple[Finding, ...]:
    """Look at everything, once for the check and the report of one `ros2 doctor`."""
    found = [import_finding(subject, code) for subject, code in REQUIRED_IMPORTS.items()]
    if importlib.util.find_spec("cv_bridge") is not None:  # for rare image encodings only
        found.append(import_finding("cv_bridge", CV_BRIDGE, Level.WARNING))
    if all(finding.level is not Level.ERROR for finding in found):
        from structpose_ros.network import import_onnxruntime

        gpu = any(path.exists() for path in GPU_FILES)
        found.append(provider_finding(provider_problems(import_onnxruntime()), gpu))
        if "TensorrtExecutionProvider" in import_onnxruntime().get_available_providers():
            found.append(engine_finding(cache_path() / "tensorrt"))
        found.append(model_finding())
    return (*found, cache_finding(cache_path()), shared_memory_finding(os.environ))


def import_finding(subject: str, code: str, level: Level = Level.ERROR) -> Finding:
    """Run `code`, which imports the subject, in a process of its own: a wrong build may crash it."""
    try:
        run = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, timeout=IMPORT_TIMEOUT, check=False
        )
    except subprocess.TimeoutExpired:
        return Finding(level, subject, f"expected to import within {IMPORT_TIMEOUT:.0f} s, got no end")
    if run.returncode == 0:
        return Finding(Level.OK, subject, run.stdout.strip())
    if run.returncode < 0:
        reason = f"expected to import, got {signal.Signals(-run.returncode).name}"
    else:
        reason = (run.stderr.strip().splitlines() or [f"exit code {run.returncode}"])[-1]
        reason = reason.removeprefix("structpose_ros.sessions.ProviderError: ")  # says all there is to say
    if any(sign in run.stderr for sign in ("_ARRAY_API", "multiarray", "compiled using NumPy")):
        reason += (
            " (built for another NumPy: pip install 'numpy<2' fits packages from apt, "
            "or install a build for NumPy 2)"
        )
    return Finding(level, subject, reason)


def provider_problems(runtime: Any) -> dict[str, str]:
    """Return why each provider that this ONNX Runtime has can't run a model; empty where it can."""
    from structpose_ros.sessions import PROVIDERS

    available = runtime.get_available_providers()
    runtime.set_default_logger_severity(LOG_NOTHING_BUT_FATAL)
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # it prints when it falls back
            return {
                name: _provider_problem(runtime, provider)
                for name, provider in PROVIDERS.items()
                if provider in available
            }
    finally:
        runtime.set_default_logger_severity(LOG_WARNINGS)


def _provider_problem(runtime: Any, provider: str) -> str:
    options = runtime.SessionOptions()
    options.log_severity_level = LOG_NOTHING_BUT_FATAL
    try:
        session = runtime.InferenceSession(IDENTITY_MODEL, sess_options=options, providers=[provider])
    except Exception as error:  # ONNX Runtime has no common base class for its errors
        return (str(error).splitlines() or [type(error).__name__])[0]
    taken = session.get_providers()[0]
    return "" if taken == provider else f"ONNX Runtime fell back to {taken}"


def provider_finding(problems: Mapping[str, str], gpu: bool) -> Finding:
    """Say which providers work, from `provider_problems`; `gpu`: this machine has an NVIDIA GPU."""
    working = [name for name, problem in problems.items() if not problem]
    failing = "; ".join(f"{name} does not: {problem}" for name, problem in problems.items() if problem)
    works = f"{' and '.join(working) or 'nothing'} works"
    message = f"{works}; {failing}" if failing else works
    subject = "Providers"
    if "cpu" not in working:
        return Finding(Level.ERROR, subject, f"expected the CPU to work, but {message}")
    if not gpu or "cuda" in working or "tensorrt" in working:
        return Finding(Level.OK, subject, message)
    if failing:
        advice = (
            "check that the driver, CUDA, cuDNN and TensorRT are those that this ONNX Runtime was built for"
        )
    else:
        advice = "install a GPU build of ONNX Runtime: pip install 'structpose_ros[gpu]' in place of [cpu]"
    return Finding(Level.WARNING, subject, f"there is an NVIDIA GPU, but {message}: {advice}")


def model_finding(path: Path | None = None) -> Finding:
    """Load a model, by default the demo room's that comes with the package."""
    from structpose_ros.contract import ModelFileError
    from structpose_ros.network import OnnxNetwork

    subject = "Bundled model"
    try:
        path = path or share_path("models", "demo_room.onnx")
        network = OnnxNetwork(path, "cpu")
    except (FileNotFoundError, ModelFileError) as error:
        return Finding(Level.ERROR, subject, str(error))
    contract = network.contract
    size = f"{contract.input_width}x{contract.input_height}"
    return Finding(
        Level.OK, subject, f"'{contract.dataset}', input {size}, format {contract.format_version}: {path}"
    )


def engine_finding(folder: Path) -> Finding:
    """Say which TensorRT engines are kept, and for what."""
    from structpose_ros.engine_cache import kept_engines

    engines = kept_engines(folder)
    if not engines:
        advice = "ros2 run structpose_ros build_engine MODEL, or the node builds one at its first start"
        return Finding(Level.OK, "TensorRT engines", f"none in {folder}: {advice}")
    names = [f"model {item['model'][:8]} in {item['precision']} on {item['gpu']}" for item in engines]
    return Finding(Level.OK, "TensorRT engines", f"{'; '.join(names)}: {folder}")


def cache_finding(folder: Path) -> Finding:
    """Say whether a folder is, or could be made, and can be written to."""
    subject = "Cache"
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    if not existing.is_dir():
        return Finding(Level.WARNING, subject, f"expected a folder at {existing}, got a file")
    if not os.access(existing, os.W_OK | os.X_OK):
        return Finding(Level.WARNING, subject, f"expected to write to {existing}, got no permission")
    return Finding(Level.OK, subject, str(folder))


def shared_memory_finding(environment: Mapping[str, str]) -> Finding:
    """Say whether Fast DDS has a profile, and which one fits images."""
    subject = "Images over DDS"
    middleware = environment.get("RMW_IMPLEMENTATION") or "rmw_fastrtps_cpp"
    if not middleware.startswith("rmw_fastrtps"):
        return Finding(Level.OK, subject, middleware)
    named = {name: environment[name] for name in PROFILE_VARIABLES if environment.get(name)}
    for name, path in named.items():
        if not Path(path).is_file():
            return Finding(Level.WARNING, subject, f"expected a file in {name}, got '{path}'")
    if named:
        return Finding(Level.OK, subject, f"Fast DDS with {', '.join(sorted(set(named.values())))}")
    hint = (
        "Fast DDS without a profile: a camera that sends images above 0.5 MB best effort loses many of them, "
        f"unless it is started with {PROFILE_VARIABLES[0]}={share_path('config', 'fastdds_shm.xml')}"
    )
    return Finding(Level.OK, subject, hint)


class StructposeCheck:
    """The check of `ros2 doctor`."""

    def category(self) -> str:
        """Return what links check and report."""
        return PACKAGE

    def check(self) -> Result:
        """Warn of what is not right, and count it."""
        from ros2doctor.api import Result
        from ros2doctor.api.format import doctor_error, doctor_warn

        result = Result()
        for finding in findings():
            text = f"{PACKAGE}: {finding.subject}: {finding.message}"
            if finding.level is Level.ERROR:
                doctor_error(text)
                result.add_error()
            elif finding.level is Level.WARNING:
                doctor_warn(text)
                result.add_warning()
        return result


class StructposeReport:
    """The report of `ros2 doctor --report`."""

    def category(self) -> str:
        """Return what links check and report."""
        return PACKAGE

    def report(self) -> Report:
        """Return all findings."""
        from ros2doctor.api import Report

        report = Report(f"{PACKAGE.upper()}")
        for finding in findings():
            report.add_to_report(f"{finding.subject} [{finding.level.value}]", finding.message)
        return report


def main() -> int:
    """Print all findings; return 1 if something is broken."""
    for finding in findings():
        print(f"{finding.level.value:8}{finding.subject}: {finding.message}")
    return int(any(finding.level is Level.ERROR for finding in findings()))


if __name__ == "__main__":
    sys.exit(main())
