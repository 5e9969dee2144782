"""Files of a container for ``sftp`` and ``scp``, by running POSIX tools inside it.

An image needs no more than a shell, ``cat``, ``dd``, ``find``, ``stat`` and ``tail``, which BusyBox has. Contents flow
through ``cat`` and ``dd`` in order; a jump to another offset starts a new one.
"""

from __future__ import annotations

import asyncio
import errno
import os
import posixpath
import re
import stat
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, NoReturn

import asyncssh
from asyncssh.constants import (
    FILEXFER_TYPE_DIRECTORY,
    FILEXFER_TYPE_REGULAR,
    FILEXFER_TYPE_SPECIAL,
    FILEXFER_TYPE_SYMLINK,
    FXF_APPEND,
    FXF_CREAT,
    FXF_EXCL,
    FXF_TRUNC,
    FXF_WRITE,
)

from localml.control.shell.stream import AsyncExec
from localml.engines.base import EngineError, EngineUnreachable

_FORMAT = "%f %s %u %g %X %Y"
_STAT = f'stat -L -c "{_FORMAT}" "$1"'
_LSTAT = f'stat -c "{_FORMAT}" "$1"'
# No name holds a slash, so one after it marks its end, whatever else it holds.
_LIST = f"""cd "$1" && exec find . -maxdepth 1 -exec stat -c '{_FORMAT} %n/' {{}} +"""
_ENTRY = re.compile(rb"^([0-9a-f]+ \d+ \d+ \d+ -?\d+ -?\d+) \./([^/]+)/$", re.MULTILINE)
_OPEN = """
there=; [ -e "$1" ] && there=1
case $2 in *c*) ;; *) [ "$there" ] || { echo "No such file or directory" >&2; exit 1; } ;; esac
case $2 in *x*) set -C; : > "$1" || exit 1 ;; *t*) : > "$1" || exit 1 ;; *) : >> "$1" || exit 1 ;; esac
[ "$there" ] || [ -z "$3" ] || chmod "$3" "$1"
"""
_WRITE = """
[ "$2" = 0 ] && exec dd of="$1" bs=65536 conv=notrunc
[ "$2" = "$(stat -L -c %s "$1")" ] && exec cat >> "$1"
exec dd of="$1" ibs=65536 obs="$3" seek="$4" conv=notrunc
"""
_READ = '[ "$2" = 0 ] && exec cat "$1"; exec tail -c +"$(($2 + 1))" "$1"'
_RENAME = '[ -e "$2" ] && { echo "File exists" >&2; exit 1; }; mv "$1" "$2"'
_REPLACE = '[ -d "$2" ] && { echo "Is a directory" >&2; exit 1; }; mv -f "$1" "$2"'
_REMOVE = '[ -e "$1" ] || [ -L "$1" ] || { echo "No such file or directory" >&2; exit 1; }; rm -f "$1"'

_BLOCK = 1 << 16
_UMASK = 0o022
_TYPES = {
    stat.S_IFREG: FILEXFER_TYPE_REGULAR,
    stat.S_IFDIR: FILEXFER_TYPE_DIRECTORY,
    stat.S_IFLNK: FILEXFER_TYPE_SYMLINK,
}
_ERRORS = {
    os.strerror(number): number
    for number in (
        errno.ENOENT, errno.EACCES, errno.EPERM, errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ENOTEMPTY,
        errno.ENOSPC, errno.EROFS, errno.ELOOP, errno.ENAMETOOLONG, errno.EDQUOT, errno.EINVAL,
    )
} | {"nonexistent": errno.ENOENT, "overwrite existing": errno.EEXIST}  # as dash, BusyBox and bash say it  # fmt: skip

Open = Callable[[tuple[str, ...]], Awaitable[AsyncExec]]
"""Starts a command in the container."""


async def _start(start: Open, script: str, *args: str) -> AsyncExec:
    try:
        return await start(("sh", "-c", "LC_ALL=C; export LC_ALL\n" + script, "sh", *args))
    except (EngineError, EngineUnreachable) as error:
        raise asyncssh.SFTPConnectionLost(str(error)) from error


