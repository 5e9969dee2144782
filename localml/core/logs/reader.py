"""Reading what a workload wrote: all its streams as one, in the order of their writing, forwards and backwards.

Everybody who shows output reads it here, in one of three units, each from any :class:`Position` on:

* bytes as they lie (:func:`pieces`), a stream's bytes perhaps between the parts of another one's line;
* whole lines (:func:`whole_lines`), in the order of their newlines; what has none at the end of a try comes last in it;
* the last lines (:func:`tail`), for which no more is read than the ends of files.

Tries follow each other. Nothing here waits; memory does not grow with the output.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import NamedTuple

from localml.core.logs.files import LogStore, Mark
from localml.core.logs.sources import Position, Source

BLOCK = 1 << 16
_FIRST_BLOCK = 1 << 13
_LONGEST_LINE = 1 << 16
"""A line without end is given in pieces of this size rather than held back for ever, and of a longer line that is a
progress bar (its states parted by carriage returns) the last states are what is meant by it."""
_LONGEST_TAIL = 8 << 20
"""A longer line is shown from its middle on by those who want the last ones."""


class Piece(NamedTuple):
    """Bytes of one source as they are to be shown; ``end`` is the source's offset behind them.

    ``gone`` is how many bytes that were to come right before them are there no more.
    """

    source: Source
    number: int
    data: bytes
    end: int
    gone: int = 0

    def ended(self) -> Piece:
        """As a line, though it has no newline."""
        return self._replace(data=self.data + b"\n")

    def notice(self) -> bytes:
        """A line that says what is missing before it; nothing when nothing is."""
        return b"[localml] %d bytes of older output are kept no more\n" % self.gone if self.gone else b""

    def first(self, lines: int) -> Piece:
        """The first lines only."""
        if self.data.count(b"\n") <= lines:
            return self
        rest = len(self.data.split(b"\n", lines)[-1])
        return self._replace(data=self.data[: len(self.data) - rest], end=self.end - rest)


def pieces(
    store: LogStore,
    sources: Sequence[Source],
    position: Position,
    limit: int | None = None,
    until: Position | None = None,
) -> Iterator[Piece]:
    """What was written behind ``position``, in order of time. Moves nothing.

    Args:
        limit: bytes at most.
        until: up to here; by default up to the end that there is now.
    """
    position.fit(len(sources))
    ends = (until or Position.end(store, sources)).offsets
    starts = list(position.offsets)
    runs = [
        _Run(store, source, number, starts[number], ends[number])
        for number, source in enumerate(sources)
        if number < len(ends) and starts[number] < ends[number]
    ]
    heapq.heapify(runs)
    while runs and limit != 0:
        run = heapq.heappop(runs)
        goal = run.lead(runs[0] if runs else None)
        while data := run.take(goal, limit):
            limit = None if limit is None else limit - len(data)
            yield Piece(run.source, run.number, data, run.offset, run.gone)
            run.gone = 0
        if run.offset < run.end:
            heapq.heappush(runs, run)


class _Run:
    """One source being read forwards. When its bytes were written is looked up only if there are others to compare."""

    def __init__(self, store: LogStore, source: Source, number: int, offset: int, end: int) -> None:
        self.source, self.number, self.offset, self.end = source, number, offset, end
        self.gone = 0
        self._store = store
        self._skip()
        self._buffer, self._base = b"", self.offset
        self._walk: Iterator[Mark] | None = None
        self._mark: Mark = (0, 0.0)
        self._next: Mark | None = None

    def _skip(self) -> bool:
        """Go on where the source begins by now, if that is behind the offset."""
        base = min(self.source.base(self._store), self.end)
        if base <= self.offset:
            return False
        self.gone += base - self.offset
        self.offset, self._buffer, self._base = base, b"", base
        return True

    def __lt__(self, other: _Run) -> bool:
        if self.source.attempt != other.source.attempt:
            return self.source.attempt < other.source.attempt
        return (self._at(), self.number) < (other._at(), other.number)

    def _at(self) -> float:
        """When the byte at the offset was written."""
        if self._walk is None:
            self._walk = self.source.marks(self._store).forwards(self.offset)
            self._mark = next(self._walk, self._mark)
            self._next = next(self._walk, None)
        while self._next is not None and self._next[0] <= self.offset:
            self._step(self._next)
        return self._mark[1]

    def _step(self, mark: Mark) -> None:
        assert self._walk is not None
        self._mark, self._next = mark, next(self._walk, None)

    def lead(self, rival: _Run | None) -> int:
        """The offset up to which this run comes before the next best one."""
        if rival is None or rival.source.attempt > self.source.attempt:
            return self.end
        self._at()
        bar = (rival._at(), rival.number)
        while self._next is not None and (self._next[0] <= self.offset or (self._next[1], self.number) < bar):
            self._step(self._next)
        return self.end if self._next is None else min(self.end, self._next[0])

    def take(self, goal: int, limit: int | None) -> bytes:
        """The next bytes up to a goal; none once it is reached, or when the file was removed meanwhile."""
        room = goal - self.offset if limit is None else min(goal - self.offset, limit)
        if room <= 0:
            return b""
        at = self.offset - self._base
        if at >= len(self._buffer):
            self._buffer = self.source.read(self._store, self.offset, min(BLOCK, self.end - self.offset))
            self._base, at = self.offset, 0
            if self._skip():  # given back meanwhile: these may be no bytes, but a hole
                return self.take(goal, limit)
        data = self._buffer[at : at + room]
        self.offset += len(data)
        if not data:
            self.end = self.offset
        return data


class Lines:
    """Makes whole lines out of pieces, holding back what is none yet.

    The ``end`` of pieces that come out says what was given, not what was read. With a new try what is held of the one
    before comes out, ended by a newline.
    """

    def __init__(self) -> None:
        self._held: dict[int, Piece] = {}
        self._attempt = 0

    def feed(self, piece: Piece) -> Iterator[Piece]:
        """Take in a piece, give the lines that are complete now."""
        yield from self.turn(piece.source.attempt)
        held = self._held.pop(piece.number, None)
        if held is not None and piece.gone:
            yield held.ended()
        elif held is not None:
            piece = piece._replace(data=held.data + piece.data, gone=held.gone)
        data = piece.data
        cut = data.rfind(b"\n") + 1
        if len(data) - cut > _LONGEST_LINE:
            cut = data.rfind(b"\r") + 1 or len(data)
        if cut < len(data):
            self._held[piece.number] = piece._replace(data=data[cut:], gone=0 if cut else piece.gone)
        if cut:
            yield piece._replace(data=data[:cut], end=piece.end - len(data) + cut)

    def turn(self, attempt: int) -> Iterator[Piece]:
        """A try has begun: what is held back of those before it comes out."""
        if attempt > self._attempt:
            self._attempt = attempt
            yield from self.rest()

    def rest(self) -> Iterator[Piece]:
        """What is held back, as lines that end with a newline: for the end of the output."""
        held, self._held = self._held, {}
        for number in sorted(held):
            yield held[number].ended()


def marked(piece: Piece) -> bytes:
    """Lines, each beginning with its replica: ``[worker-0] ``."""
    mark = f"[{piece.source.replica}] ".encode()
    return mark + piece.data.removesuffix(b"\n").replace(b"\n", b"\n" + mark) + b"\n"


def whole_lines(
    store: LogStore,
    sources: Sequence[Source],
    position: Position,
    *,
    count: int | None = None,
    until: Position | None = None,
    over: bool = True,
) -> Iterator[Piece]:
    """Lines behind ``position``, many in one piece. Moves nothing.

    Args:
        count: so many at most.
        until: up to here; by default up to the end that there is now.
        over: no more will come behind the end, so what has no newline there is a line, too. It gets one.
    """
    lines = Lines()
    found = chain.from_iterable(map(lines.feed, pieces(store, sources, position, until=until)))
    for piece in chain(found, lines.rest()) if over else found:
        if count is None:
            yield piece
        elif count > 0:
            fitting = piece.first(count)
            count -= fitting.data.count(b"\n")
            yield fitting
        if count == 0:
            return


@dataclass(frozen=True, slots=True)
class Window:
    """Some lines, without their newlines, and where they begin and end: from there one may go on in both directions."""

    lines: list[bytes]
    start: Position
    end: Position


def window(store: LogStore, sources: Sequence[Source], position: Position, count: int, *, over: bool) -> Window:
    """The next ``count`` lines behind a position (see :func:`whole_lines`)."""
    return _window(sources, position, whole_lines(store, sources, position, count=count, over=over))


def window_before(store: LogStore, sources: Sequence[Source], position: Position, count: int) -> Window:
    """The last ``count`` lines before a position."""
    start = tail(store, sources, count, end=position)
    return _window(sources, start, whole_lines(store, sources, start, until=position))


def _window(sources: Sequence[Source], start: Position, found: Iterator[Piece]) -> Window:
    end, lines = start.copy(), list[bytes]()
    end.fit(len(sources))
    for piece in found:
        end.offsets[piece.number] = piece.end
        lines += piece.data.removesuffix(b"\n").split(b"\n")
    return Window(lines, start, end)


def behind(store: LogStore, sources: Sequence[Source], count: int) -> Position:
    """Where the first ``count`` lines end. All of them are read, because nothing says where a line of a number is."""
    position = Position([0] * len(sources))
    for piece in whole_lines(store, sources, position.copy(), count=count):
        position.offsets[piece.number] = piece.end
    return position


def tail(
    store: LogStore,
    sources: Sequence[Source],
    lines: int,
    *,
    end: Position | None = None,
    floor: Position | None = None,
    over: bool = True,
) -> Position:
    """Where the last ``lines`` lines begin. Files are read backwards from their ends, as far as needed.

    Args:
        end: what lies behind is not looked at; by default all that there is by now is.
        floor: what lies before is not looked at.
        over: no more will come, so what has no newline at the end counts as a line; it comes besides them otherwise.
    """
    position = end.copy() if end is not None else Position.end(store, sources)
    position.fit(len(sources))
    floors = Position.start(store, sources).offsets
    if floor is not None:
        floors = list(map(max, floors, floor.offsets))
    runs = [
        _backwards(store, source, number, position.offsets[number], floors[number])
        for number, source in enumerate(sources)
    ]
    found = heapq.merge(*runs, reverse=True)
    while lines > 0 and (line := next(found, None)) is not None:
        if line.start < line.end:
            position.offsets[line.number] = line.start
            lines -= over or not line.unfinished
    return position


class _Line(NamedTuple):
    """A line's place: its members in the order in which they decide what comes first."""

    attempt: int
    unfinished: bool
    at: float  # when its newline was written
    number: int
    end: int
    start: int


