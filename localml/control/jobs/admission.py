"""Which waiting workloads may start now, where, and why the others may not. Pure: values in, values out.

Order is priority, then arrival. A workload starts with all its replicas or not at all (gang). When the first that
does not fit (the *head*) blocks, later ones may overtake it only if that cannot delay it: either they use nothing
of what the head is short of and leave it the rest, or their time limit ends before the head could start anyway.
The same holds inside a pool that is at its limit.

What asks for more cores than there are is not refused: it starts when it has a machine to itself. Services that named
no cores are not waited for, because they do not end by themselves: what counts is what they leave. They overtake a head
that waits for cores where it starts no later for them, whichever of those that hold some end.

What a pass costs depends on how many *different* workloads wait, not on how many: those of the same pool, needs and
time limit stand in one line (:class:`localml.control.jobs.queue.Queue`), and when one of a line does not fit, nobody
behind it does, because a pass only ever takes.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import inf

from localml.control.jobs.demands import (
    EPSILON,
    Amount,
    Holder,
    Line,
    Node,
    Placement,
    PoolState,
    Rank,
    Reason,
    Shape,
    Waiting,
)
from localml.control.jobs.placing import fits_empty, place, place_alone, taken_from, waits_alike
from localml.control.jobs.queue import Queue


@dataclass(slots=True)
class Admission:
    """The answer of one pass."""

    placements: dict[int, Placement] = field(default_factory=dict)
    reasons: dict[int, Reason] = field(default_factory=dict)


class Pass:
    """One pass over the queue; keeps what is left while workloads are admitted.

    It may be kept and go on with workloads that arrive later, as long as nothing else changes: see :attr:`frontier`.

    Args:
        nodes: the machines and what is free on them.
        pools: all pools by name, ``used`` counting everything that holds resources now.
        holders: what runs, for the explanations and for the expected start of the head.
        now: seconds since the epoch.
        spread: whether the replicas of one workload may be on several machines.
    """

    def __init__(
        self,
        nodes: Sequence[Node],
        pools: Mapping[str, PoolState],
        holders: Sequence[Holder],
        now: float,
        *,
        spread: bool = False,
    ) -> None:
        self.nodes = {node.name: node for node in nodes}
        self.pools = pools
        self.holders = list(holders)
        self.now = now
        self.spread = spread
        self.free = _sum(self._open())
        self.pool_used = {name: (pool.used, pool.workloads) for name, pool in pools.items()}
        self.head: tuple[Waiting, frozenset[str]] | None = None
        self.head_start: float | None = None
        self.pool_heads: dict[str, tuple[Waiting, frozenset[str]]] = {}
        self.closed: dict[Line, tuple[Rank, Reason]] = {}
        """Line -> who closed it for this pass, and why those behind wait."""
        self.chains: dict[str, list[PoolState]] = {}
        self.misfits: dict[Shape, Reason] = {}
        self.large: dict[Shape, Amount | None] = {}
        """What asks for more cores than there are -> what has to be free for it; None for what does not."""

    def run(self, queue: Queue, until: Rank | None = None) -> dict[int, Placement]:
        """Consider everybody in the queue, or those before a rank; who is placed is still in the queue afterwards."""
        placed: dict[int, Placement] = {}
        fronts = [(ranks[0], 0, line) for line, ranks in queue.lines.items()]
        heapq.heapify(fronts)
        while fronts:
            rank, at, line = fronts[0]
            if until is not None and rank >= until:
                break
            number = rank[1]
            found = self.consider(queue.jobs[number])
            ranks = queue.lines[line]
            if isinstance(found, Placement):
                placed[number] = found
                if at + 1 < len(ranks):
                    heapq.heapreplace(fronts, (ranks[at + 1], at + 1, line))
                    continue
            heapq.heappop(fronts)
        return placed

    def reason(self, queue: Queue, job: Waiting) -> Reason | None:
        """Why this one waits, from a pass that was not used yet; None when it would start now."""
        self.run(queue, until=job.rank)
        found = self.consider(job)
        return found if isinstance(found, Reason) else None

    def settled(self, job: Waiting) -> bool:
        """Whether a newcomer would have been refused in its turn, whatever came after: its line was closed before."""
        found = self.closed.get(job.line)
        return found is not None and found[0] < job.rank

    def consider(self, job: Waiting) -> Placement | Reason:
        """The next one in the queue: its place, or why it waits."""
        closed = self.closed.get(job.line)
        if closed is not None:
            return closed[1]
        found = self._consider(job)
        if isinstance(found, Reason):
            self.closed[job.line] = job.rank, self._behind_it(job, found)
        return found

    def _consider(self, job: Waiting) -> Placement | Reason:
        if not any(True for _ in self._open()):
            return Reason("closed", "; ".join(node.closed for node in self.nodes.values()))
        need = self._need(job.shape)
        return self._pool_reason(job, job.shape.need) or self._behind(job, need) or self._fit(job, need)

    def _need(self, shape: Shape) -> Amount:
        """What has to be free for it: all that it asks for, or all cores there are."""
        if shape not in self.large:
            fits = fits_empty(shape, self._open(), spread=self.spread)
            self.large[shape] = None if fits else replace(shape.need, cpu=max(node.most for node in self._open()))
        return self.large[shape] or shape.need

    def _behind_it(self, job: Waiting, found: Reason) -> Reason:
        """What those wait for that stand behind it in its line."""
        if self.head is None or self.head[0] is not job:
            return found
        return Reason("behind", f", which {found.words}", found.short, (job.id,), ahead=job.name)

    def _open(self) -> Iterable[Node]:
        return (node for node in self.nodes.values() if not node.closed)

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

    def _pool_reason(self, job: Waiting, need: Amount) -> Reason | None:
        for pool in self.chain(job.pool):
            if pool.cpu is None and pool.memory is None and pool.gpu is None and pool.max_workloads is None:
                continue
            used, count = self.pool_used[pool.name]
            short = set(pool_short(pool, used, need))
            if pool.max_workloads is not None and count + 1 > pool.max_workloads:
                short.add("workloads")
            if short:
                self.pool_heads.setdefault(pool.name, (job, frozenset(short)))
                words = f"pool '{pool.name}' is at its limit: {_pool_words(pool, used, count, need, short)}"
                return Reason("pool", words, frozenset(short), self._holders_in(pool.name))
            ahead = self.pool_heads.get(pool.name)
            if ahead and (need.uses() | {"workloads"}) & ahead[1]:
                words = f" in pool '{pool.name}'"
                return Reason("behind", words, ahead[1], (ahead[0].id,), ahead=ahead[0].name)
        return None

    def _holders_in(self, pool: str) -> tuple[int, ...]:
        return tuple(holder.id for holder in self.holders if self._inside(holder.pool, pool))

    def _inside(self, pool: str, ancestor: str) -> bool:
        return any(one.name == ancestor for one in self.chain(pool))

    def _behind(self, job: Waiting, need: Amount) -> Reason | None:
        """The reason why this must not overtake the head; None when it cannot delay it."""
        if self.head is None:
            return None
        if job.time_limit is not None and self.head_start is not None and self.now + job.time_limit <= self.head_start:
            return None
        first, short = self.head
        needed = self._need(first.shape)
        taken = need.uses() & short | self.free.minus(need).short(needed) - short
        if "replicas" not in short and (not taken or (taken == {"cpu"} and self._beside(job.shape, first.shape))):
            return None
        words = f", which {self.misfits[first.shape].words}"
        return Reason("behind", words, short, (first.id,), ahead=first.name)

    def _beside(self, shape: Shape, head: Shape) -> bool:
        """Whether the head starts as early with this one beside it, which takes of its cores: see :attr:`Node.most`."""
        if not shape.light or head.light:
            return False
        if self.large[head] is not None:
            return True
        nodes = list(self._open())
        spare = nodes[0].most - head.need.cpu
        held = (part for holder in self.holders for part in holder.parts)
        return len(nodes) == 1 and waits_alike(spare, spare - shape.need.cpu, held)

    def _fit(self, job: Waiting, need: Amount) -> Placement | Reason:
        known = self.misfits.get(job.shape)
        if known is None:
            placement = self._place(job.shape) if self.free.has(need) else None
            if placement is not None:
                self._take(job, placement)
                return placement
            known = self.misfits[job.shape] = self._crowded(job.shape) or self._misfit(job.shape, need)
        if self.head is None:
            self.head, self.head_start = (job, known.short), known.expected_start
        return known

    def _place(self, shape: Shape) -> Placement | None:
        if self.large[shape] is None:
            return place(shape, self._open(), spread=self.spread)
        found = place_alone(shape, self._open(), spread=self.spread)
        cores, light = self._cores()
        words = f"asks for {_show('cpu', shape.need.cpu)} of {cores:g} and has the machine to itself"
        words += f", but for services that hold {light:g}" if light else ""
        return None if found is None else replace(found, note=words)

    def _cores(self) -> tuple[float, float]:
        """Cores of the machine that leaves the most, and those of it that light services hold."""
        most = max(self._open(), key=lambda node: node.most)
        return most.cores, most.light

    def _crowded(self, shape: Shape) -> Reason | None:
        """That it waits for others to end although there is room, because only so many replicas run at a time."""
        for node in self._open():
            if not node.replicas or node.replicas + shape.replicas <= node.max_replicas:
                return None
        run, most = (sum(getattr(node, name) for node in self._open()) for name in ("replicas", "max_replicas"))
        where = "this machine runs" if len(self.nodes) == 1 else "the machines run"
        rule = f"{where} at most {most} at a time (localml up --max-replicas)"
        words = f"waits for room: {run} replicas run, and {rule}"
        return Reason("resources", words, frozenset({"replicas"}), tuple(holder.id for holder in self.holders))

    def _take(self, job: Waiting, placement: Placement) -> None:
        need = job.shape.need
        if job.shape.light:
            self.large.clear()  # they leave less now
        demands = {demand.role: demand for demand in job.shape.demands}
        for name in placement.nodes:
            self.nodes[name] = taken_from(self.nodes[name], placement.grants, demands)
        self.free = _sum(self._open())
        ends_by = self.now + job.time_limit if job.time_limit is not None else None
        self.holders.append(Holder(job.id, job.name, job.pool, need, ends_by, job.shape.light, job.shape.parts))
        for pool in self.chain(job.pool):
            used, count = self.pool_used[pool.name]
            self.pool_used[pool.name] = (used.plus(need), count + 1)

    def _misfit(self, shape: Shape, need: Amount) -> Reason:
        if self.large[shape] is not None and not any(node.idle for node in self._open()):
            return self._not_alone(shape, need)
        # enough in sum, but not on devices of the right kind, or not on one machine
        short = self.free.short(need) or (frozenset({"gpu"}) if len(self.nodes) == 1 else need.uses())
        holders = tuple(holder.id for holder in self.holders if holder.amount.uses() & short)
        words = f"waits for {_need_words(need, self.free, short, sum(node.cores for node in self._open()))}"
        return Reason("resources", words, short, holders, self._expected(need, self.free))

    def _not_alone(self, shape: Shape, need: Amount) -> Reason:
        """What asks for more cores than there are waits for all others to end that named some."""
        cores, light = self._cores()
        services = f"services hold {light:g} " if light else ""
        words = (
            f"waits until it has the machine to itself: it asks for {_show('cpu', shape.need.cpu)}, there are {cores:g}"
            f", {services}and others hold {sum(node.busy for node in self._open()):g}"
        )
        holders = tuple(holder.id for holder in self.holders if holder.amount.cpu and not holder.light)
        return Reason("resources", words, frozenset({"cpu"}), holders, self._expected(need, self.free))

    def _expected(self, need: Amount, free: Amount) -> float | None:
        """When the needs are met if every holder runs to its time limit."""
        for holder in sorted(
            (one for one in self.holders if one.ends_by is not None), key=lambda one: one.ends_by or 0.0
        ):
            free = free.plus(holder.amount)
            if not free.short(need):
                return holder.ends_by
        return None


def _sum(nodes: Iterable[Node]) -> Amount:
    """What is free on these together; GPUs as their devices have them."""
    found = Amount()
    for node in nodes:
        gpus = sum(slot.free for slot in node.gpus)
        found = found.plus(Amount(node.free.cpu, node.free.memory, gpus))
    return found


def admit(
    waiting: Iterable[Waiting],
    nodes: Sequence[Node],
    pools: Mapping[str, PoolState],
    holders: Sequence[Holder],
    now: float,
    *,
    spread: bool = False,
) -> Admission:
    """One whole pass with a reason for each that waits; the arguments are those of :class:`Pass`.

    Returns:
        Placements of those that start now, and a reason for each of the others.
    """
    answer = Admission()
    turn = Pass(nodes, pools, holders, now, spread=spread)
    for job in sorted(waiting, key=lambda one: one.rank):
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
        if limit is not None and getattr(need, name) > 0 and getattr(used, name) + getattr(need, name) > limit + EPSILON
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


def _need_words(need: Amount, free: Amount, short: Iterable[str], cores: float) -> str:
    def left(name: str) -> str:
        if name == "cpu" and cores < inf:
            return f"{free.cpu:g} of {cores:g}"
        return _show(name, getattr(free, name))

    return " and ".join(f"{_show(name, getattr(need, name))} ({left(name)} free)" for name in sorted(short))


def _show(name: str, value: float) -> str:
    from localml.core.quantities import format_memory

    if name == "memory":
        return f"{format_memory(int(value))} of memory"
    unit = "CPU core" if name == "cpu" else "GPU"
    return f"{value:g} {unit}" + ("" if value == 1 else "s")
