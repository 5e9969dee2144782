"""Which workloads write for as long as somebody wants them, so that only the last part of their output is kept."""

from __future__ import annotations

from collections.abc import Callable

from sqlalchemy import func, select
from sqlmodel import col

from localml.core.ports import Store
from localml.core.work.states import Kind
from localml.core.work.tables import Workload, WorkloadDetail

_UNTIL_STOPPED = func.coalesce(func.json_extract(col(WorkloadDetail.spec), "$.until_stopped"), 0) == 1
SERVICE = (col(Workload.kind) != Kind.JOB) | _UNTIL_STOPPED
"""Condition over workloads with their details: endpoints' replicas, notebooks, TensorBoards, jobs ``until_stopped``."""


def service_limit(store: Store, most: int) -> Callable[[int], int | None]:
    """What :attr:`localml.core.logs.files.LogStore.most` asks: ``most`` bytes for a service, None for a job."""

    def limit(workload_id: int) -> int | None:
        query = select(SERVICE).select_from(Workload).join(WorkloadDetail).where(col(Workload.id) == workload_id)
        with store.read() as session:
            return most if session.execute(query).scalar() else None

    return limit
