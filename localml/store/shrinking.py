"""Giving the file's free pages back to the disk: SQLite keeps them for what comes, and after pruning they are many.

A file whose pages can be moved (``auto_vacuum=INCREMENTAL``; one of an earlier version is made so by :func:`prepare`)
shrinks step by step through the writer, each step a transaction of a few milliseconds, so that nobody waits long. The
journal beside it, which a long reader may have let grow, is emptied then.
"""

from __future__ import annotations

import logging
import shutil
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Final

from localml.core.ports import Store
from localml.core.sql import driver, reader_of

log = logging.getLogger("localml.store")

_INCREMENTAL: Final = 2
_STEP: Final = 64
"""Pages (of 4 KiB) that one transaction moves."""
_SPARE: Final = 256
"""Free pages that stay, for what comes next."""
_ROOM: Final = 2.5
"""Free room on the disk that making a file anew takes, as a multiple of its size: the new one and its journal."""

_TRIES: Final = 20
_PAUSE_S: Final = 0.05
"""How often the journal is tried to be emptied, for somebody nearly always writes; and seconds in between."""
_LARGEST: Final = 1 << 30
"""Bytes of a file that is made anew when the server starts, which takes some ten seconds then."""


def free_pages(store: Store) -> int:
    """Pages of the file that hold nothing and could be given back."""
    with store.read() as session:
        raw = reader_of(session)
        (free,) = raw.execute("PRAGMA freelist_count").fetchone()
        (mode,) = raw.execute("PRAGMA auto_vacuum").fetchone()
    return max(0, int(free) - _SPARE) if mode == _INCREMENTAL else 0


def shrink(store: Store, path: Path, stopped: Callable[[], bool] = lambda: False) -> int:
    """Give free pages and the journal back; returns by how many bytes the files at ``path`` became smaller.

    Args:
        stopped: asked between steps; True ends the work early.
    """
    before, left = size(path), free_pages(store)
    while left > 0 and not stopped():
        step = min(left, _STEP)
        store.write(lambda session, step=step: _step(driver(session), step))  # type: ignore[misc]
        left -= step
        time.sleep(0)  # whoever waits for the writer is next
    for _ in range(_TRIES):
        if empty_journal(path) or stopped():
            break
        time.sleep(_PAUSE_S)
    return max(0, before - size(path))


def _step(connection: sqlite3.Connection, pages: int) -> None:
    for _ in range(pages):  # the driver lets the statement go after its first page, whatever number it names
        connection.execute("PRAGMA incremental_vacuum(1)").close()


def empty_journal(path: Path) -> bool:
    """Carry what the journal holds into the file, and make it empty unless somebody reads or writes just now."""
    with closing(sqlite3.connect(path, isolation_level=None, timeout=0)) as connection:
        connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()  # most of it, in nobody's way
        try:
            return bool(connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0] == 0)
        except sqlite3.OperationalError:  # locked
            return False


def size(path: Path) -> int:
    """Bytes of a database with its journal."""
    files = (path, path.with_name(path.name + "-wal"))
    return sum(file.stat().st_size for file in files if file.exists())


def make_shrinkable(path: Path) -> bool:
    """Make a file of an earlier version anew, with pages that can be moved. Nobody else may use it.

    Returns:
        Whether that was done: not where it is so already, nor without room for a second one beside it, nor when it is
        so large that the start would take minutes.

    Raises:
        sqlite3.Error: the disk failed; the file is as it was.
    """
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        (mode,) = connection.execute("PRAGMA auto_vacuum").fetchone()
        if mode == _INCREMENTAL:
            return False
        large = size(path)
        if large > _LARGEST or shutil.disk_usage(path.parent).free < _ROOM * large:
            why = "it is too large" if large > _LARGEST else "there is no room"
            log.warning("%s is not made anew, because %s: it keeps its size after pruning", path, why)
            return False
        began = time.monotonic()
        connection.execute("PRAGMA auto_vacuum=INCREMENTAL")
        connection.execute("VACUUM")
    log.info("%s was made anew in %.1f s: from now on it shrinks after pruning", path, time.monotonic() - began)
    return True
