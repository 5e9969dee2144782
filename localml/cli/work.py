"""Workloads: ps, wait."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from localml.cli import INTERRUPTED, output, show
from localml.cli.common import (
    FAILED,
    Data,
    Json,
    SomeNames,
    Within,
    as_dict,
    command,
    connect,
    print_json,
    time_option,
)
from localml.cli.completion import complete_pools, complete_users, words
from localml.cli.help import JOBS
from localml.cli.names import STUDY, WORKLOADS
from localml.cli.reports import Columns, print_columns
from localml.cli.several import each
from localml.core.quantities import format_duration

if TYPE_CHECKING:
    from localml.client import Client, Study, Workload

LIVE = ("queued", "preparing", "running", "stopping")
STATES = (*LIVE, "succeeded", "failed", "stopped")
KINDS = ("job", "notebook", "tensorboard", "trial", "replica")
SORTS = ("id", "name", "state", "owner", "priority", "created_at", "started_at", "ended_at")


def add(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command(rich_help_panel=JOBS)(ps)
    app.command(rich_help_panel=JOBS)(wait)


def follow_to_end(client: Client, made: Workload, data: Any, *, as_json: bool) -> int:
    """Show a job's output until it is over, and why it waits before; the exit code of the command that ran it."""
    from localml.cli.waiting import Waiting

    if not as_json:
        typer.secho(f"{made.name} is submitted", dim=True, err=True)
    try:
        with Waiting(client, made, quiet=as_json) as waiting:
            output.print_followed(client, made.id, err=as_json, waiting=waiting)
        ended = client.wait(made.id)
    except KeyboardInterrupt:
        where = f" --data {data}" if data else ""
        typer.echo(f"\n{made.name} goes on; follow it again with: localml logs -f {made.name}{where}", err=True)
        typer.echo(f"stop it with: localml stop {made.name}{where}", err=True)
        return INTERRUPTED
    if as_json:
        print_json(as_dict(ended))
    elif ended.state != "succeeded":
        _explain_end(ended)
    return exit_code(ended)


def _explain_end(ended: Workload) -> None:
    typer.secho(f"{ended.name} {ended.state}: {ended.message}", fg=typer.colors.RED, err=True)
    if ended.help:
        typer.secho(ended.help, dim=True, err=True)


def exit_code(ended: Workload | Study) -> int:
    """The code with which a command that waited for a job or study exits: the job's own where it has one."""
    if ended.state in ("succeeded", "complete"):
        return 0
    return getattr(ended, "exit_code", None) or 1


@command
def ps(
    all_states: Annotated[bool, typer.Option("--all", "-a", help="Those that are over, too.")] = False,
    state: Annotated[
        list[str],
        typer.Option(help="Only in this state; may be repeated.", autocompletion=words(*STATES)),
    ] = [],  # noqa: B006
    kind: Annotated[
        list[str],
        typer.Option(
            help="job, notebook, tensorboard, trial (of a study) or replica (of an endpoint).",
            autocompletion=words(*KINDS),
        ),
    ] = [],  # noqa: B006
    contains: Annotated[str | None, typer.Option(help="Only names with this in them.")] = None,
    owner: Annotated[str | None, typer.Option(help="Only this user's.", autocompletion=complete_users)] = None,
    pool: Annotated[str | None, typer.Option(help="Only those of this pool.", autocompletion=complete_pools)] = None,
    workspace: Within = None,
    sort: Annotated[
        str,
        typer.Option(help=", ".join(SORTS), autocompletion=words(*SORTS)),
    ] = "id",
    ascending: Annotated[bool, typer.Option("--ascending", help="Oldest, or smallest, first.")] = False,
    limit: Annotated[int, typer.Option("--limit", "-n", help="How many at most.")] = 50,
    columns: Columns = None,
    data: Data = None,
    as_json: Json = False,
) -> None:
    """List workloads: those that are not over, or all.

    Example: localml ps --all --owner ann
    """
    states = state or ([] if all_states else list(LIVE))
    with connect(data) as client:
        page = client.workloads(
            state=states,
            kind=["endpoint" if one == "replica" else one for one in kind],
            contains=contains,
            owner=owner,
            pool=pool,
            workspace=workspace,
            sort=sort,
            order="asc" if ascending else "desc",
            limit=limit,
            why=True,
        )
        if columns:
            return print_columns(client, page, columns, as_json=as_json)
    if as_json:
        print_json({"workloads": as_dict(page.workloads), "next": page.next})
        return
    rows = [
        (
            one.id,
            one.name,
            "replica" if one.kind == "endpoint" else one.kind,
            show.state(one.state),
            show.number(one.gpu) if one.gpu else "-",
            one.owner,
            show.ago(one.created_at),
            show.took(one.started_at, one.ended_at or one.exited_at),
            _message(one),
        )
        for one in page.workloads
    ]
    empty = "No workloads." if all_states or state else "Nothing runs or waits; 'localml ps -a' shows what is over."
    show.table("ID", "NAME", "KIND", "STATE", "GPU", "OWNER", "CREATED", "RAN", "MESSAGE", rows=rows, empty=empty)
    if page.next:
        typer.secho(f"There are more than {limit}; see --limit.", dim=True, err=True)


def _message(one: Workload) -> str:
    """What there is to say of it in a list: why it waits, above all."""
    from localml.cli.waiting import reason_words

    if one.exited_at is not None:
        return "the program ended; its output is being copied"
    return one.message if one.why is None else reason_words(one.why)


def is_study(one: object) -> bool:
    """Whether it is a study, and no workload."""
    from localml.client import Study

    return isinstance(one, Study)


def _awaited(client: Client, name: str) -> Workload | Study:
    thing = client.resolve(name, (*WORKLOADS, STUDY))
    return client.studies.get(thing.id) if thing.kind == STUDY else client.get(thing.id)


@command
def wait(
    names: SomeNames,
    timeout: Annotated[float | None, time_option("Give up after so long, such as 8h.")] = None,
    data: Data = None,
    as_json: Json = False,
) -> None:
    """Wait until all of them have ended.

    Exits like the first one that did not succeed: with its exit code, or with 1 where there is none of that name, or it
    has not ended in time.

    Example: localml wait --timeout 8h NAME OTHER
    """
    began = time.monotonic()
    alone = len(set(names)) == 1

    def end(one: Workload | Study) -> Workload | Study:
        left = None if timeout is None else max(0.0, timeout - (time.monotonic() - began))
        try:
            ended = client.studies.wait(one.id, left) if is_study(one) else client.wait(one.id, left)
        except TimeoutError:
            raise TimeoutError(f"{one.name} has not ended after {format_duration(timeout)}") from None
        if not as_json:
            typer.echo(f"{ended.name} {ended.state}" + (f": {ended.message}" if ended.state == "failed" else ""))
        return ended

    with connect(data) as client:
        known = each(names, lambda name: (name, _awaited(client, name)))
        known.tell(as_json=as_json)  # now: the others may take hours
        there = dict(known.done)
        tried = each(there, lambda name: (name, end(there[name])), alone=alone)
    tried.tell(as_json=as_json)
    tried.failed |= known.failed
    codes = {name: exit_code(one) for name, one in tried.done}
    if as_json:
        answer = {"workloads": as_dict([one for _, one in tried.done if not is_study(one)])}
        searched = as_dict([one for _, one in tried.done if is_study(one)])
        print_json(answer | ({"studies": searched} if searched else {}) | tried.members())
    raise typer.Exit(next((code for name in names if (code := codes.get(name, FAILED))), 0))
