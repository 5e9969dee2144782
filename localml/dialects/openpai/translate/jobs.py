"""Job configs of OpenPAI as workloads."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress

from localml.core.errors import Code, LocalmlError, invalid
from localml.core.limits import MOST_PORTS, need_at_most
from localml.core.work.reservations import shared_memory
from localml.core.work.specs import Completion, Resources, RetryPolicy, Role, WorkloadSpec
from localml.dialects.openpai.schemas import FOR_EVER, WITHOUT_FAULT, KeptConfig, TaskRole
from localml.dialects.openpai.translate.clusters import DEFAULT
from localml.dialects.openpai.translate.variables import DEFAULT_FS, job_env, ports_of, requests_of, role_env
from localml.objects import BucketsFor
from localml.objects.registry_auth import read_registry_auth
from localml.platform import Platform

DIALECT = "openpai"
MAX_CODE = 200 << 20
"""Bytes that ``codeDir`` may hold."""
ONLY_TASK = "main"
"""The role of a job that names none."""

_DIRECTORIES = ("dataDir", "outputDir", "codeDir")
_FOLDERS = (*_DIRECTORIES, "authFile")
_REFERENCE = re.compile(r"\$(?:\{(\w+)\}|(\w+))")
_MOST_CORES, _MOST_GPUS = 4096, 1024  # more than these no spec can say
_MEGABYTE = 1 << 20

TASK_SCRIPT = """
[ -w . ] || cd "$(mktemp -d)" || exit 1
[ -z "$2" ] || cp -R -H "$LOCALML_BUCKETS/$2" . || exit 1
export PAI_WORK_DIR="$PWD"
shell=$(command -v bash) || shell=/bin/sh
exec "$shell" -c "$1"
"""
"""What a container runs: it fetches the code ($2, a path below the buckets) and becomes the user's command ($1).

