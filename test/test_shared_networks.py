"""One model, loaded once for all who hold it; anything else is another one."""

from __future__ import annotations

import gc
import threading
from pathlib import Path

import numpy as np
import pytest
from model_files import write_model

from structpose_ros import shared_networks
from structpose_ros.contract import ModelFileError
from structpose_ros.geometry import transform
from structpose_ros.network import OnnxNetwork
from structpose_ros.sessions import BackendOptions
from structpose_ros.shared_networks import shared_network

CPU = BackendOptions("cpu", threads=1)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_model(tmp_path / "model.onnx", transform(np.eye(3), [1.0, 2.0, 3.0]))


def test_the_same_model_is_the_same_network_however_it_is_named(model: Path, tmp_path: Path) -> None:
    first = shared_network(model, "", CPU)
    link = tmp_path / "link.onnx"
    link.symlink_to(model)
    assert shared_network(link, first.sha256, CPU) is first


def test_other_options_or_another_file_are_another_network(model: Path) -> None:
    first = shared_network(model, "", CPU)
    assert shared_network(model, "", BackendOptions("cpu", threads=2)) is not first
    write_model(model, transform(np.eye(3), [4.0, 5.0, 6.0]))
    other = shared_network(model, "", CPU)
    assert other is not first
    assert other.sha256 != first.sha256


def test_what_nobody_holds_is_given_back(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[str] = []

    class Counted(OnnxNetwork):
        def __init__(self, *arguments: object, **named: object) -> None:
            loaded.append("")
            super().__init__(*arguments, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(shared_networks, "OnnxNetwork", Counted)
    first = shared_network(model, "", CPU)
    second = shared_network(model, "", CPU)
    assert len(loaded) == 1
    del first, second
    gc.collect()
    shared_network(model, "", CPU)
    assert len(loaded) == 2


def test_a_digest_that_does_not_fit_is_refused_though_the_model_is_loaded(model: Path) -> None:
    held = shared_network(model, "", CPU)
    with pytest.raises(
        ModelFileError, match=f"expected a model file of sha256 {'0' * 64}.*got {held.sha256}"
    ):
        shared_network(model, "0" * 64, CPU)


def test_a_missing_file_is_said_as_ever(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="expected a model file at .*, got nothing"):
        shared_network(tmp_path / "none.onnx", "", CPU)


def test_who_asks_while_it_is_loaded_waits_for_it(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, go_on = threading.Event(), threading.Event()

    class Slow(OnnxNetwork):
        def __init__(self, *arguments: object, **named: object) -> None:
            assert not begun.is_set(), "loaded twice"
            begun.set()
            assert go_on.wait(20.0)
            super().__init__(*arguments, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(shared_networks, "OnnxNetwork", Slow)
    found: list[OnnxNetwork] = []
    threads = [
        threading.Thread(target=lambda: found.append(shared_network(model, "", CPU))) for _ in range(3)
    ]
    threads[0].start()
    assert begun.wait(20.0)
    for thread in threads[1:]:
        thread.start()
    go_on.set()
    for thread in threads:
        thread.join(20.0)
    assert len(found) == 3
    assert found[0] is found[1] is found[2]
