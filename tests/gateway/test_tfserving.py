"""TensorFlow Serving's gRPC clients at the gateway's port."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import onnxruntime as ort
import ovmsclient
import pytest
from aiohttp import web
from helpers.gateway import GatewayProcess, client, endpoint, replica, running, variant, wait_for
from helpers.onnx_bench import Server, identity, matmul, save, serving
from helpers.ports import free_port
from onnx import TensorProto
from ovmsclient.tfs_compat.grpc.tensors import make_ndarray, make_tensor_proto
from ovmsclient.tfs_compat.protos.tensorflow.core.framework import tensor_pb2, tensor_shape_pb2, types_pb2
from ovmsclient.tfs_compat.protos.tensorflow_serving.apis import prediction_service_pb2_grpc
from ovmsclient.tfs_compat.protos.tensorflow_serving.apis.classification_pb2 import ClassificationRequest
from ovmsclient.tfs_compat.protos.tensorflow_serving.apis.get_model_metadata_pb2 import GetModelMetadataRequest
from ovmsclient.tfs_compat.protos.tensorflow_serving.apis.predict_pb2 import PredictRequest, PredictResponse

from localml.core.serving.routes_table import EndpointRoute, Limits, token_hash
from localml.gateway.tfserving.service import Failed, checked_header

Code = grpc.StatusCode
KINDS: dict[str, tuple[int, int, str, Any, list[Any]]] = {
    "bool": (TensorProto.BOOL, types_pb2.DT_BOOL, "bool_val", "?", [True, False]),
    "u1": (TensorProto.UINT8, types_pb2.DT_UINT8, "int_val", "u1", [0, 255]),
    "u2": (TensorProto.UINT16, types_pb2.DT_UINT16, "int_val", "u2", [0, 65535]),
    "u4": (TensorProto.UINT32, types_pb2.DT_UINT32, "uint32_val", "u4", [0, 2**32 - 1]),
    "u8": (TensorProto.UINT64, types_pb2.DT_UINT64, "uint64_val", "u8", [0, 2**64 - 1]),
    "i1": (TensorProto.INT8, types_pb2.DT_INT8, "int_val", "i1", [-128, 127]),
    "i2": (TensorProto.INT16, types_pb2.DT_INT16, "int_val", "i2", [-32768, 32767]),
    "i4": (TensorProto.INT32, types_pb2.DT_INT32, "int_val", "i4", [-(2**31), 2**31 - 1]),
    "i8": (TensorProto.INT64, types_pb2.DT_INT64, "int64_val", "i8", [-(2**63), 2**63 - 1]),
    "f2": (TensorProto.FLOAT16, types_pb2.DT_HALF, "half_val", "f2", [-1.5, 65504.0]),
    "f4": (TensorProto.FLOAT, types_pb2.DT_FLOAT, "float_val", "f4", [0.10000000149011612, -3e38]),
    "f8": (TensorProto.DOUBLE, types_pb2.DT_DOUBLE, "double_val", "f8", [0.1, -1e308]),
}
"""key -> (ONNX's type, TensorFlow's type, its field, numpy's type, two values)"""
ROW = np.array([[1, 2, 3, 4]], "f4")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("grpc") / "matmul"
    save(folder, matmul())
    with serving(folder) as server:
        yield server


@pytest.fixture(scope="module")
def types(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("grpc") / "types"
    kinds = {key: onnx for key, (onnx, *_) in KINDS.items()} | {"text": TensorProto.STRING}
    save(folder, identity(kinds))
    with serving(folder) as server:
        yield server


def publish(gateway: GatewayProcess, server: Server, **settings: Any) -> None:
    asyncio.run(gateway.publish(endpoint("m", f"http://127.0.0.1:{server.port}", **settings)))


def tensor(kind: int, shape: list[int], **values: Any) -> Any:
    dims = [tensor_shape_pb2.TensorShapeProto.Dim(size=size) for size in shape]
    return tensor_pb2.TensorProto(dtype=kind, tensor_shape=tensor_shape_pb2.TensorShapeProto(dim=dims), **values)


def request(name: str = "m", version: int | None = None, label: str = "", **inputs: Any) -> Any:
    made = PredictRequest()
    made.model_spec.name = name
    if version is not None:
        made.model_spec.version.value = version
    if label:
        made.model_spec.version_label = label
    for key, value in inputs.items():
        made.inputs[key].CopyFrom(value)
    return made


def predict(gateway: GatewayProcess, asked: Any, *, token: str = "", timeout: float = 60) -> Any:
    """One call on a connection of its own."""
    with grpc.insecure_channel(f"127.0.0.1:{gateway.port}") as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        metadata = (("authorization", f"Bearer {token}"),) if token else ()
        return stub.Predict(asked, timeout=timeout, metadata=metadata)


def refused(gateway: GatewayProcess, asked: Any, **how: Any) -> tuple[Any, str]:
    """Status and words of a call that does not go well."""
    with pytest.raises(grpc.RpcError) as failure:
        predict(gateway, asked, **how)
    return failure.value.code(), failure.value.details()


def x(array: np.ndarray[Any, Any] = ROW) -> Any:
    return make_tensor_proto(array)


def test_a_published_client_predicts(gateway: GatewayProcess, model: Server, tmp_path: Path) -> None:
    publish(gateway, model)
    vendor = ovmsclient.make_grpc_client(f"127.0.0.1:{gateway.port}")
    answer = vendor.predict(inputs={"x": ROW}, model_name="m", timeout=60)
    session = ort.InferenceSession(str(save(tmp_path / "same", matmul())), providers=["CPUExecutionProvider"])
    assert np.array_equal(answer, session.run(None, {"x": ROW})[0])
    about = vendor.get_model_metadata("m")
    assert about["inputs"] == {"x": {"shape": [-1, 4], "dtype": "DT_FLOAT"}}
    assert about["outputs"] == {"y": {"shape": [-1, 3], "dtype": "DT_FLOAT"}}
    assert vendor.get_model_status("m") == {1: {"state": "AVAILABLE", "error_code": 0, "error_message": ""}}
    wait_for(lambda: gateway.endpoint("m").variants[0].statuses == {"200": 3}, gateway.log)  # each call is counted


def test_http_and_grpc_share_the_port(gateway: GatewayProcess, model: Server) -> None:
    publish(gateway, model)

    async def act() -> Any:
        async with client(gateway) as session:
            data = {"inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP32", "data": ROW[0].tolist()}]}
            async with session.post("/v2/models/m/infer", json=data) as answer:
                return (await answer.json())["outputs"][0]["data"]

    over_http = asyncio.run(act())
    over_grpc = predict(gateway, request(x=x())).outputs["y"].float_val
    assert list(over_grpc) == [np.float32(value) for value in over_http]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("content", [True, False], ids=["content", "values"])
