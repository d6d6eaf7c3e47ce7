"""What all tests share: property tests draw the same examples on every run, and no clock fails them."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from stand_in_runtime import StandIn, install_stand_in

from structpose_ros import compiled

if "MUTANT_UNDER_TEST" in os.environ:  # by mutmut, which changes what is written in Python
    compiled.LIBRARY = None

settings.register_profile("reproducible", deadline=None, derandomize=True, database=None)
settings.load_profile("reproducible")


# Coverage is the core's. Tests of these, which would take a third longer, run without it being measured.
_UNMEASURED = ("structpose_ros.training", "structpose_ros.cli")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Measure no coverage while a test runs whose module imports what is not measured."""
    names = vars(item.module).values() if isinstance(item, pytest.Function) else ()
    sources = {getattr(value, "__module__", None) or getattr(value, "__name__", "") for value in names}
    measured = not any(str(source).startswith(_UNMEASURED) for source in sources)
    measuring = (
        None if measured or "coverage" not in sys.modules else sys.modules["coverage"].Coverage.current()
    )
    if measuring is not None:
        measuring.stop()
    try:
        return (yield)
    finally:
        if measuring is not None:
            measuring.start()


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> StandIn:
    """Install ONNX Runtime as it is on a machine with a GPU: see `stand_in_runtime`."""
    return install_stand_in(monkeypatch, tmp_path / "cache")


@pytest.fixture(scope="module", params=["compiled", "numpy"])
def each_implementation(request: pytest.FixtureRequest) -> Iterator[None]:
    """Run a module's tests with the compiled library and without it."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "numpy":
            patch.setattr(compiled, "LIBRARY", None)
        elif compiled.LIBRARY is None:
            pytest.skip("nothing is compiled here")
        yield
