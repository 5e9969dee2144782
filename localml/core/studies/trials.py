"""The records of a study's trials as the control plane writes them, and as it reads them back.

A trial is asked for and told in one write each. Whoever writes says what the study's row was when it decided; if that
is not so any more, nothing is written (:class:`Superseded`), and it looks again.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from sqlmodel import Session

from localml.core.events.records import record_event
from localml.core.sql import driver, insert_row, read_rows, update_rows
from localml.core.studies.space import Values
from localml.core.studies.studies import subject_of
from localml.core.studies.tables import Study, StudyState, Trial, TrialState
from localml.core.work.causes import Cause
from localml.core.work.states import Desired, State


class Superseded(Exception):
    """The study has changed since it was looked at."""


@dataclass(frozen=True, slots=True)
class StudyRow:
    """The columns of a study that the loop looks at."""

    id: int
    name: str
    dialect: str
    workspace: str
    owner_id: int
    pool: str
    algorithm: str
    seed: int
    state: StudyState
    desired: Desired
    outcome: StudyState | None
    forced: bool
    message: str
    run: int
    life: int
    first: int
    asked: int
    running: int
    complete: int
    pruned: int
    failed: int
    stopped: int
    failing: int
    best: int | None
    best_value: float | None
    sequence: int
    exhausted: bool
    started_at: float | None
    deadline: float | None

    @property
    def had(self) -> int:
        """Trials of this run."""
        return self.asked - self.first + 1


@dataclass(frozen=True, slots=True)
class TrialRow:
    """A trial whose result is not recorded yet, with what its workload says; None where that is gone."""

    number: int
    workload_id: int
    pruning: bool
    state: State | None
    desired: Desired | None
    cause: Cause | None
    message: str
    grace: float | None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a trial. ``metrics``: name -> ``min``, ``max``, ``latest`` (None: no finite number), ``steps``."""

    state: TrialState
    value: float | None = None
    metrics: Mapping[str, Any] | None = None
    message: str = ""


@dataclass(frozen=True, slots=True)
class Asking:
    """A trial that was proposed.

    Attributes:
        values: of its parameters.
        state: what the suggester wants to be kept; None: nothing.
    """

    number: int
    values: Values
    state: bytes | None = None


_TRIALS = (
    "SELECT t.number, t.workload_id, t.pruning, w.state, w.desired, w.cause, coalesce(w.message, ''), w.grace"
    " FROM trial t LEFT JOIN workload w ON w.id = t.workload_id"
    " WHERE t.study_id = ? AND t.told IS NULL ORDER BY t.number"
)
_HISTORY = (
    "SELECT number, asked, told, params, value FROM trial WHERE study_id = ? AND run = ? AND (asked > ? OR told > ?)"
)
_KEEP = "INSERT OR REPLACE INTO suggester_state (study_id, sequence, data) VALUES (?, ?, ?)"


# -- reading -------------------------------------------------------------------------------------------


def active(connection: sqlite3.Connection) -> list[int]:
    """Studies that are not over."""
    return [number for (number,) in connection.execute("SELECT id FROM study WHERE ended_at IS NULL ORDER BY id")]


def study_row(connection: sqlite3.Connection, number: int) -> StudyRow | None:
    """A study that is not over; None for any other."""
    found = read_rows(connection, Study, StudyRow.__slots__, "id = ? AND ended_at IS NULL", (number,))
    return next((StudyRow(*values) for values in found), None)


def running(connection: sqlite3.Connection, number: int) -> tuple[TrialRow, ...]:
    """Trials of a study whose results are not recorded, by number."""
    return tuple(
        TrialRow(
            trial,
            workload,
            bool(pruning),
            State(state) if state else None,
            Desired(desired) if desired else None,
            Cause(cause) if cause else None,
            message,
            grace,
        )
        for trial, workload, pruning, state, desired, cause, message, grace in connection.execute(_TRIALS, (number,))
    )


