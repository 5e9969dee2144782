"""Which rows each commit changed, told by the database itself.

Triggers of the writer's own connection note the key of every row of the followed tables that is inserted, deleted or
changed, in a temporary table and within the same transaction: a write that is rolled back tells nothing, and no write
can forget to tell. There is one writer, so nothing else changes the file.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterable, Mapping

_NOTES = "temp.changed_rows"
_CREATE = f"CREATE TABLE {_NOTES} (place TEXT, key, PRIMARY KEY (place, key)) WITHOUT ROWID"
_TAKE = f"SELECT place, key FROM {_NOTES}"
_TRIGGERS = "SELECT name FROM temp.sqlite_master WHERE type = 'trigger'"
_EMPTY = f"DELETE FROM {_NOTES}"

Key = int | str


def _note(table: str, key: str) -> str:
    """The statement of a trigger. Not ``INSERT OR IGNORE``: what the write itself says of conflicts, as an upsert does,
    would hold for that instead, and a row that is touched twice would fail it."""
    known = f"SELECT 1 FROM changed_rows WHERE place = '{table}' AND key = {key}"
    return f"INSERT INTO changed_rows SELECT '{table}', {key} WHERE NOT EXISTS ({known});"


class Changes:
    """Keys of rows that were changed since they were last taken.

    Args:
        tables: table -> the column whose value stands for its rows, such as ``{"attempt": "workload_id"}``.
        told: called from the writer's thread after each commit that changed one of them.
    """

    def __init__(self, tables: Mapping[str, str], told: Callable[[], None] = lambda: None) -> None:
        self._tables = tables
        self._told = told
        self._lock = threading.Lock()
        self._keys: dict[str, set[Key]] = {table: set() for table in tables}

    def install(self, connection: sqlite3.Connection) -> None:
        """Make the triggers on the writer's connection, in place of an earlier follower's; they go with it."""
        for (trigger,) in connection.execute(_TRIGGERS).fetchall():
            connection.execute(f"DROP TRIGGER temp.{trigger}").close()
        connection.execute(f"DROP TABLE IF EXISTS {_NOTES}").close()
        connection.execute(_CREATE).close()
        for table, column in self._tables.items():
            for when, rows in (("INSERT", ("NEW",)), ("DELETE", ("OLD",)), ("UPDATE", ("OLD", "NEW"))):
                notes = " ".join(_note(table, f'{row}."{column}"') for row in rows)
                name = f"changed_{table}_{when.lower()}"
                connection.execute(f"CREATE TEMP TRIGGER {name} AFTER {when} ON main.{table} BEGIN {notes} END").close()

    @staticmethod
    def noted(connection: sqlite3.Connection) -> list[tuple[str, Key]]:
        """(table, key) of what the transaction at hand has changed so far; asked before it is committed."""
        found = connection.execute(_TAKE).fetchall()
        if found:
            connection.execute(_EMPTY).close()
        return found

    def publish(self, noted: Iterable[tuple[str, Key]]) -> None:
        """A transaction was committed that changed these."""
        some = False
        with self._lock:
            for table, key in noted:
                self._keys[table].add(key)
                some = True
        if some:
            self._told()

    def take(self) -> dict[str, set[Key]]:
        """Table -> keys of all commits whose writes have returned, and were not taken before.

        What is read from the file afterwards is at least as new as these commits.
        """
        with self._lock:
            found = self._keys
            self._keys = {table: set() for table in self._tables}
        return found

    def put_back(self, taken: Mapping[str, set[Key]]) -> None:
        """What could not be used: :meth:`take` gives it again."""
        with self._lock:
            for table, keys in taken.items():
                self._keys[table] |= keys
