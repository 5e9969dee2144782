"""What stops and starts again under one id."""

from __future__ import annotations

from typing import Any

from sqlalchemy import JSON, Column, Index, text
from sqlmodel import Field, SQLModel

from localml.core.rows import enum_column, owner_column
from localml.core.work.states import Kind


class Instance(SQLModel, table=True):
    """A notebook, a TensorBoard or another thing that people stop and start again: one workload after the other.

    What it does now, that its name is taken, and whether it was deleted, is said by its newest run (``workload_id``)
    and by nothing here. A run that is wanted and not there yet (``asked`` is more than ``run``) is begun as soon as the
    one before is over. ``id`` is that of the first run: one number never means two things.
    """

    __table_args__ = (
        Index("uq_instance_workload_id", "workload_id", unique=True),
        Index("ix_instance_name", "name"),
        Index("ix_instance_pending", "id", sqlite_where=text("asked > run")),
    )

    id: int | None = Field(default=None, primary_key=True)
    kind: Kind = enum_column(Kind, required=True)  # of its runs
    dialect: str
    workspace: str
    owner: str
    owner_id: int = owner_column()
    name: str
    pool: str
    spec: str  # WorkloadSpec as JSON, for the next run
    request: Any = Field(default=None, sa_column=Column(JSON))  # the vendor's body, answered back as given
    workload_id: int = Field(foreign_key="workload.id")  # the newest run
    run: int = 1  # which run that is
    asked: int = 1  # which run is wanted
    message: str = ""  # why the last run that was asked for could not begin
    created_at: float
    updated_at: float
