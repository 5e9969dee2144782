"""Running the user's programs as children: signals go through, exit statuses come back."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FrameType

FORWARDED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)


class Runner:
    """Runs one child at a time and hands on the signals that the launcher gets.

    ``stopped_by`` is the first signal that asked to end (TERM, INT, HUP, QUIT), None until then: a signal between two
    children is not lost, the next step looks at it.
    """

    def __init__(self) -> None:
        self.stopped_by: int | None = None
        self._child: subprocess.Popen[bytes] | None = None
        self._starting = False
        self._held: list[int] = []  # came while the child was being made

    @contextmanager
    def forwarding(self) -> Iterator[None]:
        """While inside, signals go to the child that runs, if one does."""
        before = {number: signal.signal(number, self._forward) for number in FORWARDED}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

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
            status = child.wait()
        finally:
            self._child = None
        return 128 - status if status < 0 else status
