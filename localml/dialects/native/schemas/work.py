"""What goes over the wire about workloads, and what is in all requests and answers.

Requests are strict (unknown members are refused), answers are documented. Times are seconds since the Unix
epoch, amounts of memory bytes, CPU cores, GPUs devices or a share of one.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    FailFast,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

from localml.core.limits import MOST_POINTS
from localml.core.quantities import parse_memory
from localml.core.subjects import Noun
from localml.core.work.specs import WorkloadSpec
from localml.core.work.states import Kind, State
from localml.core.work.totals import need_few

MAX_LOG_BYTES = 64 << 20
OFFSETS = re.compile(r"[0-9]{1,18}(,[0-9]{1,18})*")
LARGEST = 1 << 62  # what SQLite can hold


def _bytes(value: Any, info: ValidationInfo) -> Any:
    return parse_memory(value, info.field_name or "memory") if isinstance(value, str) else value


Bytes = Annotated[int, BeforeValidator(_bytes)]


class Strict(BaseModel):
    """Base of everything that a caller sends."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @classmethod
    def model_json_schema(cls, *args: Any, **options: Any) -> dict[str, Any]:
        """As pydantic makes it; the plain one is kept, because the framework asks for it on every request."""
        return super().model_json_schema(*args, **options) if args or options else _schema(cls)


@cache
def _schema(model: type[Strict]) -> dict[str, Any]:
    return super(Strict, model).model_json_schema()


class Reference(Strict):
    """A workload by id or name."""

    ref: str


class DialectPath(Strict):
    """One of the APIs that are served."""

    dialect: str


class Submit(Strict):
    """A workload to run. Without a name it is given one.

    ``workspace`` is an id or a name, here and below; the caller's own by default. ``replace``: the one of this API that
    has the name there is stopped and removed, once this one is accepted.
    """

    name: str | None = None
    workspace: str | None = None
    kind: Kind = Kind.JOB
    pool: str = "default"
    replace: bool = False
    spec: WorkloadSpec

    @field_validator("spec", mode="before")
    @classmethod
    def _few_members(cls, value: Any) -> Any:
        """Before a million of them are looked at one by one."""
        need_few("spec", value)
        return value


class ListQuery(Strict):
    """Which workloads, in which order; ``after`` is the ``next`` of the page before. ``why``: say why those wait that
    do."""

    kind: list[Kind] = Field(default_factory=list)
    state: list[State] = Field(default_factory=list)
    dialect: str | None = None
    workspace: str | None = None
    owner: str | None = None
    pool: str | None = None
    name: str | None = None
    contains: str | None = None
    parent_kind: Noun | None = None
    parent_id: int | None = Field(default=None, ge=0, le=LARGEST)
    deleted: bool = False
    sort: str = "id"
    order: Literal["asc", "desc"] = "desc"
    limit: int = Field(default=50, ge=1, le=1000)
    after: str | None = None
    why: bool = False


class WaitQuery(Strict):
    """How long to wait for the end, in seconds."""

    timeout: float = Field(default=30.0, ge=0, le=60)


class EventQuery(Strict):
    """Events after an id, oldest first."""

    after: int = Field(default=0, ge=0, le=LARGEST)
    limit: int = Field(default=1000, ge=1, le=10000)


class SubjectQuery(EventQuery):
    """The same, of one subject."""

    subject_kind: Noun | None = None
    subject_id: int | None = Field(default=None, ge=0, le=LARGEST)


class LogQuery(Strict):
    """Which output.

    ``attempt`` is the number of a try, ``all``, or (by default) the newest and those that follow. ``offset`` is the
    ``Localml-Offset`` of an earlier answer to the same question; for one stream of one replica it is a count of
    bytes. ``tail`` gives the last lines only; of more than ``limit`` bytes the newest, and ``Localml-Tail`` says the
    offset where all of them begin.
    """

    role: str | None = None
    index: int | None = Field(default=None, ge=0)
    attempt: str | None = Field(default=None, pattern=r"^([0-9]{1,9}|all)$")
    stream: Literal["stdout", "stderr"] | None = None
    offset: str | None = Field(default=None, pattern=f"^{OFFSETS.pattern}$")
    limit: int = Field(default=1 << 20, ge=1, le=MAX_LOG_BYTES)
    tail: int | None = Field(default=None, ge=0, le=1_000_000)
    follow: bool = False
    prefix: bool = True


