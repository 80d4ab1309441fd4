"""Check of an ONNX file, which may be a stranger's, before ONNX Runtime reads it.

ONNX Runtime reads weights that a file keeps outside of itself from any path that the file names.
This module walks the tags of the protobuf message by itself, so that prediction needs no package
for that. Field numbers are those of onnx.proto.
"""

from collections.abc import Iterator
from typing import Final

_MAX_FIELDS: Final = 1_000_000
"""Of all messages that are visited: a large network has some 100,000."""
_INSIDE: Final[dict[str, dict[int, str]]] = {
    "model": {7: "graph", 20: "training"},
    "training": {1: "graph", 2: "graph"},
    "graph": {1: "node", 5: "tensor", 15: "sparse tensor"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 10: "tensor", 22: "sparse tensor", 23: "sparse tensor"},
    "sparse tensor": {1: "tensor", 2: "tensor"},
    "tensor": {},
}
"""Messages that contain others, by the numbers of their fields."""
_REFUSED: Final[dict[tuple[str, int], str]] = {
    ("tensor", 13): "weights in other files, which could be any file of this machine",
    ("tensor", 14): "weights in other files, which could be any file of this machine",
    ("attribute", 6): "loops or branches, which could run for ever",
    ("attribute", 11): "loops or branches, which could run for ever",
    ("model", 25): "functions of its own, which could call each other for ever",
}
"""What affectnet never exports, by message and field. 13 is `external_data`, 14 `data_location`."""


def refused_content(data: bytes) -> str | None:
    """Describe what an ONNX file contains that is never read; None where there is nothing.

    Raises `ValueError` where the bytes are not a whole protobuf message.
    """
    waiting = [("model", memoryview(data))]
    count = 0
    while waiting:
        kind, message = waiting.pop()
        inside = _INSIDE[kind]
        for number, value in _fields(message):
            count += 1
            if count > _MAX_FIELDS:
                raise ValueError(f"it has over {_MAX_FIELDS:,} fields")
            found = _REFUSED.get((kind, number))
            if found is not None and value != 0:
                return found
            if number in inside and isinstance(value, memoryview):
                waiting.append((inside[number], value))
    return None


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Yield the fields of a message: number, and an integer or bytes; -1 for fixed-size numbers."""
    at, end = 0, len(message)
    while at < end:
        tag, at = _varint(message, at)
        if tag >= 1 << 32:  # readers differ in what they make of it
            raise ValueError("a field number out of range")
        value: int | memoryview = -1
        match tag & 7:
            case 0:
                value, at = _varint(message, at)
            case 1:
                at += 8
            case 2:
                length, at = _varint(message, at)
                value = message[at : at + length]
                at += length
            case 5:
                at += 4
            case kind:
                raise ValueError(f"a field of kind {kind}")
        if at > end:
            raise ValueError("it ends in the middle of a field")
        yield tag >> 3, value


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    """Read an integer of 7 bits per byte; return it and where the next field begins."""
    value = 0
    for shift, byte in enumerate(message[at : at + 10]):
        value |= (byte & 0x7F) << (7 * shift)
        if byte < 0x80:
            return value, at + shift + 1
    raise ValueError("it ends in the middle of a number")
