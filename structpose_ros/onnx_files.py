"""What a model file must not hold, found before anything is loaded from it.

ONNX lets a tensor's values lie in another file, and ONNX Runtime reads it from below the working directory,
or above it: a model file from elsewhere would bring the robot's own files into its outputs. Our files hold
all their values. A tensor may also claim more numbers than the file has room for, which would fill the
memory, and an operator may want a library that is never loaded.

The walk is over the wire format (https://protobuf.dev/programming-guides/encoding/), as the ONNX package is
none of the node's dependencies. Fields that no tensor can lie in are skipped by their length.
"""

from __future__ import annotations

from collections.abc import Iterator

DOMAINS = ("", "ai.onnx", "com.microsoft")  # of operators that every ONNX Runtime brings

_VARINT, _64_BIT, _BYTES, _32_BIT = 0, 1, 2, 5
_TENSOR, _OPERATORS = "TensorProto", "OperatorSetIdProto"
# onnx.proto: message -> field -> message, of all that tensors can lie in.
_MESSAGES: dict[str, dict[int, str]] = {
    "ModelProto": {7: "GraphProto", 8: _OPERATORS, 20: "TrainingInfoProto", 25: "FunctionProto"},
    "GraphProto": {1: "NodeProto", 5: _TENSOR, 15: "SparseTensorProto"},
    "NodeProto": {5: "AttributeProto"},
    "AttributeProto": {
        **{5: _TENSOR, 6: "GraphProto", 10: _TENSOR, 11: "GraphProto"},
        **{22: "SparseTensorProto", 23: "SparseTensorProto"},
    },
    "SparseTensorProto": {1: _TENSOR, 2: _TENSOR},
    "TrainingInfoProto": {1: "GraphProto", 2: "GraphProto"},
    "FunctionProto": {7: "NodeProto", 11: "AttributeProto"},
    _TENSOR: {},
    _OPERATORS: {},
}
_EXTERNAL_DATA, _DATA_LOCATION = 13, 14  # fields of TensorProto
_DIMS = {_TENSOR: 1, "SparseTensorProto": 3}
_DOMAIN = 1  # field of OperatorSetIdProto
_NUMBERS_PER_BYTE = 8  # at most: the smallest types have two or four bits


def has_external_data(content: bytes) -> bool:
    """Return whether any tensor of an ONNX model names a place outside the file.

    Raises:
        ValueError: the bytes are no protocol buffer.
    """
    view = memoryview(content)
    for message, begin, end in _messages(view):
        for field, _, start, stop in _fields(view, begin, end) if message == _TENSOR else ():
            elsewhere = field == _DATA_LOCATION and bytes(view[start:stop]) != b"\0"
            if field == _EXTERNAL_DATA or elsewhere:
                return True
    return False


def expect_loadable(content: bytes) -> None:
    """See that no tensor of a model claims more numbers than it holds, and that all operators are known.

    Raises:
        ValueError: it claims more, an operator's domain is none of `DOMAINS`, or the bytes are no model.
    """
    view = memoryview(content)
    for message, begin, end in _messages(view):
        if message in _DIMS:
            # What is sparse will be unpacked: to no more than a file of this size could hold.
            size = end - begin if message == _TENSOR else len(view)
            _expect_numbers(view, message, begin, end, _NUMBERS_PER_BYTE * size)
        elif message == _OPERATORS:
            for field, _, start, stop in _fields(view, begin, end):
                domain = bytes(view[start:stop]).decode(errors="replace") if field == _DOMAIN else ""
                if domain not in DOMAINS:
                    raise ValueError(f"expected operators of ONNX or com.microsoft, got '{domain[:80]}'")


def _messages(view: memoryview) -> Iterator[tuple[str, int, int]]:
    """Yield the messages that tensors can lie in, and operator sets: name, begin, end."""
    unread = [("ModelProto", 0, len(view))]
    while unread:
        message, begin, end = unread.pop()
        yield message, begin, end
        for field, wire_type, start, stop in _fields(view, begin, end):
            inner = _MESSAGES[message].get(field)
            if inner is not None:
                if wire_type != _BYTES:
                    raise ValueError(f"expected a message in field {field} of {message}")
                unread.append((inner, start, stop))


def _fields(view: memoryview, begin: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """Yield a message's fields: number, wire type, where the value begins and ends."""
    at = begin
    while at < end:
        key, at = _varint(view, at, end)
        field, wire_type = key >> 3, key & 7
        if field == 0:
            raise ValueError(f"expected a field's number at byte {at}, got 0")
        start, at = _value(view, at, end, wire_type)
        yield field, wire_type, start, at


def _expect_numbers(view: memoryview, message: str, begin: int, end: int, most: int) -> None:
    """See that a tensor's sides make no more than so many numbers; a negative side reads as a huge one."""
    count = 1
    for field, wire_type, start, stop in _fields(view, begin, end):
        if field == _DIMS[message] and wire_type in (_VARINT, _BYTES):  # one by one, or packed
            while start < stop:
                side, start = _varint(view, start, stop)
                count *= side
                if count > most:
                    raise ValueError(f"expected a tensor of at most {most} numbers in its bytes, got {count}")


def _value(view: memoryview, at: int, end: int, wire_type: int) -> tuple[int, int]:
    """Return where a field's value begins and ends."""
    if wire_type == _BYTES:
        length, start = _varint(view, at, end)
        stop = start + length
    elif wire_type == _VARINT:
        start = at
        _, stop = _varint(view, at, end)
    elif wire_type in (_64_BIT, _32_BIT):
        start, stop = at, at + (8 if wire_type == _64_BIT else 4)
    else:
        raise ValueError(f"expected a wire type of 0, 1, 2 or 5 at byte {at}, got {wire_type}")
    if stop > end:
        raise ValueError(f"expected a value of {stop - start} bytes at byte {start}, got {end - start}")
    return start, stop


def _varint(view: memoryview, at: int, end: int) -> tuple[int, int]:
    """Return a number and where it ends."""
    number = 0
    for shift in range(0, 70, 7):
        if at >= end:
            raise ValueError(f"expected a number at byte {at}, got the end of its message")
        byte = view[at]
        at += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, at
    raise ValueError(f"expected a number of at most 10 bytes before byte {at}")
