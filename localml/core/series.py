"""Numeric series: points go into a buffer and to disk in batches, because losing the last second of a chart is no
loss of an acknowledged record."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import dataclass

from sqlalchemy import insert
from sqlmodel import Session, col, select

from localml.core.models import Sample, Series
from localml.core.ports import Store

FLUSH_S = 1.0
_FULL = 2000


@dataclass(frozen=True, slots=True)
class Point:
    """One value of a series; ``at`` in seconds since the epoch."""

    at: float
    value: float


class Samples:
    """Takes points in and gives them back. A thread runs only while there is something to write."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._buffer: list[tuple[int, int, float]] = []
        self._ids: dict[tuple[int, str, str], int] = {}
        self._timer: threading.Timer | None = None

    def add(self, workload_id: int, name: str, value: float, at: float, *, replica: str = "") -> None:
        """Take in one point; a second one for the same millisecond replaces the first."""
        self.add_many(workload_id, [(name, value, at)], replica=replica)

    def add_many(self, workload_id: int, points: Iterable[tuple[str, float, float]], *, replica: str = "") -> None:
        """Take in (name, value, at) points of one replica."""
        rows = [(self._series(workload_id, replica, name), int(at * 1000), value) for name, value, at in points]
        with self._lock:
            self._buffer.extend(rows)
            full = len(self._buffer) >= _FULL
            if not full and self._timer is None:
                self._timer = threading.Timer(FLUSH_S, self.flush)
                self._timer.daemon = True
                self._timer.start()
        if full:
            self.flush()

    def _series(self, workload_id: int, replica: str, name: str) -> int:
        key = (workload_id, replica, name)
        found = self._ids.get(key)
        if found is None:
            found = self._ids[key] = self._store.write(lambda session: _ensure(session, *key))
        return found

    def flush(self) -> None:
        """Write what is buffered; returns when it is on disk."""
        with self._lock:
            rows, self._buffer = self._buffer, []
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
        if not rows:
            return
        values = [{"series_id": series, "at": at, "value": value} for series, at, value in rows]
        statement = insert(Sample).prefix_with("OR REPLACE")
        self._store.write(lambda session: session.execute(statement, values) and None)

    def read(self, workload_id: int, *, since: float | None = None) -> dict[tuple[str, str], list[Point]]:
        """(replica, name) -> points in order of time."""
        self.flush()
        with self._store.read() as session:
            series = {
                one.id: (one.replica, one.name)
                for one in session.exec(select(Series).where(Series.workload_id == workload_id))
            }
            query = (
                select(Sample)
                .where(col(Sample.series_id).in_(list(series)))
                .order_by(col(Sample.series_id), col(Sample.at))
            )
            if since is not None:
                query = query.where(col(Sample.at) >= int(since * 1000))
            found: dict[tuple[str, str], list[Point]] = {key: [] for key in series.values()}
            for row in session.exec(query):
                found[series[row.series_id]].append(Point(row.at / 1000, row.value))
        return found


def _ensure(session: Session, workload_id: int, replica: str, name: str) -> int:
    query = select(Series).where(Series.workload_id == workload_id, Series.replica == replica, Series.name == name)
    row = session.exec(query).first()
    if row is None:
        row = Series(workload_id=workload_id, replica=replica, name=name)
        session.add(row)
        session.flush()
    return row.id or 0
