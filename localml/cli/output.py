"""What things wrote: logs."""

from __future__ import annotations

import os
import stat
import sys
from itertools import chain
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer

from localml.cli import INTERRUPTED, show, terminal
from localml.cli.common import Data, Json, Name, as_dict, command, connect, print_json
from localml.cli.completion import complete_roles, words
from localml.cli.help import JOBS
from localml.cli.marked import Marked
from localml.cli.names import ENDPOINT, RUNNING, STUDY

if TYPE_CHECKING:
    from localml.cli.waiting import Waiting
    from localml.client import Client, Thing


def add(app: typer.Typer) -> None:
    """Add the command."""
    app.command(rich_help_panel=JOBS)(logs)


@command
def logs(
    name: Name,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until it has ended.")] = False,
    stream: Annotated[
        str | None,
        typer.Option(help="stdout or stderr; both by default.", autocompletion=words("stdout", "stderr")),
    ] = None,
    tail: Annotated[int | None, typer.Option("--tail", "--lines", "-n", help="So many last lines only.")] = None,
    role: Annotated[str | None, typer.Option(help="Only this role.", autocompletion=complete_roles)] = None,
    index: Annotated[
        int | None, typer.Option(help="Only this replica, counted from 0; of a study the trial of this number.")
    ] = None,
    attempt: Annotated[str | None, typer.Option(help="A try by number, or 'all'; the newest by default.")] = None,
    raw: Annotated[
        bool, typer.Option("--raw", help="Let the terminal obey all that was written, not colours only.")
    ] = False,
    data: Data = None,
    as_json: Json = False,
) -> None:
    """Show what something wrote.

    A job, notebook, TensorBoard, replica, endpoint, study or trial.

    Of an endpoint it is what its replicas wrote, each line marked with its replica where there are several; of a study
    what its trials wrote, with --follow of each trial once it has ended.

    Example: localml logs --follow NAME
    """
    given = {"stream": stream, "tail": tail, "role": role, "index": index, "attempt": attempt}
    query: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
    with connect(data) as client:
        thing = client.resolve(name, RUNNING)
        if thing.kind == ENDPOINT:
            from localml.cli.endpoint_output import Wanted, print_endpoint

            wanted = Wanted(thing.id, query, follow=follow, raw=raw, as_json=as_json)
            raise typer.Exit(print_endpoint(client, wanted))
        if thing.kind == STUDY and index is not None:
            del query["index"]
            thing = client.resolve(f"id/{client.studies.trial(thing.id, index).workload_id}")
        elif thing.kind == STUDY:
            from localml.cli.study_output import print_logs

            raise typer.Exit(print_logs(client, thing.id, query, follow=follow, raw=raw, as_json=as_json))
        raise typer.Exit(_of_workload(client, thing, query, follow=follow, raw=raw, as_json=as_json))


def _of_workload(client: Client, thing: Thing, query: dict[str, Any], *, follow: bool, raw: bool, as_json: bool) -> int:
    if as_json:
        _logs_json(client, thing, query, follow=follow)
    elif follow:
        try:
            some = print_followed(client, thing.id, raw=raw, **query)
        except KeyboardInterrupt:
            return INTERRUPTED
        if not some:
            _tell_pruned(client, thing.id)
    elif not print_output(client, thing.id, query, raw=raw):
        _tell_pruned(client, thing.id)
    return 0


def _tell_pruned(client: Client, number: int) -> None:
    """Why there is no output where there was some."""
    last = next((one for one in reversed(client.events(number)) if one.reason == "OutputPruned"), None)
    if last is not None:
        typer.echo(f"{show.clock(last.at)}: {last.message}", err=True)


def print_output(client: Client, number: int, query: dict[str, Any], *, raw: bool) -> bool:
    """Bytes as they are, unless a terminal would obey them; a long log that goes into a file has a bar. Returns whether
    there are any."""
    parts = client.parts(number, **query)
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


def _logs_json(client: Client, thing: Thing, query: dict[str, Any], *, follow: bool) -> None:
    """One object; with ``--follow`` one a line as it comes."""
    import json

    if follow:
        for piece in client.follow(thing.id, **query):
            typer.echo(json.dumps(as_dict(piece)))
        return
    text = client.text(thing.id, **query)
    print_json({"name": thing.name, "text": text})


def print_followed(
    client: Client,
    ref: int | str,
    *,
    err: bool = False,
    raw: bool = False,
    waiting: Waiting | None = None,
    **query: Any,
) -> bool:
    """Output as it comes; with several replicas whole lines, each marked with its replica. Returns whether there was
    any.

    Args:
        waiting: shows meanwhile why there is none.
    """
    some = False
    found = client.get(ref)
    roles = [one for one in found.spec["roles"] if query.get("role") in (None, one.get("name", "main"))]
    several = query.get("index") is None and sum(one.get("count", 1) for one in roles) > 1
    marked = Marked(raw=raw)

    def target(stream: str) -> TextIO:
        return sys.stderr if err or stream == "stderr" else sys.stdout

    state = waiting.told if waiting is not None else lambda _: None
    for piece in client.follow(ref, state=state, **query):
        some = True
        if waiting is not None:
            waiting.hide()
        into = target(piece.stream)
        if several:
            marked.show(into, piece.replica, piece.text, piece.stream)
        else:
            terminal.show_output(into, piece.text, raw=raw)
        into.flush()
    marked.rest(target)
    return some
