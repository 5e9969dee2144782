"""When a replica fails, hangs or dies, and when a client does."""

from __future__ import annotations

import asyncio
import socket
import time
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from helpers.gateway import (
    DEADLINE,
    GatewayProcess,
    Handler,
    client,
    endpoint,
    exchange,
    raw_replica,
    replica,
    request_head,
    says,
    until,
    variant,
)

from localml.core.serving.routes_table import EndpointRoute, HealthCheck, Limits
from localml.gateway.routing import EJECT_FIRST
from localml.gateway.upstream import KEEP

UNUSED = "http://127.0.0.1:1"
"""Nothing listens there."""


async def dies(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Takes a request and closes the connection without a word."""
    await request_head(reader)


@pytest.mark.parametrize("method", ["GET", "POST", "PATCH"])
def test_a_replica_that_takes_no_connections_costs_no_request(gateway: GatewayProcess, method: str) -> None:
    async def act() -> None:
        async with replica(says("ok")) as url, client(gateway) as session:
            await gateway.publish(endpoint("d", UNUSED, url, retry_infer=False))
            begun = time.monotonic()
            for _ in range(6):
                async with session.request(method, "/endpoints/d/x", data=b"body") as answer:
                    assert (answer.status, await answer.text()) == (200, "ok")
            took = time.monotonic() - begun
            await until(lambda: gateway.endpoint("d").variants[0].requests == 6)
            stats = gateway.endpoint("d")
            assert stats.variants[0].statuses == {"200": 6}
            assert {one.id: one.healthy for one in stats.replicas}["v1-0"] is False
            assert stats.variants[0].retries == 1 or took > EJECT_FIRST, "a replica that failed is left out for a while"

    asyncio.run(act())


@pytest.mark.parametrize(
    ("method", "retry_infer", "status"),
    [("GET", False, 200), ("PUT", False, 200), ("POST", True, 200), ("POST", False, 502), ("PATCH", True, 502)],
)
def test_only_what_may_be_done_twice_is_sent_again(
    gateway: GatewayProcess, method: str, retry_infer: bool, status: int
) -> None:
    async def act() -> None:
        async with raw_replica(dies) as bad, replica(says("ok")) as good, client(gateway) as session:
            for number in range(4):  # both replicas get to be the first choice
                name = f"d{number}"
                await gateway.publish(endpoint(name, bad, retry_infer=retry_infer))
                await gateway.publish(endpoint(name, bad, good, retry_infer=retry_infer))
                seen = set()
                for _ in range(2):
                    async with session.request(method, f"/endpoints/{name}/x", data=b"body") as answer:
                        seen.add(answer.status)
                assert seen <= {200, status}
                if status == 502:
                    assert 502 in seen

    asyncio.run(act())


def test_a_small_body_is_sent_again_whole(gateway: GatewayProcess) -> None:
    async def act() -> None:
        async def echo(request: web.BaseRequest) -> web.StreamResponse:
            return web.Response(body=await request.read())

        async def pieces(body: bytes) -> Any:
            for start in range(0, len(body), 1000):
                yield body[start : start + 1000]

        async def reads_some(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await request_head(reader)
            await reader.readexactly(10)

        body = bytes(range(256)) * 200
        async with raw_replica(reads_some) as bad, replica(echo) as good, client(gateway) as session:
            for name, data in (("a", body), ("b", pieces(body))):
                await gateway.publish(endpoint(name, bad))
                await gateway.publish(endpoint(name, bad, good))
                for payload in (data, body):
                    async with session.post(f"/endpoints/{name}/x", data=payload) as answer:
                        assert await answer.read() == body
            retries = [gateway.endpoint("b").variants[0].retries]
            await until(lambda: retries.append(gateway.endpoint("b").variants[0].retries) or retries[-1] >= 1)

    asyncio.run(act())


def test_not_more_than_three_replicas_are_tried(gateway: GatewayProcess) -> None:
    async def act() -> None:
        tried = []

        async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await request_head(reader)
            tried.append(1)

        async with (
            raw_replica(handler) as a,
            raw_replica(handler) as b,
            raw_replica(handler) as c,
            raw_replica(handler) as d,
            client(gateway) as session,
        ):
            await gateway.publish(endpoint("d", a, b, c, d))
            async with session.get("/endpoints/d/x") as answer:
                assert answer.status == 502
                assert (await answer.json())["code"] == "cut"
            assert len(tried) == 3

    asyncio.run(act())


def test_a_kept_connection_that_the_replica_has_closed_costs_no_request(gateway: GatewayProcess) -> None:
    async def act() -> None:
        served = []

        async def once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            """Promises to keep the connection, and closes it when the second request comes."""
            await request_head(reader)
            served.append(1)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
            await writer.drain()
            await request_head(reader)

        async with raw_replica(once) as url, client(gateway) as session:
            await gateway.publish(endpoint("d", url))
            for _ in range(4):
                async with session.post("/endpoints/d/x", data=b"body") as answer:
                    assert (answer.status, await answer.text()) == (200, "ok")
            assert len(served) == 4
            await until(lambda: gateway.endpoint("d").variants[0].requests == 4)
            assert gateway.endpoint("d").replicas[0].healthy

    asyncio.run(act())


def test_a_busy_answer_is_asked_of_another_replica(gateway: GatewayProcess) -> None:
    async def busy(request: web.BaseRequest) -> web.StreamResponse:
        return web.Response(status=503, text="my queue is full")

    async def act() -> None:
        async with replica(busy) as full, replica(says("ok")) as free, client(gateway) as session:
            await gateway.publish(
                endpoint("d", full, free), endpoint("e", full, full.replace("127.0.0.1", "localhost"))
            )
            for _ in range(6):
                async with session.post("/endpoints/d/x", data=b"1") as answer:
                    assert answer.status == 200
            async with session.post("/endpoints/e/x", data=b"1") as answer:
                assert (answer.status, await answer.text()) == (503, "my queue is full"), "the replica's own words"

    asyncio.run(act())


@pytest.mark.parametrize("declared", [b"Content-Length: 1000000\r\n", b"Transfer-Encoding: chunked\r\n", b""])
def test_a_replica_that_dies_in_the_middle_of_its_answer_gives_a_cut_answer(
    gateway: GatewayProcess, declared: bytes
) -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request_head(reader)
        piece = b"x" * 100_000
        framed = b"%x\r\n%b\r\n" % (len(piece), piece) if b"chunked" in declared else piece
        writer.write(b"HTTP/1.1 200 OK\r\n" + declared + b"\r\n" + framed)
        await writer.drain()
        await read_all.wait()
        writer.transport.abort()

    read_all = asyncio.Event()

    async def act() -> None:
        async with raw_replica(handler) as url, client(gateway) as session:
            await gateway.publish(endpoint("d", url))
            async with session.get("/endpoints/d/x") as answer:
                assert answer.status == 200
                assert len(await answer.content.readexactly(100_000)) == 100_000
                read_all.set()
                if declared:
                    with pytest.raises(aiohttp.ClientError):
                        await asyncio.wait_for(answer.content.read(), DEADLINE)
                else:  # a clean close would mean a complete answer
                    await asyncio.wait_for(answer.content.read(), DEADLINE)
            if declared:
                await until(lambda: gateway.endpoint("d").variants[0].errors == {"cut": 1})

    asyncio.run(act())


def test_an_http_1_0_client_can_tell_a_cut_answer_from_a_complete_one(gateway: GatewayProcess) -> None:
    async def act() -> None:
        read_all = asyncio.Event()

        async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await request_head(reader)
            writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
            await writer.drain()
            await read_all.wait()
            writer.transport.abort()

        async with raw_replica(handler) as url:
            await gateway.publish(endpoint("d", url))
            reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
            writer.write(b"GET /endpoints/d/x HTTP/1.0\r\n\r\n")
            assert (await reader.readuntil(b"abc")).startswith(b"HTTP/1.1 200 OK")
            read_all.set()
            with pytest.raises(ConnectionResetError):
                await asyncio.wait_for(reader.read(), DEADLINE)
            writer.close()

    asyncio.run(act())


def test_a_small_answer_that_breaks_off_is_asked_for_again(gateway: GatewayProcess) -> None:
    async def half(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request_head(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
        await writer.drain()

    async def act() -> None:
        async with raw_replica(half) as bad, replica(says("whole")) as good, client(gateway) as session:
            await gateway.publish(endpoint("d", bad, good))
            for _ in range(4):
                async with session.get("/endpoints/d/x") as answer:
                    assert await answer.text() == "whole"

    asyncio.run(act())


def test_a_replica_that_speaks_no_http_is_a_502(gateway: GatewayProcess) -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request_head(reader)
        writer.write(b"SSH-2.0-OpenSSH_9.6\r\n")
        await writer.drain()
        await reader.read()

    async def act() -> None:
        async with raw_replica(handler) as url, client(gateway) as session:
            await gateway.publish(endpoint("d", url))
            async with session.get("/endpoints/d/x") as answer:
                assert answer.status == 502
                assert "valid HTTP" in (await answer.json())["error"]

    asyncio.run(act())


def test_a_replica_that_hangs_is_a_504_and_is_not_asked_twice(gateway: GatewayProcess) -> None:
    async def act() -> None:
        asked = []
        gone = asyncio.Event()

        async def hangs(request: web.BaseRequest) -> web.StreamResponse:
            asked.append(1)
            try:
                await asyncio.Event().wait()
            finally:
                gone.set()
            return web.Response()

        async with replica(hangs) as url, replica(hangs) as other, client(gateway) as session:
            await gateway.publish(endpoint("d", url, other, limits=Limits(timeout_s=1.5)))
            async with session.post("/endpoints/d/x", data=b"1") as answer:
                assert answer.status == 504
                assert "1.5 s" in (await answer.json())["error"]
            assert asked == [1]
            await asyncio.wait_for(gone.wait(), DEADLINE)  # the replica is told that nobody waits any more

    asyncio.run(act())


def test_a_replica_that_stops_in_the_middle_of_its_answer_is_cut_in_time(gateway: GatewayProcess) -> None:
    async def handler(request: web.BaseRequest) -> web.StreamResponse:
        answer = web.StreamResponse()
        await answer.prepare(request)
        await answer.write(b"so far")
        await asyncio.Event().wait()
        return answer

    async def act() -> None:
        async with replica(handler) as url, client(gateway) as session:
            await gateway.publish(endpoint("d", url, limits=Limits(timeout_s=1.5)))
            async with session.get("/endpoints/d/x") as answer:
                with pytest.raises(aiohttp.ClientError):
                    await asyncio.wait_for(answer.read(), DEADLINE)
            await until(lambda: gateway.endpoint("d").variants[0].errors == {"timeout": 1})

    asyncio.run(act())


def test_a_client_that_leaves_takes_its_request_with_it(gateway: GatewayProcess) -> None:
    async def act() -> None:
        started, stopped = asyncio.Event(), asyncio.Event()

        async def handler(request: web.BaseRequest) -> web.StreamResponse:
            started.set()
            try:
                await asyncio.Event().wait()
            finally:
                stopped.set()
            return web.Response()

        async with replica(handler) as url:
            await gateway.publish(endpoint("d", url))
            _, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
            writer.write(b"GET /endpoints/d/x HTTP/1.1\r\nHost: localhost\r\n\r\n")
            await asyncio.wait_for(started.wait(), DEADLINE)
            writer.close()
            await asyncio.wait_for(stopped.wait(), DEADLINE)
            await until(lambda: gateway.endpoint("d").variants[0].errors == {"client_gone": 1})
            assert gateway.endpoint("d").inflight == 0

    asyncio.run(act())


@pytest.mark.parametrize("size", [1000, 5_000_000])
@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_that_breaks_off_never_looks_complete_to_a_replica(
    gateway: GatewayProcess, size: int, chunked: bool
) -> None:
    async def act() -> None:
        complete = []
        over = asyncio.Event()

        async def handler(request: web.BaseRequest) -> web.StreamResponse:
            try:
                await request.content.read()
                complete.append(1)
            finally:
                over.set()
            return web.Response()

        async with replica(handler) as url:
            await gateway.publish(endpoint("d", url))
            _, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
            writer.write(b"POST /endpoints/d/x HTTP/1.1\r\nHost: localhost\r\n")
            half = b"x" * (size // 2)
            if chunked:
                writer.write(b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n" % (len(half), half))
            else:
                writer.write(b"Content-Length: %d\r\n\r\n" % size + half)
            await writer.drain()
            if chunked or size > 1 << 20:  # a small one is read whole before a replica hears of it
                await until(lambda: gateway.stats().endpoints[0].replicas[0].inflight == 1)
            writer.close()
            if chunked or size > 1 << 20:
                await asyncio.wait_for(over.wait(), DEADLINE)
            await until(lambda: gateway.stats().endpoints[0].inflight == 0)
            assert complete == []

    asyncio.run(act())


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_over_the_limit_is_413_and_the_client_gets_to_read_it(gateway: GatewayProcess, chunked: bool) -> None:
    async def act() -> None:
        complete = []

        async def handler(request: web.BaseRequest) -> web.StreamResponse:
            await request.content.read()
            complete.append(1)
            return web.Response()

        async with replica(handler) as url:
            await gateway.publish(endpoint("d", url, limits=Limits(max_body=100_000)))
            head = b"POST /endpoints/d/x HTTP/1.1\r\nHost: localhost\r\n"
            body = b"x" * 3_000_000
            if chunked:
                data = head + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
            else:
                data = head + b"Content-Length: %d\r\n\r\n" % len(body) + body
            answer = await asyncio.to_thread(send_all_then_read, gateway.port, data)
            assert answer.startswith(b"HTTP/1.1 413")
            assert b"100000 bytes" in answer
            assert complete == []

    asyncio.run(act())


def send_all_then_read(port: int, data: bytes) -> bytes:
    """As a simple client does, which looks for an answer only when everything is out."""
    answer = b""
    with socket.create_connection(("127.0.0.1", port), timeout=DEADLINE) as connection:
        for start in range(0, len(data), 10_000):
            connection.sendall(data[start : start + 10_000])
        while piece := connection.recv(1 << 16):
            answer += piece
    return answer


def test_connections_to_a_replica_that_left_the_table_are_closed(gateway: GatewayProcess) -> None:
    async def act() -> None:
        closed = asyncio.Event()

        async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await request_head(reader)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
            assert await reader.read() == b""
            closed.set()

        async with raw_replica(handler) as url, client(gateway) as session:
            await gateway.publish(endpoint("d", url))
            async with session.get("/endpoints/d/x") as answer:
                assert answer.status == 200
            begun = time.monotonic()
            await gateway.publish()
            await asyncio.wait_for(closed.wait(), DEADLINE)
            assert time.monotonic() - begun < KEEP / 2, "at once, not when its time is over"

    asyncio.run(act())


def test_an_answer_that_comes_before_the_body_is_passed_on(gateway: GatewayProcess) -> None:
    async def handler(request: web.BaseRequest) -> web.StreamResponse:
        return web.Response(status=401, text="no")

    async def act() -> None:
        async with replica(handler) as url:
            await gateway.publish(endpoint("d", url))
            reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
            writer.write(b"POST /endpoints/d/x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9000000\r\n\r\nabc")
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), DEADLINE)
            assert head.startswith(b"HTTP/1.1 401")
            assert b"connection: close" in head
            writer.close()

    asyncio.run(act())


def test_a_failed_replica_comes_back_when_its_check_succeeds(gateway: GatewayProcess) -> None:
    async def act() -> None:
        well = {"now": False}
        asked: list[str] = []

        async def handler(request: web.BaseRequest) -> web.StreamResponse:
            asked.append(request.raw_path)
            if request.raw_path == "/v2/health/ready":
                return web.Response(status=200 if well["now"] else 503)
            return web.Response(text="sick")

        def healthy() -> bool:
            return gateway.endpoint("d").replicas[0].healthy

        async with replica(handler) as sick, replica(says("ok")) as good, client(gateway) as session:
            check = HealthCheck(interval_s=0.05, timeout_s=DEADLINE)
            await gateway.publish(endpoint("d", sick, good, health=check))
            await until(lambda: not healthy())
            for _ in range(10):
                async with session.get("/endpoints/d/x") as answer:
                    assert await answer.text() == "ok"
            well["now"] = True
            await until(healthy)
            texts = set[str]()
            end = time.monotonic() + DEADLINE
            while texts != {"ok", "sick"} and time.monotonic() < end:
                async with session.get("/endpoints/d/x") as answer:
                    texts.add(await answer.text())
            assert texts == {"ok", "sick"}

    asyncio.run(act())


def test_a_replica_without_a_health_page_is_well(gateway: GatewayProcess) -> None:
    async def act() -> None:
        checks = []

        async def handler(request: web.BaseRequest) -> web.StreamResponse:
            checks.append(request.raw_path)
            return web.Response(status=404)

        async with replica(handler) as url:
            await gateway.publish(
                endpoint("d", url, health=HealthCheck(path="/ping", interval_s=0.05, timeout_s=DEADLINE))
            )
            await until(lambda: len(checks) >= 3)
            assert set(checks) == {"/ping"}
            assert gateway.endpoint("d").replicas[0].healthy

    asyncio.run(act())


def test_each_version_is_checked_at_its_own_page(gateway: GatewayProcess) -> None:
    def only_at(page: str) -> Handler:
        async def handler(request: web.BaseRequest) -> web.StreamResponse:
            return web.Response(status=200 if request.raw_path == page else 500)

        return handler

    async def act() -> None:
        check = HealthCheck(path="/new", interval_s=0.05, timeout_s=DEADLINE)
        async with replica(only_at("/old")) as old, replica(only_at("/new")) as new:
            route = EndpointRoute(
                name="d",
                health=check,
                variants=(
                    variant("old", old).model_copy(update={"health": check.model_copy(update={"path": "/old"})}),
                    variant("new", new),
                    variant("wrong", old, weight=0).model_copy(update={"health": check}),
                ),
            )
            await gateway.publish(route)

            def health() -> dict[str, bool]:
                return {one.id: one.healthy for one in gateway.endpoint("d").replicas}

            await until(lambda: not health()["wrong-0"])
            assert health() == {"old-0": True, "new-0": True, "wrong-0": False}

    asyncio.run(act())


def test_a_broken_new_version_costs_its_share_nothing(gateway: GatewayProcess) -> None:
    async def act() -> None:
        async with replica(says("old")) as url, client(gateway) as session:
            route = EndpointRoute(
                name="d", variants=(variant("old", url, weight=50), variant("new", UNUSED, weight=50)), health=None
            )
            await gateway.publish(route)
            for _ in range(10):
                async with session.post("/endpoints/d/x", data=b"1") as answer:
                    assert await answer.text() == "old"
                    assert answer.headers["X-Localml-Variant"] == "old"
            async with session.post("/endpoints/d/x", headers={"X-Localml-Variant": "new"}) as answer:
                assert answer.status == 502, "who asks for that version does not get another one"

    asyncio.run(act())


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"this is not http\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost : x\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nX: 1\r\n folded\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd", 400),
        (b"POST / HTTP/1.1\r\nContent-Length: -3\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 500 + b"\r\n", 431),
        (b"GET / HTTP/1.1\r\nX: " + b"y" * 100_000 + b"\r\n\r\n", 431),
        (b"GET /" + b"y" * 200_000, 431),
        (b"CONNECT example.org:443 HTTP/1.1\r\nHost: example.org\r\n\r\n", 403),
    ],
)
def test_what_is_no_request_is_refused(gateway: GatewayProcess, sent: bytes, status: int) -> None:
    async def act() -> None:
        answer = await exchange(gateway.port, sent)
        assert answer.startswith(b"HTTP/1.1 %d" % status), answer[:200]
        assert answer.count(b"HTTP/1.1") == 1
        assert b"connection: close" in answer

    asyncio.run(act())


def test_a_broken_chunk_is_refused_before_and_after_a_replica_has_seen_the_request(gateway: GatewayProcess) -> None:
    async def act() -> None:
        async with replica(says("ok")) as url:
            await gateway.publish(endpoint("d", url))
            head = b"POST /endpoints/d/x HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
            answer = await exchange(gateway.port, head + b"5\r\nhello\r\nnonsense\r\n")
            assert answer.startswith(b"HTTP/1.1 400")

    asyncio.run(act())


def test_a_thousand_idle_connections_leave_room_for_the_others(gateway: GatewayProcess) -> None:
    async def act() -> None:
        async with replica(says("ok")) as url, client(gateway) as session:
            await gateway.publish(endpoint("d", url))
            before = gateway.memory()
            idle = [await asyncio.open_connection("127.0.0.1", gateway.port) for _ in range(1000)]
            async with asyncio.timeout(DEADLINE):
                for _ in range(50):
                    async with session.get("/endpoints/d/x") as answer:
                        assert answer.status == 200
            await until(lambda: gateway.stats().connections >= 1000)
            assert gateway.memory() - before < 40 << 20
            for _, writer in idle:
                writer.close()
            await until(lambda: gateway.stats().connections < 10)

    asyncio.run(act())


def test_a_client_that_reads_slowly_does_not_fill_the_memory(gateway: GatewayProcess) -> None:
    async def act() -> None:
        size = 64 << 20

        async def handler(request: web.BaseRequest) -> web.StreamResponse:
            answer = web.StreamResponse(headers={"Content-Length": str(size)})
            await answer.prepare(request)
            for _ in range(size >> 20):
                await answer.write(bytes(1 << 20))
                sent.append(1 << 20)
            return answer

        sent: list[int] = []
        async with replica(handler) as url:
            await gateway.publish(endpoint("d", url))
            reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port, limit=1 << 16)
            before = gateway.memory()
            writer.write(b"GET /endpoints/d/x HTTP/1.0\r\n\r\n")
            await reader.readuntil(b"\r\n\r\n")
            stuck = await settled(sent)
            assert stuck < size // 2, "the replica is held back"
            assert gateway.memory() - before < 16 << 20
            rest = 0
            while piece := await reader.read(1 << 20):
                rest += len(piece)
            assert rest == size
            writer.close()

    asyncio.run(act())


async def settled(sent: list[int]) -> int:
    """The sum, once nothing has been added to it for ten looks in a row."""
    same, last = 0, -1

    def still() -> bool:
        nonlocal same, last
        same = same + 1 if len(sent) == last else 0
        last = len(sent)
        return same >= 10 and last > 0

    await until(still)
    return sum(sent)
