"""Who shares what: workspaces and their members, tokens."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from localml.cli import show
from localml.cli.common import Data, Json, as_dict, command, connect, print_json, seconds
from localml.cli.completion import (
    complete_scopes,
    complete_things,
    complete_tokens,
    complete_users,
    complete_workspaces,
    words,
)
from localml.cli.help import PEOPLE

if TYPE_CHECKING:
    from localml.client.people import Token, Workspace


class RoleName(StrEnum):
    """What one is in a workspace, the least first."""

    VIEWER = "viewer"
    MEMBER = "member"
    EDITOR = "editor"
    OWNER = "owner"


NOBODY = "none"
Reference = Annotated[
    str,
    typer.Argument(metavar="WORKSPACE", help="Name or id.", autocompletion=complete_workspaces, show_default=False),
]
UserName = Annotated[
    str,
    typer.Argument(metavar="USER", help="Name of a user.", autocompletion=complete_users, show_default=False),
]
TokensOf = Annotated[
    str | None,
    typer.Option("--user", help="Another user's, for administrators.", autocompletion=complete_users),
]
Description = Annotated[str | None, typer.Option(help="What it is for.")]
Everyone = Annotated[
    str | None,
    typer.Option(
        help="What all users are in it without being members: viewer, member, editor, owner or none.",
        autocompletion=words("viewer", "member", "editor", "owner", "none"),
    ),
]


def add(app: typer.Typer) -> None:
    """Add the commands of this module."""
    workspaces = typer.Typer(invoke_without_command=True)
    workspaces.callback()(list_workspaces)
    for name, function in (
        ("list", list_again),
        ("create", create),
        ("show", show_one),
        ("change", change),
        ("add-member", add_member),
        ("remove-member", remove_member),
        ("delete", delete),
    ):
        workspaces.command(name)(function)
    app.add_typer(workspaces, name="workspaces", rich_help_panel=PEOPLE)
    tokens = typer.Typer(no_args_is_help=True, help="Tokens: create, list, revoke.")
    tokens.command("create")(create_token)
    tokens.command("list")(list_tokens)
    tokens.command("revoke")(revoke_token)
    app.add_typer(tokens, name="token", rich_help_panel=PEOPLE)
    app.add_typer(tokens, name="tokens", rich_help_panel=PEOPLE, hidden=True)  # as the others are called


@command
def list_workspaces(ctx: typer.Context, data: Data = None, as_json: Json = False) -> None:
    """Workspaces: list them, or change who shares what.

    Example: localml workspaces
    """
    if ctx.invoked_subcommand is None:
        _list(data, as_json=as_json)


@command
def list_again(data: Data = None, as_json: Json = False) -> None:
    """List the workspaces that you see.

    Example: localml workspaces list
    """
    _list(data, as_json=as_json)


def _list(data: Any, *, as_json: bool) -> None:
    with connect(data) as client:
        found = client.people.workspaces()
    if as_json:
        print_json({"workspaces": as_dict(found)})
        return
    rows = [
        (one.name, one.role or "-", one.owner, "own" if one.personal else one.origin, one.id, one.description)
        for one in found
    ]
    show.table("NAME", "YOU", "OWNER", "KIND", "ID", "DESCRIPTION", rows=rows, empty="No workspaces.")


@command
def create(
    name: Annotated[str, typer.Argument(help="Its name.", show_default=False)],
    description: Description = None,
    everyone: Everyone = None,
    data: Data = None,
    as_json: Json = False,
) -> None:
    """Make a workspace that you can share.

    Example: localml workspaces create team
    """
    with connect(data) as client:
        made = client.people.create_workspace(name, description=description or "", everyone=_everyone(everyone))
    _answer(made, f"workspace {made.name} is made", as_json=as_json)


@command
def show_one(workspace: Reference, data: Data = None, as_json: Json = False) -> None:
    """One workspace with its members.

    Example: localml workspaces show team
    """
    with connect(data) as client:
        found = client.people.workspace(workspace)
    if as_json:
        print_json(as_dict(found))
        return
    everyone = f"; every user is {found.everyone}" if found.everyone else ""
    typer.echo(f"{found.name} ({found.id}){everyone}")
    if found.description:
        typer.echo(found.description)
    rows = [(one.user, one.role, show.ago(one.since)) for one in found.members]
    show.table("MEMBER", "ROLE", "SINCE", rows=rows, empty="No members.")


@command
def change(
    workspace: Reference,
    name: Annotated[str | None, typer.Option(help="A new name.")] = None,
    description: Description = None,
    everyone: Everyone = None,
    data: Data = None,
    as_json: Json = False,
) -> None:
    """Rename or describe a workspace, or open it to all users.

    Example: localml workspaces change team --everyone viewer
    """
    given = {"name": name, "description": description}
    members: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
    if everyone is not None:
        members["everyone"] = _everyone(everyone)
    with connect(data) as client:
        made = client.people.change_workspace(workspace, **members)
    _answer(made, f"workspace {made.name} is changed", as_json=as_json)


@command
def add_member(
    workspace: Reference,
    user: UserName,
    role: Annotated[RoleName, typer.Option(help="What the user may there.")] = RoleName.MEMBER,
    data: Data = None,
    as_json: Json = False,
) -> None:
    """Let a user at a workspace, or change what the user may there.

    Example: localml workspaces add-member team ann --role editor
    """
    with connect(data) as client:
        made = client.people.set_member(workspace, user, role.value)
    _answer(made, f"{user} is {role.value} of {made.name}", as_json=as_json)


@command
def remove_member(workspace: Reference, user: UserName, data: Data = None, as_json: Json = False) -> None:
    """End a membership. What the user made there stays.

    Example: localml workspaces remove-member team ann
    """
    with connect(data) as client:
        made = client.people.remove_member(workspace, user)
    _answer(made, f"{user} is no member of {made.name} any more", as_json=as_json)


@command
def delete(workspace: Reference, data: Data = None, as_json: Json = False) -> None:
    """Delete a workspace that nothing runs, is served or is registered in.

    Example: localml workspaces delete team
    """
    with connect(data) as client:
        gone = client.people.delete_workspace(workspace)
    _answer(gone, f"workspace {gone.name} is deleted", as_json=as_json)


def _everyone(text: str | None) -> str | None:
    return None if text == NOBODY else text


def _answer(made: Workspace, words: str, *, as_json: bool) -> None:
    if as_json:
        print_json(as_dict(made))
    else:
        typer.echo(words)


@command
def create_token(
    name: Annotated[str, typer.Option(help="What you call it.")] = "",
    scope: Annotated[
        list[str],
        typer.Option(
            metavar="[NOUN:]ACTION",
            help="All that it may do, such as read or workload:stop; repeat it.",
            autocompletion=complete_scopes,
        ),
    ] = [],  # noqa: B006
    workspace: Annotated[
        str | None, typer.Option(help="Only in this workspace.", autocompletion=complete_workspaces)
    ] = None,
    thing: Annotated[
        str | None,
        typer.Option(
            "--for",
            metavar="NOUN:ID",
            help="For this alone, such as workload:12.",
            autocompletion=complete_things,
        ),
    ] = None,
    expires: Annotated[
        str | None, typer.Option(metavar="TIME", help="Good for so long, such as 8h or 30d; for ever by default.")
    ] = None,
    user: TokensOf = None,
    data: Data = None,
    as_json: Json = False,
) -> None:
    """Make a token, and print it: it is shown this once.

    Example: localml token create --name ci --scope read --expires 30d
    """
    lifetime = seconds("--expires", expires)
    words = [one for text in scope for one in text.split(",")]
    with connect(data) as client:
        owner = user or client.people.me()
        made = client.people.create_token(
            owner, name=name, scope=words, workspace=workspace, thing=thing, lifetime=lifetime
        )
    if as_json:
        print_json(made)
    else:
        typer.echo(made["token"])


@command
def list_tokens(user: TokensOf = None, data: Data = None, as_json: Json = False) -> None:
    """List your tokens, without the tokens themselves.

    Example: localml token list
    """
    with connect(data) as client:
        found = client.people.tokens(user or client.people.me())
    if as_json:
        print_json({"tokens": as_dict(found)})
        return
    rows = [
        (
            one.id,
            one.name or "-",
            _scope(one),
            show.ago(one.created_at),
            show.clock(one.expires_at),
            show.ago(one.used_at),
        )
        for one in found
    ]
    show.table("ID", "NAME", "SCOPE", "CREATED", "EXPIRES", "USED", rows=rows, empty="No tokens.")


@command
def revoke_token(
    token: Annotated[
        str,
        typer.Argument(metavar="ID", help="Id or name of a token.", autocompletion=complete_tokens, show_default=False),
    ],
    user: TokensOf = None,
    data: Data = None,
    as_json: Json = False,
) -> None:
    """End a token.

    Example: localml token revoke ci
    """
    with connect(data) as client:
        ended = client.people.revoke_token(user or client.people.me(), token)
    if as_json:
        print_json(as_dict(ended))
    else:
        typer.echo(f"token {ended.name or ended.id} is revoked")


def _scope(one: Token) -> str:
    if one.scope is None:
        return "all"
    parts = [", ".join(one.scope["rights"])]
    parts += [f"in {one.scope['workspace']}"] if one.scope["workspace"] else []
    parts += [f"for {one.scope['thing']}"] if one.scope["thing"] else []
    return " ".join(part for part in parts if part)
