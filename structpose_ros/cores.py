"""CPU cores by number: read from text, and bound to threads."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

SMT = Path("/sys/devices/system/cpu/smt/active")


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


def one_each(threads: int, cores: Sequence[int]) -> tuple[int, ...]:
    """Return the cores that a network's threads are bound to, one each; none: all of them may run on any.

    threads: how many, the one that calls the network among them; 0: as many as there are cores. cores: those
    that were asked for; none: all that this process may use.

    Linux often wakes a thread on the core of the one that wakes it, and the two then take turns for
    milliseconds while another core idles. With as many threads as cores there is nothing to choose, so each
    gets its own. Where cores are hyper-threads, which two threads should not share, that is left to who asks.
    """
    if not hasattr(os, "sched_getaffinity"):
        return ()
    found = tuple(cores) or tuple(sorted(os.sched_getaffinity(0)))
    if threads not in (0, len(found)) or (not cores and _has_hyper_threads()):
        return ()
    return found


def _has_hyper_threads() -> bool:
    try:
        return SMT.read_text().strip() == "1"
    except OSError:
        return False


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
