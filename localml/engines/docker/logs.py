"""A container's output as the bytes that it wrote, out of the daemon's log.

What the daemon gives and what is done about it (each was seen with Docker 20.10; 23 and later are better, and are
read in the same way):

* Its messages are lines without their end; lines longer than 16 KiB come in parts. 20.10 then loses the newline
  after the last part. :class:`LineJoiner` puts it back.
* Following often stops short of the last lines when the container ends. :meth:`LogStream._missed` fetches these.
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, field
from urllib.parse import quote

import requests
from docker.errors import NotFound
from docker.types import CancellableStream

from localml.engines.base import STREAMS, EngineUnreachable, LogChunk, Phase, Stream
from localml.engines.docker.containers import timestamp
from localml.engines.docker.daemon import Daemon, engine_errors

PART = 16 * 1024
"""Bytes in each part of a long line but the last."""

_WINDOW = 500  # messages looked at for the end of a log that following cut short
_PAUSE = 0.1  # seconds until a stream that broke off is opened again

_READ = 64 * 1024  # bytes asked for at a time

_HEADER = struct.Struct(">BxxxL")
_NAMES: dict[int, Stream] = {1: "stdout", 2: "stderr"}


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
    while len(header := read(_HEADER.size)) == _HEADER.size:
        number, size = _HEADER.unpack(header)
        data = read(size)
        if len(data) < size:
            return
        if number in _NAMES:
            yield _NAMES[number], data


class _Buffered:
    """Reads exact numbers of bytes from a response, asking it as seldom as possible without waiting for more."""

    def __init__(self, response: requests.Response) -> None:
        self._raw = response.raw
        self._data = b""
        self._at = 0

    def read(self, size: int) -> bytes:
        while len(self._data) - self._at < size:
            more = self._raw.read1(_READ)
            if not more:
                size = len(self._data) - self._at
                break
            self._data = self._data[self._at :] + more
            self._at = 0
        piece = self._data[self._at : self._at + size]
        self._at += size
        return piece


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
    """Turns messages, read from the log's beginning, into chunks after ``given`` bytes of each stream."""

    given: dict[Stream, int]
    lossy: bool
    _skip: dict[Stream, int] = field(init=False)
    _joiners: dict[Stream, LineJoiner] = field(init=False)

    def __post_init__(self) -> None:
        self._skip = dict(self.given)
        self._joiners = {stream: LineJoiner(self.lossy) for stream in STREAMS}

    def take(self, message: Message) -> Iterator[LogChunk]:
        """The chunk that this message makes, if it is not among what was given before."""
        data = self._joiners[message.stream].join(message.data)
        at = timestamp(message.stamp.decode("ascii")) or 0.0
        return self._give(message.stream, data, at)

    def end(self, at: float) -> Iterator[LogChunk]:
        """What is due when the container, at that time, has ended."""
        for stream in STREAMS:
            yield from self._give(stream, self._joiners[stream].end(), at)

    def _give(self, stream: Stream, data: bytes, at: float) -> Iterator[LogChunk]:
        skipped = min(self._skip[stream], len(data))
        self._skip[stream] -= skipped
        if data := data[skipped:]:
            self.given[stream] += len(data)
            yield LogChunk(stream, data, at)


