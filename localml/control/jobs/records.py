"""The control loop's writes: each function is one short guarded transaction part, run by the database's writer."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from sqlmodel import Session

from localml.control.jobs.decide import AttemptView, Begin, EndAttempt, Exit, Move, running
from localml.control.jobs.demands import Placement
from localml.control.jobs.plans import attempt_name
from localml.control.jobs.snapshot import AttemptRow, WorkloadRow
from localml.core.capacity.tables import GpuLease, GpuMark
from localml.core.events.records import record_event
from localml.core.logs.tables import LogFile
from localml.core.sql import driver, insert_row, update_rows
from localml.core.subjects import PLATFORM, Noun, Subject
from localml.core.work.causes import Cause
from localml.core.work.lifecycle import advance
from localml.core.work.states import AttemptState, Desired, State
from localml.core.work.tables import Attempt, Workload, WorkloadDetail
from localml.engines.base import Observed, Stream

_RELEASE = "UPDATE gpu_lease SET released_at = ? WHERE attempt_id = ? AND released_at IS NULL"


Written = Move | Begin | Exit | EndAttempt
"""Decisions that are written down."""
Sizes = Callable[[AttemptView], Mapping[Stream, tuple[str, int]]]
"""The log files of an attempt: stream -> path below the data directory, bytes."""


def carry_out(session: Session, row: WorkloadRow, steps: Iterable[Written], sizes: Sizes, now: float) -> None:
    """Write what was decided for one workload."""
    for step in steps:
        if isinstance(step, Move):
            move(session, row, step, now=now)
        elif isinstance(step, Begin):
            begin(session, row.id, step)
        elif isinstance(step, Exit):
            exited(session, step, now=now)
        else:
            settle(session, step, row, sizes(step.attempt), now)


def place(
    session: Session,
    row: WorkloadRow,
    placement: Placement,
    ports: Mapping[tuple[str, int], Mapping[str, tuple[int, int]]],
    *,
    install: str,
    engine: str,
    now: float,
) -> bool:
    """Write the intent: attempts, GPU leases and the new state, all or nothing. False if it is not queued any more."""
    gpus = [gpu for grant in placement.grants for gpu, _ in grant.gpus]
    words = f"placed on {', '.join(placement.nodes)}" + (f" with {len(gpus)} GPU lease(s)" if gpus else "")
    words += f"; {placement.note}" if placement.note else ""
    if not advance(
        session,
        row.id,
        State.QUEUED,
        State.PREPARING,
        now=now,
        reason="Scheduled",
        message=words,
        columns={"not_before": None},
    ):
        return False
    for grant in placement.grants:
        ports_here = ports.get((grant.role, grant.index), {})
        attempt_id = insert_row(
            session,
            Attempt,
            {
                "workload_id": row.id,
                "role": grant.role,
                "index": grant.index,
                "number": row.attempt,
                "name": attempt_name(install, row.id, grant.role, grant.index, row.attempt),
                "node": grant.node,
                "engine": engine,
                "state": AttemptState.PLANNED,
                "ports": {label: list(pair) for label, pair in ports_here.items()},
                "created_at": now,
                "message": "",
                "removed": False,
            },
        )
        for gpu, fraction in grant.gpus:
            lease = {"attempt_id": attempt_id, "workload_id": row.id, "node": grant.node, "gpu": gpu}
            insert_row(session, GpuLease, {**lease, "fraction": fraction, "acquired_at": now})
    return True


def move(session: Session, row: WorkloadRow, step: Move, *, now: float) -> bool:
    """Carry out a :class:`Move`; a retry only while the user still wants it."""
    if step.to is State.QUEUED:
        wanted = session.get(Workload, row.id)
        if wanted is None or wanted.desired is not Desired.RUN:
            return False
    return advance(
        session,
        row.id,
        row.state,
        step.to,
        now=now,
        reason=step.reason,
        message=step.message,
        warning=step.warning,
        columns=step.columns,
    )


def attempt_running(
    session: Session, one: AttemptRow, *, handle: Mapping[str, Any], address: str | None, started_at: float
) -> bool:
    """A planned attempt's container exists, and runs or has run."""
    values = {"state": AttemptState.RUNNING, "handle": dict(handle), "address": address, "started_at": started_at}
    changed = update_rows(session, Attempt, values, id=one.id, state=AttemptState.PLANNED) == 1
    if changed:
        _tell_start(session, one.workload_id, one, started_at)
    return changed


_CURRENT = (
    "SELECT w.started_at, a.state, a.started_at FROM workload AS w JOIN attempt AS a"
    " ON a.workload_id = w.id AND a.number = w.attempt WHERE w.id = ? AND w.state = ? AND w.desired = ?"
)


def all_begun(session: Session, workload_id: int, *, now: float) -> None:
    """Let a workload run of which all replicas do, in the transaction that learns of the last one."""
    given = (workload_id, State.PREPARING, Desired.RUN)
    found = driver(session).execute(_CURRENT, given).fetchall()
    if found and all(state == AttemptState.RUNNING for _, state, _ in found):
        step = running(found[0][0], [began for _, _, began in found], now)
        words, columns = step.message, step.columns
        advance(
            session, workload_id, State.PREPARING, step.to, now=now, reason=step.reason, message=words, columns=columns
        )


