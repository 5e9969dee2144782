"""Writing down what happened, and reading it back."""

from __future__ import annotations

from sqlalchemy import text
from sqlmodel import Session, col, select

from localml.core.events.tables import OTHERS, Event
from localml.core.ports import Store
from localml.core.sql import insert_row
from localml.core.subjects import Subject


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
