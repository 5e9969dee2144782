"""What goes in comes out: every datatype in any shape, as JSON and binary, alone and beside other requests."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from helpers.onnx_bench import ROOT, binary, packed, save
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from onnx import TensorProto, helper

sys.path.insert(0, str(ROOT))
from onnx_server import link, metrics, protocol, tensors, version, wire, worker
from onnx_server import settings as server_settings

KINDS = {
    "BOOL": TensorProto.BOOL,
    "UINT8": TensorProto.UINT8,
    "UINT16": TensorProto.UINT16,
    "UINT32": TensorProto.UINT32,
    "UINT64": TensorProto.UINT64,
    "INT8": TensorProto.INT8,
    "INT16": TensorProto.INT16,
    "INT32": TensorProto.INT32,
    "INT64": TensorProto.INT64,
    "FP16": TensorProto.FLOAT16,
    "FP32": TensorProto.FLOAT,
    "FP64": TensorProto.DOUBLE,
    "BYTES": TensorProto.STRING,
}
FIXED = 2
WEIGHTS = np.linspace(-1, 1, 12, dtype="f4").reshape(4, 3)
Array = np.ndarray[Any, Any]
Backends = Callable[[str, tuple[str | int, ...]], worker.Backend]


def graph(datatype: str, dims: tuple[str | int, ...]) -> onnx.GraphProto:
    """y = x of that datatype and, where there are rows, z[n, 3] = f[n, 4] W, which lets requests be put together."""
    x, y = (helper.make_tensor_value_info(name, KINDS[datatype], dims) for name in "xy")
    nodes, inputs, outputs, weights = [helper.make_node("Identity", ["x"], ["y"])], [x], [y], []
    if dims:
        nodes.append(helper.make_node("MatMul", ["f", "w"], ["z"]))
        inputs.append(helper.make_tensor_value_info("f", TensorProto.FLOAT, ["n", 4]))
        outputs.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, ["n", 3]))
        weights.append(helper.make_tensor("w", TensorProto.FLOAT, [4, 3], WEIGHTS))
    return helper.make_graph(nodes, "both", inputs, outputs, weights)


@pytest.fixture(scope="module")
def backends(tmp_path_factory: pytest.TempPathFactory) -> Backends:
    @cache
    def load(datatype: str, dims: tuple[str | int, ...]) -> worker.Backend:
        path = save(tmp_path_factory.mktemp("onnx") / "m", graph(datatype, dims))
        return worker.load(worker.WorkerPlan("onnx", str(path), "m", provider="cpu", threads=1, max_batch=32))

    return load


class InProcess:
    """Stands for a worker process; what it takes and gives has gone over the wire."""

    def __init__(self, backend: worker.Backend) -> None:
        self.spec, self._backend = backend.spec, backend
        self.rows: list[int] = []

    def watch(self, on_death: Callable[[str], None]) -> None:
        pass

    def run(self, batch: wire.Batch, done: link.Done) -> None:
        self.rows.append(len(batch.items))
        sent = wire.pack((batch.outputs, [tensors.freeze(item) for item in batch.items]))
        asyncio.get_running_loop().call_soon(self._answer, sent, done)

    def _answer(self, sent: bytes, done: link.Done) -> None:
        ((outputs, items),) = wire.Unpacker().feed(sent)
        answers = worker.answer(self._backend, wire.Batch(outputs, [tensors.thaw(item) for item in items]))
        done(answers)


@dataclass(frozen=True)
class Request:
    """Arrays by name, and the form in which they go and the answer comes."""

    arrays: dict[str, Array] = field(repr=False)
    datatype: str
    binary_in: bool
    binary_out: bool

    def body(self) -> tuple[bytes, int | None]:
        kinds = {"x": self.datatype, "f": "FP32"}
        wanted = {"binary_data_output": self.binary_out}
        if self.binary_in:
            given = {name: (kinds[name], list(array.shape), data(array)) for name, array in self.arrays.items()}
            body, headers = binary(given, parameters=wanted)
            return body, int(headers["Inference-Header-Content-Length"])
        inputs = [
            {"name": name, "datatype": kinds[name], "shape": array.shape, "data": array.ravel().tolist()}
            for name, array in self.arrays.items()
        ]
        text = json.dumps({"inputs": inputs, "parameters": wanted}, default=bytes.decode)
        return text.encode(), None


def data(array: Array) -> bytes:
    return packed(*array.ravel()) if array.dtype == object else array.tobytes()


@st.composite
def elements(draw: st.DrawFn, datatype: str, shape: tuple[int, ...], is_finite: bool) -> Array:
    """Edge cases, which are much alike, or random bits, so that each request has elements of its own."""
    count, random = int(np.prod(shape)), np.random.default_rng(draw(st.integers(0, 2**32)))
    is_edge = draw(st.sampled_from([False, False, True]))
    if datatype == "BYTES":
        words = draw(st.lists(st.text(max_size=4), min_size=count, max_size=count)) if is_edge else []
        numbers = [str(number) for number in random.integers(0, 10**9, count)]
        return tensors.objects([word.encode() for word in words or numbers], shape)
    dtype = tensors.DTYPES[datatype]
    if is_edge:
        limits = {"allow_nan": not is_finite, "allow_infinity": not is_finite} if dtype.kind == "f" else {}
        return draw(arrays.arrays(dtype, shape, elements=arrays.from_dtype(dtype, **limits)))
    if datatype == "BOOL":
        return random.integers(0, 2, shape).astype(dtype)
    array = np.frombuffer(random.bytes(count * dtype.itemsize), dtype).reshape(shape)
    return np.where(np.isfinite(array), array, dtype.type(1)) if is_finite else array


@st.composite
def company(draw: st.DrawFn) -> tuple[str, tuple[str | int, ...], list[Request]]:
    """A model's datatype and dimensions, and requests that come at once."""
    datatype = draw(st.sampled_from(list(KINDS)))
    rank = draw(st.integers(0, 4))
    inner = draw(st.sampled_from([("a", "b", "c"), (FIXED, "b", FIXED), (FIXED, FIXED, FIXED)]))
    dims: tuple[str | int, ...] = ("n", *inner)[:rank]
    sizes = draw(st.lists(st.tuples(*[st.integers(0, 3)] * 3), min_size=1, max_size=2))  # few, so that some are shared
    requests = []
    for _ in range(draw(st.integers(1, 8))):
        rows, free = draw(st.integers(0, 4)), draw(st.sampled_from(sizes))
        asked = (rows, *(free[at] if isinstance(dim, str) else dim for at, dim in enumerate(inner)))[:rank]
        binary_in, binary_out = draw(st.booleans()), draw(st.booleans())
        given_arrays = {"x": draw(elements(datatype, asked, not (binary_in and binary_out)))}
        if dims:
            random = np.random.default_rng(draw(st.integers(0, 2**32)))
            given_arrays["f"] = random.normal(0, 0.3, (rows, 4)).astype("f4")
        requests.append(Request(given_arrays, datatype, binary_in, binary_out))
    return datatype, dims, requests