def test_every_type_comes_back_as_it_was(gateway: GatewayProcess, types: Server, kind: str, content: bool) -> None:
    publish(gateway, types)
    _, number, field, dtype, values = KINDS[kind]
    array = np.array([values], dtype)
    inputs = {f"x_{key}": tensor(one[1], [0, 2]) for key, one in KINDS.items()}
    inputs["x_text"] = tensor(types_pb2.DT_STRING, [0, 2])
    plain = array.view("u2") if kind == "f2" else array
    given = {"tensor_content": array.tobytes()} if content else {field: plain.ravel().tolist()}
    inputs[f"x_{kind}"] = tensor(number, [1, 2], **given)
    outputs = predict(gateway, request(**inputs)).outputs
    answer = outputs[f"y_{kind}"]
    assert answer.dtype == number
    assert list(getattr(answer, field)) == plain.ravel().tolist()
    assert np.array_equal(make_ndarray(answer), array)
    assert (outputs["y_u1" if kind != "u1" else "y_u2"].tensor_shape.dim[0].size) == 0


@pytest.mark.parametrize(
    ("given", "seen"),
    [
        ([b"a", b"\0b\xc3\xa9\0"], [b"a", b"\0b\xc3\xa9\0"]),
        ([b""], [b"", b""]),
        ([b"last"], [b"last", b"last"]),
    ],
)
def test_strings_are_bytes_and_the_last_one_fills_up(
    gateway: GatewayProcess, types: Server, given: list[bytes], seen: list[bytes]
) -> None:
    publish(gateway, types)
    inputs = {f"x_{key}": tensor(one[1], [0, 2]) for key, one in KINDS.items()}
    inputs["x_text"] = tensor(types_pb2.DT_STRING, [1, 2], string_val=given)
    assert list(predict(gateway, request(**inputs)).outputs["y_text"].string_val) == seen


