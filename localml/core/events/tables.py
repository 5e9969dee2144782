"""What happened."""

from __future__ import annotations

from sqlalchemy import Index, text
from sqlmodel import Field, SQLModel


class Event(SQLModel, table=True):
    """An append-only fact about a workload, an endpoint, or (with neither) the platform."""

    __table_args__ = (
        Index("ix_event_workload_id", "workload_id", "id"),
        Index("ix_event_endpoint_id", "endpoint_id", "id", sqlite_where=text("endpoint_id IS NOT NULL")),
    )

    id: int | None = Field(default=None, primary_key=True)
    workload_id: int | None = Field(default=None, foreign_key="workload.id")
    at: float
    severity: str = "normal"  # normal | warning
    reason: str  # CamelCase, one word
    message: str
    source: str = "localml"
    replica: str = ""
    endpoint_id: int | None = None
