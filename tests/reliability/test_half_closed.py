"""Clients that close their own side after the request, as ``nc -N`` does: they wait for the answer."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from helpers.gateway import GatewayProcess, endpoint, replica, running, until
from helpers.http_socket import serving
from helpers.onnx_bench import matmul, save
from helpers.onnx_bench import serving as model_serving

pytestmark = pytest.mark.timeout(180)
VERSIONS = [b"1.0", b"1.1"]


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[GatewayProcess]:
    yield from running(tmp_path / "gateway")


def half_closed(port: int, request: bytes) -> bytes:
    """What comes back for a request after which nothing more is sent."""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as client:
        client.sendall(request)
        client.shutdown(socket.SHUT_WR)
        answer = b""
        while piece := client.recv(65536):
            answer += piece
    return answer


def final(answer: bytes) -> bytes:
    """Without the ``100 Continue`` before it."""
    while answer.startswith(b"HTTP/1.1 100 "):
        answer = answer.partition(b"\r\n\r\n")[2]
    return answer


@pytest.mark.parametrize("version", VERSIONS)
def test_the_server_answers_it(version: bytes) -> None:
    began, go = threading.Event(), threading.Event()

    def slow(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        body = environ["wsgi.input"].read()
        began.set()
        go.wait(60)
        start_response("200 OK", [("Content-Length", str(len(body) + 1_000_000))])
        return [body + bytes(1_000_000)]

    with serving(slow, threads=2) as server:
        threading.Thread(target=lambda: (began.wait(60), go.set()), daemon=True).start()
        head = b"POST / HTTP/%b\r\nHost: localhost\r\nContent-Length: 200000\r\n\r\n" % version
        answer = final(half_closed(server.port, head + b"x" * 200_000))
    assert answer.startswith(b"HTTP/1.1 200 OK")
    assert len(answer.partition(b"\r\n\r\n")[2]) == 1_200_000


@pytest.mark.parametrize("version", VERSIONS)
def test_the_gateway_answers_it(gateway: GatewayProcess, version: bytes) -> None:
    async def act() -> None:
        go = asyncio.Event()

        async def slow(request: web.BaseRequest) -> web.StreamResponse:
            body = await request.read()
            await go.wait()
            return web.Response(body=body + bytes(1_000_000))

        async with replica(slow) as url:
            await gateway.publish(endpoint("d", url))
            head = b"POST /endpoints/d/x HTTP/%b\r\nHost: localhost\r\nContent-Length: 3\r\n\r\nabc" % version
            asking = asyncio.create_task(asyncio.to_thread(half_closed, gateway.port, head))
            await until(lambda: gateway.endpoint("d").inflight == 1)
            go.set()
            answer = final(await asking)
            assert answer.startswith(b"HTTP/1.1 200 OK")
            assert answer.partition(b"\r\n\r\n")[2] == b"abc" + bytes(1_000_000)

    asyncio.run(act())


def test_all_that_it_asked_for_is_answered(gateway: GatewayProcess) -> None:
    ask = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
    answer = half_closed(gateway.port, ask * 3)
    assert answer.count(b'"status": "ok"') == 3
    assert b"connection: close" not in answer[: answer.rindex(b"HTTP/1.1 ")], (
        "with none but the last, if it was known then"
    )


def test_one_whose_request_waits_for_a_replica_gets_its_answer(gateway: GatewayProcess) -> None:
    async def act() -> None:
        async def handler(request: web.BaseRequest) -> web.StreamResponse:
            return web.Response(text="awake")

        await gateway.publish(endpoint("d", scale_to_zero=True))
        ask = b"GET /endpoints/d/x HTTP/1.1\r\nHost: localhost\r\n\r\n"
        asking = asyncio.create_task(asyncio.to_thread(half_closed, gateway.port, ask))
        await until(lambda: gateway.endpoint("d").queued == 1)
        async with replica(handler) as url:
            await gateway.publish(endpoint("d", url))
            assert final(await asking).endswith(b"awake")

    asyncio.run(act())


def test_who_leaves_for_good_is_noticed_all_the_same(gateway: GatewayProcess) -> None:
    gone: list[bool] = []

    async def act() -> None:
        async def hangs(request: web.BaseRequest) -> web.StreamResponse:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                gone.append(True)
                raise
            return web.Response()

        async with replica(hangs) as url:
            await gateway.publish(endpoint("d", url))
            _, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
            writer.write(b"GET /endpoints/d/x HTTP/1.1\r\nHost: localhost\r\n\r\n")
            await until(lambda: gateway.endpoint("d").inflight == 1)
            writer.close()
            await until(lambda: gone)
            await until(lambda: gateway.endpoint("d").variants[0].errors == {"client_gone": 1})

    asyncio.run(act())


def test_half_a_request_is_none(gateway: GatewayProcess) -> None:
    assert half_closed(gateway.port, b"GET /healthz HTTP/1.1\r\nHost: localh") == b""


def test_a_model_server_answers_it(tmp_path: Path) -> None:
    save(tmp_path / "m", matmul())
    with model_serving(tmp_path / "m") as server:
        body = b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1,4],"data":[1,2,3,4]}]}'
        head = b"POST /v2/models/m/infer HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body)
        assert half_closed(server.port, head + body).startswith(b"HTTP/1.1 200 OK")