def test_one_value_fills_a_shape_and_outputs_can_be_chosen(gateway: GatewayProcess, model: Server) -> None:
    publish(gateway, model)
    asked = request(version=1, x=tensor(types_pb2.DT_FLOAT, [2, 4], float_val=[2.0]))
    asked.output_filter.append("y")
    answer = predict(gateway, asked)
    expected = np.full((2, 4), 2, "f4") @ np.linspace(-1, 1, 12, dtype="f4").reshape(4, 3)
    assert np.allclose(make_ndarray(answer.outputs["y"]), expected)
    spec = answer.model_spec
    assert (spec.name, spec.version.value, spec.signature_name) == ("m", 1, "serving_default")


FLOAT = types_pb2.DT_FLOAT


@pytest.mark.parametrize(
    ("asked", "code", "words"),
    [
        (request("other", x=x()), Code.NOT_FOUND, "Servable not found for request: Latest(other)"),
        (request("", x=x()), Code.NOT_FOUND, "Servable not found"),
        (request(version=7, x=x()), Code.NOT_FOUND, "model 'm' has no version '7'"),
        (request(), Code.INVALID_ARGUMENT, "'inputs' must be a list of at least one tensor"),
        (request(y=x()), Code.INVALID_ARGUMENT, "the model has no input 'y'"),
        (request(x=x(ROW.astype("f8"))), Code.INVALID_ARGUMENT, "the model takes FP32, not FP64"),
        (request(x=x(ROW[:, :3])), Code.INVALID_ARGUMENT, "the model takes shape [-1, 4], not [1, 3]"),
        (request(x=tensor(FLOAT, [1, 4], float_val=[1] * 5)), Code.INVALID_ARGUMENT, "input 'x': its values do not"),
        (request(x=tensor(FLOAT, [1, 4], tensor_content=b"abc")), Code.INVALID_ARGUMENT, "input 'x': its values"),
        (request(x=tensor(FLOAT, [-1, 4], float_val=[1])), Code.INVALID_ARGUMENT, "its shape [-1, 4] is not known"),
        (request(x=tensor(FLOAT, [1 << 40, 4], float_val=[1])), Code.INVALID_ARGUMENT, "takes more than 67108864"),
        (request(x=tensor(types_pb2.DT_COMPLEX64, [1])), Code.INVALID_ARGUMENT, "dtype DT_COMPLEX64 is not taken"),
        (request(x=tensor(999, [1])), Code.INVALID_ARGUMENT, "dtype 999 is not taken"),
        (request(x=tensor(types_pb2.DT_STRING, [3])), Code.INVALID_ARGUMENT, "0 values in 'string_val'"),
    ],
)
def test_bad_requests_say_what_is_wrong(
    gateway: GatewayProcess, model: Server, asked: Any, code: Any, words: str
) -> None:
    publish(gateway, model)
    given, said = refused(gateway, asked)
    assert (given, words in said) == (code, True), said
    predict(gateway, request(x=x()))  # and the next one is served


def test_other_signatures_fields_and_methods_are_refused(gateway: GatewayProcess, model: Server) -> None:
    publish(gateway, model)
    asked = request(x=x())
    asked.model_spec.signature_name = "regress"
    code, words = refused(gateway, asked)
    assert (code, words) == (
        Code.INVALID_ARGUMENT,
        'Serving signature key "regress" not found; there is "serving_default"',
    )
    with grpc.insecure_channel(f"127.0.0.1:{gateway.port}") as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        with pytest.raises(grpc.RpcError) as failure:
            stub.GetModelMetadata(GetModelMetadataRequest(metadata_field=["all"]), timeout=60)
        assert failure.value.code() is Code.INVALID_ARGUMENT
        with pytest.raises(grpc.RpcError) as failure:
            stub.Classify(ClassificationRequest(), timeout=60)
        assert failure.value.code() is Code.UNIMPLEMENTED


