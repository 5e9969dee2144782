"""Numeric series and their points."""

from __future__ import annotations

from sqlalchemy import Index, text
from sqlmodel import Field, SQLModel

from localml.core.rows import enum_column
from localml.core.subjects import Noun


class Series(SQLModel, table=True):
    """A named numeric series of a subject, or of one of its replicas where ``replica`` is not empty.

    ``measured`` ones are localml's own and are thinned out with age: they hold at most one point a minute before
    ``minutes_to``, and one an hour before ``hours_to``. ``due`` is when the next part of that work is to be done.
    These three are in microseconds since the epoch.
    """

    __table_args__ = (
        Index("uq_series", "subject_kind", "subject_id", "replica", "name", unique=True),
        Index("ix_series_due", "due", sqlite_where=text("due IS NOT NULL")),
    )

    id: int | None = Field(default=None, primary_key=True)
    subject_kind: Noun = enum_column(Noun, required=True)
    subject_id: int
    replica: str = ""
    name: str
    cumulative: bool = False  # a counter: of several readings the last one stands for all
    measured: bool = False
    minutes_to: int = 0
    hours_to: int = 0
    due: int | None = None


class Sample(SQLModel, table=True):
    """One point of a series; ``at`` in microseconds since the epoch keeps the rows small and vendors' times exact."""

    __table_args__ = ({"sqlite_with_rowid": False},)

    series_id: int = Field(primary_key=True, foreign_key="series.id")
    at: int = Field(primary_key=True)
    value: float | None = None  # NULL where what was given is no number
    text: str | None = None  # what was given, where the number does not give it back as it was
    note: str | None = None
