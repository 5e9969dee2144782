"""How far a workload's output was read for metrics, and the parameters that it wrote into a file."""

from __future__ import annotations

from typing import Any

from sqlalchemy import JSON, Column
from sqlmodel import Field, SQLModel


class MetricPlace(SQLModel, table=True):
    """Where reading goes on, of all that a workload writes: written after the points that lie before it."""

    __tablename__ = "metric_place"

    workload_id: int = Field(primary_key=True, foreign_key="workload.id")
    places: Any = Field(
        default_factory=dict, sa_column=Column(JSON)
    )  # what is read -> [offset, time of the last point]


class Parameter(SQLModel, table=True):
    """A parameter that a job wrote into a file of its output folder, as text."""

    __table_args__ = ({"sqlite_with_rowid": False},)

    workload_id: int = Field(primary_key=True, foreign_key="workload.id")
    name: str = Field(primary_key=True)
    value: str
