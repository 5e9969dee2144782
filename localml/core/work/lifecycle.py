"""The one door through which states move, and the event that tells of it in the same transaction."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlmodel import Session

from localml.core.events.records import record_event
from localml.core.sql import update_rows
from localml.core.subjects import Subject
from localml.core.work.states import TERMINAL, State, may_move
from localml.core.work.tables import Workload


class IllegalMove(AssertionError):
    """A move that the transition table does not have: a defect, never a user's mistake."""


def advance(
    session: Session,
    workload_id: int,
    old: State,
    new: State,
    *,
    now: float,
    reason: str,
    message: str,
    warning: bool = False,
    columns: Mapping[str, object] | None = None,
) -> bool:
    """Move a workload from ``old`` to ``new`` and write the event, or do nothing if it is no longer in ``old``.

    Args:
        columns: further columns of the workload written by the same statement.

    Returns:
        Whether it moved. False means that somebody was faster; the caller looks again.

    Raises:
        IllegalMove: the transition table has no such move.
    """
    if not may_move(old, new):
        raise IllegalMove(f"workload {workload_id}: {old} -> {new}")
    values: dict[str, Any] = {"state": new, "updated_at": now, **(columns or {})}
    if new in TERMINAL:
        values.setdefault("ended_at", now)
    if update_rows(session, Workload, values, id=workload_id, state=old) != 1:
        return False
    record_event(session, Subject.workload(workload_id), reason, message, now=now, warning=warning)
    return True
