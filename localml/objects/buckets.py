"""The bucket tree: one folder for each bucket, below the data directory."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

from localml.core.errors import Code, LocalmlError, invalid, not_found
from localml.core.trees import remove_tree
from localml.objects.files import AtomicFile, explained, folder_handle, open_regular
from localml.objects.uris import PART_PREFIX, ObjectUri, parse

CHUNK = 1 << 20
MOUNT = "/buckets"
_DEEPEST = 256
"""Folders in each other that are looked into; path names end not far beyond."""

Progress = Callable[[int], None]
"""Told after each block how many bytes more have been copied."""


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """An object or a folder. ``size`` in bytes (0 for a folder), ``modified`` in seconds since the epoch; ``link`` is
    the key of what a link leads to, in the same bucket."""

    uri: str
    name: str
    size: int
    modified: float
    is_folder: bool
    link: str | None = None


@dataclass(frozen=True, slots=True)
class LeftOut:
    """Something in the tree that is no object, and why."""

    uri: str
    reason: str


@dataclass(frozen=True, slots=True)
class _Entry:
    """Something found in the tree; ``real`` and ``info`` are None for a link that leads nowhere or elsewhere."""

    relative: str
    real: Path | None
    info: os.stat_result | None
    is_link: bool = False
    reason: str = "neither a file nor a folder"

    @property
    def is_folder(self) -> bool:
        return self.info is not None and stat.S_ISDIR(self.info.st_mode)

    @property
    def is_file(self) -> bool:
        return self.info is not None and stat.S_ISREG(self.info.st_mode)


class Buckets:
    """Objects by URI. What a URI names is always in its bucket below ``root``, whatever links others put there.

    Nobody's rights are asked here: what a request names goes through :class:`localml.objects.access.BucketsFor`.

    Every method takes ``field``, the request member that an error names, and raises :class:`LocalmlError`:
    ``INVALID`` for a URI that is refused, ``NOT_FOUND`` for what does not exist, ``STORAGE`` when the disk fails.
    """

    def __init__(self, root: Path) -> None:
        root.mkdir(parents=True, exist_ok=True)
        self.root = root.resolve()

    def parse(self, uri: str, *, field: str = "uri") -> ObjectUri:
        """The URI taken apart; see :func:`localml.objects.uris.parse`."""
        return parse(uri, field=field)

    def path(self, uri: str, *, field: str = "uri", allow_file: bool = False) -> Path:
        """Where the object is or would be, with links resolved.

        Args:
            allow_file: take ``file:///path`` too, which may name any file of the machine; for administrators only.
        """
        found = parse(uri, field=field)
        if found.scheme == "file":
            if not allow_file:
                raise invalid(field, "file:// URIs are for administrators only")
            return Path("/" + found.key)
        return self._real(self.root / found.bucket / found.key, found, field)

    def names(self) -> list[str]:
        """The buckets that have a folder, in order."""
        return sorted(one.name for one in os.scandir(self.root) if one.is_dir(follow_symlinks=False))

    def inside(self, uri: str, mount: str = MOUNT, *, field: str = "uri") -> str:
        """The path of the object in a container that has the tree at ``mount``; a final slash is kept."""
        found = parse(uri, field=field)
        if found.scheme == "file":
            raise invalid(field, "a file:// URI is not visible in a container")
        parts = [mount.rstrip("/"), found.bucket, *([found.key] if found.key else [])]
        return "/".join(parts) + ("/" if found.folder else "")

    def exists(self, uri: str, *, field: str = "uri") -> bool:
        """Whether there is an object or a folder of this name."""
        return self._bucket_path(uri, field).exists()

    def stat(self, uri: str, *, field: str = "uri") -> ObjectInfo:
        """What there is under this name."""
        real = self._bucket_path(uri, field)
        with explained(uri, field):
            info = real.stat(follow_symlinks=False)
        found = parse(uri, field=field)
        link = None if real == self.root / found.bucket / found.key else self._key(real)
        return _describe(uri, found.name, info, link)

    def size(self, uri: str, *, field: str = "uri") -> int:
        """Bytes of the object, or of all objects below the folder."""
        real = self._bucket_path(uri, field)
        with explained(uri, field):
            info = real.stat(follow_symlinks=False)
            if not stat.S_ISDIR(info.st_mode):
                return info.st_size
            return sum(entry.info.st_size for entry in self._walk(real) if entry.info and entry.is_file)

    def listing(
        self, uri: str, *, recursive: bool = False, field: str = "uri"
    ) -> tuple[list[ObjectInfo], list[LeftOut]]:
        """The objects of a folder, and what in it is none: links that lead nowhere or out of the bucket, pipes.

        Files still being written are neither. Links to folders are not looked into.
        """
        real = self._bucket_path(uri, field)
        objects: list[ObjectInfo] = []
        left_out: list[LeftOut] = []
        with explained(uri, field):
            if not stat.S_ISDIR(real.stat(follow_symlinks=False).st_mode):
                return [self.stat(uri, field=field)], []
            base = uri.rstrip("/")
            for entry in self._walk(real, recursive=recursive):
                place = f"{base}/{entry.relative}"
                if entry.real is None or entry.info is None or not (entry.is_file or entry.is_folder):
                    left_out.append(LeftOut(place, entry.reason))
                    continue
                link = self._key(entry.real) if entry.is_link else None
                objects.append(_describe(place, entry.relative.rpartition("/")[2], entry.info, link))
        return objects, left_out

    def list(self, uri: str, *, recursive: bool = False, field: str = "uri") -> list[ObjectInfo]:
        """What a folder holds, sorted by name; an object lists itself. See :meth:`listing`."""
        return self.listing(uri, recursive=recursive, field=field)[0]

    def _key(self, real: Path) -> str:
        return "/".join(real.relative_to(self.root).parts[1:])

    def open(self, uri: str, mode: Literal["rb", "wb"] = "rb", *, field: str = "uri") -> BinaryIO:
        """Open an object. A written one appears when it is closed, complete or not at all; folders are made."""
        if mode not in ("rb", "wb"):
            raise ValueError(f"objects are opened with 'rb' or 'wb', not {mode!r}")
        if mode == "wb":
            need_key(uri, field)
        real = self._bucket_path(uri, field)
        with explained(uri, field):
            if mode == "rb":
                return self._open_real(real)
            if parse(uri, field=field).folder or real.is_dir():
                raise invalid(field, f"{uri} is a folder")
            with self._handle(real.parent, create=True) as folder:
                return AtomicFile(real.name, folder)

    def make_folder(self, uri: str, *, field: str = "uri", shared: bool = False) -> bool:
        """Make the folder and those above it; one that exists is left as it is. True if it is new.

        Args:
            shared: a new one is open to every user of the machine and of containers; those above it are not.
        """
        real = self._bucket_path(uri, field)
        with explained(uri, field):
            try:
                if not stat.S_ISDIR(os.lstat(real).st_mode):
                    raise invalid(field, f"{uri} is a file")
                return False
            except FileNotFoundError:
                pass
            with self._handle(real, create=True) as folder:
                if shared:
                    os.fchmod(folder, stat.S_IMODE(os.fstat(folder).st_mode) | 0o777)
        return True

    def put(self, source: Path, uri: str, *, progress: Progress | None = None, field: str = "uri") -> int:
        """Copy a file or folder of this machine into the tree and return the bytes copied.

        A file goes to the object of that name, or into the folder when the URI ends in a slash. A folder's content
        goes into the folder of that name, beside what is there. Each object appears when it is complete.
        """
        if not source.exists():
            raise not_found("file", source)
        target = uri
        if source.is_file() and parse(uri, field=field).folder:
            target = uri + source.name
        copied = 0
        for relative, path in _local_files(source, field):
            if relative.endswith("/"):
                self.make_folder(f"{target.rstrip('/')}/{relative}", field=field)
                continue
            with (
                explained(uri, field),
                path.open("rb") as reader,
                self.open(_joined(target, relative), "wb", field=field) as writer,
            ):
                copied += _copy(reader, writer, progress)
        return copied

    def get(self, uri: str, target: Path, *, progress: Progress | None = None, field: str = "uri") -> int:
        """Copy an object or a folder's content to this machine and return the bytes copied.

        An object goes to ``target``, or into it if that is a folder; a folder's content goes into ``target``.

        Raises:
            LocalmlError: also ``INVALID`` when the folder holds a link that leads nowhere or out of the bucket, or to a
                folder elsewhere. Links between what is copied stay links if they name folders.
        """
        real = self._bucket_path(uri, field)
        if not real.exists():
            raise not_found("object", uri)
        if not real.is_dir():
            name = parse(uri, field=field).name
            return self._fetch(real, target / name if target.is_dir() else target, uri, progress, field)
        with explained(uri, field):
            target.mkdir(parents=True, exist_ok=True)
            return sum(
                self._fetch_entry(entry, real, target / entry.relative, uri, progress, field)
                for entry in self._walk(real)
            )

    def delete(self, uri: str, *, recursive: bool = False, field: str = "uri") -> None:
        """Remove an object, or with ``recursive`` a folder or bucket. A link is removed, not what it points to."""
        found = parse(uri, field=field)
        if found.scheme == "file":
            raise invalid(field, "file:// URIs cannot be deleted")
        plain = self.root / found.bucket / found.key
        parent = self._real(plain.parent, found, field)
        with explained(uri, field), self._handle(parent) as folder:
            info = os.stat(plain.name, dir_fd=folder, follow_symlinks=False)
            if not stat.S_ISDIR(info.st_mode):
                os.unlink(plain.name, dir_fd=folder)
            elif recursive or not (found.key or os.listdir(plain)):
                remove_tree(plain.name, dir_fd=folder)
            else:
                raise LocalmlError(Code.WRONG_STATE, f"{field}: {uri} is a folder", field=field)

    def remove_empty(self, uri: str, *, field: str = "uri") -> None:
        """Remove a folder that nobody has put anything into; one that holds something stays."""
        real = self._bucket_path(uri, field)
        with explained(uri, field), self._handle(real.parent) as folder:
            os.rmdir(real.name, dir_fd=folder)

    def _bucket_path(self, uri: str, field: str) -> Path:
        return self.path(uri, field=field)

    def _real(self, path: Path, uri: ObjectUri, field: str) -> Path:
        if self._is_real(path):
            return path
        real = Path(os.path.realpath(path))
        if not real.is_relative_to(self.root / uri.bucket):
            raise invalid(field, f"{uri} is a link that leads out of its bucket")
        return real

    def _is_real(self, path: Path) -> bool:
        """Whether there is no link in a path, and nothing to resolve then; the root has none."""
        place = str(self.root)
        for part in path.parts[len(self.root.parts) :]:
            place = f"{place}/{part}"
            try:
                if stat.S_ISLNK(os.lstat(place).st_mode):
                    return False
            except OSError:  # there is nothing from here on
                return True
        return True

    @contextmanager
    def _handle(self, folder: Path, *, create: bool = False) -> Iterator[int]:
        with folder_handle(self.root, folder.relative_to(self.root).parts, create=create) as handle:
            yield handle

    def _open_real(self, real: Path) -> BinaryIO:
        with self._handle(real.parent) as folder:
            return open_regular(real.name, folder)

    def _fetch_entry(
        self, entry: _Entry, folder: Path, place: Path, uri: str, progress: Progress | None, field: str
    ) -> int:
        if entry.real is not None and entry.is_file:
            return self._fetch(entry.real, place, uri, progress, field)
        if entry.real is None or not entry.is_folder:
            raise invalid(field, f"{uri}: {entry.relative!r} is neither an object nor a link to one of this tree")
        if not entry.is_link:
            place.mkdir(exist_ok=True)
        elif entry.real.is_relative_to(folder):
            place.unlink(missing_ok=True)
            place.symlink_to(os.path.relpath(entry.real, (folder / entry.relative).parent))
        else:
            raise invalid(field, f"{uri}: {entry.relative!r} is a link to a folder outside of what is copied")
        return 0

    def _fetch(self, real: Path, target: Path, uri: str, progress: Progress | None, field: str) -> int:
        with explained(uri, field):
            target.parent.mkdir(parents=True, exist_ok=True)
            handle = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                with self._open_real(real) as reader, AtomicFile(target.name, handle) as writer:
                    return _copy(reader, writer, progress)
            finally:
                os.close(handle)

    def _walk(self, folder: Path, prefix: str = "", *, recursive: bool = True) -> Iterator[_Entry]:
        """Everything below a real folder, sorted, links resolved. Links to folders are not descended into: a few of
        them, crossed, would make a walk without end."""
        with self._handle(folder) as handle:
            names = sorted(name for name in os.listdir(handle) if not name.startswith(PART_PREFIX))
            entries = [self._entry(name, handle, folder, prefix) for name in names]
        for name, entry in zip(names, entries, strict=True):
            yield entry
            if recursive and entry.is_folder and not entry.is_link:
                if prefix.count("/") >= _DEEPEST:
                    raise OSError(f"has folders more than {_DEEPEST} deep in each other: {prefix[:80]}...")
                yield from self._walk(folder / name, f"{prefix}{name}/")

    def _bucket_of(self, place: Path) -> Path:
        return self.root.joinpath(*place.relative_to(self.root).parts[:1])

    def _entry(self, name: str, handle: int, folder: Path, prefix: str) -> _Entry:
        path = folder / name
        try:
            info = os.stat(name, dir_fd=handle, follow_symlinks=False)
            if not stat.S_ISLNK(info.st_mode):
                return _Entry(prefix + name, path, info)
            real = Path(os.path.realpath(path))
            if real.is_relative_to(self._bucket_of(folder)):
                info = real.lstat()
                if not stat.S_ISLNK(info.st_mode):  # else links in a circle
                    return _Entry(prefix + name, real, info, is_link=True)
            elif real.exists():
                return _Entry(prefix + name, None, None, reason="a link that leads out of its bucket")
        except OSError:  # removed meanwhile, or leads nowhere
            pass
        return _Entry(prefix + name, None, None, reason="a link that leads nowhere")


def _describe(uri: str, name: str, info: os.stat_result, link: str | None) -> ObjectInfo:
    is_folder = stat.S_ISDIR(info.st_mode)
    return ObjectInfo(uri, name, 0 if is_folder else info.st_size, info.st_mtime, is_folder, link)


def need_key(uri: str, field: str) -> None:
    """Refuse a URI that an object cannot have: where a bucket belongs there is never a file."""
    found = parse(uri, field=field)
    if found.scheme != "file" and not found.key:
        raise invalid(field, f"{uri} names a bucket, and no object in it")


def _joined(uri: str, relative: str) -> str:
    return f"{uri.rstrip('/')}/{relative}" if relative else uri


def _copy(reader: BinaryIO, writer: BinaryIO, progress: Progress | None) -> int:
    copied = 0
    while block := reader.read(CHUNK):
        writer.write(block)
        copied += len(block)
        if progress is not None:
            progress(len(block))
    return copied


def _local_files(source: Path, field: str) -> Iterator[tuple[str, Path]]:
    """A file as ``("", path)``; a folder's files, and its folders with a final slash, by their relative names."""
    if source.is_file():
        yield "", source
    elif source.is_dir():
        yield "/", source
        yield from _local_tree(source, "", (source.resolve(),), field)
    else:
        raise invalid(field, f"{source} is neither a file nor a folder")


def _local_tree(folder: Path, prefix: str, above: tuple[Path, ...], field: str) -> Iterator[tuple[str, Path]]:
    for path in sorted(folder.iterdir()):
        if path.is_dir():
            real = path.resolve()
            if real in above:
                raise invalid(field, f"{path} is a link to a folder that it lies in")
            yield f"{prefix}{path.name}/", path
            yield from _local_tree(path, f"{prefix}{path.name}/", (*above, real), field)
        elif path.is_file():
            yield f"{prefix}{path.name}", path
        else:
            raise invalid(field, f"{path} is neither a file nor a folder")
