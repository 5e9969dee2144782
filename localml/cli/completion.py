"""What the shell's completion offers: names that the server knows, and nothing where it does not answer."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import typer

from localml.cli.common import connect
from localml.client.errors import ClientError
from localml.core.errors import LocalmlError

if TYPE_CHECKING:
    from localml.client import Client

Offer = tuple[str, str]
"""A word, and what it stands for."""


def complete_users(ctx: typer.Context, incomplete: str) -> list[Offer]:
    """Names of users."""
    return _asked(ctx, incomplete, lambda client: ((one.name, _role(one.admin)) for one in client.people.users()))


def complete_keys(ctx: typer.Context, incomplete: str) -> list[Offer]:
    """Ids of key pairs."""
    return _asked(
        ctx, incomplete, lambda client: ((one.id, one.name) for one in client.people.keys(_whose(ctx, client)))
    )


def complete_tokens(ctx: typer.Context, incomplete: str) -> list[Offer]:
    """Names of tokens; ids of those that have none."""
    return _asked(
        ctx, incomplete, lambda client: ((one.name or one.id, "") for one in client.people.tokens(_whose(ctx, client)))
    )


def complete_workspaces(ctx: typer.Context, incomplete: str) -> list[Offer]:
    """Names of workspaces."""
    return _asked(ctx, incomplete, lambda client: ((one.name, one.description) for one in client.people.workspaces()))


def complete_buckets(ctx: typer.Context, incomplete: str) -> list[Offer]:
    """Names of buckets."""
    return _asked(ctx, incomplete, lambda client: ((one.name, f"{one.owner}'s") for one in client.buckets()))


def _asked(ctx: typer.Context, incomplete: str, ask: Callable[[Client], Iterable[Offer]]) -> list[Offer]:
    try:
        with connect(ctx.params.get("data")) as client:
            return [one for one in ask(client) if one[0].startswith(incomplete)]
    except (ClientError, LocalmlError, OSError):
        return []


def _role(admin: bool) -> str:
    return "administrator" if admin else "user"


def _whose(ctx: typer.Context, client: Client) -> str:
    return str(ctx.params.get("user") or client.people.me())
