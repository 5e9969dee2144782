"""Tensors as the Open Inference Protocol writes them, in JSON and binary, and as numpy arrays.

``BYTES`` tensors are object arrays of ``bytes`` everywhere in this package. JSON is read strictly: a number is never
taken for a string or a truth value, nor rounded to a whole one.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np

from onnx_server.errors import bad

Array = np.ndarray[Any, np.dtype[Any]]

DTYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype("?"),
    "UINT8": np.dtype("<u1"),
    "UINT16": np.dtype("<u2"),
    "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"),
    "INT8": np.dtype("<i1"),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "FP16": np.dtype("<f2"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
    "BYTES": np.dtype("O"),
}
"""Every datatype that both ONNX and the protocol have."""
DATATYPES: dict[np.dtype[Any], str] = {dtype: name for name, dtype in DTYPES.items()}
MAX_RANK = 32
_MAX_SIZE = 2**31 - 1
_ELEMENTS: dict[str, tuple[frozenset[type], str]] = {
    "b": (frozenset({bool}), "true or false"),
    "u": (frozenset({int}), "whole numbers"),
    "i": (frozenset({int}), "whole numbers"),
    "f": (frozenset({int, float}), "numbers"),
    "O": (frozenset({str}), "strings"),
}
_LIMITS: dict[str, tuple[float, float]] = {
    name: (info.min, info.max) if dtype.kind in "iu" else (float(info.min), float(info.max))
    for name, dtype in DTYPES.items()
    if dtype.kind in "iuf"
    for info in (np.iinfo(dtype) if dtype.kind in "iu" else np.finfo(dtype),)
}
"""The least and the greatest number of each datatype that has them."""
_LENGTH = struct.Struct("<I")
_ALIGNMENT = 64
"""Bytes of the widest vectors that processors reckon with."""


def check_shape(name: str, shape: object) -> tuple[int, ...]:
    """The shape of a tensor of a request.

    Raises:
        RequestError: it is not a list of whole numbers from 0 up.
    """
    if not isinstance(shape, list) or len(shape) > MAX_RANK:
        raise bad(f"input '{name}': 'shape' must be a list of at most {MAX_RANK} numbers, not {brief(shape)}")
    for size in shape:
        if type(size) is not int or not 0 <= size <= _MAX_SIZE:
            raise bad(f"input '{name}': 'shape' takes whole numbers from 0 to {_MAX_SIZE}, not {brief(size)}")
    return tuple(shape)


def check_datatype(name: str, datatype: object) -> str:
    """The datatype of a tensor of a request.

    Raises:
        RequestError: it is none of the protocol's.
    """
    if not isinstance(datatype, str) or datatype not in DTYPES:
        raise bad(f"input '{name}': 'datatype' must be one of {', '.join(DTYPES)}, not {brief(datatype)}")
    return datatype


def from_json(name: str, datatype: str, shape: tuple[int, ...], data: object) -> Array:
    """The array of a tensor whose ``data`` is a JSON list, flat or nested as the shape says.

    Raises:
        RequestError: the number, type or range of the elements is wrong.
    """
    if not isinstance(data, list):
        raise bad(f"input '{name}': 'data' must be a list, not {brief(data)}")
    dtype = DTYPES[datatype]
    flat = _flatten(name, data, shape)
    allowed, expected = _ELEMENTS[dtype.kind]
    if not allowed.issuperset(map(type, flat)):
        wrong = next(element for element in flat if type(element) not in allowed)
        raise bad(f"input '{name}': datatype {datatype} takes {expected}, not {brief(wrong)}")
    if datatype == "BYTES":
        return objects([text.encode() for text in flat], shape)
    return _numbers(name, datatype, flat).reshape(shape)


def _flatten(name: str, data: list[Any], shape: tuple[int, ...]) -> list[Any]:
    count = math.prod(shape)
    if not data or type(data[0]) is not list:
        if len(data) != count:
            raise bad(f"input '{name}': shape {list(shape)} wants {count} elements, 'data' has {len(data)}")
        return data
    level = [data]
    for size in shape:
        if any(type(part) is not list or len(part) != size for part in level):
            raise bad(f"input '{name}': 'data' is not nested as the shape {list(shape)} says")
        level = list(chain.from_iterable(level))
    return level


def _numbers(name: str, datatype: str, flat: list[Any]) -> Array:
    dtype = DTYPES[datatype]
    low, high = _LIMITS.get(datatype, (0, 0))
    fits = dtype.kind not in "iu" or not flat or (min(flat) >= low and max(flat) <= high)
    if fits:
        try:
            with np.errstate(over="ignore"):
                array = np.array(flat, dtype=dtype)
            # Judged after rounding: 3.4028235e+38 is how the greatest FP32 is written, and as FP64 it is greater.
            fits = dtype.kind != "f" or bool(np.isfinite(array).all())
        except OverflowError:
            fits = False
    if not fits:
        raise bad(f"input '{name}': {datatype} takes numbers from {low} to {high}")
    return array


def from_binary(name: str, datatype: str, shape: tuple[int, ...], data: memoryview) -> Array:
    """The array of a tensor that came as binary data: little endian, row major.

    Raises:
        RequestError: the data's size is not what datatype and shape make, or a truth value is neither 0 nor 1.
    """
    count = math.prod(shape)
    if datatype == "BYTES":
        return objects(_split(name, data, count), shape)
    dtype = DTYPES[datatype]
    if len(data) != count * dtype.itemsize:
        wanted = count * dtype.itemsize
        raise bad(f"input '{name}': {datatype} {list(shape)} is {wanted} bytes, 'binary_data_size' is {len(data)}")
    array: Array = np.frombuffer(data, dtype=dtype).reshape(shape)
    if datatype == "BOOL" and array.size and array.view("u1").max() > 1:
        raise bad(f"input '{name}': BOOL takes bytes of value 0 or 1, not {array.view('u1').max()}")
    return array


def _split(name: str, data: memoryview, count: int) -> list[bytes]:
    parts: list[bytes] = []
    at = 0
    while at < len(data):
        if at + _LENGTH.size > len(data):
            raise bad(f"input '{name}': the length of BYTES element {len(parts)} is cut off")
        size = _LENGTH.unpack_from(data, at)[0]
        at += _LENGTH.size
        if at + size > len(data):
            raise bad(f"input '{name}': BYTES element {len(parts)} is {size} bytes, only {len(data) - at} follow")
        parts.append(bytes(data[at : at + size]))
        at += size
    if len(parts) != count:
        raise bad(f"input '{name}': the shape wants {count} BYTES elements, the binary data has {len(parts)}")
    return parts


def to_json(name: str, array: Array) -> Array | list[str]:
    """What stands for an array in the JSON of an answer: flat, for a writer that knows numpy.

    Raises:
        RequestError: it holds what JSON has no form for.
    """
    flat = array.ravel()
    if flat.dtype.kind == "f" and not np.isfinite(flat).all():
        raise bad(f"output '{name}' holds NaN or infinity, which JSON cannot say; ask for it with 'binary_data'")
    if flat.dtype.kind != "O":
        return flat
    try:
        return [element.decode() for element in flat]
    except UnicodeDecodeError:
        raise bad(f"output '{name}' holds bytes that are no text; ask for it with 'binary_data'") from None


def to_binary(array: Array) -> bytes:
    """An array as binary data: little endian, row major."""
    if array.dtype.kind != "O":
        return array.tobytes()
    return b"".join(_LENGTH.pack(len(element)) + element for element in array.reshape(-1))


def objects(elements: Sequence[bytes], shape: tuple[int, ...]) -> Array:
    """An object array of that shape."""
    array = np.empty(len(elements), dtype=object)
    array[:] = elements
    return array.reshape(shape)


def freeze(arrays: Mapping[str, Array]) -> dict[str, tuple[str, tuple[int, ...], Any]]:
    """Arrays as plain values that are quickly pickled: of each its dtype, shape and bytes (a list for ``BYTES``)."""
    return {
        name: (array.dtype.str, array.shape, array.tobytes() if array.dtype.kind != "O" else array.ravel().tolist())
        for name, array in arrays.items()
    }


def thaw(frozen: Mapping[str, tuple[str, tuple[int, ...], Any]]) -> dict[str, Array]:
    """The arrays that ``freeze`` was given. They are read-only, but for ``BYTES``."""
    return {
        name: objects(data, shape) if kind == "|O" else np.frombuffer(data, kind).reshape(shape)
        for name, (kind, shape, data) in frozen.items()
    }


def aligned(array: Array) -> Array:
    """The array at an address where processors like it: a copy where it is elsewhere.

    Sums are put together in another order, and rounded to other last bits, where numbers begin elsewhere: the answer
    to a request would depend on where its bytes happened to lie.
    """
    if array.dtype.kind == "O" or not array.ctypes.data % _ALIGNMENT:
        return array
    room = np.empty(array.nbytes + _ALIGNMENT, np.uint8)
    start = -room.ctypes.data % _ALIGNMENT
    found: Array = room[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    found[...] = array
    return found


def brief(value: object) -> str:
    """A value for an error message, cut to a readable length."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
