"""The SQLite file: many readers, one writer that commits in groups.

A write is a function of a session. It runs on the writer's thread inside a savepoint of a transaction that it
shares with the other writes waiting at that moment; :meth:`Database.write` returns when that transaction is on
disk (``synchronous=FULL``). So an acknowledged write survives a crash, eight clients share one fsync, and no
read transaction is ever upgraded. A write that raises is rolled back alone.
"""

from __future__ import annotations

import queue
import sqlite3
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final, TypeVar

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import QueuePool, StaticPool
from sqlmodel import Session

from localml.core.errors import Code, LocalmlError
from localml.core.failpoints import FAILPOINTS
from localml.core.sql import DRIVER, driver, json_text
from localml.store.changes import Changes, Key

T = TypeVar("T")

FILE_NAME = "localml.db"
_MAX_GROUP: Final = 256
_BUSY_MS: Final = 10_000
_JOURNAL: Final = 32 << 20
"""Bytes that the journal keeps when it begins anew, however long a reader had let it grow."""


def connect_raw(path: Path, *first: str) -> sqlite3.Connection:
    """A plain connection with the pragmas that every connection to the file uses.

    Args:
        first: pragmas that must come before these.
    """
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    for pragma in first:
        connection.execute(f"PRAGMA {pragma}").close()
    _pragmas(connection)
    return connection


def _pragmas(connection: Any) -> None:
    for pragma in (
        "journal_mode=WAL",
        "synchronous=FULL",
        "foreign_keys=ON",
        f"busy_timeout={_BUSY_MS}",
        "cache_size=-2000",  # KiB for each connection; the kernel keeps the file's pages anyway
        "temp_store=MEMORY",
        f"journal_size_limit={_JOURNAL}",
    ):
        connection.execute(f"PRAGMA {pragma}").close()


def open_engine(path: Path, begin: str | None, **pool: Any) -> Engine:
    """An SQLAlchemy engine whose transactions start with ``begin`` (None: the user of the connection sees to it)."""
    engine = create_engine(
        "sqlite://", creator=lambda: connect_raw(path), json_serializer=json_text, future=True, **pool
    )

    if begin is not None:
        # sqlite3 itself is told never to begin (isolation_level None): the kind of transaction is ours to choose
        event.listen(engine, "begin", lambda connection: connection.exec_driver_sql(begin) and None)
    return engine


class _Write:
    """One function waiting for its turn, and where its result goes."""

    __slots__ = ("act", "future")

    def __init__(self, act: Callable[[Session], Any]) -> None:
        self.act = act
        self.future: Future[Any] = Future()


