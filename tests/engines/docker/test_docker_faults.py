"""A daemon that answers wrongly, cuts off or is silent: nothing is concluded from it, and nothing waits for ever."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import docker
import pytest
from helpers.docker_image import tiny_image
from helpers.engine_kits import DEADLINE, EngineKit, wait_until
from helpers.faulty_daemon import (
    CLOSE_AFTER,
    CLOSE_BEFORE,
    HANG,
    HANG_AFTER,
    Fault,
    FaultyDaemon,
    answer,
    cut,
    faulty_daemon,
    stall,
)
from helpers.private_daemon import remove_all

from localml.engines.base import EngineError, EngineUnreachable, Phase
from localml.engines.docker import DockerEngine, docker_available
from localml.engines.docker import daemon as daemon_module
from localml.engines.docker import engine as engine_module
from localml.engines.docker import lookup as lookup_module
from localml.engines.docker.daemon import open_client

pytestmark = pytest.mark.docker

INTERNAL = answer(500, "internal error")
NOT_FOUND = answer(404, "No such container: it")
REMOVING = answer(409, "removal of container it is already in progress")
DRIVER = answer(500, "driver failed programming external connectivity on endpoint it: port is already allocated")
CREATE, START = ("POST", "/containers/create"), ("POST", r"/containers/\w+/start")
INSPECT, LIST = ("GET", r"/containers/[^/]+/json"), ("GET", r"/containers/json")
STOP, REMOVE = ("POST", r"/containers/[^/]+/stop"), ("DELETE", r"/containers/")

LONG = partial(pytest.param, marks=pytest.mark.long)


def fault_name(value: object) -> str | None:
    """What a parameter is called in a test's name."""
    return value.name if isinstance(value, Fault) else None


@pytest.fixture
def proxy(monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyDaemon]:
    if reason := docker_available():
        pytest.skip(reason)
    tiny_image()
    with faulty_daemon(monkeypatch) as made:
        yield made


@pytest.fixture
def kit(proxy: FaultyDaemon) -> Iterator[EngineKit]:
    install = f"faults{time.time_ns()}"
    made = EngineKit(lambda install: DockerEngine(install), tiny_image(), install)
    made.engine.resolve_image(made.image)
    yield made
    proxy.mend()
    made.close()
    remove_all(install)


@pytest.fixture
def api(kit: EngineKit) -> Iterator[docker.APIClient]:
    client = open_client()
    yield client
    client.close()


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """The daemon's answers are waited for half a second."""
    monkeypatch.setattr(daemon_module, "ANSWER_S", 0.5)
    monkeypatch.setattr(daemon_module, "ACT_S", 2.0)


def test_without_faults_everything_passes(kit: EngineKit, proxy: FaultyDaemon) -> None:
    plan = kit.plan("echo begun; sleep 600")
    kit.engine.start(plan)
    chunks = kit.engine.logs(plan.name, {}, follow=True)
    assert next(chunks).data == b"begun\n"
    stream = kit.engine.open(plan.name, ("sh", "-c", "cat; echo over >&2"))
    big = b"line of input\n" * 20_000
    writer = threading.Thread(target=lambda: (stream.write(big), stream.close_stdin()), daemon=True)
    writer.start()
    found = {"stdout": b"", "stderr": b""}
    while (piece := stream.read()) is not None:
        found[piece[0]] += piece[1]
    assert found == {"stdout": big, "stderr": b"over\n"}
    assert stream.wait() == 0
    kit.engine.remove(plan.name)
    assert list(chunks) == []
    assert not proxy.injected


# answers that say nothing about the container


