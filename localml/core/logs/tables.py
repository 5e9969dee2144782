"""Where output lies."""

from __future__ import annotations

from sqlalchemy import Index
from sqlmodel import Field, SQLModel


class LogFile(SQLModel, table=True):
    """Where a replica's output lies. ``size`` is the number of bytes kept; the file itself is the truth."""

    __tablename__ = "log_file"
    __table_args__ = (Index("uq_log_file", "attempt_id", "stream", unique=True),)

    id: int | None = Field(default=None, primary_key=True)
    workload_id: int = Field(foreign_key="workload.id", index=True)
    attempt_id: int = Field(foreign_key="attempt.id")
    stream: str  # stdout | stderr
    path: str  # below the data directory
    size: int = 0
    closed: bool = False
    pruned_at: float | None = None
