"""The bytes that a container wrote, out of the bytes that the daemon sends of its log.

Much output is read here, so nothing is done per line that can be done per block: a block of one stream's lines, written
within ten milliseconds, becomes one chunk with one time.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from io import BufferedReader

from localml.engines.base import STREAMS, EngineError, EngineUnreachable, LogChunk, Stream
from localml.engines.docker.containers import timestamp

PART = 16 * 1024
"""Bytes in each part of a long line but the last."""

BLOCK = 1 << 16
"""Bytes read at a time; also the least at which a chunk is given, should no other reason come before."""
_SIGN_OF_LIFE = 1 << 20
"""Bytes passed over until an empty chunk says that reading goes on."""

_HEADER = struct.Struct(">BxxxL")
_HEAD = _HEADER.size
_NAMES: dict[int, Stream] = {1: "stdout", 2: "stderr"}
_STAMP = len("2026-01-01T00:00:00.000000000Z")
_CELL = len("2026-01-01T00:00:00.00")
"""Stamps that are alike up to here lie less than ten milliseconds apart."""
_NEWLINE, _SPACE = b"\n "


@dataclass(frozen=True, slots=True)
class Message:
    """One message of the log: a line, or a part of a long one. ``stamp`` is its time as the daemon wrote it."""

    stream: Stream
    stamp: bytes
    data: bytes


def read_frames(read: Callable[[int], bytes]) -> Iterator[tuple[Stream, bytes]]:
    """Split a multiplexed body (8 bytes of header, then data) into stream and data.

    ``read(n)`` gives n bytes, or fewer at the end. A frame cut short is left out.
    """
    while len(header := read(_HEAD)) == _HEAD:
        number, size = _HEADER.unpack(header)
        data = read(size)
        if len(data) < size:
            return
        if number in _NAMES:
            yield _NAMES[number], data


def dechunked(file: BufferedReader) -> Iterator[bytes]:
    """The body of an answer in HTTP's chunks, of which the daemon makes one a line; as much at once as there is.

    Raises:
        EngineUnreachable: it was cut off.
    """
    rest, due = b"", 0  # what is not taken yet; bytes that are missing of the last chunk and its end
    while data := file.read1(BLOCK):
        data = rest + data
        parts, at, size = [], 0, len(data)
        if due:
            parts.append(data[: max(0, due - 2)])
            at, due = min(due, size), max(0, due - size)
        while not due and (line := data.find(b"\r\n", at)) >= 0:
            length = int(data[at:line], 16)
            if not length:
                yield b"".join(parts)
                return
            at = line + 2 + length
            parts.append(data[line + 2 : at])
            at += 2
            due = at - size if at > size else 0
        rest = data[at:]
        yield b"".join(parts)
    raise EngineUnreachable("the daemon's answer was cut off")


@dataclass(slots=True)
class LineJoiner:
    """Gives one stream's messages back as the bytes that were written.

    A part of a long line is exactly :data:`PART` bytes long and has no newline. What follows it without a newline
    is the line's last part, whose newline the daemon dropped, or the output's end, which had none. Messages that
    come after tell them apart. At the end of the log nothing does: there ``lossy`` decides, which is true for
    daemons that drop newlines. So only one case can be wrong: with Docker before 23, output whose last line is
    longer than 16 KiB *and* has no newline gets one.
    """

    lossy: bool
    _inside: bool = False
    _owed: bool = False

    @property
    def plain(self) -> bool:
        """Whether a message that ends with a newline is added as it is, and changes nothing."""
        return not self._inside and not self._owed

    def join(self, data: bytes) -> bytes:
        """The bytes that this message adds."""
        before = b"\n" if self._owed else b""
        complete = data.endswith(b"\n")
        part = not complete and len(data) == PART
        self._owed = self._inside and not complete and not part
        self._inside = part
        return before + data

    def end(self) -> bytes:
        """The bytes still due when the container has ended."""
        owed, self._owed = self._owed, False
        return b"\n" if owed and self.lossy else b""


@dataclass(slots=True)
class Cursor:
    """Turns a log, read from its beginning, into chunks after ``given`` bytes of each stream.

    Attributes:
        last: the last message fed.
    """

    given: dict[Stream, int]
    lossy: bool
    last: Message | None = None
    _skip: dict[Stream, int] = field(init=False)
    _joiners: dict[Stream, LineJoiner] = field(init=False)
    _passed: int = 0
    _rest: bytes = b""

    def __post_init__(self) -> None:
        self._skip = dict(self.given)
        self._joiners = {stream: LineJoiner(self.lossy) for stream in STREAMS}

    def feed(self, body: bytes) -> Iterator[LogChunk]:
        """What the next bytes of a body with stamps add; half a frame is kept until the rest of it comes."""
        data = self._rest + body
        at = yield from self._frames(data)
        self._rest = data[at:]

    def _frames(self, data: bytes) -> Generator[LogChunk, None, int]:
        """Chunks of all whole frames, and as the result where they end.

        Raises:
            EngineError: the daemon says in a frame of its own what keeps it from reading.
        """
        at, size, last = 0, len(data), -1
        run, length, number, cell = list[bytes](), 0, 0, b""
        plain, joiner, begin, unpack = False, self._joiners["stdout"], 0, _HEADER.unpack_from
        while at + _HEAD <= size:
            kind, count = unpack(data, at)
            body = at + _HEAD
            end = body + count
            if end > size:
                break
            last, at = at, end
            text = body + _STAMP + 1
            usual = text <= end and data[text - 1] == _SPACE
            if not (usual and kind == number and data[body : body + _CELL] == cell and length < BLOCK):
                yield from self._flush(number, run, data[begin : begin + _STAMP])
                run, length, number, cell, begin = [], 0, kind, data[body : body + _CELL], body
                if kind not in _NAMES:
                    raise EngineError(f"the daemon's log: {data[body:end].decode('utf-8', 'replace').strip()}")
                if not usual:
                    number = 0
                    yield from self.take(message_of(_NAMES[kind], data[body:end]))
                    continue
                joiner = self._joiners[_NAMES[kind]]
                plain = joiner.plain
            if plain and data[end - 1] == _NEWLINE:
                run.append(data[text:end])
            else:
                run.append(joiner.join(data[text:end]))
                plain = joiner.plain
            length += end - text
        yield from self._flush(number, run, data[begin : begin + _STAMP])
        if last >= 0:
            self.last = message_of(_NAMES[data[last]], data[last + _HEAD : at])
        return at

    def _flush(self, number: int, run: list[bytes], stamp: bytes) -> Iterator[LogChunk]:
        if run:
            yield from self._give(_NAMES[number], b"".join(run), time_of(stamp))

    def take(self, message: Message) -> Iterator[LogChunk]:
        """The chunk that this message makes, if it is not among what was given before."""
        yield from self._give(message.stream, self._joiners[message.stream].join(message.data), time_of(message.stamp))

    def end(self, at: float) -> Iterator[LogChunk]:
        """What is due when the container, at that time, has ended.

        Raises:
            EngineError: the log is shorter than what was given of it before.
        """
        for stream in STREAMS:
            yield from self._give(stream, self._joiners[stream].end(), at)
        for stream, missing in self._skip.items():
            if missing:
                raise EngineError(f"the daemon's log of {stream} lacks {missing:,} bytes that it had before")

    def _give(self, stream: Stream, data: bytes, at: float) -> Iterator[LogChunk]:
        if skipped := min(self._skip[stream], len(data)):
            self._skip[stream] -= skipped
            self._passed += skipped
            data = data[skipped:]
        if data:
            self.given[stream] += len(data)
            yield LogChunk(stream, data, at)
        elif self._passed >= _SIGN_OF_LIFE:
            self._passed = 0
            yield LogChunk(stream, b"", at)


def message_of(stream: Stream, line: bytes) -> Message:
    """A message out of a frame's data, which begins with its stamp."""
    stamp, _, data = line.partition(b" ")
    return Message(stream, stamp, data)


def time_of(stamp: bytes) -> float:
    """Seconds since the epoch; 0 for the daemon's zero time."""
    return timestamp(stamp.decode("ascii")) or 0.0
