"""What takes long and is done on threads for the loop of studies: questions to suggesters, and reading."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor
from contextlib import suppress
from typing import TypeVar

from localml.control.jobs.crew import Crew
from localml.core.errors import LocalmlError

T = TypeVar("T")
Taken = Callable[[T | None, Exception | None], None]
"""Told what an errand returned, or what it raised."""
LATE_S = 5.0
"""Seconds after which an algorithm that is asked holds up no other one."""
_RELIEF_S = 1.0
_MOST_WORDS = 8000


class Errands:
    """Does errands for studies, and gives what came of them to the loop, which alone changes what it knows.

    Args:
        nudge: called, from the errand's thread, when something came of one.
        asks, reads: the threads for suggesters and for the rest; tests give ones that work at once.
    """

    def __init__(self, nudge: Callable[[], None], asks: Executor | None = None, reads: Executor | None = None) -> None:
        self._nudge = nudge
        self._asks = asks or Crew(8, "localml-suggest", late=LATE_S)
        self._reads = reads or Crew(4, "localml-results")
        self._done: deque[Callable[[], int]] = deque()

    def ask(self, study: int, act: Callable[[], T], taken: Taken[T]) -> None:
        """Do something that waits for a suggester."""
        self._run(self._asks, study, act, taken)

    def read(self, study: int, act: Callable[[], T], taken: Taken[T]) -> None:
        """Do something that reads."""
        self._run(self._reads, study, act, taken)

    def take(self) -> set[int]:
        """Take in all that came; returns the studies that it was for."""
        found = set()
        while self._done:
            found.add(self._done.popleft()())
        return found

    def relieve(self) -> list[float]:
        """Let those that take too long hold up nobody. Seconds until this is to be done again, if somebody waits."""
        crews = [one for one in (self._asks, self._reads) if isinstance(one, Crew)]
        return [_RELIEF_S for crew in crews if crew.relieve()]

    def close(self) -> None:
        """Take no more. What is under way goes on; nobody waits for it."""
        for crew in (self._asks, self._reads):
            crew.shutdown(wait=False, cancel_futures=True)

    def _run(self, crew: Executor, study: int, act: Callable[[], T], taken: Taken[T]) -> None:
        def work() -> None:
            value, error = None, None
            try:
                value = act()
            except Exception as failure:
                error = failure

            def take_in() -> int:
                taken(value, error)
                return study

            self._done.append(take_in)
            self._nudge()

        with suppress(RuntimeError):  # shut down
            crew.submit(work)


def words_of(error: Exception) -> str:
    """Why a suggester failed: its words, and its own traceback where it is somebody's code."""
    if not isinstance(error, LocalmlError):
        return f"a defect of localml, not of the algorithm: {error!r}"
    traceback = str(error.details.get("traceback") or "").strip()
    return f"{error.message}\n{traceback}"[:_MOST_WORDS].strip()
