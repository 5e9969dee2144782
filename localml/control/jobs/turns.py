"""Turns: many pumps carry output, one at a time, and together no faster than leaves the interpreter to others.

Threads that want the interpreter without a pause get it for 5 ms each, and whoever answers a request waits for all of
them, again and again: with eight programs that write all the time a submission took 30 times as long as usual. One
after the other they carry four times as much; with a pause after each piece others notice next to nothing.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

TOGETHER = 64 << 20
"""Bytes a second that all carry while several want to; one alone is not held back. Programs of the process engine that
write more wait (:mod:`localml.engines.process.pipes`); Docker's daemon keeps it until it is read."""
_LONGEST_S = 1.0
"""Nobody waits longer for a turn: who has it may hang in a disk."""


class Turns:
    """One at a time.

    Args:
        pause: waits so many seconds.
    """

    def __init__(self, pause: Callable[[float], object] = time.sleep) -> None:
        self._turn = threading.Lock()
        self._pause = pause

    @contextmanager
    def turn(self, size: int) -> Iterator[None]:
        """Ours, for so many bytes; somebody who had to wait for it lets some time go by before the next one's."""
        alone = self._turn.acquire(blocking=False)
        held = alone or self._turn.acquire(timeout=_LONGEST_S)
        try:
            yield
            if not alone:
                self._pause(size / TOGETHER)
        finally:
            if held:
                self._turn.release()