def test_tokens_limits_and_missing_replicas_have_their_statuses(gateway: GatewayProcess, model: Server) -> None:
    publish(gateway, model, token_hashes=(token_hash("right"),))
    assert refused(gateway, request(x=x()))[0] is Code.UNAUTHENTICATED
    assert refused(gateway, request(x=x()), token="wrong")[0] is Code.UNAUTHENTICATED
    for given, code in (("", Code.UNAUTHENTICATED), ("wrong", Code.UNAUTHENTICATED), ("right", Code.NOT_FOUND)):
        assert refused(gateway, request("other", x=x()), token=given)[0] is code, "as one that is there for others"
    assert refused(gateway, request(x=x()))[1].replace("'m'", "") == refused(gateway, request("n", x=x()))[1].replace(
        "'n'", ""
    )
    assert len(predict(gateway, request(x=x()), token="right").outputs["y"].float_val) == 3
    publish(gateway, model, limits=Limits(max_body=100))
    assert refused(gateway, request(x=x()))[0] is Code.RESOURCE_EXHAUSTED
    asyncio.run(gateway.publish(endpoint("m")))
    code, words = refused(gateway, request(x=x()))
    assert (code, words) == (Code.UNAVAILABLE, "no replica of this endpoint is ready")


def test_a_line_break_in_metadata_begins_no_header_and_no_request() -> None:
    """Python's client refuses to send one, others do not."""
    for value in ("Bearer x\r\nhost: evil", "x\n", "x\x00", "x\x7f"):
        with pytest.raises(Failed):
            checked_header("authorization", value)
    assert checked_header("authorization", "Bearer abc~!") == b"authorization: Bearer abc~!\r\n"


def answering(value: float) -> Any:
    """A replica that knows JSON only."""

    async def handler(asked: web.BaseRequest) -> web.StreamResponse:
        await asked.read()
        output = {"name": "y", "datatype": "FP32", "shape": [1, 1], "data": [[value]]}
        return web.json_response({"model_name": "any", "model_version": "v-1", "outputs": [output]})

    return handler


async def value(port: int, **how: Any) -> float:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        answer: PredictResponse = await stub.Predict(request(x=x(), **how), timeout=60)
        return float(answer.outputs["y"].float_val[0])


def test_a_client_of_an_endpoints_own_port_finds_that_one_alone(gateway: GatewayProcess) -> None:
    """Cloud-ML's clients name the model and not its version: the port is what tells."""

    async def act() -> None:
        async with replica(answering(1)) as one, replica(answering(2)) as two, replica(answering(0)) as other:
            first, second = free_port(), free_port()
            await gateway.publish(
                endpoint("d.old", one, model="d", port=first),
                endpoint("d.new", two, model="d", port=second),
                endpoint("d", other),
            )
            assert await value(first, name="d") == 1
            assert await value(second, name="d") == 2
            assert await value(second, name="d.new") == 2
            assert await value(gateway.port, name="d") == 0
            with pytest.raises(grpc.RpcError) as failure:
                await value(second, name="d.old")
            assert failure.value.details() == "Servable not found for request: Latest(d.old)"

    asyncio.run(act())


def test_a_model_of_several_endpoints_is_chosen_by_its_version(gateway: GatewayProcess) -> None:
    """As Cloud-ML's services are: MODEL.VERSION."""

    async def act() -> None:
        async with replica(answering(2)) as two, replica(answering(10)) as ten, replica(answering(0)) as other:
            numbered = [endpoint("d.2", two, model="d"), endpoint("d.10", ten, model="d")]
            await gateway.publish(*numbered, endpoint("e", other, model="d2"))
            assert await value(gateway.port, name="d.2") == 2
            assert await value(gateway.port, name="d", version=2) == 2
            assert await value(gateway.port, name="d", label="10") == 10
            assert await value(gateway.port, name="d") == 10, "the latest version"
            assert await value(gateway.port, name="d2") == 0
            with pytest.raises(grpc.RpcError) as failure:
                await value(gateway.port, name="d", version=3)
            assert failure.value.details() == "Servable not found for request: Specific(d, 3)"
            await gateway.publish(*numbered, endpoint("d.new", other, model="d"))
            with pytest.raises(grpc.RpcError) as failure:
                await value(gateway.port, name="d")
            assert failure.value.code() is Code.FAILED_PRECONDITION
            assert await value(gateway.port, name="d", label="new") == 0

    asyncio.run(act())


