"""The HTTP interface, as a bare ASGI application: frameworks cost more than a tiny model's run."""

from __future__ import annotations

import asyncio
import hmac
import logging
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import orjson

from onnx_server import __version__, protocol
from onnx_server.encoding import CODINGS, decompressed
from onnx_server.errors import RequestError, bad, unavailable
from onnx_server.metrics import CONTENT_TYPE, Metrics
from onnx_server.repository import Repository
from onnx_server.settings import Settings
from onnx_server.version import ServedVersion
from onnx_server.wire import TensorSpec

log = logging.getLogger("onnx_server")
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

_JSON, _BINARY = b"application/json", b"application/octet-stream"
_DIGITS = 18
_INDEX = "/v2/repository/index"
_HEADER_LENGTH = b"inference-header-content-length"
_TOKEN = b"x-localml-replica-token"
_STRANGER = "this server answers localml's gateway alone; send the request there"


class ClientGone(Exception):
    """The client closed the connection before its request was complete."""


class App:
    """Serves one model.

    Args:
        settings: limits and the model's name.
        repository: the versions to serve.
        metrics: what is counted.
    """

    def __init__(self, settings: Settings, repository: Repository, metrics: Metrics) -> None:
        self._settings = settings
        self._repository = repository
        self._metrics = metrics
        self.draining = False
        """True from the moment that the server is told to end."""
        self._token = settings.token.encode()
        self._infer_path = f"/v2/models/{settings.name}/infer"
        self._model_path = f"/v2/models/{settings.name}"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See the ASGI specification."""
        if scope["type"] != "http":
            return
        start = time.perf_counter()
        path, method = scope["path"], scope["method"]
        infers = path.endswith("/infer") or path.startswith("/dlim/")
        try:
            if self._token and not self._knows(scope["headers"]):
                raise RequestError(401, _STRANGER)
            if infers:
                status = 200
                headers, body = await self._infer(path, method, scope, receive)
            elif path == _INDEX:
                status, headers, body = self._index(await self._index_request(method, scope, receive))
            else:
                status, headers, body = self._look(path, method)
        except RequestError as error:
            status, headers, body = _error(error)
        except ClientGone:
            return
        except Exception as error:
            log.exception("a request failed")
            status, headers, body = _error(RequestError(500, f"internal error: {type(error).__name__}"))
        took = time.perf_counter() - start
        if self.draining:
            headers.append((b"connection", b"close"))
        headers.append((b"content-length", b"%d" % len(body)))
        try:
            await send({"type": "http.response.start", "status": status, "headers": headers})
            await send({"type": "http.response.body", "body": b"" if method == "HEAD" else body})
        except (RuntimeError, OSError):  # the client closed the connection meanwhile
            log.debug("a client went away before its answer")
        if infers:  # counted when the answer is on its way
            self._metrics.request(status, took)

    def _knows(self, headers: Headers) -> bool:
        """Whether a request comes from who started this server."""
        for name, value in headers:
            if name == _TOKEN:
                return hmac.compare_digest(value, self._token)
        return False

    async def _infer(self, path: str, method: str, scope: Scope, receive: Receive) -> tuple[Headers, bytes]:
        self._version(path)  # refused before the body is read
        if method != "POST":
            raise RequestError(405, f"{path} takes POST, not {method}")
        declared, header_length, packed = _head(scope["headers"])
        body = await self._body(receive, declared)
        if packed:
            body = await asyncio.to_thread(decompressed, body, self._settings.max_body)
        version = self._version(path)  # while the body came, another one may have taken its place
        if version.spec.text:
            return [(b"content-type", _JSON)], (await version.infer_text(_text(body))).encode()
        request = protocol.parse(body, header_length, version.spec)
        outputs = await version.infer(request)
        answer, length = protocol.render(request, self._settings.name, version.version, outputs, version.spec.told)
        if length is None:
            return [(b"content-type", _JSON)], answer
        return [(b"content-type", _BINARY), (_HEADER_LENGTH, b"%d" % length)], answer

    async def _body(self, receive: Receive, declared: int | None) -> bytes:
        """The whole body of a request."""
        limit = self._settings.max_body
        if declared is not None and declared > limit:
            raise RequestError(413, f"the body has {declared} bytes; at most {limit} are taken")
        message = await receive()
        if message["type"] == "http.request" and not message.get("more_body"):
            body: bytes = message.get("body", b"")
            if len(body) > limit:  # its chunks came at once
                raise RequestError(413, f"the body has more than the {limit} bytes that are taken")
            return body
        parts: list[bytes] = []
        size = 0
        try:
            async with asyncio.timeout(self._settings.body_timeout):
                while True:
                    if message["type"] == "http.disconnect":
                        raise ClientGone
                    parts.append(message.get("body", b""))
                    size += len(parts[-1])
                    if size > limit:
                        raise RequestError(413, f"the body has more than the {limit} bytes that are taken")
                    if not message.get("more_body"):
                        return b"".join(parts)
                    message = await receive()
        except TimeoutError:
            raise RequestError(408, f"the body took longer than {self._settings.body_timeout:g} s") from None

    def _version(self, path: str) -> ServedVersion:
        """The version that an inference request is for."""
        if path == self._infer_path or path == f"/dlim/v1/inference/{self._settings.name}":
            wanted = None
        else:
            wanted = self._wanted(path.removesuffix("/infer"))
        found = self._repository.find(wanted)
        if found is not None:
            return found
        if wanted is None:
            raise unavailable("the model is being loaded")
        if (reason := self._repository.failures.get(wanted)) is not None:
            raise unavailable(f"version {wanted} is not served: {reason}")
        versions = ", ".join(one.version for one in self._repository.versions) or "none"
        raise RequestError(404, f"model '{self._settings.name}' has no version '{wanted}'; it has {versions}")

    def _wanted(self, path: str) -> str | None:
        """The version in ``/v2/models/NAME[/versions/VERSION]``; None where it names none."""
        if path == self._model_path:
            return None
        start = f"{self._model_path}/versions/"
        if path.startswith(start) and "/" not in path[len(start) :]:
            return path[len(start) :]
        if path.startswith("/v2/models/") and not path.startswith((start, f"{self._model_path}/")):
            named = path.split("/")[3]
            raise RequestError(404, f"there is no model '{named}'; this server has '{self._settings.name}'")
        raise RequestError(404, f"there is nothing at {path}")

    def _look(self, path: str, method: str) -> tuple[int, Headers, bytes]:
        """Everything that is only read."""
        path = path.rstrip("/")
        if path.startswith("/v2/repository/models/"):
            raise bad("models are not loaded by callers: 'localml rollout' brings up another version")
        if method not in ("GET", "HEAD"):
            self._look(path, "GET")  # where nothing is, no method is right
            raise RequestError(405, f"{path} takes GET, not {method}")
        if path == "/metrics":
            return 200, [(b"content-type", CONTENT_TYPE)], self._metrics.text()
        if path == "/v2":
            return _json({"name": "onnx_server", "version": __version__, "extensions": list(protocol.EXTENSIONS)})
        if path == "/v2/health/live":
            return _json({"live": True})
        if path == "/v2/health/ready":
            return self._ready(self._repository.find(None), "ready", {})
        if path.endswith("/ready"):
            wanted = self._wanted(path.removesuffix("/ready"))
            return self._ready(self._repository.find(wanted), "ready", {"name": self._settings.name})
        return _json(self._metadata(self._wanted(path)))

    async def _index_request(self, method: str, scope: Scope, receive: Receive) -> bool:
        """Whether only versions that are ready are asked for (Triton's extension *model repository*)."""
        if method != "POST":
            raise RequestError(405, f"{_INDEX} takes POST, not {method}")
        body = await self._body(receive, _head(scope["headers"])[0])
        try:
            wanted = orjson.loads(body) if body.strip() else {}
        except orjson.JSONDecodeError as error:
            raise bad(f"the body is not JSON: {error}") from None
        if not isinstance(wanted, dict) or not isinstance(wanted.get("ready", False), bool):
            raise bad("the body may be an object with 'ready', true or false")
        return bool(wanted.get("ready", False))

    def _index(self, only_ready: bool) -> tuple[int, Headers, bytes]:
        reasons = {one.version: one.trouble for one in self._repository.versions}
        for version, reason in self._repository.failures.items():
            reasons.setdefault(version, reason)
        found = [
            {
                "name": self._settings.name,
                "version": version,
                "state": "UNAVAILABLE" if reason else "READY",
                "reason": reason,
            }
            for version, reason in sorted(reasons.items(), key=lambda one: int(one[0]))
            if not (reason and only_ready)
        ]
        return 200, [(b"content-type", _JSON)], orjson.dumps(found)

    def _ready(self, version: ServedVersion | None, key: str, answer: dict[str, Any]) -> tuple[int, Headers, bytes]:
        ready = version is not None and version.ready and not self.draining
        answer |= {key: ready}
        if version is not None:
            answer["provider"] = version.spec.provider
        if not ready:
            trouble = version.trouble if version is not None else "no such version is loaded"
            answer["error"] = "the server is ending" if self.draining else trouble
        return _json(answer, 200 if ready else 503)

    def _metadata(self, wanted: str | None) -> dict[str, Any]:
        shown = self._repository.find(wanted)
        failures = self._repository.failures
        if shown is None:
            if wanted is None:
                raise unavailable("the model is being loaded")
            if wanted not in failures:
                raise RequestError(404, f"model '{self._settings.name}' has no version '{wanted}'")
            raise unavailable(f"version {wanted} is not served: {failures[wanted]}")
        states: dict[str, dict[str, str]] = {}
        for one in self._repository.versions:
            state = {"state": "ready" if one.ready else "unavailable", "provider": one.spec.provider}
            states[one.version] = state | ({"reason": one.trouble} if one.trouble else {})
        for version, reason in failures.items():
            # A version that serves on with its former files is ready; what lies there now is told beside that.
            states.setdefault(version, {"state": "unavailable"})["load_error"] = reason
        return {
            "name": self._settings.name,
            "versions": [one.version for one in self._repository.versions],
            "platform": shown.spec.platform,
            "inputs": [_tensor(one) for one in shown.spec.inputs],
            "outputs": [_tensor(one) for one in shown.spec.outputs],
            "parameters": {
                "version": shown.version,
                "provider": shown.spec.provider,
                "nodes": shown.spec.nodes,
                "batching": shown.spec.batching,
                "max_batch": self._settings.max_batch if shown.spec.batching else 1,
                "notes": list(shown.spec.notes),
                "states": states,
            },
        }


def _tensor(spec: TensorSpec) -> dict[str, Any]:
    found = {"name": spec.name, "datatype": spec.datatype, "shape": list(spec.shape or ())}
    return {**found, "parameters": spec.parameters} if spec.parameters else found


def _head(headers: Headers) -> tuple[int | None, int | None, bool]:
    """``Content-Length``, ``Inference-Header-Content-Length`` (of what the client had before it compressed the body),
    None where they are missing; and whether the body is compressed."""
    declared = header_length = None
    packed = False
    for name, value in headers:
        if name == b"content-length":
            declared = int(value)
        elif name == _HEADER_LENGTH:
            if not value.isdigit() or len(value) > _DIGITS:
                raise bad("Inference-Header-Content-Length must be a number of bytes")
            header_length = int(value)
        elif name == b"content-encoding" and value.lower() != b"identity":
            if value.lower() not in CODINGS:
                coding = value.decode("latin-1")
                raise RequestError(415, f"Content-Encoding '{coding}' is not taken; gzip and deflate are")
            packed = True
    return declared, header_length, packed


def _text(body: bytes) -> str:
    try:
        return body.decode()
    except UnicodeDecodeError as error:
        raise bad(f"the body must be text in UTF-8: {error}") from None


def _json(answer: dict[str, Any], status: int = 200) -> tuple[int, Headers, bytes]:
    return status, [(b"content-type", _JSON)], orjson.dumps(answer)


def _error(error: RequestError) -> tuple[int, Headers, bytes]:
    status, headers, body = _json({"error": error.message}, error.status)
    if error.retry_after is not None:
        headers.append((b"retry-after", b"%d" % error.retry_after))
    if error.status == 405:
        headers.append((b"allow", error.message.split(" takes ")[1].split(",")[0].encode()))
    if error.status in (408, 413):  # the rest of the body is not read
        headers.append((b"connection", b"close"))
    return status, headers, body
