"""Bringing the file to the current schema: made at once when new, migrated by Alembic (after a backup) when old."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import create_engine
from sqlmodel import SQLModel

import localml.core.tables  # noqa: F401  (fills the metadata)
from localml.core.errors import Code, LocalmlError
from localml.store.database import FILE_NAME, backup_file, connect_raw
from localml.store.shrinking import make_shrinkable

if TYPE_CHECKING:
    from alembic.config import Config

HEAD = "0008"
"""Newest revision under ``migrations/versions``; a test holds it against Alembic's own answer."""


def prepare(data: Path) -> Path:
    """Make sure that the database in ``data`` exists and has the current schema; returns its path.

    Raises:
        LocalmlError: ``STORAGE`` when the file is of a newer localml, or is no database.
    """
    path = data / FILE_NAME
    revision = current(path)
    if revision is None:
        create(path)
    elif revision != HEAD:
        _upgrade(path, revision)
    if revision is not None:
        make_shrinkable(path)
    return path


def current(path: Path) -> str | None:
    """The file's revision, or None when there is no schema in it yet."""
    if not path.exists() or path.stat().st_size == 0:
        return None
    connection = connect_raw(path)
    try:
        tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type='table'")}
        if "alembic_version" not in tables:
            if tables:
                raise LocalmlError(Code.STORAGE, f"{path} is not a localml database")
            return None
        row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
        return str(row[0]) if row else None
    finally:
        connection.close()


def create(path: Path) -> None:
    """Make a new file with all tables, stamped with the newest revision, in one transaction."""
    engine = create_engine("sqlite://", creator=lambda: connect_raw(path, "auto_vacuum=INCREMENTAL"))
    try:
        with engine.connect() as connection:
            connection.exec_driver_sql("BEGIN IMMEDIATE")
            SQLModel.metadata.create_all(connection)
            connection.exec_driver_sql("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL PRIMARY KEY)")
            connection.exec_driver_sql(f"INSERT INTO alembic_version VALUES ('{HEAD}')")
            connection.exec_driver_sql("COMMIT")
    finally:
        engine.dispose()


def alembic_config(path: Path) -> Config:
    """Alembic's configuration for this file, without an ini file."""
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.attributes["path"] = path
    return config


def known(path: Path, revision: str) -> None:
    """Make sure that a file's schema is one of ours.

    Raises:
        LocalmlError: ``STORAGE`` when the file is of a newer localml.
    """
    from alembic.script import ScriptDirectory
    from alembic.util import CommandError

    try:
        ScriptDirectory.from_config(alembic_config(path)).get_revision(revision)
    except CommandError as error:
        raise LocalmlError(
            Code.STORAGE,
            f"{path} was written by a newer localml (schema {revision}); upgrade localml to use it",
        ) from error


def _upgrade(path: Path, revision: str) -> None:
    from alembic import command

    known(path, revision)
    stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime())
    backup_file(path, path.parent / "backups" / f"before-{HEAD}-from-{revision}-{stamp}.db")
    command.upgrade(alembic_config(path), "head")
