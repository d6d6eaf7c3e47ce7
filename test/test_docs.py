"""The documents say what the sources say: reasons, parameters, topics, services, arguments, links."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("rclpy", reason="rclpy is not installed: no ROS 2 here")

import yaml

from structpose_ros.advice import ADVICE
from structpose_ros.diagnostics import Health
from structpose_ros.settings import PARAMETERS, settings_from

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ROOT / "structpose_ros"
README, TROUBLESHOOTING = ROOT / "README.md", ROOT / "docs" / "troubleshooting.md"
GUIDES = (README, *sorted((ROOT / "docs").glob("*.md")))
DOCUMENTS = (*GUIDES, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.rst", ROOT / "models" / "README.md")
FILE_ENDINGS = ("md", "onnx", "py", "rviz", "xml", "yaml")

every_guide = pytest.mark.parametrize("guide", GUIDES, ids=lambda path: path.name)


def source(*names: str) -> str:
    return "\n".join((SOURCES / f"{name}.py").read_text() for name in names)


def rows(text: str) -> list[list[str]]:
    """The cells of every table row, without their padding."""
    lines = re.findall(r"^\| (.*) \|$", text, re.MULTILINE)
    return [[cell.strip() for cell in line.split(" | ")] for line in lines]


def quoted(text: str) -> set[str]:
    return set(re.findall(r"`([^`]+)`", text))


def endpoints() -> dict[str, str]:
    """Topics and services of the node, by what makes them: publisher, subscription or service."""
    made = re.findall(
        r'(publisher|subscri\w+|service)\(\s*\w+, "([^"]+)"',
        source("node", "outputs", "pictures", "diagnostics"),
    )
    kinds = {"publisher": "pub", "service": "srv"}
    # TF's come from tf2_ros; the images' name is put together.
    named = {"image": "sub", "image/compressed": "sub"}
    return named | {name: kinds.get(kind, "sub") for kind, name in made}


def test_the_sources_were_understood() -> None:
    found = endpoints()
    assert found["~/relocalize"] == "srv" and found["initialpose"] == "pub" and found["camera_info"] == "sub"
    assert {"~/localized", "~/frustum", "/diagnostics", "trigger_localization"} <= found.keys()


def test_every_reason_is_explained_with_its_advice() -> None:
    _, _, section = TROUBLESHOOTING.read_text().partition("## All reasons")
    explained = {row[0]: row[1:] for row in rows(section) if row[0].startswith("`")}
    assert explained.keys() == {f"`{reason}`" for reason in ADVICE}
    for reason, advice in ADVICE.items():
        meaning, shown = explained[f"`{reason}`"]
        assert meaning
        assert shown == advice


def test_every_key_of_diagnostics_is_explained() -> None:
    health = Health("image")
    stages = dict.fromkeys(
        (*re.findall(r'stages\.done\("(\w+)"\)', source("localization")), "preprocess", "network", "align"),
        1.0,
    )
    health.accepted({"wait": 0.0, "total": 1.0, **stages}, confidence=0.5)
    _, values = health.report()
    noted = re.findall(r'\.(?:note|event)\(\s*"(\w+)"', source("node", "diagnostics", "localization"))
    _, _, section = TROUBLESHOOTING.read_text().partition("## Where to look")
    table, _, _ = section.partition("## Nothing is published")
    explained = {key for row in rows(table) if row[0].startswith("`") for key in quoted(row[0])}
    assert explained == {"reason", *values, *noted}


@every_guide
def test_parameters_exist(guide: Path) -> None:
    known = {row.name for row in PARAMETERS}
    groups = "|".join(sorted({name.partition(".")[0] for name in known if "." in name}))
    named = set(re.findall(rf"(?<![\w./-])(?:{groups})\.[a-z]\w*", guide.read_text()))
    assert {name for name in named if name.partition(".")[2] not in FILE_ENDINGS} <= known


@every_guide
def test_parameters_in_examples_are_usable(guide: Path) -> None:
    for block in re.findall(r"```yaml\n(.*?)```", guide.read_text(), re.DOTALL):
        for node, content in yaml.safe_load(block).items():
            if node.endswith("structpose_relocalizer"):
                settings_from(dict(flat(content["ros__parameters"])))


def flat(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


@every_guide
def test_private_topics_and_services_exist(guide: Path) -> None:
    named = {name for name in quoted(guide.read_text()) if re.fullmatch(r"~/\w+", name)}
    assert named <= endpoints().keys()


def test_the_readme_lists_every_topic_and_service() -> None:
    listed = {
        name: row[0]
        for row in rows(README.read_text())
        if row[0] in ("sub", "pub", "srv")
        for name in quoted(row[1])
    }
    assert {name: kind for name, kind in listed.items() if not name.startswith("/tf")} == endpoints()


@every_guide
def test_launch_arguments_exist(guide: Path) -> None:
    launch = (ROOT / "launch" / "relocalize.launch.py").read_text()
    known = set(re.findall(r'Argument\(\s*"(\w+)"', launch))
    assert {"model", "tf_mode", "lifecycle_manager"} <= known
    text = guide.read_text()
    commands = re.findall(r"^ros2 launch structpose_ros relocalize.*$", text, re.MULTILINE)
    named = set(re.findall(r" (\w+):=", " ".join(commands)))
    named |= {name for code in quoted(text) for name in re.findall(r"^(\w+):=", code)}
    assert named <= known


def slug(heading: str) -> str:
    """The anchor that GitHub makes of a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", document.read_text()):
        if target.startswith("http"):
            continue
        path, _, anchor = target.partition("#")
        file = (document.parent / path).resolve() if path else document
        assert file.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.+)$", file.read_text(), re.MULTILINE)
            assert anchor in map(slug, headings), target


def test_files_that_are_named_exist() -> None:
    for guide in GUIDES:
        for name in quoted(guide.read_text()):
            if re.fullmatch(r"(config|docs|launch|models|structpose_ros|test|tools)/[\w./]+\.\w+", name):
                assert (ROOT / name).is_file(), f"{guide.name}: {name}"


def test_the_readme_links_every_guide() -> None:
    linked = set(re.findall(r"\]\((docs/[^)#]+)", README.read_text()))
    assert {str(guide.relative_to(ROOT)) for guide in GUIDES if guide != README} <= linked
