"""Inserts, guarded updates and whole-table reads on the hot paths, as SQL text that is run by SQLite's own driver.

SQLAlchemy builds, hashes and post-processes every statement; on the path of a submission, and in each pass of the
control loop, that costs several times what SQLite itself takes. Tables and types still come from the models.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any

from sqlalchemy import Table
from sqlalchemy.dialects.sqlite.pysqlite import SQLiteDialect_pysqlite
from sqlmodel import Session, SQLModel

DRIVER = "sqlite3"
"""Under this name a session's ``info`` holds the driver's connection, while it writes."""

_Convert = Callable[[Any], Any]


def json_text(value: Any) -> str:
    """JSON as it is stored: short, and readable in any language."""
    import json

    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


_DIALECT = SQLiteDialect_pysqlite(json_serializer=json_text)


def table_of(model: type[SQLModel]) -> Table:
    """The table behind a model."""
    found: Table = model.__table__  # type: ignore[attr-defined]
    return found


def driver(session: Session) -> sqlite3.Connection:
    """The driver's connection of a session of the database's writer."""
    found: sqlite3.Connection = session.info[DRIVER]
    return found


def _same(value: Any) -> Any:
    return value


@cache
def _converters(model: type[SQLModel]) -> dict[str, _Convert]:
    """Column -> what turns its Python value into SQLite's."""
    return {
        column.name: column.type.dialect_impl(_DIALECT).bind_processor(_DIALECT) or _same
        for column in table_of(model).columns
    }


_quote = _DIALECT.identifier_preparer.quote


@cache
def _insert(model: type[SQLModel], columns: tuple[str, ...]) -> str:
    names = ", ".join(map(_quote, columns))
    return f"INSERT INTO {_quote(table_of(model).name)} ({names}) VALUES ({', '.join('?' * len(columns))})"


@cache
def _update(model: type[SQLModel], columns: tuple[str, ...], guards: tuple[str, ...]) -> str:
    new = ", ".join(f"{_quote(name)} = ?" for name in columns)
    old = " AND ".join(f"{_quote(name)} = ?" for name in guards)
    return f"UPDATE {_quote(table_of(model).name)} SET {new} WHERE {old}"


def insert_row(session: Session, model: type[SQLModel], values: Mapping[str, Any]) -> int:
    """Insert one row; columns left out are NULL, so give all that may not be.

    Returns:
        The new row's number.

    Raises:
        sqlite3.IntegrityError: a key or a unique name is taken.
    """
    convert, names = _converters(model), tuple(values)
    parameters = [convert[name](value) for name, value in values.items()]
    return driver(session).execute(_insert(model, names), parameters).lastrowid or 0


def update_rows(session: Session, model: type[SQLModel], values: Mapping[str, Any], **guards: Any) -> int:
    """Set columns where all ``guards`` hold; returns how many rows that were."""
    convert, names = _converters(model), tuple(values)
    parameters = [convert[name](value) for name, value in values.items()]
    parameters += [convert[name](value) for name, value in guards.items()]
    return driver(session).execute(_update(model, names, tuple(guards)), parameters).rowcount


@cache
def _select(
    model: type[SQLModel], columns: tuple[str, ...], where: str
) -> tuple[str, tuple[tuple[int, _Convert], ...]]:
    """The statement, and what turns SQLite's values into Python's by position, where that is needed."""
    table = table_of(model)
    text = f"SELECT {', '.join(map(_quote, columns))} FROM {_quote(table.name)}" + (f" WHERE {where}" if where else "")
    readers = [table.c[name].type.dialect_impl(_DIALECT).result_processor(_DIALECT, None) for name in columns]
    return text, tuple((at, reader) for at, reader in enumerate(readers) if reader is not None)


def read_rows(
    connection: sqlite3.Connection,
    model: type[SQLModel],
    columns: tuple[str, ...],
    where: str = "",
    given: Sequence[Any] = (),
) -> Iterator[list[Any]]:
    """Columns of the rows of a table.

    Args:
        where: a condition in SQL, part of the code: nothing that anybody sent.
        given: what stands for the question marks in it.
    """
    text, readers = _select(model, columns, where)
    for found in connection.execute(text, given):
        values = list(found)
        for at, reader in readers:
            values[at] = reader(values[at])
        yield values


def reader_of(session: Session) -> sqlite3.Connection:
    """The driver's connection of a session that reads; also of one that writes, which doesn't flush for it."""
    connection = session.info.get(DRIVER) or session.connection().connection.driver_connection
    assert isinstance(connection, sqlite3.Connection)
    return connection


IDS = "IN (SELECT value FROM json_each(?))"
"""For a condition: the parameter is a JSON list of numbers (:func:`id_list`), so that the statement stays the same."""


def id_list(ids: Iterable[int]) -> str:
    """A parameter of :data:`IDS`."""
    return f"[{','.join(map(str, ids))}]"
