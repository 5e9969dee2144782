"""Clients that take their time: each kind of slowness has an end. The gateway runs in this process, with short times,
on the standard event loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web
from helpers.gateway import DEADLINE, endpoint, replica, says, until

from localml.core.serving.routes_table import RouteTable, write_routes
from localml.gateway import exchange, server
from localml.gateway.server import Gateway, Settings
from localml.httpd import connection, pace

HEAD = b"POST /endpoints/d/x HTTP/1.1\r\nHost: localhost\r\n"


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "HEAD_TIMEOUT", 0.2)
    monkeypatch.setattr(connection, "OPEN_TIMEOUT", 0.3)
    monkeypatch.setattr(connection, "IDLE_TIMEOUT", 0.4)
    monkeypatch.setattr(connection, "LINGER", 0.1)
    monkeypatch.setattr(pace, "PAUSE", 0.2)
    monkeypatch.setattr(exchange, "CLIENT_TIMEOUT", 0.2)
    monkeypatch.setattr(server, "SWEEP", 0.05)


@asynccontextmanager
async def gateway(data: Path, url: str) -> AsyncIterator[tuple[Gateway, int]]:
    write_routes(data, RouteTable(endpoints=(endpoint("d", url),)))
    made = Gateway(Settings(data, drain_s=1.0))
    port = await made.start()
    try:
        yield made, port
    finally:
        await made.stop()


@pytest.mark.parametrize(
    ("sent", "answered"),
    [
        (b"", b""),
        (HEAD, b"HTTP/1.1 408"),
        (HEAD + b"Content-Length: 10\r\n\r\nhalf", b"HTTP/1.1 408"),
        (HEAD + b"Content-Length: 10000000\r\n\r\nhalf", b"HTTP/1.1 408"),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n", b"HTTP/1.1 408"),
        (HEAD + b"Content-Length: 0\r\n\r\n", b"HTTP/1.1 200"),  # and then nothing: the connection is closed
        (HEAD + b"Content-Length: 0\r\n\r\nGET", b"HTTP/1.1 200"),
    ],
)
def test_a_client_that_stops_is_answered_and_left(tmp_path: Path, sent: bytes, answered: bytes) -> None:
    async def act() -> None:
        async with replica(says("ok")) as url, gateway(tmp_path, url) as (_, port):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(sent)
            answer = await asyncio.wait_for(reader.read(), DEADLINE)
            assert answer.startswith(answered), answer
            writer.close()

    asyncio.run(act())


def test_a_client_that_does_not_read_its_answer_is_cut(tmp_path: Path) -> None:
    async def endless(request: web.BaseRequest) -> web.StreamResponse:
        answer = web.StreamResponse()
        await answer.prepare(request)
        while True:
            await answer.write(bytes(1 << 16))

    async def act() -> None:
        async with replica(endless) as url, gateway(tmp_path, url) as (made, port):
            _, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 10)
            writer.write(b"GET /endpoints/d/x HTTP/1.1\r\nHost: localhost\r\n\r\n")
            counts = made.router.endpoints["d"].variants["v1"].counts
            await until(lambda: counts.errors == {"slow_client": 1})
            assert counts.inflight == 0
            writer.transport.abort()

    asyncio.run(act())


def test_a_large_answer_is_read_to_its_end_by_a_client_that_goes_on_slowly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The limits are for standing still, not for being slow."""
    monkeypatch.setattr(exchange, "CLIENT_TIMEOUT", 1.0)
    size = 3_000_000

    async def act() -> None:
        async with replica(says("x" * size)) as url, gateway(tmp_path, url) as (_, port):
            reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 14)
            writer.write(b"GET /endpoints/d/x HTTP/1.0\r\n\r\n")
            await reader.readuntil(b"\r\n\r\n")
            got = 0
            while piece := await reader.read(size // 20):
                got += len(piece)
                await asyncio.sleep(0.1)
            assert got == size
            writer.close()

    asyncio.run(act())


def test_connections_that_say_nothing_make_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "_most_clients", lambda: 2)
    monkeypatch.setattr(connection, "OPEN_TIMEOUT", DEADLINE)

    async def act() -> None:
        async with replica(says("ok")) as url, gateway(tmp_path, url) as (_, port):
            kept = [await asyncio.open_connection("127.0.0.1", port) for _ in range(2)]
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            assert await kept[0][0].read() == b""
            writer.write(b"GET /endpoints/d/x HTTP/1.0\r\n\r\n")
            assert (await reader.read()).endswith(b"ok")
            for _, one in [*kept, (reader, writer)]:
                one.close()

    asyncio.run(act())


@pytest.mark.parametrize("sent", [b"", b"\0\0\0\4\0\0\0\0\0"], ids=["nothing", "its settings"])
def test_who_begins_http2_and_calls_nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    pytest.importorskip("grpc")
    from localml.gateway.tfserving import service

    monkeypatch.setattr(service, "IDLE", 0.2)

    async def act() -> None:
        async with replica(says("ok")) as url, gateway(tmp_path, url) as (_, port):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + sent)
            async with asyncio.timeout(DEADLINE):
                await reader.read()  # until the connection ends
            writer.close()

    asyncio.run(act())
