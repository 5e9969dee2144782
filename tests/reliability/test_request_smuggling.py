"""What two servers might read in two ways is read by neither of ours: 400, and the connection ends, so that nothing of
what came with it is taken for another request. The API and the gateway."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from aiohttp import web
from helpers.counts import count
from helpers.gateway import GatewayProcess, endpoint, replica, running, says
from helpers.http_socket import serving

HOST = b"Host: localhost\r\n"
NEXT = b"GET /smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n"
CHUNK = b"\r\n\r\n0\r\n\r\n"

HEADS = {
    "both lengths": b"Content-Length: 4\r\nTransfer-Encoding: chunked" + CHUNK,
    "both lengths, the other way round": b"Transfer-Encoding: chunked\r\nContent-Length: 4" + CHUNK,
    "both lengths, one of them hidden": b"Content-Length: 4\r\nTransfer-Encoding:\tchunked" + CHUNK,
    "two lengths": b"Content-Length: 0\r\nContent-Length: 44\r\n\r\n",
    "two lengths in one": b"Content-Length: 0, 44\r\n\r\n",
    "one length twice in one": b"Content-Length: 0, 0\r\n\r\n",
    "a signed length": b"Content-Length: +0\r\n\r\n",
    "a negative length": b"Content-Length: -1\r\n\r\n",
    "a length in hex": b"Content-Length: 0x0\r\n\r\n",
    "an empty length": b"Content-Length: \r\n\r\n",
    "a length that is too large for any": b"Content-Length: 99999999999999999999999\r\n\r\n",
    "a folded header": b"X: 1\r\n folded: 2\r\n\r\n",
    "a folded header, by a tab": b"X: 1\r\n\tfolded\r\n\r\n",
    "a folded length": b"Content-Length:\r\n 0\r\n\r\n",
    "a folded encoding": b"Transfer-Encoding:\r\n chunked" + CHUNK,
    "a space before the colon": b"Transfer-Encoding : chunked" + CHUNK,
    "a tab before the colon": b"Content-Length\t: 0\r\n\r\n",
    "a space before the name": b" Content-Length: 0\r\n\r\n",
    "no name": b": x\r\n\r\n",
    "a bare CR in a value": b"X: a\rTransfer-Encoding: chunked\r\n\r\n",
    "a bare CR as an end": b"X: a\r\rY: b\r\n\r\n",
    "a NUL in a value": b"X: a\0b\r\n\r\n",
    "a NUL in a name": b"X\0: a\r\n\r\n",
    "another character in a name": b"X(y): a\r\n\r\n",
    "another encoding": b"Transfer-Encoding: identity\r\nContent-Length: 0\r\n\r\n",
    "chunked and more": b"Transfer-Encoding: chunked, identity" + CHUNK,
    "chunked twice": b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked" + CHUNK,
    "chunked in quotes": b'Transfer-Encoding: "chunked"' + CHUNK,
    "a vertical tab before chunked": b"Transfer-Encoding: \x0bchunked" + CHUNK,
    "a second encoding": b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity" + CHUNK,
    "a chunk size in two ways": b"Transfer-Encoding: chunked\r\n\r\n0x1\r\na\r\n0\r\n\r\n",
    "a negative chunk": b"Transfer-Encoding: chunked\r\n\r\n-1\r\n\r\n",
    "a chunk that is longer than it says": b"Transfer-Encoding: chunked\r\n\r\n1\r\nabc\r\n0\r\n\r\n",
    "a chunk without end": b"Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\na\r\n0\r\n\r\n",
    "a space before a chunk's size": b"Transfer-Encoding: chunked\r\n\r\n 1\r\na\r\n0\r\n\r\n",
}


def lines_of(case: str) -> bytes:
    return b"POST /endpoints/d/first HTTP/1.1\r\n" + HOST + HEADS[case]


def told(port: int, sent: bytes) -> bytes:
    """All that is answered until the server closes the connection."""
    with socket.create_connection(("127.0.0.1", port), timeout=30) as one:
        one.sendall(sent)
        answer = b""
        try:
            while piece := one.recv(1 << 16):
                answer += piece
        except ConnectionResetError:
            pass
        return answer


@pytest.fixture(scope="module")
def api() -> Iterator[tuple[int, list[str]]]:
    """Our server, with an app that notes what it is asked for."""
    seen: list[str] = []

    def app(environ: dict[str, object], start_response: object) -> list[bytes]:
        seen.append(str(environ["PATH_INFO"]))
        environ["wsgi.input"].read()  # type: ignore[attr-defined]
        start_response("200 OK", [])  # type: ignore[operator]
        return [b"ok"]

    with serving(app) as server:
        yield server.port, seen


@pytest.mark.parametrize("case", HEADS)
def test_the_api_refuses_and_ends_the_connection(api: tuple[int, list[str]], case: str) -> None:
    port, seen = api
    answer = told(port, lines_of(case) + NEXT)
    count("requests tried", 2)
    assert answer.count(b"HTTP/1.1 ") == 1, answer
    assert "/smuggled" not in seen
    assert answer[9:12] in (b"400", b"500"), answer[:200]  # 500: the app had begun to read, and its body broke off
    if "chunk" not in case:
        assert answer[9:12] == b"400", answer[:200]
    assert b"connection: close" in answer


def test_the_gateway_refuses_and_ends_the_connection_and_a_replica_sees_no_second_request(tmp_path: Path) -> None:
    seen: list[str] = []

    async def notes(request: web.BaseRequest) -> web.StreamResponse:
        seen.append(request.path)
        return await says("ok")(request)

    async def act(gateway: GatewayProcess) -> None:
        async with replica(notes) as url:
            await gateway.publish(endpoint("d", url))
            for case in HEADS:
                answer = await asyncio.to_thread(told, gateway.port, lines_of(case) + NEXT)
                count("requests tried", 2)
                assert answer.count(b"HTTP/1.1 ") == 1, (case, answer)
                assert answer.startswith(b"HTTP/1.1 400"), (case, answer)
                assert b"connection: close" in answer, (case, answer)
            assert not any("smuggled" in path for path in seen)

    for gateway in running(tmp_path / "data"):
        asyncio.run(act(gateway))
