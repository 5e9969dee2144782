"""Reading what the control loop needs in a few narrow queries, with the frozen specs parsed once and kept."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from sqlalchemy import select
from sqlmodel import Session

from localml.control.jobs.admission import Amount, Demand, GpuSlot, Holder, Node, PoolState, Shape, Waiting
from localml.control.jobs.decide import AttemptView, View
from localml.core.capacity.tables import GpuLease, GpuMark, NodeMark, Pool
from localml.core.sql import read_rows, table_of
from localml.core.work.causes import Cause
from localml.core.work.specs import WorkloadSpec
from localml.core.work.states import HOLDING, TERMINAL, AttemptState, Desired, State
from localml.core.work.tables import Attempt, Workload, WorkloadDetail

_EPSILON = 1e-9


@dataclass(frozen=True, slots=True)
class WorkloadRow:
    """The columns of a workload that the loop looks at."""

    id: int
    name: str
    dialect: str
    kind: str
    project: str
    owner: str
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


@dataclass(frozen=True, slots=True)
class AttemptRow:
    """The columns of an attempt that the loop looks at, with the GPUs that it holds."""

    id: int
    workload_id: int
    role: str
    index: int
    number: int
    name: str
    state: AttemptState
    ports: Mapping[str, tuple[int, int]] | None
    started_at: float | None
    ended_at: float | None
    exit_code: int | None
    cause: Cause | None
    message: str
    gpus: tuple[tuple[str, float], ...] = ()


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


_W, _D = table_of(Workload), table_of(WorkloadDetail)
_LEASE_COLUMNS = ("attempt_id", "gpu", "fraction")
_ATTEMPT_COLUMNS = tuple(name for name in AttemptRow.__slots__ if name != "gpus")


class SpecCache:
    """Parsed specs and pinned images of workloads that are not over; a spec never changes."""

    def __init__(self) -> None:
        self._specs: dict[int, WorkloadSpec] = {}
        self._shapes: dict[int, Shape] = {}
        self._interned: dict[tuple[Demand, ...], Shape] = {}

    def load(self, session: Session, ids: Iterable[int]) -> None:
        """Parse those that are not known yet."""
        missing = [one for one in ids if one not in self._specs]
        for start in range(0, len(missing), 500):
            part = missing[start : start + 500]
            query = select(_D.c.workload_id, _D.c.spec).where(_D.c.workload_id.in_(part))
            for number, text in session.connection().execute(query):
                spec = WorkloadSpec.model_validate_json(text)
                self._specs[number] = spec
                demands = demands_of(spec)
                self._shapes[number] = self._interned.setdefault(demands, Shape.of(*demands))

    def spec(self, number: int) -> WorkloadSpec:
        """The spec of a workload that was loaded."""
        return self._specs[number]

    def shape(self, number: int) -> Shape:
        """Its needs, as admission wants them; workloads with equal needs share one object."""
        return self._shapes[number]

    def keep(self, ids: set[int]) -> None:
        """Forget all others."""
        for number in self._specs.keys() - ids:
            del self._specs[number]
            del self._shapes[number]
        if len(self._interned) > 10_000:
            self._interned.clear()


def demands_of(spec: WorkloadSpec) -> tuple[Demand, ...]:
    """A spec's needs by role."""
    return tuple(
        Demand(
            role.name,
            role.count,
            role.resources.cpu or 0.0,
            role.resources.memory or 0,
            role.resources.gpu,
            role.resources.gpu_type,
        )
        for role in spec.roles
    )


@dataclass(slots=True)
class Snapshot:
    """Everything that is not over or not cleaned up, read in one transaction."""

    workloads: dict[int, WorkloadRow] = field(default_factory=dict)
    attempts: dict[int, list[AttemptRow]] = field(default_factory=dict)
    pools: dict[str, PoolRow] = field(default_factory=dict)
    pool_names: dict[int, str] = field(default_factory=dict)
    gpu_marks: set[str] = field(default_factory=set)
    drained: str | None = None
    """Why the machine is drained, which may be empty; None while it is not."""
    dependencies: dict[int, State] = field(default_factory=dict)

    @property
    def active(self) -> list[WorkloadRow]:
        """Workloads that are not over."""
        return [row for row in self.workloads.values() if row.state not in TERMINAL]

    @property
    def queued(self) -> list[WorkloadRow]:
        return [row for row in self.workloads.values() if row.state is State.QUEUED]

    def current(self, row: WorkloadRow) -> list[AttemptRow]:
        """The attempts of the workload's current try."""
        return [one for one in self.attempts.get(row.id, ()) if one.number == row.attempt]


def load(session: Session, specs: SpecCache, node: str) -> Snapshot:
    """Read a snapshot; parses the specs of workloads that appear for the first time."""
    found = Snapshot()
    for values in read_rows(session, Workload, WorkloadRow.__slots__, "cleaned = 0"):
        found.workloads[values[0]] = WorkloadRow(*values)
    leases: dict[int, list[tuple[str, float]]] = {}
    for attempt_id, gpu, fraction in read_rows(session, GpuLease, _LEASE_COLUMNS, "released_at IS NULL"):
        leases.setdefault(attempt_id, []).append((gpu, fraction))
    for values in read_rows(session, Attempt, _ATTEMPT_COLUMNS, "removed = 0"):
        one = AttemptRow(*(*values, tuple(leases.get(values[0], ()))))
        found.attempts.setdefault(one.workload_id, []).append(one)
    _load_marks(session, found, node)
    active = [row.id for row in found.active]
    specs.load(session, active)
    specs.keep(set(active))
    _load_dependencies(session, found, specs)
    return found


