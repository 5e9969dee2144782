"""Reading the output that the pumps carried for metrics, from where it was read to before.

The files are the truth: what is read is written to the series first and the place second, and a point's time follows
from where its line lies. So whatever is read twice, because the server was killed in between, gives the same points.
"""

from __future__ import annotations

import threading
import time
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from sqlmodel import Session, col, select

from localml.core.logs.files import LogStore, Mark, read_at
from localml.core.logs.sources import STREAMS
from localml.core.metrics.folders import Folders, Job
from localml.core.metrics.intake import Intake
from localml.core.metrics.lines import candidates, readings
from localml.core.metrics.tables import MetricPlace
from localml.core.ports import Store
from localml.core.series.samples import Samples, replica_name
from localml.core.series.tables import Series
from localml.core.series.thinning import MICRO
from localml.core.subjects import Noun, Subject
from localml.core.work.specs import WorkloadSpec
from localml.core.work.states import TERMINAL, AttemptState, Kind
from localml.core.work.tables import Attempt, Workload, WorkloadDetail

BLOCK = 64 << 10
SPARSE = 16
"""Of lines that come faster than they are kept one in so many is looked at, and as many last ones of a block."""
KINDS = (Kind.JOB, Kind.TRIAL)
_OVER = "over"
"""The place that there is when nothing more comes."""
_MOST_OPEN, _MOST_PASSED = 500, 10_000


@dataclass(slots=True)
class Place:
    """Where reading goes on: an offset, and the time of the last point before it in microseconds since the epoch."""

    offset: int = 0
    at: int = 0

    def next_at(self, at: float) -> float:
        """The time of the next point (seconds since the epoch): never that of another one of the same source."""
        self.at = max(round(at * MICRO), self.at + 1)
        return self.at / MICRO


@dataclass(slots=True)
class _Open:
    """A workload that is read."""

    intake: Intake
    spec: WorkloadSpec
    places: dict[str, Place] = field(default_factory=dict)
    moved: bool = False

    def place(self, source: str) -> Place:
        return self.places.setdefault(source, Place())


