"""Records as JSON values: plain dictionaries whose members are those of the answers in ``schemas.work``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from sqlmodel import col, select

from localml.core.capacity.pools import PoolInfo
from localml.core.capacity.tables import GpuLease
from localml.core.errors import LocalmlError, not_found
from localml.core.events.tables import Event
from localml.core.people.allow import Thing, may
from localml.core.people.identity import Caller
from localml.core.people.rights import Action, ThingKind
from localml.core.work.causes import CAUSES
from localml.core.work.listing import last_exits
from localml.core.work.specs import WorkloadSpec
from localml.core.work.states import TERMINAL, State
from localml.core.work.tables import Attempt, Workload
from localml.core.work.workloads import Full
from localml.dialects.kit.addresses import reachable
from localml.platform import GpuView, Platform

_PLAIN = (
    "id",
    "name",
    "kind",
    "state",
    "desired",
    "cause",
    "message",
    "exit_code",
    "dialect",
    "workspace",
    "owner",
    "version",
    "pool",
    "priority",
    "attempt",
    "retries",
    "cpu",
    "memory",
    "gpu",
    "created_at",
    "updated_at",
    "queued_at",
    "started_at",
    "ended_at",
    "deleted_at",
    "parent_kind",
    "parent_id",
    "parent_index",
)


_MOST_REASONS = 50
_MOST_HOLDERS = 20


def workload(row: Workload) -> dict[str, Any]:
    """A workload as lists show it."""
    return {name: getattr(row, name) for name in _PLAIN}


def listed(platform: Platform, rows: Sequence[Workload]) -> list[dict[str, Any]]:
    """Workloads as lists show them, with ``exited_at`` for those whose output alone is still under way."""
    with platform.db.read_raw() as connection:
        exits = last_exits(connection, [row.id or 0 for row in rows if row.state not in TERMINAL])
    return [{**workload(row), "exited_at": exits.get(row.id or 0)} for row in rows]


def reasons(platform: Platform, who: Caller, rows: Sequence[Workload]) -> dict[int, dict[str, Any] | None]:
    """id -> why it waits, of those that do and come first; a long queue waits for the same."""
    waiting = [row.id or 0 for row in rows if row.state in (State.QUEUED, State.PREPARING)]
    return {number: why(platform, who, platform.why(number)) for number in waiting[:_MOST_REASONS]}


def full(platform: Platform, who: Caller, found: Full, events: Sequence[Event]) -> dict[str, Any]:
    """Everything about a workload, for somebody who may read it."""
    row = found.row
    reason = platform.why(row.id or 0) if row.state not in TERMINAL or not row.cleaned else None
    grants: dict[int, list[dict[str, Any]]] = {}
    for lease in _leases(platform, row.id or 0):
        grants.setdefault(lease.attempt_id, []).append(_grant(platform, lease))
    return {
        **workload(row),
        "help": CAUSES[row.cause].help if row.cause is not None else None,
        "spec": found.spec.model_dump(mode="json", exclude_defaults=True),
        "request": found.request,
        "images": found.images,
        "replicas": [
            _replica(one, grants.get(one.id or 0, []), reachable(platform.config.host)) for one in found.attempts
        ],
        "events": [event(one) for one in events],
        "why": why(platform, who, reason),
    }


def seen(platform: Platform, who: Caller, number: int) -> Workload | None:
    """A workload by its id, if this caller may read it."""
    try:
        row = platform.workloads.row(number)
    except LocalmlError:
        return None
    return row if may(who, Action.READ, Thing.of(ThingKind.WORKLOAD, row)) else None


def need_seen(platform: Platform, who: Caller, spec: WorkloadSpec) -> None:
    """Who waits for a workload learns how it ends: what the caller may not see is none to depend on."""
    for number in spec.depends_on:
        if seen(platform, who, number) is None:
            raise not_found("depends_on: workload", number)


def _leases(platform: Platform, number: int) -> list[GpuLease]:
    """All leases that a workload has or had: which GPU a job ran on is asked most when it is over."""
    with platform.db.read() as session:
        return list(session.exec(select(GpuLease).where(GpuLease.workload_id == number).order_by(col(GpuLease.id))))


def _grant(platform: Platform, lease: GpuLease) -> dict[str, Any]:
    gpu = next((one for one in platform.gpus.devices() if one.uuid == lease.gpu), None)
    return {
        "uuid": lease.gpu,
        "index": gpu.label if gpu is not None else None,
        "fraction": lease.fraction,
        "simulated": gpu is not None and gpu.simulated,
        "released_at": lease.released_at,
    }


def _replica(one: Attempt, gpus: list[dict[str, Any]], host: str) -> dict[str, Any]:
    ports = {
        label: {"container": pair[0], "host": pair[1], "url": f"http://{host}:{pair[1]}" if pair[1] else None}
        for label, pair in (one.ports or {}).items()
    }
    return {
        "role": one.role,
        "index": one.index,
        "attempt": one.number,
        "name": one.name,
        "node": one.node,
        "state": one.state,
        "address": one.address,
        "ports": ports,
        "gpus": gpus,
        "started_at": one.started_at,
        "exited_at": one.exited_at,
        "ended_at": one.ended_at,
        "exit_code": one.exit_code,
        "signal": one.signal,
        "cause": one.cause,
        "message": one.message,
    }


def why(platform: Platform, who: Caller, reason: Any) -> dict[str, Any] | None:
    """Why a workload waits (what :meth:`Platform.why` gives); None when it does not. It names no workload that this
    caller may not read."""
    if reason is None:
        return None
    rows = {number: seen(platform, who, number) for number in reason.holders}
    holders = [number for number, row in rows.items() if row is not None]
    return {
        "code": reason.code,
        "message": reason.message if len(holders) == len(reason.holders) else reason.discreet,
        "short": sorted(reason.short),
        "holders": holders,
        "held_by": [_holder(row) for row in rows.values() if row is not None][:_MOST_HOLDERS],
        "expected_start": reason.expected_start,
    }


def _holder(row: Workload) -> dict[str, Any]:
    return {"id": row.id, "name": row.name, "kind": row.kind, "owner": row.owner, "since": row.started_at}


def event(one: Event) -> dict[str, Any]:
    """An event."""
    names = (
        "id",
        "subject_kind",
        "subject_id",
        "workload_id",
        "at",
        "severity",
        "reason",
        "message",
        "source",
        "replica",
    )
    return {name: getattr(one, name) for name in names}


def pool(info: PoolInfo) -> dict[str, Any]:
    """A pool."""
    return asdict(info)


def gpu(view: GpuView, usage: Any, names: dict[int, str], *, everything: bool) -> dict[str, Any]:
    """A GPU.

    Args:
        names: of the workloads whose leases may be named.
        everything: tell of the machine's programs, too.
    """
    one, mark = view.gpu, view.mark
    held = sum(lease.fraction for lease in view.leases)
    return {
        "uuid": one.uuid,
        "index": one.label,
        "name": one.name,
        "memory": one.memory,
        "simulated": one.simulated,
        "free": max(0.0, round(1.0 - held, 6)),
        "drained": mark is not None and not mark.fenced,
        "fenced": mark is not None and mark.fenced,
        "reason": mark.reason if mark is not None else view.trouble if everything else view.discreet,
        "leases": [_lease(lease, names.get(lease.workload_id)) for lease in view.leases],
        "usage": _usage(usage, everything) if usage is not None else {},
    }


def _lease(lease: GpuLease, name: str | None) -> dict[str, Any]:
    """A lease; without a name it says no more than that there is one."""
    return {
        "workload_id": None if name is None else lease.workload_id,
        "name": name or "",
        "fraction": lease.fraction,
        "acquired_at": None if name is None else lease.acquired_at,
    }


def _usage(usage: Any, everything: bool) -> dict[str, Any]:
    found = asdict(usage)
    return found if everything else found | {"processes": []}
