"""Who waits, in lines of equals."""

from __future__ import annotations

from bisect import bisect_left, insort

from localml.control.jobs.demands import Line, Rank, Waiting


class Queue:
    """Waiting workloads that nothing holds back but others: ``lines`` of those with the same pool, needs and limit.

    Attributes:
        lines: the ranks of each line, the smallest first; no line is empty.
        jobs: all of them by number.
    """

    def __init__(self) -> None:
        self.lines: dict[Line, list[Rank]] = {}
        self.jobs: dict[int, Waiting] = {}

    def add(self, job: Waiting) -> None:
        """One more, or another value for one that is there."""
        self.remove(job.id)
        self.jobs[job.id] = job
        insort(self.lines.setdefault(job.line, []), job.rank)

    def remove(self, number: int) -> None:
        """One less, if it was there."""
        job = self.jobs.pop(number, None)
        if job is None:
            return
        ranks = self.lines[job.line]
        del ranks[bisect_left(ranks, job.rank)]
        if not ranks:
            del self.lines[job.line]
