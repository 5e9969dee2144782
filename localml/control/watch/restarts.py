"""Runs that are wanted and had to wait: of an instance that was started again while its last run was still ending."""

from __future__ import annotations

import logging

from localml.control.worker import Worker
from localml.core.errors import Code, LocalmlError
from localml.core.instances.instances import Instances

log = logging.getLogger("localml.control")

_AGAIN_S = 0.25
"""While a run is waited for: nobody tells when the engine has let go of it."""


class Restarts:
    """Begins them once the run before is over. With none to begin its thread sleeps, and changes cost nothing.

    The wish is on disk before this hears of it, and its first look finds what an earlier server left.
    """

    def __init__(self, instances: Instances) -> None:
        self._instances = instances
        self._waiting = False
        self._worker = Worker("restarts", self.tick, what="starting again what was stopped")
        instances.nudge = self._wanted

    def start(self) -> None:
        """Begin to look."""
        self._worker.start()

    def close(self) -> None:
        """End the thread."""
        self._worker.close()

    def _wanted(self) -> None:
        self._waiting = True
        self._worker.nudge()

    def changed(self) -> None:
        """A workload changed: perhaps the run that is waited for is over."""
        if self._waiting:
            self._worker.nudge()

    def tick(self) -> float | None:
        """Begin what can begin now."""
        self._waiting = False  # before looking: who wants one meanwhile sets it again
        for one in self._instances.pending():
            try:
                begun = self._instances.advance(one)
            except LocalmlError as error:
                if error.code is Code.STORAGE:
                    raise  # it concerns all of them; tried again
                log.warning("%s %s is not started again: %s", one.row.kind, one.row.name, error)
            else:
                self._waiting |= not begun
        return _AGAIN_S if self._waiting else None
