"""Tables of plain text for a terminal: a label, and what there is to say, wrapped beside it."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

_WIDTH, _LABELS = 100, 20
_LONGEST = 200

Row = tuple[str, str]
Rows = list[Row]


def table(rows: Sequence[Row]) -> str:
    """Return the rows below each other; one without a label has the whole width."""
    return "\n".join(_row(label, text) for label, text in rows)


def _row(label: str, text: str) -> str:
    first = f"  {label:<{_LABELS}}" if label else "  "
    return textwrap.fill(
        text, _WIDTH, initial_indent=first, subsequent_indent=" " * len(first), break_on_hyphens=False
    )


def box(low: Sequence[float], high: Sequence[float]) -> str:
    """Return the box between two corners (3,) in metres."""
    sides = zip("xyz", low, high, strict=True)
    return ", ".join(f"{name} {span((first, last), 2)}" for name, first, last in sides) + " m"


def span(values: tuple[float, float], digits: int = 0) -> str:
    """Return a range, or one value where both ends look the same."""
    # Adding zero takes the minus from a zero.
    low, high = (f"{round(value, digits) + 0.0:.{digits}f}" for value in values)
    return low if low == high else f"{low} .. {high}"


def plain(text: str) -> str:
    """Return text of a foreign file so that no terminal takes it for a command, and of a bearable length."""
    safe = "".join(part if part.isprintable() else ascii(part)[1:-1] for part in text)
    return safe if len(safe) <= _LONGEST else f"{safe[:_LONGEST]}..."
