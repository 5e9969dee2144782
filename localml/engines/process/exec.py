"""Commands beside a replica of the process engine, attached to pipes or to a terminal of their own."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import select
import signal
import struct
import termios
import threading
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

from localml.engines.base import EngineError, ExecStream, Stream
from localml.engines.process.io import Beside, kill_session
from localml.engines.process.supervisor import start_ticks

_CHUNK = 1 << 16
_END_OF_INPUT = b"\x04"
_IN_FOLDER = ("sh", "-c", 'cd -- "$1" && shift && exec "$@"', "sh")
_GRACE_S = 1.0
# What this process ignores its children would ignore too: what Python does, and Ctrl-C in a shell's background job.
_ALL_SIGNALS = sorted(signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP})


def open_beside(beside: Beside, tty: tuple[int, int] | None) -> ExecStream:
    """Start a command; see :meth:`localml.engines.base.Engine.open`.

    Raises:
        EngineError: it cannot be started.
    """
    try:
        return _on_terminal(beside, tty) if tty else _on_pipes(beside)
    except OSError as error:
        raise EngineError(f"cannot run {beside.command[0]!r}: {error.strerror}") from error


def _on_pipes(beside: Beside) -> LocalExec:
    with ExitStack() as theirs, ExitStack() as ours:
        pipes = []
        for _ in range(3):
            reading, writing = os.pipe()
            pipes.append((reading, writing))
        for number, (reading, writing) in enumerate(pipes):
            theirs.callback(os.close, reading if number == 0 else writing)
            ours.callback(os.close, writing if number == 0 else reading)
        given = [pipes[0][0], pipes[1][1], pipes[2][1]]
        pid = _spawn(beside, [(os.POSIX_SPAWN_DUP2, one, number) for number, one in enumerate(given)])
        ours.pop_all()
    return LocalExec(pid, pipes[0][1], {pipes[1][0]: "stdout", pipes[2][0]: "stderr"}, tty=False)


def _on_terminal(beside: Beside, size: tuple[int, int]) -> LocalExec:
    with ExitStack() as theirs, ExitStack() as ours:
        terminal, other = os.openpty()
        ours.callback(os.close, terminal)
        theirs.callback(os.close, other)
        _set_size(terminal, *size)
        # A controlling terminal is the first one that the leader of a new session opens, so it opens it by its name.
        opened = [(os.POSIX_SPAWN_OPEN, number, os.ttyname(other), os.O_RDWR, 0) for number in range(3)]
        pid = _spawn(beside, opened)
        ours.pop_all()
    return LocalExec(pid, terminal, {terminal: "stdout"}, tty=True)


def _spawn(beside: Beside, files: list[tuple[Any, ...]]) -> int:
    passed = [(os.POSIX_SPAWN_DUP2, number, number) for number in beside.passed]
    return os.posix_spawnp(
        "sh",
        (*_IN_FOLDER, beside.workdir, *beside.command),
        dict(beside.env),
        file_actions=[*files, *passed],
        setsid=True,
        setsigmask=[],
        setsigdef=_ALL_SIGNALS,
    )


def _set_size(terminal: int, columns: int, rows: int) -> None:
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))


class LocalExec:
    """An :class:`localml.engines.base.ExecStream` over descriptors of this process, which it closes.

    The descriptors do not block; who waits, waits for them and for ``close``.
    """

    def __init__(self, pid: int, given: int, outputs: dict[int, Stream], *, tty: bool) -> None:
        self._pid = pid
        self._ticks = start_ticks(pid)
        self._pidfd = os.pidfd_open(pid)
        self._input: int | None = given
        self._outputs = outputs
        self._open = {given, *outputs}
        self._tty = tty
        self._wake = os.eventfd(0)
        self._reading, self._writing, self._ending = threading.Lock(), threading.Lock(), threading.Lock()
        self._using = threading.Lock()  # what is used is not closed meanwhile; nobody waits who holds it
        self._closed = False
        self._code: int | None = None
        for number in self._open:
            os.set_blocking(number, False)

    def read(self) -> tuple[Stream, bytes] | None:
        """See :class:`localml.engines.base.ExecStream`. A terminal's output ends with the command, as OpenSSH has it:
        what it left in the background may hold the terminal for ever."""
        with self._reading:
            while self._outputs and not self._closed:
                ready = _ready([*self._outputs, self._wake, *([self._pidfd] if self._tty else [])])
                found = [number for number in ready if number in self._outputs]
                for number in found:
                    stream = self._outputs[number]
                    if data := self._take(number):
                        return stream, data
                if not found and self._pidfd in ready:
                    return None
            return None

    def _take(self, number: int) -> bytes:
        try:
            data = os.read(number, _CHUNK)
        except BlockingIOError:
            return b""
        except OSError as error:
            if error.errno != errno.EIO:  # EIO: nobody has the terminal open any more
                raise
            data = b""
        if not data:
            del self._outputs[number]
        return data

    def write(self, data: bytes) -> None:
        """See :class:`localml.engines.base.ExecStream`."""
        rest = memoryview(data)
        with self._writing:
            while rest and self._input is not None and not self._closed:
                if self._input in _ready([self._wake], [self._input]):
                    try:
                        with self._using:
                            rest = rest[os.write(self._input, rest) :]
                    except BlockingIOError:
                        continue
                    except OSError:  # it reads no more
                        return

    def close_stdin(self) -> None:
        """See :class:`localml.engines.base.ExecStream`."""
        if self._tty:
            self.write(_END_OF_INPUT)
            return
        with self._writing, self._using:
            if self._input is not None and self._input in self._open:
                self._open.discard(self._input)
                os.close(self._input)
            self._input = None

    def resize(self, columns: int, rows: int) -> None:
        """See :class:`localml.engines.base.ExecStream`."""
        with self._using:
            if self._tty and not self._closed and self._input is not None:
                _set_size(self._input, columns, rows)

    def signal(self, number: int) -> None:
        """See :class:`localml.engines.base.ExecStream`; it goes to the process group in the foreground."""
        with self._using:
            if not self._closed:
                self._signal(number)

    def _signal(self, number: int) -> None:
        if self._code is not None:
            return
        with contextlib.suppress(OSError):
            foreground = os.tcgetpgrp(self._input) if self._tty and self._input is not None else 0
            # A terminal that nobody has opened yet, or whose session is over, says 0, which would be our own group.
            os.killpg(foreground or self._pid, number)

    def wait(self) -> int:
        """See :class:`localml.engines.base.ExecStream`."""
        with self._ending:
            if self._code is None:
                os.waitid(os.P_PID, self._pid, os.WEXITED | os.WNOWAIT)
                with self._using:  # from here on the number may be somebody else's
                    _, status = os.waitpid(self._pid, 0)
                    code = os.waitstatus_to_exitcode(status)
                    self._code = code if code >= 0 else 128 - code
            return self._code

    def close(self) -> None:
        """See :class:`localml.engines.base.ExecStream`. What is left of its session after a second is killed."""
        with self._using:
            if self._closed:
                return
            self._closed = True
            self._signal(signal.SIGHUP)
        os.eventfd_write(self._wake, 1)  # who reads or writes leaves
        with self._reading, self._writing, self._using:
            for number in self._open:
                os.close(number)
            self._open.clear()
        _ready([self._pidfd], timeout=_GRACE_S)
        kill_session(self._pid, self._ticks)
        if self._code is None:
            with contextlib.suppress(OSError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
        if _ready([self._pidfd], timeout=_GRACE_S):  # else it hangs in the kernel, and nobody waits for that
            self.wait()
        os.close(self._pidfd)
        os.close(self._wake)


def _ready(to_read: list[int], to_write: Sequence[int] = (), *, timeout: float | None = None) -> set[int]:
    """Those descriptors that are ready; waits for one, up to ``timeout`` seconds."""
    poll = select.poll()
    for numbers, event in ((to_read, select.POLLIN), (to_write, select.POLLOUT)):
        for number in numbers:
            poll.register(number, event)
    return {number for number, _ in poll.poll(None if timeout is None else timeout * 1000)}
