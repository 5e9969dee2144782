"""Waiting is quiet and says why: one live line on a terminal, few plain lines elsewhere, logs of builds in files."""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from localml.cli import machine
from localml.cli.live import Line
from localml.cli.tools import _started
from localml.cli.waiting import reason_words
from localml.client import Reason
from localml.client.errors import ClientError
from localml.client.tools import Tool, Tools
from localml.testing import Localml

Cli = Callable[..., Any]
COLOUR = re.compile(r"\x1b\[[0-9;]*3[0-9][0-9;]*m")
ESCAPE = "\x1b"


@pytest.fixture
def taken(localml: Localml) -> Iterator[str]:
    """A job that has both GPUs."""
    made = localml.client.run(["sleep", "600"], name="has-both", gpus=2)
    deadline = time.monotonic() + 30
    while localml.client.get(made.id).state != "running" and time.monotonic() < deadline:
        threading.Event().wait(0.02)
    yield made.name
    with suppress(ClientError):
        localml.client.delete(made.id)


def test_why_and_ps_name_who_has_it_and_since_when(cli: Cli, localml: Localml, taken: str) -> None:
    made = localml.client.run(["true"], name="wants-one", gpus=1)
    told = cli("why", "wants-one").out
    assert re.search(rf"held by {taken} \(\w+'s, for \d+s\)", told), told
    (holder,) = cli("why", "wants-one", "--json").json["why"]["held_by"]
    assert (holder["name"], holder["kind"]) == (taken, "job")
    row = next(line for line in cli("ps").out.splitlines() if "wants-one" in line)
    assert f"held by {taken}" in row
    assert "GPU" in row
    localml.client.delete(made.id)


def test_a_reason_in_one_line_says_what_who_since_when_and_until_when() -> None:
    holder = {"id": 7, "name": "big", "kind": "job", "owner": "ann", "since": 940.0}
    reason = Reason("resources", "waits for 1 GPU (0 free)", ["gpu"], [7, 8], [holder], 1300.0)
    words = reason_words(reason, now=1000.0)
    assert words == "waits for 1 GPU (0 free); held by big (ann's, for 1m00s) and 1 more; expected to start in 5m00s"


@pytest.mark.timeout(60)
def test_a_notebook_that_waits_says_why(localml: Localml, taken: str) -> None:
    command = [sys.executable, "-m", "localml.cli", "notebook", "start", "cannot-yet", "--gpus", "1"]
    with subprocess.Popen(command, env=_environment(localml), stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        while "held by" not in (line := process.stderr.readline()):
            assert line, "it ended"
        process.kill()
    words = rf"cannot-yet is queued: waits for 1 GPU \(0 GPUs free\); held by {taken} \(\w+'s, for \d+s\)\n"
    assert re.fullmatch(words, line), line
    localml.client.delete(localml.client.tools.notebook("cannot-yet").workload_id)


def test_how_long_a_runtime_takes_to_be_built_is_no_reason_to_give_up(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lab = Tool(1, "lab", "notebook", "preparing", "", "me", 0, 0.0, None, None, 7, 1, False, "", *[None] * 5)
    left = [replace(lab), replace(lab), replace(lab, state="running", ready=True)]
    why = {"preparing": Reason("image", "building notebook, 40 s")}
    tools = Tools(SimpleNamespace(json=lambda *_: None))  # type: ignore[arg-type]
    monkeypatch.setattr(tools, "notebook", lambda _: left.pop(0))
    monkeypatch.setattr("localml.cli.tools._READY_S", 0.0)
    client: Any = SimpleNamespace(tools=tools, why=lambda number: why["preparing"])
    assert _started(client, lab, quiet=False).ready
    assert capsys.readouterr().err == "lab is preparing: building notebook, 40 s\n"
    left[:] = [replace(lab)]
    why["preparing"] = Reason("pending", "the engine has not begun it")
    with pytest.raises(TimeoutError, match="lab does not answer after 0 s; it is preparing"):
        _started(client, lab, quiet=True)


def _environment(localml: Localml, **more: str) -> dict[str, str]:
    return {**os.environ, "LOCALML_DATA": str(localml.platform.data), "TERM": "xterm", "COLUMNS": "100", **more}


FOLLOWED = [sys.executable, "-m", "localml.cli", "run", "--gpus", "1", "-f"]


def test_run_follow_says_in_plain_lines_why_it_waits(localml: Localml, taken: str) -> None:
    command = [*FOLLOWED, "--name", "follows", "--", "echo", "done"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=_environment(localml)
    ) as process:
        assert process.stderr is not None
        said = []
        while "held by" not in (line := process.stderr.readline()):
            assert line, said
            said.append(line)
        assert taken in line
        assert "follows (" in line
        localml.client.delete(taken)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (0, "done\n")
    assert ESCAPE not in "".join([*said, line, err])
    assert len([*said, *err.splitlines()]) <= 4  # no line a second
    localml.client.delete("follows")


@pytest.mark.parametrize("no_color", ["", "1"])
def test_run_follow_has_one_live_line_on_a_terminal(localml: Localml, taken: str, no_color: str) -> None:
    master, slave = pty.openpty()
    command = [*FOLLOWED, "--name", "looks-on", "--", "echo", "done"]
    environment = _environment(localml, NO_COLOR=no_color)
    process = subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, env=environment)
    os.close(slave)
    written, freed = b"", False
    with suppress(OSError):
        while piece := os.read(master, 65536):
            written += piece
            if not freed and b"held by" in written:
                localml.client.delete(taken)
                freed = True
    os.close(master)
    assert process.wait(60) == 0
    text = written.decode()
    assert f"held by {taken}" in text
    assert f"{ESCAPE}[2K" in text  # it is wiped away
    assert text.replace("\r", "").splitlines()[-1].endswith("done")
    assert bool(COLOUR.search(text)) is not bool(no_color)
    localml.client.delete("looks-on")


def test_a_notebook_that_starts_says_why_it_waits(localml: Localml, taken: str) -> None:
    command = [*FOLLOWED[:3], "notebook", "start", "waits-too", "--gpus", "all", "--image", "own"]
    heeds = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # a shell's background jobs ignore it
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=_environment(localml),
        preexec_fn=heeds,
    ) as process:
        assert process.stderr is not None
        said = [process.stderr.readline()]
        while said[-1] and "held by" not in said[-1]:
            said.append(process.stderr.readline())
        assert f"held by {taken}" in said[-1], said
        assert said[-1].startswith("waits-too is queued: ")
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "waits-too goes on; open it with: localml notebook waits-too" in err
    localml.client.delete("waits-too")


