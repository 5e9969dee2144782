"""The server's life from the command line, in processes of its own."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import urllib3
from helpers.rig import wait_until

from localml.cli import daemon
from localml.cli.daemon import _settings
from localml.config import load
from localml.engines.process.boxes import trouble

LOCALML = [sys.executable, "-m", "localml.cli"]
PATIENT = [
    sys.executable,
    "-c",
    "from localml import cli; from localml.client import client; client._REJOIN_S = 60.0; cli.main()",
]
"""The same, for a follower whose server may take long to come back on a busy machine."""
Cli = Callable[..., Any]
UP = ["up", "--port", "0", "--gateway-port", "0", "--engine", "process", "--gpus", "simulated:1"]


def test_a_server_in_the_background_has_all_settings_of_its_command(tmp_path: Path) -> None:
    config = load({"LOCALML_IMAGES": "*/pai.run.*=train-sklearn,none=host"}, data=tmp_path, hosts=("a", "b"))
    assert load(_settings(config)) == config
    assert load(_settings(load({}, data=tmp_path))) == load({}, data=tmp_path)


@pytest.fixture
def data(tmp_path: Path, command: Cli, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A data directory that the commands of the test mean; what was started on it is stopped at the end."""
    folder = tmp_path / "data"
    monkeypatch.setenv("LOCALML_DATA", str(folder))
    yield folder
    command("down")


@pytest.mark.parametrize("way", [[], ["--detach"]], ids=["here", "detached"])
def test_what_no_server_can_have_is_told(
    data: Path, command: Cli, monkeypatch: pytest.MonkeyPatch, way: list[str]
) -> None:
    for cores in ("nan", "inf", "0"):
        assert command(*UP, *way, "--cpus", cores).err == f"error: --cpus: must be more than 0, not {cores}\n"
    monkeypatch.setenv("LOCALML_LOG", "loudly")
    refused = command(*UP, *way)
    assert (refused.code, "LOCALML_LOG: must be one of CRITICAL, " in refused.err) == (1, True), refused.err


