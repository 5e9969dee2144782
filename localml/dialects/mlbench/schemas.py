"""Bodies of requests and answers, and what may stand in URLs."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, RootModel, model_validator

from localml.core.errors import invalid
from localml.core.limits import MOST_REPLICAS
from localml.dialects.kit.parameters import Parameters
from localml.dialects.mlbench.translate.times import parse_time

MAX_TEXT = 65536


def _present(value: Any) -> Any:
    """Forms send empty fields for what was left out."""
    return None if value == "" else value


def _joined(value: Any) -> Any:
    """A form sends a mapping as its keys."""
    return ", ".join(map(str, value)) if isinstance(value, list) else value


def _finite(value: float) -> float:
    if not math.isfinite(value):
        raise ValueError("must be a number")
    return value


def _no_bool(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("must be a whole number")
    return value


def _time(text: str) -> str:
    parse_time(text)
    return text


Time = Annotated[str, AfterValidator(_time), Field(json_schema_extra={"format": "date-time"})]
Text = Annotated[Annotated[str, Field(max_length=MAX_TEXT)] | None, BeforeValidator(_present)]
Amount = Annotated[float, Field(gt=0), AfterValidator(_finite)]
Cores = Annotated[Amount, Field(le=4096)]
Flag = Annotated[bool, BeforeValidator(lambda value: False if value in ("", None) else value)]


class RunPath(BaseModel):
    """A run in the URL."""

    run_id: int


class SourcePath(BaseModel):
    """A pod's name, or with ``metric_type=run`` a run's id."""

    pod_name_or_run_id: str = Field(min_length=1)


class MetricQuery(Parameters):
    """Which points of which metrics.

    ``since``: only later ones. ``summarize``: so many where there are more, each the mean of its share. ``last_n``:
    only the latest ones. ``metric_filter``: only this metric. ``format=zip``: as a download.
    """

    since: Time | None = None
    metric_type: Literal["pod", "run"] = "pod"
    summarize: int | None = Field(default=None, ge=1, le=10**9)
    metric_filter: str | None = None
    last_n: int | None = Field(default=None, ge=1, le=10**9)
    format: str | None = None


class Error(BaseModel):
    """Every failure."""

    status: str
    message: str


class Pod(BaseModel):
    """A worker of a run that is active. ``labels`` is a map in Python's notation."""

    name: str
    labels: str
    phase: str
    ip: str


class PodList(RootModel[list[Pod]]):
    """Worker pods."""


class MetricPoint(BaseModel):
    """One measured point; the number is text."""

    date: str = Field(json_schema_extra={"format": "date-time"})
    value: str


class MetricsByName(RootModel[dict[str, list[MetricPoint]]]):
    """Metric name to points, old ones first."""


class MetricsByPod(RootModel[dict[str, MetricsByName]]):
    """Pod name to metrics."""


class MetricCreate(BaseModel):
    """A metric to store, of a pod or of a run."""

    model_config = ConfigDict(
        json_schema_extra={"oneOf": [{"required": ["pod_name"]}, {"required": ["run_id"]}]},
    )

    pod_name: Annotated[str, Field(min_length=1)] = Field(default="", validate_default=False)
    run_id: Annotated[int, BeforeValidator(_no_bool)] = Field(default=0, validate_default=False)
    name: str = Field(min_length=1, max_length=1000)
    date: Time
    value: str = Field(max_length=100_000)
    cumulative: bool = False
    metadata: Annotated[str, BeforeValidator(_joined)] = Field(default="", max_length=100_000)

    @model_validator(mode="after")
    def _one_source(self) -> MetricCreate:
        if ("pod_name" in self.model_fields_set) == ("run_id" in self.model_fields_set):
            raise invalid("pod_name", "give either pod_name or run_id, and not both")
        return self


class Metric(BaseModel):
    """A stored metric."""

    model_config = MetricCreate.model_config

    pod_name: str = ""
    run_id: int = 0
    name: str
    date: str = Field(json_schema_extra={"format": "date-time"})
    value: str
    cumulative: bool
    metadata: str


class RunCreate(BaseModel):
    """A run to start.

    ``image_name`` is one of the vendor's benchmarks, or ``custom_image`` with ``custom_image_name`` and
    ``custom_image_command``. ``backend`` is mpi, gloo or nccl, or ``custom_backend`` with the name in
    ``custom_backend``.
    """

    model_config = ConfigDict(extra="allow")

    name: str = Field(min_length=1, max_length=1000)
    num_workers: Annotated[int, BeforeValidator(_no_bool)] = Field(default=2, ge=1, le=MOST_REPLICAS)
    num_cpus: Annotated[Cores | None, BeforeValidator(_present)] = None
    max_bandwidth: Annotated[Amount | None, BeforeValidator(_present)] = None
    image_name: Text = None
    custom_image_name: Text = None
    custom_image_command: Text = None
    backend: Text = None
    custom_backend: Text = None
    gpu_enabled: Flag = False
    light_target: Flag = False
    run_all_nodes: Flag = False
    use_horovod: Flag = False


class Run(BaseModel):
    """A benchmark run."""

    id: int
    name: str
    created_at: str = Field(json_schema_extra={"format": "date-time"})
    finished_at: str | None
    state: Literal["STARTED", "FINISHED", "FAILED"]
    job_id: str = Field(json_schema_extra={"format": "uuid"})
    job_metadata: dict[str, Any]
    num_workers: int
    cpu_limit: str
    image: str
    command: str
    backend: str


class RunList(RootModel[list[Run]]):
    """All runs, old ones first."""
