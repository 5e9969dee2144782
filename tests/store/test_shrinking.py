"""After pruning the database gives its room back, and nobody waits for that."""

from __future__ import annotations

import shutil
import sqlite3
import threading
from collections import namedtuple
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlmodel import Session

from localml.core.events.records import record_event
from localml.core.subjects import PLATFORM
from localml.store import shrinking
from localml.store.database import FILE_NAME, Database
from localml.store.schema import prepare
from localml.store.shrinking import empty_journal, free_pages, make_shrinkable, shrink, size

WORDS = "what happened, in a few words that take some room " * 4
KEPT = 5 << 19
"""Bytes that a file with hardly anything in it may have: the tables, and some free pages."""


def fill(db: Database, events: int) -> None:
    def some(session: Session) -> None:
        for _ in range(5000):
            record_event(session, PLATFORM, "Told", WORDS, now=1.0)

    for _ in range(events // 5000):
        db.write(some)


def forget_all(db: Database) -> None:
    db.write(lambda session: session.execute(text("DELETE FROM event")) and None)


@pytest.fixture
def db(tmp_path: Path) -> Iterator[Database]:
    made = Database(prepare(tmp_path))
    yield made
    made.close()


def test_the_file_shrinks_after_a_hundred_thousand_rows_went(db: Database) -> None:
    fill(db, 100_000)
    forget_all(db)
    before = size(db.path)
    assert before > 20 << 20
    assert free_pages(db) > 5000
    given = shrink(db, db.path)
    assert given == before - size(db.path)
    assert size(db.path) < KEPT
    assert free_pages(db) == 0
    assert shrink(db, db.path) == 0


def test_writes_go_on_in_between(db: Database) -> None:
    fill(db, 50_000)
    forget_all(db)
    done, ended, written = threading.Event(), threading.Event(), [0]

    def write() -> None:
        while not done.is_set():
            db.write(lambda session: record_event(session, PLATFORM, "Told", "x", now=1.0))
            written[0] += 1
        ended.set()

    threading.Thread(target=write, daemon=True).start()
    shrink(db, db.path)
    done.set()
    assert ended.wait(10)
    assert written[0] > 5
    with db.read() as session:
        assert session.execute(text("SELECT count(*) FROM event")).scalar() == written[0]
    shrink(db, db.path)
    assert size(db.path) < KEPT


def test_it_stops_when_the_server_does(db: Database) -> None:
    fill(db, 20_000)
    forget_all(db)
    free = free_pages(db)
    shrink(db, db.path, lambda: True)
    assert free_pages(db) == free


def test_who_reads_for_long_is_not_waited_for_and_the_journal_is_emptied_later(db: Database) -> None:
    with db.read() as session:
        session.execute(text("SELECT count(*) FROM event")).scalar()
        fill(db, 20_000)
        assert not empty_journal(db.path)
    assert empty_journal(db.path)
    assert db.path.with_name(FILE_NAME + "-wal").stat().st_size == 0


def old(data: Path) -> Path:
    """A file of an earlier version, which keeps its size."""
    path = prepare(data)
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode=DELETE").fetchall()
        connection.execute("PRAGMA auto_vacuum=NONE")
        connection.execute("VACUUM")
        assert connection.execute("PRAGMA auto_vacuum").fetchone() == (0,)
    return path


def test_a_file_of_an_earlier_version_is_made_anew_at_the_start_and_shrinks_then(tmp_path: Path) -> None:
    with closing(Database(old(tmp_path))) as first:
        fill(first, 20_000)
        forget_all(first)
        assert free_pages(first) == 0
        shrink(first, first.path)
        assert size(first.path) > 4 << 20
    with closing(Database(prepare(tmp_path))) as again:
        assert size(again.path) < KEPT
        fill(again, 20_000)
        forget_all(again)
        assert shrink(again, again.path) > 0
        assert size(again.path) < KEPT
    assert not make_shrinkable(again.path)


Usage = namedtuple("Usage", "total used free")


def test_without_room_or_time_for_that_it_stays_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = old(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: Usage(1 << 30, 1 << 30, 1000))
        prepare(tmp_path)
    assert "there is no room" in caplog.text
    with monkeypatch.context() as patch:
        patch.setattr(shrinking, "_LARGEST", 1000)
        assert not make_shrinkable(path)
    assert "it is too large" in caplog.text
    assert make_shrinkable(path)