class Metrics:
    """Reads what jobs report. One at a time: it is called by the loop that follows, and by who asks.

    Args:
        folders: reads what lies in output folders.
        own: APIs whose programs report by an API of their own, so that nothing is looked for in what they print.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        store: Store,
        logs: LogStore,
        samples: Samples,
        folders: Folders,
        *,
        own: frozenset[str] = frozenset(),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store, self._logs, self._samples, self._folders = store, logs, samples, folders
        self._own = own
        self._clock = clock
        self._lock = threading.Lock()
        self._open: OrderedDict[int, _Open] = OrderedDict()
        self._others: set[int] = set()  # what is no job

    def catch_up(self, number: int, *, seconds: float) -> bool:
        """Read what there is of a workload and was not read.

        Args:
            seconds: that it may take; more than that is only what was begun by then.

        Returns:
            Whether that was all that there is for now.

        Raises:
            LocalmlError: ``STORAGE``.
        """
        end = self._clock() + seconds
        if number in self._others:
            return True
        with self._lock:
            row, attempts = self._rows(number)
            if row is None:
                return True
            if row.kind not in KINDS or row.dialect in self._own:
                self._pass_over(number)
                return True
            one = self._opened(row)
            if _OVER in one.places:
                return True
            read = [self._attempt(number, one, attempt, end) for attempt in attempts]  # a little of each
            done = all(read)
            over = row.state in TERMINAL
            if done:
                job = Job(number, row.owner_id, one.spec, row.created_at, over)
                one.moved |= self._folders.read(job, one.intake, one.place)
            if done and over and (one.moved or one.places):
                one.place(_OVER)
                one.moved = True
            if one.moved:
                one.intake.finish()
                self._store.write(lambda session: _remember(session, number, one.places))
                one.moved = False
            return done

    def waits_for_folders(self, number: int) -> bool:
        """Whether a workload that was read writes to folders, where nothing tells that something came."""
        found = self._open.get(number)
        return found is not None and _OVER not in found.places and bool(self._folders.uris(found.spec))

    def _pass_over(self, number: int) -> None:
        if len(self._others) >= _MOST_PASSED:
            self._others.clear()
        self._others.add(number)

    def _rows(self, number: int) -> tuple[Workload | None, list[Attempt]]:
        order = col(Attempt.number), col(Attempt.role), col(Attempt.index)
        with self._store.read() as session:
            row = session.get(Workload, number)
            query = select(Attempt).where(Attempt.workload_id == number).order_by(*order)
            return row, list(session.exec(query)) if row is not None else []

    def _opened(self, row: Workload) -> _Open:
        number = row.id or 0
        found = self._open.pop(number, None) or self._begun(number)
        self._open[number] = found
        while len(self._open) > _MOST_OPEN:
            self._open.popitem(last=False)
        return found

    def _begun(self, number: int) -> _Open:
        subject = Subject.workload(number)
        own = Series.subject_kind == Noun.WORKLOAD, Series.subject_id == number, col(Series.measured).is_(False)
        with self._store.read() as session:
            known = session.exec(select(Series.replica, Series.name).where(*own)).all()
            place = session.get(MetricPlace, number)
            detail = session.get(WorkloadDetail, number)
        places = {source: Place(*said) for source, said in (place.places if place is not None else {}).items()}
        spec = WorkloadSpec.model_validate_json(detail.spec if detail is not None else "{}")
        return _Open(Intake(self._samples, subject, known), spec, places)

    # -- output ----------------------------------------------------------------------------------

    def _attempt(self, number: int, one: _Open, attempt: Attempt, end: float) -> bool:
        over = attempt.state is AttemptState.ENDED
        replica = replica_name(attempt.role, attempt.index)
        read = [self._stream(number, one, attempt.name, replica, name, over, end) for name in STREAMS]
        return all(read)

    def _stream(self, number: int, one: _Open, name: str, replica: str, stream: str, over: bool, end: float) -> bool:
        """Whether a stream was read as far as there is a whole line."""
        path = self._logs.path(number, name, stream)
        source = f"{name}.{stream}"
        size = self._logs.size(number, name, stream)
        while size > (place := one.places.get(source) or Place()).offset:
            if self._clock() >= end:
                return False
            offset = max(place.offset, self._logs.base(number, name, stream))
            block = read_at(path, offset, BLOCK)
            whole = _whole_lines(block, last=over and offset + len(block) >= size)
            if not whole:
                return True
            place = one.place(source)
            self._block(number, one.intake, name, replica, stream, offset, block[:whole], place)
            place.offset, one.moved = offset + whole, True
        return True

    def _block(
        self, number: int, intake: Intake, name: str, replica: str, stream: str, offset: int, block: bytes, place: Place
    ) -> None:
        lines = list(candidates(block))
        marks = list(_marks(self._logs, number, name, stream, offset, offset + len(block))) if lines else []
        for index, (at, line) in enumerate(lines):
            when = place.next_at(_time(marks, offset + at))  # whether it is looked at or not: see above
            if intake.floods and index % SPARSE and index < len(lines) - SPARSE:
                continue
            if found := readings(line):
                intake.take(replica, found, when)


def _whole_lines(block: bytes, *, last: bool) -> int:
    """How much of a block is whole lines; all of it where nothing more comes, or a line is longer than it."""
    if last or (len(block) == BLOCK and not (b"\n" in block or b"\r" in block)):
        return len(block)
    return max(block.rfind(b"\n"), block.rfind(b"\r")) + 1


def _marks(logs: LogStore, number: int, name: str, stream: str, start: int, end: int) -> Iterator[Mark]:
    for mark in logs.marks(number, name, stream).forwards(start):
        if mark[0] >= end:
            return
        yield mark


def _time(marks: list[Mark], offset: int) -> float:
    """When what lies at an offset was written."""
    index = bisect_right(marks, offset, key=lambda mark: mark[0])
    return marks[max(0, index - 1)][1] if marks else 0.0


def _remember(session: Session, number: int, places: dict[str, Place]) -> None:
    if session.get(Workload, number) is not None:  # it may have been pruned meanwhile
        said = {source: [place.offset, place.at] for source, place in places.items()}
        session.merge(MetricPlace(workload_id=number, places=said))
