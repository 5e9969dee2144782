"""Files of running containers: copied out and in through the server's ssh door, as ``sftp`` does it."""

from __future__ import annotations

import asyncio
import errno
import os
import stat
from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from localml.client.errors import ClientError
from localml.client.jobs import Reference
from localml.client.trees import OF_ALL_FILES
from localml.client.trees import left_out as told
from localml.client.types import ENDED, LeftOut

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from asyncssh import SFTPClient, SFTPName

    from localml.client.types import Workload

_OF_ALL = (*OF_ALL_FILES, errno.ECONNRESET)
"""What is wrong with the disk or the connection, and so for each file."""
Progress = Callable[[int], None]
"""Told how many bytes more have been copied."""
_NOTICED_S = 2.0
"""Seconds in which a server knows that a program has ended."""


class Copied:
    """How much was copied: ``files``, and ``size`` in bytes; ``left_out`` is what of a folder was not, and why."""

    def __init__(self, progress: Progress) -> None:
        self.files = self.size = 0
        self.left_out: list[LeftOut] = []
        self._progress = progress
        self._last: dict[bytes, int] = {}

    def __call__(self, source: bytes, _: bytes, done: int, total: int) -> None:
        """As asyncssh tells it, of each file at least once."""
        more = done - self._last.get(source, 0)
        self.files += source not in self._last
        self._last[source] = done
        self.size += more
        self._progress(more)

    def noted(self, whole: Path | str) -> Callable[[Exception], None]:
        """What is told of failures, as asyncssh tells them: one of a single file leaves that file out."""

        def note(error: Exception) -> None:
            path = os.fsdecode(getattr(error, "srcpath", b""))
            if path in ("", os.fspath(whole)) or getattr(error, "errno", None) in _OF_ALL:
                raise error
            self.left_out.append(told(Path(path), _reason(error)))

        return note


class Containers:
    """Calls about files of what runs."""

    if TYPE_CHECKING:

        def ssh(self, ref: Reference) -> dict[str, Any]: ...
        def get(self, ref: Reference) -> Workload: ...
        def wait(self, ref: Reference, timeout: float | None = None) -> Workload: ...

    def copy_out(
        self,
        ref: Reference,
        path: str,
        target: Path | str,
        *,
        replica: str | None = None,
        progress: Progress = lambda _: None,
    ) -> Copied:
        """Copy a file, or a folder with all that is in it, out of a running container; links stay links.

        Args:
            path: in the container; a relative one begins where its commands do.
            target: where to; into it, if that is a folder.
            replica: ``ROLE/INDEX``; the first by default.

        Raises:
            ClientError: ``wrong_state`` when it does not run, ``not_found``, ``forbidden`` (also by the container's own
                permissions).
        """
        copied = Copied(progress)

        async def act(sftp: SFTPClient) -> None:
            _only_files(sftp, copied.left_out)
            await sftp.get(
                path, target, recurse=True, sparse=False, progress_handler=copied, error_handler=copied.noted(path)
            )

        self._with_files(ref, replica, path, act)
        return copied

    def copy_in(
        self,
        ref: Reference,
        source: Path | str,
        path: str,
        *,
        replica: str | None = None,
        progress: Progress = lambda _: None,
    ) -> Copied:
        """Copy a file, or a folder with all that is in it, into a running container; see :meth:`copy_out`.

        Raises:
            ClientError: ``invalid`` also for a folder with what is no file in it, such as a pipe.
        """
        copied = Copied(progress)
        _refuse_odd(Path(source))

        async def act(sftp: SFTPClient) -> None:
            await sftp.put(
                source, path, recurse=True, sparse=False, progress_handler=copied, error_handler=copied.noted(source)
            )

        self._with_files(ref, replica, path, act)
        return copied

    def _with_files(
        self, ref: Reference, replica: str | None, path: str, act: Callable[[SFTPClient], Coroutine[Any, Any, None]]
    ) -> None:
        import asyncssh

        async def run() -> None:
            async with _files(access, door) as sftp:
                await act(sftp)

        access = self.ssh(ref)
        door = _door(access, replica)
        try:
            asyncio.run(run())
        except asyncssh.SFTPNoSuchFile as error:
            raise ClientError("not_found", f"{path}: {_reason(error)}") from error
        except asyncssh.SFTPPermissionDenied as error:
            raise ClientError("forbidden", f"{path}: {_reason(error)}") from error
        except asyncssh.SFTPError as error:
            raise self._ended(ref) or ClientError("invalid", f"{path}: {_reason(error)}") from error
        except (OSError, asyncssh.Error) as error:
            words = f"the copy broke off: {getattr(error, 'strerror', None) or error}"
            raise self._ended(ref) or ClientError("unavailable", words) from error

    def _ended(self, ref: Reference) -> ClientError | None:
        """That it ended meanwhile, if it did: whatever a copy complains about then comes from that."""
        found = self.get(ref)
        if found.state != "stopping":
            with suppress(TimeoutError):
                found = self.wait(found.id, _NOTICED_S)
        if found.state not in (*ENDED, "stopping"):
            return None
        return ClientError("wrong_state", f"{found.name} does not run any more: {found.state}")


