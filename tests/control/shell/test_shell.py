"""What the ssh service of a platform does and does not do, over the fake engine."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import asyncssh
import pytest
from helpers.rig import wait_until
from helpers.ssh import OpenSsh

from localml.config import Config
from localml.control.shell.files import ContainerFiles
from localml.core.clock import ManualClock
from localml.core.errors import Code, LocalmlError
from localml.core.people.identity import ADMIN
from localml.core.work.specs import RetryPolicy, single
from localml.core.work.states import State
from localml.core.work.workloads import Full, Submission
from localml.engines.base import ExecResult
from localml.engines.fake.engine import FakeEngine
from localml.platform import Platform


class Site:
    """A platform over a fake engine."""

    def __init__(self, data: Path) -> None:
        self.data = data
        self.engine = FakeEngine(ManualClock(1_000.0))
        self.engine.exec_result = ExecResult(6, b"hello from the container\n", b"")
        self.open()

    def open(self) -> None:
        config = Config(self.data, engine="fake", gpus="none", cpus=8, memory=16 << 30, port=0)
        self.platform = Platform(config, engine=self.engine)
        self.platform.start()

    def restart(self) -> None:
        self.platform.close()
        self.engine = self.engine.restarted()
        self.open()

    def submit(self, name: str, retries: int = 0) -> int:
        spec = single(["run"], retries=RetryPolicy(limit=retries, backoff=0))
        number = self.platform.workloads.submit(Submission(name, spec, self.platform.identity.user(ADMIN)))
        self.wait(number, State.RUNNING)
        return number

    def wait(self, number: int, state: State) -> None:
        wait_until(lambda: self.platform.workloads.row(number).state is state)

    def ports(self) -> dict[str, dict[str, int]]:
        found: dict[str, dict[str, int]] = json.loads((self.data / "ssh" / "ports.json").read_text())
        return found


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    opened = Site(tmp_path / "data")
    yield opened
    opened.platform.close()


@pytest.fixture
def enter(site: Site, tmp_path: Path) -> Callable[[int], OpenSsh]:
    def make(number: int) -> OpenSsh:
        door = site.platform.ssh.info(number).doors[0]
        return OpenSsh(
            tmp_path / "client",
            door.host,
            door.port,
            site.platform.ssh.private_key(number, site.platform.identity.user(ADMIN)),
        )

    return make


def test_a_command_goes_to_the_engine_and_its_result_comes_back(site: Site, enter: Callable[[int], OpenSsh]) -> None:
    site.engine.exec_result = ExecResult(6, b"out\n", b"err\n")
    done = enter(site.submit("a"))("anything", given=b"given\n")
    assert (done.returncode, done.stdout, done.stderr) == (6, b"out\ngiven\n", b"err\n")


def test_an_engine_that_does_not_answer_is_told(site: Site, enter: Callable[[int], OpenSsh]) -> None:
    client = enter(site.submit("a"))
    site.engine.unreachable = True
    done = client("anything")
    site.engine.unreachable = False
    assert (done.returncode, b"told not to answer" in done.stderr) == (255, True)


def test_a_retried_job_keeps_its_door_and_loses_the_sessions_of_the_first_try(
    site: Site, enter: Callable[[int], OpenSsh]
) -> None:
    number = site.submit("a", retries=1)
    client = enter(number)
    session = client.begin("wait for input")
    assert session.stdout is not None
    assert session.stdout.readline() == b"hello from the container\n"
    first = site.platform.ssh.info(number).doors[0]
    site.engine.finish(first.name, 3)
    assert session.wait(timeout=60) == 255  # its input is still open
    session.communicate()
    wait_until(lambda: [one.name for one in site.platform.ssh.info(number).doors] not in ([], [first.name]))
    assert site.platform.ssh.info(number).doors[0].port == first.port
    assert client("again").returncode == 6


def test_a_session_that_begins_while_a_change_is_looked_at_stays(
    site: Site, enter: Callable[[int], OpenSsh], monkeypatch: pytest.MonkeyPatch
) -> None:
    number = site.submit("a")
    client, get = enter(number), site.platform.workloads.get
    between_two_tries = replace(get(number), attempts=())
    sessions: list[subprocess.Popen[bytes]] = []

    def get_slowly(wanted: int) -> Full:
        if sessions or threading.current_thread() is not threading.main_thread():
            return get(wanted)
        sessions.append(client.begin("wait for input"))
        assert sessions[0].stdout is not None
        assert sessions[0].stdout.readline() == b"hello from the container\n"
        return between_two_tries

    monkeypatch.setattr(site.platform.workloads, "get", get_slowly)
    site.platform.ssh._check(number)
    out, _ = sessions[0].communicate(b"given\n", timeout=60)
    assert (sessions[0].returncode, out) == (6, b"given\n")


def test_the_names_of_jobs_are_told_in_the_common_bucket_only_where_all_see_the_jobs(site: Site) -> None:
    info = site.platform.ssh.info(site.submit("a"))
    assert info.doors
    assert not site.platform.buckets.exists(info.folder.partition("/Container")[0] + "/Container")


def test_nothing_is_left_of_a_job_that_ended_while_the_server_was_away(site: Site) -> None:
    number, stays = site.submit("a"), site.submit("b")
    info, other = site.platform.ssh.info(number), site.platform.ssh.info(stays)
    assert set(site.ports()) == {str(number), str(stays)}
    site.platform.close()
    site.engine = site.engine.restarted()
    site.engine.finish(info.doors[0].name)
    site.open()
    site.wait(number, State.SUCCEEDED)
    wait_until(lambda: set(site.ports()) == {str(stays)})
    assert not site.platform.buckets.exists(info.folder)
    assert site.platform.ssh.info(stays).doors == other.doors


def test_a_port_that_was_taken_meanwhile_is_replaced(site: Site) -> None:
    import socket

    number = site.submit("a")
    before = site.platform.ssh.info(number).doors[0].port
    site.platform.close()
    site.engine = site.engine.restarted()
    with socket.create_server(("127.0.0.1", before)):
        site.open()
        assert site.platform.ssh.info(number).doors[0].port != before


@pytest.mark.parametrize("text", ["", "no json", "[1]", '{"a": {"main/0": 1}}', '{"1": 7}'])
def test_a_damaged_file_of_ports_keeps_nobody_out(site: Site, enter: Callable[[int], OpenSsh], text: str) -> None:
    number = site.submit("a")
    site.platform.ssh.info(number)
    site.platform.close()
    (site.data / "ssh" / "ports.json").write_text(text)
    site.engine = site.engine.restarted()
    site.engine.exec_result = ExecResult(0, b"", b"")
    site.open()
    assert enter(number)("anything").returncode == 0


def test_an_unknown_workload_is_not_found(site: Site) -> None:
    with pytest.raises(LocalmlError) as caught:
        site.platform.ssh.info(4711)
    assert caught.value.code is Code.NOT_FOUND


def test_a_server_that_is_going_down_opens_nothing(site: Site) -> None:
    number = site.submit("a")
    site.platform.ssh.close()
    with pytest.raises(LocalmlError) as caught:
        site.platform.ssh.info(number)
    assert caught.value.code is Code.UNAVAILABLE


def test_the_ssh_library_is_not_loaded_before_somebody_asks(tmp_path: Path) -> None:
    program = f"""
import sys
from pathlib import Path
from localml.config import Config
from localml.platform import Platform
platform = Platform(Config(Path({str(tmp_path / "data")!r}), engine="fake", gpus="none", port=0))
platform.start()
platform.close()
assert "asyncssh" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_no_file_operation_reaches_this_machines_own_files() -> None:
    harmless = {"channel", "connection", "env", "logger", "convert_attrs", "_to_sftpname", "format_longname"}
    inherited = {
        name
        for name, member in inspect.getmembers(asyncssh.SFTPServer)
        if (not name.startswith("_") or name == "_to_sftpname") and name not in vars(ContainerFiles)
        if inspect.isroutine(member) or isinstance(member, property)
    }
    assert inherited <= harmless, f"{inherited - harmless} of asyncssh's server for its own machine"
