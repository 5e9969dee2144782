"""Files of running containers: copied out and in through the server's ssh door, as ``sftp`` does it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from localml.client.errors import ClientError
from localml.client.jobs import Reference

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from asyncssh import SFTPClient

Progress = Callable[[int], None]
"""Told how many bytes more have been copied."""


class Copied:
    """How much was copied: ``files``, and ``size`` in bytes."""

    def __init__(self, progress: Progress) -> None:
        self.files = self.size = 0
        self._progress = progress
        self._last: dict[bytes, int] = {}

    def __call__(self, source: bytes, _: bytes, done: int, total: int) -> None:
        """As asyncssh tells it, of each file at least once."""
        more = done - self._last.get(source, 0)
        self.files += source not in self._last
        self._last[source] = done
        self.size += more
        self._progress(more)


class Containers:
    """Calls about files of what runs."""

    if TYPE_CHECKING:

        def ssh(self, ref: Reference) -> dict[str, Any]: ...

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
            await sftp.get(path, target, recurse=True, sparse=False, progress_handler=copied)

        self._with_files(ref, replica, act)
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
        """Copy a file, or a folder with all that is in it, into a running container; see :meth:`copy_out`."""
        copied = Copied(progress)

        async def act(sftp: SFTPClient) -> None:
            await sftp.put(source, path, recurse=True, sparse=False, progress_handler=copied)

        self._with_files(ref, replica, act)
        return copied

    def _with_files(
        self, ref: Reference, replica: str | None, act: Callable[[SFTPClient], Coroutine[Any, Any, None]]
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
            raise ClientError("not_found", str(error.reason)) from error
        except asyncssh.SFTPPermissionDenied as error:
            raise ClientError("forbidden", str(error.reason)) from error
        except asyncssh.SFTPError as error:
            raise ClientError("invalid", str(error.reason)) from error
        except (OSError, asyncssh.Error) as error:
            raise ClientError(
                "unavailable", f"the copy broke off: {getattr(error, 'strerror', None) or error}"
            ) from error


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
