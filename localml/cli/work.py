"""Workloads: ps, show, logs, wait, stop, rm, why, events."""

from __future__ import annotations

import os
import stat
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Annotated, Any

import typer

from localml.cli import show, terminal
from localml.cli.common import Data, Json, Name, Within, as_dict, command, connect, print_json, time_option
from localml.cli.marked import Marked
from localml.cli.reports import Columns, print_columns
from localml.client.errors import ClientError
from localml.core.errors import invalid
from localml.core.quantities import format_duration

if TYPE_CHECKING:
    from localml.client import Client, Endpoint, Workload

LIVE = ("queued", "preparing", "running", "stopping")
INTERRUPTED = 130


def add(app: typer.Typer) -> None:
    """Add the commands of this module."""
    for function in (ps, logs, wait, stop, rm, why, events):
        app.command()(function)
    app.command("show")(show_one)


def follow_to_end(client: Client, made: Workload, data: Any, *, as_json: bool) -> int:
    """Show a job's output until it is over; the exit code of the command that ran it."""
    if not as_json:
        typer.secho(f"{made.name} is submitted", dim=True, err=True)
    try:
        _print_followed(client, made.id, err=as_json)
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


def exit_code(ended: Workload) -> int:
    """The code with which a command that waited for a job exits: the job's own where it has one."""
    if ended.state == "succeeded":
        return 0
    return ended.exit_code if ended.exit_code else 1


@command
def ps(
    all_states: Annotated[bool, typer.Option("--all", "-a", help="Those that are over, too.")] = False,
    state: Annotated[list[str], typer.Option(help="Only in this state; may be repeated.")] = [],  # noqa: B006
    kind: Annotated[list[str], typer.Option(help="job, notebook, tensorboard, endpoint or trial.")] = [],  # noqa: B006
    contains: Annotated[str | None, typer.Option(help="Only names with this in them.")] = None,
    owner: Annotated[str | None, typer.Option(help="Only this user's.")] = None,
    pool: Annotated[str | None, typer.Option(help="Only those of this pool.")] = None,
    workspace: Within = None,
    sort: Annotated[
        str, typer.Option(help="id, name, state, owner, priority, created_at, started_at, ended_at")
    ] = "id",
    ascending: Annotated[bool, typer.Option("--ascending", help="Oldest, or smallest, first.")] = False,
    limit: Annotated[int, typer.Option("--limit", "-n", help="How many at most.")] = 50,
    columns: Columns = None,
    data: Data = None,
    as_json: Json = False,
) -> None:
    """List workloads: those that are not over, or all."""
    states = state or ([] if all_states else list(LIVE))
    with connect(data) as client:
        page = client.workloads(
            state=states,
            kind=kind,
            contains=contains,
            owner=owner,
            pool=pool,
            workspace=workspace,
            sort=sort,
            order="asc" if ascending else "desc",
            limit=limit,
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
            one.kind,
            show.state(one.state),
            show.number(one.gpu) if one.gpu else "-",
            one.owner,
            show.ago(one.created_at),
            show.took(one.started_at, one.ended_at or one.exited_at),
            one.message if one.exited_at is None else "the program ended; its output is being copied",
        )
        for one in page.workloads
    ]
    empty = "No workloads." if all_states or state else "Nothing runs or waits; 'localml ps -a' shows what is over."
    show.table("ID", "NAME", "KIND", "STATE", "GPU", "OWNER", "CREATED", "RAN", "MESSAGE", rows=rows, empty=empty)
    if page.next:
        typer.secho(f"There are more than {limit}; see --limit.", dim=True, err=True)


@command
def show_one(
    name: Name,
    as_file: Annotated[bool, typer.Option("--as-file", help="As a job file, for 'localml run -f FILE'.")] = False,
    data: Data = None,
    as_json: Json = False,
) -> None:
    """Everything about a workload."""
    with connect(data) as client:
        found = client.get(name)
        if as_file:
            _print_file(client, found, as_json=as_json)
            return
    if as_json:
        print_json(as_dict(found))
        return
    from localml.cli.details import print_workload

    print_workload(found)


def _print_file(client: Client, found: Workload, *, as_json: bool) -> None:
    from localml.cli.job_file import dump, text_of

    shared = [one.name for one in client.people.workspaces() if one.id == found.workspace and not one.personal]
    members = dump(found, next(iter(shared), None))
    if as_json:
        print_json(members)
    else:
        typer.echo(text_of(members), nl=False)


