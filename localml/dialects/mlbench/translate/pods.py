"""The workers of runs as Kubernetes pods, and runs as they are found."""

from __future__ import annotations

import re
from dataclasses import dataclass

from localml.core.errors import Code, LocalmlError, not_found
from localml.core.people.allow import Thing, allow, may, places
from localml.core.people.identity import Caller
from localml.core.people.rights import Action, ThingKind
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


def find_run(platform: Platform, who: Caller, number: int, action: Action = Action.READ) -> Full:
    """A run by its id that the caller may do this to.

    Raises:
        LocalmlError: ``NOT_FOUND`` if there is none, it was deleted, or the caller may not read it; ``FORBIDDEN``.
    """
    found = _visible(platform, who, number)
    if found is None:
        raise not_found("run", str(number)[:30])
    allow(who, action, Thing.of(ThingKind.WORKLOAD, found.row))
    return found


def _visible(platform: Platform, who: Caller, number: int) -> Full | None:
    if not 0 <= number < _MOST:
        return None
    try:
        found = platform.workloads.get(number)
    except LocalmlError as error:
        if error.code is Code.NOT_FOUND:
            return None
        raise
    is_run = found.row.dialect == DIALECT and found.row.deleted_at is None
    return found if is_run and may_read(who, found.row) else None


def may_read(who: Caller, row: Workload) -> bool:
    """Whether the caller may see a run at all."""
    return may(who, Action.READ, Thing.of(ThingKind.WORKLOAD, row))


def find_pod(platform: Platform, who: Caller, name: str, action: Action = Action.READ) -> Source:
    """A pod by its name, also one whose run has ended.

    Raises:
        LocalmlError: ``NOT_FOUND`` if there never was one, its run was deleted, or is none that the caller may read;
            ``FORBIDDEN``.
    """
    found = _POD.fullmatch(name)
    run = None if found is None else _visible(platform, who, int(found[1]))
    if found is not None and run is not None:
        index = int(found[2])
        if pod_name(run.row, index) == name and index < run.spec.role(WORKER).count:
            allow(who, action, Thing.of(ThingKind.WORKLOAD, run.row))
            return Source(run.row, name, replica_name(WORKER, index))
    raise not_found("pod", name[:300])


def runs(platform: Platform, who: Caller, *, active: bool = False) -> list[Workload]:
    """The runs that a caller may read, old ones first; or of those the ones that are not over, being deleted or not."""
    if not who.scope.has_right(Action.READ, ThingKind.WORKLOAD):
        raise LocalmlError(Code.FORBIDDEN, "the scope of this token leaves out lists of runs")
    return [row for row in all_runs(platform, places(who), active=active) if may_read(who, row)]


def all_runs(platform: Platform, workspaces: frozenset[str] | None = None, *, active: bool = False) -> list[Workload]:
    """Everybody's, or those of some workspaces."""
    states = tuple(ACTIVE) if active else ()
    found: list[Workload] = []
    cursor: str | None = None
    while True:
        page = platform.workloads.page(
            Query(
                dialect=DIALECT,
                states=states,
                workspaces=workspaces,
                deleted=active,
                descending=False,
                limit=500,
                after=cursor,
            )
        )
        found += page.items
        cursor = page.cursor
        if cursor is None:
            return found


def list_pods(platform: Platform, who: Caller) -> list[schemas.Pod]:
    """The pods that there are: those of runs that are not over, and that the caller may read."""
    return [
        _pod(full.row, one)
        for row in runs(platform, who, active=True)
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
