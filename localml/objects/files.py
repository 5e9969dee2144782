"""Opening files below a folder that others may write to at the same time.

Containers write into the bucket tree while the server reads it, so a folder can turn into a link between a check and
the use. Everything here walks from the root by directory handles that follow no links: what was checked is what is
opened.
"""

from __future__ import annotations

import errno
import io
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from localml.core.errors import Code, LocalmlError, invalid, not_found
from localml.objects.uris import PART_PREFIX

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# non-blocking, so that opening a pipe that somebody left there returns; it changes nothing for a regular file
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_STORAGE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EMFILE, errno.ENFILE})


@contextmanager
def explained(uri: object, field: str) -> Iterator[None]:
    """Turn the operating system's errors into failures that name the URI and the caller's field."""
    try:
        yield
    except FileNotFoundError:
        raise not_found("object", uri) from None
    except PermissionError as error:
        raise LocalmlError(Code.FORBIDDEN, f"{field}: {uri} may not be accessed", field=field) from error
    except OSError as error:
        if error.errno in _STORAGE:
            raise LocalmlError(Code.STORAGE, f"{uri}: {error.strerror}", field=field) from error
        raise invalid(field, f"{uri}: {error.strerror or error}") from error


@contextmanager
def folder_handle(root: Path, parts: tuple[str, ...], *, create: bool = False) -> Iterator[int]:
    """A directory handle of ``root/parts...``; a link on the way is an error. ``create`` makes missing folders."""
    handle = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for part in parts:
            deeper = _open_folder(part, handle, create=create)
            os.close(handle)
            handle = deeper
        yield handle
    finally:
        os.close(handle)


def _open_folder(name: str, parent: int, *, create: bool) -> int:
    try:
        return os.open(name, _FOLDER, dir_fd=parent)
    except FileNotFoundError:
        if not create:
            raise
    try:
        os.mkdir(name, dir_fd=parent)
    except FileExistsError:  # somebody else's is as good
        return os.open(name, _FOLDER, dir_fd=parent)
    made = os.open(name, _FOLDER, dir_fd=parent)
    _share_like(parent, made)
    return made


def _share_like(folder: int, made: int) -> None:
    """What is made in a folder that a group shares (setgid) may be written by that group, too."""
    if os.fstat(folder).st_mode & stat.S_ISGID:
        mode = stat.S_IMODE(os.fstat(made).st_mode)
        os.fchmod(made, mode | (mode & 0o700) >> 3)


def open_regular(name: str, folder: int) -> io.BufferedReader:
    """Open a regular file of a folder for reading; pipes, devices and folders are refused with an OSError."""
    handle = os.open(name, _READ, dir_fd=folder)
    try:
        mode = os.fstat(handle).st_mode
        if stat.S_ISDIR(mode):
            raise OSError(errno.EISDIR, "is a folder")
        if not stat.S_ISREG(mode):
            raise OSError(errno.EINVAL, "is not a regular file")
        return open(handle, "rb")
    except BaseException:
        os.close(handle)
        raise


class AtomicFile(io.BufferedWriter):
    """A file that appears under its name, complete, when it is closed.

    Leaving a ``with`` block by an exception, :meth:`discard`, or losing the last reference without closing leaves
    what was there before.
    """

    def __init__(self, name: str, folder: int) -> None:
        self._folder = os.dup(folder)
        self._name = name
        self._part = f"{PART_PREFIX}{secrets.token_hex(8)}"
        self._keep = True
        try:
            handle = os.open(self._part, _CREATE, 0o666, dir_fd=self._folder)
            _share_like(self._folder, handle)
        except BaseException:
            os.close(self._folder)
            self._folder = -1
            raise
        super().__init__(io.FileIO(handle, "wb"))

    def discard(self) -> None:
        """Close without keeping anything."""
        self._keep = False
        self.close()

    def close(self) -> None:
        if self._folder < 0:
            return
        folder, self._folder = self._folder, -1
        try:
            try:
                super().close()
            except BaseException:
                self._keep = False
                raise
            finally:
                self._settle(folder)
        finally:
            os.close(folder)

    def _settle(self, folder: int) -> None:
        if self._keep:
            try:
                os.rename(self._part, self._name, src_dir_fd=folder, dst_dir_fd=folder)
                return
            except OSError:
                os.unlink(self._part, dir_fd=folder)
                raise
        os.unlink(self._part, dir_fd=folder)

    def __exit__(self, kind: object, *rest: object) -> None:
        if kind is not None:
            self._keep = False
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_folder", -1) >= 0:
            self.discard()
