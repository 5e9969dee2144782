"""Files in and out of the buckets: cp."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO, cast

import typer

from localml.cli import show
from localml.cli.common import Data, Json, command, connect, print_json
from localml.cli.completion import complete_uris
from localml.cli.help import DATA
from localml.cli.places import object_uri
from localml.client.errors import ClientError
from localml.core.errors import invalid

if TYPE_CHECKING:
    from localml.client import Client

SCHEMES = ("fds://", "obs://", "s3://", "hdfs://")
Progress = Callable[[int], None]


def add(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command(rich_help_panel=DATA)(cp)
    app.command(rich_help_panel=DATA)(ls)


@command
def cp(
    source: Annotated[
        str,
        typer.Argument(help="A file, a folder, or an object URI.", autocompletion=complete_uris, show_default=False),
    ],
    target: Annotated[
        str,
        typer.Argument(
            help="Likewise; one of the two is an object URI.", autocompletion=complete_uris, show_default=False
        ),
    ],
    data: Data = None,
    as_json: Json = False,
) -> None:
    """Copy files or folders into the buckets or out of them.

    One side is a path of this machine, the other one an object URI (fds://, obs://, s3://, hdfs://).

    Example: localml cp ./set fds://data/set
    """
    if is_uri(source) == is_uri(target):
        raise invalid("cp", f"exactly one side must be an object URI ({', '.join(one + '...' for one in SCHEMES)})")
    with connect(data) as client:
        copy = upload if is_uri(target) else _get
        files, total = copy(client, source, target, as_json)
    if as_json:
        print_json({"files": files, "bytes": total, "source": source, "target": target})
    else:
        typer.echo(f"{files} file(s), {total} bytes: {source} -> {target}", err=True)


def upload(client: Client, source: str, target: str, quiet: bool) -> tuple[int, int]:
    """Files and bytes that were copied in."""
    found = list(_to_send(Path(source).expanduser(), target))
    total = sum(path.stat().st_size for path, _ in found if path is not None)
    with show.bytes_bar(total, quiet=quiet) as progress:
        for path, uri in found:
            _send(client, path, uri, progress)
    return sum(path is not None for path, _ in found), total


def _get(client: Client, source: str, target: str, quiet: bool) -> tuple[int, int]:
    """Files and bytes that were copied out."""
    found = list(_to_fetch(client, source, target))
    total = sum(size for _, _, size in found)
    with show.bytes_bar(total, quiet=quiet) as progress:
        for uri, place, _ in found:
            _fetch(client, uri, place, progress)
    return len(found), total


@command
def ls(
    uri: Annotated[str, typer.Argument(help="An object URI.", autocompletion=complete_uris, show_default=False)],
    recursive: Annotated[bool, typer.Option("--recursive", "-r", help="With all that is below.")] = False,
    data: Data = None,
    as_json: Json = False,
) -> None:
    """List objects.

    Example: localml ls --recursive fds://data/set
    """
    from localml.cli import show
    from localml.cli.common import as_dict
    from localml.core.quantities import format_memory

    with connect(data) as client:
        found = client.objects(object_uri(uri, "URI"), recursive=recursive)
    if as_json:
        print_json({"objects": as_dict(found)})
        return
    rows = [
        ("-" if one.is_folder else format_memory(one.size), show.clock(one.modified), one.uri + "/" * one.is_folder)
        for one in found
    ]
    show.table("SIZE", "MODIFIED", "URI", rows=rows, empty="It is empty.")


def is_uri(text: str) -> bool:
    """Whether a text is an object URI and not a path of this machine."""
    return text.lower().startswith(SCHEMES)


def _to_send(source: Path, uri: str) -> Iterator[tuple[Path | None, str]]:
    """(file, URI) pairs; None for a folder that is to be made."""
    if source.is_file():
        yield source, uri + source.name if uri.endswith("/") else uri
    elif source.is_dir():
        base = uri.rstrip("/")
        yield None, f"{base}/"
        for folder, folders, names in os.walk(source):
            folders.sort()
            for name in sorted(names):
                path = Path(folder, name)
                if path.is_file():
                    yield path, f"{base}/{path.relative_to(source).as_posix()}"
    else:
        raise invalid("cp", f"{source} does not exist, or is neither a file nor a folder")


def _send(client: Client, path: Path | None, uri: str, progress: Progress) -> None:
    if path is None:
        client.put(uri, b"")
        return
    with path.open("rb") as file:
        client.put(uri, cast(BinaryIO, _Counted(file, progress)))


class _Counted:
    """A file that tells how much of it was read."""

    def __init__(self, file: BinaryIO, progress: Progress) -> None:
        self._file = file
        self._progress = progress
        self.fileno, self.tell = file.fileno, file.tell

    def read(self, size: int = -1) -> bytes:
        block = self._file.read(size)
        self._progress(len(block))
        return block


def _to_fetch(client: Client, uri: str, given: str) -> Iterator[tuple[str, Path, int]]:
    """(URI, file, size) of what is to be copied out."""
    target = Path(given).expanduser()
    found = client.object_info(uri)
    if not found.is_folder:
        into = target.is_dir() or given.endswith("/")
        yield uri, target / found.name if into else target, found.size
        return
    base = uri.rstrip("/")
    target.mkdir(parents=True, exist_ok=True)
    for one in client.objects(base, recursive=True):
        place = target / one.uri.removeprefix(base + "/")
        if not place.resolve().is_relative_to(target.resolve()):
            raise ClientError("invalid", f"{one.uri} would be written outside of {target}")
        if one.is_folder:
            place.mkdir(parents=True, exist_ok=True)
        else:
            yield one.uri, place, one.size


def _fetch(client: Client, uri: str, place: Path, progress: Progress) -> None:
    """An interrupted copy leaves what was there before."""
    place.parent.mkdir(parents=True, exist_ok=True)
    part = place.with_name(place.name + ".part")
    try:
        with part.open("wb") as file:
            for block in client.fetch(uri):
                file.write(block)
                progress(len(block))
        part.replace(place)
    finally:
        part.unlink(missing_ok=True)