Images are the user's own and hold no launcher of ours; a shell is all that they need to have.
"""


def workspace(platform: Platform) -> str:
    """The one that all jobs are in: their names are unique among all users, who each see all."""
    return platform.workspaces.of_dialect(DIALECT)


def folders_of(job: KeptConfig, *, user: str) -> dict[str, str]:
    """The job's directories and ``authFile`` as URIs: references expanded, empty where there is none.

    A plain path is one of the default file system.
    """
    values = {
        "PAI_DEFAULT_FS_URI": DEFAULT_FS,
        "PAI_JOB_NAME": job.jobName,
        "PAI_JOB_VC_NAME": job.virtualCluster or DEFAULT,
        "PAI_USER_NAME": user,
        "jobName": job.jobName,
    }
    variables = {"dataDir": "PAI_DATA_DIR", "outputDir": "PAI_OUTPUT_DIR", "codeDir": "PAI_CODE_DIR"}
    given = {name: getattr(job, name) or "" for name in _FOLDERS}
    given["outputDir"] = given["outputDir"] or "$PAI_DEFAULT_FS_URI/Output/$jobName"
    found: dict[str, str] = {}
    for name in _FOLDERS:
        uri = expand_references(given[name], values)
        found[name] = DEFAULT_FS + uri if uri.startswith("/") else uri
        if name in variables:
            values[variables[name]] = found[name]
    return found


def expand_references(text: str, values: Mapping[str, str]) -> str:
    """``$NAME`` and ``${NAME}`` replaced where the name is known; others stay."""
    return _REFERENCE.sub(lambda found: values.get(found[1] or found[2], found[0]), text)


def job_spec(
    platform: Platform, view: BucketsFor, job: KeptConfig, folders: Mapping[str, str], *, user: str
) -> WorkloadSpec:
    """What to run for a job.

    Args:
        view: the objects that its owner may use.
        folders: those of :func:`folders_of`.

    Raises:
        LocalmlError: ``INVALID`` naming the member that is wrong or cannot be honoured, ``CAPACITY`` for amounts that
            no machine has, ``TOO_LARGE`` for too much code.
    """
    cluster = job.virtualCluster or DEFAULT
    code = _checked_folders(view, folders)
    env = job_env(job, folders, user=user, cluster=cluster)
    auth = folders["authFile"] or None
    _need_few_ports(job)
    ports = ports_of(job.taskRoles or (), mapped=platform.engine.capabilities.ports_mapped)
    needs = {role.name: _resources(platform, job, role) for role in job.taskRoles or ()}
    roles = [
        Role(
            name=role.name,
            image=job.image or "",
            command=("/bin/sh", "-c", TASK_SCRIPT, "task", role.command, code),
            env=env | role_env(role, shared_memory(needs[role.name], 0) // _MEGABYTE),
            resources=needs[role.name],
            count=role.taskNumber,
            ports=ports[role.name],
            completion=Completion(min_failed=role.minFailedTaskCount, min_succeeded=role.minSucceededTaskCount),
            registry_auth=auth,
        )
        for role in job.taskRoles or ()
    ] or [Role(name=ONLY_TASK, image=job.image or "", env=env, registry_auth=auth)]
    return WorkloadSpec(
        roles=tuple(roles),
        retries=retry_policy(job.retryCount),
        objects=tuple(folders[name] for name in _DIRECTORIES if folders[name]),
        min_succeeded=job.killAllOnCompletedTaskNumber or None,
    )


def retry_policy(count: int) -> RetryPolicy:
    """What ``retryCount`` stands for."""
    if count == FOR_EVER:
        return RetryPolicy(limit=None, faultless=True)
    return RetryPolicy(limit=max(0, count), faultless=count == WITHOUT_FAULT)


def _need_few_ports(job: KeptConfig) -> None:
    """Before each of them is written out."""
    asked = ((role, sum(port.portNumber for port in requests_of(role))) for role in job.taskRoles or ())
    ports = sum(role.taskNumber * count for role, count in asked)
    need_at_most("portList", ports, MOST_PORTS, "ports of all tasks together")


def _resources(platform: Platform, job: KeptConfig, role: TaskRole) -> Resources:
    if role.cpuNumber > _MOST_CORES:
        raise _too_much("cpuNumber", role.cpuNumber, platform.hardware.machine().cpu, "CPU cores")
    if role.gpuNumber > _MOST_GPUS:
        raise _too_much("gpuNumber", role.gpuNumber, len(platform.gpus.devices()), "GPUs")
    return Resources(
        cpu=role.cpuNumber,
        memory=role.memoryMB * _MEGABYTE,
        gpu=role.gpuNumber,
        gpu_type=job.gpuType,
        shm=role.shmMB * _MEGABYTE if "shmMB" in role.model_fields_set else None,
    )


def _too_much(field: str, asked: float, there: float, unit: str) -> LocalmlError:
    words = f"{field}: {asked:g} {unit} were asked for, this machine has {there:g}"
    return LocalmlError(Code.CAPACITY, words, field=field, details={"asked": asked, "available": there})


def _checked_folders(view: BucketsFor, folders: Mapping[str, str]) -> str:
    """Refuse what cannot be read; the path of the code below the buckets, empty if the job has none."""
    if folders["dataDir"]:
        view.find(folders["dataDir"], field="dataDir")
    view.parse(folders["outputDir"], field="outputDir")  # where it leads is looked at when it is made
    if folders["authFile"]:
        read_registry_auth(view, folders["authFile"], field="authFile")
    uri = folders["codeDir"]
    if not uri:
        return ""
    if not view.exists(uri, field="codeDir"):
        raise invalid("codeDir", f"{uri} does not exist")
    size = view.size(uri, field="codeDir")
    if size > MAX_CODE:
        words = f"codeDir: {uri} holds {size / _MEGABYTE:.1f} MB; {MAX_CODE // _MEGABYTE} MB is the most"
        raise LocalmlError(Code.TOO_LARGE, words, field="codeDir")
    found = view.parse(uri, field="codeDir")
    return f"{found.bucket}/{found.key}".rstrip("/")


def check_cluster(platform: Platform, pool: str, spec: WorkloadSpec) -> None:
    """Refuse a job that its virtual cluster can never run; ``QUOTA`` with the numbers."""
    platform.pools.check_size(
        pool,
        cpu=sum((role.resources.cpu or 0) * role.count for role in spec.roles),
        memory=sum((role.resources.memory or 0) * role.count for role in spec.roles),
        gpu=sum(role.resources.gpu * role.count for role in spec.roles),
    )


@contextmanager
def output_folder(view: BucketsFor, uri: str) -> Iterator[None]:
    """Make a job's output folder, open to whatever user its image runs as; one that exists is left as it is.

    A new one is removed again when the block, which submits the job, fails.
    """
    new = view.make_folder(uri, field="outputDir", shared=True)
    try:
        yield
    except LocalmlError:
        if new:
            with suppress(LocalmlError):
                view.remove_empty(uri)
        raise
