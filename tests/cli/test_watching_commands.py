"""Many at once: wait for them, stop all of them, see what they use."""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from helpers.rig import wait_until

from localml.cli import top
from localml.cli.top import Picture, Use
from localml.client import Client
from localml.core.subjects import Subject
from localml.testing import Localml, start

Cli = Callable[..., Any]


def test_wait_returns_when_all_have_ended_and_exits_like_the_first_that_failed(cli: Cli) -> None:
    for name, code in (("good", 0), ("bad", 5), ("worse", 6)):
        cli("run", "--name", f"wait-{name}", "--", "sh", "-c", f"exit {code}")
    assert cli("wait", "wait-good").out == "wait-good succeeded\n"
    done = cli("wait", "wait-good", "wait-bad", "wait-worse")
    assert done.code == 5
    assert done.out.startswith("wait-good succeeded\nwait-bad failed: ")
    found = cli("wait", "wait-worse", "wait-good", "--json")
    assert (found.code, [one["state"] for one in found.json["workloads"]]) == (6, ["failed", "succeeded"])
    assert cli("wait", "wait-good", "wait-nobody").code == 1


def test_wait_gives_up_after_its_time(cli: Cli) -> None:
    cli("run", "--name", "wait-long", "--", "sleep", "600")
    late = cli("wait", "wait-long", "--timeout", "50ms")
    assert (late.code, "wait-long has not ended after 50ms" in late.err) == (1, True), late.err
    assert "must be a time" in cli("wait", "wait-long", "--timeout", "soon").err
    cli("rm", "wait-long")


@pytest.fixture
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A server of the test's own: all that is stopped is its own."""
    running = start(tmp_path / "data")
    monkeypatch.setenv("LOCALML_DATA", str(running.platform.data))
    yield running
    running.close()


def test_stop_all_stops_what_is_ones_own(command: Cli, alone: Localml) -> None:
    alone.client.create_user("bob", "bob's password")
    with Client(alone.url, alone.client.create_token("bob")) as bob:
        others = bob.run(["sleep", "600"], name="bobs").id
        for name in ("one", "two"):
            command("run", "--name", name, "--", "sleep", "600")
        command("run", "--name", "waits", "--gpus", "2", "--", "sleep", "600")
        command("run", "--name", "waits-too", "--gpus", "2", "--", "sleep", "600")
        done = command("stop", "--all", "--wait")
        assert sorted(done.out.splitlines()) == [f"{name} stopped" for name in ("one", "two", "waits", "waits-too")]
        assert bob.get(others).state in ("queued", "preparing", "running")
        assert command("stop", "--all").out == "Nothing of yours waits or runs.\n"
        assert command("stop", "--all", "--json").json == {"workloads": []}
        assert (command("stop").code, command("stop", "one", "--all").code) == (1, 1)


def _measured(alone: Localml, number: int) -> None:
    """Two rounds of the sampler, as they come every five seconds."""
    now = alone.platform.clock.now()
    for at, seconds in ((now - 4, 10.0), (now - 2, 13.0)):
        about, replica = Subject.workload(number), "main-0"
        name = "container_cpu_usage_seconds_total"
        alone.platform.samples.add_many(about, [(name, seconds, at)], replica=replica, measured=True, cumulative=True)
        alone.platform.samples.add_many(
            about, [("container_memory_usage_bytes", float(3 << 20), at)], replica=replica, measured=True
        )


def test_top_shows_what_runs_and_what_it_uses(command: Cli, alone: Localml) -> None:
    alone.platform.sampler.close()  # its own figures would come between
    assert command("top").out == "0 running, 0 waiting; 2 of 2 GPUs free\nNothing runs.\n"
    made = alone.client.run(["sleep", "600"], name="busy", gpus=1)
    alone.client.run(["sleep", "600"], name="queued", gpus=2)
    wait_until(lambda: alone.client.get(made.id).state == "running")
    _measured(alone, made.id)
    first, header, row = command("top").out.splitlines()
    assert first == "1 running, 1 waiting; 1 of 2 GPUs free"
    assert header.split()[:6] == ["ID", "NAME", "KIND", "OWNER", "RAN", "CPU"]
    words = row.split()
    assert words[:4] + words[5:8] == [str(made.id), "busy", "job", "admin", "1.50", "3M", "1"]
    found = command("top", "--json").json
    assert (found["waiting"], found["gpus"], found["gpus_free"]) == (1, 2, 1)
    [use] = found["uses"]
    assert (use["name"], use["cpu"], use["memory"], use["gpu"]) == ("busy", 1.5, 3 << 20, 1)


def test_top_calls_things_as_ps_does_and_has_no_columns_for_gpus_that_there_are_none_of(
    capsys: pytest.CaptureFixture[str],
) -> None:
    use = Use(3, "digits-v1-1", "endpoint", "ann", 0.5, 1 << 20, 0.0, None, None, 61.0)
    for gpus in (0, 1):
        top._print(Picture([use], 0, gpus, float(gpus)))
        header, row = (line.split() for line in capsys.readouterr().out.splitlines())
        assert row[:6] == ["3", "digits-v1-1", "replica", "ann", "1m01s", "0.50"]
        assert ("GPU" in header) is bool(gpus)


def test_top_is_live_on_a_terminal_until_ctrl_c(alone: Localml) -> None:
    made = alone.client.run(["sleep", "600"], name="first-seen")
    wait_until(lambda: alone.client.get(made.id).state == "running")
    master, slave = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "200", "LINES": "40", "PYTHONUTF8": "1"}
    arguments = [sys.executable, "-m", "localml.cli", "top", "--every", "200ms"]
    heeds = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # a shell's background jobs ignore it
    process = subprocess.Popen(arguments, stdin=slave, stdout=slave, stderr=slave, env=environment, preexec_fn=heeds)
    os.close(slave)
    written = ""
    while "first-seen" not in written:
        written += os.read(master, 65536).decode()
    later = alone.client.run(["sleep", "600"], name="later-seen")
    while "later-seen" not in written:
        written += os.read(master, 65536).decode()
    assert later.name in written
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 0
    os.close(master)
    assert "Traceback" not in re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", written)


def test_cp_reaches_into_a_running_container(cli: Cli, localml: Localml, tmp_path: Path) -> None:
    job = localml.client.run(["sh", "-c", "echo hello > said; sleep 600"], name="reached")
    wait_until(lambda: localml.client.get(job.id).state == "running")
    wait_until(lambda: cli("cp", "reached:said", str(tmp_path / "said")).code == 0)
    assert (tmp_path / "said").read_text() == "hello\n"
    (tmp_path / "more").write_text("12345")
    done = cli("cp", str(tmp_path / "more"), "reached/main/0:more", "--json")
    assert (done.code, done.json["files"], done.json["bytes"]) == (0, 1, 5), done.err
    assert cli("cp", "reached:more", str(tmp_path / "back")).code == 0
    assert (tmp_path / "back").read_text() == "12345"
    for refused, told in (
        (("reached:none", str(tmp_path)), "No such file"),
        (("nobody:x", str(tmp_path)), "nobody"),
        (("reached:a", "reached:b"), "a path of this machine"),
        ((str(tmp_path / "gone"), "reached:b"), "does not exist"),
        ((str(tmp_path / "more"), str(tmp_path / "x")), "exactly one side"),
    ):
        found = cli("cp", *refused)
        assert (found.code, told in found.err) == (1, True), found.err
    (tmp_path / "with:colon").write_text("x")
    assert cli("cp", str(tmp_path / "with:colon"), "fds://colons/x").code == 0
    cli("rm", "reached")
