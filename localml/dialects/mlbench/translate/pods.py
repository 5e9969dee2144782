"""The workers of runs as Kubernetes pods, and runs as they are found."""

from __future__ import annotations

import re
from dataclasses import dataclass

from localml.core.errors import LocalmlError, not_found
from localml.core.series.samples import replica_name
from localml.core.work.listing import Query
from localml.core.work.states import ACTIVE, NOT_BEGUN, AttemptState, State
from localml.core.work.tables import Attempt, Workload
from localml.core.work.workloads import Full
from localml.dialects.mlbench import schemas
from localml.platform import Platform

DIALECT = POOL = "mlbench"
RELEASE = "localml"
WORKER = "worker"
_POD = re.compile(rf".*-mlbench-{WORKER}-{RELEASE}-([0-9]{{1,18}})-([0-9]{{1,9}})")
_MOST = 2**63


@dataclass(frozen=True, slots=True)
class Source:
    """What a metric is of: a run, or one of its pods (``replica`` not empty). ``name`` is as clients know it."""

    run: Workload
    name: str
    replica: str = ""


def slug(name: str) -> str:
    """A run's name as a part of its pods' names."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower())[:40].strip("-") or "run"


def pod_name(row: Workload, index: int) -> str:
    """``quiet-mink-mlbench-worker-localml-7-0``: the first worker of run 7."""
    return f"{row.name}-mlbench-{WORKER}-{RELEASE}-{row.id}-{index}"


def find_run(platform: Platform, number: int) -> Full:
    """A run by its id; ``NOT_FOUND`` if there is none or it was deleted."""
    if 0 <= number < _MOST:
        try:
            found = platform.workloads.get(number)
        except LocalmlError as error:
            raise _no_run(number) from error
        if found.row.dialect == DIALECT and found.row.deleted_at is None:
            return found
    raise _no_run(number)


def _no_run(number: int) -> LocalmlError:
    return not_found("run", str(number)[:30])


def find_pod(platform: Platform, name: str) -> Source:
    """A pod by its name, also one whose run has ended; ``NOT_FOUND`` if there never was one or its run was deleted."""
    found = _POD.fullmatch(name)
    if found is not None:
        run = find_run(platform, int(found[1]))
        index = int(found[2])
        if pod_name(run.row, index) == name and index < run.spec.role(WORKER).count:
            return Source(run.row, name, replica_name(WORKER, index))
    raise not_found("pod", name[:300])


def runs(platform: Platform, *, active: bool = False) -> list[Workload]:
    """All runs, old ones first; or those that are not over, with those being deleted."""
    states = tuple(ACTIVE) if active else ()
    found: list[Workload] = []
    cursor: str | None = None
    while True:
        page = platform.workloads.page(
            Query(dialect=DIALECT, states=states, deleted=active, descending=False, limit=500, after=cursor)
        )
        found += page.items
        cursor = page.cursor
        if cursor is None:
            return found


def list_pods(platform: Platform) -> list[schemas.Pod]:
    """The pods that there are: those of runs that are not over."""
    return [
        _pod(full.row, one)
        for row in runs(platform, active=True)
        for full in [platform.workloads.get(row.id or 0)]
        for one in full.attempts
        if one.number == row.attempt and not one.removed
    ]


def _pod(row: Workload, one: Attempt) -> schemas.Pod:
    labels = {"app": "mlbench", "component": WORKER, "release": RELEASE, "set": row.name}
    return schemas.Pod(name=pod_name(row, one.index), labels=str(labels), phase=_phase(one), ip=one.address or "")


def _phase(one: Attempt) -> str:
    if one.state in NOT_BEGUN:
        return "Pending"
    if one.state is AttemptState.RUNNING:
        return "Running"
    return "Succeeded" if one.exit_code == 0 else "Failed"


STATE_WORDS: dict[State, str] = {
    State.QUEUED: "STARTED",
    State.PREPARING: "STARTED",
    State.RUNNING: "STARTED",
    State.STOPPING: "STARTED",
    State.SUCCEEDED: "FINISHED",
    State.FAILED: "FAILED",
    State.STOPPED: "FAILED",
}
"""Every state in the words of the dashboard's documentation, in which a new run is started at once."""
