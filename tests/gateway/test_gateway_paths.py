"""What a client sends comes to the replica, and its answer comes back, unchanged where it should be."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import pytest
from aiohttp import ClientError, ClientSession, WSMsgType, web
from helpers.gateway import GatewayProcess, client, endpoint, exchange, raw_replica, replica, request_head, says

from localml.core.serving.routes_table import Alias, token_hash


async def echo(request: web.BaseRequest) -> web.StreamResponse:
    """Answers with what it saw."""
    body = await request.read()
    seen = {
        "method": request.method,
        "path": request.raw_path,
        "headers": {name.lower(): value for name, value in request.headers.items()},
        "body": body.decode("latin-1"),
    }
    return web.json_response(seen)


def ask(gateway: GatewayProcess, path: str, **arguments: Any) -> dict[str, Any]:
    """One request through the gateway to an echoing replica."""

    async def act() -> dict[str, Any]:
        async with replica(echo) as url, client(gateway) as session:
            aliases = (Alias(prefix="/v1/infers/abc"), Alias(prefix="/models/digits", target="/v2/models/other"))
            await gateway.publish(endpoint("digits", url, aliases=aliases))
            method = arguments.pop("method", "POST")
            async with session.request(method, path, **arguments) as answer:
                assert answer.status == 200, await answer.text()
                seen: dict[str, Any] = await answer.json()
                return seen

    return asyncio.run(act())


@pytest.mark.parametrize(
    ("path", "seen"),
    [
        ("/endpoints/digits/v2/models/digits/infer", "/v2/models/digits/infer"),
        ("/v2/models/digits/versions/3/infer?a=b+c&d=%20", "/v2/models/digits/versions/3/infer?a=b+c&d=%20"),
        ("/v1/infers/abc", "/"),
        ("/v1/infers/abc/predict?x=1", "/predict?x=1"),
        ("/models/digits/infer", "/v2/models/other/infer"),
        ("/dlim/v1/inference/digits", "/dlim/v1/inference/digits"),
        ("/endpoints/digits?x=1", "/?x=1"),
    ],
)
def test_the_rest_of_the_path_goes_to_the_replica(gateway: GatewayProcess, path: str, seen: str) -> None:
    assert ask(gateway, path, data=b"1")["path"] == seen


def test_escapes_and_dots_in_a_path_stay_as_they_are(gateway: GatewayProcess) -> None:
    async def act() -> dict[str, Any]:
        async with replica(echo) as url:
            await gateway.publish(endpoint("digits", url))
            path = b"/endpoints/digits/a%2Fb/../c//d;e=%C3%A9?q=%2F"
            answer = await exchange(gateway.port, b"GET " + path + b" HTTP/1.0\r\n\r\n")
            seen: dict[str, Any] = json.loads(answer.partition(b"\r\n\r\n")[2])
            return seen

    assert asyncio.run(act())["path"] == "/a%2Fb/../c//d;e=%C3%A9?q=%2F"


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
def test_every_method_passes(gateway: GatewayProcess, method: str) -> None:
    seen = ask(gateway, "/endpoints/digits/x", method=method, data=b"body")
    assert (seen["method"], seen["body"]) == (method, "body")


def test_head_has_the_length_of_the_body_that_it_does_not_have(gateway: GatewayProcess) -> None:
    async def act() -> None:
        async with replica(says("twelve bytes")) as url, client(gateway) as session:
            await gateway.publish(endpoint("digits", url))
            for _ in range(3):  # the connection stays usable
                async with session.head("/endpoints/digits/x") as answer:
                    assert answer.headers["Content-Length"] == "12"
                async with session.get("/endpoints/digits/x") as answer:
                    assert await answer.text() == "twelve bytes"

    asyncio.run(act())


def test_headers_of_one_connection_stay_there_and_others_pass(gateway: GatewayProcess) -> None:
    given = {
        "X-Mine": "1",
        "Connection": "keep-alive, X-Hop",
        "X-Hop": "secret",
        "TE": "trailers",
        "X-Forwarded-For": "6.6.6.6",
        "Authorization": "Bearer for-the-replica",
        "Content-Type": "application/x-mine",
        "Content-Encoding": "br",
    }
    seen = ask(gateway, "/endpoints/digits/x", headers=given, data=b"packed")["headers"]
    assert {"x-hop", "te", "connection"} & set(seen) == set()
    assert seen["x-mine"] == "1"
    assert seen["content-type"] == "application/x-mine"
    assert seen["content-encoding"] == "br"
    assert seen["authorization"] == "Bearer for-the-replica"
    assert seen["x-forwarded-for"] == "127.0.0.1"
    assert seen["x-forwarded-prefix"] == "/endpoints/digits"
    assert seen["x-forwarded-host"] == f"127.0.0.1:{gateway.port}"


def test_a_chunked_body_arrives_whole(gateway: GatewayProcess) -> None:
    async def pieces() -> Any:
        for number in range(50):
            yield b"%04d" % number * 500

    seen = ask(gateway, "/endpoints/digits/x", data=pieces())
    assert seen["body"] == "".join(f"{number:04d}" * 500 for number in range(50))


def test_answers_without_a_body_and_with_doubled_headers(gateway: GatewayProcess) -> None:
    async def handler(request: web.BaseRequest) -> web.StreamResponse:
        status = int(request.raw_path.strip("/"))
        answer = web.Response(status=status)
        answer.headers.add("Set-Cookie", "a=1")
        answer.headers.add("Set-Cookie", "b=2")
        return answer

    async def act() -> None:
        async with replica(handler) as url, client(gateway) as session:
            await gateway.publish(endpoint("digits", url))
            for status in (204, 304, 200, 404, 500):
                async with session.get(f"/endpoints/digits/{status}") as answer:
                    assert (answer.status, await answer.read()) == (status, b"")
                    assert answer.headers.getall("Set-Cookie") == ["a=1", "b=2"]
                    assert answer.headers["X-Localml-Variant"] == "v1"

    asyncio.run(act())


@pytest.mark.parametrize(
    ("given", "seen"),
    [
        ("/v2/there", "/endpoints/digits/v2/there"),
        ("{origin}/there?x=1", "/endpoints/digits/there?x=1"),
        ("there", "there"),
        ("http://example.org/", "http://example.org/"),
        ("//example.org/", "//example.org/"),
    ],
)
def test_redirects_lead_through_the_gateway(gateway: GatewayProcess, given: str, seen: str) -> None:
    async def handler(request: web.BaseRequest) -> web.StreamResponse:
        return web.Response(status=307, headers={"Location": given.format(origin=f"http://{request.host}")})

    async def act() -> str:
        async with replica(handler) as url, client(gateway) as session:
            await gateway.publish(endpoint("digits", url))
            async with session.get("/endpoints/digits/x", allow_redirects=False) as answer:
                return str(answer.headers["Location"])

    assert asyncio.run(act()) == seen


def test_an_answer_is_passed_on_piece_by_piece_while_it_is_made(gateway: GatewayProcess) -> None:
    async def act() -> None:
        go_on = asyncio.Event()

        async def handler(request: web.BaseRequest) -> web.StreamResponse:
            answer = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
            await answer.prepare(request)
            await answer.write(b"data: 1\n\n")
            await go_on.wait()  # only the client, having seen the first piece, lets the second be made
            await answer.write(b"data: 2\n\n")
            return answer

        async with replica(handler) as url, client(gateway) as session:
            await gateway.publish(endpoint("digits", url))
            async with session.get("/endpoints/digits/stream") as answer:
                assert await answer.content.readany() == b"data: 1\n\n"
                go_on.set()
                assert await answer.content.read() == b"data: 2\n\n"

    asyncio.run(act())


def test_a_body_is_passed_on_while_it_is_sent(gateway: GatewayProcess) -> None:
    async def act() -> None:
        arrived = asyncio.Event()

        async def handler(request: web.BaseRequest) -> web.StreamResponse:
            assert await request.content.readany() == b"first"
            arrived.set()
            return web.Response(text=(await request.content.read()).decode())

        async def body() -> Any:
            yield b"first"
            await arrived.wait()
            yield b"second"

        async with replica(handler) as url, client(gateway) as session:
            await gateway.publish(endpoint("digits", url))
            async with session.post("/endpoints/digits/x", data=body()) as answer:
                assert await answer.text() == "second"

    asyncio.run(act())


def test_unknown_paths_are_404_in_json(gateway: GatewayProcess) -> None:
    async def act() -> None:
        async with client(gateway) as session:
            await gateway.publish(endpoint("digits", "http://127.0.0.1:9"))
            for path in ("/", "/endpoints", "/endpoints/digit", "/endpoints/digits2/x", "/v2/models", "/" * 5000):
                async with session.get(path) as answer:
                    assert answer.status == 404, path
                    assert (await answer.json())["code"] == "not_found"

    asyncio.run(act())


def test_tokens_are_asked_for_and_not_passed_on(gateway: GatewayProcess) -> None:
    async def act() -> None:
        async with replica(echo) as url, client(gateway) as session:
            await gateway.publish(
                endpoint("digits", url, token_hashes=(token_hash("right"), token_hash("other"))),
                endpoint("closed", url, token_hashes=()),
            )
            for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic right"}):
                async with session.get("/endpoints/digits/x", headers=headers) as answer:
                    assert answer.status == 401
                    assert answer.headers["WWW-Authenticate"].startswith("Bearer")
            given = ({"Authorization": "bearer right"}, {"X-Auth-Token": "other"}, {"X-User-Token": "other"})
            for headers in (*given, {"Authorization": "Basic right", "X-User-Token": "right"}):
                async with session.get("/v2/models/digits/x", headers=headers) as answer:
                    seen = (await answer.json())["headers"]
                    assert {"authorization", "x-auth-token", "x-user-token"} & set(seen) == set()
            async with session.get("/endpoints/closed/x", headers={"X-Auth-Token": "right"}) as answer:
                assert answer.status == 404, "a token of somebody who has no right to it"

    asyncio.run(act())


def test_what_takes_another_token_is_answered_as_what_is_not_there(
    gateway: GatewayProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever has no token for it does not learn by the answer that there is an endpoint, whatever it asks."""
    evil = {"Origin": "http://evil.example", "Connection": "Upgrade", "Upgrade": "websocket"}
    own, none = {"X-Auth-Token": "own"}, {"Authorization": "Bearer none"}

    async def act() -> None:
        async with replica(echo) as url, client(gateway) as session:
            monkeypatch.setattr(gateway, "readers", (token_hash("reader"),))
            await gateway.publish(
                endpoint("digits", url, token_hashes=(token_hash("right"),)),
                endpoint("owned", url, token_hashes=(token_hash("own"),)),
                endpoint("open", url),
            )

            async def asked(name: str, method: str, headers: dict[str, str]) -> tuple[int, str, str | None]:
                async with session.request(method, f"/endpoints/{name}/x", headers=headers) as answer:
                    words = (await answer.text()).replace(name, "NAME")
                    return answer.status, words, answer.headers.get("WWW-Authenticate")

            for given, status in (({}, 401), (none, 401), (own, 404), ({"X-Auth-Token": "reader"}, 404)):
                for method, more in (("GET", {}), ("POST", {}), ("GET", evil)):
                    closed = await asked("digits", method, given | more)
                    assert closed == await asked("absent", method, given | more)
                    assert closed[0] == status, (given, method, more)
            assert (await asked("open", "GET", {}))[0] == 200
            assert (await asked("owned", "GET", own))[0] == 200

    asyncio.run(act())