def test_down_ends_no_server_but_the_one_that_is_meant(
    data: Path, command: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = command(*UP, "--detach", "--json").json
    monkeypatch.setenv("LOCALML_URL", "http://elsewhere:7070")
    monkeypatch.setenv("LOCALML_TOKEN", "theirs")
    refused = command("down")
    assert (refused.code, f"--data {data}" in refused.err) == (1, True)
    monkeypatch.setenv("LOCALML_URL", started["url"])
    assert command("down").out == f"stopped (process {started['pid']})\n"


def test_ctrl_c_takes_a_start_in_the_background_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is started here is no server but what presses Ctrl-C as soon as it is waited for."""
    waits = ["sh", "-c", "read begun; kill -INT $PPID; exec sleep 600"]
    started: list[subprocess.Popen[bytes]] = []

    def spawn(_: object, __: object, ready: int) -> subprocess.Popen[bytes]:
        started.append(subprocess.Popen(waits, stdin=subprocess.PIPE, pass_fds=(ready,), start_new_session=True))
        return started[0]

    class Timer(threading.Timer):
        def start(self) -> None:
            super().start()
            assert started[0].stdin is not None
            started[0].stdin.close()

    monkeypatch.setattr(daemon, "_spawn", spawn)
    monkeypatch.setattr(threading, "Timer", Timer)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            daemon.start_detached(load({}, data=tmp_path))
    finally:
        signal.signal(signal.SIGINT, before)
    assert started[0].poll() == -signal.SIGTERM


def test_up_status_run_down(data: Path, command: Cli) -> None:
    started = command(*UP, "--detach", "--json")
    assert started.code == 0, started.err
    banner = started.json
    assert (banner["engine"], banner["data"], len(banner["gpus"])) == ("process", str(data), 1)
    status = command("status", "--json").json
    assert (status["pid"], status["url"]) == (banner["pid"], banner["url"])
    again = command(*UP, "--detach")
    assert (again.code, str(banner["pid"]) in again.err) == (1, True)
    foreground = subprocess.run([*LOCALML, *UP], capture_output=True, text=True, check=False, timeout=60)
    assert (foreground.returncode, str(banner["pid"]) in foreground.stderr) == (1, True)
    job = command("run", "-f", "--", "sh", "-c", "echo hi; exit 5")
    assert (job.code, job.out) == (5, "hi\n")
    assert "serving at" in (data / "server.log").read_text()
    ended = command("down", "--json").json
    assert (ended["stopped"], ended["pid"], ended["data"]) == (True, banner["pid"], str(data))
    assert ended["running"] == []
    assert command("status").code == 2


def test_down_says_what_goes_on(data: Path, command: Cli) -> None:
    assert command(*UP, "--detach").code == 0
    for name in ("goes-1", "goes-2", "goes-3", "goes-4"):
        assert command("run", "--name", name, "--cpus", "0.1", "--", "sleep", "600").code == 0
    wait_until(lambda: len(command("ps", "--state", "running", "--json").json["workloads"]) == 4, 30)
    ended = command("down").out
    assert re.search(r"; goes-\d, goes-\d, goes-\d and 1 more go on: 'localml up' takes them up again\n$", ended), ended
    assert command(*UP, "--detach").code == 0
    assert command("stop", "--all", "--wait").code == 0


def test_what_is_opened_is_said_at_the_start_and_by_status_and_doctor(data: Path, command: Cli) -> None:
    started = command(*UP, "--detach", "--open", "mlbench")
    words = "each account and each job here may start programs"
    assert (started.code, words in started.out) == (0, True), started.err
    assert words in command("status").out
    assert words in command("doctor").out
    assert command("down").code == 0
    closed = command(*UP, "--detach", "--closed")
    assert (closed.code, "OPEN" in closed.out) == (0, False), closed.err
    assert command("status", "--json").json["closed"] is True
    for options, field in ((["--open", "openpai"], "open"), (["--open", "mlbench", "--closed"], "closed")):
        refused = command("up", *options, "--json")
        assert (refused.code, refused.json["error"]["field"]) == (1, field)


def test_it_may_be_called_by_names_that_it_is_given(data: Path, command: Cli) -> None:
    """As behind a published port, where clients know it by an address that is none of its machine's."""
    started = command(*UP, "--detach", "--json", "--allow-host", "nas.example", "--allow-host", "2001:db8::7")
    assert started.code == 0, started.err
    health = f"{started.json['url']}/healthz"
    for name, status in (
        ("nas.example", 200),
        ("NAS.example:80", 200),
        ("[2001:db8::7]:80", 200),
        ("evil.example", 403),
    ):
        answer = urllib3.request("GET", health, headers={"Host": name}, retries=False)
        assert answer.status == status, name
    assert "--allow-host" in answer.json()["message"]
    for name in ("http://nas", "nas:80", "[::1]", ""):
        refused = command("up", "--allow-host", name, "--json")
        assert (refused.code, refused.json["error"]["field"]) == (1, "allow-host"), name


def test_doctor_says_who_is_kept_apart_by_the_server_that_runs(data: Path, command: Cli) -> None:
    def said() -> str:
        return str(next(one["message"] for one in command("doctor", "--json").json["checks"] if one["name"] == "users"))

    started = command(*UP, "--detach", "--trust-users")
    assert (started.code, "all are trusted" in started.out) == (0, True), started.err
    assert said().startswith("all are trusted")
    assert command("down").code == 0
    assert not said().startswith("all are trusted")
    assert command(*UP, "--detach").code == 0
    assert said().startswith("child processes of each run as a user of their own" if not trouble() else "only admin")


def test_a_start_that_fails_says_why(data: Path, command: Cli) -> None:
    failed = command("up", "--detach", "--gpus", "simulated:1000", "--port", "0", "--engine", "process")
    assert failed.code == 1
    assert "gpus: simulated:N takes a number" in failed.err
    refused = command("up", "--detach", "--no-auth", "--host", "0.0.0.0", "--json")
    assert (refused.code, refused.json["error"]["field"]) == (1, "no-auth")


def test_the_foreground_server_ends_orderly_on_a_signal(data: Path, command: Cli) -> None:
    with subprocess.Popen([*LOCALML, *UP], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        assert server.stdout.readline().startswith("localml ")
        job = command("run", "--name", "survivor", "--", "sleep", "600")
        assert job.code == 0, job.err
        server.send_signal(signal.SIGTERM)
        _, log = server.communicate(timeout=60)
    assert server.returncode == 0, log
    assert "shutting down; workloads go on" in log
    assert command(*UP, "--detach").code == 0
    assert command("stop", "--wait", "survivor").out == "survivor stopped\n"


def test_interrupted_following_leaves_the_job_alone(data: Path, command: Cli) -> None:
    assert command(*UP, "--detach").code == 0
    line = [*LOCALML, "run", "-f", "--name", "long", "--", "sh", "-c", "echo begun; sleep 600"]
    with subprocess.Popen(
        line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=_as_from_a_terminal
    ) as follower:
        assert follower.stdout is not None
        assert follower.stdout.readline() == "begun\n"
        follower.send_signal(signal.SIGINT)
        _, words = follower.communicate(timeout=60)
    assert follower.returncode == 130
    assert "localml logs -f long" in words
    # its output may be there a moment before it is recorded that it runs
    wait_until(lambda: command("show", "long", "--json").json["state"] == "running")
    assert command("stop", "--wait", "long").code == 0


def _as_from_a_terminal() -> None:
    """Ctrl-C works, also where these tests are a background job of a shell, which has it ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_following_goes_on_through_a_restart_of_the_server(data: Path, tmp_path: Path, command: Cli) -> None:
    up = ["up", "--engine", "process", "--gpus", "none", "--detach", "--json", "--port"]
    started = command(*up, "0")
    assert started.code == 0, started.err
    port = started.json["url"].rpartition(":")[2]
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    script = f"exec 3<{gate}; read a <&3; echo $a; read b <&3; echo $b"
    line = [*PATIENT, "run", "-f", "--", "sh", "-c", script]
    with subprocess.Popen(line, stdout=subprocess.PIPE, text=True) as follower:
        assert follower.stdout is not None
        with gate.open("w", buffering=1) as writer:
            writer.write("before\n")
            assert follower.stdout.readline() == "before\n"
            assert command("down").code == 0
            again = command(*up, port)
            assert again.code == 0, again.err
            writer.write("after\n")
            assert follower.stdout.readline() == "after\n"
        assert follower.wait(timeout=60) == 0


def test_waiting_goes_on_through_a_restart_of_the_server(data: Path, tmp_path: Path, command: Cli) -> None:
    up = ["up", "--engine", "process", "--gpus", "none", "--detach", "--json", "--port"]
    port = command(*up, "0").json["url"].rpartition(":")[2]
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    command("run", "--name", "short", "--", "true")
    command("run", "--name", "gated", "--", "sh", "-c", f"read a < {gate}; exit 3")
    line = [*PATIENT, "wait", "short", "gated"]
    with subprocess.Popen(line, stdout=subprocess.PIPE, text=True) as waiter:
        assert waiter.stdout is not None
        assert waiter.stdout.readline() == "short succeeded\n"
        wait_until(lambda: _asked(port, waiter.pid) == 1)
        assert command("down").code == 0
        again = command(*up, port)
        assert again.code == 0, again.err
        with gate.open("w") as writer:
            writer.write("now\n")
        assert waiter.communicate(timeout=60)[0].startswith("gated failed")
    assert waiter.returncode == 3


def _asked(port: str, pid: int) -> int:
    """How many connections a process has to a port."""
    return sum(bool(one.raddr) and one.raddr.port == int(port) for one in psutil.Process(pid).net_connections())


@pytest.mark.parametrize("arguments", [["--help"], ["status"]])
def test_short_commands_import_little(tmp_path: Path, arguments: list[str]) -> None:
    """What makes a command slow is what it imports; the clock of a busy machine would say less."""
    code = "import sys\nfrom localml.cli.app import run\nrun(sys.argv[1:])\nprint(*sys.modules, file=sys.stderr)"
    ran = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env={**os.environ, "LOCALML_DATA": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    loaded = set(ran.stderr.split())
    assert "localml.cli.app" in loaded
    heavy = {"flask", "sqlalchemy", "sqlmodel", "pydantic", "docker", "httpx", "rich.console", "psutil", "uvloop"}
    assert not heavy & loaded
