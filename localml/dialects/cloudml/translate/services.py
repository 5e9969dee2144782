"""Model services of Cloud-ML as endpoints, and back.

A service is an endpoint of one version, named by model name and version together. Its model is copied into the
registry when the service is created. The gateway serves it over HTTP, as ``http_address`` says; ``address`` is a port
that the service has to itself, where TensorFlow Serving's gRPC is spoken: vendor clients name the model there, and not
the version. They predict without credentials, so where only this machine reaches the gateway none are needed (unless
the server is ``--closed``); elsewhere a token of our own API is. An image of one's own serves HTTP on
``$LOCALML_PORT_HTTP`` and answers ``/v2/health/ready``; what the gateway sends it carries ``$LOCALML_REPLICA_TOKEN``
as ``X-Localml-Replica-Token``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from typing import Any

from sqlmodel import col, select

from localml.core.errors import Code, LocalmlError, invalid
from localml.core.people.allow import Thing, allow, may_add_version
from localml.core.people.identity import Caller
from localml.core.people.rights import Action, ThingKind
from localml.core.registry.registry import NewVersion, Registered
from localml.core.serving.endpoints import NewEndpoint
from localml.core.serving.records import EndpointFull
from localml.core.serving.specs import EndpointSpec, EndpointState, Scaling, VariantSpec
from localml.core.serving.tables import EndpointReplica
from localml.core.serving.variants import NewVariant
from localml.core.work.workloads import Full
from localml.dialects.cloudml.errors import missing, need_org
from localml.dialects.cloudml.schemas.services import ModelService, ModelServiceCreate
from localml.dialects.cloudml.translate.orgs import ALL, DIALECT
from localml.dialects.cloudml.translate.training import replica_resources
from localml.dialects.kit.addresses import gateway_url, reachable
from localml.dialects.kit.logs import MAX_TEXT, joined, log_blocks
from localml.dialects.kit.times import plain_time
from localml.platform import Platform

DEFAULT_ORG = "default"
NO_MODEL = "ModelService doesn't exist"
MAX_NAME = 128
_PLAIN = re.compile(rb"[A-Za-z0-9._-]")
_NOT_ECHOED = frozenset({"ps_count", "worker_count", "hdfs_krb_password", "hdfs_krb_keytab"})

STATE_WORDS: dict[EndpointState, str] = {
    EndpointState.STARTING: "creating",
    EndpointState.READY: "running",
    EndpointState.DEGRADED: "running",
    EndpointState.UPDATING: "running",
    EndpointState.ASLEEP: "running",
    EndpointState.STOPPING: "processing",
    EndpointState.STOPPED: "failed",
    EndpointState.FAILED: "failed",
}
"""Every state in the words that clients know; what answers requests is ``running``."""


def endpoint_name(model_name: str, model_version: str) -> str:
    """One name for both: the version is free text, so what no name may hold is written as ``~`` and two hex digits.

    Raises:
        LocalmlError: ``INVALID`` when it gets too long, or holds what no URL can: a slash.
    """
    if "/" in model_version:
        raise invalid("model_version", "must not hold '/', because it is a part of the service's address")
    name = f"{model_name}.{_escaped(model_version)}"
    if len(name) > MAX_NAME:
        raise invalid("model_version", f"is too long: with model_name it takes {len(name)} of {MAX_NAME} characters")
    return name


def route_name(org: str, name: str) -> str:
    """What stands for a service at the gateway, where all organisations meet; different for different services.

    Underscores begin escapes here (``_`` itself is ``_5F``), so that two of them can set off an organisation.
    """

    def plain(text: str) -> str:
        return text.replace("_", "_5F").replace("~", "_")

    return plain(name) if org == DEFAULT_ORG else f"org.{plain(_escaped(org))}__{plain(name)}"


def _escaped(text: str) -> str:
    return "".join(chr(byte) if _PLAIN.match(bytes([byte])) else f"~{byte:02X}" for byte in text.encode())


def create(
    platform: Platform, who: Caller, org: str, pool: str, body: ModelServiceCreate, given: dict[str, Any]
) -> EndpointFull:
    """Register the model and serve it.

    Raises:
        LocalmlError: ``INVALID`` naming the member, ``QUOTA`` or ``CAPACITY`` for shortages, ``CONFLICT`` when there
            is such a service, ``UNAVAILABLE`` when the runtime is not built.
    """
    name, replicas = endpoint_name(body.model_name, body.model_version), body.replicas or 1
    _check_members(body)
    _check_name(platform, org, name)
    resources = replica_resources(platform, body.cpu_limit, body.memory_limit, body.gpu_limit, body.gpu_type)
    args = body.model_args or body.job_args
    spec = VariantSpec(
        resources=resources,
        env={"MODEL_ARGS": args} if args else {},
        image=body.docker_image or "",
        command=("sh", "-c", body.docker_command) if body.docker_command else (),
    )
    registered = _register(platform, who, org, body)
    new = NewEndpoint(
        name=name,
        route=route_name(org, name),
        variants=(NewVariant(spec, registered.version.id),),
        caller=who,
        spec=EndpointSpec(
            scaling=Scaling(minimum=replicas, maximum=replicas),
            open_here=True,
            gateway_port=platform.serving.free_port(),
        ),
        dialect=DIALECT,
        workspace=org,
        pool=pool,
        request=_stored(given, body),
        refuse_over_quota=True,
    )
    try:
        return platform.endpoints.create(new)
    except LocalmlError:
        if registered.made:
            platform.registry.delete(registered, who)
        raise


def _stored(given: dict[str, Any], body: ModelServiceCreate) -> dict[str, Any]:
    """The request as it is kept: as given, without secrets."""
    kept = {name: value for name, value in given.items() if name not in _NOT_ECHOED}
    if body.gpu_limit is not None:
        kept["gpu_limit"] = body.gpu_limit
    return kept


def _check_members(body: ModelServiceCreate) -> None:
    if body.docker_command and not body.docker_image:
        raise invalid("docker_command", "needs docker_image")
    for name in ("prepare_command", "finish_command"):
        if getattr(body, name):
            raise invalid(name, "is not run here; make it a part of docker_command")


def _check_name(platform: Platform, org: str, name: str) -> None:
    """Before the model is copied, which may take a while."""
    if any(one.row.name == name for one in platform.endpoints.list([org], DIALECT)):
        raise LocalmlError(Code.CONFLICT, "model_version: there is a service of this model and version already")


def _register(platform: Platform, who: Caller, org: str, body: ModelServiceCreate) -> Registered:
    source, member = (body.model_uri, "model_uri") if body.model_uri else (body.trainer_uri or "", "trainer_uri")
    if not platform.buckets_for(who, org).exists(source, field=member):
        raise invalid(member, f"{source} does not exist")
    kind = "custom" if body.docker_image else ""
    allow(who, Action.CREATE, Thing(ThingKind.MODEL, workspace=org))
    allowed = partial(may_add_version, who)
    try:
        return platform.registry.register(
            NewVersion(body.model_name, source, who, format=kind, workspace=org, reuse=True, allowed=allowed)
        )
    except LocalmlError as error:
        if error.field != "source":
            raise
        raise invalid(member, error.message.removeprefix("source: ")) from error


def find(platform: Platform, org: str, model_name: str, model_version: str) -> EndpointFull:
    """The live service of a model and version.

    Raises:
        LocalmlError: 404, or 403 when all organisations were asked for and several have it.
    """
    try:
        name = endpoint_name(model_name, model_version)
    except LocalmlError as error:
        raise missing(NO_MODEL) from error
    pair = (model_name, model_version)  # the name alone could be another pair's: "a.b" and "c", "a" and "b.c"
    found = [one for one in listed(platform, org) if one.row.name == name and _pair(one) == pair]
    if len(found) > 1:
        raise need_org()
    if not found:
        raise missing(NO_MODEL)
    return found[0]


def _pair(full: EndpointFull) -> tuple[Any, Any]:
    request = full.row.request or {}
    return request.get("model_name"), request.get("model_version")


def listed(platform: Platform, org: str) -> list[EndpointFull]:
    """Live services of an organisation, or of all."""
    return platform.endpoints.list(None if org == ALL else [org], DIALECT)


def answer(platform: Platform, full: EndpointFull) -> dict[str, Any]:
    """A service as it is answered, a :class:`ModelService`."""
    row, request = full.row, dict(full.row.request or {})
    port, gateway = full.spec.gateway_port, gateway_url()
    version = full.variants[0].version if full.variants else None
    replicas = full.spec.scaling.minimum
    computed = {
        "org_id": row.workspace,
        "org_name": row.workspace,
        "model_uri": request.get("model_uri") or request.get("trainer_uri"),
        "model_args": request.get("model_args") or request.get("job_args"),
        "service_port": str(port),
        "address": f"{reachable(platform.config.host)}:{port}",
        "http_address": f"{gateway}/endpoints/{row.route}" if gateway else None,
        "software": request.get("framework") or (version.format if version is not None else None),
        "version": request.get("framework_version"),
        "state": STATE_WORDS[row.state],
        "create_time": plain_time(row.created_at),
        "update_time": plain_time(row.updated_at),
        "mount_read_only": "False",
        "replicas": replicas,
        "pod_replicas": replicas,
    }
    return {**dict.fromkeys(ModelService.model_fields), **request, **computed}


def logs(platform: Platform, full: EndpointFull, replica: int | None) -> Iterator[bytes]:
    """What the replicas of a service wrote, one after another; each starts with a line that names it.

    Those that have ended are shown where none lives: of a service that failed the last ones tell why.

    Args:
        replica: only this one, counted from 0.

    Raises:
        LocalmlError: 404 when there is no such replica.
    """
    with platform.db.read() as session:
        query = select(EndpointReplica).where(EndpointReplica.endpoint_id == full.row.id)
        rows = list(session.exec(query.order_by(col(EndpointReplica.id))))
    live = [one for one in rows if one.ended_at is None]
    numbers = [one.workload_id for one in (live or rows[-full.spec.scaling.minimum :])]
    if replica is not None:
        numbers = numbers[replica : replica + 1]
        if not numbers:
            raise missing(f"Replica {replica} of {NO_MODEL}")
    found = [platform.workloads.get(number) for number in numbers]
    return joined(_texts(platform, found))


def _texts(platform: Platform, found: list[Full]) -> Iterator[bytes]:
    for place, one in enumerate(found):
        if len(found) > 1:
            yield (b"\n" if place else b"") + f"[localml] {one.row.name}\n".encode()
        yield from log_blocks(platform.logs, one, limit=MAX_TEXT // len(found))
