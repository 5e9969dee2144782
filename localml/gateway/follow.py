"""Follows the route table's file: the file system's events say when to look, a slow poll is the truth."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path

from watchdog.events import FileSystemEvent, FileSystemEventHandler
from watchdog.observers import Observer
from watchdog.observers.api import BaseObserver

from localml.core.serving.routes_table import BadTable, RouteTable, read_routes, routes_path

log = logging.getLogger("localml.gateway")

POLL = 2.0
"""Seconds between two looks at the file; an event makes for an earlier one."""
POLL_ALONE = 0.25
"""The same where the system gives no events (out of inotify watches, some network file systems)."""

Signature = tuple[int, int, int]


class Follower:
    """Reads the table whenever its file changes.

    Args:
        apply: takes over a valid table.
        refuse: is told why the newest one is not valid (None when all is well); the table in use stays.
    """

    def __init__(
        self, data: Path, apply: Callable[[RouteTable], Awaitable[None]], refuse: Callable[[str | None], None]
    ) -> None:
        self._data, self._apply, self._refuse = data, apply, refuse
        self._path = routes_path(data)
        self._seen: Signature | None = None
        self._hint = asyncio.Event()
        self._observer: BaseObserver | None = None
        self._poll = POLL

    def start(self) -> None:
        """Watch the folder, which is made if it is missing."""
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        loop = asyncio.get_running_loop()
        observer = Observer()
        observer.schedule(_Events(self._path.name, lambda: _call(loop, self._hint.set)), str(self._path.parent))
        try:
            observer.start()
            self._observer = observer
        except OSError as error:
            log.warning("the folder cannot be watched (%s); looking %g times a second", error, 1 / POLL_ALONE)
            self._poll = POLL_ALONE

    async def run(self) -> None:
        """Follow until cancelled."""
        while True:
            try:
                async with asyncio.timeout(self._poll):
                    await self._hint.wait()
            except TimeoutError:
                pass
            self._hint.clear()
            await self.look()

    async def look(self) -> None:
        """Take over the file if it is another one than before."""
        signature = self._signature()
        if signature is None or signature == self._seen:
            return  # without a file the table in use stays
        self._seen = signature
        try:
            table = await asyncio.get_running_loop().run_in_executor(None, read_routes, self._data)
        except BadTable as error:
            log.error("the new route table is refused, the old one stays: %s", error)
            self._refuse(str(error))
            return
        if table is not None:
            await self._apply(table)
            self._refuse(None)

    def _signature(self) -> Signature | None:
        try:
            status = self._path.stat()
        except OSError:
            return None
        return status.st_mtime_ns, status.st_ino, status.st_size

    def close(self) -> None:
        """Stop watching."""
        if self._observer is not None:
            self._observer.stop()
            self._observer.join()
            self._observer = None


def _call(loop: asyncio.AbstractEventLoop, act: Callable[[], None]) -> None:
    try:
        loop.call_soon_threadsafe(act)
    except RuntimeError:
        pass  # the loop is closed; so is the gateway


class _Events(FileSystemEventHandler):
    """Passes on what concerns the one file; the gateway writes others beside it."""

    def __init__(self, name: str, changed: Callable[[], None]) -> None:
        self._ends = "/" + name
        self._changed = changed

    def on_any_event(self, event: FileSystemEvent) -> None:
        if event.event_type in ("opened", "closed_no_write"):
            return  # our own reading
        if str(event.src_path).endswith(self._ends) or str(event.dest_path).endswith(self._ends):
            self._changed()