def _load_marks(session: Session, found: Snapshot, node: str) -> None:
    for values in read_rows(session, Pool, PoolRow.__slots__):
        pool = PoolRow(*values)
        found.pools[pool.name] = pool
        found.pool_names[pool.id] = pool.name
    found.gpu_marks = {gpu for (gpu,) in read_rows(session, GpuMark, ("gpu",))}
    marks = dict(read_rows(session, NodeMark, ("node", "reason")))
    found.drained = marks.get(node)


def _load_dependencies(session: Session, found: Snapshot, specs: SpecCache) -> None:
    wanted = {one for row in found.queued for one in specs.spec(row.id).depends_on}
    if wanted:
        query = select(_W.c.id, _W.c.state).where(_W.c.id.in_(wanted))
        found.dependencies = {number: state for number, state in session.connection().execute(query)}  # noqa: C416


def view_of(row: WorkloadRow, attempts: Iterable[AttemptRow], spec: WorkloadSpec, lost: Mapping[str, str]) -> View:
    """What :func:`localml.control.jobs.decide.decide` wants to know; ``lost`` maps unusable GPUs to the reason."""
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
            )
            for one in attempts
        ),
    )


def waiting_of(snapshot: Snapshot, specs: SpecCache, now: float) -> list[Waiting]:
    """The queue as admission wants it."""
    return [
        Waiting(
            row.id,
            row.name,
            row.pool,
            row.priority,
            specs.shape(row.id),
            specs.spec(row.id).time_limit,
            _hold(row, snapshot, specs.spec(row.id), now),
        )
        for row in snapshot.queued
        if row.desired is Desired.RUN
    ]


def _hold(row: WorkloadRow, snapshot: Snapshot, spec: WorkloadSpec, now: float) -> str:
    if row.not_before is not None and row.not_before > now:
        return f"try {row.attempt} starts in {row.not_before - now:.0f} s"
    open_ones = [one for one in spec.depends_on if snapshot.dependencies.get(one) is not State.SUCCEEDED]
    if open_ones:
        return f"depends on {', '.join(map(str, open_ones))}, which has not succeeded yet"
    return ""


def broken_dependency(row: WorkloadRow, snapshot: Snapshot, spec: WorkloadSpec) -> int | None:
    """A dependency that can no longer succeed, if there is one."""
    for one in spec.depends_on:
        if snapshot.dependencies.get(one, State.FAILED) in (State.FAILED, State.STOPPED):
            return one
    return None


@dataclass(frozen=True, slots=True)
class Machine:
    """Size of the node: cores (after overcommitment), bytes, GPUs as (uuid, type), containers at a time."""

    name: str
    cpu: float
    memory: int
    gpus: tuple[tuple[str, str], ...] = ()
    max_replicas: int = 1 << 30


def holders_of(snapshot: Snapshot, specs: SpecCache) -> list[Holder]:
    """What holds resources now."""
    return [
        Holder(
            row.id,
            row.name,
            row.pool,
            Amount(row.cpu, row.memory, row.gpu),
            _ends_by(row, specs.spec(row.id)),
        )
        for row in snapshot.workloads.values()
        if row.state in HOLDING
    ]


def _ends_by(row: WorkloadRow, spec: WorkloadSpec) -> float | None:
    if spec.time_limit is None or row.started_at is None:
        return None
    return row.started_at + spec.time_limit


def node_of(snapshot: Snapshot, machine: Machine, lost: Mapping[str, str]) -> Node:
    """The machine and what is free on it: its size less what is held, its GPUs less leases and marks."""
    used = Amount()
    for row in snapshot.workloads.values():
        if row.state in HOLDING:
            used = used.plus(Amount(row.cpu, row.memory, 0.0))
    taken: dict[str, float] = {}
    for attempts in snapshot.attempts.values():
        for one in attempts:
            for gpu, fraction in one.gpus:
                taken[gpu] = taken.get(gpu, 0.0) + fraction
    slots = tuple(
        GpuSlot(uuid, kind, max(0.0, 1.0 - taken.get(uuid, 0.0)))
        for uuid, kind in machine.gpus
        if uuid not in snapshot.gpu_marks and uuid not in lost
    )
    free = Amount(machine.cpu, machine.memory, 0.0).minus(used)
    closed = f"this machine is drained: {snapshot.drained}".rstrip(": ") if snapshot.drained is not None else ""
    live = sum(1 for some in snapshot.attempts.values() for one in some if one.state is not AttemptState.ENDED)
    rest = Amount(free.cpu, free.memory, sum(slot.free for slot in slots))
    return Node(machine.name, rest, slots, closed, live, machine.max_replicas)


def pools_of(snapshot: Snapshot) -> dict[str, PoolState]:
    """All pools with what their workloads, and those below them, hold now."""
    used: dict[str, Amount] = {name: Amount() for name in snapshot.pools}
    count: dict[str, int] = dict.fromkeys(snapshot.pools, 0)
    parents = {name: snapshot.pool_names.get(pool.parent_id or 0) for name, pool in snapshot.pools.items()}
    for row in snapshot.workloads.values():
        if row.state not in HOLDING:
            continue
        name: str | None = row.pool
        while name is not None and name in used:
            used[name] = used[name].plus(Amount(row.cpu, row.memory, row.gpu))
            count[name] += 1
            name = parents[name]
    return {
        name: PoolState(
            name,
            parents[name],
            pool.cpu,
            pool.memory,
            pool.gpu,
            pool.max_workloads,
            used[name],
            count[name],
        )
        for name, pool in snapshot.pools.items()
    }
