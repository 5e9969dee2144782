"""Following several replicas: every record says whose it is, and nothing that has not ended is held without limit."""

from __future__ import annotations

import io
import sys
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest

from localml.cli.marked import LONGEST, Marked
from localml.cli.terminal import Guard
from localml.testing import Localml

Cli = Callable[..., Any]


def shown(pieces: list[tuple[str, str]], *, terminal: bool = False) -> str:
    """What comes of (replica, text) pairs; of the end, too."""
    into = io.StringIO()
    target: Any = Guard(into) if terminal else into
    marked = Marked()
    for replica, text in pieces:
        marked.show(target, replica, text)
    marked.rest(lambda _: target)
    return into.getvalue()


def test_lines_of_several_are_whole() -> None:
    assert shown([("a", "one\ntw"), ("b", "x\n"), ("a", "o\nend")]) == "[a] one\n[b] x\n[a] two\n[a] end\n"


def test_a_carriage_return_ends_a_record() -> None:
    assert shown([("a", "10%\r20%\r3"), ("b", "5%\r1"), ("a", "0%\r\nnext\n")]) == (
        "[a] 10%\r[a] 20%\r[b] 5%\r[a] 30%\r\n[a] next\n[b] 1\n"
    )


def test_a_return_and_a_newline_that_come_apart_are_one_end() -> None:
    assert shown([("a", "line\r"), ("a", "\nnext\n")]) == "[a] line\r\n[a] next\n"


def test_a_terminal_gets_what_is_seen_in_the_end() -> None:
    assert shown([("a", "10%\r20%\r"), ("a", "30%\r"), ("a", "40%\n")], terminal=True) == "[a] 40%\n"


@pytest.mark.parametrize("terminal", [False, True])
@pytest.mark.parametrize("piece", ["50% |####    |\r", "no end at all "])
def test_what_does_not_end_is_not_held(terminal: bool, piece: str) -> None:
    class Nowhere(io.StringIO):
        def write(self, text: str) -> int:
            return len(text)

    target: Any = Guard(Nowhere()) if terminal else Nowhere()
    marked = Marked()
    tracemalloc.start()
    try:
        for _ in range(200):
            marked.show(target, "a", piece * 1000)
        assert tracemalloc.get_traced_memory()[0] < 8 * LONGEST
    finally:
        tracemalloc.stop()


def test_bars_of_two_replicas_come_through(cli: Cli, localml: Localml) -> None:
    code = "import sys; [sys.stdout.write('%6d\\r' % n) for n in range(50_000)]; print('done')"
    made = localml.client.submit({"roles": [{"command": [sys.executable, "-c", code], "count": 2}]})
    found = cli("logs", "-f", made.name).out
    for index in range(2):
        own = [one for one in found.replace("\n", "\r").split("\r") if one.startswith(f"[main-{index}] ")]
        assert own == [f"[main-{index}] {n:6d}" for n in range(50_000)] + [f"[main-{index}] done"]