def _backwards(store: LogStore, source: Source, number: int, end: int, floor: int) -> Iterator[_Line]:
    """Lines of one source, the last one first; before it an empty one, so that a file of older lines is not read."""
    if end <= floor:
        return
    clock = _FallingClock(source.marks(store).backwards(end - 1))
    unfinished = source.read(store, end - 1, 1) != b"\n"
    line = _Line(source.attempt, unfinished, 0.0 if unfinished else clock.at(end - 1), number, end, end)
    yield line
    for start, stop in _bounds(store, source, end, floor):
        at = 0.0 if line.unfinished and stop == end else clock.at(stop - 1)
        shown = _newest_states(store, source, start, stop)
        yield line._replace(unfinished=line.unfinished and stop == end, at=at, end=stop, start=shown)


def _newest_states(store: LogStore, source: Source, start: int, end: int) -> int:
    """Where the newest states of a long progress bar begin; the beginning of any other line."""
    if end - start <= _LONGEST_LINE:
        return start
    data = source.read(store, end - _LONGEST_LINE, _LONGEST_LINE)
    at = data.find(b"\r", 0, len(data.rstrip(b"\r\n")))
    return start if at < 0 else end - _LONGEST_LINE + at + 1


class _FallingClock:
    """When bytes were written, asked for ever smaller offsets."""

    def __init__(self, marks: Iterator[Mark]) -> None:
        self._marks = marks
        self._mark = next(marks, (0, 0.0))

    def at(self, offset: int) -> float:
        while self._mark[0] > offset and (before := next(self._marks, None)) is not None:
            self._mark = before
        return self._mark[1]