class LogStream(Iterator[LogChunk]):
    """One reading of a container's log; :meth:`close` may be called from another thread and ends it.

    Args:
        ended_at: when the container ended, if it is known that it has: there is nothing to follow then.
    """

    def __init__(
        self,
        daemon: Daemon,
        name: str,
        since: Mapping[Stream, int],
        *,
        follow: bool,
        ended_at: float | None = None,
    ) -> None:
        self._daemon = daemon
        self._path = f"/containers/{quote(name, safe='')}"
        self._name = name
        self._given: dict[Stream, int] = {stream: since.get(stream, 0) for stream in STREAMS}
        self._last: Message | None = None
        self._closed = threading.Event()
        self._lock = threading.Lock()
        self._response: requests.Response | None = None
        self._ended_at = ended_at
        self._chunks = self._follow() if follow and ended_at is None else self._read_once()

    def __next__(self) -> LogChunk:
        if self._closed.is_set():
            raise StopIteration
        try:
            return next(self._chunks)
        except (EngineUnreachable, AttributeError, ValueError):
            # closing is what broke the connection; the client may also stumble over what was taken from under it
            if self._closed.is_set():
                raise StopIteration from None
            raise

    def close(self) -> None:
        """End the reading, also one that waits for output at this moment."""
        self._closed.set()
        with self._lock:
            response, self._response = self._response, None
        if response is not None:
            # A mere close() waits for the reader; shutting the socket down, as the SDK does it, wakes it.
            with suppress(OSError, AttributeError):
                CancellableStream(iter(()), response).close()
            response.close()

    def _follow(self) -> Iterator[LogChunk]:
        while not self._closed.is_set():
            cursor = self._cursor()
            for message in self._messages(follow=True):
                self._last = message
                yield from cursor.take(message)
            phase, ended_at = self._state()
            if phase is Phase.GONE or self._closed.is_set():
                return
            if phase is Phase.EXITED:
                yield from self._missed(cursor, ended_at)
                return
            self._closed.wait(_PAUSE)  # not started yet, or the daemon let go of us: begin again

    def _read_once(self) -> Iterator[LogChunk]:
        # before reading: what has ended then writes no more
        phase, ended_at = self._state() if self._ended_at is None else (Phase.EXITED, self._ended_at)
        cursor = self._cursor()
        for message in self._messages(follow=False):
            yield from cursor.take(message)
        if phase is Phase.EXITED:
            yield from cursor.end(ended_at)

    def _missed(self, cursor: Cursor, ended_at: float) -> Iterator[LogChunk]:
        """What following did not give of an ended container's log.

        The last messages are enough if the last one given is found among them, once, or if none was given and there
        are no others; if not, all are read again.
        """
        window = list(self._messages(follow=False, tail=str(_WINDOW)))
        places = [at for at, message in enumerate(window) if message == self._last]
        if len(places) == 1:
            rest: Iterable[Message] = window[places[0] + 1 :]
        elif self._last is None and len(window) < _WINDOW:
            rest = window
        else:
            cursor, rest = self._cursor(), self._messages(follow=False)
        for message in rest:
            yield from cursor.take(message)
        yield from cursor.end(ended_at)

    def _cursor(self) -> Cursor:
        with engine_errors():
            version = str(self._daemon.info()["ServerVersion"])
        major = version.partition(".")[0]
        return Cursor(self._given, lossy=major.isdigit() and int(major) < 23)

    def _state(self) -> tuple[Phase, float]:
        with engine_errors():
            try:
                state = self._daemon.api.inspect_container(self._name)["State"]
            except NotFound:
                return Phase.GONE, 0.0
        if state["Status"] == "created":
            return Phase.CREATED, 0.0
        ended = state["Status"] not in ("running", "paused", "restarting")
        return (Phase.EXITED if ended else Phase.RUNNING), timestamp(state["FinishedAt"]) or 0.0

    def _messages(self, *, follow: bool, tail: str = "all") -> Iterator[Message]:
        """The log's messages in the order in which they were written; none for a container that is gone."""
        params = {"stdout": 1, "stderr": 1, "timestamps": 1, "follow": int(follow), "tail": tail}
        with engine_errors():
            try:
                response = self._daemon.stream(f"{self._path}/logs", params, timeout=None if follow else 60)
            except NotFound:
                if self._state()[0] is Phase.GONE:
                    return
                raise EngineUnreachable(f"the daemon does not find the log of {self._name}, which is there") from None
            with closing(response):
                with self._lock:
                    self._response = response
                    if self._closed.is_set():
                        return
                for stream, line in read_frames(_Buffered(response).read):
                    stamp, _, data = line.partition(b" ")
                    yield Message(stream, stamp, data)
