"""Notebooks and TensorBoards run until they are stopped, give their GPU back when nobody uses them, and are never taken
for idle."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from helpers.rig import ME, Rig, wait_until
from hypothesis import given
from hypothesis import strategies as st

from localml.control.watch.idle import IdleWatch, time_left
from localml.control.watch.jupyter import Activity, Kernel
from localml.control.watch.tensorboard import Use
from localml.core.errors import Code, LocalmlError
from localml.core.instances.tools import Access, Notebook, Tensorboard, Tools
from localml.core.people.sealing import Sealer
from localml.core.people.secrets import Vault
from localml.core.work.specs import Resources
from localml.core.work.states import Kind
from localml.core.work.workloads import Full

LIMIT = 600.0
times = st.floats(0, 1e9)


def activity(last: float, *, busy: bool = False, started: float = 0.0) -> Activity:
    kernel = Kernel("k", "python3", "busy" if busy else "idle", last, 1)
    return Activity((kernel,), busy, started, last)


class Lab:
    """An installation with one notebook or TensorBoard that says what the test wants."""

    def __init__(self, folder: Path) -> None:
        self.rig = Rig(folder, gpus=1)
        self.rig.loop._site = _with_key(self.rig, folder)
        self.tools = Tools(Sealer(Vault.open(folder / "secret.key")), "127.0.0.1")
        self.says: Activity | Use | LocalmlError | None = activity(0)
        self.asked = 0
        self.watch = IdleWatch(self.rig.workloads, self.tools, self.rig.clock, self._look)

    def _look(self, full: Full) -> Activity | Use | None:
        self.asked += 1
        if isinstance(self.says, LocalmlError):
            raise self.says
        return self.says

    def start(self, idle_limit: float | None = LIMIT, name: str = "lab") -> int:
        wanted = Notebook(name, idle_limit=idle_limit, resources=Resources(gpu=1))
        number = self.rig.submit(name, self.tools.notebook(ME.id, wanted), kind=Kind.NOTEBOOK)
        self.rig.settle()
        return number

    def start_board(self, idle_limit: float | None = LIMIT, token: str | None = None) -> int:
        wanted = Tensorboard("logs", token=token, idle_limit=idle_limit, resources=Resources(gpu=1))
        number = self.rig.submit("board", self.tools.tensorboard(ME.id, wanted), kind=Kind.TENSORBOARD)
        self.rig.settle()
        return number


def _with_key(rig: Rig, folder: Path) -> object:
    from dataclasses import replace

    sealer = Sealer(Vault.open(folder / "secret.key"))
    site = replace(rig.loop._site, unseal=lambda row, sealed: sealer.open(row.owner_id, sealed))
    rig.loop._launcher._site = site
    return site


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    one = Lab(tmp_path)
    yield one
    one.rig.close()


def test_the_container_gets_the_token_and_nothing_else_does(lab: Lab) -> None:
    number = lab.start()
    assert lab.rig.state(number) == "running"
    name = lab.rig.get(number).attempts[0].name
    plan = lab.rig.engine._world.replicas[name].plan
    token = lab.tools.token(lab.rig.get(number))
    assert plan.env["JUPYTER_TOKEN"] == token
    assert token not in " ".join(plan.command)
    assert token not in "".join(event.message for event in lab.rig.workloads.events(number))


def test_an_idle_notebook_is_stopped_and_the_next_one_gets_its_gpu(lab: Lab) -> None:
    first, now = lab.start(), lab.rig.clock.now()
    second = lab.start(name="next")
    assert lab.rig.state(second) == "queued"
    lab.says = activity(now)
    lab.rig.clock.advance(LIMIT - 1)
    assert lab.watch.check() == 5.0  # one second is left; it is not looked at more often than that
    assert lab.rig.state(first) == "running"
    lab.rig.clock.advance(1)
    assert lab.watch.check() is None
    lab.rig.settle()
    row = lab.rig.get(first).row
    assert (str(row.state), row.message) == ("stopped", "idle for 10m00s: no kernel did anything")
    assert lab.rig.state(second) == "running"
    assert [lease.gpu for lease in lab.rig.get(second).leases] == ["GPU-0"]


def test_a_kernel_that_computes_keeps_its_notebook_however_long(lab: Lab) -> None:
    number = lab.start()
    lab.says = activity(0, busy=True)
    lab.rig.clock.advance(100 * LIMIT)
    assert lab.watch.check() == 300.0
    lab.rig.settle()
    assert lab.rig.state(number) == "running"


def test_a_notebook_that_does_not_answer_is_asked_again_and_not_stopped(lab: Lab) -> None:
    number = lab.start()
    lab.says = LocalmlError(Code.UNAVAILABLE, "silence")
    lab.rig.clock.advance(100 * LIMIT)
    assert lab.watch.check() == 15.0
    lab.rig.settle()
    assert lab.rig.state(number) == "running"


@pytest.mark.parametrize("token", ["t", ""])
def test_a_tensorboard_that_nobody_looks_at_is_stopped_and_the_next_one_gets_its_gpu(lab: Lab, token: str) -> None:
    first, now = lab.start_board(token=token), lab.rig.clock.now()
    second = lab.start(name="next")
    assert (lab.rig.state(first), lab.rig.state(second)) == ("running", "queued")
    lab.says = Use(busy=False, started=now, last=now + 100)
    lab.rig.clock.advance(LIMIT)
    assert lab.watch.check() == 100.0
    lab.rig.clock.advance(100)
    assert lab.watch.check() is None
    lab.rig.settle()
    row = lab.rig.get(first).row
    assert (str(row.state), row.message) == ("stopped", "idle for 10m00s: nobody looked at it")
    assert lab.rig.state(second) == "running"


def test_a_tensorboard_that_works_on_a_request_is_kept(lab: Lab) -> None:
    number = lab.start_board()
    lab.says = Use(busy=True, started=0, last=0)
    lab.rig.clock.advance(100 * LIMIT)
    assert lab.watch.check() == 300.0
    lab.rig.settle()
    assert lab.rig.state(number) == "running"


def test_a_tensorboard_that_does_not_tell_is_let_be_and_asked_once_for_each_try(
    lab: Lab, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG", "localml.control")
    number = lab.start_board()
    lab.says = None
    lab.rig.clock.advance(100 * LIMIT)
    assert [lab.watch.check() for _ in range(3)] == [None] * 3
    lab.rig.settle()
    assert (lab.rig.state(number), lab.asked) == ("running", 1)
    assert caplog.text.count("board does not tell when it was used") == 1
    # the next try may be of another image under the same name
    lab.rig.engine.finish(lab.rig.get(number).attempts[-1].name, 1)
    lab.rig.settle()
    lab.rig.clock.advance(60)
    lab.rig.settle()
    lab.says = Use(busy=False, started=0, last=lab.rig.clock.now())
    assert lab.watch.check() == 300.0
    assert lab.asked == 2


def test_without_a_limit_nobody_asks(lab: Lab) -> None:
    lab.start(idle_limit=None)
    lab.start_board(idle_limit=None)
    assert lab.watch.check() is None
    assert lab.asked == 0


def test_the_watch_notices_by_itself_when_a_notebook_begins_to_run(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("localml.control.watch.idle._SHORTEST_S", 0.01)
    lab.watch = IdleWatch(lab.rig.workloads, lab.tools, lab.rig.clock, lab._look)
    lab.watch.start()
    try:
        lab.rig.clock.advance(LIMIT)
        number = lab.start()
        lab.rig.clock.advance(LIMIT)
        lab.watch.nudge()
        wait_until(lambda: str(lab.rig.get(number).row.desired) == "stop")
    finally:
        lab.watch.close()


@given(last=times, started=times, began=times, limit=st.floats(1, 1e6), now=times)
def test_time_is_up_exactly_when_nothing_was_done_for_the_limit(
    last: float, started: float, began: float, limit: float, now: float
) -> None:
    left = time_left(activity(last, started=started), limit, began, now)
    since = max(last, started, began)
    assert (left <= 0) == (since + limit <= now)
    assert time_left(activity(last, busy=True), limit, began, now) == limit


def test_a_notebook_that_ends_by_itself_is_started_again_with_growing_pauses(lab: Lab) -> None:
    number = lab.start()
    for tries, pause in ((1, 1.0), (2, 2.0), (3, 4.0)):
        lab.rig.engine.finish(lab.rig.get(number).attempts[-1].name, 0)
        lab.rig.settle()
        assert lab.rig.state(number) == "queued"
        message = lab.rig.workloads.events(number)[-1].message
        assert f"to run until it is stopped; try {tries + 1} in {pause:g} s" in message
        lab.rig.clock.advance(pause)
        lab.rig.settle()
        assert lab.rig.state(number) == "running"


def test_a_notebook_that_is_stopped_is_stopped_whatever_its_exit_code(lab: Lab) -> None:
    number = lab.start()
    lab.rig.workloads.stop(number, ME)
    lab.rig.settle()
    lab.rig.clock.advance(60)
    lab.rig.settle()
    assert lab.rig.state(number) == "stopped"


def test_the_time_limit_of_a_notebook_stops_it_and_is_no_failure(lab: Lab) -> None:
    spec = lab.tools.notebook(ME.id, Notebook("lab", time_limit=60))
    number = lab.rig.submit("lab", spec, kind=Kind.NOTEBOOK)
    lab.rig.settle()
    lab.rig.clock.advance(60)
    lab.rig.settle()
    lab.rig.clock.advance(60)
    lab.rig.settle()
    assert (lab.rig.state(number), str(lab.rig.get(number).row.cause)) == ("stopped", "time_limit")


def test_somebody_elses_sealed_token_fails_the_start_and_says_so(lab: Lab) -> None:
    foreign = lab.tools.notebook(7, Notebook("lab"))
    number = lab.rig.submit("lab", foreign, kind=Kind.NOTEBOOK)
    lab.rig.settle()
    row = lab.rig.get(number).row
    assert str(row.state) == "failed"
    assert "not sealed by this installation for this user" in row.message


def test_a_stranger_at_its_port_is_not_taken_for_it_and_is_sent_no_token(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On an engine that shares the machine's ports."""
    full = lab.rig.workloads.get(lab.start())
    heard: list[str | None] = []

    class Agreeable(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            heard.append(self.headers["Authorization"])
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Nothing."""

    with HTTPServer(("127.0.0.1", 0), Agreeable) as other:
        threading.Thread(target=other.serve_forever, daemon=True).start()
        port = other.server_port
        monkeypatch.setattr(
            lab.tools, "access", lambda _: Access("secret", "127.0.0.1", port, f"http://127.0.0.1:{port}")
        )
        watch = IdleWatch(lab.rig.workloads, lab.tools, lab.rig.clock, shared=True)
        assert not watch.answers(full)
        with pytest.raises(LocalmlError, match=f"process {os.getpid()} .* listens at its port {port}"):
            watch.look(full)
        assert heard == []
        watch = IdleWatch(lab.rig.workloads, lab.tools, lab.rig.clock)  # each has ports of its own
        assert watch.answers(full)
        other.shutdown()
