"""Bodies about model services. What clients send beyond these members is kept and answered."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator

from localml.core.errors import invalid
from localml.dialects.cloudml.schemas.training import Count, Name, Noted, Volume
from localml.dialects.cloudml.translate.amounts import CpuAmount, GpuAmount, MemoryAmount


class ModelServiceCreate(Volume, Noted):
    """A new model service. ``trainer_uri`` and ``job_args`` are other names of ``model_uri`` and ``model_args``;
    ``job_name`` and ``module_name`` mean nothing here."""

    model_config = ConfigDict(extra="allow", protected_namespaces=())

    model_name: Name
    model_version: str = Field(min_length=1)
    model_uri: Annotated[str | None, Field(min_length=1)] = None
    trainer_uri: Annotated[str | None, Field(min_length=1)] = None
    model_args: str | None = None
    job_args: str | None = None
    job_name: str | None = None
    module_name: str | None = None
    cluster_env_var: str | None = None
    cpu_limit: CpuAmount | None = None
    memory_limit: MemoryAmount | None = None
    gpu_limit: GpuAmount | None = None
    gpu_type: str | None = None
    replicas: Count | None = None
    framework: str | None = None
    framework_version: str | None = None
    docker_image: str | None = None
    docker_command: str | None = None
    prepare_command: str | None = None
    finish_command: str | None = None

    @model_validator(mode="after")
    def _has_a_model(self) -> ModelServiceCreate:
        if not self.model_uri and not self.trainer_uri:
            raise invalid("model_uri", "is required")
        return self


class ModelService(BaseModel):
    """A model service as it is answered, with whatever else the client gave."""

    model_config = ConfigDict(extra="allow", protected_namespaces=())

    org_id: str
    org_name: str
    model_name: str
    model_version: str
    model_uri: str | None
    model_args: str | None
    cpu_limit: CpuAmount | None
    memory_limit: MemoryAmount | None
    gpu_limit: GpuAmount | None
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
    address: str | None
    http_address: str | None
    replicas: int
    pod_replicas: int
    fds_endpoint: str | None
    fds_bucket: str | None
    docker_image: str | None
    docker_command: str | None
    framework: str | None
    framework_version: str | None
    job_name: str | None
    module_name: str | None
    trainer_uri: str | None
    job_args: str | None
    cluster_name: str | None
    cluster_env_var: str | None


class ModelServiceList(BaseModel):
    """Model services of an organisation."""

    data: list[ModelService]
