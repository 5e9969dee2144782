"""A container's output as the bytes that it wrote, out of the daemon's log.

What the daemon gives and what is done about it (each was seen with Docker 20.10; 23 and later are better, and are
read in the same way):

* Its messages are lines without their end; lines longer than 16 KiB come in parts. 20.10 then loses the newline
  after the last part. :class:`localml.engines.docker.frames.LineJoiner` puts it back.
* Following often stops short of the last lines when the container ends. :meth:`LogStream._missed` fetches these.
"""

from __future__ import annotations

import io
import select
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, suppress
from functools import partial
from typing import Any
from urllib.parse import quote

import requests
from docker.errors import NotFound
from docker.types import CancellableStream

from localml.engines.base import STREAMS, EngineUnreachable, LogChunk, Phase, Stream
from localml.engines.docker.containers import timestamp
from localml.engines.docker.daemon import Daemon, engine_errors
from localml.engines.docker.frames import BLOCK, Cursor, dechunked, message_of, read_frames
from localml.engines.docker.live import Live

_WINDOW = 500  # messages looked at for the end of a log that following cut short
_IDLE_S = 0.4  # silence of the log after which what it does not have yet is given
_PAUSE = 0.1  # seconds until a stream that broke off is opened again


class LogStream(Iterator[LogChunk]):
    """One reading of a container's log; :meth:`close` may be called from another thread and ends it.

    Args:
        ended_at: when the container ended, if it is known that it has: there is nothing to follow then.
        live: what it writes, where that is known before the log has it.
    """

    def __init__(
        self,
        daemon: Daemon,
        name: str,
        since: Mapping[Stream, int],
        *,
        follow: bool,
        ended_at: float | None = None,
        live: Live | None = None,
    ) -> None:
        self._daemon = daemon
        self._path = f"/containers/{quote(name, safe='')}"
        self._name = name
        self._given: dict[Stream, int] = {stream: since.get(stream, 0) for stream in STREAMS}
        self._closed = threading.Event()
        self._lock = threading.Lock()
        self._response: requests.Response | None = None
        self._ended_at = ended_at
        self._live = live
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
            for body in self._bodies(follow=True):
                yield from cursor.feed(body) if body else self._early(cursor)
            phase, ended_at = self._state()
            if phase is Phase.GONE or self._closed.is_set():
                return
            if phase is Phase.EXITED:
                yield from self._missed(cursor, ended_at)
                return
            self._closed.wait(_PAUSE)  # not started yet, or the daemon let go of us: begin again

    def _early(self, cursor: Cursor) -> Iterator[LogChunk]:
        """What the container wrote behind the end of its log."""
        for stream in STREAMS:
            if self._live is not None and (data := self._live.after(stream, cursor.given[stream])):
                yield cursor.early(stream, data, time.time())

    def _read_once(self) -> Iterator[LogChunk]:
        # before reading: what has ended then writes no more
        phase, ended_at = self._state() if self._ended_at is None else (Phase.EXITED, self._ended_at)
        cursor = self._cursor()
        for body in self._bodies(follow=False):
            yield from cursor.feed(body)
        if phase is Phase.EXITED:
            yield from cursor.end(ended_at)

    def _missed(self, cursor: Cursor, ended_at: float) -> Iterator[LogChunk]:
        """What following did not give of an ended container's log.

        The last messages are enough if the last one given is found among them, once, or if none was given and there
        are no others; if not, all are read again.
        """
        body = io.BytesIO(b"".join(self._bodies(follow=False, tail=str(_WINDOW))))
        window = [message_of(stream, line) for stream, line in read_frames(body.read)]
        places = [at for at, message in enumerate(window) if message == cursor.last]
        if len(places) == 1:
            rest = window[places[0] + 1 :]
        elif cursor.last is None and len(window) < _WINDOW:
            rest = window
        else:
            cursor, rest = self._cursor(), []
            for again in self._bodies(follow=False):
                yield from cursor.feed(again)
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

    def _bodies(self, *, follow: bool, tail: str = "all") -> Iterator[bytes]:
        """The log's frames, with stamps, in pieces as they come; none for a container that is gone."""
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
                yield from _body(response, patient=self._live is None or not follow)


def _body(response: requests.Response, *, patient: bool) -> Iterator[bytes]:
    """The body in pieces as large as there is something to be had at a time; if not ``patient`` an empty one now and
    then while there is nothing.

    The client's own reading takes one chunk of HTTP's, which is one line, at a time.
    """
    file: Any = response.raw._fp.fp  # type: ignore[union-attr]
    pieces = iter(partial(file.read1, BLOCK), b"") if patient else _impatient(file, file.raw._sock)
    return dechunked(pieces) if response.raw.chunked else pieces


def _impatient(file: Any, connection: socket.socket) -> Iterator[bytes]:
    connection.setblocking(False)
    there = bool(file.peek(1))  # what came together with the head is in the buffer, and not to be waited for
    connection.setblocking(True)
    waiting = select.poll()
    waiting.register(connection, select.POLLIN)
    while True:
        if not there and not waiting.poll(_IDLE_S * 1000):
            yield b""
            continue
        there = False
        if not (piece := file.read1(BLOCK)):
            return
        yield piece
