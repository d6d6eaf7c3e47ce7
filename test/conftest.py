"""What all tests share: property tests draw the same examples on every run, and no clock fails them."""

from __future__ import annotations

import os
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
