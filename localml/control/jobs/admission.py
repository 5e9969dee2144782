"""Which waiting workloads may start now, where, and why the others may not. Pure: values in, values out.

Order is priority, then arrival. A workload starts with all its replicas or not at all (gang). When the first that
does not fit (the *head*) blocks, later ones may overtake it only if that cannot delay it: either they use nothing
of what the head is short of and leave it the rest, or their time limit ends before the head could start anyway.
The same holds inside a pool that is at its limit.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

_EPSILON = 1e-9


@dataclass(frozen=True, slots=True)
class Demand:
    """``count`` replicas of one role, each with these needs (cores, bytes, devices)."""

    role: str
    count: int = 1
    cpu: float = 0.0
    memory: int = 0
    gpu: float = 0.0
    gpu_type: str | None = None


@dataclass(frozen=True, slots=True)
class Amount:
    """A sum over the three dimensions that are rationed."""

    cpu: float = 0.0
    memory: int = 0
    gpu: float = 0.0

    def plus(self, other: Amount) -> Amount:
        return Amount(self.cpu + other.cpu, self.memory + other.memory, self.gpu + other.gpu)

    def minus(self, other: Amount) -> Amount:
        return Amount(self.cpu - other.cpu, self.memory - other.memory, self.gpu - other.gpu)

    def short(self, need: Amount) -> frozenset[str]:
        """Dimensions in which ``need`` exceeds this amount."""
        return frozenset(
            name
            for name, have, want in (
                ("cpu", self.cpu, need.cpu),
                ("memory", self.memory, need.memory),
                ("gpu", self.gpu, need.gpu),
            )
            if want > 0 and want > have + _EPSILON
        )

    def uses(self) -> frozenset[str]:
        """Dimensions that are not zero."""
        return frozenset(
            name for name, value in (("cpu", self.cpu), ("memory", self.memory), ("gpu", self.gpu)) if value
        )


def total(demands: Iterable[Demand]) -> Amount:
    """The sum over all replicas."""
    amount = Amount()
    for demand in demands:
        amount = amount.plus(Amount(demand.cpu * demand.count, demand.memory * demand.count, demand.gpu * demand.count))
    return amount


@dataclass(frozen=True, slots=True, eq=False)
class Shape:
    """A workload's needs with their sum. Compared by identity: equal needs share one shape (see ``SpecCache``), so
    that what did not fit once is not tried again in the same pass."""

    demands: tuple[Demand, ...]
    need: Amount
    replicas: int = 1

    @classmethod
    def of(cls, *demands: Demand) -> Shape:
        """The shape of these demands."""
        return cls(demands, total(demands), sum(demand.count for demand in demands))


@dataclass(frozen=True, slots=True)
class Waiting:
    """A queued workload. ``hold`` is a reason that keeps it from being looked at (backoff, a dependency)."""

    id: int
    name: str
    pool: str
    priority: int
    shape: Shape
    time_limit: float | None = None
    hold: str = ""


@dataclass(frozen=True, slots=True)
class Holder:
    """A workload that holds resources; ``ends_by`` is when its time limit ends it at the latest."""

    id: int
    name: str
    pool: str
    amount: Amount
    ends_by: float | None = None


@dataclass(frozen=True, slots=True)
class GpuSlot:
    """A GPU that may be given out: ``free`` is 1 when nobody uses it, 0 when it is full."""

    uuid: str
    type: str
    free: float = 1.0


@dataclass(frozen=True, slots=True)
class Node:
    """A machine: what is free on it now. ``closed`` says why it takes no new work.

    ``max_replicas`` bounds how many containers run at a time, because requests may leave cores and memory open; a
    workload with more than that still starts when it has the machine for itself.
    """

    name: str
    free: Amount
    gpus: tuple[GpuSlot, ...] = ()
    closed: str = ""
    replicas: int = 0
    max_replicas: int = 1 << 30


@dataclass(frozen=True, slots=True)
class PoolState:
    """A pool's limits (None: no limit) and what its workloads, those of its children included, use now."""

    name: str
    parent: str | None = None
    cpu: float | None = None
    memory: int | None = None
    gpu: float | None = None
    max_workloads: int | None = None
    used: Amount = Amount()
    workloads: int = 0


