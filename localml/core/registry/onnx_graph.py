"""Inputs and outputs of an ONNX file, read without loading it.

An ONNX file is one protocol buffer message, most of it weights. Only the few members that describe the graph's inputs
and outputs are looked at (field numbers from ``onnx.proto3`` of the ONNX project); everything else is stepped over, so
a file of gigabytes takes milliseconds and no library.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_MODEL_GRAPH = 7
_GRAPH_INITIALIZER, _GRAPH_INPUT, _GRAPH_OUTPUT = 5, 11, 12
_TENSOR_NAME, _TENSOR_EXTERNAL, _TENSOR_LOCATION = 8, 13, 14
_ENTRY_KEY, _ENTRY_VALUE = 1, 2
_EXTERNAL = 1
_VALUE_NAME, _VALUE_TYPE = 1, 2
_TYPE_TENSOR, _TYPE_SEQUENCE, _TYPE_MAP = 1, 4, 5
_SEQUENCE_ELEMENT, _MAP_VALUE = 1, 2
_FLOAT = 1
_TENSOR_ELEMENT, _TENSOR_SHAPE = 1, 2
_SHAPE_DIMENSION = 1
_DIMENSION_VALUE = 1

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5

DATATYPES = {
    1: "FP32",
    2: "UINT8",
    3: "INT8",
    4: "UINT16",
    5: "INT16",
    6: "INT32",
    7: "INT64",
    8: "BYTES",
    9: "BOOL",
    10: "FP16",
    11: "FP64",
    12: "UINT32",
    13: "UINT64",
    16: "BF16",
}
"""ONNX element type -> datatype of the Open Inference Protocol."""


class NotOnnx(ValueError):
    """The file is no ONNX model."""


@dataclass(frozen=True, slots=True)
class Graph:
    """``{"name", "datatype", "shape"}`` of each input and output; an open size is -1, a datatype without a name
    ``ONNX-<number>``, a value that is no tensor, nor served as one, has the empty datatype and the shape ``[]``.

    ``external`` tells the files beside the model that hold weights, and how many bytes of each are used at least.
    """

    inputs: list[dict[str, Any]]
    outputs: list[dict[str, Any]]
    external: dict[str, int]


def read_graph(path: Path) -> Graph:
    """The inputs that a caller must give (weights are none) and the outputs.

    Raises:
        NotOnnx: the file is empty, cut short or something else; the message says which.
    """
    with path.open("rb") as file:
        try:
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except ValueError:
            raise NotOnnx(f"{path.name} is empty") from None
        with data:
            return _model(data, path.name)


def _model(data: mmap.mmap, name: str) -> Graph:
    try:
        graphs = [span for number, span in _fields(data, 0, len(data)) if number == _MODEL_GRAPH]
        if len(graphs) != 1 or not isinstance(graphs[0], tuple):
            raise NotOnnx(f"{name} is not an ONNX model: it has no graph")
        return _graph(data, *graphs[0])
    except (IndexError, UnicodeDecodeError, TypeError) as error:
        raise NotOnnx(f"{name} is not an ONNX model, or is cut short") from error


def _graph(data: mmap.mmap, start: int, end: int) -> Graph:
    weights: set[str] = set()
    inputs: list[dict[str, Any]] = []
    outputs: list[dict[str, Any]] = []
    external: dict[str, int] = {}
    for number, span in _fields(data, start, end):
        if number == _GRAPH_INITIALIZER:
            weights.add(_text(data, _one(data, span, _TENSOR_NAME)))
            if _one(data, span, _TENSOR_LOCATION) == _EXTERNAL:
                file, size = _external(data, span)
                external[file] = max(size, external.get(file, 0))
        elif number == _GRAPH_INPUT:
            inputs.append(_value(data, span))
        elif number == _GRAPH_OUTPUT:
            outputs.append(_value(data, span))
    if not outputs:
        raise NotOnnx("the graph has no output")
    return Graph([one for one in inputs if one["name"] not in weights], outputs, external)


def _external(data: mmap.mmap, tensor: Any) -> tuple[str, int]:
    """File of a tensor that is kept outside, and where its bytes end there (``TensorProto.external_data``)."""
    entries = {
        _text(data, _one(data, span, _ENTRY_KEY)): _text(data, _one(data, span, _ENTRY_VALUE))
        for number, span in _fields(data, *tensor)
        if number == _TENSOR_EXTERNAL
    }
    try:
        return entries["location"], int(entries.get("offset") or 0) + int(entries.get("length") or 0)
    except (KeyError, ValueError) as error:
        raise NotOnnx("the graph has weights in another file, but not where") from error


def _value(data: mmap.mmap, span: Any) -> dict[str, Any]:
    found: dict[str, Any] = {"name": _text(data, _one(data, span, _VALUE_NAME)), "datatype": "", "shape": []}
    kind = _one(data, span, _VALUE_TYPE)
    tensor = _one(data, kind, _TYPE_TENSOR) if kind is not None else None
    if tensor is None:
        return {**found, "datatype": "FP32", "shape": [-1, -1]} if kind is not None and _zipped(data, kind) else found
    element = _one(data, tensor, _TENSOR_ELEMENT) or 0
    found["datatype"] = DATATYPES.get(element, f"ONNX-{element}")
    shape = _one(data, tensor, _TENSOR_SHAPE)
    if shape is not None:
        dimensions = [span for number, span in _fields(data, *shape) if number == _SHAPE_DIMENSION]
        found["shape"] = [_size(_one(data, one, _DIMENSION_VALUE)) for one in dimensions]
    return found


def _zipped(data: mmap.mmap, kind: Any) -> bool:
    """Whether a value is a sequence of maps to numbers: a classifier's probabilities, which are served as a tensor."""
    for step in (_TYPE_SEQUENCE, _SEQUENCE_ELEMENT, _TYPE_MAP, _MAP_VALUE, _TYPE_TENSOR):
        kind = _one(data, kind, step)
        if kind is None:
            return False
    return bool(_one(data, kind, _TENSOR_ELEMENT) == _FLOAT)


def _size(value: int | None) -> int:
    """A dimension's size; one that has a name or nothing is open."""
    return -1 if value is None or value >= 1 << 63 else value


def _one(data: mmap.mmap, span: Any, wanted: int) -> Any:
    """The last field of that number in a message, None if there is none."""
    found = None
    for number, value in _fields(data, *span):
        if number == wanted:
            found = value
    return found


def _text(data: mmap.mmap, span: Any) -> str:
    return data[span[0] : span[1]].decode() if span is not None else ""


def _fields(data: mmap.mmap, at: int, end: int) -> Iterator[tuple[int, Any]]:
    """(field number, value) of a message: an integer, or (start, end) of bytes."""
    while at < end:
        tag, at = _varint(data, at)
        number, kind = tag >> 3, tag & 7
        value: Any = None
        if kind == _VARINT:
            value, at = _varint(data, at)
        elif kind == _BYTES:
            length, at = _varint(data, at)
            value = (at, at + length)
            at += length
        elif kind in (_FIXED64, _FIXED32):
            at += 8 if kind == _FIXED64 else 4
        else:
            raise IndexError(f"field {number} has the unknown wire type {kind}")
        if number == 0 or at > end:
            raise IndexError("a field reaches beyond its message")
        yield number, value


def _varint(data: mmap.mmap, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 63:
            raise IndexError("a number has more than 64 bits")
