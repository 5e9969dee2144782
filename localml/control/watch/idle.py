"""Stopping notebooks and TensorBoards that nobody uses, so that their GPUs go to somebody who does.

A notebook with an ``idle_limit`` is asked through Jupyter's API what its kernels do. It is idle while no kernel
computes, since the last thing that a kernel or terminal did, or since the last request where there are none. An open
browser tab alone keeps nothing alive.

A TensorBoard of ours is asked when it last let a request through. A page that reloads by itself counts as use;
TensorBoard's does so where its settings say it, while it can be seen. One that only stays open does not. What others'
TensorBoards do is not known; they are let be.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from localml.control.serving.peers import stranger
from localml.control.worker import Worker
from localml.core.clock import Clock
from localml.core.errors import Code, LocalmlError
from localml.core.instances.tools import Tools
from localml.core.people.identity import Caller
from localml.core.quantities import format_duration
from localml.core.work.states import Desired, Kind, State
from localml.core.work.workloads import Full, Query, Workloads

if TYPE_CHECKING:
    from localml.control.watch.jupyter import Activity, Jupyter
    from localml.control.watch.tensorboard import Use

log = logging.getLogger("localml.control")

STOPPER = Caller(0, "localml", True, "", "")
"""In whose name they are stopped."""
_SHORTEST_S = 5.0
_LONGEST_S = 300.0
_SILENT_S = 15.0  # when one that did not answer is asked again
_NOTHING = {Kind.NOTEBOOK: "no kernel did anything", Kind.TENSORBOARD: "nobody looked at it"}

Look = Callable[[Full], "Activity | Use | None"]


def time_left(activity: Activity | Use, limit: float, started: float, now: float) -> float:
    """Seconds until a workload has been idle for its limit, at the earliest; 0 or less when it has.

    Args:
        started: when the workload began to run; what a clock says that was before does not count.
    """
    if activity.busy:
        return limit
    return max(activity.last, activity.started, started) + limit - now


class IdleWatch:
    """Looks at them as rarely as their limits allow, on a thread of its own. Without any it sleeps.

    Args:
        look: asks a notebook or TensorBoard what it does; tests give one of their own.
        shared: whether they have ports of the machine's, which others may take.
    """

    def __init__(
        self, workloads: Workloads, tools: Tools, clock: Clock, look: Look | None = None, *, shared: bool = False
    ) -> None:
        self._workloads = workloads
        self._tools = tools
        self._clock = clock
        self._shared = shared
        self._look = look or self.look
        self._untold: set[tuple[int, int]] = set()  # workload and try of those that do not tell
        # changes come in bursts; one look does for all of them
        words = "looking for idle notebooks and TensorBoards"
        self._worker = Worker("idle", lambda: self.check(), what=words, rest=_SHORTEST_S)

    def start(self) -> None:
        """Begin to watch."""
        self._worker.start(after=_SHORTEST_S)

    def close(self) -> None:
        """End the thread."""
        self._worker.close()

    def nudge(self) -> None:
        """A workload changed: perhaps one began to run."""
        self._worker.nudge()

    def look(self, full: Full) -> Activity | Use | None:
        """What a notebook or TensorBoard does now; None for a TensorBoard that does not tell.

        Raises:
            LocalmlError: ``WRONG_STATE`` when it does not run, ``UNAVAILABLE`` when it does not answer.
        """
        if full.row.kind is Kind.TENSORBOARD:
            from localml.control.watch.tensorboard import last_use

            return last_use(*self._address(full))
        return self.jupyter(full).activity()

    def jupyter(self, full: Full) -> Jupyter:
        """The server of a notebook that runs.

        Raises:
            LocalmlError: ``WRONG_STATE`` when it does not run.
        """
        from localml.control.watch.jupyter import Jupyter  # late: its HTTP client would slow the start of every server

        return Jupyter(*self._address(full))

    def idle_for(self, activity: Activity | Use) -> float:
        """Seconds for which nothing was done; 0 while something is."""
        return 0.0 if activity.busy else max(0.0, self._clock.now() - max(activity.last, activity.started))

    def answers(self, full: Full) -> bool:
        """Whether a notebook or TensorBoard answers requests now, be it with a refusal."""
        from localml.control.watch.jupyter import answers
        from localml.control.watch.tensorboard import ACTIVITY_PATH

        base = self._tools.access(full).base
        path = ACTIVITY_PATH if full.row.kind is Kind.TENSORBOARD else ""  # another one would count as use
        return base is not None and not self._stranger(full) and answers(base + path)

    def _stranger(self, full: Full) -> str:
        """Who listens at its port in its place, and is sent no token; see :func:`stranger`."""
        port = self._tools.access(full).port
        return stranger(port, full.row.id or 0, "") if self._shared and port is not None else ""

    def check(self) -> float | None:
        """Stop what was idle for too long. Returns the seconds until the next check; None when nothing is watched."""
        found: list[float] = []
        query = Query(kinds=tuple(_NOTHING), states=(State.RUNNING,), limit=1000)
        rows = self._workloads.page(query).items
        self._untold &= {(row.id or 0, row.attempt) for row in rows}
        for row in rows:
            left = self._check_one(self._workloads.get(row.id or 0))
            if left is not None:
                found.append(left)
        return min(max(min(found), _SHORTEST_S), _LONGEST_S) if found else None

    def _check_one(self, full: Full) -> float | None:
        limit = full.spec.idle_limit
        number, attempt = full.row.id or 0, full.row.attempt
        if limit is None or full.row.desired is Desired.STOP or (number, attempt) in self._untold:
            return None
        try:
            activity = self._look(full)
        except LocalmlError as error:
            log.debug("%s: %s", full.row.name, error)
            return _SILENT_S
        if activity is None:
            self._untold.add((number, attempt))
            log.debug("%s does not tell when it was used; its idle limit is left aside", full.row.name)
            return None
        left = time_left(activity, limit, full.row.started_at or 0.0, self._clock.now())
        if left > 0:
            return left
        words = f"idle for {format_duration(limit)}: {_NOTHING[full.row.kind]}"
        log.info("%s %s is stopped: %s", full.row.kind, full.row.name, words)
        self._workloads.stop(number, STOPPER, words)
        return None

    def _address(self, full: Full) -> tuple[str, str]:
        access = self._tools.access(full)
        if access.base is None:
            raise LocalmlError(Code.WRONG_STATE, f"{full.row.name} does not run: it is {full.row.state}")
        if who := self._stranger(full):
            words = f"{full.row.name} cannot be reached: {who} listens at its port {access.port}"
            raise LocalmlError(Code.UNAVAILABLE, words)
        return access.base, access.token
