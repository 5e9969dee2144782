"""Notebooks and TensorBoards: ``localml notebook``, ``localml tensorboard``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from localml.cli import INTERRUPTED, show
from localml.cli.common import (
    Data,
    Json,
    Place,
    amount,
    as_dict,
    command,
    connect,
    known_pool,
    offer_names,
    print_json,
    seconds,
)
from localml.cli.completion import complete_folders, complete_gpu_types, complete_images, complete_pools, complete_uris
from localml.cli.completion import words as any_of
from localml.cli.help import TOOLS as TOOLS_GROUP
from localml.cli.help import with_example
from localml.cli.names import TOOLS, completer
from localml.cli.places import object_uri
from localml.cli.runs import send_code
from localml.cli.waiting import Starting
from localml.client.errors import ClientError

if TYPE_CHECKING:
    from localml.client import Client, Thing
    from localml.client.tools import Tool

_READY_S = 120.0
_EXAMPLES = {"notebook": "lab", "tensorboard": "board"}


def _complete(ctx: typer.Context, incomplete: str) -> list[tuple[str, str]]:
    """Names of the kind that the group of commands is for."""
    kind = ctx.parent.info_name if ctx.parent is not None else None
    return offer_names(ctx, incomplete, [kind] if kind in TOOLS else TOOLS)


ToolName = Annotated[str, typer.Argument(help="Name or id.", autocompletion=_complete, show_default=False)]
Detach = Annotated[bool, typer.Option("--detach", "-d", help="Return at once instead of when it answers.")]
Token = Annotated[
    str | None, typer.Option(help="What to open it with; one is made otherwise.", envvar="LOCALML_TOOL_TOKEN")
]
Idle = Annotated[str | None, typer.Option(metavar="TIME", help="Stop it after so long without activity, such as 30m.")]
Pool = Annotated[
    str | None,
    typer.Option(help="Pool whose limits count. [default: default]", show_default=False, autocompletion=complete_pools),
]
TimeLimit = Annotated[str | None, typer.Option(metavar="TIME", help="Stop it after this time, such as 8h.")]


class _ByName(TyperGroup):
    """``localml notebook NAME`` is short for ``localml notebook open NAME``."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args and args[0] not in self.commands and not args[0].startswith("-"):
            args = ["open", *args]
        return super().resolve_command(ctx, args)


def add(app: typer.Typer) -> None:
    """Add the commands of this module."""
    for name, function in (("notebooks", notebooks), ("tensorboards", tensorboards)):
        words = with_example(function, f"localml {name}")
        app.command(name, help=words, rich_help_panel=TOOLS_GROUP)(function)
    for group in (
        _group("notebook", "JupyterLabs on this machine.", start_notebook, notebooks, notebook),
        _group("tensorboard", "TensorBoards on this machine.", start_tensorboard, tensorboards, tensorboard),
    ):
        app.add_typer(group, rich_help_panel=TOOLS_GROUP)


def _group(name: str, words: str, start: Any, listing: Any, one: Any) -> typer.Typer:
    group = typer.Typer(
        name=name,
        cls=_ByName,
        help=words,
        no_args_is_help=True,
        subcommand_metavar="NAME | COMMAND",
    )
    verbs = {"start": start, "open": open_again, "list": listing, "show": one, "stop": stop, "restart": restart}
    for verb, function in verbs.items():
        example = f"localml {name} {verb}" + ("" if verb == "list" else f" {_EXAMPLES[name]}")
        own = function is start or function is one  # has an example already
        group.command(verb, help=None if own else with_example(function, example))(function)
    return group


