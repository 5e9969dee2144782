"""A real gateway in a process of its own, and replicas that do as a test says."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psutil
from aiohttp import ClientSession, web

from localml.core.serving.gateway_stats import EndpointStats, GatewayStats, read_address, read_stats
from localml.core.serving.routes_table import (
    EndpointRoute,
    ReplicaRoute,
    ReplicaState,
    RouteTable,
    VariantRoute,
    write_routes,
)

DEADLINE = 60.0
Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]
RawHandler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class GatewayProcess:
    """``python -m localml.gateway`` on a data directory."""

    def __init__(self, data: Path, *arguments: str) -> None:
        self.data = data
        self.generation = 0
        self.known: tuple[str, ...] = ()  # hashes of all users' tokens
        self.readers: tuple[str, ...] | None = None  # hashes of tokens; None lets everybody read the counts
        self._log = (data / "gateway.log").open("wb")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "localml.gateway", "--data", str(data), "--port", "0", *arguments],
            stdout=self._log,
            stderr=self._log,
        )
        address = wait_for(self._address, self.log)
        self.port = address.port
        self.url = f"http://127.0.0.1:{self.port}"
        wait_for(self._healthy, self.log)

    def log(self) -> str:
        """What it has said so far."""
        return (self.data / "gateway.log").read_text()

    def _address(self) -> Any:
        assert self.process.poll() is None, self.log()
        address = read_address(self.data)
        return address if address is not None and address.pid == self.process.pid else None

    def _healthy(self) -> Any:
        try:
            return self.health()
        except OSError:
            return None

    def health(self) -> dict[str, Any]:
        """What ``/healthz`` says."""
        with urllib.request.urlopen(f"{self.url}/healthz", timeout=10) as answer:
            page: dict[str, Any] = json.load(answer)
            return page

    def write(self, *endpoints: EndpointRoute) -> None:
        """Put a new table in place and do not wait."""
        self.generation += 1
        table = RouteTable(
            generation=self.generation, reader_hashes=self.readers, known_hashes=self.known, endpoints=endpoints
        )
        write_routes(self.data, table)

    async def publish(self, *endpoints: EndpointRoute) -> None:
        """Put a new table in place and wait until it is in use, as the control plane does."""
        self.write(*endpoints)
        await until(lambda: self.stats().generation == self.generation)

    def stats(self) -> GatewayStats:
        """The last statistics that it wrote."""
        stats: GatewayStats = wait_for(lambda: read_stats(self.data), self.log)
        return stats

    def endpoint(self, name: str) -> EndpointStats:
        """The last statistics of one endpoint."""
        return next(one for one in self.stats().endpoints if one.name == name)

    def memory(self) -> int:
        """Resident bytes."""
        return int(psutil.Process(self.process.pid).memory_info().rss)

    def stop(self) -> int:
        """SIGTERM; returns the exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.wait()

    def wait(self) -> int:
        """Wait for its end; returns the exit status."""
        try:
            return self.process.wait(DEADLINE)
        finally:
            self._log.close()

    def kill(self) -> None:
        """End it whatever it does."""
        if self.process.poll() is None:
            os.kill(self.process.pid, signal.SIGKILL)
            self.process.wait()
        self._log.close()


def wait_for(condition: Callable[[], Any], why: Callable[[], str] = str) -> Any:
    """The first true value of a condition."""
    end = time.monotonic() + DEADLINE
    while not (value := condition()):
        assert time.monotonic() < end, why()
        time.sleep(0.01)
    return value


async def until(condition: Callable[[], Any]) -> Any:
    """As :func:`wait_for`, while the event loop goes on."""
    end = time.monotonic() + DEADLINE
    while not (value := condition()):
        assert time.monotonic() < end, f"{condition} stayed false"
        await asyncio.sleep(0.01)
    return value


@asynccontextmanager
async def replica(handler: Handler, port: int = 0) -> AsyncIterator[str]:
    """A real HTTP server that answers every path by ``handler``; gives its URL."""
    # bodies pass as they are: what a client compressed stays compressed
    server = web.Server(handler, handler_cancellation=True, access_log=None, auto_decompress=False)
    runner = web.ServerRunner(server, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", port)
    await site.start()
    assert site._server is not None
    try:
        yield f"http://127.0.0.1:{site._server.sockets[0].getsockname()[1]}"  # type: ignore[attr-defined]
    finally:
        await runner.cleanup()


@asynccontextmanager
async def raw_replica(handler: RawHandler) -> AsyncIterator[str]:
    """A TCP server for answers that no decent HTTP server gives."""
    writers: list[asyncio.StreamWriter] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        try:
            await handler(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for writer in writers:
            writer.transport.abort()


async def request_head(reader: asyncio.StreamReader) -> bytes:
    """The next request's head, for raw replicas."""
    return await reader.readuntil(b"\r\n\r\n")


def endpoint(name: str, *urls: str, **settings: Any) -> EndpointRoute:
    """An endpoint of one variant ``v1``; without active checks unless told."""
    settings.setdefault("health", None)
    return EndpointRoute(name=name, variants=(variant("v1", *urls),), **settings)


def variant(name: str, *urls: str, weight: int = 1, state: ReplicaState = ReplicaState.READY) -> VariantRoute:
    """A variant whose replicas are named ``NAME-0``, ``NAME-1`` ..."""
    replicas = tuple(ReplicaRoute(id=f"{name}-{index}", url=url, state=state) for index, url in enumerate(urls))
    return VariantRoute(name=name, weight=weight, replicas=replicas)


@asynccontextmanager
async def client(gateway: GatewayProcess) -> AsyncIterator[ClientSession]:
    """A client of the gateway."""
    async with ClientSession(gateway.url, auto_decompress=False) as session:
        yield session


def says(text: str) -> Handler:
    """A handler that answers with this text, whatever is asked."""

    async def handler(request: web.BaseRequest) -> web.StreamResponse:
        await request.read()
        return web.Response(text=text)

    return handler


async def exchange(port: int, data: bytes, *, eof: bool = False) -> bytes:
    """Send bytes on a fresh connection and give all that comes back until it is closed."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(data)
        if eof:
            writer.write_eof()
        return await asyncio.wait_for(reader.read(), DEADLINE)
    finally:
        writer.close()


def running(data: Path, *arguments: str) -> Iterator[GatewayProcess]:
    """A gateway for a fixture."""
    data.mkdir(parents=True, exist_ok=True)
    process = GatewayProcess(data, *arguments)
    try:
        yield process
    finally:
        process.kill()
