"""Questions that the loop itself asks, and waits for only so long: an engine that hangs is one that does not answer."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from localml.control.jobs.crew import Crew
from localml.engines.base import EngineUnreachable

T = TypeVar("T")

ANSWER_S = 20.0
"""A list of a thousand containers takes a slow daemon a few seconds."""
AGAIN_S = 60.0
"""After which a question that hangs is given up, and asked anew. Until then nothing is asked, and nobody waits."""


class Asker:
    """Asks one question at a time, on a thread of its own.

    Args:
        whom: in words, for the error.
    """

    def __init__(
        self,
        whom: str,
        *,
        patience: float = ANSWER_S,
        again: float = AGAIN_S,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._whom = whom
        self._patience = patience
        self._again = again
        self._now = now
        self._crew = Crew(1, "localml-ask", late=again, now=now)
        self._open: Future[Any] | None = None
        self._since = 0.0

    def __call__(self, question: Callable[[], T]) -> T:
        """The answer, or what the question raised.

        Raises:
            EngineUnreachable: there is none in time, or an earlier question has not been answered yet.
        """
        if self._open is not None and not self._open.done() and self._now() - self._since < self._again:
            raise EngineUnreachable(f"{self._whom} has not answered for {self._now() - self._since:.0f} s")
        began, asked = self._now(), self._crew.submit(question)
        self._open = None
        try:
            answer: T = asked.result(timeout=self._patience)
        except TimeoutError:
            if asked.done():  # the question's own
                raise
            self._open, self._since = asked, began
            raise EngineUnreachable(f"{self._whom} gave no answer within {self._patience:g} s") from None
        return answer
