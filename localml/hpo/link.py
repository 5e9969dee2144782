"""The pipes to an algorithm's process: a line asks, a line answers, and nothing waits longer than it may."""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import threading
import time
from contextlib import suppress
from typing import Any

_BLOCK = 64 << 10
MOST_OUTPUT = 8 << 10
"""Bytes of what a process printed last that are kept."""
MOST_ANSWER = 32 << 20
"""Bytes of an answer."""
_LOOK_S = 0.5
"""How often who waits for an answer looks whether another thread has ended the process."""
_END_S = 5.0
"""How long what is ended may take to end all that it began."""
_LAST_WORDS_S = 1.0
"""How long a process that hangs may take to say where."""


class Broken(Exception):
    """A process that has not answered: it ended, hung, or wrote what is no answer. It is killed by then."""


class Link:
    """The server's end. One thread asks at a time; any may end it meanwhile.

    Args:
        child: with pipes for stdin, stdout and stderr, and a session of its own.
    """

    def __init__(self, child: subprocess.Popen[bytes]) -> None:
        assert child.stdin is not None
        assert child.stdout is not None
        assert child.stderr is not None
        self._child = child
        self._stdin, self._stdout, self._stderr = child.stdin, child.stdout, child.stderr
        self._answer = bytearray()
        self._printed = bytearray()
        self._ends = threading.RLock()  # held by who uses the pipes: nobody closes them under its hands
        self._ending = threading.Lock()
        self._killed = False
        for pipe in (self._stdin, self._stdout, self._stderr):
            os.set_blocking(pipe.fileno(), False)

    @property
    def printed(self) -> str:
        """The end of what it printed."""
        return self._printed.decode(errors="replace").strip()

    def call(self, request: dict[str, Any], seconds: float) -> dict[str, Any]:
        """Ask and wait for the answer.

        Raises:
            Broken: there was none.
        """
        with self._ends:
            if self._killed:
                raise Broken("was ended")
            line = self._exchange(json.dumps(request).encode() + b"\n", time.monotonic() + seconds, seconds)
        try:
            answer = json.loads(line)
        except (ValueError, RecursionError):
            answer = None
        if not isinstance(answer, dict):
            self.kill()
            raise Broken(f"wrote what is no answer: {line[:200].decode(errors='replace')!r}")
        return answer

    def _exchange(self, request: bytes, deadline: float, seconds: float) -> bytes:
        waiting = memoryview(request)
        with selectors.DefaultSelector() as ready:
            ready.register(self._stdin, selectors.EVENT_WRITE)
            ready.register(self._stdout, selectors.EVENT_READ)
            ready.register(self._stderr, selectors.EVENT_READ)
            while b"\n" not in self._answer:
                keys = ready.select(min(max(deadline - time.monotonic(), 0), _LOOK_S))
                if self._killed:
                    raise Broken("was ended")
                if not keys and time.monotonic() >= deadline:
                    raise self._hung(seconds)
                for key, _ in keys:
                    if key.fileobj is self._stdin:
                        waiting = self._send(waiting)
                        if not waiting:
                            ready.unregister(self._stdin)
                    elif not self._receive(key.fileobj is self._stdout):
                        if key.fileobj is self._stdout:
                            raise self._ended()
                        ready.unregister(key.fileobj)
        line, _, rest = bytes(self._answer).partition(b"\n")
        self._answer = bytearray(rest)
        return line

    def _send(self, waiting: memoryview) -> memoryview:
        try:
            return waiting[os.write(self._stdin.fileno(), waiting[:_BLOCK]) :]
        except BlockingIOError:
            return waiting
        except OSError:  # it ended, which stdout tells, perhaps after its last words
            return waiting[len(waiting) :]

    def _receive(self, answer: bool) -> bool:
        """Read what there is; False at the end."""
        found = os.read((self._stdout if answer else self._stderr).fileno(), _BLOCK)
        if answer:
            self._answer += found
            if len(self._answer) > MOST_ANSWER:
                self.kill()
                raise Broken(f"answered with more than {MOST_ANSWER >> 20} MiB")
        else:
            self._printed += found
            del self._printed[:-MOST_OUTPUT]
        return bool(found)

    def _ended(self) -> Broken:
        deadline = time.monotonic() + _LAST_WORDS_S
        look = os.WEXITED | os.WNOHANG | os.WNOWAIT
        while self._child.returncode is None and os.waitid(os.P_PID, self._child.pid, look) is None:
            if time.monotonic() > deadline:
                break
            time.sleep(0.005)
        self.kill()
        code = self._child.returncode
        how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit status {code}"
        return Broken(how)

    def _hung(self, seconds: float) -> Broken:
        """Let it say where it is (by its fault handler), and end it."""
        with suppress(ProcessLookupError):
            os.killpg(self._child.pid, signal.SIGUSR1)
        deadline = time.monotonic() + _LAST_WORDS_S
        with selectors.DefaultSelector() as ready:
            ready.register(self._stderr, selectors.EVENT_READ)
            while "most recent call first" not in self.printed:
                if not ready.select(max(deadline - time.monotonic(), 0)) or not self._receive(False):
                    break
        self.kill()
        return Broken(f"did not answer within {seconds:g} seconds and was ended")

    def kill(self) -> None:
        """End the process and what it began, and reap it. May be called again."""
        with self._ending:
            if self._child.returncode is None:  # once it is reaped its number may be another's
                self._end()
            self._killed = True
        with self._ends:
            if not self._stderr.closed:
                self._drain()
            for stream in (self._stderr, self._stdin, self._stdout):
                with suppress(OSError):  # what was not sent any more
                    stream.close()

    def _end(self) -> None:
        """It may be a guard (:mod:`localml.hpo.side.guard`), which ends what is below it."""
        self._child.terminate()
        try:
            self._child.wait(_END_S)
        except subprocess.TimeoutExpired:
            with suppress(ProcessLookupError):
                os.killpg(self._child.pid, signal.SIGKILL)
            self._child.wait()

    def _drain(self) -> None:
        """What it printed last: it can print no more."""
        with suppress(BlockingIOError, ValueError):
            while self._receive(False):
                pass