def test_why_something_waits_is_not_cut_on_a_narrow_terminal(localml: Localml) -> None:
    words = "quiet-otter (1s): waits for 1 GPU; held by " + "some-job (ann's, for 1m00s), " * 3 + "expected in 5m"
    code = f"from localml.cli.live import Line\nwith Line(whole=True) as line: line.say({words!r})"
    master, slave = pty.openpty()
    environment = _environment(localml, COLUMNS="40")
    process = subprocess.Popen([sys.executable, "-c", code], stderr=slave, env=environment)
    assert process.wait(60) == 0
    written = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|[⠀-⣿]", "", os.read(master, 65536).decode())
    for one in (master, slave):
        os.close(one)
    assert written.split()[: len(words.split())] == words.split()


@pytest.mark.parametrize("no_color", ["", "1"])
def test_failures_have_a_colour_only_where_it_is_wanted(localml: Localml, no_color: str) -> None:
    master, slave = pty.openpty()
    command = [sys.executable, "-m", "localml.cli", "show", "nothing-of-this-name"]
    process = subprocess.Popen(command, stderr=slave, env=_environment(localml, NO_COLOR=no_color))
    os.close(slave)
    written = os.read(master, 65536)
    assert process.wait(60) == 1
    os.close(master)
    assert bool(COLOUR.search(written.decode())) is not bool(no_color)


def test_a_pull_is_a_bar_on_a_terminal(localml: Localml) -> None:
    code = "from localml.cli.live import Line\nwith Line() as line: line.say('pulling x: 45 %')"
    master, slave = pty.openpty()
    process = subprocess.Popen([sys.executable, "-c", code], stderr=slave, env=_environment(localml))
    assert process.wait(60) == 0
    written = os.read(master, 65536).decode()
    for one in (master, slave):
        os.close(one)
    assert "pulling x: 45 %" in written
    assert "━" in written


def test_plain_lines_come_when_something_else_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    now = [0.0]
    line = Line(patience=5.0, now=lambda: now[0])
    said = [
        (1.0, "pulling x: 1 %"),
        (6.0, "pulling x: 20 %"),
        (7.0, "pulling x: 21 %"),
        (8.0, "starts"),
        (9.0, "starts"),
        (90.0, "starts"),
    ]
    for at, words in said:
        now[0] = at
        line.say(words)
    line.close()
    assert capsys.readouterr().err.splitlines() == ["pulling x: 20 %", "starts", "starts"]


def _steps(*_: Any) -> Iterator[dict[str, Any]]:
    for number in range(200):
        yield {"line": f"layer {number} of the image"}
    yield {"built": "base", "reference": "localml/base:1", "size": 2048}


def test_a_build_shows_a_line_and_keeps_its_log(command: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCALML_CACHE", str(tmp_path))
    monkeypatch.setattr(machine, "_build", _steps)
    done = command("images", "build", "base")
    assert (done.code, done.out) == (0, "base: localml/base:1 (2K)\n")
    (log,) = (tmp_path / "logs").iterdir()
    assert done.err == f"building base; all that it says: {log}\n"
    assert len(log.read_text().splitlines()) == 200


def test_a_build_that_fails_shows_its_last_lines(command: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def steps(*_: Any) -> Iterator[dict[str, Any]]:
        yield from list(_steps())[:-1]
        raise ClientError("unavailable", "the build failed")

    monkeypatch.setenv("LOCALML_CACHE", str(tmp_path))
    monkeypatch.setattr(machine, "_build", steps)
    failed = command("images", "build", "base")
    assert failed.code == 1
    assert "layer 199 of the image" in failed.err
    assert "layer 100 of the image" not in failed.err
    assert "build-base.log" in failed.err