def kept_state(connection: sqlite3.Connection, number: int) -> tuple[int, bytes | None]:
    """What a study's suggester gave to be kept, and after which of what it was asked and told."""
    query = "SELECT sequence, data FROM suggester_state WHERE study_id = ?"
    found = connection.execute(query, (number,)).fetchone()
    return (0, None) if found is None else (int(found[0]), bytes(found[1]))


def happenings(
    connection: sqlite3.Connection, number: int, run: int, after: int
) -> Iterator[tuple[int, int, Values | None, float | None]]:
    """What a run's suggester was asked and told after a point of the sequence, in order: (sequence, trial, values,
    None) where it was asked for that trial, (sequence, trial, None, value) where it was told."""
    found: list[tuple[int, int, Values | None, float | None]] = []
    for trial, asked, told, params, value in connection.execute(_HISTORY, (number, run, after, after)):
        if asked > after:
            found.append((asked, trial, json.loads(params), None))
        if told is not None and told > after:
            found.append((told, trial, None, value))
    yield from sorted(found, key=lambda one: one[0])


# -- writing -------------------------------------------------------------------------------------------


def change(session: Session, row: StudyRow, values: Mapping[str, Any], *, now: float) -> None:
    """Change a study that is still as it was when it was looked at.

    Raises:
        Superseded: it is not.
    """
    guards = {name: getattr(row, name) for name in ("id", "life", "asked", "sequence", "state", "desired", "forced")}
    if update_rows(session, Study, {**values, "updated_at": now}, **guards) != 1:
        raise Superseded(f"study {row.id}")


def asked(row: StudyRow, number: int, now: float, max_time: float | None) -> dict[str, Any]:
    """The columns of a study that the asking for a trial changes."""
    return {
        "asked": number,
        "running": row.running + 1,
        "sequence": row.sequence + 1,
        "state": StudyState.RUNNING,
        "started_at": now if row.started_at is None else row.started_at,
        "deadline": now + max_time if row.deadline is None and max_time is not None else row.deadline,
    }


def ask(
    session: Session, row: StudyRow, asking: Asking, columns: Mapping[str, Any], workload_id: int, *, now: float
) -> None:
    """Record a trial with its workload, in the transaction that inserts that.

    Args:
        columns: what :func:`asked` says.

    Raises:
        Superseded: the study has changed.
    """
    sequence = columns["sequence"]
    change(session, row, columns, now=now)
    values = {
        "study_id": row.id,
        "number": asking.number,
        "workload_id": workload_id,
        "run": row.run,
        "state": TrialState.RUNNING,
        "params": asking.values,
        "asked": sequence,
        "pruning": False,
        "improves": False,
        "message": "",
        "created_at": now,
    }
    insert_row(session, Trial, values)
    if asking.state is not None:
        driver(session).execute(_KEEP, (row.id, sequence, asking.state)).close()
    if row.started_at is None:
        words = f"{row.algorithm} proposed the first trial"
        record_event(session, subject_of(row.id), "Started", words, now=now)


def tell(
    session: Session, study: int, number: int, outcome: Outcome, sequence: int, *, improves: bool, now: float
) -> None:
    """Record what came of a trial; the study's own columns are written by :func:`change`.

    Args:
        improves: whether it is better than all before it.

    Raises:
        Superseded: it was recorded before.
    """
    values = {
        "state": outcome.state,
        "told": sequence,
        "value": outcome.value,
        "improves": improves,
        "metrics": dict(outcome.metrics) if outcome.metrics is not None else None,
        "message": outcome.message,
        "ended_at": now,
    }
    if update_rows(session, Trial, values, study_id=study, number=number, state=TrialState.RUNNING) != 1:
        raise Superseded(f"trial {number} of study {study}")


def mark_pruning(session: Session, study: int, number: int) -> None:
    """Note that a trial is stopped early."""
    update_rows(session, Trial, {"pruning": True}, study_id=study, number=number, state=TrialState.RUNNING)
