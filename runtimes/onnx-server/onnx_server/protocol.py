"""Inference requests and answers of the Open Inference Protocol v2, with the binary tensor data extension."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import orjson

from onnx_server.errors import bad
from onnx_server.tensors import (
    DATATYPES,
    DTYPES,
    Array,
    brief,
    check_datatype,
    check_shape,
    from_binary,
    from_json,
    objects,
    to_binary,
    to_json,
)
from onnx_server.wire import ModelSpec, TensorSpec

EXTENSIONS = ("binary_tensor_data",)
_NOTHING = memoryview(b"")
_NONE: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class InferRequest:
    """A request that fits the model.

    Attributes:
        outputs: the outputs that are wanted, in the caller's order; empty means all.
        binary: outputs that are wanted as binary data.
        binary_default: whether the other ones are too.
    """

    id: str | None
    inputs: dict[str, Array]
    outputs: tuple[str, ...] = ()
    binary: frozenset[str] = frozenset()
    json: frozenset[str] = frozenset()
    binary_default: bool = False

    def wants_binary(self, output: str) -> bool:
        """Whether an output goes out as binary data."""
        return output in self.binary or (self.binary_default and output not in self.json)


def parse(body: bytes, header_length: int | None, spec: ModelSpec) -> InferRequest:
    """Read a request.

    Args:
        body: the whole body.
        header_length: ``Inference-Header-Content-Length``; None where the header is missing: all is JSON then. 0 is a
            raw binary request: the body is the only input's data.
        spec: the model that it is for.

    Raises:
        RequestError: it is not as the protocol or the model wants it.
    """
    if header_length == 0:
        return _raw(body, spec)
    if header_length is None:
        request, rest = _object(body), _NOTHING
    elif header_length <= len(body):
        request, rest = _object(memoryview(body)[:header_length]), memoryview(body)[header_length:]
    else:
        raise bad(f"Inference-Header-Content-Length is {header_length}, but the body has only {len(body)} bytes")
    inputs = _inputs(request.get("inputs"), rest, spec)
    parameters = _mapping(request, "parameters")
    outputs, binary, json = _outputs(request.get("outputs"), spec)
    identity = request.get("id")
    if identity is not None and not isinstance(identity, str):
        raise bad(f"'id' must be a string, not {brief(identity)}")
    default = _flag(parameters, "binary_data_output", "the request's parameters") or False
    return InferRequest(identity, inputs, outputs, binary, json, default)


def _object(head: bytes | memoryview) -> dict[str, Any]:
    try:
        request = orjson.loads(head)
    except orjson.JSONDecodeError as error:
        raise bad(f"the body is not JSON (NaN and infinity are none): {error}") from None
    if not isinstance(request, dict):
        raise bad(f"the body must be a JSON object with 'inputs', not {brief(request)}")
    return request


def _inputs(given: object, rest: memoryview, spec: ModelSpec) -> dict[str, Array]:
    known = spec.known_inputs
    if not known and not spec.open_inputs and given in (None, []):
        given = []
    elif not isinstance(given, list) or not given:
        raise bad("'inputs' must be a list of at least one tensor")
    inputs: dict[str, Array] = {}
    at = 0
    for tensor in given:
        name, array, used = _input(tensor, rest[at:] if at else rest, known, spec.open_inputs)
        if name in inputs:
            raise bad(f"input '{name}' is given twice")
        inputs[name] = array
        at += used
    if at != len(rest):
        raise bad(f"the inputs' 'binary_data_size' make {at} bytes, but {len(rest)} follow the JSON")
    if not spec.open_inputs and len(inputs) != len(known):
        missing = ", ".join(f"'{name}'" for name in known if name not in inputs)
        raise bad(f"input {missing} is missing")
    return inputs


def _input(tensor: object, rest: memoryview, known: dict[str, TensorSpec], is_open: bool) -> tuple[str, Array, int]:
    """One input: its name, its array and how many bytes of the binary data are its own."""
    if not isinstance(tensor, dict) or not isinstance(name := tensor.get("name"), str):
        raise bad("each of 'inputs' must be an object with 'name', 'shape', 'datatype' and 'data'")
    wanted = known.get(name)
    if wanted is None and not is_open:
        names = ", ".join(f"'{known_name}'" for known_name in known)
        raise bad(f"the model has no input '{name}'; it has {names}")
    datatype = tensor.get("datatype")
    if wanted is None or datatype != wanted.datatype:
        datatype = check_datatype(name, datatype)
    shape = check_shape(name, tensor.get("shape"))
    if wanted is not None:
        check_fits(wanted, datatype, shape)
    parameters = _mapping(tensor, "parameters")
    if "binary_data_size" not in parameters:
        return name, from_json(name, datatype, shape, tensor.get("data")), 0
    size = parameters["binary_data_size"]
    if type(size) is not int or size < 0:
        raise bad(f"input '{name}': 'binary_data_size' must be a number of bytes, not {brief(size)}")
    if "data" in tensor:
        raise bad(f"input '{name}': has both 'data' and 'binary_data_size'; one of them is taken")
    if size > len(rest):
        raise bad(f"input '{name}': 'binary_data_size' is {size}, but only {len(rest)} bytes are left in the body")
    return name, from_binary(name, datatype, shape, rest[:size]), size


def check_fits(wanted: TensorSpec, datatype: str, shape: tuple[int, ...]) -> None:
    """Hold a tensor against what the model wants.

    Raises:
        RequestError: datatype, rank or a fixed size differs.
    """
    if datatype != wanted.datatype:
        raise bad(f"input '{wanted.name}': the model takes {wanted.datatype}, not {datatype}")
    if wanted.shape is None:
        return
    fits = len(shape) == len(wanted.shape)
    for fixed, size in zip(wanted.shape, shape, strict=False):
        fits = fits and fixed in (-1, size)
    if not fits:
        raise bad(f"input '{wanted.name}': the model takes shape {list(wanted.shape)}, not {list(shape)}")


def _outputs(given: object, spec: ModelSpec) -> tuple[tuple[str, ...], frozenset[str], frozenset[str]]:
    """Wanted outputs, those explicitly wanted as binary data, and those explicitly wanted as JSON."""
    if given is None or given == []:
        return (), _NONE, _NONE
    if not isinstance(given, list):
        raise bad(f"'outputs' must be a list, not {brief(given)}")
    known = [output.name for output in spec.outputs]
    flags: dict[str, bool | None] = {}
    for output in given:
        if not isinstance(output, dict) or not isinstance(name := output.get("name"), str):
            raise bad("each of 'outputs' must be an object with 'name'")
        if known and name not in known:
            raise bad(f"the model has no output '{name}'; it has {', '.join(repr(one) for one in known)}")
        if name in flags:
            raise bad(f"output '{name}' is asked for twice")
        flags[name] = _flag(_mapping(output, "parameters"), "binary_data", f"output '{name}'")
    binary = frozenset(name for name, flag in flags.items() if flag)
    json = frozenset(name for name, flag in flags.items() if flag is False)
    return tuple(flags), binary, json


def _mapping(parent: Mapping[str, Any], key: str) -> dict[str, Any]:
    value = parent.get(key)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise bad(f"'{key}' must be an object, not {brief(value)}")
    return value


def _flag(parameters: dict[str, Any], key: str, where: str) -> bool | None:
    value = parameters.get(key)
    if value is not None and not isinstance(value, bool):
        raise bad(f"{where}: '{key}' must be true or false, not {brief(value)}")
    return value


def _raw(body: bytes, spec: ModelSpec) -> InferRequest:
    """A request whose body is nothing but the only input's data; the one size that varies follows from its length."""
    if len(spec.inputs) != 1 or spec.inputs[0].shape is None:
        raise bad("a raw binary request (Inference-Header-Content-Length: 0) needs a model with exactly one input")
    wanted = spec.inputs[0]
    varying = [at for at, size in enumerate(wanted.shape or ()) if size == -1]
    # The first size is the batch; a raw request is a batch of one when another size has to be found.
    shape = list(wanted.shape or ())
    if len(varying) > 1 and varying[0] == 0:
        shape[0] = 1
        varying = varying[1:]
    if len(varying) > 1:
        raise bad(f"a raw binary request can't tell the sizes of input '{wanted.name}' {list(wanted.shape or ())}")
    if wanted.datatype == "BYTES":
        shape = [1 if size == -1 else size for size in shape]
        if math.prod(shape) != 1:
            raise bad(f"a raw binary request is one BYTES element, which does not make {list(wanted.shape or ())}")
        return InferRequest(None, {wanted.name: objects([body], tuple(shape))}, binary_default=True)
    if varying:
        row = DTYPES[wanted.datatype].itemsize * math.prod(size for size in shape if size != -1)
        if row == 0 or len(body) % row:
            raise bad(f"input '{wanted.name}' {list(wanted.shape or ())}: {len(body)} bytes are no multiple of {row}")
        shape[varying[0]] = len(body) // row
    array = from_binary(wanted.name, wanted.datatype, tuple(shape), memoryview(body))
    return InferRequest(None, {wanted.name: array}, binary_default=True)


def render(
    request: InferRequest,
    name: str,
    version: str,
    outputs: Mapping[str, Array],
    told: Mapping[str, Mapping[str, str]] = MappingProxyType({}),
) -> tuple[bytes, int | None]:
    """Write an answer.

    Args:
        told: parameters of outputs that have some.

    Returns:
        The body and ``Inference-Header-Content-Length``; None where all of it is JSON.

    Raises:
        RequestError: an output holds what JSON has no form for.
    """
    described: list[dict[str, Any]] = []
    blobs: list[bytes] = []
    for output in request.outputs or outputs:
        array = outputs[output]
        one: dict[str, Any] = {"name": output, "datatype": DATATYPES[array.dtype], "shape": array.shape}
        if output in told:
            one["parameters"] = dict(told[output])
        if request.wants_binary(output):
            blob = to_binary(array)
            one.setdefault("parameters", {})["binary_data_size"] = len(blob)
            blobs.append(blob)
        else:
            one["data"] = to_json(output, array)
        described.append(one)
    answer: dict[str, Any] = {"model_name": name, "model_version": version, "outputs": described}
    if request.id is not None:
        answer["id"] = request.id
    head = orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY)
    return (b"".join((head, *blobs)), len(head)) if blobs else (head, None)
