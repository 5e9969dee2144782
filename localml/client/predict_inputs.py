"""From a file to an inference request: JSON as it is, tables, arrays and pictures as the model's input wants them."""

from __future__ import annotations

import ast
import csv
import json
import math
import struct
import tempfile
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from localml.core.errors import invalid

_CODES = {
    "FP32": "f",
    "FP64": "d",
    "INT8": "b",
    "INT16": "h",
    "INT32": "i",
    "INT64": "q",
    "UINT8": "B",
    "UINT16": "H",
    "UINT32": "I",
    "UINT64": "Q",
    "BOOL": "?",
}
"""Datatype -> code of Python's struct module."""
_GREATEST = 3.4028235e38
"""What FP32 holds, as it is written."""
_NPY_MAGIC = b"\x93NUMPY"
_BEGINNINGS = {_NPY_MAGIC: ".npy", b"\x89PNG\r\n": ".png", b"\xff\xd8\xff": ".jpg"}
_NPY_CODES = {**_CODES, "FP16": "e"}
_NPY_TYPES = {
    "f2": "FP16",
    "f4": "FP32",
    "f8": "FP64",
    "i1": "INT8",
    "i2": "INT16",
    "i4": "INT32",
    "i8": "INT64",
    "u1": "UINT8",
    "u2": "UINT16",
    "u4": "UINT32",
    "u8": "UINT64",
    "b1": "BOOL",
}


@dataclass(frozen=True, slots=True)
class Request:
    """A request's body; ``header_length`` is None when all of it is JSON."""

    body: bytes
    header_length: int | None = None


def request_of(path: Path, inputs: Sequence[Mapping[str, Any]] | None, *, white: float | None = None) -> Request:
    """Make a request from a file.

    ``.json`` with a member ``inputs`` is sent as it is; any other JSON is the data of the model's only input, of which
    one row of a batch will do. ``.csv`` gives one row each line (a first line of names is left out where numbers are
    wanted), ``.npy`` an array. Pictures (``.png``, ``.jpg``) are scaled to the input's height and width.

    Args:
        inputs: what the model takes ({name, datatype, shape}); None while that is not known.
        white: value of a white pixel; 1 where the input takes fractions, else 255, if None. Black is 0.

    Raises:
        LocalmlError: ``INVALID``: the file is nothing of that, or does not fit the model.
    """
    if not path.is_file():
        raise invalid("input", f"the file {path} does not exist")
    kind = path.suffix.lower()
    if kind == ".json":
        return request_of_text(path.read_bytes(), inputs, path.name)
    if kind == ".csv":
        wanted = _only(inputs)
        return _tensor(*_csv(path, texts=wanted["datatype"] == "BYTES"), wanted)
    if kind == ".npy":
        return _tensor(*_npy(path), _only(inputs))
    if kind in (".png", ".jpg", ".jpeg"):
        wanted = _only(inputs)
        return _tensor(*_picture(path, wanted, white), wanted)
    raise invalid("input", f"{path.name}: .json, .csv, .npy, .png and .jpg are taken")


def request_of_bytes(data: bytes, inputs: Sequence[Mapping[str, Any]] | None, *, white: float | None = None) -> Request:
    """Make a request from what a file would hold, its kind told from its beginning; see :func:`request_of`.

    Raises:
        LocalmlError: ``INVALID``: there is nothing, or it does not fit the model.
    """
    if not data.strip():
        raise invalid("input", "nothing came on standard input; pipe JSON, CSV, .npy or a picture into it")
    kind = next((suffix for start, suffix in _BEGINNINGS.items() if data.startswith(start)), "")
    if not kind:
        kind = ".json" if data.lstrip()[:1] in (b"{", b"[") else ".csv"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"stdin{kind}")
        path.write_bytes(data)
        return request_of(path, inputs, white=white)


def _only(inputs: Sequence[Mapping[str, Any]] | None) -> Mapping[str, Any]:
    if inputs is None:
        raise invalid("input", "the model's inputs are not known yet; send JSON with 'inputs'")
    if len(inputs) != 1:
        names = ", ".join(str(one["name"]) for one in inputs)
        raise invalid("input", f"the model has {len(inputs)} inputs ({names}); send JSON with 'inputs'")
    return inputs[0]


