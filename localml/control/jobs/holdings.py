"""What the machines have, what is held of it, and what is left, as admission wants it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace

from localml.control.jobs.demands import Amount, GpuSlot, Holder, Node, PoolState
from localml.control.jobs.snapshot import Limits, Unit
from localml.control.jobs.specs import SpecCache
from localml.core.work.states import HOLDING


@dataclass(frozen=True, slots=True)
class Machine:
    """Size of a node: cores (after overcommitment), bytes, GPUs as (uuid, type), containers at a time."""

    name: str
    cpu: float
    memory: int
    gpus: tuple[tuple[str, str], ...] = ()
    max_replicas: int = 1 << 30


def holders_of(units: Iterable[Unit], specs: SpecCache) -> list[Holder]:
    """What holds resources now."""
    return [
        Holder(
            unit.row.id,
            unit.row.name,
            unit.row.pool,
            _amount(unit, specs),
            _ends_by(unit, specs),
            specs.shape(unit.row.id).light,
            _parts(unit, specs),
        )
        for unit in units
        if _holds(unit)
    ]


def _holds(unit: Unit) -> bool:
    return unit.row.state in HOLDING and any(one.holds for one in unit.current)


def _amount(unit: Unit, specs: SpecCache) -> Amount:
    """What its replicas hold: all that it asked for, less what those have given back whose programs have exited."""
    if all(one.holds for one in unit.current):
        return specs.shape(unit.row.id).need
    amount, demands = Amount(), specs.shape(unit.row.id).by_role
    for one in unit.current:
        if one.holds and (need := demands.get(one.role)) is not None:
            amount = amount.plus(Amount(need.cpu, need.memory, need.gpu))
    return amount


def _parts(unit: Unit, specs: SpecCache) -> tuple[float, ...]:
    demands = specs.shape(unit.row.id).by_role
    held = (demands.get(one.role) for one in unit.current if one.holds)
    return tuple(need.cpu for need in held if need is not None and not need.light)


def _ends_by(unit: Unit, specs: SpecCache) -> float | None:
    limit = specs.spec(unit.row.id).time_limit
    return None if limit is None or unit.row.started_at is None else unit.row.started_at + limit


def nodes_of(
    units: Collection[Unit], specs: SpecCache, machines: Iterable[Machine], limits: Limits, lost: Mapping[str, str]
) -> list[Node]:
    """The machines and what is free on each: its size less what is held, its GPUs less leases and marks."""
    used: dict[str, Amount] = {}
    light: dict[str, float] = {}
    live: dict[str, int] = {}
    taken: dict[tuple[str, str], float] = {}
    for unit in units:
        if unit.row.state in HOLDING:
            _add_use(used, light, unit, specs)
        for one in unit.attempts:
            if one.holds:
                live[one.node] = live.get(one.node, 0) + 1
            for gpu, fraction in one.gpus:
                taken[one.node, gpu] = taken.get((one.node, gpu), 0.0) + fraction
    nodes = []
    for machine in machines:
        mine, slight = used.get(machine.name, Amount()), light.get(machine.name, 0.0)
        node = _node(machine, mine, taken, limits, lost)
        nodes.append(replace(node, replicas=live.get(machine.name, 0), light=slight, busy=mine.cpu - slight))
    return nodes


def _add_use(used: dict[str, Amount], light: dict[str, float], unit: Unit, specs: SpecCache) -> None:
    """A replica counts until its program has exited."""
    demands = specs.shape(unit.row.id).by_role
    for one in unit.current:
        if not one.holds or (need := demands.get(one.role)) is None:
            continue
        used[one.node] = used.get(one.node, Amount()).plus(Amount(need.cpu, need.memory, 0.0))
        if need.light:
            light[one.node] = light.get(one.node, 0.0) + need.cpu


def _node(
    machine: Machine,
    used: Amount,
    taken: Mapping[tuple[str, str], float],
    limits: Limits,
    lost: Mapping[str, str],
) -> Node:
    slots = tuple(
        GpuSlot(uuid, kind, max(0.0, 1.0 - taken.get((machine.name, uuid), 0.0)))
        for uuid, kind in machine.gpus
        if (machine.name, uuid) not in limits.gpu_marks and uuid not in lost
    )
    reason = limits.drained.get(machine.name)
    name = "this machine" if machine.name == LOCAL else machine.name
    closed = f"{name} is drained: {reason}".rstrip(": ") if reason is not None else ""
    # one that asks for more cores than there are has the machine to itself, and leaves none
    free = Amount(max(0.0, machine.cpu - used.cpu), machine.memory - used.memory, sum(slot.free for slot in slots))
    return Node(machine.name, free, slots, closed, max_replicas=machine.max_replicas, cores=machine.cpu)


LOCAL = "local"
"""The name of the machine that the server runs on."""


def pools_of(units: Iterable[Unit], specs: SpecCache, limits: Limits) -> dict[str, PoolState]:
    """All pools with what their workloads, and those below them, hold now."""
    used: dict[str, Amount] = {name: Amount() for name in limits.pools}
    count: dict[str, int] = dict.fromkeys(limits.pools, 0)
    parents = {name: limits.pool_names.get(pool.parent_id or 0) for name, pool in limits.pools.items()}
    for unit in units:
        if not _holds(unit):
            continue
        amount = _amount(unit, specs)
        name: str | None = unit.row.pool
        while name is not None and name in used:
            used[name] = used[name].plus(amount)
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
        for name, pool in limits.pools.items()
    }


def ports_in_use(units: Iterable[Unit]) -> set[int]:
    """Ports of the machines that replicas have, until their programs have exited."""
    attempts = [one for unit in units for one in unit.attempts if one.holds]
    return {int(host) for one in attempts for _, host in (one.ports or {}).values()}
