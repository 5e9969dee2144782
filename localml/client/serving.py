"""The client's part about models and endpoints."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

import urllib3

from localml.client.errors import ClientError
from localml.client.transport import Transport, readable
from localml.client.types import Event, make

_WAIT_S = 30.0
_PREDICT_S = 330.0
"""Longer than the gateway holds a request that wakes an endpoint."""


@dataclass(frozen=True, slots=True)
class ModelVersion:
    """A registered version. ``inputs`` and ``outputs``: {name, datatype, shape} each; None while not known."""

    model: str
    version: int
    source: str
    format: str
    runtime: str
    size: int
    checksum: str
    inputs: list[dict[str, Any]] | None
    outputs: list[dict[str, Any]] | None
    workload_id: int | None
    owner: str
    created_at: float


@dataclass(frozen=True, slots=True)
class Model:
    """A model with its versions, the newest first."""

    name: str
    workspace: str
    owner: str
    description: str
    created_at: float
    updated_at: float
    versions: list[ModelVersion] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An endpoint. ``variants``, the newest first: {name, model, version, state, weight, message, ready, replicas,
    inputs, outputs ...} each. ``settled`` is False while something is under way."""

    id: int
    name: str
    route: str
    url: str | None
    infer_url: str | None
    state: str
    desired: str
    settled: bool
    message: str
    dialect: str
    workspace: str
    owner: str
    pool: str
    scale: int
    spec: dict[str, Any]
    variants: list[dict[str, Any]]
    created_at: float
    updated_at: float
    deleted_at: float | None


