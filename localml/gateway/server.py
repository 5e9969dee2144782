"""The gateway's process: it listens, lets requests in, follows the table, and comes to an orderly end."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import socket
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from localml.core import descriptors
from localml.core.serving.gateway_stats import GatewayAddress, write_address
from localml.core.serving.routes_table import FORMAT, RouteTable, wake_folder
from localml.gateway import headers as heads
from localml.gateway.admission import NothingReady, Refused
from localml.gateway.exchange import Exchange
from localml.gateway.follow import Follower
from localml.gateway.health import Prober
from localml.gateway.listeners import Listeners
from localml.gateway.report import METRICS_TYPE, Report
from localml.gateway.routing import Endpoint, Place, Router
from localml.gateway.tfserving.door import Door, Unavailable
from localml.httpd.accept import Acceptor, listen
from localml.httpd.connection import Client
from localml.httpd.origin import FOREIGN_HOST, FOREIGN_PAGE, from_foreign_page, is_own_host, own_names
from localml.httpd.request import BadRequest, Request
from localml.httpd.room import Room

log = logging.getLogger("localml.gateway")

DRAIN = 30.0
"""Seconds that requests in flight get after SIGTERM."""
SWEEP = 5.0
"""Seconds between two looks at the connections' deadlines."""
LOOK = 1.0
"""Seconds between two looks for those who left while nothing is read from them."""
_GONE = 499  # what nginx counts for a client that went away; never sent


@dataclass(frozen=True, slots=True)
class Settings:
    """What a gateway is told. ``port`` 0 takes a free one. ``hosts`` are further names under which it may be called
    (Host header), beside addresses, localhost and the machine's own name."""

    data: Path
    host: str = "127.0.0.1"
    port: int = 0
    hosts: tuple[str, ...] = ()
    drain_s: float = DRAIN


