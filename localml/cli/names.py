"""What the names on a command line mean. The server resolves them, all nouns at once, so no command looks for a noun's
names by itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import typer

from localml.cli.common import fail, offer_names
from localml.client.errors import ClientError

if TYPE_CHECKING:
    from localml.client import Client, Thing

T = TypeVar("T")

WORKLOADS = ("job", "notebook", "tensorboard", "trial", "replica")
TOOLS = ("notebook", "tensorboard")
ENDPOINT, MODEL = "endpoint", "model"
RUNNING = (*WORKLOADS, ENDPOINT)
"""What runs, can be stopped and has output. A model is nothing of these."""


def completer(*kinds: str) -> Callable[[typer.Context, str], list[tuple[str, str]]]:
    """Completion of names of these kinds."""

    def complete(ctx: typer.Context, incomplete: str) -> list[tuple[str, str]]:
        return offer_names(ctx, incomplete, kinds)

    return complete


def each(
    client: Client, names: Sequence[str], act: Callable[[Thing], T], *, kinds: Sequence[str] = RUNNING, as_json: bool
) -> tuple[list[T], list[dict[str, Any]]]:
    """Do it to everything that is named, and say of each that it could not be done to; the others' turns come all the
    same. Returns what was done, and the failures as JSON values."""
    if len(names) == 1:
        return [act(client.resolve(names[0], kinds))], []
    done, failures = [], []
    for name in names:
        try:
            done.append(act(client.resolve(name, kinds)))
        except ClientError as error:
            if error.code in ("no_server", "unreachable"):
                raise
            failures.append({"name": name, "code": error.code, "message": error.message, "details": error.details})
            if not as_json:
                fail(error, as_json=False)
    return done, failures


def workload_id(client: Client, name: str) -> int:
    """The workload of that name; of nothing else."""
    return client.resolve(name, WORKLOADS).id
