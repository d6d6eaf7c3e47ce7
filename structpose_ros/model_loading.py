"""Load a model and run it once, in a thread of its own: TensorRT's engine takes minutes to build."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from structpose_ros.contract import ModelFileError
from structpose_ros.gate import GateOptions
from structpose_ros.network import OnnxNetwork, ProviderError
from structpose_ros.relocalizer import Relocalizer
from structpose_ros.sessions import BackendOptions
from structpose_ros.shared_networks import shared_network
from structpose_ros.spinning import one_line

STILL_PERIOD = 30.0  # seconds between two words on what takes long


class LoadingError(RuntimeError):
    """No model was loaded; `reason` is the name in diagnostics: `bad_model` or `bad_provider`."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class ModelLoading:
    """One attempt. The thread is a daemon: a program that is asked to end does not wait for it."""

    def __init__(
        self, path: str, sha256: str, options: BackendOptions, gate: GateOptions, say: Callable[[str], None]
    ) -> None:
        """Begin; the arguments are those of `OnnxNetwork` and `Relocalizer`."""
        self._arguments = (path, sha256, options, gate, self._note)
        self._say, self._doing = say, ""
        self._done = threading.Event()
        self._loaded: tuple[Relocalizer, OnnxNetwork] | None = None
        self._error = LoadingError("bad_model", "loading was given up")
        threading.Thread(target=self._run, name="model loading", daemon=True).start()

    def give_up(self) -> None:
        """Wake up who waits; what is loaded later is forgotten."""
        self._done.set()

    def wait(self) -> tuple[Relocalizer, OnnxNetwork]:
        """Wait for the model.

        Raises:
            LoadingError: there is none.
        """
        started = time.monotonic()
        while not self._done.wait(STILL_PERIOD):
            if self._doing:
                self._say(f"after {time.monotonic() - started:.0f} s still {self._doing}")
        if self._loaded is None:
            raise self._error
        return self._loaded

    def _note(self, line: str) -> None:
        self._doing = line
        self._say(line)

    def _run(self) -> None:
        try:
            self._loaded = _load(*self._arguments)
        except ModelFileError as error:
            self._error = LoadingError("bad_model", str(error))
        except ProviderError as error:
            self._error = LoadingError("bad_provider", str(error))
        except Exception as error:
            self._error = LoadingError("bad_model", f"expected a model that runs, got: {one_line(error)}")
        self._done.set()


def _load(
    path: str, sha256: str, options: BackendOptions, gate: GateOptions, say: Callable[[str], None]
) -> tuple[Relocalizer, OnnxNetwork]:
    if not path:
        raise ModelFileError("expected a model file in parameter 'model.path', got ''")
    network = shared_network(Path(path).expanduser(), sha256, options, say)
    relocalizer = Relocalizer(network, gate)
    camera = network.contract.training_camera
    relocalizer.localize(np.zeros((camera.height, camera.width, 3), dtype=np.uint8), camera)
    return relocalizer, network
