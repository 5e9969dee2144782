"""Records as JSON values: plain dictionaries whose members are those of the answers in ``schemas.work``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from sqlmodel import col, select

from localml.core.capacity.pools import PoolInfo
from localml.core.capacity.tables import GpuLease
from localml.core.events.tables import Event
from localml.core.work.causes import CAUSES
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


def workload(row: Workload) -> dict[str, Any]:
    """A workload as lists show it."""
    return {name: getattr(row, name) for name in _PLAIN}


def full(platform: Platform, found: Full, events: Sequence[Event]) -> dict[str, Any]:
    """Everything about a workload."""
    row = found.row
    reason = platform.why(row.id or 0) if row.state in ("queued", "preparing") else None
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
        "why": why(reason),
    }


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
        "ended_at": one.ended_at,
        "exit_code": one.exit_code,
        "signal": one.signal,
        "cause": one.cause,
        "message": one.message,
    }


def why(reason: Any) -> dict[str, Any] | None:
    """Why a workload waits (what :meth:`Platform.why` gives); None when it does not."""
    if reason is None:
        return None
    return {
        "code": reason.code,
        "message": reason.message,
        "short": sorted(reason.short),
        "holders": list(reason.holders),
        "expected_start": reason.expected_start,
    }


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


def gpu(view: GpuView, usage: Any, names: dict[int, str]) -> dict[str, Any]:
    """A GPU. ``names`` are those of the workloads that hold leases."""
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
        "reason": mark.reason if mark is not None else view.trouble,
        "leases": [
            {
                "workload_id": lease.workload_id,
                "name": names.get(lease.workload_id, ""),
                "fraction": lease.fraction,
                "acquired_at": lease.acquired_at,
            }
            for lease in view.leases
        ],
        "usage": asdict(usage) if usage is not None else {},
    }
