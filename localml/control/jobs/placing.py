"""Finding a place for all replicas of a workload: on one machine, or on several. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from localml.control.jobs.demands import EPSILON, Amount, Demand, GpuSlot, Grant, Node, Placement, Shape


def place(shape: Shape, nodes: Iterable[Node], *, spread: bool = False) -> Placement | None:
    """Places for every replica, or None.

    One machine that has room for all is taken, the one whose GPUs are left the fullest. Only where there is none, and
    where replicas on several machines find each other (``spread``), the workload is divided.

    Whole devices go to the first free ones, so that fractions stay together; a fraction goes to the fullest device
    that still has room.
    """
    open_ones = [node for node in nodes if not node.closed]
    fitting = [(node, grants) for node in open_ones if (grants := _together(shape, _Room(node))) is not None]
    if fitting:
        _, grants = min(fitting, key=lambda one: sum(slot.free for slot in one[0].gpus))
        return Placement(grants)
    return _divided(shape.demands, [_Room(node) for node in open_ones]) if spread and shape.replicas > 1 else None


class _Room:
    """What is left of a machine while replicas are put there."""

    def __init__(self, node: Node) -> None:
        self.name = node.name
        self.free = node.free
        self.gpus = {slot.uuid: slot.free for slot in node.gpus}
        self.types = {slot.uuid: slot.type for slot in node.gpus}
        self.replicas = node.replicas
        self.most = node.max_replicas

    def crowded(self, more: int) -> bool:
        return bool(self.replicas) and self.replicas + more > self.most

    def put(self, demand: Demand, index: int) -> Grant | None:
        """One replica; CPU and memory were found to suffice."""
        chosen = _choose(demand, self.gpus, self.types)
        if chosen is None:
            return None
        for uuid, fraction in chosen:
            self.gpus[uuid] -= fraction
        self.replicas += 1
        return Grant(demand.role, index, self.name, chosen)


def _largest_first(demands: Sequence[Demand]) -> list[Demand]:
    # whole devices first: a fraction can go where they leave room, never the other way round
    return sorted(demands, key=lambda one: -one.gpu)


def _together(shape: Shape, room: _Room) -> tuple[Grant, ...] | None:
    if not room.free.has(shape.need) or room.crowded(shape.replicas):
        return None
    grants: list[Grant] = []
    for demand in _largest_first(shape.demands):
        for index in range(demand.count):
            grant = room.put(demand, index)
            if grant is None:
                return None
            grants.append(grant)
    return tuple(grants)


def _divided(demands: Sequence[Demand], rooms: list[_Room]) -> Placement | None:
    grants: list[Grant] = []
    for demand in _largest_first(demands):
        need = Amount(demand.cpu, demand.memory, demand.gpu)
        for index in range(demand.count):
            grant = _anywhere(demand, need, index, rooms)
            if grant is None:
                return None
            grants.append(grant)
    return Placement(tuple(grants))


def _anywhere(demand: Demand, need: Amount, index: int, rooms: list[_Room]) -> Grant | None:
    for room in rooms:
        if room.free.has(need) and not room.crowded(1):
            grant = room.put(demand, index)
            if grant is not None:
                room.free = room.free.minus(need)
                return grant
    return None


def _choose(
    demand: Demand, left: Mapping[str, float], types: Mapping[str, str]
) -> tuple[tuple[str, float], ...] | None:
    if demand.gpu <= 0:
        return ()
    fitting = [uuid for uuid in left if demand.gpu_type is None or demand.gpu_type.lower() in types[uuid].lower()]
    if demand.gpu < 1:
        roomy = [uuid for uuid in fitting if left[uuid] + EPSILON >= demand.gpu]
        if not roomy:
            return None
        return ((min(roomy, key=lambda uuid: left[uuid]), demand.gpu),)
    whole = [uuid for uuid in fitting if left[uuid] >= 1 - EPSILON]
    count = int(demand.gpu)
    return tuple((uuid, 1.0) for uuid in whole[:count]) if len(whole) >= count else None


def taken_from(node: Node, grants: Iterable[Grant], demands: Mapping[str, Demand]) -> Node:
    """The machine when these replicas of a workload are on it as well."""
    mine = [grant for grant in grants if grant.node == node.name]
    free, light, busy, gpus = node.free, node.light, node.busy, {slot.uuid: slot for slot in node.gpus}
    for grant in mine:
        demand = demands[grant.role]
        free = free.minus(Amount(min(demand.cpu, free.cpu), demand.memory, demand.gpu))
        light += demand.cpu if demand.light else 0.0
        busy += 0.0 if demand.light else demand.cpu
        for uuid, fraction in grant.gpus:
            slot = gpus[uuid]
            gpus[uuid] = GpuSlot(uuid, slot.type, slot.free - fraction)
    replicas = node.replicas + len(mine)
    return replace(node, free=free, gpus=tuple(gpus.values()), replicas=replicas, light=light, busy=busy)


def fits_empty(shape: Shape, nodes: Iterable[Node], *, spread: bool = False) -> bool:
    """Whether the cores of these machines ever suffice, were there nothing but light services on them."""
    nodes = list(nodes)
    if shape.light or any(shape.need.cpu <= node.most + EPSILON for node in nodes):
        return True
    cores = Shape.of(*(replace(demand, memory=0, gpu=0.0) for demand in shape.demands))
    empty = [Node(node.name, Amount(cpu=node.most)) for node in nodes]
    return place(cores, empty, spread=spread) is not None


def place_alone(shape: Shape, nodes: Iterable[Node], *, spread: bool = False) -> Placement | None:
    """Places for what asks for more cores than there are, on machines that it has to itself then."""
    whole = Shape.of(*(replace(demand, cpu=0.0) for demand in shape.demands))
    return place(whole, [node for node in nodes if node.idle], spread=spread)


def waits_alike(most: float, least: float, held: Iterable[float]) -> bool:
    """Whether what starts when ``most`` cores or fewer are held would start no later if that were ``least``.

    So it is where those who hold cores, whichever of them stay, never hold a sum between the two. When none are
    held, it starts in any case.

    Args:
        most: not negative.
        held: cores of each replica that may end.
    """
    parts = [cores * 1000 for cores in held]  # in thousandths, and how far their rounded sum may be off:
    blur = sum(abs(part - round(part)) for part in parts) + EPSILON
    highest = int(most * 1000 + blur)
    sums, known = 1, (2 << highest) - 1  # bit n: they may hold n
    for part in parts:
        sums |= (sums << round(part)) & known
    return sums >> max(1, int(least * 1000 - blur) + 1) == 0
