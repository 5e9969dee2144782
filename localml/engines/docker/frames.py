"""The bytes that a container wrote, out of the bytes that the daemon sends of its log.

Much output is read here, so nothing is done per line that can be done per block: a block of one stream's lines, written
within ten milliseconds, becomes one chunk with one time.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from localml.engines.base import STREAMS, EngineError, EngineUnreachable, LogChunk, Stream
from localml.engines.docker.containers import timestamp

PART = 16 * 1024
"""Bytes in each part of a long line but the last."""

BLOCK = 1 << 16
"""Bytes read at a time; also the least at which a chunk is given, should no other reason come before."""
_SIGN_OF_LIFE = 16 << 10
"""Bytes passed over until an empty chunk says that reading goes on: a daemon that has little of the processor may need
seconds for so much in short lines, and whoever gives up in between begins again at the log's beginning."""

_HEADER = struct.Struct(">BxxxL")
_HEAD = _HEADER.size
_NAMES: dict[int, Stream] = {1: "stdout", 2: "stderr"}
_STAMP = len("2026-01-01T00:00:00.000000000Z")
_CELL = len("2026-01-01T00:00:00.00")
"""Stamps that are alike up to here lie less than ten milliseconds apart."""
_NEVER = -(1 << 60)
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


def dechunked(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """The body of an answer in HTTP's chunks, of which the daemon makes one a line; as much at once as there is.

    Raises:
        EngineUnreachable: it was cut off.
    """
    rest, due = b"", 0  # what is not taken yet; bytes that are missing of the last chunk and its end
    for piece in pieces:
        data = rest + piece
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


class Place(NamedTuple):
    """Behind a message of the log: the ``nth`` of those in a row that have this stamp. Before the first one if 0."""

    stamp: bytes
    nth: int


@dataclass(slots=True)
class Cursor:
    """Turns a log, read from its beginning or from a place, into chunks after ``given`` bytes of each stream.

    Attributes:
        last: the last message fed.
        place: where that is; kept only by those who ``count``.
        seeking: messages up to this place, and this one, are passed over.
    """

    given: dict[Stream, int]
    lossy: bool
    count: bool = False
    last: Message | None = None
    place: Place | None = None
    seeking: Place | None = None
    _skip: dict[Stream, int] = field(init=False)
    _joiners: dict[Stream, LineJoiner] = field(init=False)
    _passed: int = 0
    _found: int = 0
    _rest: bytes = b""

    def __post_init__(self) -> None:
        self._skip = dict(self.given)
        self._joiners = {stream: LineJoiner(self.lossy) for stream in STREAMS}

    def feed(self, body: bytes) -> Iterator[LogChunk]:
        """What the next bytes of a body with stamps add; half a frame is kept until the rest of it comes."""
        data = self._rest + body
        if self.seeking is not None:
            data = data[self._pass_over(data, self.seeking) :]
        if self.seeking is None:
            at = yield from self._frames(data)
            data = data[at:]
        self._rest = data

    def begin(self, place: Place | None, *, whole: bool) -> None:
        """Another reading of the log begins; what is behind a place is new. Unless it is read as a ``whole``, messages
        with the stamp of the first one are not counted: there may be more of them."""
        self.seeking, self._found, self._rest = place, 0 if whole else _NEVER, b""

    def at(self, place: Place, sizes: Mapping[Stream, int]) -> None:
        """A place behind which a stream's bytes begin at that of ``sizes``."""
        self.place = place
        self._skip = {stream: max(0, self.given[stream] - sizes[stream]) for stream in STREAMS}

    def broken(self) -> None:
        """What comes next does not go on where the last message ended."""
        self.__post_init__()
        self._skip = dict.fromkeys(STREAMS, 0)
        self.place = None

    @property
    def plain(self) -> bool:
        """Whether all that is to be known of what was read are its place and its sizes."""
        return not any(self._skip.values()) and all(joiner.plain for joiner in self._joiners.values())

    def _pass_over(self, data: bytes, place: Place) -> int:
        """Where the frames end that lie before a place or at it."""
        upto = 0
        for stamp, begin, end in _stamps(data):
            same = stamp == place.stamp
            if same and not place.nth and not self._found:
                self.seeking = None
                break
            upto, self._found = end, self._found + 1 if same else 0
            if same and self._found == place.nth:
                self.seeking = None
                self.last = message_of(_NAMES[data[begin]], data[begin + _HEAD : end])
                break
        return upto

    def _note_place(self, data: bytes) -> None:
        """Keep where the last message is, given all frames that came since it was noted."""
        stamp, nth = self.place or (b"", 0)
        for found, _, _ in _stamps(data):
            stamp, nth = found, nth + 1 if found == stamp else 1
        self.place = Place(stamp, nth) if nth else None

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
            if self.count:
                self._note_place(data[:at])
        return at

    def _flush(self, number: int, run: list[bytes], stamp: bytes) -> Iterator[LogChunk]:
        if run:
            yield from self._give(_NAMES[number], b"".join(run), time_of(stamp))

    def take(self, message: Message) -> Iterator[LogChunk]:
        """The chunk that this message makes, if it is not among what was given before."""
        yield from self._give(message.stream, self._joiners[message.stream].join(message.data), time_of(message.stamp))

    def early(self, stream: Stream, data: bytes, at: float) -> LogChunk:
        """Bytes that lie behind those given, before the log has them; they are passed over when it has."""
        self.given[stream] += len(data)
        self._skip[stream] += len(data)
        return LogChunk(stream, data, at)

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


def first_stamp(body: bytes) -> bytes:
    """The stamp of the first message; empty while that is not whole."""
    return next((stamp for stamp, _, _ in _stamps(body)), b"")


def _stamps(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Of each whole frame its stamp, and where it begins and ends."""
    at, size = 0, len(data)
    while at + _HEAD <= size and (end := at + _HEAD + _HEADER.unpack_from(data, at)[1]) <= size:
        yield data[at + _HEAD : end].split(b" ", 1)[0], at, end
        at = end


def message_of(stream: Stream, line: bytes) -> Message:
    """A message out of a frame's data, which begins with its stamp."""
    stamp, _, data = line.partition(b" ")
    return Message(stream, stamp, data)


def time_of(stamp: bytes) -> float:
    """Seconds since the epoch; 0 for the daemon's zero time."""
    return timestamp(stamp.decode("ascii")) or 0.0
