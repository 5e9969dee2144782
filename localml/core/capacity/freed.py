"""What workloads that are not over have given back: the needs of replicas whose programs have exited."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from typing import NamedTuple

from pydantic import ValidationError

from localml.core.sql import IDS, id_list, read_rows
from localml.core.work.reservations import reserved_cores
from localml.core.work.specs import WorkloadSpec
from localml.core.work.states import HOLDING, AttemptState, State
from localml.core.work.tables import WorkloadDetail

_CURRENT = (
    "FROM attempt AS a JOIN workload AS w ON w.id = a.workload_id AND w.attempt = a.number"
    f" WHERE a.removed = 0 AND w.state IN ({', '.join(repr(str(state)) for state in sorted(HOLDING))})"
)
_FREED = f"(a.exited_at IS NOT NULL OR a.state = '{AttemptState.ENDED}')"
_SOME = (
    "SELECT w.id, w.kind, w.pool, w.state, w.cpu, w.memory, w.gpu, a.role, a.exited_at IS NOT NULL OR"
    f" a.state = '{AttemptState.ENDED}' {_CURRENT} AND a.workload_id IN (SELECT a.workload_id {_CURRENT} AND {_FREED})"
    " ORDER BY w.id"
)


class Freed(NamedTuple):
    """What one workload holds less than it asked for: cores, bytes, devices, and 1 if it holds nothing any more."""

    pool: str
    state: State
    cpu: float
    memory: int
    gpu: float
    number: int


def freed(connection: sqlite3.Connection) -> Iterator[Freed]:
    """One for each workload of which a replica has exited while it is not over."""
    replicas: dict[tuple[int, str, str, str, float, int, float], list[tuple[str, bool]]] = {}
    for *workload, role, gave in connection.execute(_SOME):
        replicas.setdefault(tuple(workload), []).append((role, bool(gave)))
    parts = [key[0] for key, found in replicas.items() if not all(gave for _, gave in found)]
    specs = dict(
        read_rows(connection, WorkloadDetail, ("workload_id", "spec"), f"workload_id {IDS}", (id_list(parts),))
    )
    for (number, kind, pool, state, cpu, memory, gpu), found in replicas.items():
        if number not in specs:
            yield Freed(pool, State(state), cpu, memory, gpu, 1)
            continue
        try:
            spec = WorkloadSpec.model_validate_json(specs[number])
        except ValidationError:  # the loop ends it, and says so
            continue
        needs = [spec.role(role).resources for role, gave in found if gave]
        yield Freed(
            pool,
            State(state),
            min(cpu, sum(reserved_cores(need, kind) for need in needs)),  # of old records: nothing was reserved then
            sum(need.memory or 0 for need in needs),
            sum(need.gpu for need in needs),
            0,
        )
