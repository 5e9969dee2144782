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
from typing import Protocol

import asyncssh
import pytest
from helpers.rig import wait_until
from helpers.ssh import OpenSsh

from localml.config import Config
from localml.control.shell.files import ContainerFiles
from localml.core.clock import ManualClock
from localml.core.errors import Code, LocalmlError
from localml.core.people.identity import ADMIN
from localml.core.people.rights import MemberRole
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

    def submit(self, name: str, retries: int = 0, owner: str = ADMIN, workspace: str | None = None) -> int:
        spec = single(["run"], retries=RetryPolicy(limit=retries, backoff=0))
        submission = Submission(name, spec, self.platform.identity.user(owner), workspace=workspace)
        number = self.platform.workloads.submit(submission)
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


class Enter(Protocol):
    def __call__(self, number: int, user: str = ADMIN) -> OpenSsh: ...


@pytest.fixture
def enter(site: Site, tmp_path: Path) -> Enter:
    def make(number: int, user: str = ADMIN) -> OpenSsh:
        door = site.platform.ssh.info(number).doors[0]
        key = site.platform.ssh.private_key(number, site.platform.identity.user(user))
        return OpenSsh(tmp_path / f"client-of-{user}", door.host, door.port, key)

    return make


def begun(client: OpenSsh) -> subprocess.Popen[bytes]:
    """A session that waits for input, once it is inside."""
    session = client.begin("wait for input")
    assert session.stdout is not None
    assert session.stdout.readline() == b"hello from the container\n"
    return session


def is_put_out(session: subprocess.Popen[bytes]) -> bool:
    """Whether a session whose input is still open ends at once, as one that the server has ended."""
    code = session.wait(timeout=10)
    session.communicate()
    return code == 255


def goes_on(session: subprocess.Popen[bytes]) -> bool:
    """Whether a session is still there, which ends in its own time."""
    out, _ = session.communicate(b"given\n", timeout=60)
    return (session.returncode, out) == (6, b"given\n")


def test_a_command_goes_to_the_engine_and_its_result_comes_back(site: Site, enter: Enter) -> None:
    site.engine.exec_result = ExecResult(6, b"out\n", b"err\n")
    done = enter(site.submit("a"))("anything", given=b"given\n")
    assert (done.returncode, done.stdout, done.stderr) == (6, b"out\ngiven\n", b"err\n")


def test_an_engine_that_does_not_answer_is_told(site: Site, enter: Enter) -> None:
    client = enter(site.submit("a"))
    site.engine.unreachable = True
    done = client("anything")
    site.engine.unreachable = False
    assert (done.returncode, b"told not to answer" in done.stderr) == (255, True)


def test_a_retried_job_keeps_its_door_and_loses_the_sessions_of_the_first_try(site: Site, enter: Enter) -> None:
    number = site.submit("a", retries=1)
    client = enter(number)
    session = begun(client)
    first = site.platform.ssh.info(number).doors[0]
    site.engine.finish(first.name, 3)
    assert session.wait(timeout=60) == 255  # its input is still open
    session.communicate()
    wait_until(lambda: [one.name for one in site.platform.ssh.info(number).doors] not in ([], [first.name]))
    assert site.platform.ssh.info(number).doors[0].port == first.port
    assert client("again").returncode == 6


def test_a_session_that_begins_while_a_change_is_looked_at_stays(
    site: Site, enter: Enter, monkeypatch: pytest.MonkeyPatch
) -> None:
    number = site.submit("a")
    client, get = enter(number), site.platform.workloads.get
    between_two_tries = replace(get(number), attempts=())
    sessions: list[subprocess.Popen[bytes]] = []

    def get_slowly(wanted: int) -> Full:
        if sessions or threading.current_thread() is not threading.main_thread():
            return get(wanted)
        sessions.append(begun(client))
        return between_two_tries

    monkeypatch.setattr(site.platform.workloads, "get", get_slowly)
    site.platform.ssh._check(number)
    assert goes_on(sessions[0])


def _removed(site: Site) -> None:
    site.platform.identity.remove_user("ann")


def _with_a_new_password(site: Site) -> None:
    site.platform.identity.set_password("ann", "another secret")


def _revoked(site: Site) -> None:
    site.platform.identity.end_credentials("ann")


def _no_member(site: Site) -> None:
    admin = site.platform.identity.user(ADMIN)
    site.platform.workspaces.remove_member(site.platform.workspaces.find(admin, "team").id, "ann")


@pytest.mark.parametrize("happens", [_removed, _with_a_new_password, _revoked, _no_member])
def test_who_may_not_enter_any_more_is_put_out_and_others_stay(
    site: Site, enter: Enter, happens: Callable[[Site], None]
) -> None:
    site.platform.identity.create_user("ann", "secret")
    team = site.platform.workspaces.create(site.platform.identity.user(ADMIN), "team").id
    site.platform.workspaces.set_member(team, "ann", MemberRole.MEMBER)
    number = site.submit("a", owner="ann", workspace=team)
    ann, admin = enter(number, "ann"), enter(number)
    inside = begun(ann), begun(admin)
    happens(site)
    assert is_put_out(inside[0])
    assert ann("again").returncode == 255  # the key opens nothing any more
    assert goes_on(inside[1])
    assert admin("again").returncode == 6


def test_who_is_no_administrator_any_more_is_put_out_of_others_jobs(site: Site, enter: Enter) -> None:
    site.platform.identity.create_user("ann", "secret", admin=True)
    others, own = site.submit("a"), site.submit("b", owner="ann")
    inside = begun(enter(others, "ann")), begun(enter(others)), begun(enter(own))
    site.platform.identity.set_password("ann", "secret", admin=False)
    assert is_put_out(inside[0])
    assert goes_on(inside[1])
    assert goes_on(inside[2])
    with_a_new_key = enter(own, "ann")
    assert with_a_new_key("again").returncode == 6  # what is its own
    assert enter(others, "ann")("again").returncode == 255


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
def test_a_damaged_file_of_ports_keeps_nobody_out(site: Site, enter: Enter, text: str) -> None:
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
