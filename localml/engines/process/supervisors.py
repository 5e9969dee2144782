"""The supervisors that live: begun, found, watched, told to stop, and ended with all that they run if they do not heed.

A supervisor is a process like others: whoever may send it signals can freeze it (``SIGSTOP``), and what it waits for
can hang. Nobody else writes down how its program ended, and the replica's GPUs are taken until somebody has. So a
frozen one is woken by the next look, and a wish to stop has a deadline that is kept here.
"""

from __future__ import annotations

import contextlib
import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from localml.engines.base import EngineUnreachable
from localml.engines.process import io as process_io
from localml.engines.process.ends import supervisor_of
from localml.engines.process.exits import ExitWatcher, Watched
from localml.engines.process.folder import ReplicaDir
from localml.engines.process.spawn import Spawner

log = logging.getLogger("localml.engines")

LATE = 3.0
"""Seconds past its grace after which a replica that was to stop is killed by us, process by process."""
LAST = 2.0
"""Seconds that its supervisor then has to write down the end, before it is killed as well."""


class Supervisors:
    """Those of one engine. Methods with a name are called under the engine's lock for it.

    Args:
        root: the folder of the replicas' folders.
        spawner: starts them; closed with this.
        on_exit: called on a thread of its own with one that ended.
    """

    def __init__(self, root: Path, spawner: Spawner, on_exit: Callable[[Watched], None]) -> None:
        self._root = root
        self._spawner = spawner
        self._exits = ExitWatcher(on_exit)
        self._alive: dict[str, Watched] = {}
        self._deadlines = Deadlines(self._enforce)
        self._closed = False

    def warm_up(self) -> None:
        """Be quick with the first one; returns at once. Zygotes of dead servers that were stopped may end now."""
        process_io.wake(f"{self._root}/.zygote-")
        self._spawner.warm_up()

    def spawn(self, name: str) -> None:
        """Start one. One that is not needed finds the lock taken and ends.

        Raises:
            EngineError: the system refuses.
            EngineUnreachable: it was started and cannot be watched; the next look finds it.
        """
        new = self._spawner.spawn(self._folder(name).path)
        with _readable(self._root):
            if watched := self._exits.add(name, new.pid, new.descriptor):
                self._alive[name] = watched

    def known(self, name: str) -> Watched | None:
        """The one that was last seen alive."""
        return self._alive.get(name)

    def find(self, name: str) -> Watched | None:
        """The living one, under watch from now on, and not frozen; None if there is none.

        Raises:
            EngineUnreachable: the replica's folder cannot be read, or this process may open no more files.
        """
        with _readable(self._root):
            watched = self._find(name)
            if watched is not None and process_io.frozen(watched.pid):
                log.warning("%s: its supervisor (process %d) was stopped, and goes on", name, watched.pid)
                watched.send(signal.SIGCONT)
            return watched

    def _find(self, name: str) -> Watched | None:
        folder = self._folder(name)
        pid = supervisor_of(folder)
        watched = self._alive.get(name)
        # Without a holder it may have been spawned a moment ago and be on its way to the lock.
        if watched is not None and pid in (None, watched.pid) and watched.alive():
            return watched
        while (pid := supervisor_of(folder)) is not None:
            watched = self._exits.add(name, pid)
            # If the number was given to another process in between, the lock is no longer held under it.
            if watched is not None and supervisor_of(folder) == pid:
                self._alive[name] = watched
                return watched
            if watched is None and self._closed:
                return None
        return None

    def stop(self, name: str, watched: Watched, grace: float) -> None:
        """Have it end its program: SIGTERM, after the grace SIGKILL; a little later it is done without it."""
        watched.send(signal.SIGTERM)
        watched.send(signal.SIGCONT)
        self._deadlines.add(name, time.monotonic() + grace + LATE)

    def _enforce(self, name: str) -> None:
        """Kill what is left of a replica that should have stopped, and soon its supervisor, too."""
        watched = self._alive.get(name)
        if watched is None or not watched.alive():
            return
        if not watched.overdue:
            watched.overdue = True
            watched.send(signal.SIGCONT)
            process_io.kill_below(watched.pid)
            self._deadlines.add(name, time.monotonic() + LAST)
        else:
            log.warning("%s: its supervisor (process %d) does not end, and is killed", name, watched.pid)
            process_io.kill_below(watched.pid)
            watched.send(signal.SIGKILL)

    def gone(self, watched: Watched) -> bool:
        """Forget one that ended; whether it was the one that is known."""
        known = self._alive.get(watched.name) is watched
        if known:
            del self._alive[watched.name]
        return known

    def forget(self, name: str) -> None:
        """Drop the memory of a removed replica."""
        self._alive.pop(name, None)

    def close(self) -> None:
        """End the watching. They go on, and what was to stop is stopped by the next engine that is told so."""
        self._closed = True
        self._deadlines.close()
        self._exits.close()
        self._spawner.close()

    def _folder(self, name: str) -> ReplicaDir:
        return ReplicaDir(f"{self._root}/{name}")


class Deadlines:
    """One thread that sleeps until the next name is due; there is none while no name is.

    Args:
        due: called with a name on that thread; its deadline is over then, and it may be given a new one.
    """

    def __init__(self, due: Callable[[str], None]) -> None:
        self._due = due
        self._at: dict[str, float] = {}
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closed = False

    def add(self, name: str, at: float) -> None:
        """Give a name a deadline (monotonic time), unless it has an earlier one."""
        with self._changed:
            self._at[name] = min(at, self._at.get(name, at))
            self._changed.notify()
            if self._thread is None and not self._closed:
                self._thread = threading.Thread(target=self._run, name="process-stops", daemon=True)
                self._thread.start()

    def close(self) -> None:
        """End the thread; nothing is due any more."""
        with self._changed:
            self._closed = True
            self._changed.notify()
            thread = self._thread
        if thread is not None:
            thread.join()

    def _run(self) -> None:
        while (name := self._next()) is not None:
            try:
                self._due(name)
            except Exception:
                log.exception("%s could not be stopped", name)

    def _next(self) -> str | None:
        """The next name that is due, once it is; None when this ends."""
        with self._changed:
            while self._at and not self._closed:
                name = min(self._at, key=self._at.__getitem__)
                left = self._at[name] - time.monotonic()
                if left <= 0:
                    del self._at[name]
                    return name
                self._changed.wait(left)
            self._thread = None
            return None


@contextlib.contextmanager
def _readable(root: Path) -> Iterator[None]:
    """Says of the system's refusals that nothing is known of the replica.

    Raises:
        EngineUnreachable: instead of OSError.
    """
    try:
        yield
    except OSError as error:
        raise EngineUnreachable(f"{error.filename or root}: {error.strerror}") from error
