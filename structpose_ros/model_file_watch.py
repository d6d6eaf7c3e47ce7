"""Whether the file that a model was loaded from is still that file: the node goes on with what it loaded."""

from __future__ import annotations

from pathlib import Path

AS_LOADED = "as loaded"
CHANGED = "changed since it was loaded: the node runs the loaded one until it is configured anew"
GONE = "gone since it was loaded: the node runs the loaded one, and would find none at its next start"


class ModelFileWatch:
    """Looks at the file's inode, size and time of change, not at its content."""

    def __init__(self, path: str) -> None:
        """Note how the file at `path` is now; ~ is expanded."""
        self._path = Path(path).expanduser()
        self._at_first = self._look()

    def state(self) -> str:
        """Return `AS_LOADED`, `CHANGED` or `GONE`."""
        now = self._look()
        if now is None:
            return GONE
        return AS_LOADED if now == self._at_first else CHANGED

    def _look(self) -> tuple[int, int, int] | None:
        try:
            found = self._path.stat()
        except OSError:
            return None
        return found.st_ino, found.st_size, found.st_mtime_ns