async def _finish(stream: AsyncExec) -> tuple[int, bytes, str]:
    """Exit code, the rest of the output, and what it complained about."""
    output = {"stdout": bytearray(), "stderr": bytearray()}
    try:
        await stream.close_stdin()
        while (piece := await stream.read()) is not None:
            output[piece[0]] += piece[1]
        return await stream.wait(), bytes(output["stdout"]), output["stderr"].decode("utf-8", "replace")
    finally:
        await stream.close()


def _refuse(complaint: str) -> NoReturn:
    for words, number in _ERRORS.items():
        if words in complaint:
            raise OSError(number, os.strerror(number))
    raise asyncssh.SFTPFailure(complaint.strip() or "the container refused")


def _attributes(text: bytes) -> asyncssh.SFTPAttrs:
    mode, size, uid, gid, atime, mtime = (int(word, 16 if at == 0 else 10) for at, word in enumerate(text.split()))
    return asyncssh.SFTPAttrs(
        type=_TYPES.get(stat.S_IFMT(mode), FILEXFER_TYPE_SPECIAL),
        size=size,
        uid=uid,
        gid=gid,
        permissions=mode,
        atime=max(0, atime),
        mtime=max(0, mtime),
    )


class _OpenFile:
    """A file that a client has open, and the command through which its contents flow at the moment."""

    def __init__(self, start: Open, path: str, *, append: bool) -> None:
        self.path = path
        self._start = start
        self._append = append
        self._lock = asyncio.Lock()
        self._stream: AsyncExec | None = None
        self._writing = False
        self._position = 0
        self._rest = b""
        self._ended = False

    async def read(self, offset: int, size: int) -> bytes:
        async with self._lock:
            if self._writing or offset < self._position or (offset > self._position and not self._ended):
                await self._flush()
            if self._ended:
                return b""  # at the end of the file, or after it
            if self._stream is None:
                self._stream = await _start(self._start, _READ, self.path, str(offset))
                self._position = offset
            while len(self._rest) < size and not self._ended:
                await self._take(self._stream)
            data, self._rest = self._rest[:size], self._rest[size:]
            self._position += len(data)
            return data

    async def _take(self, stream: AsyncExec) -> None:
        complaint = b""
        while (piece := await stream.read()) is not None:
            if piece[0] == "stdout":
                self._rest += piece[1]
                return
            complaint += piece[1]
        self._ended = True
        if await stream.wait():
            _refuse(complaint.decode("utf-8", "replace"))

    async def write(self, offset: int, data: bytes) -> None:
        async with self._lock:
            if not self._writing or (offset != self._position and not self._append):
                await self._flush()
                self._stream = await self._writer(offset)
                self._writing, self._position = True, offset
            assert self._stream is not None
            await self._stream.write(data)
            self._position += len(data)

    async def _writer(self, offset: int) -> AsyncExec:
        if self._append:
            return await _start(self._start, 'exec cat >> "$1"', self.path)
        block = min(_BLOCK, offset & -offset) or _BLOCK  # the largest power of two that divides it
        return await _start(self._start, _WRITE, self.path, str(offset), str(block), str(offset // block))

    async def flush(self) -> None:
        """Wait until all that was written is in the file."""
        async with self._lock:
            await self._flush()

    async def _flush(self) -> None:
        stream, self._stream = self._stream, None
        writing, self._writing = self._writing, False
        self._position, self._rest, self._ended = 0, b"", False
        if stream is None:
            return
        if not writing:
            await stream.close()
            return
        code, _, complaint = await _finish(stream)
        if code:
            _refuse(complaint)


class ContainerFiles(asyncssh.SFTPServer):
    """Serves what the container's user sees.

    The class that this one extends serves this machine's own files, so every method of it that takes a path or an
    open file is replaced here; a test holds that.
    """

    def __init__(self, channel: Any, start: Open) -> None:
        super().__init__(channel)
        self._start = start
        self._home: str | None = None

    async def _run(self, script: str, *args: str) -> bytes:
        code, output, complaint = await _finish(await _start(self._start, script, *args))
        if code:
            _refuse(complaint)
        return output

    async def _full(self, path: bytes) -> str:
        """An absolute path; relative ones begin where the container's commands do."""
        try:
            name = path.decode()
        except UnicodeDecodeError:
            raise asyncssh.SFTPNoSuchFile("names must be UTF-8") from None
        if "\0" in name:
            raise asyncssh.SFTPNoSuchFile("names hold no NUL")
        if not name.startswith("/") and self._home is None:
            self._home = (await self._run("pwd")).decode("utf-8", "replace").rstrip("\n") or "/"
        return posixpath.join(self._home or "/", name)

    def map_path(self, path: bytes) -> bytes:
        """Nothing here has a path on this machine."""
        raise asyncssh.SFTPOpUnsupported("no path of this machine")

    def reverse_map_path(self, path: bytes) -> bytes:
        """Nothing here has a path on this machine."""
        raise asyncssh.SFTPOpUnsupported("no path of this machine")

    def format_user(self, uid: int | None) -> str:
        """The number: names of this machine's users would be wrong."""
        return "" if uid is None else str(uid)

    def format_group(self, gid: int | None) -> str:
        """The number."""
        return "" if gid is None else str(gid)

    async def realpath(self, path: bytes) -> bytes:
        """Absolute, without ``..``; links are not resolved."""
        return posixpath.normpath(await self._full(path)).encode()

    async def stat(self, path: bytes) -> asyncssh.SFTPAttrs:
        """What a path leads to."""
        return _attributes(await self._run(_STAT, await self._full(path)))

    async def lstat(self, path: bytes) -> asyncssh.SFTPAttrs:
        """What a path is, be it a link."""
        return _attributes(await self._run(_LSTAT, await self._full(path)))

    async def fstat(self, file_obj: object) -> asyncssh.SFTPAttrs:
        """Of an open file."""
        file = _file(file_obj)
        await file.flush()
        return _attributes(await self._run(_STAT, file.path))

    async def scandir(self, path: bytes) -> AsyncIterator[asyncssh.SFTPName]:
        """What is in a folder."""
        found = await self._run(_LIST, await self._full(path))
        for name in (b".", b".."):
            yield asyncssh.SFTPName(name, attrs=asyncssh.SFTPAttrs(permissions=0o040755))
        for attributes, name in _ENTRY.findall(found):
            yield asyncssh.SFTPName(name, attrs=_attributes(attributes))

    async def open(self, path: bytes, pflags: int, attrs: asyncssh.SFTPAttrs) -> object:
        """Open a file, making or emptying it as wanted."""
        name = await self._full(path)
        if pflags & (FXF_WRITE | FXF_APPEND):
            how = "".join(
                letter for letter, flag in (("c", FXF_CREAT), ("t", FXF_TRUNC), ("x", FXF_EXCL)) if pflags & flag
            )
            mode = "" if attrs.permissions is None else f"{attrs.permissions & 0o777 & ~_UMASK:o}"
            await self._run(_OPEN, name, how, mode)
        else:
            await self._run('[ -r "$1" ] && [ ! -d "$1" ] || { cat "$1" >/dev/null; exit 1; }', name)
        return _OpenFile(self._start, name, append=bool(pflags & FXF_APPEND))

    async def read(self, file_obj: object, offset: int, size: int) -> bytes:
        """A part of an open file."""
        return await _file(file_obj).read(offset, size)

    async def write(self, file_obj: object, offset: int, data: bytes) -> int:
        """Write a part of an open file."""
        await _file(file_obj).write(offset, data)
        return len(data)

    async def close(self, file_obj: object) -> None:
        """Close it; what could not be written is told now at the latest."""
        await _file(file_obj).flush()

    async def fsync(self, file_obj: object) -> None:
        """Wait until all is written."""
        file = _file(file_obj)
        await file.flush()
        await self._run("sync")

    async def setstat(self, path: bytes, attrs: asyncssh.SFTPAttrs) -> None:
        """Change size, owner, mode and times."""
        await self._set(await self._full(path), attrs)

    async def lsetstat(self, path: bytes, attrs: asyncssh.SFTPAttrs) -> None:
        """Those of a link itself: owner and times only, since a link has no mode."""
        await self._set(await self._full(path), attrs, link=True)

    async def fsetstat(self, file_obj: object, attrs: asyncssh.SFTPAttrs) -> None:
        """Those of an open file."""
        file = _file(file_obj)
        await file.flush()
        await self._set(file.path, attrs)

    async def _set(self, path: str, attrs: asyncssh.SFTPAttrs, *, link: bool = False) -> None:
        itself = "-h " if link else ""
        steps = []
        if attrs.size is not None and not link:
            steps.append(f'truncate -s {int(attrs.size)} "$1"')
        if attrs.uid is not None and attrs.gid is not None:
            steps.append(f'chown {itself}{int(attrs.uid)}:{int(attrs.gid)} "$1"')
        if attrs.permissions is not None and not link:
            steps.append(f'chmod {attrs.permissions & 0o7777:o} "$1"')
        if attrs.mtime is not None:
            steps.append(f'touch {itself}-c -d @{int(attrs.mtime)} "$1"')
        if steps:
            await self._run(" && ".join(steps), path)

    async def mkdir(self, path: bytes, attrs: asyncssh.SFTPAttrs) -> None:
        """Make a folder."""
        mode = 0o755 if attrs.permissions is None else attrs.permissions & 0o777 & ~_UMASK
        await self._run(f'mkdir -m {mode:o} "$1"', await self._full(path))

    async def rmdir(self, path: bytes) -> None:
        """Remove an empty folder."""
        await self._run('rmdir "$1"', await self._full(path))

    async def remove(self, path: bytes) -> None:
        """Remove a file or a link."""
        await self._run(_REMOVE, await self._full(path))

    async def rename(self, oldpath: bytes, newpath: bytes) -> None:
        """Give another name, which must be free."""
        await self._run(_RENAME, await self._full(oldpath), await self._full(newpath))

    async def posix_rename(self, oldpath: bytes, newpath: bytes) -> None:
        """Give another name, in place of a file that has it."""
        await self._run(_REPLACE, await self._full(oldpath), await self._full(newpath))

    async def readlink(self, path: bytes) -> bytes:
        """Where a link points."""
        return (await self._run('readlink "$1"', await self._full(path))).removesuffix(b"\n")

    async def symlink(self, oldpath: bytes, newpath: bytes) -> None:
        """Make a link."""
        await self._run('ln -s -- "$1" "$2"', oldpath.decode(), await self._full(newpath))

    async def link(self, oldpath: bytes, newpath: bytes) -> None:
        """Make a hard link."""
        await self._run('ln "$1" "$2"', await self._full(oldpath), await self._full(newpath))

    def exit(self) -> None:
        """The client is done. Without a status its ``ssh`` would call that a failure."""
        self.channel.exit(0)

    def open56(self, path: bytes, desired_access: int, flags: int, attrs: asyncssh.SFTPAttrs) -> object:
        """Not in the version of the protocol that is spoken here (3)."""
        raise asyncssh.SFTPOpUnsupported("only version 3")

    def lock(self, file_obj: object, offset: int, length: int, flags: int) -> None:
        """Not in version 3."""
        raise asyncssh.SFTPOpUnsupported("only version 3")

    def unlock(self, file_obj: object, offset: int, length: int) -> None:
        """Not in version 3."""
        raise asyncssh.SFTPOpUnsupported("only version 3")

    def statvfs(self, path: bytes) -> Any:
        """Not offered: no tool says it in the same words everywhere."""
        raise asyncssh.SFTPOpUnsupported("not offered")

    def fstatvfs(self, file_obj: object) -> Any:
        """Not offered."""
        raise asyncssh.SFTPOpUnsupported("not offered")


def _file(given: object) -> _OpenFile:
    assert isinstance(given, _OpenFile)
    return given
