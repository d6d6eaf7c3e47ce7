"""What a model file must not hold, found before anything is loaded from it.

ONNX lets a tensor's values lie in another file, and ONNX Runtime reads it from below the working directory,
or above it: a model file from elsewhere would bring the robot's own files into its outputs. Our files hold
all their values.

The walk is over the wire format (https://protobuf.dev/programming-guides/encoding/), as the ONNX package is
none of the node's dependencies. Fields that no tensor can lie in are skipped by their length.
"""

from __future__ import annotations

_VARINT, _64_BIT, _BYTES, _32_BIT = 0, 1, 2, 5
_TENSOR = "TensorProto"
# onnx.proto: message -> field -> message, of all that tensors can lie in.
_MESSAGES: dict[str, dict[int, str]] = {
    "ModelProto": {7: "GraphProto", 20: "TrainingInfoProto", 25: "FunctionProto"},
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
}
_EXTERNAL_DATA, _DATA_LOCATION = 13, 14  # fields of TensorProto


def has_external_data(content: bytes) -> bool:
    """Return whether any tensor of an ONNX model names a place outside the file.

    Raises:
        ValueError: the bytes are no protocol buffer.
    """
    view = memoryview(content)
    unread = [("ModelProto", 0, len(view))]
    while unread:
        message, at, end = unread.pop()
        while at < end:
            key, at = _varint(view, at, end)
            field, wire_type = key >> 3, key & 7
            if field == 0:
                raise ValueError(f"expected a field's number at byte {at}, got 0")
            start, at = _value(view, at, end, wire_type)
            if message == _TENSOR and (
                field == _EXTERNAL_DATA or (field == _DATA_LOCATION and bytes(view[start:at]) != b"\0")
            ):
                return True
            inner = _MESSAGES[message].get(field)
            if inner is not None:
                if wire_type != _BYTES:
                    raise ValueError(f"expected a message in field {field} of {message}")
                unread.append((inner, start, at))
    return False


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
