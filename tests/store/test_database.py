"""The one writer: what is acknowledged is on disk, what fails fails alone."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlmodel import Session, select

from localml.core.errors import Code, LocalmlError
from localml.core.rows import Meta
from localml.store.database import FILE_NAME, Database
from localml.store.schema import prepare


@pytest.fixture
def db(tmp_path: Path) -> Iterator[Database]:
    one = Database(prepare(tmp_path))
    yield one
    one.close()


def put(key: str) -> object:
    return lambda session: session.add(Meta(key=key, value="x"))


def keys(path: Path) -> set[str]:
    with sqlite3.connect(path) as other:
        return {row[0] for row in other.execute("SELECT key FROM meta")}


def test_an_acknowledged_write_is_seen_by_another_connection(db: Database) -> None:
    db.write(put("a"))
    assert keys(db.path) == {"a"}


def test_every_commit_is_synced_to_disk(db: Database) -> None:
    with db.read() as session:
        assert session.connection().exec_driver_sql("PRAGMA synchronous").scalar() == 2
        assert session.connection().exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert session.connection().exec_driver_sql("PRAGMA foreign_keys").scalar() == 1


def test_a_write_that_fails_takes_nothing_with_it_and_nobody_else(db: Database) -> None:
    started, go = threading.Event(), threading.Event()

    def slow(session: Session) -> None:
        started.set()
        go.wait(60)

    first = db.submit(slow)
    started.wait(60)

    def broken(session: Session) -> None:
        session.add(Meta(key="half", value="x"))
        session.flush()
        raise ValueError("no")

    group = [db.submit(put("a")), db.submit(broken), db.submit(put("b"))]  # all in the next group
    go.set()
    first.result(60)
    group[0].result(60)
    with pytest.raises(ValueError, match="no"):
        group[1].result(60)
    group[2].result(60)
    assert keys(db.path) == {"a", "b"}


def test_a_reader_sees_one_moment(db: Database) -> None:
    with db.read() as session:
        assert session.exec(select(Meta)).all() == []
        db.write(put("a"))
        assert session.exec(select(Meta)).all() == []
    with db.read() as session:
        assert len(session.exec(select(Meta)).all()) == 1


def test_eight_writers_lose_nothing(db: Database) -> None:
    def work(k: int) -> None:
        for n in range(50):
            db.write(put(f"{k}-{n}"))

    threads = [threading.Thread(target=work, args=(k,)) for k in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(keys(db.path)) == 400


def test_a_full_disk_is_told_and_nothing_is_stored(db: Database) -> None:
    def small(session: Session) -> None:
        session.connection().exec_driver_sql("PRAGMA max_page_count=1")

    db.write(put("before"))
    db.write(small)
    with pytest.raises(LocalmlError, match="disk is full") as caught:
        db.write(lambda session: session.add(Meta(key="big", value="x" * 100_000)))
    assert caught.value.code is Code.STORAGE
    db.write(lambda session: session.connection().exec_driver_sql("PRAGMA max_page_count=1073741823"))
    db.write(put("after"))
    assert keys(db.path) == {"before", "after"}


def test_closing_finishes_what_waits_and_refuses_more(tmp_path: Path) -> None:
    db = Database(prepare(tmp_path))
    futures = [db.submit(put(str(n))) for n in range(20)]
    db.close()
    assert all(future.done() for future in futures)
    assert len(keys(db.path)) == 20
    with pytest.raises(LocalmlError) as caught:
        db.write(put("late"))
    assert caught.value.code is Code.UNAVAILABLE
    db.close()


def test_a_backup_of_the_live_file_is_whole(db: Database, tmp_path: Path) -> None:
    db.write(put("a"))
    target = tmp_path / "backups" / "one.db"
    db.backup(target)
    assert keys(target) == {"a"}
    assert not (tmp_path / "backups" / "one.db.part").exists()
    assert db.path.name == FILE_NAME
