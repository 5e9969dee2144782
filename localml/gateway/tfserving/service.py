"""The gRPC server: ``PredictionService`` (``Predict``, ``GetModelMetadata``) and ``ModelService`` (``GetModelStatus``).

Everything else of TensorFlow Serving's services is answered ``UNIMPLEMENTED``.
"""

from __future__ import annotations

import functools
import json
import struct
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import grpc
from ovmsclient.tfs_compat.protos.tensorflow.core.framework.tensor_shape_pb2 import TensorShapeProto
from ovmsclient.tfs_compat.protos.tensorflow.core.protobuf.meta_graph_pb2 import TensorInfo
from ovmsclient.tfs_compat.protos.tensorflow_serving.apis import model_service_pb2_grpc, prediction_service_pb2_grpc
from ovmsclient.tfs_compat.protos.tensorflow_serving.apis.get_model_metadata_pb2 import (
    GetModelMetadataRequest,
    GetModelMetadataResponse,
    SignatureDefMap,
)
from ovmsclient.tfs_compat.protos.tensorflow_serving.apis.get_model_status_pb2 import (
    GetModelStatusRequest,
    GetModelStatusResponse,
    ModelVersionStatus,
)
from ovmsclient.tfs_compat.protos.tensorflow_serving.apis.predict_pb2 import PredictRequest, PredictResponse

from localml.core.numerals import whole
from localml.gateway.headers import TOKEN_HEADERS, tokens_of
from localml.gateway.routing import Endpoint, Router
from localml.gateway.tfserving.tensors import TYPES, BadTensor, fill_response, infer_request
from localml.gateway.upstream import Broken, Pool, Unreachable

MAX_MESSAGE = 64 << 20
"""Bytes of a request: unlike an HTTP body it is held in memory whole."""
SIGNATURE = "serving_default"
_METHOD = "tensorflow/serving/predict"
_SIGNATURE_DEF = "signature_def"
_PASSED_ON = frozenset({*TOKEN_HEADERS, "x-localml-variant"})
"""Metadata that goes on as headers."""
_CODES: dict[int, grpc.StatusCode] = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.NOT_FOUND,
    408: grpc.StatusCode.DEADLINE_EXCEEDED,
    413: grpc.StatusCode.RESOURCE_EXHAUSTED,
    502: grpc.StatusCode.UNAVAILABLE,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
}

IDLE = 120.0
"""Seconds that a connection may stay without a call; gRPC's clients connect again by themselves."""
Context = Any
"""``grpc.aio.ServicerContext``; gRPC has no types of its own."""


class Failed(Exception):
    """A call is answered with this status."""

    def __init__(self, code: grpc.StatusCode, message: str) -> None:
        super().__init__(message)
        self.code = code


class Service:
    """A gRPC server that listens."""

    def __init__(self, server: Any, port: int, pool: Pool) -> None:
        self._server, self.port, self._pool = server, port, pool

    async def stop(self, grace: float) -> None:
        """Take no more calls, and let those in flight finish for ``grace`` seconds."""
        await self._server.stop(grace)
        self._pool.retire()