class Gateway:
    """The parts, put together. Runs on the event loop that is current when :meth:`start` is called."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.router = Router(self._wake)
        self.report = Report(settings.data, self.router, lambda: len(self._clients))
        descriptors.raise_limit()
        self._clients = Room(_most_clients(), "the gateway")
        self._prober = Prober(self.router, self.report.changed)
        self._follower = Follower(settings.data, self._apply, self._table_error)
        self._tasks: list[asyncio.Task[None]] = []
        self._acceptor: Acceptor | None = None
        self._listeners = Listeners(settings.host, self._accept, self._port_error)
        self._door = Door(self.router)
        self._names = own_names(settings.host, settings.hosts)
        self.closing = False
        self._all_done = asyncio.Event()

    # -- life --------------------------------------------------------------------------------------

    async def start(self) -> int:
        """Read the table and listen; returns the port.

        Raises:
            OSError: the port cannot be used.
        """
        self._follower.start()
        await self._follower.look()
        loop = asyncio.get_running_loop()
        self._acceptor = self._accept(listen(self._settings.host, self._settings.port))
        port = self._acceptor.port
        self._door.open(_own_url(self._settings.host, port))
        self._tasks = [
            loop.create_task(run()) for run in (self._follower.run, self._listeners.run, self._sweep, self._look)
        ]
        write_address(
            self._settings.data, GatewayAddress(pid=os.getpid(), host=self._settings.host, port=port, format=FORMAT)
        )
        self.report.write()
        log.info("listening on %s:%d", self._settings.host, port)
        return port

    async def stop(self) -> None:
        """Take no more connections, let what is under way finish (at most ``drain_s`` seconds), and end.

        Connections that are kept open may still bring requests meanwhile; their answers ask the client to leave.
        """
        self.closing = True
        if self._acceptor is not None:
            self._acceptor.close()
        self._listeners.close()
        door = asyncio.get_running_loop().create_task(self._door.close(self._settings.drain_s))
        self._check_done()
        try:
            async with asyncio.timeout(self._settings.drain_s):
                await self._all_done.wait()
        except TimeoutError:
            log.warning("%d requests are cut: they took too long to finish", self._busy())
        for client in self._clients:
            client.cut()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(door, *self._tasks, return_exceptions=True)
        await self._prober.close()
        self._follower.close()
        self.report.close()

    def _accept(self, sockets: list[socket.socket], only: str = "") -> Acceptor:
        return Acceptor(sockets, lambda: Client(self, only), self._clients.short)

    def _busy(self) -> int:
        return sum(client.busy for client in self._clients)

    def _check_done(self) -> None:
        """While closing: once no request is under way, end the connections; done is when all have sent the rest."""
        if not self.closing:
            return
        if not self._busy():
            for client in self._clients:
                client.close_idle()
        if not self._clients:
            self._all_done.set()

    def arrived(self, client: Client) -> None:
        """A client has connected."""
        self._clients.enter(client)
        self.report.changed()

    def left(self, client: Client) -> None:
        """A client's connection has ended."""
        self._clients.leave(client)
        self.report.changed()
        self._check_done()

    async def _sweep(self) -> None:
        """End connections whose deadline is over."""
        while True:
            await asyncio.sleep(SWEEP)
            self._clients.sweep(asyncio.get_running_loop().time())

    async def _look(self) -> None:
        """End connections of clients that left; see :meth:`Client.look`."""
        while True:
            await asyncio.sleep(LOOK)
            for client in self._clients:
                client.look()

    async def _apply(self, table: RouteTable) -> None:
        self.router.apply(table)
        self._prober.update()
        self._listeners.want({one.port: one.name for one in table.endpoints if one.port is not None})
        log.info("route table %d: %d endpoints", table.generation, len(table.endpoints))
        self.report.write()  # at once: the control plane waits for the generation before it stops replicas

    def _table_error(self, error: str | None) -> None:
        if error != self.report.table_error:
            self.report.table_error = error
            self.report.write()

    def _port_error(self, error: str | None) -> None:
        self.report.port_error = error
        self.report.write()

    def _wake(self, name: str, hint: str) -> None:
        asyncio.get_running_loop().run_in_executor(None, _write_wake, wake_folder(self._settings.data), name, hint)

    # -- requests ----------------------------------------------------------------------------------

    async def handle(self, request: Request, client: Client) -> None:
        """Answer one request."""
        endpoint: Endpoint | None = None
        try:
            path, query = _split(request.target)
            host = request.first.get(b"host", b"").decode("latin-1")
            if not is_own_host(host, self._names, client.local_address):
                raise Refused(403, "wrong_host", FOREIGN_HOST)
            place = self.router.match(path, client.only)
            if place is None:
                self._own_page(path, request, client)
                return
            endpoint, token = place.endpoint, _token(request)
            if not endpoint.admits(token):
                raise self._missing(path, token)
            _refuse_pages(request, host, endpoint)
            rest = path[len(place.prefix) :]
            if not rest and not place.target:
                rest = "/"
            hides = endpoint.closed or any(map(self.router.knows, _tokens(request)))
            with endpoint.inside(client, token):
                await self._serve(request, client, place, (rest + query).encode("latin-1"), hides=hides)
        except Refused as refused:
            if endpoint is not None:
                endpoint.refused[refused.code] = endpoint.refused.get(refused.code, 0) + 1
            _answer_refused(client, refused)
        except BadRequest as error:
            client.send(error.status, heads.failure_body(error.status, "bad_request", str(error)))
        finally:
            self.report.changed()
            if self.closing:
                asyncio.get_running_loop().call_soon(self._check_done)

    def failure(self, status: int, code: str, message: str) -> bytes:
        """The body of an answer to what is no request."""
        return heads.failure_body(status, code, message)

    async def lead_in(self, client: Client) -> None:
        """Serve a client that speaks HTTP/2."""
        try:
            await self._door.lead_in(client, client.only)
        except Unavailable as error:  # in HTTP/1: gRPC's clients tell its status, and give up at once
            client.send(501, heads.failure_body(501, "no_grpc", str(error)))
            client.transport.close()
        finally:
            asyncio.get_running_loop().call_soon(self._check_done)

    async def _serve(self, request: Request, client: Client, place: Place, path: bytes, *, hides: bool) -> None:
        endpoint = place.endpoint
        forced = request.first.get(heads.VARIANT)
        name = forced.decode("latin-1") if forced is not None else None
        if name is not None and name not in endpoint.variants:
            known = ", ".join(endpoint.variants) or "none"
            raise Refused(400, "no_variant", f"X-Localml-Variant: there is no variant {name!r}; there are: {known}")
        variant = name or endpoint.of_version(place.target.encode() + path)
        exchange = Exchange(request, client, place, path, variant, hides=hides)
        endpoint.last_request_at = time.time()
        self.report.changed()
        while True:
            if not endpoint.gate.try_enter():
                with client.staying():
                    await endpoint.gate.enter()
            try:
                return await self._run(exchange, request, client)
            except NothingReady:  # the last replica went while the request's body came
                if endpoint.routable or not endpoint.route.scale_to_zero:
                    raise
                self.report.changed()
            finally:
                endpoint.gate.leave()

    async def _run(self, exchange: Exchange, request: Request, client: Client) -> None:
        """Run an exchange and count it; what a replica was asked for is the variant's, not the endpoint's."""
        try:
            with nullcontext() if request.websocket else client.staying():
                await exchange.run()
        except Refused as refused:
            if exchange.variant is None:
                raise
            exchange.status, exchange.error = refused.status, exchange.error or refused.code
            _answer_refused(client, refused, b"%b: %b\r\n" % (heads.VARIANT, exchange.variant.name.encode()))
        except BadRequest as error:
            exchange.status, exchange.error = error.status, "client_gone" if client.lost else "bad_request"
            raise
        except asyncio.CancelledError:
            exchange.status, exchange.error = _GONE, "client_gone"
            raise
        finally:
            if exchange.variant is not None:
                seconds = time.monotonic() - request.started_at
                exchange.variant.counts.record(exchange.status, exchange.error, seconds)

    def _own_page(self, path: str, request: Request, client: Client) -> None:
        if path == "/healthz":
            page = {"status": "closing" if self.closing else "ok", "generation": self.router.generation}
            client.send(200, json.dumps(page).encode())
        elif path == "/metrics":
            if not self.router.may_read(_token(request)):
                raise Refused(401, "unauthenticated", "what is counted here is told to a token of an administrator")
            client.send(200, self.report.metrics(), kind=METRICS_TYPE)
        else:
            self.report.unrouted += 1
            raise self._missing(path, _token(request))

    def _missing(self, path: str, token: bytes | None) -> Refused:
        """What is served to others only is answered as what is not served at all."""
        if self.router.tells(token):
            return Refused(404, "not_found", f"no endpoint is served at {path}")
        return Refused(401, "unauthenticated", f"no endpoint is served at {path} without a token that is valid for it")