async def infer(served: version.ServedVersion, request: Request) -> dict[str, Array]:
    """The outputs that a client reads from the answer."""
    parsed = protocol.parse(*request.body(), served.spec)
    answer, length = protocol.render(parsed, "m", "1", await served.infer(parsed))
    assert (length is not None) == request.binary_out
    outputs = json.loads(answer[:length])["outputs"]
    rest = memoryview(answer)[length or len(answer) :]
    found = {}
    for output in outputs:
        name, kind, shape = output["name"], output["datatype"], tuple(output["shape"])
        if request.binary_out:
            size = output["parameters"]["binary_data_size"]
            found[name], rest = tensors.from_binary(name, kind, shape, rest[:size]), rest[size:]
        else:
            found[name] = tensors.from_json(name, kind, shape, output["data"])
    assert not rest
    return found


@given(company(), st.integers(1, 16), st.sampled_from([0.0, 0.001]))
@settings(deadline=None)
def test_every_request_gets_its_own_elements_bit_for_bit_whoever_else_asks(
    backends: Backends, drawn: tuple[str, tuple[str | int, ...], list[Request]], max_batch: int, delay: float
) -> None:
    datatype, dims, requests = drawn
    told = server_settings.Settings(Path(), "m", max_batch=max_batch, max_delay=delay)

    async def scenario() -> list[dict[str, Array]]:
        copy, source = SimpleNamespace(note="", in_users_words=str), SimpleNamespace(version="1")
        process = InProcess(backends(datatype, dims))
        served = version.ServedVersion(source, copy, None, process, told, metrics.Metrics("m"))  # type: ignore[arg-type]
        return await asyncio.gather(*(infer(served, request) for request in requests))

    for request, found in zip(requests, asyncio.run(scenario()), strict=True):
        x = request.arrays["x"]
        assert (found["y"].shape, found["y"].dtype) == (x.shape, x.dtype)
        assert data(found["y"]) == data(x)
        if dims:
            (alone,) = backends(datatype, dims).run(wire.Batch((), [request.arrays]))
            assert np.allclose(found["z"], alone["z"], rtol=1e-6, atol=1e-6)


def test_requests_of_equal_shape_are_run_together_whatever_their_datatype(backends: Backends) -> None:
    """Without this, the test above could pass with nothing ever put together."""
    for datatype in KINDS:
        process = InProcess(backends(datatype, ("n", "a")))
        assert process.spec.batching
        x = np.ones((1, 2), tensors.DTYPES[datatype]) if datatype != "BYTES" else tensors.objects([b"a"] * 2, (1, 2))
        request = Request({"x": x, "f": np.ones((1, 4), "f4")}, datatype, True, True)

        async def scenario(process: InProcess = process, request: Request = request) -> None:
            copy, source = SimpleNamespace(note="", in_users_words=str), SimpleNamespace(version="1")
            told = server_settings.Settings(Path(), "m")
            served = version.ServedVersion(source, copy, None, process, told, metrics.Metrics("m"))  # type: ignore[arg-type]
            await asyncio.gather(*(infer(served, request) for _ in range(4)))

        asyncio.run(scenario())
        assert process.rows == [1, 3]
