"""The process: following the table, telling its counts, starting and ending."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession, web
from helpers.gateway import DEADLINE, GatewayProcess, client, endpoint, replica, running, says, until
from prometheus_client.parser import text_string_to_metric_families

from localml.core.serving.gateway_stats import LATENCY_BOUNDS, read_address, read_stats
from localml.core.serving.routes_table import RouteTable, routes_path, token_hash, write_routes


def refused(port: int) -> bool:
    """Whether nobody takes connections at a port."""
    try:
        socket.create_connection(("127.0.0.1", port), DEADLINE).close()
    except ConnectionRefusedError:
        return True
    return False


async def get(session: ClientSession, path: str) -> tuple[int, str]:
    async with session.get(path) as answer:
        return answer.status, await answer.text()


def test_a_table_that_is_no_table_is_refused_and_the_old_one_stays(gateway: GatewayProcess) -> None:
    async def act() -> None:
        async with replica(says("ok")) as url, client(gateway) as session:
            await gateway.publish(endpoint("d", url))
            double = {"generation": 9, "endpoints": [{"name": "d"}, {"name": "d"}]}
            for bad in (b"", b"{", json.dumps(double).encode(), b'{"endpoints": [{"name": "../x"}]}'):
                routes_path(gateway.data).write_bytes(bad)
                await until(lambda: gateway.stats().table_error)
                assert await get(session, "/endpoints/d/x") == (200, "ok")
                assert gateway.health()["generation"] == gateway.generation
                await gateway.publish(endpoint("d", url))
                await until(lambda: gateway.stats().table_error is None)

    asyncio.run(act())


def test_without_a_table_the_last_one_stays(gateway: GatewayProcess) -> None:
    async def act() -> None:
        async with replica(says("ok")) as url, client(gateway) as session:
            await gateway.publish(endpoint("d", url))
            routes_path(gateway.data).unlink()
            for _ in range(3):
                assert await get(session, "/endpoints/d/x") == (200, "ok")
            await gateway.publish(endpoint("e", url))
            assert (await get(session, "/endpoints/d/x"))[0] == 404

    asyncio.run(act())


def test_it_starts_with_the_table_that_is_there(tmp_path: Path) -> None:
    async def act() -> None:
        async with replica(says("ok")) as url:
            data = tmp_path / "data"
            write_routes(data, RouteTable(generation=41, endpoints=(endpoint("d", url),)))
            for gateway in running(data):
                async with client(gateway) as session:
                    assert await get(session, "/endpoints/d/x") == (200, "ok")
                assert gateway.health() == {"status": "ok", "generation": 41}
                gateway.kill()  # at any moment, and the next one goes on
            for gateway in running(data):
                async with client(gateway) as session:
                    assert await get(session, "/endpoints/d/x") == (200, "ok")

    asyncio.run(act())


def test_only_the_owner_can_read_the_files(gateway: GatewayProcess) -> None:
    asyncio.run(gateway.publish(endpoint("d", "http://127.0.0.1:9", token_hashes=(token_hash("x"),))))
    assert routes_path(gateway.data).stat().st_mode & 0o077 == 0
    assert routes_path(gateway.data).parent.stat().st_mode & 0o077 == 0


def test_counts_are_told_in_the_file_and_to_prometheus(gateway: GatewayProcess) -> None:
    async def handler(request: web.BaseRequest) -> web.StreamResponse:
        return web.Response(status=int(request.raw_path.strip("/")))

    async def act() -> None:
        async with replica(handler) as url, client(gateway) as session:
            await gateway.publish(endpoint("d", url, token_hashes=(token_hash("t"),)))
            for status in (200, 200, 404):
                async with session.get(f"/endpoints/d/{status}", headers={"X-Auth-Token": "t"}) as answer:
                    assert answer.status == status
            unrouted = gateway.stats().unrouted
            assert (await get(session, "/endpoints/d/200"))[0] == 401
            assert (await get(session, "/nowhere"))[0] == 401, "as what is there for others"
            await until(lambda: gateway.stats().unrouted == unrouted + 1)
            stats = gateway.endpoint("d")
            counts = stats.variants[0]
            assert (counts.requests, counts.statuses) == (3, {"200": 2, "404": 1})
            assert sum(counts.latency_counts) == 3
            assert len(counts.latency_counts) == len(LATENCY_BOUNDS) + 1
            assert counts.latency_sum > 0
            assert stats.refused == {"unauthenticated": 1}
            assert stats.last_request_at is not None
            _, text = await get(session, "/metrics")
            samples = {
                (sample.name, *sorted(sample.labels.items())): sample.value
                for family in text_string_to_metric_families(text)
                for sample in family.samples
            }
            named = (("endpoint", "d"), ("status", "200"), ("variant", "v1"))
            assert samples[("localml_gateway_requests_total", *named)] == 2
            named = (("endpoint", "d"), ("le", "+Inf"), ("variant", "v1"))
            assert samples[("localml_gateway_request_seconds_bucket", *named)] == 3
            assert samples[("localml_gateway_table_generation",)] == gateway.generation
            named = (("endpoint", "d"), ("replica", "v1-0"), ("variant", "v1"))
            assert samples[("localml_gateway_replica_up", *named)] == 1

    asyncio.run(act())


def test_an_idle_gateway_writes_nothing(gateway: GatewayProcess) -> None:
    async def act() -> None:
        await gateway.publish(endpoint("d", "http://127.0.0.1:9"))
        stamps: list[float] = []

        def still() -> bool:
            stats = read_stats(gateway.data)
            assert stats is not None
            stamps.append(stats.written_at)
            return len(stamps) > 300 and len(set(stamps[-250:])) == 1  # more than twice the time between two writings

        await until(still)

    asyncio.run(act())


def test_sigterm_lets_requests_finish_and_takes_no_new_connections(own_gateway: GatewayProcess) -> None:
    async def act() -> None:
        free = asyncio.Event()

        async def slow(request: web.BaseRequest) -> web.StreamResponse:
            body = await request.content.read()
            await free.wait()
            return web.Response(body=b"x" * 5_000_000 + body)

        async with replica(slow) as url:
            await own_gateway.publish(endpoint("d", url))
            reader, writer = await asyncio.open_connection("127.0.0.1", own_gateway.port)
            uploader, upload = await asyncio.open_connection("127.0.0.1", own_gateway.port)
            _, idle = await asyncio.open_connection("127.0.0.1", own_gateway.port)
            writer.write(b"GET /endpoints/d/x HTTP/1.1\r\nHost: localhost\r\n\r\n")
            upload.write(b"POST /endpoints/d/x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 6000000\r\n\r\nfirst")
            await until(lambda: own_gateway.endpoint("d").inflight == 2)
            own_gateway.process.terminate()
            await until(lambda: "ending" in own_gateway.log())
            await until(lambda: refused(own_gateway.port))
            upload.write(b"x" * 5_999_995)  # what was begun goes on, a body that is still being sent too
            await upload.drain()
            free.set()
            answers = await asyncio.gather(reader.read(), uploader.read())
            assert [answer.startswith(b"HTTP/1.1 200 OK") for answer in answers] == [True, True]
            assert [len(answer.partition(b"\r\n\r\n")[2]) for answer in answers] == [5_000_000, 11_000_000]
            assert all(b"connection: close" in answer[:500] for answer in answers)
            for one in (writer, upload, idle):
                one.close()
            assert await asyncio.to_thread(own_gateway.wait) == 0
            assert own_gateway.stats().endpoints[0].variants[0].requests == 2

    asyncio.run(act())


def test_sigterm_waits_only_so_long(tmp_path: Path) -> None:
    async def hangs(request: web.BaseRequest) -> web.StreamResponse:
        await asyncio.Event().wait()
        return web.Response()

    async def act() -> None:
        async with replica(hangs) as url:
            for gateway in running(tmp_path / "data", "--drain", "0.2"):
                await gateway.publish(endpoint("d", url))
                reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
                writer.write(b"GET /endpoints/d/x HTTP/1.1\r\nHost: localhost\r\n\r\n")
                await until(lambda gateway=gateway: gateway.endpoint("d").inflight == 1)
                assert await asyncio.to_thread(gateway.stop) == 0
                with pytest.raises(ConnectionResetError):
                    await reader.read()
                writer.close()

    asyncio.run(act())


def test_a_port_that_is_taken_is_said_and_ends_it(own_gateway: GatewayProcess, tmp_path: Path) -> None:
    second = subprocess.run(
        [sys.executable, "-m", "localml.gateway", "--data", tmp_path / "other", "--port", str(own_gateway.port)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert second.returncode == 1
    assert str(own_gateway.port) in second.stderr
    assert "Traceback" not in second.stderr
    assert read_address(tmp_path / "other") is None


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_gibibyte_goes_through_both_ways_without_staying(own_gateway: GatewayProcess) -> None:
    piece = bytes(range(256)) * 4096
    count = (1 << 30) // len(piece)

    async def act() -> None:
        received = [0]

        async def handler(request: web.BaseRequest) -> web.StreamResponse:
            if request.method == "POST":
                while data := await request.content.readany():
                    received[0] += len(data)
                return web.Response(text=str(received[0]))
            answer = web.StreamResponse(headers={"Content-Length": str(count * len(piece))})
            await answer.prepare(request)
            for _ in range(count):
                await answer.write(piece)
            return answer

        async def body() -> Any:
            for number in range(count):
                if number == 10:
                    memory.append(own_gateway.memory())
                yield piece
            memory.append(own_gateway.memory())

        memory: list[int] = []
        async with replica(handler) as url, client(own_gateway) as session:
            await own_gateway.publish(endpoint("d", url))
            async with session.post("/endpoints/d/x", data=body()) as answer:
                assert await answer.text() == str(1 << 30)
            size = 0
            async with session.get("/endpoints/d/x") as answer:
                async for data in answer.content.iter_chunked(1 << 20):
                    size += len(data)
            memory.append(own_gateway.memory())
            assert size == 1 << 30
        assert max(memory) - memory[0] < 16 << 20, memory

    asyncio.run(act())


def test_a_head_that_comes_byte_by_byte_is_understood(gateway: GatewayProcess) -> None:
    async def act() -> None:
        async with replica(says("ok")) as url:
            await gateway.publish(endpoint("d", url))
            reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
            for byte in b"POST /endpoints/d/x HTTP/1.0\r\nHost: localhost\r\nContent-Length: 2\r\n\r\nab":
                writer.write(bytes([byte]))
                await writer.drain()
            assert (await reader.read()).endswith(b"ok")
            writer.close()

    asyncio.run(act())
