"""What becomes of old points, so that years of use do not fill the disk.

Series that localml measures are kept as they are for six hours, as one point a minute for 30 days and as one an hour
for a year; then they go. One point of several is their mean, with the mean of their times; of a counter it is the
last reading. What users post is theirs: it stays as it was given for as long as the workload's records do, and only a
series that grows beyond :data:`MOST_GIVEN` points is thinned out, its oldest ones to half as many. What endpoints did
is kept for 30 days.

The work is done in short transactions, one window of one series each, whenever :func:`thin` is called.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby

from sqlalchemy import delete, exists
from sqlmodel import Session, col, select

from localml.core.ports import Store
from localml.core.series.tables import Series
from localml.core.serving.tables import Variant, VariantSample
from localml.core.sql import driver

MICRO = 1_000_000
_MINUTE, _HOUR, _DAY = 60 * MICRO, 3600 * MICRO, 24 * 3600 * MICRO

MOST_GIVEN = 100_000
"""Points of a posted series that are kept as they are."""
CHECK_EVERY = 20_000
"""After so many new points a posted series is counted."""
_BATCH = 100
_STRETCH = 2_000  # points of a posted series that are thinned out in one transaction

_Row = tuple[int, float | None, str | None, str | None]


@dataclass(frozen=True, slots=True)
class Stage:
    """From an age on (microseconds) there is one point in each ``width``; done a ``window`` at a time."""

    mark: str  # the column that says how far this was done
    age: int
    width: int
    window: int

    def due(self, first: int) -> int:
        """When the window is to be done in which this point lies, the first one that was not."""
        return self.start(first) + self.window + self.age

    def start(self, first: int) -> int:
        """Where that window begins."""
        return first // self.width * self.width


MINUTES = Stage("minutes_to", age=6 * _HOUR, width=_MINUTE, window=_HOUR)
HOURS = Stage("hours_to", age=30 * _DAY, width=_HOUR, window=_DAY)
STAGES = (MINUTES, HOURS)
KEPT = 365 * _DAY
VARIANTS_KEPT_S = 30 * 86400


def first_due(at: int) -> int:
    """When a measured point of this time is first looked at again; both in microseconds since the epoch."""
    return MINUTES.due(at)


def thin(store: Store, now: float, stopped: Callable[[], bool] = lambda: False) -> int:
    """Do what is due at ``now`` (seconds since the epoch); returns how many steps that took.

    Every step is a transaction of a few milliseconds, and safe to interrupt.

    Args:
        stopped: asked between steps; True ends the work early.
    """
    _drop_variants(store, int((now - VARIANTS_KEPT_S) * 1000))
    moment, steps = int(now * MICRO), 0
    due = select(col(Series.id)).where(col(Series.due) <= moment).order_by(col(Series.due)).limit(_BATCH)
    while True:
        with store.read() as session:
            numbers = [number for number in session.exec(due) if number is not None]
        for number in numbers:
            if stopped():
                return steps
            store.write(lambda session, number=number: _step(session, number, moment))  # type: ignore[misc]
            steps += 1
        if not numbers:
            return steps


def _drop_variants(store: Store, end: int) -> None:
    """Drop what variants did before ``end`` (milliseconds since the epoch); nothing is written if there is none."""
    old = exists().where(col(VariantSample.variant_id) == col(Variant.id), col(VariantSample.at) < end)
    with store.read() as session:
        numbers = list(session.exec(select(col(Variant.id)).where(old)))
    for number in numbers:
        gone = delete(VariantSample).where(col(VariantSample.variant_id) == number, col(VariantSample.at) < end)
        store.write(lambda session, gone=gone: session.execute(gone) and None)  # type: ignore[misc]


def _step(session: Session, number: int, now: int) -> None:
    """One window of one series, and when the next one is due."""
    series = session.get(Series, number)
    if series is None:
        return
    connection = driver(session)
    if not series.measured:
        _thin_given(connection, series)
        return
    for stage in STAGES:
        first = _first(connection, number, getattr(series, stage.mark))
        if first is not None and stage.due(first) <= now:
            start = stage.start(first)
            _merge(connection, series, start, start + stage.window, stage.width)
            setattr(series, stage.mark, start + stage.window)
            break
    else:
        connection.execute("DELETE FROM sample WHERE series_id = ? AND at <= ?", (number, now - KEPT))
    series.due = _next_due(connection, series, now)
    if series.due is None:
        session.delete(series)


def _next_due(connection: sqlite3.Connection, series: Series, now: int) -> int | None:
    """None when the series has no points left."""
    number = series.id or 0
    oldest = _first(connection, number, 0)
    if oldest is None:
        return None
    moments = [max(oldest + KEPT, now - KEPT) + _DAY]
    for stage in STAGES:
        first = _first(connection, number, getattr(series, stage.mark))
        if first is not None:
            moments.append(stage.due(first))
    return min(moments)


def _first(connection: sqlite3.Connection, series: int, at: int) -> int | None:
    query = "SELECT min(at) FROM sample WHERE series_id = ? AND at >= ?"
    found = connection.execute(query, (series, at)).fetchone()[0]
    return None if found is None else int(found)


def _thin_given(connection: sqlite3.Connection, series: Series) -> None:
    """The next stretch of a posted series, from its oldest points on, while it has too many."""
    number = series.id or 0
    (count,) = connection.execute("SELECT count(*) FROM sample WHERE series_id = ?", (number,)).fetchone()
    query = "SELECT at FROM sample WHERE series_id = ? AND at >= ? ORDER BY at LIMIT ?"
    times = [row[0] for row in connection.execute(query, (number, series.minutes_to, _STRETCH))]
    if count <= MOST_GIVEN or len(times) < _STRETCH:
        series.due, series.minutes_to = None, 0
        return
    start, end = times[0], times[-1]
    _merge(connection, series, start, end, max(1, 2 * (end - start) // _STRETCH))
    series.minutes_to = end


def _merge(connection: sqlite3.Connection, series: Series, start: int, end: int, width: int) -> None:
    """Replace the points from ``start`` to before ``end`` by one for each ``width``."""
    bounds = (series.id, start, end)
    query = "SELECT at, value, text, note FROM sample WHERE series_id = ? AND at >= ? AND at < ? ORDER BY at"
    rows = connection.execute(query, bounds).fetchall()
    fewer = list(merged(rows, width, cumulative=series.cumulative))
    if len(fewer) < len(rows):
        connection.execute("DELETE FROM sample WHERE series_id = ? AND at >= ? AND at < ?", bounds)
        insert = "INSERT INTO sample (series_id, at, value, text, note) VALUES (?, ?, ?, ?, ?)"
        connection.executemany(insert, [(series.id, *row) for row in fewer])


def merged(rows: Iterable[_Row], width: int, *, cumulative: bool) -> Iterator[_Row]:
    """One point for each ``width`` of time in which there are any; a point that is alone stays as it is.

    Args:
        rows: (time, number, text, note) in order of time; those without a number stay.
        width: in the unit of the times.
        cumulative: the last point stands for the others, not their mean.
    """
    for _, group in groupby(rows, key=lambda row: row[0] // width):
        points = list(group)
        numbers = [(row[0], row[1]) for row in points if row[1] is not None]
        if len(numbers) > 1 and cumulative:
            last = numbers[-1][0]
            points = [row for row in points if row[1] is None or row[0] == last]
        elif len(numbers) > 1:
            texts = [row for row in points if row[1] is None]
            at = sum(time for time, _ in numbers) // len(numbers)
            if any(row[0] == at for row in texts):
                at = numbers[-1][0]
            mean: _Row = (at, sum(value for _, value in numbers) / len(numbers), None, None)
            points = sorted([*texts, mean], key=lambda row: row[0])
        yield from points