def test_a_version_is_asked_of_the_variant_that_has_it(gateway: GatewayProcess) -> None:
    async def act() -> None:
        async with replica(answering(1)) as one, replica(answering(2)) as two:
            old = variant("v1", one, weight=90).model_copy(update={"version": "1"})
            new = variant("v2", two, weight=10).model_copy(update={"version": "2"})
            await gateway.publish(EndpointRoute(name="d", variants=(old, new), health=None))
            async with grpc.aio.insecure_channel(f"127.0.0.1:{gateway.port}") as channel:
                stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
                for version in (1, 2, 1, 2, 2):
                    answer = await stub.Predict(request("d", version, x=x()), timeout=60)
                    assert answer.outputs["y"].float_val[0] == version
            async with client(gateway) as session:
                for version in (1, 2, 1, 2, 2):
                    async with session.post(f"/v2/models/d/versions/{version}/infer", data=b"{}") as found:
                        assert (await found.json())["outputs"][0]["data"] == [[version]]

    asyncio.run(act())


def test_a_deadline_ends_the_work_at_the_replica(gateway: GatewayProcess) -> None:
    async def act() -> None:
        given_up = asyncio.Event()

        async def hang(asked: web.BaseRequest) -> web.StreamResponse:
            await asked.read()
            try:
                await asyncio.Event().wait()
            finally:
                given_up.set()
            raise AssertionError

        async with replica(hang) as url, grpc.aio.insecure_channel(f"127.0.0.1:{gateway.port}") as channel:
            await gateway.publish(endpoint("m", url))
            stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
            with pytest.raises(grpc.RpcError) as failure:
                await stub.Predict(request(x=x()), timeout=0.5)
            assert failure.value.code() is Code.DEADLINE_EXCEEDED
            await asyncio.wait_for(given_up.wait(), 60)

    asyncio.run(act())


def test_an_answer_that_is_none_is_an_error(gateway: GatewayProcess) -> None:
    async def nonsense(asked: web.BaseRequest) -> web.StreamResponse:
        await asked.read()
        return web.Response(text=json.dumps({"predictions": [1]}))

    async def act() -> None:
        async with replica(nonsense) as url, grpc.aio.insecure_channel(f"127.0.0.1:{gateway.port}") as channel:
            await gateway.publish(endpoint("m", url))
            stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
            with pytest.raises(grpc.RpcError) as failure:
                await stub.Predict(request(x=x()), timeout=60)
            assert failure.value.code() is Code.INTERNAL
            assert "did not answer in the Open Inference Protocol" in failure.value.details()

    asyncio.run(act())


def test_a_gateway_that_ends_finishes_calls_in_flight(own_gateway: GatewayProcess) -> None:
    async def act() -> int:
        arrived, go = asyncio.Event(), asyncio.Event()

        async def slow(asked: web.BaseRequest) -> web.StreamResponse:
            arrived.set()
            await go.wait()
            return await answering(1)(asked)

        async with replica(slow) as url, grpc.aio.insecure_channel(f"127.0.0.1:{own_gateway.port}") as channel:
            await own_gateway.publish(endpoint("m", url))
            stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
            call = asyncio.ensure_future(stub.Predict(request(x=x()), timeout=60))
            await arrived.wait()
            own_gateway.process.send_signal(signal.SIGTERM)
            go.set()
            assert (await call).outputs["y"].float_val[0] == 1
            return await asyncio.to_thread(own_gateway.wait)

    assert asyncio.run(act()) == 0


def test_without_the_packages_clients_hear_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "hidden").mkdir()
    (tmp_path / "hidden" / "ovmsclient.py").write_text("raise ImportError('hidden')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "hidden"))
    for gateway in running(tmp_path / "data"):
        code, words = refused(gateway, request(x=x()))
        assert (code, "HTTP status 501" in words) == (Code.UNAVAILABLE, True)
        assert "pip install 'localml[grpc]'" in gateway.log()
        assert gateway.health()["status"] == "ok"