def attempt_pending(session: Session, one: AttemptRow, seen: Observed, *, now: float) -> bool:
    """The engine has taken a planned attempt's container, and begins it later."""
    values = {"state": AttemptState.PENDING, "handle": dict(seen.handle), "message": seen.reason}
    changed = update_rows(session, Attempt, values, id=one.id, state=AttemptState.PLANNED) == 1
    if changed:
        replica = f"{one.role}-{one.index}"
        words = f"{replica} waits in the engine" + (f": {seen.reason}" if seen.reason else "")
        record_event(session, Subject.workload(one.workload_id), "Pending", words, now=now, replica=replica)
    return changed


def begin(session: Session, workload_id: int, step: Begin) -> bool:
    """A pending attempt's container runs, or has run."""
    values = {"state": AttemptState.RUNNING, "address": step.begun.address, "started_at": step.begun.at, "message": ""}
    changed = update_rows(session, Attempt, values, id=step.attempt.id, state=AttemptState.PENDING) == 1
    if changed:
        _tell_start(session, workload_id, step.attempt, step.begun.at)
    return changed


def _tell_start(session: Session, workload_id: int, one: AttemptRow | AttemptView, at: float) -> None:
    replica = f"{one.role}-{one.index}"
    about, words = Subject.workload(workload_id), f"started {replica} as {one.name}"
    record_event(session, about, "Started", words, now=at, replica=replica)


def fence(session: Session, gpu: str, node: str, reason: str, *, now: float) -> None:
    """An unhealthy GPU gets no new work until somebody undrains it."""
    if session.get(GpuMark, (gpu, node)) is None:
        session.add(GpuMark(gpu=gpu, node=node, reason=reason, fenced=True, at=now))
        record_event(session, PLATFORM, "GpuFenced", f"GPU {gpu} is fenced: {reason}", now=now, warning=True)


def end_attempt(
    session: Session,
    attempt_id: int,
    old: AttemptState,
    *,
    exit_code: int | None,
    signal: int | None,
    cause: Cause,
    message: str,
    at: float,
    now: float,
) -> bool:
    """An attempt is over: record how, and give its GPUs back."""
    values = {
        "state": AttemptState.ENDED,
        "exit_code": exit_code,
        "signal": signal,
        "cause": cause,
        "message": message,
        "ended_at": at,
    }
    ended = update_rows(session, Attempt, values, id=attempt_id, state=old) == 1
    if ended:
        driver(session).execute(_RELEASE, (now, attempt_id))
    return ended


def exited(session: Session, step: Exit, *, now: float) -> bool:
    """A program has exited: what it held is free from the same transaction on. How it ended is written down as far as
    it is known, since its container may be gone when its output is complete."""
    values = {
        "exited_at": step.at,
        "exit_code": step.exit_code,
        "signal": step.signal,
        "cause": step.cause,
        "message": step.message,
    }
    left = update_rows(session, Attempt, values, id=step.attempt.id, state=AttemptState.RUNNING) == 1
    if left:
        driver(session).execute(_RELEASE, (now, step.attempt.id))
    return left


def settle(
    session: Session, step: EndAttempt, row: WorkloadRow, sizes: Mapping[Stream, tuple[str, int]], now: float
) -> None:
    """Record a container's end with its log files (see :data:`Sizes`)."""
    one = step.attempt
    if not end_attempt(
        session,
        one.id,
        one.state,
        exit_code=step.exit_code,
        signal=step.signal,
        cause=step.cause,
        message=step.message,
        at=step.at,
        now=now,
    ):
        return
    for stream, (path, size) in sizes.items():
        of = {"subject_kind": Noun.WORKLOAD, "subject_id": row.id, "attempt_id": one.id}
        insert_row(session, LogFile, {**of, "stream": stream, "path": path, "size": size, "closed": True})
    if step.cause is Cause.ENGINE_LOST:
        record_event(
            session,
            Subject.workload(row.id),
            "ContainerLost",
            step.message,
            now=now,
            warning=True,
            replica=f"{one.role}-{one.index}",
        )


def set_ports(session: Session, attempt_id: int, ports: Mapping[str, tuple[int, int]]) -> None:
    """Other host ports, because somebody took the ones chosen first."""
    values = {"ports": {label: list(pair) for label, pair in ports.items()}}
    update_rows(session, Attempt, values, id=attempt_id, state=AttemptState.PLANNED)


_OVER = (
    "UPDATE workload SET cleaned = 1 WHERE id = ? AND ended_at IS NOT NULL"
    " AND NOT EXISTS (SELECT 1 FROM attempt WHERE workload_id = workload.id AND removed = 0)"
)


def removed(session: Session, workload_id: int, attempt_ids: Sequence[int]) -> None:
    """The engine holds nothing of these any more, and perhaps nothing of their workload."""
    for number in attempt_ids:
        update_rows(session, Attempt, {"removed": True}, id=number)
    driver(session).execute(_OVER, (workload_id,))


def cleaned(session: Session, workload_id: int) -> None:
    """Nothing of this workload is left in the engine."""
    update_rows(session, Workload, {"cleaned": True}, id=workload_id)


def pin_images(session: Session, workload_id: int, images: Mapping[str, str]) -> None:
    """Remember the digest that each role's image had, so that later tries run the same. The first pin stays.

    A workload that was stopped, deleted and pruned while its images were looked for has nothing to remember.
    """
    query = "SELECT images FROM workload_detail WHERE workload_id = ?"
    found = driver(session).execute(query, (workload_id,)).fetchone()
    known = json.loads((found and found[0]) or "null") or {}
    if images.keys() - known.keys():
        update_rows(session, WorkloadDetail, {"images": {**images, **known}}, workload_id=workload_id)
