"""What the vendor's runtime tells every container: the ``PAI_*`` variables, and the ports behind some of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from localml.core.errors import invalid
from localml.core.work.placeholders import literal
from localml.core.work.specs import Port
from localml.dialects.openpai.schemas import KeptConfig, PortRequest, TaskRole

DEFAULT_FS = "hdfs://localml:9000"
"""``PAI_DEFAULT_FS_URI``. The host says nothing: all ``hdfs://`` URIs lie in one bucket."""
ALWAYS = ("http", "ssh")
"""Labels of ports that every task has."""
_EVERYWHERE = tuple(PortRequest(label=label) for label in ALWAYS)
_JOIN = "-"  # no label of the vendor's holds it


def requests_of(role: TaskRole) -> list[PortRequest]:
    """The ports of a role's tasks, those included that every task has."""
    asked = list(role.portList or ())
    known = {port.label for port in asked}
    return asked + [port for port in _EVERYWHERE if port.label not in known]


def _labels(port: PortRequest) -> list[str]:
    """Of several ports the second is ``label-1``, the third ``label-2``."""
    return [port.label if number == 0 else f"{port.label}{_JOIN}{number}" for number in range(port.portNumber)]


def ports_of(roles: Iterable[TaskRole], *, mapped: bool) -> dict[str, tuple[Port, ...]]:
    """Role -> its ports.

    A number that the user chose is the task's own and the machine's, if one task asks for it. If several do, each has
    it in its own container only, and another one on the machine; where the engine maps no ports that cannot be.

    Raises:
        LocalmlError: ``INVALID`` when two tasks, or two labels of one task, want the same port.
    """
    roles = list(roles)
    wanted: Counter[int] = Counter()
    for role in roles:
        numbers = [number for port in requests_of(role) for number in _numbers(port) if number]
        twice = [number for number, count in Counter(numbers).items() if count > 1]
        if twice:
            raise invalid("portList", f"port {twice[0]} of role '{role.name}' belongs to two labels")
        wanted.update(dict.fromkeys(numbers, role.taskNumber))
    shared = sorted(number for number, count in wanted.items() if count > 1)
    if shared and not mapped:
        words = (
            f"{wanted[shared[0]]} tasks want port {shared[0]} of the one machine that they share; beginAt 0 lets each"
        )
        raise invalid("portList", f"{words} have another one")
    return {role.name: tuple(_ports(role, set(shared))) for role in roles}


def _numbers(port: PortRequest) -> list[int]:
    return [port.beginAt + number if port.beginAt else 0 for number in range(port.portNumber)]


def _ports(role: TaskRole, shared: set[int]) -> Iterable[Port]:
    for port in requests_of(role):
        for label, number in zip(_labels(port), _numbers(port), strict=True):
            yield Port(label=label, container=number, host=0 if number in shared else number)


def by_label(ports: Mapping[str, tuple[int, int]]) -> dict[str, str]:
    """The ports of one task on this machine: label -> numbers joined by commas."""
    found: dict[str, list[int]] = {}
    for label, (inside, outside) in ports.items():
        found.setdefault(label.partition(_JOIN)[0], []).append(outside or inside)
    return {label: ",".join(map(str, numbers)) for label, numbers in found.items()}


def job_env(job: KeptConfig, folders: Mapping[str, str], *, user: str, cluster: str) -> dict[str, str]:
    """Variables that are the same in all containers of a job; the user's own cannot take their place."""
    roles = job.taskRoles or []
    own = {name: _text(value) for name, value in (job.jobEnvs or {}).items()}
    ours = {
        "PAI_DEFAULT_FS_URI": DEFAULT_FS,
        "PAI_JOB_NAME": job.jobName,
        "PAI_JOB_VC_NAME": cluster,
        "PAI_USER_NAME": user,
        "PAI_DATA_DIR": folders["dataDir"],
        "PAI_OUTPUT_DIR": folders["outputDir"],
        "PAI_CODE_DIR": folders["codeDir"],
        "PAI_JOB_TASK_COUNT": str(sum(role.taskNumber for role in roles)),
        "PAI_JOB_TASK_ROLE_COUNT": str(len(roles)),
        "PAI_JOB_TASK_ROLE_LIST": ",".join(role.name for role in roles),
    }
    hosts = {f"PAI_TASK_ROLE_{role.name}_HOST_LIST": f"%{{addresses:{role.name}:http}}" for role in roles}
    return {name: literal(value) for name, value in {**own, **ours}.items()} | hosts


def role_env(role: TaskRole, shm: int) -> dict[str, str]:
    """Variables of one role's containers; placeholders stand for what is known when they are placed.

    Args:
        shm: megabytes of shared memory that each of them has.
    """
    current = {
        "NAME": role.name,
        "TASK_COUNT": role.taskNumber,
        "CPU_COUNT": role.cpuNumber,
        "MEM_MB": role.memoryMB,
        "SHM_MB": shm,
        "GPU_COUNT": role.gpuNumber,
        "MIN_FAILED_TASK_COUNT": _or_null(role.minFailedTaskCount),
        "MIN_SUCCEEDED_TASK_COUNT": _or_null(role.minSucceededTaskCount),
        "CURRENT_TASK_INDEX": "%{index}",
    }
    ports = {port.label: ",".join(f"%{{port:{label}}}" for label in _labels(port)) for port in requests_of(role)}
    return {
        **{f"PAI_CURRENT_TASK_ROLE_{name}": str(value) for name, value in current.items()},
        "PAI_CONTAINER_HOST_IP": "%{host}",
        "PAI_CONTAINER_HOST_PORT_LIST": ";".join(f"{label}:{numbers}" for label, numbers in ports.items()),
        **{f"PAI_CONTAINER_HOST_{label}_PORT_LIST": numbers for label, numbers in ports.items()},
    }


def _or_null(count: int | None) -> str:
    return "null" if count is None else str(count)


def _text(value: str | int | float | bool) -> str:
    """As JSON writes it."""
    return str(value).lower() if isinstance(value, bool) else str(value)