@dataclass(frozen=True, slots=True)
class Grant:
    """GPUs for one replica: (uuid, fraction) pairs."""

    role: str
    index: int
    gpus: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a whole workload goes."""

    node: str
    grants: tuple[Grant, ...]


@dataclass(frozen=True, slots=True)
class Reason:
    """Why a workload waits: what it is short of, who has it, and when it may start (None: nobody knows)."""

    code: str  # hold | pool | resources | behind | closed
    message: str
    short: frozenset[str] = frozenset()
    holders: tuple[int, ...] = ()
    expected_start: float | None = None


@dataclass(slots=True)
class Admission:
    """The answer of one pass."""

    placements: dict[int, Placement] = field(default_factory=dict)
    reasons: dict[int, Reason] = field(default_factory=dict)


def place(demands: Sequence[Demand], gpus: Sequence[GpuSlot], free: Amount, node: str) -> Placement | None:
    """Find GPUs for every replica of a workload, or None. CPU and memory are checked as sums.

    Whole devices go to the first free ones, so that fractions stay together; a fraction goes to the fullest device
    that still has room.
    """
    if free.short(total(demands)):
        return None
    left = {slot.uuid: slot.free for slot in gpus}
    types = {slot.uuid: slot.type for slot in gpus}
    grants: list[Grant] = []
    # whole devices first: a fraction can go where they leave room, never the other way round
    for demand in sorted(demands, key=lambda one: -one.gpu):
        for index in range(demand.count):
            chosen = _choose(demand, left, types)
            if chosen is None:
                return None
            for uuid, fraction in chosen:
                left[uuid] -= fraction
            grants.append(Grant(demand.role, index, chosen))
    return Placement(node, tuple(grants))


def _choose(
    demand: Demand, left: Mapping[str, float], types: Mapping[str, str]
) -> tuple[tuple[str, float], ...] | None:
    if demand.gpu <= 0:
        return ()
    fitting = [uuid for uuid in left if demand.gpu_type is None or demand.gpu_type.lower() in types[uuid].lower()]
    if demand.gpu < 1:
        roomy = [uuid for uuid in fitting if left[uuid] + _EPSILON >= demand.gpu]
        if not roomy:
            return None
        return ((min(roomy, key=lambda uuid: left[uuid]), demand.gpu),)
    whole = [uuid for uuid in fitting if left[uuid] >= 1 - _EPSILON]
    count = int(demand.gpu)
    return tuple((uuid, 1.0) for uuid in whole[:count]) if len(whole) >= count else None


class _Pass:
    """One pass over the queue; keeps what is left while workloads are admitted."""

    def __init__(self, node: Node, pools: Mapping[str, PoolState], holders: Sequence[Holder], now: float) -> None:
        self.node = node
        self.pools = pools
        self.holders = list(holders)
        self.now = now
        self.free = node.free
        self.replicas = node.replicas
        self.gpus = {slot.uuid: slot for slot in node.gpus}
        self.pool_used = {name: (pool.used, pool.workloads) for name, pool in pools.items()}
        self.head: tuple[Waiting, Amount, frozenset[str]] | None = None
        self.head_start: float | None = None
        self.pool_heads: dict[str, tuple[Waiting, frozenset[str]]] = {}
        self.chains: dict[str, list[PoolState]] = {}
        self.misfits: dict[Shape, Reason] = {}
        self.behind_head: dict[Shape, Reason | None] = {}
        self.pool_reasons: dict[tuple[str, Shape], Reason | None] = {}

    def chain(self, name: str) -> list[PoolState]:
        """A pool and its ancestors."""
        known = self.chains.get(name)
        if known is not None:
            return known
        found: list[PoolState] = []
        current: str | None = name
        while current is not None and current in self.pools:
            found.append(self.pools[current])
            current = self.pools[current].parent
        self.chains[name] = found
        return found

    def consider(self, job: Waiting) -> Placement | Reason:
        if job.hold:
            return Reason("hold", job.hold)
        if self.node.closed:
            return Reason("closed", self.node.closed)
        need = job.shape.need
        return self._pool_reason(job, need) or self._behind(job, need) or self._fit(job, need)

    def _pool_reason(self, job: Waiting, need: Amount) -> Reason | None:
        key = (job.pool, job.shape)
        if key not in self.pool_reasons:
            self.pool_reasons[key] = self._ask_pools(job, need)
        return self.pool_reasons[key]

    def _ask_pools(self, job: Waiting, need: Amount) -> Reason | None:
        for pool in self.chain(job.pool):
            if pool.cpu is None and pool.memory is None and pool.gpu is None and pool.max_workloads is None:
                continue
            used, count = self.pool_used[pool.name]
            short = set(pool_short(pool, used, need))
            if pool.max_workloads is not None and count + 1 > pool.max_workloads:
                short.add("workloads")
            if short:
                if pool.name not in self.pool_heads:
                    self.pool_heads[pool.name] = (job, frozenset(short))
                    self.pool_reasons.clear()  # who comes after it may have to wait behind it now
                words = f"pool '{pool.name}' is at its limit: {_pool_words(pool, used, count, need, short)}"
                return Reason("pool", words, frozenset(short), self._holders_in(pool.name))
            ahead = self.pool_heads.get(pool.name)
            if ahead and (need.uses() | {"workloads"}) & ahead[1]:
                words = f"waits behind '{ahead[0].name}' in pool '{pool.name}'"
                return Reason("behind", words, ahead[1], (ahead[0].id,))
        return None

    def _holders_in(self, pool: str) -> tuple[int, ...]:
        return tuple(holder.id for holder in self.holders if self._inside(holder.pool, pool))

    def _inside(self, pool: str, ancestor: str) -> bool:
        return any(one.name == ancestor for one in self.chain(pool))

    def _behind(self, job: Waiting, need: Amount) -> Reason | None:
        if self.head is None:
            return None
        if job.shape not in self.behind_head:
            self.behind_head[job.shape] = self._in_the_way(need)
        reason = self.behind_head[job.shape]
        in_time = (
            job.time_limit is not None and self.head_start is not None and self.now + job.time_limit <= self.head_start
        )
        return None if in_time else reason

    def _in_the_way(self, need: Amount) -> Reason | None:
        """The reason why something of these needs must not overtake the head; None when it cannot delay it."""
        if self.head is None:
            return None
        first, first_need, short = self.head
        rest = self.free.minus(need)
        if "replicas" not in short and not (need.uses() & short) and not (rest.short(first_need) - short):
            return None
        words = f"waits behind '{first.name}', which {self.misfits[first.shape].message}"
        return Reason("behind", words, short, (first.id,))

    def _fit(self, job: Waiting, need: Amount) -> Placement | Reason:
        known = self.misfits.get(job.shape)
        if known is None:
            known = self._crowded(job.shape.replicas)
            if known is None:
                placement = place(job.shape.demands, tuple(self.gpus.values()), self.free, self.node.name)
                if placement is not None:
                    self._take(job, need, placement)
                    return placement
                known = self._misfit(need)
            self.misfits[job.shape] = known
        if self.head is None:
            self.head, self.head_start = (job, need, known.short), known.expected_start
        return known

    def _crowded(self, replicas: int) -> Reason | None:
        limit = self.node.max_replicas
        if not self.replicas or self.replicas + replicas <= limit:
            return None
        words = f"waits for room: {self.replicas} replicas run, and this machine runs at most {limit} at a time"
        return Reason("resources", words, frozenset({"replicas"}), tuple(holder.id for holder in self.holders))

    def _take(self, job: Waiting, need: Amount, placement: Placement) -> None:
        self.free = self.free.minus(need)
        self.replicas += job.shape.replicas
        ends_by = self.now + job.time_limit if job.time_limit is not None else None
        self.holders.append(Holder(job.id, job.name, job.pool, need, ends_by))
        self.behind_head.clear()  # less is free now
        self.pool_reasons.clear()
        for grant in placement.grants:
            for uuid, fraction in grant.gpus:
                slot = self.gpus[uuid]
                self.gpus[uuid] = GpuSlot(slot.uuid, slot.type, slot.free - fraction)
        for pool in self.chain(job.pool):
            used, count = self.pool_used[pool.name]
            self.pool_used[pool.name] = (used.plus(need), count + 1)

    def _misfit(self, need: Amount) -> Reason:
        free = Amount(self.free.cpu, self.free.memory, sum(slot.free for slot in self.gpus.values()))
        short = free.short(need) or frozenset({"gpu"})  # enough in sum, but not on devices of the right kind
        holders = tuple(holder.id for holder in self.holders if holder.amount.uses() & short)
        return Reason(
            "resources", f"waits for {_need_words(need, free, short)}", short, holders, self._expected(need, free)
        )

    def _expected(self, need: Amount, free: Amount) -> float | None:
        """When the needs are met if every holder runs to its time limit."""
        for holder in sorted(
            (one for one in self.holders if one.ends_by is not None), key=lambda one: one.ends_by or 0.0
        ):
            free = free.plus(holder.amount)
            if not free.short(need):
                return holder.ends_by
        return None


def admit(
    waiting: Iterable[Waiting], node: Node, pools: Mapping[str, PoolState], holders: Sequence[Holder], now: float
) -> Admission:
    """One pass over the queue.

    Args:
        waiting: the queue in any order.
        node: the machine and what is free on it.
        pools: all pools by name, ``used`` counting everything that holds resources now.
        holders: what runs, for the explanations and for the expected start of the head.
        now: seconds since the epoch.

    Returns:
        Placements of those that start now, and a reason for each of the others.
    """
    answer = Admission()
    turn = _Pass(node, pools, holders, now)
    for job in sorted(waiting, key=lambda one: (-one.priority, one.id)):
        found = turn.consider(job)
        if isinstance(found, Placement):
            answer.placements[job.id] = found
        else:
            answer.reasons[job.id] = found
    return answer


def pool_short(pool: PoolState, used: Amount, need: Amount) -> frozenset[str]:
    """Dimensions in which ``need`` on top of ``used`` exceeds the pool's limits."""
    limits = (("cpu", pool.cpu), ("memory", pool.memory), ("gpu", pool.gpu))
    return frozenset(
        name
        for name, limit in limits
        if limit is not None
        and getattr(need, name) > 0
        and getattr(used, name) + getattr(need, name) > limit + _EPSILON
    )


def _pool_words(pool: PoolState, used: Amount, count: int, need: Amount, short: Iterable[str]) -> str:
    parts = []
    for name in sorted(short):
        if name == "workloads":
            parts.append(f"{count} of {pool.max_workloads} workloads")
        else:
            parts.append(
                f"{_show(name, getattr(used, name))} of {_show(name, getattr(pool, name))} used, "
                f"{_show(name, getattr(need, name))} more asked for"
            )
    return "; ".join(parts)


def _need_words(need: Amount, free: Amount, short: Iterable[str]) -> str:
    return " and ".join(
        f"{_show(name, getattr(need, name))} ({_show(name, getattr(free, name))} free)" for name in sorted(short)
    )


def _show(name: str, value: float) -> str:
    from localml.core.quantities import format_memory

    if name == "memory":
        return f"{format_memory(int(value))} of memory"
    unit = "CPU cores" if name == "cpu" else ("GPU" if value == 1 else "GPUs")
    return f"{value:g} {unit}"
