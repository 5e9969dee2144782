"""Unpacking archives that came from somebody else: never outside of the target, never half, never without bound."""

from __future__ import annotations

import errno
import os
import shutil
import struct
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from lzma import LZMAError
from pathlib import Path
from typing import IO, BinaryIO

from localml.core.errors import Code, LocalmlError, invalid, not_found
from localml.objects.archive_readers import CHUNK, Member, sniff, tar_members, zip_members
from localml.objects.archive_rules import ArchiveInfo, Limits, MemberKind, Meter, Tree, corrupt, refused

__all__ = ["ArchiveInfo", "Limits", "inspect_archive", "list_archive", "unpack"]

DEFAULT_LIMITS = Limits()
UNPACK_PREFIX = ".localml-unpack-"
"""Folders being unpacked carry this prefix; one that is left after a crash may be removed."""

_READ_FIRST = 64 << 20
"""Archives of at most so many bytes are read to their end before anything is made: small ones can hold most members for
their size, and making a file takes ten times what finding it does."""

Progress = Callable[[int], None]

# what Python's archive modules raise on bytes that are no archive; RuntimeError includes unsupported compression
# and recursion without end
_ARCHIVES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".zip")
_CORRUPT = (
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    LZMAError,
    EOFError,
    ValueError,
    OverflowError,
    LookupError,
    RuntimeError,
    struct.error,
)


def inspect_archive(source: Path | BinaryIO, limits: Limits = DEFAULT_LIMITS) -> ArchiveInfo:
    """Read an archive to its end and hold it against all rules, writing nothing.

    Args:
        source: a path, or a binary file that can seek; it is read from its beginning and left open.
        limits: see :class:`Limits`.

    Raises:
        LocalmlError: ``INVALID`` or ``TOO_LARGE``, naming the member at fault; ``NOT_FOUND`` for no such file.
    """
    with _opened(source) as file:
        return _read_through(file, limits, _Nowhere())


def list_archive(source: Path | BinaryIO, limits: Limits = DEFAULT_LIMITS) -> tuple[ArchiveInfo, frozenset[str]]:
    """As :func:`inspect_archive`; also the paths of the files and links that would be made."""
    names = _Names()
    with _opened(source) as file:
        return _read_through(file, limits, names), frozenset(names.found)


def unpack(
    source: Path | BinaryIO, dest: Path, limits: Limits = DEFAULT_LIMITS, *, progress: Progress | None = None
) -> ArchiveInfo:
    """Unpack a tar (plain, gzip, bzip2, xz) or zip into a new folder; what it is, its bytes tell and not its name.

    Everything is unpacked beside ``dest`` and renamed when it is complete, so ``dest`` is whole or not there.
    Permissions lose setuid, setgid, sticky and others' write bits; owners and times are not taken over.

    Args:
        source: a path, or a binary file that can seek; it is read from its beginning and left open.
        dest: the folder to make; it must not exist or be empty.
        limits: see :class:`Limits`.
        progress: told after each block how many bytes more have been unpacked.

    Raises:
        LocalmlError: ``INVALID`` for an archive that is corrupt, encrypted, or holds a member that is not allowed;
            ``TOO_LARGE`` when it is over a limit; ``CONFLICT`` when ``dest`` is taken; ``STORAGE`` for a full disk.
    """
    with _opened(source) as file:
        if file.seek(0, os.SEEK_END) <= _READ_FIRST:
            _read_through(file, limits, _Nowhere())
        dest.parent.mkdir(parents=True, exist_ok=True)
        if dest.is_symlink() or (dest.exists() and not (dest.is_dir() and not any(dest.iterdir()))):
            raise LocalmlError(Code.CONFLICT, f"{dest.name!r} exists and is not an empty folder")
        made = Path(tempfile.mkdtemp(prefix=UNPACK_PREFIX, dir=dest.parent))
        try:
            info = _read_through(file, limits, _Folder(made, progress))
            made.chmod(0o755)
            made.rename(dest)
        except BaseException:
            shutil.rmtree(made, ignore_errors=True)
            raise
        return info


def unpack_in_place(folder: Path, limits: Limits = DEFAULT_LIMITS) -> None:
    """Where a folder holds one archive and nothing else, put its content in its place; by its name, because models of
    some formats are zip files themselves. A folder that is all that the archive has goes, its content stays.

    Raises:
        LocalmlError: see :func:`unpack`.
    """
    files = list(folder.iterdir())
    if len(files) != 1 or not files[0].is_file() or not files[0].name.lower().endswith(_ARCHIVES):
        return
    with tempfile.TemporaryDirectory(prefix=UNPACK_PREFIX, dir=folder) as scratch:
        content = Path(scratch) / "content"
        unpack(files[0], content, limits)
        inner = list(content.iterdir())
        top = inner[0] if len(inner) == 1 and inner[0].is_dir() and not inner[0].is_symlink() else content
        files[0].unlink()
        for one in list(top.iterdir()):
            one.rename(folder / one.name)


