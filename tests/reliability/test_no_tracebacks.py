"""No command ever shows a traceback: whatever is wrong, it says so in words, and exits with something else than 0."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from helpers.counts import count
from helpers.many_commands import Called, Way, call, leaves

from localml.testing import Localml, start

INSTEAD = {
    ("up",): ("up", "--data", "/dev/null/x"),
    ("down",): ("down", "--data", "/dev/null/x"),
    ("images", "build"): ("images", "build", "x", "--engine", "process"),
    ("images", "prune"): ("images", "prune", "--dry-run"),
    ("notebook", "start"): ("notebook", "start", "--gpus", "999"),
}
"""What would start, end or remove something of this machine's."""
COMMANDS = [INSTEAD.get(line, line) for line in leaves()]
ASKING = [line for line in COMMANDS if line[0] not in ("doctor", "up", "images")]
"""Those that ask a server."""
MORE = [
    ("up", "--detach", "--data", "/dev/null/x"),
    ("up", "--detach", "--data", "/proc/nothing/x"),
    ("up", "--detach", "--data", "~nobody-of-this-name/x"),
    ("up", "--detach", "--data", "/dev/null"),
    ("logs", "job"),
    ("logs", "-f", "job"),
    ("show", "job"),
    ("why", "job"),
    ("events", "job"),
    ("ps", "-a"),
    ("ps", "-a", "--json"),
    ("--help",),
    ("workspaces", "show", "team"),
    ("run", "--name", "\udce4", "--", "true"),
    ("cp", "/dev/null/x", "fds://x/y"),
    ("cp", "fds://x/y", "/dev/null/x"),
    ("cp", "~nobody-of-this-name/x", "fds://x/y"),
    ("cp", "~nobody-of-this-name/x", "job:x"),
    ("cp", "job:x", "~nobody-of-this-name/x"),
    ("run", "--code", "~nobody-of-this-name/x", "--", "true"),
    ("run", "--file", "~nobody-of-this-name/x"),
    ("run", "--mount", "~nobody-of-this-name/x:/x", "--", "true"),
    ("restore", "~nobody-of-this-name/x"),
    ("status", "--data", "~nobody-of-this-name/x"),
    ("completion", "bash"),
]


@pytest.fixture(scope="module")
def localml(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Localml]:
    """A server with words in it that latin-1 has no letters for."""
    running = start(tmp_path_factory.mktemp("server") / "data")
    running.client.run(["sh", "-c", "printf 'å 値 \\377\\n'"], name="job", wait=True)
    running.client.people.create_workspace("team", description="チーム —")
    yield running
    running.close()


def some(lines: list[tuple[str, ...]], long_form: bool) -> list[tuple[str, ...]]:
    """All commands, or each fourth where that takes too long."""
    return lines if long_form else lines[::4]


def check(found: list[Called], *, of_others: bool = False) -> None:
    count("commands in adversity", len(found))
    for one in found:
        shown = one.out + one.err
        assert "Traceback (most recent call last)" not in shown, (one.arguments, shown)
        assert "Exception ignored" not in shown, (one.arguments, shown)
        assert of_others or "a defect of localml" not in shown, (one.arguments, shown)
        assert one.signal == 0, one
        if one.code:
            assert one.err.strip() or one.out.strip(), one


def test_where_no_server_runs(tmp_path: Path, long_form: bool) -> None:
    found = call(some([*COMMANDS, *MORE], long_form), {"environment": {"LOCALML_DATA": str(tmp_path)}})
    check(found)
    assert sum(one.code == 2 for one in found) > len(found) / 3


def test_a_full_disk_behind_standard_output(localml: Localml, long_form: bool) -> None:
    way: Way = {"stdout": "/dev/full", "environment": {"LOCALML_DATA": str(localml.platform.data)}}
    found = call([*some(COMMANDS, long_form), *MORE, ("status",), ("version",)], way)
    check(found)
    shown = {one.arguments: one for one in found}
    for line in (("logs", "job"), ("ps", "-a"), ("ps", "-a", "--json"), ("status",), ("--help",), ("version",)):
        assert shown[line].code == 1, shown[line]
        assert "No space left on device" in shown[line].err, shown[line]


