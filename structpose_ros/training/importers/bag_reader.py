"""A rosbag2 recording as topics and messages, read without ROS; whatever is wrong with it takes one line."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from structpose_ros.training.frames import RecordingError

_STORAGES = (".mcap", ".db3")
_ZSTD_BEGIN = b"\x28\xb5\x2f\xfd"


class BagMessage(NamedTuple):
    """A message as recorded: `content` is CDR, `received_ns` when the recorder got it."""

    topic: str
    type_name: str
    received_ns: int
    content: bytes


class Bag:
    """A bag's folder, or one of its files alone; open within `with`.

    The types are those of ROS itself. Definitions in the bag aren't looked at: they change nothing for the
    standard messages, and the library makes code of them.
    """

    def __init__(self, path: Path) -> None:
        """Open a folder with metadata.yaml, or a .mcap or .db3 file.

        Raises:
            RecordingError: it is none, or is cut off or damaged.
        """
        from rosbags.rosbag2 import Reader

        _expect_bag(path)
        self.path = path
        self._types = _standard_types()
        try:
            self._reader = Reader(path)
            self._reader.open()
        except OSError:
            raise
        except Exception as error:  # the library's own, those of its storages, of zstd, lz4 and struct
            raise self._damaged(error) from error
        self.topics: dict[str, str] = {item.topic: item.msgtype for item in self._reader.connections}

    @property
    def name(self) -> str:
        """The folder's or file's name."""
        return self.path.resolve().name

    def __enter__(self) -> Bag:
        """Return the bag, which is open."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the files; what was decompressed to disk is removed."""
        self._reader.close()

    def messages(
        self, topics: Collection[str], start_ns: int | None = None, stop_ns: int | None = None
    ) -> Iterator[BagMessage]:
        """Yield the messages of some topics as received, from `start_ns` until before `stop_ns`.

        Raises:
            RecordingError: the recording is cut off or damaged.
        """
        wanted = [item for item in self._reader.connections if item.topic in topics]
        if not wanted:
            return
        messages = self._reader.messages(wanted, start_ns, stop_ns)
        while True:
            try:
                connection, received_ns, content = next(messages)
            except StopIteration:
                return
            except OSError:
                raise
            except Exception as error:  # see above
                raise self._damaged(error) from error
            yield BagMessage(connection.topic, connection.msgtype, received_ns, bytes(content))

    def decode(self, message: BagMessage) -> Any:
        """Return the message's fields.

        Raises:
            RecordingError: its bytes don't fit its type.
        """
        try:
            return self._types.deserialize_cdr(message.content, message.type_name)
        except Exception as error:  # the library checks lengths, but not everything
            reason = f"{type(error).__name__}: {error}"
            if message.content.startswith(_ZSTD_BEGIN):
                reason = "a compressed one: give the bag's folder, whose metadata.yaml says so"
            raise RecordingError(
                f"{message.topic} received at {seconds_text(message.received_ns)}: "
                f"expected a {message.type_name}, got {reason}"
            ) from error

    def describe(self, topics: Collection[str] | None = None) -> str:
        """Return topics (default: all) with their types, as errors list them."""
        shown = sorted(self.topics if topics is None else topics)
        return ", ".join(f"{topic} ({self.topics[topic]})" for topic in shown) or "none"

    def _damaged(self, error: Exception) -> RecordingError:
        reason = str(error) or type(error).__name__
        return RecordingError(
            f"{self.path}: expected a whole rosbag2 recording, got one cut off or damaged ({reason}); "
            "`mcap recover` or `ros2 bag reindex` may mend it"
        )


def seconds_text(stamp_ns: int) -> str:
    """Return a stamp as exact seconds, `1690000000.123456789`."""
    return f"{stamp_ns // 1_000_000_000}.{stamp_ns % 1_000_000_000:09d}"


@cache
def _standard_types() -> Any:
    from rosbags.typesys import Stores, get_typestore

    return get_typestore(Stores.ROS2_JAZZY)


def _expect_bag(path: Path) -> None:
    expected = "expected a rosbag2 folder with metadata.yaml, or a .mcap or .db3 file"
    if path.is_dir():
        if not (path / "metadata.yaml").is_file():
            names = sorted(item.name for item in path.iterdir())
            files = [name for name in names if Path(name).suffix in _STORAGES]
            hint = f"; give {path / files[0]} itself, or run `ros2 bag reindex {path}`" if files else ""
            raise RecordingError(f"{expected}, got the folder {path} with {names[:8]}{hint}")
    elif not path.exists():
        raise RecordingError(f"{expected}, got nothing at {path}")
    elif path.suffix == ".bag":
        raise RecordingError(
            f"{expected}, got {path}, which looks like ROS 1: rosbags-convert makes it ROS 2"
        )
    elif path.suffix not in _STORAGES:
        raise RecordingError(f"{expected}, got the file {path}")