@command
def start_notebook(
    name: Annotated[
        str | None,
        typer.Argument(help="A name; a friendly one is made up otherwise.", autocompletion=completer("notebook")),
    ] = None,
    gpus: Annotated[
        str | None,
        typer.Option("--gpus", "-g", help="GPUs; below 1 a share of one; or 'all'.", autocompletion=any_of("all")),
    ] = None,
    gpu_type: Annotated[
        str | None,
        typer.Option(help="Part of the GPU's name, such as A100.", autocompletion=complete_gpu_types),
    ] = None,
    cpus: Annotated[float | None, typer.Option("--cpus", "-c", help="CPU cores. [default: 0.25, no limit]")] = None,
    memory: Annotated[str | None, typer.Option("--memory", "-m", metavar="SIZE", help="Memory, such as 8G.")] = None,
    folder: Annotated[
        str | None,
        typer.Option(help="Name of the folder to work in; its own by default.", autocompletion=complete_folders),
    ] = None,
    workspace: Place = None,
    code: Annotated[
        Path | None,
        typer.Option("--code", metavar="DIR", help="Put this folder into the notebook's; see 'localml run --code'."),
    ] = None,
    code_limit: Annotated[str, typer.Option(metavar="SIZE", help="How large the folder of code may be.")] = "100M",
    replace_code: Annotated[
        bool, typer.Option("--replace-code", help="Replace files that the notebook's folder has and that differ.")
    ] = False,
    image: Annotated[
        str | None,
        typer.Option(
            "--image",
            "-i",
            help="localml/notebook-pytorch, or an image of one's own with Jupyter in it.",
            autocompletion=complete_images,
        ),
    ] = None,
    idle: Idle = None,
    time_limit: TimeLimit = None,
    token: Token = None,
    pool: Pool = None,
    detach: Detach = False,
    data: Data = None,
    as_json: Json = False,
) -> None:
    """Start a JupyterLab, and show how to open it. A stopped one of this name is as it was, but for what is given.

    Example: localml notebook start lab --gpus 1
    """
    needs = {"gpu_type": gpu_type, "cpu": cpus, "memory": amount("--memory", memory)}
    with connect(data) as client:
        needs["gpu"] = None if gpus is None else client.gpu_count(gpus, gpu_type)
        sent = None
        if code is not None:
            name = name or folder or code.absolute().resolve().name
            sent = send_code(client, code, workspace, code_limit, quiet=as_json)
        made = client.tools.start_notebook(
            code=sent,
            replace_code=replace_code,
            name=name,
            folder=folder,
            workspace=workspace,
            image=image,
            token=token,
            resources={key: value for key, value in needs.items() if value is not None} or None,
            idle_limit=seconds("--idle", idle),
            time_limit=seconds("--time-limit", time_limit),
            pool=None if pool is None else known_pool(client, pool),
        )
        _finish(client, made, detach=detach, as_json=as_json)


@command
def start_tensorboard(
    logdir: Annotated[
        str, typer.Argument(help="Folder with event files, such as fds://bucket/logs.", autocompletion=complete_uris)
    ],
    name: Annotated[str | None, typer.Option(help="A name; a friendly one is made up otherwise.")] = None,
    idle: Idle = None,
    time_limit: TimeLimit = None,
    token: Token = None,
    workspace: Place = None,
    pool: Pool = None,
    detach: Detach = False,
    data: Data = None,
    as_json: Json = False,
) -> None:
    """Start a TensorBoard, and show how to open it.

    Example: localml tensorboard start fds://data/logs
    """
    with connect(data) as client:
        made = client.tools.start_tensorboard(
            object_uri(logdir, "LOGDIR"),
            name=name,
            token=token,
            workspace=workspace,
            idle_limit=seconds("--idle", idle),
            time_limit=seconds("--time-limit", time_limit),
            pool=None if pool is None else known_pool(client, pool),
        )
        _finish(client, made, detach=detach, as_json=as_json)


@command
def notebooks(data: Data = None, as_json: Json = False) -> None:
    """List notebooks."""
    with connect(data) as client:
        _print_list(client.tools.notebooks(), "No notebooks; start one with: localml notebook start", as_json=as_json)


@command
def tensorboards(data: Data = None, as_json: Json = False) -> None:
    """List TensorBoards."""
    with connect(data) as client:
        empty = "No TensorBoards; start one with: localml tensorboard start LOGDIR"
        _print_list(client.tools.tensorboards(), empty, as_json=as_json)


@command
def notebook(name: ToolName, data: Data = None, as_json: Json = False) -> None:
    """Show a notebook: how to open it, what its kernels do.

    Example: localml notebook show lab
    """
    with connect(data) as client:
        _print_one(_one(client, "notebook", name), as_json=as_json)


@command
def tensorboard(name: ToolName, data: Data = None, as_json: Json = False) -> None:
    """Show a TensorBoard: how to open it.

    Example: localml tensorboard show board
    """
    with connect(data) as client:
        _print_one(_one(client, "tensorboard", name), as_json=as_json)


@command
def open_again(
    ctx: typer.Context, name: ToolName, detach: Detach = False, data: Data = None, as_json: Json = False
) -> None:
    """Show how to open it; one that was stopped is started again, with its files, its token and its port if free."""
    with connect(data) as client:
        _finish(client, client.tools.start(_named(client, ctx, name)), detach=detach, as_json=as_json)


