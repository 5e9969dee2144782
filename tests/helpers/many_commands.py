"""Many command lines, each in a process of its own: forked from one that has imported the command already."""

from __future__ import annotations

import importlib
import json
import os
import pwd
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

_AT_A_TIME = 2
_SECONDS = 60
_SHARED = (
    "localml.cli.app",
    "localml.client.client",
    "localml.config",
    "localml.store.lock",
    "rich.console",
    "rich.table",
)
"""Imported once for all of them."""

Way = dict[str, Any]
"""How they are called: ``environment`` (None takes a variable away), ``stdout`` (a path), ``closed`` (streams by
number), ``encoding``, ``stranger`` (no account has their uid)."""


@dataclass(frozen=True)
class Called:
    """What one of them left behind; ``signal`` is what ended it, 0 as a rule."""

    arguments: tuple[str, ...]
    code: int
    signal: int
    out: str
    err: str


def leaves() -> Iterator[tuple[str, ...]]:
    """Every command there is, with a word for each argument that it must have."""
    from typer.main import get_command

    from localml.cli.app import app

    def below(command: Any, path: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
        children = getattr(command, "commands", {})
        if not children or command.invoke_without_command:
            needed = [one for one in command.params if one.param_type_name == "argument" and one.required]
            yield *path, *("x" for _ in needed)
        for name, child in children.items():
            yield from below(child, (*path, name))

    return below(get_command(app), ())


def call(lines: Sequence[Sequence[str]], way: Way) -> list[Called]:
    """Carry them out in this way."""
    given = json.dumps({"lines": lines, "way": way})
    done = subprocess.run(
        [sys.executable, "-m", "helpers.many_commands"],
        input=given,
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "COLUMNS": "200"},
        timeout=1200,
    )
    assert done.returncode == 0, done.stderr
    return [Called(tuple(one.pop("arguments")), **one) for one in json.loads(done.stdout)]


def _main() -> None:
    import signal

    for module in _SHARED:
        importlib.import_module(module)

    order = json.load(sys.stdin)
    found, running = [], {}
    for arguments in [*order["lines"], *[None] * _AT_A_TIME]:
        while len(running) >= (_AT_A_TIME if arguments is not None else 1):
            number, status = os.wait()
            found.append(_left(*running.pop(number), status))
        if arguments is not None:
            out, err = (tempfile.TemporaryFile() for _ in range(2))  # noqa: SIM115 (closed by whoever reads them)
            child = os.fork()
            if child == 0:
                signal.alarm(_SECONDS)  # it may wait for something that never comes: that is told as a signal
                _become(arguments, order["way"], out.fileno(), err.fileno())
            running[child] = arguments, out, err
        elif not running:
            break
    print(json.dumps(found))


def _left(arguments: list[str], out: Any, err: Any, status: int) -> dict[str, Any]:
    texts = {}
    for name, file in (("out", out), ("err", err)):
        file.seek(0)
        texts[name] = file.read().decode(errors="replace")
        file.close()
    code = os.WEXITSTATUS(status) if os.WIFEXITED(status) else -1
    return {"arguments": arguments, "code": code, "signal": 0 if code >= 0 else os.WTERMSIG(status), **texts}


def _become(arguments: list[str], way: Way, out: int, err: int) -> None:
    """The command as its console script runs it; never returns."""
    os.setsid()
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(os.open(way["stdout"], os.O_WRONLY) if "stdout" in way else out, 1)
    os.dup2(err, 2)
    for name, value in way.get("environment", {}).items():
        os.environ.pop(name, None)
        if value is not None:
            os.environ[name] = value
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(encoding=way.get("encoding", "utf-8"), errors="strict")  # type: ignore[union-attr]
    for number in way.get("closed", ()):
        os.close(number)
        setattr(sys, ("stdin", "stdout", "stderr")[number], None)  # as Python begins then
    if way.get("stranger"):
        pwd.getpwuid = _no_account  # what a uid without an account is told
    sys.argv = ["localml", *arguments]
    from localml.cli import main

    main()


def _no_account(uid: int) -> pwd.struct_passwd:
    raise KeyError(f"getpwuid(): uid not found: {uid}")


if __name__ == "__main__":
    _main()