async def start(router: Router, gateway: str, only: Mapping[int, str]) -> Service:
    """Listen on a free port of loopback.

    Args:
        gateway: URL of the gateway, through which calls go as HTTP requests.
        only: port of a client's connection -> the endpoint that it may ask for; empty for all.
    """
    server = grpc.aio.server(
        options=[
            ("grpc.max_receive_message_length", MAX_MESSAGE),
            ("grpc.max_send_message_length", -1),
            ("grpc.max_connection_idle_ms", int(IDLE * 1000)),
            ("grpc.server_handshake_timeout_ms", int(IDLE * 1000)),
        ]
    )
    pool = Pool(gateway)
    calls = Calls(router, pool, only)
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(Prediction(calls), server)
    model_service_pb2_grpc.add_ModelServiceServicer_to_server(Models(calls), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    return Service(server, port, pool)


@dataclass(frozen=True, slots=True)
class Target:
    """What a ``ModelSpec`` names: an endpoint, and the version that its replicas are asked for ('' for their own)."""

    endpoint: Endpoint
    version: str = ""

    @property
    def path(self) -> str:
        """Of the model at the gateway."""
        name = self.endpoint.name
        return f"/v2/models/{name}" + (f"/versions/{quote(self.version, safe='')}" if self.version else "")


def find(endpoints: Mapping[str, Endpoint], spec: Any) -> Target:
    """The endpoint for a ``ModelSpec``: one of that name, else one that serves the registered model of that name.

    Several endpoints may serve versions of one model (Cloud-ML's services do, as ``MODEL.VERSION``): the version
    chooses; without one the greatest number is taken, as TensorFlow Serving does.

    Raises:
        Failed: there is none, or it is not clear which.
    """
    wanted = spec.version_label or str(spec.version.value or "")  # some clients write 0 for the latest
    if spec.name in endpoints:
        return Target(endpoints[spec.name], wanted)
    same = {name: one for name, one in endpoints.items() if one.route.model == spec.name and spec.name}
    if wanted and (exact := same.get(f"{spec.name}.{wanted}")) is not None:
        return Target(exact)
    if len(same) == 1:
        return Target(next(iter(same.values())), wanted)
    if not same or wanted:
        raise Failed(grpc.StatusCode.NOT_FOUND, f"Servable not found for request: {_described(spec.name, wanted)}")
    numbered = {name.removeprefix(f"{spec.name}."): one for name, one in same.items()}
    if any(whole(version) is None for version in numbered):
        message = f"{len(same)} versions of '{spec.name}' are served; model_spec.version_label must name one"
        raise Failed(grpc.StatusCode.FAILED_PRECONDITION, message)
    return Target(numbered[max(numbered, key=int)])


def _described(name: str, version: str) -> str:
    return f"Specific({name}, {version})" if version else f"Latest({name})"


class Calls:
    """HTTP requests to the gateway on behalf of gRPC clients."""

    def __init__(self, router: Router, pool: Pool, only: Mapping[int, str]) -> None:
        self._router, self._pool, self._only = router, pool, only

    def target(self, spec: Any, context: Context) -> Target:
        """See :func:`find`; what takes another token is not there, and a client that came to an endpoint's own port
        finds that one alone."""
        endpoints = self._router.endpoints
        port = int(context.peer().rpartition(":")[2])
        if port not in self._only:
            raise Failed(grpc.StatusCode.PERMISSION_DENIED, "this port is the gateway's own; call the gateway")
        if name := self._only[port]:
            endpoints = {name: endpoints[name]} if name in endpoints else {}
        token = _token(context)
        try:
            return find({name: one for name, one in endpoints.items() if one.admits(token)}, spec)
        except Failed:
            if self._router.tells(token):
                raise
            words = f"no model {spec.name!r} is served without a token that is valid for it"
            raise Failed(grpc.StatusCode.UNAUTHENTICATED, words) from None

    async def get(self, path: str, context: Context) -> dict[str, Any]:
        """The JSON object at a path."""
        content, _ = await self._ask(b"GET", path, context, b"", b"")
        found = json.loads(content)
        return found if isinstance(found, dict) else {}

    async def infer(self, path: str, context: Context, body: bytes, header_length: int) -> tuple[bytes, int | None]:
        """Body and Inference-Header-Content-Length of an inference's answer."""
        return await self._ask(b"POST", f"{path}/infer", context, body, b"%d" % header_length)

    async def _ask(
        self, method: bytes, path: str, context: Context, body: bytes, header_length: bytes
    ) -> tuple[bytes, int | None]:
        head = b"%b %b HTTP/1.1\r\nhost: %b\r\n" % (method, path.encode(), self._pool.netloc)
        for key, value in context.invocation_metadata():
            if key in _PASSED_ON:
                head += checked_header(key, value)
        if body:
            head += b"content-type: application/octet-stream\r\ncontent-length: %d\r\n" % len(body)
            head += b"inference-header-content-length: %b\r\n" % header_length
        try:
            connection = await self._pool.acquire()
            try:
                coming = connection.begin(without_body=False)
                connection.write(b"".join((head, b"\r\n", body)))
                answer = await coming
                content = await answer.body.whole()
            finally:  # a call that is given up ends its connection, and with it the work at the replica
                self._pool.give_back(connection)
        except (Broken, Unreachable) as error:
            raise Failed(grpc.StatusCode.UNAVAILABLE, f"the gateway is going down: {error}") from error
        if answer.status != 200:
            if wait := answer.first.get(b"retry-after"):
                context.set_trailing_metadata((("retry-after", wait.decode("latin-1")),))
            raise Failed(_CODES.get(answer.status, grpc.StatusCode.INTERNAL), _message(answer.status, content))
        length = answer.first.get(b"inference-header-content-length")
        return content, int(length) if length is not None else None


def _token(context: Context) -> bytes | None:
    """What the call's metadata lets in, as the gateway reads it from headers (the first of a name)."""
    given = {str(key): str(value).encode() for key, value in reversed(tuple(context.invocation_metadata()))}
    return next(iter(tokens_of(*map(given.get, TOKEN_HEADERS))), None)


def checked_header(key: str, value: str) -> bytes:
    """Metadata as a header's line.

    Raises:
        Failed: it holds a control character: a line break would begin another header, or another request.
    """
    if not (value.isascii() and value.isprintable()):
        raise Failed(grpc.StatusCode.INVALID_ARGUMENT, f"metadata '{key}' holds a control character")
    return b"%b: %b\r\n" % (key.encode(), value.encode())


def _message(status: int, content: bytes) -> str:
    try:
        return str(json.loads(content)["error"])
    except (ValueError, KeyError, TypeError):
        return content[:1000].decode("utf-8", "replace") or f"it was answered with {status}"


Method = Callable[[Any, Any, Context], Awaitable[Any]]


def _answered(method: Method) -> Method:
    """What goes wrong becomes the call's status."""

    @functools.wraps(method)
    async def call(self: Any, request: Any, context: Context) -> Any:
        try:
            return await method(self, request, context)
        except Failed as error:
            await context.abort(error.code, str(error))
        except BadTensor as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))

    return call


