"""The tables. Rows are the domain records; nested parts are frozen specs kept as JSON.

All times are seconds since the Unix epoch (UTC) as floats. Wide JSON lives in :class:`WorkloadDetail`, so that
listing a hundred thousand workloads reads narrow rows only.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from sqlalchemy import JSON, Column, Dialect, Index, MetaData, String, TypeDecorator, false, text
from sqlmodel import Field, SQLModel

from localml.core.causes import Cause
from localml.core.serving import EndpointState, ReplicaState, VariantState
from localml.core.states import AttemptState, Desired, Kind, State

SQLModel.metadata.naming_convention = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
).naming_convention


class EnumText(TypeDecorator[StrEnum]):
    """A string enum kept as its plain value, so that a new member needs no migration."""

    impl = String
    cache_ok = True

    def __init__(self, kind: type[StrEnum]) -> None:
        super().__init__()
        self.kind = kind

    def process_bind_param(self, value: StrEnum | None, dialect: Dialect) -> str | None:
        return None if value is None else self.kind(value).value

    def process_result_value(self, value: str | None, dialect: Dialect) -> StrEnum | None:
        return None if value is None else self.kind(value)


def _enum(kind: type[StrEnum], default: StrEnum | None = None, *, required: bool = False) -> Any:
    column: Column[Any] = Column(EnumText(kind), nullable=not required and default is None)
    return Field(sa_column=column) if required else Field(default=default, sa_column=column)


def _live_name_index() -> Index:
    return Index(
        "uq_workload_live_name",
        "dialect",
        "project",
        "kind",
        "name",
        "version",
        unique=True,
        sqlite_where=text("deleted_at IS NULL"),
    )


class Meta(SQLModel, table=True):
    """Facts about this installation (install id, when it was made)."""

    key: str = Field(primary_key=True)
    value: str


class Pool(SQLModel, table=True):
    """A node of the tree of limits; a limit left NULL is none. ``name`` is the path, such as ``cloudml/train``."""

    id: int | None = Field(default=None, primary_key=True)
    name: str = Field(unique=True)
    parent_id: int | None = Field(default=None, foreign_key="pool.id")
    cpu: float | None = None
    memory: int | None = None
    gpu: float | None = None
    max_workloads: int | None = None


class User(SQLModel, table=True):
    """Who calls. ``project`` and ``org`` are the tenancy ids that vendors show."""

    id: int | None = Field(default=None, primary_key=True)
    name: str = Field(unique=True)
    password_hash: str
    admin: bool = False
    project: str = Field(index=True)
    org: str = "default"
    created_at: float


class PoolGrant(SQLModel, table=True):
    """A user who is no administrator may use this pool; for dialects whose pools are not open to everybody."""

    __tablename__ = "pool_grant"

    user_id: int = Field(primary_key=True, foreign_key="user.id")
    pool: str = Field(primary_key=True)


class AccessKey(SQLModel, table=True):
    """A key pair of a signing scheme; the secret is encrypted, because HMAC needs it back."""

    __tablename__ = "access_key"

    id: str = Field(primary_key=True)
    user_id: int = Field(foreign_key="user.id", index=True)
    secret: bytes
    created_at: float
    disabled_at: float | None = None


class Token(SQLModel, table=True):
    """A bearer token; only its SHA-256 is kept."""

    hash: str = Field(primary_key=True)
    user_id: int = Field(foreign_key="user.id", index=True)
    purpose: str = "api"
    created_at: float
    expires_at: float | None = None


class Workload(SQLModel, table=True):
    """Anything that runs. ``id`` grows with the order of arrival."""

    __table_args__ = (
        _live_name_index(),
        Index("ix_workload_active", "state", sqlite_where=text("ended_at IS NULL")),
        Index("ix_workload_uncleaned", "id", sqlite_where=text("cleaned = 0")),
        Index("ix_workload_state_id", "state", "id"),
        Index("ix_workload_kind_state_id", "kind", "state", "id"),
        Index("ix_workload_dialect_kind_project", "dialect", "kind", "project", "id"),
        Index("ix_workload_owner_id", "owner", "id"),
        Index("ix_workload_project_id", "project", "id"),
        Index("ix_workload_pool_id", "pool", "id"),
        Index("ix_workload_name", "name", "id"),
        Index("ix_workload_started_at", "started_at", "id"),
        Index("ix_workload_ended_at", "ended_at", "id"),
        Index("ix_workload_updated_at", "updated_at", "id"),
        Index("ix_workload_priority", "priority", "id"),
        {"sqlite_autoincrement": True},
    )

    id: int | None = Field(default=None, primary_key=True)
    kind: Kind = _enum(Kind, required=True)
    dialect: str
    project: str
    owner: str
    name: str
    version: str = ""
    pool: str
    priority: int = 0
    desired: Desired = _enum(Desired, Desired.RUN)
    state: State = _enum(State, State.QUEUED)
    outcome: State | None = _enum(State)  # the state that 'stopping' leads to
    cause: Cause | None = _enum(Cause)
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


class WorkloadDetail(SQLModel, table=True):
    """The wide part of a workload: its frozen spec and the request as it was given."""

    __tablename__ = "workload_detail"

    workload_id: int = Field(primary_key=True, foreign_key="workload.id")
    spec: str  # WorkloadSpec as JSON
    request: Any = Field(default=None, sa_column=Column(JSON))  # the vendor's body, answered back as given
    images: Any = Field(default=None, sa_column=Column(JSON))  # role -> image id pinned at submission


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
    state: AttemptState = _enum(AttemptState, AttemptState.PLANNED)
    handle: Any = Field(default=None, sa_column=Column(JSON))  # read by the engine only
    ports: Any = Field(default=None, sa_column=Column(JSON))  # label -> [container, host]
    address: str | None = None
    created_at: float
    started_at: float | None = None
    ended_at: float | None = None
    exit_code: int | None = None
    signal: int | None = None
    cause: Cause | None = _enum(Cause)
    message: str = ""
    removed: bool = False  # the engine holds nothing of it any more


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
    workload_id: int = Field(foreign_key="workload.id")
    node: str = "local"
    gpu: str
    fraction: float = 1.0
    acquired_at: float
    released_at: float | None = None


class GpuMark(SQLModel, table=True):
    """A GPU that gets no new work: drained by a user, or fenced because it reported errors."""

    __tablename__ = "gpu_mark"

    gpu: str = Field(primary_key=True)
    node: str = "local"
    reason: str
    fenced: bool = False
    at: float


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


class Series(SQLModel, table=True):
    """A named numeric series of a workload's replica (of the workload itself where ``replica`` is empty).

    ``measured`` ones are localml's own and are thinned out with age: they hold at most one point a minute before
    ``minutes_to``, and one an hour before ``hours_to``. ``due`` is when the next part of that work is to be done.
    These three are in microseconds since the epoch.
    """

    __table_args__ = (
        Index("uq_series", "workload_id", "replica", "name", unique=True),
        Index("ix_series_due", "due", sqlite_where=text("due IS NOT NULL")),
    )

    id: int | None = Field(default=None, primary_key=True)
    workload_id: int = Field(foreign_key="workload.id")
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


class NodeMark(SQLModel, table=True):
    """A machine that gets no new work."""

    __tablename__ = "node_mark"

    node: str = Field(primary_key=True)
    reason: str = ""
    at: float


class Model(SQLModel, table=True):
    """A name under which versions of weights are registered."""

    __table_args__ = (
        Index("uq_model_live_name", "project", "name", unique=True, sqlite_where=text("deleted_at IS NULL")),
    )

    id: int | None = Field(default=None, primary_key=True)
    project: str
    owner: str
    name: str
    description: str = ""
    created_at: float
    updated_at: float
    deleted_at: float | None = None


class ModelVersion(SQLModel, table=True):
    """Weights as they were registered; their files are copied below the data directory and never change."""

    __tablename__ = "model_version"
    __table_args__ = (Index("uq_model_version_number", "model_id", "number", unique=True),)

    id: int | None = Field(default=None, primary_key=True)
    model_id: int = Field(foreign_key="model.id")
    number: int
    owner: str
    source: str  # the URI as given
    format: str  # onnx | python | wmla-kernel
    runtime: str  # of the catalogue
    path: str  # of the folder with the version's folder, below the data directory
    size: int  # bytes of all files
    checksum: str  # SHA-256 over names and contents
    inputs: Any = Field(default=None, sa_column=Column(JSON))  # [{"name", "datatype", "shape"}]; NULL: not known yet
    outputs: Any = Field(default=None, sa_column=Column(JSON))
    workload_id: int | None = Field(default=None, foreign_key="workload.id", index=True)  # which wrote it
    created_at: float
    deleted_at: float | None = None


class Endpoint(SQLModel, table=True):
    """A served route. ``route`` is its name at the gateway; ``scale`` how many replicas are wanted now."""

    __table_args__ = (
        Index("uq_endpoint_live_route", "route", unique=True, sqlite_where=text("deleted_at IS NULL")),
        Index(
            "uq_endpoint_live_name",
            "dialect",
            "project",
            "name",
            unique=True,
            sqlite_where=text("deleted_at IS NULL"),
        ),
        Index("ix_endpoint_live", "id", sqlite_where=text("closed_at IS NULL")),
    )

    id: int | None = Field(default=None, primary_key=True)
    dialect: str
    project: str
    owner: str
    name: str
    route: str
    pool: str
    desired: Desired = _enum(Desired, Desired.RUN)
    state: EndpointState = _enum(EndpointState, EndpointState.STARTING)
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
    state: VariantState = _enum(VariantState, VariantState.ROLLING)
    message: str = ""
    failures: int = 0  # replicas that ended by themselves since it was last well
    not_before: float | None = None  # no replacement before this time
    created_at: float
    promoted_at: float | None = None  # when it first got requests
    ended_at: float | None = None
    recreate: bool = Field(default=False, sa_column_kwargs={"server_default": false()})  # others end before it starts


class EndpointReplica(SQLModel, table=True):
    """A replica of a variant: one child workload, and where it serves."""

    __tablename__ = "endpoint_replica"
    __table_args__ = (Index("ix_endpoint_replica_live", "endpoint_id", sqlite_where=text("ended_at IS NULL")),)

    id: int | None = Field(default=None, primary_key=True)
    endpoint_id: int = Field(foreign_key="endpoint.id")
    variant_id: int = Field(foreign_key="variant.id", index=True)
    workload_id: int = Field(foreign_key="workload.id", unique=True)
    state: ReplicaState = _enum(ReplicaState, ReplicaState.STARTING)
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
