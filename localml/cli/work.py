"""Workloads: run, ps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from localml.cli import output, show
from localml.cli.common import (
    Data,
    Json,
    Place,
    PoolName,
    Within,
    amount,
    as_dict,
    command,
    connect,
    known_pool,
    print_json,
)
from localml.cli.completion import complete_gpu_types, complete_images, complete_pools, complete_users, words
from localml.cli.help import JOBS
from localml.cli.places import mount_source
from localml.cli.reports import Columns, print_columns
from localml.core.errors import invalid

if TYPE_CHECKING:
    from localml.client import Client, Workload

LIVE = ("queued", "preparing", "running", "stopping")
STATES = (*LIVE, "succeeded", "failed", "stopped")
KINDS = ("job", "notebook", "tensorboard", "replica")
SORTS = ("id", "name", "state", "owner", "priority", "created_at", "started_at", "ended_at")


def add(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command(context_settings={"allow_interspersed_args": False}, rich_help_panel=JOBS)(run)
    app.command(rich_help_panel=JOBS)(ps)


@command
def run(
    command_line: Annotated[
        list[str], typer.Argument(metavar="-- COMMAND...", help="What to run.", show_default=False)
    ],
    name: Annotated[str | None, typer.Option(help="A name; a friendly one is made up otherwise.")] = None,
    gpus: Annotated[float, typer.Option("--gpus", "-g", help="GPUs; below 1 a share of one.")] = 0,
    gpu_type: Annotated[
        str | None,
        typer.Option(help="Part of the GPU's name, such as A100.", autocompletion=complete_gpu_types),
    ] = None,
    cpus: Annotated[float | None, typer.Option("--cpus", "-c", help="CPU cores. [default: 1, and no limit]")] = None,
    memory: Annotated[str | None, typer.Option("--memory", "-m", help="Memory, such as 8G.")] = None,
    shm: Annotated[str | None, typer.Option(help="Shared memory, such as 1G. [default: half of the memory]")] = None,
    image: Annotated[str, typer.Option("--image", "-i", help="Container image.", autocompletion=complete_images)] = "",
    env: Annotated[list[str], typer.Option("--env", "-e", metavar="NAME=VALUE", help="May be repeated.")] = [],  # noqa: B006
    mount: Annotated[
        list[str], typer.Option("--mount", "-v", metavar="SRC:DST[:ro]", help="Folder, object URI or workspace:NAME.")
    ] = [],  # noqa: B006
    workdir: Annotated[str | None, typer.Option("--workdir", "-w", help="Where it starts.")] = None,
    retries: Annotated[int, typer.Option(help="How often it is tried again when it fails.")] = 0,
    time_limit: Annotated[float | None, typer.Option(help="Seconds from its start.")] = None,
    priority: Annotated[int, typer.Option(help="Higher goes first: -1000 to 100, for administrators to 1000.")] = 0,
    pool: PoolName = "default",
    workspace: Place = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Show its output; exit with its exit code.")] = False,
    data: Data = None,
    as_json: Json = False,
) -> None:
    """Run a command as a job.

    Example: localml run --gpus 1 --follow -- python train.py
    """
    with connect(data) as client:
        made = client.run(
            command_line,
            name=name,
            image=image,
            gpus=gpus,
            gpu_type=gpu_type,
            cpus=cpus,
            memory=amount("--memory", memory),
            shm=amount("--shm", shm),
            env=_variables(env),
            workdir=workdir,
            mounts=[_mount(one) for one in mount],
            retries=retries,
            time_limit=time_limit,
            priority=priority,
            pool=known_pool(client, pool),
            workspace=workspace,
        )
        if follow:
            raise typer.Exit(_follow_to_end(client, made, data, as_json=as_json))
    if as_json:
        print_json(as_dict(made))
    else:
        typer.echo(made.name)


def _follow_to_end(client: Client, made: Workload, data: Any, *, as_json: bool) -> int:
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
        return output.INTERRUPTED
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


def _variables(given: list[str]) -> dict[str, str]:
    found = {}
    for one in given:
        name, equals, value = one.partition("=")
        if not equals:
            raise invalid("--env", f"must be NAME=VALUE, not {one!r}")
        found[name] = value
    return found


def _mount(text: str) -> dict[str, Any]:
    """``SRC:DST[:ro]``, where SRC may hold colons itself (``fds://bucket/x``, ``workspace:w``)."""
    rest, read_only = (text[:-3], True) if text.endswith(":ro") else (text.removesuffix(":rw"), False)
    source, colon, target = rest.rpartition(":")
    if not colon or not source or not target.startswith("/"):
        raise invalid("--mount", f"must be SRC:DST[:ro] with an absolute DST, not {text!r}")
    return {"source": mount_source(source), "target": target, "read_only": read_only}


@command
def ps(
    all_states: Annotated[bool, typer.Option("--all", "-a", help="Those that are over, too.")] = False,
    state: Annotated[
        list[str],
        typer.Option(help="Only in this state; may be repeated.", autocompletion=words(*STATES)),
    ] = [],  # noqa: B006
    kind: Annotated[
        list[str],
        typer.Option(help="job, notebook, tensorboard or replica (of an endpoint).", autocompletion=words(*KINDS)),
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
