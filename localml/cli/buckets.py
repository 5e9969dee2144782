"""Whose buckets are whose: list, make, share, move, delete."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from localml.cli import show
from localml.cli.common import Data, Json, as_dict, command, connect, print_json
from localml.cli.completion import complete_buckets, complete_workspaces, words
from localml.cli.help import DATA

if TYPE_CHECKING:
    from localml.client.objects import Bucket

NOBODY = "none"
Name = Annotated[
    str, typer.Argument(metavar="BUCKET", help="Its name.", autocompletion=complete_buckets, show_default=False)
]
Place = Annotated[
    str | None,
    typer.Option(
        "--workspace", "-w", help="Name or id of the workspace that it is in.", autocompletion=complete_workspaces
    ),
]
Everyone = Annotated[
    str | None,
    typer.Option(
        help="What all users are to it: viewer (they read), member (they write) or none.",
        autocompletion=words("viewer", "member", "none"),
    ),
]


def add(app: typer.Typer) -> None:
    """Add the commands of this module."""
    buckets = typer.Typer(invoke_without_command=True)
    buckets.callback()(list_buckets)
    for name, function in (("list", list_again), ("create", create), ("show", show_one), ("change", change)):
        buckets.command(name)(function)
    buckets.command("delete")(delete)
    app.add_typer(buckets, name="buckets", rich_help_panel=DATA)


@command
def list_buckets(ctx: typer.Context, data: Data = None, as_json: Json = False) -> None:
    """Buckets: list them, or change whose they are.

    Example: localml buckets
    """
    if ctx.invoked_subcommand is None:
        _list(data, as_json=as_json)


@command
def list_again(data: Data = None, as_json: Json = False) -> None:
    """List the buckets that you may read.

    Example: localml buckets list
    """
    _list(data, as_json=as_json)


def _list(data: Any, *, as_json: bool) -> None:
    with connect(data) as client:
        found = client.buckets()
        names = {one.id: one.name for one in client.people.workspaces()}
    if as_json:
        print_json({"buckets": as_dict(found)})
        return
    rows = [
        (one.name, names.get(one.workspace, one.workspace), one.owner, one.everyone or "-", show.ago(one.created_at))
        for one in found
    ]
    show.table("NAME", "WORKSPACE", "OWNER", "EVERYONE", "CREATED", rows=rows, empty="No buckets.")


@command
def create(
    name: Name, workspace: Place = None, everyone: Everyone = None, data: Data = None, as_json: Json = False
) -> None:
    """Make a bucket, in your own workspace or in a shared one.

    Example: localml buckets create data --workspace team
    """
    with connect(data) as client:
        made = client.create_bucket(name, workspace=workspace, everyone=_role(everyone))
    _answer(made, f"bucket {made.name} is made", as_json=as_json)


@command
def show_one(name: Name, data: Data = None, as_json: Json = False) -> None:
    """One bucket, and how much is in it.

    Example: localml buckets show data
    """
    from localml.core.quantities import format_memory

    with connect(data) as client:
        found = client.bucket(name)
    everyone = f"; every user is {found.everyone}" if found.everyone else ""
    words = f"{found.name}: {format_memory(found.size or 0)}, {found.owner}'s, in workspace {found.workspace}{everyone}"
    _answer(found, words, as_json=as_json)


@command
def change(
    name: Name, workspace: Place = None, everyone: Everyone = None, data: Data = None, as_json: Json = False
) -> None:
    """Move a bucket to another workspace, share it with all users, or close it (--everyone none).

    Example: localml buckets change data --everyone viewer
    """
    members = {} if workspace is None else {"workspace": workspace}
    with connect(data) as client:
        given = members if everyone is None else {**members, "everyone": _role(everyone)}
        made = client.change_bucket(name, **given)
    _answer(made, f"bucket {made.name} is changed", as_json=as_json)


@command
def delete(
    name: Name,
    recursive: Annotated[bool, typer.Option("--recursive", "-r", help="With all that is in it.")] = False,
    data: Data = None,
    as_json: Json = False,
) -> None:
    """Delete a bucket.

    Example: localml buckets delete data --recursive
    """
    with connect(data) as client:
        gone = client.delete_bucket(name, recursive=recursive)
    _answer(gone, f"bucket {gone.name} is deleted", as_json=as_json)


def _role(text: str | None) -> str | None:
    return None if text == NOBODY else text


def _answer(made: Bucket, words: str, *, as_json: bool) -> None:
    if as_json:
        print_json(as_dict(made))
    else:
        typer.echo(words)
