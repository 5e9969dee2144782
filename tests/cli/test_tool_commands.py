"""``localml notebook`` and ``localml tensorboard`` against a live server."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from localml.cli.common import seconds as parsed
from localml.client.errors import ClientError
from localml.core.errors import LocalmlError
from localml.testing import Localml

Cli = Callable[..., Any]


def test_a_notebook_from_start_to_stop(cli: Cli) -> None:
    made = cli("notebook", "start", "cli-lab", "--idle", "30m", "--gpus", "1", "--detach", "--json").json
    assert (made["name"], made["kind"], made["idle_limit"], made["gpu"]) == ("cli-lab", "notebook", 1800, 1)
    assert made["source"] == "cli-lab"
    assert made["token"]
    shown = cli("notebook", "show", "cli-lab").out
    assert made["token"] in shown
    assert "cli-lab" in cli("notebook", "list").out
    assert cli("tensorboard", "list", "--json").json == []
    assert cli("notebook", "stop", "cli-lab").out == "cli-lab is asked to stop\n"
    cli("rm", "cli-lab")
    assert cli("notebook", "list").out.startswith("No notebooks")


@pytest.fixture
def drained(cli: Cli) -> Iterator[None]:
    """Nothing begins to run: what is started waits, and does not end by itself."""
    assert cli("drain").code == 0
    yield
    cli("undrain")


@pytest.mark.usefixtures("drained")
def test_a_run_that_a_later_one_replaced_is_not_taken_for_its_notebook(cli: Cli, localml: Localml) -> None:
    """Between a look at a name and the wish that it goes, a restart may begin another run."""
    first = cli("notebook", "start", "replaced", "--detach", "--json").json["workload_id"]
    assert cli("stop", "replaced", "--wait").code == 0
    assert cli("start", "replaced", "--no-wait").code == 0
    for act in (localml.client.delete, localml.client.stop):
        with pytest.raises(ClientError, match=rf"workload {first} was replaced by \d+, a later run of 'replaced'"):
            act(first)
    assert cli("rm", "replaced").code == 0
    assert "replaced" not in cli("notebooks").out


@pytest.mark.usefixtures("drained")
def test_a_notebook_is_stopped_and_started_again(cli: Cli) -> None:
    made = cli("notebook", "start", "again", "--memory", "1G", "--detach", "--json").json
    assert "again" in cli("notebooks").out
    assert cli("stop", "again", "--wait").out == "again stopped\n"
    opened = cli("notebook", "again", "--detach", "--json").json
    assert (opened["id"], opened["run"], opened["token"]) == (made["id"], 2, made["token"])
    assert cli("notebook", "again", "--detach").out == "again\n"  # it is about to run
    assert cli("stop", "again", "--wait").code == 0
    assert cli("start", "again", "--no-wait").out == "again\n"
    assert cli("stop", "again", "--wait").code == 0
    more = cli("notebook", "start", "again", "--cpus", "1", "--detach", "--json").json
    assert (more["id"], more["run"], more["token"]) == (made["id"], 4, made["token"])
    assert "Run:      4\n" in cli("notebook", "show", "again").out
    assert cli("notebook", "restart", "again", "--detach").out == "again\n"
    assert cli("rm", "again").code == 0
    unknown = cli("notebook", "again")
    assert (unknown.code, "localml notebook start again" in unknown.err) == (1, True)
    unknown = cli("start", "again")
    assert (unknown.code, unknown.err) == (1, "error: endpoint, notebook or tensorboard 'again' does not exist\n")
    assert cli("tensorboards").out.startswith("No TensorBoards")


def test_a_tensorboard_is_no_notebook(cli: Cli) -> None:
    assert cli("tensorboard", "start", "fds://runs/x", "--name", "cli-board", "--detach").out == "cli-board\n"
    wrong = cli("notebook", "show", "cli-board")
    assert (wrong.code, "cli-board" in wrong.err) == (1, True)
    assert cli("tensorboard", "show", "cli-board", "--json").json["source"] == "fds://runs/x"
    cli("rm", "cli-board")


def test_a_tensorboard_may_stop_when_nobody_looks_at_it(cli: Cli) -> None:
    start = ("tensorboard", "start", "fds://runs/x", "--name", "cli-idle", "--detach", "--json")
    assert cli(*start, "--idle", "2h").json["idle_limit"] == 7200
    assert cli("tensorboard", "show", "cli-idle", "--json").json["idle_limit"] == 7200
    cli("rm", "cli-idle")


@pytest.mark.parametrize("start", [("notebook", "start"), ("tensorboard", "start", "fds://runs/x")])
def test_a_bad_time_is_named(start: tuple[str, ...], cli: Cli) -> None:
    refused = cli(*start, "--idle", "soon")
    assert (refused.code, "--idle" in refused.err) == (1, True)


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("90s", 90), ("1.5m", 90), ("8h", 28800), ("2d", 172800), (None, None)]
)
def test_times_are_read_as_people_write_them(text: str | None, seconds: float | None) -> None:
    assert parsed("--idle", text) == seconds


@pytest.mark.parametrize("text", ["", "0", "-5m", "5x", "h", "nan", "inf"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(LocalmlError, match="--idle"):
        parsed("--idle", text)
