"""Workloads as the answers about jobs, flat as the vendor's document has them and nested as its clients read them."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from localml.core.work.specs import Role
from localml.core.work.states import NOT_BEGUN, AttemptState, Desired, State
from localml.core.work.tables import Attempt, Workload
from localml.core.work.workloads import Full
from localml.dialects.openpai.translate.clusters import POOL
from localml.dialects.openpai.translate.variables import by_label
from localml.platform import Platform

STATE_WORDS: dict[State, str] = {
    State.QUEUED: "WAITING",
    State.PREPARING: "WAITING",
    State.RUNNING: "RUNNING",
    State.STOPPING: "RUNNING",
    State.SUCCEEDED: "SUCCEEDED",
    State.FAILED: "FAILED",
    State.STOPPED: "STOPPED",
}
"""Every state in the words that clients know; a job that ends still has containers, so it runs."""

SUB_STATE_WORDS: dict[State, str] = {
    State.QUEUED: "FRAMEWORK_WAITING",
    State.PREPARING: "APPLICATION_LAUNCHED",
    State.RUNNING: "APPLICATION_RUNNING",
    State.STOPPING: "APPLICATION_RETRIEVING_DIAGNOSTICS",
    State.SUCCEEDED: "FRAMEWORK_COMPLETED",
    State.FAILED: "FRAMEWORK_COMPLETED",
    State.STOPPED: "FRAMEWORK_COMPLETED",
}

EXECUTION_WORDS: dict[Desired, str] = {Desired.RUN: "START", Desired.STOP: "STOP"}
_JOB_TIMES = ("createdTime", "completedTime", "appLaunchedTime", "appCompletedTime")


def summary(row: Workload, root: str) -> dict[str, Any]:
    """A job as lists show it.

    Args:
        root: the server's URL with a final slash, as the client knows it.
    """
    found = _common(row, root)
    return {"name": row.name, **found, **{name: _text(found[name]) for name in _JOB_TIMES}}


def status(platform: Platform, full: Full, root: str, host: str) -> dict[str, Any]:
    """A job with all its tasks.

    Args:
        host: the address under which the client finds the ports of this machine.
    """
    row = full.row
    current = [one for one in full.attempts if one.number == row.attempt]
    progress = _progress(full, current)
    tasks = {role.name: _task_role(platform, full, role, current, root, host) for role in full.spec.roles}
    return {
        **summary(row, root),
        "appProgress": progress,
        "jobStatus": {**_common(row, root), "appProgress": progress},
        "taskRoles": tasks,
    }


def _common(row: Workload, root: str) -> dict[str, Any]:
    """Times are milliseconds since the Unix epoch."""
    return {
        "username": row.owner,
        "state": STATE_WORDS[row.state],
        "subState": SUB_STATE_WORDS[row.state],
        "executionType": EXECUTION_WORDS[row.desired],
        "retries": row.attempt - 1,
        "createdTime": _milliseconds(row.created_at),
        "completedTime": _milliseconds(row.ended_at),
        "virtualCluster": row.pool.removeprefix(f"{POOL}/"),
        "appId": f"application_{_milliseconds(row.created_at)}_{row.id or 0:04d}",
        "appTrackingUrl": f"{root}api/v1/jobs/{quote(row.name, safe='~')}",
        "appLaunchedTime": _milliseconds(row.started_at),
        "appCompletedTime": _milliseconds(row.ended_at),
        "appExitCode": row.exit_code,
        "appExitDiagnostics": row.message or None,
    }


def _progress(full: Full, current: list[Attempt]) -> str | None:
    """The part of the tasks that are over, between 0 and 1; None before the first has started."""
    if full.row.started_at is None:
        return None
    ended = sum(1 for one in current if one.state is AttemptState.ENDED)
    return f"{ended / full.spec.replicas:.4g}"


def _task_role(
    platform: Platform, full: Full, role: Role, current: list[Attempt], root: str, host: str
) -> dict[str, Any]:
    attempts = {one.index: one for one in current if one.role == role.name}
    statuses = [_task(platform, full, role.name, index, attempts.get(index), root, host) for index in range(role.count)]
    return {"taskRoleStatus": {"name": role.name}, "taskStatuses": statuses}


def _task(
    platform: Platform, full: Full, role: str, index: int, one: Attempt | None, root: str, host: str
) -> dict[str, Any]:
    started = one is not None and one.started_at is not None
    log = f"{root}localml/v1/workloads/{full.row.id}/logs?role={quote(role)}&index={index}"
    return {
        "taskIndex": index,
        "taskState": _task_state(one),
        "containerId": one.name if one is not None and started else None,
        "containerIp": host if started else None,
        "containerPorts": by_label(one.ports or {}) if one is not None and started else None,
        "containerGpus": _gpu_mask(platform, full, one) if one is not None and started else None,
        "containerLog": log if started else None,
        "containerExitCode": one.exit_code if one is not None and one.state is AttemptState.ENDED else None,
    }


def _task_state(one: Attempt | None) -> str:
    if one is None or one.state in NOT_BEGUN:
        return "WAITING"
    if one.state is AttemptState.RUNNING:
        return "RUNNING"
    return "SUCCEEDED" if one.exit_code == 0 else "FAILED"


def _gpu_mask(platform: Platform, full: Full, one: Attempt) -> int:
    """The GPUs that the task holds, as a number with a bit set for each index."""
    held = {lease.gpu for lease in full.leases if lease.attempt_id == one.id}
    return sum(1 << gpu.index for gpu in platform.gpus.devices() if gpu.uuid in held)


def _milliseconds(at: float | None) -> int | None:
    return None if at is None else int(at * 1000)


def _text(value: int | None) -> str | None:
    return None if value is None else str(value)
