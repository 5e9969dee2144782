"""Code in the folders that outlast their notebooks: put there once, and from then on the notebook's own.

Jobs write to these folders while the server does, so no link in them is followed.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from localml.core.errors import Code, LocalmlError
from localml.objects.files import AtomicFile, folder_handle, open_regular

_BLOCK = 1 << 20
_NAMED = 5


class _One(NamedTuple):
    """A file, folder or link that is put somewhere, by its relative path."""

    path: PurePosixPath
    info: os.stat_result


def put(source: Path, root: Path, folder: Path, *, replace: bool) -> None:
    """Copy what is in a folder of the server's own into one that jobs write to; all of it belongs to whom that does.

    Args:
        root: a folder above it that jobs cannot replace.
        replace: files that are there and differ are replaced.

    Raises:
        LocalmlError: ``CONFLICT`` naming files that are there and differ, before anything is written; ``STORAGE``.
    """
    found = list(_all(source))
    parts = folder.relative_to(root).parts
    differ = [str(one.path) for one in found if _differs(source, root, parts, one)]
    in_the_way = [path for path in differ if replace and _is_folder(root, parts, PurePosixPath(path))]
    if differ and (in_the_way or not replace):
        raise _conflict(in_the_way or differ)
    try:
        with folder_handle(root, parts) as top:
            owner = os.fstat(top)
        for one in found:
            _put_one(source, root, parts, one, owner)
    except OSError as error:
        words = f"code: cannot be put into the notebook's folder: {error.strerror or error}"
        raise LocalmlError(Code.STORAGE, words, field="code") from error


def _all(source: Path) -> Iterator[_One]:
    """Folders before what is in them."""
    for path in sorted(source.rglob("*")):
        yield _One(PurePosixPath(path.relative_to(source).as_posix()), path.lstat())


def _differs(source: Path, root: Path, parts: tuple[str, ...], one: _One) -> bool:
    """Whether something else is there under this name."""
    try:
        with folder_handle(root, (*parts, *one.path.parent.parts)) as handle:
            there = os.stat(one.path.name, dir_fd=handle, follow_symlinks=False)
            if stat.S_IFMT(there.st_mode) != stat.S_IFMT(one.info.st_mode):
                return True
            if stat.S_ISLNK(there.st_mode):
                return os.readlink(one.path.name, dir_fd=handle) != os.readlink(source / one.path)
            return stat.S_ISREG(there.st_mode) and not _same(source / one.path, one.path.name, handle)
    except FileNotFoundError:
        return False
    except OSError as error:
        return error.errno in (errno.ENOTDIR, errno.ELOOP)


def _same(path: Path, name: str, handle: int) -> bool:
    with path.open("rb") as mine, open_regular(name, handle) as theirs:
        if os.fstat(mine.fileno()).st_size != os.fstat(theirs.fileno()).st_size:
            return False
        while block := mine.read(_BLOCK):
            if theirs.read(len(block)) != block:
                return False
    return True


def _is_folder(root: Path, parts: tuple[str, ...], path: PurePosixPath) -> bool:
    """Whether a folder, or a link on the way, is in the way of what is to be put there: those are not replaced."""
    try:
        with folder_handle(root, (*parts, *path.parent.parts)) as handle:
            return stat.S_ISDIR(os.stat(path.name, dir_fd=handle, follow_symlinks=False).st_mode)
    except OSError:
        return True


def _conflict(paths: list[str]) -> LocalmlError:
    more = f" and {len(paths) - _NAMED} more" if len(paths) > _NAMED else ""
    words = (
        f"code: the notebook's folder has other files of these names: {', '.join(paths[:_NAMED])}{more}; nothing was "
        "changed. Copy what you want to keep, then replace them (--replace-code), or take another --folder"
    )
    return LocalmlError(Code.CONFLICT, words, field="code", details={"files": paths})


def _put_one(source: Path, root: Path, parts: tuple[str, ...], one: _One, owner: os.stat_result) -> None:
    name = one.path.name
    with folder_handle(root, (*parts, *one.path.parent.parts)) as handle:
        if stat.S_ISDIR(one.info.st_mode):
            _make_folder(name, handle)
        elif stat.S_ISLNK(one.info.st_mode):
            _unlink(name, handle)
            os.symlink(os.readlink(source / one.path), name, dir_fd=handle)
        else:
            with (source / one.path).open("rb") as reader, AtomicFile(name, handle) as writer:
                shutil.copyfileobj(reader, writer, _BLOCK)
                if one.info.st_mode & 0o100:
                    os.fchmod(writer.fileno(), stat.S_IMODE(os.fstat(writer.fileno()).st_mode) | 0o111)
        if os.geteuid() == 0:
            os.chown(name, owner.st_uid, owner.st_gid, dir_fd=handle, follow_symlinks=False)


def _make_folder(name: str, handle: int) -> None:
    try:
        os.mkdir(name, dir_fd=handle)
    except FileExistsError:
        if not stat.S_ISDIR(os.stat(name, dir_fd=handle, follow_symlinks=False).st_mode):
            _unlink(name, handle)
            os.mkdir(name, dir_fd=handle)


def _unlink(name: str, handle: int) -> None:
    try:
        os.unlink(name, dir_fd=handle)
    except FileNotFoundError:
        pass