class PointIn(Strict):
    """One value of a series; ``at`` is now when left out."""

    name: str = Field(min_length=1, max_length=256)
    value: float
    at: float | None = Field(default=None, ge=0, le=1e11)

    @model_validator(mode="before")
    @classmethod
    def _by_the_way(cls, value: Any) -> Any:
        """In Python, where other threads get their turn: a hundred thousand points at once would stop them all."""
        return value


class PointsIn(Strict):
    """Points of one replica (``worker-0``), or of the workload as a whole."""

    replica: str = Field(default="", max_length=128)
    points: Annotated[list[PointIn], FailFast()] = Field(max_length=MOST_POINTS)


class SampleQuery(Strict):
    """Series of a workload, the points since a time."""

    since: float | None = Field(default=None, ge=-1e11, le=1e11)
    name: str | None = None
    replica: str | None = None


# -- answers -----------------------------------------------------------------------------------------------------------


class ErrorBody(BaseModel):
    """What went wrong; the same four members whatever it was."""

    code: str
    message: str
    field: str | None
    details: dict[str, Any]


class ErrorAnswer(BaseModel):
    """The body of every answer that is no success."""

    error: ErrorBody


class HolderOut(BaseModel):
    """Who has what a workload waits for, since when it runs."""

    id: int
    name: str
    kind: str
    owner: str
    since: float | None


class ReasonOut(BaseModel):
    """Why a workload waits, or what it waits for before it is over. ``holders`` are ids of all that have it,
    ``held_by`` the first of them."""

    code: str
    message: str
    short: list[str]
    holders: list[int]
    held_by: list[HolderOut]
    expected_start: float | None


class WorkloadOut(BaseModel):
    """A workload in a list. One that is a child says whose: trial of a study, version of a job, run of an instance,
    replica of a variant; ``parent_index`` says which one, ``version`` how a job's API calls it. In lists ``exited_at``
    says when the last program of one ended whose output is still being copied; it holds no GPUs any more. ``why`` is
    given in lists where it is asked for, of the first fifty that wait."""

    id: int
    name: str
    kind: str
    state: str
    desired: str
    cause: str | None
    message: str
    exit_code: int | None
    dialect: str
    workspace: str
    owner: str
    version: str
    pool: str
    priority: int
    attempt: int
    retries: int
    cpu: float
    memory: int
    gpu: float
    created_at: float
    updated_at: float
    queued_at: float
    started_at: float | None
    ended_at: float | None
    deleted_at: float | None
    parent_kind: Noun | None
    parent_id: int | None
    parent_index: int | None
    exited_at: float | None = None
    why: ReasonOut | None = None


class WorkloadsOut(BaseModel):
    """One page; ``next`` is null at the end."""

    workloads: list[WorkloadOut]
    next: str | None


class EventOut(BaseModel):
    """A fact about a subject; ``workload_id`` is given where that is a workload."""

    id: int
    subject_kind: Noun
    subject_id: int
    workload_id: int | None
    at: float
    severity: str
    reason: str
    message: str
    source: str
    replica: str


class EventsOut(BaseModel):
    """Events, oldest first; ``after`` is the id to ask on with."""

    events: list[EventOut]
    after: int


class GrantOut(BaseModel):
    """A GPU that a replica holds, or held until ``released_at``."""

    uuid: str
    index: str | None
    fraction: float
    simulated: bool
    released_at: float | None


class PortOut(BaseModel):
    """A published port."""

    container: int
    host: int
    url: str | None


class ReplicaOut(BaseModel):
    """One container of one replica; ``exited_at`` is given where a program was over before its output was copied,
    until which ``state`` is ``running``."""

    role: str
    index: int
    attempt: int
    name: str
    node: str
    state: str
    address: str | None
    ports: dict[str, PortOut]
    gpus: list[GrantOut]
    started_at: float | None
    exited_at: float | None
    ended_at: float | None
    exit_code: int | None
    signal: int | None
    cause: str | None
    message: str


class WorkloadFull(WorkloadOut):
    """Everything that is kept about one workload. ``help`` says what to do about how it ended."""

    help: str | None
    spec: dict[str, Any]
    request: Any
    images: dict[str, str]
    replicas: list[ReplicaOut]
    events: list[EventOut]
    why: ReasonOut | None


class WhyOut(BaseModel):
    """``why`` is null when the workload does not wait."""

    state: str
    why: ReasonOut | None
