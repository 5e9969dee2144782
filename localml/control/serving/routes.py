"""From endpoints to the gateway's route table."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from localml.control.serving.load import EndpointRecord, VariantRecord
from localml.control.serving.plan import making_room, weights
from localml.control.serving.views import EndpointView
from localml.core.registry.files import ONNX
from localml.core.serving.routes_table import (
    EndpointRoute,
    HealthCheck,
    Limits,
    ReplicaRoute,
    RouteTable,
    VariantRoute,
)
from localml.core.serving.routes_table import ReplicaState as RouteState
from localml.core.serving.specs import EndpointSpec, ReplicaState, VariantState
from localml.core.serving.tables import Endpoint

log = logging.getLogger("localml.control")

_SCALE = 1000
"""Weights are whole numbers in the table."""
_ROUTED = frozenset({VariantState.SERVING, VariantState.BAKING, VariantState.RETIRING, VariantState.FAILED})
_SLEEP_QUEUE_S = 300.0


@dataclass(frozen=True, slots=True)
class Keys:
    """Who gets in where. Hashes of tokens are None where everybody is let in.

    Attributes:
        callers: hashes of the tokens that may call an endpoint that is not open.
        readers: hashes of the tokens that may read what the gateway counts.
        known: hashes of all tokens of users.
        replica: the token that the replica of an attempt (by id) is asked with.
        here: whether only this machine reaches the gateway.
        closed: whether every endpoint wants a token, public or not.
    """

    callers: Callable[[Endpoint], tuple[str, ...] | None]
    readers: Callable[[], tuple[str, ...] | None]
    known: Callable[[], tuple[str, ...]]
    replica: Callable[[int], str]
    here: bool = True
    closed: bool = False

    def of(self, row: Endpoint, spec: EndpointSpec) -> tuple[str, ...] | None:
        """Hashes of the tokens that may call an endpoint."""
        free = spec.public or (spec.open_here and self.here)
        return None if free and not self.closed else self.callers(row)


def replica_id(number: int, attempt: int | None) -> str:
    """A replica's name in the table; a new attempt is another server."""
    return f"{number}-{attempt or 0}"


def table(pairs: Iterable[tuple[EndpointRecord, EndpointView]], keys: Keys, generation: int) -> RouteTable:
    """The whole table. Endpoints that are stopped or deleted stay in it while replicas drain."""
    routes: list[EndpointRoute] = []
    for one, view in _one_per_route(pairs):
        try:
            routes.append(route(one, view, keys))
        except ValueError as error:  # one that the gateway would refuse must not take the others along
            log.error("the endpoint '%s' is left out of the route table: %s", one.row.route, error)
    return RouteTable(
        generation=generation, reader_hashes=keys.readers(), known_hashes=keys.known(), endpoints=tuple(routes)
    )


def _one_per_route(
    pairs: Iterable[tuple[EndpointRecord, EndpointView]],
) -> Iterable[tuple[EndpointRecord, EndpointView]]:
    """A deleted endpoint's name may have been given to a new one already, which has the route then."""
    found: dict[str, tuple[EndpointRecord, EndpointView]] = {}
    for record, view in pairs:
        gone = view.deleted and not any(one.replicas for one in view.variants)
        if not gone and (record.row.route not in found or not view.deleted):
            found[record.row.route] = (record, view)
    return found.values()


def route(record: EndpointRecord, view: EndpointView, keys: Keys) -> EndpointRoute:
    """One endpoint as the gateway shall have it."""
    shares, spec = weights(view), record.spec
    holds = view.wanted and (spec.scaling.minimum == 0 or making_room(view))
    return EndpointRoute(
        name=record.row.route,
        model=record.model,
        port=None if view.deleted else spec.gateway_port,
        token_hashes=keys.of(record.row, spec),
        variants=tuple(_variant(one, shares, keys) for one in record.variants if one.row.state in _ROUTED),
        limits=Limits(
            max_body=spec.max_body,
            timeout_s=spec.request_timeout,
            max_concurrent=spec.max_concurrent,
            queue_timeout_s=max(_SLEEP_QUEUE_S if holds else 0.0, spec.request_timeout),
        ),
        retry_infer=all(_only_infers(one) for one in record.variants),
        scale_to_zero=holds,
    )


def _only_infers(variant: VariantRecord) -> bool:
    """Whether a request may be sent to another replica when the first one failed: an ONNX model keeps nothing of it;
    what code of the user's own does nobody knows."""
    return variant.version is not None and variant.version.format == ONNX and not variant.spec.image


def _variant(one: VariantRecord, shares: dict[int, float], keys: Keys) -> VariantRoute:
    replicas = []
    for replica in one.replicas:
        row = replica.row
        if row.url is not None and row.state in (ReplicaState.READY, ReplicaState.DRAINING):
            state = RouteState.READY if row.state is ReplicaState.READY else RouteState.DRAINING
            name, token = replica_id(row.id or 0, row.attempt_id), keys.replica(row.attempt_id or 0)
            replicas.append(ReplicaRoute(id=name, url=row.url, state=state, token=token))
    weight = round(shares.get(one.row.id or 0, 0.0) * _SCALE)
    version = str(one.version.number) if one.version is not None else ""
    check = HealthCheck(path=one.spec.health_path)
    return VariantRoute(name=one.row.name, version=version, weight=weight, health=check, replicas=tuple(replicas))
