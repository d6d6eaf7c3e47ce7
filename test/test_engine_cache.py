"""TensorRT engines on disk: complete or absent, private, and never the reason why nothing runs."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from structpose_ros.engine_cache import DESCRIPTION, CacheFolders, EngineCache, Opened, kept_engines

PARTS = {
    **{"model": "ab", "onnxruntime": "1.22.0", "tensorrt": "100300"},
    **{"gpu": "Orin", "compute_capability": "8.7", "precision": "tf32"},
}


class FailedError(RuntimeError):
    """What a session that can't be made raises."""


class Builder:
    """Makes sessions as ONNX Runtime does: reads the engine that is there, else writes one."""

    def __init__(self) -> None:
        self.folders: list[CacheFolders | None] = []
        self.timing: list[list[str]] = []
        self.engine = b"code"
        self.before: Callable[[], object] = lambda: None

    def __call__(self, folders: CacheFolders | None) -> str:
        self.folders.append(folders)
        self.before()
        if folders is None:
            return "built"
        stored = list(folders.engine.glob("*.engine"))
        if stored:
            if stored[0].read_bytes() != b"code":
                raise FailedError("it can't be read")
            return "loaded"
        self.timing.append(sorted(path.name for path in folders.timing.iterdir()))
        (folders.engine / "graph.engine").write_bytes(self.engine)
        (folders.timing / "sm87.timing").write_bytes(b"times")
        return "built"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "engines"


@pytest.fixture
def builder() -> Builder:
    return Builder()


def opened(root: Path, builder: Builder, said: list[str] | None = None, **changes: str) -> Opened:
    lines: list[str] = [] if said is None else said
    return EngineCache(root, {**PARTS, **changes}).open(builder, lines.append, FailedError)


def left_over(root: Path) -> list[Path]:
    return list(root.glob(".building-*"))


def test_an_engine_is_built_once_in_a_folder_of_its_own_and_renamed(root: Path, builder: Builder) -> None:
    assert opened(root, builder).session == "built"
    first = builder.folders[0]
    assert first is not None and first.engine.parent.name.startswith(".building-")
    folder = EngineCache(root, PARTS).folder
    assert json.loads((folder / DESCRIPTION).read_text()) == {**PARTS, "seconds": 0.0}
    assert root.stat().st_mode & 0o777 == folder.stat().st_mode & 0o777 == 0o700
    assert left_over(root) == []
    said: list[str] = []
    assert opened(root, builder, said) == Opened("loaded", f"loaded from {folder}")
    assert said == []


@pytest.mark.parametrize("part", sorted(PARTS))
def test_another_value_of_any_part_is_another_engine(root: Path, part: str) -> None:
    assert EngineCache(root, {**PARTS, part: "other"}).folder != EngineCache(root, PARTS).folder


def test_models_share_what_was_measured_of_the_gpu(root: Path, builder: Builder) -> None:
    opened(root, builder)
    opened(root, builder, model="cd")
    opened(root, builder, tensorrt="100400")
    assert builder.timing == [[], ["sm87.timing"], []]


def test_an_engine_that_does_not_load_is_replaced_by_one_that_does(root: Path, builder: Builder) -> None:
    opened(root, builder)
    folder = EngineCache(root, PARTS).folder
    (folder / "graph.engine").write_bytes(b"co")
    said: list[str] = []
    assert opened(root, builder, said).session == "built"
    assert f"the one in {folder} does not load (it can't be read)" in said[0]
    assert opened(root, builder).session == "loaded"


def test_a_machine_that_can_build_none_keeps_the_one_it_has(root: Path, builder: Builder) -> None:
    opened(root, builder)

    def broken() -> None:
        raise FailedError("the GPU is full")

    builder.before = broken
    with pytest.raises(FailedError, match="the GPU is full"):
        opened(root, builder)
    assert left_over(root) == []
    builder.before = lambda: None
    assert opened(root, builder).session == "loaded"


def test_a_build_that_fails_leaves_nothing(root: Path, builder: Builder) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    builder.before = interrupted
    with pytest.raises(KeyboardInterrupt):
        opened(root, builder)
    assert list(root.iterdir()) == []


def test_an_engine_of_nothing_is_used_and_not_kept(root: Path, builder: Builder) -> None:
    """A disk that was full while ONNX Runtime wrote, which says nothing of it."""
    builder.engine = b""
    result = opened(root, builder)
    assert (result.session, result.engine) == ("built", "built in 0 s, not kept")
    assert f"expected to keep the engine in {root}, got: no engine was written" in result.warning
    assert list(root.iterdir()) == []


def test_a_disk_that_is_full_at_the_end_is_a_warning(
    root: Path, builder: Builder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(file: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    result = opened(root, builder)
    assert result.session == "built"
    assert "No space left on device" in result.warning
    assert list(root.iterdir()) == []


def test_without_room_nothing_is_written(
    root: Path, builder: Builder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=5 * 2**20))
    result = opened(root, builder)
    assert builder.folders == [None]
    assert f"expected 256 MiB free for {root}, got 5 MiB" in result.warning
    assert list(root.iterdir()) == []


def test_a_folder_that_can_only_be_read_still_gives_its_engine(
    root: Path, builder: Builder, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened(root, builder)
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write anywhere
    assert opened(root, builder).session == "loaded"
    result = opened(root, builder, model="cd")
    assert builder.folders[-1] is None
    assert f"built at every start: expected to write to {root}, got no permission" in result.warning


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o722])
def test_a_folder_that_others_can_write_to_is_not_used(root: Path, builder: Builder, mode: int) -> None:
    """Whoever puts an engine there would run in the node."""
    opened(root, builder)
    root.chmod(mode)
    result = opened(root, builder)
    assert (result.session, builder.folders[-1]) == ("built", None)
    assert f"only its owner, you or root, can write to at {root}, got mode {mode:04o}" in result.warning


def test_a_file_in_the_place_of_the_folder_is_a_warning(root: Path, builder: Builder) -> None:
    root.write_text("")
    result = opened(root, builder)
    assert result.session == "built"
    assert f"expected a folder at {root}, got: " in result.warning


def test_what_a_killed_build_left_is_removed_and_a_running_one_is_not(root: Path, builder: Builder) -> None:
    root.mkdir(mode=0o700)
    dead = root / ".building-dead"
    dead.mkdir()
    (dead / "lock").write_text("")
    (dead / "half.engine").write_bytes(b"co")
    opened_too: list[str] = []

    def another_starts() -> None:
        builder.before = lambda: None
        opened_too.append(opened(root, builder, model="cd").session)
        assert len(left_over(root)) == 1  # ours

    builder.before = another_starts
    assert opened(root, builder).session == "built"
    assert opened_too == ["built"]
    assert left_over(root) == []


def test_the_faster_of_two_processes_has_its_engine_replaced_by_the_same(
    root: Path, builder: Builder
) -> None:
    def another_is_faster() -> None:
        builder.before = lambda: None
        opened(root, builder)

    builder.before = another_is_faster
    assert opened(root, builder).warning == ""
    assert opened(root, builder).session == "loaded"


def test_engines_are_listed_by_what_they_are_for(root: Path, builder: Builder) -> None:
    assert kept_engines(root) == []
    opened(root, builder)
    opened(root, builder, model="cd", precision="fp16")
    (root / "other").mkdir()
    (root / "other" / DESCRIPTION).write_text("[]")
    (root / "another").mkdir()
    (root / "another" / DESCRIPTION).write_text("{")
    found = sorted(item["model"] + item["precision"] + item["gpu"] for item in kept_engines(root))
    assert found == ["abtf32Orin", "cdfp16Orin"]
