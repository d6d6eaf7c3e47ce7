"""Compare .venv with the lists it was made from: versions, files, licences and, given a file, advisories.

Run by the Makefile with .venv's Python: tools/audit.py [--advisories FILE]. Nothing is asked of a network.
"""

from __future__ import annotations

import argparse
import base64
import csv
import hashlib
import importlib.metadata
import json
import os
import re
import sys
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import Distribution
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

ROOT = Path(__file__).resolve().parent.parent
DEMO_LIST = ROOT / "tools" / "requirements" / "demo.txt"
LISTS = [
    DEMO_LIST,
    *(ROOT / "tools" / "requirements" / name for name in ("test.txt", "xfeat.txt", "mutation.txt")),
    ROOT / "tools" / "bare_ros" / "wheels.txt",
]
# In .venv and in no list: pip comes with Python, torch's build is the user's choice, the rest is built here.
UNPINNED = ("pip", "torch", "structpose-ros", "tf2-msgs")
PERMISSIVE = re.compile(
    r"\b(Apache|0?BSD|MIT|HPND|ISC|MPL|Mozilla Public|PSF|Python Software Foundation|Zlib|CC0)\b"
    r"|Redistribution and use in source and binary forms|Permission is hereby granted, free of charge",
    re.IGNORECASE,
)
# What may differ from what was installed: Python compiles anew, and tools/bare_ros/install.py mends these.
CHANGED = re.compile(r".*\.pyc|.*/export_\w+__rosidl_generator_pyExport\.cmake")


def pinned(lists: Iterable[Path]) -> dict[str, str]:
    """Return the version of each package that the lists pin for this machine."""
    versions: dict[str, str] = {}
    for path in lists:
        for line in path.read_text().splitlines():
            text = line.removesuffix("\\").strip()
            if not text or text.startswith(("#", "--hash")):
                continue
            requirement = Requirement(text)
            if requirement.marker is None or requirement.marker.evaluate():
                versions[canonicalize_name(requirement.name)] = str(requirement.specifier).removeprefix("==")
    return versions


def required_by(name: str, installed: Mapping[str, Distribution]) -> set[str]:
    """Return the packages that one brings with it, itself among them."""
    found: set[str] = set()
    unseen = [name]
    while unseen:
        item = unseen.pop()
        if item not in found and item in installed:
            found.add(item)
            needs = [Requirement(text) for text in installed[item].requires or ()]
            unseen += [canonicalize_name(need.name) for need in needs]
    return found


def other_versions(installed: Mapping[str, Distribution], pins: Mapping[str, str]) -> Iterator[str]:
    """Yield a line for each package of another version than pinned, and each that no list names."""
    unpinned = {*UNPINNED, *required_by("torch", installed)}
    for name, distribution in sorted(installed.items()):
        if name in pins and distribution.version != pins[name]:
            yield f"{name}: expected version {pins[name]}, got {distribution.version}"
        elif not {name, f"ros-{name}"} & pins.keys() and name not in unpinned:  # wheels of ROS bring both
            yield f"{name}: expected a package of the lists, got one that none names"


def other_files(installed: Mapping[str, Distribution]) -> Iterator[str]:
    """Yield a line for each file that is missing, or is not what its package's RECORD says."""
    for name, distribution in sorted(installed.items()):
        for path, digest, _ in csv.reader((distribution.read_text("RECORD") or "").splitlines()):
            kind, _, expected = digest.partition("=")
            if not digest or CHANGED.fullmatch(path):
                continue
            file = Path(str(distribution.locate_file(path)))
            if kind != "sha256":
                yield f"{name}: expected a sha256 of {path} in RECORD, got {kind}"
            elif not file.is_file():
                yield f"{name}: expected the file {path}, got nothing"
            else:
                actual = base64.urlsafe_b64encode(hashlib.sha256(file.read_bytes()).digest()).decode()
                if actual.rstrip("=") != expected.rstrip("="):
                    yield f"{name}: expected {path} as it was installed, got a changed file"


def licence_of(distribution: Distribution) -> str:
    """Return what a package says of its licence, in one line; empty where it says nothing."""
    metadata = distribution.metadata
    classifiers = [line for line in metadata.get_all("Classifier") or () if line.startswith("License ::")]
    fields = [*(metadata.get_all("License-Expression") or ()), *(metadata.get_all("License") or ())]
    parts = [*(line.split(" :: ")[-1] for line in classifiers), *fields]
    for name in metadata.get_all("License-File") or () if not parts else ():
        parts += filter(None, (distribution.read_text(place) for place in (f"licenses/{name}", name)))
    return " ".join("; ".join(parts).split())


def other_licences(installed: Mapping[str, Distribution], names: Iterable[str]) -> Iterator[str]:
    """Yield a line for each of the packages named whose licence is not known to be permissive."""
    for name in sorted(set(names) & installed.keys()):
        licence = licence_of(installed[name])
        if not PERMISSIVE.search(licence):
            yield f"{name}: expected a permissive licence, got '{licence[:80]}'"


def advisories_against(installed: Mapping[str, Distribution], database: Path) -> Iterator[str]:
    """Yield a line for each advisory that speaks of an installed version: `database` is OSV's zip of JSON."""
    with zipfile.ZipFile(database) as archive:
        for entry in archive.namelist():
            advisory = json.loads(archive.read(entry))
            if "withdrawn" in advisory:
                continue
            for affected in advisory.get("affected", ()):
                package = affected.get("package", {})
                name = canonicalize_name(package.get("name", ""))
                if package.get("ecosystem") == "PyPI" and name in installed:
                    version = installed[name].version
                    if version in affected.get("versions", ()) or _in_ranges(
                        version, affected.get("ranges", ())
                    ):
                        yield f"{name} {version}: {advisory['id']}: {advisory.get('summary', 'no summary')}"


def _in_ranges(version: str, ranges: Iterable[Mapping[str, Any]]) -> bool:
    """Return whether a version lies in one of an advisory's ranges of versions."""
    try:
        ours = Version(version)
        for events in (item["events"] for item in ranges if item["type"] == "ECOSYSTEM"):
            inside = False
            for event in events:  # ascending
                ((kind, bound),) = event.items()
                limit = Version(bound)
                if kind == "introduced" and ours >= limit:
                    inside = True
                elif (kind == "fixed" and ours >= limit) or (kind == "last_affected" and ours > limit):
                    inside = False
            if inside:
                return True
    except InvalidVersion as error:
        raise SystemExit(f"error: expected a version, got {error}") from error
    return False


def main() -> int:
    """Print what differs; returns 1 if anything does."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--advisories", type=Path, help="OSV's export of PyPI, a zip file")
    arguments = parser.parse_args()
    if os.environ.get("ROS_DISTRO"):
        print(
            "error: expected a shell without ROS 2, whose packages are in none of the lists", file=sys.stderr
        )
        return 2
    installed: dict[str, Distribution] = {
        canonicalize_name(item.metadata["Name"]): item for item in importlib.metadata.distributions()
    }
    checks = {
        "versions": list(other_versions(installed, pinned(LISTS))),
        "files": list(other_files(installed)),
        "licences": list(other_licences(installed, pinned([DEMO_LIST]))),
    }
    if arguments.advisories is not None:
        checks["advisories"] = list(advisories_against(installed, arguments.advisories))
    for name, lines in checks.items():
        print(f"{name}: {len(lines) or 'nothing'} to say of {len(installed)} packages")
        print(*(f"  {line}\n" for line in lines), sep="", end="")
    if arguments.advisories is None:
        print("advisories: not looked at (ADVISORIES=FILE names OSV's export of PyPI)")
    return 1 if any(checks.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
