"""Finds the files that come with the package: models, config, launch."""

from __future__ import annotations

import os
import sys
from pathlib import Path

PACKAGE = "structpose_ros"


def share_path(*parts: str) -> Path:
    """Return the path of a file or folder of the package's share.

    The sourced workspace comes first, then the Python environment (`pip install .`), then the checkout.

    Raises:
        FileNotFoundError: none of them has it.
    """
    candidates = [folder.joinpath(*parts) for folder in _share_folders()]
    for candidate in candidates:
        if candidate.exists():
            return candidate
    looked = ", ".join(str(candidate) for candidate in candidates)
    raise FileNotFoundError(
        f"expected {'/'.join(parts) or 'the share folder'} at one of {looked}, got nothing"
    )


def cache_path() -> Path:
    """Return the folder for what can be made again; nobody has made it yet."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / PACKAGE


def _share_folders() -> list[Path]:
    folders = [Path(sys.prefix, "share", PACKAGE), Path(__file__).resolve().parent.parent]
    try:
        from ament_index_python.packages import get_package_share_directory  # absent where ROS 2 is

        folders.insert(0, Path(get_package_share_directory(PACKAGE)))
    except (ImportError, LookupError, OSError):  # not installed there, or no workspace is sourced
        pass
    return folders
