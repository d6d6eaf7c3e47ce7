"""TensorRT engines that were built once: one folder for each model, TensorRT, GPU and precision.

An engine is a program for the GPU, as trusted as the node itself: a folder that others can write to is not
used. ONNX Runtime writes engines in place and looks at no error of the disk, so it is given a temporary
folder, and what is complete is renamed. The timing cache, how long the GPU's ways to compute a layer took,
serves every model: that of another training of the same network is built with what is known already.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DESCRIPTION = "engine.json"  # in each engine's folder: what it was built for
ENGINE_SUFFIX = ".engine"  # of ONNX Runtime's files
LEAST_FREE_BYTES = 256 * 2**20
OTHERS_MAY_WRITE = 0o022
_BUILDING, _LOCK = ".building-", "lock"
_OF_ALL_MODELS = ("onnxruntime", "tensorrt", "gpu", "compute_capability")  # what a timing cache depends on


@dataclass(frozen=True)
class CacheFolders:
    """Where ONNX Runtime is to read and write the engine, and the timing cache."""

    engine: Path
    timing: Path


@dataclass(frozen=True)
class Opened:
    """A session, where its engine comes from, and what is to be warned of (empty: nothing)."""

    session: Any
    engine: str
    warning: str = ""


class EngineCache:
    """The engine for one set of `parts`: everything that it depends on, by name."""

    def __init__(self, root: Path, parts: Mapping[str, str]) -> None:
        """Make nothing yet; `root` holds the engines of all models."""
        self.root = root
        self.parts = dict(parts)
        self.folder = root / _key(self.parts)
        self.timing = root / f"timing-{_key({name: self.parts.get(name, '') for name in _OF_ALL_MODELS})}"

    def open(
        self,
        create: Callable[[CacheFolders | None], Any],
        say: Callable[[str], None],
        failure: type[Exception],
    ) -> Opened:
        """Return a session of `create`: from the engine that is there, else with one that is built and kept.

        Args:
            create: makes a session that reads and writes engines in these folders, None: keeps none.
            say: told that an engine is built, and why.
            failure: what `create` raises where no session can be made; a stored engine that raises it is
                replaced once another could be built.
        """
        problem, readable = self._problem()
        why = f"there is none in {self.root} for this model, precision, GPU, TensorRT and ONNX Runtime"
        if readable and (self.folder / DESCRIPTION).is_file():
            try:
                session = create(CacheFolders(self.folder, self.timing))
            except failure as error:
                why = f"the one in {self.folder} does not load ({error})"
            else:
                return Opened(session, f"loaded from {self.folder}")
        elif not readable:
            why = problem
        how = "to build it beforehand: ros2 run structpose_ros build_engine MODEL"
        say(f"building a TensorRT engine, which takes minutes: {why}; {how}")
        return self._built(create, problem)

    def _built(self, create: Callable[[CacheFolders | None], Any], problem: str) -> Opened:
        started = time.monotonic()
        temporary, lock = None, None
        try:
            if not problem:
                try:
                    temporary, lock = self._temporary()
                except OSError as error:
                    problem = f"expected to write to {self.root}, got: {error}"
            session = create(
                None if temporary is None else CacheFolders(temporary / "engine", temporary / "timing")
            )
            seconds = time.monotonic() - started
            if temporary is not None:
                try:
                    self._keep(temporary, seconds)
                except OSError as error:
                    problem = f"expected to keep the engine in {self.root}, got: {error}"
        finally:
            if lock is not None:
                os.close(lock)
            if temporary is not None:
                shutil.rmtree(temporary, ignore_errors=True)
        built = f"built in {seconds:.0f} s"
        if problem:
            return Opened(
                session, f"{built}, not kept", f"the TensorRT engine is built at every start: {problem}"
            )
        return Opened(session, f"{built}, kept in {self.folder}")

    def _problem(self) -> tuple[str, bool]:
        """Return why nothing can be written to the root, and whether engines may be read from it."""
        try:
            self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
            status = self.root.stat()
        except OSError as error:
            return f"expected a folder at {self.root}, got: {error}", False
        if status.st_uid not in (os.getuid(), 0) or status.st_mode & OTHERS_MAY_WRITE:
            got = f"mode {status.st_mode & 0o777:04o} of user {status.st_uid}"
            return (
                f"expected a folder that only its owner, you or root, can write to at {self.root}, got {got}",
                False,
            )
        if not os.access(self.root, os.W_OK | os.X_OK):
            return f"expected to write to {self.root}, got no permission", True
        free = shutil.disk_usage(self.root).free
        if free < LEAST_FREE_BYTES:
            least = LEAST_FREE_BYTES // 2**20
            return f"expected {least} MiB free for {self.root}, got {free // 2**20} MiB", True
        return "", True

    def _temporary(self) -> tuple[Path, int]:
        """Return a new folder, and a lock that is held as long as its process lives; remove dead ones'."""
        for left in self.root.glob(f"{_BUILDING}*"):
            if _is_dead(left):
                shutil.rmtree(left, ignore_errors=True)
        made = Path(tempfile.mkdtemp(prefix=_BUILDING, dir=self.root))
        lock = os.open(made / _LOCK, os.O_CREAT | os.O_RDWR, 0o600)
        fcntl.flock(lock, fcntl.LOCK_EX)
        (made / "engine").mkdir(mode=0o700)
        if self.timing.is_dir():
            shutil.copytree(self.timing, made / "timing")
        else:
            (made / "timing").mkdir(mode=0o700)
        return made, lock

    def _keep(self, temporary: Path, seconds: float) -> None:
        """Move what was built to its place.

        Raises:
            OSError: it isn't all there, as on a full disk.
        """
        engine = temporary / "engine"
        written = list(engine.glob(f"*{ENGINE_SUFFIX}"))
        if not written or any(path.stat().st_size == 0 for path in written):
            raise OSError(f"no engine was written ({len(written)} files, some empty)")
        content = json.dumps({**self.parts, "seconds": round(seconds, 1)}, indent=2, sort_keys=True)
        with (engine / DESCRIPTION).open("w") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        for path in written:  # a disk that is full says so now at the latest
            with path.open("rb") as file:
                os.fsync(file.fileno())
        if self.folder.exists():  # the one that does not load; or another process was faster
            shutil.rmtree(self.folder)
        engine.rename(self.folder)
        self.timing.mkdir(mode=0o700, exist_ok=True)
        for path in (temporary / "timing").iterdir():
            path.replace(self.timing / path.name)


def kept_engines(root: Path) -> list[dict[str, str]]:
    """Return what the engines below a root were built for; those that can't be read are left out."""
    engines = []
    for path in sorted(root.glob(f"*/{DESCRIPTION}")):
        try:
            content = json.loads(path.read_text())
            engines.append({name: str(content[name]) for name in ("model", "precision", "gpu")})
        except (OSError, ValueError, KeyError, TypeError):
            continue  # another release's, or being removed
    return engines


def _key(parts: Mapping[str, str]) -> str:
    return hashlib.sha256(json.dumps(dict(parts), sort_keys=True).encode()).hexdigest()[:32]


def _is_dead(folder: Path) -> bool:
    """Whether nobody holds the lock of a temporary folder any more."""
    try:
        lock = os.open(folder / _LOCK, os.O_RDWR)
    except FileNotFoundError:
        return False  # it is being made
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(lock)
    return True