class Prediction(prediction_service_pb2_grpc.PredictionServiceServicer):  # type: ignore[misc]
    """``tensorflow.serving.PredictionService``."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls

    @_answered
    async def Predict(self, request: PredictRequest, context: Context) -> PredictResponse:
        """Inputs by name to outputs by name."""
        spec = request.model_spec
        if spec.signature_name not in ("", SIGNATURE):
            message = f'Serving signature key "{spec.signature_name}" not found; there is "{SIGNATURE}"'
            raise Failed(grpc.StatusCode.INVALID_ARGUMENT, message)
        path = self._calls.target(spec, context).path
        content, length = await self._calls.infer(path, context, *infer_request(request))
        response = PredictResponse()
        response.model_spec.name, response.model_spec.signature_name = spec.name, SIGNATURE
        try:
            fill_response(response, content, length)
        except (ValueError, KeyError, TypeError, AttributeError, struct.error) as error:
            message = f"the model's server did not answer in the Open Inference Protocol: {error!r}"
            raise Failed(grpc.StatusCode.INTERNAL, message) from error
        return response

    @_answered
    async def GetModelMetadata(self, request: GetModelMetadataRequest, context: Context) -> GetModelMetadataResponse:
        """The model's only signature, from its inputs and outputs."""
        if list(request.metadata_field) != [_SIGNATURE_DEF]:
            raise Failed(grpc.StatusCode.INVALID_ARGUMENT, f"metadata_field: only '{_SIGNATURE_DEF}' is there")
        model = await self._calls.get(self._calls.target(request.model_spec, context).path, context)
        signatures = SignatureDefMap()
        signature = signatures.signature_def[SIGNATURE]
        signature.method_name = _METHOD
        for side, tensors in ((signature.inputs, model.get("inputs")), (signature.outputs, model.get("outputs"))):
            for one in tensors or ():
                side[one["name"]].CopyFrom(_tensor_info(one))
        response = GetModelMetadataResponse()
        response.model_spec.name = request.model_spec.name
        response.model_spec.version.value = next(iter(_numbers(model)), 0)
        entry = response.metadata[_SIGNATURE_DEF]
        entry.type_url = "type.googleapis.com/tensorflow.serving.SignatureDefMap"  # the package's own name differs
        entry.value = signatures.SerializeToString()
        return response


def _tensor_info(tensor: dict[str, Any]) -> TensorInfo:
    shape = TensorShapeProto(dim=[TensorShapeProto.Dim(size=size) for size in tensor["shape"]])
    return TensorInfo(name=f"{tensor['name']}:0", dtype=TYPES.get(tensor["datatype"], 0), tensor_shape=shape)


def _numbers(model: dict[str, Any]) -> list[int]:
    """The versions that the model's server has, as TensorFlow Serving has them: numbers, the latest first."""
    return _newest_first(map(str, model.get("versions") or ()))


def _newest_first(versions: Iterable[str]) -> list[int]:
    return sorted((number for one in versions if (number := whole(one)) is not None), reverse=True)


class Models(model_service_pb2_grpc.ModelServiceServicer):  # type: ignore[misc]
    """``tensorflow.serving.ModelService``."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls

    @_answered
    async def GetModelStatus(self, request: GetModelStatusRequest, context: Context) -> GetModelStatusResponse:
        """The versions that answer requests; ``UNAVAILABLE`` while none does."""
        target = self._calls.target(request.model_spec, context)
        model = await self._calls.get(target.path, context)
        served = {one.version for one in target.endpoint.variants.values() if one.ready}
        wanted = whole(target.version)
        versions = [wanted] if wanted is not None else _newest_first(served) or _numbers(model)
        state = ModelVersionStatus.AVAILABLE
        return GetModelStatusResponse(
            model_version_status=[ModelVersionStatus(version=version, state=state) for version in versions]
        )
