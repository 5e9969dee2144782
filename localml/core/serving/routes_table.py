"""The route table: what the control plane tells the gateway, as one file.

The control plane writes the whole table, the gateway follows it; neither calls the other, so serving goes on while the
control plane is down. Unknown members are ignored, so that a running gateway understands a newer control plane.

Rolling to another version without losing a request: add the new replicas as ``ready``, set the old ones to
``draining``, write; wait until :class:`localml.core.serving.gateway_stats.GatewayStats` has this ``generation`` and
shows no request in flight on the old ones; only then stop them.
"""

from __future__ import annotations

import hashlib
import os
import re
from enum import StrEnum
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

FOLDER = "gateway"
RESERVED = ("/healthz", "/metrics")
"""Paths that the gateway answers itself."""
FORMAT = 1
"""What of a table a gateway understands, said where it listens: 1 has tokens for replicas. A gateway of less is
replaced, because replicas refuse what it sends."""

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")]
_PREFIX = re.compile(r"(/[A-Za-z0-9._~-]+)+")
_TOKEN_HASH = Field(pattern=r"^[0-9a-f]{64}$")


class BadTable(Exception):
    """The file is there, and is no route table; the message says where it is wrong."""


def _checked_url(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme != "http" or not parts.hostname or not parts.port or parts.path not in ("", "/") or parts.query:
        raise ValueError(f"must be http://host:port, not {url!r}")
    return f"http://{parts.netloc}"


def _checked_prefix(prefix: str) -> str:
    if not _PREFIX.fullmatch(prefix) or any(part in (".", "..") for part in prefix.split("/")):
        raise ValueError(f"must be a path such as /v1/infers/abc, not {prefix!r}")
    if prefix in RESERVED:
        raise ValueError(f"{prefix} is answered by the gateway itself")
    return prefix


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class ReplicaState(StrEnum):
    """Whether a replica gets requests."""

    READY = "ready"
    DRAINING = "draining"  # finishes what it has, gets nothing new


class ReplicaRoute(_Frozen):
    """One HTTP server. ``url`` is ``http://host:port``; a replica that moves to another URL is another replica.
    ``token`` goes with every request to it, as the header :data:`localml.core.serving.specs.REPLICA_TOKEN`."""

    id: str = Field(min_length=1, max_length=255)
    url: Annotated[str, AfterValidator(_checked_url)]
    state: ReplicaState = ReplicaState.READY
    token: str = Field(default="", pattern=r"^[A-Za-z0-9_-]*$", repr=False)


class HealthCheck(_Frozen):
    """Every ``interval_s`` seconds a GET of ``path``. Any 2xx is well; 404 and 405 say that the server lives and has
    no such page; anything else, and no answer in ``timeout_s``, takes the replica out of use until a check succeeds."""

    path: str = Field(default="/v2/health/ready", pattern=r"^/[!-~]*$")
    interval_s: float = Field(default=10.0, ge=0.05)
    timeout_s: float = Field(default=2.0, gt=0)


class VariantRoute(_Frozen):
    """One version of the model. It gets ``weight`` / (sum of the weights) of the requests; with weight 0 only those
    that ask for it by the header ``X-Localml-Variant``, or by its ``version`` in the path
    (``/v2/models/NAME/versions/VERSION``). Without a ``health`` check of its own it has the endpoint's."""

    name: Name
    version: str = ""
    weight: int = Field(default=1, ge=0, le=1_000_000)
    health: HealthCheck | None = None
    replicas: tuple[ReplicaRoute, ...] = ()


class Alias(_Frozen):
    """A further path prefix of an endpoint.

    ``target`` takes the prefix's place in the path that the replica sees: empty removes it, the prefix itself keeps
    it. ``/endpoints/NAME`` (removed), ``/v2/models/NAME`` and WMLA's ``/dlim/v1/inference/NAME`` (kept) need no alias.
    """

    prefix: Annotated[str, AfterValidator(_checked_prefix)]
    target: str = Field(default="", pattern=r"^(/[A-Za-z0-9._~-]+)*$")


class Limits(_Frozen):
    """What one endpoint may use.

    Args:
        max_body: bytes of a request's body; larger ones are answered with 413.
        timeout_s: seconds that a replica may take until its answer begins, and between two pieces of it; then 504.
        max_concurrent: requests at its replicas at a time; None for no limit. More wait.
        max_queue: requests that may wait; more are answered with 503.
        queue_timeout_s: seconds that a request waits for a place, or for a sleeping endpoint to wake; then 503.
    """

    max_body: int = Field(default=2 << 30, ge=0)
    timeout_s: float = Field(default=60.0, gt=0, le=86_400)
    max_concurrent: int | None = Field(default=None, ge=1)
    max_queue: int = Field(default=1000, ge=0)
    queue_timeout_s: float = Field(default=60.0, gt=0, le=86_400)


class EndpointRoute(_Frozen):
    """One endpoint.

    Args:
        token_hashes: SHA-256 (hex) of the tokens that may call it, given as ``Authorization: Bearer`` or
            ``X-Auth-Token`` or ``X-User-Token``; None lets everybody in, an empty tuple nobody.
        retry_infer: a POST has no effects at the replica, so one that failed may be sent to another replica.
        scale_to_zero: when no replica is ready, hold requests and write the wake file instead of answering 503. Also
            set while a version is brought up in place of another.
        wake_hint: content of the wake file, for the control plane's own use.
        health: check of the variants that have none of their own; None for no active checks.
        model: name of the registered model that it serves; gRPC clients may ask for it by that.
        port: a port of its own, where every path leads to it.
    """

    name: Name
    model: str = ""
    port: int | None = Field(default=None, ge=1, le=65535)
    aliases: tuple[Alias, ...] = ()
    token_hashes: tuple[Annotated[str, _TOKEN_HASH], ...] | None = None
    variants: tuple[VariantRoute, ...] = ()
    limits: Limits = Limits()
    health: HealthCheck | None = HealthCheck()
    retry_infer: bool = True
    scale_to_zero: bool = False
    wake_hint: str = ""

    @model_validator(mode="after")
    def _names_differ(self) -> EndpointRoute:
        _no_doubles("variant", [variant.name for variant in self.variants])
        _no_doubles("replica", [replica.id for variant in self.variants for replica in variant.replicas])
        return self

    def prefixes(self) -> dict[str, str]:
        """prefix -> what takes its place in the replica's path; an alias may redefine a built-in one."""
        kept = (f"/v2/models/{self.name}", f"/dlim/v1/inference/{self.name}")
        own = {f"/endpoints/{self.name}": "", **{prefix: prefix for prefix in kept}}
        return own | {alias.prefix: alias.target for alias in self.aliases}


class RouteTable(_Frozen):
    """All endpoints.

    Args:
        generation: the control plane's own count, shown again in the gateway's statistics.
        reader_hashes: SHA-256 (hex) of the tokens that may read the gateway's ``/metrics``; None lets everybody.
        known_hashes: those of all tokens of users, which no replica gets to see.
    """

    generation: int = Field(default=0, ge=0)
    reader_hashes: tuple[Annotated[str, _TOKEN_HASH], ...] | None = ()
    known_hashes: tuple[Annotated[str, _TOKEN_HASH], ...] = ()
    endpoints: tuple[EndpointRoute, ...] = ()

    @model_validator(mode="after")
    def _prefixes_differ(self) -> RouteTable:
        _no_doubles("endpoint", [endpoint.name for endpoint in self.endpoints])
        _no_doubles("port", [str(endpoint.port) for endpoint in self.endpoints if endpoint.port is not None])
        _no_doubles("path prefix", [prefix for endpoint in self.endpoints for prefix in endpoint.prefixes()])
        return self


def _no_doubles(what: str, names: list[str]) -> None:
    doubles = sorted({name for name in names if names.count(name) > 1}) if len(set(names)) < len(names) else []
    if doubles:
        raise ValueError(f"{what} {', '.join(doubles)} is there twice")


def routes_path(data: Path) -> Path:
    """Where the table of a data directory lies."""
    return data / FOLDER / "routes.json"


def wake_folder(data: Path) -> Path:
    """Folder of the wake files. A file named as an endpoint, written at least every second while requests of a
    sleeping endpoint are held, asks the control plane for a replica; whoever acts on it removes it."""
    return data / FOLDER / "wake"


def token_hash(token: str) -> str:
    """What :attr:`EndpointRoute.token_hashes` holds (the same as ``localml.core.people.secrets.hash_token``)."""
    return hashlib.sha256(token.encode()).hexdigest()


def write_routes(data: Path, table: RouteTable) -> None:
    """Put the table in place whole; the gateway sees the old one or the new one, never a part."""
    write_whole(routes_path(data), table.model_dump_json(indent=1).encode())


def read_routes(data: Path) -> RouteTable | None:
    """The table, or None if none was ever written.

    Raises:
        BadTable: the file is no valid table, or cannot be read.
    """
    try:
        return RouteTable.model_validate_json(routes_path(data).read_bytes())
    except FileNotFoundError:
        return None
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "the table"
        raise BadTable(f"{where}: {first['msg']}") from error
    except OSError as error:
        raise BadTable(f"cannot be read: {error.strerror or error}") from error


def write_whole(path: Path, content: bytes) -> None:
    """Write a file that only its owner can read, whole or not at all.

    It is not forced to disk: both sides write their files anew when they start.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        with open(handle, "wb") as file:
            file.write(content)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
