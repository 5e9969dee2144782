"""What others wrote, on a terminal: it is shown, and the terminal does nothing of what it says."""

from __future__ import annotations

import ast
import io
import os
import pty
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import localml.cli
from localml.cli.terminal import Guard, settled, show_output, visible
from localml.testing import Localml

TITLE, CLEAR, C1, BELL = "\x1b]0;owned\x07", "\x1b[2J\x1b[H", "\x9b2J", "\x07"
EVIL = f"a{TITLE}b{CLEAR}c{C1}d{BELL}e\x1b[31mred\x1b[0m"
_COLOUR = re.compile(r"\x1b\[[0-9;:]*m")
_OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
JOB = "escapes"
Cli = Callable[..., Any]


def obeyed(text: str) -> list[str]:
    """What of a text a terminal would obey, colours and returns apart."""
    return _OBEYED.findall(_COLOUR.sub("", text.replace("\r", "")))


def on_terminal(data: Path, *arguments: str) -> str:
    """What a command writes to a terminal of its own."""
    master, slave = pty.openpty()
    environment = {**os.environ, "LOCALML_DATA": str(data), "TERM": "xterm", "COLUMNS": "200", "PYTHONUTF8": "1"}
    command = [sys.executable, "-m", "localml.cli", *arguments]
    process = subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, env=environment)
    os.close(slave)
    written = b""
    with suppress(OSError):  # a terminal that nobody holds any more
        while piece := os.read(master, 65536):
            written += piece
    os.close(master)
    process.wait(60)
    return written.decode()


@pytest.fixture(scope="module")
def job(localml: Localml) -> Iterator[str]:
    """A job that did its worst, and an object of that name."""
    from localml.client import Client

    with Client(localml.url, localml.platform.credentials.token) as client:
        code = f"import sys; sys.stdout.write({EVIL!r} + chr(10)); sys.stderr.write({EVIL!r} + chr(10)); sys.exit(3)"
        made = client.run([sys.executable, "-c", code, EVIL], name=JOB, env={"PYTHONUTF8": "1", "EVIL": EVIL})
        client.wait(made.id)
    with localml.platform.buckets.open(f"s3://evil/{EVIL.replace('/', '')}.txt", "wb") as file:
        file.write(b"x")
    yield JOB
    localml.platform.buckets.delete("s3://evil", recursive=True)


@pytest.mark.parametrize(
    "words",
    [
        ("logs", JOB),
        ("logs", "--follow", JOB),
        ("show", JOB),
        ("why", JOB),
        ("events", JOB),
        ("ps", "--all"),
        ("ls", "s3://evil/"),
        ("show", EVIL),
        ("ps", "--sort", EVIL),
    ],
    ids=lambda words: "-".join(words).encode("unicode_escape").decode()[:40],
)
def test_a_terminal_obeys_nothing_that_others_wrote(localml: Localml, job: str, words: tuple[str, ...]) -> None:
    shown = on_terminal(localml.platform.data, *words)
    assert shown.strip()
    assert obeyed(shown) == []
    if words[0] in ("logs", "ls") or words[-1] == EVIL:
        assert r"\x1b]0;owned\x07" in shown, "it is shown, though"


def test_colours_of_a_log_are_kept_and_end_with_it(localml: Localml, job: str) -> None:
    shown = on_terminal(localml.platform.data, "logs", job)
    assert "\x1b[31mred\x1b[0m" in shown


def test_a_log_is_raw_on_a_terminal_when_it_is_asked_for_so(localml: Localml, job: str) -> None:
    for follow in ((), ("--follow",)):
        assert TITLE in on_terminal(localml.platform.data, "logs", "--raw", *follow, job)


def test_programs_that_read_our_output_get_every_byte(cli: Cli, job: str) -> None:
    assert EVIL in cli("logs", job, "--stream", "stdout").out
    assert EVIL in cli("logs", "--follow", job, "--stream", "stdout").out


# -- the parts --------------------------------------------------------------------------------------------------------


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


def through(*pieces: str, output: bool = False) -> str:
    terminal = Terminal()
    with Guard(terminal) as guard:
        for piece in pieces:
            show_output(guard, piece) if output else guard.write(piece)
        guard.finish()
    return terminal.getvalue()


@given(st.lists(st.text(st.sampled_from("a\n\r\t\x1b[]0;31m\x07\x9b\x00\u202e"), max_size=12)), st.booleans())
def test_however_it_is_cut_nothing_passes_but_colours(pieces: list[str], output: bool) -> None:
    shown = through(*pieces, output=output)
    assert _OBEYED.findall(_COLOUR.sub("", shown.replace("\r", "") if output else shown)) == []
    assert shown == through("".join(pieces), output=output), "where a text is cut makes no difference"


def test_a_sequence_that_comes_in_two_pieces_is_the_same_sequence() -> None:
    assert through("a\x1b[3", "1mred\x1b", "[0mb") == "a\x1b[31mred\x1b[0mb"
    assert through("a\x1b[3", "1Kb") == r"a\x1b[31Kb"
    assert through("end\x1b[") == r"end\x1b["


def test_a_colour_lasts_to_the_end_of_its_line_at_most() -> None:
    assert through("\x1b[31mred\nplain\n") == "\x1b[31mred\x1b[0m\nplain\n"
    assert through("\x1b[31mred") == "\x1b[31mred\x1b[0m"
    assert through("\x1b[31mred\x1b[0m\n") == "\x1b[31mred\x1b[0m\n"


def test_bars_return_to_the_beginning_of_their_line_in_logs_alone() -> None:
    assert through("10%\r20%\r\n", output=True) == "10%\r20%\r\n"
    assert through("name\rother\r\n") == "name\\x0dother\n"


def test_of_a_bar_behind_a_replicas_name_the_last_state_is_shown() -> None:
    assert settled(Guard(Terminal()), "10%\r20%\r") == "20%"
    assert settled(Guard(Terminal()), "10%\r20%", raw=True) == "10%\r20%"
    assert settled(Terminal(), "10%\r20%") == "10%\r20%"


def test_a_name_is_shown_without_colours() -> None:
    assert visible("a\x1b[31mb\tc\nd\u202ee") == "a\\x1b[31mb\tc\nd\\u202ee"


def test_no_command_writes_past_the_guard() -> None:
    """Streams below the guard, and those of programs, are for the module that has it."""
    found = []
    for path in Path(localml.cli.__file__).parent.glob("*.py"):
        if path.name == "terminal.py":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            attribute = node.attr if isinstance(node, ast.Attribute) else ""
            if ast.unparse(node) == "sys.stdin.buffer":  # is read
                continue
            if attribute in ("buffer", "__stdout__", "__stderr__") or ast.unparse(node).startswith("os.write"):
                found.append(f"{path.name}:{getattr(node, 'lineno', 0)}: {ast.unparse(node)[:60]}")
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("Console") and not _guarded(node):
                found.append(f"{path.name}:{node.lineno}: a console of its own")
    assert found == []


def _guarded(call: ast.Call) -> bool:
    return any(one.arg == "file" for one in call.keywords)
