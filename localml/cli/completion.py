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
GPUS = ("auto", "free", "none", "simulated:")
"""What a server may be told that its GPUs are."""
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


def complete_reported(ctx: typer.Context, incomplete: str) -> list[Offer]:
    """Metrics and parameters of the jobs of this command line."""
    given = ctx.params.get("name") or ctx.params.get("names") or ctx.args
    names = [given] if isinstance(given, str) else [one for one in given if not one.startswith("-")]

    def ask(client: Client) -> Iterator[Offer]:
        found: dict[str, str] = {}
        for name in names:
            report = client.metrics(client.resolve(name).id)
            found |= dict.fromkeys(report.parameters, "parameter") | {one.name: "metric" for one in report.metrics}
        yield from found.items()

    return _asked(ctx, incomplete, ask)


def columns(*known: str) -> Callable[[typer.Context, str], list[Offer]]:
    """Columns of a table, parted by commas, and what its jobs have reported."""

    def complete(ctx: typer.Context, incomplete: str) -> list[Offer]:
        before, comma, last = incomplete.rpartition(",")
        found = [(one, "") for one in known if one.startswith(last)] + complete_reported(ctx, last)
        return [(f"{before}{comma}{word}", what) for word, what in found]

    return complete


def complete_scopes(incomplete: str) -> list[str]:
    """Actions; those of a noun once it is begun with."""
    from localml.core.people.rights import Action, ThingKind

    noun, colon, action = incomplete.rpartition(":")
    nouns = [] if colon else [f"{one}:" for one in ThingKind]
    return [
        one
        for one in (*(f"{noun}{colon}{action}" for action in Action), *nouns)
        if one.startswith(f"{noun}{colon}{action}")
    ]


def complete_algorithms(ctx: typer.Context, incomplete: str) -> list[Offer]:
    """Who can propose trials."""
    return _asked(ctx, incomplete, lambda client: ((one.name, one.description) for one in client.studies.algorithms()))


def complete_backups(ctx: typer.Context, incomplete: str) -> list[Offer]:
    """Backups of the data directory; where none begins so the shell offers files."""
    from localml.client.transport import data_directory

    try:
        found = sorted((data_directory(ctx.params.get("data")) / "backups").glob("*.db"), reverse=True)
    except (LocalmlError, OSError):
        return []
    return [(one.name, "") for one in found if one.name.startswith(incomplete)]


def complete_setting(ctx: typer.Context, incomplete: str) -> list[Offer]:
    """Values of a setting, where they are words."""
    from localml.config import BOOLEANS, ENGINES, OPENABLE
    from localml.core.catalog import HOST, load_catalog

    name = _before(ctx)
    if name.startswith("images."):
        found = [HOST, *(one.name for one in load_catalog().runtimes())]
    elif name in BOOLEANS:
        found = ["true", "false"]
    else:
        found = {"engine": list(ENGINES), "gpus": list(GPUS), "open": list(OPENABLE)}.get(name, [])
    return [(one, "") for one in found if one.startswith(incomplete)]


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
