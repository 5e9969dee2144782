"""What the fake engine gives to tests of scheduling: time in the test's hand and failures on request."""

from __future__ import annotations

import threading

import pytest
from helpers.engine_kits import DEADLINE

from localml.core.clock import ManualClock
from localml.engines.base import (
    EngineError,
    EngineUnreachable,
    ImageMissing,
    Phase,
    PortTaken,
    PublishedPort,
    ReplicaPlan,
)
from localml.engines.fake.engine import VERBS, FakeEngine, ServerDied


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def engine(clock: ManualClock) -> FakeEngine:
    return FakeEngine(clock, cpu=8, memory=1 << 30)


def test_a_replica_ends_when_its_time_has_come(engine: FakeEngine, clock: ManualClock) -> None:
    engine.start(ReplicaPlan("a", "i", env={"FAKE_SECONDS": "60", "FAKE_EXIT": "3"}))
    clock.advance(59.5)
    assert engine.inspect("a").phase is Phase.RUNNING
    end = clock.now() + 0.5
    clock.advance(100)
    seen = engine.list()["a"]
    assert (seen.phase, seen.exit_code, seen.finished_at) == (Phase.EXITED, 3, end)


def test_a_replica_ends_when_the_test_says_so(engine: FakeEngine) -> None:
    for name in ("a", "b"):
        engine.start(ReplicaPlan(name, "i", memory=5))
    engine.finish("a", 4)
    engine.finish("b", signal=9, oom_killed=True)
    assert engine.inspect("a").exit_code == 4
    seen = engine.inspect("b")
    assert (seen.exit_code, seen.signal, seen.oom_killed) == (None, 9, True)
    with pytest.raises(KeyError):
        engine.finish("c")


def test_what_has_ended_cannot_end_differently(engine: FakeEngine, clock: ManualClock) -> None:
    engine.start(ReplicaPlan("a", "i", env={"FAKE_SECONDS": "1"}))
    clock.advance(1)
    engine.finish("a", 9)
    assert engine.inspect("a").exit_code == 0


def test_a_program_is_a_callback(engine: FakeEngine) -> None:
    def program(plan: ReplicaPlan) -> None:
        engine.write(plan.name, "stderr", b"cannot\n")
        engine.finish(plan.name, len(plan.command))

    engine.on_start(program)
    assert engine.start(ReplicaPlan("a", "i", ("x", "y"))).exit_code == 2
    assert [(c.stream, c.data) for c in engine.logs("a", {}, follow=True)] == [("stderr", b"cannot\n")]


def test_stop_waits_for_the_grace_by_the_clock(engine: FakeEngine, clock: ManualClock) -> None:
    engine.start(ReplicaPlan("a", "i", env={"FAKE_IGNORE_TERM": "1"}))
    engine.stop("a", 10)
    clock.advance(9)
    assert engine.inspect("a").phase is Phase.RUNNING
    clock.advance(1)
    assert engine.inspect("a").signal == 9


def test_logs_are_followed_as_they_are_written(engine: FakeEngine) -> None:
    engine.start(ReplicaPlan("a", "i", env={"FAKE_OUTPUT": "one"}))
    got: list[bytes] = []
    first = threading.Event()

    def follow() -> None:
        for chunk in engine.logs("a", {"stdout": 1}, follow=True):
            got.append(chunk.data)
            first.set()

    reader = threading.Thread(target=follow, daemon=True)
    reader.start()
    assert first.wait(DEADLINE)
    engine.write("a", "stdout", b"two")
    engine.finish("a")
    reader.join(DEADLINE)
    assert b"".join(got) == b"netwo"


@pytest.mark.parametrize("verb", VERBS)
def test_an_unreachable_engine_answers_nothing(engine: FakeEngine, verb: str) -> None:
    engine.start(ReplicaPlan("a", "i"))
    engine.unreachable = True
    with pytest.raises(EngineUnreachable):
        _call(engine, verb)
    engine.unreachable = False
    assert engine.inspect("a").phase is Phase.RUNNING


@pytest.mark.parametrize("verb", VERBS)
def test_any_verb_can_be_made_to_fail(engine: FakeEngine, verb: str) -> None:
    engine.start(ReplicaPlan("a", "i", network="net"))
    engine.fail_next(verb, EngineError("disk on fire"), times=2)  # type: ignore[arg-type]
    for _ in range(2):
        with pytest.raises(EngineError, match="disk on fire"):
            _call(engine, verb)
    assert set(engine.list()) == {"a"}
    assert engine.inspect("a").phase is Phase.RUNNING
    with pytest.raises(ValueError, match="no verb"):
        engine.fail_next("strat", EngineError("x"))  # type: ignore[arg-type]