def _reason(error: Exception) -> str:
    return str(getattr(error, "reason", None) or getattr(error, "strerror", None) or error)


def _only_files(sftp: SFTPClient, left_out: list[LeftOut]) -> None:
    """Let it see no pipes and the like in folders: who reads one waits for whoever writes to it."""
    from asyncssh import FILEXFER_TYPE_DIRECTORY, FILEXFER_TYPE_REGULAR, FILEXFER_TYPE_SYMLINK

    listed = sftp.scandir
    kinds = (FILEXFER_TYPE_DIRECTORY, FILEXFER_TYPE_REGULAR, FILEXFER_TYPE_SYMLINK)

    async def scandir(path: bytes) -> AsyncIterator[SFTPName]:
        async for one in listed(path):
            if one.attrs.type in kinds:
                yield one
            else:
                found = Path(os.fsdecode(path)) / os.fsdecode(one.filename)
                left_out.append(told(found, "neither a file nor a folder"))

    sftp.scandir = scandir  # type: ignore[method-assign,assignment]


def _refuse_odd(source: Path) -> None:
    """Refuse a folder of which not all can be copied, as :func:`_only_files` has it."""
    for folder, _, names in os.walk(source):
        for path in (Path(folder) / name for name in names):
            mode = path.lstat().st_mode
            if not (stat.S_ISREG(mode) or stat.S_ISLNK(mode)):
                raise ClientError("invalid", f"{told(path, '').path} is neither a file nor a folder; nothing is copied")


def _door(access: dict[str, Any], replica: str | None) -> dict[str, Any]:
    doors = {f"{one['role']}/{one['index']}": one for one in access["doors"]}
    if replica is not None and replica not in doors:
        raise ClientError("not_found", f"{replica} does not run; there are: {', '.join(doors)}")
    found: dict[str, Any] = doors[replica] if replica is not None else next(iter(doors.values()))
    return found


def _files(access: dict[str, Any], door: dict[str, Any]) -> AbstractAsyncContextManager[SFTPClient]:
    """An sftp session with a replica; the server is known by its key, and nobody's own settings are read."""
    import asyncssh

    @asynccontextmanager
    async def opened() -> AsyncIterator[SFTPClient]:
        key = asyncssh.import_private_key(access["private_key"])
        host_key = asyncssh.import_public_key(access["host_key"])
        async with (
            asyncssh.connect(
                door["host"],
                door["port"],
                username=access["user"],
                client_keys=[key],
                known_hosts=([host_key], [], []),
                config=None,
                agent_path=None,
            ) as connection,
            connection.start_sftp_client() as sftp,
        ):
            yield sftp

    return opened()
