"""What the shell's completion offers: names that the server knows, and nothing where it does not answer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

import typer

from localml.cli.common import connect
from localml.client.errors import ClientError
from localml.core.errors import LocalmlError

if TYPE_CHECKING:
    from localml.client import Client

SCHEMES = ("fds://", "obs://", "s3://", "hdfs://")
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


def complete_pools(ctx: typer.Context, incomplete: str) -> list[Offer]:
    """Paths of pools."""
    return _asked(ctx, incomplete, lambda client: ((one.name, "") for one in client.pools()))


def complete_gpus(ctx: typer.Context, incomplete: str) -> list[Offer]:
    """Indexes and UUIDs of GPUs."""
    return _asked(
        ctx,
        incomplete,
        lambda client: ((str(word), one.name) for one in client.gpus() for word in (one.index, one.uuid)),
    )


def complete_gpu_types(ctx: typer.Context, incomplete: str) -> list[Offer]:
    """What GPUs there are."""
    return _asked(ctx, incomplete, lambda client: ((name, "") for name in sorted({one.name for one in client.gpus()})))


def complete_images(ctx: typer.Context, incomplete: str) -> list[Offer]:
    """Images of the runtimes."""
    return _asked(
        ctx, incomplete, lambda client: ((f"localml/{one['name']}", one["description"]) for one in client.images())
    )


def complete_runtimes(ctx: typer.Context, incomplete: str) -> list[Offer]:
    """Names of runtimes."""
    return _asked(ctx, incomplete, lambda client: ((one["name"], one["description"]) for one in client.images()))


def complete_models(ctx: typer.Context, incomplete: str) -> list[Offer]:
    """Models by name, and their versions."""

    def ask(client: Client) -> Iterator[Offer]:
        for one in client.models():
            yield one.name, f"{one.owner}'s, {len(one.versions)} version(s)"
            yield from ((f"{one.name}:{version.version}", version.format) for version in one.versions)

    return _asked(ctx, incomplete, ask)


def complete_versions(ctx: typer.Context, incomplete: str) -> list[Offer]:
    """Versions of models, ``NAME:VERSION``."""
    return [one for one in complete_models(ctx, incomplete) if ":" in one[0]]


def complete_model_names(ctx: typer.Context, incomplete: str) -> list[Offer]:
    """Names of models."""
    return [one for one in complete_models(ctx, incomplete) if ":" not in one[0]]


def complete_variants(ctx: typer.Context, incomplete: str) -> list[Offer]:
    """Versions that the endpoint of this command line has."""

    def ask(client: Client) -> Iterator[Offer]:
        one = client.endpoint(client.resolve(_before(ctx), ["endpoint"]).id)
        yield from ((at["name"], at["model"]) for at in one.variants if at["ended_at"] is None)

    return _asked(ctx, incomplete, ask) if _before(ctx) else []


def complete_roles(ctx: typer.Context, incomplete: str) -> list[Offer]:
    """Roles of the workload of this command line."""

    def ask(client: Client) -> Iterator[Offer]:
        found = client.get(client.resolve(_before(ctx)).id)
        yield from ((one.get("name", "main"), "") for one in found.spec.get("roles", ()))

    return _asked(ctx, incomplete, ask) if _before(ctx) else []


def complete_folders(ctx: typer.Context, incomplete: str) -> list[Offer]:
    """Folders that notebooks work in."""
    return _asked(ctx, incomplete, lambda client: ((one.source, one.name) for one in client.tools.notebooks()))


def complete_things(ctx: typer.Context, incomplete: str) -> list[Offer]:
    """``NOUN:ID`` of workloads and endpoints."""

    def ask(client: Client) -> Iterator[Offer]:
        for one in client.names():
            yield f"{'endpoint' if one.kind == 'endpoint' else 'workload'}:{one.id}", f"{one.kind} {one.name}"

    return _asked(ctx, incomplete, ask)


def complete_uris(ctx: typer.Context, incomplete: str) -> list[Offer]:
    """Object URIs, a level at a time; where none is begun the shell offers files."""
    scheme, slashes, rest = incomplete.partition("://")
    if not slashes:
        return [(one, "") for one in SCHEMES if incomplete and one.startswith(incomplete)]
    if "/" not in rest:
        return _asked(ctx, incomplete, lambda client: ((f"{scheme}://{one.name}/", "") for one in client.buckets()))
    above = incomplete.rpartition("/")[0]
    return _asked(
        ctx, incomplete, lambda client: ((one.uri + "/" * one.is_folder, "") for one in client.objects(f"{above}/"))
    )


def words(*known: str) -> Callable[[str], list[str]]:
    """Completion of words that are known beforehand."""
    return lambda incomplete: [one for one in known if one.startswith(incomplete)]


def _asked(ctx: typer.Context, incomplete: str, ask: Callable[[Client], Iterable[Offer]]) -> list[Offer]:
    try:
        with connect(ctx.params.get("data")) as client:
            return [one for one in ask(client) if one[0].startswith(incomplete)]
    except (ClientError, LocalmlError, OSError):
        return []


def _before(ctx: typer.Context) -> str:
    """The name that this command line has already. Where an option that is completed keeps it from being read, it is
    the first word."""
    return str(ctx.params.get("name") or next(iter(ctx.args), ""))


def _role(admin: bool) -> str:
    return "administrator" if admin else "user"


def _whose(ctx: typer.Context, client: Client) -> str:
    return str(ctx.params.get("user") or client.people.me())