class Database:
    """An open database file.

    Args:
        path: the file; it must already have the current schema (see :mod:`localml.store.schema`).
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._readers = open_engine(path, "BEGIN", poolclass=QueuePool, pool_size=8, max_overflow=56, pool_timeout=30)
        self._writer = open_engine(path, None, poolclass=StaticPool)
        self._connection: Connection | None = None
        self._changes: Changes | None = None
        self._queue: queue.SimpleQueue[_Write | None] = queue.SimpleQueue()
        self._closed = False
        self._close_lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="localml-writer", daemon=True)
        self._thread.start()

    @contextmanager
    def read(self) -> Iterator[Session]:
        """A session on one consistent snapshot. Rows stay usable after it is closed."""
        with Session(self._readers, expire_on_commit=False) as session:
            try:
                yield session
            finally:
                session.expunge_all()

    @contextmanager
    def read_raw(self) -> Iterator[sqlite3.Connection]:
        """The driver's own connection on one consistent snapshot, for reads that are done all the time."""
        connection = self._readers.raw_connection()
        try:
            raw = connection.driver_connection
            assert isinstance(raw, sqlite3.Connection)
            raw.execute("BEGIN").close()
            try:
                yield raw
            finally:
                raw.execute("ROLLBACK").close()
        finally:
            connection.close()

    def follow(self, tables: Mapping[str, str], told: Callable[[], None] = lambda: None) -> Changes:
        """From now on, tell which rows commits change; see :class:`localml.store.changes.Changes`.

        There is one follower: an earlier one hears no more.
        """
        changes = Changes(tables, told)

        def install(session: Session) -> None:
            changes.install(driver(session))
            self._changes = changes

        self.write(install)
        return changes

    def write(self, act: Callable[[Session], T]) -> T:
        """Run ``act`` in a write transaction and return its result once that is on disk.

        Raises:
            LocalmlError: ``STORAGE`` when the file cannot be written (disk full, I/O error), ``UNAVAILABLE`` when the
                database is closed; nothing was stored then. Whatever ``act`` raises is raised here.
        """
        return self.submit(act).result()

    def submit(self, act: Callable[[Session], T]) -> Future[T]:
        """Like :meth:`write`, but returns at once."""
        job = _Write(act)
        with self._close_lock:
            if self._closed:
                raise LocalmlError(Code.UNAVAILABLE, "the server is shutting down")
            self._queue.put(job)
        return job.future

    def close(self) -> None:
        """Finish the writes that wait, then close the file."""
        with self._close_lock:
            if self._closed:
                return
            self._closed = True
            self._queue.put(None)
        self._thread.join()
        if self._connection is not None:
            self._connection.close()
        self._readers.dispose()
        self._writer.dispose()

    def backup(self, target: Path) -> None:
        """Copy the live database to ``target`` while it goes on being used."""
        backup_file(self.path, target)

    def _run(self) -> None:
        while True:
            first = self._queue.get()
            if first is None:
                return
            group, last = self._group(first)
            self._commit(group)
            if last:
                return

    def _group(self, first: _Write) -> tuple[list[_Write], bool]:
        group = [first]
        while len(group) < _MAX_GROUP:
            try:
                job = self._queue.get_nowait()
            except queue.Empty:
                return group, False
            if job is None:
                return group, True
            group.append(job)
        return group, False

    def _commit(self, group: list[_Write]) -> None:
        done: list[tuple[_Write, Any]] = []
        noted: list[tuple[str, Key]] = []
        try:
            with self._transaction() as (connection, raw):
                for job in group:
                    try:
                        done.append((job, self._one(connection, raw, job)))
                    except BaseException as error:
                        if _storage(error) is not None:
                            raise
                        job.future.set_exception(error)
                if self._changes is not None:
                    noted = self._changes.noted(raw)
                FAILPOINTS.hit("before-commit")
        except Exception as error:
            failure = _readable(error)
            for job in group:
                if not job.future.done():
                    job.future.set_exception(failure)
            return
        FAILPOINTS.hit("after-commit")
        if self._changes is not None:
            self._changes.publish(noted)
        for job, result in done:
            job.future.set_result(result)

    @contextmanager
    def _transaction(self) -> Iterator[tuple[Connection, sqlite3.Connection]]:
        """BEGIN and COMMIT said to the driver itself; SQLAlchemy only keeps count."""
        if self._connection is None:
            self._connection = self._writer.connect()
        raw = self._connection.connection.driver_connection
        assert isinstance(raw, sqlite3.Connection)
        raw.execute("BEGIN IMMEDIATE").close()
        try:
            with self._connection.begin():
                yield self._connection, raw
                raw.execute("COMMIT").close()
        except BaseException:
            with suppress(sqlite3.Error):
                if raw.in_transaction:
                    raw.execute("ROLLBACK").close()
            raise

    @staticmethod
    def _one(connection: Connection, raw: sqlite3.Connection, job: _Write) -> Any:
        # the session joins with a savepoint of its own, but only if it is used for more than the driver's connection
        session = Session(
            connection, join_transaction_mode="create_savepoint", expire_on_commit=False, info={DRIVER: raw}
        )
        raw.execute("SAVEPOINT job").close()
        try:
            result = job.act(session)
            session.commit()
            session.expunge_all()
        except BaseException:
            # a full disk makes SQLite roll the whole transaction back, savepoints and all: these fail too then
            with suppress(DBAPIError, sqlite3.Error):
                session.close()
                raw.execute("ROLLBACK TO job").close()
                raw.execute("RELEASE job").close()
            raise
        session.close()
        raw.execute("RELEASE job").close()
        return result


_STORAGE_MARKS = ("disk is full", "disk i/o error", "readonly database", "unable to open")


def _storage(error: BaseException | None) -> sqlite3.Error | None:
    """The failure of the disk behind an error, if there is one; what is raised while rolling back hides it."""
    while error is not None:
        original = error.orig if isinstance(error, DBAPIError) else error
        if isinstance(original, sqlite3.Error) and any(mark in str(original).lower() for mark in _STORAGE_MARKS):
            return original
        error = error.__cause__ or error.__context__
    return None


def _readable(error: Exception) -> Exception:
    failure = _storage(error) or (error.orig if isinstance(error, DBAPIError) else error)
    if isinstance(failure, sqlite3.Error):
        return LocalmlError(Code.STORAGE, f"the database could not be written ({failure}); nothing was stored")
    return error


def backup_file(source: Path, target: Path) -> None:
    """Copy a database file with SQLite's own online backup, through a temporary name."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(target.name + ".part")
    temporary.unlink(missing_ok=True)
    origin, copy = connect_raw(source), sqlite3.connect(temporary)
    try:
        origin.backup(copy)
        copy.execute("PRAGMA journal_mode=DELETE").close()
    finally:
        copy.close()
        origin.close()
    temporary.replace(target)
