"""Inserts and guarded updates on the hot paths, as prepared Core statements.

The ORM builds and hashes a statement for every call; on the path of a submission that costs several times what
SQLite itself takes (measured: 1.6 ms against 0.25 ms for the three rows of a submission).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from sqlalchemy import Insert, Table, Update, bindparam, insert, update
from sqlmodel import Session, SQLModel


def table_of(model: type[SQLModel]) -> Table:
    """The table behind a model."""
    found: Table = model.__table__  # type: ignore[attr-defined]
    return found


@cache
def _insert(model: type[SQLModel]) -> Insert:
    return insert(table_of(model))


@cache
def _update(model: type[SQLModel], columns: tuple[str, ...], guards: tuple[str, ...]) -> Update:
    table = table_of(model)
    statement = update(table).values({name: bindparam(f"new_{name}") for name in columns})
    for name in guards:
        statement = statement.where(table.c[name] == bindparam(f"old_{name}", type_=table.c[name].type))
    return statement


def insert_row(session: Session, model: type[SQLModel], values: Mapping[str, Any]) -> int:
    """Insert one row; columns left out get their default in the file, so give all that have none.

    Returns:
        The new primary key (0 when the table's key is not a number).
    """
    key = session.connection().execute(_insert(model), dict(values)).inserted_primary_key
    first = key[0] if key else None
    return first if isinstance(first, int) else 0


def update_rows(session: Session, model: type[SQLModel], values: Mapping[str, Any], **guards: Any) -> int:
    """Set columns where all ``guards`` hold; returns how many rows that were."""
    parameters = {f"new_{name}": value for name, value in values.items()}
    parameters.update((f"old_{name}", value) for name, value in guards.items())
    statement = _update(model, tuple(values), tuple(guards))
    return session.connection().execute(statement, parameters).rowcount
