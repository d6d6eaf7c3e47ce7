"""Complete the ROS 2 wheels of a virtual environment with what no package index has.

The wheels hold rclpy, Fast DDS and the common messages, but neither tf2_msgs, tf2_ros nor sensor_msgs_py.
This script generates tf2_msgs from its definition and copies the stand-ins for the other two, unless the
real ones can be imported. `make demo` and `make test` run it with the environment's own Python, on machines
without ROS 2 only.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

HERE = Path(__file__).resolve().parent
STAND_INS = ("sensor_msgs_py", "tf2_ros")


def missing_requirement() -> str | None:
    """Say what this machine and Python lack for the wheels and for building tf2_msgs; None when nothing."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return (
            f"the ROS 2 wheels exist for x86-64 Linux only, this is {sys.platform} on {platform.machine()}: "
            "install ROS 2 and source its setup.bash first"
        )
    if sys.version_info >= (3, 15):
        return f"the ROS 2 wheels exist for Python 3.10 to 3.14, this is {platform.python_version()}"
    for language, variable, names in (("C", "CC", "cc gcc clang"), ("C++", "CXX", "c++ g++ clang++")):
        chosen = os.environ.get(variable, "").split(" ")[0]
        if not any(shutil.which(name) for name in ([chosen] if chosen else names.split())):
            return (
                f"no {language} compiler ({chosen or names}): install one, e.g. apt install build-essential"
            )
    if not shutil.which("make"):
        return "no make command: install it, e.g. apt install build-essential"
    header = Path(sysconfig.get_paths()["include"], "Python.h")
    if not header.is_file():
        return f"no {header}: install the headers of this Python, e.g. apt install python3-dev"
    return None


def rewrite_include_paths(prefix: Path) -> None:
    """In the wheels' CMake files, replace the include folders of their builder's machine by this one's."""
    import numpy

    replacements = (
        (re.compile(r'/[^;"]*/site-packages/numpy/_?core/include'), numpy.get_include()),
        (re.compile(r'/[^;"]*/include/python3\.\d+t?'), sysconfig.get_paths()["include"]),
    )
    for path in (prefix / "share").rglob("*.cmake"):
        before = path.read_text()
        after = before
        for pattern, folder in replacements:
            after = pattern.sub(folder.replace("\\", r"\\"), after)
        if after != before:
            path.write_text(after)


def build_tf2_msgs(prefix: Path) -> None:
    """Generate and compile tf2_msgs and install it into the environment."""
    build = prefix / "build" / "tf2_msgs"
    shutil.rmtree(build, ignore_errors=True)
    environment = {
        **os.environ,
        "PATH": f"{prefix / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "AMENT_PREFIX_PATH": str(prefix),
        "CMAKE_PREFIX_PATH": str(prefix),
    }
    configure = [
        "cmake",
        "-S",
        str(HERE / "tf2_msgs"),
        "-B",
        str(build),
        "-DBUILD_TESTING=OFF",
        f"-DCMAKE_INSTALL_PREFIX={prefix}",
        f"-DPython3_EXECUTABLE={sys.executable}",
    ]
    for command in (
        configure,
        ["cmake", "--build", str(build), "--parallel", "2"],
        ["cmake", "--install", str(build)],
    ):
        subprocess.run(command, env=environment, check=True)
    shutil.rmtree(build)


def copy_stand_ins() -> None:
    """Copy each stand-in into this environment unless the real package can be imported."""
    site_packages = Path(sysconfig.get_paths()["purelib"])
    for name in STAND_INS:
        target = site_packages / name
        shutil.rmtree(target, ignore_errors=True)
        importlib.invalidate_caches()
        if importlib.util.find_spec(name) is None:
            shutil.copytree(HERE / "stand_ins" / name, target, ignore=shutil.ignore_patterns("__pycache__"))


def main() -> int:
    """Complete the environment this script runs in."""
    prefix = Path(sys.prefix)
    if sys.prefix == sys.base_prefix:
        print("error: run this with the Python of a virtual environment", file=sys.stderr)
        return 1
    problem = missing_requirement()
    if problem:
        print(f"error: {problem}", file=sys.stderr)
        return 1
    rewrite_include_paths(prefix)
    build_tf2_msgs(prefix)
    copy_stand_ins()
    return 0


if __name__ == "__main__":
    sys.exit(main())
