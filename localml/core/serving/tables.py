"""Endpoints, their variants and replicas, and what these did."""

from __future__ import annotations

from typing import Any

from sqlalchemy import JSON, Column, Index, false, text
from sqlmodel import Field, SQLModel

from localml.core.rows import enum_column, owner_column
from localml.core.serving.specs import EndpointState, ReplicaState, VariantState
from localml.core.work.states import Desired


class Endpoint(SQLModel, table=True):
    """A served route. ``route`` is its name at the gateway; ``scale`` how many replicas are wanted now."""

    __table_args__ = (
        Index("uq_endpoint_live_route", "route", unique=True, sqlite_where=text("deleted_at IS NULL")),
        Index(
            "uq_endpoint_live_name",
            "dialect",
            "workspace",
            "name",
            unique=True,
            sqlite_where=text("deleted_at IS NULL"),
        ),
        Index("ix_endpoint_live", "id", sqlite_where=text("closed_at IS NULL")),
    )

    id: int | None = Field(default=None, primary_key=True)
    dialect: str
    workspace: str
    owner: str
    owner_id: int = owner_column()
    name: str
    route: str
    pool: str
    desired: Desired = enum_column(Desired, Desired.RUN)
    state: EndpointState = enum_column(EndpointState, EndpointState.STARTING)
    message: str = ""
    spec: str  # EndpointSpec as JSON
    request: Any = Field(default=None, sa_column=Column(JSON))  # the vendor's body, answered back as given
    scale: int = 1
    scaled_at: float | None = None  # when the number of replicas last changed
    active_at: float | None = None  # when it was made, started or woken
    created_at: float
    updated_at: float
    deleted_at: float | None = None
    closed_at: float | None = None  # deleted, and nothing of it is left


class Variant(SQLModel, table=True):
    """A version of an endpoint with its share of the requests."""

    __table_args__ = (
        Index("uq_variant_name", "endpoint_id", "name", unique=True),
        Index("ix_variant_live", "endpoint_id", sqlite_where=text("ended_at IS NULL")),
    )

    id: int | None = Field(default=None, primary_key=True)
    endpoint_id: int = Field(foreign_key="endpoint.id")
    name: str
    model_version_id: int | None = Field(default=None, foreign_key="model_version.id")
    spec: str  # VariantSpec as JSON
    weight: float = 100.0  # share in percent
    state: VariantState = enum_column(VariantState, VariantState.ROLLING)
    message: str = ""
    failures: int = 0  # replicas that ended by themselves since it was last well
    not_before: float | None = None  # no replacement before this time
    created_at: float
    promoted_at: float | None = None  # when it first got requests
    ended_at: float | None = None
    recreate: bool = Field(default=False, sa_column_kwargs={"server_default": false()})  # others end before it starts
    batch: int | None = None  # the first of those that it came with: they take over together, or not at all
    leaves: Any = Field(default=None, sa_column=Column(JSON))  # variant -> the share it keeps then; see taken_over


class EndpointReplica(SQLModel, table=True):
    """A replica of a variant: one child workload, and where it serves."""

    __tablename__ = "endpoint_replica"
    __table_args__ = (Index("ix_endpoint_replica_live", "endpoint_id", sqlite_where=text("ended_at IS NULL")),)

    id: int | None = Field(default=None, primary_key=True)
    endpoint_id: int = Field(foreign_key="endpoint.id")
    variant_id: int = Field(foreign_key="variant.id", index=True)
    workload_id: int = Field(foreign_key="workload.id", unique=True)
    state: ReplicaState = enum_column(ReplicaState, ReplicaState.STARTING)
    attempt_id: int | None = None  # the attempt that was seen ready
    url: str | None = None
    created_at: float
    ready_at: float | None = None
    draining_at: float | None = None
    ended_at: float | None = None


class VariantSample(SQLModel, table=True):
    """What a variant did up to ``at`` (milliseconds since the epoch), since the sample before. Latencies in seconds."""

    __tablename__ = "variant_sample"
    __table_args__ = ({"sqlite_with_rowid": False},)

    variant_id: int = Field(primary_key=True, foreign_key="variant.id")
    at: int = Field(primary_key=True)
    requests: int
    errors: int
    latency: float  # mean
    p50: float | None = None
    p99: float | None = None
    in_flight: int = 0
