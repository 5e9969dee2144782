"""Writing down what happened, and reading it back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from sqlalchemy import delete, func, text
from sqlmodel import Session, col, select

from localml.core.events.tables import OTHERS, Event
from localml.core.ports import Store
from localml.core.sql import insert_row
from localml.core.subjects import Subject

_AT = text("SELECT at FROM event WHERE id >= :id ORDER BY id LIMIT 1")
_GROUP: Final = 500
"""Events that go in one transaction."""


def record_event(
    session: Session,
    subject: Subject,
    reason: str,
    message: str,
    *,
    now: float,
    warning: bool = False,
    source: str = "localml",
    replica: str = "",
) -> None:
    """Append an event. It is visible when the caller's transaction commits."""
    insert_row(
        session,
        Event,
        {
            "subject_kind": subject.kind,
            "subject_id": subject.id,
            "at": now,
            "severity": "warning" if warning else "normal",
            "reason": reason,
            "message": message,
            "source": source,
            "replica": replica,
        },
    )


def forget(store: Store, before: float, *, dry_run: bool = False, stopped: Callable[[], bool] = lambda: False) -> int:
    """Remove events of before a time, whatever they are about, in short transactions; returns how many went.

    They are written in order of time, so where the first younger one is is looked up by halves; a clock that was put
    back only makes that a little earlier or later.
    """
    with store.read() as session:
        low, high = session.execute(select(func.min(col(Event.id)), func.max(col(Event.id)))).one()
        if low is None:
            return 0
        first = low
        while low <= high:
            middle = (low + high) // 2
            at = session.execute(_AT, {"id": middle}).scalar()
            low, high = (middle + 1, high) if at is not None and at < before else (low, middle - 1)
        if dry_run:
            return int(session.execute(select(func.count()).where(col(Event.id) < low)).scalar() or 0)
    gone = 0
    for start in range(first, low, _GROUP):
        if stopped():
            break
        some = delete(Event).where(col(Event.id) >= start, col(Event.id) < min(start + _GROUP, low))
        gone += store.write(lambda session, some=some: int(session.execute(some).rowcount))  # type: ignore[misc]
    return gone


class Events:
    """The service over events: oldest first, a page at a time."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def of(self, subject: Subject, *, after: int = 0, limit: int = 1000) -> list[Event]:
        """Events of one subject, those behind the event ``after``."""
        return self._read(after, limit, Event.subject_kind == subject.kind, Event.subject_id == subject.id)

    def others(self, *, after: int = 0, limit: int = 1000) -> list[Event]:
        """Events of everything that is no workload: the platform, endpoints, models."""
        return self._read(after, limit, text(OTHERS))

    def _read(self, after: int, limit: int, *conditions: object) -> list[Event]:
        query = select(Event).where(*conditions, col(Event.id) > after)  # type: ignore[arg-type]
        with self._store.read() as session:
            return list(session.exec(query.order_by(col(Event.id)).limit(limit)))
