"""Notice of processes that end, at once and without polling, also of processes that others started."""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
import threading
from collections.abc import Callable

log = logging.getLogger("localml.engines")


class Watched:
    """One process under watch. ``ended`` is set after the notice of its end was given; ``overdue`` is for who should
    have ended it."""

    def __init__(self, name: str, pid: int, descriptor: int) -> None:
        self.name = name
        self.pid = pid
        self.ended = threading.Event()
        self.overdue = False
        self._lock = threading.Lock()  # the descriptor's number may belong to something else once it is closed
        self._descriptor: int | None = descriptor

    def alive(self) -> bool:
        """Whether the process still runs; exact, also before the notice of its end was given."""
        with self._lock:
            if self._descriptor is None:
                return False
            poll = select.poll()
            poll.register(self._descriptor, select.POLLIN)
            return not poll.poll(0)

    def send(self, number: int) -> None:
        """Send a signal to exactly this process, never to a later one of the same number."""
        with self._lock:
            if self._descriptor is not None:
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(self._descriptor, number)

    def release(self) -> None:
        """Close the descriptor; from here on the process counts as not alive."""
        with self._lock:
            if self._descriptor is not None:
                os.close(self._descriptor)
                self._descriptor = None


class ExitWatcher:
    """One thread that sleeps until a watched process ends, reaps it if it is a child, and tells.

    Args:
        on_exit: called on the watcher's thread with the ended process; what it raises is logged.
    """

    def __init__(self, on_exit: Callable[[Watched], None]) -> None:
        self._on_exit = on_exit
        self._lock = threading.Lock()
        self._watched: dict[int, Watched] = {}
        self._thread: threading.Thread | None = None
        self._closed = False
        self._epoll = select.epoll()
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._epoll.register(self._wake, select.EPOLLIN)

    def add(self, name: str, pid: int, descriptor: int | None = None) -> Watched | None:
        """Watch a process; None if there is no such process any more, or nobody watches.

        Args:
            descriptor: a pidfd of it, which is this watcher's from here on; without it the number is looked up.

        Raises:
            OSError: no more files may be opened or watched.
        """
        try:
            if descriptor is None:
                descriptor = os.pidfd_open(pid)
        except ProcessLookupError:
            return None
        watched = Watched(name, pid, descriptor)
        with self._lock:
            if self._closed:
                os.close(descriptor)
                return None
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="process-exits", daemon=True)
                self._thread.start()
            self._watched[descriptor] = watched
            try:
                self._epoll.register(descriptor, select.EPOLLIN | select.EPOLLONESHOT)
            except OSError:  # the kernel has no room for it
                del self._watched[descriptor]
                watched.release()
                raise
        return watched

    def close(self) -> None:
        """End the thread. Processes go on; whoever waits for one of them is not told any more."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            thread = self._thread
        os.eventfd_write(self._wake, 1)
        if thread is not None and thread is not threading.current_thread():
            thread.join()
        with self._lock:
            for descriptor, watched in self._watched.items():
                _reap(descriptor)
                watched.release()
            self._watched.clear()
        self._epoll.close()
        os.close(self._wake)

    def _run(self) -> None:
        while True:
            for descriptor, _ in self._epoll.poll():
                if descriptor == self._wake:
                    return
                self._finish(descriptor)

    def _finish(self, descriptor: int) -> None:
        _reap(descriptor)
        with self._lock:
            watched = self._watched.pop(descriptor)
        self._epoll.unregister(descriptor)
        watched.release()
        try:
            self._on_exit(watched)
        except Exception:
            log.exception("the end of %s could not be taken in; the next look finds it", watched.name)
        finally:
            watched.ended.set()


def _reap(descriptor: int) -> None:
    """Take note of the end of a process, if it has ended and is a child of ours."""
    with contextlib.suppress(ChildProcessError):
        os.waitid(os.P_PIDFD, descriptor, os.WEXITED | os.WNOHANG)
