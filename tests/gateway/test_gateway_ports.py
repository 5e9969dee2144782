"""Ports of single endpoints, beside the gateway's own."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest
from aiohttp import ClientConnectorError, ClientSession, web
from helpers.gateway import GatewayProcess, endpoint, replica, until
from helpers.ports import free_port

from localml.core.serving.routes_table import token_hash


async def ask(port: int, path: str, **arguments: Any) -> str:
    async with ClientSession() as session, session.get(f"http://127.0.0.1:{port}{path}", **arguments) as answer:
        return f"{answer.status} {await answer.text()}"


async def first(request: web.BaseRequest) -> web.StreamResponse:
    return web.Response(text=f"first {request.raw_path}")


async def second(request: web.BaseRequest) -> web.StreamResponse:
    return web.Response(text=f"second {request.raw_path}")


@pytest.mark.parametrize(
    ("path", "seen"),
    [
        ("/v2/models/a/infer?x=1", "/v2/models/a/infer?x=1"),
        ("/endpoints/a/predict", "/predict"),
        ("/", "/"),
        ("/healthz", "/healthz"),
        ("/endpoints/b/predict", "/endpoints/b/predict"),
    ],
)
def test_every_path_of_its_port_leads_to_the_endpoint(gateway: GatewayProcess, path: str, seen: str) -> None:
    async def act() -> str:
        async with replica(first) as one, replica(second) as other:
            port = free_port()
            await gateway.publish(endpoint("a", one, port=port), endpoint("b", other))
            return await ask(port, path)

    assert asyncio.run(act()) == f"200 first {seen}"


def test_a_port_takes_no_other_token_than_the_endpoint(gateway: GatewayProcess) -> None:
    async def act() -> list[str]:
        async with replica(first) as one:
            port = free_port()
            await gateway.publish(endpoint("a", one, port=port, token_hashes=(token_hash("sesame"),)))
            return [await ask(port, "/x"), await ask(port, "/x", headers={"authorization": "Bearer sesame"})]

    without, given = asyncio.run(act())
    assert without.startswith("401 ")
    assert given == "200 first /x"


def test_a_port_goes_with_its_endpoint_to_another_and_is_closed_at_last(gateway: GatewayProcess) -> None:
    async def act() -> list[str]:
        async with replica(first) as one, replica(second) as other:
            port = free_port()
            await gateway.publish(endpoint("a", one, port=port))
            answers = [await ask(port, "/x")]
            await gateway.publish(endpoint("a", one), endpoint("b", other, port=port))
            answers.append(await ask(port, "/x"))
            await gateway.publish(endpoint("a", one), endpoint("b", other))
            with pytest.raises(ClientConnectorError):
                await ask(port, "/x")
            return answers

    assert asyncio.run(act()) == ["200 first /x", "200 second /x"]


def test_a_port_that_somebody_has_is_named_and_taken_once_it_is_free(gateway: GatewayProcess) -> None:
    async def act() -> str:
        async with replica(first) as one:
            with socket.socket() as holder:
                holder.bind(("127.0.0.1", 0))
                holder.listen()
                port = int(holder.getsockname()[1])
                await gateway.publish(endpoint("a", one, port=port))
                told = gateway.stats().port_error
                assert f"port {port} of a cannot be listened on" in told
            await until(lambda: gateway.stats().port_error is None)
            return await ask(port, "/x")

    assert asyncio.run(act()) == "200 first /x"
