"""Workloads with their specs, and the attempts to run them."""

from __future__ import annotations

from typing import Any

from sqlalchemy import JSON, Column, Index, text
from sqlmodel import Field, SQLModel

from localml.core.rows import enum_column, owner_column
from localml.core.subjects import Noun, Parent, Subject
from localml.core.work.causes import Cause
from localml.core.work.states import AttemptState, Desired, Kind, State


def _live_name_index() -> Index:
    return Index(
        "uq_workload_live_name",
        "dialect",
        "workspace",
        "kind",
        "name",
        "version",
        unique=True,
        sqlite_where=text("deleted_at IS NULL AND parent_kind IS NULL"),
    )


def _child_indexes() -> tuple[Index, Index]:
    child = text("parent_kind IS NOT NULL")
    return (
        Index("uq_workload_parent", "parent_kind", "parent_id", "parent_index", unique=True, sqlite_where=child),
        Index("ix_workload_parent_id", "parent_kind", "parent_id", "id", sqlite_where=child),
    )


class Workload(SQLModel, table=True):
    """Anything that runs. ``id`` grows with the order of arrival."""

    __table_args__ = (
        _live_name_index(),
        *_child_indexes(),
        Index("ix_workload_active", "state", sqlite_where=text("ended_at IS NULL")),
        Index("ix_workload_uncleaned", "id", sqlite_where=text("cleaned = 0")),
        Index("ix_workload_state_id", "state", "id"),
        Index("ix_workload_kind_state_id", "kind", "state", "id"),
        Index("ix_workload_dialect_kind_workspace", "dialect", "kind", "workspace", "id"),
        Index("ix_workload_owner_id", "owner", "id"),
        Index("ix_workload_workspace_id", "workspace", "id"),
        Index("ix_workload_pool_id", "pool", "id"),
        Index("ix_workload_name", "name", "id"),
        Index("ix_workload_started_at", "started_at", "id"),
        Index("ix_workload_ended_at", "ended_at", "id"),
        Index("ix_workload_updated_at", "updated_at", "id"),
        Index("ix_workload_priority", "priority", "id"),
        {"sqlite_autoincrement": True},
    )

    id: int | None = Field(default=None, primary_key=True)
    kind: Kind = enum_column(Kind, required=True)
    dialect: str
    workspace: str
    owner: str
    owner_id: int = owner_column()
    name: str
    version: str = ""  # of a child of a job: which version it is, as its API says it
    pool: str
    priority: int = 0
    desired: Desired = enum_column(Desired, Desired.RUN)
    grace: float | None = None  # seconds to end in, where whoever stops it gives other than its spec's
    state: State = enum_column(State, State.QUEUED)
    outcome: State | None = enum_column(State)  # the state that 'stopping' leads to
    cause: Cause | None = enum_column(Cause)
    message: str = ""
    exit_code: int | None = None
    attempt: int = 1  # which try of the whole workload this is
    retries: int = 0  # tries that counted against the policy
    cpu: float = 0.0  # sums over all replicas, for quotas and lists
    memory: int = 0
    gpu: float = 0.0
    not_before: float | None = None
    created_at: float
    updated_at: float
    queued_at: float
    started_at: float | None = None
    ended_at: float | None = None
    deleted_at: float | None = None
    cleaned: bool = False  # nothing of it is left in the engine
    parent_kind: Noun | None = enum_column(Noun)
    parent_id: int | None = None
    parent_index: int | None = None

    @property
    def parent(self) -> Parent | None:
        """Whose child it is, if it is one."""
        if self.parent_kind is None or self.parent_id is None or self.parent_index is None:
            return None
        return Parent(Subject(self.parent_kind, self.parent_id), self.parent_index)


class WorkloadDetail(SQLModel, table=True):
    """The wide part of a workload: its frozen spec and the request as it was given."""

    __tablename__ = "workload_detail"

    workload_id: int = Field(primary_key=True, foreign_key="workload.id")
    spec: str  # WorkloadSpec as JSON
    request: Any = Field(default=None, sa_column=Column(JSON))  # the vendor's body, answered back as given
    images: Any = Field(default=None, sa_column=Column(JSON))  # role -> image id pinned at submission
    grants: str | None = None  # Grants as JSON, decided at submission; NULL for an earlier version's


class Attempt(SQLModel, table=True):
    """One container of one replica: ``number`` grows with every try."""

    __table_args__ = (
        Index("uq_attempt_replica", "workload_id", "role", "index", "number", unique=True),
        Index("ix_attempt_live", "workload_id", sqlite_where=text("removed = 0")),
    )

    id: int | None = Field(default=None, primary_key=True)
    workload_id: int = Field(foreign_key="workload.id")
    role: str
    index: int
    number: int
    name: str = Field(unique=True)  # the engine's deterministic name
    node: str = "local"
    engine: str = Field(default="", sa_column_kwargs={"server_default": ""})  # whose it is (core/work/engines.py)
    state: AttemptState = enum_column(AttemptState, AttemptState.PLANNED)
    handle: Any = Field(default=None, sa_column=Column(JSON))  # read by the engine only
    ports: Any = Field(default=None, sa_column=Column(JSON))  # label -> [container, host]
    address: str | None = None
    created_at: float
    started_at: float | None = None
    exited_at: float | None = None  # the program's; its GPUs, cores and ports are free from then on
    ended_at: float | None = None
    exit_code: int | None = None
    signal: int | None = None
    cause: Cause | None = enum_column(Cause)
    message: str = ""
    removed: bool = False  # the engine holds nothing of it any more

    @property
    def runs(self) -> bool:
        """Whether its program runs, as far as is known."""
        return self.state is AttemptState.RUNNING and self.exited_at is None
