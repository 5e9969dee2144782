"""Bodies about training jobs and quota, and what all operations share. What clients send beyond these members is kept
and answered."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, RootModel, model_validator

from localml.core.errors import invalid
from localml.core.limits import MOST_REPLICAS, MOST_ROLES
from localml.dialects.cloudml.translate.amounts import CpuAmount, GpuAmount, MemoryAmount
from localml.dialects.kit.parameters import Parameters

_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,126}[a-z0-9])?")


def _name(value: str) -> str:
    if not _NAME.fullmatch(value):
        raise ValueError("must be lower-case letters, digits and inner hyphens, at most 128")
    return value


def _mount_path(value: str | None) -> str | None:
    if value is not None and (not value.startswith("/") or ".." in value.split("/")):
        raise ValueError("must be an absolute path without '..'")
    return value


Name = Annotated[str, Field(min_length=1), AfterValidator(_name)]
Count = Annotated[GpuAmount, Field(ge=1, le=MOST_REPLICAS, json_schema_extra={"minimum": 1, "description": "Replicas"})]


class OrgQuery(Parameters):
    """Which organisation to act for: the access key's without, ``-1`` for all."""

    org_id: str | None = None


class DeleteQuery(OrgQuery):
    """``is_cluster_name`` is the same here: a distributed job is one job, whose name is its cluster's."""

    is_cluster_name: str | None = None


class LogQuery(OrgQuery):
    """``lines``: only so many last lines. ``follow``: plain lines as they come, for at most five minutes."""

    lines: int | None = Field(default=None, ge=0, le=10**9)
    follow: bool = False


class JobPath(BaseModel):
    """A job in the URL."""

    job_name: str = Field(min_length=1)


class ReplicaQuery(OrgQuery):
    """``replica``: only this one of several, counted from 0. There is no proxy, and so no log of it."""

    replica: int | None = Field(default=None, ge=0, le=MOST_REPLICAS)


class ModelPath(BaseModel):
    """A model service in the URL."""

    model_config = ConfigDict(protected_namespaces=())

    model_name: str = Field(min_length=1)
    model_version: str = Field(min_length=1)


class DevPath(BaseModel):
    """A development environment in the URL."""

    dev_name: str = Field(min_length=1)


class BoardPath(BaseModel):
    """A tensorboard in the URL."""

    tensorboard_name: str = Field(min_length=1)


class Error(BaseModel):
    """Every failure."""

    error: Literal[True]
    message: str = Field(min_length=1)


class Message(BaseModel):
    """A confirmation."""

    message: str


class Logs(BaseModel):
    """The whole log."""

    logs: str


class ClusterMember(BaseModel):
    """One task type of a ``cluster_spec``; amounts left out are those of the job."""

    count: Count
    cpu_limit: CpuAmount | None = None
    memory_limit: MemoryAmount | None = None
    gpu_limit: GpuAmount | None = None
    gpu_type: str | None = None
    task_args: str | None = None


class Volume(BaseModel):
    """The volume that a request may have, whatever it is for."""

    volume_type: str | None = None
    volume_path: str | None = None
    mount_path: Annotated[str | None, AfterValidator(_mount_path)] = None
    mount_read_only: bool | None = None


class Noted(BaseModel):
    """Members that choose nothing here and are answered as given."""

    fds_endpoint: str | None = None
    fds_bucket: str | None = None
    hdfs_endpoint: str | None = None
    hdfs_krb_account: str | None = None
    cluster_name: str | None = None


