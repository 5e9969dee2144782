"""The command, run in this process."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from localml.cli.app import run
from localml.testing import Localml, start


@dataclass
class Result:
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Cli = Callable[..., Result]


@pytest.fixture(scope="package")
def localml(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Localml]:
    """A server of these tests' own, so that the names they give are theirs alone."""
    running = start(tmp_path_factory.mktemp("cli"))
    yield running
    running.close()


@pytest.fixture
def command(capfdbinary: pytest.CaptureFixture[bytes]) -> Cli:
    """Runs a command line; nobody's server is meant unless it says so."""

    def call(*arguments: str) -> Result:
        capfdbinary.readouterr()
        code = run(list(arguments))
        sys.stdout.flush()
        out, err = capfdbinary.readouterr()
        return Result(code, out.decode(errors="surrogateescape"), err.decode())

    return call


@pytest.fixture
def cli(command: Cli, localml: Localml, monkeypatch: pytest.MonkeyPatch) -> Cli:
    """Runs a command line as the user of the session's server."""
    monkeypatch.setenv("LOCALML_DATA", str(localml.platform.data))
    return command
