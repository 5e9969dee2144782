"""What a replica has that names none: the cores that are reserved for it, and its shared memory.

Cores are a reservation, no limit: a replica that names none may use whatever cores nobody else uses.
"""

from __future__ import annotations

from localml.core.work.specs import Resources, WorkloadSpec
from localml.core.work.states import Kind

JOB_CORES = 1.0
"""Of a replica of a job or trial that names none."""
SERVICE_CORES = 0.25
"""Of a notebook, TensorBoard or replica of an endpoint that names none: they wait for requests most of the time."""
LEAST_SHM = 64 << 20
"""Bytes of shared memory that who names none has at least, as Docker gives; half of the memory is Linux's own habit."""
_SERVICES = frozenset({Kind.NOTEBOOK, Kind.TENSORBOARD, Kind.ENDPOINT})


def is_service(kind: str) -> bool:
    """Whether workloads of this kind run until they are stopped."""
    return kind in _SERVICES


def reserved_cores(resources: Resources, kind: str) -> float:
    """Cores that are reserved for one replica."""
    if resources.cpu is not None:
        return resources.cpu
    return SERVICE_CORES if is_service(kind) else JOB_CORES


def all_reserved_cores(spec: WorkloadSpec, kind: str) -> float:
    """Cores that are reserved for all replicas together."""
    return sum(reserved_cores(role.resources, kind) * role.count for role in spec.roles)


def shared_memory(resources: Resources, machine: int) -> int:
    """Bytes of shared memory (``/dev/shm``) of one replica.

    Args:
        machine: bytes of memory of its machine, which count where it has no limit of its own.
    """
    return resources.shm or max(LEAST_SHM, (resources.memory or machine) // 2)
