"""Running the user's programs as children: signals go through, exit statuses come back."""

from __future__ import annotations

import os
import select
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FrameType

FORWARDED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)


class Runner:
    """Runs one child at a time, inside :meth:`forwarding`, and hands on the signals that the launcher gets.

    ``stopped_by`` is the first signal that asked to end (TERM, INT, HUP, QUIT), None until then: a signal between two
    children is not lost, the next step looks at it.
    """

    def __init__(self) -> None:
        self.stopped_by: int | None = None
        self._child: subprocess.Popen[bytes] | None = None
        self._starting = False
        self._held: list[int] = []  # came while the child was being made
        self._came = -1

    @contextmanager
    def forwarding(self) -> Iterator[None]:
        """While inside, signals go to the child that runs, if one does."""
        self._came, came = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        before = {number: signal.signal(number, self._forward) for number in FORWARDED}
        before[signal.SIGCHLD] = signal.signal(signal.SIGCHLD, lambda *_: None)  # without a handler nothing is told
        wakeup = signal.set_wakeup_fd(came, warn_on_full_buffer=False)
        try:
            yield
        finally:
            signal.set_wakeup_fd(wakeup)
            for number, handler in before.items():
                signal.signal(number, handler)
            os.close(self._came)
            os.close(came)

    def _forward(self, number: int, frame: FrameType | None) -> None:
        if number not in (signal.SIGUSR1, signal.SIGUSR2) and self.stopped_by is None:
            self.stopped_by = number
        if self._child is not None:
            self._child.send_signal(number)
        elif self._starting:
            self._held.append(number)

    def run(self, command: Sequence[str] | str, env: Mapping[str, str]) -> int:
        """Run a program (a sequence) or a shell command (a string) and wait for it.

        Returns:
            Its exit code, or 128 + the number of the signal that ended it, as a shell would say.
        """
        self._starting = True
        try:
            child = self._child = subprocess.Popen(command, shell=isinstance(command, str), env=dict(env))
        finally:
            self._starting = False
        try:
            while self._held:
                child.send_signal(self._held.pop(0))
            status = self._wait(child)
        finally:
            self._child = None
        return 128 - status if status < 0 else status

    def _wait(self, child: subprocess.Popen[bytes]) -> int:
        """Its exit status. ``child.wait()`` would hold back a signal that comes just before it blocks until the end."""
        while (status := child.poll()) is None:
            select.select([self._came], [], [])
            os.read(self._came, 4096)
        return status
