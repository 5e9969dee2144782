"""A replica's output on its way: pipes that its program writes to, and who copies from them into its files.

Loaded by the supervisor (:mod:`localml.engines.process.supervisor`), and so it imports next to nothing. The program
gets pipes instead of the files themselves: whoever opens ``/dev/stderr`` anew to write (``echo x > /dev/stderr``) would
cut a file off; and who writes to a pipe waits when nobody keeps up, or the disk is full. Copied by the supervisor, the
output survives the server.
"""

from __future__ import annotations

import _thread
import errno
import os
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

STREAMS = ("stdout", "stderr")
PIPE = 1 << 16
"""Bytes that a pipe takes, unless the system's user has very many of them."""
STACK = 1 << 17
GATHER = 0.002
"""Seconds between two copies of little: who writes line by line is not copied line by line."""
NEAR = 16 << 20
"""Bytes on the disk that the server has not taken over yet (:meth:`Engine.carried` gives their room back; it does so
every 8 MiB). Up to here a program is never held back. Where the file system has no holes, this is all it ever may."""
FAST, SLOWEST = 32 << 20, 4 << 20
"""Bytes a second from there on, fewer the farther it is ahead; and the fewest, so that a job comes to its end also
when no server runs."""
HELD_WAIT, FULL_WAIT, SLOW_WAIT = 2.0, 5.0, 60.0
"""Seconds after the end of a replica that its last output is waited for: if somebody outside of it holds a pipe open
(or it was told to stop), if the disk refuses it, and if the disk takes its time."""
FULL = (errno.ENOSPC, errno.EDQUOT)
PATIENCE = 30.0
"""Seconds of any other failure of the disk after which it is given up: the program is told that nobody reads."""


class Pipes:
    """The output of one replica. Made and begun by its supervisor, and given to its child in between.

    Args:
        owner: uid and gid of the program, which may open what it writes to anew only if that is its own.

    Raises:
        OSError: they cannot be made.
    """

    def __init__(self, owner: tuple[int, int] | None) -> None:
        self._copies, self._given = [], []
        for name in STREAMS:
            reading, writing = os.pipe()
            if owner is not None:
                os.fchown(writing, *owner)
            self._copies.append(Copy(name, reading))
            self._given.append(writing)

    def identities(self) -> list[tuple[int, int]]:
        """Device and inode of each, by which those are found who write to it."""
        return [(found.st_dev, found.st_ino) for found in map(os.fstat, self._given)]

    def give(self) -> None:
        """In the child: its standard output and error; the standard input is empty."""
        for number, writing in enumerate(self._given, 1):
            os.dup2(writing, number)
        os.dup2(os.open("/dev/null", os.O_RDONLY), 0)

    def begin(self) -> None:
        """Copy from now on, on threads; only after the fork, which would leave them out.

        Raises:
            OSError: the system has no room for one more thread.
        """
        _thread.stack_size(STACK)
        for writing in self._given:
            os.close(writing)
        try:
            for copy in self._copies:
                _thread.start_new_thread(copy.run, ())
        except RuntimeError as error:
            raise OSError(errno.EAGAIN, f"{error} to copy the output") from error

    def finish(self, hurried: Callable[[], bool]) -> str:
        """Wait until all that was written is in the files, after the end of the replica; what is not, in words.

        Args:
            hurried: whether there is no time to wait for a disk.
        """
        begin = time.monotonic()
        for copy in self._copies:
            copy.hurry()
        for copy in self._copies:
            while not copy.over.acquire(timeout=0.2):
                if time.monotonic() - begin > copy.patience(hurried()):
                    copy.lost = copy.lost or ("the disk takes nothing" if copy.busy else "")
                    break
        lost = [f"{copy.name} is not complete: {copy.lost}" for copy in self._copies if copy.lost]
        return "; ".join(lost)


class Copy:
    """One of the streams.

    Attributes:
        over: free once everything was copied.
        busy: whether something was read that is not in the file yet.
        lost: why something is not in the file; empty as long as all of it is.
    """

    def __init__(self, name: str, pipe: int) -> None:
        self.name = name
        self.over, self._last = _thread.allocate_lock(), _thread.allocate_lock()
        self.over.acquire()
        self._last.acquire()
        self.busy = self._ended = False
        self.lost = ""
        self._pipe = pipe
        self._file = os.open(name, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def run(self) -> None:
        """Copy until nobody can write to the pipe any more."""
        try:
            while data := os.read(self._pipe, PIPE):
                self.busy = True
                self._keep(data)
                self.busy = False
                self._last.acquire(timeout=self._pause(len(data)))
        except OSError as error:
            self.lost = error.strerror or str(error)
            os.close(self._pipe)
        finally:
            self.over.release()

    def hurry(self) -> None:
        """The replica has ended: nobody is held back any more."""
        self._ended = True
        self._last.release()

    def patience(self, hurried: bool) -> float:
        """Seconds that it is worth waiting for, after the end of the replica."""
        if hurried or not self.busy:
            return HELD_WAIT
        return FULL_WAIT if self.lost else SLOW_WAIT

    def _keep(self, data: bytes) -> None:
        """Write to the file; a full disk is waited for.

        Raises:
            OSError: the disk fails, and has done so for a while.
        """
        rest, pause, began = memoryview(data), 0.05, 0.0
        while rest:
            try:
                rest = rest[os.write(self._file, rest) :]
                pause, began = 0.05, 0.0
                self.lost = ""
            except OSError as error:
                began = began or time.monotonic()
                if error.errno not in FULL and time.monotonic() - began > PATIENCE:
                    raise
                self.lost = error.strerror or str(error)
                time.sleep(pause)
                pause = min(1.0, 2 * pause)

    def _pause(self, size: int) -> float:
        """Seconds until the next look, after so many bytes."""
        if self._ended:
            return 0.0
        ahead = os.fstat(self._file).st_blocks * 512
        if ahead <= NEAR:
            return GATHER if size < PIPE // 2 else 0.0
        return size / max(SLOWEST, FAST * NEAR / ahead)
