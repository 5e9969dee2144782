"""The loop around everything that looks again and again: one thread that runs a ``tick`` and then sleeps.

It sleeps until somebody nudges or the time comes that the tick itself named; with nothing to wait for it sleeps until
it is nudged, so an idle server does nothing. A nudge that comes while a tick runs brings another tick. Whatever a tick
raises is told and tried again: the thread ends with :meth:`Worker.close` and in no other way.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from localml.core.errors import LocalmlError

log = logging.getLogger("localml.control")

Tick = Callable[[], float | None]
"""One pass. Returns the seconds until the next one is due, None when only a nudge can bring work."""

STORAGE_RETRY_S = 1.0
FIRST_RETRY_S, LAST_RETRY_S = 0.25, 5.0
"""After a defect: the first rest, and the longest that rests grow to while it stays."""
LONG_TICK_S = 0.02
_LONGEST_BREATH_S = 0.25
_LONGEST_WAIT_S = 86_400.0
"""Of one wait for a time that is further away: a lock takes no more than some centuries."""
_JOIN_S = 5.0


@dataclass(frozen=True, slots=True)
class Pause:
    """What comes between two ticks.

    Attributes:
        rest: seconds in which nudges are only gathered.
        wait: seconds that are then waited for a nudge; None: for as long as it takes.
    """

    rest: float
    wait: float | None


class Worker:
    """Runs a tick on a thread of its own.

    Args:
        name: of the thread, behind ``localml-``.
        tick: see :data:`Tick`; only ever called by one thread at a time.
        what: the work in words, for the log: "serving".
        rest: seconds between two ticks at least, for work whose nudges come in bursts.
        settle: seconds between a nudge and its tick, so that what is over at once needs none. The time that the last
            tick named is kept all the same.
        news: asked every ``every`` seconds while a time is waited for; true brings the next tick at once.
        spent: seconds of processor time of the calling thread; for tests.
    """

    def __init__(
        self,
        name: str,
        tick: Tick,
        *,
        what: str,
        rest: float = 0.0,
        settle: float = 0.0,
        news: Callable[[], bool] = lambda: False,
        every: float | None = None,
        spent: Callable[[], float] = time.thread_time,
    ) -> None:
        self._name = name
        self._tick = tick
        self._what = what
        self._least = rest
        self._settle = settle
        self._news = news
        self._every = every
        self._spent = spent
        self._failures = 0
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        self.stopping = threading.Event()
        """Set by :meth:`close`; a tick that takes long looks at it."""

    # -- life ------------------------------------------------------------------------------------

    def start(self, after: float = 0.0) -> None:
        """Begin. The first tick comes after so many seconds, or with the first nudge.

        Once begun, or closed, this does nothing.
        """
        with self._lock:
            if self._thread is None and not self.stopping.is_set():
                self._thread = threading.Thread(
                    target=self._run, args=(after,), name=f"localml-{self._name}", daemon=True
                )
                self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread is not None and self._thread.is_alive()

    def nudge(self) -> None:
        """Something changed: look soon. Costs next to nothing."""
        self._wake.set()

    def close(self) -> None:
        """End the thread, after the tick at hand if that takes no longer than a few seconds."""
        with self._lock:
            self.stopping.set()
        self._wake.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(timeout=_JOIN_S)

    def _run(self, after: float) -> None:
        pause = Pause(0.0, after)
        while self._sleep(pause):
            pause = self.turn()

    # -- one turn --------------------------------------------------------------------------------

    def turn(self) -> Pause:
        """One tick, whatever comes of it, and the pause that it earned."""
        self._wake.clear()
        began = self._spent()
        pause = self._safely()
        spent = self._spent() - began
        # long ticks take at most half of the time, so that a burst of nudges leaves room for everybody else
        breath = min(spent, _LONGEST_BREATH_S) if spent > LONG_TICK_S else 0.0
        return Pause(max(pause.rest, breath), pause.wait)

    def _safely(self) -> Pause:
        try:
            delay = self._tick()
        except LocalmlError as error:  # a full disk, say: nothing is wrong with the work itself
            log.error("%s waits: %s", self._what, error)
            return Pause(max(self._least, STORAGE_RETRY_S), 0.0)
        except Exception:
            if self.stopping.is_set():  # what it works with was closed, because it took too long
                log.debug("%s was cut off", self._what, exc_info=True)
                return Pause(self._least, None)
            again = min(LAST_RETRY_S, FIRST_RETRY_S * 2.0**self._failures)
            self._failures = min(self._failures + 1, 30)
            log.exception("%s failed; tried again in %g s", self._what, again)
            return Pause(max(self._least, again), 0.0)
        self._failures = 0
        return Pause(self._least, delay)

    # -- between ticks ---------------------------------------------------------------------------

    def _sleep(self, pause: Pause) -> bool:
        """Wait as a pause says. False when the thread shall end."""
        due = None if pause.wait is None else time.monotonic() + pause.rest + pause.wait
        if not self.stopping.wait(pause.rest) and self._nudged(due) and self._settle:
            self.stopping.wait(self._settle if due is None else max(0.0, min(self._settle, due - time.monotonic())))
        return not self.stopping.is_set()

    def _nudged(self, due: float | None) -> bool:
        """Wait for a nudge (true), for news, or until it is time."""
        while not self._wake.wait(self._step(due)):
            if due is None or time.monotonic() >= due or self._news():
                return False
        return True

    def _step(self, due: float | None) -> float | None:
        if due is None:
            return None
        left = min(max(0.0, due - time.monotonic()), _LONGEST_WAIT_S)
        return left if self._every is None else min(self._every, left)
