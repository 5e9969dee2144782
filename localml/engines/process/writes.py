"""Notice of what replicas write, at once: the kernel's inotify on their output files, for all replicas of a server.

Python has no inotify of its own, and watchdog's takes two threads for each watch; this needs three calls of the C
library and one thread. Where the kernel has no room for it (``fs.inotify.max_user_instances``) readers look every now
and then instead.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import select
import struct
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path

log = logging.getLogger("localml.engines")

_IN_MODIFY = 0x00000002  # of sys/inotify.h
_HEAD = struct.Struct("iIII")  # watch, mask, cookie, length of the name behind it
_BLOCK = 1 << 16


class WriteWatcher:
    """Wakes who waits for the output of a replica: when something is written, or when it is told to."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: dict[str, set[threading.Event]] = {}  # by replica
        self._watches: dict[int, set[threading.Event]] = {}  # by inotify's number
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._inotify = -1
        self._closing = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._thread: threading.Thread | None = None
        self._closed = False

    @contextlib.contextmanager
    def watch(self, name: str, files: Iterable[Path]) -> Iterator[threading.Event]:
        """An event that is set with every write to one of these files, and by :meth:`wake`."""
        event = threading.Event()
        with self._lock:
            self._waiting.setdefault(name, set()).add(event)
            numbers = [number for path in files if (number := self._add(path)) is not None]
            for number in numbers:
                self._watches.setdefault(number, set()).add(event)
        try:
            yield event
        finally:
            with self._lock:
                self._waiting[name].discard(event)
                if not self._waiting[name]:
                    del self._waiting[name]
                for number in numbers:
                    self._leave(number, event)

    def wake(self, name: str) -> None:
        """Something else than a write happened to this replica."""
        with self._lock:
            for event in self._waiting.get(name, ()):
                event.set()

    def close(self) -> None:
        """Wake everybody, and end the thread."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            for events in self._waiting.values():
                for event in events:
                    event.set()
            thread = self._thread
        os.eventfd_write(self._closing, 1)
        if thread is not None:
            thread.join()
        if self._inotify >= 0:
            os.close(self._inotify)
        os.close(self._closing)

    def _add(self, path: Path) -> int | None:
        """Inotify's number for a file, which is the same for all who watch it; None where it cannot be watched."""
        if self._closed or not self._start():
            return None
        number = int(self._libc.inotify_add_watch(self._inotify, os.fsencode(path), _IN_MODIFY))
        if number < 0:
            log.debug("%s is looked at now and then: %s", path, os.strerror(ctypes.get_errno()))
        return number if number >= 0 else None

    def _leave(self, number: int, event: threading.Event) -> None:
        events = self._watches.get(number, set())
        events.discard(event)
        if not events and self._watches.pop(number, None) is not None and not self._closed:
            self._libc.inotify_rm_watch(self._inotify, number)

    def _start(self) -> bool:
        if self._thread is not None:
            return True
        self._inotify = int(self._libc.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK))
        if self._inotify < 0:
            log.debug("outputs are looked at now and then: %s", os.strerror(ctypes.get_errno()))
            return False
        self._thread = threading.Thread(target=self._run, name="process-writes", daemon=True)
        self._thread.start()
        return True

    def _run(self) -> None:
        poll = select.poll()
        poll.register(self._inotify, select.POLLIN)
        poll.register(self._closing, select.POLLIN)
        while True:
            poll.poll()
            if self._closed:
                return
            with contextlib.suppress(BlockingIOError):
                self._tell(os.read(self._inotify, _BLOCK))

    def _tell(self, data: bytes) -> None:
        at, written = 0, set()
        while at < len(data):
            number, _, _, length = _HEAD.unpack_from(data, at)
            written.add(number)
            at += _HEAD.size + length
        with self._lock:
            if -1 in written:  # the kernel's queue was too short: everybody looks
                written = set(self._watches)
            for number in written:
                for event in self._watches.get(number, ()):
                    event.set()