@pytest.mark.parametrize("closed", [[0], [1], [2], [0, 1, 2]], ids=["stdin", "stdout", "stderr", "all"])
def test_streams_that_are_closed(localml: Localml, closed: list[int], long_form: bool) -> None:
    way: Way = {"closed": closed, "environment": {"LOCALML_DATA": str(localml.platform.data)}}
    asked = [("predict", "x"), ("users", "add", "x"), ("cp", __file__, "fds://closed/x"), ("top",), ("status",)]
    found = call([*(COMMANDS if long_form else []), *MORE, *asked], way)
    if 2 in closed:  # words of failures had no place to go to
        found = [replace(one, err=one.err or "closed") for one in found]
    check(found)
    shown = {one.arguments: one for one in found}
    for line in (("logs", "job"), ("logs", "-f", "job"), ("ps", "-a"), ("show", "job"), asked[2], ("status",)):
        assert shown[line].code == 0, shown[line]
    assert ("job" in shown["show", "job"].out) is (1 not in closed)
    assert shown["predict", "x"].code == 1


INTERRUPTED = """
import atexit, os, signal, sys

moment = sys.argv[1]

class Watch:
    def find_spec(self, name, *_):
        if name == moment:
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Watch())
signal.signal(signal.SIGINT, signal.default_int_handler)
from localml.cli import main
if moment == "the end":
    atexit.register(os.kill, os.getpid(), signal.SIGINT)
sys.argv = ["localml", "ps", "-a"]
main()
"""


@pytest.mark.parametrize(
    "moment", ["localml.cli.app", "localml.cli.work", "localml.client.client", "urllib3", "rich.table", "the end"]
)
def test_ctrl_c_at_any_moment(localml: Localml, moment: str) -> None:
    """Also while Python reads what the command consists of, and after its last word."""
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED, moment],
        env=os.environ | {"LOCALML_DATA": str(localml.platform.data)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode in (130, -signal.SIGINT), done  # both are 130 for a shell
    assert done.stderr == ""


@pytest.mark.parametrize("encoding", ["latin-1", "ascii"])
def test_a_terminal_without_the_letters(localml: Localml, encoding: str, long_form: bool) -> None:
    way: Way = {"encoding": encoding, "environment": {"LOCALML_DATA": str(localml.platform.data)}}
    shown = [("workspaces", "show", "team"), ("logs", "job"), ("ps", "-a")]
    found = call([*COMMANDS, *MORE] if long_form else shown, way)
    check(found)
    (team,) = [one for one in found if one.arguments == ("workspaces", "show", "team")]
    assert team.code == 0
    assert r"\u30c1" in team.out or "チ" in team.out  # a terminal that says ASCII is taken for one that says nothing


def test_somebody_without_an_account_or_a_home(long_form: bool) -> None:
    nothing: Way = {
        "stranger": True,
        "environment": dict.fromkeys(("HOME", "LOCALML_DATA", "LOCALML_CACHE", "LOCALML_URL", "LOCALML_TOKEN")),
    }
    found = call([*([*COMMANDS, *MORE] if long_form else [("status",), ("ps", "-a")]), ("up",)], nothing)
    check(found)
    for one in found:
        if one.arguments in (("status",), ("up",), ("ps", "-a")):
            assert "no home directory" in one.err, one


def test_a_server_that_answers_something_else(long_form: bool) -> None:
    """What answers there may be no localml, or one of another version."""
    bodies = [b"{}", b"[]", b"null", b"<html>", b"\xff", b'{"error": "no"}'] if long_form else [b"{}"]
    for body in bodies:
        with answering(body) as url:
            found = call(
                some(ASKING, long_form),
                {"environment": {"LOCALML_DATA": None, "LOCALML_URL": url, "LOCALML_TOKEN": "t"}},
            )
        check(found, of_others=True)


@contextmanager
def answering(body: bytes) -> Iterator[str]:
    """A server that gives the same answer to everything; its URL."""

    class Handler(BaseHTTPRequestHandler):
        def _answer(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = do_HEAD = _answer

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