def request_of_text(text: str | bytes, inputs: Sequence[Mapping[str, Any]] | None, name: str = "it") -> Request:
    """Make a request from JSON text; see :func:`request_of`."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise invalid("input", f"{name} is not JSON: {error}") from error
    if isinstance(found, dict):
        return Request(json.dumps(found).encode())
    wanted = _only(inputs)
    shape: list[int] = []
    level = found
    while isinstance(level, list):
        shape.append(len(level))
        level = level[0] if level else None
    shape = _batch(shape, list(wanted["shape"]))
    data = found if isinstance(found, list) else [found]
    tensor = {"name": wanted["name"], "datatype": wanted["datatype"], "shape": shape, "data": data}
    return Request(json.dumps({"inputs": [tensor]}).encode())


def _csv(path: Path, *, texts: bool) -> tuple[list[int], list[Any]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:  # Excel begins its files with a mark
            lines = [line for line in csv.reader(file) if line]
    except (ValueError, csv.Error) as error:
        raise invalid("input", f"{path.name} is no CSV text in UTF-8: {error}") from error
    rows: Sequence[Sequence[Any]] = lines if texts else _numbers(path, lines)
    if not rows or any(len(row) != len(rows[0]) for row in rows):
        raise invalid("input", f"{path.name}: all rows must have the same number of columns, and there must be one")
    return [len(rows), len(rows[0])], [value for row in rows for value in row]


def _numbers(path: Path, lines: list[list[str]]) -> list[Sequence[Any]]:
    rows: list[Sequence[Any]] = []
    for number, line in enumerate(lines, 1):
        values = [_number(cell) for cell in line]
        if number == 1 and all(value is None for value in values):
            continue  # names
        if None in values:
            cell = line[values.index(None)]
            raise invalid("input", f"{path.name}, line {number}: {cell!r} is no number")
        rows.append(values)
    return rows


def _number(cell: str) -> float | None:
    try:
        return float(cell)
    except ValueError:
        return None


def _npy(path: Path) -> tuple[list[int], list[Any]]:
    """An array file of NumPy's own format (version 1 to 3), read without NumPy."""
    data = path.read_bytes()
    if not data.startswith(_NPY_MAGIC) or len(data) < 12:
        raise invalid("input", f"{path.name} is no .npy file")
    width = 2 if data[6] == 1 else 4
    start = 8 + width + int.from_bytes(data[8 : 8 + width], "little")
    try:
        header = ast.literal_eval(data[8 + width : start].decode())
        descr, shape = str(header["descr"]), [int(size) for size in header["shape"]]
        order = ">" if descr[0] == ">" else "<"
        values: list[Any]
        if descr[1] in "SU":
            values = _npy_texts(data[start:], descr[1], int(descr[2:]), order, math.prod(shape))
        else:
            code = _NPY_CODES[_NPY_TYPES[descr[1:]]]
            values = list(struct.unpack(f"{order}{math.prod(shape)}{code}", data[start:]))
    except (KeyError, IndexError, ValueError, SyntaxError, struct.error) as error:
        raise invalid("input", f"{path.name}: the array cannot be read: {error}") from error
    return shape, _by_rows(shape, values) if header.get("fortran_order") else values


def _by_rows(shape: list[int], values: list[Any]) -> list[Any]:
    """The values of an array whose first index runs fastest (a table's columns, say), the last one running fastest."""
    if len(shape) < 2:
        return values
    return [value for at in range(shape[0]) for value in _by_rows(shape[1:], values[at :: shape[0]])]


def _npy_texts(data: bytes, kind: str, width: int, order: str, count: int) -> list[str]:
    """Texts of one width each, filled up with zeros: bytes (``S``, taken as UTF-8) or four bytes a letter (``U``)."""
    size = width * (4 if kind == "U" else 1)
    if len(data) != size * count:
        raise ValueError(f"{size * count} bytes of texts were announced, there are {len(data)}")
    coding = "utf-8" if kind == "S" else "utf-32-be" if order == ">" else "utf-32-le"
    return [data[at * size : (at + 1) * size].decode(coding).rstrip("\0") for at in range(count)]


