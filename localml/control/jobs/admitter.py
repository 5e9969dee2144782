"""Admission kept going between ticks: a pass over the queue is made anew only when what it rests on has changed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from localml.control.jobs.admission import Pass
from localml.control.jobs.demands import Node, Placement, Rank, Reason
from localml.control.jobs.holdings import Machine, holders_of, nodes_of, pools_of
from localml.control.jobs.picture import News, Picture
from localml.control.jobs.snapshot import Unit

_FIRST: Rank = (-(1 << 62), 0)


class Admitter:
    """Says who of the picture's queue may start.

    A newcomer that stands behind everybody who was looked at is looked at alone, by the pass that refused the others:
    nothing became free since. Whatever may let somebody else start (an end, a limit, a GPU, somebody who leaves the
    queue, a newcomer who goes before others) brings a whole pass.

    Args:
        machines: asked every time for the machines and their size.
        spread: whether the replicas of one workload may be on several machines.
    """

    def __init__(self, picture: Picture, machines: Callable[[], Sequence[Machine]], *, spread: bool = False) -> None:
        self._picture = picture
        self.machines = machines
        self._spread = spread
        self._pass: Pass | None = None
        self._basis: object = None
        self._frontier = _FIRST
        self._newcomers: set[int] = set()

    def note(self, news: News) -> None:
        """The picture was refreshed."""
        if news.turned:
            self._pass = None
        self._newcomers |= news.changed

    def placements(self, lost: Mapping[str, str], now: float) -> dict[int, Placement]:
        """Who starts now, and where; the caller writes it down, and refreshes the picture before it asks again."""
        machines = tuple(self.machines())
        if (machines, lost) != self._basis:
            self._pass, self._basis = None, (machines, dict(lost))
        newcomers, self._newcomers = self._newcomers, set()
        if not self._picture.queue.jobs:
            return {}
        found = None if self._pass is None else self._one_by_one(self._pass, newcomers, now)
        if found is None:
            found = self._all(machines, lost, now)
        if found:
            self._pass = None  # whether they really were placed is not known here
        return found

    def _all(self, machines: Sequence[Machine], lost: Mapping[str, str], now: float) -> dict[int, Placement]:
        self._pass = turn = self._fresh(machines, lost, now)
        found = turn.run(self._picture.queue)
        self._frontier = max(ranks[-1] for ranks in self._picture.queue.lines.values())
        return found

    def _one_by_one(self, turn: Pass, newcomers: set[int], now: float) -> dict[int, Placement] | None:
        """Let a pass go on with these; None when their turn was earlier, so that what came after may change."""
        queue = self._picture.queue
        jobs = sorted((queue.jobs[one] for one in newcomers if one in queue.jobs), key=lambda job: job.rank)
        jobs = [job for job in jobs if not turn.settled(job)]
        if jobs and jobs[0].rank <= self._frontier:
            return None
        turn.now = now
        found: dict[int, Placement] = {}
        for job in jobs:
            answer = turn.consider(job)
            if isinstance(answer, Placement):
                found[job.id] = answer
            self._frontier = job.rank
        return found

    def _fresh(self, machines: Sequence[Machine], lost: Mapping[str, str], now: float) -> Pass:
        picture = self._picture
        live = picture.live.values()
        return Pass(
            self.nodes(machines, lost),
            pools_of(live, picture.specs, picture.limits),
            holders_of(live, picture.specs),
            now,
            spread=self._spread,
        )

    def nodes(self, machines: Sequence[Machine], lost: Mapping[str, str]) -> list[Node]:
        """The machines and what is free on each."""
        picture = self._picture
        return nodes_of(picture.live.values(), picture.specs, machines, picture.limits, lost)

    def reason(self, unit: Unit, lost: Mapping[str, str], now: float) -> Reason | None:
        """Why a waiting workload waits, from a fresh pass up to its turn; None when it would start now."""
        hold = self._picture.hold(unit, now)
        if hold:
            return Reason("hold", hold)
        turn = self._fresh(tuple(self.machines()), lost, now)
        return turn.reason(self._picture.queue, self._picture.as_waiting(unit))
