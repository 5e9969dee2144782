"""What the names on a command line mean. The server resolves them, all nouns at once, so no command looks for a noun's
names by itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

import typer

from localml.cli.common import offer_names

if TYPE_CHECKING:
    from localml.client import Client

T = TypeVar("T")

WORKLOADS = ("job", "notebook", "tensorboard", "trial", "replica")
TOOLS = ("notebook", "tensorboard")
ENDPOINT, MODEL, STUDY = "endpoint", "model", "study"
RUNNING = (*WORKLOADS, ENDPOINT, STUDY)
"""What runs, can be stopped and has output. A model is nothing of these."""


def completer(*kinds: str) -> Callable[[typer.Context, str], list[tuple[str, str]]]:
    """Completion of names of these kinds."""

    def complete(ctx: typer.Context, incomplete: str) -> list[tuple[str, str]]:
        return offer_names(ctx, incomplete, kinds)

    return complete


def workload_id(client: Client, name: str) -> int:
    """The workload of that name; of nothing else."""
    return client.resolve(name, WORKLOADS).id
