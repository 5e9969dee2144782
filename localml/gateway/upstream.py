"""The replicas' side: HTTP/1.1 requests over kept connections."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import urlsplit

import httptools

from localml.httpd.headers import Header
from localml.httpd.wire import Incoming, Wire

CONNECT_TIMEOUT = 2.0
KEEP = 4.0
"""Seconds that an unused connection is kept: less than any common server does (uvicorn and Node: 5), so that a
request seldom meets a connection that the replica is closing."""
MAX_ANSWER_HEAD = 256 * 1024


class Unreachable(Exception):
    """No connection came about, so the replica saw nothing of the request."""


class Broken(Exception):
    """The connection ended, or gave no HTTP, before the answer was complete."""


@dataclass(slots=True)
class Answer:
    """A replica's answer: its head, and its body as it arrives. ``length`` is None where it was not declared, -1 where
    there is no body."""

    status: int
    headers: list[Header]
    first: dict[bytes, bytes]
    body: Incoming
    length: int | None


class Connection(Wire):
    """One connection to a replica; carries one request at a time."""

    def __init__(self, forget: Callable[[Connection], None]) -> None:
        super().__init__()
        self._forget = forget
        self._parser = httptools.HttpResponseParser(self)
        self._head: asyncio.Future[Answer] | None = None
        self._answer: Answer | None = None
        self._without_body = False
        self._keep_alive = False
        self._complete = True
        self._to_end = False  # the body lasts until the connection ends
        self.idle_since = 0.0
        """Loop time at which it was last given back; 0 as long as it carries its first request."""
        self._reset()

    def _reset(self) -> None:
        self._headers: list[Header] = []
        self._first: dict[bytes, bytes] = {}
        self._bytes = 0

    def begin(self, *, without_body: bool) -> asyncio.Future[Answer]:
        """A request is about to be written; the future gets its answer, or :class:`Broken`.

        Args:
            without_body: the answer has no body whatever it declares (HEAD).
        """
        self._reset()
        self._answer = None
        self._complete = False
        self._without_body = without_body
        self._head = self.loop.create_future()
        return self._head

    @property
    def reusable(self) -> bool:
        """The last answer is complete and the replica keeps the connection."""
        return self._complete and self._keep_alive and not self.lost and not self.transport.is_closing()

    @property
    def stale(self) -> bool:
        """It was kept from an earlier request and ended without a byte of an answer to this one: most likely the
        replica had closed it before the request came."""
        return self.idle_since > 0 and self._bytes == 0

    def close_after(self) -> None:
        """This connection can carry no further request: not all of this one went out."""
        self._keep_alive = False

    def data_received(self, data: bytes) -> None:
        if self.tunnel is not None:
            self.tunnel.feed(data)
            return
        if self._complete:
            self.transport.close()  # nobody asked for this
            return
        self._bytes += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self.tunnel = Incoming(self)
            rest = data[upgrade.args[0] :]
            if rest:
                self.tunnel.feed(rest)
        except httptools.HttpParserError as error:
            self._fail(Broken(f"it did not answer with valid HTTP: {error}"))
            self.transport.abort()
            return
        self._publish(data)

    def _publish(self, data: bytes) -> None:
        """Wake who waits for the head only now, when what came with it of the body is there too."""
        if self._head is None or self._head.done():
            return
        if self._answer is not None:
            self._head.set_result(self._answer)
        elif self._bytes > MAX_ANSWER_HEAD:
            self._fail(Broken("the head of its answer is too long"))
            self.transport.abort()

    def connection_lost(self, error: Exception | None) -> None:
        super().connection_lost(error)
        self._forget(self)
        if self._answer is not None and self._to_end and error is None:
            self._complete = True
            self._answer.body.finish()
        elif not self._complete:
            self._fail(Broken(f"it closed the connection{f' ({error})' if error else ''}"))

    def _fail(self, error: Broken) -> None:
        if self._answer is not None:
            self._answer.body.fail(error)
        if self._head is not None and not self._head.done():
            self._head.set_exception(error)
            self._head.exception()  # nobody may be waiting any more

    # -- the parser's callbacks --------------------------------------------------------------------

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._answer is None:
            lowered = name.lower()
            self._headers.append((lowered, name, value))
            self._first.setdefault(lowered, value)

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if status < 200 and status != 101:
            return  # a remark before the answer
        first = self._first
        body = Incoming(self)
        length: int | None = None
        if self._without_body or status in (101, 204, 304):
            length = -1
        elif b"transfer-encoding" not in first and b"content-length" in first:
            length = int(first[b"content-length"])
        self._to_end = length is None and b"chunked" not in first.get(b"transfer-encoding", b"").lower()
        self._keep_alive = self._parser.should_keep_alive() and not self._to_end and status != 101
        self._answer = Answer(status, self._headers, first, body, length)
        if self._without_body:
            # the parser would wait for the body that the head declares, so it can't be used again
            self._keep_alive = False
            self._end()

    def on_body(self, data: bytes) -> None:
        if self._answer is not None and not self._complete:
            self._answer.body.feed(data)

    def on_message_complete(self) -> None:
        if self._answer is None:
            self._reset()
        elif not self._complete:
            self._end()

    def _end(self) -> None:
        assert self._answer is not None
        self._complete = True
        self._answer.body.finish()


class Pool:
    """Kept connections to one replica, the latest used first."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self.origin = url.encode()
        self.netloc = parts.netloc.encode()
        self._host, self._port = parts.hostname or "", parts.port or 80
        self._idle: deque[Connection] = deque()
        self._sweep: asyncio.TimerHandle | None = None
        self.retired = False

    async def acquire(self) -> Connection:
        """A connection, kept or new.

        Raises:
            Unreachable: the replica does not take connections.
        """
        while self._idle:
            connection = self._idle.pop()
            if connection.reusable:
                return connection
            connection.transport.close()
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT):
                _, connection = await loop.create_connection(lambda: Connection(self._forget), self._host, self._port)
        except TimeoutError:
            raise Unreachable(f"{self._host}:{self._port} took no connection in {CONNECT_TIMEOUT:g} s") from None
        except OSError as error:
            raise Unreachable(f"{self._host}:{self._port} takes no connection: {error.strerror or error}") from error
        return connection

    def give_back(self, connection: Connection) -> None:
        """Keep the connection if it can carry another request, else end it."""
        if self.retired or not connection.reusable:
            if not connection.lost:
                connection.transport.abort()
            return
        connection.idle_since = connection.loop.time()
        self._idle.append(connection)
        if self._sweep is None:
            self._sweep = connection.loop.call_later(KEEP, self._expire)

    def _expire(self) -> None:
        self._sweep = None
        loop = asyncio.get_running_loop()
        while self._idle and self._idle[0].idle_since + KEEP <= loop.time() + 0.01:
            self._idle.popleft().transport.close()
        if self._idle:
            self._sweep = loop.call_at(self._idle[0].idle_since + KEEP, self._expire)

    def _forget(self, connection: Connection) -> None:
        if connection.idle_since:
            try:
                self._idle.remove(connection)
            except ValueError:
                pass  # it is in use

    def retire(self) -> None:
        """The replica left the table: keep nothing; what is in use ends with its request."""
        self.retired = True
        if self._sweep is not None:
            self._sweep.cancel()
            self._sweep = None
        self.drop_idle()

    def drop_idle(self) -> None:
        """Keep none of the unused connections."""
        while self._idle:
            self._idle.popleft().transport.close()
