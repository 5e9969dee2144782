"""Files in and out of the buckets: cp."""

from __future__ import annotations

import errno
import os
import secrets
import stat
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, BinaryIO, cast

import typer

from localml.cli import show
from localml.cli.common import FAILED, Data, Json, as_dict, command, connect, print_json
from localml.cli.completion import complete_uris
from localml.cli.container_files import copy as copy_files
from localml.cli.container_files import place_of
from localml.cli.failures import in_words
from localml.cli.help import DATA
from localml.cli.places import object_uri
from localml.client.errors import ClientError
from localml.client.trees import AROUND, MOST_COPIES, OF_ALL_FILES, TOO_OFTEN, Local, Tree, left_out, walk
from localml.client.types import LeftOut
from localml.core.errors import invalid
from localml.core.home import expanded

if TYPE_CHECKING:
    from localml.client import Client

SCHEMES = ("fds://", "obs://", "s3://", "hdfs://")
KEPT_NAMES = ".localml-part-"
"""The beginning of names of files that are being written; no object has such a name."""
_MOST_NAMED = 100
"""Things left out that are named one by one; the rest are counted."""
Progress = Callable[[int], None]


def add(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command(rich_help_panel=DATA)(cp)
    app.command(rich_help_panel=DATA)(ls)


@dataclass(slots=True)
class Copied:
    """What was copied: files, bytes, and what was not."""

    files: int = 0
    size: int = 0
    left_out: list[LeftOut] = field(default_factory=list)


@command
def cp(
    source: Annotated[
        str,
        typer.Argument(
            help="A file or folder, an object URI, or NAME:PATH.", autocompletion=complete_uris, show_default=False
        ),
    ],
    target: Annotated[
        str,
        typer.Argument(
            help="Likewise; one of the two is on this machine.", autocompletion=complete_uris, show_default=False
        ),
    ],
    data: Data = None,
    as_json: Json = False,
) -> None:
    """Copy files or folders into the buckets or out of them.

    One side is a path of this machine, the other one an object URI (fds://, obs://, s3://, hdfs://). A file goes into a
    bucket or folder that is there; of a folder it is what it holds. Links are followed. What cannot be copied is named,
    and the exit code is 1 then. NAME:PATH, or NAME/ROLE/INDEX:PATH, is in a running container, from and to which links
    stay links.

    Example: localml cp ./set fds://data/set
    """
    container = not (is_uri(source) or is_uri(target)) and any(map(place_of, (source, target)))
    if is_uri(source) == is_uri(target) and not container:
        raise invalid("cp", f"exactly one side must be an object URI ({', '.join(one + '...' for one in SCHEMES)})")
    with connect(data) as client:
        if container:
            done = Copied(*copy_files(client, source, target, as_json))
        else:
            done = (_put if is_uri(target) else _get)(client, source, target, as_json)
    if as_json:
        amounts = {"files": done.files, "bytes": done.size, "source": source, "target": target}
        print_json({**amounts, "left_out": as_dict(done.left_out)})
    else:
        _tell_left_out(done.left_out)
        rest = f"; {len(done.left_out)} left out" if done.left_out else ""
        typer.echo(f"{done.files} file(s), {done.size} bytes: {source} -> {target}{rest}", err=True)
    if done.left_out:
        raise typer.Exit(FAILED)


def _tell_left_out(found: list[LeftOut]) -> None:
    for one in found[:_MOST_NAMED]:
        typer.echo(f"left out: {one.path}: {one.reason}", err=True)
    if len(found) > _MOST_NAMED:
        typer.echo(f"left out: {len(found) - _MOST_NAMED} more; --json names all", err=True)


def upload(client: Client, source: str, target: str, quiet: bool) -> None:
    """Copy a file or folder in, all of it or nothing.

    Raises:
        LocalmlError: ``INVALID``, naming what of it cannot be copied.
    """
    tree = _to_send(expanded(source, "cp"))
    _refuse(tree.left_out)
    _refuse(_send_all(client, tree, target, quiet).left_out)


def _refuse(found: list[LeftOut]) -> None:
    if found:
        words = "; ".join(f"{one.path}: {one.reason}" for one in found[:3])
        more = f"; and {len(found) - 3} more" if len(found) > 3 else ""
        raise invalid("source", f"not all of it can be copied: {words}{more}")


def _put(client: Client, source: str, target: str, quiet: bool) -> Copied:
    path = expanded(source, "cp")
    if path.is_file():
        target = _target(client, target, path.name)
    return _send_all(client, _to_send(path), target, quiet)


def _target(client: Client, uri: str, name: str) -> str:
    """Where a file goes: into a bucket, and into a folder that is there or that the URI says to be one."""
    if not uri.endswith("/") and _key(uri):
        try:
            if not client.object_info(uri).is_folder:
                return uri
        except ClientError as error:
            if error.code not in ("not_found", "invalid"):  # the way to it is a file's: said when it is written
                raise
            return uri
    return f"{uri.rstrip('/')}/{name}"


def _to_send(source: Path) -> Tree:
    if source.is_file():
        return Tree([Local(source, "", source.stat().st_size)])
    if not source.is_dir():
        raise invalid("cp", f"{source} does not exist, or is neither a file nor a folder")
    tree = walk(source)
    tree.found.insert(0, Local(source, "/"))
    return tree


def _send_all(client: Client, tree: Tree, uri: str, quiet: bool) -> Copied:
    done = Copied(left_out=list(tree.left_out))
    base = uri.rstrip("/")
    with show.bytes_bar(tree.size, quiet=quiet) as progress:
        for one in tree.found:
            if one.relative.endswith("/"):
                client.put(f"{base}/{one.relative.lstrip('/')}", b"")
                continue
            try:
                done.size += _send(client, one.path, f"{base}/{one.relative}" if one.relative else uri, progress)
                done.files += 1
            except (ClientError, OSError) as error:
                done.left_out.append(left_out(one.path, _left_out_for(error, alone=not one.relative)))
    return done


def _left_out_for(error: ClientError | OSError, *, alone: bool) -> str:
    """Why one file of a folder cannot be copied; what concerns all of them, or the only one, is raised."""
    if isinstance(error, OSError):
        if alone:
            raise error
        return error.strerror or str(error)
    if alone or error.code != "invalid":
        raise error
    return error.message


def _send(client: Client, path: Path, uri: str, progress: Progress) -> int:
    with path.open("rb") as file:
        return client.put(uri, cast(BinaryIO, _Counted(file, progress)))


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


def _get(client: Client, source: str, target: str, quiet: bool) -> Copied:
    done = Copied()
    found = list(_to_fetch(client, source, target, done.left_out))
    with show.bytes_bar(sum(one.size for one in found), quiet=quiet) as progress:
        for one in found:
            try:
                done.size += _fetch(client, one.uri, one.place, progress)
                done.files += 1
            except (ClientError, OSError) as error:
                if one.alone or not _of_one_file(error):
                    raise
                done.left_out.append(LeftOut(one.uri, in_words(error).message))
    return done


def _of_one_file(error: ClientError | OSError) -> bool:
    """Whether a failure is one file's, so that the others of its folder can be copied out all the same."""
    return error.errno not in OF_ALL_FILES if isinstance(error, OSError) else error.code == "not_found"


@dataclass(frozen=True, slots=True)
class _Remote:
    """An object, and the file that it becomes. ``alone``: it is all that is copied."""

    uri: str
    place: Path
    size: int
    alone: bool = False


def _to_fetch(client: Client, uri: str, given: str, missing: list[LeftOut]) -> Iterator[_Remote]:
    """What is to be copied out; folders are made."""
    target = expanded(given, "cp")
    found = client.object_info(uri)
    if not found.is_folder:
        into = target.is_dir() or given.endswith("/")
        yield _Remote(uri, target / found.name if into else target, found.size, alone=True)
        return
    base = uri.rstrip("/")
    target.mkdir(parents=True, exist_ok=True)
    where = _key(uri) if found.link is None else found.link
    yield from _Folders(client, base, target, missing).below(base, (where,))


class _Folders:
    """Folders of objects being gone through. Links to folders are followed, but not around and around.

    Args:
        missing: gets what is no object, and what is not followed.
    """

    def __init__(self, client: Client, base: str, target: Path, missing: list[LeftOut]) -> None:
        self._client, self._base, self._target = client, base, target
        self._missing = missing
        self._times: Counter[str] = Counter()

    def below(self, uri: str, above: tuple[str, ...]) -> Iterator[_Remote]:
        """The objects below a folder.

        Args:
            above: keys of the folders from which links led here, and the folder's own key.
        """
        objects, missing = self._client.listing(uri, recursive=True)
        self._missing += missing
        for one in objects:
            place = self._place(one.uri)
            if not one.is_folder:
                yield _Remote(one.uri, place, one.size)
                continue
            if one.link is not None:
                inner = f"{above[-1]}/{one.uri.removeprefix(uri + '/')}".strip("/").rpartition("/")[0]
                places = (*above[:-1], inner)
                if reason := self._reason(one.link, places):
                    self._missing.append(LeftOut(one.uri, reason))
                    continue
                self._times[one.link] += 1
                yield from self.below(one.uri, (*places, one.link))
            self._make(one.uri, place)

    def _make(self, uri: str, place: Path) -> None:
        """Make a folder; something else may be in its place."""
        try:
            place.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            if not _of_one_file(error):
                raise
            self._missing.append(LeftOut(uri, in_words(error).message))

    def _place(self, uri: str) -> Path:
        place = self._target / uri.removeprefix(self._base + "/")
        if not Path(os.path.realpath(place)).is_relative_to(os.path.realpath(self._target)):
            raise ClientError("invalid", f"{uri} would be written outside of {self._target}")
        return place

    def _reason(self, link: str, places: tuple[str, ...]) -> str | None:
        """Why a link to a folder is not followed, if it is not."""
        if any(not link or one == link or one.startswith(link + "/") for one in places):
            return AROUND
        return TOO_OFTEN if self._times[link] >= MOST_COPIES else None


def _fetch(client: Client, uri: str, place: Path, progress: Progress) -> int:
    """Copy one object out; answers its size in bytes.

    An interrupted copy leaves what was there before. A link is written through; so is what is no file, such as a pipe
    or ``/dev/stdout``.

    Raises:
        OSError: it names the place.
    """
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        there = place.stat() if place.exists() else None
        real = Path(os.path.realpath(place))
        if there is not None and stat.S_ISDIR(there.st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if there is not None and not (stat.S_ISREG(there.st_mode) and real.exists()):
            with place.open("wb", buffering=0) as device:
                return _fill(device, client, uri, progress)
        part = real.with_name(f"{KEPT_NAMES}{secrets.token_hex(8)}")
        try:
            with part.open("xb") as file:
                size = _fill(file, client, uri, progress)
                if there is not None:
                    os.fchmod(file.fileno(), stat.S_IMODE(there.st_mode))
            part.replace(real)
        finally:
            part.unlink(missing_ok=True)
        return size
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(place)) from error


def _fill(file: IO[bytes], client: Client, uri: str, progress: Progress) -> int:
    size = 0
    for block in client.fetch(uri):
        rest = memoryview(block)
        while rest:  # an unbuffered file takes a part
            rest = rest[file.write(rest) :]
        size += len(block)
        progress(len(block))
    return size


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


def _key(uri: str) -> str:
    from localml.objects.uris import parse  # late: with it come the database's libraries

    return parse(uri).key


def is_uri(text: str) -> bool:
    """Whether a text is an object URI and not a path of this machine."""
    return text.lower().startswith(SCHEMES)
