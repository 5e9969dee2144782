"""Bodies about development environments and tensorboards."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from localml.dialects.cloudml.schemas.training import Name, Noted, Volume
from localml.dialects.cloudml.translate.amounts import CpuAmount, GpuAmount, MemoryAmount

MAX_PORTS = 16
"""Ports of a development environment."""


class NetworkEntry(BaseModel):
    """A port of a development environment; ``JUPYTER`` is the notebook's own, which it always has."""

    protocol: Literal["JUPYTER", "TCP"]
    port: int = Field(ge=1, le=65535)
    whitelist: list[str] = []


class DevEnvCreate(Volume, Noted):
    """A new development environment. ``password`` is what the notebook is opened with."""

    model_config = ConfigDict(extra="allow", protected_namespaces=())

    dev_name: Name
    password: str | None = None
    cpu_limit: CpuAmount | None = None
    memory_limit: MemoryAmount | None = None
    gpu_limit: GpuAmount | None = None
    gpu_type: str | None = None
    framework: str | None = None
    framework_version: str | None = None
    docker_image: str | None = None
    docker_command: str | None = None
    prepare_command: str | None = None
    finish_command: str | None = None
    ceph_volume: str | None = None
    ceph_mode: str | None = None
    job_name: str | None = None
    module_name: str | None = None
    trainer_uri: str | None = None
    job_args: str | None = None
    cluster_env_var: str | None = None
    network: Annotated[list[NetworkEntry] | None, Field(max_length=MAX_PORTS)] = None


class DevEnv(BaseModel):
    """A development environment as it is answered, with whatever else the client gave."""

    model_config = ConfigDict(extra="allow", protected_namespaces=())

    org_id: str
    org_name: str
    dev_name: str
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
    password: str
    notebook_port: str
    ssh_port: str
    address: str
    ssh_address: str
    proxy_whitelist: list[str]
    network: list[dict[str, Any]]
    ceph_volume: str | None
    ceph_mode: str | None
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
    fds_endpoint: str | None
    fds_bucket: str | None
    hdfs_endpoint: str | None
    hdfs_krb_account: str | None
    url: str | None


class DevEnvList(BaseModel):
    """Development environments of an organisation."""

    data: list[DevEnv]


class TensorboardCreate(Noted):
    """A new tensorboard."""

    model_config = ConfigDict(extra="allow", protected_namespaces=())

    tensorboard_name: Name
    logdir: str = Field(min_length=1)
    docker_image: str | None = None
    docker_command: str | None = None
    framework: str | None = None
    framework_version: str | None = None


class Tensorboard(BaseModel):
    """A tensorboard as it is answered, with whatever else the client gave."""

    model_config = ConfigDict(extra="allow", protected_namespaces=())

    org_id: str
    org_name: str
    tensorboard_name: str
    logdir: str
    service_port: str
    state: str
    create_time: str
    update_time: str
    address: str
    docker_image: str | None
    docker_command: str | None
    framework: str | None
    framework_version: str | None
    fds_endpoint: str | None
    fds_bucket: str | None
    url: str | None


class TensorboardList(BaseModel):
    """Tensorboards of an organisation."""

    data: list[Tensorboard]