class Serving:
    """Calls about models and endpoints."""

    _http: Transport

    # -- models ----------------------------------------------------------------------------------

    def register(
        self, name: str, source: str, *, format: str = "", description: str = "", workspace: str | None = None
    ) -> ModelVersion:
        """Register a file or folder of the object tree as a new version of a model (of the caller's own workspace)."""
        body = {"name": name, "source": source, "format": format, "description": description, "workspace": workspace}
        return make(ModelVersion, self._http.json("POST", "/models", body))

    def models(self, *, workspace: str | None = None) -> list[Model]:
        """All models (of a workspace) with their versions."""
        return [_model(one) for one in self._http.json("GET", "/models", workspace=workspace)["models"]]

    def model(self, reference: str) -> ModelVersion:
        """One version, by ``name`` (the newest) or ``name:version``."""
        return make(ModelVersion, self._http.json("GET", f"/models/{_part(reference)}"))

    def unregister(self, reference: str) -> ModelVersion:
        """Delete one version with its files; one that an endpoint serves is kept."""
        return make(ModelVersion, self._http.json("DELETE", f"/models/{_part(reference)}"))

    # -- endpoints -------------------------------------------------------------------------------

    def serve(self, model: str | None = None, **settings: Any) -> Endpoint:
        """Serve a registered model (``name`` or ``name:version``), or with ``image`` a custom image.

        A model that is a Python kernel runs in the image; ``build_images(onto=image)`` must have been called for it.

        Args:
            settings: members of the request's body: ``name``, ``resources``, ``scaling``, ``options``, ``public`` ...
        """
        return make(Endpoint, self._http.json("POST", "/endpoints", {"model": model, **settings}))

    def endpoints(self, *, workspace: str | None = None) -> list[Endpoint]:
        """All endpoints (of a workspace)."""
        return [make(Endpoint, one) for one in self._http.json("GET", "/endpoints", workspace=workspace)["endpoints"]]

    def endpoint(self, reference: str | int) -> Endpoint:
        """One endpoint with the versions that it had."""
        return make(Endpoint, self._http.json("GET", f"/endpoints/{_part(reference)}"))

    def rollout(
        self, reference: str | int, model: str | None = None, *, weight: float = 100.0, **settings: Any
    ) -> Endpoint:
        """Bring up another version, which takes ``weight`` percent of the requests once it is ready.

        Args:
            model: the same as now when left out.
            settings: what is to differ: ``image``, ``command``, ``resources``, ``env``, ``options``; and ``recreate``.
        """
        body = {"model": model, "weight": weight, **settings}
        return make(Endpoint, self._http.json("POST", f"/endpoints/{_part(reference)}/rollout", body))

    def put_variants(
        self, reference: str | int, variants: Sequence[Mapping[str, Any]], *, recreate: bool = False
    ) -> Endpoint:
        """Replace all versions at once; the new ones take over together once all of them are ready, or none does.

        Args:
            variants: ``weight`` (they add up to 100) with ``model``, ``image`` or the ``name`` of one that serves, and
                what is to differ: ``command``, ``resources``, ``env``, ``options``.
        """
        body = {"variants": [dict(one) for one in variants], "recreate": recreate}
        return make(Endpoint, self._http.json("PUT", f"/endpoints/{_part(reference)}/variants", body))

    def scale(self, reference: str | int, replicas: int | None = None, **limits: Any) -> Endpoint:
        """Change the number of replicas, or the limits within which the load decides (``minimum``, ``maximum`` ...)."""
        body = {key: value for key, value in {"replicas": replicas, **limits}.items() if value is not None}
        return make(Endpoint, self._http.json("POST", f"/endpoints/{_part(reference)}/scale", body))

    def stop_endpoint(self, reference: str | int) -> Endpoint:
        """Let its replicas finish and end; it can be started again."""
        return make(Endpoint, self._http.json("POST", f"/endpoints/{_part(reference)}/stop"))

    def start_endpoint(self, reference: str | int) -> Endpoint:
        """Start it again."""
        return make(Endpoint, self._http.json("POST", f"/endpoints/{_part(reference)}/start"))

    def delete_endpoint(self, reference: str | int) -> Endpoint:
        """Let its replicas finish and end, and forget its name."""
        return make(Endpoint, self._http.json("DELETE", f"/endpoints/{_part(reference)}"))

    def endpoint_events(self, reference: str | int, *, after: int = 0) -> list[Event]:
        """What happened to it, oldest first."""
        found = self._http.json("GET", f"/endpoints/{_part(reference)}/events", after=after)["events"]
        return [make(Event, one) for one in found]

    def endpoint_samples(self, reference: str | int, *, since: float | None = None) -> dict[str, list[dict[str, Any]]]:
        """Variant -> what it did over time: ``at``, ``requests``, ``errors``, ``latency``, ``p50``, ``p99``."""
        found = self._http.json("GET", f"/endpoints/{_part(reference)}/samples", since=since)["variants"]
        return {one["variant"]: one["samples"] for one in found}

    def wait_endpoint(self, reference: str | int, timeout: float | None = None) -> Endpoint:
        """The endpoint once nothing is under way: ready, or failed, or asleep, or stopped.

        Raises:
            TimeoutError: something is still under way after ``timeout`` seconds.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            left = _WAIT_S if deadline is None else min(_WAIT_S, max(0.0, deadline - time.monotonic()))
            found = make(Endpoint, self._http.json("GET", f"/endpoints/{_part(reference)}/wait", timeout=left))
            if found.settled:
                return found
            if deadline is not None and time.monotonic() >= deadline:
                raise TimeoutError(f"endpoint '{found.name}' is {found.state} after {timeout:g} s: {found.message}")

    def predict(
        self,
        reference: str | int,
        body: bytes | Mapping[str, Any],
        *,
        header_length: int | None = None,
        variant: str | None = None,
        timeout: float = _PREDICT_S,
    ) -> dict[str, Any]:
        """Send an inference request (Open Inference Protocol v2) through the gateway.

        Args:
            body: the request; bytes with ``header_length`` for one with binary tensors.
            variant: ask this version, whatever its share.
        """
        target = self.endpoint(reference)
        if target.infer_url is None:
            trouble = self._http.json("GET", "/status")["gateway_trouble"]
            raise ClientError("unavailable", trouble or "the gateway has not been started yet")
        headers = {**self._http.authorization, "Content-Type": "application/json"}
        if header_length is not None:
            headers |= {
                "Content-Type": "application/octet-stream",
                "Inference-Header-Content-Length": str(header_length),
            }
        if variant is not None:
            headers["X-Localml-Variant"] = variant
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        with readable(target.infer_url):
            found = urllib3.request(
                "POST", target.infer_url, body=data, headers=headers, timeout=timeout, retries=False
            )
        return _answer(found.status, found.data)


def _answer(status: int, data: bytes) -> dict[str, Any]:
    try:
        found = json.loads(data)
    except ValueError:
        found = {"error": data[:200].decode("utf-8", "replace")}
    if 200 <= status < 300 and isinstance(found, dict):
        return found
    error = found.get("error", found) if isinstance(found, dict) else found
    words = error.get("message", error) if isinstance(error, dict) else error
    raise ClientError("inference", f"the endpoint answered {status}: {words}", status=status)


def _model(found: Mapping[str, Any]) -> Model:
    versions = [make(ModelVersion, one) for one in found["versions"]]
    return make(Model, {**found, "versions": versions})


def _part(reference: str | int) -> str:
    return quote(str(reference), safe="")
