"""The server's end of the pipes: whatever a process does, the answer is one object, or that there was none."""

from __future__ import annotations

import subprocess
import sys

import pytest

from localml.hpo import link
from localml.hpo.link import Broken, Link


def linked(code: str) -> Link:
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return Link(subprocess.Popen([sys.executable, "-I", "-S", "-c", code], start_new_session=True, **pipes))  # type: ignore[call-overload]


FLOOD = (
    "import sys\nsys.stderr.write('x' * 5_000_000 + 'the end')\nsys.stderr.flush()\nprint('{}', flush=True)\ninput()"
)
ECHO = "import sys\nfor line in sys.stdin: print(line, end='', flush=True)"


def test_answers_of_any_size_come_whole() -> None:
    found = linked(ECHO)
    for size in (0, 1, 100_000, 3_000_000):
        assert found.call({"text": "x" * size}, 30) == {"text": "x" * size}
    found.kill()


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("print('nonsense', flush=True); input()", "wrote what is no answer: b'nonsense'"),
        ("print([1], flush=True); input(); input()", "wrote what is no answer"),
        ("print('[' * 100000, flush=True); input(); input()", "wrote what is no answer"),
        ("print('1' * 5000, flush=True); input(); input()", "wrote what is no answer"),
        ("import os; os.close(1); input(); input()", "was ended by SIGTERM"),
        ("raise SystemExit(7)", "ended with exit status 7"),
        ("import os; os.abort()", "was ended by SIGABRT"),
        ("import sys; [sys.stdout.write('x' * 65536) for _ in range(100)]; input(); input()", "more than 1 MiB"),
        ("input(); input()", "did not answer within 0.5 seconds"),
    ],
)
def test_what_is_no_answer_ends_the_process(code: str, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link, "MOST_ANSWER", 1 << 20)
    found = linked(code)
    with pytest.raises(Broken) as caught:
        found.call({}, 0.5 if "did not" in words else 30)
    assert words.replace("b'", "'") in str(caught.value)
    assert found._child.returncode is not None
    with pytest.raises(Broken, match="was ended"):
        found.call({}, 1)
    found.kill()


def test_only_the_end_of_what_is_printed_is_kept() -> None:
    found = linked(FLOOD)
    assert found.call({}, 30) == {}
    found.kill()
    assert found.printed.endswith("xthe end")
    assert len(found.printed) == link.MOST_OUTPUT