def test_a_server_can_die_after_an_act_took_effect(engine: FakeEngine) -> None:
    engine.crash_after("start")
    with pytest.raises(ServerDied):
        engine.start(ReplicaPlan("a", "i"))
    assert not isinstance(ServerDied(), Exception)
    restarted = engine.restarted()
    assert restarted.inspect("a").phase is Phase.RUNNING
    assert restarted.start(ReplicaPlan("a", "i")).phase is Phase.RUNNING


def test_a_lost_replica_is_gone_and_told_of(engine: FakeEngine) -> None:
    engine.start(ReplicaPlan("a", "i"))
    stop = threading.Event()
    names = engine.watch(stop)
    engine.lose("a")
    assert next(names) == "a"
    assert engine.inspect("a").phase is Phase.GONE
    stop.set()
    assert list(names) == []


def test_images_ports_and_networks_have_their_rules(engine: FakeEngine) -> None:
    engine.missing_images.add("nowhere")
    with pytest.raises(ImageMissing, match="nowhere"):
        engine.resolve_image("nowhere")
    with pytest.raises(ImageMissing):
        engine.start(ReplicaPlan("x", "nowhere"))
    ports = (PublishedPort("web", 80, 8080),)
    engine.start(ReplicaPlan("a", "i", ports=ports, network="net"))
    with pytest.raises(PortTaken, match="8080 is used by a"):
        engine.start(ReplicaPlan("b", "i", ports=ports))
    assert engine.networks() == {"net"}
    with pytest.raises(EngineError, match="used by a"):
        engine.remove_network("net")
    engine.remove("a")
    engine.remove_network("net")
    assert engine.networks() == set()
    assert engine.start(ReplicaPlan("b", "i", ports=ports)).phase is Phase.RUNNING
    assert set(engine.list()) == {"b"}


def test_its_machine_is_as_told(engine: FakeEngine) -> None:
    (node,) = engine.nodes()
    assert (node.cpu, node.memory) == (8, 1 << 30)


def _call(engine: FakeEngine, verb: str) -> object:
    arguments: dict[str, tuple[object, ...]] = {
        "nodes": (),
        "list": (),
        "networks": (),
        "start": (ReplicaPlan("new", "i"),),
        "stop": ("a", 0),
        "exec": ("a", ("true",)),
        "open": ("a", ("true",)),
        "watch": (threading.Event(),),
        "remove_network": ("net",),
        "resolve_image": ("i",),
    }
    keywords = {"follow": False} if verb == "logs" else {}
    values = arguments.get(verb, ("a", {}) if verb == "logs" else ("a",))
    return getattr(engine, verb)(*values, **keywords)


def test_a_replica_can_be_held_and_begins_when_it_is_told_to(clock: ManualClock, engine: FakeEngine) -> None:
    env = {"FAKE_PENDING": "no room", "FAKE_SECONDS": "5", "FAKE_OUTPUT": "hello"}
    seen = engine.start(ReplicaPlan("a", "i", env=env))
    assert (seen.phase, seen.reason, seen.started_at) == (Phase.PENDING, "no room", None)
    clock.advance(100)
    assert list(engine.logs("a", {}, follow=False)) == []
    engine.begin("a")
    assert engine.inspect("a").phase is Phase.RUNNING
    clock.advance(5)
    seen = engine.inspect("a")
    assert (seen.phase, seen.started_at, seen.finished_at) == (Phase.EXITED, clock.now() - 5, clock.now())


def test_a_replica_that_is_held_for_a_time_begins_after_it(clock: ManualClock, engine: FakeEngine) -> None:
    engine.start(ReplicaPlan("a", "i", env={"FAKE_PENDING": "no room", "FAKE_PENDING_SECONDS": "10"}))
    clock.advance(9)
    assert engine.inspect("a").phase is Phase.PENDING
    clock.advance(1)
    assert engine.inspect("a").phase is Phase.RUNNING


def test_a_replica_that_is_stopped_while_it_is_held_never_began(engine: FakeEngine) -> None:
    engine.start(ReplicaPlan("a", "i", env={"FAKE_PENDING": "no room", "FAKE_IGNORE_TERM": "1"}))
    engine.stop("a", 30)
    seen = engine.inspect("a")
    assert (seen.phase, seen.signal, seen.started_at) == (Phase.EXITED, 15, None)
    assert seen.error == "stopped before it began"
    engine.begin("a")
    assert engine.inspect("a") == seen
