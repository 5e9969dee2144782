"""What happened."""

from __future__ import annotations

from sqlalchemy import Index, text
from sqlmodel import Field, SQLModel

from localml.core.rows import enum_column
from localml.core.subjects import Noun

OTHERS = "subject_kind != 'workload'"
"""Condition of the index over the events that are of no workload, which are few."""


class Event(SQLModel, table=True):
    """An append-only fact about a subject; it stays when that is forgotten, unless it is pruned with it."""

    __table_args__ = (
        Index("ix_event_subject", "subject_kind", "subject_id", "id"),
        Index("ix_event_others", "id", sqlite_where=text(OTHERS)),
    )

    id: int | None = Field(default=None, primary_key=True)
    subject_kind: Noun = enum_column(Noun, required=True)
    subject_id: int
    at: float
    severity: str = "normal"  # normal | warning
    reason: str  # CamelCase, one word
    message: str
    source: str = "localml"
    replica: str = ""

    @property
    def workload_id(self) -> int | None:
        """The workload that it is about, if it is about one."""
        return self.subject_id if self.subject_kind is Noun.WORKLOAD else None
