"""How supervisors come to life: forked by the zygote, or, where that cannot be used, by an interpreter of their own."""

from __future__ import annotations

import contextlib
import logging
import os
import py_compile
import signal
import socket
import sys
import threading
import time
import zlib
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from localml.engines.base import EngineError
from localml.engines.process import pipes, supervisor, zygote

_log = logging.getLogger(__name__)

_ANSWER_WAIT = 10.0
"""Seconds after which a zygote that does not answer is given up."""
_END_WAIT = 2.0
"""Seconds that a killed zygote may take to end; one that hangs in the kernel is left to it."""
ENVIRONMENT = {"LC_ALL": "C.UTF-8", "MALLOC_ARENA_MAX": "1"}


@dataclass(frozen=True, slots=True)
class Spawned:
    """A supervisor that was started: its process number, and a pidfd (the caller's to close) that is surely its own."""

    pid: int
    descriptor: int


class _Unanswered(Exception):
    """The zygote died, hangs, or could not be started."""


class _Zygote:
    """One zygote process, asked by one thread at a time."""

    def __init__(self, program: Path, *forked: Path) -> None:
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._control.settimeout(_ANSWER_WAIT)
        try:
            self._pid = os.posix_spawn(
                sys.executable,
                interpreter(program, *forked),
                ENVIRONMENT,
                file_actions=[
                    (os.POSIX_SPAWN_DUP2, theirs.fileno(), 0),
                    (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_RDWR, 0),
                ],
                setsid=True,  # Ctrl-C is not meant for it
                setsigmask=[supervisor.SIGTERM],  # held back until the supervisor can handle it
            )
        except OSError as error:
            self._control.close()
            raise _Unanswered(f"cannot start: {error.strerror}") from error
        finally:
            theirs.close()

    def fork(self, folder: Path) -> Spawned | None:
        """A supervisor for this folder; None when the system has no room for one more process.

        Raises:
            _Unanswered: this zygote is of no more use.
        """
        try:
            os.kill(self._pid, signal.SIGCONT)  # not reaped yet, so the number is its own; it may have been stopped
            self._control.send(os.fsencode(folder))
            data, descriptors, _, _ = socket.recv_fds(self._control, 256, 1, socket.MSG_CMSG_CLOEXEC)
        except OSError as error:
            raise _Unanswered(str(error) or "no answer in time") from error
        if descriptors:
            return Spawned(int(data), descriptors[0])
        if not data:
            raise _Unanswered("it ended")
        _log.warning("the zygote says: %s", data.decode(errors="replace"))
        return None

    def close(self) -> None:
        """End it; whatever it forked goes on."""
        self._control.close()
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            os.kill(self._pid, signal.SIGKILL)  # it may hang, and there is nothing that it would have to finish
            deadline = time.monotonic() + _END_WAIT
            while os.waitpid(self._pid, os.WNOHANG)[0] == 0 and time.monotonic() < deadline:
                time.sleep(0.001)


class Spawner:
    """Starts supervisors.

    Args:
        root: the folder of the replicas' folders; the programs are kept there, compiled, because a script given to
            the interpreter is compiled at each start. The names tell versions apart: an engine of another one may use
            the same root.
        boxes: the compiled program of boxes, where there are any.

    Raises:
        OSError: the programs cannot be written.
    """

    def __init__(self, root: Path, *boxes: Path) -> None:
        self._forked = (compiled(supervisor, root), compiled(pipes, root), *boxes)
        self._program = compiled(zygote, root)
        self._lock = threading.Lock()
        self._zygote: _Zygote | None = None
        self._usable = True

    def warm_up(self) -> None:
        """Let the zygote begin now, so that the first replica does not wait for it; returns at once."""
        with self._lock, contextlib.suppress(_Unanswered):
            if self._usable and self._zygote is None:
                self._zygote = _Zygote(self._program, *self._forked)

    def spawn(self, folder: Path) -> Spawned:
        """Start a supervisor for a replica's folder, in a session of its own.

        Raises:
            EngineError: the system refuses.
        """
        try:
            return self._fork(folder) or self._start_anew(folder)
        except OSError as error:
            raise EngineError(f"cannot start {folder.name}: {error.strerror}") from error

    def close(self) -> None:
        """End the zygote. Supervisors go on."""
        with self._lock:
            self._usable = False
            self._drop()

    def _fork(self, folder: Path) -> Spawned | None:
        """Ask the zygote, and if it is of no more use a new one; None when neither answers."""
        with self._lock:
            for _ in range(2):
                if not self._usable:
                    return None
                fresh = self._zygote is None
                try:
                    self._zygote = self._zygote or _Zygote(self._program, *self._forked)
                    return self._zygote.fork(folder)
                except _Unanswered as error:
                    self._drop()
                    if fresh:
                        self._usable = False
                        _log.warning("supervisors are started anew from now on: the zygote failed: %s", error)
            return None

    def _drop(self) -> None:
        if self._zygote is not None:
            self._zygote.close()
            self._zygote = None

    def _start_anew(self, folder: Path) -> Spawned:
        """A supervisor with an interpreter of its own."""
        notes = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        pid = os.posix_spawn(
            sys.executable,
            interpreter(self._forked[0], folder, self._forked[1]),
            ENVIRONMENT,
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
                (os.POSIX_SPAWN_OPEN, 2, f"{folder}/notes", notes, 0o600),
            ],
            setsid=True,
            setsigmask=[supervisor.SIGTERM],
        )
        return Spawned(pid, os.pidfd_open(pid))  # a child that nobody has reaped: the number is its own


def interpreter(*words: object) -> list[str]:
    """The command that runs a compiled program, without anything that the user or site would add."""
    return [sys.executable, "-I", "-S", "-E", *map(str, words)]


def compiled(module: ModuleType, root: Path) -> Path:
    """The compiled program of a module, in the folder of the replicas' folders; written anew.

    Raises:
        OSError: it cannot be.
    """
    source = Path(str(module.__file__))
    version = zlib.crc32(source.read_bytes())
    program = root / f".{source.stem}-{sys.implementation.cache_tag}-{version:08x}.pyc"
    py_compile.compile(str(source), str(program), doraise=True)
    return program
