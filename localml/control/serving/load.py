"""Endpoints as recorded, read in one transaction, and turned into the views that plans are made of."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from sqlalchemy import func
from sqlmodel import Session, col, select

from localml.control.serving.probes import Answer
from localml.control.serving.views import EndpointView, ReplicaView, VariantView
from localml.core.registry.tables import Model, ModelVersion
from localml.core.serving.specs import ENDPOINT_PORT, EndpointSpec, ReplicaState, VariantSpec, VariantState
from localml.core.serving.tables import Endpoint, EndpointReplica, Variant
from localml.core.work.states import TERMINAL, AttemptState, Desired, State
from localml.core.work.tables import Attempt, Workload


@dataclass(frozen=True, slots=True)
class ReplicaRecord:
    """A replica that has not ended. ``attempt`` is its workload's current one, ``last`` the one before that ended."""

    row: EndpointReplica
    workload: Workload
    attempt: Attempt | None = None
    last: Attempt | None = None
    started_at: float | None = None

    @property
    def key(self) -> tuple[int, int]:
        """What a probe's answer belongs to: another attempt is another server."""
        return (self.row.id or 0, self.attempt.id or 0 if self.attempt is not None else 0)

    def url(self, host: str) -> str | None:
        """Where its current attempt serves; None while it does not run."""
        one = self.attempt
        if one is None or not one.runs or self.workload.state is not State.RUNNING:
            return None
        container, published = (one.ports or {}).get(ENDPOINT_PORT, (0, 0))
        if published:
            return f"http://{host}:{published}"
        return f"http://{one.address}:{container}" if one.address and container else None


@dataclass(slots=True)
class VariantRecord:
    """A variant that has not ended."""

    row: Variant
    spec: VariantSpec
    version: ModelVersion | None = None
    replicas: list[ReplicaRecord] = field(default_factory=list)


@dataclass(slots=True)
class EndpointRecord:
    """An endpoint of which something may be left."""

    row: Endpoint
    spec: EndpointSpec
    variants: list[VariantRecord] = field(default_factory=list)
    last_failure: str = ""
    model: str = ""  # name of the registered model of its newest variant; empty where that has none

    @property
    def id(self) -> int:
        return self.row.id or 0

    def replicas(self) -> Iterable[tuple[VariantRecord, ReplicaRecord]]:
        """All replicas with their variants."""
        return ((variant, one) for variant in self.variants for one in variant.replicas)


def load(session: Session) -> list[EndpointRecord]:
    """All endpoints that are not closed, oldest first."""
    rows = list(session.exec(select(Endpoint).where(col(Endpoint.closed_at).is_(None)).order_by(col(Endpoint.id))))
    found = {row.id or 0: EndpointRecord(row, EndpointSpec.stored(row.spec)) for row in rows}
    if not found:
        return []
    variants: dict[int, VariantRecord] = {}
    query = (
        select(Variant, ModelVersion, Model)
        .select_from(Variant)
        .join(ModelVersion, col(Variant.model_version_id) == col(ModelVersion.id), isouter=True)
        .join(Model, col(ModelVersion.model_id) == col(Model.id), isouter=True)
        .where(col(Variant.endpoint_id).in_(list(found)), col(Variant.ended_at).is_(None))
        .order_by(col(Variant.id))
    )
    for variant, version, model in session.exec(query):
        record = VariantRecord(variant, VariantSpec.model_validate_json(variant.spec), version)
        variants[variant.id or 0] = record
        found[variant.endpoint_id].variants.append(record)
        found[variant.endpoint_id].model = model.name if model is not None else ""
    for replica in _replicas(session, list(variants)):
        variants[replica.row.variant_id].replicas.append(replica)
    for record_ in found.values():
        record_.last_failure = _last_failure(session, record_)
    return list(found.values())


def _replicas(session: Session, variants: list[int]) -> Iterable[ReplicaRecord]:
    query = (
        select(EndpointReplica, Workload)
        .where(EndpointReplica.workload_id == Workload.id, col(EndpointReplica.variant_id).in_(variants))
        .where(col(EndpointReplica.ended_at).is_(None))
        .order_by(col(EndpointReplica.id))
    )
    pairs = list(session.exec(query))
    numbers = [workload.id for _, workload in pairs]
    attempts: dict[tuple[int, int], Attempt] = {}
    tries = select(Attempt).where(
        Attempt.workload_id == Workload.id,
        col(Workload.id).in_(numbers),
        col(Attempt.number) >= col(Workload.attempt) - 1,
    )
    for one in session.exec(tries):
        attempts[(one.workload_id, one.number)] = one
    first = select(Attempt.workload_id, func.min(Attempt.started_at)).where(col(Attempt.workload_id).in_(numbers))
    starts = dict(session.exec(first.group_by(col(Attempt.workload_id))).all())
    for row, workload in pairs:
        current = attempts.get((workload.id or 0, workload.attempt))
        before = attempts.get((workload.id or 0, workload.attempt - 1))
        last = current if current is not None and current.state is AttemptState.ENDED else before
        yield ReplicaRecord(row, workload, current, last, starts.get(workload.id or 0))