@pytest.mark.parametrize(
    ("ask", "method", "path"),
    [
        pytest.param(lambda kit, name: kit.engine.inspect(name), *INSPECT, id="inspect"),
        pytest.param(lambda kit, name: kit.engine.list(), *LIST, id="list"),
        pytest.param(lambda kit, name: kit.engine.stats(name), "GET", "/stats", id="stats"),
        pytest.param(lambda kit, name: kit.engine.nodes(), "GET", "/info", id="nodes"),
        pytest.param(lambda kit, name: kit.engine.networks(), "GET", "/networks", id="networks"),
        pytest.param(lambda kit, name: kit.engine.remove_network("none"), "GET", "/networks", id="remove_network"),
        pytest.param(lambda kit, name: list(kit.engine.logs(name, {}, follow=False)), "GET", "/logs", id="logs"),
    ],
)
@pytest.mark.parametrize("fault", [INTERNAL, *map(LONG, (CLOSE_BEFORE, CLOSE_AFTER, cut(1)))], ids=fault_name)
def test_a_question_that_fails_says_nothing(
    ask: Callable[[EngineKit, str], Any], method: str, path: str, fault: Fault, kit: EngineKit, proxy: FaultyDaemon
) -> None:
    plan = kit.endless()
    kit.engine.start(plan)
    rule = proxy.fail(fault, method, path)
    if fault.name == "cut" and path in ("/logs", "/networks"):
        pytest.skip("what is cut off there is empty")
    with pytest.raises(EngineUnreachable):
        ask(kit, plan.name)
    assert rule.hit.is_set()
    ask(kit, plan.name)
    assert kit.engine.inspect(plan.name).phase is Phase.RUNNING


def test_a_container_that_the_daemon_cannot_tell_of_hides_no_other(
    kit: EngineKit, proxy: FaultyDaemon, api: docker.APIClient
) -> None:
    broken, well = kit.ending(3), kit.endless()
    kit.run(broken)
    kit.engine.start(well)
    kit.engine.close()
    kit.engine = kit.reopen()
    proxy.fail(answer(500, "RWLayer is unexpectedly nil"), "GET", _id_of(api, broken.name), times=None)
    seen = kit.engine.list()
    assert seen[well.name].phase is Phase.RUNNING
    assert seen[broken.name].phase is Phase.RUNNING  # nothing is concluded at first


def test_how_a_container_ended_that_the_daemon_cannot_tell_of_is_taken_from_its_list(
    kit: EngineKit, proxy: FaultyDaemon, api: docker.APIClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lookup_module, "_PUZZLED_S", 0.0)
    broken = kit.ending(3)
    kit.run(broken)
    kit.engine = kit.reopen()
    for path in (_id_of(api, broken.name), f"/{broken.name}/json"):
        proxy.fail(answer(500, "RWLayer is unexpectedly nil"), "GET", path, times=None)
    kit.engine.list()
    seen = kit.engine.list()[broken.name]
    assert (seen.phase, seen.exit_code) == (Phase.EXITED, 3)
    kit.engine.remove(broken.name)
    assert kit.engine.list() == {}


def _id_of(api: docker.APIClient, name: str) -> str:
    return f"/containers/{api.inspect_container(name)['Id']}/json"


# starting


@pytest.mark.parametrize(("method", "path"), [CREATE, START], ids=["create", "start"])
@pytest.mark.parametrize(
    "fault", [INTERNAL, answer(500, "internal error", acted=True), DRIVER], ids=lambda fault: fault.name
)
def test_a_start_that_was_answered_wrongly_once_happens_once(
    method: str, path: str, fault: Fault, kit: EngineKit, proxy: FaultyDaemon
) -> None:
    plan = kit.plan("echo begun; sleep 600")
    proxy.fail(fault, method, path)
    assert kit.engine.start(plan).phase is Phase.RUNNING
    kit.wait_ready(plan.name)
    kit.engine.stop(plan.name, 0)
    assert kit.output(plan.name)["stdout"] == b"begun\n"
    assert list(kit.engine.list()) == [plan.name]