@contextmanager
def _opened(source: Path | BinaryIO) -> Iterator[BinaryIO]:
    if not isinstance(source, Path):
        yield source
        return
    if source.is_dir():
        raise invalid("archive", f"{source.name!r} is a folder")
    try:
        file = source.open("rb")
    except FileNotFoundError:
        raise not_found("archive", source.name) from None
    with file:
        yield file


def _read_through(file: BinaryIO, limits: Limits, sink: _Nowhere) -> ArchiveInfo:
    kind = sniff(file)
    if not kind:
        raise invalid("archive", "is no tar, tar.gz, tar.bz2, tar.xz or zip")
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    meter = Meter(limits, file.tell if kind != "zip" else lambda: size)
    tree = Tree(meter)
    try:
        for member in zip_members(file, meter) if kind == "zip" else tar_members(file, kind, meter):
            _take(member, tree, meter, sink)
        tree.check_links()
        for path, target in tree.links.items():
            sink.symlink(path, target)
    except _CORRUPT as error:
        raise corrupt(error) from error
    except OSError as error:
        raise _storage(error) if error.errno else corrupt(error) from error
    return ArchiveInfo(kind, len(tree.files) + len(tree.links), meter.size, tree.top_names())


def _take(member: Member, tree: Tree, meter: Meter, sink: _Nowhere) -> None:
    path, kind, target = tree.add(member.name, member.kind, member.target)
    if kind is MemberKind.FOLDER:
        sink.folder(path)
        return
    if kind is MemberKind.HARDLINK:
        if target != path:
            sink.hardlink(path, target)
        return
    sink.clear(path)
    if kind is MemberKind.FILE:
        content = member.open()
        if content is None:
            raise refused(member.name, "has no content")
        with content:
            sink.file(path, _counted(content, meter, member.name), member.mode)


def _counted(content: IO[bytes], meter: Meter, name: str) -> Iterator[bytes]:
    while block := content.read(CHUNK):
        meter.wrote(name, len(block))
        yield block


def _storage(error: OSError) -> LocalmlError:
    if error.errno in (errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ):
        return invalid("archive", f"holds a name that this disk cannot store: {error.strerror}")
    return LocalmlError(Code.STORAGE, f"archive: cannot be unpacked: {error.strerror}", field="archive")


class _Nowhere:
    """Takes what an archive holds and keeps nothing of it."""

    def folder(self, path: str) -> None:
        """Make a folder and those above it."""

    def clear(self, path: str) -> None:
        """Make way for a member that has the name of an earlier one."""

    def file(self, path: str, blocks: Iterator[bytes], mode: int) -> None:
        """Write a file."""
        for _ in blocks:
            pass

    def hardlink(self, path: str, target: str) -> None:
        """Give a written file another name."""

    def symlink(self, path: str, target: str) -> None:
        """Make a link. Called after everything else, so that nothing is ever written through a link."""


class _Names(_Nowhere):
    """Keeps the paths alone."""

    def __init__(self) -> None:
        self.found: set[str] = set()

    def clear(self, path: str) -> None:
        self.found.discard(path)

    def file(self, path: str, blocks: Iterator[bytes], mode: int) -> None:
        super().file(path, blocks, mode)
        self.found.add(path)

    def hardlink(self, path: str, target: str) -> None:
        self.found.add(path)

    def symlink(self, path: str, target: str) -> None:
        self.found.add(path)


class _Folder(_Nowhere):
    """Writes into a folder that nobody else uses."""

    def __init__(self, root: Path, progress: Progress | None) -> None:
        self._root = root
        self._progress = progress

    def folder(self, path: str) -> None:
        (self._root / path).mkdir(parents=True, exist_ok=True)

    def clear(self, path: str) -> None:
        (self._root / path).unlink(missing_ok=True)

    def file(self, path: str, blocks: Iterator[bytes], mode: int) -> None:
        place = self._place(path)
        with place.open("xb") as file:
            for block in blocks:
                file.write(block)
                if self._progress is not None:
                    self._progress(len(block))
            os.fchmod(file.fileno(), (mode & 0o755) | 0o600)

    def hardlink(self, path: str, target: str) -> None:
        place = self._place(path)
        place.unlink(missing_ok=True)
        os.link(self._root / target, place)

    def symlink(self, path: str, target: str) -> None:
        self._place(path).symlink_to(target)

    def _place(self, path: str) -> Path:
        place = self._root / path
        place.parent.mkdir(parents=True, exist_ok=True)
        return place
