"""Sharing traffic between versions, limits, waiting, and endpoints that sleep."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path

import pytest
from aiohttp import ClientSession, web
from helpers.gateway import GatewayProcess, client, endpoint, replica, says, until, variant

from localml.core.serving.routes_table import EndpointRoute, Limits, ReplicaState, wake_folder


async def ask(session: ClientSession, path: str = "/endpoints/d/x", **headers: str) -> tuple[int, str]:
    async with session.post(path, data=b"1", headers=headers) as answer:
        return answer.status, await answer.text()


def test_traffic_is_shared_by_weight(gateway: GatewayProcess) -> None:
    async def act() -> None:
        async with (
            replica(says("a")) as a,
            replica(says("b")) as b,
            replica(says("c")) as c,
            client(gateway) as session,
        ):
            variants = (variant("a", a, weight=7), variant("b", b, weight=3), variant("c", c, weight=0))
            await gateway.publish(EndpointRoute(name="d", variants=variants, health=None))
            seen = Counter([(await ask(session))[1] for _ in range(100)])
            assert seen == {"a": 70, "b": 30}
            assert await ask(session, **{"X-Localml-Variant": "c"}) == (200, "c")
            status, text = await ask(session, **{"X-Localml-Variant": "z"})
            assert status == 400
            assert "a, b, c" in text
            await until(lambda: sum(one.requests for one in gateway.endpoint("d").variants) == 101)
            assert [one.requests for one in gateway.endpoint("d").variants] == [70, 30, 1]

    asyncio.run(act())


def test_the_least_busy_replica_gets_the_next_request(gateway: GatewayProcess) -> None:
    async def act() -> None:
        entered, free = asyncio.Event(), asyncio.Event()

        async def slow(request: web.BaseRequest) -> web.StreamResponse:
            await request.read()
            entered.set()
            await free.wait()
            return web.Response(text="slow")

        async with replica(slow) as a, replica(says("fast")) as b, client(gateway) as session:
            await gateway.publish(endpoint("d", a, b))
            slow_one = asyncio.create_task(entered.wait())
            while not entered.is_set():  # until the slow one has a request
                task = asyncio.create_task(ask(session))
                await asyncio.wait([task, slow_one], return_when=asyncio.FIRST_COMPLETED)
            assert {(await ask(session))[1] for _ in range(20)} == {"fast"}
            free.set()
            assert await task == (200, "slow")

    asyncio.run(act())


def test_more_than_the_limit_wait_and_more_than_the_queue_are_refused(gateway: GatewayProcess) -> None:
    async def act() -> None:
        free = asyncio.Event()
        inside: list[int] = []
        most = [0]

        async def slow(request: web.BaseRequest) -> web.StreamResponse:
            await request.read()
            inside.append(1)
            most[0] = max(most[0], len(inside))
            await free.wait()
            inside.pop()
            return web.Response(text="done")

        async with replica(slow) as url, client(gateway) as session:
            await gateway.publish(endpoint("d", url, limits=Limits(max_concurrent=2, max_queue=3)))
            tasks = [asyncio.create_task(ask(session)) for _ in range(5)]
            await until(lambda: (gateway.endpoint("d").inflight, gateway.endpoint("d").queued) == (2, 3))
            status, text = await ask(session)
            assert status == 503
            assert "queue_full" in text
            free.set()
            assert await asyncio.gather(*tasks) == [(200, "done")] * 5
            assert most[0] == 2
            await until(lambda: gateway.endpoint("d").refused == {"queue_full": 1})

    asyncio.run(act())


def test_waiting_has_an_end(gateway: GatewayProcess) -> None:
    async def act() -> None:
        free = asyncio.Event()

        async def slow(request: web.BaseRequest) -> web.StreamResponse:
            await free.wait()
            return web.Response()

        async with replica(slow) as url, client(gateway) as session:
            await gateway.publish(endpoint("d", url, limits=Limits(max_concurrent=1, queue_timeout_s=0.2)))
            first = asyncio.create_task(ask(session))
            await until(lambda: gateway.endpoint("d").inflight == 1)
            async with session.get("/endpoints/d/x") as answer:
                assert answer.status == 503
                assert answer.headers["Retry-After"] == "1"
            free.set()
            assert (await first)[0] == 200

    asyncio.run(act())


def test_requests_of_a_sleeping_endpoint_are_held_until_it_is_awake(gateway: GatewayProcess) -> None:
    async def act() -> None:
        async with replica(says("awake")) as url, client(gateway) as session:
            asleep = endpoint("d", scale_to_zero=True, wake_hint="workload 7")
            await gateway.publish(asleep)
            tasks = [asyncio.create_task(ask(session)) for _ in range(20)]
            file = wake_folder(gateway.data) / "d"
            await until(lambda: file.exists() and file.read_text() == "workload 7")
            file.unlink()
            await until(file.exists)  # asked again as long as somebody waits: a wake call can be lost
            await until(lambda: gateway.endpoint("d").queued == 20)
            await gateway.publish(endpoint("d", url, scale_to_zero=True))
            assert await asyncio.gather(*tasks) == [(200, "awake")] * 20

    asyncio.run(act())


def test_a_request_whose_replica_goes_while_its_body_comes_is_held_as_well(gateway: GatewayProcess) -> None:
    async def act() -> None:
        async with replica(says("back")) as url:
            await gateway.publish(endpoint("d", url, scale_to_zero=True))
            reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
            writer.write(b"POST /endpoints/d/x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\na")
            await until(lambda: gateway.endpoint("d").inflight == 1)
            await gateway.publish(endpoint("d", scale_to_zero=True))
            writer.write(b"b")
            await until(lambda: gateway.endpoint("d").queued == 1)
            assert gateway.endpoint("d").inflight == 0
            await gateway.publish(endpoint("d", url, scale_to_zero=True))
            assert await reader.readline() == b"HTTP/1.1 200 OK\r\n"
            writer.close()

    asyncio.run(act())


def test_a_held_request_ends_with_its_endpoint_or_its_client(gateway: GatewayProcess) -> None:
    async def act() -> None:
        async with client(gateway) as session:
            await gateway.publish(endpoint("d", scale_to_zero=True))
            task = asyncio.create_task(ask(session))
            _, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
            writer.write(b"GET /endpoints/d/x HTTP/1.1\r\nHost: localhost\r\n\r\n")
            await until(lambda: gateway.endpoint("d").queued == 2)
            writer.close()
            await until(lambda: gateway.endpoint("d").queued == 1)
            await gateway.publish()
            assert (await task)[0] == 404

    asyncio.run(act())


def test_without_scaling_to_zero_nothing_ready_is_a_503_at_once(gateway: GatewayProcess) -> None:
    async def act() -> None:
        async with replica(says("ok")) as url, client(gateway) as session:
            draining = variant("v1", url, state=ReplicaState.DRAINING)
            await gateway.publish(endpoint("none"), EndpointRoute(name="d", variants=(draining,), health=None))
            for path in ("/endpoints/none/x", "/endpoints/d/x"):
                status, text = await ask(session, path)
                assert status == 503
                assert "no_replica" in text

    asyncio.run(act())


def test_a_draining_replica_finishes_and_gets_nothing_new(gateway: GatewayProcess) -> None:
    async def act() -> None:
        free = asyncio.Event()

        async def old(request: web.BaseRequest) -> web.StreamResponse:
            await free.wait()
            return web.Response(text="old")

        async with replica(old) as a, replica(says("new")) as b, client(gateway) as session:
            await gateway.publish(endpoint("d", a))
            task = asyncio.create_task(ask(session))
            await until(lambda: gateway.endpoint("d").inflight == 1)
            leaving = variant("v1", a, state=ReplicaState.DRAINING)
            await gateway.publish(EndpointRoute(name="d", variants=(leaving, variant("v2", b)), health=None))
            assert {(await ask(session))[1] for _ in range(10)} == {"new"}
            await gateway.publish(EndpointRoute(name="d", variants=(variant("v2", b),), health=None))
            shown = {one.url: (one.state, one.inflight) for one in gateway.endpoint("d").replicas}
            assert shown[a] == ("gone", 1), "the control plane can see that it must not be stopped yet"
            free.set()
            assert await task == (200, "old")
            await until(lambda: a not in {one.url for one in gateway.endpoint("d").replicas})

    asyncio.run(act())


@pytest.mark.timeout(400)
def test_no_request_is_lost_while_versions_change_and_a_replica_dies(gateway: GatewayProcess, tmp_path: Path) -> None:
    """The endpoint goes from version 1 to 2 to 3 as the control plane does it, under full load, and one replica of
    each version is killed without a word; every request is answered, and the last ones by version 3."""
    count, clients = 10_000, 16

    async def act() -> None:
        answers: Counter[tuple[int, str]] = Counter()
        left = iter(range(count))
        rolled = asyncio.Event()

        async def load() -> None:
            async with ClientSession(gateway.url) as session:
                for number in left:
                    if number >= count * 0.8:  # a quick machine would be through before the last version is there
                        await rolled.wait()
                    answers[await ask(session)] += 1

        def versions(*shown: tuple[str, ReplicaState, list[str]]) -> EndpointRoute:
            return EndpointRoute(
                name="d", variants=tuple(variant(name, *urls, state=state) for name, state, urls in shown), health=None
            )

        async def served(share: float) -> None:
            await until(lambda: answers.total() >= count * share)

        async with replicas("1") as one, replicas("2") as two, replicas("3") as three:
            ready, draining = ReplicaState.READY, ReplicaState.DRAINING
            await gateway.publish(versions(("v1", ready, one.urls)))
            loads = [asyncio.create_task(load()) for _ in range(clients)]
            for share, old, new, names in ((0.2, one, two, ("v1", "v2")), (0.5, two, three, ("v2", "v3"))):
                await served(share)
                await old.kill_one()
                await served(share + 0.1)
                await gateway.publish(versions((names[0], draining, old.urls), (names[1], ready, new.urls)))
                await until(lambda: not any(r.inflight for r in gateway.endpoint("d").replicas if r.state != "ready"))
                await old.stop()
                await gateway.publish(versions((names[1], ready, new.urls)))
            rolled.set()
            await asyncio.gather(*loads)
        assert {status for status, _ in answers} == {200}, answers
        assert {text for _, text in answers} == {"1", "2", "3"}
        assert answers.total() == count

    asyncio.run(act())


class replicas:
    """Two replicas of one version that can be ended at will."""

    def __init__(self, text: str) -> None:
        self._text = text
        self.urls: list[str] = []

    async def __aenter__(self) -> replicas:
        self._runners = []
        for _ in range(2):
            runner = web.ServerRunner(web.Server(says(self._text), access_log=None), shutdown_timeout=0.01)
            await runner.setup()
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            self._runners.append(runner)
            self.urls.append(f"http://127.0.0.1:{runner.addresses[0][1]}")
        return self

    async def kill_one(self) -> None:
        """The first one's connections are reset in the middle of what they do, and its port is closed."""
        runner = self._runners[0]
        assert runner.server is not None
        for site in list(runner.sites):
            await site.stop()
        for connection in runner.server.connections:
            assert connection.transport is not None
            connection.transport.abort()

    async def stop(self) -> None:
        for runner in self._runners:
            await runner.cleanup()

    async def __aexit__(self, *_: object) -> None:
        await self.stop()
