"""The endpoints' controller's writes: each is guarded by what was read, so that a wish that came in between wins."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from sqlmodel import Session

from localml.control.serving.load import EndpointRecord, ReplicaRecord
from localml.control.serving.plan import (
    Close,
    EndReplica,
    Healed,
    MarkReplica,
    MoveVariant,
    SetState,
    Step,
    backoff,
)
from localml.control.serving.scaling import Load
from localml.core.events.records import record_event
from localml.core.ports import Store
from localml.core.serving.specs import EndpointState, ReplicaState, VariantState
from localml.core.serving.tables import Endpoint, EndpointReplica, Variant
from localml.core.sql import update_rows
from localml.core.subjects import Subject

_WORDS = {
    VariantState.BAKING: ("VariantOnTrial", "takes {weight:g} % of the requests, on trial"),
    VariantState.SERVING: ("VariantServes", "serves {weight:g} % of the requests"),
    VariantState.RETIRING: ("VariantRetires", "finishes what it has: {message}"),
    VariantState.FAILED: ("RolledBack", "was given up: {message}"),
}


def apply(session: Session, record: EndpointRecord, steps: Iterable[Step], host: str, now: float) -> None:
    """Write one endpoint's steps, all in one transaction."""
    for step in steps:
        if isinstance(step, MarkReplica):
            _mark(session, record, step, host, now)
        elif isinstance(step, EndReplica):
            _end(session, record, step, now)
        elif isinstance(step, MoveVariant):
            _move(session, record, step, now)
        elif isinstance(step, Healed):
            update_rows(session, Variant, {"failures": 0, "not_before": None}, id=step.variant.id)
        elif isinstance(step, SetState):
            _state(session, record, step, now)
        elif isinstance(step, Close):
            update_rows(session, Endpoint, {"closed_at": now}, id=record.id)


def _mark(session: Session, record: EndpointRecord, step: MarkReplica, host: str, now: float) -> None:
    one = _find(record, step.replica.id)
    values: dict[str, Any] = {"state": step.state}
    if step.state is ReplicaState.READY:
        attempt = one.attempt.id if one.attempt is not None else None
        values |= {"url": one.url(host), "attempt_id": attempt, "ready_at": now}
    elif step.state is ReplicaState.STARTING:
        values |= {"url": None, "attempt_id": None}
    else:
        values |= {"draining_at": now}
    if update_rows(session, EndpointReplica, values, id=step.replica.id, state=step.replica.state) != 1:
        return
    if step.state is ReplicaState.READY:
        _tell(session, record, "ReplicaReady", f"{one.workload.name} is ready at {one.url(host)}", now)
    elif step.state is ReplicaState.STARTING:
        words = step.replica.message or "it does not answer"
        _tell(session, record, "ReplicaUnready", f"{one.workload.name} is not ready any more: {words}", now, True)


def _end(session: Session, record: EndpointRecord, step: EndReplica, now: float) -> None:
    values = {"state": ReplicaState.ENDED, "ended_at": now}
    if update_rows(session, EndpointReplica, values, id=step.replica.id, state=step.replica.state) != 1:
        return
    if step.not_before is None:
        return
    row = session.get(Variant, step.variant.id)
    if row is not None:
        row.failures += 1
        row.not_before = step.not_before
        session.add(row)
        session.flush()
    words = f"{step.replica.message}; it is replaced in {step.not_before - now:g} s"
    _tell(session, record, "ReplicaEnded", words, now, True)


def _move(session: Session, record: EndpointRecord, step: MoveVariant, now: float) -> None:
    old, name = step.variant.state, step.variant.name
    values: dict[str, Any] = {"state": step.to}
    if step.message:
        values["message"] = step.message
    if step.weight is not None:
        values["weight"] = step.weight
    if step.end:
        values["ended_at"] = now
    if step.to in (VariantState.BAKING, VariantState.SERVING) and step.variant.promoted_at is None:
        values["promoted_at"] = now
    if step.to is VariantState.SERVING:
        values |= {"failures": 0, "not_before": None}
    if update_rows(session, Variant, values, id=step.variant.id, state=old) != 1 or step.end:
        return
    reason, words = _WORDS[step.to]
    weight = step.weight if step.weight is not None else step.variant.weight
    text = f"{name} " + words.format(weight=weight, message=step.message)
    _tell(session, record, reason, text, now, step.to is VariantState.FAILED)


def _state(session: Session, record: EndpointRecord, step: SetState, now: float) -> None:
    values = {"state": step.state, "message": step.message, "updated_at": now}
    changed = update_rows(session, Endpoint, values, id=record.id) == 1
    if changed and step.state is not record.row.state:
        bad = step.state in (EndpointState.FAILED, EndpointState.DEGRADED)
        words = f"{record.row.name} is {step.state}" + (f": {step.message}" if step.message else "")
        _tell(session, record, str(step.state).capitalize(), words, now, bad)


def not_added(session: Session, record: EndpointRecord, variant_id: int, why: str, now: float) -> None:
    """A replica could not be submitted; tried again later."""
    row = session.get(Variant, variant_id)
    if row is None:
        return
    row.not_before = now + backoff(row.failures)
    row.failures += 1
    session.add(row)
    session.flush()
    _tell(session, record, "ReplicaRefused", why, now, True)


def rescale(db: Store, record: EndpointRecord, wanted: int, load: Load, now: float) -> None:
    """Another number of replicas because of the load."""
    old = record.row.scale
    if wanted == 0:
        why = f"no request for {record.spec.scaling.idle:g} s"
    elif old == 0:
        why = "a request came"
    else:
        why = f"{load.busy:g} requests are in flight or wait"

    def act(session: Session) -> None:
        values: dict[str, Any] = {"scale": wanted, "scaled_at": now}
        if old == 0:
            values["active_at"] = now
        if update_rows(session, Endpoint, values, id=record.id, scale=old) == 1:
            _tell(session, record, "Scaled", f"from {old} to {wanted} replicas: {why}", now)

    db.write(act)


def with_memory(load: Load, row: Endpoint) -> Load:
    """The load, with what the record knows of the last activity (a new gateway has seen no request yet)."""
    times = [at for at in (load.active_at, row.active_at, row.created_at) if at is not None]
    return replace(load, active_at=max(times))


def is_ready(step: Step, one: ReplicaRecord) -> bool:
    """Whether a step found this replica ready."""
    return isinstance(step, MarkReplica) and step.state is ReplicaState.READY and step.replica.id == one.row.id


def _find(record: EndpointRecord, replica_id: int) -> ReplicaRecord:
    return next(one for _, one in record.replicas() if one.row.id == replica_id)


def _tell(session: Session, record: EndpointRecord, reason: str, words: str, now: float, warning: bool = False) -> None:
    record_event(session, Subject.endpoint(record.id), reason, words, now=now, warning=warning)