class TrainJobCreate(Volume, Noted):
    """A new training job."""

    model_config = ConfigDict(extra="allow", protected_namespaces=())

    job_name: Name
    module_name: str = Field(min_length=1)
    trainer_uri: str = Field(min_length=1)
    job_args: str | None = None
    cpu_limit: CpuAmount | None = None
    memory_limit: MemoryAmount | None = None
    gpu_limit: GpuAmount | None = None
    gpu_type: str | None = None
    ps_count: Count | None = None
    worker_count: Count | None = None
    cluster_spec: Annotated[
        dict[Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,64}$")], ClusterMember] | None,
        Field(max_length=MOST_ROLES),
    ] = None
    framework: str | None = None
    framework_version: str | None = None
    docker_image: str | None = None
    docker_command: str | None = None
    prepare_command: str | None = None
    finish_command: str | None = None
    model_input_path: str | None = None
    model_export_path: str | None = None
    data_input_path: str | None = None
    data_output_path: str | None = None
    log_path: str | None = None

    @model_validator(mode="after")
    def _cluster_is_said_once(self) -> TrainJobCreate:
        if self.cluster_spec and (self.ps_count or self.worker_count):
            raise invalid("cluster_spec", "does not go with ps_count and worker_count")
        return self


class TrainJob(BaseModel):
    """A training job as it is answered, with whatever else the client gave."""

    model_config = ConfigDict(extra="allow", protected_namespaces=())

    org_id: str
    org_name: str
    job_name: str
    module_name: str
    trainer_uri: str
    job_args: str | None
    cpu_limit: CpuAmount | None
    memory_limit: MemoryAmount | None
    gpu_limit: GpuAmount | None
    cluster_name: str | None
    cluster_env_var: dict[str, Any] | None
    service_port: str
    software: str | None
    version: str | None
    state: str
    create_time: str
    update_time: str
    volume_type: str | None
    volume_path: str | None
    mount_path: str | None
    mount_read_only: str
    prepare_command: str | None
    finish_command: str | None
    fds_endpoint: str | None
    fds_bucket: str | None
    hdfs_endpoint: str | None
    hdfs_krb_account: str | None
    docker_image: str | None
    docker_command: str | None
    framework: str | None
    framework_version: str | None
    hyperparameters_name: str | None
    hyperparameters_goal: str | None
    hyperparameters_params: Any


class TrainJobList(BaseModel):
    """Jobs of an organisation."""

    data: list[TrainJob]


class EventSource(BaseModel):
    """Who reports."""

    component: str


class InvolvedObject(BaseModel):
    """What an event is about."""

    kind: str
    uid: str
    namespace: str
    apiVersion: str
    resourceVersion: str
    name: str


class EventMetadata(BaseModel):
    """The event as an object of its own."""

    uid: str
    namespace: str
    resourceVersion: str
    creationTimestamp: str
    selfLink: str
    name: str


class Event(BaseModel):
    """A Kubernetes event."""

    count: int = Field(ge=1)
    firstTimestamp: str
    lastTimestamp: str
    source: EventSource
    reason: str
    involvedObject: InvolvedObject
    message: str
    type: str
    metadata: EventMetadata


class EventList(BaseModel):
    """Events, oldest first: under ``data`` as documented, and ``events``, where the published client reads them."""

    data: list[Event]
    events: list[Event]
    recommend: list[Any] = []


class Quota(BaseModel):
    """What an organisation may use and uses: the 18 documented members and those that the published client shows."""

    model_config = ConfigDict(extra="allow", protected_namespaces=())

    train_memory_quota: str
    train_memory_used: str
    train_cpu_quota: str
    train_cpu_used: str
    train_gpu_quota: str
    train_gpu_used: str
    model_memory_quota: str
    model_memory_used: str
    model_cpu_quota: str
    model_cpu_used: str
    model_gpu_quota: str
    model_gpu_used: str
    dev_memory_quota: str
    dev_memory_used: str
    dev_cpu_quota: str
    dev_cpu_used: str
    dev_gpu_quota: str
    dev_gpu_used: str


class QuotaList(RootModel[list[Quota]]):
    """One record for each organisation asked for."""


class Frameworks(RootModel[dict[str, list[str]]]):
    """Framework name to versions, the preferred one first."""
