"""Stopping notebooks that nobody uses, so that their GPUs go to somebody who does.

A notebook with an ``idle_limit`` is asked through Jupyter's API what its kernels do. It is idle while no kernel
computes, since the last thing that a kernel or terminal did, or since the last request where there are none. An open
browser tab alone keeps nothing alive. TensorBoards only show files; for them there is the time limit.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from localml.core.clock import Clock
from localml.core.errors import Code, LocalmlError
from localml.core.identity import Caller
from localml.core.quantities import format_duration
from localml.core.states import Desired, Kind, State
from localml.core.tools import Tools
from localml.core.workloads import Full, Query, Workloads

if TYPE_CHECKING:
    from localml.control.jupyter import Activity, Jupyter

log = logging.getLogger("localml.control")

STOPPER = Caller(0, "localml", True, "", "")
"""In whose name notebooks are stopped."""
_SHORTEST_S = 5.0
_LONGEST_S = 300.0
_SILENT_S = 15.0  # when a notebook that did not answer is asked again

Look = Callable[[Full], "Activity"]


def time_left(activity: Activity, limit: float, started: float, now: float) -> float:
    """Seconds until a notebook has been idle for its limit, at the earliest; 0 or less when it has.

    Args:
        started: when the workload began to run; what a clock says that was before does not count.
    """
    if activity.busy:
        return limit
    return max(activity.last, activity.started, started) + limit - now


class IdleWatch:
    """Looks at notebooks as rarely as their limits allow, on a thread of its own. Without any it sleeps.

    Args:
        look: asks a notebook what it does; tests give one of their own.
    """

    def __init__(self, workloads: Workloads, tools: Tools, clock: Clock, look: Look | None = None) -> None:
        self._workloads = workloads
        self._tools = tools
        self._clock = clock
        self._look = look or self.look
        self._wake = threading.Event()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to watch."""
        self._thread = threading.Thread(target=self._run, name="localml-idle", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the thread."""
        self._stop.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join(timeout=5)

    def nudge(self) -> None:
        """A workload changed: perhaps a notebook began to run."""
        self._wake.set()

    def look(self, full: Full) -> Activity:
        """What a notebook does now.

        Raises:
            LocalmlError: ``WRONG_STATE`` when it does not run, ``UNAVAILABLE`` when it does not answer.
        """
        with self.jupyter(full) as jupyter:
            return jupyter.activity()

    def jupyter(self, full: Full) -> Jupyter:
        """The server of a notebook that runs.

        Raises:
            LocalmlError: ``WRONG_STATE`` when it does not run.
        """
        from localml.control.jupyter import Jupyter  # late: its HTTP client would slow the start of every server

        access = self._tools.access(full)
        if access.base is None:
            raise LocalmlError(Code.WRONG_STATE, f"{full.row.name} does not run: it is {full.row.state}")
        return Jupyter(access.base, access.token)

    def answers(self, full: Full) -> bool:
        """Whether a notebook or TensorBoard answers requests now, be it with a refusal."""
        from localml.control.jupyter import answers

        base = self._tools.access(full).base
        return base is not None and answers(base)

    def check(self) -> float | None:
        """Stop what was idle for too long. Returns the seconds until the next check; None when nothing is watched."""
        found: list[float] = []
        query = Query(kinds=(Kind.NOTEBOOK,), states=(State.RUNNING,), limit=1000)
        for row in self._workloads.page(query).items:
            left = self._check_one(self._workloads.get(row.id or 0))
            if left is not None:
                found.append(left)
        return min(max(min(found), _SHORTEST_S), _LONGEST_S) if found else None

    def _check_one(self, full: Full) -> float | None:
        limit = full.spec.idle_limit
        if limit is None or full.row.desired is Desired.STOP:
            return None
        try:
            activity = self._look(full)
        except LocalmlError as error:
            log.debug("%s: %s", full.row.name, error)
            return _SILENT_S
        left = time_left(activity, limit, full.row.started_at or 0.0, self._clock.now())
        if left > 0:
            return left
        words = f"idle for {format_duration(limit)}: no kernel did anything"
        log.info("notebook %s is stopped: %s", full.row.name, words)
        self._workloads.stop(full.row.id or 0, STOPPER, words)
        return None

    def _run(self) -> None:
        due: float | None = _SHORTEST_S
        while not self._stop.is_set():
            self._wake.wait(due)
            self._wake.clear()
            if self._stop.is_set():
                return
            try:
                due = self.check()
            except Exception:
                log.exception("looking for idle notebooks failed")
                due = _LONGEST_S
            # changes come in bursts; one look does for all of them
            self._stop.wait(_SHORTEST_S)