def _last_failure(session: Session, record: EndpointRecord) -> str:
    """Why the newest version was given up; empty when a newer one serves."""
    query = select(Variant).where(Variant.endpoint_id == record.id).order_by(col(Variant.id).desc()).limit(1)
    newest = session.exec(query).first()
    if newest is None or newest.state is not VariantState.FAILED:
        return ""
    return f"{newest.name} was rolled back: {newest.message}" if record.variants else f"{newest.name}: {newest.message}"


@dataclass(frozen=True, slots=True)
class Known:
    """What else a view needs, asked for one replica or variant at a time.

    Attributes:
        answer: of the probe.
        told: whether the gateway has let go of a draining replica.
        why: why a workload waits, for room or for its runtime; empty when it does not.
        tail: the last line that an ended attempt wrote.
        counts: (requests, errors) of a variant.
    """

    answer: Callable[[ReplicaRecord], Answer | None]
    told: Callable[[EndpointRecord, ReplicaRecord], bool]
    why: Callable[[Workload], str]
    tail: Callable[[Attempt], str]
    counts: Callable[[EndpointRecord, Variant], tuple[int, int]]


def view_of(record: EndpointRecord, known: Known) -> EndpointView:
    """What :func:`localml.control.serving.plan.plan_endpoint` wants to know."""
    row = record.row
    return EndpointView(
        id=record.id,
        desired=row.desired,
        spec=record.spec,
        scale=row.scale,
        deleted=row.deleted_at is not None,
        state=row.state,
        message=row.message,
        last_failure=record.last_failure,
        variants=tuple(_variant(record, one, known) for one in record.variants),
    )


def _variant(record: EndpointRecord, one: VariantRecord, known: Known) -> VariantView:
    row = one.row
    requests, errors = known.counts(record, row)
    return VariantView(
        id=row.id or 0,
        name=row.name,
        state=row.state,
        weight=row.weight,
        own_replicas=one.spec.replicas,
        failures=row.failures,
        not_before=row.not_before,
        created_at=row.created_at,
        promoted_at=row.promoted_at,
        recreate=row.recreate,
        batch=row.batch or row.id or 0,
        leaves=None if row.leaves is None else {int(key): share for key, share in row.leaves.items()},
        requests=requests,
        errors=errors,
        replicas=tuple(_replica(record, replica, known) for replica in one.replicas),
    )


def _replica(record: EndpointRecord, one: ReplicaRecord, known: Known) -> ReplicaView:
    workload = one.workload
    running = one.attempt is not None and one.attempt.runs
    running = running and workload.state is State.RUNNING and workload.desired is Desired.RUN
    answer = known.answer(one) if running else None
    moved = one.row.state is ReplicaState.READY and not _was_ready(one)  # another attempt serves elsewhere
    ready = running and not moved and (answer.ready if answer is not None else _was_ready(one))
    return ReplicaView(
        id=one.row.id or 0,
        state=one.row.state,
        live=workload.state not in TERMINAL,
        failed=workload.state is State.FAILED,
        ready=ready,
        crashes=workload.retries,
        started_at=one.started_at,
        message="" if ready else _message(one, answer, known),
        stopping=workload.desired is Desired.STOP,
        told=one.row.state is ReplicaState.DRAINING and (one.row.url is None or known.told(record, one)),
    )


def _was_ready(one: ReplicaRecord) -> bool:
    """After a restart of the server the record holds until a probe says otherwise."""
    return one.row.state is ReplicaState.READY and one.attempt is not None and one.row.attempt_id == one.attempt.id


def _message(one: ReplicaRecord, answer: Answer | None, known: Known) -> str:
    name, workload = one.workload.name, one.workload
    if one.last is not None and (workload.retries or workload.state in TERMINAL):
        said = known.tail(one.last)
        return f"{name}: {one.last.message}" + (f"; its last line: {said}" if said else "")
    if workload.state is State.QUEUED:
        return known.why(workload)
    if workload.state in TERMINAL:
        return f"{name}: {workload.message}"
    if answer is not None:
        return f"{name} {answer.why}"
    return (known.why(workload) if workload.state is State.PREPARING else "") or f"{name} is being started"
