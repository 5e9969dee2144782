"""Reading what a workload wrote: one stream, or all replicas' streams merged in the order of their writing.

A *source* is one stream of one attempt. Sources are ordered by attempt and stream, and new ones only ever come last;
so a list of offsets, one for each source, says exactly what somebody has already got (:class:`Position`).
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass, field

from localml.core.errors import invalid
from localml.core.logs.files import LogStore
from localml.core.work.tables import Attempt
from localml.core.work.workloads import Full

STREAMS = ("stdout", "stderr")
BLOCK = 1 << 16
_LONGEST_LINE = 1 << 16
"""A line without end is given in pieces of this size rather than held back for ever."""


@dataclass(frozen=True, slots=True)
class Source:
    """One stream of one attempt; ``name`` is the attempt's."""

    workload_id: int
    name: str
    stream: str
    replica: str
    attempt: int


@dataclass(frozen=True, slots=True)
class Selection:
    """Which output of a workload is wanted. Members that are None do not restrict.

    ``attempt`` None means: from the newest try on, those to come included.
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

    def sources(self, attempts: list[Attempt]) -> list[Source]:
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


@dataclass(slots=True)
class Position:
    """How much of each source was given. As text: ``120`` or ``120,0,33``, in the order of the sources."""

    offsets: list[int] = field(default_factory=list)

    @classmethod
    def parse(cls, text: str | None) -> Position:
        """What :meth:`__str__` gave; the beginning when there is none."""
        return cls([int(part) for part in text.split(",")]) if text else cls()

    def __str__(self) -> str:
        return ",".join(map(str, self.offsets)) or "0"

    def fit(self, count: int) -> None:
        """Take in sources that are new."""
        self.offsets.extend([0] * (count - len(self.offsets)))


@dataclass(frozen=True, slots=True)
class Piece:
    """Bytes of one source as they are to be shown; ``end`` is the source's offset behind them."""

    source: Source
    number: int
    data: bytes
    end: int
    at: float


def pieces(store: LogStore, sources: list[Source], position: Position, limit: int) -> Iterator[Piece]:
    """What was written behind ``position``, in order of time, at most about ``limit`` bytes. Moves nothing."""
    position.fit(len(sources))
    runs = [
        _run(store, source, number, position.offsets[number])
        for number, source in enumerate(sources)
        if store.size(source.workload_id, source.name, source.stream) > position.offsets[number]
    ]
    given = 0
    for at, number, start, end in heapq.merge(*runs):
        source = sources[number]
        while start < end:
            room = min(end - start, BLOCK, limit - given)
            if room <= 0:
                return
            data = store.read(source.workload_id, source.name, source.stream, start, room)
            if not data:
                break
            start += len(data)
            given += len(data)
            yield Piece(source, number, data, start, at)


def _run(store: LogStore, source: Source, number: int, offset: int) -> Iterator[tuple[float, int, int, int]]:
    """(time, source, start, end) of the chunks of one source behind an offset."""
    size = store.size(source.workload_id, source.name, source.stream)
    marks = [mark for mark in store.marks(source.workload_id, source.name, source.stream) if mark[0] < size]
    starts = [(at, start) for start, at in marks]
    if not starts or starts[0][1] > 0:
        starts.insert(0, (starts[0][0] if starts else 0.0, 0))
    ends = [start for _, start in starts[1:]] + [size]
    for (at, start), end in zip(starts, ends, strict=True):
        if end > max(start, offset):
            yield at, number, max(start, offset), end


class Lines:
    """Prefixes every line with its replica, holding back what is no whole line yet.

    The offsets of ``position`` then say what was given out, not what was read.
    """

    def __init__(self, position: Position) -> None:
        self.position = position
        self._held: dict[int, tuple[Source, bytes]] = {}

    def feed(self, piece: Piece) -> bytes:
        """Take in a piece, give the lines that are complete now."""
        self.position.fit(piece.number + 1)
        held = self._held.pop(piece.number, (piece.source, b""))[1] + piece.data
        whole, _, rest = held.rpartition(b"\n")
        if len(rest) > _LONGEST_LINE:
            whole, rest = held, b""
        if rest:
            self._held[piece.number] = (piece.source, rest)
        self.position.offsets[piece.number] = piece.end - len(rest)
        return self._prefixed(piece.source, whole) if whole or len(rest) < len(held) else b""

    def rest(self) -> bytes:
        """What is held back, as lines: for the end of the output."""
        parts = []
        for number, (source, data) in sorted(self._held.items()):
            self.position.offsets[number] += len(data)
            parts.append(self._prefixed(source, data))
        self._held.clear()
        return b"".join(parts)

    @staticmethod
    def _prefixed(source: Source, data: bytes) -> bytes:
        mark = f"[{source.replica}] ".encode()
        return b"".join(mark + line + b"\n" for line in data.split(b"\n"))


def tail_position(store: LogStore, sources: list[Source], lines: int) -> Position:
    """Where the last ``lines`` lines of the merged output begin.

    Sources are read backwards as far as needed, at most :data:`_TAIL_BYTES` of each.
    """
    starts: list[tuple[float, int, int]] = []  # (time, source, offset) of the beginnings of lines near the ends
    sizes = []
    for number, source in enumerate(sources):
        size = store.size(source.workload_id, source.name, source.stream)
        sizes.append(size)
        starts.extend((at, number, offset) for at, offset in _last_lines(store, source, size, lines))
    starts.sort()
    position = Position(sizes)
    for _, number, offset in starts[max(0, len(starts) - lines) :]:
        position.offsets[number] = min(position.offsets[number], offset)
    return position


_TAIL_BYTES = 8 << 20


def _last_lines(store: LogStore, source: Source, size: int, lines: int) -> list[tuple[float, int]]:
    """(time, offset) of the beginnings of the last lines of one source."""
    if not lines or not size:
        return []
    want = BLOCK
    while True:
        begin = max(0, size - want)
        data = store.read(source.workload_id, source.name, source.stream, begin, size - begin)
        found = [begin + at + 1 for at in _newlines(data[:-1])]
        if begin == 0:
            found.insert(0, 0)
        if len(found) >= lines or begin == 0 or want >= _TAIL_BYTES:
            break
        want *= 4
    marks = store.marks(source.workload_id, source.name, source.stream)
    return _timed(found[-lines:], marks)


def _newlines(data: bytes) -> Iterator[int]:
    at = data.find(b"\n")
    while at >= 0:
        yield at
        at = data.find(b"\n", at + 1)


def _timed(offsets: list[int], marks: list[tuple[int, float]]) -> list[tuple[float, int]]:
    timed: list[tuple[float, int]] = []
    next_mark, at = 0, marks[0][1] if marks else 0.0
    for offset in offsets:
        while next_mark < len(marks) and marks[next_mark][0] <= offset:
            at = marks[next_mark][1]
            next_mark += 1
        timed.append((at, offset))
    return timed
