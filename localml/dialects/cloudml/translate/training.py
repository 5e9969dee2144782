"""Training jobs of Cloud-ML as workloads, and back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from localml.core.catalog import Runtime
from localml.core.errors import Code, LocalmlError, invalid
from localml.core.work.specs import Mount, Port, Resources, Role, WorkloadSpec
from localml.core.work.states import Desired, State
from localml.core.work.tables import Workload
from localml.dialects.cloudml.schemas.training import ClusterMember, TrainJob, TrainJobCreate, Volume
from localml.dialects.cloudml.translate.amounts import cores, memory_bytes
from localml.dialects.kit.times import plain_time
from localml.objects import BucketsFor, inspect_object
from localml.platform import Platform

DEFAULT_FRAMEWORK = "scikitlearn"
CLUSTER_PORT = 2222
MASTER, WORKER, PARAMETER_SERVER = "master", "worker", "ps"
_MOST_CORES, _MOST_GPUS = 4096, 1024  # more than these no spec can say

STATE_WORDS: dict[State, str] = {
    State.QUEUED: "pending",
    State.PREPARING: "creating",
    State.RUNNING: "running",
    State.STOPPING: "processing",
    State.SUCCEEDED: "completed",
    State.FAILED: "failed",
    State.STOPPED: "failed",
}
"""Every state in the words that clients know. They wait for ``completed`` or ``failed``; a stopped one is that."""

SECRET_MEMBERS = frozenset({"hdfs_krb_password", "hdfs_krb_keytab"})
"""Of no use here, and so not kept."""
_NOT_ECHOED = frozenset({"ps_count", "worker_count"})
_PATHS = ("model_input_path", "model_export_path", "data_input_path", "data_output_path", "log_path")


def state_word(row: Workload) -> str:
    """The state of a job; ``deleting`` once somebody asked for its end."""
    if row.desired is Desired.STOP and row.ended_at is None:
        return "deleting"
    return STATE_WORDS[row.state]


def stored_request(given: Mapping[str, Any], job: TrainJobCreate) -> dict[str, Any]:
    """The request as it is kept: as given, without secrets, numbers of GPUs as numbers."""
    kept = {name: value for name, value in given.items() if name not in SECRET_MEMBERS}
    if job.gpu_limit is not None:
        kept["gpu_limit"] = job.gpu_limit
    return kept


def train_spec(platform: Platform, view: BucketsFor, job: TrainJobCreate) -> WorkloadSpec:
    """What to run for a training job.

    Args:
        view: the objects that its owner may use.

    Raises:
        LocalmlError: ``INVALID`` naming the member that is wrong or cannot be honoured, ``CAPACITY`` for amounts that
            no machine has.
    """
    members = _members(job)
    gpu = platform.real_gpus and any(_resources(platform, job, member).gpu for member in members.values())
    runtime = platform.catalog.find(job.framework or DEFAULT_FRAMEWORK, job.framework_version, gpu=gpu)
    command = _command(view, job, runtime)
    image = job.docker_image or f"{runtime.image}:latest"
    roles = tuple(
        Role(
            name=name,
            image=image,
            command=command,
            env=_env(job, member),
            resources=_resources(platform, job, member),
            count=member.count,
            ports=(Port(label="cluster", container=CLUSTER_PORT, publish=False),),
            service=name == PARAMETER_SERVER and len(members) > 1,
        )
        for name, member in members.items()
    )
    return WorkloadSpec(roles=roles, mounts=mounts(view, job), objects=_objects(job))


def _members(job: TrainJobCreate) -> dict[str, ClusterMember]:
    """Role -> how many of what. Of n workers one is the master."""
    if job.cluster_spec:
        return job.cluster_spec
    members = {MASTER: ClusterMember(count=1)}
    if job.worker_count and job.worker_count > 1:
        members[WORKER] = ClusterMember(count=job.worker_count - 1)
    if job.ps_count:
        members[PARAMETER_SERVER] = ClusterMember(count=job.ps_count)
    return members


def _command(view: BucketsFor, job: TrainJobCreate, runtime: Runtime) -> tuple[str, ...]:
    """The launcher's command after checking what it will fetch, or the user's own."""
    if job.docker_command is None:
        inspect_object(view, job.trainer_uri, field="trainer_uri")
        return runtime.command
    if not job.docker_image:
        raise invalid("docker_command", "needs docker_image")
    for name in ("prepare_command", "finish_command"):
        if getattr(job, name):
            raise invalid(name, "does not go with docker_command; make it a part of that command")
    return ("sh", "-c", job.docker_command)


def _objects(job: TrainJobCreate) -> tuple[str, ...]:
    """What its program is told of the object tree."""
    given = [job.trainer_uri, *(getattr(job, name) for name in _PATHS)]
    return tuple(uri for uri in given if uri and "://" in uri)


def _env(job: TrainJobCreate, member: ClusterMember) -> dict[str, str]:
    env = {name.upper(): value for name in _PATHS if (value := getattr(job, name))}
    if job.docker_command is not None:
        return env
    launch = {
        "trainer_uri": job.trainer_uri,
        "module_name": job.module_name,
        "job_args": " ".join(part for part in (job.job_args, member.task_args) if part),
        "prepare_command": job.prepare_command,
        "finish_command": job.finish_command,
    }
    given = {name: value for name, value in launch.items() if value}
    return {**env, "LOCALML_LAUNCH": json.dumps(given, separators=(",", ":"))}


def _resources(platform: Platform, job: TrainJobCreate, member: ClusterMember) -> Resources:
    return replica_resources(
        platform,
        member.cpu_limit if member.cpu_limit is not None else job.cpu_limit,
        member.memory_limit or job.memory_limit,
        member.gpu_limit if member.gpu_limit is not None else job.gpu_limit,
        member.gpu_type or job.gpu_type,
    )


def replica_resources(
    platform: Platform,
    cpu_limit: float | str | None,
    memory_limit: str | None,
    gpu_limit: int | None,
    gpu_type: str | None,
) -> Resources:
    """What one container needs.

    Raises:
        LocalmlError: ``CAPACITY`` for amounts that no machine has.
    """
    cpu, gpu = cores(cpu_limit), gpu_limit or 0
    if cpu is not None and cpu > _MOST_CORES:
        raise _too_much("cpu_limit", cpu, platform.hardware.machine().cpu, "CPU cores")
    if gpu > _MOST_GPUS:
        raise _too_much("gpu_limit", gpu, len(platform.gpus.devices()), "GPUs")
    return Resources(cpu=cpu, memory=memory_bytes(memory_limit), gpu=gpu, gpu_type=gpu_type or None)


def _too_much(field: str, asked: float, there: float, unit: str) -> LocalmlError:
    words = f"{field}: {asked:g} {unit} were asked for, this machine has {there:g}"
    return LocalmlError(Code.CAPACITY, words, field=field, details={"asked": asked, "available": there})


def mounts(view: BucketsFor, job: Volume) -> tuple[Mount, ...]:
    """The volume of a request, if it has one.

    Raises:
        LocalmlError: ``INVALID`` naming ``volume_path`` or ``mount_path``.
    """
    if not job.volume_path and not job.mount_path:
        return ()
    if not job.volume_path:
        raise invalid("volume_path", "is required with mount_path")
    if not job.mount_path:
        raise invalid("mount_path", "is required with volume_path")
    source = job.volume_path
    if "://" in source:
        view.find(source, field="volume_path")
    elif not source.startswith("/"):
        source = f"workspace:{source}"
    return (Mount(source=source, target=job.mount_path, read_only=bool(job.mount_read_only)),)


def train_answer(platform: Platform, row: Workload, spec: WorkloadSpec, request: Mapping[str, Any]) -> dict[str, Any]:
    """A job as it is answered, a :class:`TrainJob`: what the client gave, with its types, and what became of it."""
    software, version = _software(platform, request)
    given = {name: value for name, value in request.items() if name not in _NOT_ECHOED}
    computed = {
        "org_id": row.workspace,
        "org_name": row.workspace,
        "job_name": row.name,
        "cluster_name": row.name,
        "cluster_env_var": _cluster(platform, spec),
        "service_port": str(CLUSTER_PORT),
        "software": software,
        "version": version,
        "state": state_word(row),
        "create_time": plain_time(row.created_at),
        "update_time": plain_time(row.updated_at),
        "mount_read_only": read_only_text(request),
    }
    return {**dict.fromkeys(TrainJob.model_fields), **given, **computed}


def read_only_text(request: Mapping[str, Any]) -> str:
    """The flag of a request's volume as Python writes it."""
    given = request.get("mount_read_only")
    return str(given is True or str(given).lower() in ("true", "1"))


def _software(platform: Platform, request: Mapping[str, Any]) -> tuple[str | None, str | None]:
    """Framework and version that the job runs with; unknown in an image of the user's own."""
    name, version = request.get("framework"), request.get("framework_version")
    if request.get("docker_image"):
        return name, version
    name = name or DEFAULT_FRAMEWORK
    return name, version or next(iter(platform.catalog.frameworks().get(name, ())), None)


def _cluster(platform: Platform, spec: WorkloadSpec) -> dict[str, list[str]] | None:
    """Addresses of a distributed job's members. Where the engine maps no ports, they share the machine's,
    which are chosen when they start; then there is nothing to tell beforehand."""
    if spec.replicas == 1 or not platform.engine.capabilities.addresses_known:
        return None
    return {
        role.name: [f"{role.name.lower()}-{index}:{CLUSTER_PORT}" for index in range(role.count)] for role in spec.roles
    }
