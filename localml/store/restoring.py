"""Going back to a backup of the database, while no server runs on the data directory.

Nothing of what has come since is deleted: the database is set aside, and so are output, buckets and folders of users
that the backup knows nothing of, which would else be taken for those of later ones. Numbers of workloads and buckets
that were given since are not given again, because containers, folders and vendors' clients know what they name.
"""

from __future__ import annotations

import os
import re
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from localml.core.errors import Code, LocalmlError, invalid, not_found
from localml.store.database import FILE_NAME, backup_file
from localml.store.lock import DataLock
from localml.store.schema import current, known

BACKUPS = "backups"
_SECRET = "secret.key"
_OVER = "('succeeded', 'failed', 'stopped')"
_STREAM = re.compile(r"\.std(out|err)(\..*)?\Z")
"""What stands behind the name of a try in the names of its files."""


@dataclass(frozen=True, slots=True)
class Restored:
    """What was done. ``aside`` is the folder with what was there before, None where there was nothing, and ``moved``
    files and folders that came since. ``live`` workloads were not over when the backup was made."""

    source: Path
    aside: Path | None
    moved: int
    live: int


def restore(data: Path, given: Path, now: float) -> Restored:
    """Put a backup in the database's place.

    Args:
        given: the file, or its name in the data directory's ``backups``.

    Raises:
        LocalmlError: ``NOT_FOUND``, ``INVALID`` when it is no sound backup or another installation's, ``CONFLICT``
            when a server runs, ``STORAGE``.
    """
    source = given if given.exists() or given.is_absolute() else data / BACKUPS / given
    install = _checked(source)
    if not (data / _SECRET).exists():
        words = "has no secret.key: copy it there first, with logs, buckets and models, from where the backup was made"
        raise invalid("data", f"{data} {words}")
    lock = DataLock(data)
    try:
        return _replace(data, source, install, now)
    except OSError as error:
        raise LocalmlError(Code.STORAGE, f"{data}: {error.strerror or error}") from error
    finally:
        lock.release()


def _checked(source: Path) -> str:
    """The installation that a backup is of, if it can be used."""
    if not source.is_file():
        raise not_found("backup", source)
    try:
        with closing(_read_only(source)) as file:
            found = str(file.execute("PRAGMA quick_check(1)").fetchone()[0])
            if found != "ok":
                raise invalid("backup", f"{source} is damaged: {found}")
            revision = str(file.execute("SELECT version_num FROM alembic_version").fetchone()[0])
            install = _install(file)
    except (sqlite3.DatabaseError, TypeError) as error:
        raise invalid("backup", f"{source} is no database of localml: {error}") from error
    known(source, revision)
    return install


def _read_only(path: Path) -> sqlite3.Connection:
    """A backup is one file, to which nobody writes; this leaves no other beside it."""
    return sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro&immutable=1", uri=True)


def _install(file: sqlite3.Connection) -> str:
    return str(file.execute("SELECT value FROM meta WHERE key = 'install'").fetchone()[0])


def _replace(data: Path, source: Path, install: str, now: float) -> Restored:
    target, part = data / FILE_NAME, data / f"{FILE_NAME}.part"
    aside = _set_aside(data, target, install, now) if current(target) else None
    part.unlink(missing_ok=True)
    with closing(_read_only(source)) as origin, closing(sqlite3.connect(part)) as copy:
        origin.backup(copy)
    with closing(sqlite3.connect(part, isolation_level=None)) as file:
        if aside is not None:
            _keep_numbers(aside / FILE_NAME, file)
        then = _Known.of(file)
        live = int(file.execute(f"SELECT count(*) FROM workload WHERE state NOT IN {_OVER}").fetchone()[0])
        file.execute("PRAGMA journal_mode=DELETE").close()
    moved = 0
    if aside is not None:
        with closing(_read_only(aside / FILE_NAME)) as file:
            moved = _move(data, list(_strangers(data, _Known.of(file), then)), aside)
    for path in (part, data):
        _sync(path)
    part.replace(target)
    _sync(data)
    return Restored(source, aside, moved, live)


def _set_aside(data: Path, target: Path, install: str, now: float) -> Path:
    """Copy the database that there is, and leave nothing of its journal, which is not the backup's."""
    with closing(sqlite3.connect(target, isolation_level=None)) as file:
        own = _install(file)
        if own != install:
            raise invalid("backup", f"is of another installation ({install}, and this one is {own})")
        file.execute("PRAGMA journal_mode=DELETE").close()
    stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime(now))
    aside, number = data / BACKUPS / f"before-restore-{stamp}", 1
    while aside.exists():
        number += 1
        aside = data / BACKUPS / f"before-restore-{stamp}-{number}"
    aside.mkdir(parents=True)
    backup_file(target, aside / FILE_NAME)
    with closing(sqlite3.connect(target, isolation_level=None)) as file:
        file.execute("PRAGMA journal_mode=DELETE").close()
    return aside


def _keep_numbers(before: Path, file: sqlite3.Connection) -> None:
    with closing(_read_only(before)) as old:
        given = old.execute("SELECT name, seq FROM sqlite_sequence").fetchall()
    for name, number in given:
        file.execute("UPDATE sqlite_sequence SET seq = max(seq, ?) WHERE name = ?", (number, name))
        file.execute(
            "INSERT INTO sqlite_sequence (name, seq) SELECT name, ? FROM sqlite_master WHERE name = ?"
            " AND sql LIKE '%AUTOINCREMENT%' AND name NOT IN (SELECT name FROM sqlite_sequence)",
            (number, name),
        )


@dataclass(frozen=True, slots=True)
class _Known:
    """What a database knows of what lies in files: tries by name, users by number, buckets by name, with their ids."""

    tries: frozenset[str]
    users: frozenset[str]
    buckets: dict[str, int]

    @classmethod
    def of(cls, file: sqlite3.Connection) -> _Known:
        tables = {row[0] for row in file.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        buckets = file.execute("SELECT name, id FROM bucket").fetchall() if "bucket" in tables else []
        names = (str(row[0]) for row in file.execute("SELECT name FROM attempt"))
        users = (str(row[0]) for row in file.execute('SELECT id FROM "user"'))
        return cls(frozenset(names), frozenset(users), dict(buckets))


def _strangers(data: Path, now: _Known, then: _Known) -> Iterator[Path]:
    """What came since: output of tries that are not known, folders of users, and buckets that another one's may be by
    now, or that would be taken for everybody's."""
    for path in data.glob("logs/*/*"):
        if _STREAM.sub("", path.name) not in then.tries:
            yield path
    for path in data.glob("folders/*"):
        if path.name in now.users - then.users:
            yield path
    for name, number in now.buckets.items():
        if then.buckets.get(name) != number and (path := data / "buckets" / name).exists():
            yield path


def _move(data: Path, paths: list[Path], aside: Path) -> int:
    for path in paths:
        place = aside / path.relative_to(data)
        place.parent.mkdir(parents=True, exist_ok=True)
        path.replace(place)
    return len(paths)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
