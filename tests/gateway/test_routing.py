"""Which endpoint, which variant, which replica: the rules, without any network."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from functools import wraps
from typing import Any

import pytest
from helpers.gateway import endpoint, variant
from hypothesis import given
from hypothesis import strategies as st

from localml.core.serving.routes_table import Alias, EndpointRoute, Limits, ReplicaState, RouteTable
from localml.gateway.admission import Gate, Refused
from localml.gateway.routing import EJECT_FIRST, EJECT_MOST, TIMEOUTS_TOLERATED, Endpoint, Router


def on_loop(test: Callable[..., Any]) -> Callable[..., None]:
    """Run an async test."""

    @wraps(test)
    def run(*arguments: Any, **named: Any) -> None:
        asyncio.run(test(*arguments, **named))

    return run


def no_wake(name: str, hint: str) -> None:
    raise AssertionError("nobody waits")


def router(*endpoints: EndpointRoute) -> Router:
    made = Router(no_wake)
    made.apply(RouteTable(endpoints=endpoints))
    return made


def urls(count: int, first: int = 10_000) -> list[str]:
    return [f"http://127.0.0.1:{first + number}" for number in range(count)]


def runtime(route: EndpointRoute) -> Endpoint:
    return router(route).endpoints[route.name]


@given(st.lists(st.integers(0, 20), min_size=1, max_size=5).filter(any))
def test_shares_are_exact_over_each_round(weights: list[int]) -> None:
    variants = tuple(
        variant(f"v{number}", *urls(1, 10_000 + number), weight=weight) for number, weight in enumerate(weights)
    )
    one = runtime(EndpointRoute(name="d", variants=variants))
    for _ in range(3):
        seen = Counter(choice[0].name for _ in range(sum(weights)) if (choice := one.choose(0.0, None)) is not None)
        assert [seen[f"v{number}"] for number in range(len(weights))] == weights


@given(st.lists(st.integers(0, 5), min_size=1, max_size=6), st.sets(st.integers(0, 5)))
def test_the_chosen_replica_is_usable_and_none_is_less_busy(busy: list[int], out: set[int]) -> None:
    one = runtime(endpoint("d", *urls(len(busy))))
    replicas = one.variants["v1"].replicas
    for replica, inflight in zip(replicas, busy, strict=True):
        replica.inflight = inflight
    for number in out & set(range(len(busy))):
        replicas[number].failed(0.0)
    choice = one.choose(0.1, None)
    assert choice is not None, "when all are left out, one is tried all the same"
    usable = [replica for replica in replicas if replica.usable(0.1)]
    if usable:
        assert choice[1] in usable
        assert choice[1].inflight == min(replica.inflight for replica in usable)


def test_equal_replicas_take_turns() -> None:
    one = runtime(endpoint("d", *urls(3)))
    seen = Counter(choice[1].id for _ in range(30) if (choice := one.choose(0.0, None)) is not None)
    assert seen == {"v1-0": 10, "v1-1": 10, "v1-2": 10}


def test_a_replica_is_never_chosen_twice_for_one_request() -> None:
    one = runtime(endpoint("d", *urls(3)))
    tried: set[Any] = set()
    for _ in range(3):
        choice = one.choose(0.0, None, tried)
        assert choice is not None
        assert choice[1] not in tried
        tried.add(choice[1])
    assert one.choose(0.0, None, tried) is None


def test_a_failing_replica_is_left_out_for_longer_each_time() -> None:
    (replica,) = runtime(endpoint("d", *urls(1))).variants["v1"].replicas
    now, times = 100.0, []
    for _ in range(9):
        replica.failed(now)
        times.append(replica.left_out_until - now)
        replica.failed(now + 0.01)  # one that was under way at the same time does not count again
        assert replica.left_out_until == now + times[-1]
        assert not replica.usable(replica.left_out_until - 0.001)
        now = replica.left_out_until
        assert replica.usable(now)
    assert times == [min(EJECT_MOST, EJECT_FIRST * 2**number) for number in range(9)]
    replica.succeeded()
    replica.failed(now)
    assert replica.left_out_until - now == EJECT_FIRST


def test_time_outs_in_a_row_leave_a_replica_out_and_single_ones_do_not() -> None:
    (replica,) = runtime(endpoint("d", *urls(1))).variants["v1"].replicas
    for _ in range(10):
        for _ in range(TIMEOUTS_TOLERATED - 1):
            replica.timed_out(0.0)
        replica.succeeded()
    assert replica.usable(0.0)
    for _ in range(TIMEOUTS_TOLERATED):
        replica.timed_out(0.0)
    assert not replica.usable(0.0)


def test_what_is_known_outlives_the_table() -> None:
    made = router(endpoint("d", *urls(2)))
    kept, gone = made.endpoints["d"].variants["v1"].replicas
    kept.failed(0.0)
    gone.inflight = 1
    made.endpoints["d"].variants["v1"].counts.record(200, None, 0.01)
    made.apply(RouteTable(generation=2, endpoints=(endpoint("d", urls(1)[0]), endpoint("e", *urls(1)))))
    one = made.endpoints["d"]
    assert one.variants["v1"].replicas == [kept]
    assert kept.failures == 1
    assert one.variants["v1"].counts.requests == 1
    assert list(one.replicas()) == [kept, gone]
    gone.inflight = 0
    assert list(one.replicas()) == [kept]


def test_a_replica_at_another_url_is_another_replica() -> None:
    made = router(endpoint("d", *urls(1)))
    (old,) = made.endpoints["d"].variants["v1"].replicas
    old.failed(0.0)
    made.apply(RouteTable(endpoints=(endpoint("d", *urls(1, 20_000)),)))
    (new,) = made.endpoints["d"].variants["v1"].replicas
    assert (new.id, new.url, new.failures) == (old.id, urls(1, 20_000)[0], 0)


segment = st.text("ab/.%", max_size=4)


@given(st.lists(segment, max_size=8).map(lambda parts: "/" + "/".join(parts)))
def test_the_longest_prefix_wins_and_ends_at_a_slash(path: str) -> None:
    aliases = (Alias(prefix="/a"), Alias(prefix="/a/b"), Alias(prefix="/a/b/a/b"))
    made = router(endpoint("d", aliases=aliases))
    prefixes = made.endpoints["d"].route.prefixes()
    fitting = [one for one in prefixes if path == one or path.startswith(one + "/")]
    place = made.match(path)
    assert (place.prefix if place is not None else None) == max(fitting, key=len, default=None)


def test_an_alias_may_redefine_a_built_in_prefix() -> None:
    made = router(endpoint("d", aliases=(Alias(prefix="/v2/models/d", target="/v2/models/other"),)))
    place = made.match("/v2/models/d/infer")
    assert place is not None
    assert place.target == "/v2/models/other"


def no_call() -> None:
    raise AssertionError("nothing sleeps")


@on_loop
async def test_places_are_given_in_the_order_of_arrival() -> None:
    gate = Gate(no_call)
    gate.configure(Limits(max_concurrent=1), routable=True, holds=False)
    assert gate.try_enter()
    order: list[int] = []

    async def enter(number: int) -> None:
        await gate.enter()
        order.append(number)

    tasks = [asyncio.create_task(enter(number)) for number in range(5)]
    await asyncio.sleep(0)
    assert not gate.try_enter(), "nobody overtakes those who wait"
    for _ in range(5):
        gate.leave()
        await asyncio.sleep(0)
    await asyncio.gather(*tasks)
    assert order == [0, 1, 2, 3, 4]
    gate.leave()
    assert (gate.inside, gate.waiting) == (0, 0)


@on_loop
async def test_a_place_that_comes_as_the_client_leaves_goes_to_the_next() -> None:
    gate = Gate(no_call)
    gate.configure(Limits(max_concurrent=1), routable=True, holds=False)
    assert gate.try_enter()
    first, second = (asyncio.create_task(gate.enter()) for _ in range(2))
    await asyncio.sleep(0)
    gate.leave()  # the first has its place now, though it has not run yet
    first.cancel()
    await asyncio.wait([first, second], timeout=60)
    assert second.done()
    assert (gate.inside, gate.waiting) == (1, 0)


@on_loop
async def test_a_lower_limit_counts_for_the_next_and_a_higher_one_at_once() -> None:
    gate = Gate(no_call)
    gate.configure(Limits(max_concurrent=1), routable=True, holds=False)
    assert gate.try_enter()
    waiting = asyncio.create_task(gate.enter())
    await asyncio.sleep(0)
    gate.configure(Limits(max_concurrent=2), routable=True, holds=False)
    await asyncio.wait_for(waiting, 60)
    gate.configure(Limits(max_concurrent=1), routable=True, holds=False)
    assert gate.inside == 2
    gate.leave()
    assert not gate.try_enter()


@on_loop
async def test_held_requests_are_refused_when_the_endpoint_stops_holding() -> None:
    calls: list[int] = []
    gate = Gate(lambda: calls.append(1))
    gate.configure(Limits(), routable=False, holds=True)
    waiting = asyncio.create_task(gate.enter())
    await asyncio.sleep(0)
    assert calls == [1]
    gate.configure(Limits(), routable=False, holds=False)
    with pytest.raises(Refused, match="no replica") as caught:
        await waiting
    assert (caught.value.status, gate.waiting, gate.inside) == (503, 0, 0)


@on_loop
async def test_those_who_wait_when_the_endpoint_falls_asleep_wake_it() -> None:
    calls: list[int] = []
    gate = Gate(lambda: calls.append(1))
    gate.configure(Limits(max_concurrent=1), routable=True, holds=True)
    assert gate.try_enter()
    waiting = asyncio.create_task(gate.enter())
    await asyncio.sleep(0)
    assert calls == []
    gate.configure(Limits(max_concurrent=1), routable=False, holds=True)
    assert calls == [1]
    gate.close()
    with pytest.raises(Refused, match="removed"):
        await waiting


@given(st.data())
def test_a_gate_never_lets_more_in_than_the_limit_and_forgets_nobody(data: st.DataObject) -> None:
    """Random arrivals, departures, impatient clients and changes of the table."""

    async def act() -> None:
        gate = Gate(lambda: None)
        limit = data.draw(st.integers(1, 3))
        gate.configure(Limits(max_concurrent=limit), routable=True, holds=True)
        inside: list[asyncio.Event] = []
        tasks: list[asyncio.Task[None]] = []

        async def visit() -> None:
            await gate.enter()
            out = asyncio.Event()
            inside.append(out)
            try:
                await out.wait()
            finally:
                inside.remove(out)
                gate.leave()

        for step in data.draw(st.lists(st.sampled_from(["come", "go", "give up", "sleep", "wake"]), max_size=40)):
            if step == "come":
                tasks.append(asyncio.create_task(visit()))
            elif step == "go" and inside:
                inside[0].set()
            elif step == "give up" and tasks:
                tasks[-1].cancel()
            elif step in ("sleep", "wake"):
                gate.configure(Limits(max_concurrent=limit), routable=step == "wake", holds=True)
            for _ in range(data.draw(st.integers(0, 3))):
                await asyncio.sleep(0)
            assert gate.inside <= limit
        gate.configure(Limits(max_concurrent=limit), routable=True, holds=True)
        while not all(task.done() for task in tasks):
            for out in inside:
                out.set()
            await asyncio.sleep(0)
        assert (gate.inside, gate.waiting) == (0, 0)

    asyncio.run(act())


def test_draining_replicas_do_not_make_an_endpoint_routable() -> None:
    leaving = variant("v1", *urls(1), state=ReplicaState.DRAINING)
    one = runtime(EndpointRoute(name="d", variants=(leaving,)))
    assert not one.routable
    assert one.choose(0.0, None) is None
    shadow = variant("v2", *urls(1), weight=0)
    assert not runtime(EndpointRoute(name="d", variants=(shadow,))).routable
