"""Files that are not trusted, taken piece by piece: what is missing or malformed is named with its place."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from structpose_ros.training.frames import RecordingError

_Record = TypeVar("_Record")


class BinaryFile:
    """A binary file, little endian, taken from its beginning to its end."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._content = path.read_bytes()
        self._at = 0

    @property
    def left(self) -> int:
        """The number of bytes not taken yet."""
        return len(self._content) - self._at

    def take(self, layout: str) -> tuple[Any, ...]:
        """Return the next values; `layout` as in `struct`."""
        size = struct.calcsize("<" + layout)
        return struct.unpack("<" + layout, self._advance(size, f"{size} bytes"))

    def count(self, what: str, size: int = 1) -> int:
        """Return a number of things to come, of `size` bytes each at least."""
        number = int(self.take("Q")[0])
        if number * size > self.left:
            raise self._cut_off(f"{number} {what}")
        return number

    def array(self, number: int, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        """Return the next `number` entries (number,) of a type."""
        dtype = np.dtype(dtype)
        return np.frombuffer(self._advance(number * dtype.itemsize, f"{number} entries"), dtype)

    def text(self) -> str:
        """Return the characters up to the next zero byte."""
        end = self._content.find(b"\0", self._at)
        if end < 0:
            raise self._cut_off("a name and a zero byte")
        name = self._advance(end + 1 - self._at, "a name")[:-1]
        try:
            return name.decode()
        except UnicodeDecodeError as error:
            raise RecordingError(f"{self.path}: expected a name in UTF-8, got {name[:80]!r}") from error

    def _advance(self, size: int, what: str) -> bytes:
        if size > self.left:
            raise self._cut_off(what)
        self._at += size
        return self._content[self._at - size : self._at]

    def _cut_off(self, what: str) -> RecordingError:
        return RecordingError(f"{self.path}: expected {what} at byte {self._at}, got {self.left} bytes more")


class TextFile:
    """The lines of a text file that are not empty and no comments, split into words."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._lines = path.read_text(encoding="utf-8").split("\n")
        except UnicodeDecodeError as error:
            raise RecordingError(f"{path}: expected text in UTF-8, got: {error.reason}") from error
        self.number = 0

    def __iter__(self) -> Iterator[list[str]]:
        while self.number < len(self._lines):
            words = self.following()
            if words and not words[0].startswith("#"):
                yield words

    def following(self) -> list[str]:
        """Return the words of the very next line, which may be empty.

        Raises:
            IndexError: there is none.
        """
        self.number += 1
        return self._lines[self.number - 1].split()

    def records(self, parse: Callable[[list[str], TextFile], _Record], expected: str) -> list[_Record]:
        """Return what `parse` makes of each line's words.

        Raises:
            RecordingError: it can't; with the number of the line, and what was expected there.
        """
        try:
            return [parse(words, self) for words in self]
        except IndexError:
            got = "the end of the line" if self.number <= len(self._lines) else "the end of the file"
        except (ValueError, OverflowError) as error:
            got = str(error)
        raise RecordingError(f"{self.path}: line {self.number}: expected {expected}, got: {got}")
