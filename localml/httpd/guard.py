"""Who is let in is asked again while an answer lasts, so that nobody reads on with what was taken away meanwhile."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Final, Protocol

from localml.httpd.held import Run

log = logging.getLogger("localml.httpd")

GUARD: Final = "localml.guard"
"""Key of the WSGI environment: the :class:`Guard` of who was let in; an app that lets everybody in sets none."""
AGAIN_S: Final = 15.0
"""Seconds after which it is asked again in any case: credentials also end by themselves."""


class Guard(Protocol):
    """Knows whether who was let in would be let in still."""

    def holds(self) -> bool:
        """Ask again, if there is a reason to. May block."""

    def watch(self, wake: Callable[[], None]) -> Callable[[], None]:
        """Call ``wake`` once, on whatever thread, when there has been a reason since it was last asked; returns what
        takes that back."""


class Watch:
    """Asks a guard whenever there is a reason, for as long as this context lasts. Used on an event loop.

    Args:
        run: does what may block.
        lost: called on the loop, once, when the guard does not hold any more.
    """

    def __init__(self, guard: Guard | None, run: Run, lost: Callable[[], object]) -> None:
        self._guard, self._run, self._lost = guard, run, lost
        self._loop = asyncio.get_running_loop()
        self._asking: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._forget: Callable[[], None] = lambda: None
        self._open = True

    def __enter__(self) -> None:
        self._arm()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open = False
        self._disarm()
        if self._asking is not None:
            self._asking.cancel()

    def _arm(self) -> None:
        if self._guard is not None:
            self._timer = self._loop.call_later(AGAIN_S, self._look)
            self._forget = self._guard.watch(self._woken)

    def _disarm(self) -> None:
        self._forget()
        if self._timer is not None:
            self._timer.cancel()

    def _woken(self) -> None:
        with suppress(RuntimeError):  # the loop has ended, and with it the answer
            self._loop.call_soon_threadsafe(self._look)

    def _look(self) -> None:
        if self._open and self._asking is None and self._guard is not None:
            self._disarm()
            self._asking = self._loop.create_task(self._ask(self._guard))

    async def _ask(self, guard: Guard) -> None:
        try:
            holds = await self._run(guard.holds)
        except Exception:
            log.exception("nobody knows who is let in; an answer is cut")
            holds = False
        self._asking = None
        if holds:
            self._arm()
        else:
            self._lost()
