"""A WSGI server: heads, small bodies and slow clients on one event loop, the app on a few threads.

What it does that others don't: a request can be refused by its head, before its body or a ``100 Continue``; an answer
that waits for something, and a client that reads slowly, hold no thread; a client that leaves is noticed at once, also
while nothing is sent. Several servers may run in one process, each on a thread of its own.
"""

from __future__ import annotations

import asyncio
import json
import logging
import threading
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, BinaryIO

import uvloop

from localml.httpd.accept import Acceptor, listen
from localml.httpd.body import receive
from localml.httpd.connection import Client
from localml.httpd.environ import make_environ
from localml.httpd.exchange import Exchange, Seats, Stalled
from localml.httpd.request import BadRequest, Request
from localml.httpd.room import Room
from localml.httpd.turns import Turns
from localml.httpd.workers import Workers

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

log = logging.getLogger("localml.httpd")

MOST_CLIENTS = 4096
SWEEP = 5.0
"""Seconds between two looks at the connections' deadlines."""
MAX_BODY = 64 << 30
"""Largest request body; bodies are streamed, so this bounds the disk, not the memory."""
LOOK = 1.0
"""Seconds between two looks for those who left while nothing is read from them."""
WAITERS = 2
"""Threads that look for those who wait for something."""
STREAMERS = 6
"""Threads that read for answers which come bit by bit, two thirds of them for one user at most."""
SLOW = 8
"""Threads for what may take long, half of them for one user at most."""
TAKERS = 96
"""Threads at most that take in large bodies; each waits for its client most of the time."""
ROOM = "localml.room"
"""Key of the WSGI environment: how many connections this server has at a time."""
TOO_LARGE = "localml.too_large"
"""Key of the WSGI environment: the limit that the declared body is over, which is why it is refused."""


