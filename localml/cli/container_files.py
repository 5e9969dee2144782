"""``localml cp`` with a running container on one side: ``NAME:PATH``, or ``NAME/ROLE/INDEX:PATH`` of a gang."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from localml.cli import show
from localml.cli.names import workload_id
from localml.core.errors import invalid
from localml.core.home import expanded

if TYPE_CHECKING:
    from localml.client import Client
    from localml.client.types import LeftOut

_REPLICA = re.compile(r"(.+?)/([A-Za-z0-9._~-]+/[0-9]+)")


@dataclass(frozen=True, slots=True)
class Place:
    """A path in a container of a workload; ``replica`` is ``ROLE/INDEX``, None for the first."""

    name: str
    replica: str | None
    path: str


def place_of(text: str) -> Place | None:
    """What ``NAME[/ROLE/INDEX]:PATH`` means; None for an object URI, and for a path of this machine."""
    name, colon, path = text.partition(":")
    if not colon or not name or path.startswith("//") or name.startswith((".", "/", "~")) or Path(text).exists():
        return None
    found = _REPLICA.fullmatch(name)
    return Place(found[1], found[2], path or ".") if found else Place(name, None, path or ".")


def copy(client: Client, source: str, target: str, quiet: bool) -> tuple[int, int, list[LeftOut]]:
    """Files and bytes that were copied out of a container or into it, and what was not.

    Raises:
        LocalmlError: ``INVALID`` when not exactly one side is one.
    """
    out, into = place_of(source), place_of(target)
    with show.bytes_bar(0, quiet=quiet) as progress:
        if out is not None and into is None:
            to = expanded(target, "cp")
            done = client.copy_out(workload_id(client, out.name), out.path, to, replica=out.replica, progress=progress)
        elif into is not None and out is None:
            source_path = expanded(source, "cp")
            if not source_path.exists():
                raise invalid("cp", f"{source} does not exist")
            done = client.copy_in(
                workload_id(client, into.name), source_path, into.path, replica=into.replica, progress=progress
            )
        else:
            raise invalid("cp", "one side is a running container, so the other must be a path of this machine")
    return done.files, done.size, done.left_out
