"""Load a model and run it once, in a thread of its own: a start on TensorRT takes minutes."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np

from structpose_ros.contract import ModelFileError
from structpose_ros.gate import GateOptions
from structpose_ros.network import OnnxNetwork, ProviderError
from structpose_ros.relocalizer import Relocalizer
from structpose_ros.spinning import one_line


class LoadingError(RuntimeError):
    """No model was loaded; `reason` is the name in diagnostics: `bad_model` or `bad_provider`."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class ModelLoading:
    """One attempt. The thread is a daemon: a program that is asked to end does not wait for it."""

    def __init__(self, path: str, sha256: str, provider: str, threads: int, gate: GateOptions) -> None:
        """Begin; the arguments are those of `OnnxNetwork` and `Relocalizer`."""
        self._arguments = (path, sha256, provider, threads, gate)
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
        self._done.wait()
        if self._loaded is None:
            raise self._error
        return self._loaded

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
    path: str, sha256: str, provider: str, threads: int, gate: GateOptions
) -> tuple[Relocalizer, OnnxNetwork]:
    if not path:
        raise ModelFileError("expected a model file in parameter 'model.path', got ''")
    network = OnnxNetwork(Path(path).expanduser(), provider, threads, sha256)
    relocalizer = Relocalizer(network, gate)
    camera = network.contract.training_camera
    relocalizer.localize(np.zeros((camera.height, camera.width, 3), dtype=np.uint8), camera)
    return relocalizer, network