def too_large(_environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Answers a request whose declared body is longer than is taken."""
    body = json.dumps({"message": "the body is larger than this request may have"}).encode()
    start_response("413 Content Too Large", [("Content-Type", "application/json")])
    return [body]


class HttpServer:
    """Listens from the beginning, and answers once it is started.

    Args:
        app: the WSGI app. It may return what ``localml.httpd.held`` has.
        host, port: where to listen: at each address that the host's name has; port 0 takes a free one.
        threads: that the app may use; there are others for large bodies, slow work, streams and those who wait.
        limit: how many bytes of body this request may have, told from its environment; called on the event loop,
            so it must not block.
        refuse: the app that answers a request whose declared body is longer; it finds the limit under
            :data:`TOO_LARGE` and the body empty.
        most_clients: connections at a time, as far as the process may have so many; see :mod:`localml.httpd.room`.

    Raises:
        OSError: the port cannot be used.
    """

    def __init__(
        self,
        app: WSGIApplication,
        host: str = "127.0.0.1",
        port: int = 0,
        *,
        threads: int = 8,
        limit: Callable[[WSGIEnvironment], int] = lambda _: MAX_BODY,
        refuse: WSGIApplication = too_large,
        most_clients: int = MOST_CLIENTS,
    ) -> None:
        self._app, self._limit, self._refuse, self._most_clients = app, limit, refuse, most_clients
        self._sockets = listen(host, port)
        self.port = int(self._sockets[0].getsockname()[1])
        self._address = (host, self.port)
        self._workers = Workers(threads, "localml-worker")
        self._takers = Workers(TAKERS, "localml-taker")
        self._seats = Seats(
            Workers(WAITERS, "localml-waiter"),
            Turns(STREAMERS, STREAMERS * 2 // 3, "localml-streamer"),
            Turns(SLOW, SLOW // 2, "localml-slow"),
        )
        self._clients: Room  # made with the loop, when the process has the limits that it will have
        self._sweeper: asyncio.TimerHandle | None = None
        self._looker: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._started = threading.Event()
        self.closing = False
        self._grace = 0.0
        self._ending = asyncio.Event()
        self._all_left = asyncio.Event()

    # -- life --------------------------------------------------------------------------------------

    def start(self) -> None:
        """Answer requests, on a thread of its own.

        Raises:
            RuntimeError: the event loop cannot be had; the log says why.
        """
        self._thread = threading.Thread(target=self._run, name="localml-http", daemon=True)
        self._thread.start()
        self._started.wait()
        if not self._thread.is_alive():
            raise RuntimeError("the HTTP server could not be started")

    def close(self, grace: float = 3.0) -> None:
        """Stop listening, give the requests at hand ``grace`` seconds, and end. May be called without a start."""
        deadline = time.monotonic() + grace
        if self._thread is not None and self._loop is not None and self._thread.is_alive():
            self._grace = grace
            self._loop.call_soon_threadsafe(self._ending.set)
            self._thread.join(grace + 5.0)
        for one in self._sockets:
            one.close()
        for workers in (self._workers, self._takers, self._seats):
            workers.close(max(0.0, deadline - time.monotonic()))

    def _run(self) -> None:
        try:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(self._serve())
        except Exception:
            log.exception("the HTTP server has ended")
        finally:
            self._started.set()

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._clients = Room(self._most_clients, "the server")
        acceptor = Acceptor(self._sockets, lambda: Client(self), self._clients.short)
        self._started.set()
        await self._ending.wait()
        acceptor.close()
        await self._finish()
        for timer in (self._sweeper, self._looker):
            if timer is not None:
                timer.cancel()

    async def _finish(self) -> None:
        """Let what is under way come to its end, and cut what does not in time."""
        self.closing = True
        self._check_left()
        try:
            async with asyncio.timeout(self._grace):
                await self._all_left.wait()
        except TimeoutError:
            log.warning("%d requests are cut: they took too long to finish", self.busy)
        for client in self._clients:
            client.cut()
        if self._clients:
            self._all_left.clear()
            await self._all_left.wait()

    def _check_left(self) -> None:
        if not self.closing:
            return
        for client in self._clients:
            client.close_idle()
        if not self._clients:
            self._all_left.set()

    @property
    def busy(self) -> int:
        """Requests at hand."""
        return sum(client.busy for client in self._clients)

    # -- what clients ask of their owner ------------------------------------------------------------

    def arrived(self, client: Client) -> None:
        """A client has connected."""
        self._clients.enter(client)
        if self._sweeper is None:
            self._sweeper = client.loop.call_later(SWEEP, self._sweep)
        if self._looker is None:
            self._looker = client.loop.call_later(LOOK, self._look)

    def left(self, client: Client) -> None:
        """Its connection has ended."""
        self._clients.leave(client)
        self._check_left()

    def failure(self, status: int, code: str, message: str) -> bytes:
        """The body of an answer to what is no request."""
        return json.dumps({"message": message, "code": code}).encode()

    async def lead_in(self, client: Client) -> None:
        """HTTP/2 is not spoken here."""
        client.send(505, self.failure(505, "bad_request", "only HTTP/1.0 and HTTP/1.1 are served here"))
        client.transport.close()

    async def handle(self, request: Request, client: Client) -> None:
        """Answer one request."""
        environ = make_environ(request, client, self._address)
        environ[ROOM] = self._clients.most
        limit = self._limit(environ)
        app: WSGIApplication = self._app
        body: bytes | BinaryIO = b""
        try:
            if request.method == b"CONNECT":
                raise BadRequest("CONNECT is not served here", 405)
            if request.length is not None and request.length > limit:
                app = self._refuse
                environ[TOO_LARGE] = limit
            else:
                body = await receive(request, client, limit)
            # who sends much slowly holds a thread, but none of those that answer everybody else
            workers = self._workers if isinstance(body, bytes) else self._takers
            await Exchange(request, client, workers, self._seats).run(app, environ, body)
        except BadRequest as error:
            client.send(error.status, self.failure(error.status, "bad_request", str(error)))
        except Stalled as error:
            log.info("an answer is cut: %s", error)
            client.cut()
        finally:
            if self.closing:
                client.loop.call_soon(self._check_left)

    def _look(self) -> None:
        """See :meth:`Client.look`. Without connections nobody wakes up."""
        assert self._loop is not None
        self._looker = self._loop.call_later(LOOK, self._look) if self._clients else None
        for client in self._clients:
            client.look()

    def _sweep(self) -> None:
        """End connections whose deadline is over. Without connections nobody wakes up."""
        assert self._loop is not None
        self._sweeper = self._loop.call_later(SWEEP, self._sweep) if self._clients else None
        self._clients.sweep(self._loop.time())
