"""Numeric series: points go into a buffer and to disk in batches, because losing the last second of a chart is no
loss of an acknowledged record. What becomes of old points is said in :mod:`localml.core.series.thinning`."""

from __future__ import annotations

import logging
import math
import sqlite3
import threading
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import sqlalchemy
from sqlalchemy import ColumnElement, func
from sqlmodel import Session, col, select

from localml.core.errors import Code, LocalmlError
from localml.core.limits import MOST_SERIES, need_at_most
from localml.core.ports import Store
from localml.core.series.tables import Sample, Series
from localml.core.series.thinning import CHECK_EVERY, MICRO, first_due
from localml.core.sql import IDS, driver, id_list, json_text, table_of
from localml.core.subjects import Noun, Subject

log = logging.getLogger("localml.core")

FLUSH_S = 1.0
_FULL = 2000
_MOST_HELD = 100_000  # points that wait for a disk which cannot be written
_MOST_IDS = 10_000

_INSERT = "INSERT OR REPLACE INTO sample (series_id, at, value, text, note) VALUES (?, ?, ?, ?, ?)"
_OF = "subject_kind = ? AND subject_id = ?"
_KNOWN = f"SELECT id FROM series WHERE id {IDS}"
_NAMES = f"SELECT name, id FROM series WHERE {_OF} AND replica = ? AND name IN (SELECT value FROM json_each(?))"
_POSTED = f"SELECT count(*) FROM series WHERE {_OF} AND NOT measured"
_NEW_SERIES = (
    "INSERT INTO series (subject_kind, subject_id, replica, name, cumulative, measured, due, minutes_to, hours_to)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, 0, 0)"
)
_SOONER = "UPDATE series SET due = ? WHERE id = ? AND due > ?"
_CHECK = "UPDATE series SET due = 0 WHERE id = ? AND NOT measured"
_S = table_of(Sample)
_COLUMNS = (_S.c.series_id, _S.c.at, _S.c.value, _S.c.text, _S.c.note)

_Row = tuple[int, int, float | None, str | None, str | None]
_Key = tuple[Subject, str, str]
"""Subject, replica and name."""


def replica_name(role: str, index: int) -> str:
    """How the series of a workload name one of its replicas: ``worker-0``."""
    return f"{role}-{index}"


@dataclass(frozen=True, slots=True)
class Point:
    """One value of a series.

    Attributes:
        at: seconds since the epoch, exact to the microsecond.
        value: NaN where ``text`` is no number.
        text: the value as it was given, where ``value`` alone would not give it back; else empty.
        note: what came with it.
    """

    at: float
    value: float
    text: str = ""
    note: str = ""


@dataclass(frozen=True, slots=True)
class Line:
    """A series and some of its points, in order of time. ``replica`` is empty for the subject itself."""

    replica: str
    name: str
    cumulative: bool
    points: list[Point]


