"""The networks of a process: several cameras that ask for the same model get the same one."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from weakref import WeakValueDictionary

from structpose_ros.network import OnnxNetwork, check_digest
from structpose_ros.sessions import BackendOptions

_Key = tuple[Path, int, int, int, BackendOptions]
_networks: WeakValueDictionary[_Key, OnnxNetwork] = WeakValueDictionary()
_loading: dict[_Key, threading.Lock] = {}
_guard = threading.Lock()


def shared_network(
    path: Path, sha256: str, options: BackendOptions, say: Callable[[str], None] = lambda line: None
) -> OnnxNetwork:
    """Return the network of a model file, loaded unless somebody in this process holds it.

    The arguments and errors are those of `OnnxNetwork`. It lives for as long as somebody holds it. A file
    that was replaced is another one.
    """
    key = _key(path, options)
    if key is None:
        return OnnxNetwork(path, sha256=sha256, options=options, say=say)  # which says what is wrong
    with _guard:
        lock = _loading.setdefault(key, threading.Lock())
    with lock:  # a second camera waits for the first one's
        network = _networks.get(key)
        if network is None:
            network = OnnxNetwork(path, sha256=sha256, options=options, say=say)
            _networks[key] = network
        else:
            check_digest(network.path, network.sha256, sha256)
            say(f"{path}: shares the model that is loaded already")
    return network


def _key(path: Path, options: BackendOptions) -> _Key | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return path.resolve(), found.st_ino, found.st_size, found.st_mtime_ns, options
