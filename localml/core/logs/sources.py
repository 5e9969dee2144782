"""Which output of a workload is meant, and how much of it somebody has got.

A *source* is one stream of one attempt. Sources are ordered by attempt and stream, and new ones only ever come last;
so a list of offsets, one for each source, says exactly what was given (:class:`Position`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from localml.core.errors import invalid
from localml.core.logs.files import LogStore, Marks
from localml.core.work.tables import Attempt
from localml.core.work.workloads import Full

STREAMS = ("stdout", "stderr")


@dataclass(frozen=True, slots=True)
class Source:
    """One stream of one attempt; ``name`` is the attempt's, ``attempt`` the number of its try."""

    workload_id: int
    name: str
    stream: str
    replica: str
    attempt: int

    def size(self, store: LogStore) -> int:
        """Bytes so far, those that are gone by now included."""
        return store.size(self.workload_id, self.name, self.stream)

    def base(self, store: LogStore) -> int:
        """The offset of the first byte that is still there."""
        return store.base(self.workload_id, self.name, self.stream)

    def read(self, store: LogStore, offset: int, limit: int) -> bytes:
        """At most ``limit`` bytes from ``offset``."""
        return store.read(self.workload_id, self.name, self.stream, offset, limit)

    def marks(self, store: LogStore) -> Marks:
        """When what lies where was written."""
        return store.marks(self.workload_id, self.name, self.stream)


@dataclass(frozen=True, slots=True)
class Selection:
    """Which output of a workload is wanted. Members that are None do not restrict.

    ``attempt`` is the number of a try or ``all``; None means: from the try ``from_try`` on, those to come included.
    """

    role: str | None = None
    index: int | None = None
    attempt: str | None = None
    stream: str | None = None
    from_try: int = 1

    @classmethod
    def of(cls, found: Full, role: str | None, index: int | None, attempt: str | None, stream: str | None) -> Selection:
        """A selection that fits this workload; ``from_try`` is fixed now, so that following does not jump.

        Raises:
            LocalmlError: ``INVALID`` for a role, index or attempt that the workload does not have.
        """
        names = [one.name for one in found.spec.roles]
        if role is not None and role not in names:
            raise invalid("role", f"'{role}' is none of this workload's: {', '.join(names)}")
        counts = [one.count for one in found.spec.roles if role in (None, one.name)]
        if index is not None and index >= max(counts):
            raise invalid("index", f"{index} is too high: there are {max(counts)} replicas, counted from 0")
        newest = max((one.number for one in found.attempts), default=1)
        if attempt is not None and attempt != "all" and int(attempt) > max(newest, found.row.attempt):
            raise invalid("attempt", f"{attempt} was not made; the newest is {newest}")
        return cls(role, index, attempt, stream, newest)

    def several(self, found: Full) -> bool:
        """Whether it may hold output of more than one replica, now or later."""
        roles = [one for one in found.spec.roles if self.role in (None, one.name)]
        return len(roles) > 1 or (self.index is None and roles[0].count > 1)

    def sources(self, attempts: Sequence[Attempt]) -> list[Source]:
        """The sources that there are by now."""
        return [
            Source(one.workload_id, one.name, stream, f"{one.role}-{one.index}", one.number)
            for one in sorted(attempts, key=lambda one: one.id or 0)
            if self._takes(one)
            for stream in STREAMS
            if self.stream in (None, stream)
        ]

    def _takes(self, one: Attempt) -> bool:
        if self.role not in (None, one.role) or self.index not in (None, one.index):
            return False
        if self.attempt is None:
            return one.number >= self.from_try
        return self.attempt == "all" or one.number == int(self.attempt)


ALL = Selection(attempt="all")
"""Everything that a workload ever wrote, in all its tries."""


@dataclass(slots=True)
class Position:
    """How much of each source was given. As text: ``120`` or ``120,0,33``, in the order of the sources."""

    offsets: list[int] = field(default_factory=list)

    @classmethod
    def parse(cls, text: str | None) -> Position:
        """What :meth:`__str__` gave; the beginning when there is none."""
        return cls([int(part) for part in text.split(",")]) if text else cls()

    @classmethod
    def end(cls, store: LogStore, sources: Sequence[Source]) -> Position:
        """Behind all that there is by now."""
        return cls([source.size(store) for source in sources])

    @classmethod
    def start(cls, store: LogStore, sources: Sequence[Source]) -> Position:
        """The first bytes that are still there: not those of a long-running service's beginning."""
        return cls([source.base(store) for source in sources])

    def __str__(self) -> str:
        return ",".join(map(str, self.offsets)) or "0"

    def fit(self, count: int) -> None:
        """Take in sources that are new."""
        self.offsets.extend([0] * (count - len(self.offsets)))

    def copy(self) -> Position:
        """One that moves by itself."""
        return Position(list(self.offsets))
