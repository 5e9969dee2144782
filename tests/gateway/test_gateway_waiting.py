"""A thousand requests held for an endpoint that sleeps, and clients that leave: bounded, noticed, others go on."""

from __future__ import annotations

import asyncio
import socket

import pytest
from aiohttp import web
from helpers.counts import count
from helpers.gateway import DEADLINE, GatewayProcess, client, endpoint, raw_replica, replica, says, until

NOTICED_S = 2.5
"""Two seconds, and what the statistics are late."""
HEAD = b"POST /endpoints/sleeps/x HTTP/1.1\r\nHost: localhost\r\n"
NEXT = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
HELD = {
    "no body": HEAD + b"\r\n",
    "half a body": HEAD + b"Content-Length: 100000\r\n\r\n" + bytes(80_000),
    "a body": HEAD + b"Content-Length: 100000\r\n\r\n" + bytes(100_000),
    "more requests": HEAD + b"\r\n" + NEXT * 100,
}


def held(gateway: GatewayProcess) -> int:
    return gateway.endpoint("sleeps").queued


def test_a_thousand_are_held_and_others_are_answered(gateway: GatewayProcess) -> None:
    async def act() -> None:
        async with replica(says("ok")) as url, client(gateway) as session:
            await gateway.publish(endpoint("sleeps", scale_to_zero=True), endpoint("d", url))
            before = gateway.memory()
            talks = [await asyncio.open_connection("127.0.0.1", gateway.port) for _ in range(1000)]
            for _, writer in talks:
                writer.write(HELD["a body"])
            count("requests tried", len(talks))
            await until(lambda: held(gateway) == 1000)
            assert gateway.memory() - before < 250 << 20
            async with asyncio.timeout(DEADLINE):
                async with session.post("/endpoints/sleeps/x") as answer:
                    assert (answer.status, answer.headers["Retry-After"]) == (503, "1")
                for _ in range(50):
                    async with session.get("/endpoints/d/x") as answer:
                        assert answer.status == 200
            for _, writer in talks[:500]:
                writer.close()
            async with asyncio.timeout(NOTICED_S):
                await until(lambda: held(gateway) == 500)
            await gateway.publish(endpoint("sleeps", url), endpoint("d", url))
            for reader, writer in talks[500:]:
                assert (await asyncio.wait_for(reader.readline(), DEADLINE)).startswith(b"HTTP/1.1 200")
                writer.close()

    asyncio.run(act())


@pytest.mark.parametrize("sent", HELD)
@pytest.mark.parametrize("how", ["end", "reset"])
def test_whoever_leaves_while_held_is_noticed(gateway: GatewayProcess, sent: str, how: str) -> None:
    async def act() -> None:
        await gateway.publish(endpoint("sleeps", scale_to_zero=True))
        _, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
        writer.write(HELD[sent])
        await until(lambda: held(gateway) == 1)
        if how == "end":
            writer.close()
        else:
            peer: socket.socket = writer.get_extra_info("socket")
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            writer.transport.abort()
        async with asyncio.timeout(NOTICED_S):
            await until(lambda: held(gateway) == 0)
        writer.transport.abort()

    asyncio.run(act())


def test_whoever_leaves_while_a_replica_does_not_read_the_upload_is_noticed(gateway: GatewayProcess) -> None:
    async def hangs(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        await asyncio.sleep(DEADLINE)

    async def act() -> None:
        async with raw_replica(hangs) as hung, replica(says("ok")) as url, client(gateway) as session:
            await gateway.publish(endpoint("sleeps", hung), endpoint("d", url))
            talks = [await asyncio.open_connection("127.0.0.1", gateway.port) for _ in range(40)]
            for _, writer in talks:
                writer.write(HEAD + b"Content-Length: 100000000\r\n\r\n" + bytes(300_000))
            await until(lambda: gateway.endpoint("sleeps").variants[0].inflight == 40)
            async with session.get("/endpoints/d/x") as answer:
                assert answer.status == 200
            for _, writer in talks:
                writer.close()
            async with asyncio.timeout(NOTICED_S):
                await until(lambda: gateway.endpoint("sleeps").variants[0].inflight == 0)

    asyncio.run(act())


def test_a_stream_ends_with_its_client(gateway: GatewayProcess) -> None:
    ended = []

    async def endless(request: web.BaseRequest) -> web.StreamResponse:
        answer = web.StreamResponse()
        await answer.prepare(request)
        await answer.write(b"begin")
        try:
            await asyncio.sleep(DEADLINE)
        except asyncio.CancelledError:
            ended.append(request)
            raise
        return answer

    async def act() -> None:
        async with replica(endless) as url:
            await gateway.publish(endpoint("d", url))
            reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
            writer.write(b"GET /endpoints/d/x HTTP/1.1\r\nHost: localhost\r\n\r\n" + NEXT * 100)
            await asyncio.wait_for(reader.readuntil(b"begin"), DEADLINE)
            writer.transport.abort()
            async with asyncio.timeout(NOTICED_S):
                await until(lambda: ended)

    asyncio.run(act())
