"""Who gets in: users with their passwords, and key pairs."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from localml.cli import show
from localml.cli.common import Data, Json, as_dict, command, connect, print_json
from localml.cli.completion import complete_keys, complete_users
from localml.cli.help import PEOPLE
from localml.core.errors import invalid

if TYPE_CHECKING:
    from localml.client.people import Ended


UserName = Annotated[
    str,
    typer.Argument(metavar="USER", help="Name of a user.", autocompletion=complete_users, show_default=False),
]
KeysOf = Annotated[
    str | None,
    typer.Option("--user", help="Another user's, for administrators.", autocompletion=complete_users),
]


def add(app: typer.Typer) -> None:
    """Add the commands of this module."""
    users = typer.Typer(invoke_without_command=True)
    users.callback()(list_users)
    for name, function in (
        ("list", list_users_again),
        ("add", add_user),
        ("password", set_password),
        ("revoke", revoke_user),
        ("remove", remove_user),
    ):
        users.command(name)(function)
    app.add_typer(users, name="users", rich_help_panel=PEOPLE)
    keys = typer.Typer(invoke_without_command=True)
    keys.callback()(list_keys)
    keys.command("list")(list_keys_again)
    keys.command("create")(create_key)
    keys.command("revoke")(revoke_key)
    app.add_typer(keys, name="keys", rich_help_panel=PEOPLE)


@command
def list_users(ctx: typer.Context, data: Data = None, as_json: Json = False) -> None:
    """Users: list them, or change who gets in.

    Example: localml users
    """
    if ctx.invoked_subcommand is None:
        _list_users(data, as_json=as_json)


@command
def list_users_again(data: Data = None, as_json: Json = False) -> None:
    """List all users.

    Example: localml users list
    """
    _list_users(data, as_json=as_json)


def _list_users(data: Any, *, as_json: bool) -> None:
    with connect(data) as client:
        found = client.people.users()
    if as_json:
        print_json({"users": as_dict(found)})
        return
    rows = [(one.name, "administrator" if one.admin else "user", one.workspace, one.org or "-") for one in found]
    show.table("NAME", "ROLE", "WORKSPACE", "ORGANISATION", rows=rows, empty="No users.")


@command
def add_user(
    name: Annotated[str, typer.Argument(metavar="USER", help="The new user's name.", show_default=False)],
    admin: Annotated[bool, typer.Option("--admin", help="May everything.")] = False,
    data: Data = None,
    as_json: Json = False,
) -> None:
    """Add a user, whose password is asked for, or read from standard input. Its token is shown this once.

    Example: localml users add ann
    """
    with connect(data) as client:
        made = client.people.create_user(name, _password(), admin=admin)
    if as_json:
        print_json(made)
    else:
        typer.echo(f"user {name} is added; its token, which is shown this once: {made['token']}")


@command
def set_password(user: UserName, data: Data = None, as_json: Json = False) -> None:
    """Change a password, which is asked for, or read from standard input. All else that the user gets in with ends.

    Example: localml users password ann
    """
    with connect(data) as client:
        ended = client.people.set_password(user, _password())
    _say_ended(f"the password of {user} is changed", ended, as_json=as_json)


@command
def revoke_user(user: UserName, data: Data = None, as_json: Json = False) -> None:
    """End all that a user gets in with but the password: tokens, keys, sessions.

    Example: localml users revoke ann
    """
    with connect(data) as client:
        ended = client.people.end_credentials(user)
    _say_ended(f"the credentials of {user} are ended", ended, as_json=as_json)


@command
def remove_user(user: UserName, data: Data = None, as_json: Json = False) -> None:
    """Remove a user. Its jobs go on; its notebooks and TensorBoards are stopped.

    Example: localml users remove ann
    """
    with connect(data) as client:
        client.people.remove_user(user)
    if as_json:
        print_json({"name": user})
    else:
        typer.echo(f"user {user} is removed")


def _password() -> str:
    if sys.stdin.isatty():
        return str(typer.prompt("Password", hide_input=True, confirmation_prompt=True, err=True))
    found = sys.stdin.readline().rstrip("\n")
    if not found:
        raise invalid("password", "is asked for on a terminal, else read from the first line of standard input")
    return found


def _say_ended(words: str, ended: Ended, *, as_json: bool) -> None:
    if as_json:
        print_json(as_dict(ended))
        return
    typer.echo(f"{words}: {ended.tokens} tokens and {ended.keys} keys are good for nothing now")
    if ended.token is not None:
        typer.echo(f"your new token, which is shown this once: {ended.token}")


@command
def list_keys(ctx: typer.Context, user: KeysOf = None, data: Data = None, as_json: Json = False) -> None:
    """Key pairs of signing clients: list, create, revoke.

    Example: localml keys
    """
    if ctx.invoked_subcommand is None:
        _list_keys(user, data, as_json=as_json)


@command
def list_keys_again(user: KeysOf = None, data: Data = None, as_json: Json = False) -> None:
    """List your key pairs, without their secrets.

    Example: localml keys list
    """
    _list_keys(user, data, as_json=as_json)


def _list_keys(user: str | None, data: Any, *, as_json: bool) -> None:
    with connect(data) as client:
        found = client.people.keys(user or client.people.me())
    if as_json:
        print_json({"keys": as_dict(found)})
        return
    rows = [
        (one.id, one.name or "-", one.made_by or "-", show.ago(one.created_at), show.ago(one.used_at)) for one in found
    ]
    show.table("ID", "NAME", "MADE BY", "CREATED", "USED", rows=rows, empty="No keys.")


@command
def create_key(
    name: Annotated[str, typer.Option(help="What you call it.")] = "",
    user: KeysOf = None,
    data: Data = None,
    as_json: Json = False,
) -> None:
    """Make a key pair, and print it: access key and secret key, which is shown this once.

    Example: localml keys create --name laptop
    """
    with connect(data) as client:
        made = client.people.create_key(user or client.people.me(), name=name)
    if as_json:
        print_json(made)
    else:
        typer.echo(f"{made['access_key']} {made['secret_key']}")


@command
def revoke_key(
    key: Annotated[
        str,
        typer.Argument(
            metavar="ID", help="Id or name of a key pair.", autocompletion=complete_keys, show_default=False
        ),
    ],
    user: KeysOf = None,
    data: Data = None,
    as_json: Json = False,
) -> None:
    """End a key pair.

    Example: localml keys revoke ID
    """
    with connect(data) as client:
        ended = client.people.revoke_key(user or client.people.me(), key)
    if as_json:
        print_json(as_dict(ended))
    else:
        typer.echo(f"key {ended.name or ended.id} is revoked")
