"""Pools, who may use them, and what holds or closes GPUs and machines."""

from __future__ import annotations

from typing import Any

from sqlalchemy import JSON, Column, Index, text
from sqlmodel import Field, SQLModel


class Pool(SQLModel, table=True):
    """A node of the tree of limits; a limit left NULL is none. ``name`` is the path, such as ``cloudml/train``.

    ``labels`` are a vendor's, a list of key and value; NULL for a pool that was not made as a resource plan.
    """

    id: int | None = Field(default=None, primary_key=True)
    name: str = Field(unique=True)
    parent_id: int | None = Field(default=None, foreign_key="pool.id")
    cpu: float | None = None
    memory: int | None = None
    gpu: float | None = None
    max_workloads: int | None = None
    labels: Any = Field(default=None, sa_column=Column(JSON(none_as_null=True)))


class PoolGrant(SQLModel, table=True):
    """A user who is no administrator may use this pool; for dialects whose pools are not open to everybody."""

    __tablename__ = "pool_grant"

    user_id: int = Field(primary_key=True, foreign_key="user.id")
    pool: str = Field(primary_key=True)


class GpuLease(SQLModel, table=True):
    """Ties a GPU to an attempt, written in the transaction that places it. ``fraction`` 1 is exclusive."""

    __tablename__ = "gpu_lease"
    __table_args__ = (
        Index(
            "uq_gpu_lease_exclusive",
            "node",
            "gpu",
            unique=True,
            sqlite_where=text("released_at IS NULL AND fraction >= 1.0"),
        ),
        Index("ix_gpu_lease_held", "gpu", sqlite_where=text("released_at IS NULL")),
    )

    id: int | None = Field(default=None, primary_key=True)
    attempt_id: int = Field(foreign_key="attempt.id", index=True)
    workload_id: int = Field(foreign_key="workload.id", index=True)
    node: str = "local"
    gpu: str
    fraction: float = 1.0
    acquired_at: float
    released_at: float | None = None


class GpuMark(SQLModel, table=True):
    """A GPU that gets no new work: drained by a user, or fenced because it reported errors."""

    __tablename__ = "gpu_mark"

    gpu: str = Field(primary_key=True)
    node: str = Field(default="local", primary_key=True)
    reason: str
    fenced: bool = False
    at: float


class NodeMark(SQLModel, table=True):
    """A machine that gets no new work."""

    __tablename__ = "node_mark"

    node: str = Field(primary_key=True)
    reason: str = ""
    at: float
