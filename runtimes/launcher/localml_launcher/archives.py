"""Unpacking a trainer package that somebody else made: nothing is written outside of the target folder."""

from __future__ import annotations

import gzip
import io
import os
import shutil
import tarfile
import zlib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO, cast

from localml_launcher.console import EXIT_DATA, LauncherError

GZIP_MAGIC = b"\x1f\x8b"
CHUNK = 1 << 20


@dataclass(frozen=True)
class Limits:
    """Bounds of what an archive may become: unpacked bytes (counted as they come) and number of members."""

    size: int = 20 << 30
    members: int = 100_000


class _Bounded(io.RawIOBase):
    """A stream that refuses to give more than ``limit`` bytes, whatever the headers claim."""

    def __init__(self, source: BinaryIO, limit: int) -> None:
        self._source, self._left, self._limit = source, limit, limit

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        data = self._source.read(min(size, CHUNK) if size >= 0 else CHUNK)
        self._left -= len(data)
        if self._left < 0:
            raise LauncherError(f"the package unpacks to more than {self._limit:,} bytes; refused", EXIT_DATA)
        return data


def unpack(archive: Path, target: Path, limits: Limits | None = None) -> None:
    """Unpack a ``.tar.gz`` or ``.tar`` (told by content, not by name) into the folder ``target``.

    Raises:
        LauncherError: it is no such archive, is damaged, over its limits, or a member would land outside of
            ``target`` or is neither file, folder nor harmless link. The message names the member.
    """
    limits, target = limits or Limits(), target.resolve()
    try:
        with archive.open("rb") as raw:
            zipped = raw.read(2) == GZIP_MAGIC
            raw.seek(0)
            plain = cast(BinaryIO, gzip.GzipFile(fileobj=raw)) if zipped else raw
            with tarfile.open(fileobj=_Bounded(plain, limits.size), mode="r|") as tar:
                _extract(tar, target, limits)
    except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise LauncherError(f"'{archive}' cannot be unpacked: {error}", EXIT_DATA) from error


def _extract(tar: tarfile.TarFile, target: Path, limits: Limits) -> None:
    for count, member in enumerate(tar, start=1):
        if count > limits.members:
            raise LauncherError(f"the package has more than {limits.members:,} members; refused", EXIT_DATA)
        try:
            _extract_member(tar, member, target)
        except OSError as error:
            raise LauncherError(f"'{member.name}' cannot be unpacked: {error.strerror or error}", EXIT_DATA) from error


def _extract_member(tar: tarfile.TarFile, member: tarfile.TarInfo, target: Path) -> None:
    # Written out, because tarfile's own filters are not in every Python 3.11 (Debian 12 has 3.11.2 without them).
    path = _inside(target, member.name, member.name)
    if path == target:
        return
    if member.isdir():
        path.mkdir(parents=True, exist_ok=True)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_symlink() or path.is_file():
        path.unlink()
    if member.isfile():
        source = tar.extractfile(member)
        assert source is not None, "a regular member has content"
        with path.open("xb") as file:
            shutil.copyfileobj(source, file, CHUNK)
        path.chmod(0o755 if member.mode & 0o100 else 0o644)
    elif member.issym():
        _inside(target, str(PurePosixPath(member.name).parent / member.linkname), member.name)
        path.symlink_to(member.linkname)
    elif member.islnk():
        path.hardlink_to(_inside(target, member.linkname, member.name))
    else:
        raise LauncherError(f"'{member.name}' is a device or a pipe; refused", EXIT_DATA)


def _inside(target: Path, name: str, member: str) -> Path:
    """The place of ``name`` below ``target``, also after following the links that were unpacked before it."""
    path = target / os.path.normpath(name)
    real = Path(os.path.realpath(path.parent))  # unlike Path.resolve, it takes links that go round in a circle
    if name.startswith("/") or not real.is_relative_to(target) or not _below(path, target):
        raise LauncherError(f"'{member}' would land outside of the package's folder; refused", EXIT_DATA)
    return path


def _below(path: Path, target: Path) -> bool:
    return Path(os.path.normpath(path)).is_relative_to(target)