@pytest.mark.parametrize(("method", "path"), [CREATE, START, ("GET", "/json")], ids=["create", "start", "inspect"])
@pytest.mark.parametrize("fault", [CLOSE_AFTER, *map(LONG, (CLOSE_BEFORE, HANG, HANG_AFTER))], ids=fault_name)
@pytest.mark.usefixtures("soon")
def test_a_start_without_an_answer_is_said_again_and_happens_once(
    method: str, path: str, fault: Fault, kit: EngineKit, proxy: FaultyDaemon
) -> None:
    plan = kit.plan("echo begun; sleep 600")
    kit.engine.nodes()
    proxy.fail(fault, method, path)
    with pytest.raises(EngineUnreachable):
        kit.engine.start(plan)
    assert kit.engine.start(plan).phase is Phase.RUNNING
    kit.wait_ready(plan.name)
    kit.engine.stop(plan.name, 0)
    assert kit.output(plan.name)["stdout"] == b"begun\n"
    assert list(kit.engine.list()) == [plan.name]


def test_a_start_that_happened_though_the_answer_says_no_did_happen(kit: EngineKit, proxy: FaultyDaemon) -> None:
    proxy.fail(answer(500, "internal error", acted=True), *START, times=None)
    assert kit.engine.start(kit.endless()).phase is Phase.RUNNING


@pytest.mark.parametrize(("method", "path"), [CREATE, START], ids=["create", "start"])
def test_a_start_that_is_always_refused_ends_in_the_daemons_words(
    method: str, path: str, kit: EngineKit, proxy: FaultyDaemon
) -> None:
    plan = kit.endless()
    proxy.fail(INTERNAL, method, path, times=None)
    with pytest.raises(EngineError, match="internal error"):
        kit.engine.start(plan)
    assert kit.engine.list() == {}


def test_a_container_that_is_not_found_once_is_started(kit: EngineKit, proxy: FaultyDaemon) -> None:
    proxy.fail(NOT_FOUND, *START)
    assert kit.engine.start(kit.endless()).phase is Phase.RUNNING