@command
def restart(
    ctx: typer.Context, name: ToolName, detach: Detach = False, data: Data = None, as_json: Json = False
) -> None:
    """Stop it if it runs, and start it again."""
    with connect(data) as client:
        _finish(client, client.tools.restart(_named(client, ctx, name)), detach=detach, as_json=as_json)


@command
def stop(ctx: typer.Context, name: ToolName, data: Data = None, as_json: Json = False) -> None:
    """Stop it; the files stay, and it can be started again."""
    with connect(data) as client:
        stopped = client.tools.stop(_named(client, ctx, name))
    if as_json:
        print_json(as_dict(stopped))
    else:
        typer.echo(f"{stopped.name} is asked to stop")


def _named(client: Client, ctx: typer.Context, name: str) -> Tool:
    """The one of this name, of the kind that the group of commands is for."""
    kind = "tensorboard" if ctx.parent is not None and ctx.parent.info_name == "tensorboard" else "notebook"
    try:
        return _one(client, kind, name)
    except ClientError as error:
        if error.code != "not_found":
            raise
        new = f"start {name}" if kind == "notebook" else f"start LOGDIR --name {name}"
        raise ClientError(error.code, f"{error.message}; make a new one with: localml {kind} {new}") from None


def _one(client: Client, kind: str, name: str) -> Tool:
    number = client.resolve(name, [kind]).id
    return client.tools.notebook(number) if kind == "notebook" else client.tools.tensorboard(number)


def start_again(client: Client, thing: Thing, *, detach: bool, as_json: bool) -> None:
    """Start a notebook or TensorBoard again."""
    _finish(client, client.tools.start(_one(client, thing.kind, f"id/{thing.id}")), detach=detach, as_json=as_json)


def _started(client: Client, made: Tool, *, quiet: bool) -> Tool:
    """It, once it answers; how long it waits for its turn, or its image takes to be pulled or built, does not count."""
    with Starting(client, quiet=quiet) as starting:
        while True:
            try:
                return client.tools.wait_ready(made, _READY_S, starting.told)
            except TimeoutError:
                if not starting.waits:
                    raise
            except KeyboardInterrupt:
                starting.hide()
                typer.echo(f"\n{made.name} goes on; open it with: localml {made.kind} {made.name}", err=True)
                raise typer.Exit(INTERRUPTED) from None


def _finish(client: Client, made: Tool, *, detach: bool, as_json: bool) -> None:
    ready = made if detach else _started(client, made, quiet=as_json)
    if as_json:
        print_json(as_dict(ready))
    elif detach:
        typer.echo(ready.name)
    else:
        typer.secho(f"{ready.name} is ready; open", fg=typer.colors.GREEN, err=True)
        typer.echo(ready.url)


def _print_list(found: list[Tool], empty: str, *, as_json: bool) -> None:
    if as_json:
        print_json(as_dict(found))
        return
    rows = [
        (one.id, one.name, show.state(one.state), one.source, show.number(one.gpu or None), one.owner, one.url or "-")
        for one in found
    ]
    show.table("ID", "NAME", "STATE", "SOURCE", "GPU", "OWNER", "URL", rows=rows, empty=empty)


def _print_one(found: Tool, *, as_json: bool) -> None:
    if as_json:
        print_json(as_dict(found))
        return
    from localml.core.quantities import format_duration, format_memory

    rows = [
        ("Name", f"{found.name} (id {found.id})"),
        ("State", found.state + ("" if found.state != "running" else ", ready" if found.ready else ", not answering")),
        ("Run", f"{found.run}" + (", and another one is wanted" if found.pending else "")),
        ("Source", found.source),
        ("URL", found.url or "-"),
        ("Token", found.token or "-"),
        ("Message", found.message or "-"),
    ]
    if found.activity is not None:
        rows.append(("Idle for", format_duration(found.activity["idle_for"])))
    if found.activity is not None and found.kind == "notebook":
        use, limit = found.activity["memory"], found.activity["memory_limit"]
        percent = found.activity["cpu_percent"]
        rows += [
            ("Memory", f"{format_memory(use)} of {format_memory(limit)}" if limit else format_memory(use)),
            ("CPU", "-" if percent is None else f"{percent:g} %"),
        ]
        rows += [("Kernel", f"{one['name']}, {one['state']}") for one in found.activity["kernels"]]
    for label, value in rows:
        typer.echo(f"{label + ':':<9} {value}")