def _own_url(host: str, port: int) -> str:
    """Where this process reaches the gateway that listens on ``host``."""
    own = {"0.0.0.0": "127.0.0.1", "": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{own}]:{port}" if ":" in own else f"http://{own}:{port}"


def _split(target: bytes) -> tuple[str, str]:
    """(path, query with its question mark) of a request's target."""
    text = target.decode("latin-1")
    path, mark, query = text.partition("?")
    return path, mark + query


def _refuse_pages(request: Request, host: str, endpoint: Endpoint) -> None:
    """An endpoint that wants no token is for whoever is on this machine, but not for each page that is shown there."""
    origin, site = (request.first.get(name) for name in (b"origin", b"sec-fetch-site"))
    if (origin is None and site is None) or (endpoint.route.token_hashes is not None and not request.websocket):
        return
    method = "POST" if request.websocket else request.method.decode("latin-1")
    words = [None if one is None else one.decode("latin-1") for one in (origin, site)]
    if from_foreign_page(method, host, *words):
        raise Refused(403, "foreign_page", FOREIGN_PAGE)


def _tokens(request: Request) -> list[bytes]:
    return heads.tokens_of(*(request.first.get(name.encode()) for name in heads.TOKEN_HEADERS))


def _token(request: Request) -> bytes | None:
    return next(iter(_tokens(request)), None)


def _answer_refused(client: Client, refused: Refused, lines: bytes = b"") -> None:
    if refused.retry_after is not None:
        lines += b"retry-after: %d\r\n" % refused.retry_after
    if refused.status == 401:
        lines += b'www-authenticate: Bearer realm="localml"\r\n'
    if client.head_sent:
        client.cut()
    else:
        client.send(refused.status, heads.failure_body(refused.status, refused.code, refused.message), lines)


def _write_wake(folder: Path, name: str, hint: str) -> None:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        (folder / name).write_text(hint)
    except OSError as error:
        log.error("the wake file of %s cannot be written: %s", name, error)


def _most_clients() -> int:
    """Each request holds two connections, and kept ones wait on both sides."""
    return max(64, descriptors.for_clients() // 2)


async def serve(settings: Settings, ready: Callable[[int], None] = lambda port: None) -> None:
    """Run a gateway until SIGTERM or SIGINT. ``ready`` is told the port once requests are answered."""
    gateway = Gateway(settings)
    ending = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ending.set)
    ready(await gateway.start())
    await ending.wait()
    log.info("ending: finishing requests in flight")
    await gateway.stop()
