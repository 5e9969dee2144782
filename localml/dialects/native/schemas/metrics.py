"""Metrics and parameters of jobs: queries and answers."""

from __future__ import annotations

from pydantic import BaseModel, Field

from localml.core.limits import MOST_COMPARED, MOST_POINTS
from localml.core.work.causes import Cause
from localml.core.work.states import Kind, State
from localml.dialects.native.schemas.work import Strict


class CompareQuery(Strict):
    """The jobs to compare, by names or ids."""

    ref: list[str] = Field(default_factory=list, max_length=MOST_COMPARED)


class PointsQuery(Strict):
    """A metric by its name (all of them without one), and how many of its points, the latest ones."""

    name: str | None = None
    replica: str | None = None
    last: int = Field(default=1000, ge=1, le=MOST_POINTS)


class PointsOut(BaseModel):
    """Each replica's points of each metric in order of time: [seconds since the epoch, step or null, value or null]."""

    series: list[ReplicaPoints]


class ReplicaPoints(BaseModel):
    """Those of one metric of one replica; empty: of the job as a whole."""

    replica: str
    name: str
    points: list[tuple[float, int | None, float | None]]


class MetricOut(BaseModel):
    """A metric of one replica (empty: of the job as a whole): its last value (null when that is no number, which
    ``text`` says), the step and the time of that, the least and the most, and how many points there are."""

    replica: str
    name: str
    last: float | None
    text: str
    step: int | None
    at: float
    min: float | None
    max: float | None
    count: int


class MetricsOut(BaseModel):
    """What a job reported. ``complete`` is false while some of what it wrote has not been read."""

    id: int
    name: str
    state: State
    parameters: dict[str, str]
    metrics: list[MetricOut]
    complete: bool


class Compared(BaseModel):
    """A job of a comparison; ``metrics`` by name, those of the job as a whole or of the first replica that has one."""

    id: int
    name: str
    kind: Kind
    state: State
    cause: Cause | None
    owner: str
    created_at: float
    started_at: float | None
    ended_at: float | None
    parameters: dict[str, str]
    metrics: dict[str, MetricOut]


class Comparison(BaseModel):
    """Jobs side by side, in the order in which they were named."""

    workloads: list[Compared]
    complete: bool
