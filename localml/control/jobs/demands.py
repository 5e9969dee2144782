"""What waits, what is free, and what holds it: the values that admission works with."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import inf

EPSILON = 1e-9
"""Amounts that differ by less are equal."""


@dataclass(frozen=True, slots=True)
class Demand:
    """``count`` replicas of one role, each with these needs (cores, bytes, devices).

    ``light`` are services that named no cores of their own: what needs a machine to itself runs beside them, because
    they do not end by themselves.
    """

    role: str
    count: int = 1
    cpu: float = 0.0
    memory: int = 0
    gpu: float = 0.0
    gpu_type: str | None = None
    light: bool = False


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

    def has(self, need: Amount) -> bool:
        """Whether ``need`` exceeds this amount in no dimension."""
        return (
            (need.cpu <= 0 or need.cpu <= self.cpu + EPSILON)
            and (need.memory <= 0 or need.memory <= self.memory + EPSILON)
            and (need.gpu <= 0 or need.gpu <= self.gpu + EPSILON)
        )

    def short(self, need: Amount) -> frozenset[str]:
        """Dimensions in which ``need`` exceeds this amount."""
        return frozenset(
            name
            for name, have, want in (
                ("cpu", self.cpu, need.cpu),
                ("memory", self.memory, need.memory),
                ("gpu", self.gpu, need.gpu),
            )
            if want > 0 and want > have + EPSILON
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

    @property
    def light(self) -> bool:
        """Whether all of it is light."""
        return all(demand.light for demand in self.demands)

    @property
    def parts(self) -> tuple[float, ...]:
        """Cores of each replica that is not light."""
        return tuple(demand.cpu for demand in self.demands if not demand.light for _ in range(demand.count))

    @property
    def by_role(self) -> dict[str, Demand]:
        """What each replica of a role needs."""
        return {demand.role: demand for demand in self.demands}


Rank = tuple[int, int]
Line = tuple[str, Shape, float | None]


@dataclass(frozen=True, slots=True)
class Waiting:
    """A queued workload that nothing but others keeps from starting."""

    id: int
    name: str
    pool: str
    priority: int
    shape: Shape
    time_limit: float | None = None

    @property
    def rank(self) -> Rank:
        """Its place in the queue; the smallest is first."""
        return -self.priority, self.id

    @property
    def line(self) -> Line:
        """What its equals share: where one of them does not fit, those behind it do not either."""
        return self.pool, self.shape, self.time_limit


@dataclass(frozen=True, slots=True)
class Holder:
    """A workload that holds resources; ``ends_by`` is when its time limit ends it at the latest, ``light`` as in
    :class:`Demand`; ``parts`` are the cores of each of its replicas that are not light, which may end one by one."""

    id: int
    name: str
    pool: str
    amount: Amount
    ends_by: float | None = None
    light: bool = False
    parts: tuple[float, ...] = ()


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
    ``cores`` are those of the machine in all, free or not; ``light`` of them light services hold, and ``busy`` others.
    What asks for more cores than the light services leave starts when it has the machine to itself.
    """

    name: str
    free: Amount
    gpus: tuple[GpuSlot, ...] = ()
    closed: str = ""
    replicas: int = 0
    max_replicas: int = 1 << 30
    cores: float = inf
    light: float = 0.0
    busy: float = 0.0

    @property
    def most(self) -> float:
        """Cores that a workload can get at most here."""
        return max(0.0, self.cores - self.light)

    @property
    def idle(self) -> bool:
        """Whether nothing but light services holds cores."""
        return self.busy <= EPSILON


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
    """Where one replica goes, and its GPUs there: (uuid, fraction) pairs."""

    role: str
    index: int
    node: str
    gpus: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Placement:
    """Where all replicas of a workload go. ``note`` is what else is to be said of it."""

    grants: tuple[Grant, ...]
    note: str = ""

    @property
    def nodes(self) -> tuple[str, ...]:
        """The machines, each once."""
        return tuple(dict.fromkeys(grant.node for grant in self.grants))


@dataclass(frozen=True, slots=True)
class Reason:
    """Why a workload waits: what it is short of, who has it, and when it may start (None: nobody knows).

    Attributes:
        words: why; what follows the name where there is one.
        ahead: name of the workload that it waits behind, the only one that is named.
    """

    code: str  # hold | pool | resources | behind | closed | new | engine | image | pending | draining | stuck
    words: str
    short: frozenset[str] = frozenset()
    holders: tuple[int, ...] = ()
    expected_start: float | None = None
    ahead: str = ""

    @property
    def message(self) -> str:
        """Why, in a sentence."""
        return f"waits behind '{self.ahead}'{self.words}" if self.ahead else self.words

    @property
    def discreet(self) -> str:
        """The same for those who may not know who is ahead."""
        return f"waits behind another workload{self.words}" if self.ahead else self.words
