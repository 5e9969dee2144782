"""Where output lies."""

from __future__ import annotations

from sqlalchemy import Index
from sqlmodel import Field, SQLModel

from localml.core.rows import enum_column
from localml.core.subjects import Noun


class LogFile(SQLModel, table=True):
    """Where output of a subject lies. ``size`` is the number of bytes kept; the file itself is the truth."""

    __tablename__ = "log_file"
    __table_args__ = (Index("uq_log_file", "subject_kind", "subject_id", "path", unique=True),)

    id: int | None = Field(default=None, primary_key=True)
    subject_kind: Noun = enum_column(Noun, required=True)
    subject_id: int
    attempt_id: int | None = Field(default=None, foreign_key="attempt.id", index=True)  # whose it is
    stream: str  # stdout | stderr
    path: str  # below the data directory
    size: int = 0
    closed: bool = False
    pruned_at: float | None = None