def test_a_container_whose_start_is_still_under_way_is_not_removed(
    kit: EngineKit, api: docker.APIClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An earlier server's request may start it between the look at it and its removal."""
    plan = kit.plan("echo begun; sleep 600")
    labels = {"localml.install": kit.install, "localml.name": plan.name}
    half = api.create_container(kit.image, list(plan.command), name=plan.name, labels=labels, entrypoint="")["Id"]
    client = kit.engine._daemon.api  # type: ignore[attr-defined]
    inspect = client.inspect_container

    def then_started(name: str) -> Any:
        found = inspect(name)
        api.start(half)
        return found

    monkeypatch.setattr(client, "inspect_container", then_started)
    assert kit.engine.start(plan).handle["id"] == half


# not found, and renamed


def test_not_found_once_is_no_end(kit: EngineKit, proxy: FaultyDaemon) -> None:
    plan = kit.endless()
    kit.engine.start(plan)
    for engine in (kit.engine, kit.reopen()):
        proxy.fail(NOT_FOUND, *INSPECT)
        assert engine.inspect(plan.name).phase is Phase.RUNNING
    proxy.fail(NOT_FOUND, *STOP)
    kit.engine.stop(plan.name, 0)
    assert kit.engine.inspect(plan.name).phase is Phase.EXITED
    proxy.fail(NOT_FOUND, *REMOVE)
    kit.engine.remove(plan.name)
    assert kit.engine.list() == {}


@pytest.mark.parametrize("restarted", [False, True], ids=["same server", "restarted server"])
def test_a_renamed_container_is_still_the_same(kit: EngineKit, api: docker.APIClient, restarted: bool) -> None:
    plan = kit.plan("echo begun; trap 'echo ended; exit 0' TERM; sleep 600 & wait")
    other = kit.plan("sleep 600")
    begun = kit.engine.start(plan)
    kit.wait_ready(plan.name)
    api.rename(plan.name, f"{plan.name}-by-hand")
    foreign = api.create_container(kit.image, entrypoint=list(other.command), name=plan.name)["Id"]
    api.start(foreign)  # and somebody takes its name
    engine = kit.reopen() if restarted else kit.engine
    try:
        seen = engine.inspect(plan.name)
        assert (seen.name, seen.phase, dict(seen.handle)) == (plan.name, Phase.RUNNING, dict(begun.handle))
        assert list(engine.list()) == [plan.name]
        assert engine.start(plan).handle == begun.handle
        assert engine.exec(plan.name, ("true",)).exit_code == 0
        assert wait_until(lambda: engine.stats(plan.name), "its use").memory > 0
        engine.stop(plan.name, DEADLINE)
        assert engine.inspect(plan.name).phase is Phase.EXITED
        kit.engine = engine
        assert kit.output(plan.name)["stdout"] == b"begun\nended\n"
        engine.remove(plan.name)
        assert engine.inspect(plan.name).phase is Phase.GONE
        assert api.inspect_container(foreign)["State"]["Running"]
    finally:
        api.remove_container(foreign, force=True)


# what people do by hand


def test_what_was_removed_by_hand_is_lost_and_not_ended_by_a_signal(kit: EngineKit, api: docker.APIClient) -> None:
    plan = kit.endless()
    kit.engine.start(plan)
    phases = set()
    removal = threading.Thread(target=lambda: api.remove_container(plan.name, force=True))
    removal.start()
    while removal.is_alive():
        seen = kit.engine.inspect(plan.name)
        phases.add(seen.phase)
        assert seen.phase is not Phase.EXITED or (seen.exit_code is None and "removed" in seen.error)
    removal.join()
    assert kit.engine.inspect(plan.name).phase is Phase.GONE
    assert phases <= {Phase.RUNNING, Phase.EXITED, Phase.GONE}


def test_a_paused_container_runs_and_can_be_stopped_and_removed(kit: EngineKit, api: docker.APIClient) -> None:
    stopped, removed = kit.endless(), kit.endless()
    for plan in (stopped, removed):
        kit.engine.start(plan)
        api.pause(plan.name)
        assert kit.engine.list()[plan.name].phase is Phase.RUNNING
        with pytest.raises(EngineError, match="paused"):
            kit.engine.exec(plan.name, ("true",))
    kit.engine.stop(stopped.name, 1)
    assert kit.wait_end(stopped.name).phase is Phase.EXITED
    kit.engine.remove(removed.name)
    assert kit.engine.inspect(removed.name).phase is Phase.GONE


def test_a_container_that_was_started_again_by_hand_runs(kit: EngineKit, api: docker.APIClient) -> None:
    plan = kit.plan("echo run; [ -e /tmp/second ] && sleep 600; touch /tmp/second")
    first = kit.run(plan)
    assert kit.engine.list()[plan.name].phase is Phase.EXITED
    api.start(plan.name)
    assert kit.engine.list()[plan.name].phase is Phase.RUNNING
    assert kit.engine.inspect(plan.name).started_at > first.started_at  # type: ignore[operator]
    api.restart(plan.name, timeout=0)
    assert kit.engine.inspect(plan.name).phase is Phase.RUNNING
    kit.engine.stop(plan.name, 0)
    kit.wait_end(plan.name)
    assert kit.output(plan.name)["stdout"] == b"run\n" * 3
    kit.engine.remove(plan.name)


# stopping and removing


@pytest.mark.parametrize("fault", [INTERNAL, NOT_FOUND], ids=fault_name)
def test_a_stop_that_fails_once_stops(fault: Fault, kit: EngineKit, proxy: FaultyDaemon) -> None:
    plan = kit.endless()
    kit.engine.start(plan)
    proxy.fail(fault, *STOP)
    kit.engine.stop(plan.name, 1)
    assert kit.engine.inspect(plan.name).phase is Phase.EXITED


@pytest.mark.parametrize("fault", [REMOVING, NOT_FOUND], ids=fault_name)
def test_a_removal_that_is_under_way_is_waited_for(fault: Fault, kit: EngineKit, proxy: FaultyDaemon) -> None:
    plan = kit.endless()
    kit.engine.start(plan)
    proxy.fail(fault, *REMOVE, times=3)
    kit.engine.remove(plan.name)
    assert kit.engine.list() == {}


def test_a_removal_that_does_not_come_to_its_end_is_told(
    kit: EngineKit, proxy: FaultyDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_module, "_GONE_S", 0.3)
    plan = kit.endless()
    kit.engine.start(plan)
    proxy.fail(REMOVING, *REMOVE, times=None)
    with pytest.raises(EngineError, match=f"{plan.name}.*already in progress"):
        kit.engine.remove(plan.name)
    proxy.mend()
    kit.engine.remove(plan.name)


def test_a_removal_that_fails_is_said_again(kit: EngineKit, proxy: FaultyDaemon) -> None:
    plan = kit.endless()
    kit.engine.start(plan)
    proxy.fail(INTERNAL, *REMOVE)
    with pytest.raises(EngineUnreachable):
        kit.engine.remove(plan.name)
    proxy.fail(answer(500, "internal error", acted=True), *REMOVE)
    kit.engine.remove(plan.name)
    assert kit.engine.list() == {}


def test_a_name_that_is_just_being_removed_is_waited_for(kit: EngineKit, api: docker.APIClient) -> None:
    """The end of what is being removed is no answer to a start."""
    plan = kit.endless()
    for _ in range(2):
        kit.engine.start(plan)
        removal = threading.Thread(target=lambda: api.remove_container(plan.name, force=True))
        removal.start()
        other = kit.reopen()
        seen = other.start(plan)
        while removal.is_alive():
            seen = other.start(plan)
        assert seen.phase is not Phase.EXITED
        removal.join()
        kit.engine.remove(plan.name)


# silence


@pytest.mark.usefixtures("soon")
@pytest.mark.parametrize("fault", [HANG, HANG_AFTER, stall(3)], ids=fault_name)
def test_a_silent_daemon_is_not_waited_for(fault: Fault, kit: EngineKit, proxy: FaultyDaemon) -> None:
    plan = kit.endless()
    kit.engine.start(plan)
    proxy.fail(fault, ".*", "/containers", times=None)
    for ask in (
        lambda: kit.engine.inspect(plan.name),
        kit.engine.list,
        lambda: kit.engine.stats(plan.name),
        lambda: list(kit.engine.logs(plan.name, {}, follow=False)),
    ):
        began = time.monotonic()
        with pytest.raises(EngineUnreachable):
            ask()
        assert time.monotonic() - began < 5
    proxy.mend()
    assert kit.engine.list()[plan.name].phase is Phase.RUNNING


@pytest.mark.usefixtures("soon")
def test_a_log_whose_following_is_not_answered_is_given_up(kit: EngineKit, proxy: FaultyDaemon) -> None:
    plan = kit.endless()
    kit.engine.start(plan)
    proxy.fail(HANG, "GET", "/logs")
    with pytest.raises(EngineUnreachable):
        next(kit.engine.logs(plan.name, {}, follow=True))


@pytest.mark.usefixtures("soon")
@pytest.mark.parametrize("fault", [HANG, HANG_AFTER, stall(0)], ids=fault_name)
def test_a_container_starts_though_attaching_to_it_is_not_answered(
    fault: Fault, kit: EngineKit, proxy: FaultyDaemon
) -> None:
    plan = kit.plan("echo said; sleep 600")
    rule = proxy.fail(fault, "POST", "/attach")
    starting = threading.Thread(target=kit.engine.start, args=(plan,), daemon=True)
    starting.start()
    starting.join(DEADLINE)
    assert not starting.is_alive()
    assert rule.hit.is_set()
    assert kit.engine.inspect(plan.name).phase is Phase.RUNNING
    assert next(kit.engine.logs(plan.name, {}, follow=True)).data == b"said\n"


@pytest.mark.usefixtures("soon")
def test_a_silent_container_is_followed_for_as_long_as_it_takes(kit: EngineKit) -> None:
    plan = kit.plan("sleep 2; echo late")
    kit.engine.start(plan)
    assert [chunk.data for chunk in kit.engine.logs(plan.name, {}, follow=True)] == [b"late\n"]


@pytest.mark.usefixtures("soon")
def test_many_who_need_the_first_connection_wait_once(proxy: FaultyDaemon) -> None:
    proxy.fail(HANG, ".*", "", times=None)
    engine = DockerEngine("nobody")

    def ask(_: int) -> None:
        with pytest.raises(EngineUnreachable):
            engine.inspect("any")

    began = time.monotonic()
    with ThreadPoolExecutor(20) as pool:
        list(pool.map(ask, range(20)))
    assert time.monotonic() - began < 5
    proxy.mend()
    assert engine.inspect("any").phase is Phase.GONE
    engine.close()


# events


def _watch(kit: EngineKit) -> tuple[threading.Event, set[str], threading.Thread]:
    stop, told = threading.Event(), set[str]()
    thread = threading.Thread(target=lambda: told.update(kit.engine.watch(stop)), daemon=True)
    thread.start()
    return stop, told, thread


def test_after_events_that_broke_off_every_container_is_named(kit: EngineKit, proxy: FaultyDaemon) -> None:
    plan = kit.endless()
    kit.engine.start(plan)
    faults = (INTERNAL, CLOSE_BEFORE, cut(0), cut(5))
    rules = [proxy.fail(fault, "GET", "/events", nth=number) for number, fault in enumerate(faults, 1)]
    stop, told, thread = _watch(kit)
    wait_until(lambda: rules[2].hit.is_set(), "the third break")
    kit.run(kit.ending())
    wait_until(lambda: plan.name in told, "the hint")
    stop.set()
    thread.join(DEADLINE)
    assert not thread.is_alive()


@pytest.mark.parametrize("fault", [HANG, stall(0)], ids=fault_name)
@pytest.mark.usefixtures("soon")
def test_watching_in_silence_ends_when_told(fault: Fault, kit: EngineKit, proxy: FaultyDaemon) -> None:
    rule = proxy.fail(fault, "GET", "/events", times=None)
    stop, _, thread = _watch(kit)
    wait_until(rule.hit.is_set, "the silence")
    stop.set()
    thread.join(5)
    assert not thread.is_alive()


def test_events_that_have_fallen_silent_are_asked_for_again(
    kit: EngineKit, proxy: FaultyDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("localml.engines.docker.events.SILENCE_S", 0.5)
    rule = proxy.fail(stall(0), "GET", "/events")
    stop, told, thread = _watch(kit)
    wait_until(rule.hit.is_set, "the silence")
    plan = kit.endless()
    kit.engine.start(plan)

    def hinted() -> bool:
        kit.run(kit.ending())
        return bool(told)

    wait_until(hinted, "a hint")
    stop.set()
    thread.join(DEADLINE)


# networks


def test_a_network_that_is_in_use_is_told_and_goes_later(kit: EngineKit, proxy: FaultyDaemon) -> None:
    gang = f"{kit.install}-gang"
    plan = kit.endless(network=gang, hostname="worker-0")
    proxy.fail(answer(500, "internal error", acted=True), "POST", "/networks/create")
    try:
        kit.engine.start(plan)
    except EngineUnreachable:
        kit.engine.start(plan)
    with pytest.raises(EngineError, match="in use"):
        kit.engine.remove_network(gang)
    kit.engine.remove(plan.name)
    proxy.fail(INTERNAL, "DELETE", "/networks")
    with pytest.raises(EngineUnreachable):
        kit.engine.remove_network(gang)
    proxy.fail(answer(500, "internal error", acted=True), "DELETE", "/networks")
    with pytest.raises(EngineUnreachable):
        kit.engine.remove_network(gang)
    kit.engine.remove_network(gang)
    assert kit.engine.networks() == set()


# commands inside


def test_an_attached_commands_end_is_not_guessed(kit: EngineKit, proxy: FaultyDaemon) -> None:
    plan = kit.plan("sleep 600")
    kit.engine.start(plan)
    stream = kit.engine.open(plan.name, ("sh", "-c", "exit 5"))
    while stream.read() is not None:
        pass
    proxy.fail(INTERNAL, "GET", r"/exec/\w+/json", times=2)
    assert stream.wait() == 5
    stream.close()
