"""TensorBoard's event files: records of TFRecord that hold TensorFlow's ``Event`` messages, of which scalars are read.

Both are small enough to be read here: the libraries that know them come with TensorFlow or TensorBoard. The checksums
are not looked at; what is no event is passed over.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

MOST_RECORD = 16 << 20
"""Bytes of a record; one that says it has more is none."""
_HEADER, _FOOTER = 12, 4  # length and its checksum; the record's checksum
_LENGTH = struct.Struct("<Q")
_FLOAT, _DOUBLE = struct.Struct("<f"), struct.Struct("<d")
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_TYPES = {1: _FLOAT, 2: _DOUBLE}
"""TensorFlow's numbers of its types."""

Fields = Iterator[tuple[int, int | bytes]]


@dataclass(frozen=True, slots=True)
class Scalar:
    """One value; ``at`` in seconds since the epoch."""

    tag: str
    value: float
    step: int
    at: float


def records(data: bytes) -> tuple[list[bytes], int]:
    """The whole records of a piece of a file that begins with one, and how many bytes they are.

    Raises:
        ValueError: it is no such file.
    """
    found: list[bytes] = []
    offset = 0
    while offset + _HEADER <= len(data):
        (length,) = _LENGTH.unpack_from(data, offset)
        if length > MOST_RECORD:
            raise ValueError(f"a record of {length} bytes")
        end = offset + _HEADER + length + _FOOTER
        if end > len(data):
            break
        found.append(data[offset + _HEADER : end - _FOOTER])
        offset = end
    return found, offset


def scalars(record: bytes) -> list[Scalar]:
    """The scalars of an event; none of what is no event."""
    try:
        return list(_scalars(record))
    except (ValueError, struct.error, IndexError):
        return []


def _scalars(record: bytes) -> Iterator[Scalar]:
    at, step, summaries = 0.0, 0, []
    for number, value in _fields(record):
        if number == 1 and isinstance(value, bytes) and len(value) == 8:
            (at,) = _DOUBLE.unpack(value)
        elif number == 2 and isinstance(value, int):
            step = value
        elif number == 5 and isinstance(value, bytes):
            summaries.append(value)
    for summary in summaries:
        for number, value in _fields(summary):
            if number == 1 and isinstance(value, bytes):
                tag, found = _value(value)
                if tag and found is not None:
                    yield Scalar(tag, found, step, at)


def _value(message: bytes) -> tuple[str, float | None]:
    tag, found = "", None
    for number, value in _fields(message):
        if number == 1 and isinstance(value, bytes):
            tag = value.decode(errors="replace")
        elif number == 2 and isinstance(value, bytes) and len(value) == 4:
            found = _single(value)
        elif number == 8 and isinstance(value, bytes):
            found = _tensor(value)
    return tag, found


def _tensor(message: bytes) -> float | None:
    """The value of a tensor that has only one, as TensorFlow 2 writes scalars."""
    kind, raw = 0, b""
    for number, value in _fields(message):
        if number == 1 and isinstance(value, int):
            kind = value
        elif number in (4, 5, 6) and isinstance(value, bytes):  # its content, or floats, or doubles
            raw = value
    form = _TYPES.get(kind)
    if form is None or len(raw) != form.size:
        return None
    return _single(raw) if form is _FLOAT else float(form.unpack(raw)[0])


def _single(raw: bytes) -> float:
    """A 32-bit number as people wrote it: 0.91, not 0.9100000262260437."""
    return float(f"{_FLOAT.unpack(raw)[0]:.7g}")


def _fields(message: bytes) -> Fields:
    offset = 0
    while offset < len(message):
        key, offset = _varint(message, offset)
        number, kind = key >> 3, key & 7
        if kind == _VARINT:
            value, offset = _varint(message, offset)
            yield number, value
            continue
        if kind == _BYTES:
            length, offset = _varint(message, offset)
        else:
            length = {_FIXED64: 8, _FIXED32: 4}.get(kind, -1)
        if length < 0 or offset + length > len(message):
            raise ValueError("no such field")
        yield number, message[offset : offset + length]
        offset += length


def _varint(message: bytes, offset: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[offset]
        offset += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, offset
        shift += 7
        if shift > 63:
            raise ValueError("too long a number")
