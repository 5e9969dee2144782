"""What the control loop reads: narrow rows of everything that is not over or not cleaned up."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from localml.control.jobs.decide import AttemptView, View
from localml.core.capacity.tables import GpuLease, GpuMark, NodeMark, Pool
from localml.core.sql import IDS, id_list, read_rows
from localml.core.work.causes import Cause
from localml.core.work.specs import WorkloadSpec
from localml.core.work.states import AttemptState, Desired, State
from localml.core.work.tables import Attempt, Workload


@dataclass(frozen=True, slots=True)
class WorkloadRow:
    """The columns of a workload that the loop looks at."""

    id: int
    name: str
    dialect: str
    kind: str
    workspace: str
    owner: str
    owner_id: int
    pool: str
    priority: int
    desired: Desired
    state: State
    outcome: State | None
    cause: Cause | None
    message: str
    exit_code: int | None
    attempt: int
    retries: int
    cpu: float
    memory: int
    gpu: float
    not_before: float | None
    started_at: float | None
    deleted_at: float | None
    grace: float | None = None


@dataclass(frozen=True, slots=True)
class AttemptRow:
    """The columns of an attempt that the loop looks at, with the GPUs that it holds."""

    id: int
    workload_id: int
    role: str
    index: int
    number: int
    name: str
    node: str
    state: AttemptState
    ports: Mapping[str, tuple[int, int]] | None
    created_at: float
    started_at: float | None
    exited_at: float | None
    ended_at: float | None
    exit_code: int | None
    signal: int | None
    cause: Cause | None
    message: str
    gpus: tuple[tuple[str, float], ...] = ()

    @property
    def holds(self) -> bool:
        """Whether its cores, memory, ports and GPUs are its own: until its program has exited."""
        return self.state is not AttemptState.ENDED and self.exited_at is None


@dataclass(frozen=True, slots=True)
class PoolRow:
    """A pool with its limits; None where there is none."""

    id: int
    name: str
    parent_id: int | None
    cpu: float | None
    memory: int | None
    gpu: float | None
    max_workloads: int | None


_LEASE_COLUMNS = ("attempt_id", "gpu", "fraction")
_ATTEMPT_COLUMNS = tuple(name for name in AttemptRow.__slots__ if name != "gpus")


@dataclass(slots=True)
class Limits:
    """What bounds the work: pools by name, marked GPUs (node, UUID), and why which machines are drained."""

    pools: dict[str, PoolRow] = field(default_factory=dict)
    pool_names: dict[int, str] = field(default_factory=dict)
    gpu_marks: set[tuple[str, str]] = field(default_factory=set)
    drained: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Unit:
    """A workload with its attempts that the engine may still hold something of."""

    row: WorkloadRow
    attempts: tuple[AttemptRow, ...] = ()

    @property
    def current(self) -> list[AttemptRow]:
        """The attempts of the current try."""
        return [one for one in self.attempts if one.number == self.row.attempt]


def load_units(connection: sqlite3.Connection, ids: Collection[int] | None = None) -> dict[int, Unit]:
    """Workloads that are not over or not cleaned up, by number: those of ``ids``, or all."""
    given: tuple[str, ...] = () if ids is None else (id_list(ids),)

    def only(column: str) -> str:
        return ("" if ids is None else f" AND {column} {IDS}") + " ORDER BY id"

    rows = [
        WorkloadRow(*values)
        for values in read_rows(connection, Workload, WorkloadRow.__slots__, "cleaned = 0" + only("id"), given)
    ]
    attempts: dict[int, list[AttemptRow]] = {}
    found = list(read_rows(connection, Attempt, _ATTEMPT_COLUMNS, "removed = 0" + only("workload_id"), given))
    leases = _leases(connection, None if ids is None else [values[0] for values in found])
    for values in found:
        one = AttemptRow(*(*values, tuple(leases.get(values[0], ()))))
        attempts.setdefault(one.workload_id, []).append(one)
    return {row.id: Unit(row, tuple(attempts.get(row.id, ()))) for row in rows}


def _leases(connection: sqlite3.Connection, attempts: list[int] | None) -> dict[int, list[tuple[str, float]]]:
    if attempts is not None and not attempts:
        return {}
    where, given = "released_at IS NULL", tuple[str, ...]()
    if attempts is not None:
        where, given = f"{where} AND attempt_id {IDS}", (id_list(attempts),)
    leases: dict[int, list[tuple[str, float]]] = {}
    for attempt_id, gpu, fraction in read_rows(connection, GpuLease, _LEASE_COLUMNS, f"{where} ORDER BY id", given):
        leases.setdefault(attempt_id, []).append((gpu, fraction))
    return leases


def load_limits(connection: sqlite3.Connection) -> Limits:
    """Pools, marks and drained machines."""
    found = Limits()
    for values in read_rows(connection, Pool, PoolRow.__slots__):
        pool = PoolRow(*values)
        found.pools[pool.name] = pool
        found.pool_names[pool.id] = pool.name
    found.gpu_marks = {(node, gpu) for node, gpu in read_rows(connection, GpuMark, ("node", "gpu"))}
    found.drained = dict(read_rows(connection, NodeMark, ("node", "reason")))
    return found


def load_states(connection: sqlite3.Connection, ids: Iterable[int]) -> dict[int, State]:
    """States of workloads, also of those that are long over; one that does not exist has none."""
    return dict(read_rows(connection, Workload, ("id", "state"), f"id {IDS}", (id_list(ids),)))


def view_of(unit: Unit, spec: WorkloadSpec, lost: Mapping[str, str], condemned: str = "") -> View:
    """What :func:`localml.control.jobs.decide.decide` wants to know; ``lost`` maps unusable GPUs to the reason."""
    row = unit.row
    return View(
        row.id,
        row.state,
        row.desired,
        spec,
        row.outcome,
        row.cause,
        row.message,
        row.exit_code,
        row.attempt,
        row.retries,
        row.started_at,
        tuple(
            AttemptView(
                one.id,
                one.name,
                one.role,
                one.index,
                one.state,
                one.ended_at,
                one.exit_code,
                one.cause,
                one.message,
                next((f"GPU {gpu}: {lost[gpu]}" for gpu, _ in one.gpus if gpu in lost), ""),
                one.started_at,
                one.exited_at,
                one.signal,
            )
            for one in unit.current
        ),
        condemned,
        row.grace,
    )
