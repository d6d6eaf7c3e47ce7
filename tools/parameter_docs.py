"""Write docs/parameters.md and config/relocalize.yaml from their declarations: make docs.

A test compares both with what this would write, so neither can go stale.
"""

from __future__ import annotations

import json
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

from structpose_ros.parameters import Parameter
from structpose_ros.settings import PARAMETERS

ROOT = Path(__file__).resolve().parent.parent
TABLE = ROOT / "docs" / "parameters.md"
VALUES = ROOT / "config" / "relocalize.yaml"
WIDTH = 116

TABLE_HEAD = """# Parameters of structpose_relocalizer

Written by `make docs` from the declarations in `structpose_ros/settings.py`; `ros2 param describe` says the
same of a running node, and `config/relocalize.yaml` holds all of them with their defaults. A value that is
unknown, of another type, out of range or in contradiction to another one stops the start with one line.

| parameter | default | range | may change | |
|---|---|---|---|---|
"""
VALUES_HEAD = """# Parameters of structpose_relocalizer and their defaults, as `make docs` writes it.
/**/structpose_relocalizer:
  ros__parameters:
"""


def table() -> str:
    """Return docs/parameters.md."""
    return TABLE_HEAD + "".join(f"| {' | '.join(_cells(row))} |\n" for row in PARAMETERS)


def _cells(row: Parameter) -> Iterator[str]:
    yield f"`{row.name}`"
    yield f"`{_written(row)}`"
    yield _range(row)
    yield row.changes.value
    yield row.description


def _range(row: Parameter) -> str:
    if row.choices:
        return ", ".join(f"`{choice}`" for choice in row.choices)
    if row.minimum is None:
        return {bool: "true, false", str: "text"}[type(row.default)]
    return f"{row.minimum:g} to {row.maximum:g}{' ' + row.unit if row.unit else ''}"


def values() -> str:
    """Return config/relocalize.yaml."""
    lines, group = [], ""
    for row in PARAMETERS:
        prefix, dot, name = row.name.rpartition(".")
        indent = "      " if dot else "    "
        if dot and prefix != group:
            lines.append(f"    {prefix}:")
        group = prefix
        limits = _range(row).replace("`", "") if row.choices or row.minimum is not None else ""
        said = f"{row.description}{f' ({limits})' if limits else ''}"
        lines += textwrap.wrap(said, WIDTH, initial_indent=f"{indent}# ", subsequent_indent=f"{indent}# ")
        lines.append(f"{indent}{name}: {_written(row)}")
    return VALUES_HEAD + "\n".join(lines) + "\n"


def _written(row: Parameter) -> str:
    """Return the default as YAML; a string only in quotes where it is empty."""
    return row.default if isinstance(row.default, str) and row.default else json.dumps(row.default)


def main() -> int:
    """Write both files."""
    TABLE.write_text(table())
    VALUES.write_text(values())
    return 0


if __name__ == "__main__":
    sys.exit(main())
