"""Alembic's environment: one SQLite file, given as ``config.attributes['path']``."""

from typing import Any, Literal

from alembic import context
from sqlalchemy import Connection
from sqlalchemy.pool import StaticPool
from sqlmodel import SQLModel

from localml.core.errors import Code, LocalmlError
from localml.core.rows import EnumText
from localml.store.database import open_engine


def render_item(kind: str, item: Any, _context: Any) -> str | Literal[False]:
    """Write our own column types as the plain types that they are in the file."""
    return "sa.String()" if kind == "type" and isinstance(item, EnumText) else False


def check_references(connection: Connection) -> None:
    """Refuse what would leave rows that refer to none; then nothing of the migration is kept."""
    broken = connection.exec_driver_sql("PRAGMA foreign_key_check").fetchall()
    if broken:
        words = ", ".join(sorted({f"{table} -> {parent}" for table, _, parent, _ in broken}))
        path = context.config.attributes["path"]
        raise LocalmlError(Code.STORAGE, f"{path} was not upgraded: it has rows that refer to none ({words})")


engine = open_engine(context.config.attributes["path"], "BEGIN IMMEDIATE", poolclass=StaticPool)
try:
    with engine.connect() as connection:
        # a table that others refer to is made anew and put in its own place: what they refer to is checked at the end
        connection.connection.cursor().execute("PRAGMA foreign_keys=OFF")
        context.configure(
            connection=connection,
            target_metadata=SQLModel.metadata,
            render_as_batch=True,
            render_item=render_item,
            compare_type=True,
            transactional_ddl=True,
        )
        with context.begin_transaction():
            context.run_migrations()
            check_references(connection)
finally:
    engine.dispose()