def test_no_replica_sees_the_token_of_a_user(gateway: GatewayProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    """What serves an open endpoint is somebody's own program, and clients of localml send their token with everything;
    what is no token of ours is the endpoint's own business."""

    async def act() -> None:
        async with replica(echo) as url, client(gateway) as session:
            monkeypatch.setattr(gateway, "known", (token_hash("ours"),))
            await gateway.publish(endpoint("open", url))
            for headers, passed in (
                ({"Authorization": "Bearer ours"}, set()),
                ({"X-Auth-Token": "ours"}, set()),
                ({"Authorization": "Bearer theirs", "X-Auth-Token": "ours"}, set()),
                ({"Authorization": "Bearer theirs"}, {"authorization"}),
                ({"Authorization": "Basic b3Vycw=="}, {"authorization"}),
            ):
                async with session.get("/endpoints/open/x", headers=headers) as answer:
                    seen = (await answer.json())["headers"]
                assert {"authorization", "x-auth-token"} & set(seen) == passed, headers

    asyncio.run(act())


def test_a_page_of_another_site_cannot_call_in(gateway: GatewayProcess) -> None:
    async def act() -> None:
        async with replica(echo) as url, client(gateway) as session:
            await gateway.publish(endpoint("digits", url))
            for host, status in (
                ("evil.example:7071", 403),
                ("localhost:1", 200),
                ("192.168.1.7:7071", 403),
                ("[::1]:7071", 200),
            ):
                async with session.get("/endpoints/digits/x", headers={"Host": host}) as answer:
                    assert answer.status == status, host
            for header in ({"Origin": "http://evil.example"}, {"Sec-Fetch-Site": "cross-site"}):
                async with session.post("/endpoints/digits/x", headers=header) as answer:
                    assert (answer.status, (await answer.json())["code"]) == (403, "foreign_page")
                async with session.get("/endpoints/digits/x", headers=header) as answer:
                    assert answer.status == 200, "the browser keeps what no answer permits to be read"
                upgrade = {**header, "Connection": "Upgrade", "Upgrade": "websocket"}
                async with session.get("/endpoints/digits/x", headers=upgrade) as answer:
                    assert answer.status == 403
            async with session.post("/endpoints/digits/x", headers={"Origin": gateway.url}) as answer:
                assert answer.status == 200, "a page of the endpoint's own"
            await gateway.publish(endpoint("digits", url, token_hashes=(token_hash("right"),)))
            given = {"Origin": "http://evil.example", "Authorization": "Bearer right"}
            async with session.post("/endpoints/digits/x", headers=given) as answer:
                assert answer.status == 200, "whoever has the token may have a page of his own"

    asyncio.run(act())


def test_websockets_pass_both_ways(gateway: GatewayProcess) -> None:
    async def handler(request: web.BaseRequest) -> web.StreamResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        async for message in socket:
            if message.type is WSMsgType.TEXT:
                await socket.send_str(message.data.upper())
            else:
                await socket.send_bytes(message.data[::-1])
        return socket

    async def act() -> None:
        async with replica(handler) as url, client(gateway) as session:
            await gateway.publish(endpoint("digits", url))
            async with session.ws_connect("/endpoints/digits/ws", max_msg_size=0) as socket:
                await socket.send_str("hello")
                assert await socket.receive_str() == "HELLO"
                big = bytes(range(256)) * 10_000
                await socket.send_bytes(big)
                assert await socket.receive_bytes() == big[::-1]

    asyncio.run(act())


def test_what_is_open_ends_when_its_token_is_taken_away(gateway: GatewayProcess) -> None:
    """A WebSocket and a stream of events, of one token of two; within a second of the table's change."""

    async def handler(request: web.BaseRequest) -> web.StreamResponse:
        if request.path == "/ws":
            socket = web.WebSocketResponse()
            await socket.prepare(request)
            async for message in socket:
                await socket.send_str(message.data)
            return socket
        answer = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await answer.prepare(request)
        for _ in range(1000):
            await answer.write(b"data: 1\n\n")
            await asyncio.sleep(0.05)
        return answer

    async def act() -> None:
        async with replica(handler) as url, client(gateway) as session:
            both = (token_hash("ends"), token_hash("stays"))
            await gateway.publish(endpoint("digits", url, token_hashes=both))
            sockets, streams = {}, {}
            for token in ("ends", "stays"):
                headers = {"Authorization": f"Bearer {token}"}
                sockets[token] = await session.ws_connect("/endpoints/digits/ws", headers=headers)
                streams[token] = await session.get("/endpoints/digits/events", headers=headers)
                assert await streams[token].content.readline() == b"data: 1\n"
            began = time.monotonic()
            gateway.write(endpoint("digits", url, token_hashes=both[1:]))
            ended = await sockets["ends"].receive(timeout=30)
            assert ended.type in (WSMsgType.CLOSE, WSMsgType.CLOSED, WSMsgType.ERROR)
            with pytest.raises(ClientError):
                await streams["ends"].content.read()
            assert time.monotonic() - began < 5.0  # measured: hundredths, if the machine does nothing else
            await sockets["stays"].send_str("still here")
            assert (await sockets["stays"].receive(timeout=30)).data == "still here"
            await streams["stays"].content.readline()
            assert await streams["stays"].content.readline() == b"data: 1\n"
            for token in ("ends", "stays"):
                streams[token].close()
                await sockets[token].close()

    asyncio.run(act())


def test_a_refused_websocket_is_an_ordinary_answer(gateway: GatewayProcess) -> None:
    async def act() -> None:
        async with replica(says("no")) as url:
            await gateway.publish(endpoint("digits", url))
            head = b"GET /endpoints/digits/ws HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket"
            answer = await exchange(gateway.port, head + b"\r\n\r\n")
            assert answer.startswith(b"HTTP/1.1 200 OK")
            assert answer.endswith(b"\r\n\r\nno")

    asyncio.run(act())


@pytest.mark.parametrize(
    "framing", [b"Content-Length: 5\r\n\r\nhello", b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"]
)
def test_a_client_that_would_rather_speak_http2_is_served(gateway: GatewayProcess, framing: bytes) -> None:
    """Java's HttpClient asks for h2c with every first request, body and all."""

    async def act() -> bytes:
        async with replica(echo) as url:
            await gateway.publish(endpoint("digits", url))
            head = b"POST /endpoints/digits/x HTTP/1.1\r\nHost: localhost\r\n"
            wish = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQ\r\n"
            return await exchange(gateway.port, head + wish + framing)

    seen = json.loads(asyncio.run(act()).partition(b"\r\n\r\n")[2])
    assert seen["body"] == "hello"
    assert "upgrade" not in seen["headers"]


def test_http_1_0_clients_get_answers_that_they_understand(gateway: GatewayProcess) -> None:
    async def stream(request: web.BaseRequest) -> web.StreamResponse:
        answer = web.StreamResponse()
        await answer.prepare(request)
        await answer.write(b"one ")
        await answer.write(b"two")
        return answer

    async def act() -> None:
        async with replica(stream) as url, replica(says("ok")) as plain:
            await gateway.publish(endpoint("s", url), endpoint("p", plain))
            answer = await exchange(gateway.port, b"GET /endpoints/s/x HTTP/1.0\r\n\r\n")
            assert b"chunked" not in answer.lower()
            assert answer.endswith(b"\r\n\r\none two")
            kept = b"GET /endpoints/p/x HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"
            answer = await exchange(gateway.port, kept + b"GET /endpoints/p/x HTTP/1.0\r\n\r\n")
            assert answer.count(b"HTTP/1.1 200 OK") == 2

    asyncio.run(act())


def test_requests_sent_ahead_are_answered_in_order(gateway: GatewayProcess) -> None:
    async def act() -> None:
        async with replica(echo) as url:
            await gateway.publish(endpoint("digits", url))
            one = b"POST /endpoints/digits/%d HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\n\r\nabc"
            last = b"GET /endpoints/digits/end HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
            answer = await exchange(gateway.port, b"".join(one % number for number in range(40)) + last)
            bodies = [part.partition(b"\r\n\r\n")[2] for part in answer.split(b"HTTP/1.1 200 OK")[1:]]
            paths = [json.loads(body)["path"] for body in bodies]
            assert paths == [*(f"/{number}" for number in range(40)), "/end"]

    asyncio.run(act())


def test_a_client_that_waits_for_100_continue_is_told_to_go_on(gateway: GatewayProcess) -> None:
    async def act() -> None:
        async with replica(echo) as url, ClientSession(gateway.url) as session:
            await gateway.publish(endpoint("digits", url))
            async with session.post("/endpoints/digits/x", data=b"x" * 1000, expect100=True) as answer:
                seen = await answer.json()
                assert len(seen["body"]) == 1000
                assert "expect" not in seen["headers"]

    asyncio.run(act())


def test_remarks_of_a_replica_before_its_answer_are_skipped(gateway: GatewayProcess) -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request_head(reader)
        writer.write(b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi")
        await writer.drain()
        await reader.read()

    async def act() -> None:
        async with raw_replica(handler) as url, client(gateway) as session:
            await gateway.publish(endpoint("digits", url))
            async with session.get("/endpoints/digits/x") as answer:
                assert (answer.status, await answer.text()) == (200, "hi")
                assert "Link" not in answer.headers

    asyncio.run(act())


def test_an_answer_that_ends_with_its_connection_is_complete(gateway: GatewayProcess) -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request_head(reader)
        writer.write(b"HTTP/1.0 200 OK\r\n\r\n" + b"x" * 300_000)
        await writer.drain()

    async def act() -> None:
        async with raw_replica(handler) as url, client(gateway) as session:
            await gateway.publish(endpoint("digits", url))
            async with session.get("/endpoints/digits/x") as answer:
                assert len(await answer.read()) == 300_000

    asyncio.run(act())