class Samples:
    """Takes points in and gives them back. A thread runs only while there is something to write."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._buffer: list[_Row] = []
        self._ids: dict[_Key, int] = {}
        self._unchecked: Counter[int] = Counter()
        self._timer: threading.Timer | None = None

    def add(self, subject: Subject, name: str, value: float, at: float, *, replica: str = "") -> None:
        """Take in one point; a second one for the same microsecond replaces the first."""
        self.add_many(subject, [(name, value, at)], replica=replica)

    def add_many(
        self,
        subject: Subject,
        points: Iterable[tuple[str, float, float]],
        *,
        replica: str = "",
        cumulative: bool = False,
        measured: bool = False,
    ) -> None:
        """Take in (name, value, at) points of one replica.

        Args:
            cumulative: the values are readings of counters. What a series is, its first point says.
            measured: localml took them itself, and may thin them out when they are old.
        """
        found = [(name, Point(at, value)) for name, value, at in points]
        self.add_points(subject, found, replica=replica, cumulative=cumulative, measured=measured)

    def add_points(
        self,
        subject: Subject,
        points: Iterable[tuple[str, Point]],
        *,
        replica: str = "",
        cumulative: bool = False,
        measured: bool = False,
    ) -> None:
        """As :meth:`add_many`, with texts and notes.

        Raises:
            LocalmlError: ``INVALID`` when the subject had more posted series than :data:`MOST_SERIES` then; no point is
                taken in.
        """
        self._take(self._rows(subject, points, replica, cumulative, measured))

    def add_measured(
        self,
        subject: Subject,
        replica: str,
        counters: Iterable[tuple[str, float, float]],
        gauges: Iterable[tuple[str, float, float]],
    ) -> None:
        """Take in what localml measured of one replica, (name, value, at): readers find all of it or nothing."""
        rows: list[_Row] = []
        for values, cumulative in ((counters, True), (gauges, False)):
            points = [(name, Point(at, value)) for name, value, at in values]
            rows += self._rows(subject, points, replica, cumulative, measured=True)
        self._take(rows)

    def _rows(
        self, subject: Subject, points: Iterable[tuple[str, Point]], replica: str, cumulative: bool, measured: bool
    ) -> list[_Row]:
        given = [(name, round(point.at * MICRO), point) for name, point in points]
        first = {name: at for name, at, _ in reversed(given)}
        ids = self._series(subject, replica, first, cumulative, measured)
        rows: list[_Row] = []
        for name, at, point in given:
            value = point.value if math.isfinite(point.value) else None
            rows.append((ids[name], at, value, point.text or None, point.note or None))
        return rows

    def _take(self, rows: list[_Row]) -> None:
        with self._lock:
            self._buffer.extend(rows)
            full = len(self._buffer) >= _FULL
            if not full:
                self._arm()
        if full:
            self.flush()

    def _series(
        self, subject: Subject, replica: str, first: dict[str, int], cumulative: bool, measured: bool
    ) -> dict[str, int]:
        """Name -> its series' id; those that are new are made, all in one transaction. ``first``: name -> time."""
        found = {name: self._ids.get((subject, replica, name)) for name in first}
        unknown = {name: first_due(at) if measured else None for name, at in first.items() if found[name] is None}
        if unknown:
            made = self._store.write(lambda session: _ensure(driver(session), subject, replica, unknown, cumulative))
            if len(self._ids) + len(made) > _MOST_IDS:
                self._ids.clear()
            self._ids |= {(subject, replica, name): number for name, number in made.items()}
            found |= made
        return {name: number for name, number in found.items() if number is not None}

    def _arm(self) -> None:
        if self._timer is None:
            self._timer = threading.Timer(FLUSH_S, self._flush_later)
            self._timer.daemon = True
            self._timer.start()

    def _flush_later(self) -> None:
        try:
            self.flush()
        except LocalmlError as error:
            if error.code is not Code.UNAVAILABLE:
                log.error("points of series wait to be written: %s", error)

    def flush(self) -> None:
        """Write what is buffered; returns when it is on disk.

        Raises:
            LocalmlError: ``STORAGE``, and the points are kept and tried again; ``UNAVAILABLE`` when the database is
                closed, and they are lost.
        """
        with self._lock:
            rows, self._buffer = self._buffer, []
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
        if not rows:
            return
        newest: dict[int, int] = {}
        for row in rows:
            newest[row[0]] = max(row[1], newest.get(row[0], 0))
        self._unchecked.update(row[0] for row in rows)
        if len(self._unchecked) > _MOST_IDS:  # most of them of what is over
            self._unchecked = Counter(dict(self._unchecked.most_common(_MOST_IDS // 2)))
        large = [series for series, count in self._unchecked.items() if count >= CHECK_EVERY]
        try:
            gone = self._store.write(lambda session: _write(driver(session), rows, newest, large))
        except LocalmlError as error:
            if error.code is not Code.UNAVAILABLE:  # else the server is going down, and with it these points
                with self._lock:
                    self._buffer[:0] = rows[-_MOST_HELD:]
                    self._arm()
            raise
        for series in large:
            del self._unchecked[series]
        if gone:
            self._ids = {key: series for key, series in self._ids.items() if series not in gone}

    def read(
        self, subject: Subject, *, since: float | None = None, replica: str | None = None, name: str | None = None
    ) -> dict[tuple[str, str], list[Point]]:
        """(replica, name), sorted -> points in order of time; those that are no numbers are left out.

        Args:
            since: only points of this time or later.
            replica, name: only this one's.
        """
        after = None if since is None else since - 1 / MICRO
        return {
            (line.replica, line.name): [point for point in line.points if not math.isnan(point.value)]
            for line in self.lines(subject, replica=replica, name=name, after=after)
        }

    def lines(
        self,
        subject: Subject,
        *,
        replica: str | None = None,
        name: str | None = None,
        after: float | None = None,
        until: float | None = None,
        last: int | None = None,
    ) -> list[Line]:
        """A subject's series by replica and name. Those of which no point is asked for come with none.

        Args:
            replica, name: only this one's.
            after: only points later than this (seconds since the epoch).
            until: only points of this time or earlier.
            last: only so many of these, the latest ones.
        """
        self.flush()
        which = list(_of(subject))
        if replica is not None:
            which.append(Series.replica == replica)
        if name is not None:
            which.append(Series.name == name)
        with self._store.read() as session:
            series = session.exec(select(Series).where(*which).order_by(Series.replica, Series.name)).all()
            ids = [one.id or 0 for one in series]
            if last is None:
                points = _points_of(session, ids, after, until)
            else:
                points = {one: _last_points(session, one, after, until, last) for one in ids}
        return [Line(one.replica, one.name, one.cumulative, points.get(one.id or 0, [])) for one in series]

    def latest(
        self, kind: Noun, numbers: Collection[int], names: Collection[str], *, after: float, last: int = 2
    ) -> dict[int, list[Line]]:
        """Number of a subject of this kind -> its measured series of these names, with their last points later than
        ``after``; of those that have any. What is not on disk yet is left out: a second's worth at most."""
        if not numbers:
            return {}
        listed = func.json_each(id_list(numbers)).table_valued("value")
        which = select(Series).where(
            Series.subject_kind == kind,
            col(Series.measured),
            col(Series.subject_id).in_(sqlalchemy.select(listed.c.value)),
            col(Series.name).in_(list(names)),
        )
        found: dict[int, list[Line]] = {}
        with self._store.read() as session:
            for one in session.exec(which.order_by(Series.replica, Series.name)).all():
                points = _last_points(session, one.id or 0, after, None, last)
                if points:
                    line = Line(one.replica, one.name, one.cumulative, points)
                    found.setdefault(one.subject_id, []).append(line)
        return found


def _of(subject: Subject) -> tuple[bool, bool]:
    return Series.subject_kind == subject.kind, Series.subject_id == subject.id


def _points_of(session: Session, ids: list[int], after: float | None, until: float | None) -> dict[int, list[Point]]:
    """Series -> its points, by one statement however many series there are."""
    listed = func.json_each(id_list(ids)).table_valued("value")
    query = sqlalchemy.select(*_COLUMNS).where(
        _S.c.series_id.in_(sqlalchemy.select(listed.c.value)), *_between(after, until)
    )
    found: dict[int, list[Point]] = {}
    for row in session.connection().execute(query.order_by(_S.c.series_id, _S.c.at)):
        found.setdefault(row[0], []).append(_point(row))
    return found


def _last_points(session: Session, series: int, after: float | None, until: float | None, last: int) -> list[Point]:
    query = sqlalchemy.select(*_COLUMNS).where(_S.c.series_id == series, *_between(after, until))
    rows = session.connection().execute(query.order_by(_S.c.at.desc()).limit(last)).all()
    return [_point(row) for row in reversed(rows)]


def _between(after: float | None, until: float | None) -> Iterator[ColumnElement[bool]]:
    if after is not None:
        yield _S.c.at > round(after * MICRO)
    if until is not None:
        yield _S.c.at <= round(until * MICRO)


def _point(row: Any) -> Point:
    _, at, value, text, note = row
    return Point(at / MICRO, math.nan if value is None else value, text or "", note or "")


def _write(connection: sqlite3.Connection, rows: list[_Row], newest: dict[int, int], large: list[int]) -> set[int]:
    """Insert points; returns the series that are there no more, whose points are dropped."""
    known = {row[0] for row in connection.execute(_KNOWN, (id_list(newest),))}
    connection.executemany(_INSERT, rows if len(known) == len(newest) else [row for row in rows if row[0] in known])
    sooner = [(first_due(at), series, first_due(at)) for series, at in newest.items()]
    connection.executemany(_SOONER, sooner)
    connection.executemany(_CHECK, [(series,) for series in large])
    return newest.keys() - known


def _ensure(
    connection: sqlite3.Connection, subject: Subject, replica: str, names: dict[str, int | None], cumulative: bool
) -> dict[str, int]:
    """The ids of a replica's series of these names; with each, when it is due where it is a measured one."""
    of = (subject.kind.value, subject.id)
    asked = (*of, replica, json_text(list(names)))
    known = dict(connection.execute(_NAMES, asked))
    new = {name: due for name, due in names.items() if name not in known}
    if any(due is None for due in new.values()):
        (there,) = connection.execute(_POSTED, of).fetchone()
        need_at_most("name", there + len(new), MOST_SERIES, f"series of {subject}")
    rows = [(*of, replica, name, cumulative, due is not None, due) for name, due in new.items()]
    connection.executemany(_NEW_SERIES, rows)
    if rows:
        known = dict(connection.execute(_NAMES, asked))
    return {name: known[name] for name in names}
