"""Whose doing an end was: the program's, a person's, or that of a daemon or machine that was restarted."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from docker.errors import NotFound

from localml.engines.base import EngineUnreachable, Observed, Phase
from localml.engines.docker import DockerEngine
from localml.engines.docker.daemon import Daemon
from localml.engines.docker.outages import Outages

BOOT, BEGAN = 1000.0, 2000.0


class Told(Daemon):
    """A daemon that says what a test wants."""

    def __init__(self, began: float | None = BEGAN, *, keeps: bool = False, shut: bool = False) -> None:
        super().__init__(self)  # type: ignore[arg-type]
        self._began, self._keeps, self.shut = began, keeps, shut

    def info(self, *, fresh: bool = False) -> dict[str, Any]:
        return {"LiveRestoreEnabled": self._keeps}

    def closed(self) -> bool:
        return self.shut

    def inspect_network(self, name: str) -> dict[str, Any]:
        if self._began is None:
            raise NotFound("no such network")
        return {"Created": datetime.fromtimestamp(self._began, UTC).isoformat()}


class Now:
    """What the clock says."""

    def __init__(self) -> None:
        self.at = BEGAN


@pytest.fixture(autouse=True)
def now(monkeypatch: pytest.MonkeyPatch) -> Now:
    clock = Now()
    monkeypatch.setattr("localml.engines.docker.outages.psutil.boot_time", lambda: BOOT)
    monkeypatch.setattr("localml.engines.docker.outages.time.time", lambda: clock.at)
    return clock


def told(daemon: Told, code: int, at: float, *, started: float = 1500.0, left: float | None = None, **rest: Any) -> str:
    outages = Outages(daemon)
    if left is not None:
        outages.left(left)
    seen = Observed("a", Phase.EXITED, exit_code=code, started_at=started, finished_at=at, **rest)
    return outages.told(seen).interrupted


@pytest.mark.parametrize("code", [143, 137])
def test_what_ends_by_the_daemons_signals_before_it_begins_anew_is_its_own_end(code: int) -> None:
    assert "the Docker daemon was restarted" in told(Told(), code, BEGAN - 5)
    assert told(Told(), code, BEGAN + 5) == ""  # somebody killed it afterwards
    assert told(Told(), code, BEGAN - 5, oom_killed=True) == ""
    assert told(Told(keeps=True), code, BEGAN - 5) == ""  # such a daemon leaves them alone
    assert told(Told(None), code, BEGAN - 5) == ""


@pytest.mark.parametrize("code", [0, 3])
def test_other_codes_are_only_where_the_door_was_seen_to_close_just_before(code: int) -> None:
    assert told(Told(), code, BEGAN - 5) == ""
    assert told(Told(), code, BEGAN - 5, left=BEGAN - 10) != ""
    assert told(Told(), code, BEGAN - 500, left=BEGAN - 505) != ""
    assert told(Told(), code, BEGAN - 300, left=BEGAN - 600) == ""  # long after, and long before it came back
    assert told(Told(), code, BEGAN - 35, left=BEGAN - 10) != ""  # it was noticed late, on a busy machine
    assert told(Told(), code, BEGAN - 45, left=BEGAN - 10) == ""  # before it closed
    assert told(Told(), code, BEGAN + 50, left=BEGAN + 40) == ""  # the connection broke, and nothing else
    assert told(Told(), code, BEGAN + 0.6, started=BEGAN + 0.4, left=BEGAN - 10) == ""  # begun when it was back
    assert told(Told(keeps=True), code, BEGAN - 5, left=BEGAN - 10) == ""


def test_what_a_machine_took_with_it_is_told_so() -> None:
    assert "the machine was restarted" in told(Told(), 255, BEGAN, started=BOOT - 10)
    assert "the machine was restarted" in told(Told(keeps=True), 143, BOOT - 5, started=BOOT - 10)
    assert told(Told(), 255, BEGAN - 20) == ""  # a program may end with that


@pytest.mark.parametrize("keeps", [True, False])
def test_what_ended_with_containerd_is_told_so(keeps: bool) -> None:
    """The daemon notes it as it begins, whether it would have kept it or not."""
    assert "the Docker daemon was restarted" in told(Told(keeps=keeps), 255, BEGAN - 1)


@pytest.mark.parametrize("code", [0, 3])
def test_an_absence_begins_with_its_first_sign(now: Now, code: int) -> None:
    """The connections that there are go on until a daemon ends, which takes it long on a busy machine."""
    outages = Outages(Told(BEGAN + 300))
    seen = Observed("a", Phase.EXITED, exit_code=code, started_at=1500.0, finished_at=BEGAN - 25)
    now.at = BEGAN
    with pytest.raises(EngineUnreachable, match="no answer"), outages.asking():
        raise EngineUnreachable("no answer")
    now.at = BEGAN + 45
    outages.left()
    assert outages.told(seen).interrupted
    with outages.asking():  # it answers
        pass
    now.at = BEGAN + 100
    outages.left()
    later = Observed("b", Phase.EXITED, exit_code=code, started_at=1500.0, finished_at=BEGAN + 101)
    assert outages.told(later).interrupted, "another absence"


def test_a_question_that_is_not_answered_is_a_sign(now: Now) -> None:
    class Going(Told):
        gone = True

        def info(self, *, fresh: bool = False) -> dict[str, Any]:
            if self.gone:
                raise ConnectionRefusedError
            return super().info(fresh=fresh)

    daemon = Going(BEGAN + 300)
    engine = DockerEngine("me", client=daemon)  # type: ignore[arg-type]
    with pytest.raises(EngineUnreachable):
        engine.list()
    daemon.gone, now.at = False, BEGAN + 310
    seen = Observed("a", Phase.EXITED, exit_code=3, started_at=1500.0, finished_at=BEGAN - 25)
    assert engine._outages.told(seen).interrupted


def test_while_the_door_is_closed_nothing_is_told_and_it_is_remembered() -> None:
    daemon = Told(shut=True)
    outages = Outages(daemon)
    seen = Observed("a", Phase.EXITED, exit_code=3, started_at=1500.0, finished_at=BEGAN - 5)
    long_ago = Observed("b", Phase.EXITED, exit_code=0, started_at=1500.0, finished_at=BEGAN - 400)
    for one in (long_ago, seen):
        with pytest.raises(EngineUnreachable, match="lets nobody in"):
            outages.told(one)
    daemon.shut = False
    assert outages.told(seen).interrupted
    assert outages.told(long_ago).interrupted == "", "it was over long before the door was found closed"


def test_another_daemon_in_its_place_is_no_answer() -> None:
    """It would say of all containers that they are gone."""

    class Named(Told):
        where = "/var/lib/docker"

        def info(self, *, fresh: bool = False) -> dict[str, Any]:
            return {"ID": "A", "Name": "vm", "DockerRootDir": self.where}

    daemon = Named()
    daemon.need_same()
    first = daemon.identity
    daemon.where = "/elsewhere"
    daemon.need_same()  # as long as nothing says that it was away, it is not asked
    daemon.doubt()
    with pytest.raises(EngineUnreachable, match="another Docker daemon answers"):
        daemon.need_same()
    daemon.where = "/var/lib/docker"
    daemon.need_same()
    assert daemon.identity == first