def _picture(path: Path, wanted: Mapping[str, Any], white: float | None) -> tuple[list[int], list[float]]:
    try:
        from PIL import Image
    except ImportError:
        raise invalid("input", f"{path.name}: pictures need the package pillow: pip install pillow") from None
    channels_first, channels, height, width, flat = _layout(list(wanted["shape"]))
    try:
        with Image.open(path) as opened:
            image = opened.convert("L" if channels == 1 else "RGB")
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise invalid("input", f"{path.name} cannot be read as a picture: {error}") from error
    image = image.resize((width or image.width, height or image.height))
    raw = image.tobytes()
    if white is None:
        white = 1.0 if str(wanted["datatype"]).startswith("FP") else 255.0
    if channels_first and channels > 1:
        raw = b"".join(raw[channel::channels] for channel in range(channels))
    values = [value * white / 255.0 for value in raw]
    if flat:
        return [1, len(values)], values
    size = [image.height, image.width]
    rank = len(wanted["shape"])
    shape = [channels, *size] if channels_first else [*size, channels]
    return [1] * (rank - 3) + shape if rank >= 3 else size, values


def _layout(shape: list[int]) -> tuple[bool, int, int, int, bool]:
    """(channels first, channels, height, width, flat) of an input's shape; sizes that are open are 0."""
    if len(shape) == 2 and shape[1] > 0:
        side = math.isqrt(shape[1])
        if side * side == shape[1]:
            return False, 1, side, side, True
    if len(shape) in (3, 4):
        first, *rest = shape[-3:]
        if first in (1, 3):
            return True, first, max(0, rest[0]), max(0, rest[1]), False
        if rest[1] in (1, 3):
            return False, rest[1], max(0, first), max(0, rest[0]), False
    raise invalid("input", f"a picture does not fit an input of shape {shape}; send JSON or .npy")


def _tensor(shape: list[int], values: list[Any], wanted: Mapping[str, Any]) -> Request:
    """A request with one binary tensor of the datatype that the model takes."""
    datatype, name = str(wanted["datatype"]), str(wanted["name"])
    if values and (datatype == "BYTES") != any(isinstance(value, str) for value in values):
        raise invalid("input", f"holds {'numbers' if datatype == 'BYTES' else 'texts'}, the model takes {datatype}")
    shape = _fitted(shape, list(wanted["shape"]))
    if datatype in ("FP16", "BYTES") or datatype not in _CODES:
        tensor = {"name": name, "datatype": datatype, "shape": shape, "data": values}
        return Request(json.dumps({"inputs": [tensor]}).encode())
    code = _CODES[datatype]
    if code not in "fd" and (odd := next((one for one in values if one != one or one % 1), None)) is not None:
        raise invalid("input", f"the model takes {datatype}, and {odd:g} is no whole number")
    try:
        if code == "?":
            raw = bytes(bool(value) for value in values)
        else:
            raw = array(code, values if code in "fd" else [int(value) for value in values]).tobytes()
    except OverflowError as error:
        raise invalid("input", f"a value does not fit {datatype}: {error}") from error
    if code == "f" and any(abs(value) > _GREATEST for value in values if not math.isinf(value)):
        raise invalid("input", f"a value does not fit {datatype}: it is greater than {_GREATEST:g}")
    head = {"name": name, "datatype": datatype, "shape": shape, "parameters": {"binary_data_size": len(raw)}}
    text = json.dumps({"inputs": [head]}).encode()
    return Request(text + raw, len(text))


def _batch(shape: list[int], wanted: list[int]) -> list[int]:
    """The shape with first sizes of 1 added where the model takes batches and this is what one holds."""
    missing = len(wanted) - len(shape)
    batch = [1] * missing + shape
    fits = missing > 0 and all(b in (-1, a) for a, b in zip(batch, wanted, strict=True))
    return batch if fits else shape


def _fitted(shape: list[int], wanted: list[int]) -> list[int]:
    """The shape as the model takes it: see :func:`_batch`."""
    shape = _batch(shape, wanted)
    if len(shape) != len(wanted) or any(b not in (-1, a) for a, b in zip(shape, wanted, strict=True)):
        raise invalid("input", f"has the shape {shape}, the model takes {wanted}")
    return shape
