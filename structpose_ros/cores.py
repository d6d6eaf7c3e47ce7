"""CPU cores by number: read from text, and bound to threads."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager


class CoresError(ValueError):
    """Cores that can't be used; the message says what was expected and what came."""


def parse_cores(text: str) -> tuple[int, ...]:
    """Return the numbers in a text such as `0-1,3`, ascending; none for an empty one.

    Raises:
        CoresError: it is no such list.
    """
    cores: set[int] = set()
    for part in text.replace(" ", "").split(",") if text.strip() else ():
        first, dash, last = part.partition("-")
        if not first.isascii() or not first.isdigit() or (dash and not (last.isascii() and last.isdigit())):
            raise CoresError(f"expected cores such as '0-1,3', got '{text}'")
        low, high = int(first), int(last or first)
        if high < low or high > 4095:
            raise CoresError(f"expected cores such as '0-1,3', got '{text}'")
        cores.update(range(low, high + 1))
    return tuple(sorted(cores))


def bind_thread(cores: Sequence[int]) -> None:
    """Let the calling thread, and those that it starts from now on, run on these cores; none: as before.

    Raises:
        CoresError: this machine has not all of them, or its system can't bind threads.
    """
    if not cores:
        return
    if not hasattr(os, "sched_setaffinity"):
        raise CoresError("expected a system that binds threads to cores, which this one does not")
    try:
        os.sched_setaffinity(0, cores)
        bound = os.sched_getaffinity(0)
    except OSError:
        bound = set()
    if bound != set(cores):  # Linux quietly leaves out those that it hasn't
        raise CoresError(f"expected cores among 0-{(os.cpu_count() or 1) - 1}, got {shown(cores)}")


@contextmanager
def bound_to(cores: Sequence[int]) -> Iterator[None]:
    """Bind the calling thread while in this context: the threads that it starts there stay bound.

    Raises:
        CoresError: see `bind_thread`.
    """
    before = os.sched_getaffinity(0) if cores and hasattr(os, "sched_getaffinity") else None
    try:
        bind_thread(cores)
        yield
    finally:
        if before is not None:
            os.sched_setaffinity(0, before)


def shown(cores: Sequence[int]) -> str:
    """Return cores as text."""
    return ",".join(str(core) for core in cores)