def _bounds(store: LogStore, source: Source, end: int, floor: int) -> Iterator[tuple[int, int]]:
    """(start, end) of lines, the last one first."""
    begin, block = end, _FIRST_BLOCK
    while begin > floor and end - begin < _LONGEST_TAIL:
        size = min(block, begin - floor)
        data = source.read(store, begin - size, size)
        if len(data) < size:
            return  # the file was removed meanwhile
        begin -= size
        floor = max(floor, source.base(store))
        if begin < floor:  # given back meanwhile: what lies before is a hole
            data, begin = data[floor - begin :], min(floor, end)
        at = data.rfind(b"\n", 0, end - 1 - begin)  # the newline at the very end belongs to the last line
        while at >= 0:
            yield begin + at + 1, end
            end = begin + at + 1
            at = data.rfind(b"\n", 0, at)
        block = min(2 * block, BLOCK)
    if begin < end:
        yield begin, end


def last_bytes(store: LogStore, sources: Sequence[Source], limit: int) -> Position:
    """Where about the last ``limit`` bytes begin, at the beginning of a line.

    They are shared among the sources alike, but for those that have not so many.
    """
    ends, starts = Position.end(store, sources).offsets, Position.start(store, sources).offsets
    share = _share([max(0, end - start) for start, end in zip(starts, ends, strict=True)], limit)
    return Position(
        [
            start if end - start <= share else _next_line(store, source, end - share)
            for source, start, end in zip(sources, starts, ends, strict=True)
        ]
    )


def _share(sizes: Sequence[int], limit: int) -> int:
    for given, size in enumerate(sorted(sizes)):
        if size * (len(sizes) - given) > limit:
            return limit // (len(sizes) - given)
        limit -= size
    return max(sizes, default=0)


def _next_line(store: LogStore, source: Source, offset: int) -> int:
    """Where the first line that begins at an offset or behind it does; when that is far the next state of a progress
    bar, else the offset."""
    data = source.read(store, offset - 1, _FIRST_BLOCK)
    at = data.find(b"\n")
    return offset + max(0, at if at >= 0 else data.find(b"\r"))
