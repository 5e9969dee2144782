"""TensorFlow Serving's messages as requests of the Open Inference Protocol with binary tensors, and answers back."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterator
from typing import Any

import numpy as np
from ovmsclient.tfs_compat.grpc.tensors import TENSOR_DTYPE_TO_PROTOFIELD, make_ndarray
from ovmsclient.tfs_compat.protos.tensorflow.core.framework.tensor_pb2 import TensorProto
from ovmsclient.tfs_compat.protos.tensorflow.core.framework.tensor_shape_pb2 import TensorShapeProto
from ovmsclient.tfs_compat.protos.tensorflow.core.framework.types_pb2 import DataType

from localml.core.numerals import whole

DATATYPES: dict[int, str] = {
    DataType.DT_BOOL: "BOOL",
    DataType.DT_UINT8: "UINT8",
    DataType.DT_UINT16: "UINT16",
    DataType.DT_UINT32: "UINT32",
    DataType.DT_UINT64: "UINT64",
    DataType.DT_INT8: "INT8",
    DataType.DT_INT16: "INT16",
    DataType.DT_INT32: "INT32",
    DataType.DT_INT64: "INT64",
    DataType.DT_HALF: "FP16",
    DataType.DT_FLOAT: "FP32",
    DataType.DT_DOUBLE: "FP64",
    DataType.DT_STRING: "BYTES",
}
TYPES: dict[str, int] = {name: number for number, name in DATATYPES.items()}
_NUMPY: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype("?"),
    "FP16": np.dtype("<f2"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
    **{f"INT{8 * size}": np.dtype(f"<i{size}") for size in (1, 2, 4, 8)},
    **{f"UINT{8 * size}": np.dtype(f"<u{size}") for size in (1, 2, 4, 8)},
}
_LENGTH = struct.Struct("<I")

MAX_TENSOR = 64 << 20
"""Bytes that an input may take: one value and a large shape stand for a tensor that is full of it."""


class BadTensor(ValueError):
    """A tensor cannot be read; the message names it."""


def infer_request(request: Any) -> tuple[bytes, int]:
    """A ``PredictRequest`` as (body, Inference-Header-Content-Length) of an inference request.

    Raises:
        BadTensor: an input is none.
    """
    inputs, blobs = [], []
    for name, tensor in request.inputs.items():
        datatype, shape, blob = _input(name, tensor)
        size = {"binary_data_size": len(blob)}
        inputs.append({"name": name, "datatype": datatype, "shape": shape, "parameters": size})
        blobs.append(blob)
    wanted: dict[str, Any] = {"inputs": inputs, "parameters": {"binary_data_output": True}}
    if request.output_filter:
        binary = {"binary_data": True}
        wanted["outputs"] = [{"name": name, "parameters": binary} for name in dict.fromkeys(request.output_filter)]
    head = json.dumps(wanted).encode()
    return b"".join((head, *blobs)), len(head)


def _input(name: str, tensor: Any) -> tuple[str, list[int], bytes]:
    datatype = DATATYPES.get(tensor.dtype)
    if datatype is None:
        given = DataType.Name(tensor.dtype) if tensor.dtype in DataType.values() else tensor.dtype
        raise BadTensor(f"input '{name}': dtype {given} is not taken; {', '.join(map(DataType.Name, DATATYPES))} are")
    shape = [dim.size for dim in tensor.tensor_shape.dim]
    if tensor.tensor_shape.unknown_rank or any(size < 0 for size in shape):
        raise BadTensor(f"input '{name}': its shape {shape} is not known; each size must be 0 or more")
    count = math.prod(shape)
    if count * (_NUMPY[datatype].itemsize if datatype != "BYTES" else _LENGTH.size) > MAX_TENSOR:
        raise BadTensor(f"input '{name}': shape {shape} takes more than {MAX_TENSOR} bytes")
    if datatype == "BYTES":
        return datatype, shape, b"".join(_with_lengths(_strings(name, list(tensor.string_val), count)))
    try:
        return datatype, shape, make_ndarray(tensor).tobytes()
    except (ValueError, OverflowError) as error:
        raise BadTensor(f"input '{name}': its values do not make shape {shape} of {datatype}: {error}") from None


def _strings(name: str, values: list[bytes], count: int) -> list[bytes]:
    """As TensorFlow has it, the last value fills up what is missing."""
    if len(values) > count or (count and not values):
        raise BadTensor(f"input '{name}': {len(values)} values in 'string_val' do not make {count}")
    missing = count - len(values)
    if missing and missing * len(values[-1]) > MAX_TENSOR:
        raise BadTensor(f"input '{name}': filled up it takes more than {MAX_TENSOR} bytes")
    return values + values[-1:] * missing


def _with_lengths(values: list[bytes]) -> Iterator[bytes]:
    for value in values:
        yield _LENGTH.pack(len(value))
        yield value


def fill_response(response: Any, body: bytes, header_length: int | None) -> None:
    """Put the answer of an inference into a ``PredictResponse``.

    Values go into the typed fields (``float_val`` ...), as TensorFlow Serving has them: many clients read those only.

    Raises:
        ValueError, KeyError, TypeError: it is not an answer of the protocol.
    """
    rest = memoryview(body)[header_length:] if header_length is not None else memoryview(b"")
    answer = json.loads(body[:header_length] if header_length is not None else body)
    version = whole(str(answer.get("model_version") or ""))
    if version is not None:
        response.model_spec.version.value = version
    for output in answer["outputs"]:
        size = (output.get("parameters") or {}).get("binary_data_size")
        _put(response.outputs[output["name"]], output, None if size is None else rest[:size])
        rest = rest[size or 0 :]


def _put(tensor: Any, output: dict[str, Any], blob: memoryview | None) -> None:
    datatype = output["datatype"]
    kind = TYPES[datatype]
    values: list[Any]
    if datatype == "BYTES":
        values = [one.encode() for one in _flat(output["data"])] if blob is None else list(_split(blob))
    else:
        dtype = _NUMPY[datatype]
        array = np.array(output["data"], dtype).ravel() if blob is None else np.frombuffer(blob, dtype)
        values = array.view("<u2").tolist() if datatype == "FP16" else array.tolist()
    shape = TensorShapeProto(dim=[TensorShapeProto.Dim(size=size) for size in output["shape"]])
    tensor.CopyFrom(TensorProto(dtype=kind, tensor_shape=shape, **{TENSOR_DTYPE_TO_PROTOFIELD[kind]: values}))


def _split(blob: memoryview) -> Iterator[bytes]:
    at = 0
    while at < len(blob):
        (size,) = _LENGTH.unpack_from(blob, at)
        at += _LENGTH.size
        yield bytes(blob[at : at + size])
        at += size


def _flat(data: Any) -> Iterator[str]:
    if isinstance(data, list):
        for one in data:
            yield from _flat(one)
    else:
        yield data