@command
def logs(
    name: Name,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until it has ended.")] = False,
    stream: Annotated[str | None, typer.Option(help="stdout or stderr; both by default.")] = None,
    tail: Annotated[int | None, typer.Option("--tail", "--lines", "-n", help="So many last lines only.")] = None,
    role: Annotated[str | None, typer.Option(help="Only this role.")] = None,
    index: Annotated[int | None, typer.Option(help="Only this replica, counted from 0.")] = None,
    attempt: Annotated[str | None, typer.Option(help="A try by number, or 'all'; the newest by default.")] = None,
    raw: Annotated[
        bool, typer.Option("--raw", help="Let the terminal obey all that was written, not colours only.")
    ] = False,
    data: Data = None,
    as_json: Json = False,
) -> None:
    """Show what a workload wrote."""
    given = {"stream": stream, "tail": tail, "role": role, "index": index, "attempt": attempt}
    query: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
    with connect(data) as client:
        if as_json:
            _logs_json(client, name, query, follow=follow)
        elif follow:
            try:
                some = _print_followed(client, name, raw=raw, **query)
            except KeyboardInterrupt:
                raise typer.Exit(INTERRUPTED) from None
            if not some:
                _tell_pruned(client, name)
        elif not _print_output(client, name, query, raw=raw):
            _tell_pruned(client, name)


def _tell_pruned(client: Client, name: str) -> None:
    """Why there is no output where there was some."""
    last = next((one for one in reversed(client.events(name)) if one.reason == "OutputPruned"), None)
    if last is not None:
        typer.echo(f"{show.clock(last.at)}: {last.message}", err=True)


def _print_output(client: Client, name: str, query: dict[str, Any], *, raw: bool) -> bool:
    """Bytes as they are, unless a terminal would obey them; a long log that goes into a file has a bar. Returns whether
    there are any."""
    parts = client.parts(name, **query)
    first = next(parts, None)
    if first is None:
        return False
    if first.gone and "tail" not in query:
        typer.echo(f"{first.gone} bytes of older output are kept no more", err=True)
    left, write = first.left(first.end), terminal.output_writer(sys.stdout, raw=raw)
    into_file = stat.S_ISREG(os.fstat(sys.stdout.fileno()).st_mode)
    with show.bytes_bar(left + len(first.data), quiet=not (left and into_file)) as progress:
        for part in chain([first], parts):
            write(part.data)
            progress(len(part.data))
    sys.stdout.flush()
    return True


def _logs_json(client: Client, name: str, query: dict[str, Any], *, follow: bool) -> None:
    """One object; with ``--follow`` one a line as it comes."""
    import json

    if follow:
        for piece in client.follow(name, **query):
            typer.echo(json.dumps(as_dict(piece)))
        return
    text = client.text(name, **query)
    print_json({"name": name, "text": text})


def _print_followed(client: Client, ref: int | str, *, err: bool = False, raw: bool = False, **query: Any) -> bool:
    """Output as it comes; with several replicas whole lines, each marked with its replica. Returns whether there was
    any."""
    some = False
    found = client.get(ref)
    roles = [one for one in found.spec["roles"] if query.get("role") in (None, one.get("name", "main"))]
    several = query.get("index") is None and sum(one.get("count", 1) for one in roles) > 1
    marked = Marked(raw=raw)
    for piece in client.follow(ref, **query):
        some = True
        target = sys.stderr if err or piece.stream == "stderr" else sys.stdout
        if several:
            marked.show(target, piece.replica, piece.text, piece.stream)
        else:
            terminal.show_output(target, piece.text, raw=raw)
        target.flush()
    marked.rest(lambda stream: sys.stderr if err or stream == "stderr" else sys.stdout)
    return some


@command
def wait(
    names: Annotated[list[str], typer.Argument(help="Names or ids.", show_default=False)],
    timeout: Annotated[float | None, time_option("Give up after so long, such as 8h.")] = None,
    data: Data = None,
    as_json: Json = False,
) -> None:
    """Wait until all of them have ended; exits like the first one that did not succeed."""
    began = time.monotonic()
    done: list[Workload] = []
    with connect(data) as client:
        for one in [client.get(name) for name in names]:
            left = None if timeout is None else max(0.0, timeout - (time.monotonic() - began))
            try:
                done.append(client.wait(one.id, left))
            except TimeoutError:
                raise TimeoutError(f"{one.name} has not ended after {format_duration(timeout)}") from None
            if not as_json:
                told = f": {done[-1].message}" if done[-1].state == "failed" else ""
                typer.echo(f"{done[-1].name} {done[-1].state}{told}")
    if as_json:
        print_json({"workloads": as_dict(done)})
    raise typer.Exit(next((code for one in done if (code := exit_code(one))), 0))


@command
def stop(
    names: Annotated[list[str], typer.Argument(help="Names or ids.", show_default=False)] = [],  # noqa: B006
    everything: Annotated[bool, typer.Option("--all", help="All of yours that wait or run, of whatever kind.")] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Return when it has ended.")] = False,
    data: Data = None,
    as_json: Json = False,
) -> None:
    """Stop workloads, or endpoints of these names."""
    if everything == bool(names):
        raise invalid("NAMES", "give names, or --all")
    with connect(data) as client:
        if everything:
            done = list(_stop_all(client))
        else:
            done = [_either(client.stop, client.stop_endpoint, name) for name in names]
        if wait:
            done = [client.wait_endpoint(one.id) if _is_endpoint(one) else client.wait(one.id) for one in done]
    if not done and not as_json:
        typer.echo("Nothing of yours waits or runs.")
    _answer(done, "stopped" if wait else "asked to stop", as_json=as_json)


def _stop_all(client: Client) -> Iterator[Workload | Endpoint]:
    """Endpoints first: they would bring their replicas back."""
    me = client.people.me()
    for endpoint in client.endpoints():
        if endpoint.owner == me and endpoint.desired == "run":
            yield client.stop_endpoint(endpoint.id)
    for one in list(client.all(owner=me, state=list(LIVE))):
        if one.kind != "endpoint" and one.state != "stopping":
            yield client.stop(one.id)


@command
def rm(
    names: Annotated[list[str], typer.Argument(help="Names or ids.", show_default=False)],
    data: Data = None,
    as_json: Json = False,
) -> None:
    """Remove workloads or endpoints (they are stopped first). Output and events stay until 'localml prune'."""
    with connect(data) as client:
        done = [_either(client.delete, client.delete_endpoint, name) for name in names]
    _answer(done, "removed", as_json=as_json)


def _either(workload: Callable[[str], Workload], endpoint: Callable[[str], Endpoint], name: str) -> Workload | Endpoint:
    """Do it to the workload of that name, or where there is none to the endpoint."""
    try:
        return workload(name)
    except ClientError as error:
        if error.code != "not_found":
            raise
        try:
            return endpoint(name)
        except ClientError as other:
            raise (error if other.code == "not_found" else other) from None


def _is_endpoint(one: Workload | Endpoint) -> bool:
    from localml.client import Endpoint

    return isinstance(one, Endpoint)


def _answer(done: Sequence[Workload | Endpoint], what: str, *, as_json: bool) -> None:
    if as_json:
        answer = {"workloads": [as_dict(one) for one in done if not _is_endpoint(one)]}
        endpoints = [as_dict(one) for one in done if _is_endpoint(one)]
        print_json(answer | ({"endpoints": endpoints} if endpoints else {}))
        return
    for one in done:
        typer.echo(f"{one.name} {what}")


@command
def why(name: Name, data: Data = None, as_json: Json = False) -> None:
    """Why a workload waits, or how it ended."""
    with connect(data) as client:
        found = client.get(name)
    if as_json:
        answer = {"name": found.name, "state": found.state, "why": as_dict(found.why), "cause": found.cause}
        print_json({**answer, "message": found.message, "help": found.help})
        return
    from localml.cli.details import explain

    for line in explain(found):
        typer.echo(line)


@command
def events(
    name: Annotated[str | None, typer.Argument(help="A workload; the platform when left out.")] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", help="How many at most, the newest ones.")] = 100,
    data: Data = None,
    as_json: Json = False,
) -> None:
    """What happened, to a workload or to the platform."""
    with connect(data) as client:
        found = client.events(name, limit=10_000)[-limit:]
    if as_json:
        print_json({"events": as_dict(found)})
        return
    rows = [(show.clock(one.at), one.severity, one.reason, one.replica or "-", one.message) for one in found]
    show.table("AT", "SEVERITY", "REASON", "REPLICA", "MESSAGE", rows=rows, empty="Nothing happened yet.")
